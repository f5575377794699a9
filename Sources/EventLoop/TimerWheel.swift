// A hierarchical timing wheel: six levels of 64 slots, one millisecond a tick. An entry is embedded in the
// connection it belongs to and never moves. Postponing is one store: the entry stays where it is and is looked at
// again when its old time comes.

import Bytes

/// A timer, embedded in what it belongs to. Trivial.
@frozen public struct TimerEntry {
    @usableFromInline var previous: UnsafeMutablePointer<TimerEntry>?
    @usableFromInline var next: UnsafeMutablePointer<TimerEntry>?
    /// When the wheel will look at it; 0 while it is in no slot.
    @usableFromInline var scheduledMilliseconds: UInt64
    /// When it is due; `never` while it is not set.
    @usableFromInline var deadline: UInt64
    /// Whom it belongs to.
    public var owner: ReadinessToken
    @usableFromInline var slot: UInt16

    /// When it is due, in milliseconds of the monotonic clock; `never` while it is not set.
    @inlinable public var deadlineMilliseconds: UInt64 { deadline }

    /// The deadline of a timer that is not set.
    @inlinable public static var never: UInt64 { .max }

    /// A timer that is not set.
    @inlinable public init(owner: ReadinessToken) {
        previous = nil
        next = nil
        scheduledMilliseconds = 0
        deadline = TimerEntry.never
        self.owner = owner
        slot = 0
    }
}

/// The wheel. A handle: copying it copies the reference. One thread.
@frozen public struct TimerWheel {
    @usableFromInline static var levels: Int { 6 }

