// Time, read from the monotonic clock once a batch of events; wall-clock time for Date and logs.

import CLinux

/// Clocks.
public enum Clock {
    /// Microseconds of the monotonic clock.
    public static func monotonicMicroseconds() -> UInt64 { microseconds(CLOCK_MONOTONIC) }
    /// Microseconds since 1970 in UTC.
    public static func wallMicroseconds() -> UInt64 { microseconds(CLOCK_REALTIME) }

    private static func microseconds(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000
            &+ UInt64(truncatingIfNeeded: time.tv_nsec) / 1000
    }
}
