// Finding a connection for an exchange: a server, a place below its `max_exchanges`, its address, an idle
// connection or a new one. And letting go of all that.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

extension Worker {
    /// Chooses a server and goes on from there, at once or when something was waited for.
    func seek(_ exchange: ExchangePointer) {
        if let dial = exchange.pointee.dial {
            dialNext(exchange, dial)
            return
        }
        guard let state = exchange.pointee.upstreamState else { preconditionFailure("sought without an upstream") }
        // Who waits already comes first.
        if state.pointee.queue.isEmpty, chooseServer(exchange, state) {
            connectToServer(exchange)
            return
        }
        // Every server is at its bound.
        retainHead(exchange)
        guard state.pointee.queue.count < UpstreamState.queueCountMax else {
            seekingFailed(exchange, .queueFull)
            return
        }
        state.pointee.queue.append(exchange.pointee.token)
        exchange.pointee.isQueued = true
        for server in state.pointee.servers { server.pointee.shared.setWaiting(worker: number, true) }
        exchange.pointee.waitDeadlineMilliseconds = after(state.pointee.configuration.queueTimeoutMilliseconds)
        updateTimer(exchange)
        // A place that became free before the others could see us waiting would wake nobody.
        serveQueue(state)
    }

    /// - Returns: whether one was free; it is counted for this exchange then.
    private func chooseServer(_ exchange: ExchangePointer, _ state: UnsafeMutablePointer<UpstreamState>) -> Bool {
        if state.pointee.hasOneServer {
            exchange.pointee.serverIndex = 0
            exchange.pointee.triedServers = 1
            return true
        }
        let count = state.pointee.balancer.serverCount
        let all: UInt64 = count >= 64 ? .max : (1 << UInt64(count)) - 1
        var full: UInt64 = 0
        for _ in 0..<count {
            // Servers that were tried come again when no other is left; a full one does not.
            let unwanted = exchange.pointee.triedServers | full
            let index = state.pointee.balancer.choose(excluding: unwanted & all == all ? full : unwanted)
            let bit: UInt64 = index < 64 ? 1 << UInt64(index) : 0
            if state.pointee.isBounded, let max = state.pointee.configuration.servers[index].exchangesMax {
                if !state.pointee.servers[index].pointee.shared.takePermit(max: max) {
                    state.pointee.balancer.release(index)
                    full |= bit
                    if full == all { return false }
                    continue
                }
                exchange.pointee.holdsPermit = true
            }
            exchange.pointee.serverIndex = index
            exchange.pointee.isCounted = true
            exchange.pointee.triedServers |= bit
            return true
        }
        return false
    }

    private func server(of exchange: ExchangePointer) -> UnsafeMutablePointer<ServerState> {
        guard let state = exchange.pointee.upstreamState else { preconditionFailure("no upstream") }
        return state.pointee.servers[exchange.pointee.serverIndex]
    }

    /// A server is chosen: takes an idle connection, or makes one as soon as the address is known.
    @inline(__always)
    private func connectToServer(_ exchange: ExchangePointer) {
        let server = server(of: exchange)
        if server.pointee.speaksHTTP2 {
            connectByHTTP2(exchange, server)
            return
        }
        if let connection = takeIdle(server, for: exchange) {
            attach(connection, to: exchange, isReused: true)
            return
        }
        retainHead(exchange)
        if let address = nextAddress(of: server, for: exchange) { connect(exchange, server, address) }
    }

    /// The address of a server that is next; each in turn.
    /// - Returns: nil if the exchange has to wait for it, or goes on to another server.
    func nextAddress(
        of server: UnsafeMutablePointer<ServerState>, for exchange: ExchangePointer
    ) -> SocketAddress? {
        switch server.pointee.addresses {
        case .known(let addresses):
            exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
            let address = addresses[server.pointee.nextAddress % addresses.count]
            server.pointee.nextAddress = (server.pointee.nextAddress + 1) % addresses.count
            return address
        case .failed(let failure):
            seekingFailed(exchange, failure)
        case .unknown:
            exchange.pointee.waitDeadlineMilliseconds = after(timers(of: exchange).connectMilliseconds)
            updateTimer(exchange)
            hot.pointee.resolveWaiters.append(exchange.pointee.token)
        }
        return nil
    }

