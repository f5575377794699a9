// What the process asks of the operating system at its start: signals, threads, limits, randomness.

import CLinux

/// Signals that the proxy answers to, read by one thread from a descriptor. All threads have them blocked.
public struct Signals: ~Copyable {
    private let descriptor: Int32

    /// Signals that would end the process, or print a crash report, and that mean nothing here.
    private static let harmless: [(number: Int32, name: String)] = [
        (SIGUSR2, "SIGUSR2"), (SIGALRM, "SIGALRM"), (SIGVTALRM, "SIGVTALRM"), (SIGPROF, "SIGPROF"), (SIGIO, "SIGIO"),
        (SIGPWR, "SIGPWR"), (SIGSTKFLT, "SIGSTKFLT"),
    ]

    private static var all: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1] + harmless.map(\.number) { sigaddset(&set, number) }
        return set
    }

    /// Blocks the signals for this thread and for all that it starts later, and ignores SIGPIPE and SIGXFSZ. What comes from
    /// here on waits until somebody reads it.
    public static func block() {
        headfirst_ignore_signals()
        var set = all
        pthread_sigmask(SIG_BLOCK, &set, nil)
    }

    /// Blocks the signals, and makes them readable.
    public init() throws(SystemError) {
        Self.block()
        var set = Self.all
        descriptor = signalfd(-1, &set, Int32(SFD_CLOEXEC))
        if descriptor < 0 { throw .last("signalfd") }
    }

    deinit { close(descriptor) }

    /// What ended a wait.
    public enum Outcome: Sendable {
        /// SIGTERM, SIGINT or SIGQUIT came.
        case terminate
        /// SIGHUP came.
        case reload
        /// SIGUSR1 came.
        case reopenLogs
        /// A signal of this name came that means nothing.
        case meaningless(String)
        /// The other descriptor became readable.
        case woken
        /// The time is over.
        case timedOut
    }

    /// Waits for a signal or for a wake-up.
    /// - Parameter timeoutMilliseconds: nil waits for ever.
    public borrowing func wait(or wakeUp: WakeUp, timeoutMilliseconds: Int?) -> Outcome {
        var polled = (
            pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: wakeUp.descriptor, events: Int16(POLLIN), revents: 0)
        )
        while true {
            let count = withUnsafeMutableBytes(of: &polled) {
                poll(
                    $0.baseAddress?.assumingMemoryBound(to: pollfd.self), 2, Int32(clamping: timeoutMilliseconds ?? -1))
            }
            if count == 0 { return .timedOut }
            if count < 0 { continue }
            if polled.0.revents != 0 {
                var information = signalfd_siginfo()
                _ = read(descriptor, &information, MemoryLayout<signalfd_siginfo>.size)
                let number = Int32(bitPattern: information.ssi_signo)
                switch number {
                case SIGTERM, SIGINT, SIGQUIT: return .terminate
                case SIGHUP: return .reload
                case SIGUSR1: return .reopenLogs
                default: return .meaningless(Self.harmless.first { $0.number == number }?.name ?? "\(number)")
                }
            }
            return .woken
        }
    }
}

