// Writing bytes into room that was reserved before. A writer never grows: who writes knows the bound, and a writer
// that is full says so instead of writing past its end.

/// Appends to a fixed block. Trivial; the block belongs to whoever made the writer.
@frozen public struct ByteWriter {
    /// The block.
    public let base: UnsafeMutablePointer<UInt8>
    /// Its size in bytes.
    public let capacity: Int
    /// The bytes written so far.
    public var count: Int
    /// Whether something did not fit; what was written since is not to be used.
    public var isOverfull: Bool

    /// A writer at the front of a block.
    @inlinable public init(base: UnsafeMutablePointer<UInt8>, capacity: Int) {
        self.base = base
        self.capacity = capacity
        count = 0
        isOverfull = false
    }

    /// What was written so far.
    @inlinable public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    /// Appends bytes.
    @inlinable public mutating func append(_ bytes: UnsafePointer<UInt8>, count bytesCount: Int) {
        guard capacity - count >= bytesCount else {
            isOverfull = true
            return
        }
        UnsafeMutableRawPointer(base + count).copyMemory(from: bytes, byteCount: bytesCount)
        count &+= bytesCount
    }

    /// Appends bytes. Eight to sixteen of them, as most hosts and names are, by two words that overlap.
    @inlinable @inline(__always) public mutating func append(_ bytes: UnsafeBufferPointer<UInt8>) {
        guard let start = bytes.baseAddress else { return }
        guard bytes.count >= 8, bytes.count <= 16, capacity &- count >= 16 else {
            append(start, count: bytes.count)
            return
        }
        let source = UnsafeRawPointer(start)
        let place = UnsafeMutableRawPointer(base + count)
        let tail = bytes.count &- 8
        let last = (source + tail).loadUnaligned(as: UInt64.self)
        place.storeBytes(of: source.loadUnaligned(as: UInt64.self), as: UInt64.self)
        place.storeBytes(of: last, toByteOffset: tail, as: UInt64.self)
        count &+= bytes.count
    }

    /// Appends ASCII text known at compile time.
    @inlinable @inline(__always) public mutating func append(_ text: StaticString) {
        append(text.utf8Start, count: text.utf8CodeUnitCount)
    }

    /// Appends at most sixteen bytes that are kept in two words.
    @inlinable public mutating func append(short text: (UInt64, UInt64), count bytesCount: Int) {
        guard capacity - count >= 16 else {
            isOverfull = true
            return
        }
        let place = UnsafeMutableRawPointer(base + count)
        place.storeBytes(of: text.0, as: UInt64.self)
        place.storeBytes(of: text.1, toByteOffset: 8, as: UInt64.self)
        count += bytesCount
    }

    /// Appends one byte.
    @inlinable public mutating func append(_ byte: UInt8) {
        guard count < capacity else {
            isOverfull = true
            return
        }
        base[count] = byte
        count += 1
    }

    /// Appends a number in decimal.
    @inlinable public mutating func append(decimal value: UInt64) {
        guard capacity - count >= 20 else {
            isOverfull = true
            return
        }
        var digits = 1
        var power: UInt64 = 10
        while digits < 20, value >= power {
            digits += 1
            let (next, overflow) = power.multipliedReportingOverflow(by: 10)
            if overflow { break }
            power = next
        }
        var rest = value
        var position = count + digits
        count = position
        repeat {
            position -= 1
            base[position] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
            rest /= 10
        } while rest > 0
    }

    /// Appends a number in lower-case hexadecimal, without leading zeros.
    @inlinable public mutating func append(hexadecimal value: UInt64) {
        guard capacity - count >= 16 else {
            isOverfull = true
            return
        }
        var shift = UInt64(truncatingIfNeeded: max(1, (67 &- value.leadingZeroBitCount) &>> 2) &<< 2)
        while shift > 0 {
            shift &-= 4
            let digit = UInt8(truncatingIfNeeded: value &>> shift) & 15
            base[count] = digit < 10 ? UInt8(ascii: "0") &+ digit : UInt8(ascii: "a") &- 10 &+ digit
            count &+= 1
        }
    }

    /// Appends text in UTF-8. Not for the hot path.
    @inlinable public mutating func append(text: some StringProtocol) {
        for byte in text.utf8 { append(byte) }
    }
}
