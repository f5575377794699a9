// The client's side: bytes in, requests out; and the writing of what goes back.

import Bytes
import EventLoop
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

extension Worker {
    /// How long a client may be silent, and how long in all, while it is read only so that it gets its answer.
    private static var lingerIdleMilliseconds: UInt64 { 5_000 }
    private static var lingerMilliseconds: UInt64 { 30_000 }
    private static var drainLingerMilliseconds: UInt64 { 1_000 }
    /// How long who is not welcome gets to read why.
    private static var unwelcomeLingerMilliseconds: UInt64 { 200 }
    /// A sender gets this long before its rate counts.
    private static var rateGraceMilliseconds: UInt64 { 5_000 }

    // MARK: Readiness

    func downstreamIsReady(_ connection: DownstreamPointer, _ readiness: Readiness) {
        guard connection.pointee.phase != .closed else { return }
        if readiness.contains(.peerEnded) { connection.pointee.state.insert(.peerEnded) }
        if readiness.contains(.readable) || readiness.contains(.peerEnded) {
            connection.pointee.state.insert(.mayRead)
        }
        // A tunnel whose directions have both ended says so, too, and may have bytes still; there the read tells more.
        let isOver = readiness.contains(.hungUp) && !isTunnel(connection)
        if readiness.contains(.failed) || isOver {
            downstreamBroke(connection)
            return
        }
        if readiness.contains(.writable) {
            connection.pointee.state.insert(.mayWrite)
            if !connection.pointee.outbound.isEmpty { drainOutbound(connection) }
        }
        resumeDownstream(connection)
    }

    private func isTunnel(_ connection: DownstreamPointer) -> Bool {
        connection.pointee.exchange?.pointee.machine.isTunnel ?? false
    }

    /// Does whatever is possible now.
    func resumeDownstream(_ connection: DownstreamPointer) {
        switch connection.pointee.phase {
        case .idle, .receivingHead, .exchanging:
            if connection.pointee.state.contains(.isBroken) {
                downstreamBroke(connection)
                return
            }
            if connection.pointee.state.contains(.awaitsProxyHeader), !readProxyHeader(connection) { return }
            // Also without bytes: the end of a request may have been left untold when the server took no more.
            let hasInput = !connection.pointee.inbound.isEmpty || connection.pointee.phase == .exchanging
            if hasInput, wantsRequest(connection) {
                let buffered = connection.pointee.inbound.bytes
                consume(buffered, from: connection, isScratch: false)
            }
            readDownstream(connection)
            if connection.pointee.state.contains(.peerEnded) { noticeClientEnd(connection) }
        case .multiplexing: resumeMultiplexed(connection)
        case .flushing:
            if connection.pointee.outbound.isEmpty { endSending(connection) }
        case .lingering: discardInput(connection)
        case .closed: break
        }
    }

    /// A FIN that epoll told of while a request is being answered: its bytes need not be read to know (rule 9).
    private func noticeClientEnd(_ connection: DownstreamPointer) {
        guard connection.pointee.phase == .exchanging, let exchange = connection.pointee.exchange else { return }
        // A tunnel is read to its end first.
        if exchange.pointee.machine.isTunnel { return }
        // A request that is still being received may be complete in what is unread; only `abort` does not care.
        if exchange.pointee.machine.onClientClose != .abort, exchange.pointee.machine.requestSide == .receiving {
            return
        }
        perform(exchange.pointee.machine.clientEnded(), for: exchange)
    }

    /// The connection is reset or cannot be written to any more.
    func downstreamBroke(_ connection: DownstreamPointer) {
        connection.pointee.state.insert(.isBroken)
        release(&connection.pointee.outbound)
        if connection.pointee.phase == .exchanging, let exchange = connection.pointee.exchange {
            if exchange.pointee.machine.isTunnel {
                perform(exchange.pointee.machine.tunnelBroke(.client), for: exchange)
                return
            }
            perform(exchange.pointee.machine.clientReset(requestIsHere: connection.requestIsHere), for: exchange)
            // Under `finish` the answer runs out unread: what waited for the client need not wait.
            if let exchange = connection.pointee.exchange, let upstream = exchange.pointee.upstream {
                updateTimer(upstream)
                schedule(upstream)
            }
        } else {
            closeDownstream(connection)
        }
    }

