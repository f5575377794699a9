// What one turn writes to one connection: small pieces are copied together, large ones are referred to, and all of
// it leaves in one call. References are valid until the next read into the worker's scratch, so a gather is always
// flushed before that.

import Bytes
import CLinux

/// Collects the bytes of one turn for one connection. A handle: copying it copies the reference. One thread.
@frozen public struct Gather {
    @usableFromInline struct Storage {
        /// What is closed: runs of copied bytes, and places that are referred to.
        @usableFromInline var pieces: UnsafeMutablePointer<iovec>
        @usableFromInline var pieceCount: Int
        @usableFromInline var scratch: UnsafeMutablePointer<UInt8>
        @usableFromInline var scratchCapacity: Int
        @usableFromInline var scratchCount: Int
        /// Where the run of copied bytes begins that is not closed yet.
        @usableFromInline var runStart: Int
        @usableFromInline var referredBytes: Int
    }

    @inlinable static var piecesMax: Int { 64 }
    /// Pieces up to this length are copied.
    @inlinable public static var copiedBytesMax: Int { 4096 }

    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// An empty gather.
    /// - Parameter scratchCapacity: how many bytes may be copied in one turn.
    public init(scratchCapacity: Int) {
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                pieces: .allocate(capacity: Self.piecesMax), pieceCount: 0,
                scratch: .allocate(capacity: scratchCapacity), scratchCapacity: scratchCapacity, scratchCount: 0,
                runStart: 0, referredBytes: 0))
    }

    /// Makes room for at least so many copied bytes in one turn. Nothing is collected at this time.
    public func grow(scratchCapacity: Int) {
        precondition(isEmpty, "what is collected would be lost")
        guard scratchCapacity > storage.pointee.scratchCapacity else { return }
        storage.pointee.scratch.deallocate()
        storage.pointee.scratch = .allocate(capacity: scratchCapacity)
        storage.pointee.scratchCapacity = scratchCapacity
    }

    /// Frees its memory.
    public func destroy() {
        storage.pointee.pieces.deallocate()
        storage.pointee.scratch.deallocate()
        storage.deallocate()
    }

    /// Whether nothing was collected.
    @inlinable public var isEmpty: Bool { byteCount == 0 }
    /// The bytes collected.
    @inlinable public var byteCount: Int { storage.pointee.scratchCount &+ storage.pointee.referredBytes }
    /// Room for copies that is left.
    @inlinable public var room: Int { storage.pointee.scratchCapacity &- storage.pointee.scratchCount }

    /// Writes at the end by way of a writer over the scratch that is left.
    /// - Returns: whether everything fitted; otherwise nothing was added.
    @inlinable public func write(_ body: (inout ByteWriter) -> Void) -> Bool {
        var writer = ByteWriter(base: storage.pointee.scratch + storage.pointee.scratchCount, capacity: room)
        body(&writer)
        if writer.isOverfull { return false }
        storage.pointee.scratchCount &+= writer.count
        return true
    }

    /// Appends content: copied if it is short, else referred to.
    /// - Returns: false if there is no room; then flush and append again.
    @inlinable public func append(_ bytes: UnsafePointer<UInt8>, count: Int) -> Bool {
        if count > Self.copiedBytesMax { return refer(to: bytes, count: count) }
        guard room >= count else { return false }
        UnsafeMutableRawPointer(storage.pointee.scratch + storage.pointee.scratchCount)
            .copyMemory(from: bytes, byteCount: count)
        storage.pointee.scratchCount &+= count
        return true
    }

    @usableFromInline func refer(to bytes: UnsafePointer<UInt8>, count: Int) -> Bool {
        // Room for the run before it, for itself, and for the run behind it.
        guard storage.pointee.pieceCount + 3 <= Self.piecesMax else { return false }
        closeRun()
        storage.pointee.pieces[storage.pointee.pieceCount] = iovec(
            iov_base: UnsafeMutableRawPointer(mutating: bytes), iov_len: count)
        storage.pointee.pieceCount += 1
        storage.pointee.referredBytes += count
        return true
    }

    private func closeRun() {
        let count = storage.pointee.scratchCount - storage.pointee.runStart
        guard count > 0 else { return }
        storage.pointee.pieces[storage.pointee.pieceCount] = iovec(
            iov_base: storage.pointee.scratch + storage.pointee.runStart, iov_len: count)
        storage.pointee.pieceCount += 1
        storage.pointee.runStart = storage.pointee.scratchCount
    }

    /// Writes everything in one call.
    public func send(to socket: Int32) -> TransferResult {
        if storage.pointee.pieceCount == 0 {
            return Socket.send(socket, storage.pointee.scratch, count: storage.pointee.scratchCount)
        }
        closeRun()
        return Socket.send(socket, storage.pointee.pieces, count: storage.pointee.pieceCount)
    }

    /// Calls `body` for each piece in order, as long as it answers true.
    /// - Returns: whether it always did.
    public func forEachPiece(_ body: (UnsafeBufferPointer<UInt8>) -> Bool) -> Bool {
        closeRun()
        for index in 0..<storage.pointee.pieceCount {
            let piece = storage.pointee.pieces[index]
            let bytes = UnsafeBufferPointer(
                start: piece.iov_base.map { UnsafePointer($0.assumingMemoryBound(to: UInt8.self)) },
                count: piece.iov_len)
            if !body(bytes) { return false }
        }
        return true
    }

    /// Copies everything but the first `skipped` bytes to a buffer.
    public func copy(skipping skipped: Int, to buffer: inout Buffer, of pool: BufferPool) {
        if storage.pointee.pieceCount == 0 {
            pool.append(
                UnsafeRawBufferPointer(
                    start: storage.pointee.scratch + skipped, count: storage.pointee.scratchCount - skipped),
                to: &buffer)
            return
        }
        closeRun()
        pool.reserve(byteCount - skipped, in: &buffer)
        var left = skipped
        for index in 0..<storage.pointee.pieceCount {
            let piece = storage.pointee.pieces[index]
            if left >= piece.iov_len {
                left -= piece.iov_len
                continue
            }
            pool.append(
                UnsafeRawBufferPointer(start: piece.iov_base + left, count: piece.iov_len - left), to: &buffer)
            left = 0
        }
    }

    /// Forgets everything.
    @inlinable public func clear() {
        storage.pointee.pieceCount = 0
        storage.pointee.scratchCount = 0
        storage.pointee.runStart = 0
        storage.pointee.referredBytes = 0
    }
}
