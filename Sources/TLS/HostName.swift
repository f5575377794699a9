// Names of hosts as bytes: what is one, and a table that finds who serves it. A certificate's wildcard stands for exactly
// one label, the leftmost (RFC 6125 section 6.4.3, RFC 9525 section 6.3); a policy's for every name below, as in the
// configuration's `host`. Letters are compared without case.

enum HostName {
    /// The longest name that is looked at (RFC 1035 section 2.3.4).
    static let bytesMax = 255

    @inline(__always) static func lowercased(_ byte: UInt8) -> UInt8 {
        byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte
    }

    /// Whether the bytes may be a host's name: letters, digits, hyphens and, as it occurs, underscores, in labels of 1
    /// to 63; an address is none.
    static func isValid(_ name: UnsafeBufferPointer<UInt8>) -> Bool {
        guard name.count > 0, name.count <= bytesMax else { return false }
        var labelBytes = 0
        var labelHasLetter = false
        for byte in name {
            if byte == UInt8(ascii: ".") {
                guard labelBytes > 0 else { return false }
                labelBytes = 0
                labelHasLetter = false
                continue
            }
            let lower = lowercased(byte)
            let isDigit = byte &- UInt8(ascii: "0") < 10
            let isOther = lower &- UInt8(ascii: "a") < 26 || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
            guard isDigit || isOther else { return false }
            if isOther { labelHasLetter = true }
            labelBytes += 1
            guard labelBytes <= 63 else { return false }
        }
        // The last label of a name is never a number, the last of an IPv4 address always is.
        return labelBytes > 0 && labelHasLetter
    }

    /// FNV-1a over the lower-cased bytes.
    @inline(__always) static func hash(_ name: UnsafeBufferPointer<UInt8>, seed: UInt64 = 0xCBF2_9CE4_8422_2325)
        -> UInt64
    {
        var hash = seed
        for byte in name { hash = (hash ^ UInt64(lowercased(byte))) &* 0x100_0000_01B3 }
        return hash
    }
}

/// From a name to a number. Built once, then only read; owns its memory until `destroy()`.
struct HostNameTable {
    private struct Slot {
        var hash: UInt64
        var nameStart: Int32
        var nameCount: Int32
        var value: Int32
        var isWildcard: Bool
    }

    private let slots: UnsafeMutableBufferPointer<Slot>
    private let names: UnsafeMutableBufferPointer<UInt8>
    private let hasWildcards: Bool

    /// - Parameter entries: names, `*.example.com` among them, with their numbers; the first of equals wins.
    init(_ entries: [(name: String, value: Int)]) {
        var capacity = 8
        while capacity < entries.count * 2 { capacity *= 2 }
        slots = .allocate(capacity: capacity)
        slots.initialize(repeating: Slot(hash: 0, nameStart: 0, nameCount: -1, value: 0, isWildcard: false))
        names = .allocate(capacity: max(1, entries.reduce(0) { $0 + $1.name.utf8.count }))
        hasWildcards = entries.contains { $0.name.utf8.starts(with: "*.".utf8) }
        var used = 0
        for entry in entries {
            var bytes = entry.name.utf8.map(HostName.lowercased)
            if bytes.last == UInt8(ascii: ".") { bytes.removeLast() }
            let isWildcard = bytes.starts(with: [UInt8(ascii: "*"), UInt8(ascii: ".")])
            if isWildcard { bytes.removeFirst(2) }
            guard !bytes.isEmpty else { continue }
            for (index, byte) in bytes.enumerated() { names.initializeElement(at: used + index, to: byte) }
            let name = UnsafeBufferPointer(rebasing: names[used..<(used + bytes.count)])
            let hash = HostName.hash(name)
            if find(name, hash, isWildcard: isWildcard) < 0 {
                var index = Int(truncatingIfNeeded: hash) & (capacity - 1)
                while slots[index].nameCount >= 0 { index = (index + 1) & (capacity - 1) }
                slots[index] = Slot(
                    hash: hash, nameStart: Int32(used), nameCount: Int32(bytes.count), value: Int32(entry.value),
                    isWildcard: isWildcard)
                used += bytes.count
            }
        }
    }

    func destroy() {
        slots.deallocate()
        names.deallocate()
    }

    /// The number of a name, exact before wildcard; -1 if there is none. One dot at the end is not looked at.
    /// - Parameter atAnyDepth: whether a wildcard stands for every name below, the longest first, or for one label.
    func value(of host: UnsafeBufferPointer<UInt8>, atAnyDepth: Bool = false) -> Int {
        var name = host
        if name.last == UInt8(ascii: ".") { name = UnsafeBufferPointer(rebasing: name[..<(name.count - 1)]) }
        guard name.count > 0, name.count <= HostName.bytesMax else { return -1 }
        let exact = find(name, HostName.hash(name), isWildcard: false)
        if exact >= 0 || !hasWildcards { return exact }
        for dot in name.indices where name[dot] == UInt8(ascii: ".") {
            if dot > 0, dot + 1 < name.count {
                let parent = UnsafeBufferPointer(rebasing: name[(dot + 1)...])
                let found = find(parent, HostName.hash(parent), isWildcard: true)
                if found >= 0 { return found }
            }
            if !atAnyDepth { return -1 }
        }
        return -1
    }

    private func find(_ name: UnsafeBufferPointer<UInt8>, _ hash: UInt64, isWildcard: Bool) -> Int {
        var index = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[index].nameCount >= 0 {
            let slot = slots[index]
            if slot.hash == hash, slot.isWildcard == isWildcard, Int(slot.nameCount) == name.count,
                (0..<name.count).allSatisfy({
                    HostName.lowercased(name[$0]) == names[Int(slot.nameStart) + $0]
                })
            {
                return Int(slot.value)
            }
            index = (index + 1) & (slots.count - 1)
        }
        return -1
    }
}
