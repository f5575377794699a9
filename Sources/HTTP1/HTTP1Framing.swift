// Writing what stands between the bytes of content. Content itself is never copied here.

import Bytes

/// The chunked coding's own bytes (RFC 9112 section 7.1).
public enum ChunkedCoding {
    /// Writes the line before a chunk of `size` bytes, which is not 0.
    @inlinable public static func writeLine(size: Int, to out: inout ByteWriter) {
        out.append(hexadecimal: UInt64(size))
        out.append("\r\n")
    }

    /// Writes what stands behind a chunk's data.
    @inlinable public static func writeEnd(to out: inout ByteWriter) {
        out.append("\r\n")
    }

    /// Writes the last chunk with an empty trailer section.
    @inlinable public static func writeLastChunk(to out: inout ByteWriter) {
        out.append("0\r\n\r\n")
    }
}
