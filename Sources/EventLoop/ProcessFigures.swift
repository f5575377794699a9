// What the operating system knows of this process. Reads files of /proc: not for a worker.

import CLinux
import Glibc

extension Process {
    /// Memory that is in use, in bytes; nil where /proc does not tell.
    public static func residentBytes() -> Int? {
        guard let line = firstLine("/proc/self/statm") else { return nil }
        return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 * Int(getpagesize()) }
    }

    /// How many descriptors are open; nil where /proc does not tell.
    public static func openDescriptors() -> Int? {
        guard let listing = opendir("/proc/self/fd") else { return nil }
        defer { closedir(listing) }
        // `.`, `..` and the listing's own.
        var count = -3
        while readdir(listing) != nil { count += 1 }
        return count
    }

    /// Processor time of all threads, in the system too, in microseconds.
    public static func processorMicroseconds() -> UInt64 { headfirst_microseconds(CLOCK_PROCESS_CPUTIME_ID) }
}
