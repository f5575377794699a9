// Pipes as buffers between two sockets: splice(2) moves the pages of what one socket received to another, and nothing
// is copied. A pipe is taken for the bytes in it and given back as soon as there are none.

import Bytes
import CLinux

/// Bytes that left one socket and that another has not taken yet, in a pipe that is held for them. Trivial: the pool,
/// not the value, owns the descriptors.
@frozen public struct PipedBytes {
    @usableFromInline var readEnd: Int32
    @usableFromInline var writeEnd: Int32
    @usableFromInline var byteCount: Int32

    /// How many there are; 0 while no pipe is held.
    @inlinable public var count: Int { Int(byteCount) }

    /// None.
    @inlinable public init() {
        readEnd = -1
        writeEnd = -1
        byteCount = 0
    }

    /// Whether there are none.
    @inlinable public var isEmpty: Bool { byteCount == 0 }
}

/// What became of moving bytes into a pipe.
public enum SpliceResult {
    /// So many bytes are in it, at least one.
    case bytes(Int)
    /// The source has nothing now; readiness will tell.
    case wouldBlock
    /// The source's peer ended its direction.
    case ended
    /// The source is broken.
    case failed
    /// There is no pipe to be had: copy.
    case unavailable
    /// Sockets of this kind cannot do it: copy.
    case unsupported
}

/// The pipes of one thread. A handle: copying it copies the reference.
public struct PipePool {
    private struct Storage {
        var free: [(readEnd: Int32, writeEnd: Int32)] = []
        var heldCount = 0
        /// How many there may be, held and free.
        let countMax: Int
        /// So many requests for a pipe are refused before another is made: the kernel gave a small one.
        var refusalCount = 0
    }

    /// What one pipe takes, in bytes. A larger one saves no more calls than it costs in caches.
    public static var capacityBytes: Int { 256 << 10 }
    /// A pipe this small, which the kernel gives to a user who has many, is not worth it.
    private static var capacityBytesMin: Int { 64 << 10 }
    /// How long, in requests, nothing is asked of a kernel that had only a small pipe to give.
    private static var refusalsMax: Int { 1000 }
    /// Pipes that are kept though nobody needs them now.
    private static var freeCountMax: Int { 8 }

    private let storage: UnsafeMutablePointer<Storage>

    /// An empty pool.
    /// - Parameter countMax: how many pipes there may be; each is two descriptors.
    public init(countMax: Int) {
        storage = .allocate(capacity: 1)
        storage.initialize(to: Storage(countMax: countMax))
    }

