// What all threads of the process share: the configuration, the table of servers, the counts against process-wide
// limits, and the mailboxes. Everything in it is immutable, atomic, or behind a mailbox.

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
    /// A worker takes no new connections for a while.
    case acceptingPaused(String)
    /// Something else went wrong.
    case trouble(String)
    /// A worker could not start.
    case workerFailed(SystemError)
    /// A name's addresses are known, or not.
    case resolved(server: Int, ResolutionOutcome)
    /// A name that was known could not be looked up again.
    case resolutionFailed(server: Int, ResolutionFailure)
}

/// See the head of the file.
final class SharedState: Sendable {
    let configuration: Configuration
    let nodeName: String
    let servers: [SharedServer]
    private let serverIndices: [ServerIdentity: Int]
    let workerCount: Int
    let mailboxes: [Mailbox<WorkerMessage>]
    let control: Mailbox<ControlMessage>
    let accessLog: AccessLogThread?
    /// Looks names up; nil if the configuration has none.
    let resolver: Resolver?
    /// What is counted.
    let metrics: ProxyMetrics
    /// The bound of client connections in the whole process.
    let connectionsMax: Int
    /// How many pipes each worker may have.
    let pipesOfWorkerMax: Int
    private let connections = Atomic<Int>(0)

    init(
        _ configuration: Configuration, workerCount: Int, descriptorsMax: Int, accessLog: AccessLogThread?,
        resolver: Resolver?, control: Mailbox<ControlMessage>
    ) throws(SystemError) {
        self.configuration = configuration
        pipesOfWorkerMax = PipePool.countMax(threads: workerCount, descriptorsMax: descriptorsMax)
        connectionsMax =
            configuration.connectionsMax
            ?? Self.connectionsMax(descriptorsMax: descriptorsMax, workerCount: workerCount)
        self.workerCount = workerCount
        metrics = ProxyMetrics(configuration, workerCount: workerCount)
        self.accessLog = accessLog
        self.resolver = resolver
        self.control = control
        nodeName = Process.nodeName()
        var indices: [ServerIdentity: Int] = [:]
        var servers: [SharedServer] = []
        for upstream in configuration.upstreams {
            for server in upstream.servers {
                let identity = ServerIdentity(server, tls: upstream.tls)
                if indices[identity] == nil {
                    indices[identity] = servers.count
                    servers.append(SharedServer(identity))
                }
            }
        }
        self.servers = servers
        serverIndices = indices
        var mailboxes: [Mailbox<WorkerMessage>] = []
        for _ in 0..<workerCount { mailboxes.append(try Mailbox()) }
        self.mailboxes = mailboxes
    }

    /// Where nobody set a bound: each client may need a connection upstream, so clients get half of what the process
    /// may open. Otherwise they would take all, and then be answered 503.
    private static func connectionsMax(descriptorsMax: Int, workerCount: Int) -> Int {
        let pipes = PipePool.countMax(threads: workerCount, descriptorsMax: descriptorsMax)
        let ownDescriptors = 24 + (4 + 2 * pipes) * workerCount
        return max(8, (descriptorsMax - ownDescriptors) / 2)
    }

    /// A server's index in the table.
    func serverIndex(_ identity: ServerIdentity) -> Int {
        guard let index = serverIndices[identity] else { preconditionFailure("a server that no upstream has") }
        return index
    }

    /// Client connections in the whole process.
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    func connectionOpened() { connections.add(1, ordering: .relaxed) }

    func connectionClosed() { connections.subtract(1, ordering: .relaxed) }

    /// Tells one of the workers that wait for it that a place at a server may be free.
    /// - Parameter except: a worker that need not be told, because it tells.
    func tellPermitReturned(_ server: SharedServer, index: Int, except number: Int? = nil) {
        guard let next = server.nextWaitingWorker(), next != number.map({ $0 & 63 }) else { return }
        for (number, mailbox) in mailboxes.enumerated() where number & 63 == next {
            mailbox.post(.permitReturned(server: index))
        }
    }
}
