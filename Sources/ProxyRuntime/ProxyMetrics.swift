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

    let routes: RouteNumbering
    let listenerNames: [String]
    let workers: [WorkerMetrics]
    let startWallMicroseconds = Clock.wallMicroseconds()
    private let certificateEnds = Mutex<[CertificateEnd]>([])
    private let reloadsDone = Atomic<UInt64>(0)
    private let reloadsFailed = Atomic<UInt64>(0)

    init(_ configuration: Configuration, workerCount: Int) {
        let routes = RouteNumbering(configuration)
        self.routes = routes
        listenerNames = configuration.listeners.map(\.name)
        workers = (0..<workerCount).map { _ in
            WorkerMetrics(listenerCount: configuration.listeners.count, routeCount: routes.entries.count)
        }
    }

    /// The ends of the certificates in use, one for each listener and name, the earliest where there are several.
    var certificates: [CertificateEnd] { certificateEnds.withLock { $0 } }

    /// Certificates are in use from now on.
    func certificatesTaken(_ material: TLSMaterial) {
        var ends: [CertificateEnd] = []
        for (listener, policies) in zip(listenerNames, material.listeners) {
            for certificate in policies.flatMap(\.certificates) {
                let end = CertificateEnd(
                    listener: listener, name: certificate.names.first ?? certificate.subject,
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

    /// The sum of all workers.
    func sum(_ read: (MetricCells) -> UInt64) -> UInt64 { workers.reduce(0) { $0 &+ read($1.cells) } }

    /// A histogram of all workers.
    func histogram(_ read: (MetricCells) -> [UInt64]) -> Histogram.Reading {
        var cells = [UInt64](repeating: 0, count: Histogram.cellCount)
        for worker in workers {
            for (index, value) in read(worker.cells).enumerated() { cells[index] &+= value }
        }
        return Histogram.Reading(cells)
    }
}
