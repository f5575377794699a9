// The control thread: it starts everything, waits for signals and messages, writes what workers have to say to the
// error log, and ends everything.

import EventLoop
import HTTPSemantics
import Logging
import ProxyConfiguration
import ProxyCore
import TLS

/// A running proxy.
public enum Proxy {
    /// The version of this program.
    public static let version = "0.1.0"

    /// Runs a proxy until SIGTERM or SIGINT came and running exchanges have ended, at most `shutdown_grace` later;
    /// a second signal ends it at once.
    /// - Parameters:
    ///   - configuration: what to run.
    ///   - onReady: called when every listener takes connections, with their addresses as text.
    /// - Throws: if it cannot start; nothing runs then.
    public static func run(
        _ configuration: Configuration, onReady: (_ listening: [String]) -> Void
    ) throws(StartupError) {
        let signals = try StartupError.during("cannot start") { () throws(SystemError) in try Signals() }
        let control = try StartupError.during("cannot start") { () throws(SystemError) in
            try Mailbox<ControlMessage>()
        }
        let errorLog: LogFile
        do {
            errorLog = try LogFile(configuration.errorLog.destination)
        } catch {
            throw StartupError("cannot open the error log", error)
        }
        let logger = ErrorLog.make(configuration.errorLog, to: errorLog)
        let workerCount = configuration.workers ?? Process.availableProcessors()
        let descriptorsMax = Process.raiseDescriptorLimit()
        let sockets = try ListeningSockets(configuration, workerCount: workerCount)
        defer { for path in sockets.paths { Socket.removePath(path) } }
        let running = try RunningProxy(
            configuration, workerCount: workerCount, descriptorsMax: descriptorsMax, sockets, control: control,
            errorLog, logger)
        var metadata: Logger.Metadata = [
            "listening": "\(sockets.names.joined(separator: " "))", "workers": "\(workerCount)",
            "descriptors_max": "\(descriptorsMax)", "connections_max": "\(running.connectionsMax)",
        ]
        if !sockets.adminNames.isEmpty { metadata["admin"] = "\(sockets.adminNames.joined(separator: " "))" }
        logger.info("started", metadata: metadata)
        onReady(sockets.names)
        running.serviceManager.tell(.ready)
        running.waitForEnd(signals)
        logger.info("stopped")
    }
}

/// The threads of a proxy, seen from the control thread.
private final class RunningProxy {
    private let shared: SharedState
    let serviceManager = ServiceManager()
    private let errorLog: LogFile
    private let logger: Logger
    private let resolver: Resolver?
    private let accessLog: AccessLogThread?
    private var certificates: CertificateKeeper
    private var runningWorkers = 0
    private let shutdownGraceMilliseconds: Int
    private let drainDelayMilliseconds: Int
    /// Answers those who watch over the process, once the workers take connections.
    private var admin: AdminThread?

    /// The bound of client connections.
    var connectionsMax: Int { shared.connectionsMax }

    init(
        _ configuration: Configuration, workerCount: Int, descriptorsMax: Int, _ sockets: ListeningSockets,
        control: Mailbox<ControlMessage>, _ errorLog: LogFile, _ logger: Logger
    ) throws(StartupError) {
        self.errorLog = errorLog
        self.logger = logger
        shutdownGraceMilliseconds = configuration.shutdownGraceMilliseconds
        drainDelayMilliseconds = configuration.drainDelayMilliseconds
        do {
            if let destination = configuration.accessLog.destination {
                accessLog = try AccessLogThread(
                    destination, format: configuration.accessLog.format, workerCount: workerCount,
                    onTrouble: { control.post(.trouble($0)) })
            } else {
                accessLog = nil
            }
        } catch {
            throw StartupError("cannot open the access log", error)
        }
        do {
            resolver = configuration.namesHosts ? try Resolver(source: configuration.resolver) : nil
        } catch {
            throw StartupError(error.description)
        }
        do {
            shared = try SharedState(
                configuration, workerCount: workerCount, descriptorsMax: descriptorsMax, accessLog: accessLog,
                resolver: resolver, control: control)
        } catch {
            throw StartupError("cannot start", error)
        }
        let stamps = FileStamps(configuration)
        let material = TLSMaterial.read(configuration)
        for problem in material.problems {
            if !problem.isWarning { throw StartupError(whole: problem.description) }
            logger.warning("\(problem.message)", metadata: ["at": "\(problem.location.text)"])
        }
        let keys: TicketKeys
        do throws(TLSSetupError) {
            keys = try TicketKeys.random()
        } catch {
            throw StartupError(error.description)
        }
        certificates = CertificateKeeper(shared, material, stamps: stamps, keys: keys, logger)
        watchServers()
        try startWorkers(sockets, material, keys)
        guard !sockets.admin.isEmpty else { return }
        do {
            admin = try AdminThread(sockets.admin, shared)
        } catch {
            throw StartupError("cannot start the admin listener", error)
        }
    }

