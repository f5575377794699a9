// Servers that are spoken to in HTTP/2. Exchanges share connections: each gets a stream (`Worker+StreamSeeking`), which is an
// `UpstreamConnection` without a socket.

import Bytes
import EventLoop
import HTTP2
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import TLS

/// What belongs to a server's HTTP/2 connection. Reached by pointer; lives as long as it.
struct ServerHTTP2 {
    /// Nil until the connection is made.
    var session: HTTP2Session?
    let connection: UpstreamPointer
    /// Exchanges that wait for it to be made, or to learn how many streams its server takes.
    var waiting: [SlabToken] = []
    /// Whether the server has said that. Before, it gets one request: it would refuse what is one too many.
    var settingsAreKnown = false
    /// Since when there is no stream, as far as the timer knows; milliseconds, 0 while there is one.
    var idleSinceMilliseconds: UInt64 = 0
    /// When something was read last; milliseconds.
    var readMilliseconds: UInt64 = 0
    /// When a PING was sent that is not answered; 0 if there is none.
    var pingMilliseconds: UInt64 = 0
    /// Since when content waits for more of a window; milliseconds, 0 if none does.
    var heldSinceMilliseconds: UInt64 = 0
    /// How long it may be without a stream; `.max` is for ever.
    let idleMillisecondsMax: UInt64
    /// How old it may be, and how many exchanges it may serve.
    let ageMillisecondsMax: UInt64
    let exchangesMax: UInt32
}

extension Worker {
    /// How long nothing may come from a server with streams before it is asked for a sign of life, and how long that may
    /// take.
    private static var silenceMilliseconds: UInt64 { 300_000 }
    private static var pingMilliseconds: UInt64 { 20_000 }

    // MARK: The beginning

    /// The connection is there: who waited for it goes on.
    func beginHTTP2(_ connection: UpstreamPointer) {
        guard let http2 = connection.pointee.http2 else { preconditionFailure("no server of HTTP/2") }
        if let tls = connection.pointee.tls, !tls.pointee.isHTTP2 {
            hot.pointee.tlsFailureText = "the server does not speak HTTP/2"
            connectingFailed(connection, .tlsFailed)
            hot.pointee.tlsFailureText = nil
            return
        }
        guard
            let session = HTTP2Session(
                .client, http2Engine, limits: HTTP2Session.Limits(), nowMilliseconds: nowMilliseconds)
        else {
            connectingFailed(connection, .outOfResources)
            return
        }
        http2.pointee.session = session
        session.setOwner(UnsafeMutableRawPointer(connection))
        http2.pointee.readMilliseconds = nowMilliseconds
        connection.pointee.phase = .multiplexing
        connection.pointee.server?.pointee.shared.connected()
        pool.charge(Self.http2SessionBytes)
        noteFrames(connection)
        serveFirst(of: connection, http2)
        updateTimer(connection)
    }

    /// The same, with the server's first frames, which came with the end of its handshake.
    func beginHTTP2(_ connection: UpstreamPointer, with bytes: UnsafeBufferPointer<UInt8>) {
        beginHTTP2(connection)
        guard connection.pointee.phase == .multiplexing, let session = connection.pointee.http2?.pointee.session
        else { return }
        consumeFrames(bytes, session, connection)
        pool.release(&connection.pointee.inbound)
    }

    /// A connection cannot be made: whoever it was for is told.
    func connectingFailed(_ connection: UpstreamPointer, _ cause: Failure) {
        guard let http2 = connection.pointee.http2 else {
            guard let exchange = connection.pointee.exchange else { preconditionFailure("a connection for nobody") }
            seekingFailed(exchange, cause)
            return
        }
        let waiting = takeWaiting(http2)
        connection.pointee.server?.pointee.shared.connectFailed(cause)
        closeUpstream(connection)
        for token in waiting {
            guard let exchange = exchanges.find(token), hasNothingToWaitFor(exchange) else { continue }
            seekingFailed(exchange, cause)
        }
    }

    // MARK: Frames in

