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

    init(_ server: Server, tls: UpstreamTLS?) {
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
        case .unix: return "localhost"
        }
    }

    /// As it stands in a Host field and in logs.
    var authority: String {
        switch endpoint {
        case .ip(let address, let port): address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
        case .name(let name, let port): "\(name):\(port)"
        case .unix: "localhost"
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
    // A worker says that it waits and looks for a place; another gives a place back and looks for who waits. Only a
    // common order of all four sees to it that one of them sees the other.
    private let runningCount = Atomic<Int>(0)
    /// A bit for each worker, modulo 64, that has exchanges waiting.
    private let waitingWorkers = Atomic<UInt64>(0)
    private let lastWokenWorker = Atomic<Int>(63)

    init(_ identity: ServerIdentity) { self.identity = identity }

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

/// A server as one worker sees it. Reached by pointer; lives as long as the worker.
struct ServerState {
    /// Where the server is, if that is known.
    enum Addresses {
        /// Nobody answered yet.
        case unknown
        /// At least one; they are taken in turn.
        case known([SocketAddress])
        /// The name has none.
        case failed(Failure)
    }

    /// Its index in the table of servers, the same for every worker.
    let index: Int
    let shared: SharedServer
    let authority: UnsafeBufferPointer<UInt8>
    let logName: UnsafeBufferPointer<UInt8>
    var addresses: Addresses
    var nextAddress = 0
    var idle = IdlePool()
    /// Its TLS, if it is spoken to by TLS.
    var tls: TLSClientPeer?

    init(_ shared: SharedServer, index: Int, tls: TLSClientPeer?) {
        precondition(shared.identity.tls == nil || tls != nil, "a server of TLS without its TLS")
        self.shared = shared
        self.index = index
        self.tls = tls
        authority = Self.copy(shared.identity.authority)
        logName = Self.copy(shared.identity.description)
        switch shared.identity.endpoint {
        case .ip(let address, let port):
            addresses = .known([SocketAddress(address, port: port)])
        case .unix(let path):
            addresses = SocketAddress(path: path).map { .known([$0]) } ?? .failed(.connectUnreachable)
        case .name:
            addresses = .unknown
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

/// An upstream of a configuration as one worker sees it. Reached by pointer.
struct UpstreamState {
    let configuration: Upstream
    let servers: [UnsafeMutablePointer<ServerState>]
    var balancer: LoadBalancer
    /// Exchanges that wait because every server is at its `max_exchanges`, first come first served.
    var queue: [SlabToken] = []
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
