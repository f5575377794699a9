// The thread that reads the workers' rings, formats and writes. A slow or full destination makes it late, never
// a worker.

import Bytes
import EventLoop
import Glibc
import ProxyConfiguration
import Synchronization

/// The access log's thread and the rings to it.
final class AccessLogThread: Sendable {
    let rings: [LogRing]
    private let file: LogFile
    private let formatter: AccessLogFormatter
    private let wakeUp: WakeUp
    private let isAsleep = Atomic<Bool>(false)
    private let isStopped = Atomic<Bool>(false)
    /// Lines that could not be written.
    private let unwrittenCount = Atomic<Int>(0)
    private let onTrouble: @Sendable (String) -> Void
    private let isEnded = Atomic<Bool>(false)

    /// How long the thread naps between two looks while records come: workers need not wake it then.
    private static let napMicroseconds: UInt32 = 20_000
    /// How often losses are told of.
    private static let reportMicroseconds: UInt64 = 10_000_000
    private static let ringBytes = 1 << 20
    private static let bufferBytes = 256 << 10

    /// Starts the thread.
    /// - Parameters:
    ///   - destination: where lines go; a file is made if it is missing.
    ///   - onTrouble: told what went wrong, now and then, on the log's thread.
    ///   - onEnd: told that the thread has written what it had, on that thread.
    init(
        _ destination: LogDestination, format: AccessLogFormat, workerCount: Int,
        onTrouble: @escaping @Sendable (String) -> Void, onEnd: @escaping @Sendable () -> Void
    ) throws(SystemError) {
        file = try LogFile(destination)
        formatter = AccessLogFormatter(format: format)
        rings = (0..<workerCount).map { _ in LogRing(capacity: Self.ringBytes) }
        wakeUp = try WakeUp()
        self.onTrouble = onTrouble
        try Thread.start(name: "access-log") { [self] in
            run()
            isEnded.store(true, ordering: .releasing)
            onEnd()
        }
    }

    /// The file is opened again by its name: who rotates logs has moved the old one away.
    func reopen() throws(SystemError) { try file.reopen() }

    /// Records that were lost so far: those that found their ring full, and lines that could not be written.
    var lostCount: Int {
        rings.reduce(0) { $0 + $1.lostCount.load(ordering: .relaxed) } + unwrittenCount.load(ordering: .relaxed)
    }

    /// A worker wrote into its ring. The fence stands against its fellow in `run`: either the worker sees that the
    /// thread sleeps, or the thread sees the record before it does.
    func recordsCame() {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if isAsleep.load(ordering: .relaxed), isAsleep.exchange(false, ordering: .acquiringAndReleasing) {
            wakeUp.ring()
        }
    }

    /// Whether the thread has ended.
    var hasEnded: Bool { isEnded.load(ordering: .acquiring) }

    /// Lets the thread write what is there and end. No worker writes into a ring any more.
    func beginStop() {
        isStopped.store(true, ordering: .releasing)
        wakeUp.ring()
    }

    /// The same, and waits for it. A reader that takes nothing does not keep the process: after a second what is left is
    /// lost.
    func stop() {
        beginStop()
        let stepMicroseconds: UInt32 = 5_000
        for _ in 0..<(1_000_000 / stepMicroseconds) {
            if hasEnded { return }
            usleep(stepMicroseconds)
        }
    }

    private func run() {
        let base = UnsafeMutablePointer<UInt8>.allocate(capacity: Self.bufferBytes)
        defer { base.deallocate() }
        var report = LossReport()
        var end = LogEnd.betweenLines
        while true {
            let stopping = isStopped.load(ordering: .acquiring)
            let count = drain(base, &end)
            if stopping { report.nextMicroseconds = 0 }
            reportTrouble(&report)
            if stopping { return }
            if count > 0 {
                usleep(Self.napMicroseconds)
                continue
            }
            // Say that we sleep first and look again then: a record that comes between is seen by one of us.
            isAsleep.store(true, ordering: .relaxed)
            atomicMemoryFence(ordering: .sequentiallyConsistent)
            if drain(base, &end) == 0, !isStopped.load(ordering: .acquiring) {
                var entry = pollfd(fd: wakeUp.descriptor, events: Int16(POLLIN), revents: 0)
                poll(&entry, 1, -1)
            }
            isAsleep.store(false, ordering: .releasing)
            wakeUp.silence()
        }
    }

    private func drain(_ base: UnsafeMutablePointer<UInt8>, _ end: inout LogEnd) -> Int {
        var out = ByteWriter(base: base, capacity: Self.bufferBytes)
        var count = 0
        for ring in rings {
            count += ring.readAll { record, strings in
                let stringBytes = record.stringBytes.total
                if out.capacity - out.count < AccessLogFormatter.lineBytesMax(stringBytes: stringBytes) {
                    write(&out, &end)
                }
                formatter.write(record, strings: strings, to: &out)
            }
        }
        write(&out, &end)
        return count
    }

    private func write(_ out: inout ByteWriter, _ end: inout LogEnd) {
        // What was cut by a full disk must not take the next line with it.
        if out.count > 0, end == .withinLine, endLine() { end = .betweenLines }
        var start = 0
        while start < out.count, end == .betweenLines || start > 0 {
            let written = Glibc.write(file.descriptor, out.base + start, out.count - start)
            if written > 0 {
                start += written
                end = out.base[start - 1] == UInt8(ascii: "\n") ? .betweenLines : .withinLine
            } else if errno == EAGAIN {
                var entry = pollfd(fd: file.descriptor, events: Int16(POLLOUT), revents: 0)
                poll(&entry, 1, 100)
            } else if errno != EINTR {
                break
            }
        }
        // A line that was cut counts, too.
        let lines = (start..<out.count).reduce(0) { $0 + (out.base[$1] == UInt8(ascii: "\n") ? 1 : 0) }
        if lines > 0 { unwrittenCount.add(lines, ordering: .relaxed) }
        out.count = 0
    }

    /// Ends a line that was cut, unless the file is another one by now.
    /// - Returns: whether the next line may begin.
    private func endLine() -> Bool {
        var status = stat()
        if fstat(file.descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size == 0 { return true }
        return Glibc.write(file.descriptor, "\n", 1) == 1
    }

    /// What was written last.
    private enum LogEnd {
        case betweenLines
        /// A line of which the rest was lost.
        case withinLine
    }

    /// Says how many records were lost, if there are more: at once, and then now and then.
    private func reportTrouble(_ report: inout LossReport) {
        let lost = lostCount
        let now = Clock.monotonicMicroseconds()
        guard lost > report.lostCount, now >= report.nextMicroseconds else { return }
        onTrouble("the access log lost records: \(lost) so far")
        report = LossReport(lostCount: lost, nextMicroseconds: now + Self.reportMicroseconds)
    }

    /// What was said of losses.
    private struct LossReport {
        var lostCount = 0
        var nextMicroseconds: UInt64 = 0
    }
}
