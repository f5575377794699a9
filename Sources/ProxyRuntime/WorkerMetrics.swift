// What one worker counts. The worker alone writes, whoever asks reads: each cell is an atomic with relaxed loads and
// stores, so that counting needs no lock and no instruction that a processor's cores would argue about. The cells of a
// worker lie in one block that is made before the worker starts and never moves, those of its listeners and routes in
// one a generation. Nothing here allocates or knows a name: routes are numbers (`RouteNumbering`), and names come in when
// somebody asks (`ProxyMetrics`).
//
// Gauges are the difference of two counters, what began and what ended. Who reads takes the end first, so that none is
// ever below zero.

import HTTP2
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import Synchronization

typealias MetricCell = UnsafeMutablePointer<Atomic<UInt64>>

/// What a worker counts once, not for each route.
enum WorkerCounter: Int, CaseIterable {
    case connectionsAccepted
    case connectionsClosed
    case upstreamConnects
    case upstreamClosed
    case upstreamReuses
    case idlePushed
    case idleClosed
    case exchangesBegun
    case retries
    case proxyHeadersRefused
    case handshakesFull
    case handshakesResumed
    case handshakesFailed
    case http2Connections
    case http2Streams
}

/// A distribution of durations over powers of two.
enum Histogram {
    /// Cells by the number of bits of a duration in microseconds, less one: cell 0 takes all up to 2^`exponentMin`, the
    /// last one all above 2^`exponentMax`. Behind them the sum.
    static let exponentMin = 5
    static let exponentMax = 32
    static let bucketCount = exponentMax - exponentMin + 2
    static let cellCount = bucketCount + 1

    /// The bounds that are told, as powers of two of a microsecond: 32 us to 16.8 s in steps of two, where latencies
    /// are told apart, and up to 72 minutes in steps of four.
    static let exponentsTold = Array(exponentMin...24) + [26, 28, 30, exponentMax]

    /// The cell of a duration: the first whose bound it does not exceed.
    @inline(__always)
    static func bucket(ofMicroseconds microseconds: UInt64) -> Int {
        guard microseconds > 1 << UInt64(exponentMin) else { return 0 }
        // The bits of one less: so that a power of two is within its own bound.
        let bits = 64 - (microseconds &- 1).leadingZeroBitCount
        return min(bits, exponentMax + 1) - exponentMin
    }

    /// What was counted, as it is told.
    struct Reading: Equatable {
        /// For each of `exponentsTold` how many durations were not longer.
        var cumulated: [UInt64]
        /// All of them.
        var count: UInt64
        /// Their sum.
        var sumMicroseconds: UInt64

        /// Cumulates the cells.
        /// - Parameter cells: `cellCount` of them.
        init(_ cells: [UInt64]) {
            var cumulated: [UInt64] = []
            var count: UInt64 = 0
            for index in 0..<Histogram.bucketCount {
                count += cells[index]
                if Histogram.exponentsTold.contains(index + Histogram.exponentMin) { cumulated.append(count) }
            }
            self.cumulated = cumulated
            self.count = count
            sumMicroseconds = cells[Histogram.bucketCount]
        }
    }
}

/// What is counted for each route: where its cells are, from the route's first.
enum RouteCells {
    /// By the first digit of the status; 0 is none.
    static let statusClassCount = 6
    static let requestBytes = statusClassCount
    static let responseBytes = requestBytes + 1
    static let heldHeads = responseBytes + 1
    static let streamsOpened = heldHeads + 1
    static let streamsEnded = streamsOpened + 1
    static let tunnelsOpened = streamsEnded + 1
    static let tunnelsEnded = tunnelsOpened + 1
    static let head = tunnelsEnded + 1
    static let firstContent = head + Histogram.cellCount
    static let exchange = firstContent + Histogram.cellCount
    static let count = exchange + Histogram.cellCount
}

extension MetricCell {
    /// Counts. The worker's own thread alone does.
    @inline(__always)
    func add(_ count: UInt64) {
        pointee.store(pointee.load(ordering: .relaxed) &+ count, ordering: .relaxed)
    }

