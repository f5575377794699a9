// The fault sweep: every exchange case, with its peers ending at every byte and its bytes cut everywhere. What is
// swept is data (ExchangeCases), what must hold is in Invariants, and who speaks how is behind SweepTransport and
// ClientLayer.
//
//   HEADFIRST_SWEEP_SEED=N    runs the one random schedule of that number
//   HEADFIRST_SWEEP_TRACE=1   names each run before it begins: for one that traps

import Glibc
import TestSupport
import Testing

/// A variable of the environment.
func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// The offsets of a case: all, or as many as it says, spread by a seed, the first and the last among them.
private func offsets(_ bytes: Int, _ exchangeCase: ExchangeCase) -> [Int] {
    guard bytes >= exchangeCase.offsetsMax else { return Array(0...bytes) }
    var generator = SeededGenerator(seed: UInt64(bytes))
    let chosen = (0..<(exchangeCase.offsetsMax - 2)).map { _ in Int.random(in: 1..<bytes, using: &generator) }
    return ([0, bytes] + chosen).sorted()
}

@Suite struct FaultSweepTests {
    private static let cases = ExchangeCase.all + ExchangeCase.large

    /// Runs a case without faults, and says how many bytes pass.
    private func measure(_ exchangeCase: ExchangeCase, _ sweep: Sweep) throws -> Outcome {
        try #require(try sweep.check(exchangeCase, Schedule()))
    }

    @Test(arguments: cases)
    func serversEndAtEveryByteOfTheirResponse(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let bytes = try measure(exchangeCase, sweep).serversSent
        for offset in offsets(bytes, exchangeCase) {
            for kind in [Fault.Kind.close, .reset] {
                for isGlued in [false, true] {
                    var schedule = Schedule()
                    schedule.server.fault = Fault(kind: kind, moment: .sent(offset), isGlued: isGlued)
                    try sweep.check(exchangeCase, schedule)
                    schedule.isTogether = true
                    try sweep.check(exchangeCase, schedule)
                }
            }
        }
    }

    @Test(arguments: cases)
    func serversEndAtEveryByteOfTheRequest(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        // The request goes up longer than it came; what is behind its end is never reached.
        let bytes = try measure(exchangeCase, sweep).clientSent + 100
        for offset in offsets(bytes, exchangeCase) {
            var schedule = Schedule()
            let kind: Fault.Kind = offset % 2 == 0 ? .close : .reset
            schedule.server.fault = Fault(kind: kind, moment: .received(offset), isGlued: offset % 4 < 2)
            try sweep.check(exchangeCase, schedule)
        }
    }

    @Test(arguments: cases)
    func clientsEndAtEveryByteOfTheirRequest(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let bytes = try measure(exchangeCase, sweep).clientSent
        for offset in offsets(bytes, exchangeCase) {
            for kind in Fault.Kind.allCases {
                for isGlued in [false, true] {
                    var schedule = Schedule()
                    schedule.client.fault = Fault(kind: kind, moment: .sent(offset), isGlued: isGlued)
                    try sweep.check(exchangeCase, schedule)
                }
            }
        }
    }

    @Test(arguments: cases)
    func clientsEndAtEveryByteOfTheResponse(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let whole = try measure(exchangeCase, sweep)
        for offset in offsets(whole.clientReceived, exchangeCase) {
            for kind in Fault.Kind.allCases {
                // Once when the response is over, and once when its last byte is still to come.
                var schedule = Schedule()
                schedule.client.fault = Fault(kind: kind, moment: .received(offset))
                try sweep.check(exchangeCase, schedule)
                schedule.client.fault?.isGlued = true
                schedule.server.pieces = .split(whole.serversSent - 1)
                try sweep.check(exchangeCase, schedule)
            }
        }
    }

    @Test(arguments: cases)
    func bytesComeInEverySplit(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let whole = try measure(exchangeCase, sweep)
        for offset in offsets(whole.clientSent, exchangeCase) {
            var schedule = Schedule()
            schedule.client.pieces = .split(offset)
            try sweep.check(exchangeCase, schedule)
        }
        for offset in offsets(whole.serversSent, exchangeCase) {
            var schedule = Schedule()
            schedule.server.pieces = .split(offset)
            try sweep.check(exchangeCase, schedule)
        }
    }

    /// What the proxy holds back for a slow reader is lost or released like all else.
    @Test(arguments: ExchangeCase.huge)
    func eitherSideEndsWhileTheOtherReadsSlowly(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let whole = try measure(exchangeCase, sweep)
        func check(_ set: (inout Schedule) -> Void) throws {
            var schedule = Schedule()
            schedule.client.readMax = 32 << 10
            schedule.server.readMax = 32 << 10
            set(&schedule)
            try sweep.check(exchangeCase, schedule)
        }
        for kind in Fault.Kind.allCases {
            for offset in offsets(whole.serversSent, exchangeCase) {
                try check { $0.server.fault = Fault(kind: kind, moment: .sent(offset)) }
            }
            for offset in offsets(whole.clientSent, exchangeCase) {
                try check { $0.client.fault = Fault(kind: kind, moment: .sent(offset)) }
            }
            for offset in offsets(whole.clientReceived, exchangeCase) {
                try check { $0.client.fault = Fault(kind: kind, moment: .received(offset)) }
            }
        }
    }

    @Test(arguments: ExchangeCase.all.filter(\.isWarm))
    func serversEndIdleConnectionsAsARequestComes(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        let bytes = try measure(exchangeCase, sweep).clientSent
        for offset in offsets(bytes, exchangeCase) {
            for kind in Fault.Kind.allCases {
                for isTogether in [false, true] {
                    var schedule = Schedule(isTogether: isTogether)
                    schedule.client.pieces = .split(offset)
                    schedule.server.fault = Fault(kind: kind, moment: .before)
                    try sweep.check(exchangeCase, schedule)
                }
            }
        }
    }

    @Test(arguments: ExchangeCase.all)
    func bytesComeOneAtATime(_ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep()
        for (client, server) in [(true, false), (false, true), (true, true)] {
            for readMax in [1, Int.max] {
                var schedule = Schedule()
                schedule.client.readMax = readMax
                schedule.server.readMax = readMax
                if client { schedule.client.pieces = .single }
                if server { schedule.server.pieces = .single }
                try sweep.check(exchangeCase, schedule)
            }
        }
    }

    /// Ten times a thousand, numbered through; each is told by its number alone, as long as the cases stay the same.
    @Test(arguments: 0..<10)
    func tenThousandRandomSchedules(_ thousand: UInt64) throws {
        let sweep = try Sweep()
        func run(_ seed: UInt64) throws {
            let exchangeCase = ExchangeCase.all[Int(seed % UInt64(ExchangeCase.all.count))]
            try sweep.check(exchangeCase, .random(seed: seed, bytes: 300), replay: seed)
        }
        if let chosen = environment("HEADFIRST_SWEEP_SEED").flatMap({ UInt64($0) }) {
            if min(chosen / 1000, 9) == thousand { try run(chosen) }
            return
        }
        for seed in (thousand * 1000)..<(thousand * 1000 + 1000) { try run(seed) }
    }
}
