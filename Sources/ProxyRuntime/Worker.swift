// A worker: one thread with its own event loop, connections, pools and timers. Nothing of it is shared; other
// threads leave messages. This file has the loop and what every event passes; the other Worker+ files have one side
// or one subject each.
//
// What an event makes possible on another connection (a pipelined request, a drained buffer, a broken write) is put
// on the agenda and done when the event's own work is over. What has to nest all the same (a failure that leads to
// another try, or to an answer of ours) is safe by three rules: a connection whose bytes are being decoded is marked
// `isProcessing` and keeps its buffer; slots of closed connections are freed at the end of the batch, so their
// pointers stay valid within it; slots of exchanges are freed at once, so after `perform` an exchange is reached by
// its connection again or not at all.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import Synchronization
import TLS

typealias DownstreamPointer = UnsafeMutablePointer<DownstreamConnection>
typealias UpstreamPointer = UnsafeMutablePointer<UpstreamConnection>
typealias ExchangePointer = UnsafeMutablePointer<ExchangeSlot>

/// Whom a readiness token or a timer is for.
enum TokenKind {
    static let mailbox: UInt8 = 1
    static let listener: UInt8 = 2
    static let downstream: UInt8 = 3
    static let upstream: UInt8 = 4
    static let exchange: UInt8 = 5
    static let accepting: UInt8 = 6
}

/// What other threads tell a worker.
enum WorkerMessage: Sendable {
    /// Take no new connection, end what is running, then end.
    case drain
    /// End now.
    case stop
    /// A name was looked up; the server has this index in the table of servers.
    case addressesChanged(server: Int, [SocketAddress])
    /// A name could not be looked up, and never could.
    case addressesFailed(server: Int, Failure)
    /// Certificates were read anew: for each listener its TLS, made for this worker; nil where nothing changed.
    case certificatesChanged([TLSServerContext?])
    /// What a server is spoken to with was read anew.
    case serverTLSChanged(server: Int, TLSClientPeer)
    /// Session tickets are sealed with these keys from now on.
    case ticketKeysChanged(TicketKeys)
    /// What CONNECT asks for was looked up, for this exchange.
    case targetLookedUp(SlabToken, ResolutionOutcome)
    /// A place below `max_exchanges` of a server may be free.
    case permitReturned(server: Int)
}

/// A listening socket of a worker. Reached by pointer; lives as long as the worker.
struct ListenerState {
    let socket: Int32
    let isShared: Bool
    let isUnix: Bool
    /// The listener of the current snapshot.
    var compiled: UnsafePointer<CompiledListener>
    /// Its TLS, if clients speak TLS on this socket.
    var tls: TLSServerContext?
    /// Its index in the configuration.
    let index: Int
}

/// A listening socket that was made for a worker.
struct ListeningSocket: Sendable {
    let socket: Int32
    /// Whether other workers have it too (Unix sockets).
    let isShared: Bool
    let isUnix: Bool
    let isTLS: Bool
    /// The listener's index in the configuration.
    let listener: Int
}

/// A snapshot with what the worker made for it.
struct SnapshotSlot {
    let snapshot: Snapshot
    let upstreams: [UnsafeMutablePointer<UpstreamState>]
    /// Exchanges that hold it: the last one lets a replaced snapshot go.
    var holderCount = 0
}

/// See the head of the file.
final class Worker {
    let number: Int
    let shared: SharedState
    let epoll: Epoll
    let wheel: TimerWheel
    let pool: BufferPool
    let pipes: PipePool
    let downstreams: Slab<DownstreamConnection>
    let upstreams: Slab<UpstreamConnection>
    let exchanges: Slab<ExchangeSlot>
    let head: Head
    let downstreamGather: Gather
    let upstreamGather: Gather
    /// What is read is put here: `scratchCapacity` bytes, and behind them the rest of a TLS record.
    let scratch: UnsafeMutablePointer<UInt8>
    /// Ciphertext, before it is decrypted.
    let cipherScratch: UnsafeMutablePointer<UInt8>
    let scratchCapacity: Int
    let tlsEngine: TLSEngine
    let listeners: UnsafeMutablePointer<ListenerState>
    let listenerCount: Int
    let servers: UnsafeMutablePointer<ServerState>
    let serverCount: Int
    let acceptTimer: UnsafeMutablePointer<TimerEntry>
    let dateText: UnsafeMutablePointer<UInt8>
    let ring: LogRing?
    /// What this worker counts.
    let metrics: MetricCells
    /// Each listener's TLS.
    var contexts: [TLSServerContext?]
    /// The first half of every request's identity.
    let requestIDs: RequestID

