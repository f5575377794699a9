// Running a case by a schedule: everybody gets turns until nothing is left to happen; then what was sent and seen is
// held against the invariants, and the worker must have let go of everything.

import TestSupport
import Testing

/// What came of a run.
struct Outcome {
    var violations: [String]
    /// How often a server saw a request of the case.
    var attemptCount = 0
    /// Bytes that passed at each side.
    var clientSent = 0
    var clientReceived = 0
    var serversSent = 0
}

/// Runs cases, one after the other, on one worker; a fresh one after each that went wrong.
final class Sweep {
    private var world: SweepWorld
    /// How many runs went through.
    private(set) var count = 0
    private var failureCount = 0
    private let makeTransport: (SweepWorld) throws -> any SweepTransport
    private let makeLayer: ([ExchangePlan], Bool) -> any ClientLayer
    /// What a planted fault does behind each round, if there is one.
    private let afterRound: (SweepServers) -> Void
    private let secure: SweepTLS?

    /// Rounds of a millisecond in which nothing happens before a run is stuck: what the kernel owes comes sooner.
    private static let idleRoundsMax = 1000
    private static let stallRoundsMax = 400
    private static let isTracing = environment("HEADFIRST_SWEEP_TRACE") != nil

    /// - Parameters:
    ///   - layer: how the client speaks.
    ///   - afterRound: see there.
    ///   - transport: how the client's bytes travel.
    ///   - tls: who speaks TLS, if somebody does.
    ///   - clientProtocols: what clients speak then.
    init(
        layer: @escaping ([ExchangePlan], Bool) -> any ClientLayer = { HTTP1ClientLayer($0, switches: $1) },
        afterRound: @escaping (SweepServers) -> Void = { _ in },
        transport: @escaping (SweepWorld) throws -> any SweepTransport = { try $0.connect() },
        tls: TLSMode? = nil, clientProtocols: [String] = ["http/1.1"]
    ) throws {
        makeLayer = layer
        makeTransport = transport
        self.afterRound = afterRound
        secure = try tls.map { try SweepTLS($0, clientProtocols: clientProtocols) }
        world = try SweepWorld(secure: secure)
    }

    /// Runs a case and records what is wrong as an issue of the test.
    /// - Returns: nil when enough went wrong already.
    @discardableResult
    func check(_ exchangeCase: ExchangeCase, _ schedule: Schedule, replay: UInt64? = nil) throws -> Outcome? {
        guard failureCount < 5 else { return nil }
        let outcome = try run(exchangeCase, schedule)
        guard !outcome.violations.isEmpty else { return outcome }
        failureCount += 1
        var text = "\(exchangeCase.name); \(schedule)\n  \(outcome.violations.joined(separator: "\n  "))"
        if let replay { text += "\n  to repeat it: HEADFIRST_SWEEP_SEED=\(replay)" }
        Issue.record(Comment(rawValue: text))
        return outcome
    }

    /// Runs a case.
    func run(_ exchangeCase: ExchangeCase, _ schedule: Schedule) throws -> Outcome {
        if Self.isTracing { print("sweep: \(exchangeCase.name); \(schedule)") }
        count += 1
        var violations: [String] = []
        if exchangeCase.isWarm {
            for _ in 0..<2 { violations += try runOnce(.warmUp, Schedule(), keepsIdle: true).violations }
            if world.idleCounts != [1, 1] { violations.append("warm-up left \(world.idleCounts) idle connections") }
        }
        var outcome = try runOnce(exchangeCase, schedule, keepsIdle: false)
        outcome.violations += violations
        if !outcome.violations.isEmpty { world = try SweepWorld(secure: secure) }
        return outcome
    }

