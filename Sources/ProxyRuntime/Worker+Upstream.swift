// The server's side: requests out, bytes in, responses forwarded; and the pool of idle connections.

import Bytes
import EventLoop
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

extension Worker {
    /// What is kept of a request for another try, at most.
    static var retainedBytesMax: Int { 64 << 10 }
    /// How long a server may take nothing of a request that it has answered already.
    private static var finishingIdleMilliseconds: UInt64 { 60_000 }

    // MARK: Readiness

    func upstreamIsReady(_ connection: UpstreamPointer, _ readiness: Readiness) {
        if readiness.contains(.peerEnded) { connection.pointee.state.insert(.peerEnded) }
        if !readiness.isDisjoint(with: [.readable, .peerEnded, .failed, .hungUp]) {
            connection.pointee.state.insert(.mayRead)
        }
        switch connection.pointee.phase {
        case .connecting:
            finishConnecting(connection, readiness)
            // Who speaks first may have spoken already, and no other readiness will tell of it.
            if connection.pointee.phase == .handshaking { continueHandshake(connection) }
        case .multiplexing:
            if readiness.contains(.writable) {
                connection.pointee.state.insert(.mayWrite)
                framesMayLeave(connection)
            }
            readFrames(connection)
        case .handshaking:
            if readiness.contains(.writable) {
                connection.pointee.state.insert(.mayWrite)
                if !connection.pointee.outbound.isEmpty { drainOutbound(connection) }
            }
            if connection.pointee.phase == .handshaking { continueHandshake(connection) }
            if connection.pointee.phase == .busy { readUpstream(connection) }
            if connection.pointee.phase == .multiplexing { readFrames(connection) }
        case .idle:
            // Nobody asked: bytes, an end or an error make the connection useless (rule 10).
            if connection.pointee.state.contains(.mayRead), hasNews(connection) {
                closeUpstream(connection)
            } else if !connection.pointee.outbound.isEmpty {
                // TLS had to answer something and could not: no request is to wait behind that.
                closeUpstream(connection)
            } else {
                connection.pointee.state.insert(.mayWrite)
            }
        case .busy:
            if readiness.contains(.writable) {
                connection.pointee.state.insert(.mayWrite)
                if !connection.pointee.outbound.isEmpty { drainOutbound(connection) }
            }
            if readiness.contains(.failed), connection.pointee.phase == .busy, isReadToItsEnd(connection) {
                upstreamBroke(connection)
            } else {
                readUpstream(connection)
            }
        case .finishing:
            if !readiness.isDisjoint(with: [.failed, .hungUp]) {
                closeUpstream(connection)
            } else if readiness.contains(.writable) {
                connection.pointee.state.insert(.mayWrite)
                drainOutbound(connection)
            }
        case .closed: break
        }
    }

    private func finishConnecting(_ connection: UpstreamPointer, _ readiness: Readiness) {
        if !readiness.isDisjoint(with: [.failed, .hungUp]) {
            connectingFailed(connection, Failure(connectError: Socket.takeError(connection.pointee.socket)))
        } else if readiness.contains(.writable) {
            connection.pointee.state.insert(.mayWrite)
            connected(connection)
            if connection.pointee.phase == .busy { readUpstream(connection) }
            if connection.pointee.phase == .multiplexing { readFrames(connection) }
        }
    }

    /// Does whatever is possible now.
    func resumeUpstream(_ connection: UpstreamPointer) {
        if connection.pointee.phase == .multiplexing {
            readFrames(connection)
            return
        }
        guard connection.pointee.phase == .busy, let exchange = connection.pointee.exchange else { return }
        if connection.pointee.state.contains(.isStream) {
            if connection.pointee.state.contains(.isBroken), !connection.pointee.endsWithStream {
                responseStreamBroke(connection)
            } else {
                resumeResponse(connection)
            }
            return
        }
        if connection.pointee.state.contains(.isBroken), connection.pointee.sentBytes == 0,
            !exchange.pointee.machine.hasAnswered
        {
            let actions = exchange.pointee.machine.upstreamFailed(.closedBeforeResponse, nothingSent: true)
            perform(actions, for: exchange)
            return
        }
        readUpstream(connection)
        // Nothing can be written, and nothing came: there is no answer to wait for.
        if connection.pointee.phase == .busy, connection.pointee.state.contains(.isBroken),
            isReadToItsEnd(connection)
                || (!connection.pointee.state.contains(.mayRead) && wantsResponse(connection))
        {
            upstreamBroke(connection)
        }
    }

