// The request that `headfirst explain` is about: what a client would send for a method, a URL and fields, as bytes. They
// are written as they were asked for and judged by nobody here: whether they can be read is the codec's word, as it is
// when they come by a socket. Refused is only what no client could mean.

import HTTPSemantics
import ProxyConfiguration

/// Why nothing can be explained.
public enum ExplanationError: Error, Equatable, Sendable {
    /// The URL is none, or of a kind that is not spoken here.
    case url(String)
    /// A field has no colon, or something holds the end of a line.
    case line(String)
    /// No listener has this name.
    case listener(String, known: [String])
}

extension ExplanationError: CustomStringConvertible {
    /// One sentence for people.
    public var description: String {
        switch self {
        case .url(let why): why
        case .line(let why): why
        case .listener(let name, let known):
            "There is no listener \"\(name)\"; there is \(known.map { "\"\($0)\"" }.joined(separator: ", "))."
        }
    }
}

/// A request's head as a client would send it.
public struct ExplainedRequest: Equatable, Sendable {
    /// The head: lines with CRLF, and the empty line.
    public let bytes: [UInt8]
    /// The method as it was asked for.
    public let method: String
    /// The host that the URL names, without brackets; nil if it names none that is ours.
    let host: String?
    /// The port that the URL names, or the scheme's.
    let port: UInt16
    /// Whether the URL's scheme is `https`.
    public let isSecure: Bool

    /// A request.
    /// - Parameters:
    ///   - method: its method.
    ///   - url: `http[s]://HOST[:PORT][/PATH][?QUERY]`, or what stands in a request line: `/PATH`, `*`, for CONNECT `HOST:PORT`.
    ///   - fields: more field lines, `Name: value`. One that is called Host takes the place of the URL's.
    public init(method: String, url: String, fields: [String] = []) throws(ExplanationError) {
        for text in [method, url] + fields where text.utf8.contains(where: { $0 == 13 || $0 == 10 }) {
            throw .line("A method, a URL or a field that goes over the end of a line would be another request.")
        }
        for field in fields where !field.utf8.contains(UInt8(ascii: ":")) {
            throw .line("\"\(field)\" is not a field; it is written as \"Name: value\".")
        }
        let target: String
        let authority: String
        if method == "CONNECT" {
            // The URL says where the tunnel leads, and nothing of the listener (RFC 9112 section 3.2.3).
            (target, authority, host, port, isSecure) = (url, url, nil, 80, false)
        } else if url.hasPrefix("/") || url == "*" {
            (target, authority, host, port, isSecure) = (url, "localhost", nil, 80, false)
        } else {
            let parts = try URLParts(url)
            (target, authority, host, port) = (parts.target, parts.authority, parts.host, parts.port)
            isSecure = parts.isSecure
        }
        self.method = method
        let namesHost = fields.contains { field in
            field.prefix { $0 != ":" && $0 != " " }.lowercased() == "host"
        }
        var lines = ["\(method) \(target) HTTP/1.1"]
        if !namesHost { lines.append("Host: \(authority)") }
        lines += fields
        bytes = Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8)
    }
}

/// What a client takes from an `http` or `https` URL.
private struct URLParts {
    /// Origin-form (RFC 9112 section 3.2.1): a fragment is not sent.
    let target: String
    /// As Host has it: without the default port (RFC 9110 section 4.2.3).
    let authority: String
    let host: String
    let port: UInt16
    let isSecure: Bool

    init(_ url: String) throws(ExplanationError) {
        let bytes = Array(url.utf8)
        func starts(with scheme: String) -> Bool {
            bytes.prefix(scheme.utf8.count).map { Head.lowercase($0) }.elementsEqual(scheme.utf8)
        }
        isSecure = starts(with: "https://")
        guard isSecure || starts(with: "http://") else {
            throw .url(
                "\"\(url)\" is no URL; it begins with http:// or https://, or it is a path that begins with a slash.")
        }
        let rest = bytes.dropFirst(isSecure ? 8 : 7)
        let sent = rest.prefix { $0 != UInt8(ascii: "#") }
        let authority = sent.prefix { $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "?") }
        let behind = String(decoding: sent[authority.endIndex...], as: UTF8.self)
        target = behind.hasPrefix("/") ? behind : "/" + behind
        if authority.contains(UInt8(ascii: "@")) {
            throw .url("A client sends no user name in the URL; it is an Authorization field: -H 'Authorization: ...'.")
        }
        let isBracketed = authority.first == UInt8(ascii: "[")
        let hostEnd =
            isBracketed
            ? authority.firstIndex(of: UInt8(ascii: "]")).map { $0 + 1 } ?? authority.endIndex
            : authority.firstIndex(of: UInt8(ascii: ":")) ?? authority.endIndex
        let host = authority[..<hostEnd]
        let portText = String(decoding: authority[hostEnd...], as: UTF8.self)
        guard !host.isEmpty else { throw .url("\"\(url)\" names no host.") }
        let standardPort: UInt16 = isSecure ? 443 : 80
        if portText.isEmpty || portText == ":" {
            port = standardPort
        } else if portText.hasPrefix(":"), let port = UInt16(portText.dropFirst()), port > 0 {
            self.port = port
        } else {
            throw .url("\"\(url)\" has no port that could be one.")
        }
        let hostText = String(decoding: host, as: UTF8.self)
        self.authority = port == standardPort ? hostText : "\(hostText):\(port)"
        self.host = isBracketed ? String(hostText.dropFirst().dropLast()) : hostText
    }
}

/// Why a listener was taken.
public enum ListenerChoice: String, Equatable, Sendable {
    /// It was named.
    case named
    /// It is the first with an address that the URL may lead to.
    case address
    /// It is the first with `connect`.
    case connect
    /// It is the first; the URL leads to none of them, or says nothing of an address.
    case first
}

extension Configuration {
    /// The listener that a request is for, and which of its addresses.
    func listener(
        for request: ExplainedRequest, named name: String?
    ) throws(ExplanationError) -> (index: Int, bind: Int, choice: ListenerChoice) {
        if let name {
            guard let index = listeners.firstIndex(where: { $0.name == name }) else {
                throw .listener(name, known: listeners.map(\.name))
            }
            let bind = listeners[index].binds.firstIndex { request.fits($0) }
            return (index, bind ?? 0, .named)
        }
        for (index, listener) in listeners.enumerated() {
            if let bind = listener.binds.firstIndex(where: { request.fits($0) }) {
                return (index, bind, .address)
            }
        }
        if request.method == "CONNECT", let index = listeners.firstIndex(where: { $0.connect != nil }) {
            return (index, 0, .connect)
        }
        return (0, 0, .first)
    }
}

extension ExplainedRequest {
    /// Whether the URL may lead to an address. A name is looked up by nobody: it may be any of this machine's.
    fileprivate func fits(_ bind: Bind) -> Bool {
        guard let host, bind.isTLS == isSecure, case .ip(let address, port) = bind.endpoint else { return false }
        if let asked = IPAddress(host) {
            return asked == address || (address.isUnspecified && asked.isIPv4 == address.isIPv4)
        }
        return host.lowercased() != "localhost" || address.isUnspecified || ConnectRules.isLocal(address)
    }
}
