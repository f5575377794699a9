// Clients that speak HTTP/2. Their connection has no exchange: each of its streams is a connection of its own to whoever
// serves it (`DownstreamConnection`), with a phase, a timer, buffers and an exchange. What stands here is what differs: where
// a stream's bytes come from, where they go, and when the connection's frames leave.
//
// Frames are made when there is something to send, and leave at the end of the turn, those of many streams in one call.
// Content that waits for a window waits in its stream's `outbound`, which stops reads of the server as everywhere.

import Bytes
import EventLoop
import HTTP2
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import TLS

/// What belongs to a client's HTTP/2 connection. Reached by pointer; lives as long as it.
struct ClientHTTP2 {
    /// How far a shutdown is (RFC 9113 section 6.8).
    enum Shutdown: UInt8 {
        case none
        /// The client was told to begin nothing more; what is on its way is still served.
        case announced
        /// Only streams that there are go on.
        case begun
    }

    let session: HTTP2Session
    let connection: DownstreamPointer
    var shutdown = Shutdown.none
    /// Whether the client has ended its direction.
    var inputIsOver = false
    /// Whether the connection ends because of a flood.
    var isFlooded = false
    /// Final heads of servers that leave with the next frames.
    var headCount: UInt32 = 0
    /// Since when there is no stream, a head is under way, or a shutdown is announced; milliseconds.
    var idleSinceMilliseconds: UInt64
    var headSinceMilliseconds: UInt64 = 0
    var announcedMilliseconds: UInt64 = 0
}

/// A head that is written for a client, and what follows it.
enum WrittenHead {
    /// Another head.
    case interim
    /// Content.
    case open
    /// Nothing but what is written with it.
    case whole
    /// A tunnel.
    case tunnel
}

extension Worker {
    /// Connections whose frames may wait for others in one turn.
    static var framedMax: Int { 32 }
    /// How often a connection with much to send has its turn in one round of the loop.
    private static var passesMax: Int { 8 }
    /// What nghttp2 takes of memory for a connection.
    static var http2SessionBytes: Int { 32 << 10 }
    /// What the kernel may have of a connection that it cannot send yet.
    private static var unsentBytesMax: Int32 { 128 << 10 }
    /// How long a client is given to learn of a shutdown before it begins.
    private static var shutdownMilliseconds: UInt64 { 1_000 }

    // MARK: The beginning

    /// HTTP/2 is spoken from here on.
    /// - Returns: whether there was memory for it.
    func beginHTTP2(_ connection: DownstreamPointer) -> Bool {
        let limits = connection.pointee.listener.pointee.compiled.pointee.headLimits
        guard !pool.isScarce,
            let session = HTTP2Session(
                .server, http2Engine, limits: HTTP2Session.Limits(sectionBytesMax: limits.headBytesMax),
                nowMilliseconds: nowMilliseconds)
        else { return false }
        let http2 = UnsafeMutablePointer<ClientHTTP2>.allocate(capacity: 1)
        http2.initialize(
            to: ClientHTTP2(session: session, connection: connection, idleSinceMilliseconds: nowMilliseconds))
        connection.pointee.http2 = http2
        connection.pointee.phase = .multiplexing
        connection.pointee.state.insert(.mayBeHTTP2)
        pool.charge(Self.http2SessionBytes)
        metrics.count(.http2Connections)
        Socket.setUnsentMax(connection.pointee.socket, bytes: Self.unsentBytesMax)
        if connection.pointee.listener.pointee.isEnding { announceShutdown(connection) }
        noteFrames(connection)
        updateTimer(connection)
        return true
    }

    /// Bytes of a client that may speak HTTP/2, or does.
    /// - Returns: whether they were taken; false if they are HTTP/1.
    @inline(never)
    func consumeAsHTTP2(
        _ input: UnsafeBufferPointer<UInt8>, from connection: DownstreamPointer, isScratch: Bool
    ) -> Bool {
        if connection.pointee.phase != .multiplexing {
            switch HTTP2Preface.look(at: input) {
            case .none:
                connection.pointee.state.remove(.mayBeHTTP2)
                return false
            case .part:
                keepRest(of: input, from: 0, connection, isScratch: isScratch)
                updateTimerAfterInput(connection)
                return true
            case .whole:
                guard beginHTTP2(connection) else {
                    closeDownstream(connection)
                    return true
                }
            }
        }
        connection.pointee.state.insert(.isProcessing)
        consumeFrames(input, from: connection)
        connection.pointee.state.remove(.isProcessing)
        pool.release(&connection.pointee.inbound)
        updateTimerAfterInput(connection)
        return true
    }

