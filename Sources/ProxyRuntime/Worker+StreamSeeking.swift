// Finding a stream for an exchange, at a server that is spoken to in HTTP/2. It takes one of a connection that is there; waits
// for a connection that is being made, or whose server has not told yet how many streams it takes; makes another, up to
// `keepalive`; or waits until any stream is free.

import Bytes
import EventLoop
import HTTP2
import ProxyConfiguration
import ProxyCore

extension Worker {
    /// Exchanges that wait for one connection: what any server takes at once.
    static var waitingMax: Int { 100 }

    /// A server of HTTP/2 is chosen.
    func connectByHTTP2(_ exchange: ExchangePointer, _ server: UnsafeMutablePointer<ServerState>) {
        // Who waits already comes first.
        if server.pointee.streamQueue.isEmpty, place(exchange, server) { return }
        serveLater(server)
        retainHead(exchange)
        guard let state = exchange.pointee.upstreamState else { preconditionFailure("sought without an upstream") }
        guard server.pointee.streamQueue.count < UpstreamState.queueCountMax else {
            seekingFailed(exchange, .queueFull)
            return
        }
        server.pointee.streamQueue.append(exchange.pointee.token)
        exchange.pointee.awaitsStream = true
        exchange.pointee.waitDeadlineMilliseconds = after(state.pointee.configuration.queueTimeoutMilliseconds)
        updateTimer(exchange)
    }

    /// Gives an exchange a stream, or a connection to wait for.
    /// - Returns: false if every connection that there may be is busy.
    private func place(_ exchange: ExchangePointer, _ server: UnsafeMutablePointer<ServerState>) -> Bool {
        for connection in server.pointee.multiplexed where mayTake(connection) {
            attachStream(of: connection, to: exchange)
            return true
        }
        retainHead(exchange)
        for connection in server.pointee.multiplexed {
            guard let http2 = connection.pointee.http2, !http2.pointee.settingsAreKnown,
                http2.pointee.waiting.count < server.pointee.streamsOfConnection
            else { continue }
            wait(for: connection, http2, exchange)
            return true
        }
        guard mayConnect(to: server, for: exchange) else { return false }
        makeConnection(for: exchange, server)
        return true
    }

    /// Whether a server may have another connection: `keepalive` bounds those that can still take exchanges, since each of
    /// them stays for the next.
    private func mayConnect(to server: UnsafeMutablePointer<ServerState>, for exchange: ExchangePointer) -> Bool {
        guard let state = exchange.pointee.upstreamState, state.pointee.idleConnectionsMax > 0,
            !server.pointee.isRemoved
        else { return true }
        var count = 0
        for connection in server.pointee.multiplexed where !isSpent(connection) { count += 1 }
        return count < state.pointee.idleConnectionsMax
    }

    private func makeConnection(for exchange: ExchangePointer, _ server: UnsafeMutablePointer<ServerState>) {
        guard let address = nextAddress(of: server, for: exchange) else { return }
        guard let state = exchange.pointee.upstreamState else { preconditionFailure("sought without an upstream") }
        guard let socket = makeSocket(for: address) else {
            seekingFailed(exchange, .outOfResources)
            return
        }
        let connection = addUpstream(socket, server)
        let http2 = UnsafeMutablePointer<ServerHTTP2>.allocate(capacity: 1)
        http2.initialize(
            to: ServerHTTP2(
                connection: connection,
                idleMillisecondsMax: state.pointee.idleConnectionsMax > 0 ? state.pointee.idleMillisecondsMax : 0,
                ageMillisecondsMax: state.pointee.ageMillisecondsMax,
                exchangesMax: state.pointee.exchangesPerConnectionMax))
        connection.pointee.http2 = http2
        server.pointee.multiplexed.append(connection)
        wait(for: connection, http2, exchange)
        beginConnecting(connection, to: address, limit: timers(of: exchange).connectMilliseconds)
    }

    /// Whether a connection takes another exchange now.
    private func mayTake(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.phase == .multiplexing, let http2 = connection.pointee.http2,
            let session = http2.pointee.session, session.mayRequest,
            http2.pointee.settingsAreKnown || session.begunCount == 0
        else { return false }
        return !isSpent(connection)
    }

    /// Whether a connection takes no exchange any more, however few it has.
    private func isSpent(_ connection: UpstreamPointer) -> Bool {
        guard connection.pointee.phase == .multiplexing, let http2 = connection.pointee.http2,
            let session = http2.pointee.session
        else { return false }
        if session.isClosing { return true }
        // Whoever it was made for is served, whatever has changed since.
        if session.begunCount == 0 { return false }
        return connection.pointee.server?.pointee.isRemoved ?? true
            || nowMilliseconds - connection.pointee.createdMilliseconds >= http2.pointee.ageMillisecondsMax
            || session.begunCount >= Int(http2.pointee.exchangesMax)
    }

    func attachStream(of parent: UpstreamPointer, to exchange: ExchangePointer) {
        let connection = upstreams.insert { token in
            UpstreamConnection(
                token: token, kind: TokenKind.upstream, streamOf: parent, nowMilliseconds: nowMilliseconds)
        }.place
        connection.pointee.server?.pointee.connectionCount += 1
        connection.pointee.exchange = exchange
        if let awaited = exchange.pointee.awaited { stopWaiting(exchange, for: awaited) }
        parent.pointee.http2?.pointee.idleSinceMilliseconds = 0
        attach(connection, to: exchange, isReused: true)
    }

