// Scanning sixteen bytes at a time where the processor turns a comparison of a vector into bits, else eight at a time in
// a general register (SWAR; measured 2.5 times faster here than SIMD16 with `any()`). There, each mask has the high bit set in bytes that match; a borrow can only set false bits above a true
// one, so the lowest set bit is always right.

#if arch(x86_64)
    public import CVector
#endif

/// Scans over raw bytes. All functions look at `[from, end)` only.
public enum ByteScan {
    @inlinable static var ones: UInt64 { 0x0101_0101_0101_0101 }
    @inlinable static var highs: UInt64 { 0x8080_8080_8080_8080 }

    @inlinable static func load(_ bytes: UnsafePointer<UInt8>, _ index: Int) -> UInt64 {
        UInt64(littleEndian: (UnsafeRawPointer(bytes) + index).loadUnaligned(as: UInt64.self))
    }

    @inlinable static func equal(_ word: UInt64, _ byte: UInt8) -> UInt64 {
        let difference = word ^ (ones &* UInt64(byte))
        return (difference &- ones) & ~difference & highs
    }

    @inlinable static func less(_ word: UInt64, than byte: UInt8) -> UInt64 {
        (word &- ones &* UInt64(byte)) & ~word & highs
    }

    /// The index of the first byte that a field value must not have: a control byte other than tab
    /// (RFC 9110 section 5.5; obs-text passes), or `end`.
    @inlinable @inline(__always) public static func fieldValueEnd(_ bytes: UnsafePointer<UInt8>, from: Int, end: Int)
        -> Int
    {
        var index = from
        while true {
            while index &+ 8 <= end {
                let word = load(bytes, index)
                let hits = less(word, than: 0x20) | equal(word, 0x7F)
                if hits != 0 {
                    index &+= hits.trailingZeroBitCount >> 3
                    break
                }
                index &+= 8
            }
            while index < end, bytes[index] >= 0x20, bytes[index] != 0x7F { index &+= 1 }
            if index < end, bytes[index] == 0x09 {
                index &+= 1
                continue
            }
            return index
        }
    }

    /// Looks for the end of a field value as `fieldValueEnd` does, but stops at anything that is unusual besides, and
    /// where less than eight bytes are left: who calls it looks at what stopped it.
    @inlinable @inline(__always) public static func usualFieldValueEnd(
        _ bytes: UnsafePointer<UInt8>, from: Int, end: Int
    ) -> Int {
        var index = from
        #if arch(x86_64)
            while index &+ 16 <= end {
                let hits = headfirst_control16(bytes + index)
                if hits != 0 { return index &+ hits.trailingZeroBitCount }
                index &+= 16
            }
        #endif
        return usualFieldValueEndInWords(bytes, from: index, end: end)
    }

    /// The rest of it, where less than a vector is left. Apart, so that its constants are not loaded for every value.
    @usableFromInline @inline(never) static func usualFieldValueEndInWords(
        _ bytes: UnsafePointer<UInt8>, from: Int, end: Int
    ) -> Int {
        var index = from
        // A byte of 0x7F becomes 0x80 by one more. The carry of 0xFF may make another byte look like it.
        while index &+ 8 <= end {
            let word = load(bytes, index)
            let hits = ((word &- ones &* 0x20) | (word &+ ones)) & ~word & highs
            if hits != 0 { return index &+ hits.trailingZeroBitCount &>> 3 }
            index &+= 8
        }
        while index < end, bytes[index] >= 0x20, bytes[index] != 0x7F { index &+= 1 }
        return index
    }

    /// The index of the first byte that a request target must not have: outside 0x21...0x7E, or `#`; or `end`.
    @inlinable public static func targetEnd(_ bytes: UnsafePointer<UInt8>, from: Int, end: Int) -> Int {
        var index = from
        while index &+ 8 <= end {
            let word = load(bytes, index)
            // Below 0x21, 0x7F, from 0x80 on; what is flagged by a borrow or a carry lies above what is flagged rightly.
            let hash = word ^ (ones &* UInt64(UInt8(ascii: "#")))
            let hits =
                ((word &- ones &* 0x21) | (word &+ ones) | word | ((hash &- ones) & ~hash)) & highs
            if hits != 0 { return index &+ hits.trailingZeroBitCount >> 3 }
            index &+= 8
        }
        while index < end {
            let byte = bytes[index]
            if byte < 0x21 || byte > 0x7E || byte == UInt8(ascii: "#") { return index }
            index &+= 1
        }
        return end
    }

    /// The index of the first `byte`, or `end`.
    @inlinable @inline(__always) public static func first(
        _ byte: UInt8, in bytes: UnsafePointer<UInt8>, from: Int, end: Int
    ) -> Int {
        var index = from
        #if arch(x86_64)
            while index &+ 16 <= end {
                let hits = headfirst_equal16(bytes + index, byte)
                if hits != 0 { return index &+ hits.trailingZeroBitCount }
                index &+= 16
            }
        #endif
        return firstInWords(byte, in: bytes, from: index, end: end)
    }

    @usableFromInline @inline(never) static func firstInWords(
        _ byte: UInt8, in bytes: UnsafePointer<UInt8>, from: Int, end: Int
    ) -> Int {
        var index = from
        while index &+ 8 <= end {
            let hits = equal(load(bytes, index), byte)
            if hits != 0 { return index &+ hits.trailingZeroBitCount >> 3 }
            index &+= 8
        }
        while index < end {
            if bytes[index] == byte { return index }
            index &+= 1
        }
        return end
    }
}
