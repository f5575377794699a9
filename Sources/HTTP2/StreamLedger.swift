// Which streams a client has begun and ended, as far as it matters for what it may still send on them. nghttp2 forgets a stream
// as soon as it is closed, and then ignores what comes on it; RFC 9113 wants some of that to end the connection (sections 5.1
// and 5.1.1), since whoever sends it has lost count.

/// The last few streams of a connection. Nothing is allocated for one on which nothing goes wrong.
struct StreamLedger {
    /// The highest stream that was begun.
    private var newest: Int32 = 0
    /// Whether GOAWAY names the last stream: what comes on later ones is not looked at.
    var isClosed = false
    /// Streams that were begun, streams that the client has reset, and streams that we have.
    private var begun = Recent()
    private var resetByPeer = Recent()
    private var resets = Recent()
    /// DATA on streams that we have reset, and of which the client need not have known, that is still forgiven.
    private var strayFramesMax: Int32 = 0

    /// What a stream's window lets be on its way, in frames of a small size.
    private static let strayFramesOfReset: Int32 = 512
    /// The last numbers that were put in.
    private struct Recent {
        private static let countMax = 128
        private var numbers: [Int32] = []
        private var next = 0

        mutating func insert(_ number: Int32) {
            if numbers.count < Self.countMax {
                numbers.append(number)
            } else {
                numbers[next] = number
                next = (next + 1) % Self.countMax
            }
        }

        func contains(_ number: Int32) -> Bool { numbers.contains(number) }
    }

    /// RST_STREAM of ours was sent, or GOAWAY that leaves the stream out: what is on its way is ignored.
    mutating func endedByUs(_ stream: Int32) {
        resets.insert(stream)
        strayFramesMax = min(strayFramesMax + Self.strayFramesOfReset, 8 * Self.strayFramesOfReset)
    }

    /// DATA of the client came.
    /// - Parameters:
    ///   - newestRead: the highest stream that nghttp2 has read the beginning of: later ones are in what it reads next.
    ///   - isOpen: whether nghttp2 knows the stream.
    /// - Returns: the code with which the connection ends, if it does (RFC 9113 section 5.1); and what the frame costs more than
    ///   others, in tokens.
    mutating func contentCame(
        _ stream: Int32, newestRead: Int32, isOpen: () -> Bool
    ) -> (error: UInt32?, cost: Int32) {
        if resetByPeer.contains(stream) { return (HTTP2ErrorCode.streamClosed, 0) }
        if stream > newestRead || isOpen() { return (nil, 0) }
        if resets.contains(stream) {
            // It may have been on its way.
            if strayFramesMax == 0 { return (nil, 1) }
            strayFramesMax -= 1
            return (nil, 0)
        }
        return (begun.contains(stream) ? HTTP2ErrorCode.streamClosed : nil, 1)
    }

    /// A frame of the client came.
    /// - Parameters:
    ///   - type: HEADERS, PRIORITY or RST_STREAM.
    ///   - newestRead: as for `contentCame`.
    ///   - isOpen: whether nghttp2 knows the stream.
    /// - Returns: the code with which the connection ends, if it does.
    mutating func frameCame(
        _ type: UInt8, _ stream: Int32, newestRead: Int32, isOpen: () -> Bool
    ) -> UInt32? {
        switch type {
        case 1:
            if isClosed || stream & 1 == 0 { return nil }
            if stream > newest {
                newest = stream
                begun.insert(stream)
                return nil
            }
            if resetByPeer.contains(stream) { return HTTP2ErrorCode.streamClosed }
            let wasBegun = begun.contains(stream)
            if wasBegun, stream > newestRead { return nil }
            if isOpen() || resets.contains(stream) { return nil }
            return wasBegun ? HTTP2ErrorCode.streamClosed : HTTP2ErrorCode.protocolError
        case 2: return stream == 0 ? HTTP2ErrorCode.protocolError : nil
        default:
            if stream > 0, stream <= newest { resetByPeer.insert(stream) }
            return nil
        }
    }
}
