// Carrying out what an exchange decides: its beginning, its actions on either side, answers of our own, its end.

import Bytes
import EventLoop
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

extension Worker {
    // MARK: Beginning

    /// A request's head is in the scratch.
    func beginExchange(_ connection: DownstreamPointer) {
        let listener = connection.pointee.listener.pointee.compiled
        if pool.isExhausted, !makeRoom() {
            refuseForMemory(connection)
            return
        }
        if head.storage.pointee.method == .connect {
            beginConnect(connection, listener)
            return
        }
        let route = listener.pointee.router.route(head)
        let exchange = addExchange(connection, listener, route)
        guard let route else {
            perform(exchange.pointee.machine.refused(.noRoute), for: exchange)
            return
        }
        if let tls = connection.pointee.tls, !acceptsHost(tls, connection.pointee.listener) {
            refuseMisdirected(exchange, tls)
            return
        }
        if head.storage.pointee.framing == .length,
            exchange.pointee.machine.exceedsContentMax(head.storage.pointee.contentLength)
        {
            perform(exchange.pointee.machine.refused(.requestContentTooLong), for: exchange)
            return
        }
        if head.storage.pointee.facts.contains(.maxForwards), head.storage.pointee.maxForwards == 0 {
            answerAsFinalRecipient(exchange)
            return
        }
        switch route.pointee.action {
        case .respond(let status, let text):
            answer(exchange, status: status) { context, out in
                LocalResponse.writeText(
                    status: status, text: text, values: self.values(of: exchange), edits: route.pointee.responseEdits,
                    context: context, to: &out)
            }
        case .redirect(let status, let location):
            answer(exchange, status: status) { context, out in
                LocalResponse.writeRedirect(
                    status: status, location: location, values: self.values(of: exchange),
                    edits: route.pointee.responseEdits, context: context, to: &out)
            }
        case .upstream(let index): seekUpstream(index, for: exchange)
        case .dial: preconditionFailure("only CONNECT dials")
        }
    }

    /// Whether the request's host is served under the policy that the connection was made under (RFC 9110 section 7.4).
    @inline(never)
    private func acceptsHost(
        _ tls: UnsafeMutablePointer<ClientTLS>, _ listener: UnsafeMutablePointer<ListenerState>
    ) -> Bool {
        guard let context = listener.pointee.tls else { return false }
        return tls.pointee.session.accepts(
            host: head.bytes(head.hostOnly(head.storage.pointee.authority)), under: context)
    }

    /// 421: the client may ask again on a new connection. One whose own policy is no more is of no use to it.
    @inline(never)
    private func refuseMisdirected(_ exchange: ExchangePointer, _ tls: UnsafeMutablePointer<ClientTLS>) {
        let context = exchange.pointee.downstream.pointee.listener.pointee.tls
        if context.map({ !tls.pointee.session.isValid(under: $0) }) ?? true {
            exchange.pointee.machine.connectionDrained()
        }
        perform(exchange.pointee.machine.refused(.misdirected), for: exchange)
    }

    @inline(__always)
    private func seekUpstream(_ index: Int, for exchange: ExchangePointer) {
        if head.storage.pointee.facts.contains(.via), refuseLoop(exchange) { return }
        exchange.pointee.upstreamState = exchange.pointee.snapshot.pointee.upstreams[index]
        exchange.pointee.machine.upstreamSought()
        seek(exchange)
    }

    /// - Returns: whether the request goes round in a loop, and was refused.
    @inline(never)
    private func refuseLoop(_ exchange: ExchangePointer) -> Bool {
        guard exchange.pointee.listener.pointee.isLoop(head) else { return false }
        perform(exchange.pointee.machine.refused(.loopDetected), for: exchange)
        return true
    }

