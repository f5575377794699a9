// What one worker counts. The worker alone writes, whoever asks reads: each cell is an atomic with relaxed loads and
// stores, so that counting needs no lock and no instruction that a processor's cores would argue about. All cells of a
// worker lie in one block that is made before the worker starts and never moves. Nothing here allocates or knows a name:
// routes are numbers (`RouteNumbering`), and names come in when somebody asks (`MetricsText`).
//
// Gauges are the difference of two counters, what began and what ended. Who reads takes the end first, so that none is
// ever below zero.

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
    case tunnelsOpened
    case tunnelsEnded
    case retries
    case handshakesFull
    case handshakesResumed
    case handshakesFailed
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
    static let head = responseBytes + 1
    static let firstContent = head + Histogram.cellCount
    static let exchange = firstContent + Histogram.cellCount
    static let count = exchange + Histogram.cellCount
}

/// The cells of a worker, as the worker has them: a trivial value.
struct MetricCells {
    private let counters: MetricCell
    private let failures: MetricCell
    private let holds: MetricCell
    private let routes: MetricCell

    /// How many cells there are.
    static func count(listenerCount: Int, routeCount: Int) -> Int {
        WorkerCounter.allCases.count + Failure.allCases.count + listenerCount * Histogram.cellCount
            + routeCount * RouteCells.count
    }

    init(base: MetricCell, listenerCount: Int) {
        counters = base
        failures = counters + WorkerCounter.allCases.count
        holds = failures + Failure.allCases.count
        routes = holds + listenerCount * Histogram.cellCount
    }

    @inline(__always)
    private static func add(_ count: UInt64, to cell: MetricCell) {
        cell.pointee.store(cell.pointee.load(ordering: .relaxed) &+ count, ordering: .relaxed)
    }

    @inline(__always)
    private static func observe(_ microseconds: UInt64, bucket: Int, in cells: MetricCell) {
        add(1, to: cells + bucket)
        add(microseconds, to: cells + Histogram.bucketCount)
    }

    // MARK: The worker

    @inline(__always)
    func count(_ counter: WorkerCounter) { Self.add(1, to: counters + counter.rawValue) }

    /// A final head that a server sent was held for so long.
    @inline(__always)
    func headWasHeld(microseconds: UInt64, listener: Int) {
        Self.observe(
            microseconds, bucket: Histogram.bucket(ofMicroseconds: microseconds),
            in: holds + listener * Histogram.cellCount)
    }

    /// An exchange is over.
    @inline(__always)
    func exchangeEnded(_ exchange: UnsafePointer<ExchangeSlot>, now: UInt64) {
        let number = exchange.pointee.route?.pointee.number ?? exchange.pointee.listener.pointee.numberWithoutRoute
        let cells = routes + number * RouteCells.count
        let status = Int(exchange.pointee.machine.status)
        Self.add(1, to: cells + min(status / 100, RouteCells.statusClassCount - 1))
        let requestBytes = exchange.pointee.machine.requestContentBytes
        if requestBytes > 0 { Self.add(requestBytes, to: cells + RouteCells.requestBytes) }
        let responseBytes = exchange.pointee.machine.responseContentBytes
        if responseBytes > 0 { Self.add(responseBytes, to: cells + RouteCells.responseBytes) }
        let begin = exchange.pointee.machine.phases.requestHead
        let head = exchange.pointee.machine.phases.responseHead
        // A small response comes in one turn: its head, its content and its end have the same time.
        var bucket = 0
        if head != 0 {
            bucket = Histogram.bucket(ofMicroseconds: head &- begin)
            Self.observe(head &- begin, bucket: bucket, in: cells + RouteCells.head)
        }
        let content = exchange.pointee.machine.phases.firstContent
        if content != 0 {
            Self.observe(
                content &- begin,
                bucket: content == head ? bucket : Histogram.bucket(ofMicroseconds: content &- begin),
                in: cells + RouteCells.firstContent)
        }
        Self.observe(
            now &- begin, bucket: now == head ? bucket : Histogram.bucket(ofMicroseconds: now &- begin),
            in: cells + RouteCells.exchange)
        if let failure = exchange.pointee.machine.failure { Self.add(1, to: failures + Int(failure.rawValue)) }
    }

    // MARK: Who reads

    func value(_ counter: WorkerCounter) -> UInt64 {
        (counters + counter.rawValue).pointee.load(ordering: .acquiring)
    }

    func value(_ failure: Failure) -> UInt64 {
        (failures + Int(failure.rawValue)).pointee.load(ordering: .relaxed)
    }

    /// A cell of a route.
    func value(route: Int, _ cell: Int) -> UInt64 {
        (routes + route * RouteCells.count + cell).pointee.load(ordering: .relaxed)
    }

    /// The cells of a route's histogram.
    func histogram(route: Int, _ first: Int) -> [UInt64] {
        (0..<Histogram.cellCount).map { value(route: route, first + $0) }
    }

    /// The cells of a listener's histogram of held heads.
    func holds(listener: Int) -> [UInt64] {
        (0..<Histogram.cellCount).map {
            (holds + listener * Histogram.cellCount + $0).pointee.load(ordering: .relaxed)
        }
    }
}

/// The memory of a worker's cells.
final class WorkerMetrics: Sendable {
    // The place never changes, and what is there is atomic.
    nonisolated(unsafe) private let base: MetricCell
    private let cellCount: Int
    nonisolated(unsafe) let cells: MetricCells

    init(listenerCount: Int, routeCount: Int) {
        cellCount = MetricCells.count(listenerCount: listenerCount, routeCount: routeCount)
        base = .allocate(capacity: cellCount)
        for index in 0..<cellCount { (base + index).initialize(to: Atomic(0)) }
        cells = MetricCells(base: base, listenerCount: listenerCount)
    }

    deinit {
        base.deinitialize(count: cellCount)
        base.deallocate()
    }
}