    /// What changes all the time, behind a pointer: properties of a class are checked for exclusive access at run
    /// time, at about fifty instructions each.
    let hot: UnsafeMutablePointer<HotState>

    var acceptingIsPaused = false
    /// When a pause may be told of again.
    var pauseReportMilliseconds: UInt64 = 0
    var isDraining = false
    var isEnded = false
    var peerEventSecond: UInt64 = 0
    var peerEventCount = 0

    /// See `hot`.
    struct HotState {
        var nowMicroseconds: UInt64
        var nowMilliseconds: UInt64
        var wallOffsetMicroseconds: UInt64 = 0
        var dateSecond: UInt64 = 0
        var randomLow: UInt64
        var randomHigh: UInt64
        /// The snapshot that new exchanges take.
        var snapshot: UnsafeMutablePointer<SnapshotSlot>
        /// Exchanges that wait for a server's addresses.
        var resolveWaiters: [SlabToken] = []
        var agenda: [ReadinessToken] = []
        /// The agenda of the next round: connections that had their share of this one.
        var nextAgenda: [ReadinessToken] = []
        var graveyard: [ReadinessToken] = []
        /// Why the handshake failed that is being told of.
        var tlsFailureText: String?
    }

    var nowMicroseconds: UInt64 { hot.pointee.nowMicroseconds }
    var nowMilliseconds: UInt64 { hot.pointee.nowMilliseconds }

    /// Makes a worker; on its own thread.
    init(_ shared: SharedState, number: Int, sockets: [ListeningSocket], tls: WorkerTLS) throws(SystemError) {
        self.shared = shared
        self.number = number
        epoll = try Epoll(batchMax: 256)
        let now = Clock.monotonicMicroseconds()
        let random = Process.randomWords(3)
        requestIDs = RequestID(high: random[2], low: 0)
        hot = .allocate(capacity: 1)
        hot.initialize(
            to: HotState(
                nowMicroseconds: now, nowMilliseconds: now / 1000, randomLow: random[0], randomHigh: random[1] | 1,
                snapshot: .allocate(capacity: 1)))
        wheel = TimerWheel(nowMilliseconds: now / 1000)
        pool = BufferPool(freeBytesMax: 1 << 20)
        pipes = PipePool(countMax: shared.pipesOfWorkerMax)
        downstreams = Slab()
        upstreams = Slab()
        exchanges = Slab()
        let snapshot = Snapshot(shared.configuration, nodeName: shared.nodeName)
        head = Head(fieldsCapacity: max(1000, snapshot.fieldsMax))
        scratchCapacity = snapshot.relayBufferBytes
        scratch = .allocate(capacity: scratchCapacity + TLSSession.plaintextBytesExtra)
        cipherScratch = .allocate(capacity: scratchCapacity)
        tlsEngine = TLSEngine()
        // Room for the largest head there can be, and for the small pieces of a turn's content.
        let gatherBytes = snapshot.headWriteBytesMax + scratchCapacity + (16 << 10)
        downstreamGather = Gather(scratchCapacity: gatherBytes)
        upstreamGather = Gather(scratchCapacity: gatherBytes)
        ring = shared.accessLog?.rings[number]
        metrics = shared.metrics.workers[number].cells
        dateText = .allocate(capacity: HTTPDate.textBytes)

        let servers = UnsafeMutablePointer<ServerState>.allocate(capacity: max(1, shared.servers.count))
        for (index, server) in shared.servers.enumerated() {
            (servers + index).initialize(to: ServerState(server, index: index, tls: tls.servers[index]))
        }
        self.servers = servers
        serverCount = shared.servers.count
        let states = shared.configuration.upstreams.map { upstream in
            let state = UnsafeMutablePointer<UpstreamState>.allocate(capacity: 1)
            state.initialize(
                to: UpstreamState(
                    upstream,
                    servers: upstream.servers.map {
                        servers + shared.serverIndex(ServerIdentity($0, tls: upstream.tls))
                    },
                    workerCount: shared.workerCount))
            return state
        }
        hot.pointee.snapshot.initialize(to: SnapshotSlot(snapshot: snapshot, upstreams: states))

        listeners = .allocate(capacity: max(1, sockets.count))
        listenerCount = sockets.count
        acceptTimer = .allocate(capacity: 1)
        acceptTimer.initialize(
            to: TimerEntry(owner: ReadinessToken(kind: TokenKind.accepting, SlabToken(index: 0, generation: 0))))
        contexts = tls.listeners
        for (index, socket) in sockets.enumerated() {
            precondition(!socket.isTLS || tls.listeners[socket.listener] != nil, "a socket of TLS without its TLS")
            guard let first = snapshot.listeners.baseAddress else { preconditionFailure("a socket without a listener") }
            (listeners + index).initialize(
                to: ListenerState(
                    socket: socket.socket, isShared: socket.isShared, isUnix: socket.isUnix,
                    compiled: first + socket.listener, tls: socket.isTLS ? tls.listeners[socket.listener] : nil,
                    index: socket.listener))
        }
        try epoll.addSource(
            shared.mailboxes[number].wakeUp.descriptor,
            ReadinessToken(kind: TokenKind.mailbox, SlabToken(index: 0, generation: 0)), exclusive: false)
        try startAccepting()
    }

