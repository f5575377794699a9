// Threads meet here and nowhere else: an array under a mutex, swapped out whole, and an eventfd that is written
// only when the array was empty.

import CLinux
import Synchronization

/// A wake-up that epoll can wait for.
public final class WakeUp: Sendable {
    /// The eventfd, non-blocking.
    public let descriptor: Int32

    /// A wake-up nobody has rung yet.
    public init() throws(SystemError) {
        descriptor = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        if descriptor < 0 { throw .last("eventfd") }
    }

    deinit { close(descriptor) }

    /// Waits until it is rung.
    public func wait() {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        while poll(&entry, 1, -1) < 0 {}
    }

    /// Wakes the thread that waits.
    public func ring() {
        var one: UInt64 = 1
        _ = write(descriptor, &one, MemoryLayout<UInt64>.size)
    }

    /// Makes the descriptor unreadable again.
    public func silence() {
        var count: UInt64 = 0
        _ = read(descriptor, &count, MemoryLayout<UInt64>.size)
    }
}

/// Messages for one thread from any other, in order.
public final class Mailbox<Message: Sendable>: Sendable {
    private let messages = Mutex<[Message]>([])
    /// Rung when a message comes into the empty mailbox.
    public let wakeUp: WakeUp

    /// An empty mailbox.
    public init() throws(SystemError) {
        wakeUp = try WakeUp()
    }

    /// Leaves a message. Never blocks for long: the lock is held for an append or a swap.
    public func post(_ message: Message) {
        let wasEmpty = messages.withLock { messages in
            messages.append(message)
            return messages.count == 1
        }
        if wasEmpty { wakeUp.ring() }
    }

    /// Takes all messages.
    public func takeAll() -> [Message] {
        wakeUp.silence()
        return messages.withLock { messages in
            let taken = messages
            messages = []
            return taken
        }
    }
}
