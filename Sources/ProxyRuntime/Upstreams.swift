// What a worker knows of upstreams and their servers, and what all workers share of a server: the count against
// `max_exchanges`. Pools are keyed by the server's identity, not by the configuration that names it, so that they
// survive a change of it.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import Synchronization
import TLS

/// What makes a server the same server.
struct ServerIdentity: Hashable, Sendable {
    let endpoint: Endpoint
    let family: AddressFamily
    /// How it is spoken to by TLS.
    let tls: UpstreamTLS?
    let protocolVersion: UpstreamProtocol

    init(_ server: Server, of upstream: Upstream) {
        let tls = upstream.tls
        protocolVersion = upstream.protocolVersion
        endpoint = server.endpoint
        family = server.family
        self.tls = tls
    }

    /// The name or the address that its certificate has to be for.
    var verifiedName: String {
        if let name = tls?.serverName { return name }
        switch endpoint {
        case .ip(let address, _): return "\(address)"
        case .name(let name, _): return name
        case .unix, .inherited: return "localhost"
        }
    }

    /// As it stands in a Host field and in logs.
    var authority: String {
        switch endpoint {
        case .ip(let address, let port): address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
        case .name(let name, let port): "\(name):\(port)"
        case .unix, .inherited: "localhost"
        }
    }

    /// For logs.
    var description: String {
        if case .unix(let path) = endpoint { return "unix:\(path)" }
        return authority
    }
}

/// What all workers share of one server.
final class SharedServer: Sendable {
    let identity: ServerIdentity
    /// Names it in messages; no other server of the process ever has it.
    let number: Int
    // A worker says that it waits and looks for a place; another gives a place back and looks for who waits. Only a
    // common order of all four sees to it that one of them sees the other.
    private let runningCount = Atomic<Int>(0)
    /// A bit for each worker, modulo 64, that has exchanges waiting.
    private let waitingWorkers = Atomic<UInt64>(0)
    private let lastWokenWorker = Atomic<Int>(63)
    /// What is counted when connections come and go, which is seldom: `headfirst_server_*`.
    let connects = Atomic<UInt64>(0)
    let connectFailures = Atomic<UInt64>(0)
    let closes = Atomic<UInt64>(0)
    /// Why the last try to connect failed, as `Failure.rawValue`, and why its name has no address.
    private let connectFailure = Atomic<UInt8>(SharedServer.noFailure)
    private let nameFailure = Atomic<UInt8>(SharedServer.noFailure)
    private static let noFailure = UInt8.max

    init(_ identity: ServerIdentity, number: Int) {
        self.identity = identity
        self.number = number
    }

    /// Why nobody gets through to it, as far as the last try tells; nil if somebody did, or if there was none.
    var failure: Failure? {
        Failure(rawValue: nameFailure.load(ordering: .relaxed))
            ?? Failure(rawValue: connectFailure.load(ordering: .relaxed))
    }

    /// Connections to it that are open, or being made. What was closed is read first, so that it is never below zero.
    var openConnections: UInt64 {
        let closed = closes.load(ordering: .acquiring)
        return connects.load(ordering: .relaxed) - closed
    }

    /// A connection is there that requests can be sent on.
    func connected() { connectFailure.store(Self.noFailure, ordering: .relaxed) }

    /// A connection could not be made.
    func connectFailed(_ failure: Failure) {
        connectFailures.add(1, ordering: .relaxed)
        connectFailure.store(failure.rawValue, ordering: .relaxed)
    }

    /// Its name was looked up.
    /// - Parameter failure: nil if it has an address.
    func nameResolved(_ failure: Failure?) {
        nameFailure.store(failure?.rawValue ?? Self.noFailure, ordering: .relaxed)
    }

    /// Takes a place among `max`, if one is free.
    func takePermit(max: Int) -> Bool {
        var current = runningCount.load(ordering: .sequentiallyConsistent)
        while current < max {
            let (exchanged, original) = runningCount.weakCompareExchange(
                expected: current, desired: current + 1, ordering: .sequentiallyConsistent)
            if exchanged { return true }
            current = original
        }
        return false
    }

    /// Gives a place back.
    func givePermit() {
        runningCount.subtract(1, ordering: .sequentiallyConsistent)
    }

    /// Whether a place among `max` is free at this moment.
    func hasPermit(max: Int) -> Bool { runningCount.load(ordering: .acquiring) < max }

    /// A worker that waits for a place, each in turn; nil if none does.
    func nextWaitingWorker() -> Int? {
        let waiting = waitingWorkers.load(ordering: .sequentiallyConsistent)
        guard waiting != 0 else { return nil }
        let last = lastWokenWorker.load(ordering: .relaxed)
        let later = last == 63 ? 0 : waiting & (.max << UInt64(last + 1))
        let next = (later != 0 ? later : waiting).trailingZeroBitCount
        lastWokenWorker.store(next, ordering: .relaxed)
        return next
    }

    func setWaiting(worker: Int, _ isWaiting: Bool) {
        let bit: UInt64 = 1 << UInt64(worker & 63)
        if isWaiting {
            waitingWorkers.bitwiseOr(bit, ordering: .sequentiallyConsistent)
        } else {
            waitingWorkers.bitwiseAnd(~bit, ordering: .sequentiallyConsistent)
        }
    }
}

