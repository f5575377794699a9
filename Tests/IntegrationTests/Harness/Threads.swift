// What the scripted peers need to run on threads of their own: Swift Testing's pool is for the tests.

import Glibc

/// Something took longer than a test allows.
struct Late: Error, CustomStringConvertible {
    let what: String
    var description: String { "too late: \(what)" }
}

/// The monotonic clock.
enum Now {
    static var milliseconds: Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    }

    static var microseconds: Int {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000_000 + time.tv_nsec / 1000
    }
}

/// Runs `body` on a new thread.
func startThread(_ body: @escaping @Sendable () -> Void) {
    final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(Body(body)).toOpaque()
    let error = pthread_create(
        &thread, nil,
        { argument in
            guard let argument else { return nil }
            Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
            return nil
        }, argument)
    precondition(error == 0, "no thread")
    pthread_detach(thread)
}

/// A value that threads share, and the wait until it is as somebody wants it.
final class Monitor<State>: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var state: State

    init(_ state: State) {
        self.state = state
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// Reads or changes the state, and wakes who waits for it.
    func update<Result>(_ body: (inout State) -> Result) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        let result = body(&state)
        pthread_cond_broadcast(condition)
        return result
    }

    /// Waits until `body` returns something.
    func wait<Result>(
        for what: String, milliseconds: Int = 4000, until body: (inout State) -> Result?
    ) throws -> Result {
        let deadline = Now.milliseconds + milliseconds
        var time = timespec(tv_sec: deadline / 1000, tv_nsec: deadline % 1000 * 1_000_000)
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            if pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT {
                if let result = body(&state) { return result }
                throw Late(what: what)
            }
        }
    }
}

/// A lock.
final class Lock: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

    init() { pthread_mutex_init(mutex, nil) }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    func lock() { pthread_mutex_lock(mutex) }
    func unlock() { pthread_mutex_unlock(mutex) }
}

/// Descriptors that no child inherits: what cannot be made so in one call is made while no child is.
enum Descriptors {
    static let lock = Lock()

    static func making(_ make: () -> Int32) -> Int32 {
        lock.lock()
        defer { lock.unlock() }
        let descriptor = make()
        if descriptor >= 0 { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        return descriptor
    }
}

/// Values that one thread leaves for another, in order.
final class Handoff<Value: Sendable>: Sendable {
    private let values = Monitor<[Value]>([])

    /// Leaves a value.
    func give(_ value: Value) { values.update { $0.append(value) } }

    /// The next value, when it is there.
    func take(milliseconds: Int = 4000) throws -> Value {
        try values.wait(for: "a handoff", milliseconds: milliseconds) { $0.isEmpty ? nil : $0.removeFirst() }
    }

    /// How many values wait.
    var count: Int { values.update { $0.count } }
}

extension Handoff where Value == Void {
    /// Lets whoever waits go on.
    func give() { give(()) }
}
