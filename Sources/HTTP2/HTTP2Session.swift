// One HTTP/2 connection, either role: bytes in, events of messages out, and the other way. Framing, HPACK, stream states
// and scheduling are nghttp2's, by the calls that do no I/O.
//
// In: `receive` gives nghttp2 a slice; its callbacks note what they see in the engine; `next` tells it, event by event, and
// fills the scratch with a head when one comes. Out: `send...` give nghttp2 a head, content or an end, `produce` appends
// frames to `pending`, as many as windows and the bound allow.
//
// Windows: the connection's is opened as content is received, so that no upload that stands still starves another; a
// stream's as its content is taken. That begins with 64 KiB and grows up to 1 MiB for streams whose content is taken, out
// of a budget of 4 MiB for the connection (RFC 9113 section 5.2).

import Bytes
import CNghttp2
import HTTPSemantics

/// A handle: copying it copies the reference. `destroy()` is called exactly once, when every stream was let go.
public struct HTTP2Session {
    /// Whose end of the connection it is.
    public enum Role: UInt8, Sendable {
        /// The peer asks.
        case server
        /// We ask.
        case client
    }

    /// Bounds of one session.
    public struct Limits: Sendable {
        /// The longest field section that is taken, in bytes of its text.
        public var sectionBytesMax: Int
        /// Streams that the peer may have open at once.
        public var streamsMax: UInt32

        /// Bounds.
        public init(sectionBytesMax: Int = .max, streamsMax: UInt32 = 100) {
            self.sectionBytesMax = min(sectionBytesMax, HTTP2Engine.sectionBytesMax - 4096)
            self.streamsMax = streamsMax
        }
    }

    /// A stream's window at first, in bytes.
    static let windowBytesMin: Int32 = 64 << 10
    /// The largest that it becomes.
    static let windowBytesMax: Int32 = 1 << 20
    /// What all windows of a connection may grow by.
    static let windowBudgetBytes = 4 << 20
    /// The connection's window.
    static let connectionWindowBytes: Int32 = 4 << 20
    /// What waits in `pending` before no more content is framed.
    public static let pendingBytesMax = 64 << 10

    struct Storage {
        var session: OpaquePointer?
        let engine: UnsafeMutablePointer<HTTP2Engine.Storage>
        let role: Role
        let limits: Limits
        /// Whose connection it is.
        var owner: UnsafeMutableRawPointer?
        var meter: FrameMeter
        var budget: FrameBudget
        /// Bytes at the front of what comes next that were looked at already: a pause has left them.
        var scannedBytes = 0
        var ledger = StreamLedger()
        var firstStream: HTTP2StreamPointer?
        var streamCount = 0
        var windowBudgetBytes = HTTP2Session.windowBudgetBytes
        /// The section that is under way, and whose it is.
        var section = Section()
        var hasSection = false
        var sectionStream: HTTP2StreamPointer?
        /// Bytes and lines of the section that were not kept, because it is too long.
        var surplusLines = 0
        /// Its text and its lines, while no call runs.
        var kept = Buffer()
        /// Whether it names a priority.
        var sectionPrioritizes = false
        /// The highest stream that the peer has begun.
        var newestRequest: Int32 = 0
        /// The PRIORITY_UPDATE that is under way, and what earlier ones said of streams that are still to come.
        var priorityUpdate = PriorityUpdate()
        var earlyUrgencies = EarlyUrgencies()
        /// The code with which the connection ends because of what a callback saw.
        var connectionError: UInt32?
        var pending = Buffer()
        /// The slice in hand.
        var input: UnsafePointer<UInt8>?
        var isReceiving = false
        /// nghttp2 stopped in the middle, since the engine had no room: it goes on without more bytes.
        var isPaused = false
        var isFailed = false
        /// What the peer has told of itself.
        var peerAllowsTunnels = false
        var goAwayIsReceived = false
        /// Streams that were begun by us.
        var begunCount = 0
        /// Streams whose content waits for more of a window than there is.
        var heldCount = 0
        /// Whether what little a window has room for is sent all the same.
        var sendsRemnants = false
    }

