// The wheel against a list: nothing is early, nothing is lost, nothing is late by more than a tick.

import Bytes
import EventLoop
import TestSupport
import Testing

/// Entries at fixed places, with what a list would know of them.
private final class Timers {
    let wheel: TimerWheel
    let entries: UnsafeMutablePointer<TimerEntry>
    let count: Int
    private(set) var deadlines: [UInt64]
    private(set) var now: UInt64
    private(set) var mistakes: [String] = []

    init(count: Int, now: UInt64) {
        wheel = TimerWheel(nowMilliseconds: now)
        self.count = count
        self.now = now
        entries = .allocate(capacity: count)
        for index in 0..<count {
            let token = SlabToken(index: UInt32(index), generation: 1)
            (entries + index).initialize(to: TimerEntry(owner: ReadinessToken(kind: 1, token)))
        }
        deadlines = Array(repeating: TimerEntry.never, count: count)
    }

    deinit {
        wheel.destroy()
        entries.deallocate()
    }

    func set(_ index: Int, _ deadline: UInt64) {
        wheel.set(entries + index, deadlineMilliseconds: deadline)
        deadlines[index] = deadline
        if entries[index].deadlineMilliseconds != deadline { mistakes.append("deadline is not told") }
    }

    func remove(_ index: Int) {
        wheel.remove(entries + index)
        entries[index] = TimerEntry(owner: entries[index].owner)
        deadlines[index] = TimerEntry.never
    }

    /// Goes on as a loop does that may wake later than asked.
    func advance(to time: UInt64, then again: ((Int, UInt64) -> UInt64?)? = nil) {
        let before = now
        now = time
        wheel.advance(to: time) { entry in
            let index = Int(entry.pointee.owner.slabToken.index)
            if deadlines[index] > time { mistakes.append("\(index) is early: \(deadlines[index]) at \(time)") }
            if entry.pointee.deadlineMilliseconds != TimerEntry.never { mistakes.append("deadline is left") }
            deadlines[index] = TimerEntry.never
            if let deadline = again?(index, time) { set(index, deadline) }
        }
        // A deadline that was over when it was set is due at the next tick.
        for (index, deadline) in deadlines.enumerated() where max(deadline, before + 1) <= time && again == nil {
            mistakes.append("\(index) is late: \(deadline) at \(time), before \(before)")
        }
    }

    /// The wheel must be looked at no later than at the earliest deadline.
    func checkNext() {
        let earliest = deadlines.min() ?? TimerEntry.never
        guard earliest != TimerEntry.never else { return }
        guard let next = wheel.nextMilliseconds else {
            mistakes.append("nothing is next, but \(earliest) is set")
            return
        }
        if next > max(earliest, now + 1) { mistakes.append("next is \(next), but \(earliest) is set") }
        if next <= now { mistakes.append("next is over: \(next) at \(now)") }
    }
}

@Suite struct TimerWheelTests {
    private static let day: UInt64 = 86_400_000

    @Test func anEmptyWheelWaitsForNothing() {
        let wheel = TimerWheel(nowMilliseconds: 5)
        defer { wheel.destroy() }
        #expect(wheel.nextMilliseconds == nil)
        var expired = 0
        wheel.advance(to: 1_000_000_000) { _ in expired += 1 }
        #expect(expired == 0)
    }

    @Test(
        arguments: [1, 63, 64, 65, 4095, 4096, 262_144, 16_777_216, 1 << 30, (1 << 36) - 1, 1 << 36, 1 << 40]
            as [UInt64])
    func dueToTheTick(_ delay: UInt64) {
        for start in [0, 1, 63, 64, 1000, 1 << 20, (1 << 30) - 1, (1 << 36) - 1, 1 << 36, (1 << 36) + 12345, 1 << 41]
            as [UInt64]
        {
            let timers = Timers(count: 1, now: start)
            timers.set(0, start + delay)
            timers.advance(to: start + delay - 1)
            #expect(timers.deadlines[0] == start + delay, "early: \(start) + \(delay)")
            timers.advance(to: start + delay)
            #expect(timers.deadlines[0] == TimerEntry.never, "late: \(start) + \(delay)")
            #expect(timers.wheel.nextMilliseconds == nil)
            #expect(timers.mistakes == [])
        }
    }

    @Test func thePastIsDueAtTheNextTick() {
        let timers = Timers(count: 1, now: 1000)
        timers.set(0, 5)
        #expect(timers.wheel.nextMilliseconds == 1001)
        timers.advance(to: 1001)
        #expect(timers.deadlines[0] == TimerEntry.never)
        #expect(timers.mistakes == [])
    }