    @inline(never)
    private func beginConnect(_ connection: DownstreamPointer, _ listener: UnsafePointer<CompiledListener>) {
        let route = listener.pointee.connectRoute
        var rules: Int?
        if case .dial(let index)? = route?.pointee.action { rules = index }
        let exchange = addExchange(connection, listener, route, dials: rules != nil)
        if head.storage.pointee.framing != .none {
            // With framing fields it is no CONNECT at all (RFC 9110 section 9.3.6).
            perform(exchange.pointee.machine.refused(.requestRefused, fault: .connectContent), for: exchange)
        } else if let tls = connection.pointee.tls, let context = connection.pointee.listener.pointee.tls,
            !tls.pointee.session.isValid(under: context)
        {
            refuseMisdirected(exchange, tls)
        } else if let rules {
            beginDialling(exchange, rules: rules)
        } else if case .upstream(let index)? = route?.pointee.action {
            seekUpstream(index, for: exchange)
        } else {
            perform(exchange.pointee.machine.refused(.methodNotAllowed), for: exchange)
        }
    }

    /// Idle connections to servers are given up, as long as that helps.
    /// - Returns: whether there is memory now.
    @inline(never)
    private func makeRoom() -> Bool {
        while pool.isExhausted, closeOldestIdle() {}
        return !pool.isExhausted
    }

    /// There is no memory for another exchange: what the connection holds is given back, too.
    @inline(never)
    private func refuseForMemory(_ connection: DownstreamPointer) {
        let exchange = addExchange(connection, connection.pointee.listener.pointee.compiled, nil)
        exchange.pointee.machine.connectionDrained()
        perform(exchange.pointee.machine.refused(.outOfResources), for: exchange)
    }

    /// There is none for the rest of a head.
    func refusePartialHead(_ connection: DownstreamPointer) {
        head.begin(at: UnsafePointer(scratch))
        refuseForMemory(connection)
    }

    /// A request that cannot be read, or not in time: it is answered, logged, and the connection ends.
    /// - Parameter headIsThere: whether a head was found, or what stands in its place.
    func refuseRequest(
        _ connection: DownstreamPointer, _ cause: Failure, _ fault: HeadFault = .startLine, headIsThere: Bool
    ) {
        // A head that never came leaves whatever was in the scratch before.
        if !headIsThere { head.begin(at: UnsafePointer(scratch)) }
        let exchange = addExchange(connection, connection.pointee.listener.pointee.compiled, nil)
        perform(exchange.pointee.machine.refused(cause, fault: fault), for: exchange)
    }

    private func addExchange(
        _ connection: DownstreamPointer, _ listener: UnsafePointer<CompiledListener>,
        _ route: UnsafePointer<CompiledRoute>?, dials: Bool = false
    ) -> ExchangePointer {
        let slot = connection.pointee.listener.pointee.slot
        let machine = Exchange(
            requestHeadReceived: head, forwarding: route?.pointee.forwarding ?? listener.pointee.forwardingWithoutRoute,
            mayPersist: !connection.pointee.listener.pointee.isEnding, dials: dials,
            now: nowMicroseconds)
        let exchange = exchanges.insert { token in
            ExchangeSlot(
                token: token, kind: TokenKind.exchange, machine: machine, downstream: connection, listener: listener,
                route: route, snapshot: slot, requestID: nextRequestID(), head: head,
                wallMicroseconds: nowMicroseconds &+ hot.pointee.wallOffsetMicroseconds)
        }.place
        metrics.count(.exchangesBegun)
        slot.pointee.holderCount &+= 1
        connection.pointee.exchange = exchange
        connection.pointee.phase = .exchanging
        if let limit = listener.pointee.timers.requestMilliseconds {
            exchange.pointee.totalDeadlineMilliseconds = nowMilliseconds + UInt64(limit)
            updateTimer(exchange)
        }
        let readsRequest = route?.pointee.responseEdits.readsRequest ?? false
        if hot.pointee.log != nil || readsRequest { remember(exchange, inFull: readsRequest) }
        return exchange
    }

