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
import HTTP2
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
    /// Never told of: in the graveyard it stands for replaced snapshots.
    static let snapshot: UInt8 = 7
    /// Memory may be given back.
    static let memory: UInt8 = 8
    /// On the agenda: exchanges that wait for a stream of a server, by its number.
    static let server: UInt8 = 9
}

/// What other threads tell a worker.
enum WorkerMessage: Sendable {
    /// Take no new connection, end what is running, then end.
    case drain
    /// End now.
    case stop
    /// This is the configuration from now on.
    case generation(WorkerGeneration)
    /// A server's name was looked up.
    case resolved(server: Int, ResolutionOutcome)
    /// Certificates of the generation in force were read anew.
    case tlsChanged(WorkerTLS)
    /// Session tickets are sealed with these keys from now on.
    case ticketKeysChanged(TicketKeys)
    /// What CONNECT asks for was looked up, for this exchange.
    case targetLookedUp(SlabToken, ResolutionOutcome)
    /// A place below `max_exchanges` of a server may be free.
    case permitReturned(SharedServer)
}

/// Where a worker leaves records of the access log.
struct WorkerLog: Sendable {
    let ring: LogRing
    let thread: AccessLogThread
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
    /// What is read is put here: at most `relay_buffer`, and behind that the rest of a TLS record.
    let scratch: UnsafeMutablePointer<UInt8>
    /// Ciphertext, before it is decrypted.
    let cipherScratch: UnsafeMutablePointer<UInt8>
    let tlsEngine: TLSEngine
    let http2Engine: HTTP2Engine
    let acceptTimer: UnsafeMutablePointer<TimerEntry>
    /// When memory is looked at that nobody needs any more.
    let memoryTimer: UnsafeMutablePointer<TimerEntry>
    let dateText: UnsafeMutablePointer<UInt8>
    /// What this worker counts.
    let metrics: MetricCells
    /// The first half of every request's identity.
    let requestIDs: RequestID

    /// What changes all the time, behind a pointer: properties of a class are checked for exclusive access at run
    /// time, at about fifty instructions each.
    let hot: UnsafeMutablePointer<HotState>

    var acceptingIsPaused = false
    /// When a pause may be told of again.
    var pauseReportMilliseconds: UInt64 = 0
    /// Whether the time has been set at which spare memory is given back.
    private var looksAtMemory = false
    var isDraining = false
    var isEnded = false
    var peerEventSecond: UInt64 = 0
    var peerEventCount = 0

    /// Which of the lists below has something in it.
    struct Work: OptionSet {
        let rawValue: UInt8
        static let agenda = Work(rawValue: 1 << 0)
        static let putOff = Work(rawValue: 1 << 1)
        static let frames = Work(rawValue: 1 << 2)
        static let graveyard = Work(rawValue: 1 << 3)
    }

    /// See `hot`.
    struct HotState {
        var nowMicroseconds: UInt64
        var nowMilliseconds: UInt64
        var wallOffsetMicroseconds: UInt64 = 0
        /// When the text of Date is over.
        var nextDateMicroseconds: UInt64 = 0
        var randomLow: UInt64
        var randomHigh: UInt64
        /// The snapshot in force: new exchanges take it. There is one from the end of `init` on.
        var snapshot: UnsafeMutablePointer<SnapshotSlot>?
        /// All snapshots that are alive, the one in force last.
        var slots: [UnsafeMutablePointer<SnapshotSlot>] = []
        /// What is listened on.
        var listeners: [UnsafeMutablePointer<ListenerState>] = []
        var nextListenerNumber: UInt32 = 0
        /// Servers by their numbers.
        var servers: [Int: UnsafeMutablePointer<ServerState>] = [:]
        /// Where records of the access log go.
        var log: WorkerLog?
        /// Exchanges that wait for a server's addresses.
        var resolveWaiters: [SlabToken] = []
        /// One look tells whether there is anything in the next four lists.
        var work: Work = []
        var agenda: [ReadinessToken] = []
        /// The agenda of the next round: connections that had their share of this one.
        var nextAgenda: [ReadinessToken] = []
        var graveyard: [ReadinessToken] = []
        /// Connections that speak HTTP/2 and have frames to send at the end of this turn.
        var framed: [ReadinessToken] = []
        var framedNow: [ReadinessToken] = []
        /// Why the handshake failed that is being told of.
        var tlsFailureText: String?
    }

    var nowMicroseconds: UInt64 { hot.pointee.nowMicroseconds }
    var nowMilliseconds: UInt64 { hot.pointee.nowMilliseconds }

