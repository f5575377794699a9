// Time, read from the monotonic clock once a batch of events; wall-clock time for Date and logs.

import CLinux

/// Clocks.
public enum Clock {
    /// Microseconds of the monotonic clock.
    public static func monotonicMicroseconds() -> UInt64 { headfirst_microseconds(CLOCK_MONOTONIC) }
    /// Microseconds since 1970 in UTC.
    public static func wallMicroseconds() -> UInt64 { headfirst_microseconds(CLOCK_REALTIME) }
}
