// The text of one argument -> a value. Every function says in its error what would have been right.

import HTTPSemantics

/// What is wrong with an argument.
struct Problem: Error {
    var message: String

    init(_ message: String) {
        self.message = message
    }
}

enum Value {
    /// The longest duration, 30 days: it fits 32 bits of milliseconds.
    static let millisecondsMax = 30 * 86_400_000

    /// The digits at the front of a text and the rest; nil without digits, or with more than any bound needs.
    private static func number(_ text: String) -> (value: Int, rest: String)? {
        let digits = text.utf8.prefix { $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }
        guard (1...15).contains(digits.count), let value = Int(String(decoding: digits, as: UTF8.self)) else {
            return nil
        }
        return (value, String(text.utf8.dropFirst(digits.count)) ?? "")
    }

    /// A whole number within a range.
    static func count(_ text: String, in range: ClosedRange<Int>) throws(Problem) -> Int {
        guard let number = number(text), number.rest.isEmpty else {
            throw Problem("expected a number from \(range.lowerBound) to \(range.upperBound), not \(quoted(text))")
        }
        guard range.contains(number.value) else {
            throw Problem("\(text) is out of range; it can be from \(range.lowerBound) to \(range.upperBound)")
        }
        return number.value
    }

    /// A duration in milliseconds; 0 needs no unit.
    static func duration(_ text: String) throws(Problem) -> Int {
        guard let number = number(text) else {
            throw Problem("expected a duration such as 500ms, 10s, 5m, 1h or 1d, not \(quoted(text))")
        }
        let unit: Int
        switch number.rest {
        case "ms": unit = 1
        case "s": unit = 1000
        case "m": unit = 60_000
        case "h": unit = 3_600_000
        case "d": unit = 86_400_000
        case "" where number.value == 0: unit = 1
        case "": throw Problem("\(text) needs a unit: ms, s, m, h or d")
        default: throw Problem("expected a duration such as 500ms, 10s, 5m, 1h or 1d, not \(quoted(text))")
        }
        guard number.value <= millisecondsMax / unit else { throw Problem("\(text) is longer than 30d") }
        return number.value * unit
    }

    /// A duration of at least a millisecond.
    static func positiveDuration(_ text: String) throws(Problem) -> Int {
        let milliseconds = try duration(text)
        guard milliseconds > 0 else {
            throw Problem("a duration of 0 would end everything at once; write off for none")
        }
        return milliseconds
    }

    /// A size in bytes.
    static func size(_ text: String, in range: ClosedRange<Int>) throws(Problem) -> Int {
        let expected = "expected a size such as 512, 64k, 1m or 2g, not \(quoted(text))"
        guard let number = number(text) else { throw Problem(expected) }
        let shift: Int
        switch number.rest {
        case "": shift = 0
        case "k", "K": shift = 10
        case "m", "M": shift = 20
        case "g", "G": shift = 30
        default: throw Problem(expected)
        }
        guard number.value <= Int.max >> shift, range.contains(number.value << shift) else {
            throw Problem(
                "\(text) is out of range; it can be from \(sizeText(range.lowerBound)) to \(sizeText(range.upperBound))"
            )
        }
        return number.value << shift
    }

