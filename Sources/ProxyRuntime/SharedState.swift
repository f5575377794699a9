// What all threads of the process share: the configuration, the table of servers, the counts against process-wide
// limits, and the mailboxes. Everything in it is immutable, atomic, or behind a mailbox.

import EventLoop
import ProxyConfiguration
import ProxyCore
import Synchronization

/// What threads tell the control thread.
enum ControlMessage: Sendable {
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
    private let connections = Atomic<Int>(0)

    init(
        _ configuration: Configuration, workerCount: Int, accessLog: AccessLogThread?,
        control: Mailbox<ControlMessage>
    ) throws(SystemError) {
        self.configuration = configuration
        self.workerCount = workerCount
        self.accessLog = accessLog
        self.control = control
        nodeName = Process.nodeName()
        var indices: [ServerIdentity: Int] = [:]
        var servers: [SharedServer] = []
        for upstream in configuration.upstreams {
            for server in upstream.servers {
                let identity = ServerIdentity(server)
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

    /// A server's index in the table.
    func serverIndex(_ identity: ServerIdentity) -> Int {
        guard let index = serverIndices[identity] else { preconditionFailure("a server that no upstream has") }
        return index
    }

    /// Client connections in the whole process.
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    func connectionOpened() { connections.add(1, ordering: .relaxed) }

    func connectionClosed() { connections.subtract(1, ordering: .relaxed) }

    /// Tells the workers that wait for it that a place at a server may be free.
    /// - Parameter workers: a bit for each worker, modulo 64.
    func tellPermitReturned(server: Int, workers: UInt64) {
        for (number, mailbox) in mailboxes.enumerated() where workers & (1 << UInt64(number & 63)) != 0 {
            mailbox.post(.permitReturned(server: server))
        }
    }
}