    /// Whether frames are read now: a server that takes none of ours does not get more of its own answered. `sendFrames` goes
    /// on with it when they are out.
    private func wantsFrames(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.phase == .multiplexing, let session = connection.pointee.http2?.pointee.session
        else { return false }
        return session.pending.pointee.count < 2 * HTTP2Session.pendingBytesMax
    }

    func readFrames(_ connection: UpstreamPointer) {
        guard let http2 = connection.pointee.http2, let session = http2.pointee.session else { return }
        var reads = 0
        while connection.pointee.state.contains(.mayRead), wantsFrames(connection) {
            guard mayGoOn(&reads, connection.pointee.timer.owner, &connection.pointee.state) else { return }
            switch receive(connection) {
            case .bytes(let input, _):
                http2.pointee.readMilliseconds = nowMilliseconds
                http2.pointee.pingMilliseconds = 0
                connection.pointee.state.insert(.isProcessing)
                // Many small frames take as long as many reads.
                reads += consumeFrames(input, session, connection) * Self.readsPerRoundMax / Self.roundCostMax
                connection.pointee.state.remove(.isProcessing)
                pool.release(&connection.pointee.inbound)
                if connection.pointee.phase == .multiplexing {
                    noteFrames(connection)
                    updateTimer(connection)
                }
            case .nothing: break
            case .ended, .broken:
                connection.pointee.state.insert(.isBroken)
                closeUpstream(connection)
                return
            }
        }
    }

    /// - Returns: how many events there were.
    @discardableResult
    private func consumeFrames(
        _ input: UnsafeBufferPointer<UInt8>, _ session: HTTP2Session, _ connection: UpstreamPointer
    ) -> Int {
        guard let http2 = connection.pointee.http2 else { return 0 }
        var offset = 0
        var eventCount = 0
        while offset < input.count || session.isPaused, connection.pointee.phase == .multiplexing {
            let slice = UnsafeBufferPointer(rebasing: input[offset...])
            guard let count = session.receive(slice, nowMilliseconds: nowMilliseconds) else { break }
            var current: UpstreamPointer?
            pulling: while true {
                eventCount += 1
                let event = session.next(
                    into: head, limits: { self.responseLimits(of: $0) }, answering: { self.method(of: $0) })
                switch event {
                case .none: break pulling
                case .message(let stream, let message):
                    guard let owner = stream.pointee.owner?.assumingMemoryBound(to: UpstreamConnection.self) else {
                        continue
                    }
                    if let current, current != owner { responsePaused(current) }
                    responseMessage(message, slice, owner)
                    current = owner
                case .closed(let stream, let code):
                    if let current { responsePaused(current) }
                    current = nil
                    responseStreamClosed(stream, code)
                case .settingsReceived:
                    if let current { responsePaused(current) }
                    current = nil
                    settingsCame(connection, http2)
                case .goAwayReceived: serveLater(connection.pointee.server)
                case .pingAnswered: break
                }
            }
            if let current { responsePaused(current) }
            if count == 0, !session.isPaused { break }
            offset += count
        }
        serveLater(connection.pointee.server)
        return eventCount
    }

    private func exchange(of stream: HTTP2StreamPointer) -> ExchangePointer? {
        stream.pointee.owner?.assumingMemoryBound(to: UpstreamConnection.self).pointee.exchange
    }

    private func method(of stream: HTTP2StreamPointer) -> Method { exchange(of: stream)?.pointee.method ?? .get }

    private func responseLimits(of stream: HTTP2StreamPointer) -> HeadLimits {
        HeadLimits(
            headBytesMax: exchange(of: stream)?.pointee.route?.pointee.forwarding.responseHeadBytesMax ?? .max,
            fieldsMax: head.fieldsCapacity, targetBytesMax: 0)
    }

    // MARK: Streams in