    /// Keeps of the head in the scratch what is asked for later. For the log alone, the parts are capped.
    private func remember(_ exchange: ExchangePointer, inFull: Bool) {
        let storage = head.storage
        var memo = RequestMemo()
        func keep(_ range: ByteRange, max: Int) -> ByteRange {
            let bytes = head.bytes(range)
            let count = inFull ? bytes.count : min(bytes.count, max)
            guard count > 0 else { return ByteRange() }
            let start = Int(memo.block.end)
            pool.append(UnsafeRawBufferPointer(start: bytes.baseAddress, count: count), to: &memo.block)
            return ByteRange(start: start, count: count)
        }
        memo.method = keep(storage.pointee.methodName, max: 32)
        memo.target = keep(storage.pointee.target, max: 400)
        memo.authority = keep(storage.pointee.authority, max: 128)
        var requestID = ByteRange()
        var userAgent = ByteRange()
        var referer = ByteRange()
        var traceparent = ByteRange()
        var traceparentCount = 0
        for index in 0..<storage.pointee.fieldCount {
            let line = head.fields + index
            switch line.pointee.field {
            // Asked only where there is one.
            case .xRequestID: if requestID.isEmpty { requestID = head.receivedRequestID }
            case .userAgent: userAgent = line.pointee.value
            case .referer: referer = line.pointee.value
            case .traceparent:
                traceparentCount += 1
                traceparent = line.pointee.value
            default: break
            }
        }
        memo.requestID = keep(requestID, max: 64)
        memo.userAgent = keep(userAgent, max: 200)
        memo.referer = keep(referer, max: 200)
        // Two mean nothing.
        if traceparentCount == 1 { memo.traceparent = keep(traceparent, max: 64) }
        exchange.pointee.memo = memo
    }

    /// Values of variables, from the request's head while it is in the scratch.
    func values(of exchange: ExchangePointer) -> VariableValues {
        VariableValues(
            head, requestID: exchange.pointee.requestID, peer: exchange.pointee.downstream.pointee.peer,
            listenerName: exchange.pointee.listener.pointee.name, route: exchange.pointee.route,
            nodeName: exchange.pointee.snapshot.pointee.snapshot.nodeName)
    }

    /// Values of variables, from what is remembered of the request.
    func rememberedValues(of exchange: ExchangePointer) -> VariableValues {
        let memo = exchange.pointee.memo
        return VariableValues(
            authority: memo.bytes(memo.authority), method: memo.bytes(memo.method), target: memo.bytes(memo.target),
            receivedRequestID: memo.bytes(memo.requestID), requestID: exchange.pointee.requestID,
            peer: exchange.pointee.downstream.pointee.peer, listenerName: exchange.pointee.listener.pointee.name,
            route: exchange.pointee.route, nodeName: exchange.pointee.snapshot.pointee.snapshot.nodeName)
    }

    // MARK: Actions

    /// Does what the machine says: the upstream's side first, since the client's may end the exchange.
    func perform(_ actions: Actions, for exchange: ExchangePointer) {
        switch actions.upstream {
        case .none: break
        case .sendRequest: sendRequest(exchange)
        case .forwardContent: preconditionFailure("content is forwarded where it lies")
        case .endRequest: endRequest(exchange)
        case .endRequestAndRelease:
            endRequest(exchange)
            release(exchange)
        case .release: release(exchange)
        case .close:
            if exchange.pointee.machine.isTunnel { endUpstreamOfTunnel(exchange) }
            letGo(exchange)
        case .endSending:
            if let upstream = exchange.pointee.upstream { endSendingInTunnel(upstream) }
        case .reset:
            if let upstream = exchange.pointee.upstream { resetWhenDelivered(upstream, exchange) }
        case .retry:
            metrics.count(.retries)
            letGo(exchange)
            // While we seek, the client is not waited for.
            updateTimer(exchange.pointee.downstream)
            seek(exchange)
            return
        }
        let connection = exchange.pointee.downstream
        switch actions.downstream {
        case .none: break
        case .forwardInterim, .forwardHead, .forwardContent:
            preconditionFailure("heads and content are forwarded where they lie")
        case .endResponse:
            endResponse(exchange)
            updateTimer(connection)
            // The rest of the request may be there already, and no readiness will tell of it again.
            if !connection.pointee.state.contains(.isProcessing) { schedule(connection) }
        case .finish:
            endResponse(exchange)
            endExchange(exchange)
            becomeIdle(connection)
        case .finishAndClose:
            endResponse(exchange)
            endExchange(exchange)
            beginClosing(connection)
        case .acceptTunnel: acceptTunnel(exchange)
        case .refuse: answerFailure(exchange)
        case .truncate:
            truncate(exchange)
        case .endSending: endSendingInTunnel(connection)
        case .close:
            downstreamGather.clear()
            // A tunnel whose directions have both ended: a socket's close says so by itself, a stream's end has to be sent.
            if exchange.pointee.machine.isTunnel, exchange.pointee.machine.responseSide == .ended,
                connection.pointee.state.contains(.isStream)
            {
                flushStream(connection, isLast: true)
                endExchange(exchange)
                beginClosing(connection)
                return
            }
            // A client that ended its direction may read on: where the end is the close, it must not take a part for
            // the whole (rule 4).
            if exchange.pointee.responseFraming == .untilClose, exchange.pointee.machine.responseSide == .failed {
                connection.pointee.endsByReset = true
            }
            endExchange(exchange)
            closeDownstream(connection)
        case .reset:
            // What waits is delivered before.
            connection.pointee.endsByReset = true
            endExchange(exchange)
            beginClosing(connection)
        }
    }

