// The fault sweep with TLS: on the client's side, on the servers', on both. The faults are those of FaultSweepTests and
// so are the invariants; an end without close_notify counts as broken. One case of each sort is swept at every byte,
// the others by a stride that begins elsewhere for each, so that in all every place has its turn.

import TestSupport
import Testing

/// What is swept over the bytes of a case.
enum SweepKind: String, CaseIterable {
    case serverEndsInResponse
    case serverEndsInRequest
    case clientEndsInRequest
    case clientEndsInResponse
    case clientBytesSplit
    case serverBytesSplit
    case serverEndsIdleConnection

    /// How many places a case has.
    func bytes(_ whole: Outcome) -> Int {
        switch self {
        case .serverEndsInResponse, .serverBytesSplit: whole.serversSent
        // The request goes up longer than it came.
        case .serverEndsInRequest: whole.clientSent + 100
        case .clientEndsInRequest, .clientBytesSplit, .serverEndsIdleConnection: whole.clientSent
        case .clientEndsInResponse: whole.clientReceived
        }
    }

    /// What happens at one place.
    func schedules(at offset: Int, _ whole: Outcome) -> [Schedule] {
        var schedules: [Schedule] = []
        func add(_ set: (inout Schedule) -> Void) {
            var schedule = Schedule()
            set(&schedule)
            schedules.append(schedule)
        }
        for kind in Fault.Kind.allCases {
            let isGlued = (offset + schedules.count) % 2 == 0
            switch self {
            case .serverEndsInResponse:
                add { $0.server.fault = Fault(kind: kind, moment: .sent(offset), isGlued: isGlued) }
                add {
                    $0.server.fault = Fault(kind: kind, moment: .sent(offset), isGlued: !isGlued)
                    $0.isTogether = true
                }
            case .serverEndsInRequest:
                if kind == .endSending { break }
                add { $0.server.fault = Fault(kind: kind, moment: .received(offset), isGlued: isGlued) }
            case .clientEndsInRequest:
                for isGlued in [false, true] {
                    add { $0.client.fault = Fault(kind: kind, moment: .sent(offset), isGlued: isGlued) }
                }
            case .clientEndsInResponse:
                add { $0.client.fault = Fault(kind: kind, moment: .received(offset)) }
                add {
                    $0.client.fault = Fault(kind: kind, moment: .received(offset), isGlued: true)
                    $0.server.pieces = .split(whole.serversSent - 1)
                }
            case .clientBytesSplit: if kind == .close { add { $0.client.pieces = .split(offset) } }
            case .serverBytesSplit: if kind == .close { add { $0.server.pieces = .split(offset) } }
            case .serverEndsIdleConnection:
                add {
                    $0.client.pieces = .split(offset)
                    $0.server.fault = Fault(kind: kind, moment: .before)
                    $0.isTogether = isGlued
                }
            }
        }
        return schedules
    }
}

@Suite struct TLSSweepTests {
    /// One of each sort: a message, a connection that was used before, a tunnel.
    private static let wholeCases: Set<String> = ["chunked", "PUT on a warm connection", "tunnel"]
    /// In how many steps the others are gone through.
    private static let stride = 24

    private static func offsets(_ bytes: Int, _ exchangeCase: ExchangeCase, _ mode: TLSMode, _ number: Int) -> [Int] {
        if wholeCases.contains(exchangeCase.name) { return Array(0...bytes) }
        let step = max(stride, bytes / 16)
        let modeNumber = TLSMode.allCases.firstIndex(of: mode) ?? 0
        let first = (number * 5 + modeNumber * 3) % step
        return [0, bytes] + Swift.stride(from: first, to: bytes, by: step)
    }

    @Test(arguments: TLSMode.allCases, SweepKind.allCases)
    func peersEndAnywhere(_ mode: TLSMode, _ kind: SweepKind) throws {
        let sweep = try Sweep(tls: mode)
        for (number, exchangeCase) in (ExchangeCase.all + ExchangeCase.large).enumerated() {
            if kind == .serverEndsIdleConnection, !exchangeCase.isWarm { continue }
            let whole = try #require(try sweep.check(exchangeCase, Schedule()))
            for offset in Self.offsets(kind.bytes(whole), exchangeCase, mode, number) {
                for schedule in kind.schedules(at: offset, whole) { try sweep.check(exchangeCase, schedule) }
            }
        }
    }

    @Test(arguments: TLSMode.allCases)
    func bytesComeOneAtATime(_ mode: TLSMode) throws {
        let sweep = try Sweep(tls: mode)
        for exchangeCase in ExchangeCase.all {
            for readMax in [1, Int.max] {
                var schedule = Schedule()
                schedule.client = Schedule.Side(pieces: .single, readMax: readMax)
                schedule.server = Schedule.Side(pieces: .single, readMax: readMax)
                try sweep.check(exchangeCase, schedule)
            }
        }
    }

    /// What the proxy holds back for a slow reader is ciphertext; it is lost or released like all else.
    @Test(arguments: TLSMode.allCases, ExchangeCase.huge)
    func eitherSideEndsWhileTheOtherReadsSlowly(_ mode: TLSMode, _ exchangeCase: ExchangeCase) throws {
        let sweep = try Sweep(tls: mode)
        let whole = try #require(try sweep.check(exchangeCase, Schedule()))
        for kind in Fault.Kind.allCases {
            for share in [1, 2, 3] {
                var schedule = Schedule()
                schedule.client.readMax = 32 << 10
                schedule.server.readMax = 32 << 10
                schedule.server.fault = Fault(kind: kind, moment: .sent(whole.serversSent * share / 3))
                try sweep.check(exchangeCase, schedule)
                schedule.server.fault = nil
                schedule.client.fault = Fault(kind: kind, moment: .sent(whole.clientSent * share / 3))
                try sweep.check(exchangeCase, schedule)
                schedule.client.fault = Fault(kind: kind, moment: .received(whole.clientReceived * share / 3))
                try sweep.check(exchangeCase, schedule)
            }
        }
    }

    /// Numbered like those in clear, and told by number and mode.
    @Test(arguments: TLSMode.allCases)
    func randomSchedules(_ mode: TLSMode) throws {
        let sweep = try Sweep(tls: mode)
        let first = UInt64(TLSMode.allCases.firstIndex(of: mode) ?? 0) * 1000 + 20_000
        for seed in first..<(first + 1000) {
            let exchangeCase = ExchangeCase.all[Int(seed % UInt64(ExchangeCase.all.count))]
            try sweep.check(exchangeCase, .random(seed: seed, bytes: 300))
        }
    }
}
