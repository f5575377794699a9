// What a worker keeps of each connection and of each exchange: trivial structs in slabs that never move. An idle
// connection owns no buffer. Sockets are closed by the worker, which is also who frees the slots.

import Bytes
import EventLoop
import HTTP1
import HTTP2
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import TLS

/// Readiness that epoll told and that was not used up yet, and what the peer has done.
struct SocketState: OptionSet {
    let rawValue: UInt16

    /// There may be something to read.
    static let mayRead = SocketState(rawValue: 1 << 0)
    /// A write may take bytes.
    static let mayWrite = SocketState(rawValue: 1 << 1)
    /// The peer ended its direction (epoll's word; bytes before the end may be unread).
    static let peerEnded = SocketState(rawValue: 1 << 2)
    /// Writing failed: nothing can be sent any more.
    static let isBroken = SocketState(rawValue: 1 << 3)
    /// A place in the agenda is taken.
    static let isScheduled = SocketState(rawValue: 1 << 4)
    /// The worker is in the middle of this connection's bytes.
    static let isProcessing = SocketState(rawValue: 1 << 5)
    /// Much is to come that nobody has to look at: it is moved within the kernel.
    static let splices = SocketState(rawValue: 1 << 6)
    /// That was tried, and this connection, or its other side, cannot do it.
    static let cannotSplice = SocketState(rawValue: 1 << 7)
    /// A write was told of the peer's reset. The kernel tells it once: a read behind it finds an end like any other.
    static let isReset = SocketState(rawValue: 1 << 8)
    /// What passes the socket is TLS.
    static let isTLS = SocketState(rawValue: 1 << 9)
    /// A PROXY header comes before everything else.
    static let awaitsProxyHeader = SocketState(rawValue: 1 << 10)
    /// It has no socket: it is a stream of another connection.
    static let isStream = SocketState(rawValue: 1 << 11)
    /// HTTP/2 is spoken, or the first bytes tell whether it is.
    static let mayBeHTTP2 = SocketState(rawValue: 1 << 12)
    /// What it still sends is not read, and it is not waited for.
    static let isUnwelcome = SocketState(rawValue: 1 << 14)
    /// It is among those whose frames are sent at the end of the turn.
    static let hasFrames = SocketState(rawValue: 1 << 13)
}

/// What a socket has not taken yet: bytes in a pipe, then bytes in memory.
struct Outbound {
    var piped = PipedBytes()
    var buffer = Buffer()

    var isEmpty: Bool { buffer.isEmpty && piped.isEmpty }
    var count: Int { buffer.count + piped.count }
}

/// A client's connection; or one stream of a connection that speaks HTTP/2, which an exchange takes for a connection of its
/// own. A stream has no socket: it reads what its parent's session tells, and writes to that session.
struct DownstreamConnection {
    /// What the connection is doing.
    enum Phase: UInt8 {
        /// Between requests, or before the first.
        case idle
        /// A part of a head is there.
        case receivingHead
        /// An exchange runs.
        case exchanging
        /// HTTP/2 is spoken: exchanges run on its streams.
        case multiplexing
        /// The last response still has bytes to write; then the connection ends.
        case flushing
        /// Our direction is ended; what the client still sends is thrown away, so that it gets its answer.
        case lingering
        /// Closed; the slot is freed at the end of the batch.
        case closed
    }

    /// What the timer is for.
    enum TimerPurpose: UInt8 {
        case none
        case handshake
        case keepalive
        case requestHead
        case requestContent
        case uploadAfterResponse
        case sending
        case lingering
        /// Between the two steps of a shutdown (HTTP/2).
        case shutdown
        /// Until content waits no longer for more of a window (HTTP/2).
        case held
    }

    var timer: TimerEntry
    let token: SlabToken
    let socket: Int32
    var phase = Phase.idle
    var state: SocketState = []
    var timerPurpose = TimerPurpose.none
    /// Whether the end of the connection must be a reset: only that shows a truncation.
    var endsByReset = false
    var decoder = HTTP1Decoder(.request)
    var inbound = Buffer()
    var outbound = Outbound()
    var exchange: UnsafeMutablePointer<ExchangeSlot>?
    /// The TLS session, from the client's first byte on.
    var tls: UnsafeMutablePointer<ClientTLS>?
    let listener: UnsafeMutablePointer<ListenerState>
    var peer: Peer
    /// The HTTP/2 session, and what belongs to it; a stream has its parent's.
    var http2: UnsafeMutablePointer<ClientHTTP2>?
    /// A stream's own, until it is closed.
    var stream: HTTP2StreamPointer?
    /// Content of a stream that was passed on, or thrown away, before the client was told that it may send as much again.
    var uncreditedBytes: UInt32 = 0
    /// The content that a stream's request has declared, in bytes.
    var declaredBytes: UInt64?
    /// Whether a stream that is let go had brought the request's end, which what waits in `inbound` comes before.
    var endsWithStream = false
    /// The trailer section of a stream's request while content before it waits, as it is written.
    var keptTrailers = Buffer()
    /// When the head's first byte came, or lingering began; milliseconds.
    var phaseStartMilliseconds: UInt64 = 0
    /// What the peer had not acknowledged when the send timer was looked at last.
    var unacknowledgedBytes: Int32 = 0

