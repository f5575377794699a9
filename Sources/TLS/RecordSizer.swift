// How large the next TLS record is to be. A receiver can use nothing of a record before all of it is there, so a stream
// begins with records that fit one segment and goes over to full ones when it is under way. Pure, and never a reason to
// hold bytes back: what is there leaves now, whatever its size.

/// The growth of one connection's records. Trivial.
@frozen public struct RecordSizer {
    /// With the record's own bytes this fits one segment, also over IPv6 with timestamps.
    public static let smallBytes = 1_400
    /// Three segments.
    public static let mediumBytes = 4_200
    /// The most that a record may carry (RFC 8446 section 5.1).
    public static let fullBytes = 16_384
    /// So many bytes go out in small records: about the first flight of a fresh connection.
    public static let smallPhaseBytes: UInt32 = 16 << 10
    /// From here on records are full.
    public static let fullPhaseBytes: UInt32 = 64 << 10
    /// After such a pause the congestion window may have shrunk, and records are small again.
    public static let pauseMilliseconds: UInt64 = 1_000

    @usableFromInline var sentBytes: UInt32
    @usableFromInline var lastMilliseconds: UInt64

    /// The sizer of a fresh connection.
    @inlinable public init() {
        sentBytes = 0
        lastMilliseconds = 0
    }

    /// Plaintext is about to be sent.
    @inlinable public mutating func sendingBegan(nowMilliseconds: UInt64) {
        if nowMilliseconds > lastMilliseconds &+ Self.pauseMilliseconds { sentBytes = 0 }
        lastMilliseconds = nowMilliseconds
    }

    /// What the next record may carry.
    @inlinable public var recordBytesMax: Int {
        if sentBytes >= Self.fullPhaseBytes { return Self.fullBytes }
        return sentBytes >= Self.smallPhaseBytes ? Self.mediumBytes : Self.smallBytes
    }

    /// A record with so many bytes was made.
    @inlinable public mutating func recordSent(_ bytes: Int) {
        if sentBytes < Self.fullPhaseBytes { sentBytes &+= UInt32(truncatingIfNeeded: bytes) }
    }
}
