// The thread that answers `/healthz`, `/readyz`, `/metrics` and the status. It shares nothing with the workers but what they
// count: it answers while they are busy, and nothing that is asked of it takes their time. Every socket is non-blocking; a
// connection takes one request, lives for ten seconds at most, and gives way to a newer one when there are 64. Those that
// get events live as long as they take them, and there are 16 of them at most.

import EventLoop
import Glibc
import HTTP1
import HTTPSemantics
import ProxyCore
import Synchronization

/// See the head of the file.
final class AdminThread: Sendable {
    private let shared: SharedState
    private let hosts: AdminHosts
    private let wakeUp: WakeUp
    private let isDraining = Atomic<Bool>(false)
    private let isStopped = Atomic<Bool>(false)
    private let isEnded = Atomic<Bool>(false)

    /// Starts the thread.
    /// - Parameter sockets: they listen; the thread does not close them.
    init(_ sockets: [Int32], _ shared: SharedState) throws(SystemError) {
        self.shared = shared
        hosts = AdminHosts(
            boundTo: try sockets.map { socket throws(SystemError) in try Socket.localAddress(of: socket) })
        wakeUp = try WakeUp()
        try Thread.start(name: "admin") { [self] in
            run(sockets)
            isEnded.store(true, ordering: .releasing)
        }
    }

    /// From now on `/readyz` says that no more should be sent here.
    func beginDraining() { isDraining.store(true, ordering: .releasing) }

    /// Ends the thread.
    func stop() {
        isStopped.store(true, ordering: .releasing)
        wakeUp.ring()
        // It never blocks, so it ends at once; but to be sure nobody waits for ever.
        let stepMicroseconds: UInt32 = 1_000
        for _ in 0..<(1_000_000 / stepMicroseconds) {
            if isEnded.load(ordering: .acquiring) { return }
            usleep(stepMicroseconds)
        }
    }

    private func run(_ sockets: [Int32]) {
        var loop = AdminLoop(sockets, hosts, wakeUp: wakeUp.descriptor, shared) { [self] in
            AdminSubject(
                isDraining: isDraining.load(ordering: .acquiring), metrics: { [shared] in MetricsText.write(shared) },
                status: { [self] inOneLine in
                    let document = StatusDocument.make(shared, isDraining: isDraining.load(ordering: .acquiring))
                    return inOneLine ? document.line : document.text()
                })
        }
        while !isStopped.load(ordering: .acquiring) { loop.turn() }
        loop.end()
    }
}

/// The loop over the sockets.
private struct AdminLoop {
    /// How many connections there may be at once.
    static let connectionsMax = 64
    /// How long accepting pauses when no descriptor is left.
    private static let pauseMilliseconds: UInt64 = 100

    private let listeners: [Int32]
    private let hosts: AdminHosts
    private let wakeUp: Int32
    private let shared: SharedState
    private let subject: () -> AdminSubject
    /// How often events are sent.
    private static let eventMilliseconds: UInt64 = 1000
    private var nextEventMilliseconds: UInt64 = 0
    /// The oldest first.
    private var connections: [AdminConnection] = []
    private let head = Head(fieldsCapacity: AdminConnection.limits.fieldsMax)
    private let room = UnsafeMutablePointer<UInt8>.allocate(capacity: AdminConnection.readBytesMax)
    private var acceptAgainMilliseconds: UInt64 = 0

    init(
        _ listeners: [Int32], _ hosts: AdminHosts, wakeUp: Int32, _ shared: SharedState,
        subject: @escaping () -> AdminSubject
    ) {
        self.listeners = listeners
        self.hosts = hosts
        self.wakeUp = wakeUp
        self.shared = shared
        self.subject = subject
    }

    /// Closes every connection.
    func end() {
        for connection in connections { Socket.close(connection.socket) }
        head.destroy()
        room.deallocate()
    }