    init(
        token: SlabToken, socket: Int32, kind: UInt8, listener: UnsafeMutablePointer<ListenerState>, peer: Peer
    ) {
        self.token = token
        self.socket = socket
        self.listener = listener
        self.peer = peer
        if listener.pointee.tls != nil { state.insert(.isTLS) }
        if listener.pointee.socket.hasProxyHeaders { state.insert(.awaitsProxyHeader) }
        if listener.pointee.compiled.pointee.allowsHTTP2InClear, listener.pointee.tls == nil {
            state.insert(.mayBeHTTP2)
        }
        timer = TimerEntry(owner: ReadinessToken(kind: kind, token))
    }

    /// A stream of `parent`.
    init(token: SlabToken, kind: UInt8, streamOf parent: UnsafeMutablePointer<DownstreamConnection>) {
        self.token = token
        socket = -1
        listener = parent.pointee.listener
        peer = parent.pointee.peer
        tls = parent.pointee.tls
        http2 = parent.pointee.http2
        state = .isStream
        timer = TimerEntry(owner: ReadinessToken(kind: kind, token))
    }
}

/// A connection to a server; or one stream of a connection in HTTP/2, as `DownstreamConnection`.
struct UpstreamConnection {
    /// What the connection is doing.
    enum Phase: UInt8 {
        /// Not connected yet.
        case connecting
        /// Connected; the TLS handshake is under way.
        case handshaking
        /// An exchange has it.
        case busy
        /// HTTP/2 is spoken: exchanges have its streams.
        case multiplexing
        /// In the pool.
        case idle
        /// The response was complete before the server had taken the end of the request: it gets that still.
        case finishing
        /// Closed; the slot is freed at the end of the batch.
        case closed
    }

    var timer: TimerEntry
    var idleLink: IdleLink
    let token: SlabToken
    let socket: Int32
    var phase = Phase.connecting
    var state: SocketState = []
    /// Whether the last response's head allows another exchange.
    var isPersistent = false
    /// Whether the end of the connection must be a reset: so a tunnel passes one on.
    var endsByReset = false
    var decoder = HTTP1Decoder(.response)
    var inbound = Buffer()
    var outbound = Outbound()
    var exchange: UnsafeMutablePointer<ExchangeSlot>?
    /// Whose pool it belongs to; nil if it was dialled for a CONNECT.
    let server: UnsafeMutablePointer<ServerState>?
    let createdMilliseconds: UInt64
    /// The TLS session, if the server is spoken to by TLS.
    var tls: UnsafeMutablePointer<TLSSession>?
    /// `Keep-Alive: timeout=N` of the server; `.max` if it said nothing.
    var peerIdleSeconds: UInt32 = .max
    var exchangeCount: UInt32 = 0
    /// Bytes of the current request that the socket took.
    var sentBytes: UInt64 = 0
    /// The HTTP/2 session, and what belongs to it; a stream has its parent's.
    var http2: UnsafeMutablePointer<ServerHTTP2>?
    /// A stream's own, until it is closed.
    var stream: HTTP2StreamPointer?
    /// Content of a stream that was passed on before the server was told that it may send as much again.
    var uncreditedBytes: UInt32 = 0
    /// The trailer section of a stream's response while content before it waits, as it is written.
    var keptTrailers = Buffer()
    /// Whether a final head was written in this turn.
    var forwardedHead = false
    /// The content that a stream's response has declared, in bytes.
    var declaredBytes: UInt64?
    /// Whether the response was complete when its stream was closed.
    var endsWithStream = false

    /// A stream of `parent`.
    init(
        token: SlabToken, kind: UInt8, streamOf parent: UnsafeMutablePointer<UpstreamConnection>,
        nowMilliseconds: UInt64
    ) {
        self.init(
            token: token, socket: -1, kind: kind, server: parent.pointee.server, nowMilliseconds: nowMilliseconds)
        state = .isStream
        isPersistent = true
        http2 = parent.pointee.http2
    }

    init(
        token: SlabToken, socket: Int32, kind: UInt8, server: UnsafeMutablePointer<ServerState>?,
        nowMilliseconds: UInt64
    ) {
        self.token = token
        self.socket = socket
        self.server = server
        createdMilliseconds = nowMilliseconds
        timer = TimerEntry(owner: ReadinessToken(kind: kind, token))
        idleLink = IdleLink(owner: token)
    }
}

/// What must be remembered of a request beyond the turn in which its head was read: for the access log and for
/// variables in response fields. One block, and where in it things are.
struct RequestMemo {
    var block = Buffer()
    var method = ByteRange()
    var target = ByteRange()
    var authority = ByteRange()
    var requestID = ByteRange()
    var userAgent = ByteRange()
    var referer = ByteRange()
    var traceparent = ByteRange()