    let storage: UnsafeMutablePointer<Storage>

    // MARK: Making

    /// A session at the start of a connection; its first frames are in `pending` after the first `produce`.
    /// - Returns: nil if there is no memory.
    public init?(_ role: Role, _ engine: HTTP2Engine, limits: Limits, nowMilliseconds: UInt64) {
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                engine: engine.storage, role: role, limits: limits,
                meter: FrameMeter(prefaceBytes: role == .server ? 24 : 0, peerAsks: role == .server),
                budget: FrameBudget(nowMilliseconds: nowMilliseconds)))
        let result =
            role == .server
            ? nghttp2_session_server_new2(
                &storage.pointee.session, engine.storage.pointee.callbacks, storage,
                engine.storage.pointee.serverOptions)
            : nghttp2_session_client_new2(
                &storage.pointee.session, engine.storage.pointee.callbacks, storage,
                engine.storage.pointee.clientOptions)
        guard result == 0, submitSettings() else {
            destroy()
            return nil
        }
    }

    private func submitSettings() -> Bool {
        var entries: [nghttp2_settings_entry] = []
        func add(_ setting: nghttp2_settings_id, _ value: Int) {
            entries.append(nghttp2_settings_entry(settings_id: Int32(setting.rawValue), value: UInt32(value)))
        }
        add(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, Int(Self.windowBytesMin))
        add(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, storage.pointee.limits.sectionBytesMax)
        switch storage.pointee.role {
        case .server:
            add(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, Int(storage.pointee.limits.streamsMax))
            add(NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1)
            add(NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1)
        case .client:
            add(NGHTTP2_SETTINGS_ENABLE_PUSH, 0)
            add(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0)
        }
        return nghttp2_submit_settings(storage.pointee.session, 0, entries, entries.count) == 0
            && nghttp2_session_set_local_window_size(storage.pointee.session, 0, 0, Self.connectionWindowBytes) == 0
    }

    /// Frees the session, and streams that nobody has.
    public func destroy() {
        let engine = storage.pointee.engine
        while let stream = storage.pointee.firstStream {
            precondition(stream.pointee.owner == nil, "a session ends before its streams were let go")
            HTTP2Engine.free(stream, engine)
        }
        if let session = storage.pointee.session { nghttp2_session_del(session) }
        engine.pointee.pool.release(&storage.pointee.kept)
        engine.pointee.pool.release(&storage.pointee.pending)
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    // MARK: State

    /// Streams that nghttp2 or somebody here still has.
    public var streamCount: Int { storage.pointee.streamCount }
    /// Streams that were begun by us.
    public var begunCount: Int { storage.pointee.begunCount }
    /// Whether anybody still has a stream.
    public var hasOwnedStreams: Bool {
        var stream = storage.pointee.firstStream
        while let current = stream {
            if current.pointee.owner != nil { return true }
            stream = current.pointee.next
        }
        return false
    }
    /// Whether content waits for more of a window than there is. When it has waited for `holdMilliseconds`, what there is room
    /// for goes, by `sendRemnants`.
    public var holdsContent: Bool { storage.pointee.heldCount > 0 }
    /// See `holdsContent`.
    public static let holdMilliseconds: UInt64 = 20
    /// Whether a head is under way.
    public var isWithinHead: Bool { storage.pointee.hasSection }
    /// Whether `receive` has to be called again, also without bytes.
    public var isPaused: Bool { storage.pointee.isPaused }
    /// What the flood was made of that ends the connection; nil if there is none.
    public var flood: FloodKind? { storage.pointee.budget.exhaustedBy }
    /// Whether the connection has nothing more to say or to hear, once `pending` is sent.
    public var isOver: Bool {
        storage.pointee.isFailed
            || (nghttp2_session_want_read(storage.pointee.session) == 0
                && nghttp2_session_want_write(storage.pointee.session) == 0)
    }
    /// Frames that wait to be sent; who sends them consumes them.
    public var pending: UnsafeMutablePointer<Buffer> {
        let offset = MemoryLayout<Storage>.offset(of: \.pending).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(storage) + offset).assumingMemoryBound(to: Buffer.self)
    }
    /// Whether the peer takes extended CONNECT (RFC 8441).
    public var peerAllowsTunnels: Bool { storage.pointee.peerAllowsTunnels }
    /// Whether a request may be sent now: a client's session only.
    public var mayRequest: Bool { !isClosing && storage.pointee.streamCount < requestsMax }
    /// Whether no request can be sent any more, however few there are: a client's session only.
    public var isClosing: Bool {
        storage.pointee.isFailed || storage.pointee.goAwayIsReceived
            || nghttp2_session_check_request_allowed(storage.pointee.session) == 0
    }
    private static let requestsOfConnectionMax: UInt32 = 1000
    /// How many requests the server takes at once; what it said last, or 100 before it said anything. At most 1,000, however
    /// many it would take.
    public var requestsMax: Int {
        let streamsMax = nghttp2_session_get_remote_settings(
            storage.pointee.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
        return Int(min(streamsMax, Self.requestsOfConnectionMax))
    }

    /// Whose connection it is: notices name it.
    public func setOwner(_ owner: UnsafeMutableRawPointer) { storage.pointee.owner = owner }

    /// Calls `body` with each stream. It may let the stream go.
    public func forEachStream(_ body: (HTTP2StreamPointer) -> Void) {
        var next = storage.pointee.firstStream
        while let stream = next {
            next = stream.pointee.next
            body(stream)
        }
    }

    // MARK: Receiving

    /// Takes bytes, at most a slice of them; then `next` tells what is in them. The bytes stay where they are until it has.
    /// - Returns: how many were taken; nil if nothing can be read from this connection any more: send what is pending, and
    ///   end it.
    public func receive(_ bytes: UnsafeBufferPointer<UInt8>, nowMilliseconds: UInt64) -> Int? {
        let engine = storage.pointee.engine
        precondition(engine.pointee.pulledCount == engine.pointee.seen.count, "events of another call are left")
        guard !storage.pointee.isFailed else { return nil }
        engine.pointee.seen.removeAll(keepingCapacity: true)
        engine.pointee.pulledCount = 0
        engine.pointee.sections.removeAll(keepingCapacity: true)
        engine.pointee.textCount = 0
        engine.pointee.lineCount = 0
        let slice = UnsafeBufferPointer(rebasing: bytes.prefix(HTTP2Engine.sliceBytesMax))
        storage.pointee.budget.refill(nowMilliseconds: nowMilliseconds)
        let error = inspect(slice)
        if storage.pointee.budget.isExhausted { terminate(HTTP2ErrorCode.enhanceYourCalm) }
        if let error { terminate(error) }
        if storage.pointee.hasSection { restoreSection() }
        storage.pointee.input = slice.baseAddress
        storage.pointee.isReceiving = true
        storage.pointee.isPaused = false
        let count = nghttp2_session_mem_recv(storage.pointee.session, slice.baseAddress, slice.count)
        storage.pointee.isReceiving = false
        if storage.pointee.hasSection { keepSection() }
        guard count >= 0 else {
            fail(count)
            return slice.count
        }
        if let error = storage.pointee.connectionError { terminate(error) }
        storage.pointee.scannedBytes = slice.count - count
        return count
    }

    /// Looks at the headers of frames before nghttp2 gets them: what they cost, and whether they are on streams that they may
    /// not be on any more, of which nghttp2 keeps no memory.
    /// - Returns: the code of the error that ends the connection.
    private func inspect(_ slice: UnsafeBufferPointer<UInt8>) -> UInt32? {
        let fresh = UnsafeBufferPointer(rebasing: slice.dropFirst(storage.pointee.scannedBytes))
        let session = storage.pointee.session
        let storage = storage
        let isServer = storage.pointee.role == .server
        let newestRead = storage.pointee.newestRequest
        var error: UInt32?
        storage.pointee.meter.scan(fresh, charging: &storage.pointee.budget) { type, stream in
            guard isServer, error == nil else { return 0 }
            let isOpen = { nghttp2_session_get_stream_user_data(session, stream) != nil }
            if type == 0 {
                let verdict = storage.pointee.ledger.contentCame(stream, newestRead: newestRead, isOpen: isOpen)
                error = verdict.error
                return verdict.cost
            }
            error = storage.pointee.ledger.frameCame(type, stream, newestRead: newestRead, isOpen: isOpen)
            return 0
        }
        return error
    }

    /// nghttp2 reads no further, and says nothing by itself: the last word is ours. What was seen before is still told, and
    /// behind it that every stream is broken off: no end that was not reached is taken for one.
    private func fail(_ error: Int) {
        HTTP2Callbacks.abandonSection(storage)
        storage.pointee.isPaused = false
        storage.pointee.isReceiving = true
        breakStreams()
        storage.pointee.isReceiving = false
        let code: UInt32
        switch nghttp2_error(rawValue: Int32(error)) {
        case NGHTTP2_ERR_TOO_MANY_CONTINUATIONS:
            storage.pointee.budget.spend(.max / 2, .continuations)
            code = HTTP2ErrorCode.enhanceYourCalm
        case NGHTTP2_ERR_FLOODED:
            // Acknowledgements that the peer does not take.
            storage.pointee.budget.spend(.max / 2, .pings)
            code = HTTP2ErrorCode.enhanceYourCalm
        case NGHTTP2_ERR_BAD_CLIENT_MAGIC: code = HTTP2ErrorCode.protocolError
        default: code = HTTP2ErrorCode.internalError
        }
        let last = UInt32(bitPattern: nghttp2_session_get_last_proc_stream_id(storage.pointee.session))
        let words = [UInt64(8) << 40 | UInt64(7) << 32, UInt64(last) << 32 | UInt64(code)]
        var frame: [UInt8] = []
        for word in words { frame += withUnsafeBytes(of: word.bigEndian) { Array($0) } }
        // The number of the stream, four bytes, of which the first word has three.
        frame.insert(0, at: 8)
        frame.withUnsafeBytes { storage.pointee.engine.pointee.pool.append($0, to: &storage.pointee.pending) }
    }

    /// nghttp2 is of no use any more: it is not called again for any stream.
    private func breakStreams() {
        storage.pointee.isFailed = true
        forEachStream { stream in
            if !stream.pointee.isClosed {
                HTTP2Callbacks.streamClosed(stream, HTTP2ErrorCode.internalError, storage)
            }
        }
    }

    /// A section goes on in another call: its text is kept with its lines.
    private func keepSection() {
        let section = storage.pointee.section
        let engine = storage.pointee.engine
        let pool = engine.pointee.pool
        precondition(storage.pointee.kept.isEmpty, "another section is kept")
        let lines = UnsafeRawBufferPointer(
            start: engine.pointee.lines + section.firstLine,
            count: section.lineCount * MemoryLayout<HTTP2Engine.Line>.stride)
        pool.append(lines, to: &storage.pointee.kept)
        pool.append(
            UnsafeRawBufferPointer(start: engine.pointee.text + section.textStart, count: section.textBytes),
            to: &storage.pointee.kept)
    }

    private func restoreSection() {
        var section = storage.pointee.section
        let engine = storage.pointee.engine
        section.textStart = 0
        section.firstLine = 0
        storage.pointee.section = section
        engine.pointee.textCount = section.textBytes
        engine.pointee.lineCount = section.lineCount
        let linesBytes = section.lineCount * MemoryLayout<HTTP2Engine.Line>.stride
        precondition(storage.pointee.kept.count == linesBytes + section.textBytes, "what is kept is another section")
        guard let base = storage.pointee.kept.bytes.baseAddress else { return }
        UnsafeMutableRawPointer(engine.pointee.lines).copyMemory(from: base, byteCount: linesBytes)
        UnsafeMutableRawPointer(engine.pointee.text).copyMemory(
            from: base + linesBytes, byteCount: section.textBytes)
        engine.pointee.pool.release(&storage.pointee.kept)
    }

    /// The next event of what was received.
    /// - Parameters:
    ///   - head: where a head goes; valid until the next call.
    ///   - limits: bounds of heads and trailers.
    ///   - method: what a stream's response answers; a client's session only.
    /// - Returns: an event. What it says of a stream's end holds from now on, and not before.
    public func next(
        into head: Head, limits: (HTTP2StreamPointer) -> HeadLimits, answering method: (HTTP2StreamPointer) -> Method
    ) -> HTTP2Event {
        let engine = storage.pointee.engine
        while engine.pointee.pulledCount < engine.pointee.seen.count {
            let seen = engine.pointee.seen[engine.pointee.pulledCount]
            engine.pointee.pulledCount += 1
            switch seen.kind {
            case .settings: return .settingsReceived
            case .goAway: return .goAwayReceived
            case .pingAnswered: return .pingAnswered
            case .section, .content, .ended, .closed: break
            }
            guard let stream = seen.stream else { continue }
            if seen.kind == .closed {
                if HTTP2Engine.closeTold(stream, engine) { return .closed(stream, code: UInt32(seen.first)) }
                continue
            }
            if seen.kind == .ended { stream.pointee.state.insert(.receivingEnded) }
            let section = seen.kind == .section ? engine.pointee.sections[seen.first] : nil
            // Who has let it go hears no more of it. A request has nobody yet.
            if stream.pointee.owner == nil, section?.kind != .request {
                if seen.kind == .content { contentTaken(seen.count, of: stream) }
                continue
            }
            switch seen.kind {
            case .section:
                guard let section else { continue }
                return .message(stream, read(section, of: stream, into: head, limits(stream), method))
            case .content:
                return .message(stream, .content(start: seen.first, count: seen.count))
            case .ended: return .message(stream, .ended)
            case .closed, .settings, .goAway, .pingAnswered: continue
            }
        }
        return .none
    }

    private func read(
        _ section: Section, of stream: HTTP2StreamPointer, into head: Head, _ limits: HeadLimits,
        _ method: (HTTP2StreamPointer) -> Method
    ) -> MessageEvent {
        let engine = storage.pointee.engine
        var reader = SectionReader(section, engine, into: head, limits: limits)
        do throws(HeadFault) {
            switch section.kind {
            case .request:
                // A key is no secret, and only has to be another each time (RFC 6455 section 10.3).
                engine.pointee.keySeed.0 = engine.pointee.keySeed.0 &* 6_364_136_223_846_793_005 &+ 1
                engine.pointee.keySeed.1 ^= engine.pointee.keySeed.0 >> 7
                try reader.readRequest(webSocketKey: engine.pointee.keySeed)
                return .head
            case .response:
                try reader.readResponse(answering: method(stream))
                return head.storage.pointee.status < 200 ? .interim : .head
            case .trailers:
                try reader.readTrailers()
                return .trailers
            }
        } catch {
            return .failed(error)
        }
    }

    // MARK: Streams

    /// Somebody takes a stream.
    /// - Parameter waiting: where content waits that cannot be sent at once; stays where it is until the stream is let go.
    public func adopt(
        _ stream: HTTP2StreamPointer, owner: UnsafeMutableRawPointer, waiting: UnsafeMutablePointer<Buffer>
    ) {
        stream.pointee.owner = owner
        stream.pointee.waiting = waiting
    }

    /// Its owner lets a stream go. One that is still open is reset.
    /// - Parameter code: why.
    public func release(_ stream: HTTP2StreamPointer, code: UInt32) {
        stream.pointee.owner = nil
        stream.pointee.waiting = nil
        stream.pointee.direct = UnsafeBufferPointer(start: nil, count: 0)
        if stream.pointee.state.contains(.closeIsTold) {
            HTTP2Engine.free(stream, storage.pointee.engine)
        } else if !stream.pointee.isClosed {
            reset(stream, code: code)
        }
    }

    /// Resets a stream; that it is closed is told later.
    public func reset(_ stream: HTTP2StreamPointer, code: UInt32) {
        guard !stream.pointee.isClosed, !storage.pointee.isFailed else { return }
        nghttp2_submit_rst_stream(storage.pointee.session, 0, stream.pointee.id, code)
    }

    /// Content of a stream was taken: so much more may be sent.
    public func contentTaken(_ bytes: Int, of stream: HTTP2StreamPointer) {
        guard bytes > 0, !stream.pointee.isClosed else { return }
        nghttp2_session_consume_stream(storage.pointee.session, stream.pointee.id, bytes)
        stream.pointee.takenBytes &+= Int32(clamping: bytes)
        guard stream.pointee.takenBytes >= stream.pointee.windowBytes else { return }
        stream.pointee.takenBytes = 0
        let growth = stream.pointee.windowBytes
        guard growth * 2 <= Self.windowBytesMax, storage.pointee.windowBudgetBytes >= Int(growth) else { return }
        guard
            nghttp2_session_set_local_window_size(
                storage.pointee.session, 0, stream.pointee.id, growth * 2) == 0
        else { return }
        storage.pointee.windowBudgetBytes -= Int(growth)
        stream.pointee.windowBytes = growth * 2
    }

    /// A request's head was not taken.
    public func requestRefused() { storage.pointee.budget.requestRefused() }

    /// An exchange came to its end as it should.
    public func exchangeCompleted() { storage.pointee.budget.exchangeCompleted() }

    // MARK: Sending

    /// Sends an interim head that the engine has written.
    public func sendInterim(_ bytes: Int, on stream: HTTP2StreamPointer) {
        guard !stream.pointee.isClosed else { return }
        var writer = makeWriter(bytes)
        writer.readResponse(opensTunnel: false)
        nghttp2_submit_headers(
            storage.pointee.session, 0, stream.pointee.id, nil, storage.pointee.engine.pointee.pairs, writer.count, nil)
        produce()
    }

    /// Sends a response's head that the engine has written. What stands behind it is content.
    /// - Parameter isWhole: whether nothing follows: the head ends the message.
    public func sendHead(_ bytes: Int, isWhole: Bool, opensTunnel: Bool, on stream: HTTP2StreamPointer) {
        guard !stream.pointee.isClosed else { return }
        var writer = makeWriter(bytes)
        writer.readResponse(opensTunnel: opensTunnel)
        let contentBytes = bytes - writer.place
        if isWhole, contentBytes == 0 { stream.pointee.state.insert([.sendingEnded, .endIsSent]) }
        stream.pointee.direct = UnsafeBufferPointer(
            start: storage.pointee.engine.pointee.outgoing + writer.place, count: contentBytes)
        if isWhole { stream.pointee.state.insert(.sendingEnded) }
        let hasContent = !stream.pointee.state.contains(.endIsSent)
        withUnsafePointer(to: provider(for: stream)) { provider in
            _ = nghttp2_submit_response(
                storage.pointee.session, stream.pointee.id, storage.pointee.engine.pointee.pairs, writer.count,
                hasContent ? provider : nil)
        }
        produce()
        keepDirect(of: stream)
    }

    /// Sends a request's head that the engine has written, on a stream of its own. What stands behind it is content.
    /// - Parameters:
    ///   - isWhole: whether nothing follows.
    ///   - opensTunnel: whether its Upgrade is asked for by extended CONNECT.
    ///   - isTLS: whether the connection speaks TLS.
    ///   - owner: whose the stream is.
    ///   - waiting: as for `adopt`.
    /// - Returns: nil if there is no memory, or the server wants no more.
    public func sendRequest(
        _ bytes: Int, isWhole: Bool, opensTunnel: Bool = false, isTLS: Bool, owner: UnsafeMutableRawPointer,
        waiting: UnsafeMutablePointer<Buffer>
    ) -> HTTP2StreamPointer? {
        guard !storage.pointee.isFailed else { return nil }
        let engine = storage.pointee.engine
        let stream = addStream(id: 0)
        var writer = makeWriter(bytes)
        writer.readRequest(isTLS: isTLS, opensTunnel: opensTunnel)
        let contentBytes = bytes - writer.place
        if isWhole { stream.pointee.state.insert(.sendingEnded) }
        if isWhole, contentBytes == 0 { stream.pointee.state.insert(.endIsSent) }
        let hasContent = !stream.pointee.state.contains(.endIsSent)
        stream.pointee.direct = UnsafeBufferPointer(start: engine.pointee.outgoing + writer.place, count: contentBytes)
        let id = withUnsafePointer(to: provider(for: stream)) { provider in
            nghttp2_submit_request(
                storage.pointee.session, nil, engine.pointee.pairs, writer.count, hasContent ? provider : nil, stream)
        }
        guard id > 0 else {
            HTTP2Engine.free(stream, engine)
            return nil
        }
        stream.pointee.id = id
        adopt(stream, owner: owner, waiting: waiting)
        storage.pointee.begunCount += 1
        produce()
        keepDirect(of: stream)
        return stream
    }

    /// Sends content, or keeps what there is no window or no room for.
    /// - Parameter isLast: whether our direction ends with it.
    public func sendContent(_ content: UnsafeBufferPointer<UInt8>, isLast: Bool, on stream: HTTP2StreamPointer) {
        guard !stream.pointee.isClosed, !stream.pointee.state.contains(.sendingEnded) else { return }
        if isLast { stream.pointee.state.insert(.sendingEnded) }
        stream.pointee.direct = content
        resume(stream)
        produce()
        keepDirect(of: stream)
    }

    /// Ends our direction behind everything that waits.
    public func sendEnd(on stream: HTTP2StreamPointer) {
        sendContent(UnsafeBufferPointer(start: nil, count: 0), isLast: true, on: stream)
    }

    /// Asks to be told when our direction's end is sent, which may have to wait for a window, or for room.
    /// - Returns: whether it will be told, by a notice (`drained`); false if the end was not given, or is sent.
    public func willTellEnd(of stream: HTTP2StreamPointer) -> Bool {
        let state = stream.pointee.state
        guard state.contains(.sendingEnded), state.isDisjoint(with: [.endIsSent, .isClosed]) else { return false }
        stream.pointee.state.insert(.endIsAwaited)
        return true
    }

    /// Ends our direction by a trailer section, as lines of HTTP/1, that the engine has written.
    /// - Parameter start: where its lines begin.
    public func sendTrailers(_ bytes: Int, from start: Int, on stream: HTTP2StreamPointer) {
        guard !stream.pointee.isClosed, !stream.pointee.state.contains(.sendingEnded) else { return }
        let engine = storage.pointee.engine
        engine.pointee.pool.append(
            UnsafeRawBufferPointer(start: engine.pointee.outgoing + start, count: bytes - start),
            to: &stream.pointee.trailers)
        sendEnd(on: stream)
    }

    private func makeWriter(_ bytes: Int) -> SectionWriter {
        SectionWriter(storage.pointee.engine.pointee.outgoing, count: bytes, storage.pointee.engine.pointee.pairs)
    }

    private func provider(for stream: HTTP2StreamPointer) -> nghttp2_data_provider {
        var provider = nghttp2_data_provider()
        provider.source.ptr = UnsafeMutableRawPointer(stream)
        provider.read_callback = HTTP2Callbacks.readContent
        return provider
    }

    /// nghttp2 asks again for content.
    private func resume(_ stream: HTTP2StreamPointer) {
        guard stream.pointee.state.contains(.isDeferred) else { return }
        stream.pointee.state.remove(.isDeferred)
        nghttp2_session_resume_data(storage.pointee.session, stream.pointee.id)
    }

    /// Content in hand that could not be framed waits with its owner.
    private func keepDirect(of stream: HTTP2StreamPointer) {
        let rest = stream.pointee.direct
        stream.pointee.direct = UnsafeBufferPointer(start: nil, count: 0)
        guard !rest.isEmpty, !stream.pointee.isClosed, let waiting = stream.pointee.waiting else { return }
        storage.pointee.engine.pointee.pool.append(UnsafeRawBufferPointer(rest), to: &waiting.pointee)
        share(stream)
    }

    /// A stream with more than fits takes turns with others of its urgency: nobody waits for the whole of another's
    /// content (RFC 9218 section 10 leaves that to us).
    private func share(_ stream: HTTP2StreamPointer) {
        guard storage.pointee.role == .server, !stream.pointee.state.contains(.isIncremental) else { return }
        stream.pointee.state.insert(.isIncremental)
        Self.prioritize(stream, storage)
    }

    /// Tells nghttp2 of a stream's priority, which is ours to say: from now on the client's own word means nothing to it.
    static func prioritize(_ stream: HTTP2StreamPointer, _ storage: UnsafeMutablePointer<Storage>) {
        let isIncremental = stream.pointee.state.contains(.isIncremental)
        var priority = nghttp2_extpri(urgency: UInt32(stream.pointee.urgency), inc: isIncremental ? 1 : 0)
        nghttp2_session_change_extpri_stream_priority(storage.pointee.session, stream.pointee.id, &priority, 1)
    }

    /// Streams that are not closed.
    static func openCount(_ storage: UnsafeMutablePointer<Storage>) -> Int {
        var count = 0
        var stream = storage.pointee.firstStream
        while let current = stream {
            if !current.pointee.isClosed { count += 1 }
            stream = current.pointee.next
        }
        return count
    }

    /// Appends frames to `pending`, as many as windows and the bound allow. Frames that are no content have no bound here:
    /// nghttp2 and the budget of frames have.
    public func produce() {
        guard !storage.pointee.isFailed else { return }
        let pool = storage.pointee.engine.pointee.pool
        while true {
            var frame: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(storage.pointee.session, &frame)
            guard count > 0 else {
                if count < 0 { breakStreams() }
                break
            }
            pool.append(UnsafeRawBufferPointer(start: frame, count: count), to: &storage.pointee.pending)
        }
        if storage.pointee.budget.isExhausted { terminate(HTTP2ErrorCode.enhanceYourCalm) }
    }

    /// Sends what windows have room for, however little.
    public func sendRemnants() {
        storage.pointee.sendsRemnants = true
        HTTP2Callbacks.resumeHeld(storage.pointee.session, storage)
        produce()
        storage.pointee.sendsRemnants = false
    }

    // MARK: The connection

    /// Tells the peer that no new stream will be taken soon; those on their way still are (RFC 9113 section 6.8).
    public func announceShutdown() {
        guard storage.pointee.role == .server, !storage.pointee.isFailed else { return }
        nghttp2_submit_shutdown_notice(storage.pointee.session)
        nghttp2_submit_ping(storage.pointee.session, 0, nil)
    }

    /// Tells the peer that no stream is taken any more but those that were.
    public func shutDown() {
        guard !storage.pointee.isFailed else { return }
        let last =
            storage.pointee.role == .server ? nghttp2_session_get_last_proc_stream_id(storage.pointee.session) : 0
        storage.pointee.ledger.isClosed = true
        nghttp2_submit_goaway(storage.pointee.session, 0, last, HTTP2ErrorCode.noError, nil, 0)
    }

    /// Asks the peer for a sign of life.
    public func ping() {
        guard !storage.pointee.isFailed else { return }
        nghttp2_submit_ping(storage.pointee.session, 0, nil)
    }

    /// Ends the connection: GOAWAY with this code is the last that is sent, and nothing more is heard.
    public func terminate(_ code: UInt32) {
        guard !storage.pointee.isFailed else { return }
        nghttp2_session_terminate_session(storage.pointee.session, code)
    }

    // MARK: Streams come

    /// A stream in the engine's slab.
    func addStream(id: Int32) -> HTTP2StreamPointer { Self.addStream(id: id, storage) }

    static func addStream(id: Int32, _ storage: UnsafeMutablePointer<Storage>) -> HTTP2StreamPointer {
        let stream = storage.pointee.engine.pointee.streams.insert { token in
            HTTP2Stream(id: id, token: token, session: storage, windowBytes: windowBytesMin)
        }.place
        stream.pointee.next = storage.pointee.firstStream
        storage.pointee.firstStream?.pointee.previous = stream
        storage.pointee.firstStream = stream
        storage.pointee.streamCount += 1
        return stream
    }
}
