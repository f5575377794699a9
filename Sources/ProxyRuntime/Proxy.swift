// Starting a proxy: everything that can fail is done first, then the threads begin.

import EventLoop
import Glibc
import HTTPSemantics
import Logging
import ProxyConfiguration
import ProxyCore
import TLS

/// A running proxy.
public enum Proxy {
    /// The version of this program.
    public static let version = "0.1.0"

    /// Reads the configuration anew, for a reload.
    public typealias ConfigurationSource = () throws(ConfigurationErrors) -> LoadedConfiguration

    /// Runs a proxy until SIGTERM, SIGINT or SIGQUIT came and running exchanges have ended, at most `shutdown_grace` later;
    /// a second signal ends it at once.
    /// - Parameters:
    ///   - configuration: what to run.
    ///   - source: asked at each SIGHUP; nil if the configuration never changes.
    ///   - onReady: called when every listener takes connections, with their addresses as text.
    /// - Throws: if it cannot start; nothing runs then.
    public static func run(
        _ configuration: Configuration, reloadingFrom source: ConfigurationSource? = nil,
        onReady: (_ listening: [String]) -> Void
    ) throws(StartupError) {
        // Before anything of our own is open.
        let inherited = InheritedSockets(environment: Process.environmentVariable)
        let signals = try StartupError.during("cannot start") { () throws(SystemError) in try Signals() }
        let control = try ControlThread(configuration, source: source, inherited)
        defer { control.removePaths() }
        onReady(control.listening)
        control.run(signals)
    }
}

extension ControlThread {
    /// Opens what the error log is written to, and makes it.
    static func openErrorLog(
        _ configuration: ProxyConfiguration.ErrorLog
    ) throws(StartupError) -> (LogFile, Logger) {
        do {
            let file = try LogFile(configuration.destination)
            return (file, ErrorLog.make(configuration, to: file))
        } catch {
            throw StartupError("cannot open the error log", error)
        }
    }

    /// Opens the access log and starts its thread; nil if it is off.
    static func openAccessLog(
        _ configuration: AccessLog, _ shared: SharedState
    ) throws(StartupError) -> AccessLogThread? {
        guard let destination = configuration.destination else { return nil }
        let control = shared.control
        do {
            return try AccessLogThread(
                destination, format: configuration.format, workerCount: shared.workerCount,
                onTrouble: { control.post(.trouble($0)) }, onEnd: { control.post(.accessLogEnded) })
        } catch {
            throw StartupError("cannot open the access log", error)
        }
    }

    /// Starts who looks names up; nil if there are none.
    static func startResolver(_ configuration: Configuration) throws(StartupError) -> Resolver? {
        guard configuration.namesHosts else { return nil }
        do {
            return try Resolver(source: configuration.resolver)
        } catch {
            throw StartupError(error.description)
        }
    }

    /// Reads the files of TLS. What is only a warning is left to be told.
    static func readMaterial(
        _ configuration: Configuration
    ) throws(StartupError) -> (TLSMaterial, FileStamps) {
        let stamps = FileStamps(configuration)
        let material = TLSMaterial.read(configuration)
        if let problem = material.problems.first(where: { !$0.isWarning }) { throw StartupError(problem) }
        return (material, stamps)
    }

    /// Starts to answer at the addresses of `admin`.
    static func startAdmin(_ plan: ListeningPlan, _ shared: SharedState) throws(StartupError) -> AdminThread {
        do {
            return try AdminThread(plan.admin.flatMap(\.descriptors), shared)
        } catch {
            throw StartupError("cannot start the admin listener", error)
        }
    }

    static func makeTicketKeys() throws(StartupError) -> TicketKeys {
        do throws(TLSSetupError) {
            return try TicketKeys.random()
        } catch {
            throw StartupError(error.description)
        }
    }

    /// Makes what each worker needs of a generation.
    static func makeWorkerGenerations(
        _ generation: Generation, _ shared: SharedState, _ material: TLSMaterial, _ keys: TicketKeys,
        _ plan: ListeningPlan, outcomes: [Int: ResolutionOutcome], log: AccessLogThread?
    ) throws(StartupError) -> [WorkerGeneration] {
        var made: [WorkerGeneration] = []
        do throws(TLSSetupError) {
            for number in 0..<shared.workerCount {
                made.append(
                    WorkerGeneration(
                        generation, nodeName: shared.nodeName, tls: try material.workerTLS(generation.servers, keys),
                        sockets: plan.sockets(ofWorker: number), outcomes: outcomes,
                        log: log.map { WorkerLog(ring: $0.rings[number], thread: $0) }))
            }
        } catch {
            for one in made { one.tls.retire() }
            throw StartupError(error.description)
        }
        return made
    }

    /// Starts the workers and waits until every one takes connections; if one cannot, ends them all.
    func startWorkers(_ generations: [WorkerGeneration]) throws(StartupError) {
        for (number, generation) in generations.enumerated() {
            let shared = shared
            do throws(SystemError) {
                try Thread.start(name: "worker-\(number)") {
                    do throws(SystemError) {
                        let worker = try Worker(shared, number: number, generation)
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