    // MARK: Reading

    /// Whether bytes of the client are wanted now: backpressure is this answer.
    func wantsRequest(_ connection: DownstreamPointer) -> Bool {
        switch connection.pointee.phase {
        case .idle, .receivingHead: return connection.pointee.outbound.isEmpty
        case .exchanging:
            guard let exchange = connection.pointee.exchange else { return false }
            let isWanted =
                exchange.pointee.machine.isTunnel
                ? exchange.pointee.machine.upward == .open : exchange.pointee.machine.wantsRequestContent
            guard isWanted else { return false }
            guard let upstream = exchange.pointee.upstream else { return true }
            return upstream.pointee.outbound.isEmpty && !upstream.pointee.state.contains(.isBroken)
        case .multiplexing: return wantsFrames(connection)
        case .flushing, .lingering, .closed: return false
        }
    }

    func readDownstream(_ connection: DownstreamPointer) {
        var reads = 0
        while connection.pointee.state.contains(.mayRead), wantsRequest(connection) {
            guard mayGoOn(&reads, connection.pointee.timer.owner, &connection.pointee.state) else { return }
            if connection.pointee.state.contains(.splices), connection.pointee.inbound.isEmpty {
                guard spliceRequest(connection, &reads) else { return }
                continue
            }
            switch receive(connection) {
            case .bytes(let input, let isScratch): consume(input, from: connection, isScratch: isScratch)
            case .nothing: break
            case .ended:
                inputEnded(connection)
                return
            case .broken:
                downstreamBroke(connection)
                return
            }
        }
        if connection.pointee.state.contains([.isTLS, .mayRead]), connection.pointee.phase == .exchanging {
            readAhead(connection)
        }
    }

    /// The client's direction is read to its end.
    func inputEnded(_ connection: DownstreamPointer) {
        connection.pointee.state.insert(.peerEnded)
        if let exchange = connection.pointee.exchange, exchange.pointee.machine.isTunnel {
            let nothingWaits = exchange.pointee.upstream?.pointee.outbound.isEmpty ?? true
            perform(exchange.pointee.machine.tunnelInputEnded(.client, nothingWaits: nothingWaits), for: exchange)
            // Half of a tunnel has a timer of its own.
            if let upstream = connection.pointee.exchange?.pointee.upstream { updateTimer(upstream) }
        } else if let exchange = connection.pointee.exchange {
            // What is missing of the request will never come.
            perform(exchange.pointee.machine.clientEnded(), for: exchange)
        } else if connection.pointee.phase == .multiplexing {
            framesEnded(connection)
        } else {
            closeDownstream(connection)
        }
    }

    /// Decodes what is there, as far as it is wanted, and keeps the rest.
    private func consume(
        _ input: UnsafeBufferPointer<UInt8>, from connection: DownstreamPointer, isScratch: Bool
    ) {
        if connection.pointee.state.contains(.mayBeHTTP2) {
            guard !consumeAsHTTP2(input, from: connection, isScratch: isScratch) else { return }
        }
        if let exchange = connection.pointee.exchange, exchange.pointee.machine.isTunnel {
            passUp(input, exchange)
            if !isScratch, !input.isEmpty { pool.consume(input.count, of: &connection.pointee.inbound) }
            return
        }
        var offset = 0
        connection.pointee.state.insert(.isProcessing)
        decoding: while wantsRequest(connection) {
            let limits = connection.pointee.listener.pointee.compiled.pointee.headLimits
            let event = connection.pointee.decoder.next(input, from: &offset, into: head, limits: limits)
            if connection.pointee.exchange == nil {
                switch event {
                case .needsInput: break decoding
                case .head: beginExchange(connection)
                case .failed(let fault): refuseRequest(connection, .requestRefused, fault, headIsThere: true)
                case .interim, .content, .trailers, .ended:
                    preconditionFailure("a request begins with its head")
                }
            } else if !relayRequest(event, input, connection) {
                break decoding
            }
        }
        connection.pointee.state.remove(.isProcessing)
        if let upstream = connection.pointee.exchange?.pointee.upstream { flush(upstream) }
        if !isScratch || offset < input.count { keepRest(of: input, from: offset, connection, isScratch: isScratch) }
        updateTimerAfterInput(connection)
    }