/// Threads of the operating system.
public enum Thread {
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts a thread. It ends with `run`, or with the process.
    /// - Parameter name: what tools show; the first 15 bytes count.
    public static func start(name: String, _ run: @escaping @Sendable () -> Void) throws(SystemError) {
        var handle = pthread_t()
        let body = Unmanaged.passRetained(Body(run))
        let number = pthread_create(
            &handle, nil,
            { raw in
                guard let raw else { return nil }
                Unmanaged<Body>.fromOpaque(raw).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        if number != 0 {
            body.release()
            throw SystemError("pthread_create", number: number)
        }
        headfirst_name_thread(handle, String(decoding: name.utf8.prefix(15), as: UTF8.self))
        pthread_detach(handle)
    }
}

/// Facts about the process and its machine.
public enum Process {
    /// Fills `words` 64-bit words with randomness of the kernel.
    public static func randomWords(_ words: Int) -> [UInt64] {
        var random = [UInt64](repeating: 0, count: words)
        let bytes = words * MemoryLayout<UInt64>.size
        let outcome = random.withUnsafeMutableBytes { headfirst_random($0.baseAddress, bytes) }
        precondition(outcome == 0, "getrandom failed")
        return random
    }

    /// A variable of the environment.
    public static func environmentVariable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

    /// The name of this machine.
    public static func nodeName() -> String {
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Raises the soft limit of descriptors to the hard one.
    /// - Returns: the limit that holds now.
    public static func raiseDescriptorLimit() -> Int {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        }
        return Int(clamping: limit.rlim_cur)
    }

    /// The CPUs that this process may use: its affinity, or less where a cgroup's quota says so; at least 1.
    public static func availableProcessors() -> Int {
        var count = Int(headfirst_affinity_count())
        // cgroup v2: "max 100000" or "150000 100000"; v1: two files. A quota of 1.5 CPUs is worth two workers.
        if let quota = firstLine("/sys/fs/cgroup/cpu.max")?.split(separator: " ").map({ Int($0) }), quota.count == 2,
            let allowed = quota[0], let period = quota[1], period > 0
        {
            count = min(count, (allowed + period - 1) / period)
        } else if let allowed = firstLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").flatMap({ Int($0) }), allowed > 0,
            let period = firstLine("/sys/fs/cgroup/cpu/cpu.cfs_period_us").flatMap({ Int($0) }), period > 0
        {
            count = min(count, (allowed + period - 1) / period)
        }
        return max(1, count)
    }

    /// The memory that the process's control group may have, in bytes; nil if there is no limit.
    public static func memoryLimitBytes() -> Int? {
        // In a container the group is mounted as the root; elsewhere /proc names its place in the tree. Version 2 has one
        // line that begins with "0::", version 1 one for each controller. A group's parents bound it, too.
        var limits: [Int] = []
        for line in lines("/proc/self/cgroup") {
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { continue }
            let isSecond = parts[1].isEmpty
            guard isSecond || parts[1].split(separator: ",").contains("memory") else { continue }
            let (root, file) =
                isSecond ? ("/sys/fs/cgroup", "memory.max") : ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            var folders = parts[2].split(separator: "/")
            while true {
                let folder = ([root] + folders.map(String.init)).joined(separator: "/")
                if let limit = number(in: "\(folder)/\(file)") { limits.append(limit) }
                if folders.popLast() == nil { break }
            }
        }
        // Version 1 says "no limit" by a number near the largest one.
        return limits.min().flatMap { $0 < 1 << 60 ? $0 : nil }
    }

    /// Gives memory that was freed back to the system.
    public static func trimMemory() { headfirst_trim_memory() }

    /// Lets a descriptor stand for what another one does, which is closed. Who writes to it meanwhile writes to the one
    /// or to the other.
    public static func replace(_ descriptor: Int32, by other: Int32) throws(SystemError) {
        let result = headfirst_replace(descriptor, other)
        let error = SystemError.last("dup3")
        close(other)
        if result < 0 { throw error }
    }

    /// A file that is nowhere but in memory, with these bytes; it lives as long as the process.
    /// - Returns: a path that this process can open it by.
    public static func memoryFile(named name: String, _ bytes: [UInt8]) throws(SystemError) -> String {
        let file = headfirst_memory_file(name)
        if file < 0 { throw .last("memfd_create") }
        guard write(file, bytes, bytes.count) == bytes.count else { throw .last("write") }
        return "/proc/self/fd/\(file)"
    }

    /// The number that a file of /proc or /sys holds.
    static func number(in path: String) -> Int? { firstLine(path).flatMap { Int($0) } }

    static func firstLine(_ path: String) -> String? { lines(path).first }

    private static func lines(_ path: String) -> [String] {
        let file = headfirst_open(path, O_RDONLY | O_CLOEXEC, 0)
        guard file >= 0 else { return [] }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = read(file, &bytes, bytes.count)
        guard count > 0 else { return [] }
        return bytes.prefix(count).split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
    }
}