    deinit {
        for state in hot.pointee.snapshot.pointee.upstreams {
            state.pointee.balancer.destroy()
            state.deinitialize(count: 1)
            state.deallocate()
        }
        hot.pointee.snapshot.deinitialize(count: 1)
        hot.pointee.snapshot.deallocate()
        for index in 0..<serverCount {
            servers[index].destroy()
            (servers + index).deinitialize(count: 1)
        }
        hot.deinitialize(count: 1)
        hot.deallocate()
        servers.deallocate()
        listeners.deallocate()
        acceptTimer.deallocate()
        dateText.deallocate()
        scratch.deallocate()
        cipherScratch.deallocate()
        for context in contexts { context?.retire() }
        tlsEngine.destroy()
        downstreamGather.destroy()
        upstreamGather.destroy()
        head.destroy()
        downstreams.destroy()
        upstreams.destroy()
        exchanges.destroy()
        wheel.destroy()
        pool.destroy()
        pipes.destroy()
    }

    // MARK: The loop

    /// Runs until it was told to end and everything has ended.
    func run() {
        while !isEnded { turn(timeoutMilliseconds: waitMilliseconds()) }
        end()
    }

    /// One round of the loop: waits, and does all that has become possible. The fault sweep drives a worker by it.
    /// - Returns: how many events there were.
    @discardableResult
    @inline(__always)
    func turn(timeoutMilliseconds: Int32) -> Int {
        let count = epoll.wait(timeoutMilliseconds: timeoutMilliseconds)
        updateTime()
        let putOffCount = hot.pointee.nextAgenda.count
        for index in 0..<count {
            let event = epoll.event(index)
            dispatch(event.token, event.readiness)
            if !hot.pointee.agenda.isEmpty { runAgenda() }
        }
        wheel.advance(to: nowMilliseconds) { expired($0) }
        if putOffCount > 0 { takeNextAgenda(putOffCount) }
        if !hot.pointee.agenda.isEmpty { runAgenda() }
        if !hot.pointee.graveyard.isEmpty { bury() }
        if isDraining, downstreams.count == 0 { isEnded = true }
        return count
    }

    private func waitMilliseconds() -> Int32 {
        if !hot.pointee.nextAgenda.isEmpty { return 0 }
        guard let next = wheel.nextMilliseconds else { return -1 }
        return next <= nowMilliseconds ? 0 : Int32(clamping: next - nowMilliseconds)
    }

    @inline(__always)
    private func updateTime() {
        let now = Clock.monotonicMicroseconds()
        hot.pointee.nowMicroseconds = now
        hot.pointee.nowMilliseconds = now / 1000
        if now / 1_000_000 != hot.pointee.dateSecond {
            hot.pointee.dateSecond = now / 1_000_000
            let wall = Clock.wallMicroseconds()
            hot.pointee.wallOffsetMicroseconds = wall &- now
            var writer = ByteWriter(base: dateText, capacity: HTTPDate.textBytes)
            HTTPDate(secondsSince1970: wall / 1_000_000).write(to: &writer)
        }
    }