    // MARK: Frames in

    /// Whether frames are read now: a client that takes none of ours does not get more of its own answered.
    func wantsFrames(_ connection: DownstreamPointer) -> Bool {
        guard let session = connection.pointee.http2?.pointee.session else { return false }
        return session.pending.pointee.count < 2 * HTTP2Session.pendingBytesMax && !session.isOver
    }

    /// Does whatever is possible now.
    func resumeMultiplexed(_ connection: DownstreamPointer) {
        if connection.pointee.state.contains(.isBroken) {
            downstreamBroke(connection)
            return
        }
        if let http2 = connection.pointee.http2, connection.pointee.state.contains(.mayWrite),
            !http2.pointee.session.pending.pointee.isEmpty
        {
            noteFrames(connection)
        }
        readDownstream(connection)
    }

    private func consumeFrames(_ input: UnsafeBufferPointer<UInt8>, from connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        let session = http2.pointee.session
        let limits = connection.pointee.listener.pointee.compiled.pointee.headLimits
        var offset = 0
        while offset < input.count || session.isPaused, connection.pointee.phase == .multiplexing {
            let slice = UnsafeBufferPointer(rebasing: input[offset...])
            guard let count = session.receive(slice, nowMilliseconds: nowMilliseconds) else { break }
            // Events of one stream in a row are one write to its server.
            var current: DownstreamPointer?
            pulling: while true {
                switch session.next(into: head, limits: { _ in limits }, answering: { _ in .get }) {
                case .none: break pulling
                case .message(let stream, let event):
                    let owner = stream.pointee.owner.map { $0.assumingMemoryBound(to: DownstreamConnection.self) }
                    if let current, current != owner { streamPaused(current) }
                    if let owner {
                        streamMessage(event, slice, owner)
                        current = owner
                    } else {
                        current = beginStream(stream, event, connection, http2)
                    }
                case .closed(let stream, let code):
                    if let current { streamPaused(current) }
                    current = nil
                    streamClosed(stream, code)
                case .pingAnswered: if http2.pointee.shutdown == .announced { finishShutdown(connection) }
                case .settingsReceived, .goAwayReceived: break
                }
            }
            if let current { streamPaused(current) }
            if count == 0, !session.isPaused { break }
            offset += count
        }
        if session.isWithinHead {
            if http2.pointee.headSinceMilliseconds == 0 { http2.pointee.headSinceMilliseconds = nowMilliseconds }
        } else {
            http2.pointee.headSinceMilliseconds = 0
        }
        noteFrames(connection)
    }