/// A server as one worker sees it. Reached by pointer; lives as long as an upstream names it or a connection to it is
/// open.
struct ServerState {
    /// Where the server is, if that is known.
    enum Addresses {
        /// Nobody answered yet.
        case unknown
        /// At least one; they are taken in turn.
        case known([SocketAddress])
        /// The name has none.
        case failed(Failure)

        /// What looking a name up came to.
        init(_ outcome: ResolutionOutcome, port: UInt16) {
            switch outcome {
            case .addresses(let addresses): self = .known(addresses.map { SocketAddress($0, port: port) })
            case .failed(let failure): self = .failed(failure == .timedOut ? .nameTimedOut : .nameNotFound)
            }
        }
    }

    let shared: SharedServer
    let authority: UnsafeBufferPointer<UInt8>
    let logName: UnsafeBufferPointer<UInt8>
    var addresses: Addresses
    var nextAddress = 0
    var idle = IdlePool()
    /// How many may stay idle, by the upstream that gave one back last.
    var idleConnectionsMax = Int.max
    /// Whether it is spoken to in HTTP/2.
    let speaksHTTP2: Bool
    /// Its connections in HTTP/2 that take new exchanges, or will when they are made.
    var multiplexed: [UnsafeMutablePointer<UpstreamConnection>] = []
    /// Exchanges that wait for a stream of any of them, first come first served.
    var streamQueue: [SlabToken] = []
    /// How many streams a connection of it takes at once, as it said last; many, before it did.
    var streamsOfConnection = Worker.waitingMax
    /// Its TLS, if it is spoken to by TLS.
    var tls: TLSClientPeer?
    /// Upstreams that name it, those of earlier generations among them.
    var upstreamCount = 0
    /// Open connections to it.
    var connectionCount = 0
    /// Whether the generation in force does not name it: then nothing is pooled.
    var isRemoved = false

    init(_ shared: SharedServer, tls: TLSClientPeer?) {
        precondition(shared.identity.tls == nil || tls != nil, "a server of TLS without its TLS")
        self.shared = shared
        self.tls = tls
        speaksHTTP2 = shared.identity.protocolVersion == .http2
        authority = Self.copy(shared.identity.authority)
        logName = Self.copy(shared.identity.description)
        switch shared.identity.endpoint {
        case .ip(let address, let port):
            addresses = .known([SocketAddress(address, port: port)])
        case .unix(let path):
            addresses = SocketAddress(path: path).map { .known([$0]) } ?? .failed(.connectUnreachable)
        case .name:
            addresses = .unknown
        case .inherited: preconditionFailure("a server is never a socket of ours")
        }
    }

    private static func copy(_ text: String) -> UnsafeBufferPointer<UInt8> {
        let bytes = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: text.utf8.count)
        _ = bytes.initialize(from: text.utf8)
        return UnsafeBufferPointer(bytes)
    }

    func destroy() {
        tls?.retire()
        authority.deallocate()
        logName.deallocate()
    }

    /// What a name's server is reached by, from now on.
    mutating func resolved(_ outcome: ResolutionOutcome) {
        guard case .name(_, let port) = shared.identity.endpoint else { return }
        addresses = Addresses(outcome, port: port)
    }

    /// How many addresses can be tried.
    var addressCount: Int {
        if case .known(let addresses) = addresses { addresses.count } else { 1 }
    }
}

extension SocketAddress {
    init(_ address: IPAddress, port: UInt16) {
        self.init(high: address.high, low: address.low, isIPv4: address.isIPv4, port: port)
    }
}

/// An upstream of a configuration as one worker sees it. Reached by pointer. An upstream that a reload does not change
/// stays the same: who waits in its queue goes on waiting, and what is running counts for the balance.
struct UpstreamState {
    let configuration: Upstream
    /// Snapshots that have it.
    var snapshotCount = 0
    let servers: [UnsafeMutablePointer<ServerState>]
    var balancer: LoadBalancer
    /// Exchanges that wait because every server is at its `max_exchanges`, first come first served.
    var queue: [SlabToken] = []
    /// Whether those in it are being served.
    var isServingQueue = false
    /// How many may wait: enough for a burst, and no more memory than a few idle connections take.
    static let queueCountMax = 1024
    let idleConnectionsMax: Int
    /// How long a connection may be idle, and how old it may be when it is taken; `.max` is off.
    let idleMillisecondsMax: UInt64
    let ageMillisecondsMax: UInt64
    /// How many exchanges a connection may serve; `.max` is any number.
    let exchangesPerConnectionMax: UInt32
    /// Whether any server has a `max_exchanges`.
    let isBounded: Bool
    /// Whether there is nothing to choose and nothing to count.
    let hasOneServer: Bool

    init(_ configuration: Upstream, servers: [UnsafeMutablePointer<ServerState>], workerCount: Int) {
        self.configuration = configuration
        self.servers = servers
        balancer = LoadBalancer(configuration.balance, weights: configuration.servers.map(\.weight))
        let keepalive = configuration.keepalive
        idleMillisecondsMax = keepalive.idleMilliseconds.map(UInt64.init) ?? .max
        ageMillisecondsMax = keepalive.ageMilliseconds.map(UInt64.init) ?? .max
        exchangesPerConnectionMax = keepalive.requestsMax.map { UInt32(clamping: $0) } ?? .max
        isBounded = configuration.servers.contains { $0.exchangesMax != nil }
        hasOneServer = servers.count == 1 && !isBounded
        idleConnectionsMax = (keepalive.connectionsMax + workerCount - 1) / workerCount
    }
}