    /// A size as the file has it.
    static func sizeText(_ bytes: Int) -> String {
        for (unit, suffix) in [(1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")] where bytes >= unit && bytes % unit == 0
        {
            return "\(bytes / unit)\(suffix)"
        }
        return "\(bytes)"
    }

    /// One of an enumeration's names.
    static func choice<Choice: RawRepresentable & CaseIterable>(_ text: String) throws(Problem) -> Choice
    where Choice.RawValue == String {
        if let choice = Choice(rawValue: text) { return choice }
        let names = Choice.allCases.map(\.rawValue)
        throw Problem("expected \(alternatives(names)), not \(quoted(text))" + suggestion(for: text, among: names))
    }

    /// A name for an upstream or a listener.
    static func name(_ text: String) throws(Problem) -> String {
        let isFine = text.utf8.allSatisfy { isAlphanumeric($0) || "-_.".utf8.contains($0) }
        guard isFine, (1...64).contains(text.utf8.count) else {
            throw Problem("a name is 1 to 64 letters, digits and \"-_.\", not \(quoted(text))")
        }
        return text
    }

    static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "A")...UInt8(ascii: "Z"):
            return true
        default: return false
        }
    }

    /// A token (RFC 9110 section 5.6.2).
    static func isToken(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { isAlphanumeric($0) || "!#$%&'*+-.^_`|~".utf8.contains($0) }
    }

    /// Whether a text can be a host's name: labels of letters, digits, `-` and (in use, if not in RFC 1123) `_`.
    static func isHostName(_ text: String) -> Bool {
        guard (1...253).contains(text.utf8.count) else { return false }
        return text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy { label in
            (1...63).contains(label.count)
                && label.allSatisfy { isAlphanumeric($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") }
        }
    }

    /// Whether every label is a number, so that a name could only be a mistyped IPv4 address.
    private static func isAllDigits(_ text: String) -> Bool {
        text.utf8.allSatisfy { $0 == UInt8(ascii: ".") || $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }
    }

    /// `a, b or c`
    static func alternatives(_ names: [String]) -> String {
        guard let last = names.last, names.count > 1 else { return names.first ?? "" }
        return names.dropLast().joined(separator: ", ") + " or " + last
    }
}

// MARK: - Addresses

extension Value {
    /// What may follow `unix:`: `sun_path` has room for 107 bytes and a NUL.
    private static func unixEndpoint(_ path: String, folder: String) throws(Problem) -> Endpoint {
        guard !path.isEmpty else { throw Problem("unix: needs the path of a socket behind it") }
        let path = FilePath.resolve(path, in: folder)
        guard !path.utf8.contains(0) else { throw Problem("the path holds a NUL") }
        guard path.utf8.count <= 107 else {
            throw Problem("the path is longer than 107 bytes, the most a socket takes")
        }
        return .unix(path)
    }

    /// `text` cut at the colon before a port: `host:80` or `[::1]:80`. nil without a port.
    private static func splitPort(_ text: String) -> (host: String, port: String)? {
        guard let colon = text.lastIndex(of: ":"), !text.hasSuffix("]") else { return nil }
        return (String(text[..<colon]), String(text[text.index(after: colon)...]))
    }

    private static func port(_ text: String, in range: ClosedRange<Int>) throws(Problem) -> UInt16 {
        guard let number = number(text), number.rest.isEmpty, range.contains(number.value) else {
            throw Problem("expected a port from \(range.lowerBound) to 65535, not \(quoted(text))")
        }
        return UInt16(number.value)
    }

    /// The address within `[...]`, or a bare one that is not IPv6.
    private static func hostAddress(_ text: String) throws(Problem) -> IPAddress? {
        if text.hasPrefix("[") {
            guard text.hasSuffix("]"), text.contains(":"), let address = IPAddress(text.dropFirst().dropLast()) else {
                throw Problem("\(quoted(text)) is not an IPv6 address in brackets")
            }
            return address
        }
        guard !text.contains(":") else {
            throw Problem("an IPv6 address stands in brackets, with the port behind: [2001:db8::1]:8080")
        }
        return IPAddress(text)
    }

    /// `HOST:PORT`, `IP:PORT`, `[v6]:PORT` or `unix:PATH`.
    static func server(_ text: String, folder: String) throws(Problem) -> Endpoint {
        if text.hasPrefix("unix:") { return try unixEndpoint(String(text.dropFirst(5)), folder: folder) }
        guard !text.contains("/") else {
            throw Problem("expected HOST:PORT or unix:PATH, not \(quoted(text)); this is no place for a URL or a path")
        }
        guard let parts = splitPort(text) else { throw Problem("\(quoted(text)) needs a port: HOST:PORT") }
        let address = try hostAddress(parts.host)
        let port = try port(parts.port, in: 1...65535)
        if let address { return .ip(address, port: port) }
        guard isHostName(parts.host), !isAllDigits(parts.host) else {
            throw Problem("\(quoted(parts.host)) is neither an IP address nor the name of a host")
        }
        return .name(parts.host.lowercased(), port: port)
    }

    /// `IP:PORT`, `[v6]:PORT`, `*:PORT`, `PORT`, `unix:PATH` or `fd:NAME`. Port 0 is any free one.
    static func bind(_ text: String, folder: String) throws(Problem) -> Endpoint {
        if text.hasPrefix("fd:") {
            let name = String(text.dropFirst(3))
            // FileDescriptorName= in systemd.socket(5).
            guard !name.isEmpty, name.utf8.count <= 255, name.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x3A })
            else { throw Problem("fd: needs the name or the number of a socket that the process is started with") }
            return .inherited(name)
        }
        if text.hasPrefix("unix:") { return try unixEndpoint(String(text.dropFirst(5)), folder: folder) }
        let any = IPAddress(ipv4: 0)
        if !text.isEmpty, !text.contains("."), isAllDigits(text) {
            return .ip(any, port: try port(text, in: 0...65535))
        }
        guard let parts = splitPort(text) else { throw Problem("\(quoted(text)) needs a port: ADDRESS:PORT") }
        if parts.host == "*" { return .ip(any, port: try port(parts.port, in: 0...65535)) }
        guard let address = try hostAddress(parts.host) else {
            throw Problem("\(quoted(parts.host)) is not an IP address; a name cannot be bound")
        }
        return .ip(address, port: try port(parts.port, in: 0...65535))
    }

    /// `ADDRESS`, `IPV4:PORT` or `[v6]:PORT`.
    static func resolver(_ text: String) throws(Problem) -> ResolverAddress {
        if let address = IPAddress(text) { return ResolverAddress(address: address, port: 53) }
        let expected = "expected system or the IP address of a name server, not \(quoted(text))"
        let parts = splitPort(text) ?? (host: text, port: "53")
        guard let address = try hostAddress(parts.host) else { throw Problem(expected) }
        return ResolverAddress(address: address, port: try port(parts.port, in: 1...65535))
    }

    /// A network in CIDR notation.
    static func network(_ text: String) throws(Problem) -> IPNetwork {
        if let network = IPNetwork(text) { return network }
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2, IPAddress(parts[0]) != nil, let bits = Int(parts[1]),
            (0...(parts[0].contains(":") ? 128 : 32)).contains(bits)
        {
            throw Problem("\(quoted(text)) has bits set behind its prefix; write the network's first address")
        }
        throw Problem("expected a network such as 10.0.0.0/8, an IP address or unix:, not \(quoted(text))")
    }

    /// A name of a `host` section, in lower case: a name, `*.` and a name, an IPv4 address, or `[v6]`.
    static func hostPattern(_ text: String) throws(Problem) -> String {
        if text.hasPrefix("[") {
            guard text.hasSuffix("]") else { throw Problem("\(quoted(text)): a host has no port here") }
            guard let address = try hostAddress(text) else { throw Problem("\(quoted(text)) is not an address") }
            return "[\(address)]"
        }
        guard text != "*" else { throw Problem("for every host, write the routes outside of any host section") }
        guard !text.contains(":") else {
            throw Problem("\(quoted(text)): a host has no port here; IPv6 goes in brackets")
        }
        guard !text.hasSuffix(".") else { throw Problem("\(quoted(text)): leave the dot at the end out") }
        guard text.utf8.allSatisfy({ $0 < 0x80 }) else {
            throw Problem("\(quoted(text)): write an international name in its ASCII form (xn--...)")
        }
        let name = text.hasPrefix("*.") ? String(text.dropFirst(2)) : text
        guard !name.contains("*") else { throw Problem("\(quoted(text)): the only wildcard is \"*.\" at the front") }
        guard isHostName(name) else { throw Problem("\(quoted(text)) is not the name of a host") }
        return text.lowercased()
    }

    /// A name of `host` in `admin`: a name, an IPv4 address, or `[v6]`. Each is written out: a wildcard could let in a name that
    /// somebody else may give away.
    static func adminHost(_ text: String) throws(Problem) -> AdminHost {
        guard !text.contains("*") else {
            throw Problem("\(quoted(text)): the hosts of the admin listener are written out, without \"*\"")
        }
        let host = AdminHost(try hostPattern(text))
        if case .name(let name) = host, isAllDigits(name) {
            throw Problem("\(quoted(text)) is neither an IP address nor the name of a host")
        }
        return host
    }

    /// `HOST:PORT` of `connect allow`: HOST is a name, `*.NAME`, an address, a network or `*`; PORT may be `*`.
    static func connectTarget(_ text: String) throws(Problem) -> ConnectTarget {
        let expected = "expected HOST:PORT, such as *.example.com:443 or 10.0.0.0/8:*, not \(quoted(text))"
        guard let parts = splitPort(text) else { throw Problem(expected) }
        let port: UInt16? = parts.port == "*" ? nil : try port(parts.port, in: 1...65535)
        if parts.host == "*" { return ConnectTarget(host: .any, port: port) }
        if parts.host.hasPrefix("[") || parts.host.contains("/") || IPAddress(parts.host) != nil {
            let isBracketed = parts.host.hasPrefix("[") && parts.host.hasSuffix("]")
            guard isBracketed || !parts.host.contains(":") else {
                throw Problem("IPv6 stands in brackets, with the port behind: [2001:db8::/32]:443")
            }
            let network = try network(isBracketed ? String(parts.host.dropFirst().dropLast()) : parts.host)
            return ConnectTarget(host: .network(network), port: port)
        }
        let pattern = try hostPattern(parts.host)
        guard !isAllDigits(parts.host) else { throw Problem(expected) }
        return ConnectTarget(
            host: pattern.hasPrefix("*.") ? .namesBelow(String(pattern.dropFirst(2))) : .name(pattern), port: port)
    }

    /// The pseudonym of `Via`: a token, or a host with or without a port (RFC 9110 section 7.6.3).
    static func pseudonym(_ text: String) throws(Problem) -> String {
        guard isToken(text) || isHostAndPort(text) else {
            throw Problem("expected a token or HOST[:PORT], not \(quoted(text))")
        }
        return text
    }

    /// `uri-host [":" port]`, as in a Host field (RFC 9110 section 7.2).
    static func isHostAndPort(_ text: String) -> Bool {
        var host = text
        if let parts = splitPort(text) {
            guard (try? port(parts.port, in: 0...65535)) != nil else { return false }
            host = parts.host
        }
        return isHostName(host) || host.hasPrefix("[") && (try? hostAddress(host)) != nil
    }

    /// The path of a route.
    static func path(_ text: String) throws(Problem) -> String {
        guard text.hasPrefix("/") else { throw Problem("a path begins with \"/\"; write: route PATH or route = PATH") }
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "?"): throw Problem("a route matches the path; the query has no part in it")
            case UInt8(ascii: "#"): throw Problem("a path has no fragment")
            case 0x21...0x7E: continue
            default: throw Problem("a path is ASCII without spaces; write other bytes as they are sent, like %20")
            }
        }
        return text
    }

    /// The path of a file that is read.
    static func file(_ text: String, folder: String) throws(Problem) -> String {
        guard !text.isEmpty, !text.utf8.contains(0), !text.hasSuffix("/") else {
            throw Problem("\(quoted(text)) is not the name of a file")
        }
        return FilePath.resolve(text, in: folder)
    }

    /// A list of OpenSSL's, with colons between its names. Whether it knows them is found out when it gets them.
    static func openSSLList(_ text: String) throws(Problem) -> String {
        guard !text.isEmpty, text.utf8.allSatisfy({ isAlphanumeric($0) || "-_:+!@=.".utf8.contains($0) }) else {
            throw Problem("expected names with colons between them, not \(quoted(text))")
        }
        return text
    }

    /// The path of a log file.
    static func logDestination(_ text: String, folder: String) throws(Problem) -> LogDestination {
        switch text {
        case "stdout": return .standardOutput
        case "stderr": return .standardError
        case _ where text.isEmpty || text.utf8.contains(0) || text.hasSuffix("/"):
            throw Problem("\(quoted(text)) is not the name of a file")
        default: return .file(FilePath.resolve(text, in: folder))
        }
    }
}