    private func responseMessage(
        _ event: MessageEvent, _ input: UnsafeBufferPointer<UInt8>, _ connection: UpstreamPointer
    ) {
        guard connection.pointee.phase == .busy, let exchange = connection.pointee.exchange else {
            if case .content(_, let count) = event { connection.pointee.uncreditedBytes += UInt32(count) }
            return
        }
        exchange.pointee.machine.responseBytesReceived()
        if !exchange.pointee.retained.isEmpty { pool.release(&exchange.pointee.retained) }
        switch event {
        case .content(let start, let count):
            let content = UnsafeBufferPointer(rebasing: input[start..<(start + count)])
            if connection.pointee.inbound.isEmpty, wantsResponse(connection) {
                passResponse(content, connection, exchange)
            } else {
                pool.append(UnsafeRawBufferPointer(content), to: &connection.pointee.inbound)
            }
        case .trailers:
            guard let count = http2Engine.write({ HeadRewrite.writeTrailers(self.head, to: &$0) }) else {
                perform(exchange.pointee.machine.upstreamFailed(.responseRefused, fault: .trailers), for: exchange)
                return
            }
            exchange.pointee.grpcStatus = head.storage.pointee.grpcStatus
            pool.append(UnsafeRawBufferPointer(http2Engine.written(count)), to: &connection.pointee.keptTrailers)
        case .ended: endResponseIfRead(connection)
        case .needsInput, .interim, .head, .failed:
            // A second final head is one that breaks the rules; nghttp2 resets its stream.
            let hadHead = exchange.pointee.machine.hasAnswered
            if hadHead, event == .head || event == .interim { return }
            // A call that failed at once has all in its head (gRPC's trailers-only).
            if event == .head {
                exchange.pointee.grpcStatus = head.storage.pointee.grpcStatus
                let isSized = head.storage.pointee.framing == .length
                connection.pointee.declaredBytes = isSized ? head.storage.pointee.contentLength : nil
            }
            if relayHead(event, exchange, connection) {
                connection.pointee.forwardedHead = true
                if exchange.pointee.machine.isTunnel { openTunnel(exchange, UnsafeBufferPointer(start: nil, count: 0)) }
            }
        }
    }

    private func passResponse(
        _ content: UnsafeBufferPointer<UInt8>, _ connection: UpstreamPointer, _ exchange: ExchangePointer
    ) {
        connection.pointee.uncreditedBytes += UInt32(content.count)
        if exchange.pointee.machine.isTunnel {
            passDown(content, exchange)
            return
        }
        guard exchange.pointee.machine.responseSide == .relaying else { return }
        _ = exchange.pointee.machine.responseContentReceived(content.count, now: nowMicroseconds)
        // nghttp2 holds servers to what they declare, but not in answers to CONNECT.
        if let declared = connection.pointee.declaredBytes, exchange.pointee.machine.responseContentBytes > declared {
            perform(exchange.pointee.machine.upstreamFailed(.responseRefused, fault: .contentLength), for: exchange)
            return
        }
        forwardContent(content, exchange)
    }

    /// The server's end is told when everything before it was passed on.
    private func endResponseIfRead(_ connection: UpstreamPointer) {
        guard connection.pointee.phase == .busy, connection.pointee.inbound.isEmpty,
            let exchange = connection.pointee.exchange, exchange.pointee.machine.responseSide == .relaying,
            connection.pointee.stream?.pointee.receivingEnded ?? connection.pointee.endsWithStream
        else { return }
        if exchange.pointee.machine.isTunnel {
            if exchange.pointee.machine.downward == .open { responseInputEnded(connection) }
            return
        }
        if let declared = connection.pointee.declaredBytes, exchange.pointee.machine.responseContentBytes < declared {
            upstreamBroke(connection)
            return
        }
        writeKeptTrailers(of: connection, exchange)
        endResponse(exchange, connection, hasSurplus: false)
    }

    /// What was told of a stream is passed on for now.
    private func responsePaused(_ connection: UpstreamPointer) {
        if let exchange = connection.pointee.exchange {
            let downstream = exchange.pointee.downstream
            if downstream.pointee.phase != .closed { flush(downstream) } else { downstreamGather.clear() }
            if connection.pointee.forwardedHead { noteHold(downstream) }
        } else {
            downstreamGather.clear()
        }
        connection.pointee.forwardedHead = false
        creditResponse(connection)
        if connection.pointee.exchange?.pointee.machine.responseSide == .relaying { updateTimer(connection) }
    }