    func timers(of exchange: ExchangePointer) -> UpstreamTimers {
        guard let route = exchange.pointee.route else { preconditionFailure("no route") }
        return route.pointee.timers
    }

    /// An address of a server came, or the word that there is none.
    func retryResolveWaiters(_ server: Int) {
        let waiting = hot.pointee.resolveWaiters
        hot.pointee.resolveWaiters = []
        for token in waiting {
            guard let exchange = exchanges.find(token), hasNothingToWaitFor(exchange),
                exchange.pointee.serverIndex >= 0
            else { continue }
            guard self.server(of: exchange).pointee.shared.number == server else {
                hot.pointee.resolveWaiters.append(token)
                continue
            }
            exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
            connectToServer(exchange)
        }
    }

    private func takeIdle(
        _ server: UnsafeMutablePointer<ServerState>, for exchange: ExchangePointer
    ) -> UpstreamPointer? {
        guard let state = exchange.pointee.upstreamState else { return nil }
        while let newest = server.pointee.idle.newestOwner, let connection = upstreams.find(newest.owner) {
            guard exchange.pointee.machine.mayReuse(idleMilliseconds: nowMilliseconds - newest.idleSinceMilliseconds)
            else { return nil }
            let isTooOld = nowMilliseconds - connection.pointee.createdMilliseconds >= state.pointee.ageMillisecondsMax
            // What cannot be sent twice, or may be too much to keep for that, is worth a look first: an end may lie in
            // the socket already.
            let isPrecious =
                !exchange.pointee.method.isIdempotent || exchange.pointee.machine.requestSide == .receiving
            let isStale = isPrecious && hasNews(connection)
            if isTooOld || isStale {
                closeUpstream(connection)
                continue
            }
            server.pointee.idle.remove(connection.idleLink)
            return connection
        }
        return nil
    }

    /// The request's head, as it goes upstream, is kept: the scratch is another's by the time it can be sent.
    func retainHead(_ exchange: ExchangePointer) {
        guard exchange.pointee.retained.isEmpty else { return }
        writeHead(of: exchange)
        upstreamGather.copy(skipping: 0, to: &exchange.pointee.retained, of: pool)
        upstreamGather.clear()
    }

    /// Writes the request's head, from the scratch, into what this turn has collected for the upstream.
    func writeHead(of exchange: ExchangePointer) {
        guard let route = exchange.pointee.route else { preconditionFailure("no route") }
        let via = exchange.pointee.listener.pointee.via
        let connection = exchange.pointee.downstream
        if route.pointee.requestEdits.isEmpty, HeadRewrite.isUsualRequest(head, from: &connection.pointee.peer) {
            let fits = upstreamGather.write {
                HeadRewrite.writeUsualRequest(
                    head, from: &connection.pointee.peer, requestID: exchange.pointee.requestID, via: via, to: &$0)
            }
            precondition(fits, "a head is larger than its bounds allow")
            return
        }
        let authority: UnsafeBufferPointer<UInt8>
        if let state = exchange.pointee.upstreamState {
            authority = state.pointee.servers[max(0, exchange.pointee.serverIndex)].pointee.authority
        } else {
            authority = UnsafeBufferPointer(start: nil, count: 0)
        }
        let rewrite = HeadRewrite(head, values: values(of: exchange), via: via)
        let fits = upstreamGather.write {
            rewrite.writeRequest(
                edits: route.pointee.requestEdits, serverAuthority: authority,
                passesUpgrade: exchange.pointee.machine.wantsUpgrade && !serverSpeaksHTTP2(exchange), to: &$0)
        }
        precondition(fits, "a head is larger than its bounds allow")
    }

    private func serverSpeaksHTTP2(_ exchange: ExchangePointer) -> Bool {
        guard let state = exchange.pointee.upstreamState else { return false }
        return state.pointee.configuration.protocolVersion == .http2
    }

    /// Makes a connection.
    /// - Parameter server: whose it will be; nil for a CONNECT that we answer.
    func connect(
        _ exchange: ExchangePointer, _ server: UnsafeMutablePointer<ServerState>?, _ address: SocketAddress
    ) {
        guard let socket = makeSocket(for: address) else {
            seekingFailed(exchange, .outOfResources)
            return
        }
        let connection = addUpstream(socket, server)
        connection.pointee.exchange = exchange
        exchange.pointee.upstream = connection
        beginConnecting(connection, to: address, limit: timers(of: exchange).connectMilliseconds)
    }

