// A reload: the configuration is read and checked, what it needs is bound, opened and made, and only then the workers are
// told. Whatever fails before that changes nothing. What is not needed any more is closed when every worker has taken the
// new generation on, and forgotten when the last exchange of the old one is over.

import EventLoop
import Logging
import ProxyConfiguration
import ProxyCore
import TLS

/// A generation that is not in force any more.
struct FormerGeneration {
    let generation: Generation
    /// Workers in which exchanges still run under it.
    var workerCount: Int
}

/// What waits until every worker has taken on a generation.
struct PendingTaking {
    let number: Int
    var workerCount: Int
    let addresses: [BoundAddress]
    let accessLog: AccessLogThread?
}

extension ControlThread {
    /// Everything that a configuration needs, made before anything is changed.
    private struct Preparation {
        let plan: ListeningPlan
        let generation: Generation
        let material: TLSMaterial
        let stamps: FileStamps
        let accessLog: AccessLogThread?
        /// nil if it stays the same.
        let errorLog: (file: LogFile, logger: Logger)?
        let workers: [WorkerGeneration]
        /// Who answers at the addresses of `admin`, if they are others than before.
        let admin: AdminThread?
        let adminChanges: Bool
    }

    /// Reads the configuration again and brings it into force, if it can be used and is another one.
    func reload() {
        guard let source else {
            if certificates.hasWork { certificates.readAgain(logger) }
            return
        }
        let loaded: LoadedConfiguration
        do throws(ConfigurationErrors) {
            loaded = try source()
        } catch {
            for diagnostic in error.diagnostics where diagnostic.severity == .error { tell(diagnostic) }
            failed(error.diagnostics.first { $0.severity == .error }?.headline ?? error.description)
            return
        }
        for warning in loaded.warnings { tell(warning) }
        if loaded.configuration == generation.configuration {
            if certificates.hasWork { certificates.readAgain(logger) }
            shared.standing.reloaded()
            logger.info("the configuration has not changed", metadata: ["generation": "\(generation.number)"])
            return
        }
        do throws(StartupError) {
            commit(try prepare(loaded.configuration))
        } catch {
            logger.error(
                "the configuration cannot come into force; what runs stays as it is",
                metadata: ["at": "\(error.place ?? "-")", "reason": "\(error.reason)"])
            failed(error.description)
        }
    }

    private func tell(_ diagnostic: Diagnostic) {
        let metadata: Logger.Metadata = ["at": "\(diagnostic.location.text)", "reason": "\(diagnostic.message)"]
        switch diagnostic.severity {
        case .error: logger.error("the configuration cannot be used; what runs stays as it is", metadata: metadata)
        case .warning: logger.warning("the configuration is probably not meant so", metadata: metadata)
        }
    }

    private func failed(_ reason: String) { shared.standing.reloadFailed(reason) }

    // MARK: Preparing

    private func prepare(_ configuration: Configuration) throws(StartupError) -> Preparation {
        let old = generation.configuration
        // What was made is undone, the last first, if the rest cannot be made.
        var undo: [() -> Void] = []
        do throws(StartupError) {
            let plan = try sockets.plan(for: configuration)
            undo.append { plan.abandon() }
            let (material, stamps) = try Self.readMaterial(configuration)
            let errorLog =
                configuration.errorLog == old.errorLog ? nil : try Self.openErrorLog(configuration.errorLog)
            let keepsResolver = configuration.resolver == old.resolver && generation.resolver != nil
            undo.append { self.servers.removeUnused() }
            let next = Generation(
                number: generation.number + 1, configuration, servers: servers.servers(of: configuration),
                resolver: keepsResolver ? generation.resolver : try Self.startResolver(configuration),
                workerCount: shared.workerCount)
            let keepsLog = configuration.accessLog == old.accessLog
            let log = keepsLog ? accessLog : try Self.openAccessLog(configuration.accessLog, shared)
            if !keepsLog { undo.append { log?.beginStop() } }
            let workers = try Self.makeWorkerGenerations(
                next, shared, material, certificates.keys, plan, outcomes: servers.outcomes, log: log)
            undo.append { for worker in workers { worker.tls.retire() } }
            let adminChanges = configuration.admin?.binds.map(\.endpoint) != old.admin?.binds.map(\.endpoint)
            let admin = adminChanges && !plan.admin.isEmpty ? try Self.startAdmin(plan, shared) : nil
            return Preparation(
                plan: plan, generation: next, material: material, stamps: stamps, accessLog: log, errorLog: errorLog,
                workers: workers, admin: admin, adminChanges: adminChanges)
        } catch {
            for step in undo.reversed() { step() }
            throw error
        }
    }

    // MARK: Committing

    /// From here on nothing fails.
    private func commit(_ preparation: Preparation) {
        let old = generation
        let removed = sockets.take(preparation.plan)
        let formerLog = preparation.accessLog === accessLog ? nil : accessLog
        generation = preparation.generation
        accessLog = preparation.accessLog
        if let errorLog = preparation.errorLog { (self.errorLog, logger) = (errorLog.file, errorLog.logger) }
        formerGenerations.append(FormerGeneration(generation: old, workerCount: shared.workerCount))
        pendingTakings.append(
            PendingTaking(
                number: generation.number, workerCount: shared.workerCount, addresses: removed, accessLog: formerLog))
        tellWarnings(preparation.material)
        if generation.configuration.workers != old.configuration.workers {
            logger.notice(
                "the number of workers stays until the next start", metadata: ["workers": "\(shared.workerCount)"])
        }
        takeForce(generation, preparation.plan)
        for (mailbox, worker) in zip(shared.mailboxes, preparation.workers) { mailbox.post(.generation(worker)) }
        certificates.take(generation, preparation.material, stamps: preparation.stamps)
        if preparation.adminChanges {
            admin?.stop()
            admin = preparation.admin
        }
    }

    /// A worker has taken on a generation; when all have, what they used before is closed.
    func generationTaken(_ number: Int) {
        guard let index = pendingTakings.firstIndex(where: { $0.number == number }) else { return }
        pendingTakings[index].workerCount -= 1
        guard pendingTakings[index].workerCount == 0 else { return }
        let taking = pendingTakings.remove(at: index)
        for address in taking.addresses { address.close(withWorkers: false) }
        if let log = taking.accessLog {
            log.beginStop()
            endingLogs.append(log)
        }
        shared.standing.reloaded()
        logger.info("the configuration was taken on", metadata: ["generation": "\(number)"])
    }

    /// In a worker, the last exchange under a generation is over; when that is so in all, it is forgotten.
    func generationReleased(_ number: Int) {
        guard let index = formerGenerations.firstIndex(where: { $0.generation.number == number }) else { return }
        formerGenerations[index].workerCount -= 1
        guard formerGenerations[index].workerCount == 0 else { return }
        let former = formerGenerations.remove(at: index).generation
        shared.metrics.generationEnded(former.metrics)
        servers.release(former.servers)
        if let resolver = former.resolver, resolver !== generation.resolver,
            !formerGenerations.contains(where: { $0.generation.resolver === resolver })
        {
            resolver.stop()
        }
    }
}