    private func runOnce(
        _ exchangeCase: ExchangeCase, _ schedule: Schedule, keepsIdle: Bool
    ) throws -> Outcome {
        var generator = SeededGenerator(seed: schedule.seed ?? 0)
        let plans = exchangeCase.plans
        world.servers.begin(exchangeCase, plans, schedule.server)
        let client = SweepClient(
            exchangeCase, exchangeCount: plans.count, schedule.client, makeLayer(plans, exchangeCase.switches),
            try makeTransport(world))
        var violations: [String] = []
        var hasToldGone = false
        var rounds = 0
        let isOver = self.rounds { quiet in
            rounds += 1
            var hasProgress = false
            // Stalls end at last, so that every run does.
            if schedule.seed != nil, rounds < Self.stallRoundsMax {
                if Int.random(in: 0..<3, using: &generator) > 0, client.step(&generator) { hasProgress = true }
                if Int.random(in: 0..<3, using: &generator) > 0, self.world.turn() { hasProgress = true }
                if Int.random(in: 0..<3, using: &generator) > 0, self.world.servers.step(&generator) {
                    hasProgress = true
                }
                if Int.random(in: 0..<3, using: &generator) > 0, self.world.turn() { hasProgress = true }
                quiet = false
            } else {
                if client.step(&generator) { hasProgress = true }
                if !schedule.isTogether, self.world.settle() { hasProgress = true }
                if self.world.servers.step(&generator) { hasProgress = true }
                if self.world.settle() { hasProgress = true }
            }
            self.afterRound(self.world.servers)
            if hasProgress { quiet = false }
            if client.fault != nil, !hasToldGone, !exchangeCase.switches {
                hasToldGone = true
                violations += self.checkGone(&generator)
            }
            return client.isDone
        }
        if !isOver { violations.append("stuck: \(world.held(withIdle: false).joined(separator: ", "))") }
        client.finish(byReset: world.exchangeCount == 0)
        violations += release(keepsIdle: keepsIdle, &generator)
        if world.isSpinning { violations.append("the worker has events without end") }
        let evidence = Evidence(
            exchangeCase: exchangeCase, plans: plans, clientSent: client.sent, clientSeen: client.seen,
            clientFault: client.fault, serverFault: world.servers.fault,
            servers: world.servers.connections.map {
                ServerEvidence(
                    server: $0.server, sent: $0.sent, seen: $0.seen, attempts: $0.attempts, hasFaulted: $0.hasFaulted,
                    hasLost: $0.hasLost)
            })
        if exchangeCase.name != ExchangeCase.warmUp.name {
            for invariant in Invariants.all { violations += invariant(evidence) }
        }
        let attemptCount = plans.indices.reduce(0) { $0 + evidence.attempts($1).count }
        return Outcome(
            violations: violations, attemptCount: attemptCount, clientSent: client.sentTotal,
            clientReceived: client.receivedTotal,
            serversSent: world.servers.sentTotal)
    }

    /// Does rounds until one says that it was the last.
    /// - Parameter round: sets its argument to false if anything happened.
    /// - Returns: false if nothing happened any more before that.
    private func rounds(_ round: (_ quiet: inout Bool) -> Bool) -> Bool {
        var idleRounds = 0
        while true {
            var isQuiet = true
            if round(&isQuiet) { return true }
            if world.isSpinning { return false }
            guard isQuiet else {
                idleRounds = 0
                continue
            }
            idleRounds += 1
            if idleRounds > Self.idleRoundsMax { return false }
            // The kernel may still owe a packet.
            world.turn(timeoutMilliseconds: 1)
        }
    }

    /// A client that is gone leaves no exchange behind, though the servers say nothing more (rule 9). They read: the
    /// client's end may lie behind more bytes than the proxy takes.
    private func checkGone(_ generator: inout SeededGenerator) -> [String] {
        world.servers.isFrozen = true
        defer { world.servers.isFrozen = false }
        let isOver = rounds { quiet in
            let hasStepped = self.world.servers.step(&generator)
            let hasSettled = self.world.settle()
            if hasStepped || hasSettled { quiet = false }
            return self.world.exchangeCount == 0
        }
        return isOver ? [] : ["an exchange lives on without its client"]
    }

    /// Every connection, timer and buffer is released.
    private func release(keepsIdle: Bool, _ generator: inout SeededGenerator) -> [String] {
        world.forgetMessages()
        let isReleased = rounds { quiet in
            let hasStepped = self.world.servers.step(&generator)
            let hasSettled = self.world.settle()
            if hasStepped || hasSettled { quiet = false }
            return !hasStepped && !hasSettled && self.world.held(withIdle: false).isEmpty
        }
        guard isReleased else {
            return ["not released: \(world.held(withIdle: false).joined(separator: ", "))"]
        }
        guard !keepsIdle else { return [] }
        world.servers.finish()
        let isEmpty = rounds { quiet in
            if self.world.settle() { quiet = false }
            return self.world.held(withIdle: true).isEmpty
        }
        return isEmpty ? [] : ["not released in the end: \(world.held(withIdle: true).joined(separator: ", "))"]
    }
}
