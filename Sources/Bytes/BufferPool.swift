// Buffers that a connection borrows while bytes wait in it: power-of-two classes, kept in free lists of one thread.
// An idle connection holds none.

#if DEBUG
    import Glibc
#endif

/// A borrowed block with a window of unread bytes in it. Trivial: the pool, not the value, owns the memory.
@frozen public struct Buffer {
    /// The block, or nil while nothing is borrowed.
    public var base: UnsafeMutablePointer<UInt8>?
    /// Where the unread bytes begin.
    public var start: UInt32
    /// Where they end.
    public var end: UInt32
    /// The size of the block in bytes; 0 while nothing is borrowed.
    public var capacity: UInt32

    /// A buffer that holds nothing and borrows nothing.
    @inlinable public init() {
        base = nil
        start = 0
        end = 0
        capacity = 0
    }

    /// The number of unread bytes.
    @inlinable public var count: Int { Int(end &- start) }
    /// Whether no byte waits.
    @inlinable public var isEmpty: Bool { start == end }
    /// The unread bytes; valid until the buffer is changed.
    @inlinable public var bytes: UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(start: base.map { UnsafePointer($0 + Int(start)) }, count: count)
    }
}

/// The pool. A handle: copying it copies the reference.
@frozen public struct BufferPool {
    /// The smallest block.
    public static var bytesMin: Int { 512 }
    /// The largest block that is kept for reuse; larger ones go back to the allocator at once.
    public static var bytesKeptMax: Int { 256 << 10 }

    @usableFromInline static var classCount: Int { (bytesKeptMax / bytesMin).trailingZeroBitCount + 1 }