    /// Waits, and does what has become possible.
    mutating func turn() {
        var now = Self.milliseconds
        let isPaused = now < acceptAgainMilliseconds
        var entries = [pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0)]
        // poll passes over a negative descriptor.
        entries += listeners.map { pollfd(fd: isPaused ? -1 : $0, events: Int16(POLLIN), revents: 0) }
        entries += connections.map { pollfd(fd: $0.socket, events: $0.awaitedEvents, revents: 0) }
        var next = connections.reduce(.max) { min($0, $1.deadlineMilliseconds) }
        if connections.contains(where: \.getsEvents) { next = min(next, nextEventMilliseconds) }
        if isPaused { next = min(next, acceptAgainMilliseconds) }
        let timeout = next == .max ? -1 : Int32(clamping: next > now ? next - now : 0)
        guard poll(&entries, nfds_t(entries.count), timeout) >= 0 else { return }
        now = Self.milliseconds
        for index in connections.indices {
            if entries[1 + listeners.count + index].revents != 0 {
                connections[index].goOn(head, room, now: now, answer)
            }
            if connections[index].deadlineMilliseconds <= now { connections[index].phase = .over }
        }
        sendEvents(now: now)
        removeEnded()
        for (index, listener) in listeners.enumerated() where entries[1 + index].revents != 0 {
            accept(listener, now: now)
        }
    }

    private func answer(_ head: Head, _ peer: AdminPeer) -> AdminAnswer {
        let admin = shared.standing.facts.generation?.configuration.admin
        let path = String(head.text(head.storage.pointee.originForm).prefix { $0 != "?" })
        let request = AdminRequest(
            method: head.storage.pointee.method, path: path,
            isForUs: peer.isUnix || hosts.serve(AdminHosts.asked(in: head), path: path, admin?.allowedHosts ?? []),
            mayWatch: peer.mayWatch(admin?.allowedNetworks ?? []))
        let answer = AdminResponse.answer(request, subject())
        guard case .events = answer, connections.count(where: \.getsEvents) >= AdminConnection.eventStreamsMax else {
            return answer
        }
        return .response(AdminResponse(status: 503, content: "too many watch already\n"))
    }

    /// The status goes to all who watch; who has not taken the last one yet gets a later one.
    private mutating func sendEvents(now: UInt64) {
        let isDue = now >= nextEventMilliseconds
        guard connections.contains(where: { $0.getsEvents && (isDue || $0.isFresh) }) else { return }
        if isDue { nextEventMilliseconds = now + Self.eventMilliseconds }
        let event = Array("data: \(subject().status(true))\n\n".utf8)
        for index in connections.indices where connections[index].getsEvents && (isDue || connections[index].isFresh) {
            connections[index].send(event: event, now: now)
        }
    }

    private mutating func accept(_ listener: Int32, now: UInt64) {
        for _ in 0..<Self.connectionsMax {
            switch Socket.accept(listener) {
            case .accepted(let socket, let address):
                // Streams of events are few enough that there is always another.
                if connections.count == Self.connectionsMax,
                    let oldest = connections.firstIndex(where: { !$0.getsEvents })
                {
                    Socket.close(connections.remove(at: oldest).socket)
                }
                connections.append(AdminConnection(socket, AdminPeer(address), now: now))
            case .goneAlready: continue
            case .nothingWaiting: return
            case .exhausted:
                acceptAgainMilliseconds = now + Self.pauseMilliseconds
                return
            }
        }
    }

    private mutating func removeEnded() {
        for connection in connections where connection.phase == .over { Socket.close(connection.socket) }
        connections.removeAll { $0.phase == .over }
    }

    private static var milliseconds: UInt64 { Clock.monotonicMicroseconds() / 1000 }
}

/// Who asks.
private struct AdminPeer {
    let isUnix: Bool
    private let address: IPAddress

    init(_ address: SocketAddress) {
        isUnix = address.isUnix
        self.address = IPAddress(high: address.ip.high, low: address.ip.low)
    }

    /// Whether it may see the status.
    func mayWatch(_ networks: [IPNetwork]) -> Bool {
        isUnix || Self.loopback.contains { $0.contains(address) } || networks.contains { $0.contains(address) }
    }

    private static let loopback = ["127.0.0.0/8", "::1"].compactMap { IPNetwork($0) }
}

/// A connection: one request, one answer.
private struct AdminConnection {
    enum Phase {
        /// The request's head is not complete.
        case receiving
        /// The answer is not out.
        case sending
        /// Events go out, one after the other.
        case watching
        /// Our direction is ended; what still comes is thrown away, so that the answer is not lost to a reset.
        case lingering
        /// To be closed.
        case over
    }

    static let limits = HeadLimits(headBytesMax: 8 << 10, fieldsMax: 32, targetBytesMax: 8 << 10)
    static let readBytesMax = 4096
    private static let lifeMilliseconds: UInt64 = 10_000
    /// Calls on one socket in a turn: who sends without end keeps nobody waiting.
    private static let callsPerTurnMax = 16
    /// How many connections may get events.
    static let eventStreamsMax = 16

