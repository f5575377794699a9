// How a client in clear says that it speaks HTTP/2 (RFC 9113 section 3.4).

/// The first bytes of a client's connection.
public enum HTTP2Preface {
    /// What they are.
    public enum Look: Sendable {
        /// Something else.
        case none
        /// A part of the preface; more has to come before one can tell.
        case part
        /// The preface.
        case whole
    }

    private static var text: StaticString { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" }

    /// Looks at what has come so far.
    public static func look(at bytes: UnsafeBufferPointer<UInt8>) -> Look {
        let count = text.utf8CodeUnitCount
        for index in 0..<min(bytes.count, count) where bytes[index] != text.utf8Start[index] { return .none }
        return bytes.count >= count ? .whole : .part
    }
}