    /// Starts looking up the servers that have names.
    private func watchServers() {
        let control = shared.control
        for (index, server) in shared.servers.enumerated() {
            guard case .name(let name, _) = server.identity.endpoint else { continue }
            _ = resolver?.watch(
                name: name, family: server.identity.family,
                onChange: { control.post(.resolved(server: index, $0)) },
                onFailure: { control.post(.resolutionFailed(server: index, $0)) })
        }
    }

    private func startWorkers(
        _ sockets: ListeningSockets, _ material: TLSMaterial, _ keys: TicketKeys
    ) throws(StartupError) {
        for number in 0..<shared.workerCount {
            let own = sockets.ofWorker[number]
            let tls: WorkerTLS
            do throws(TLSSetupError) {
                tls = try material.workerTLS(shared.servers, keys)
            } catch {
                throw StartupError(error.description)
            }
            let shared = shared
            do throws(SystemError) {
                try Thread.start(name: "worker-\(number)") {
                    do throws(SystemError) {
                        let worker = try Worker(shared, number: number, sockets: own, tls: tls)
                        shared.control.post(.workerStarted)
                        worker.run()
                        shared.control.post(.workerEnded)
                    } catch {
                        shared.control.post(.workerFailed(error))
                    }
                }
                runningWorkers += 1
            } catch {
                throw StartupError("cannot start a thread", error)
            }
        }
        try waitForStart()
    }

    /// Waits until every worker takes connections; if one cannot, ends them all.
    private func waitForStart() throws(StartupError) {
        var startedWorkers = 0
        var failure: SystemError?
        while runningWorkers > (failure == nil ? startedWorkers : 0) {
            shared.control.wakeUp.wait()
            for message in shared.control.takeAll() {
                switch message {
                case .workerStarted: startedWorkers += 1
                case .workerEnded: runningWorkers -= 1
                case .workerFailed(let error):
                    runningWorkers -= 1
                    failure = error
                    tellAll(.stop)
                default: handle(message)
                }
            }
        }
        if let failure { throw StartupError("a worker cannot start", failure) }
    }

    /// How far the end has come that a signal asked for. Times are absolute, in milliseconds.
    private enum Ending {
        /// Nobody asked.
        case none
        /// It was announced: everything is served as before, until the workers are told at this time.
        case announced(drainAt: UInt64)
        /// The workers let running exchanges end, until they are stopped at this time.
        case draining(stopAt: UInt64)
        /// The workers were told to end at once.
        case stopped

        /// When it goes on by itself; `.max` is never.
        var dueMilliseconds: UInt64 {
            switch self {
            case .none, .stopped: .max
            case .announced(let time), .draining(let time): time
            }
        }
    }

    func waitForEnd(_ signals: borrowing Signals) {
        var ending = Ending.none
        var nextLook = certificates.hasWork ? milliseconds + CertificateKeeper.intervalMilliseconds : .max
        while runningWorkers > 0 {
            let next = min(ending.dueMilliseconds, nextLook)
            let timeout = next == .max ? nil : Int(next) - Int(min(next, milliseconds))
            switch signals.wait(or: shared.control.wakeUp, timeoutMilliseconds: timeout) {
            case .reload: reload()
            case .terminate: endWasAskedFor(&ending)
            case .timedOut: break
            case .woken: readMessages()
            }
            if milliseconds >= nextLook {
                certificates.look()
                nextLook = milliseconds + CertificateKeeper.intervalMilliseconds
            }
            if milliseconds >= ending.dueMilliseconds { endIsDue(&ending) }
        }
        admin?.stop()
        accessLog?.stop()
        resolver?.stop()
        // What they had to say last.
        readMessages()
    }