    @usableFromInline struct Storage {
        @usableFromInline var heads: UnsafeMutablePointer<UnsafeMutablePointer<TimerEntry>?>
        @usableFromInline var occupied: UnsafeMutablePointer<UInt64>
        @usableFromInline var nowMilliseconds: UInt64
        /// Not later than when the wheel must be advanced next; `never` while it is empty. Removing leaves it as it
        /// is: to look once too early costs less than to look for the next entry each time.
        @usableFromInline var nextBound: UInt64
    }

    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// An empty wheel.
    public init(nowMilliseconds: UInt64) {
        storage = .allocate(capacity: 1)
        let heads = UnsafeMutablePointer<UnsafeMutablePointer<TimerEntry>?>.allocate(capacity: Self.levels * 64)
        heads.initialize(repeating: nil, count: Self.levels * 64)
        let occupied = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.levels)
        occupied.initialize(repeating: 0, count: Self.levels)
        storage.initialize(
            to: Storage(
                heads: heads, occupied: occupied, nowMilliseconds: nowMilliseconds, nextBound: TimerEntry.never))
    }

    /// Frees the wheel; entries still in it are forgotten.
    public func destroy() {
        storage.pointee.heads.deallocate()
        storage.pointee.occupied.deallocate()
        storage.deallocate()
    }

    /// Sets an entry's deadline. Later than before is one store; earlier moves the entry.
    @inlinable public func set(_ entry: UnsafeMutablePointer<TimerEntry>, deadlineMilliseconds: UInt64) {
        entry.pointee.deadline = deadlineMilliseconds
        if entry.pointee.scheduledMilliseconds <= deadlineMilliseconds, entry.pointee.scheduledMilliseconds != 0 {
            return
        }
        if deadlineMilliseconds == TimerEntry.never { return }
        move(entry)
    }

    @usableFromInline func move(_ entry: UnsafeMutablePointer<TimerEntry>) {
        remove(entry)
        insert(entry)
    }

    /// Takes an entry out: before what it is embedded in goes away.
    public func remove(_ entry: UnsafeMutablePointer<TimerEntry>) {
        guard entry.pointee.scheduledMilliseconds != 0 else { return }
        let slot = Int(entry.pointee.slot)
        if let previous = entry.pointee.previous {
            previous.pointee.next = entry.pointee.next
        } else {
            storage.pointee.heads[slot] = entry.pointee.next
            if entry.pointee.next == nil { storage.pointee.occupied[slot >> 6] &= ~(1 << UInt64(slot & 63)) }
        }
        entry.pointee.next?.pointee.previous = entry.pointee.previous
        entry.pointee.previous = nil
        entry.pointee.next = nil
        entry.pointee.scheduledMilliseconds = 0
    }

    private func insert(_ entry: UnsafeMutablePointer<TimerEntry>) {
        let now = storage.pointee.nowMilliseconds
        let horizon = now + (1 << 36) - 1
        let due = min(max(entry.pointee.deadline, now + 1), horizon)
        // A deadline beyond the highest level's turn of the wheel still belongs there; it wraps around.
        let level = min((63 - (due ^ now).leadingZeroBitCount) / 6, Self.levels - 1)
        let slot = level << 6 | Int(due >> UInt64(level * 6) & 63)
        entry.pointee.scheduledMilliseconds = due
        entry.pointee.slot = UInt16(slot)
        entry.pointee.previous = nil
        entry.pointee.next = storage.pointee.heads[slot]
        entry.pointee.next?.pointee.previous = entry
        storage.pointee.heads[slot] = entry
        storage.pointee.occupied[level] |= 1 << UInt64(slot & 63)
        let slotStart = (due >> UInt64(level * 6)) << UInt64(level * 6)
        if slotStart < storage.pointee.nextBound { storage.pointee.nextBound = slotStart }
    }

    /// When the wheel should be advanced next, in milliseconds of the monotonic clock: never too late, and too early
    /// at most once for each time; nil if it is empty.
    @inlinable public var nextMilliseconds: UInt64? {
        let bound = storage.pointee.nextBound
        return bound == TimerEntry.never ? nil : bound
    }

    /// When the first slot that is occupied begins.
    private var firstOccupied: UInt64? {
        let now = storage.pointee.nowMilliseconds
        for level in 0..<Self.levels {
            let shift = UInt64(level * 6)
            let position = now >> shift & 63
            // Slots of a level lie after the current position, or the entry would be on a lower level; the highest
            // level alone wraps around.
            let later = storage.pointee.occupied[level] & ~(position == 63 ? .max : (2 << position) - 1)
            if later != 0 {
                let slot = UInt64(later.trailingZeroBitCount)
                return (now >> shift & ~63 | slot) << shift
            }
            if level == Self.levels - 1, storage.pointee.occupied[level] != 0 {
                let slot = UInt64(storage.pointee.occupied[level].trailingZeroBitCount)
                return ((now >> shift & ~63) + 64 + slot) << shift
            }
        }
        return nil
    }

    /// Goes on to `nowMilliseconds` and calls `expired` for each entry that is due; it is in no slot then and its
    /// deadline is `never`, and it may be set again. Entries that were postponed are put in order again.
    @inlinable public func advance(
        to nowMilliseconds: UInt64, _ expired: (UnsafeMutablePointer<TimerEntry>) -> Void
    ) {
        if nowMilliseconds < storage.pointee.nextBound {
            if nowMilliseconds > storage.pointee.nowMilliseconds { storage.pointee.nowMilliseconds = nowMilliseconds }
            return
        }
        turn(to: nowMilliseconds, expired)
    }

    @usableFromInline func turn(
        to nowMilliseconds: UInt64, _ expired: (UnsafeMutablePointer<TimerEntry>) -> Void
    ) {
        while let next = firstOccupied, next <= nowMilliseconds {
            storage.pointee.nowMilliseconds = next
            for level in 0..<Self.levels {
                let shift = UInt64(level * 6)
                // A level's slot is entered when all lower digits are zero.
                if level > 0, next & ((1 << shift) - 1) != 0 { break }
                let slot = level << 6 | Int(next >> shift & 63)
                while let entry = storage.pointee.heads[slot] {
                    remove(entry)
                    if entry.pointee.deadline == TimerEntry.never { continue }
                    if entry.pointee.deadline > next {
                        insert(entry)
                    } else {
                        entry.pointee.deadline = TimerEntry.never
                        expired(entry)
                    }
                }
            }
        }
        if nowMilliseconds > storage.pointee.nowMilliseconds { storage.pointee.nowMilliseconds = nowMilliseconds }
        storage.pointee.nextBound = firstOccupied ?? TimerEntry.never
    }
}