    /// The text of Date.
    var date: UnsafeBufferPointer<UInt8> { UnsafeBufferPointer(start: dateText, count: HTTPDate.textBytes) }

    @inline(__always)
    private func dispatch(_ token: ReadinessToken, _ readiness: Readiness) {
        switch token.kind {
        case TokenKind.downstream:
            if let connection = downstreams.find(token.slabToken) { downstreamIsReady(connection, readiness) }
        case TokenKind.upstream:
            if let connection = upstreams.find(token.slabToken) { upstreamIsReady(connection, readiness) }
        case TokenKind.listener: acceptConnections(listeners + Int(token.slabToken.index))
        case TokenKind.mailbox: readMessages()
        default: preconditionFailure("a token of no kind")
        }
    }

    private func runAgenda() {
        // What runs may add to it.
        var index = 0
        while index < hot.pointee.agenda.count {
            let token = hot.pointee.agenda[index]
            index += 1
            if token.kind == TokenKind.downstream {
                if let connection = downstreams.find(token.slabToken) {
                    connection.pointee.state.remove(.isScheduled)
                    resumeDownstream(connection)
                }
            } else if let connection = upstreams.find(token.slabToken) {
                connection.pointee.state.remove(.isScheduled)
                resumeUpstream(connection)
            }
        }
        hot.pointee.agenda.removeAll(keepingCapacity: true)
    }

    /// What was put off in the last round comes behind the events of this one.
    private func takeNextAgenda(_ count: Int) {
        hot.pointee.agenda.append(contentsOf: hot.pointee.nextAgenda.prefix(count))
        hot.pointee.nextAgenda.removeFirst(count)
    }

    /// Reads of one connection in one round: half a MiB at the default `relay_buffer`.
    private static var readsPerRoundMax: Int { 8 }

    /// Counts a read of this round. A connection that always has bytes does not keep the others waiting: when it had
    /// its share, it goes on in the next round.
    @inline(__always)
    func mayGoOn(_ reads: inout Int, _ owner: ReadinessToken, _ state: inout SocketState) -> Bool {
        reads += 1
        if reads > Self.readsPerRoundMax { putOff(owner, &state) }
        return reads <= Self.readsPerRoundMax
    }

    private func putOff(_ owner: ReadinessToken, _ state: inout SocketState) {
        guard !state.contains(.isScheduled) else { return }
        state.insert(.isScheduled)
        hot.pointee.nextAgenda.append(owner)
    }

    /// Goes on with a client's connection after this event.
    func schedule(_ connection: DownstreamPointer) {
        guard !connection.pointee.state.contains(.isScheduled), connection.pointee.phase != .closed else { return }
        connection.pointee.state.insert(.isScheduled)
        hot.pointee.agenda.append(connection.pointee.timer.owner)
    }

    /// Goes on with a server's connection after this event.
    func schedule(_ connection: UpstreamPointer) {
        guard !connection.pointee.state.contains(.isScheduled), connection.pointee.phase != .closed else { return }
        connection.pointee.state.insert(.isScheduled)
        hot.pointee.agenda.append(connection.pointee.timer.owner)
    }

    private func expired(_ entry: UnsafeMutablePointer<TimerEntry>) {
        let owner = entry.pointee.owner
        switch owner.kind {
        case TokenKind.downstream:
            if let connection = downstreams.find(owner.slabToken) { downstreamTimerExpired(connection) }
        case TokenKind.upstream:
            if let connection = upstreams.find(owner.slabToken) { upstreamTimerExpired(connection) }
        case TokenKind.exchange:
            if let exchange = exchanges.find(owner.slabToken) { exchangeTimerExpired(exchange) }
        case TokenKind.accepting: resumeAccepting()
        default: preconditionFailure("a timer of no kind")
        }
    }

    /// Frees the slots of what was closed in this batch.
    private func bury() {
        for token in hot.pointee.graveyard {
            if token.kind == TokenKind.downstream {
                downstreams.free(token.slabToken)
            } else {
                upstreams.free(token.slabToken)
            }
        }
        hot.pointee.graveyard.removeAll(keepingCapacity: true)
        if acceptingIsPaused, !isDraining { resumeAccepting() }
    }

    // MARK: Messages