    /// SIGTERM or SIGINT: who watches learns it first, then the workers; a second signal ends everything.
    private func endWasAskedFor(_ ending: inout Ending) {
        switch ending {
        case .none:
            serviceManager.tell(.stopping)
            admin?.beginDraining()
            if drainDelayMilliseconds > 0 {
                logger.info(
                    "stopping: not ready any more; all is served for drain_delay",
                    metadata: ["drain_delay_milliseconds": "\(drainDelayMilliseconds)"])
            }
            ending = .announced(drainAt: milliseconds + UInt64(drainDelayMilliseconds))
        case .announced, .draining, .stopped:
            logger.notice("stopping at once")
            tellAll(.stop)
            ending = .stopped
        }
    }

    private func endIsDue(_ ending: inout Ending) {
        switch ending {
        case .announced:
            logger.info("stopping: running exchanges may end")
            tellAll(.drain)
            ending = .draining(stopAt: milliseconds + UInt64(shutdownGraceMilliseconds))
        case .draining:
            logger.notice("shutdown_grace is over; what still runs is ended")
            tellAll(.stop)
            ending = .stopped
        case .none, .stopped: break
        }
    }

    /// SIGHUP: logs are opened again, certificates read again.
    private func reload() {
        serviceManager.tell(.reloading)
        defer { serviceManager.tell(.ready) }
        do {
            try errorLog.reopen()
        } catch {
            logger.error("the error log cannot be opened again", metadata: ["reason": "\(error.reason)"])
        }
        do {
            try accessLog?.reopen()
        } catch {
            logger.error("the access log cannot be opened again", metadata: ["reason": "\(error.reason)"])
        }
        logger.info("logs were opened again")
        if certificates.hasWork { certificates.readAgain() }
    }

    private var milliseconds: UInt64 { Clock.monotonicMicroseconds() / 1000 }

    private func tellAll(_ message: WorkerMessage) {
        for mailbox in shared.mailboxes { mailbox.post(message) }
    }

    private func readMessages() {
        for message in shared.control.takeAll() { handle(message) }
    }

    private func handle(_ message: ControlMessage) {
        switch message {
        case .workerStarted: break
        case .workerEnded, .workerFailed: runningWorkers -= 1
        case .peer(let event): log(event)
        case .peerEventsSuppressed(let count):
            logger.warning("more of the like", metadata: ["count": "\(count)"])
        case .acceptingPaused(let reason):
            logger.warning("taking no new connections for a while", metadata: ["reason": "\(reason)"])
        case .trouble(let text): logger.error("\(text)")
        case .resolved(let server, let outcome): tellResolved(server, outcome)
        case .resolutionFailed(let server, let failure):
            logger.warning(
                "a name could not be looked up; its last addresses, if there are any, stay in use",
                metadata: ["server": "\(shared.servers[server].identity.description)", "reason": "\(failure)"])
        }
    }

    private func tellResolved(_ server: Int, _ outcome: ResolutionOutcome) {
        let identity = shared.servers[server].identity
        switch outcome {
        case .addresses(let addresses):
            guard case .name(_, let port) = identity.endpoint else { return }
            logger.info(
                "a server's addresses are known",
                metadata: [
                    "server": "\(identity.description)",
                    "addresses": "\(addresses.map { "\($0)" }.joined(separator: " "))",
                ])
            tellAll(.addressesChanged(server: server, addresses.map { SocketAddress($0, port: port) }))
        case .failed(let failure):
            logger.warning(
                "a server's name has no address",
                metadata: ["server": "\(identity.description)", "reason": "\(failure)"])
            tellAll(.addressesFailed(server: server, failure == .timedOut ? .nameTimedOut : .nameNotFound))
        }
    }

    private func log(_ event: PeerEvent) {
        var metadata: Logger.Metadata = [
            "reason": "\(event.failure.logName)", "status": "\(event.status)", "tries": "\(event.tries)",
        ]
        if let server = event.server { metadata["server"] = "\(shared.servers[server].identity.description)" }
        if let detail = event.detail { metadata["detail"] = "\(detail)" }
        if let target = event.target { metadata["target"] = "\(target)" }
        logger.warning("\(event.failure.explanation(event.fault))", metadata: metadata)
    }
}

extension Configuration {
    /// Whether anything has to be looked up: a server's name, or what CONNECT may ask for.
    fileprivate var namesHosts: Bool {
        let hasNamedServer = upstreams.flatMap(\.servers).contains { server in
            if case .name = server.endpoint { true } else { false }
        }
        let dialsNames = listeners.contains { listener in
            guard case .dial(let targets)? = listener.connect?.action else { return false }
            return targets.contains { target in
                switch target.host {
                case .any, .name, .namesBelow: true
                case .network: false
                }
            }
        }
        return hasNamedServer || dialsNames
    }
}