    /// The server may send as much again as was taken, unless the client holds that up.
    private func creditResponse(_ connection: UpstreamPointer) {
        guard connection.pointee.uncreditedBytes > 0, let stream = connection.pointee.stream,
            let http2 = connection.pointee.http2
        else { return }
        if let exchange = connection.pointee.exchange, !exchange.pointee.downstream.pointee.outbound.isEmpty { return }
        http2.pointee.session?.contentTaken(Int(connection.pointee.uncreditedBytes), of: stream)
        connection.pointee.uncreditedBytes = 0
        noteFrames(http2.pointee.connection)
    }

    /// Does whatever is possible now on a stream to a server.
    func resumeResponse(_ connection: UpstreamPointer) {
        guard connection.pointee.phase == .busy, let exchange = connection.pointee.exchange else { return }
        if !connection.pointee.inbound.isEmpty, wantsResponse(connection) {
            let content = connection.pointee.inbound.bytes
            connection.pointee.state.insert(.isProcessing)
            passResponse(content, connection, exchange)
            let downstream = exchange.pointee.downstream
            if downstream.pointee.phase != .closed { flush(downstream) } else { downstreamGather.clear() }
            connection.pointee.state.remove(.isProcessing)
            if connection.pointee.phase == .closed {
                pool.release(&connection.pointee.inbound)
                return
            }
            pool.consume(content.count, of: &connection.pointee.inbound)
        }
        endResponseIfRead(connection)
        responsePaused(connection)
        noticeEndOfStream(connection)
    }

    /// A response is passed on to its end, and its stream is gone: the rest of the request, or what the client still sends
    /// through a tunnel, has nowhere to go.
    private func noticeEndOfStream(_ connection: UpstreamPointer) {
        guard connection.pointee.phase == .busy, connection.pointee.stream == nil, connection.pointee.inbound.isEmpty,
            connection.pointee.state.contains(.isBroken), let exchange = connection.pointee.exchange
        else { return }
        let machine = exchange.pointee.machine
        if machine.isTunnel ? machine.downward != .draining : machine.responseSide == .ended {
            upstreamBroke(connection)
        }
    }

    /// The session tells that a stream is closed: complete, or broken off.
    func responseStreamClosed(_ stream: HTTP2StreamPointer, _ code: UInt32) {
        guard let connection = stream.pointee.owner?.assumingMemoryBound(to: UpstreamConnection.self) else { return }
        let responseIsThere = stream.pointee.receivingEnded
        let isMalformed = stream.pointee.isMalformed
        letStreamGo(connection, code)
        guard let exchange = connection.pointee.exchange, connection.pointee.phase == .busy else {
            if connection.pointee.phase == .finishing { closeUpstream(connection) }
            return
        }
        if responseIsThere {
            // A whole response is whole whatever became of its stream (RFC 9113 section 8.1): what waits of it still goes to
            // the client.
            connection.pointee.state.insert(.isBroken)
            release(&connection.pointee.outbound)
            schedule(connection)
            return
        }
        if code == HTTP2ErrorCode.refusedStream { connection.pointee.sentBytes = 0 }
        if isMalformed, !exchange.pointee.machine.hasAnswered {
            pool.release(&connection.pointee.inbound)
            perform(exchange.pointee.machine.upstreamFailed(.responseRefused, fault: .section), for: exchange)
            return
        }
        responseStreamBroke(connection)
    }

    /// The connection has its stream no more, and with that forgets its parent: what is here of a response may outlive it.
    private func letStreamGo(_ connection: UpstreamPointer, _ code: UInt32) {
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            let session = http2.pointee.session
        else { return }
        connection.pointee.stream = nil
        connection.pointee.endsWithStream = stream.pointee.receivingEnded
        connection.pointee.http2 = nil
        session.release(stream, code: code)
        noteFrames(http2.pointee.connection)
        serveLater(connection.pointee.server)
    }

    // MARK: Streams out