    /// Makes a worker; on its own thread.
    /// - Parameter first: the configuration it begins with.
    init(_ shared: SharedState, number: Int, _ first: WorkerGeneration) throws(SystemError) {
        self.shared = shared
        self.number = number
        epoll = try Epoll(batchMax: 256)
        let now = Clock.monotonicMicroseconds()
        let random = Process.randomWords(3)
        requestIDs = RequestID(high: random[2], low: 0)
        hot = .allocate(capacity: 1)
        hot.initialize(
            to: HotState(
                nowMicroseconds: now, nowMilliseconds: now / 1000, randomLow: random[0], randomHigh: random[1] | 1))
        wheel = TimerWheel(nowMilliseconds: now / 1000)
        pool = BufferPool(freeBytesMax: 1 << 20)
        pipes = PipePool(countMax: shared.pipesOfWorkerMax)
        downstreams = Slab()
        upstreams = Slab()
        exchanges = Slab()
        // Room for whatever a later generation may ask for: pages that are never touched cost nothing.
        head = Head(fieldsCapacity: Configuration.fieldsMaxRange.upperBound)
        let relayBytesMax = Configuration.relayBufferRange.upperBound
        scratch = .allocate(capacity: relayBytesMax + TLSSession.plaintextBytesExtra)
        cipherScratch = .allocate(capacity: relayBytesMax)
        tlsEngine = TLSEngine()
        let seed = Process.randomWords(2)
        guard let http2Engine = HTTP2Engine(pool: pool, random: (seed[0], seed[1])) else {
            preconditionFailure("there is no memory for a worker")
        }
        self.http2Engine = http2Engine
        downstreamGather = Gather(scratchCapacity: 0)
        upstreamGather = Gather(scratchCapacity: 0)
        metrics = shared.metrics.workers[number].cells
        dateText = .allocate(capacity: HTTPDate.textBytes)
        acceptTimer = .allocate(capacity: 1)
        acceptTimer.initialize(
            to: TimerEntry(owner: ReadinessToken(kind: TokenKind.accepting, SlabToken(index: 0, generation: 0))))
        memoryTimer = .allocate(capacity: 1)
        memoryTimer.initialize(
            to: TimerEntry(owner: ReadinessToken(kind: TokenKind.memory, SlabToken(index: 0, generation: 0))))
        try epoll.addSource(
            shared.mailboxes[number].wakeUp.descriptor,
            ReadinessToken(kind: TokenKind.mailbox, SlabToken(index: 0, generation: 0)), exclusive: false)
        take(first)
    }

    deinit {
        // The end has closed every connection, and with them all but the snapshot in force.
        precondition(hot.pointee.slots.count <= 1, "a snapshot is held at the end")
        for listener in hot.pointee.listeners {
            listener.deinitialize(count: 1)
            listener.deallocate()
        }
        if let slot = hot.pointee.snapshot { free(slot) }
        precondition(hot.pointee.servers.isEmpty, "a server is held at the end")
        hot.deinitialize(count: 1)
        hot.deallocate()
        acceptTimer.deallocate()
        memoryTimer.deallocate()
        dateText.deallocate()
        scratch.deallocate()
        cipherScratch.deallocate()
        tlsEngine.destroy()
        http2Engine.destroy()
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
        let putOffCount = hot.pointee.work.contains(.putOff) ? hot.pointee.nextAgenda.count : 0
        for index in 0..<count {
            let event = epoll.event(index)
            dispatch(event.token, event.readiness)
            if !hot.pointee.work.isEmpty { eventEnded() }
        }
        wheel.advance(to: nowMilliseconds) { expired($0) }
        if !hot.pointee.work.isEmpty { turnEnded(putOffCount) }
        if isDraining, downstreams.count == 0 { isEnded = true }
        return count
    }

    /// Work that an event has left.
    @inline(never)
    private func eventEnded() {
        if hot.pointee.work.contains(.agenda) { runAgenda() }
        if hot.pointee.framed.count >= Self.framedMax { sendFrames() }
    }

    /// Work that is done once in a turn, behind its events and timers.
    /// - Parameter putOffCount: how many connections were put off before it.
    @inline(never)
    private func turnEnded(_ putOffCount: Int) {
        if putOffCount > 0 { takeNextAgenda(putOffCount) }
        if hot.pointee.work.contains(.agenda) { runAgenda() }
        if hot.pointee.work.contains(.frames) { sendFrames() }
        if hot.pointee.work.contains(.graveyard) { bury() }
    }

    private func waitMilliseconds() -> Int32 {
        if !hot.pointee.work.isEmpty { return 0 }
        guard let next = wheel.nextMilliseconds else { return -1 }
        return next <= nowMilliseconds ? 0 : Int32(clamping: next - nowMilliseconds)
    }

