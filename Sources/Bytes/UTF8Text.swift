// Which bytes are UTF-8, for whoever shows bytes of unknown origin to people.

/// Well-formed UTF-8 (Unicode 3.9, table 3-7).
public enum UTF8Text {
    /// The length of the well-formed sequence at an offset; nil if there is none.
    /// - Parameters:
    ///   - bytes: an array or a buffer, whose indices begin at 0.
    ///   - offset: one of its indices.
    @inlinable public static func scalarLength<Text: RandomAccessCollection>(_ bytes: Text, at offset: Int) -> Int?
    where Text.Element == UInt8, Text.Index == Int {
        let first = bytes[offset]
        if first < 0x80 { return 1 }
        let count: Int
        var second: ClosedRange<UInt8> = 0x80...0xBF
        switch first {
        case 0xC2...0xDF: count = 2
        case 0xE0: (count, second) = (3, 0xA0...0xBF)
        case 0xED: (count, second) = (3, 0x80...0x9F)
        case 0xE1...0xEF: count = 3
        case 0xF0: (count, second) = (4, 0x90...0xBF)
        case 0xF1...0xF3: count = 4
        case 0xF4: (count, second) = (4, 0x80...0x8F)
        default: return nil
        }
        guard offset + count <= bytes.count, second.contains(bytes[offset + 1]) else { return nil }
        for next in offset + 2..<max(offset + count, offset + 2) where bytes[next] & 0xC0 != 0x80 { return nil }
        return count
    }
}
