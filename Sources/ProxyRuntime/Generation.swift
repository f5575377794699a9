// A configuration in force, and what a reload hands to each worker. Generations are numbered from 1; a reload makes the
// next one, and the one before lives on until the last exchange that began under it is over, in every worker.

import EventLoop
import ProxyConfiguration
import ProxyCore
import TLS

/// One configuration, with what all threads share of it. Immutable.
final class Generation: Sendable {
    let number: Int
    let configuration: Configuration
    /// The servers that it names, each once.
    let servers: [SharedServer]
    private let serversByIdentity: [ServerIdentity: SharedServer]
    /// Looks names up; nil if there are none.
    let resolver: Resolver?
    /// What is counted for its listeners and routes.
    let metrics: GenerationMetrics

    init(
        number: Int, _ configuration: Configuration, servers: [SharedServer], resolver: Resolver?, workerCount: Int
    ) {
        self.number = number
        self.configuration = configuration
        self.servers = servers
        self.resolver = resolver
        serversByIdentity = Dictionary(uniqueKeysWithValues: servers.map { ($0.identity, $0) })
        metrics = GenerationMetrics(configuration, workerCount: workerCount)
    }

    /// The server that is meant by a line of an upstream.
    func server(_ identity: ServerIdentity) -> SharedServer {
        guard let server = serversByIdentity[identity] else { preconditionFailure("a server that no upstream has") }
        return server
    }
}

/// What one worker needs to take a generation on, so that it has little to do itself. Made by the control thread and
/// handed over once: nobody else touches the snapshot and the TLS objects from then on.
final class WorkerGeneration: @unchecked Sendable {
    let generation: Generation
    let snapshot: Snapshot
    let tls: WorkerTLS
    /// All sockets that the worker listens on from now on.
    let sockets: [ListeningSocket]
    /// What is known of servers that have names, by their numbers.
    let outcomes: [Int: ResolutionOutcome]
    /// Where records go; nil is nowhere.
    let log: WorkerLog?

    init(
        _ generation: Generation, nodeName: String, tls: WorkerTLS, sockets: [ListeningSocket],
        outcomes: [Int: ResolutionOutcome] = [:], log: WorkerLog? = nil
    ) {
        self.generation = generation
        self.tls = tls
        self.sockets = sockets
        self.outcomes = outcomes
        self.log = log
        snapshot = Snapshot(generation.configuration, nodeName: nodeName)
    }
}

/// The servers of all generations that are alive. A server that a reload keeps, or that comes back while exchanges of an
/// earlier generation still use it, is the same one: with its places below `max_exchanges`, its addresses and its pool.
/// On the control thread.
struct ServerTable {
    /// A name that is looked up, and who does it.
    struct Watch {
        let resolver: Resolver
        let token: WatchToken
    }

    /// A server, and what the control thread knows of it.
    struct Entry {
        let server: SharedServer
        /// How many generations name it.
        var generationCount = 0
        /// Its name is looked up; nil if it has none, or if the generation in force does not name it.
        var watch: Watch?
        /// What looking it up came to last.
        var outcome: ResolutionOutcome?
    }

    private(set) var entries: [Int: Entry] = [:]
    private var numbers: [ServerIdentity: Int] = [:]
    private var nextNumber = 0

    /// The servers that a configuration names, each once: those that are there, or new ones.
    mutating func servers(of configuration: Configuration) -> [SharedServer] {
        var servers: [SharedServer] = []
        var taken: Set<Int> = []
        for upstream in configuration.upstreams {
            for server in upstream.servers {
                let identity = ServerIdentity(server, of: upstream)
                let number = numbers[identity] ?? nextNumber
                if numbers[identity] == nil {
                    numbers[identity] = number
                    entries[number] = Entry(server: SharedServer(identity, number: number))
                    nextNumber += 1
                }
                if taken.insert(number).inserted, let entry = entries[number] { servers.append(entry.server) }
            }
        }
        return servers
    }

    /// A generation is alive.
    mutating func hold(_ servers: [SharedServer]) {
        for server in servers { entries[server.number]?.generationCount += 1 }
    }

    /// A generation is over.
    mutating func release(_ servers: [SharedServer]) {
        for server in servers { entries[server.number]?.generationCount -= 1 }
        removeUnused()
    }

    /// Forgets servers of a generation that did not come about, and of those that are over.
    mutating func removeUnused() {
        for (number, entry) in entries where entry.generationCount == 0 {
            unwatch(number)
            entries[number] = nil
            numbers[entry.server.identity] = nil
        }
    }

    mutating func setWatch(_ watch: Watch, of number: Int) { entries[number]?.watch = watch }

    /// A server's name is not looked up any more.
    mutating func unwatch(_ number: Int) {
        guard let watch = entries[number]?.watch else { return }
        watch.resolver.unwatch(watch.token)
        entries[number]?.watch = nil
    }

    mutating func setOutcome(_ outcome: ResolutionOutcome, of number: Int) { entries[number]?.outcome = outcome }

    /// What is known of names.
    var outcomes: [Int: ResolutionOutcome] { entries.compactMapValues(\.outcome) }
}
