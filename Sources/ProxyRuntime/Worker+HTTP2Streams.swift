// Streams of clients that speak HTTP/2: where the bytes of each come from and where they go. See `Worker+HTTP2.swift` for the
// connections that they are on.

import Bytes
import EventLoop
import HTTP2
import HTTPSemantics
import ProxyCore

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
    /// Content that is not worth a write of its own.
    private static var smallContentBytes: Int { 1024 }

    // MARK: Streams in

    /// A request's head is in the scratch, or what stands in its place.
    func beginStream(
        _ stream: HTTP2StreamPointer, _ event: MessageEvent, _ parent: DownstreamPointer,
        _ http2: UnsafeMutablePointer<ClientHTTP2>
    ) -> DownstreamPointer {
        let connection = downstreams.insert { token in
            DownstreamConnection(token: token, kind: TokenKind.downstream, streamOf: parent)
        }.place
        connection.pointee.stream = stream
        http2.pointee.idleSinceMilliseconds = 0
        connection.pointee.listener.pointee.connectionCount += 1
        connection.pointee.phaseStartMilliseconds = nowMilliseconds
        http2.pointee.session.adopt(
            stream, owner: UnsafeMutableRawPointer(connection), waiting: connection.outboundBuffer)
        metrics.count(.http2Streams)
        if case .failed(let fault) = event {
            http2.pointee.session.requestRefused()
            refuseRequest(connection, .requestRefused, fault, headIsThere: true)
        } else {
            if head.storage.pointee.framing == .length {
                connection.pointee.declaredBytes = head.storage.pointee.contentLength
            }
            beginExchange(connection)
        }
        return connection
    }

    func streamMessage(
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

    /// A little content goes up with what follows it, when everything that there is was read.
    /// - Returns: whether it is that.
    func keepIfSmall(
        _ event: MessageEvent, _ input: UnsafeBufferPointer<UInt8>, _ connection: DownstreamPointer
    ) -> Bool {
        guard case .content(let start, let count) = event, count < Self.smallContentBytes,
            connection.pointee.exchange != nil
        else { return false }
        let content = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(input)[start..<(start + count)])
        pool.append(content, to: &connection.pointee.inbound)
        schedule(connection)
        return true
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
        guard exchange.pointee.requestFraming == .chunked, exchange.pointee.machine.requestSide == .receiving else {
            return
        }
        guard let count = http2Engine.write({ HeadRewrite.writeTrailers(self.head, to: &$0) }) else {
            perform(exchange.pointee.machine.requestFailed(.trailers), for: exchange)
            return
        }
        pool.append(
            UnsafeRawBufferPointer(http2Engine.written(count)), to: &exchange.pointee.downstream.pointee.keptTrailers)
    }

    /// The client's end is told when everything before it was passed on.
    private func endInputIfRead(_ connection: DownstreamPointer) {
        guard let exchange = connection.pointee.exchange, connection.pointee.inbound.isEmpty,
            connection.requestIsHere, wantsRequest(connection)
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
    func streamPaused(_ connection: DownstreamPointer) {
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
            // Under `finish` what is here of the request still goes up.
            guard connection.pointee.phase == .exchanging else { return }
        }
        // A tunnel that opens only now has no client that could end its direction.
        if connection.pointee.http2?.pointee.inputIsOver ?? false,
            connection.pointee.exchange?.pointee.machine.isTunnel ?? false, !connection.requestIsHere
        {
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
        endInputIfRead(connection)
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

    /// The connection has its stream no more. It may outlive its parent from now on (`on_client_close finish`, or the rest of
    /// a request), which nobody would tell it of: so it forgets its parent, and all that lives as long as that.
    func letStreamGo(_ connection: DownstreamPointer, _ code: UInt32) {
        guard let stream = connection.pointee.stream, let http2 = connection.pointee.http2 else { return }
        connection.pointee.stream = nil
        connection.pointee.endsWithStream = stream.pointee.receivingEnded
        connection.pointee.http2 = nil
        connection.pointee.tls = nil
        connection.pointee.peer = connection.pointee.peer.withoutTLS
        http2.pointee.session.release(stream, code: code)
        noteFrames(http2.pointee.connection)
    }

    // MARK: Streams out

    /// Whether the frames of a stream's connection leave room for heads, which have no window: while too much waits, no server
    /// is read for it. `sendFrames` goes on with them.
    @inline(never)
    func takesHeads(_ connection: DownstreamPointer) -> Bool {
        guard let http2 = connection.pointee.http2 else { return true }
        if http2.pointee.session.pending.pointee.count < 2 * HTTP2Session.pendingBytesMax { return true }
        http2.pointee.holdsServers = true
        return false
    }

    /// Interim heads of one exchange that are never too many, in bytes, and what may wait for a client before more of them are.
    private static var interimBytesMin: UInt32 { 16 << 10 }
    private static var headBytesWaitingMax: Int { 4 * HTTP2Session.pendingBytesMax }

    /// Whether a server has sent more interim heads than its client takes. One that is spoken to in HTTP/2 cannot be made to
    /// wait with them alone: others' streams are on its connection.
    @inline(never)
    func isFlooded(by exchange: ExchangePointer) -> Bool {
        guard let http2 = exchange.pointee.downstream.pointee.http2,
            exchange.pointee.upstream?.pointee.state.contains(.isStream) ?? false
        else { return false }
        return exchange.pointee.machine.interimBytes > Self.interimBytesMin
            && http2.pointee.session.pending.pointee.count > Self.headBytesWaitingMax
    }

    /// There is room for heads again: servers are read for all streams of a connection.
    func readServers(of http2: UnsafeMutablePointer<ClientHTTP2>) {
        http2.pointee.holdsServers = false
        http2.pointee.session.forEachStream { stream in
            guard let owner = stream.pointee.owner?.assumingMemoryBound(to: DownstreamConnection.self),
                let upstream = owner.pointee.exchange?.pointee.upstream
            else { return }
            updateTimer(upstream)
            schedule(upstream)
        }
    }

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
        // The end may have to wait though nothing else does: for a window, or for more urgent streams.
        guard connection.pointee.outbound.isEmpty, !http2.pointee.session.willTellEnd(of: stream) else {
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
}

extension UnsafeMutablePointer<DownstreamConnection> {
    /// Whether a stream has brought its request to the end, though some of it may wait.
    var requestIsHere: Bool {
        pointee.state.contains(.isStream) && (pointee.stream?.pointee.receivingEnded ?? pointee.endsWithStream)
    }

    /// The place of what waits in memory.
    var outboundBuffer: UnsafeMutablePointer<Buffer> {
        let outbound = MemoryLayout<DownstreamConnection>.offset(of: \.outbound).unsafelyUnwrapped
        let buffer = MemoryLayout<Outbound>.offset(of: \.buffer).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + outbound + buffer).assumingMemoryBound(to: Buffer.self)
    }
}
