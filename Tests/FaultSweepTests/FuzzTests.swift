// Random peers around a real worker, seed by seed; each seed is a world of its own (FuzzWorld), and what must hold in it is
// in FuzzLedger.
//
//   HEADFIRST_FUZZ_SECONDS=N   goes on for so long, from HEADFIRST_FUZZ_SEED (or 1) upwards
//   HEADFIRST_FUZZ_SEED=N      with HEADFIRST_FUZZ_SECONDS=0: that seed alone
//   HEADFIRST_FUZZ_LAST=FILE   where the number of the seed is written before it begins, for one that traps;
//                              fuzz-last-seed in the folder for temporary files, if it is not said
//
// Without any of them a few seconds' worth of seeds are run, always the same.

import EventLoop
import Glibc
import TestSupport
import Testing

@Suite(.serialized) struct FuzzTests {
    /// Findings that end a run.
    private static let findingsMax = 100
    private static let seedsOfUsualRun: ClosedRange<UInt64> = 1...150

    private static let lastSeedFile =
        environment("HEADFIRST_FUZZ_LAST") ?? "\(environment("TMPDIR") ?? "/tmp")/fuzz-last-seed"

    /// Writes the seed down where it can be found after a trap.
    private func note(_ seed: UInt64) {
        let text = "\(seed)\n"
        let file = open(Self.lastSeedFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        if file >= 0 {
            _ = write(file, text, text.utf8.count)
            close(file)
        }
        if environment("HEADFIRST_SWEEP_TRACE") != nil {
            let line = "fuzz: seed \(seed)\n"
            _ = write(2, line, line.utf8.count)
        }
    }

    @Test func randomPeersGetTheirOwnAndNothingElse() throws {
        let seconds = environment("HEADFIRST_FUZZ_SECONDS").flatMap { UInt64($0) }
        let first = environment("HEADFIRST_FUZZ_SEED").flatMap { UInt64($0) }
        let start = first ?? Self.seedsOfUsualRun.lowerBound
        let last: UInt64 =
            switch (seconds, first) {
            case (0?, _), (nil, _?): start
            case (.some, _): .max
            case (nil, nil): Self.seedsOfUsualRun.upperBound
            }
        let begun = Clock.monotonicMicroseconds()
        let end = seconds.flatMap { $0 > 0 ? begun + $0 * 1_000_000 : nil } ?? .max
        var (seed, seedCount, requestCount, findingCount) = (start, 0, 0, 0)
        while seed <= last, Clock.monotonicMicroseconds() < end, findingCount < Self.findingsMax {
            note(seed)
            let world = try FuzzWorld(seed: seed)
            let findings = world.run()
            seedCount += 1
            requestCount += world.requestCount
            if !findings.isEmpty {
                findingCount += 1
                Issue.record("seed \(seed): \(world.settings)\n  \(findings.joined(separator: "\n  "))")
            }
            if seconds != nil, seedCount % 20 == 0 {
                let elapsed = (Clock.monotonicMicroseconds() - begun) / 1_000_000
                print(
                    "fuzz: \(seedCount) seeds to \(seed), \(requestCount) requests, \(findingCount) findings, \(elapsed) s"
                )
            }
            seed += 1
        }
        // A fuzzer that asks nothing finds nothing. A single world may be a quiet one.
        #expect(requestCount > (seedCount - 1) * 5)
    }
}
