// What one turn writes to one connection: small pieces are copied together, large ones are referred to, and all of
// it leaves in one call. References are valid until the next read into the worker's scratch, so a gather is always
// flushed before that.

import Bytes
import CLinux

/// Collects the bytes of one turn for one connection. A handle: copying it copies the reference. One thread.
@frozen public struct Gather {
    @usableFromInline struct Storage {
        @usableFromInline var pieces: UnsafeMutablePointer<iovec>
        @usableFromInline var pieceCount: Int
        @usableFromInline var scratch: UnsafeMutablePointer<UInt8>
        @usableFromInline var scratchCount: Int
        @usableFromInline var byteCount: Int
        @usableFromInline var lastIsScratch: Bool
    }

    @inlinable static var piecesMax: Int { 64 }
    /// Pieces up to this length are copied.
    @inlinable public static var copiedBytesMax: Int { 4096 }

    @usableFromInline let storage: UnsafeMutablePointer<Storage>
    @usableFromInline let scratchCapacity: Int

    /// An empty gather.
    /// - Parameter scratchCapacity: how many bytes may be copied in one turn.
    public init(scratchCapacity: Int) {
        self.scratchCapacity = scratchCapacity
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                pieces: .allocate(capacity: Self.piecesMax), pieceCount: 0,
                scratch: .allocate(capacity: scratchCapacity),
                scratchCount: 0, byteCount: 0, lastIsScratch: false))
    }

    /// Frees its memory.
    public func destroy() {
        storage.pointee.pieces.deallocate()
        storage.pointee.scratch.deallocate()
        storage.deallocate()
    }

    /// Whether nothing was collected.
    @inlinable public var isEmpty: Bool { storage.pointee.byteCount == 0 }
    /// The bytes collected.
    @inlinable public var byteCount: Int { storage.pointee.byteCount }
    /// Room for copies that is left.
    @inlinable public var room: Int { scratchCapacity - storage.pointee.scratchCount }

    /// Writes at the end by way of a writer over the scratch that is left.
    /// - Returns: whether everything fitted; otherwise nothing was added.
    @inlinable public func write(_ body: (inout ByteWriter) -> Void) -> Bool {
        var writer = ByteWriter(
            base: storage.pointee.scratch + storage.pointee.scratchCount,
            capacity: scratchCapacity - storage.pointee.scratchCount)
        body(&writer)
        if writer.isOverfull { return false }
        didWrite(writer.count)
        return true
    }

    /// Accounts for bytes that were put behind the scratch's end.
    @inlinable func didWrite(_ count: Int) {
        guard count > 0 else { return }
        if storage.pointee.lastIsScratch {
            storage.pointee.pieces[storage.pointee.pieceCount - 1].iov_len += count
        } else {
            storage.pointee.pieces[storage.pointee.pieceCount] = iovec(
                iov_base: storage.pointee.scratch + storage.pointee.scratchCount, iov_len: count)
            storage.pointee.pieceCount += 1
            storage.pointee.lastIsScratch = true
        }
        storage.pointee.scratchCount += count
        storage.pointee.byteCount += count
    }

    /// Appends content: copied if it is short, else referred to.
    /// - Returns: false if there is no room; then flush and append again.
    public func append(_ bytes: UnsafePointer<UInt8>, count: Int) -> Bool {
        guard storage.pointee.pieceCount + 2 <= Self.piecesMax else { return false }
        if count <= Self.copiedBytesMax {
            guard room >= count else { return false }
            UnsafeMutableRawPointer(storage.pointee.scratch + storage.pointee.scratchCount)
                .copyMemory(from: bytes, byteCount: count)
            didWrite(count)
            return true
        }
        storage.pointee.pieces[storage.pointee.pieceCount] = iovec(
            iov_base: UnsafeMutableRawPointer(mutating: bytes), iov_len: count)
        storage.pointee.pieceCount += 1
        storage.pointee.lastIsScratch = false
        storage.pointee.byteCount += count
        return true
    }

    /// Writes everything in one call.
    public func send(to socket: Int32) -> TransferResult {
        if storage.pointee.pieceCount == 1 {
            let piece = storage.pointee.pieces[0]
            return Socket.send(
                socket, piece.iov_base.assumingMemoryBound(to: UInt8.self), count: piece.iov_len)
        }
        return Socket.send(socket, storage.pointee.pieces, count: storage.pointee.pieceCount)
    }

    /// Copies everything but the first `skipped` bytes to a buffer.
    public func copy(skipping skipped: Int, to buffer: inout Buffer, of pool: BufferPool) {
        if skipped == storage.pointee.byteCount { return }
        pool.reserve(storage.pointee.byteCount - skipped, in: &buffer)
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
        storage.pointee.byteCount = 0
        storage.pointee.lastIsScratch = false
    }
}
