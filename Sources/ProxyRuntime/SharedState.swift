// What all threads of the process share as long as it lives: the counts against process-wide limits, the counters, and the
// mailboxes. Everything in it is immutable, atomic, or behind a mailbox or a lock. What a reload changes is in `Generation`.

import EventLoop
import ProxyConfiguration
import ProxyCore
import Synchronization

/// What threads tell the control thread.
enum ControlMessage: Sendable {
    /// A worker takes connections.
    case workerStarted
    /// A worker ended.
    case workerEnded
    /// A peer failed in a way that the error log should tell.
    case peer(PeerEvent)
    /// So many such events were not told.
    case peerEventsSuppressed(Int)
    /// A worker needs much less memory than it did.
    case memoryFreed
    /// A worker takes no new connections for a while.
    case acceptingPaused(String)
    /// A thread of an access log has ended.
    case accessLogEnded
    /// Something else went wrong.
    case trouble(String)
    /// A worker could not start.
    case workerFailed(SystemError)
    /// A name's addresses are known, or not; the server's number.
    case resolved(server: Int, ResolutionOutcome)
    /// A name that was known could not be looked up again.
    case resolutionFailed(server: Int, ResolutionFailure)
    /// A worker has taken on the generation of this number.
    case generationTaken(Int)
    /// In a worker, the last exchange under the generation of this number is over.
    case generationReleased(Int)
}

/// See the head of the file.
final class SharedState: Sendable {
    let nodeName = Process.nodeName()
    let workerCount: Int
    let mailboxes: [Mailbox<WorkerMessage>]
    let control: Mailbox<ControlMessage>
    /// What is counted.
    let metrics: ProxyMetrics
    /// The configuration in force, for who tells of it.
    let standing = Standing()
    /// Records of the access log that were lost.
    let records = RecordLosses()
    /// How many descriptors the process may open.
    let descriptorsMax: Int
    private let connections = Atomic<Int>(0)
    private let connectionBound = Atomic<Int>(0)
    private let bufferBound = Atomic<Int>(.max)

    init(workerCount: Int, descriptorsMax: Int, control: Mailbox<ControlMessage>) throws(SystemError) {
        self.workerCount = workerCount
        self.descriptorsMax = descriptorsMax
        self.control = control
        metrics = ProxyMetrics(workerCount: workerCount)
        var mailboxes: [Mailbox<WorkerMessage>] = []
        for _ in 0..<workerCount { mailboxes.append(try Mailbox()) }
        self.mailboxes = mailboxes
    }

    /// The bound of client connections in the whole process.
    var connectionsMax: Int { connectionBound.load(ordering: .relaxed) }

    /// A configuration comes into force: its bound of client connections holds.
    func take(_ configuration: Configuration) {
        let bound =
            configuration.connectionsMax
            ?? Self.connectionsMax(descriptorsMax: descriptorsMax, workerCount: workerCount)
        connectionBound.store(bound, ordering: .relaxed)
        bufferBound.store(Self.bufferBytesMax(configuration), ordering: .relaxed)
    }

    /// How many pipes each worker may have: what is in them counts for the container, too.
    var pipesOfWorkerMax: Int {
        min(
            PipePool.countMax(threads: workerCount, descriptorsMax: descriptorsMax),
            bufferBytesOfWorkerMax / 4 / PipePool.capacityBytes)
    }

    /// What each worker may borrow for bytes that wait, and for TLS sessions; `.max` is any number.
    var bufferBytesOfWorkerMax: Int {
        let bound = bufferBound.load(ordering: .relaxed)
        return bound == .max ? .max : bound / workerCount
    }

    /// Half of what a container may have: the rest is for the program, its connections and the kernel's part of them.
    private static func bufferBytesMax(_ configuration: Configuration) -> Int {
        switch configuration.bufferMemory {
        case .automatic: Process.memoryLimitBytes().map { $0 / 2 } ?? .max
        case .off: .max
        case .bytes(let bytes): bytes
        }
    }

    /// Where nobody set a bound: each client may need a connection upstream, so clients get half of what the process
    /// may open. Otherwise they would take all, and then be answered 503.
    private static func connectionsMax(descriptorsMax: Int, workerCount: Int) -> Int {
        let pipes = PipePool.countMax(threads: workerCount, descriptorsMax: descriptorsMax)
        let ownDescriptors = 24 + (4 + 2 * pipes) * workerCount
        return max(8, (descriptorsMax - ownDescriptors) / 2)
    }

    /// Client connections in the whole process.
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    func connectionOpened() { connections.add(1, ordering: .relaxed) }

    func connectionClosed() { connections.subtract(1, ordering: .relaxed) }

    /// Tells one of the workers that wait for it that a place at a server may be free.
    /// - Parameter except: a worker that need not be told, because it tells.
    func tellPermitReturned(_ server: SharedServer, except number: Int? = nil) {
        guard let next = server.nextWaitingWorker(), next != number.map({ $0 & 63 }) else { return }
        for (number, mailbox) in mailboxes.enumerated() where number & 63 == next {
            mailbox.post(.permitReturned(server))
        }
    }
}