    @inline(__always)
    func updateTimerAfterInput(_ connection: DownstreamPointer) {
        if connection.pointee.phase == .exchanging, connection.pointee.outbound.isEmpty,
            connection.pointee.exchange?.pointee.machine.requestSide == .ended
        {
            // Nothing is awaited from the client: should the timer that still runs end, it means nothing.
            connection.pointee.timerPurpose = .none
        } else if connection.pointee.phase != .closed {
            // Only what the client takes postpones the moment at which it has taken nothing for too long.
            if connection.pointee.timerPurpose == .sending, !connection.pointee.outbound.isEmpty { return }
            updateTimer(connection)
        }
    }

    /// - Returns: whether there may be another event.
    private func relayRequest(
        _ event: MessageEvent, _ input: UnsafeBufferPointer<UInt8>, _ connection: DownstreamPointer
    ) -> Bool {
        guard let exchange = connection.pointee.exchange else { return true }
        switch event {
        case .needsInput: return false
        case .content(let start, let count):
            let actions = exchange.pointee.machine.requestContentReceived(count)
            if actions.upstream == .forwardContent {
                forwardRequestContent(UnsafeBufferPointer(rebasing: input[start..<(start + count)]), exchange)
                if connection.pointee.decoder.contentRemaining >= Self.splicedBytesMin {
                    noteBulk(of: connection, exchange)
                }
            } else {
                perform(actions, for: exchange)
            }
        case .trailers:
            if exchange.pointee.machine.requestSide == .receiving { forwardRequestTrailers(exchange) }
        case .ended: perform(exchange.pointee.machine.requestEnded(now: nowMicroseconds), for: exchange)
        case .failed(let fault): perform(exchange.pointee.machine.requestFailed(fault), for: exchange)
        case .interim, .head: preconditionFailure("two heads in one request")
        }
        return true
    }

    func keepRest(
        of input: UnsafeBufferPointer<UInt8>, from offset: Int, _ connection: DownstreamPointer, isScratch: Bool
    ) {
        switch connection.pointee.phase {
        case .idle, .receivingHead, .exchanging:
            keep(input, from: offset, isScratch: isScratch, in: &connection.pointee.inbound)
            guard connection.pointee.exchange == nil else { return }
            if connection.pointee.phase == .idle, !connection.pointee.inbound.isEmpty,
                connection.pointee.outbound.isEmpty
            {
                connection.pointee.phase = .receivingHead
                connection.pointee.phaseStartMilliseconds = nowMilliseconds
            }
            // A head that comes in parts takes memory for each.
            if connection.pointee.phase == .receivingHead, pool.isExhausted {
                refusePartialHead(connection)
            }
        case .multiplexing, .flushing, .lingering, .closed: pool.release(&connection.pointee.inbound)
        }
    }

    /// Reads and throws away, so that the client can read our answer before its own bytes are refused.
    private func discardInput(_ connection: DownstreamPointer) {
        if connection.pointee.state.contains(.isUnwelcome) { return }
        var reads = 0
        while connection.pointee.state.contains(.mayRead) {
            guard mayGoOn(&reads, connection.pointee.timer.owner, &connection.pointee.state) else { return }
            switch Socket.receive(connection.pointee.socket, into: scratch, capacity: pool.readBytesMax) {
            case .bytes:
                updateTimer(connection)
            case .wouldBlock: connection.pointee.state.remove(.mayRead)
            case .ended, .failed:
                closeDownstream(connection)
                return
            }
        }
    }

    // MARK: Writing