    /// Whether the server's direction of a tunnel has ended: no read will tell any more what becomes of it.
    private func isReadToItsEnd(_ connection: UpstreamPointer) -> Bool {
        guard let exchange = connection.pointee.exchange else { return false }
        return exchange.pointee.machine.isTunnel && exchange.pointee.machine.downward != .open
    }

    // MARK: Writing the request

    /// The connection is there and the request's head is at hand: in the scratch, if it was just parsed, or kept.
    func sendRequest(_ exchange: ExchangePointer) {
        guard let connection = exchange.pointee.upstream else { preconditionFailure("nowhere to send to") }
        if connection.pointee.state.contains(.isStream) {
            sendRequestOnStream(exchange, connection)
            if exchange.pointee.machine.requestSide != .ended,
                !exchange.pointee.downstream.pointee.state.contains(.isProcessing)
            {
                schedule(exchange.pointee.downstream)
            }
            return
        }
        connection.pointee.decoder.startNext(answering: exchange.pointee.method)
        connection.pointee.sentBytes = 0
        connection.pointee.exchangeCount += 1
        if exchange.pointee.retained.isEmpty {
            // The content that is already there goes out in the same call, so nothing is flushed here.
            writeHead(of: exchange)
            upstreamGather.copy(skipping: 0, to: &exchange.pointee.retained, of: pool)
        } else {
            collect(exchange.pointee.retained.bytes, for: connection)
            flush(connection)
        }
        if !exchange.pointee.reusedUpstream {
            // A server that breaks a fresh connection is not asked again, so nothing need be kept.
            exchange.pointee.machine.isReplayable = false
            pool.release(&exchange.pointee.retained)
        }
        if exchange.pointee.machine.requestSide != .ended {
            if !exchange.pointee.downstream.pointee.state.contains(.isProcessing) {
                schedule(exchange.pointee.downstream)
            }
        }
    }

    func forwardRequestContent(_ content: UnsafeBufferPointer<UInt8>, _ exchange: ExchangePointer) {
        guard let connection = exchange.pointee.upstream, !content.isEmpty else { return }
        let isChunked =
            exchange.pointee.requestFraming == .chunked && !connection.pointee.state.contains(.isStream)
        if isChunked {
            writeUpstream(connection, exchange) { ChunkedCoding.writeLine(size: content.count, to: &$0) }
        }
        collect(content, for: connection)
        retain(UnsafeRawBufferPointer(content), exchange)
        if isChunked { writeUpstream(connection, exchange) { ChunkedCoding.writeEnd(to: &$0) } }
    }

    /// Trailers of a request whose content had to wait.
    func forwardKeptTrailers(_ exchange: ExchangePointer) {
        let downstream = exchange.pointee.downstream
        let bytes = downstream.pointee.keptTrailers.bytes
        guard let connection = exchange.pointee.upstream, !bytes.isEmpty else { return }
        exchange.pointee.requestEndIsWritten = true
        if connection.pointee.state.contains(.isStream) {
            exchange.pointee.machine.isReplayable = false
            writeTrailers(toStream: connection) { $0.append(bytes) }
        } else {
            writeUpstream(connection, exchange) { $0.append(bytes) }
        }
        pool.release(&downstream.pointee.keptTrailers)
    }

    func forwardRequestTrailers(_ exchange: ExchangePointer) {
        guard let connection = exchange.pointee.upstream else { return }
        exchange.pointee.requestEndIsWritten = true
        if connection.pointee.state.contains(.isStream) {
            // They are not kept for another try.
            exchange.pointee.machine.isReplayable = false
            writeTrailers(toStream: connection) { HeadRewrite.writeTrailers(self.head, to: &$0) }
            return
        }
        writeUpstream(connection, exchange) { HeadRewrite.writeTrailers(self.head, to: &$0) }
    }

