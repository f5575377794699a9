// Addresses of peers and servers, as values that fit two words: for Forwarded and X-Forwarded-For, for
// `trusted_proxies`, and for the sockets of the runtime. No library call, no allocation but for text.

/// An IPv4 or IPv6 address. IPv4 is kept in its mapped form (`::ffff:a.b.c.d`), so one comparison serves both.
public struct IPAddress: Hashable, Sendable {
    /// The address in network order: the first eight bytes.
    public var high: UInt64
    /// The address in network order: the last eight bytes.
    public var low: UInt64

    /// An IPv6 address from its two halves.
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// An IPv4 address from its 32 bits, most significant first.
    public init(ipv4 bits: UInt32) {
        high = 0
        low = 0xFFFF_0000_0000 | UInt64(bits)
    }

    /// Whether this is an IPv4 address (also one received in its mapped IPv6 form).
    public var isIPv4: Bool { high == 0 && low >> 32 == 0xFFFF }
    /// The IPv4 address's bits, most significant first.
    public var ipv4Bits: UInt32 { UInt32(truncatingIfNeeded: low) }
    /// Whether this is the unspecified address of its family (`0.0.0.0` or `::`).
    public var isUnspecified: Bool { isIPv4 ? ipv4Bits == 0 : high == 0 && low == 0 }

    /// Parses `192.0.2.1` or `2001:db8::1` (no brackets, no zone); nil if it is neither.
    public init?(_ text: some StringProtocol) {
        let bytes = Array(text.utf8)
        if bytes.contains(UInt8(ascii: ":")) {
            guard let halves = IPAddress.parseIPv6(bytes) else { return nil }
            self.init(high: halves.high, low: halves.low)
        } else {
            guard let bits = IPAddress.parseIPv4(bytes[...]) else { return nil }
            self.init(ipv4: bits)
        }
    }

    private static func parseIPv4(_ bytes: ArraySlice<UInt8>) -> UInt32? {
        let parts = bytes.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bits: UInt32 = 0
        for part in parts {
            guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
            var value: UInt32 = 0
            for byte in part {
                guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
                value = value * 10 + UInt32(byte - UInt8(ascii: "0"))
            }
            guard value <= 255 else { return nil }
            bits = bits << 8 | value
        }
        return bits
    }

