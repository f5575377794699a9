// Readiness by epoll. Connections are registered once, edge-triggered, for everything; no later epoll_ctl.

import Bytes
import CLinux

/// An error number of the operating system, with the call that gave it.
public struct SystemError: Error, CustomStringConvertible, Equatable {
    /// The call.
    public let call: StaticString
    /// The error number.
    public let number: Int32

    /// An error of a call.
    public init(_ call: StaticString, number: Int32) {
        self.call = call
        self.number = number
    }

    /// The error of the call that failed just now on this thread.
    public static func last(_ call: StaticString) -> SystemError {
        SystemError(call, number: headfirst_errno())
    }

    /// What the operating system calls the error.
    public var reason: String { String(cString: strerror(number)) }
    /// The call and the reason.
    public var description: String { "\(call): \(reason)" }

    /// Two errors are equal when the number is.
    public static func == (one: SystemError, other: SystemError) -> Bool { one.number == other.number }
}

/// What a descriptor is ready for.
@frozen public struct Readiness: OptionSet, Sendable {
    /// epoll's bits.
    public let rawValue: UInt32
    /// From epoll's bits.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// There are bytes, or an end, to read.
    public static var readable: Readiness { Readiness(rawValue: EPOLLIN.rawValue) }
    /// Bytes can be written.
    public static var writable: Readiness { Readiness(rawValue: EPOLLOUT.rawValue) }
    /// The peer ended its direction; bytes before the end may still be unread.
    public static var peerEnded: Readiness { Readiness(rawValue: EPOLLRDHUP.rawValue) }
    /// Both directions are over.
    public static var hungUp: Readiness { Readiness(rawValue: EPOLLHUP.rawValue) }
    /// The socket has an error.
    public static var failed: Readiness { Readiness(rawValue: EPOLLERR.rawValue) }
}

/// Who an event is for: a kind that the owner of the loop defines, and a slab token.
@frozen public struct ReadinessToken: Equatable, Sendable {
    /// As it stands in epoll_event.
    public let rawValue: UInt64

    /// From an event.
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// For a registration.
    @inlinable public init(kind: UInt8, _ token: SlabToken) {
        rawValue = UInt64(kind) << 56 | UInt64(token.generation) << 32 | UInt64(token.index)
    }

    /// The kind.
    @inlinable public var kind: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 56) }
    /// The slot and its generation.
    @inlinable public var slabToken: SlabToken {
        SlabToken(
            index: UInt32(truncatingIfNeeded: rawValue),
            generation: UInt32(truncatingIfNeeded: rawValue >> 32) & 0xFF_FFFF)
    }
}

/// An epoll instance with room for one batch of events. Belongs to one thread.
public struct Epoll: ~Copyable {
    private let descriptor: Int32
    private let events: UnsafeMutablePointer<epoll_event>
    private let eventsMax: Int32

    /// A new instance.
    /// - Parameter batchMax: how many events `wait` gives at most.
    public init(batchMax: Int) throws(SystemError) {
        descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
        if descriptor < 0 { throw .last("epoll_create1") }
        events = .allocate(capacity: batchMax)
        eventsMax = Int32(batchMax)
    }

    deinit {
        events.deallocate()
        close(descriptor)
    }

    /// Registers a connection: edge-triggered, for reading, writing and the peer's end.
    public borrowing func addConnection(_ socket: Int32, _ token: ReadinessToken) throws(SystemError) {
        try add(
            socket, token,
            EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | headfirst_epollet())
    }

    /// Registers a source that is read until it is empty: a listener or a wake-up. Level-triggered.
    /// - Parameter exclusive: whether one of several loops that wait for it is woken, not all.
    public borrowing func addSource(_ socket: Int32, _ token: ReadinessToken, exclusive: Bool) throws(SystemError) {
        try add(socket, token, EPOLLIN.rawValue | (exclusive ? headfirst_epollexclusive() : 0))
    }

    private borrowing func add(_ socket: Int32, _ token: ReadinessToken, _ bits: UInt32) throws(SystemError) {
        var event = epoll_event()
        event.events = bits
        event.data.u64 = token.rawValue
        if epoll_ctl(descriptor, EPOLL_CTL_ADD, socket, &event) != 0 { throw .last("epoll_ctl") }
    }

    /// Takes a source out without closing it.
    public borrowing func remove(_ socket: Int32) {
        var event = epoll_event()
        epoll_ctl(descriptor, EPOLL_CTL_DEL, socket, &event)
    }

    /// Waits for events.
    /// - Parameter timeoutMilliseconds: 0 returns at once, -1 waits for ever.
    /// - Returns: their number; 0 also when a signal interrupted the wait.
    public borrowing func wait(timeoutMilliseconds: Int32) -> Int {
        let count = headfirst_epoll_wait(descriptor, events, eventsMax, timeoutMilliseconds)
        precondition(count >= 0 || headfirst_errno() == EINTR, "epoll_wait failed")
        return max(0, Int(count))
    }

    /// An event of the last batch.
    public borrowing func event(_ index: Int) -> (token: ReadinessToken, readiness: Readiness) {
        (ReadinessToken(rawValue: events[index].data.u64), Readiness(rawValue: events[index].events))
    }
}

extension SystemError {
    /// What kind of failure to connect an error is.
    public enum ConnectKind: Sendable {
        /// Nobody listens there.
        case refused
        /// Nobody answered.
        case timedOut
        /// This machine or process has no room for another connection.
        case exhausted
        /// Anything else: no route, no permission.
        case other
    }

    /// What kind of failure to connect this is.
    public var kind: ConnectKind {
        switch number {
        case ECONNREFUSED, ENOENT, EAGAIN, ECONNRESET: .refused
        case ETIMEDOUT: .timedOut
        case EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL: .exhausted
        default: .other
        }
    }
}