    @inline(__always)
    private func updateTime() {
        let now = Clock.monotonicMicroseconds()
        hot.pointee.nowMicroseconds = now
        hot.pointee.nowMilliseconds = now / 1000
        if now >= hot.pointee.nextDateMicroseconds { updateDate() }
    }

    /// Once a second.
    @inline(never)
    private func updateDate() {
        let now = hot.pointee.nowMicroseconds
        hot.pointee.nextDateMicroseconds = (now / 1_000_000 + 1) * 1_000_000
        let wall = Clock.wallMicroseconds()
        hot.pointee.wallOffsetMicroseconds = wall &- now
        var writer = ByteWriter(base: dateText, capacity: HTTPDate.textBytes)
        HTTPDate(secondsSince1970: wall / 1_000_000).write(to: &writer)
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
        case TokenKind.listener:
            // It may have gone in this batch.
            let number = token.slabToken.index
            if let listener = hot.pointee.listeners.first(where: { $0.pointee.number == number }) {
                acceptConnections(listener)
            }
        case TokenKind.mailbox: readMessages()
        default: preconditionFailure("a token of no kind")
        }
    }

    @inline(never)
    func runAgenda() {
        // What runs may add to it.
        var index = 0
        while index < hot.pointee.agenda.count {
            let token = hot.pointee.agenda[index]
            index += 1
            if token.kind == TokenKind.downstream {
                if let connection = downstreams.find(token.slabToken) {
                    connection.pointee.state.remove(.isScheduled)
                    if connection.pointee.state.contains(.isStream) {
                        resumeStream(connection)
                    } else {
                        resumeDownstream(connection)
                    }
                }
            } else if token.kind == TokenKind.server {
                serveStreams(ofServer: Int(token.slabToken.index))
            } else if let connection = upstreams.find(token.slabToken) {
                connection.pointee.state.remove(.isScheduled)
                resumeUpstream(connection)
            }
        }
        hot.pointee.agenda.removeAll(keepingCapacity: true)
        hot.pointee.work.remove(.agenda)
    }

    /// What was put off in the last round comes behind the events of this one.
    private func takeNextAgenda(_ count: Int) {
        hot.pointee.agenda.append(contentsOf: hot.pointee.nextAgenda.prefix(count))
        hot.pointee.nextAgenda.removeFirst(count)
        hot.pointee.work.insert(.agenda)
        if hot.pointee.nextAgenda.isEmpty { hot.pointee.work.remove(.putOff) }
    }

    /// Reads of one connection in one round: half a MiB at the default `relay_buffer`.
    static var readsPerRoundMax: Int { 8 }

    /// Counts a read of this round. A connection that always has bytes does not keep the others waiting: when it had
    /// its share, it goes on in the next round.
    @inline(__always)
    func mayGoOn(_ reads: inout Int, _ owner: ReadinessToken, _ state: inout SocketState) -> Bool {
        reads += 1
        if reads > Self.readsPerRoundMax { putOff(owner, &state) }
        return reads <= Self.readsPerRoundMax
    }

    /// A connection goes on in the next round.
    @inline(never)
    func putOff(_ owner: ReadinessToken, _ state: inout SocketState) {
        guard !state.contains(.isScheduled) else { return }
        state.insert(.isScheduled)
        hot.pointee.nextAgenda.append(owner)
        hot.pointee.work.insert(.putOff)
    }

    /// Goes on with a client's connection after this event.
    func schedule(_ connection: DownstreamPointer) {
        guard !connection.pointee.state.contains(.isScheduled), connection.pointee.phase != .closed else { return }
        connection.pointee.state.insert(.isScheduled)
        hot.pointee.agenda.append(connection.pointee.timer.owner)
        hot.pointee.work.insert(.agenda)
    }

    /// Goes on with a server's connection after this event.
    func schedule(_ connection: UpstreamPointer) {
        guard !connection.pointee.state.contains(.isScheduled), connection.pointee.phase != .closed else { return }
        connection.pointee.state.insert(.isScheduled)
        hot.pointee.agenda.append(connection.pointee.timer.owner)
        hot.pointee.work.insert(.agenda)
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
        case TokenKind.memory: giveMemoryBack()
        default: preconditionFailure("a timer of no kind")
        }
    }

    /// Frees the slots of what was closed in this batch, and snapshots that nobody holds any more.
    private func bury() {
        for token in hot.pointee.graveyard {
            switch token.kind {
            case TokenKind.downstream:
                if let connection = downstreams.find(token.slabToken) { connectionFreed(connection.pointee.listener) }
                downstreams.free(token.slabToken)
            case TokenKind.upstream:
                let connection = upstreams.find(token.slabToken)
                let server = connection?.pointee.server
                let isStream = connection?.pointee.state.contains(.isStream) ?? false
                upstreams.free(token.slabToken)
                if let server { connectionFreed(server, isStream: isStream) }
            default: break
            }
        }
        if hot.pointee.slots.count > 1 { freeReplacedSnapshots() }
        hot.pointee.graveyard.removeAll(keepingCapacity: true)
        hot.pointee.work.remove(.graveyard)
        if acceptingIsPaused, !isDraining { resumeAccepting() }
        if !looksAtMemory, hasMemoryToSpare { lookAtMemoryLater() }
    }

    /// The slot is freed at the end of the batch.
    func buryLater(_ token: ReadinessToken) {
        hot.pointee.graveyard.append(token)
        hot.pointee.work.insert(.graveyard)
    }

    // MARK: Memory

    /// Slots of connections, and bytes of buffers, that are kept for the next rush.
    private static var spareSlotsMax: Int { 1024 }
    private static var spareBytesMax: Int { 4 << 20 }
    /// How long a rush has to be over.
    private static var memoryDelayMilliseconds: UInt64 { 2_000 }

    private var hasMemoryToSpare: Bool {
        downstreams.freeCount > max(Self.spareSlotsMax, downstreams.count)
            || upstreams.freeCount > max(Self.spareSlotsMax, upstreams.count)
            || pool.peakBytes - pool.borrowedBytes > max(Self.spareBytesMax, pool.borrowedBytes)
    }

    private func lookAtMemoryLater() {
        looksAtMemory = true
        wheel.set(memoryTimer, deadlineMilliseconds: nowMilliseconds + Self.memoryDelayMilliseconds)
    }

    /// What the allocator has is given back to the system by the control thread: that takes its time.
    private func giveMemoryBack() {
        looksAtMemory = false
        guard hasMemoryToSpare else { return }
        pool.forgetPeak()
        downstreams.shrink()
        upstreams.shrink()
        exchanges.shrink()
        shared.control.post(.memoryFreed)
    }

    // MARK: Messages

    private func readMessages() {
        for message in shared.mailboxes[number].takeAll() {
            switch message {
            case .drain: drain()
            case .stop: isEnded = true
            case .generation(let generation): take(generation)
            case .resolved(let server, let outcome):
                hot.pointee.servers[server]?.pointee.resolved(outcome)
                retryResolveWaiters(server)
            case .tlsChanged(let tls): takeTLS(tls)
            case .ticketKeysChanged(let keys):
                for slot in hot.pointee.slots { for context in slot.pointee.contexts { context?.setTicketKeys(keys) } }
            case .targetLookedUp(let exchange, let outcome): targetLookedUp(exchange, outcome)
            case .permitReturned(let server): serveQueues(of: server)
            }
        }
    }

    /// New connections take the new certificates; those there are keep what they have.
    private func takeTLS(_ tls: WorkerTLS) {
        guard let slot = hot.pointee.snapshot else { return }
        for (index, context) in tls.listeners.enumerated() {
            guard let context else { continue }
            slot.pointee.contexts[index]?.retire()
            slot.pointee.contexts[index] = context
            for listener in hot.pointee.listeners where listener.pointee.index == index && listener.pointee.tls != nil {
                listener.pointee.tls = context
            }
        }
        for (number, peer) in tls.servers {
            hot.pointee.servers[number]?.pointee.tls?.retire()
            hot.pointee.servers[number]?.pointee.tls = peer
        }
    }

    private func drain() {
        guard !isDraining else { return }
        // Who was let in by the kernel before the end is answered once more.
        for listener in hot.pointee.listeners { acceptAllWaiting(listener) }
        isDraining = true
        stopAccepting()
        for listener in hot.pointee.listeners {
            listener.pointee.isEnding = true
            let socket = listener.pointee.socket
            // A socket that others have, too, is ended for all: they were told to drain as well. What came from the
            // service manager stays: it keeps who comes for the next process.
            if socket.isInherited { continue }
            if socket.isShared { Socket.stopListening(socket.descriptor) } else { Socket.close(socket.descriptor) }
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
        case .multiplexing: announceShutdown(connection)
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
            if connection.pointee.phase != .closed, let exchange = connection.pointee.exchange {
                perform(exchange.pointee.machine.abandoned(.shutDown), for: exchange)
            }
        }
        sendFrames()
        downstreams.forEach { connection in
            // Streams are closed with their parents.
            guard connection.pointee.phase != .closed, !connection.pointee.state.contains(.isStream) else { return }
            closeDownstream(connection)
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