    /// RFC 4291 section 2.2, all three forms.
    private static func parseIPv6(_ bytes: [UInt8]) -> (high: UInt64, low: UInt64)? {
        var groups: [UInt16] = []
        var gap: Int?
        var rest = bytes[...]
        if rest.starts(with: [UInt8(ascii: ":"), UInt8(ascii: ":")]) {
            gap = 0
            rest = rest.dropFirst(2)
        } else if rest.first == UInt8(ascii: ":") {
            return nil
        }
        while !rest.isEmpty {
            guard groups.count < 8 else { return nil }
            let end = rest.firstIndex(of: UInt8(ascii: ":")) ?? rest.endIndex
            let part = rest[rest.startIndex..<end]
            if end == rest.endIndex, part.contains(UInt8(ascii: ".")) {
                guard groups.count <= 6, let bits = parseIPv4(part) else { return nil }
                groups.append(UInt16(truncatingIfNeeded: bits >> 16))
                groups.append(UInt16(truncatingIfNeeded: bits))
                rest = []
                break
            }
            guard (1...4).contains(part.count) else { return nil }
            var value: UInt16 = 0
            for byte in part {
                let digit: UInt8
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
                case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
                case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
                default: return nil
                }
                value = value << 4 | UInt16(digit)
            }
            groups.append(value)
            guard end < rest.endIndex else { break }
            rest = rest[(end + 1)...]
            if rest.first == UInt8(ascii: ":") {
                guard gap == nil else { return nil }
                gap = groups.count
                rest = rest.dropFirst()
            } else if rest.isEmpty {
                return nil
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: Array(repeating: 0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        let halves = groups.map(UInt64.init)
        return (
            halves[0] << 48 | halves[1] << 32 | halves[2] << 16 | halves[3],
            halves[4] << 48 | halves[5] << 32 | halves[6] << 16 | halves[7]
        )
    }

    /// The longest text an address takes, in bytes.
    public static let textBytesMax = 39

    /// Writes the address's canonical text (RFC 5952) to `out`, which has room for `textBytesMax` bytes.
    /// - Returns: the number of bytes written.
    public func write(to out: UnsafeMutablePointer<UInt8>) -> Int {
        var count = 0
        func put(_ byte: UInt8) {
            out[count] = byte
            count += 1
        }
        if isIPv4 {
            for shift in stride(from: 24, through: 0, by: -8) {
                let value = UInt8(truncatingIfNeeded: ipv4Bits >> UInt32(shift))
                if value >= 100 { put(UInt8(ascii: "0") + value / 100) }
                if value >= 10 { put(UInt8(ascii: "0") + value / 10 % 10) }
                put(UInt8(ascii: "0") + value % 10)
                if shift > 0 { put(UInt8(ascii: ".")) }
            }
            return count
        }
        func group(_ index: Int) -> UInt16 {
            UInt16(truncatingIfNeeded: (index < 4 ? high : low) >> UInt64(48 - 16 * (index & 3)))
        }
        // The longest run of at least two zero groups, the first of equals, becomes "::".
        var gapStart = -1
        var gapCount = 1
        var index = 0
        while index < 8 {
            var end = index
            while end < 8, group(end) == 0 { end += 1 }
            if end - index > gapCount {
                gapStart = index
                gapCount = end - index
            }
            index = end + 1
        }
        index = 0
        while index < 8 {
            if index == gapStart {
                put(UInt8(ascii: ":"))
                put(UInt8(ascii: ":"))
                index += gapCount
                continue
            }
            if index > 0, index != gapStart + gapCount || gapStart < 0 { put(UInt8(ascii: ":")) }
            let value = group(index)
            var started = false
            for shift in stride(from: 12, through: 0, by: -4) {
                let digit = UInt8(truncatingIfNeeded: value >> UInt16(shift)) & 15
                if digit != 0 || started || shift == 0 {
                    put(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
                    started = true
                }
            }
            index += 1
        }
        return count
    }
}

extension IPAddress: CustomStringConvertible {
    /// The canonical text of the address (RFC 5952), without brackets.
    public var description: String {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: IPAddress.textBytesMax) { room in
            guard let base = room.baseAddress else { return "" }
            let count = write(to: base)
            return String(decoding: UnsafeBufferPointer(start: base, count: count), as: UTF8.self)
        }
    }
}

/// A network in CIDR notation. A bare address is the network of that one address.
public struct IPNetwork: Hashable, Sendable {
    /// The network's address; its host bits are zero.
    public let address: IPAddress
    private let maskHigh: UInt64
    private let maskLow: UInt64

    /// Parses `10.0.0.0/8`, `2001:db8::/32` or a bare address; nil if it is none or host bits are set.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = IPAddress(parts[0]) else { return nil }
        let width = address.isIPv4 && !parts[0].contains(":") ? 32 : 128
        var prefix = width
        if parts.count == 2 {
            guard (1...3).contains(parts[1].utf8.count), parts[1].utf8.allSatisfy({ (48...57).contains($0) }),
                let value = Int(parts[1]), value <= width
            else { return nil }
            prefix = value
        }
        let bits = prefix + 128 - width
        maskHigh = bits >= 64 ? .max : bits == 0 ? 0 : .max << UInt64(64 - bits)
        maskLow = bits <= 64 ? 0 : .max << UInt64(128 - bits)
        guard address.high & ~maskHigh == 0, address.low & ~maskLow == 0 else { return nil }
        self.address = address
    }

    /// Whether every address of this network is one of `other`.
    public func lies(in other: IPNetwork) -> Bool {
        other.contains(address) && maskHigh & other.maskHigh == other.maskHigh
            && maskLow & other.maskLow == other.maskLow
    }

    /// Whether `other` lies in this network.
    public func contains(_ other: IPAddress) -> Bool {
        // `::/0` is every IPv6 address, and none of those that are IPv4 in the mapped form.
        address.isIPv4 == other.isIPv4 && other.high & maskHigh == address.high && other.low & maskLow == address.low
    }
}