    /// A socket to connect from; nil if there is no descriptor for it.
    func makeSocket(for address: SocketAddress) -> Int32? {
        var socket = try? Socket.make(for: address)
        // Idle connections are descriptors that nobody needs just now.
        if socket == nil, closeOldestIdle() { socket = try? Socket.make(for: address) }
        if let socket, !address.isUnix {
            Socket.setNoDelay(socket)
            Socket.setKeepAlive(socket, idleSeconds: 60, intervalSeconds: 15)
        }
        return socket
    }

    /// A connection that is not connected yet.
    func addUpstream(_ socket: Int32, _ server: UnsafeMutablePointer<ServerState>?) -> UpstreamPointer {
        let connection = upstreams.insert { token in
            UpstreamConnection(
                token: token, socket: socket, kind: TokenKind.upstream, server: server,
                nowMilliseconds: nowMilliseconds)
        }.place
        if let server {
            server.pointee.connectionCount += 1
            server.pointee.shared.connects.add(1, ordering: .relaxed)
        }
        metrics.count(.upstreamConnects)
        return connection
    }

    func beginConnecting(_ connection: UpstreamPointer, to address: SocketAddress, limit: Int?) {
        do {
            let isConnected = try Socket.connect(connection.pointee.socket, to: address)
            try epoll.addConnection(connection.pointee.socket, connection.pointee.timer.owner)
            // A tunnel does not begin in the middle of the request's bytes: readiness tells of it.
            if isConnected, connection.pointee.server != nil {
                connection.pointee.state.insert(.mayWrite)
                connected(connection)
            }
            if connection.pointee.phase == .connecting || connection.pointee.phase == .handshaking {
                wheel.set(connection.timer, deadlineMilliseconds: after(limit))
            }
        } catch {
            connectingFailed(connection, Failure(connectError: error.number))
        }
    }

    /// - Returns: whether there was one.
    func closeOldestIdle() -> Bool {
        for server in hot.pointee.servers.values {
            if let oldest = server.pointee.idle.oldestOwner, let connection = upstreams.find(oldest) {
                closeUpstream(connection)
                return true
            }
        }
        return false
    }

    /// The connection is there: in clear it is of use at once.
    func connected(_ connection: UpstreamPointer) {
        if let tls = connection.pointee.server?.pointee.tls {
            beginTLS(connection, tls)
        } else if let exchange = connection.pointee.exchange, let dial = exchange.pointee.dial,
            isOwnAddress(connection, dial)
        {
            seekingFailed(exchange, .connectForbidden)
        } else {
            connectionMade(connection)
        }
    }

    /// A connection is there that requests can be sent on.
    func connectionMade(_ connection: UpstreamPointer) {
        if connection.pointee.http2 != nil {
            beginHTTP2(connection)
            return
        }
        guard let exchange = connection.pointee.exchange else { preconditionFailure("a connection for nobody") }
        connection.pointee.server?.pointee.shared.connected()
        attach(connection, to: exchange, isReused: false)
    }

    func attach(_ connection: UpstreamPointer, to exchange: ExchangePointer, isReused: Bool) {
        connection.pointee.phase = .busy
        connection.pointee.exchange = exchange
        exchange.pointee.upstream = connection
        exchange.pointee.reusedUpstream = isReused
        if isReused { metrics.count(.upstreamReuses) }
        exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
        perform(exchange.pointee.machine.upstreamAttached(isReused: isReused, now: nowMicroseconds), for: exchange)
    }

    /// No connection can be had, or the one being made failed.
    func seekingFailed(_ exchange: ExchangePointer, _ cause: Failure) {
        var alternatives = 0
        if let dial = exchange.pointee.dial {
            let isLast = dial.pointee.triedCount == dial.pointee.addresses.count
            perform(exchange.pointee.machine.upstreamFailed(cause, hasAlternative: !isLast), for: exchange)
            return
        }
        if let server = exchange.pointee.upstream?.pointee.server { server.pointee.shared.connectFailed(cause) }
        if let state = exchange.pointee.upstreamState {
            for server in state.pointee.servers { alternatives += server.pointee.addressCount }
        }
        perform(
            exchange.pointee.machine.upstreamFailed(
                cause, hasAlternative: alternatives > Int(exchange.pointee.machine.tries)),
            for: exchange)
    }