    /// A tunnel is over. Where both directions ended in order, a server's stream gets its end, however long that has to wait.
    private func endUpstreamOfTunnel(_ exchange: ExchangePointer) {
        guard exchange.pointee.machine.responseSide == .ended, let upstream = exchange.pointee.upstream,
            upstream.pointee.state.contains(.isStream)
        else { return }
        flushRequestStream(upstream, isLast: true)
        exchange.pointee.upstream = nil
        upstream.pointee.exchange = nil
        streamReleased(upstream)
    }

    /// Ends the connection so that nobody can take the response for a whole one (rule 4).
    private func truncate(_ exchange: ExchangePointer) {
        let connection = exchange.pointee.downstream
        flush(connection)
        if exchange.pointee.responseFraming == .untilClose || connection.pointee.state.contains(.isStream) {
            connection.pointee.endsByReset = true
        }
        let isStalled = exchange.pointee.machine.failure == .clientStalled
        endExchange(exchange)
        if isStalled {
            // The kernel need not keep for minutes what nobody takes.
            connection.pointee.endsByReset = true
            closeDownstream(connection)
        } else {
            beginClosing(connection)
        }
    }

    private func endResponse(_ exchange: ExchangePointer) {
        if !exchange.pointee.responseEndIsWritten {
            exchange.pointee.responseEndIsWritten = true
            if exchange.pointee.downstream.pointee.state.contains(.isStream) {
                flushStream(exchange.pointee.downstream, isLast: true)
                return
            }
            if exchange.pointee.responseFraming == .chunked {
                write(to: exchange.pointee.downstream) { ChunkedCoding.writeLastChunk(to: &$0) }
            }
        }
        flush(exchange.pointee.downstream)
    }

    /// Writes a head for the client.
    @inline(__always)
    func writeHead(
        _ kind: @autoclosure () -> WrittenHead, to connection: DownstreamPointer, _ body: (inout ByteWriter) -> Void
    ) {
        if connection.pointee.state.contains(.isStream) {
            writeHead(kind(), toStream: connection, body)
        } else {
            write(to: connection, body)
        }
    }

    /// Writes into what this turn has collected for the client, making room first if there is none.
    func write(to connection: DownstreamPointer, _ body: (inout ByteWriter) -> Void) {
        if downstreamGather.write(body) { return }
        flush(connection)
        let fits = downstreamGather.write(body)
        precondition(fits, "a head is larger than its bounds allow")
    }

    // MARK: Answers of our own

    private func answerFailure(_ exchange: ExchangePointer) {
        guard let failure = exchange.pointee.machine.failure else { preconditionFailure("refused without a failure") }
        let fault = exchange.pointee.machine.fault
        // The answer may end the exchange.
        if failure.side != .downstream { reportFailure(failure, status: failure.status(fault), exchange) }
        let format =
            exchange.pointee.route?.pointee.forwarding.errorFormat ?? exchange.pointee.listener.pointee.errorFormat
        answer(exchange, status: failure.status(fault)) { context, out in
            LocalResponse.writeFailure(failure, fault: fault, format: format, context: context, to: &out)
        }
    }