    let socket: Int32
    private let peer: AdminPeer
    /// When it is over, whatever it does. Each event that is taken postpones it.
    private(set) var deadlineMilliseconds: UInt64
    var phase = Phase.receiving
    private var decoder = HTTP1Decoder(.request)
    private var inbound: [UInt8] = []
    private var outbound: [UInt8] = []
    private var sentCount = 0
    /// Whether the socket took nothing the last time.
    private var isFull = false

    init(_ socket: Int32, _ peer: AdminPeer, now: UInt64) {
        self.socket = socket
        self.peer = peer
        deadlineMilliseconds = now + Self.lifeMilliseconds
    }

    var awaitedEvents: Int16 {
        switch phase {
        case .sending: Int16(POLLOUT)
        case .watching: Int16(outbound.isEmpty ? POLLIN : POLLIN | POLLOUT)
        case .receiving, .lingering, .over: Int16(POLLIN)
        }
    }

    var getsEvents: Bool { phase == .watching }
    /// Whether it has got no event yet.
    private(set) var isFresh = false

    /// Does what is possible now.
    mutating func goOn(
        _ head: Head, _ room: UnsafeMutablePointer<UInt8>, now: UInt64,
        _ answer: (Head, AdminPeer) -> AdminAnswer
    ) {
        for _ in 0..<Self.callsPerTurnMax {
            switch phase {
            case .receiving:
                switch Socket.receive(socket, into: room, capacity: Self.readBytesMax) {
                case .bytes(let count):
                    inbound.append(contentsOf: UnsafeBufferPointer(start: room, count: count))
                    decode(head, answer)
                case .wouldBlock: return
                case .ended, .failed: phase = .over
                }
            case .sending: sendAnswer()
            case .watching:
                if !outbound.isEmpty { sendEvent(now: now) }
                if phase == .watching, !throwAwayInput(room) { return }
            case .lingering: if !throwAwayInput(room) { return }
            case .over: return
            }
            if phase == .sending, isFull { return }
        }
    }

    /// - Returns: whether there was any, or an end.
    private mutating func throwAwayInput(_ room: UnsafeMutablePointer<UInt8>) -> Bool {
        switch Socket.receive(socket, into: room, capacity: Self.readBytesMax) {
        case .bytes: return true
        case .wouldBlock: return false
        case .ended, .failed:
            phase = .over
            return true
        }
    }

    private mutating func decode(_ head: Head, _ answer: (Head, AdminPeer) -> AdminAnswer) {
        let input = inbound
        var decoder = decoder
        var consumed = 0
        var isStream = false
        let response: [UInt8]? = input.withUnsafeBufferPointer { bytes in
            switch decoder.next(bytes, from: &consumed, into: head, limits: Self.limits) {
            case .needsInput: return nil
            case .failed(let fault): return AdminResponse(refusing: fault).bytes(toHEAD: false)
            case .head:
                let method = head.storage.pointee.method
                switch answer(head, peer) {
                case .response(let response): return response.bytes(toHEAD: method == .head)
                case .events:
                    isStream = method == .get
                    return AdminResponse.eventsHead()
                }
            case .interim, .content, .trailers, .ended: preconditionFailure("a request begins with its head")
            }
        }
        self.decoder = decoder
        inbound.removeFirst(consumed)
        guard let response else { return }
        inbound = []
        outbound = response
        phase = isStream ? .watching : .sending
        isFresh = isStream
    }

    /// The next event, if the last one is out.
    mutating func send(event: [UInt8], now: UInt64) {
        guard isFresh || outbound.isEmpty else { return }
        isFresh = false
        outbound += event
        sendEvent(now: now)
    }

    private mutating func sendEvent(now: UInt64) {
        if sendWaiting() { deadlineMilliseconds = now + Self.lifeMilliseconds }
    }

    private mutating func sendAnswer() {
        guard sendWaiting() else { return }
        Socket.endSending(socket)
        phase = .lingering
    }

    /// - Returns: whether what waited is out now.
    private mutating func sendWaiting() -> Bool {
        isFull = false
        let result = outbound.withUnsafeBufferPointer { bytes in
            bytes.baseAddress.map { Socket.send(socket, $0 + sentCount, count: bytes.count - sentCount) }
        }
        switch result {
        case .bytes(let count):
            sentCount += count
            guard sentCount == outbound.count else { return false }
            outbound = []
            sentCount = 0
            return true
        case .wouldBlock: isFull = true
        case .ended, .failed, nil: phase = .over
        }
        return false
    }
}