    // MARK: Letting go

    /// Closes the exchange's connection or gives up looking for one.
    func letGo(_ exchange: ExchangePointer) {
        if let connection = exchange.pointee.upstream {
            exchange.pointee.upstream = nil
            connection.pointee.exchange = nil
            closeUpstream(connection)
        }
        if exchange.pointee.isQueued { leaveQueue(exchange) }
        if exchange.pointee.awaitsStream { leaveStreamQueue(exchange) }
        if let dial = exchange.pointee.dial { stopLookingUp(dial) }
        if let awaited = exchange.pointee.awaited { stopWaiting(exchange, for: awaited) }
        exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
        leaveServer(exchange)
    }

    private func leaveQueue(_ exchange: ExchangePointer) {
        guard let state = exchange.pointee.upstreamState else { return }
        exchange.pointee.isQueued = false
        exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
        let token = exchange.pointee.token
        state.pointee.queue.removeAll { $0 == token }
        guard state.pointee.queue.isEmpty else { return }
        for server in state.pointee.servers where !isAwaited(server) {
            server.pointee.shared.setWaiting(worker: number, false)
        }
    }

    /// Whether any exchange here waits for a server, by whichever upstream. Where two workers share a bit, it is never
    /// taken for sure that nobody does: to be woken once too often costs little.
    private func isAwaited(_ server: UnsafeMutablePointer<ServerState>) -> Bool {
        if shared.workerCount > 64 { return true }
        return hot.pointee.slots.contains { slot in
            slot.pointee.upstreams.contains { state in
                !state.pointee.queue.isEmpty && state.pointee.servers.contains(server)
            }
        }
    }

    /// Gives back the server's place and its count.
    @inline(__always)
    func leaveServer(_ exchange: ExchangePointer) {
        if exchange.pointee.isCounted { leaveCountedServer(exchange) }
    }

    @inline(never)
    private func leaveCountedServer(_ exchange: ExchangePointer) {
        guard let state = exchange.pointee.upstreamState else { return }
        exchange.pointee.isCounted = false
        state.pointee.balancer.release(exchange.pointee.serverIndex)
        guard exchange.pointee.holdsPermit else { return }
        exchange.pointee.holdsPermit = false
        let server = state.pointee.servers[exchange.pointee.serverIndex]
        server.pointee.shared.givePermit()
        shared.tellPermitReturned(server.pointee.shared)
    }

    /// A place at a server may be free: the first in each queue that can use it takes it. If nobody waits here any more,
    /// the word is passed on to the next worker that does.
    func serveQueues(of server: SharedServer) {
        var boundMax = 0
        var nobodyWaits = true
        // The longest there are come first: who began under an earlier generation waits longest.
        for slot in hot.pointee.slots {
            for state in slot.pointee.upstreams {
                for (position, candidate) in state.pointee.servers.enumerated()
                where candidate.pointee.shared === server {
                    serveQueue(state)
                    boundMax = max(boundMax, state.pointee.configuration.servers[position].exchangesMax ?? 0)
                    nobodyWaits = nobodyWaits && state.pointee.queue.isEmpty
                }
            }
        }
        // What the bound is for those who wait, they know. With more workers than bits one may be told in vain; then the
        // word is passed on only as long as there is a place by what is known here.
        if nobodyWaits, shared.workerCount <= 64 || server.hasPermit(max: boundMax) {
            shared.tellPermitReturned(server, except: number)
        }
    }

    private func serveQueue(_ state: UnsafeMutablePointer<UpstreamState>) {
        // Who fails at once seeks again, and comes by here: it is served by the loop that is under way.
        guard !state.pointee.isServingQueue else { return }
        state.pointee.isServingQueue = true
        defer { state.pointee.isServingQueue = false }
        while let token = state.pointee.queue.first, let exchange = exchanges.find(token),
            chooseServer(exchange, state)
        {
            leaveQueue(exchange)
            connectToServer(exchange)
        }
    }
}

extension Failure {
    /// What an error of connect(2) means.
    init(connectError number: Int32) {
        switch SystemError("connect", number: number).kind {
        case .refused: self = .connectRefused
        case .timedOut: self = .connectTimedOut
        case .exhausted: self = .outOfResources
        case .other: self = .connectUnreachable
        }
    }
}