    /// Writes what this turn has collected for the client; what the socket does not take waits.
    func flush(_ connection: DownstreamPointer) {
        guard !downstreamGather.isEmpty else { return }
        defer { downstreamGather.clear() }
        let wasEmpty = connection.pointee.outbound.isEmpty
        let outcome: WriteOutcome
        if connection.pointee.state.isDisjoint(with: [.isStream, .isBroken, .isTLS]) {
            outcome = send(
                downstreamGather, to: connection.pointee.socket, &connection.pointee.outbound,
                &connection.pointee.state)
        } else if connection.pointee.state.contains(.isStream) {
            flushStream(connection, isLast: false)
            return
        } else {
            guard !connection.pointee.state.contains(.isBroken) else { return }
            outcome = sendTLS(connection)
        }
        switch outcome {
        case .all: break
        case .some:
            if wasEmpty { clientBecameFull(connection) }
        case .broken:
            connection.pointee.state.insert(.isBroken)
            schedule(connection)
        }
    }

    /// The client does not take all that is there.
    func clientBecameFull(_ connection: DownstreamPointer) {
        noteUnacknowledged(connection)
        updateTimer(connection)
        // While the client takes nothing, nothing is read from the server, and its clock stands still.
        if let upstream = connection.pointee.exchange?.pointee.upstream { updateTimer(upstream) }
    }

