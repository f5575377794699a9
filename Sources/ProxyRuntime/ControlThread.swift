// The control thread: it waits for signals and messages, writes what workers have to say to the error log, looks after
// certificates and names, and brings everything to its end. Starting is in Proxy.swift, reloading in
// ControlThread+Reload.swift.

import EventLoop
import HTTPSemantics
import Logging
import ProxyConfiguration
import ProxyCore
import TLS

/// See the head of the file.
final class ControlThread {
    let shared: SharedState
    let source: Proxy.ConfigurationSource?
    private let serviceManager = ServiceManager()
    /// The configuration in force.
    var generation: Generation
    /// Generations before it whose last exchanges are not over, with how many workers still have them.
    var formerGenerations: [FormerGeneration] = []
    var servers = ServerTable()
    var sockets: ListeningSockets
    var errorLog: LogFile
    var logger: Logger
    var accessLog: AccessLogThread?
    /// Logs that were used before, until they have written what they have.
    var endingLogs: [AccessLogThread] = []
    var certificates: CertificateKeeper
    var runningWorkers = 0
    /// What is to be closed when every worker has taken on a generation.
    var pendingTakings: [PendingTaking] = []
    /// Answers those who watch over the process.
    var admin: AdminThread?
    /// What is listened on, as text.
    let listening: [String]
    private var ending = Ending.none

    /// Starts everything. When it returns, every listener takes connections.
    init(
        _ configuration: Configuration, source: Proxy.ConfigurationSource?, _ inherited: InheritedSockets
    ) throws(StartupError) {
        self.source = source
        (errorLog, logger) = try Self.openErrorLog(configuration.errorLog)
        let workerCount = configuration.workers ?? Process.availableProcessors()
        do {
            shared = try SharedState(
                workerCount: workerCount, descriptorsMax: Process.raiseDescriptorLimit(), control: try Mailbox())
        } catch {
            throw StartupError("cannot start", error)
        }
        sockets = ListeningSockets(workerCount: workerCount, inherited: inherited)
        let plan = try sockets.plan(for: configuration)
        _ = sockets.take(plan)
        listening = plan.names
        do throws(StartupError) {
            let (material, stamps) = try Self.readMaterial(configuration)
            accessLog = try Self.openAccessLog(configuration.accessLog, shared)
            let keys = try Self.makeTicketKeys()
            generation = Generation(
                number: 1, configuration, servers: servers.servers(of: configuration),
                resolver: try Self.startResolver(configuration), workerCount: workerCount)
            certificates = CertificateKeeper(shared, generation, material, stamps: stamps, keys: keys)
            tellWarnings(material)
            takeForce(generation, plan)
            try startWorkers(
                try Self.makeWorkerGenerations(
                    generation, shared, material, keys, plan, outcomes: [:], log: accessLog))
            if !plan.admin.isEmpty { admin = try Self.startAdmin(plan, shared) }
        } catch {
            plan.abandon()
            throw error
        }
        logger.info("started", metadata: startMetadata(plan))
    }

    private func startMetadata(_ plan: ListeningPlan) -> Logger.Metadata {
        var metadata: Logger.Metadata = [
            "listening": "\(plan.names.joined(separator: " "))", "workers": "\(shared.workerCount)",
            "descriptors_max": "\(shared.descriptorsMax)", "connections_max": "\(shared.connectionsMax)",
        ]
        if !plan.admin.isEmpty { metadata["admin"] = "\(plan.admin.map(\.name).joined(separator: " "))" }
        return metadata
    }

    /// A generation comes into force: it is counted, its servers are held, their names looked up.
    func takeForce(_ generation: Generation, _ plan: ListeningPlan) {
        shared.take(generation.configuration)
        shared.metrics.generationBegan(generation.metrics)
        servers.hold(generation.servers)
        watchServers()
        shared.standing.take(generation, plan)
        shared.records.take(accessLog)
    }

    func tellWarnings(_ material: TLSMaterial) {
        for problem in material.problems where problem.isWarning {
            logger.warning("\(problem.message)", metadata: ["at": "\(problem.location.text)"])
        }
    }

    /// Looks up the names of the servers in force, and of no others.
    private func watchServers() {
        let control = shared.control
        let inForce = Set(generation.servers.map(\.number))
        for (number, entry) in servers.entries {
            // Exchanges of an earlier generation may still wait for the first answer about a name.
            let isAwaited = !inForce.contains(number) && entry.outcome == nil
            if !isAwaited, !inForce.contains(number) || entry.watch?.resolver !== generation.resolver {
                servers.unwatch(number)
            }
        }
        guard let resolver = generation.resolver else { return }
        for server in generation.servers where servers.entries[server.number]?.watch == nil {
            guard case .name(let name, _) = server.identity.endpoint else { continue }
            let number = server.number
            let token = resolver.watch(
                name: name, family: server.identity.family,
                onChange: { control.post(.resolved(server: number, $0)) },
                onFailure: { control.post(.resolutionFailed(server: number, $0)) })
            servers.setWatch(ServerTable.Watch(resolver: resolver, token: token), of: number)
        }
    }

    // MARK: Running

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