    // MARK: Waiting

    /// An exchange waits for a connection: until that gives it a stream, or fails, or the exchange lets go of it.
    private func wait(
        for connection: UpstreamPointer, _ http2: UnsafeMutablePointer<ServerHTTP2>, _ exchange: ExchangePointer
    ) {
        http2.pointee.waiting.append(exchange.pointee.token)
        exchange.pointee.awaited = connection
        exchange.pointee.waitDeadlineMilliseconds = after(timers(of: exchange).connectMilliseconds)
        updateTimer(exchange)
    }

    /// An exchange waits for its connection no more.
    func stopWaiting(_ exchange: ExchangePointer, for connection: UpstreamPointer) {
        exchange.pointee.awaited = nil
        let token = exchange.pointee.token
        connection.pointee.http2?.pointee.waiting.removeAll { $0 == token }
    }

    /// Those that wait for a connection wait for it no more; each of them has to be told what becomes of it.
    func takeWaiting(_ http2: UnsafeMutablePointer<ServerHTTP2>) -> [SlabToken] {
        let tokens = http2.pointee.waiting
        http2.pointee.waiting = []
        for token in tokens { exchanges.find(token)?.pointee.awaited = nil }
        return tokens
    }

    /// Whether an exchange that seeks a connection would be forgotten if nobody went on with it.
    func hasNothingToWaitFor(_ exchange: ExchangePointer) -> Bool {
        exchange.pointee.machine.attachment == .seeking && exchange.pointee.upstream == nil
            && exchange.pointee.awaited == nil && !exchange.pointee.awaitsStream && !exchange.pointee.isQueued
    }

    /// A connection is there: the first to ask is served at once. How many more it takes, its server's settings say.
    func serveFirst(of connection: UpstreamPointer, _ http2: UnsafeMutablePointer<ServerHTTP2>) {
        guard let token = http2.pointee.waiting.first, let exchange = exchanges.find(token) else { return }
        attachStream(of: connection, to: exchange)
    }

    /// A server has told how many streams it takes: who waited for that goes on, here or elsewhere.
    func settingsCame(_ connection: UpstreamPointer, _ http2: UnsafeMutablePointer<ServerHTTP2>) {
        http2.pointee.settingsAreKnown = true
        guard let server = connection.pointee.server, let session = http2.pointee.session else { return }
        server.pointee.streamsOfConnection = max(1, min(session.requestsMax, Self.waitingMax))
        for token in takeWaiting(http2) {
            // One of them may have ended another.
            guard let exchange = exchanges.find(token), hasNothingToWaitFor(exchange) else { continue }
            exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
            connectByHTTP2(exchange, server)
        }
        serveLater(server)
    }

    /// A stream of a server is free, or there may be another connection: who waits is served after this event.
    func serveLater(_ server: UnsafeMutablePointer<ServerState>?) {
        guard let server, !server.pointee.streamQueue.isEmpty else { return }
        let token = SlabToken(index: UInt32(server.pointee.shared.number), generation: 0)
        hot.pointee.agenda.append(ReadinessToken(kind: TokenKind.server, token))
        hot.pointee.work.insert(.agenda)
    }

    /// Serves who waits for a stream, the first first, as far as there are any.
    func serveStreams(ofServer number: Int) {
        while let server = hot.pointee.servers[number], let token = server.pointee.streamQueue.first {
            server.pointee.streamQueue.removeFirst()
            guard let exchange = exchanges.find(token) else { continue }
            exchange.pointee.awaitsStream = false
            let deadline = exchange.pointee.waitDeadlineMilliseconds
            exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
            if place(exchange, server) { continue }
            server.pointee.streamQueue.insert(token, at: 0)
            exchange.pointee.awaitsStream = true
            exchange.pointee.waitDeadlineMilliseconds = deadline
            return
        }
    }

    /// A connection is gone before its server has told how many streams it takes: who waited for that waits for any other.
    func waitElsewhere(_ http2: UnsafeMutablePointer<ServerHTTP2>, _ server: UnsafeMutablePointer<ServerState>) {
        var tokens: [SlabToken] = []
        for token in takeWaiting(http2) {
            guard let exchange = exchanges.find(token) else { continue }
            exchange.pointee.awaitsStream = true
            let limit = exchange.pointee.upstreamState?.pointee.configuration.queueTimeoutMilliseconds
            exchange.pointee.waitDeadlineMilliseconds = after(limit)
            updateTimer(exchange)
            tokens.append(token)
        }
        server.pointee.streamQueue.insert(contentsOf: tokens, at: 0)
        serveLater(server)
    }

    /// An exchange waits for a stream no more.
    func leaveStreamQueue(_ exchange: ExchangePointer) {
        exchange.pointee.awaitsStream = false
        guard let state = exchange.pointee.upstreamState else { return }
        let token = exchange.pointee.token
        state.pointee.servers[exchange.pointee.serverIndex].pointee.streamQueue.removeAll { $0 == token }
    }
}