    /// The socket takes bytes again.
    private func drainOutbound(_ connection: DownstreamPointer) {
        if connection.pointee.phase == .multiplexing {
            framesMayLeave(connection)
            return
        }
        switch sendWaiting(
            to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        {
        case .all: break
        case .some(let count):
            if count > 0 {
                noteUnacknowledged(connection)
                updateTimer(connection)
            }
            return
        case .broken:
            connection.pointee.state.insert(.isBroken)
            return
        }
        outboundDrained(connection)
    }

    /// Everything that waited for the client was taken.
    func outboundDrained(_ connection: DownstreamPointer) {
        updateTimer(connection)
        if let exchange = connection.pointee.exchange, exchange.pointee.machine.isTunnel {
            perform(exchange.pointee.machine.tunnelDelivered(to: .client), for: exchange)
        }
        // Drained: the server may be read again.
        if let upstream = connection.pointee.exchange?.pointee.upstream {
            updateTimer(upstream)
            schedule(upstream)
        }
    }

    // MARK: The end of an exchange, and of the connection

    /// The exchange is over and the connection serves the next.
    func becomeIdle(_ connection: DownstreamPointer) {
        connection.pointee.exchange = nil
        if connection.pointee.state.contains(.isStream) {
            streamFinished(connection)
            return
        }
        connection.pointee.phase = .idle
        connection.pointee.decoder.startNext()
        updateTimer(connection)
        let hasMore = !connection.pointee.inbound.isEmpty || connection.pointee.state.contains(.mayRead)
        if hasMore, !connection.pointee.state.contains(.isProcessing) { schedule(connection) }
    }

    /// The exchange is over and the connection ends when everything is written.
    func beginClosing(_ connection: DownstreamPointer) {
        connection.pointee.exchange = nil
        if connection.pointee.state.contains(.isStream) {
            streamFinished(connection)
            return
        }
        connection.pointee.phase = .flushing
        if !connection.pointee.state.contains(.isProcessing) { pool.release(&connection.pointee.inbound) }
        updateTimer(connection)
        if connection.pointee.outbound.isEmpty { endSending(connection) }
    }

    /// Everything is written: our direction ends, and what the client still sends is read for a while (rule 6).
    private func endSending(_ connection: DownstreamPointer) {
        if connection.pointee.endsByReset || connection.pointee.state.contains(.isBroken) {
            closeDownstream(connection)
            return
        }
        if let tls = connection.pointee.tls {
            let isOut = endSendingTLS(
                &tls.pointee.session, to: connection.pointee.socket, &connection.pointee.outbound,
                &connection.pointee.state)
            // The rest of it goes first; this is called again then.
            if !isOut, !connection.pointee.state.contains(.isBroken), !connection.pointee.outbound.isEmpty { return }
        }
        Socket.endSending(connection.pointee.socket)
        connection.pointee.phase = .lingering
        connection.pointee.phaseStartMilliseconds = nowMilliseconds
        updateTimer(connection)
        if connection.pointee.state.contains(.mayRead) { schedule(connection) }
    }

    func closeDownstream(_ connection: DownstreamPointer) {
        precondition(connection.pointee.phase != .closed, "closed twice")
        if connection.pointee.phase == .multiplexing { endHTTP2(connection) }
        connection.pointee.phase = .closed
        if connection.pointee.state.contains(.isStream) {
            closeStream(connection)
            return
        }
        if connection.pointee.state.contains(.isTLS) { endTLS(connection) }
        wheel.remove(connection.timer)
        if !connection.pointee.state.contains(.isProcessing) { pool.release(&connection.pointee.inbound) }
        release(&connection.pointee.outbound)
        if connection.pointee.endsByReset {
            Socket.reset(connection.pointee.socket)
        } else {
            Socket.close(connection.pointee.socket)
        }
        shared.connectionClosed()
        metrics.count(.connectionsClosed)
        buryLater(connection.pointee.timer.owner)
    }

    // MARK: Timers

    /// Sets the timer for what the connection waits for now. Called when it begins to wait and at each progress.
    func updateTimer(_ connection: DownstreamPointer) {
        let timers = connection.pointee.listener.pointee.compiled.pointee.timers
        var purpose = DownstreamConnection.TimerPurpose.none
        var deadline = TimerEntry.never
        switch connection.pointee.phase {
        case .idle where isBeginning(connection):
            purpose = .handshake
            let isInClear = !connection.pointee.state.contains(.isTLS)
            if let limit = isInClear ? timers.requestHeadMilliseconds : timers.handshakeMilliseconds {
                deadline = connection.pointee.phaseStartMilliseconds + UInt64(limit)
            }
        case .idle:
            if connection.pointee.outbound.isEmpty {
                (purpose, deadline) = (.keepalive, after(timers.keepaliveMilliseconds))
            } else {
                (purpose, deadline) = (.sending, after(timers.sendIdleMilliseconds))
            }
        case .receivingHead:
            purpose = .requestHead
            if let limit = timers.requestHeadMilliseconds {
                deadline = connection.pointee.phaseStartMilliseconds + UInt64(limit)
            }
        case .exchanging:
            (purpose, deadline) = exchangeTimer(connection, timers)
        case .multiplexing:
            (purpose, deadline) = framesTimer(connection, timers)
        case .flushing:
            (purpose, deadline) = (.sending, after(timers.sendIdleMilliseconds))
        case .lingering:
            purpose = .lingering
            // While draining, nobody is waited for longer than it takes to read an answer.
            if connection.pointee.state.contains(.isUnwelcome) {
                deadline = connection.pointee.phaseStartMilliseconds + Self.unwelcomeLingerMilliseconds
                break
            }
            let (idle, total) =
                isDraining
                ? (Self.drainLingerMilliseconds, Self.drainLingerMilliseconds)
                : (Self.lingerIdleMilliseconds, Self.lingerMilliseconds)
            deadline = min(nowMilliseconds + idle, connection.pointee.phaseStartMilliseconds + total)
        case .closed: return
        }
        connection.pointee.timerPurpose = purpose
        wheel.set(connection.timer, deadlineMilliseconds: deadline)
    }

    /// Whether something has to come before the first request: a PROXY header, or TLS's handshake.
    private func isBeginning(_ connection: DownstreamPointer) -> Bool {
        guard !connection.pointee.state.isDisjoint(with: [.isTLS, .awaitsProxyHeader]) else { return false }
        return connection.pointee.state.contains(.awaitsProxyHeader)
            || !(connection.pointee.tls?.pointee.session.isEstablished ?? false)
    }

    private func exchangeTimer(
        _ connection: DownstreamPointer, _ timers: DownstreamTimers
    ) -> (DownstreamConnection.TimerPurpose, UInt64) {
        if !connection.pointee.outbound.isEmpty { return (.sending, after(timers.sendIdleMilliseconds)) }
        guard let exchange = connection.pointee.exchange else { return (.none, TimerEntry.never) }
        let machine = exchange.pointee.machine
        switch machine.requestSide {
        case .ended, .failed: return (.none, TimerEntry.never)
        case .receiving, .discarding:
            if machine.responseSide == .ended {
                return (.uploadAfterResponse, nowMilliseconds + Self.lingerIdleMilliseconds)
            }
            guard machine.wantsRequestContent, !machine.hasAnswered, !machine.awaitsContinue, wantsRequest(connection)
            else {
                if exchange.pointee.contentUnwantedSinceMilliseconds == 0 {
                    exchange.pointee.contentUnwantedSinceMilliseconds = nowMilliseconds
                }
                return (.none, TimerEntry.never)
            }
            let idle = after(timers.requestIdleMilliseconds)
            guard let rate = timers.requestBytesPerSecondMin else { return (.requestContent, idle) }
            return (.requestContent, min(idle, max(nowMilliseconds + 1, rateDeadline(exchange, rate: rate))))
        }
    }

    /// The moment at which the average falls below the rate if nothing more comes.
    private func rateDeadline(_ exchange: ExchangePointer, rate: Int) -> UInt64 {
        if exchange.pointee.contentUnwantedSinceMilliseconds != 0 {
            exchange.pointee.contentUnwantedMilliseconds +=
                nowMilliseconds - exchange.pointee.contentUnwantedSinceMilliseconds
            exchange.pointee.contentUnwantedSinceMilliseconds = 0
        }
        let machine = exchange.pointee.machine
        let allowed = machine.requestContentBytes &* 1000 / UInt64(rate)
        return machine.phases.requestHead / 1000 + exchange.pointee.contentUnwantedMilliseconds + allowed
            + Self.rateGraceMilliseconds
    }

    func after(_ milliseconds: Int?) -> UInt64 {
        milliseconds.map { nowMilliseconds + UInt64($0) } ?? TimerEntry.never
    }

    func downstreamTimerExpired(_ connection: DownstreamPointer) {
        guard connection.pointee.phase != .closed else { return }
        switch connection.pointee.timerPurpose {
        case .none: break
        case .handshake, .keepalive, .lingering:
            if connection.pointee.phase == .multiplexing {
                shutDown(connection)
            } else {
                closeDownstream(connection)
            }
        case .shutdown: finishShutdown(connection)
        case .held: holdExpired(connection)
        case .requestHead where connection.pointee.phase == .multiplexing: headTimedOut(connection)
        case .requestHead: refuseRequest(connection, .requestHeadTimedOut, headIsThere: false)
        case .requestContent, .uploadAfterResponse:
            guard let exchange = connection.pointee.exchange else { return }
            perform(exchange.pointee.machine.requestTimedOut(.requestContentTimedOut), for: exchange)
        case .sending where connection.pointee.phase == .multiplexing: blockedTimerExpired(connection)
        case .sending: sendTimerExpired(connection)
        }
    }

    func noteUnacknowledged(_ connection: DownstreamPointer) {
        // What a stream gives to its connection postpones its timer by itself.
        if connection.pointee.state.contains(.isStream) { return }
        let bytes = Socket.unacknowledgedBytes(connection.pointee.socket) ?? 0
        connection.pointee.unacknowledgedBytes = Int32(clamping: bytes)
    }

    /// The socket told of no room for the whole time. The client may read slowly all the same: the kernel tells of
    /// room only when a good part of its buffer is free, so what is unacknowledged decides.
    private func sendTimerExpired(_ connection: DownstreamPointer) {
        let before = connection.pointee.unacknowledgedBytes
        noteUnacknowledged(connection)
        if connection.pointee.unacknowledgedBytes < before, !connection.pointee.state.contains(.isStream) {
            updateTimer(connection)
            return
        }
        if let exchange = connection.pointee.exchange {
            perform(exchange.pointee.machine.abandoned(.clientStalled), for: exchange)
        } else {
            closeDownstream(connection)
        }
    }
}
