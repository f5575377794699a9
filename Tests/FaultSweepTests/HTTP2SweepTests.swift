// The fault sweep with clients that speak HTTP/2, in clear and over TLS. The faults are those of FaultSweepTests, and so are
// the invariants; a stream that is reset counts as broken.

import TestSupport
import Testing

@Suite struct HTTP2SweepTests {
    /// Left out besides: a 200 in answer to an Upgrade, which is an error to a client of HTTP/2 by its own rule
    /// (`switchIgnored`), shown by the integration tests.
    private static let cases = (ExchangeCase.all + ExchangeCase.large).filter {
        !["chunked to HTTP/1.0", "upgrade refused, then another request"].contains($0.name)
    }
    private static let wholeCases: Set<String> = ["chunked", "trailers both ways", "tunnel"]

    private static func makeSweep(tls: TLSMode? = nil) throws -> Sweep {
        try Sweep(layer: { HTTP2ClientLayer($0, switches: $1) }, tls: tls, clientProtocols: ["h2"])
    }

    /// Every byte of some cases; of the others a stride that begins elsewhere for each.
    private static func offsets(_ bytes: Int, _ exchangeCase: ExchangeCase, _ number: Int) -> [Int] {
        if wholeCases.contains(exchangeCase.name) { return Array(0...bytes) }
        let step = max(12, bytes / 24)
        return [0, bytes] + stride(from: number * 5 % step, to: bytes, by: step)
    }

    @Test(arguments: SweepKind.allCases)
    func peersEndAnywhere(_ kind: SweepKind) throws {
        let sweep = try Self.makeSweep()
        for (number, exchangeCase) in Self.cases.enumerated() {
            if kind == .serverEndsIdleConnection, !exchangeCase.isWarm { continue }
            let whole = try #require(try sweep.check(exchangeCase, Schedule()))
            for offset in Self.offsets(kind.bytes(whole), exchangeCase, number) {
                for schedule in kind.schedules(at: offset, whole) { try sweep.check(exchangeCase, schedule) }
            }
        }
    }

    @Test func bytesComeOneAtATime() throws {
        let sweep = try Self.makeSweep()
        for exchangeCase in Self.cases where exchangeCase.offsetsMax == .max {
            for (client, server) in [(true, false), (false, true), (true, true)] {
                var schedule = Schedule()
                if client {
                    schedule.client.pieces = .single
                    schedule.client.readMax = 1
                }
                if server { schedule.server.pieces = .single }
                try sweep.check(exchangeCase, schedule)
            }
        }
    }

    @Test(arguments: ExchangeCase.huge)
    func slowReadersGetAll(_ exchangeCase: ExchangeCase) throws {
        var schedule = Schedule()
        schedule.client.readMax = 32 << 10
        schedule.server.readMax = 32 << 10
        try Self.makeSweep().check(exchangeCase, schedule)
    }

    @Test func overTLS() throws {
        let sweep = try Self.makeSweep(tls: .both)
        for (number, exchangeCase) in Self.cases.enumerated() {
            for kind in [SweepKind.serverEndsInResponse, .clientEndsInRequest, .clientEndsInResponse] {
                let whole = try #require(try sweep.check(exchangeCase, Schedule()))
                let bytes = kind.bytes(whole)
                for offset in [0, bytes / 2, bytes] + [number * 7 % max(1, bytes)] {
                    for schedule in kind.schedules(at: offset, whole) { try sweep.check(exchangeCase, schedule) }
                }
            }
        }
    }

    /// Four times a thousand, numbered through.
    @Test(arguments: 0..<4)
    func fourThousandRandomSchedules(_ thousand: UInt64) throws {
        let sweep = try Self.makeSweep()
        for seed in (thousand * 1000)..<(thousand * 1000 + 1000) {
            let exchangeCase = Self.cases[Int(seed % UInt64(Self.cases.count))]
            if exchangeCase.offsetsMax < .max { continue }
            try sweep.check(exchangeCase, .random(seed: seed, bytes: 600), replay: seed)
        }
    }
}
