// A slab: elements in chunks that never move, reached by pointer within a turn and by a generation-checked token
// across turns. Freed slots are used again, last freed first. Belongs to one thread.

#if DEBUG
    import Glibc
#endif

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
        /// The newest generation of each chunk that was given back: what takes its place goes on from there.
        @usableFromInline var newestGenerations: UnsafeMutablePointer<UInt32>
        /// Stands for every chunk that was given back: nothing lives in it.
        @usableFromInline var vacantChunk: UnsafeMutablePointer<Slot>?
        @usableFromInline var vacantCount: Int
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
                chunks: .allocate(capacity: 8), chunkCount: 0, chunkCapacity: 8,
                newestGenerations: .allocate(capacity: 8), vacantChunk: nil, vacantCount: 0, firstFree: Self.none,
                liveCount: 0))
    }

    /// Frees the slab and all its memory; no pointer into it may be used any more.
    @inlinable public func destroy() {
        for index in 0..<storage.pointee.chunkCount
        where storage.pointee.chunks[index] != storage.pointee.vacantChunk {
            storage.pointee.chunks[index].deallocate()
        }
        storage.pointee.vacantChunk?.deallocate()
        storage.pointee.chunks.deallocate()
        storage.pointee.newestGenerations.deallocate()
        storage.deallocate()
    }

    /// The number of live elements.
    @inlinable public var count: Int { storage.pointee.liveCount }

    @inlinable func slot(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
        storage.pointee.chunks[Int(index >> Self.chunkShift)] + Int(index & (Self.slotsPerChunk - 1))
    }

    /// Slots that nothing lives in.
    public var freeCount: Int {
        (storage.pointee.chunkCount - storage.pointee.vacantCount) << Int(Self.chunkShift) - storage.pointee.liveCount
    }

    private static func makeChunk(generation: UInt32) -> UnsafeMutablePointer<Slot> {
        let chunk = UnsafeMutablePointer<Slot>.allocate(capacity: Int(slotsPerChunk))
        for offset in 0..<Int(slotsPerChunk) { chunk[offset].generation = generation }
        #if DEBUG
            for offset in 0..<Int(slotsPerChunk) { fill(place(of: chunk + offset)) }
        #endif
        return chunk
    }

    @usableFromInline func grow() {
        let index = placeForChunk()
        storage.pointee.chunks[index] = Self.makeChunk(generation: storage.pointee.newestGenerations[index])
        addFreeSlots(ofChunk: index)
    }

    /// The place of a chunk that was given back, or a new one.
    private func placeForChunk() -> Int {
        if storage.pointee.vacantCount > 0 {
            for index in 0..<storage.pointee.chunkCount
            where storage.pointee.chunks[index] == storage.pointee.vacantChunk {
                storage.pointee.vacantCount -= 1
                return index
            }
        }
        let count = storage.pointee.chunkCount
        if count == storage.pointee.chunkCapacity {
            storage.pointee.chunks = Self.doubled(storage.pointee.chunks, count: count)
            storage.pointee.newestGenerations = Self.doubled(storage.pointee.newestGenerations, count: count)
            storage.pointee.chunkCapacity *= 2
        }
        storage.pointee.newestGenerations[count] = 0
        storage.pointee.chunkCount += 1
        return count
    }

    private static func doubled<Value>(
        _ values: UnsafeMutablePointer<Value>, count: Int
    ) -> UnsafeMutablePointer<Value> {
        let larger = UnsafeMutablePointer<Value>.allocate(capacity: count * 2)
        larger.moveInitialize(from: values, count: count)
        values.deallocate()
        return larger
    }

    private func addFreeSlots(ofChunk index: Int) {
        let first = UInt32(index) << Self.chunkShift
        let chunk = storage.pointee.chunks[index]
        for offset in (0..<Self.slotsPerChunk).reversed()
        where chunk[Int(offset)].generation & Self.liveBit == 0 {
            chunk[Int(offset)].nextFree = storage.pointee.firstFree
            storage.pointee.firstFree = first + offset
        }
    }

    /// Gives the memory of all chunks back in which nothing lives. Takes a look at every slot.
    /// - Returns: whether there was any.
    @discardableResult
    public func shrink() -> Bool {
        let before = storage.pointee.vacantCount
        storage.pointee.firstFree = Self.none
        for index in (0..<storage.pointee.chunkCount).reversed() {
            let chunk = storage.pointee.chunks[index]
            if chunk == storage.pointee.vacantChunk { continue }
            var newest: UInt32 = 0
            var isVacant = true
            for offset in 0..<Int(Self.slotsPerChunk) {
                let generation = chunk[offset].generation
                newest = max(newest, generation)
                if generation & Self.liveBit != 0 { isVacant = false }
            }
            guard isVacant else {
                addFreeSlots(ofChunk: index)
                continue
            }
            let vacant = storage.pointee.vacantChunk ?? Self.makeChunk(generation: 0)
            storage.pointee.vacantChunk = vacant
            storage.pointee.newestGenerations[index] = newest
            storage.pointee.chunks[index] = vacant
            storage.pointee.vacantCount += 1
            chunk.deallocate()
        }
        return storage.pointee.vacantCount > before
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
        storage.pointee.liveCount &+= 1
        let generation = (slot.pointee.generation &+ 1) & Self.generationMask
        slot.pointee.generation = generation | Self.liveBit
        let place = Self.place(of: slot)
        #if DEBUG
            Self.checkUntouched(place)
        #endif
        let token = SlabToken(index: index, generation: generation)
        place.initialize(to: make(token))
        return (place, token)
    }

    @inlinable static func place(of slot: UnsafeMutablePointer<Slot>) -> UnsafeMutablePointer<Element> {
        // The offset is a constant of the layout; the compiler folds it.
        let offset = MemoryLayout<Slot>.offset(of: \Slot.element).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(slot) + offset).assumingMemoryBound(to: Element.self)
    }

    #if DEBUG
        // Memory of nobody is filled, so that who reads it finds no pointer, and who writes it is found out.

        @usableFromInline static func fill(_ place: UnsafeMutablePointer<Element>) {
            memset(place, 0xDD, MemoryLayout<Element>.size)
        }

        @usableFromInline static func checkUntouched(_ place: UnsafeMutablePointer<Element>) {
            let bytes = UnsafeRawBufferPointer(start: place, count: MemoryLayout<Element>.size)
            guard let base = bytes.baseAddress, bytes.count > 0 else { return }
            let isUntouched = bytes[0] == 0xDD && memcmp(base, base + 1, bytes.count - 1) == 0
            precondition(isUntouched, "an element was written to when it was free")
        }
    #endif

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
        #if DEBUG
            Self.fill(Self.place(of: slot))
        #endif
        slot.pointee.nextFree = storage.pointee.firstFree
        storage.pointee.firstFree = token.index
        storage.pointee.liveCount &-= 1
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
