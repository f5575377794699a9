// A real worker between real sockets on loopback, driven by the test's own thread, one round of its loop after the
// other. Nothing sleeps; only where the kernel still owes something, a round waits for a millisecond at most.

import Bytes
import Glibc
import ProxyConfiguration
import ProxyCore
import TLS

@testable import EventLoop
@testable import ProxyRuntime

/// A worker under a configuration, with the one listener that it names.
class WorkerWorld {
    private let worker: Worker
    private let shared: SharedState
    /// Where it listens.
    let port: UInt16
    /// Rounds in a row that all had events: more than anything that is run here needs.
    private static let roundsMax = 5000
    /// Whether the worker went on and on without anything to do.
    private(set) var isSpinning = false

    /// - Parameters:
    ///   - text: the configuration.
    ///   - listenerContext: the listener's TLS, if it has any.
    ///   - serverPeer: how the worker speaks TLS to a server, if it does.
    init(
        configuration text: String, listenerContext: TLSServerContext? = nil,
        serverPeer: (SharedServer) throws -> TLSClientPeer? = { _ in nil }
    ) throws {
        // splice(2) raises it; the program ignores it where it starts.
        signal(SIGPIPE, SIG_IGN)
        let configuration = try ConfigurationFile.parse(text: Array(text.utf8), file: "sweep.conf").configuration
        shared = try SharedState(
            workerCount: 1, descriptorsMax: 1024, control: try Mailbox<ControlMessage>())
        shared.take(configuration)
        var table = ServerTable()
        let generation = Generation(
            number: 1, configuration, servers: table.servers(of: configuration), resolver: nil, workerCount: 1)
        let sockets = try ListeningSockets(workerCount: 1).plan(for: configuration).sockets(ofWorker: 0)
        port = try Socket.localAddress(of: sockets[0].descriptor).ip.port
        var peers: [Int: TLSClientPeer] = [:]
        for server in generation.servers { peers[server.number] = try serverPeer(server) }
        worker = try Worker(
            shared, number: 0,
            WorkerGeneration(
                generation, nodeName: shared.nodeName,
                tls: WorkerTLS(listeners: [listenerContext], servers: peers), sockets: sockets))
    }

    deinit {
        shared.mailboxes[0].post(.stop)
        worker.run()
    }

    /// Tells the worker to end when all is done.
    func drain() { shared.mailboxes[0].post(.drain) }

    /// One round.
    /// - Returns: whether there was anything to do.
    @discardableResult
    func turn(timeoutMilliseconds: Int32 = 0) -> Bool {
        let count = worker.turn(timeoutMilliseconds: timeoutMilliseconds)
        return count > 0 || !worker.hot.pointee.nextAgenda.isEmpty
    }

    /// Rounds until there is nothing to do.
    /// - Returns: whether there was anything.
    @discardableResult
    func settle() -> Bool {
        var rounds = 0
        while turn() {
            rounds += 1
            if rounds > Self.roundsMax {
                isSpinning = true
                return true
            }
        }
        return rounds > 0
    }

    /// What the worker still holds, in words; empty if that is nothing.
    /// - Parameter withIdle: whether idle connections to servers count.
    func held(withIdle: Bool) -> [String] {
        var held: [String] = []
        func note(_ count: Int, _ what: String) { if count != 0 { held.append("\(count) \(what)") } }
        note(worker.exchanges.count, "exchanges")
        note(worker.downstreams.count, "client connections")
        note(shared.connectionCount, "counted client connections")
        for slot in worker.hot.pointee.slots { note(slot.pointee.holderCount, "holders of the snapshot") }
        note(worker.hot.pointee.resolveWaiters.count, "exchanges waiting for an address")
        for upstream in worker.hot.pointee.slots.flatMap(\.pointee.upstreams) {
            note(upstream.pointee.queue.count, "queued exchanges")
            for server in upstream.pointee.servers where !server.pointee.shared.hasPermit(max: 1) {
                held.append("a place below max_exchanges")
            }
        }
        // An idle connection to a server may keep its TLS session, and nothing else.
        note(withIdle ? worker.pool.borrowedBytes : worker.pool.blockBytes, "borrowed bytes")
        note(worker.pipes.heldCount, "pipes")
        if withIdle {
            note(worker.upstreams.count, "server connections")
            let levels = UnsafeBufferPointer(start: worker.wheel.storage.pointee.occupied, count: TimerWheel.levels)
            note(levels.reduce(0) { $0 + $1.nonzeroBitCount }, "slots of timers")
        } else {
            worker.upstreams.forEach { connection in
                let phase = connection.pointee.phase
                if phase == .idle { return }
                if phase == .multiplexing, connection.pointee.http2?.pointee.session?.streamCount == 0 { return }
                held.append("a server connection that is \(phase)")
            }
        }
        return held
    }

    /// Exchanges that run, in words.
    var exchangeStates: [String] {
        var states: [String] = []
        worker.exchanges.forEach { exchange in
            let machine = exchange.pointee.machine
            var text = "request \(machine.requestSide), response \(machine.responseSide), \(machine.attachment)"
            if machine.isTunnel { text += ", tunnel up \(machine.upward) down \(machine.downward)" }
            let client = exchange.pointee.downstream
            text += "; client \(client.pointee.phase) \(client.pointee.state.contains(.isStream) ? "stream" : "socket")"
            text += " outbound \(client.pointee.outbound.buffer.count) inbound \(client.pointee.inbound.count)"
            if let server = exchange.pointee.upstream {
                text +=
                    "; server \(server.pointee.phase) \(server.pointee.state.contains(.isStream) ? "stream" : "socket")"
                text += " outbound \(server.pointee.outbound.buffer.count) inbound \(server.pointee.inbound.count)"
            }
            states.append(text)
        }
        return states
    }

    /// Exchanges that run.
    var exchangeCount: Int { worker.exchanges.count }

    /// Idle connections to each server.
    var idleCounts: [Int] {
        worker.hot.pointee.servers.sorted { $0.key < $1.key }.map { $0.value.pointee.idle.count }
    }

    /// Throws away what the worker had to say to a control thread.
    func forgetMessages() { _ = shared.control.takeAll() }
}