    @Test func postponedIsOneStore() {
        let timers = Timers(count: 1, now: 0)
        timers.set(0, 10)
        timers.set(0, 1000)
        // The wheel looks at the old time, and finds nothing due.
        #expect(timers.wheel.nextMilliseconds == 10)
        timers.advance(to: 999)
        #expect(timers.deadlines[0] == 1000)
        timers.advance(to: 1000)
        #expect(timers.deadlines[0] == TimerEntry.never)
        #expect(timers.mistakes == [])
    }

    @Test func neverStopsIt() {
        let timers = Timers(count: 1, now: 0)
        timers.set(0, 10)
        timers.set(0, TimerEntry.never)
        var expired = 0
        timers.wheel.advance(to: 100) { _ in expired += 1 }
        #expect(expired == 0)
        #expect(timers.wheel.nextMilliseconds == nil)
        timers.set(0, TimerEntry.never)
        #expect(timers.wheel.nextMilliseconds == nil)
    }

    @Test func anExpiredTimerMayBeSetAgainAndOthersChanged() {
        let timers = Timers(count: 3, now: 0)
        for index in 0..<3 { timers.set(index, 100) }
        var order: [Int] = []
        timers.wheel.advance(to: 300) { entry in
            let index = Int(entry.pointee.owner.slabToken.index)
            order.append(index)
            guard order.count == 1 else { return }
            // The first that is due takes one of the others out and sets itself for a time that is over as well.
            timers.wheel.remove(timers.entries + (index + 1) % 3)
            timers.wheel.set(entry, deadlineMilliseconds: 200)
        }
        #expect(order.count == 3)
        #expect(order[0] == order[2])
        #expect(Set(order).count == 2)
        #expect(timers.wheel.nextMilliseconds == nil)
    }

    @Test func removedIsForgotten() {
        let timers = Timers(count: 2, now: 0)
        timers.wheel.remove(timers.entries)
        timers.set(0, 50)
        timers.set(1, 50)
        timers.remove(0)
        timers.advance(to: 60)
        #expect(timers.mistakes == [])
        #expect(timers.deadlines == [TimerEntry.never, TimerEntry.never])
    }

    @Test(
        arguments: [
            (1, 0, 100), (2, 12_345_678, 5000), (3, (1 << 36) - 40_000, 2000), (4, (1 << 30) - 5000, 3_000_000),
            (5, (1 << 36) * 3 - 1_000_000_000, 400_000_000), (6, 63, 20),
        ] as [(UInt64, UInt64, UInt64)])
    func likeAList(_ seed: UInt64, _ start: UInt64, _ stepMax: UInt64) {
        var random = SeededGenerator(seed: seed)
        let timers = Timers(count: 40, now: start)
        for _ in 0..<6000 {
            let index = Int.random(in: 0..<timers.count, using: &random)
            switch Int.random(in: 0..<12, using: &random) {
            case 0..<5:
                // Near ones most, but hours, days and more than the wheel spans as well.
                let spans: [UInt64] = [70, 5000, 300_000, 20_000_000, 3 * Self.day, 1000 * Self.day]
                let span = spans.randomElement(using: &random).unsafelyUnwrapped
                timers.set(index, timers.now + UInt64.random(in: 0...span, using: &random))
            case 5: timers.set(index, TimerEntry.never)
            case 6: timers.remove(index)
            case 7: timers.set(index, UInt64.random(in: 0...timers.now, using: &random))
            case 8: timers.advance(to: timers.wheel.nextMilliseconds ?? timers.now + 1)
            default: timers.advance(to: timers.now + UInt64.random(in: 0...stepMax, using: &random))
            }
            timers.checkNext()
            if !timers.mistakes.isEmpty { break }
        }
        #expect(timers.mistakes == [])
    }

    @Test func timersThatRepeat() {
        // Each sets itself again when it is due, as keep-alives do.
        var random = SeededGenerator(seed: 9)
        let timers = Timers(count: 50, now: 1 << 30)
        for index in 0..<50 { timers.set(index, timers.now + UInt64(index) + 1) }
        var count = 0
        for _ in 0..<2000 {
            timers.advance(to: timers.now + UInt64.random(in: 1...100, using: &random)) { _, time in
                count += 1
                return time + UInt64.random(in: 1...5000, using: &random)
            }
            timers.checkNext()
        }
        #expect(timers.mistakes == [])
        #expect(count > 1000)
    }
}