    @inline(__always)
    fileprivate func observe(_ microseconds: UInt64, bucket: Int) {
        (self + bucket).add(1)
        (self + Histogram.bucketCount).add(microseconds)
    }
}

/// A block of cells, all 0 at first.
final class CellBlock: Sendable {
    // The place never changes, and what is there is atomic.
    nonisolated(unsafe) let base: MetricCell
    private let count: Int

    init(count: Int) {
        self.count = count
        base = .allocate(capacity: count)
        for index in 0..<count { (base + index).initialize(to: Atomic(0)) }
    }

    deinit {
        base.deinitialize(count: count)
        base.deallocate()
    }
}

/// The cells of a worker, as the worker has them: a trivial value.
struct MetricCells {
    private let counters: MetricCell
    private let failures: MetricCell
    private let faults: MetricCell
    private let floods: MetricCell

    static let count =
        WorkerCounter.allCases.count + Failure.allCases.count + HeadFault.allCases.count + FloodKind.allCases.count

    init(base: MetricCell) {
        counters = base
        failures = counters + WorkerCounter.allCases.count
        faults = failures + Failure.allCases.count
        floods = faults + HeadFault.allCases.count
    }

    @inline(__always)
    func count(_ counter: WorkerCounter) { (counters + counter.rawValue).add(1) }

    /// An exchange did not end as it should.
    func count(_ failure: Failure) { (failures + Int(failure.rawValue)).add(1) }

    /// A request cannot be read.
    func count(_ fault: HeadFault) { (faults + Int(fault.rawValue)).add(1) }

    /// A connection was ended because of a flood.
    func count(_ flood: FloodKind) { (floods + Int(flood.rawValue)).add(1) }

    // MARK: Who reads

    func value(_ flood: FloodKind) -> UInt64 {
        (floods + Int(flood.rawValue)).pointee.load(ordering: .relaxed)
    }

    func value(_ counter: WorkerCounter) -> UInt64 {
        (counters + counter.rawValue).pointee.load(ordering: .acquiring)
    }

    func value(_ failure: Failure) -> UInt64 {
        (failures + Int(failure.rawValue)).pointee.load(ordering: .relaxed)
    }

    func value(_ fault: HeadFault) -> UInt64 {
        (faults + Int(fault.rawValue)).pointee.load(ordering: .relaxed)
    }
}

/// The cells of a worker for the listeners and routes of one generation: a trivial value.
struct RouteMetricCells {
    private let holds: MetricCell
    private let routes: MetricCell

    /// How many cells there are.
    static func count(listenerCount: Int, routeCount: Int) -> Int {
        listenerCount * Histogram.cellCount + routeCount * RouteCells.count
    }

    init(base: MetricCell, listenerCount: Int) {
        holds = base
        routes = holds + listenerCount * Histogram.cellCount
    }

    /// Counts in a route's cell, by `RouteCells`.
    @inline(never)
    func count(_ cell: Int, _ exchange: UnsafePointer<ExchangeSlot>) {
        (routes + Self.number(of: exchange) * RouteCells.count + cell).add(1)
    }

    @inline(__always)
    private static func number(of exchange: UnsafePointer<ExchangeSlot>) -> Int {
        exchange.pointee.route?.pointee.number ?? exchange.pointee.listener.pointee.numberWithoutRoute
    }

    /// A final head that a server sent was held for so long.
    @inline(__always)
    func headWasHeld(microseconds: UInt64, listener: Int) {
        (holds + listener * Histogram.cellCount).observe(
            microseconds, bucket: Histogram.bucket(ofMicroseconds: microseconds))
    }

    /// Heads that came after more silence than this together with the first content are counted as held.
    static let heldHeadMicroseconds: UInt64 = 500_000