    private func readMessages() {
        for message in shared.mailboxes[number].takeAll() {
            switch message {
            case .drain: drain()
            case .stop: isEnded = true
            case .addressesChanged(let server, let addresses):
                servers[server].addresses = .known(addresses)
                retryResolveWaiters(server)
            case .addressesFailed(let server, let failure):
                servers[server].addresses = .failed(failure)
                retryResolveWaiters(server)
            case .certificatesChanged(let contexts): takeContexts(contexts)
            case .serverTLSChanged(let server, let peer):
                servers[server].tls?.retire()
                servers[server].tls = peer
            case .ticketKeysChanged(let keys): for context in contexts { context?.setTicketKeys(keys) }
            case .targetLookedUp(let exchange, let outcome): targetLookedUp(exchange, outcome)
            case .permitReturned(let server): serveQueues(ofServer: server)
            }
        }
    }

    /// New connections take the new certificates; those there are keep what they have.
    private func takeContexts(_ changed: [TLSServerContext?]) {
        for (index, context) in changed.enumerated() {
            guard let context else { continue }
            contexts[index]?.retire()
            contexts[index] = context
            for socket in 0..<listenerCount where listeners[socket].index == index && listeners[socket].tls != nil {
                listeners[socket].tls = context
            }
        }
    }

    private func drain() {
        guard !isDraining else { return }
        // Who was let in by the kernel before the end is answered once more.
        for index in 0..<listenerCount where !acceptingIsPaused { acceptConnections(listeners + index) }
        isDraining = true
        stopAccepting()
        for index in 0..<listenerCount {
            // A socket that others have, too, is ended for all: they were told to drain as well.
            if listeners[index].isShared {
                Socket.stopListening(listeners[index].socket)
            } else {
                Socket.close(listeners[index].socket)
            }
        }
        downstreams.forEach { drain($0) }
    }

    private func drain(_ connection: DownstreamPointer) {
        switch connection.pointee.phase {
        case .idle:
            // A request may lie in the socket already.
            connection.pointee.state.insert(.mayRead)
            resumeDownstream(connection)
            guard connection.pointee.phase == .idle else { return }
            // Who is in the middle of a handshake is answered once more; its timer bounds that.
            if let tls = connection.pointee.tls, !tls.pointee.session.isEstablished { return }
            // What is written but not taken yet is still delivered.
            if connection.pointee.outbound.isEmpty { closeDownstream(connection) } else { beginClosing(connection) }
        case .exchanging: connection.pointee.exchange?.pointee.machine.connectionDrained()
        case .lingering:
            connection.pointee.phaseStartMilliseconds = nowMilliseconds
            updateTimer(connection)
        case .receivingHead, .flushing, .closed: break
        }
    }

    /// Ends whatever still runs.
    private func end() {
        if !isDraining { drain() }
        downstreams.forEach { connection in
            guard connection.pointee.phase != .closed else { return }
            if let exchange = connection.pointee.exchange {
                perform(exchange.pointee.machine.abandoned(.shutDown), for: exchange)
            }
            if connection.pointee.phase != .closed { closeDownstream(connection) }
        }
        upstreams.forEach { connection in
            if connection.pointee.phase != .closed { closeUpstream(connection) }
        }
        bury()
    }

    // MARK: Odds and ends

    /// Random bits that nobody can guess from earlier ones without work; they name requests, they protect none.
    func nextRequestID() -> RequestID {
        requestIDs.next(low: nextRandom())
    }

    /// xorshift128+.
    private func nextRandom() -> UInt64 {
        var low = hot.pointee.randomLow
        let high = hot.pointee.randomHigh
        low ^= low << 23
        hot.pointee.randomLow = high
        hot.pointee.randomHigh = low ^ high ^ (low >> 18) ^ (high >> 5)
        return hot.pointee.randomHigh &+ high
    }

    /// Leaves a line for the error log that a peer caused; at most ten a second, the rest is counted.
    func report(_ event: PeerEvent) {
        let second = nowMicroseconds / 1_000_000
        if second != peerEventSecond {
            if peerEventCount > 10 { shared.control.post(.peerEventsSuppressed(peerEventCount - 10)) }
            peerEventSecond = second
            peerEventCount = 0
        }
        peerEventCount += 1
        if peerEventCount <= 10 { shared.control.post(.peer(event)) }
    }
}
