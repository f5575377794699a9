// One seed: a worker under a random configuration, clients and servers around it, and turns in random order until everybody
// has had enough. Then all are calm: they say what is left and read everything. When nothing happens any more, every request
// must be over; when everybody has gone, the worker must hold nothing.

import TLS
import TestSupport

@testable import ProxyRuntime

/// See the head of the file.
final class FuzzWorld {
    let settings: FuzzSettings
    private let ledger: FuzzLedger
    private let world: WorkerWorld
    private let servers: [FuzzServer]
    private var clients: [FuzzConnection] = []
    private var generator: SeededGenerator
    private let roundsMax: Int

    /// Rounds of a millisecond in which nothing happens before it is a hang.
    private static let idleRoundsMax = 600
    /// Rounds in all of those who are calm.
    private static let calmRoundsMax = 20_000

    var requestCount: Int { ledger.exchanges.count { $0.link != nil } }

    /// The peers' TLS, for all seeds.
    private struct PeersTLS {
        let both: SweepTLS
        let http1: SweepTLS
        let http2: SweepTLS

        static func make() throws -> PeersTLS {
            PeersTLS(
                both: try SweepTLS(.both, clientProtocols: ["h2", "http/1.1"]), http1: try SweepTLS(.both),
                http2: try SweepTLS(.both, clientProtocols: ["h2"], serverProtocols: ["h2"]))
        }
    }

    private static let peersTLS = Result { try PeersTLS.make() }

    init(seed: UInt64) throws {
        generator = SeededGenerator(seed: seed)
        let settings = FuzzSettings(&generator)
        self.settings = settings
        let count = generator.int(10...40)
        var plans: [FuzzPlan] = []
        for tag in 0..<count { plans.append(FuzzPlan(tag: tag, settings, &generator)) }
        let ledger = FuzzLedger(plans, settings)
        self.ledger = ledger
        roundsMax = generator.int(30...400)
        let tls = settings.tls == nil ? nil : try Self.peersTLS.get()
        let serversSpeakTLS = settings.tls == .servers || settings.tls == .both
        let clientsSpeakTLS = settings.tls == .clients || settings.tls == .both
        var servers: [FuzzServer] = []
        for isHTTP2 in [false, true] {
            for number in 0..<generator.int(1...2) {
                let peers = isHTTP2 ? tls?.http2 : tls?.http1
                servers.append(
                    try FuzzServer(
                        "\(isHTTP2 ? "two" : "one").\(number)", isHTTP2: isHTTP2, seed: generator.next(),
                        faultPercent: settings.faultPercent, ledger: { [unowned ledger] in ledger },
                        serve: { serversSpeakTLS ? peers?.serve($0) ?? PlainTransport($0) : PlainTransport($0) }))
            }
        }
        self.servers = servers
        let text = settings.configuration(
            servers.filter { !$0.isHTTP2 }.map(\.port), servers.filter(\.isHTTP2).map(\.port))
        world = try WorkerWorld(
            configuration: text, listenerContext: clientsSpeakTLS ? try tls?.both.listenerContext() : nil
        ) { server in
            guard serversSpeakTLS else { return nil }
            return try (server.identity.protocolVersion == .http2 ? tls?.http2 : tls?.http1)?.serverPeer()
        }
        try makeClients(clientsSpeakTLS ? tls : nil)
    }

    private func makeClients(_ tls: PeersTLS?) throws {
        var left = ledger.exchanges[...]
        while !left.isEmpty {
            let script = Array(left.prefix(generator.int(1...15)))
            left = left.dropFirst(script.count)
            let isHTTP2 = generator.chance(60) && !script.contains { $0.plan.isHTTP10 }
            let name = "client \(clients.count)"
            let seed = generator.next()
            if isHTTP2 {
                let transport =
                    try tls?.http2.connect(port: world.port)
                    ?? PlainTransport(port: world.port, receiveBytesMax: generator.chance(10) ? 8192 : nil)
                clients.append(
                    FuzzHTTP2Client(
                        name, ledger, transport, seed: seed, script, faultPercent: settings.faultPercent,
                        isTLS: tls != nil))
            } else {
                let transport =
                    try tls?.http1.connect(port: world.port)
                    ?? PlainTransport(port: world.port, receiveBytesMax: generator.chance(10) ? 8192 : nil)
                clients.append(
                    FuzzHTTP1Client(
                        name, ledger, transport, seed: seed, script, faultPercent: settings.faultPercent))
            }
        }
    }

    private var peers: [FuzzConnection] { clients + servers.flatMap(\.connections) }

    /// Runs it.
    /// - Returns: what is wrong.
    func run() -> [String] {
        for round in 0..<roundsMax {
            if settings.drains, round == roundsMax / 2 { world.drain() }
            chaos()
        }
        for client in clients { client.isCalm = true }
        for server in servers { server.isCalm = true }
        if !rest({ self.peers.allSatisfy(\.isSettled) }) {
            let states = peers.filter { !$0.isSettled }.map(\.state).filter { !$0.isEmpty }
            ledger.report("hang\(held(withIdle: false))\n    \(states.joined(separator: "\n    "))")
        }
        end()
        ledger.checkAll()
        return ledger.findings
    }

    private func held(withIdle: Bool) -> String {
        var text = ": \(world.held(withIdle: withIdle).joined(separator: ", "))"
        for state in world.exchangeStates { text += "\n      exchange: \(state)" }
        for exchange in ledger.exchanges where exchange.attempts.contains(where: { $0.requestEnd == .open }) {
            text += "\n      at a server: \(ledger.describe(exchange))"
        }
        return text
    }

    private func chaos() {
        for server in servers where generator.chance(50) { _ = server.accept() }
        for peer in peers.shuffled(using: &generator) {
            if generator.chance(60) { _ = peer.step() }
            if generator.chance(30) { world.turn() }
        }
        if generator.chance(60) { world.turn() }
    }

    /// Everybody does what is left, until it is over.
    /// - Returns: whether it was.
    private func rest(_ isOver: () -> Bool) -> Bool {
        var idleRounds = 0
        for _ in 0..<Self.calmRoundsMax {
            var hasProgress = false
            for server in servers where server.accept() { hasProgress = true }
            for peer in peers where peer.step() { hasProgress = true }
            if world.settle() { hasProgress = true }
            if world.isSpinning {
                ledger.report("the worker has events without end")
                return true
            }
            if hasProgress {
                idleRounds = 0
                continue
            }
            if isOver() { return true }
            idleRounds += 1
            if idleRounds > Self.idleRoundsMax { return false }
            world.turn(timeoutMilliseconds: 1)
        }
        ledger.report("the worker and its peers go on and on")
        return true
    }

    private func end() {
        for client in clients where !client.isOver {
            // Of who has ended its direction before, only a reset tells that it is gone.
            if client.hasEndedSending || generator.chance(30) { client.reset() } else { client.close() }
        }
        if !rest({ self.world.held(withIdle: false).isEmpty }) {
            ledger.report("not released\(held(withIdle: false))")
        }
        for peer in peers where !peer.isOver { peer.close() }
        if !rest({ self.world.held(withIdle: true).isEmpty }) {
            ledger.report("not released in the end\(held(withIdle: true))")
        }
        for server in servers { _ = server.accept() }
        world.forgetMessages()
    }
}
