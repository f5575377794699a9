// One stream of a connection: what it has to send, and what its peer may send. A trivial struct in the engine's slab,
// reached by pointer; nghttp2 keeps the pointer as the stream's user data.

import Bytes
import HTTPSemantics

/// Names a stream as long as it lives.
public typealias HTTP2StreamPointer = UnsafeMutablePointer<HTTP2Stream>

/// See the head of the file. It is freed when nghttp2 has closed it and its owner has let it go.
public struct HTTP2Stream {
    struct State: OptionSet {
        let rawValue: UInt16
        /// Nothing is to be sent behind what waits.
        static let sendingEnded = State(rawValue: 1 << 0)
        /// The end was given to nghttp2.
        static let endIsSent = State(rawValue: 1 << 1)
        /// nghttp2 asked for content when there was none; it has to be told of more.
        static let isDeferred = State(rawValue: 1 << 2)
        /// That the peer has ended its direction was told: nothing is missing before it.
        static let receivingEnded = State(rawValue: 1 << 3)
        /// nghttp2 has closed it.
        static let isClosed = State(rawValue: 1 << 4)
        /// And that was told.
        static let closeIsTold = State(rawValue: 1 << 5)
        /// It shares with others of its urgency.
        static let isIncremental = State(rawValue: 1 << 6)
        /// Its content waits for more of a window than there is.
        static let isHeld = State(rawValue: 1 << 7)
        /// Somebody waits for its end to be sent.
        static let endIsAwaited = State(rawValue: 1 << 8)
        /// What came on it breaks the rules: we reset it for that.
        static let isMalformed = State(rawValue: 1 << 9)
    }

    /// Its number.
    public internal(set) var id: Int32
    let token: SlabToken
    let session: UnsafeMutablePointer<HTTP2Session.Storage>
    /// The session's other streams.
    var next: HTTP2StreamPointer?
    var previous: HTTP2StreamPointer?
    /// Whose it is; nil before anybody took it, and after it was let go.
    public internal(set) var owner: UnsafeMutableRawPointer?
    /// The owner's: content that waits to be sent.
    var waiting: UnsafeMutablePointer<Buffer>?
    /// Content behind that, in hand for the call that sends it.
    var direct = UnsafeBufferPointer<UInt8>(start: nil, count: 0)
    /// The trailer section that ends the message, as lines of HTTP/1.
    var trailers = Buffer()
    var state: State = []
    /// 0 (first) to 7, by RFC 9218.
    var urgency = StreamPriority.urgencyDefault
    /// What its peer may send before we have taken any of it.
    var windowBytes: Int32
    /// What was taken since the window last grew.
    var takenBytes: Int32 = 0

    /// Whether the peer asks on it, or we do.
    public var role: HTTP2Session.Role { session.pointee.role }
    /// Whether the peer has ended its direction, and that was told: all of its message was.
    public var receivingEnded: Bool { state.contains(.receivingEnded) }
    /// Whether nghttp2 knows it no more.
    public var isClosed: Bool { state.contains(.isClosed) }
    /// Whether what came on it broke the rules.
    public var isMalformed: Bool { state.contains(.isMalformed) }
    /// Whether the end of our direction was sent.
    public var endIsSent: Bool { state.contains(.endIsSent) }
}

/// Error codes (RFC 9113 section 7) that something here is about.
public enum HTTP2ErrorCode {
    /// Nothing is wrong.
    public static let noError: UInt32 = 0x0
    /// The peer broke a rule.
    public static let protocolError: UInt32 = 0x1
    /// Something on our side failed.
    public static let internalError: UInt32 = 0x2
    /// A frame is not as long as it has to be.
    public static let frameSizeError: UInt32 = 0x6
    /// A frame came on a stream that was over.
    public static let streamClosed: UInt32 = 0x5
    /// The stream was not looked at.
    public static let refusedStream: UInt32 = 0x7
    /// Nobody wants it any more.
    public static let cancel: UInt32 = 0x8
    /// The connection behind a tunnel was reset.
    public static let connectError: UInt32 = 0xA
    /// Too much of what costs.
    public static let enhanceYourCalm: UInt32 = 0xB
}

/// What a session tells next.
public enum HTTP2Event {
    /// Nothing more for now.
    case none
    /// A part of a message. A place of content is relative to what was received.
    case message(HTTP2StreamPointer, MessageEvent)
    /// The stream is closed: complete, if both ends were seen; broken off with this code otherwise.
    case closed(HTTP2StreamPointer, code: UInt32)
    /// The peer has named its settings, or changed them.
    case settingsReceived
    /// The peer takes no new stream; what it had not begun on is told closed with `refusedStream`.
    case goAwayReceived
    /// The peer has answered a PING of ours.
    case pingAnswered
}