    /// Closes the free pipes; every other was given back.
    public func destroy() {
        for pipe in storage.pointee.free { Self.close(pipe.readEnd, pipe.writeEnd) }
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    /// Pipes with bytes in them.
    public var heldCount: Int { storage.pointee.heldCount }

    private static func close(_ readEnd: Int32, _ writeEnd: Int32) {
        CLinux.close(readEnd)
        CLinux.close(writeEnd)
    }

    private func take() -> (readEnd: Int32, writeEnd: Int32)? {
        if let free = storage.pointee.free.popLast() { return free }
        guard storage.pointee.heldCount < storage.pointee.countMax else { return nil }
        if storage.pointee.refusalCount > 0 {
            storage.pointee.refusalCount -= 1
            return nil
        }
        var ends: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutableBytes(of: &ends) {
            headfirst_pipe($0.baseAddress?.assumingMemoryBound(to: Int32.self))
        }
        guard made == 0 else { return nil }
        // A user who has many pipes may get a small one; then no more are made for a while.
        if headfirst_set_pipe_capacity(ends.0, Int32(Self.capacityBytes)) < Self.capacityBytesMin {
            Self.close(ends.0, ends.1)
            storage.pointee.refusalCount = Self.refusalsMax
            return nil
        }
        return (ends.0, ends.1)
    }

    private func give(_ readEnd: Int32, _ writeEnd: Int32) {
        if storage.pointee.free.count < Self.freeCountMax {
            storage.pointee.free.append((readEnd, writeEnd))
        } else {
            Self.close(readEnd, writeEnd)
        }
    }

    /// Moves what a socket has received into a pipe, which is held from then on.
    /// - Parameters:
    ///   - count: the most bytes to move.
    ///   - piped: where the pipe is noted; nothing is in it yet.
    public func receive(_ socket: Int32, count: Int, into piped: inout PipedBytes) -> SpliceResult {
        precondition(piped.isEmpty, "a pipe with bytes in it is not filled up")
        guard let pipe = take() else { return .unavailable }
        while true {
            let moved = headfirst_splice(socket, pipe.writeEnd, min(count, Self.capacityBytes))
            if moved > 0 {
                piped.readEnd = pipe.readEnd
                piped.writeEnd = pipe.writeEnd
                piped.byteCount = Int32(moved)
                storage.pointee.heldCount += 1
                return .bytes(moved)
            }
            let number = moved == 0 ? 0 : headfirst_errno()
            if number == EINTR { continue }
            give(pipe.readEnd, pipe.writeEnd)
            switch number {
            case 0: return .ended
            case EAGAIN: return .wouldBlock
            case EINVAL, ENOSYS, EPERM: return .unsupported
            default: return .failed
            }
        }
    }

    /// Moves bytes on to a socket, as many as it takes; the pipe is given back with the last.
    public func send(_ piped: inout PipedBytes, to socket: Int32) -> TransferResult {
        var sent = 0
        while !piped.isEmpty {
            let moved = headfirst_splice(piped.readEnd, socket, piped.count)
            if moved > 0 {
                sent += moved
                piped.byteCount -= Int32(moved)
                continue
            }
            switch moved == 0 ? EPIPE : headfirst_errno() {
            case EINTR: continue
            case EAGAIN: return sent > 0 ? .bytes(sent) : .wouldBlock
            case let number: return .failed(number)
            }
        }
        if piped.readEnd >= 0 {
            storage.pointee.heldCount -= 1
            give(piped.readEnd, piped.writeEnd)
            piped = PipedBytes()
        }
        return .bytes(sent)
    }

    /// Reads the bytes out, for a socket that cannot take them from a pipe, and gives it back.
    public func copy(_ piped: inout PipedBytes, to buffer: inout Buffer, of pool: BufferPool) {
        pool.reserve(piped.count, in: &buffer)
        while !piped.isEmpty, let base = buffer.base {
            let count = read(piped.readEnd, base + Int(buffer.end), piped.count)
            if count < 0, headfirst_errno() == EINTR { continue }
            precondition(count > 0, "a pipe lost its bytes")
            buffer.end += UInt32(count)
            piped.byteCount -= Int32(count)
        }
        storage.pointee.heldCount -= 1
        give(piped.readEnd, piped.writeEnd)
        piped = PipedBytes()
    }

    /// Throws the bytes away: the pipe with them, since it could be emptied by copying only.
    public func discard(_ piped: inout PipedBytes) {
        guard !piped.isEmpty else { return }
        storage.pointee.heldCount -= 1
        Self.close(piped.readEnd, piped.writeEnd)
        piped = PipedBytes()
    }
}

extension PipePool {
    /// How many pipes each of several threads may have: a part of what the kernel lets one user have before it gives
    /// small ones (pipe-user-pages-soft), and few enough that connections get the descriptors.
    public static func countMax(threads: Int, descriptorsMax: Int) -> Int {
        let pagesOfOne = capacityBytes / 4096
        let pagesMax = Process.number(in: "/proc/sys/fs/pipe-user-pages-soft") ?? 16384
        let byPages = pagesMax == 0 ? Int.max : pagesMax / 2 / pagesOfOne
        return min(64, min(byPages, descriptorsMax / 32) / threads)
    }
}
