// Base64 (RFC 4648 section 4), as Structured Fields have it for bytes (RFC 8941 section 3.3.5).

/// Writes base64.
public enum Base64 {
    private static var alphabet: StaticString { "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" }

    /// How long the text of so many bytes is.
    public static func textBytes(of count: Int) -> Int { (count + 2) / 3 * 4 }

    /// Writes the text of bytes.
    /// - Parameter out: room for `textBytes(of:)` bytes.
    public static func write(_ bytes: UnsafeBufferPointer<UInt8>, to out: UnsafeMutablePointer<UInt8>) {
        let alphabet = alphabet.utf8Start
        var out = out
        var index = 0
        while index < bytes.count {
            let left = bytes.count - index
            let first = bytes[index]
            let second = left > 1 ? bytes[index + 1] : 0
            let third = left > 2 ? bytes[index + 2] : 0
            out[0] = alphabet[Int(first >> 2)]
            out[1] = alphabet[Int(first & 3) << 4 | Int(second >> 4)]
            out[2] = left > 1 ? alphabet[Int(second & 15) << 2 | Int(third >> 6)] : UInt8(ascii: "=")
            out[3] = left > 2 ? alphabet[Int(third & 63)] : UInt8(ascii: "=")
            out += 4
            index += 3
        }
    }
}