    /// Waits for signals and messages until every worker has ended.
    func run(_ signals: borrowing Signals) {
        serviceManager.tell(.ready)
        var nextLook = milliseconds + CertificateKeeper.intervalMilliseconds
        while runningWorkers > 0 {
            let next = min(ending.dueMilliseconds, certificates.hasWork ? nextLook : .max)
            let timeout = next == .max ? nil : Int(next) - Int(min(next, milliseconds))
            switch signals.wait(or: shared.control.wakeUp, timeoutMilliseconds: timeout) {
            case .reload: reloadWasAskedFor()
            case .reopenLogs: reopenLogs()
            case .terminate: endWasAskedFor()
            case .meaningless(let name):
                logger.notice("a signal is ignored", metadata: ["signal": "\(name)"])
            case .timedOut: break
            case .woken: readMessages()
            }
            if milliseconds >= nextLook {
                if certificates.hasWork { certificates.look(logger) }
                nextLook = milliseconds + CertificateKeeper.intervalMilliseconds
            }
            if milliseconds >= ending.dueMilliseconds { endIsDue() }
        }
        admin?.stop()
        accessLog?.stop()
        for log in endingLogs { log.stop() }
        for former in formerGenerations { former.generation.resolver?.stop() }
        generation.resolver?.stop()
        // What they had to say last.
        readMessages()
        logger.info("stopped")
    }

    private func forgetEndedLogs() {
        for log in endingLogs where log.hasEnded { shared.records.forget(log) }
        endingLogs.removeAll(where: \.hasEnded)
        // Rings are large, and the allocator keeps what it has got used to.
        Process.trimMemory()
    }

    /// Removes the paths of Unix sockets.
    func removePaths() { sockets.removePaths() }

    /// SIGTERM, SIGINT or SIGQUIT: who watches learns it first, then the workers; a second signal ends everything.
    private func endWasAskedFor() {
        switch ending {
        case .none:
            serviceManager.tell(.stopping)
            admin?.beginDraining()
            let delay = generation.configuration.drainDelayMilliseconds
            if delay > 0 {
                logger.info(
                    "stopping: not ready any more; all is served for drain_delay",
                    metadata: ["drain_delay_milliseconds": "\(delay)"])
            }
            ending = .announced(drainAt: milliseconds + UInt64(delay))
        case .announced, .draining, .stopped:
            logger.notice("stopping at once")
            tellAll(.stop)
            ending = .stopped
        }
    }

    private func endIsDue() {
        switch ending {
        case .announced:
            logger.info("stopping: running exchanges may end")
            tellAll(.drain)
            ending = .draining(
                stopAt: milliseconds + UInt64(generation.configuration.shutdownGraceMilliseconds))
        case .draining:
            logger.notice("shutdown_grace is over; what still runs is ended")
            tellAll(.stop)
            ending = .stopped
        case .none, .stopped: break
        }
    }

    /// SIGHUP: logs are opened again by their names, then the configuration is read again.
    private func reloadWasAskedFor() {
        reopenLogs()
        guard case .none = ending else {
            logger.notice("the configuration is not read again: the end has begun")
            return
        }
        serviceManager.tell(.reloading)
        reload()
        serviceManager.tell(.ready)
    }

    private func reopenLogs() {
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
    }

    private var milliseconds: UInt64 { Clock.monotonicMicroseconds() / 1000 }

    // MARK: Messages

    func tellAll(_ message: WorkerMessage) {
        for mailbox in shared.mailboxes { mailbox.post(message) }
    }

    private func readMessages() {
        for message in shared.control.takeAll() { handle(message) }
    }

    func handle(_ message: ControlMessage) {
        switch message {
        case .workerStarted: break
        case .workerEnded, .workerFailed: runningWorkers -= 1
        case .peer(let event): log(event)
        case .peerEventsSuppressed(let count):
            logger.warning("more of the like", metadata: ["count": "\(count)"])
        case .acceptingPaused(let reason):
            logger.warning("taking no new connections for a while", metadata: ["reason": "\(reason)"])
        case .trouble(let text): logger.error("\(text)")
        case .accessLogEnded: forgetEndedLogs()
        case .memoryFreed: Process.trimMemory()
        case .resolved(let server, let outcome): tellResolved(server, outcome)
        case .resolutionFailed(let server, let failure):
            guard let entry = servers.entries[server] else { return }
            logger.warning(
                "a name could not be looked up; its last addresses, if there are any, stay in use",
                metadata: ["server": "\(entry.server.identity.description)", "reason": "\(failure)"])
        case .generationTaken(let number): generationTaken(number)
        case .generationReleased(let number): generationReleased(number)
        }
    }

    private func tellResolved(_ number: Int, _ outcome: ResolutionOutcome) {
        guard let entry = servers.entries[number] else { return }
        servers.setOutcome(outcome, of: number)
        if !generation.servers.contains(where: { $0.number == number }) { servers.unwatch(number) }
        let name = entry.server.identity.description
        switch outcome {
        case .addresses(let addresses):
            let list = addresses.map { "\($0)" }.joined(separator: " ")
            logger.info("a server's addresses are known", metadata: ["server": "\(name)", "addresses": "\(list)"])
            entry.server.nameResolved(nil)
        case .failed(let failure):
            logger.warning(
                "a server's name has no address", metadata: ["server": "\(name)", "reason": "\(failure)"])
            entry.server.nameResolved(failure == .timedOut ? .nameTimedOut : .nameNotFound)
        }
        tellAll(.resolved(server: number, outcome))
    }

    private func log(_ event: PeerEvent) {
        var metadata: Logger.Metadata = ["reason": "\(event.failure.logName)"]
        // Without an exchange there is nothing to answer.
        if event.status != 0 {
            metadata["status"] = "\(event.status)"
            metadata["tries"] = "\(event.tries)"
        }
        if let server = event.server { metadata["server"] = "\(server.identity.description)" }
        if let detail = event.detail { metadata["detail"] = "\(detail)" }
        if let target = event.target { metadata["target"] = "\(target)" }
        logger.warning("\(event.failure.explanation(event.fault))", metadata: metadata)
    }
}