    /// The client's direction is read to its end. Streams that are still served go on as far as their routes allow.
    func framesEnded(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        http2.pointee.inputIsOver = true
        http2.pointee.session.forEachStream { stream in
            guard let owner = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self) else { return }
            guard let exchange = owner.pointee.exchange else {
                // What waits for a window waits for ever.
                if owner.pointee.phase == .flushing, !owner.pointee.outbound.isEmpty { closeDownstream(owner) }
                return
            }
            if exchange.pointee.machine.isTunnel {
                downstreamBroke(owner)
            } else {
                perform(exchange.pointee.machine.clientEnded(), for: exchange)
            }
        }
        noteFrames(connection)
    }

    // MARK: Streams in

    /// A request's head is in the scratch, or what stands in its place.
    private func beginStream(
        _ stream: HTTP2StreamPointer, _ event: MessageEvent, _ parent: DownstreamPointer,
        _ http2: UnsafeMutablePointer<ClientHTTP2>
    ) -> DownstreamPointer {
        let connection = downstreams.insert { token in
            DownstreamConnection(token: token, kind: TokenKind.downstream, streamOf: parent)
        }.place
        connection.pointee.stream = stream
        connection.pointee.listener.pointee.connectionCount += 1
        connection.pointee.phaseStartMilliseconds = nowMilliseconds
        http2.pointee.session.adopt(
            stream, owner: UnsafeMutableRawPointer(connection), waiting: connection.outboundBuffer)
        metrics.count(.http2Streams)
        if case .failed(let fault) = event {
            refuseRequest(connection, .requestRefused, fault, headIsThere: true)
        } else {
            beginExchange(connection)
        }
        return connection
    }

    private func streamMessage(
        _ event: MessageEvent, _ input: UnsafeBufferPointer<UInt8>, _ connection: DownstreamPointer
    ) {
        guard let exchange = connection.pointee.exchange else {
            // Nobody wants it any more.
            if case .content(_, let count) = event { connection.pointee.uncreditedBytes += UInt32(count) }
            return
        }
        switch event {
        case .content(let start, let count):
            let content = UnsafeBufferPointer(rebasing: input[start..<(start + count)])
            if connection.pointee.inbound.isEmpty, wantsRequest(connection) {
                pass(content, of: connection)
            } else {
                pool.append(UnsafeRawBufferPointer(content), to: &connection.pointee.inbound)
            }
        case .trailers: keepTrailers(exchange)
        case .ended: endInputIfRead(connection)
        case .failed(let fault): perform(exchange.pointee.machine.requestFailed(fault), for: exchange)
        case .needsInput, .interim, .head: preconditionFailure("a stream has one request")
        }
    }

    /// Content, or a tunnel's bytes, goes up.
    private func pass(_ content: UnsafeBufferPointer<UInt8>, of connection: DownstreamPointer) {
        guard let exchange = connection.pointee.exchange else { return }
        connection.pointee.uncreditedBytes += UInt32(content.count)
        if exchange.pointee.machine.isTunnel {
            passUp(content, exchange)
            return
        }
        let actions = exchange.pointee.machine.requestContentReceived(content.count)
        if actions.upstream == .forwardContent {
            forwardRequestContent(content, exchange)
        } else {
            perform(actions, for: exchange)
        }
    }

    /// A trailer section is kept as it is written: content may wait before it.
    private func keepTrailers(_ exchange: ExchangePointer) {
        guard exchange.pointee.requestFraming == .chunked, exchange.pointee.machine.requestSide == .receiving,
            let count = http2Engine.write({ HeadRewrite.writeTrailers(self.head, to: &$0) })
        else { return }
        pool.append(
            UnsafeRawBufferPointer(http2Engine.written(count)), to: &exchange.pointee.downstream.pointee.keptTrailers)
    }

    /// The client's end is told when everything before it was passed on.
    private func endInputIfRead(_ connection: DownstreamPointer) {
        guard let exchange = connection.pointee.exchange, connection.pointee.inbound.isEmpty,
            connection.pointee.stream?.pointee.receivingEnded ?? true, wantsRequest(connection)
        else { return }
        if exchange.pointee.machine.isTunnel {
            let nothingWaits = exchange.pointee.upstream?.pointee.outbound.isEmpty ?? true
            perform(exchange.pointee.machine.tunnelInputEnded(.client, nothingWaits: nothingWaits), for: exchange)
            if let upstream = connection.pointee.exchange?.pointee.upstream { updateTimer(upstream) }
            return
        }
        forwardKeptTrailers(exchange)
        perform(exchange.pointee.machine.requestEnded(now: nowMicroseconds), for: exchange)
    }

    /// What was told of a stream is passed on for now.
    private func streamPaused(_ connection: DownstreamPointer) {
        if let upstream = connection.pointee.exchange?.pointee.upstream { flush(upstream) }
        credit(connection)
        if connection.pointee.phase == .exchanging { updateTimerAfterInput(connection) }
    }

    /// The client may send as much again as was taken, unless the server holds that up.
    private func credit(_ connection: DownstreamPointer) {
        guard connection.pointee.uncreditedBytes > 0, let stream = connection.pointee.stream,
            let http2 = connection.pointee.http2
        else { return }
        if let upstream = connection.pointee.exchange?.pointee.upstream, !upstream.pointee.outbound.isEmpty { return }
        http2.pointee.session.contentTaken(Int(connection.pointee.uncreditedBytes), of: stream)
        connection.pointee.uncreditedBytes = 0
        noteFrames(http2.pointee.connection)
    }

    /// Does whatever is possible now on a stream.
    func resumeStream(_ connection: DownstreamPointer) {
        switch connection.pointee.phase {
        case .exchanging: break
        case .flushing:
            streamFinished(connection)
            return
        case .idle, .receivingHead, .multiplexing, .lingering, .closed: return
        }
        if connection.pointee.state.contains(.isBroken) {
            downstreamBroke(connection)
            return
        }
        if !connection.pointee.inbound.isEmpty, wantsRequest(connection) {
            let content = connection.pointee.inbound.bytes
            connection.pointee.state.insert(.isProcessing)
            pass(content, of: connection)
            if let upstream = connection.pointee.exchange?.pointee.upstream { flush(upstream) }
            connection.pointee.state.remove(.isProcessing)
            if connection.pointee.phase == .closed {
                pool.release(&connection.pointee.inbound)
                return
            }
            pool.consume(content.count, of: &connection.pointee.inbound)
        }
        if connection.pointee.stream?.pointee.receivingEnded ?? false { endInputIfRead(connection) }
        streamPaused(connection)
    }

    /// The client's session tells that a stream is closed: complete, or broken off.
    func streamClosed(_ stream: HTTP2StreamPointer, _ code: UInt32) {
        guard let connection = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self),
            let http2 = connection.pointee.http2
        else { return }
        let isComplete = code == HTTP2ErrorCode.noError && stream.pointee.endIsSent
        let requestIsThere = stream.pointee.receivingEnded
        if isComplete { http2.pointee.session.exchangeCompleted() }
        letStreamGo(connection, code)
        if isComplete, requestIsThere, connection.pointee.exchange != nil {
            // The rest of the request still goes up.
            return
        }
        downstreamBroke(connection)
    }

    /// The connection has its stream no more.
    private func letStreamGo(_ connection: DownstreamPointer, _ code: UInt32) {
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2 else { return }
        connection.pointee.stream = nil
        http2.pointee.session.release(stream, code: code)
        if http2.pointee.session.streamCount == 0 { http2.pointee.idleSinceMilliseconds = nowMilliseconds }
        noteFrames(http2.pointee.connection)
    }

    // MARK: Streams out

    /// Writes a head for a stream.
    func writeHead(
        _ kind: WrittenHead, toStream connection: DownstreamPointer, _ body: (inout ByteWriter) -> Void
    ) {
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            !connection.pointee.state.contains(.isBroken)
        else { return }
        guard let count = http2Engine.write(body) else {
            preconditionFailure("a head is larger than its bounds allow")
        }
        let session = http2.pointee.session
        switch kind {
        case .interim: session.sendInterim(count, on: stream)
        case .open: session.sendHead(count, isWhole: false, opensTunnel: false, on: stream)
        case .whole: session.sendHead(count, isWhole: true, opensTunnel: false, on: stream)
        case .tunnel: session.sendHead(count, isWhole: false, opensTunnel: true, on: stream)
        }
        if !connection.pointee.outbound.isEmpty { clientBecameFull(connection) }
        noteFrames(http2.pointee.connection)
    }

    /// Ends a stream by a trailer section.
    func writeTrailers(toStream connection: DownstreamPointer, _ body: (inout ByteWriter) -> Void) {
        flush(connection)
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            !connection.pointee.state.contains(.isBroken)
        else { return }
        guard let count = http2Engine.write(body) else {
            preconditionFailure("a trailer section is larger than its bounds allow")
        }
        // Behind the last chunk, which HTTP/2 does not have.
        http2.pointee.session.sendTrailers(count, from: 3, on: stream)
        noteFrames(http2.pointee.connection)
    }

    /// Sends what this turn has collected for a stream; what there is no window for waits.
    /// - Parameter isLast: whether our direction ends with it.
    func flushStream(_ connection: DownstreamPointer, isLast: Bool) {
        defer { downstreamGather.clear() }
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            !connection.pointee.state.contains(.isBroken)
        else { return }
        let session = http2.pointee.session
        let wasEmpty = connection.pointee.outbound.isEmpty
        var left = downstreamGather.byteCount
        if left == 0, isLast { session.sendEnd(on: stream) }
        _ = downstreamGather.forEachPiece { piece in
            left -= piece.count
            session.sendContent(piece, isLast: isLast && left == 0, on: stream)
            return true
        }
        if wasEmpty, !connection.pointee.outbound.isEmpty { clientBecameFull(connection) }
        noteFrames(http2.pointee.connection)
    }

    /// The exchange of a stream is over: the stream ends when everything is sent.
    func streamFinished(_ connection: DownstreamPointer) {
        connection.pointee.phase = .flushing
        if !connection.pointee.state.contains(.isProcessing) {
            connection.pointee.uncreditedBytes += UInt32(connection.pointee.inbound.count)
            pool.release(&connection.pointee.inbound)
        }
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2 else {
            closeDownstream(connection)
            return
        }
        credit(connection)
        guard connection.pointee.outbound.isEmpty else {
            updateTimer(connection)
            return
        }
        if connection.pointee.endsByReset || !stream.pointee.endIsSent {
            closeDownstream(connection)
        } else if !stream.pointee.receivingEnded {
            // The answer is whole; the rest of the request need not come (RFC 9113 section 8.1).
            http2.pointee.session.reset(stream, code: HTTP2ErrorCode.noError)
            noteFrames(http2.pointee.connection)
        } else {
            updateTimer(connection)
        }
    }

    /// What is left of closing a connection that is a stream.
    func closeStream(_ connection: DownstreamPointer) {
        wheel.remove(connection.timer)
        if !connection.pointee.state.contains(.isProcessing) { pool.release(&connection.pointee.inbound) }
        pool.release(&connection.pointee.keptTrailers)
        let code = connection.pointee.endsByReset ? HTTP2ErrorCode.internalError : HTTP2ErrorCode.cancel
        letStreamGo(connection, code)
        release(&connection.pointee.outbound)
        buryLater(connection.pointee.timer.owner)
    }

    // MARK: Frames out

    /// The connection's frames are sent at the end of this turn.
    func noteFrames(_ connection: DownstreamPointer) {
        guard connection.pointee.phase == .multiplexing, !connection.pointee.state.contains(.hasFrames) else { return }
        connection.pointee.state.insert(.hasFrames)
        hot.pointee.framed.append(connection.pointee.timer.owner)
        hot.pointee.work.insert(.frames)
    }

    /// Sends the frames of this turn, and what becomes possible by that. What is still left then goes on in the next turn.
    @inline(never)
    func sendFrames() {
        for _ in 0..<Self.passesMax {
            swap(&hot.pointee.framed, &hot.pointee.framedNow)
            for index in 0..<hot.pointee.framedNow.count {
                let token = hot.pointee.framedNow[index]
                if token.kind == TokenKind.downstream {
                    guard let connection = downstreams.find(token.slabToken) else { continue }
                    connection.pointee.state.remove(.hasFrames)
                    sendFrames(of: connection)
                } else if let connection = upstreams.find(token.slabToken) {
                    connection.pointee.state.remove(.hasFrames)
                    sendFrames(of: connection)
                }
            }
            hot.pointee.framedNow.removeAll(keepingCapacity: true)
            takeNotices()
            if hot.pointee.work.contains(.agenda) { runAgenda() }
            if hot.pointee.framed.isEmpty {
                hot.pointee.work.remove(.frames)
                return
            }
        }
    }

    private func takeNotices() {
        while let notice = http2Engine.takeNotice() {
            switch notice {
            case .drained(let stream) where stream.pointee.role == .client:
                if let connection = stream.pointee.owner?.assumingMemoryBound(to: UpstreamConnection.self) {
                    outboundDrained(connection)
                }
            case .closed(let stream, let code) where stream.pointee.role == .client:
                responseStreamClosed(stream, code)
            case .drained(let stream):
                guard let connection = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self) else {
                    continue
                }
                if connection.pointee.phase == .flushing {
                    streamFinished(connection)
                } else {
                    outboundDrained(connection)
                }
            case .closed(let stream, let code): streamClosed(stream, code)
            }
        }
    }

    private func sendFrames(of connection: DownstreamPointer) {
        guard connection.pointee.phase == .multiplexing, let http2 = connection.pointee.http2 else { return }
        let session = http2.pointee.session
        let outcome = sendFrames(
            of: session, connection.pointee.tls?.session, to: connection.pointee.socket, &connection.pointee.outbound,
            &connection.pointee.state)
        switch outcome {
        case .broken:
            connection.pointee.state.insert(.isBroken)
            schedule(connection)
            return
        case .more: noteFrames(connection)
        case .done: break
        }
        if !connection.pointee.state.contains(.mayWrite) { noteUnacknowledged(connection) }
        if http2.pointee.headCount > 0 { noteHolds(of: connection, http2) }
        if let flood = session.flood, !http2.pointee.isFlooded {
            http2.pointee.isFlooded = true
            connection.pointee.state.insert(.isUnwelcome)
            metrics.count(flood)
        }
        let nothingWaits = session.pending.pointee.isEmpty && connection.pointee.outbound.isEmpty
        let isOver = session.isOver || (http2.pointee.inputIsOver && !session.hasOwnedStreams)
        if isOver, nothingWaits {
            endFrames(connection)
        } else {
            updateTimer(connection)
        }
    }

    /// What became of a connection's frames.
    enum FramesOutcome {
        /// All that can be sent was sent.
        case done
        /// There is more, for the next turn.
        case more
        /// The connection is broken.
        case broken
    }

    /// Makes frames and sends them, as far as the socket takes them and a round goes.
    func sendFrames(
        of session: HTTP2Session, _ tls: UnsafeMutablePointer<TLSSession>?, to socket: Int32,
        _ outbound: inout Outbound, _ state: inout SocketState
    ) -> FramesOutcome {
        let pending = session.pending
        session.produce()
        while !pending.pointee.isEmpty, outbound.isEmpty, state.contains(.mayWrite) {
            let isFull = pending.pointee.count >= HTTP2Session.pendingBytesMax
            if let tls {
                let isSent = sendTLS(pending.pointee.bytes, &tls.pointee, to: socket, &outbound, &state)
                pool.release(&pending.pointee)
                if !isSent { return .broken }
            } else if let base = pending.pointee.bytes.baseAddress {
                switch Socket.send(socket, base, count: pending.pointee.count) {
                case .bytes(let count):
                    pool.consume(count, of: &pending.pointee)
                    if !pending.pointee.isEmpty { state.remove(.mayWrite) }
                case .wouldBlock: state.remove(.mayWrite)
                case .ended: preconditionFailure("a write finds no end")
                case .failed(let number):
                    noteBreak(number, &state)
                    return .broken
                }
            }
            // What was sent may let a more urgent stream be read on before others are framed; and it is others' turn.
            if isFull { return .more }
            session.produce()
        }
        return .done
    }

    /// The socket takes bytes again: first the ciphertext that waits.
    func framesMayLeave(_ connection: DownstreamPointer) {
        switch sendWaiting(
            to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        {
        case .all: noteFrames(connection)
        case .some(let count):
            guard count > 0 else { return }
            noteUnacknowledged(connection)
            updateTimer(connection)
        case .broken: connection.pointee.state.insert(.isBroken)
        }
    }

    /// Heads of servers have left: see `noteHold`.
    private func noteHolds(of connection: DownstreamPointer, _ http2: UnsafeMutablePointer<ClientHTTP2>) {
        let listener = connection.pointee.listener
        let microseconds = Clock.monotonicMicroseconds() &- nowMicroseconds
        for _ in 0..<http2.pointee.headCount {
            listener.pointee.slot.pointee.metrics.headWasHeld(
                microseconds: microseconds, listener: listener.pointee.index)
        }
        http2.pointee.headCount = 0
    }

    // MARK: The end

    /// Nothing more is to be said or heard: the connection ends, and the client gets the last that was said.
    private func endFrames(_ connection: DownstreamPointer) {
        endHTTP2(connection)
        if connection.pointee.state.contains(.peerEnded) || connection.pointee.state.contains(.isBroken) {
            closeDownstream(connection)
        } else {
            beginClosing(connection)
        }
    }

    /// Lets the session go, and breaks off the streams that there are.
    func endHTTP2(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2, !connection.pointee.state.contains(.isStream) else { return }
        connection.pointee.phase = .flushing
        http2.pointee.session.forEachStream { stream in
            guard let owner = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self) else { return }
            owner.pointee.stream = nil
            http2.pointee.session.release(stream, code: HTTP2ErrorCode.cancel)
            // An exchange may outlive its client's connection (`on_client_close finish`).
            owner.pointee.http2 = nil
            owner.pointee.tls = nil
            owner.pointee.peer = owner.pointee.peer.withoutTLS
            if owner.pointee.phase != .closed { downstreamBroke(owner) }
        }
        connection.pointee.http2 = nil
        http2.pointee.session.destroy()
        http2.deinitialize(count: 1)
        http2.deallocate()
        pool.discharge(Self.http2SessionBytes)
    }

    /// Tells the client that the connection will end: first that, and when it must have heard, from which stream on nothing
    /// is served.
    func announceShutdown(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2, http2.pointee.shutdown == .none else { return }
        http2.pointee.shutdown = .announced
        http2.pointee.announcedMilliseconds = nowMilliseconds
        http2.pointee.session.announceShutdown()
        noteFrames(connection)
        updateTimer(connection)
    }

    /// The second step of a shutdown.
    func finishShutdown(_ connection: DownstreamPointer) {
        shutDown(connection)
        updateTimer(connection)
    }

    /// No stream is served any more but those that there are.
    func shutDown(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2, http2.pointee.shutdown != .begun else { return }
        http2.pointee.shutdown = .begun
        http2.pointee.session.shutDown()
        noteFrames(connection)
        if connection.pointee.timerPurpose == .keepalive { wheel.remove(connection.timer) }
    }

    /// A head did not come to its end in time: nothing else can be read from the connection until it does.
    func headTimedOut(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        metrics.count(.requestHeadTimedOut)
        http2.pointee.session.terminate(HTTP2ErrorCode.enhanceYourCalm)
        noteFrames(connection)
    }

    /// What a connection waits for whose exchanges run on streams.
    func framesTimer(
        _ connection: DownstreamPointer, _ timers: DownstreamTimers
    ) -> (DownstreamConnection.TimerPurpose, UInt64) {
        guard let http2 = connection.pointee.http2 else { return (.none, TimerEntry.never) }
        let session = http2.pointee.session
        let isBlocked =
            !connection.pointee.outbound.isEmpty
            || (!session.pending.pointee.isEmpty && !connection.pointee.state.contains(.mayWrite))
        if isBlocked { return (.sending, after(timers.sendIdleMilliseconds)) }
        if session.isWithinHead, let limit = timers.requestHeadMilliseconds {
            return (.requestHead, max(http2.pointee.headSinceMilliseconds, 1) + UInt64(limit))
        }
        if http2.pointee.shutdown == .announced {
            return (.shutdown, http2.pointee.announcedMilliseconds + Self.shutdownMilliseconds)
        }
        if session.streamCount == 0, http2.pointee.shutdown == .none, let limit = timers.keepaliveMilliseconds {
            return (.keepalive, max(nowMilliseconds + 1, http2.pointee.idleSinceMilliseconds + UInt64(limit)))
        }
        return (.none, TimerEntry.never)
    }
}

extension UnsafeMutablePointer<DownstreamConnection> {
    /// The place of what waits in memory.
    var outboundBuffer: UnsafeMutablePointer<Buffer> {
        let outbound = MemoryLayout<DownstreamConnection>.offset(of: \.outbound).unsafelyUnwrapped
        let buffer = MemoryLayout<Outbound>.offset(of: \.buffer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + outbound + buffer).assumingMemoryBound(to: Buffer.self)
    }
}