// MARK: - Suggestions

/// `; did you mean "x"?` for the nearest candidate, or nothing if none is near.
func suggestion(for text: String, among candidates: some Sequence<String>) -> String {
    suggestion(nearest(to: text, among: candidates))
}

/// The same for a candidate that was already found.
func suggestion(_ candidate: String?) -> String {
    candidate.map { "; did you mean \"\($0)\"?" } ?? ""
}

/// The candidate with the least edit distance, if that is at most a third of the text's length. Of very many only the
/// first are looked at, so that a file full of mistakes is still read quickly.
func nearest(to text: String, among candidates: some Sequence<String>) -> String? {
    let text = Array(text.utf8)
    guard (2...40).contains(text.count) else { return nil }
    var best: (name: String, distance: Int)?
    for candidate in candidates.prefix(256) where abs(candidate.utf8.count - text.count) <= 3 {
        let distance = editDistance(text, Array(candidate.utf8))
        if distance <= min(3, max(1, text.count / 3)), distance < best?.distance ?? .max {
            best = (candidate, distance)
        }
    }
    return best?.name
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
private func editDistance(_ left: [UInt8], _ right: [UInt8]) -> Int {
    var beforeLast: [Int] = []
    var last = Array(0...right.count)
    for row in 1...left.count {
        var current = [row]
        for column in right.indices.map({ $0 + 1 }) {
            let isSame = left[row - 1] == right[column - 1]
            var distance = min(last[column] + 1, current[column - 1] + 1, last[column - 1] + (isSame ? 0 : 1))
            if row > 1, column > 1, left[row - 1] == right[column - 2], left[row - 2] == right[column - 1] {
                distance = min(distance, beforeLast[column - 2] + 1)
            }
            current.append(distance)
        }
        beforeLast = last
        last = current
    }
    return last[right.count]
}