    func endRequest(_ exchange: ExchangePointer) {
        guard let connection = exchange.pointee.upstream else { return }
        if connection.pointee.state.contains(.isStream) {
            flushRequestStream(connection, isLast: true)
            exchange.pointee.requestEndIsWritten = true
            return
        }
        if !exchange.pointee.requestEndIsWritten, exchange.pointee.requestFraming == .chunked {
            writeUpstream(connection, exchange) { ChunkedCoding.writeLastChunk(to: &$0) }
        }
        exchange.pointee.requestEndIsWritten = true
        flush(connection)
        updateTimer(connection)
    }

    private func writeUpstream(
        _ connection: UpstreamPointer, _ exchange: ExchangePointer, _ body: (inout ByteWriter) -> Void
    ) {
        var written = UnsafeRawBufferPointer(start: nil, count: 0)
        func attempt() -> Bool {
            upstreamGather.write {
                body(&$0)
                written = $0.bytes
            }
        }
        if !attempt() {
            flush(connection)
            let fits = attempt()
            precondition(fits, "a trailer section is larger than its bounds allow")
        }
        retain(written, exchange)
    }

    /// Keeps what was sent for another try, as long as another try is possible and it is not too much.
    private func retain(_ bytes: UnsafeRawBufferPointer, _ exchange: ExchangePointer) {
        guard exchange.pointee.machine.isReplayable else { return }
        if exchange.pointee.retained.count + bytes.count > Self.retainedBytesMax {
            exchange.pointee.machine.isReplayable = false
            pool.release(&exchange.pointee.retained)
        } else {
            pool.append(bytes, to: &exchange.pointee.retained)
        }
    }