    private func answerAsFinalRecipient(_ exchange: ExchangePointer) {
        let isTrace = head.storage.pointee.method == .trace
        answer(exchange, status: 200) { context, out in
            if isTrace {
                LocalResponse.writeTrace(self.head, context: context, to: &out)
            } else {
                LocalResponse.writeOptions(context: context, to: &out)
            }
        }
    }

    private func answer(
        _ exchange: ExchangePointer, status: UInt16, _ body: (LocalResponseContext, inout ByteWriter) -> Void
    ) {
        let connection = exchange.pointee.downstream
        let remaining: UInt64?
        if connection.pointee.state.contains(.isStream) {
            remaining = connection.pointee.declaredBytes.map {
                $0 - min($0, exchange.pointee.machine.requestContentBytes)
            }
        } else {
            remaining = exchange.pointee.requestFraming == .length ? connection.pointee.decoder.contentRemaining : nil
        }
        exchange.pointee.machine.localAnswerBegan(status: status, requestContentRemaining: remaining)
        let context = localResponseContext(exchange)
        var contentBytes = 0
        writeHead(.whole, to: connection) { out in
            let start = out.count
            body(context, &out)
            contentBytes = LocalResponse.contentBytes(
                of: UnsafeBufferPointer(start: out.base + start, count: out.count - start))
        }
        flush(connection)
        exchange.pointee.responseEndIsWritten = true
        perform(exchange.pointee.machine.localAnswerEnded(contentBytes: contentBytes), for: exchange)
    }

    func localResponseContext(_ exchange: ExchangePointer) -> LocalResponseContext {
        let via = exchange.pointee.listener.pointee.via
        return LocalResponseContext(
            isToHTTP10: exchange.pointee.isHTTP10, isToHEAD: exchange.pointee.method == .head,
            closes: exchange.pointee.machine.closesDownstream, date: date,
            proxyName: via.isEmpty ? via : UnsafeBufferPointer(rebasing: via.dropFirst()))
    }

    // MARK: The end

    /// Writes the record and frees everything the exchange holds.
    private func endExchange(_ exchange: ExchangePointer) {
        if hot.pointee.log != nil { writeRecord(exchange) }
        let slot = exchange.pointee.snapshot
        slot.pointee.metrics.exchangeEnded(exchange, now: nowMicroseconds)
        if let failure = exchange.pointee.machine.failure { countFailure(failure, exchange) }
        if exchange.pointee.responseFraming.isOpenEnded {
            slot.pointee.metrics.count(
                exchange.pointee.machine.isTunnel ? RouteCells.tunnelsEnded : RouteCells.streamsEnded, exchange)
        }
        precondition(exchange.pointee.upstream == nil, "an exchange ends without its upstream connection")
        leaveServer(exchange)
        if let dial = exchange.pointee.dial { endDialling(dial) }
        wheel.remove(exchange.timer)
        pool.release(&exchange.pointee.retained)
        pool.release(&exchange.pointee.memo.block)
        exchange.pointee.downstream.pointee.exchange = nil
        exchanges.free(exchange.pointee.token)
        release(slot)
    }

    private func countFailure(_ failure: Failure, _ exchange: ExchangePointer) {
        metrics.count(failure)
        if failure == .requestRefused { metrics.count(exchange.pointee.machine.fault) }
    }

    // MARK: Timers

    func updateTimer(_ exchange: ExchangePointer) {
        wheel.set(
            exchange.timer,
            deadlineMilliseconds: min(
                exchange.pointee.waitDeadlineMilliseconds, exchange.pointee.totalDeadlineMilliseconds))
    }

    func exchangeTimerExpired(_ exchange: ExchangePointer) {
        if exchange.pointee.totalDeadlineMilliseconds <= nowMilliseconds {
            perform(exchange.pointee.machine.requestTimedOut(.requestTimedOut), for: exchange)
        } else if exchange.pointee.waitDeadlineMilliseconds <= nowMilliseconds {
            exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
            updateTimer(exchange)
            let isQueued = exchange.pointee.isQueued || exchange.pointee.awaitsStream
            let isAwaiting = exchange.pointee.awaited != nil
            seekingFailed(exchange, isQueued ? .queueTimedOut : isAwaiting ? .connectTimedOut : .nameTimedOut)
        } else {
            updateTimer(exchange)
        }
    }
}
