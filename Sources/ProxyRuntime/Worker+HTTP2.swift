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
    /// What the frames of this round have cost, in small frames of content: many of those take as long as many reads.
    var roundCost = 0
    /// Whether servers are not read because too many frames wait: see `takesHeads`.
    var holdsServers = false
    /// Final heads of servers that leave with the next frames.
    var headCount: UInt32 = 0
    /// Since when there is no stream, as far as the timer knows; milliseconds, 0 while there is one.
    var idleSinceMilliseconds: UInt64 = 0
    /// Since when a head is under way, or a shutdown is announced; milliseconds.
    var headSinceMilliseconds: UInt64 = 0
    var announcedMilliseconds: UInt64 = 0
    /// Since when the client takes nothing, and since when content waits for more of a window; milliseconds, 0 if neither.
    var blockedSinceMilliseconds: UInt64 = 0
    /// When was looked last what the client has not acknowledged.
    var lookedMilliseconds: UInt64 = 0
    var heldSinceMilliseconds: UInt64 = 0
}

extension Worker {
    /// Connections whose frames may wait for others in one turn.
    static var framedMax: Int { 32 }
    /// How often a connection with much to send has its turn in one round of the loop.
    private static var passesMax: Int { 8 }
    /// What one connection's frames may cost in one round, before it is others' turn, in small frames of content.
    static var roundCostMax: Int { 2048 }
    /// So many bytes of a request's head take as long as a small frame of content.
    private static var headBytesPerCost: Int { 64 }
    /// What nghttp2 takes of memory for a connection.
    static var http2SessionBytes: Int { 32 << 10 }
    /// What the kernel may have of a connection that it cannot send yet.
    private static var unsentBytesMax: Int32 { 128 << 10 }
    /// How often within `send_idle_timeout` is looked whether a client takes anything.
    private static var looksOfBlockedMax: UInt64 { 8 }
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
            to: ClientHTTP2(session: session, connection: connection))
        session.setOwner(UnsafeMutableRawPointer(connection))
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
    @inline(never)
    func wantsFrames(_ connection: DownstreamPointer) -> Bool {
        guard let http2 = connection.pointee.http2, http2.pointee.roundCost < Self.roundCostMax,
            !http2.pointee.inputIsOver
        else { return false }
        let session = http2.pointee.session
        return session.pending.pointee.count < 2 * HTTP2Session.pendingBytesMax && !session.isOver
    }

    /// Does whatever is possible now.
    @inline(never)
    func resumeMultiplexed(_ connection: DownstreamPointer) {
        connection.pointee.http2?.pointee.roundCost = 0
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
        var streamsTakeTurns = false
        while offset < input.count || session.isPaused, connection.pointee.phase == .multiplexing {
            let slice = UnsafeBufferPointer(rebasing: input[offset...])
            guard let count = session.receive(slice, nowMilliseconds: nowMilliseconds) else { break }
            // Events of one stream in a row are one write to its server. Of streams that take turns by a few bytes each is
            // written once, when all of them were read.
            var current: DownstreamPointer?
            pulling: while true {
                http2.pointee.roundCost += 1
                switch session.next(into: head, limits: { _ in limits }, answering: { _ in .get }) {
                case .none: break pulling
                case .message(let stream, let event):
                    let owner = stream.pointee.owner.map { $0.assumingMemoryBound(to: DownstreamConnection.self) }
                    if let previous = current, previous != owner {
                        streamPaused(previous)
                        current = nil
                        streamsTakeTurns = true
                    }
                    if let owner {
                        if streamsTakeTurns, current == nil, keepIfSmall(event, slice, owner) { continue }
                        streamMessage(event, slice, owner)
                        current = owner
                    } else {
                        http2.pointee.roundCost += head.storage.pointee.byteCount / Self.headBytesPerCost
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
        if http2.pointee.roundCost >= Self.roundCostMax {
            putOff(connection.pointee.timer.owner, &connection.pointee.state)
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
                let isWhole = owner.requestIsHere
                perform(exchange.pointee.machine.clientEnded(requestIsHere: isWhole), for: exchange)
            }
        }
        noteFrames(connection)
    }

    /// Content that waits though the connection takes frames waits for a window, and whoever has ended its direction opens none.
    private func breakStreamsWithoutWindow(_ http2: UnsafeMutablePointer<ClientHTTP2>) {
        http2.pointee.session.forEachStream { stream in
            guard let owner = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self),
                !owner.pointee.outbound.isEmpty
            else { return }
            downstreamBroke(owner)
        }
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
            case .gone(let owner, .server): updateTimer(owner.assumingMemoryBound(to: DownstreamConnection.self))
            case .gone(let owner, .client):
                let connection = owner.assumingMemoryBound(to: UpstreamConnection.self)
                updateTimer(connection)
                serveLater(connection.pointee.server)
            }
        }
    }

    private func sendFrames(of connection: DownstreamPointer) {
        guard connection.pointee.phase == .multiplexing, let http2 = connection.pointee.http2 else { return }
        let session = http2.pointee.session
        // Only a client that has taken something makes room.
        if connection.pointee.outbound.isEmpty, connection.pointee.state.contains(.mayWrite) {
            http2.pointee.blockedSinceMilliseconds = 0
        }
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
        // Reading may have stopped because too many frames waited; what has come since no readiness tells of again.
        if connection.pointee.state.contains(.mayRead), wantsFrames(connection) {
            putOff(connection.pointee.timer.owner, &connection.pointee.state)
        }
        if http2.pointee.holdsServers, session.pending.pointee.count < 2 * HTTP2Session.pendingBytesMax {
            readServers(of: http2)
        }
        if !connection.pointee.state.contains(.mayWrite) { noteUnacknowledged(connection) }
        if http2.pointee.headCount > 0 { noteHolds(of: connection, http2) }
        if let flood = session.flood, !http2.pointee.isFlooded {
            http2.pointee.isFlooded = true
            connection.pointee.state.insert(.isUnwelcome)
            metrics.count(flood)
        }
        let nothingWaits = session.pending.pointee.isEmpty && connection.pointee.outbound.isEmpty
        if nothingWaits, http2.pointee.inputIsOver { breakStreamsWithoutWindow(http2) }
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
            connection.pointee.http2?.pointee.blockedSinceMilliseconds = 0
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
            letStreamGo(owner, HTTP2ErrorCode.cancel)
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

    /// Until when content waits for more of a window; nil if none does.
    /// - Parameter since: since when, kept between calls.
    static func holdDeadline(_ session: HTTP2Session, _ since: inout UInt64, _ nowMilliseconds: UInt64) -> UInt64? {
        guard session.holdsContent else {
            since = 0
            return nil
        }
        if since == 0 { since = nowMilliseconds }
        return since + HTTP2Session.holdMilliseconds
    }

    /// Content has waited long enough for more of a window.
    func holdExpired(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        http2.pointee.heldSinceMilliseconds = 0
        http2.pointee.session.sendRemnants()
        noteFrames(connection)
        updateTimer(connection)
    }

    /// The socket tells of room only when a good part of the kernel's buffer is free, so what is unacknowledged decides; looked
    /// at now and then, since nothing tells when a byte of it was taken.
    func blockedTimerExpired(_ connection: DownstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        let before = connection.pointee.unacknowledgedBytes
        noteUnacknowledged(connection)
        http2.pointee.lookedMilliseconds = nowMilliseconds
        if connection.pointee.unacknowledgedBytes < before { http2.pointee.blockedSinceMilliseconds = nowMilliseconds }
        let limit = connection.pointee.listener.pointee.compiled.pointee.timers.sendIdleMilliseconds
        guard let limit, nowMilliseconds >= http2.pointee.blockedSinceMilliseconds + UInt64(limit) else {
            updateTimer(connection)
            return
        }
        // The kernel would try for long to deliver what nobody reads.
        connection.pointee.endsByReset = true
        closeDownstream(connection)
    }

    /// What a connection waits for whose exchanges run on streams.
    @inline(never)
    func framesTimer(
        _ connection: DownstreamPointer, _ timers: DownstreamTimers
    ) -> (DownstreamConnection.TimerPurpose, UInt64) {
        guard let http2 = connection.pointee.http2 else { return (.none, TimerEntry.never) }
        let session = http2.pointee.session
        let isBlocked =
            !connection.pointee.outbound.isEmpty
            || (!session.pending.pointee.isEmpty && !connection.pointee.state.contains(.mayWrite))
        if isBlocked {
            // What the client sends meanwhile, PING for one, is no progress.
            if http2.pointee.blockedSinceMilliseconds == 0 {
                http2.pointee.blockedSinceMilliseconds = nowMilliseconds
                http2.pointee.lookedMilliseconds = nowMilliseconds
            }
            guard let limit = timers.sendIdleMilliseconds else { return (.sending, TimerEntry.never) }
            let end = http2.pointee.blockedSinceMilliseconds + UInt64(limit)
            return (.sending, min(end, http2.pointee.lookedMilliseconds + UInt64(limit) / Self.looksOfBlockedMax + 1))
        }
        http2.pointee.blockedSinceMilliseconds = 0
        let (purpose, deadline) = unblockedFramesTimer(connection, http2, timers)
        guard let holdDeadline = Self.holdDeadline(session, &http2.pointee.heldSinceMilliseconds, nowMilliseconds),
            holdDeadline < deadline
        else { return (purpose, deadline) }
        return (.held, holdDeadline)
    }

    private func unblockedFramesTimer(
        _ connection: DownstreamPointer, _ http2: UnsafeMutablePointer<ClientHTTP2>, _ timers: DownstreamTimers
    ) -> (DownstreamConnection.TimerPurpose, UInt64) {
        let session = http2.pointee.session
        if session.isWithinHead, let limit = timers.requestHeadMilliseconds {
            return (.requestHead, max(http2.pointee.headSinceMilliseconds, 1) + UInt64(limit))
        }
        if http2.pointee.shutdown == .announced {
            return (.shutdown, http2.pointee.announcedMilliseconds + Self.shutdownMilliseconds)
        }
        guard session.streamCount == 0 else {
            http2.pointee.idleSinceMilliseconds = 0
            return (.none, TimerEntry.never)
        }
        if http2.pointee.idleSinceMilliseconds == 0 { http2.pointee.idleSinceMilliseconds = nowMilliseconds }
        if http2.pointee.shutdown == .none, let limit = timers.keepaliveMilliseconds {
            return (.keepalive, max(nowMilliseconds + 1, http2.pointee.idleSinceMilliseconds + UInt64(limit)))
        }
        return (.none, TimerEntry.never)
    }
}