    /// An exchange is over.
    @inline(__always)
    func exchangeEnded(_ exchange: UnsafePointer<ExchangeSlot>, now: UInt64) {
        let cells = routes + Self.number(of: exchange) * RouteCells.count
        let status = Int(exchange.pointee.machine.status)
        (cells + min(status / 100, RouteCells.statusClassCount - 1)).add(1)
        let requestBytes = exchange.pointee.machine.requestContentBytes
        if requestBytes > 0 { (cells + RouteCells.requestBytes).add(requestBytes) }
        let responseBytes = exchange.pointee.machine.responseContentBytes
        if responseBytes > 0 { (cells + RouteCells.responseBytes).add(responseBytes) }
        let begin = exchange.pointee.machine.phases.requestHead
        let head = exchange.pointee.machine.phases.responseHead
        // A small response comes in one turn: its head, its content and its end have the same time.
        var bucket = 0
        if head != 0 {
            bucket = Histogram.bucket(ofMicroseconds: head &- begin)
            (cells + RouteCells.head).observe(head &- begin, bucket: bucket)
        }
        let content = exchange.pointee.machine.phases.firstContent
        if content != 0 {
            if content == head {
                (cells + RouteCells.firstContent).observe(content &- begin, bucket: bucket)
                if content &- begin > Self.heldHeadMicroseconds {
                    countHeldHead(cells, exchange.pointee.machine.phases, head: head)
                }
            } else {
                (cells + RouteCells.firstContent).observe(
                    content &- begin, bucket: Histogram.bucket(ofMicroseconds: content &- begin))
            }
        }
        (cells + RouteCells.exchange).observe(
            now &- begin, bucket: now == head ? bucket : Histogram.bucket(ofMicroseconds: now &- begin))
    }

    /// The silence begins with whatever the server heard or said last.
    @inline(never)
    private func countHeldHead(_ cells: MetricCell, _ phases: ExchangePhases, head: UInt64) {
        let last = max(phases.requestHead, phases.requestEnd, phases.upstreamAttached, phases.firstInterim)
        if head > last, head - last > Self.heldHeadMicroseconds { (cells + RouteCells.heldHeads).add(1) }
    }

    // MARK: Who reads

    /// All cells of a route.
    func values(route: Int) -> [UInt64] {
        let first = routes + route * RouteCells.count
        return (0..<RouteCells.count).map { (first + $0).pointee.load(ordering: .relaxed) }
    }

    /// The cells of a listener's histogram of held heads.
    func holds(listener: Int) -> [UInt64] {
        let first = holds + listener * Histogram.cellCount
        return (0..<Histogram.cellCount).map { (first + $0).pointee.load(ordering: .relaxed) }
    }
}

/// What a worker counts as long as it lives.
final class WorkerMetrics: Sendable {
    private let block = CellBlock(count: MetricCells.count)

    var cells: MetricCells { MetricCells(base: block.base) }
}

/// What is counted for the listeners and routes of one generation.
final class GenerationMetrics: Sendable {
    let routes: RouteNumbering
    let listenerNames: [String]
    private let blocks: [CellBlock]

    init(_ configuration: Configuration, workerCount: Int) {
        let routes = RouteNumbering(configuration)
        self.routes = routes
        listenerNames = configuration.listeners.map(\.name)
        let count = RouteMetricCells.count(
            listenerCount: configuration.listeners.count, routeCount: routes.entries.count)
        blocks = (0..<workerCount).map { _ in CellBlock(count: count) }
    }

    /// A worker's own.
    func cells(ofWorker number: Int) -> RouteMetricCells {
        RouteMetricCells(base: blocks[number].base, listenerCount: listenerNames.count)
    }

    /// A route's cells, summed over all workers.
    func values(route: Int) -> [UInt64] { sum { $0.values(route: route) } }

    /// A listener's histogram of held heads, summed over all workers.
    func holds(listener: Int) -> [UInt64] { sum { $0.holds(listener: listener) } }

    private func sum(_ read: (RouteMetricCells) -> [UInt64]) -> [UInt64] {
        blocks.indices.reduce([]) { $0.adding(read(cells(ofWorker: $1))) }
    }
}

extension [UInt64] {
    /// The sums of the elements of both; none stands for zeros.
    func adding(_ other: [UInt64]) -> [UInt64] {
        isEmpty ? other : other.isEmpty ? self : zip(self, other).map { $0 &+ $1 }
    }
}
