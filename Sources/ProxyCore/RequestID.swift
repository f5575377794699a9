// A request's identity in logs and towards the upstream.

import Bytes

/// 128 random bits that name a request, written as 32 hexadecimal digits. The first half is a worker's own and kept
/// as text.
public struct RequestID: Sendable, Equatable {
    private let prefix: (UInt64, UInt64)
    private let low: UInt64

    /// An identity from random bits.
    public init(high: UInt64, low: UInt64) {
        prefix = (Self.digits(high >> 32), Self.digits(high & 0xFFFF_FFFF))
        self.low = low
    }

    /// Another identity with the same first half.
    public func next(low: UInt64) -> RequestID { RequestID(prefix: prefix, low: low) }

    private init(prefix: (UInt64, UInt64), low: UInt64) {
        self.prefix = prefix
        self.low = low
    }

    /// Whether both name the same request.
    public static func == (one: RequestID, other: RequestID) -> Bool {
        one.prefix == other.prefix && one.low == other.low
    }

    /// Writes its 32 digits.
    @inline(__always)
    public func write(to out: inout ByteWriter) {
        guard out.capacity - out.count >= 32 else {
            out.isOverfull = true
            return
        }
        let place = UnsafeMutableRawPointer(out.base + out.count)
        place.storeBytes(of: prefix.0, as: UInt64.self)
        place.storeBytes(of: prefix.1, toByteOffset: 8, as: UInt64.self)
        place.storeBytes(of: Self.digits(low >> 32), toByteOffset: 16, as: UInt64.self)
        place.storeBytes(of: Self.digits(low & 0xFFFF_FFFF), toByteOffset: 24, as: UInt64.self)
        out.count &+= 32
    }

    /// Writes the digits of its second half, which no other request of this process has for long.
    func writeSecondHalf(to out: inout ByteWriter) {
        for half in [Self.digits(low >> 32), Self.digits(low & 0xFFFF_FFFF)] {
            withUnsafeBytes(of: half) { for digit in $0 { out.append(digit) } }
        }
    }

    /// Eight hexadecimal digits in one word: nibbles spread to bytes, then `0`...`9` or `a`...`f` by arithmetic.
    @inline(__always)
    private static func digits(_ value: UInt64) -> UInt64 {
        var spread = value
        spread = (spread | spread << 16) & 0x0000_FFFF_0000_FFFF
        spread = (spread | spread << 8) & 0x00FF_00FF_00FF_00FF
        spread = (spread | spread << 4) & 0x0F0F_0F0F_0F0F_0F0F
        let isLetter = ((spread &+ 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101
        return (spread &+ 0x3030_3030_3030_3030 &+ isLetter &* 0x27).byteSwapped
    }
}
