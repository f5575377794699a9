// Which server of an upstream gets the next exchange. Belongs to one worker; counts are the worker's own.

import ProxyConfiguration

/// What is known of one server.
struct BalancedServer {
    let weight: Int
    var currentWeight = 0
    var outstanding = 0
}

/// Chooses among the servers of one upstream.
public struct LoadBalancer {
    private let balance: Balance
    /// Behind a pointer, since an array would be checked for sharing at each change.
    private let servers: UnsafeMutableBufferPointer<BalancedServer>
    private var next = 0

    /// A balancer over servers of these weights, at least one.
    public init(_ balance: Balance, weights: [Int]) {
        precondition(!weights.isEmpty, "an upstream has servers")
        self.balance = balance
        servers = .allocate(capacity: weights.count)
        _ = servers.initialize(from: weights.map { BalancedServer(weight: $0) })
    }

    /// Frees the counts.
    public func destroy() { servers.deallocate() }

    /// The number of servers.
    public var serverCount: Int { servers.count }

    /// Chooses a server and counts the exchange to it.
    /// - Parameter excluded: a bit for each server that is not to be taken (the first 64 can be excluded); if all are,
    ///   none is.
    public mutating func choose(excluding excluded: UInt64 = 0) -> Int {
        if servers.count == 1 {
            servers[0].outstanding += 1
            return 0
        }
        let all = servers.count >= 64 ? UInt64.max : (1 << UInt64(servers.count)) - 1
        let excluded = servers.count <= 64 && excluded & all == all ? 0 : excluded
        let chosen =
            switch balance {
            case .roundRobin: nextInTurn(excluded)
            case .leastOutstanding: leastLoaded(excluded)
            }
        servers[chosen].outstanding += 1
        return chosen
    }

    /// An exchange with a server is over.
    public func release(_ server: Int) {
        servers[server].outstanding -= 1
    }

    private func isExcluded(_ index: Int, _ excluded: UInt64) -> Bool {
        index < 64 && excluded & (1 << UInt64(index)) != 0
    }

    /// Smooth weighted round robin: each turn every server gains its weight and the chosen one pays for all, so
    /// heavy servers come often but not in a row.
    private func nextInTurn(_ excluded: UInt64) -> Int {
        var best = -1
        var total = 0
        for index in servers.indices where !isExcluded(index, excluded) {
            servers[index].currentWeight += servers[index].weight
            total += servers[index].weight
            if best < 0 || servers[index].currentWeight > servers[best].currentWeight { best = index }
        }
        servers[best].currentWeight -= total
        return best
    }

    /// The fewest running exchanges for its weight; among equals in turn, so that idle servers share.
    private mutating func leastLoaded(_ excluded: UInt64) -> Int {
        var best = -1
        for offset in servers.indices {
            let index = (next + offset) % servers.count
            if isExcluded(index, excluded) { continue }
            if best < 0
                || servers[index].outstanding * servers[best].weight < servers[best].outstanding * servers[index].weight
            {
                best = index
            }
        }
        next = (best + 1) % servers.count
        return best
    }
}
