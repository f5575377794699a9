// The line before a chunk (RFC 9112 section 7.1): `chunk-size [ chunk-ext ] CRLF`, read strictly.

import HTTPSemantics

/// A chunk's size line.
struct ChunkLine {
    /// The chunk's size in bytes; 0 is the last chunk.
    let size: UInt64
    /// How many bytes the extension has.
    let extensionBytes: Int

    /// Parses a whole line.
    /// - Parameters:
    ///   - bytes: the line's bytes.
    ///   - lineFeed: where its LF is.
    init(_ bytes: UnsafePointer<UInt8>, lineFeed: Int) throws(HeadFault) {
        guard lineFeed >= 1, bytes[lineFeed - 1] == 13 else { throw .chunk }
        let end = lineFeed - 1
        var index = 0
        var size: UInt64 = 0
        while index < end {
            let byte = bytes[index]
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: digit = 255
            }
            if digit == 255 { break }
            // Sixteen digits cannot overflow, and the sum of all sizes is counted in 64 bits; one more bit is kept.
            guard index < 16, size >> 59 == 0 else { throw .chunk }
            size = size << 4 | UInt64(digit)
            index += 1
        }
        guard index > 0 else { throw .chunk }
        self.size = size
        extensionBytes = end - index
        if index < end { try Self.checkExtensions(bytes, from: index, end: end) }
    }

    /// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`
    private static func checkExtensions(_ bytes: UnsafePointer<UInt8>, from start: Int, end: Int) throws(HeadFault) {
        var index = start
        func skipSpace() { while index < end, bytes[index] == 0x20 || bytes[index] == 0x09 { index += 1 } }
        func skipToken() throws(HeadFault) {
            let first = index
            while index < end, Head.isToken(bytes[index]) { index += 1 }
            if index == first { throw .chunk }
        }
        while index < end {
            skipSpace()
            guard index < end, bytes[index] == UInt8(ascii: ";") else { throw .chunk }
            index += 1
            skipSpace()
            try skipToken()
            let nameEnd = index
            skipSpace()
            guard index < end, bytes[index] == UInt8(ascii: "=") else {
                // White space may only stand here before another ";": otherwise it belongs to nothing.
                if index == end, index != nameEnd { throw .chunk }
                continue
            }
            index += 1
            skipSpace()
            if index < end, bytes[index] == UInt8(ascii: "\"") {
                try skipQuotedString()
            } else {
                try skipToken()
            }
        }

        /// RFC 9110 section 5.6.4.
        func skipQuotedString() throws(HeadFault) {
            index += 1
            while index < end, bytes[index] != UInt8(ascii: "\"") {
                if bytes[index] == UInt8(ascii: "\\") { index += 1 }
                guard index < end, bytes[index] >= 0x20 || bytes[index] == 0x09, bytes[index] != 0x7F else {
                    throw .chunk
                }
                index += 1
            }
            guard index < end else { throw .chunk }
            index += 1
        }
    }
}