    @usableFromInline struct Storage {
        @usableFromInline var free: UnsafeMutablePointer<UnsafeMutableRawPointer?>
        @usableFromInline var freeBytes: Int
        @usableFromInline var freeBytesMax: Int
        @usableFromInline var borrowedBytes: Int
        /// How much of that is no block.
        @usableFromInline var chargedBytes = 0
        /// The most that was borrowed at once since `forgetPeak`.
        @usableFromInline var peakBytes = 0
        /// What may be borrowed; `.max` is any number.
        @usableFromInline var bytesMax = Int.max
        /// What is read at once while there is plenty.
        @usableFromInline var plentyBytes = Int.max
        /// What should be read at once now.
        @usableFromInline var readBytesMax = Int.max
        /// From here on less is read at once, and below there more.
        @usableFromInline var tighterFrom = Int.max
        @usableFromInline var looserBelow = 0
    }

    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// An empty pool.
    /// - Parameter freeBytesMax: how much unused memory it keeps.
    public init(freeBytesMax: Int) {
        storage = .allocate(capacity: 1)
        let lists = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: Self.classCount)
        lists.initialize(repeating: nil, count: Self.classCount)
        storage.initialize(to: Storage(free: lists, freeBytes: 0, freeBytesMax: freeBytesMax, borrowedBytes: 0))
    }

    /// Frees the pool and what it keeps; every block must have been given back.
    public func destroy() {
        for index in 0..<Self.classCount {
            while let block = storage.pointee.free[index] {
                storage.pointee.free[index] = block.load(as: UnsafeMutableRawPointer?.self)
                block.deallocate()
            }
        }
        storage.pointee.free.deallocate()
        storage.deallocate()
    }

    /// Bytes that are borrowed now, and what is counted with them.
    @inlinable public var borrowedBytes: Int { storage.pointee.borrowedBytes }
    /// Bytes of blocks that are borrowed now.
    public var blockBytes: Int { storage.pointee.borrowedBytes - storage.pointee.chargedBytes }

    /// The most that was borrowed at once since `forgetPeak`.
    public var peakBytes: Int { storage.pointee.peakBytes }

    /// Begins a new peak.
    public func forgetPeak() { storage.pointee.peakBytes = storage.pointee.borrowedBytes }

    // MARK: The bound

    /// Bounds what is borrowed. Nobody is stopped in the middle: the nearer the bound, the less should be read at once
    /// (`readBytesMax`), and at the bound nothing new should begin (`isExhausted`). Who reads a piece, passes on what
    /// can be passed on and keeps the rest before it reads again can then have one small piece waiting at the most.
    /// - Parameters:
    ///   - bytes: the bound; `.max` is none.
    ///   - plentyBytes: what is read at once while less than half of it is borrowed.
    public func setBound(bytes: Int, plentyBytes: Int) {
        storage.pointee.bytesMax = bytes
        storage.pointee.plentyBytes = plentyBytes
        adjust()
    }

    /// What should be read at once now.
    @inlinable public var readBytesMax: Int { storage.pointee.readBytesMax }

    /// Whether nothing new should begin.
    @inlinable public var isExhausted: Bool { storage.pointee.borrowedBytes >= storage.pointee.bytesMax }

    /// Whether what would stay for long, as a TLS session does, should not begin: the rest is for those that are there.
    public var isScarce: Bool { storage.pointee.borrowedBytes >= storage.pointee.bytesMax / 4 * 3 }

    /// Pieces that fit into a block of 16 and of 4 KiB with a little around them.
    private static var pieceBytes: Int { 15 << 10 }
    private static var smallPieceBytes: Int { 7 << 9 }

    @usableFromInline func adjust() {
        let (borrowed, max, plenty) =
            (storage.pointee.borrowedBytes, storage.pointee.bytesMax, storage.pointee.plentyBytes)
        let (half, most) = (max / 2, max / 4 * 3)
        // What becomes free is used for a while before more is read at once again.
        switch borrowed {
        case ..<half:
            storage.pointee.readBytesMax = plenty
            (storage.pointee.tighterFrom, storage.pointee.looserBelow) = (half, 0)
        case ..<most:
            storage.pointee.readBytesMax = min(plenty, Self.pieceBytes)
            (storage.pointee.tighterFrom, storage.pointee.looserBelow) = (most, half / 8 * 7)
        default:
            storage.pointee.readBytesMax = min(plenty, Self.smallPieceBytes)
            (storage.pointee.tighterFrom, storage.pointee.looserBelow) = (.max, most / 8 * 7)
        }
    }

    /// Counts memory that is no block, as that of a TLS session, as borrowed.
    public func charge(_ bytes: Int) {
        storage.pointee.borrowedBytes += bytes
        storage.pointee.chargedBytes += bytes
        if storage.pointee.borrowedBytes >= storage.pointee.tighterFrom { adjust() }
    }

    /// That memory was given back.
    public func discharge(_ bytes: Int) {
        storage.pointee.borrowedBytes -= bytes
        storage.pointee.chargedBytes -= bytes
        if storage.pointee.borrowedBytes < storage.pointee.looserBelow { adjust() }
    }

    // MARK: Blocks

    @inlinable static func classIndex(of bytes: Int) -> Int {
        bytes <= bytesMin ? 0 : Int.bitWidth - (bytes - 1).leadingZeroBitCount - 9
    }

    @inlinable func take(_ bytes: Int) -> (base: UnsafeMutablePointer<UInt8>, capacity: UInt32) {
        let index = Self.classIndex(of: bytes)
        let capacity = Self.bytesMin << index
        storage.pointee.borrowedBytes += capacity
        if storage.pointee.borrowedBytes > storage.pointee.peakBytes {
            storage.pointee.peakBytes = storage.pointee.borrowedBytes
        }
        if storage.pointee.borrowedBytes >= storage.pointee.tighterFrom { adjust() }
        if index < Self.classCount, let block = storage.pointee.free[index] {
            storage.pointee.free[index] = block.load(as: UnsafeMutableRawPointer?.self)
            storage.pointee.freeBytes -= capacity
            #if DEBUG
                Self.checkUntouched(block, capacity)
            #endif
            return (block.assumingMemoryBound(to: UInt8.self), UInt32(capacity))
        }
        let block = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        return (block.assumingMemoryBound(to: UInt8.self), UInt32(capacity))
    }

    @inlinable func give(_ base: UnsafeMutablePointer<UInt8>, capacity: Int) {
        let index = Self.classIndex(of: capacity)
        storage.pointee.borrowedBytes -= capacity
        if storage.pointee.borrowedBytes < storage.pointee.looserBelow { adjust() }
        let block = UnsafeMutableRawPointer(base)
        #if DEBUG
            memset(block, 0xDD, capacity)
        #endif
        if index < Self.classCount, storage.pointee.freeBytes + capacity <= storage.pointee.freeBytesMax {
            block.storeBytes(of: storage.pointee.free[index], as: UnsafeMutableRawPointer?.self)
            storage.pointee.free[index] = block
            storage.pointee.freeBytes += capacity
        } else {
            block.deallocate()
        }
    }

    #if DEBUG
        /// What was given back is filled; see `Slab`. Its first word is the list's.
        @usableFromInline static func checkUntouched(_ block: UnsafeMutableRawPointer, _ capacity: Int) {
            let first = block + MemoryLayout<UnsafeMutableRawPointer?>.size
            let count = capacity - MemoryLayout<UnsafeMutableRawPointer?>.size
            let isUntouched = first.load(as: UInt8.self) == 0xDD && memcmp(first, first + 1, count - 1) == 0
            precondition(isUntouched, "a block was written to when nobody had it")
        }
    #endif

    /// Makes room for `bytes` more behind the unread ones: borrows, moves them to the front, or moves to a larger
    /// block, whichever is least. The caller states the bound; the pool has none.
    @inlinable public func reserve(_ bytes: Int, in buffer: inout Buffer) {
        guard let base = buffer.base else {
            let block = take(bytes)
            buffer.base = block.base
            buffer.capacity = block.capacity
            buffer.start = 0
            buffer.end = 0
            return
        }
        if Int(buffer.capacity) - Int(buffer.end) >= bytes { return }
        let count = buffer.count
        if Int(buffer.capacity) - count >= bytes {
            UnsafeMutableRawPointer(base).copyMemory(from: base + Int(buffer.start), byteCount: count)
        } else {
            let block = take(count + bytes)
            UnsafeMutableRawPointer(block.base).copyMemory(from: base + Int(buffer.start), byteCount: count)
            give(base, capacity: Int(buffer.capacity))
            buffer.base = block.base
            buffer.capacity = block.capacity
        }
        buffer.start = 0
        buffer.end = UInt32(count)
    }

    /// Appends bytes, which must not lie in the buffer itself.
    @inlinable public func append(_ bytes: UnsafeRawBufferPointer, to buffer: inout Buffer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        reserve(bytes.count, in: &buffer)
        UnsafeMutableRawPointer(buffer.base.unsafelyUnwrapped + Int(buffer.end))
            .copyMemory(from: source, byteCount: bytes.count)
        buffer.end += UInt32(bytes.count)
    }

    /// Takes `bytes` from the front; gives the block back when none is left.
    @inlinable public func consume(_ bytes: Int, of buffer: inout Buffer) {
        buffer.start += UInt32(bytes)
        if buffer.start == buffer.end { release(&buffer) }
    }

    /// Gives the block back, with whatever is in it.
    @inlinable @inline(__always) public func release(_ buffer: inout Buffer) {
        if buffer.base != nil { giveBack(&buffer) }
    }

    @usableFromInline func giveBack(_ buffer: inout Buffer) {
        guard let base = buffer.base else { return }
        give(base, capacity: Int(buffer.capacity))
        buffer = Buffer()
    }
}
