// A slab: elements in chunks that never move, reached by pointer within a turn and by a generation-checked token
// across turns. Freed slots are used again, last freed first. Belongs to one thread.

/// Names a slot of a slab for as long as its element lives: a token of a freed element finds nothing.
@frozen public struct SlabToken: Equatable, Sendable {
    /// The slot.
    public var index: UInt32
    /// Which use of the slot is meant; 24 bits, so that a token fits a word beside a kind.
    public var generation: UInt32

    /// A token from its parts.
    @inlinable public init(index: UInt32, generation: UInt32) {
        self.index = index
        self.generation = generation
    }
}

/// A handle of a slab: copying it copies the reference, `destroy()` frees everything.
///
/// `Element` must be trivial: slots are reused without deinitialising what was there.
@frozen public struct Slab<Element> {
    @usableFromInline struct Slot {
        @usableFromInline var generation: UInt32
        @usableFromInline var nextFree: UInt32
        @usableFromInline var element: Element
    }

    @usableFromInline struct Storage {
        @usableFromInline var chunks: UnsafeMutablePointer<UnsafeMutablePointer<Slot>>
        @usableFromInline var chunkCount: Int
        @usableFromInline var chunkCapacity: Int
        @usableFromInline var firstFree: UInt32
        @usableFromInline var liveCount: Int
    }

    @inlinable static var chunkShift: UInt32 { 7 }
    @inlinable static var slotsPerChunk: UInt32 { 1 << chunkShift }
    @inlinable static var none: UInt32 { .max }
    @inlinable static var generationMask: UInt32 { 0xFF_FFFF }
    @inlinable static var liveBit: UInt32 { 1 << 31 }

    @usableFromInline let storage: UnsafeMutablePointer<Storage>

    /// An empty slab; memory is taken by the chunk as it grows.
    public init() {
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                chunks: .allocate(capacity: 8), chunkCount: 0, chunkCapacity: 8, firstFree: Self.none, liveCount: 0))
    }

    /// Frees the slab and all its memory; no pointer into it may be used any more.
    @inlinable public func destroy() {
        for index in 0..<storage.pointee.chunkCount { storage.pointee.chunks[index].deallocate() }
        storage.pointee.chunks.deallocate()
        storage.deallocate()
    }

    /// The number of live elements.
    @inlinable public var count: Int { storage.pointee.liveCount }

    @inlinable func slot(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
        storage.pointee.chunks[Int(index >> Self.chunkShift)] + Int(index & (Self.slotsPerChunk - 1))
    }

    @usableFromInline func grow() {
        if storage.pointee.chunkCount == storage.pointee.chunkCapacity {
            let larger = UnsafeMutablePointer<UnsafeMutablePointer<Slot>>.allocate(
                capacity: storage.pointee.chunkCapacity * 2)
            larger.moveInitialize(from: storage.pointee.chunks, count: storage.pointee.chunkCount)
            storage.pointee.chunks.deallocate()
            storage.pointee.chunks = larger
            storage.pointee.chunkCapacity *= 2
        }
        let first = UInt32(storage.pointee.chunkCount) << Self.chunkShift
        let chunk = UnsafeMutablePointer<Slot>.allocate(capacity: Int(Self.slotsPerChunk))
        storage.pointee.chunks[storage.pointee.chunkCount] = chunk
        storage.pointee.chunkCount += 1
        for offset in (0..<Self.slotsPerChunk).reversed() {
            chunk[Int(offset)].generation = 0
            chunk[Int(offset)].nextFree = storage.pointee.firstFree
            storage.pointee.firstFree = first + offset
        }
    }

    /// Takes a slot and puts `element` into it.
    /// - Returns: the element's place, which stays the same until `free`, and its token.
    @inlinable public func insert(_ element: Element) -> (place: UnsafeMutablePointer<Element>, token: SlabToken) {
        insert { _ in element }
    }

    /// Takes a slot and puts into it what `make` gives for the slot's token.
    /// - Returns: the element's place, which stays the same until `free`, and its token.
    @inlinable public func insert(
        _ make: (SlabToken) -> Element
    ) -> (place: UnsafeMutablePointer<Element>, token: SlabToken) {
        if storage.pointee.firstFree == Self.none { grow() }
        let index = storage.pointee.firstFree
        let slot = slot(index)
        storage.pointee.firstFree = slot.pointee.nextFree
        storage.pointee.liveCount += 1
        let generation = (slot.pointee.generation &+ 1) & Self.generationMask
        slot.pointee.generation = generation | Self.liveBit
        let place = Self.place(of: slot)
        let token = SlabToken(index: index, generation: generation)
        place.initialize(to: make(token))
        return (place, token)
    }

    @inlinable static func place(of slot: UnsafeMutablePointer<Slot>) -> UnsafeMutablePointer<Element> {
        // The offset is a constant of the layout; the compiler folds it.
        let offset = MemoryLayout<Slot>.offset(of: \Slot.element).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(slot) + offset).assumingMemoryBound(to: Element.self)
    }

    /// The element that a token names, or nil if it was freed since.
    @inlinable public func find(_ token: SlabToken) -> UnsafeMutablePointer<Element>? {
        guard Int(token.index >> Self.chunkShift) < storage.pointee.chunkCount else { return nil }
        let slot = slot(token.index)
        guard slot.pointee.generation == token.generation | Self.liveBit else { return nil }
        return Self.place(of: slot)
    }

    /// Frees a live element; its token finds nothing from now on.
    @inlinable public func free(_ token: SlabToken) {
        let slot = slot(token.index)
        precondition(slot.pointee.generation == token.generation | Self.liveBit, "freed twice")
        slot.pointee.generation = token.generation
        slot.pointee.nextFree = storage.pointee.firstFree
        storage.pointee.firstFree = token.index
        storage.pointee.liveCount -= 1
    }

    /// Calls `body` with each live element. Elements may be freed meanwhile; new ones may be missed.
    @inlinable public func forEach(_ body: (UnsafeMutablePointer<Element>) -> Void) {
        for chunk in 0..<storage.pointee.chunkCount {
            for offset in 0..<Int(Self.slotsPerChunk) {
                let slot = storage.pointee.chunks[chunk] + offset
                if slot.pointee.generation & Self.liveBit != 0 { body(Self.place(of: slot)) }
            }
        }
    }
}