    func bytes(_ range: ByteRange) -> UnsafeBufferPointer<UInt8> {
        guard !range.isEmpty, let base = block.base else { return UnsafeBufferPointer(start: nil, count: 0) }
        return UnsafeBufferPointer(start: base + Int(range.start), count: Int(range.count))
    }
}

/// An exchange with what the runtime needs around the machine. Its slot is freed as soon as it is over.
struct ExchangeSlot {
    var timer: TimerEntry
    let token: SlabToken
    var machine: Exchange
    let downstream: UnsafeMutablePointer<DownstreamConnection>
    var upstream: UnsafeMutablePointer<UpstreamConnection>?
    let listener: UnsafePointer<CompiledListener>
    let route: UnsafePointer<CompiledRoute>?
    /// The worker's snapshot that `listener` and `route` belong to.
    let snapshot: UnsafeMutablePointer<SnapshotSlot>
    var upstreamState: UnsafeMutablePointer<UpstreamState>?
    /// The server that is tried, by its index in the upstream; -1 while none is.
    var serverIndex = -1
    /// Whether the balancer counts this exchange for that server.
    var isCounted = false
    var triedServers: UInt64 = 0
    /// Whether a permit of the server's `max_exchanges` is held.
    var holdsPermit = false
    var isQueued = false
    /// For a CONNECT that we answer.
    var dial: UnsafeMutablePointer<Dial>?
    /// The request as it was sent so far, for another try.
    var retained = Buffer()
    var memo = RequestMemo()
    let requestID: RequestID
    let method: Method
    /// What the client speaks.
    let version: HTTPVersion
    var isHTTP10: Bool { version == .http10 }
    /// `grpc-status` of the response; negative if there was none.
    var grpcStatus: Int8 = -1
    /// The connection in HTTP/2 that is waited for: it is being made, or its server has not named its settings.
    var awaited: UnsafeMutablePointer<UpstreamConnection>?
    /// Whether it waits for a stream of any of the server's connections.
    var awaitsStream = false
    /// How the request's content is framed upstream.
    let requestFraming: Framing
    /// How the response's content is framed downstream.
    var responseFraming = Framing.none
    /// Whether the end of the response was written.
    var responseEndIsWritten = false
    /// Whether the end of the request was written, with its trailers.
    var requestEndIsWritten = false
    var reusedUpstream = false
    let receivedWallMicroseconds: UInt64
    /// When the wait for a server is over; milliseconds.
    var waitDeadlineMilliseconds = TimerEntry.never
    /// When `request_timeout` is over; milliseconds.
    var totalDeadlineMilliseconds = TimerEntry.never
    /// Since when no content is wanted of the client, 0 while it is; and how long that was so far. Its rate counts
    /// without.
    var contentUnwantedSinceMilliseconds: UInt64 = 0
    var contentUnwantedMilliseconds: UInt64 = 0

    init(
        token: SlabToken, kind: UInt8, machine: Exchange, downstream: UnsafeMutablePointer<DownstreamConnection>,
        listener: UnsafePointer<CompiledListener>, route: UnsafePointer<CompiledRoute>?,
        snapshot: UnsafeMutablePointer<SnapshotSlot>,
        requestID: RequestID, head: Head, wallMicroseconds: UInt64
    ) {
        self.token = token
        self.machine = machine
        self.downstream = downstream
        self.listener = listener
        self.route = route
        self.snapshot = snapshot
        self.requestID = requestID
        method = head.storage.pointee.method
        version = HTTPVersion(head.storage.pointee.facts)
        requestFraming = head.storage.pointee.framing
        receivedWallMicroseconds = wallMicroseconds
        timer = TimerEntry(owner: ReadinessToken(kind: kind, token))
    }
}

// The wheel and the pool keep the places of what is embedded in a connection, so these are made from the connection's
// own place: a pointer that a call makes of `&connection.pointee.timer` is promised for that call alone.

extension UnsafeMutablePointer<DownstreamConnection> {
    var timer: UnsafeMutablePointer<TimerEntry> {
        let offset = MemoryLayout<DownstreamConnection>.offset(of: \.timer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: TimerEntry.self)
    }
}

extension UnsafeMutablePointer<UpstreamConnection> {
    var timer: UnsafeMutablePointer<TimerEntry> {
        let offset = MemoryLayout<UpstreamConnection>.offset(of: \.timer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: TimerEntry.self)
    }

    var idleLink: UnsafeMutablePointer<IdleLink> {
        let offset = MemoryLayout<UpstreamConnection>.offset(of: \.idleLink).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: IdleLink.self)
    }
}

extension UnsafeMutablePointer<ExchangeSlot> {
    var timer: UnsafeMutablePointer<TimerEntry> {
        let offset = MemoryLayout<ExchangeSlot>.offset(of: \.timer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: TimerEntry.self)
    }
}
