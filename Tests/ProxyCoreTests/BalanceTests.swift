// Which server comes next, and which idle connection.

import Bytes
import ProxyConfiguration
import TestSupport
import Testing

@testable import ProxyCore

@Suite struct LoadBalancerTests {
    @Test func inTurn() {
        var balancer = LoadBalancer(.roundRobin, weights: [1, 1, 1])
        defer { balancer.destroy() }
        #expect((0..<7).map { _ in balancer.choose() } == [0, 1, 2, 0, 1, 2, 0])
        #expect(balancer.serverCount == 3)
    }

    @Test func inTurnByWeight() {
        var balancer = LoadBalancer(.roundRobin, weights: [5, 1, 1])
        defer { balancer.destroy() }
        // Smooth: the heavy one comes often, but others come between.
        #expect((0..<14).map { _ in balancer.choose() } == [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0])
    }

    @Test(arguments: [[1], [3, 2], [1000, 1], [7, 5, 3, 1], [1, 1, 1, 1, 1]])
    func sharesAreExact(_ weights: [Int]) {
        var balancer = LoadBalancer(.roundRobin, weights: weights)
        defer { balancer.destroy() }
        var counts = weights.map { _ in 0 }
        for _ in 0..<(weights.reduce(0, +) * 3) { counts[balancer.choose()] += 1 }
        #expect(counts == weights.map { $0 * 3 })
    }

    @Test(arguments: Balance.allCases)
    func excludedServersAreNotChosen(_ balance: Balance) {
        var balancer = LoadBalancer(balance, weights: [1, 2, 3, 4])
        defer { balancer.destroy() }
        var random = SeededGenerator(seed: 4)
        for _ in 0..<2000 {
            let excluded = UInt64.random(in: 0...15, using: &random)
            let chosen = balancer.choose(excluding: excluded)
            // If all are excluded, none is.
            #expect(excluded == 15 || excluded & (1 << UInt64(chosen)) == 0)
            if Bool.random(using: &random) { balancer.release(chosen) }
        }
    }

    @Test(arguments: Balance.allCases)
    func anExcludedServerComesBack(_ balance: Balance) {
        var balancer = LoadBalancer(balance, weights: [1, 1])
        defer { balancer.destroy() }
        for _ in 0..<10 { balancer.release(balancer.choose(excluding: 1)) }
        var counts = [0, 0]
        for _ in 0..<10 {
            let chosen = balancer.choose()
            counts[chosen] += 1
            balancer.release(chosen)
        }
        // It has not saved up turns while it was away.
        #expect(counts == [5, 5])
    }

    @Test func theLeastLoaded() {
        var balancer = LoadBalancer(.leastOutstanding, weights: [1, 1, 1])
        defer { balancer.destroy() }
        #expect(Set((0..<3).map { _ in balancer.choose() }) == [0, 1, 2])
        balancer.release(1)
        #expect(balancer.choose() == 1)
        balancer.release(2)
        balancer.release(2 == balancer.choose() ? 2 : 0)
        var random = SeededGenerator(seed: 6)
        var model = LoadBalancer(.leastOutstanding, weights: [3, 2, 1])
        defer { model.destroy() }
        var outstanding = [0, 0, 0]
        for _ in 0..<3000 {
            if Int.random(in: 0..<5, using: &random) < 3 {
                let chosen = model.choose()
                let weights = [3, 2, 1]
                for other in 0..<3 {
                    #expect(outstanding[chosen] * weights[other] <= outstanding[other] * weights[chosen])
                }
                outstanding[chosen] += 1
            } else if let server = (0..<3).filter({ outstanding[$0] > 0 }).randomElement(using: &random) {
                model.release(server)
                outstanding[server] -= 1
            }
        }
    }

    @Test func idleServersShare() {
        var balancer = LoadBalancer(.leastOutstanding, weights: [1, 1, 1, 1])
        defer { balancer.destroy() }
        var counts = [0, 0, 0, 0]
        for _ in 0..<40 {
            let chosen = balancer.choose()
            counts[chosen] += 1
            balancer.release(chosen)
        }
        #expect(counts == [10, 10, 10, 10])
    }

    @Test(arguments: Balance.allCases)
    func oneServerAndVeryMany(_ balance: Balance) {
        var one = LoadBalancer(balance, weights: [7])
        defer { one.destroy() }
        #expect((0..<3).map { _ in one.choose(excluding: 1) } == [0, 0, 0])
        var many = LoadBalancer(balance, weights: Array(repeating: 1, count: 70))
        defer { many.destroy() }
        var chosen: Set<Int> = []
        // The first 64 can be excluded; the rest are still there.
        for _ in 0..<70 { chosen.insert(many.choose(excluding: .max)) }
        #expect(chosen.isSubset(of: Set(64..<70)))
        for _ in 0..<70 { chosen.insert(many.choose()) }
        #expect(chosen.count == 70)
    }
}

@Suite struct IdlePoolTests {
    private func links(_ count: Int) -> UnsafeMutablePointer<IdleLink> {
        let links = UnsafeMutablePointer<IdleLink>.allocate(capacity: count)
        for index in 0..<count {
            (links + index).initialize(to: IdleLink(owner: SlabToken(index: UInt32(index), generation: 1)))
        }
        return links
    }

    @Test func lastInFirstOut() {
        let links = links(3)
        defer { links.deallocate() }
        var pool = IdlePool()
        #expect(pool.newestOwner == nil)
        #expect(pool.oldestOwner == nil)
        for index in 0..<3 { pool.push(links + index, nowMilliseconds: UInt64(100 + index)) }
        #expect(pool.newestOwner?.owner.index == 2)
        #expect(pool.newestOwner?.idleSinceMilliseconds == 102)
        #expect(pool.oldestOwner?.index == 0)
        #expect(pool.count == 3)
        pool.remove(links + 2)
        #expect(!links[2].isPooled)
        #expect(pool.newestOwner?.owner.index == 1)
        pool.push(links + 2, nowMilliseconds: 200)
        #expect(links[2].idleSinceMilliseconds == 200)
        pool.remove(links + 0)
        #expect(pool.oldestOwner?.index == 1)
    }

    @Test func likeAnArray() {
        let links = links(30)
        defer { links.deallocate() }
        var random = SeededGenerator(seed: 8)
        var pool = IdlePool()
        var model: [Int] = []
        for step in 0..<5000 {
            let index = Int.random(in: 0..<30, using: &random)
            if let place = model.firstIndex(of: index) {
                pool.remove(links + index)
                model.remove(at: place)
            } else {
                pool.push(links + index, nowMilliseconds: UInt64(step))
                model.append(index)
            }
            #expect(pool.count == model.count)
            #expect(pool.newestOwner.map { Int($0.owner.index) } == model.last)
            #expect(pool.oldestOwner.map { Int($0.index) } == model.first)
        }
    }
}