    /// The request's head, and what is kept of its content, goes out on a stream of its own.
    func sendRequestOnStream(_ exchange: ExchangePointer, _ connection: UpstreamPointer) {
        retainHead(exchange)
        let text = exchange.pointee.retained.bytes
        let isWhole =
            exchange.pointee.machine.requestSide == .ended && exchange.pointee.machine.tunnelRequest != .connect
        guard let session = connection.pointee.http2?.pointee.session,
            let count = http2Engine.write({ $0.append(text) })
        else { preconditionFailure("a head is larger than its bounds allow") }
        connection.pointee.stream = session.sendRequest(
            count, isWhole: isWhole, isTLS: connection.pointee.server?.pointee.tls != nil,
            owner: UnsafeMutableRawPointer(connection), waiting: connection.outboundBuffer)
        connection.pointee.sentBytes = connection.pointee.stream == nil ? 0 : UInt64(count)
        if let parent = connection.pointee.http2?.pointee.connection { noteFrames(parent) }
        updateTimer(connection)
        if connection.pointee.stream == nil { sendingBroke(connection) }
    }

    /// Sends what this turn has collected for a stream; what there is no window for waits.
    func flushRequestStream(_ connection: UpstreamPointer, isLast: Bool) {
        defer { upstreamGather.clear() }
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            let session = http2.pointee.session
        else { return }
        var left = upstreamGather.byteCount
        if left == 0, isLast { session.sendEnd(on: stream) }
        _ = upstreamGather.forEachPiece { piece in
            left -= piece.count
            session.sendContent(piece, isLast: isLast && left == 0, on: stream)
            return true
        }
        noteFrames(http2.pointee.connection)
        updateTimer(connection)
    }

    /// Ends a stream to a server by a trailer section.
    /// - Parameter text: as HTTP/1 writes it, with the last chunk before it.
    func writeTrailers(toStream connection: UpstreamPointer, _ body: (inout ByteWriter) -> Void) {
        flushRequestStream(connection, isLast: false)
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2,
            let count = http2Engine.write(body)
        else { return }
        http2.pointee.session?.sendTrailers(count, from: 3, on: stream)
        noteFrames(http2.pointee.connection)
    }

    /// The exchange of a stream is over: the server gets the rest of the request still.
    func streamReleased(_ connection: UpstreamPointer) {
        guard let stream = connection.pointee.stream, let session = connection.pointee.http2?.pointee.session else {
            closeUpstream(connection)
            return
        }
        if connection.pointee.outbound.isEmpty, !session.willTellEnd(of: stream) {
            closeUpstream(connection)
        } else {
            connection.pointee.phase = .finishing
            updateTimer(connection)
        }
    }

    /// What is left of closing a connection that is a stream.
    func closeResponseStream(_ connection: UpstreamPointer) {
        wheel.remove(connection.timer)
        if !connection.pointee.state.contains(.isProcessing) { pool.release(&connection.pointee.inbound) }
        pool.release(&connection.pointee.keptTrailers)
        letStreamGo(connection, HTTP2ErrorCode.cancel)
        release(&connection.pointee.outbound)
        buryLater(connection.pointee.timer.owner)
    }

    // MARK: Frames out

    /// The connection's frames are sent at the end of this turn.
    func noteFrames(_ connection: UpstreamPointer) {
        guard connection.pointee.phase == .multiplexing, !connection.pointee.state.contains(.hasFrames) else { return }
        connection.pointee.state.insert(.hasFrames)
        hot.pointee.framed.append(connection.pointee.timer.owner)
        hot.pointee.work.insert(.frames)
    }

    func sendFrames(of connection: UpstreamPointer) {
        guard connection.pointee.phase == .multiplexing, let http2 = connection.pointee.http2,
            let session = http2.pointee.session
        else { return }
        let outcome = sendFrames(
            of: session, connection.pointee.tls, to: connection.pointee.socket, &connection.pointee.outbound,
            &connection.pointee.state)
        switch outcome {
        case .broken:
            connection.pointee.state.insert(.isBroken)
            closeUpstream(connection)
            return
        case .more: noteFrames(connection)
        case .done: break
        }
        if connection.pointee.state.contains(.mayRead), wantsFrames(connection) {
            putOff(connection.pointee.timer.owner, &connection.pointee.state)
        }
        let nothingWaits = session.pending.pointee.isEmpty && connection.pointee.outbound.isEmpty
        if session.isOver, nothingWaits {
            closeUpstream(connection)
        } else {
            updateTimer(connection)
        }
    }

