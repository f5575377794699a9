// All that is counted in the process: the workers' cells, and what the control thread knows. Read by any thread.

import EventLoop
import ProxyConfiguration
import ProxyCore
import Synchronization

/// See the head of the file.
final class ProxyMetrics: Sendable {
    /// When a certificate ends.
    struct CertificateEnd: Sendable, Equatable {
        let listener: String
        /// Its first DNS name; its subject if it has none.
        let name: String
        let notAfterSeconds: Int64
    }

    let workers: [WorkerMetrics]
    let startWallMicroseconds = Clock.wallMicroseconds()
    private let certificateEnds = Mutex<[CertificateEnd]>([])
    private let reloadsDone = Atomic<UInt64>(0)
    private let reloadsFailed = Atomic<UInt64>(0)
    private let ledger = Mutex<RouteLedger>(RouteLedger())

    init(workerCount: Int) {
        workers = (0..<workerCount).map { _ in WorkerMetrics() }
    }

    // MARK: Generations

    /// A generation is counted from now on.
    func generationBegan(_ generation: GenerationMetrics) { ledger.withLock { $0.live.append(generation) } }

    /// Nobody counts for a generation any more.
    func generationEnded(_ generation: GenerationMetrics) { ledger.withLock { $0.close(generation) } }

    /// What was counted for listeners and routes.
    func readRoutes() -> RouteReading { ledger.withLock { $0.read() } }

    // MARK: Certificates

    /// The ends of the certificates in use, one for each listener and name, the earliest where there are several.
    var certificates: [CertificateEnd] { certificateEnds.withLock { $0 } }

    /// Certificates are in use from now on.
    func certificatesTaken(_ material: TLSMaterial, of configuration: Configuration) {
        var ends: [CertificateEnd] = []
        for (listener, policies) in zip(configuration.listeners, material.listeners) {
            for certificate in policies.flatMap(\.certificates) {
                let end = CertificateEnd(
                    listener: listener.name, name: certificate.names.first ?? certificate.subject,
                    notAfterSeconds: certificate.notAfterSeconds)
                if let index = ends.firstIndex(where: { $0.listener == end.listener && $0.name == end.name }) {
                    if end.notAfterSeconds < ends[index].notAfterSeconds { ends[index] = end }
                } else {
                    ends.append(end)
                }
            }
        }
        let all = ends
        certificateEnds.withLock { $0 = all }
    }

    /// Certificates were read again.
    func certificatesReadAgain(done: Bool) {
        if done { reloadsDone.add(1, ordering: .relaxed) } else { reloadsFailed.add(1, ordering: .relaxed) }
    }

    /// How often that went well, and how often not.
    var certificateReloads: (done: UInt64, failed: UInt64) {
        (reloadsDone.load(ordering: .relaxed), reloadsFailed.load(ordering: .relaxed))
    }

    /// What began and has not ended.
    func gauge(_ begun: WorkerCounter, less ended: [WorkerCounter]) -> UInt64 {
        let over = ended.reduce(0) { sum, counter in sum &+ self.sum { $0.value(counter) } }
        let all = sum { $0.value(begun) }
        return all >= over ? all - over : 0
    }

    /// Exchanges that run.
    /// - Parameter ended: those that ended; read before.
    func exchanges(endedAre ended: UInt64) -> UInt64 {
        let begun = sum { $0.value(.exchangesBegun) }
        return begun >= ended ? begun - ended : 0
    }

    /// The sum of all workers.
    func sum(_ read: (MetricCells) -> UInt64) -> UInt64 { workers.reduce(0) { $0 &+ read($1.cells) } }
}

/// What was counted for listeners and routes, whichever generations they were of.
struct RouteReading {
    /// A route's cells by `RouteCells`.
    typealias Route = (entry: RouteNumbering.Entry, cells: [UInt64])

    /// Routes: those of the generation in force first.
    var routes: [Route] = []
    /// Histograms of held heads, likewise.
    var holds: [(listener: String, cells: [UInt64])] = []
    /// All exchanges that ended, also under routes that are no more.
    var exchangesEnded: UInt64 = 0

    /// A route's open streams. A cell may be read a moment before another: the difference is never below zero.
    static func streams(_ cells: [UInt64]) -> UInt64 {
        cells[RouteCells.streamsOpened] - min(cells[RouteCells.streamsEnded], cells[RouteCells.streamsOpened])
    }

    /// A route's open tunnels.
    static func tunnels(_ cells: [UInt64]) -> UInt64 {
        cells[RouteCells.tunnelsOpened] - min(cells[RouteCells.tunnelsEnded], cells[RouteCells.tunnelsOpened])
    }
}

/// Keeps the counts of routes over reloads: a route that the next generation has, too, goes on where it was.
private struct RouteLedger {
    /// Generations in whose cells workers count.
    var live: [GenerationMetrics] = []
    /// What earlier generations came to.
    private var routes: [RouteNumbering.Entry: [UInt64]] = [:]
    private var holds: [String: [UInt64]] = [:]
    /// Exchanges under routes that no generation has any more.
    private var forgottenExchanges: UInt64 = 0

    mutating func close(_ generation: GenerationMetrics) {
        live.removeAll { $0 === generation }
        for (number, entry) in generation.routes.entries.enumerated() {
            routes[entry] = (routes[entry] ?? []).adding(generation.values(route: number))
        }
        for (index, name) in generation.listenerNames.enumerated() {
            holds[name] = (holds[name] ?? []).adding(generation.holds(listener: index))
        }
        let entries = Set(live.flatMap(\.routes.entries))
        let names = Set(live.flatMap(\.listenerNames))
        for (entry, cells) in routes where !entries.contains(entry) {
            forgottenExchanges &+= Self.exchanges(cells)
            routes[entry] = nil
        }
        for name in holds.keys where !names.contains(name) { holds[name] = nil }
    }

    func read() -> RouteReading {
        var reading = RouteReading(exchangesEnded: forgottenExchanges)
        var places: [RouteNumbering.Entry: Int] = [:]
        var listenerPlaces: [String: Int] = [:]
        for generation in live.reversed() {
            for (number, entry) in generation.routes.entries.enumerated() {
                if places[entry] == nil {
                    places[entry] = reading.routes.count
                    reading.routes.append((entry, routes[entry] ?? []))
                }
                guard let place = places[entry] else { continue }
                reading.routes[place].cells = reading.routes[place].cells.adding(generation.values(route: number))
            }
            for (index, name) in generation.listenerNames.enumerated() {
                if listenerPlaces[name] == nil {
                    listenerPlaces[name] = reading.holds.count
                    reading.holds.append((name, holds[name] ?? []))
                }
                guard let place = listenerPlaces[name] else { continue }
                reading.holds[place].cells = reading.holds[place].cells.adding(generation.holds(listener: index))
            }
        }
        for route in reading.routes { reading.exchangesEnded &+= Self.exchanges(route.cells) }
        return reading
    }

    /// The exchanges that a route's cells tell of.
    private static func exchanges(_ cells: [UInt64]) -> UInt64 {
        cells.prefix(RouteCells.statusClassCount).reduce(0, &+)
    }
}