    /// Writes what this turn has collected for the server; what the socket does not take waits.
    func flush(_ connection: UpstreamPointer) {
        guard !upstreamGather.isEmpty else { return }
        defer { upstreamGather.clear() }
        let outcome: WriteOutcome
        if connection.pointee.state.isDisjoint(with: [.isStream, .isBroken, .isTLS]) {
            outcome = send(
                upstreamGather, to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        } else if connection.pointee.state.contains(.isStream) {
            flushRequestStream(connection, isLast: false)
            return
        } else {
            guard !connection.pointee.state.contains(.isBroken) else { return }
            outcome = sendTLS(connection)
        }
        switch outcome {
        case .all(let count), .some(let count):
            connection.pointee.sentBytes += UInt64(count)
            updateTimer(connection)
        case .broken: sendingBroke(connection)
        }
    }

    /// The socket takes bytes again.
    private func drainOutbound(_ connection: UpstreamPointer) {
        switch sendWaiting(
            to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        {
        case .all(let count): connection.pointee.sentBytes += UInt64(count)
        case .some(let count):
            connection.pointee.sentBytes += UInt64(count)
            if count > 0 { updateTimer(connection) }
            return
        case .broken:
            if connection.pointee.phase == .finishing { closeUpstream(connection) } else { sendingBroke(connection) }
            return
        }
        outboundDrained(connection)
    }

    /// Everything that waited for the server was taken.
    func outboundDrained(_ connection: UpstreamPointer) {
        if connection.pointee.phase == .finishing {
            closeUpstream(connection)
            return
        }
        updateTimer(connection)
        if let exchange = connection.pointee.exchange, exchange.pointee.machine.isTunnel {
            perform(exchange.pointee.machine.tunnelDelivered(to: .server), for: exchange)
        }
        // Drained: the client may be read again.
        if let exchange = connection.pointee.exchange { schedule(exchange.pointee.downstream) }
    }

    /// The server takes nothing more. It may have answered before: that is read first.
    func sendingBroke(_ connection: UpstreamPointer) {
        connection.pointee.state.insert([.isBroken, .mayRead])
        release(&connection.pointee.outbound)
        schedule(connection)
    }

    // MARK: Reading the response

    /// Whether bytes of the server are wanted now: backpressure is this answer.
    func wantsResponse(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.phase == .busy, let exchange = connection.pointee.exchange else { return false }
        if exchange.pointee.machine.isTunnel, exchange.pointee.machine.downward != .open { return false }
        let downstream = exchange.pointee.downstream
        guard downstream.pointee.outbound.isEmpty else { return false }
        return !downstream.pointee.state.contains(.isStream) || takesHeads(downstream)
    }

    private func readUpstream(_ connection: UpstreamPointer) {
        var reads = 0
        while connection.pointee.state.contains(.mayRead), wantsResponse(connection) {
            guard mayGoOn(&reads, connection.pointee.timer.owner, &connection.pointee.state) else { return }
            if connection.pointee.state.contains(.splices), connection.pointee.inbound.isEmpty {
                guard spliceResponse(connection, &reads) else { return }
                continue
            }
            switch receive(connection) {
            case .bytes(let input, let isScratch): consume(input, from: connection, isScratch: isScratch)
            case .nothing: break
            case .ended:
                responseInputEnded(connection)
                return
            case .broken:
                upstreamBroke(connection)
                return
            }
        }
    }

    private func consume(
        _ input: UnsafeBufferPointer<UInt8>, from connection: UpstreamPointer, isScratch: Bool
    ) {
        guard let first = connection.pointee.exchange else { return }
        if first.pointee.machine.isTunnel {
            passDown(input, first)
            if !isScratch { pool.consume(input.count, of: &connection.pointee.inbound) }
            return
        }
        let downstream = first.pointee.downstream
        first.pointee.machine.responseBytesReceived()
        if !first.pointee.retained.isEmpty { pool.release(&first.pointee.retained) }
        guard let route = first.pointee.route else { preconditionFailure("no route") }
        let limits = HeadLimits(
            headBytesMax: route.pointee.forwarding.responseHeadBytesMax, fieldsMax: head.fieldsCapacity,
            targetBytesMax: 0)
        var offset = 0
        var forwardedHead = false
        connection.pointee.state.insert(.isProcessing)
        decoding: while connection.pointee.phase == .busy, let exchange = connection.pointee.exchange,
            exchange == first
        {
            let event = connection.pointee.decoder.next(input, from: &offset, into: head, limits: limits)
            switch event {
            case .needsInput: break decoding
            case .interim, .failed: _ = relayHead(event, exchange, connection)
            case .head:
                forwardedHead = relayHead(event, exchange, connection)
                if connection.pointee.exchange == first, first.pointee.machine.isTunnel {
                    openTunnel(first, UnsafeBufferPointer(rebasing: input[offset...]))
                    offset = input.count
                    break decoding
                }
            case .content(let start, let count):
                _ = exchange.pointee.machine.responseContentReceived(count, now: nowMicroseconds)
                forwardContent(UnsafeBufferPointer(rebasing: input[start..<(start + count)]), exchange)
                if connection.pointee.decoder.endedWithContent() {
                    endResponse(exchange, connection, hasSurplus: offset < input.count)
                } else if offset == input.count {
                    // Where bytes of this read are left, it is not the content that goes on.
                    noteBulk(of: connection, exchange, lastBytes: count)
                }
            case .trailers:
                if exchange.pointee.responseFraming == .chunked || downstream.pointee.state.contains(.isStream) {
                    forwardTrailers(exchange)
                }
            case .ended:
                endResponse(exchange, connection, hasSurplus: offset < input.count)
            }
        }
        if downstream.pointee.phase != .closed { flush(downstream) } else { downstreamGather.clear() }
        if forwardedHead { noteHold(downstream) }
        connection.pointee.state.remove(.isProcessing)
        if !isScratch || offset < input.count { keepRest(of: input, from: offset, connection, isScratch: isScratch) }
        // Before the final head only an interim one is progress: a head that trickles in is not.
        if let exchange = connection.pointee.exchange, exchange.pointee.machine.responseSide == .relaying {
            updateTimer(connection)
        }
    }

    private func keepRest(
        of input: UnsafeBufferPointer<UInt8>, from offset: Int, _ connection: UpstreamPointer, isScratch: Bool
    ) {
        guard connection.pointee.phase == .busy else {
            // Pooled connections have no rest: a surplus has closed them.
            pool.release(&connection.pointee.inbound)
            return
        }
        if connection.pointee.decoder.isEnded, !(connection.pointee.exchange?.pointee.machine.isTunnel ?? false) {
            // The response is over and the request is not: what still comes belongs to nobody.
            if offset < input.count { connection.pointee.isPersistent = false }
            pool.release(&connection.pointee.inbound)
        } else {
            keep(input, from: offset, isScratch: isScratch, in: &connection.pointee.inbound)
        }
    }

    /// - Returns: whether a final head was forwarded.
    @inline(__always)
    func relayHead(_ event: MessageEvent, _ exchange: ExchangePointer, _ connection: UpstreamPointer) -> Bool {
        switch event {
        case .interim: forwardInterim(exchange)
        case .head: return forwardHead(exchange, connection)
        case .failed(let fault):
            let cause: Failure =
                fault == .headTooLong || fault == .tooManyFields ? .responseHeadTooLong : .responseRefused
            perform(exchange.pointee.machine.upstreamFailed(cause, fault: fault), for: exchange)
        case .needsInput, .content, .trailers, .ended: preconditionFailure("no head")
        }
        return false
    }

    /// Trailers of a response from a server of HTTP/2, when all content before them was passed on.
    func writeKeptTrailers(of connection: UpstreamPointer, _ exchange: ExchangePointer) {
        let downstream = exchange.pointee.downstream
        let bytes = connection.pointee.keptTrailers.bytes
        let isToStream = downstream.pointee.state.contains(.isStream)
        guard !bytes.isEmpty, isToStream || exchange.pointee.responseFraming == .chunked else { return }
        exchange.pointee.responseEndIsWritten = true
        if isToStream {
            writeTrailers(toStream: downstream) { $0.append(bytes) }
        } else {
            write(to: downstream) { $0.append(bytes) }
        }
        pool.release(&connection.pointee.keptTrailers)
    }

    private func forwardTrailers(_ exchange: ExchangePointer) {
        let downstream = exchange.pointee.downstream
        exchange.pointee.responseEndIsWritten = true
        exchange.pointee.grpcStatus = head.storage.pointee.grpcStatus
        if downstream.pointee.state.contains(.isStream) {
            writeTrailers(toStream: downstream) { HeadRewrite.writeTrailers(self.head, to: &$0) }
        } else {
            write(to: downstream) { HeadRewrite.writeTrailers(self.head, to: &$0) }
        }
    }

    private func forwardInterim(_ exchange: ExchangePointer) {
        let storage = head.storage
        if let connection = exchange.pointee.upstream { updateTimer(connection) }
        let actions = exchange.pointee.machine.interimReceived(
            status: storage.pointee.status, bytes: storage.pointee.byteCount,
            isToHTTP2: exchange.pointee.version == .http2, now: nowMicroseconds)
        guard actions.downstream == .forwardInterim else {
            perform(actions, for: exchange)
            return
        }
        if exchange.pointee.downstream.pointee.state.contains(.isStream), isFlooded(by: exchange) {
            perform(exchange.pointee.machine.upstreamFailed(.tooManyInterim), for: exchange)
            return
        }
        let rewrite = HeadRewrite(head, values: nil, via: exchange.pointee.listener.pointee.via)
        writeHead(.interim, to: exchange.pointee.downstream) { rewrite.writeInterim(to: &$0) }
        // A 100 lets the client go on: from here its silence counts.
        if storage.pointee.status == 100 { updateTimer(exchange.pointee.downstream) }
    }

    /// - Returns: whether it was forwarded.
    private func forwardHead(_ exchange: ExchangePointer, _ connection: UpstreamPointer) -> Bool {
        if exchange.pointee.machine.tunnelRequest == .upgrade, wouldSeemToOpenTunnel(exchange) {
            perform(exchange.pointee.machine.upstreamFailed(.switchIgnored), for: exchange)
            return false
        }
        let actions = exchange.pointee.machine.responseHeadReceived(head, now: nowMicroseconds)
        guard actions.downstream == .forwardHead else {
            perform(actions, for: exchange)
            return false
        }
        connection.pointee.isPersistent = head.isPersistent
        if head.storage.pointee.facts.contains(.keepAliveTimeout) {
            connection.pointee.peerIdleSeconds = head.storage.pointee.keepAliveTimeoutSeconds
        }
        guard let route = exchange.pointee.route else { preconditionFailure("no route") }
        let isToHTTP10 = exchange.pointee.isHTTP10
        let opensTunnel = exchange.pointee.machine.isTunnel
        // A tunnel's is set when it is open.
        exchange.pointee.responseFraming =
            opensTunnel ? .none : HeadRewrite.downstreamFraming(head, isToHTTP10: isToHTTP10)
        if exchange.pointee.responseFraming.isOpenEnded {
            exchange.pointee.snapshot.pointee.metrics.count(RouteCells.streamsOpened, exchange)
        }
        let via = exchange.pointee.listener.pointee.via
        let closes = exchange.pointee.machine.closesDownstream
        if route.pointee.responseEdits.isEmpty, !isToHTTP10,
            HeadRewrite.isUsualResponse(head, opensTunnel: opensTunnel)
        {
            writeHead(writtenHead(opensTunnel), to: exchange.pointee.downstream) {
                HeadRewrite.writeUsualResponse(head, closes: closes, date: date, via: via, to: &$0)
            }
        } else {
            let values = route.pointee.responseEdits.isEmpty ? nil : rememberedValues(of: exchange)
            let rewrite = HeadRewrite(head, values: values, via: via)
            writeHead(writtenHead(opensTunnel), to: exchange.pointee.downstream) {
                rewrite.writeResponse(
                    edits: route.pointee.responseEdits, isToHTTP10: isToHTTP10, closes: closes,
                    opensTunnel: opensTunnel, date: date, to: &$0)
            }
        }
        // With a final head the wait for request content is not the client's fault any more.
        if exchange.pointee.machine.requestSide == .receiving { updateTimer(exchange.pointee.downstream) }
        return true
    }

    /// Whether the head in the scratch grants what was asked for only in the eyes of HTTP/2.
    private func wouldSeemToOpenTunnel(_ exchange: ExchangePointer) -> Bool {
        exchange.pointee.downstream.pointee.state.contains(.isStream)
            && (200..<300).contains(head.storage.pointee.status)
    }

    /// What follows the final head in the scratch.
    private func writtenHead(_ opensTunnel: Bool) -> WrittenHead {
        opensTunnel ? .tunnel : head.isWholeMessage ? .whole : .open
    }

    /// A server's final head was written: how long it was here is counted, from the beginning of the turn in which it was
    /// received. Whatever else the turn did for the exchange meanwhile is counted with it.
    func noteHold(_ downstream: DownstreamPointer) {
        // Of a stream's, when it has left with its connection's other frames.
        if downstream.pointee.state.contains(.isStream) {
            downstream.pointee.http2?.pointee.headCount += 1
            return
        }
        let listener = downstream.pointee.listener
        listener.pointee.slot.pointee.metrics.headWasHeld(
            microseconds: Clock.monotonicMicroseconds() &- nowMicroseconds, listener: listener.pointee.index)
    }

    func forwardContent(_ content: UnsafeBufferPointer<UInt8>, _ exchange: ExchangePointer) {
        guard !content.isEmpty else { return }
        let downstream = exchange.pointee.downstream
        let isChunked =
            exchange.pointee.responseFraming == .chunked && !downstream.pointee.state.contains(.isStream)
        if isChunked { write(to: downstream) { ChunkedCoding.writeLine(size: content.count, to: &$0) } }
        collect(content, for: downstream)
        if isChunked { write(to: downstream) { ChunkedCoding.writeEnd(to: &$0) } }
    }

    func endResponse(_ exchange: ExchangePointer, _ connection: UpstreamPointer, hasSurplus: Bool) {
        if hasSurplus { connection.pointee.isPersistent = false }
        let isReusable = connection.pointee.isPersistent && !connection.pointee.state.contains(.isBroken)
        perform(exchange.pointee.machine.responseEnded(isReusable: isReusable), for: exchange)
    }

    /// The server's direction is over.
    func responseInputEnded(_ connection: UpstreamPointer) {
        guard let exchange = connection.pointee.exchange else { return }
        connection.pointee.isPersistent = false
        if exchange.pointee.machine.isTunnel {
            let nothingWaits = exchange.pointee.downstream.pointee.outbound.isEmpty
            perform(exchange.pointee.machine.tunnelInputEnded(.server, nothingWaits: nothingWaits), for: exchange)
            updateTimer(connection)
            return
        }
        let wasUntilClose = connection.pointee.decoder.isUntilClose
        if wasUntilClose, connection.pointee.decoder.inputEnded() {
            endResponse(exchange, connection, hasSurplus: false)
            return
        }
        upstreamBroke(connection)
    }

    /// The server's connection ended where no message ends.
    func upstreamBroke(_ connection: UpstreamPointer) {
        guard let exchange = connection.pointee.exchange else { return }
        if exchange.pointee.machine.isTunnel {
            perform(exchange.pointee.machine.tunnelBroke(.server), for: exchange)
            return
        }
        let machine = exchange.pointee.machine
        let cause: Failure
        if machine.hasAnswered {
            cause = .responseTruncated
        } else {
            let hasBegun = !connection.pointee.inbound.isEmpty || machine.phases.firstInterim != 0
            cause = hasBegun ? .closedWithinHead : .closedBeforeResponse
        }
        let nothingSent = connection.pointee.sentBytes == 0
        perform(exchange.pointee.machine.upstreamFailed(cause, nothingSent: nothingSent), for: exchange)
    }

    // MARK: The pool

    /// The exchange does not need the connection any more, and it is in order.
    func release(_ exchange: ExchangePointer) {
        guard let connection = exchange.pointee.upstream, let state = exchange.pointee.upstreamState,
            let server = connection.pointee.server
        else { preconditionFailure("nothing to release") }
        exchange.pointee.upstream = nil
        connection.pointee.exchange = nil
        if connection.pointee.state.contains(.isStream) {
            streamReleased(connection)
            leaveServer(exchange)
            return
        }
        if !connection.pointee.outbound.isEmpty, !connection.pointee.state.contains(.isBroken) {
            connection.pointee.phase = .finishing
            updateTimer(connection)
            leaveServer(exchange)
            return
        }
        // The server ends its wait at about the time it names; a second earlier it still listens.
        let peerIdleMilliseconds = UInt64(connection.pointee.peerIdleSeconds) &* 1000
        let isSpent = connection.pointee.exchangeCount >= state.pointee.exchangesPerConnectionMax
        guard connection.pointee.isPersistent, connection.pointee.state.isDisjoint(with: [.isBroken, .peerEnded]),
            exchange.pointee.machine.tunnelRequest == .none, state.pointee.idleConnectionsMax > 0, !isSpent,
            !server.pointee.isRemoved,
            peerIdleMilliseconds > 1000, !hasUnread(connection)
        else {
            closeUpstream(connection)
            leaveServer(exchange)
            return
        }
        connection.pointee.phase = .idle
        server.pointee.idle.push(connection.idleLink, nowMilliseconds: nowMilliseconds)
        metrics.count(.idlePushed)
        let deadline = nowMilliseconds &+ min(state.pointee.idleMillisecondsMax, peerIdleMilliseconds &- 1000)
        wheel.set(connection.timer, deadlineMilliseconds: deadline)
        if server.pointee.idle.count > state.pointee.idleConnectionsMax {
            server.pointee.idleConnectionsMax = state.pointee.idleConnectionsMax
            closeSurplus(of: server)
        }
        leaveServer(exchange)
    }

    /// How long a connection is idle before it is surplus: a load that comes in waves would make and close them all the time.
    private static var surplusIdleMilliseconds: UInt64 { 1_000 }

    /// Closes connections that are more than may stay idle, as soon as they have been idle for a while.
    @inline(never)
    private func closeSurplus(of server: UnsafeMutablePointer<ServerState>) {
        while server.pointee.idle.count > server.pointee.idleConnectionsMax,
            let oldest = server.pointee.idle.oldestOwner, let connection = upstreams.find(oldest)
        {
            let deadline = server.pointee.idle.oldestIdleSinceMilliseconds + Self.surplusIdleMilliseconds
            guard deadline <= nowMilliseconds else {
                wheel.set(connection.timer, deadlineMilliseconds: deadline)
                return
            }
            closeUpstream(connection)
        }
    }

    /// Whether bytes wait that nobody asked for. They would be the next request's answer: readiness is told at the
    /// edge only, so a read that ended just where the response did has to be followed by a look.
    private func hasUnread(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.state.contains(.mayRead) else { return false }
        return hasNews(connection)
    }

    /// Whether an idle connection has something to read: bytes nobody asked for, an end, or an error. Of TLS's own
    /// messages, session tickets before all, nobody has to ask for.
    func hasNews(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.state.contains(.isTLS) else {
            connection.pointee.state.remove(.mayRead)
            return Socket.hasNews(connection.pointee.socket)
        }
        return hasNewsBehindTLS(connection)
    }

    func closeUpstream(_ connection: UpstreamPointer) {
        precondition(connection.pointee.phase != .closed, "closed twice")
        switch connection.pointee.phase {
        case .idle:
            connection.pointee.server?.pointee.idle.remove(connection.idleLink)
            metrics.count(.idleClosed)
        case .busy: upstreamGather.clear()
        case .connecting, .handshaking, .multiplexing, .finishing, .closed: break
        }
        connection.pointee.phase = .closed
        if connection.pointee.http2 != nil || connection.pointee.state.contains(.isStream) {
            if connection.pointee.state.contains(.isStream) {
                closeResponseStream(connection)
                return
            }
            endHTTP2(connection)
        }
        metrics.count(.upstreamClosed)
        if connection.pointee.state.contains(.isTLS) { endTLS(connection) }
        wheel.remove(connection.timer)
        if !connection.pointee.state.contains(.isProcessing) { pool.release(&connection.pointee.inbound) }
        release(&connection.pointee.outbound)
        if connection.pointee.endsByReset {
            Socket.reset(connection.pointee.socket)
        } else {
            Socket.close(connection.pointee.socket)
        }
        buryLater(connection.pointee.timer.owner)
    }

    // MARK: Timers

    /// Sets the timer for what the connection waits for now. Called at each progress.
    func updateTimer(_ connection: UpstreamPointer) {
        guard connection.pointee.phase == .busy, let exchange = connection.pointee.exchange else {
            updateTimerWithoutExchange(connection)
            return
        }
        guard let route = exchange.pointee.route else { preconditionFailure("no route") }
        let limit: Int?
        switch exchange.pointee.machine.responseSide {
        case .awaitingHead: limit = route.pointee.timers.responseHeadMilliseconds
        case .relaying:
            if exchange.pointee.machine.isTunnel {
                limit =
                    exchange.pointee.machine.isHalfClosed
                    ? route.pointee.timers.tunnelHalfClosedMilliseconds : route.pointee.timers.tunnelIdleMilliseconds
            } else {
                // It stands still while backpressure pauses reading.
                limit = wantsResponse(connection) ? route.pointee.timers.responseIdleMilliseconds : nil
            }
        case .ended, .failed: limit = nil
        }
        wheel.set(connection.timer, deadlineMilliseconds: after(limit))
    }

    @inline(never)
    private func updateTimerWithoutExchange(_ connection: UpstreamPointer) {
        switch connection.pointee.phase {
        case .finishing:
            wheel.set(
                connection.timer, deadlineMilliseconds: nowMilliseconds + Self.finishingIdleMilliseconds)
        case .multiplexing: wheel.set(connection.timer, deadlineMilliseconds: framesDeadline(connection))
        case .connecting, .handshaking, .busy, .idle, .closed: break
        }
    }

    func upstreamTimerExpired(_ connection: UpstreamPointer) {
        switch connection.pointee.phase {
        case .connecting, .handshaking:
            connectingFailed(connection, .connectTimedOut)
        case .multiplexing: framesTimerExpired(connection)
        case .idle:
            closeUpstream(connection)
            // The next may be surplus, too.
            if let server = connection.pointee.server { closeSurplus(of: server) }
        case .finishing: closeUpstream(connection)
        case .busy:
            guard let exchange = connection.pointee.exchange else { return }
            if exchange.pointee.machine.isTunnel {
                perform(exchange.pointee.machine.tunnelTimedOut(), for: exchange)
                return
            }
            let cause: Failure =
                exchange.pointee.machine.hasAnswered ? .responseIdleTimedOut : .responseHeadTimedOut
            perform(exchange.pointee.machine.upstreamFailed(cause), for: exchange)
        case .closed: break
        }
    }
}
