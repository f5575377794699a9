// Whether CONNECT may reach a target under `connect allow` (docs/FORWARDING.md, rule 8). What is on this machine or
// link-local has to be named: otherwise `*`, or a name that somebody else's name server answers for, would open what
// listens on loopback and a cloud's metadata service to every client.

import HTTPSemantics
import ProxyConfiguration

/// What a CONNECT asks for (RFC 9112 section 3.2.3).
public struct ConnectDestination: Equatable, Sendable {
    /// The host.
    public enum Host: Equatable, Sendable {
        /// An address.
        case address(IPAddress)
        /// A name to look up, in lower case.
        case name(String)
    }
    /// The host.
    public var host: Host
    /// The port.
    public var port: UInt16

    /// Reads `HOST:PORT`; nil if nothing can be reached by it.
    public init?(_ authority: some Collection<UInt8>) {
        let text = String(decoding: authority, as: UTF8.self).lowercased()
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0
        else { return nil }
        self.port = port
        let host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            guard let address = IPAddress(host.dropFirst().dropLast()) else { return nil }
            self.host = .address(address)
        } else if let address = IPAddress(host), address.isIPv4 {
            self.host = .address(address)
        } else {
            guard Self.isName(host) else { return nil }
            self.host = .name(String(host))
        }
    }

    /// A name of labels, of which the last is no number: `127.1` and `0x7f000001` are addresses to some libraries.
    private static func isName(_ text: Substring) -> Bool {
        let labels = (text.hasSuffix(".") ? text.dropLast() : text).utf8
            .split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard text.utf8.count <= 254, let last = labels.last else { return false }
        let isNumber = last.first.map { $0 &- UInt8(ascii: "0") <= 9 } ?? true
        return !isNumber
            && labels.allSatisfy { label in
                (1...63).contains(label.count)
                    && label.allSatisfy { byte in
                        byte &- UInt8(ascii: "a") < 26 || byte &- UInt8(ascii: "0") <= 9 || byte == UInt8(ascii: "-")
                            || byte == UInt8(ascii: "_")
                    }
            }
    }
}

/// The targets of one `connect allow`.
public struct ConnectRules: Sendable {
    /// What the rules say of a destination.
    public enum Verdict: Equatable, Sendable {
        /// Not allowed.
        case denied
        /// Allowed, but not where it is local.
        case allowed
        /// Allowed wherever it is.
        case allowedAlsoLocally
    }

    private let targets: [ConnectTarget]

    /// Rules.
    public init(_ targets: [ConnectTarget]) {
        self.targets = targets
    }

    /// Judges a destination; an address that is local is denied here already where it is not named.
    public func judge(_ destination: ConnectDestination) -> Verdict {
        var verdict = Verdict.denied
        for target in targets where target.port == nil || target.port == destination.port {
            switch (target.host, destination.host) {
            case (.any, _): verdict = .allowed
            case (.name(let name), .name(let asked)):
                if Self.withoutRootDot(asked) == name { return .allowedAlsoLocally }
            case (.namesBelow(let name), .name(let asked)):
                if Self.withoutRootDot(asked).hasSuffix("." + name) { verdict = .allowed }
            case (.network(let network), .address(let address)):
                guard network.contains(address) else { break }
                if Self.localNetworks.contains(where: { network.lies(in: $0) }) { return .allowedAlsoLocally }
                verdict = .allowed
            case (.name, .address), (.namesBelow, .address), (.network, .name): break
            }
        }
        if case .address(let address) = destination.host, Self.isLocal(address) { return .denied }
        return verdict
    }

    private static func withoutRootDot(_ name: String) -> Substring {
        name.hasSuffix(".") ? name.dropLast() : name[...]
    }

    /// Loopback, link-local, the unspecified address, which Linux takes for loopback, and the addresses under which
    /// clouds tell a machine its secrets that are not link-local.
    private static let localNetworks = [
        "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "::1", "::", "fe80::/10",
        "fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    ].compactMap { IPNetwork($0) }

    /// Whether an address is on this machine by definition, or link-local, or a cloud's metadata service. The
    /// machine's own other addresses are found out when they are connected to.
    public static func isLocal(_ address: IPAddress) -> Bool {
        localNetworks.contains { $0.contains(address) }
    }
}