    /// The socket takes bytes again: first the ciphertext that waits.
    func framesMayLeave(_ connection: UpstreamPointer) {
        switch sendWaiting(
            to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        {
        case .all: noteFrames(connection)
        case .some: break
        case .broken:
            connection.pointee.state.insert(.isBroken)
            closeUpstream(connection)
        }
    }

    // MARK: The end

    /// Lets the session go, and breaks off the streams that there are.
    func endHTTP2(_ connection: UpstreamPointer) {
        guard let http2 = connection.pointee.http2 else { return }
        connection.pointee.http2 = nil
        if let server = connection.pointee.server {
            server.pointee.multiplexed.removeAll { $0 == connection }
            waitElsewhere(http2, server)
        }
        if let session = http2.pointee.session {
            session.forEachStream { stream in
                guard let owner = stream.pointee.owner?.assumingMemoryBound(to: UpstreamConnection.self) else { return }
                letStreamGo(owner, HTTP2ErrorCode.cancel)
                switch owner.pointee.phase {
                case .busy:
                    // A response that is all here is still passed on.
                    owner.pointee.state.insert(.isBroken)
                    schedule(owner)
                case .finishing: closeUpstream(owner)
                case .connecting, .handshaking, .multiplexing, .idle, .closed: break
                }
            }
            session.destroy()
            pool.discharge(Self.http2SessionBytes)
        }
        http2.deinitialize(count: 1)
        http2.deallocate()
    }

    /// A stream, or its connection, is gone, and the response was not over.
    func responseStreamBroke(_ connection: UpstreamPointer) {
        pool.release(&connection.pointee.inbound)
        upstreamBroke(connection)
    }

    /// What a connection waits for whose exchanges run on streams: its idle time, or a sign of life.
    func framesDeadline(_ connection: UpstreamPointer) -> UInt64 {
        guard let http2 = connection.pointee.http2, let session = http2.pointee.session else { return TimerEntry.never }
        if session.streamCount == 0 {
            if connection.pointee.server?.pointee.isRemoved ?? true { return nowMilliseconds }
            let limit = http2.pointee.idleMillisecondsMax
            if http2.pointee.idleSinceMilliseconds == 0 { http2.pointee.idleSinceMilliseconds = nowMilliseconds }
            return limit == .max ? TimerEntry.never : http2.pointee.idleSinceMilliseconds + limit
        }
        http2.pointee.idleSinceMilliseconds = 0
        let deadline =
            http2.pointee.pingMilliseconds != 0
            ? http2.pointee.pingMilliseconds + Self.pingMilliseconds
            : http2.pointee.readMilliseconds + Self.silenceMilliseconds
        let holdDeadline = Self.holdDeadline(session, &http2.pointee.heldSinceMilliseconds, nowMilliseconds)
        return min(deadline, holdDeadline ?? TimerEntry.never)
    }

    func framesTimerExpired(_ connection: UpstreamPointer) {
        guard let http2 = connection.pointee.http2, let session = http2.pointee.session else { return }
        if session.streamCount == 0 {
            session.shutDown()
            session.produce()
            noteFrames(connection)
            wheel.remove(connection.timer)
        } else if let deadline = Self.holdDeadline(session, &http2.pointee.heldSinceMilliseconds, nowMilliseconds),
            deadline <= nowMilliseconds
        {
            http2.pointee.heldSinceMilliseconds = 0
            session.sendRemnants()
            noteFrames(connection)
            updateTimer(connection)
        } else if http2.pointee.pingMilliseconds == 0 {
            http2.pointee.pingMilliseconds = nowMilliseconds
            session.ping()
            noteFrames(connection)
        } else {
            connection.pointee.state.insert(.isBroken)
            closeUpstream(connection)
        }
    }
}

extension UnsafeMutablePointer<UpstreamConnection> {
    /// The place of what waits in memory.
    var outboundBuffer: UnsafeMutablePointer<Buffer> {
        let outbound = MemoryLayout<UpstreamConnection>.offset(of: \.outbound).unsafelyUnwrapped
        let buffer = MemoryLayout<Outbound>.offset(of: \.buffer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + outbound + buffer).assumingMemoryBound(to: Buffer.self)
    }
}
