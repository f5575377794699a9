// Buffers keep their bytes in order, and the pool knows at every moment what it has lent.

import Bytes
import TestSupport
import Testing

@Suite struct BufferPoolTests {
    private func append(_ bytes: [UInt8], to buffer: inout Buffer, of pool: BufferPool) {
        bytes.withUnsafeBytes { pool.append($0, to: &buffer) }
    }

    @Test func nothingIsBorrowedWithoutBytes() {
        let pool = BufferPool(freeBytesMax: 1 << 20)
        defer { pool.destroy() }
        var buffer = Buffer()
        append([], to: &buffer, of: pool)
        #expect(buffer.isEmpty)
        #expect(buffer.base == nil)
        #expect(pool.borrowedBytes == 0)
        #expect(buffer.bytes.count == 0)
        pool.release(&buffer)
        #expect(pool.borrowedBytes == 0)
    }

    @Test(arguments: [
        (1, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 2048), (65_536, 65_536), (65_537, 131_072),
        (262_144, 262_144), (262_145, 524_288), (1 << 20, 1 << 20),
    ])
    func classes(_ bytes: Int, _ capacity: Int) {
        let pool = BufferPool(freeBytesMax: 1 << 20)
        defer { pool.destroy() }
        var buffer = Buffer()
        pool.reserve(bytes, in: &buffer)
        #expect(buffer.capacity == UInt32(capacity))
        #expect(pool.borrowedBytes == capacity)
        pool.release(&buffer)
        #expect(pool.borrowedBytes == 0)
        #expect(buffer.base == nil)
        #expect(buffer.capacity == 0)
    }

    @Test func consumedToTheEndGivesTheBlockBack() {
        let pool = BufferPool(freeBytesMax: 1 << 20)
        defer { pool.destroy() }
        var buffer = Buffer()
        append(Array("hello".utf8), to: &buffer, of: pool)
        pool.consume(4, of: &buffer)
        #expect(Array(buffer.bytes) == Array("o".utf8))
        #expect(pool.borrowedBytes == 512)
        pool.consume(1, of: &buffer)
        #expect(buffer.base == nil)
        #expect(pool.borrowedBytes == 0)
    }

    @Test func reserveTakesTheLeastWay() throws {
        let pool = BufferPool(freeBytesMax: 1 << 20)
        defer { pool.destroy() }
        var buffer = Buffer()
        append([UInt8](repeating: 1, count: 400), to: &buffer, of: pool)
        let base = try #require(buffer.base)
        pool.reserve(112, in: &buffer)
        #expect(buffer.base == base)
        #expect(buffer.start == 0)
        // Room at the front is used before a larger block is taken.
        pool.consume(300, of: &buffer)
        pool.reserve(412, in: &buffer)
        #expect(buffer.base == base)
        #expect(buffer.start == 0)
        #expect(buffer.count == 100)
        pool.reserve(413, in: &buffer)
        #expect(buffer.base != base)
        #expect(buffer.capacity == 1024)
        #expect(Array(buffer.bytes) == [UInt8](repeating: 1, count: 100))
        #expect(pool.borrowedBytes == 1024)
        pool.release(&buffer)
    }

    @Test func blocksAreUsedAgain() throws {
        let pool = BufferPool(freeBytesMax: 1024)
        defer { pool.destroy() }
        var one = Buffer()
        var two = Buffer()
        pool.reserve(512, in: &one)
        pool.reserve(512, in: &two)
        let first = try #require(one.base)
        let second = try #require(two.base)
        pool.release(&one)
        pool.release(&two)
        var three = Buffer()
        var four = Buffer()
        pool.reserve(1, in: &three)
        pool.reserve(1, in: &four)
        // Last freed, first used.
        #expect(three.base == second)
        #expect(four.base == first)
        pool.release(&three)
        pool.release(&four)
    }

    @Test func likeAQueueOfBytes() {
        let pool = BufferPool(freeBytesMax: 8192)
        defer { pool.destroy() }
        var random = SeededGenerator(seed: 7)
        var buffers = [Buffer](repeating: Buffer(), count: 8)
        var models = [[UInt8]](repeating: [], count: 8)
        var byte: UInt8 = 0
        for _ in 0..<20_000 {
            let index = Int.random(in: 0..<8, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<5:
                let bytes = (0..<Int.random(in: 0...700, using: &random)).map { _ -> UInt8 in
                    byte &+= 1
                    return byte
                }
                append(bytes, to: &buffers[index], of: pool)
                models[index] += bytes
            case 5..<9:
                guard !models[index].isEmpty else { continue }
                let count = Int.random(in: 1...models[index].count, using: &random)
                pool.consume(count, of: &buffers[index])
                models[index].removeFirst(count)
            default:
                pool.release(&buffers[index])
                models[index] = []
            }
            guard buffers[index].bytes.elementsEqual(models[index]) else {
                Issue.record("bytes differ")
                return
            }
            if models[index].isEmpty { #expect(buffers[index].base == nil) }
            let borrowed = buffers.reduce(0) { $0 + Int($1.capacity) }
            if pool.borrowedBytes != borrowed {
                Issue.record("\(pool.borrowedBytes) bytes borrowed, not \(borrowed)")
                return
            }
        }
        for index in buffers.indices { pool.release(&buffers[index]) }
        #expect(pool.borrowedBytes == 0)
    }

    #if DEBUG
        @Test func aWriteToABlockThatWasGivenBackIsFound() async {
            await #expect(processExitsWith: .failure) {
                let pool = BufferPool(freeBytesMax: 1 << 20)
                var buffer = Buffer()
                pool.reserve(100, in: &buffer)
                let base = buffer.base
                pool.release(&buffer)
                base?[50] = 1
                pool.reserve(100, in: &buffer)
            }
        }
    #endif
}

@Suite struct BufferBoundTests {
    private static let bound = 1 << 20
    private static let plenty = 64 << 10

    private func pool() -> BufferPool {
        let pool = BufferPool(freeBytesMax: 0)
        pool.setBound(bytes: Self.bound, plentyBytes: Self.plenty)
        return pool
    }

    /// The nearer the bound, the less is read at once; what becomes free makes it more again, but not at the same place.
    @Test func lessIsReadNearTheBound() {
        let pool = pool()
        defer { pool.destroy() }
        #expect(pool.readBytesMax == Self.plenty)
        pool.charge(Self.bound / 2 - 1)
        #expect(pool.blockBytes == 0)
        #expect(pool.readBytesMax == Self.plenty)
        pool.charge(1)
        #expect(pool.readBytesMax == 15 << 10)
        pool.charge(Self.bound / 4)
        #expect(pool.readBytesMax == 7 << 9)
        #expect(!pool.isExhausted)
        pool.charge(Self.bound / 4)
        #expect(pool.isExhausted)
        #expect(pool.readBytesMax == 7 << 9)
        pool.discharge(Self.bound / 4)
        #expect(!pool.isExhausted)
        #expect(pool.readBytesMax == 7 << 9)
        pool.discharge(Self.bound / 4 * 3 / 8 + 1)
        #expect(pool.readBytesMax == 15 << 10)
        pool.discharge(Self.bound / 4)
        #expect(pool.readBytesMax == Self.plenty)
        pool.discharge(pool.borrowedBytes)
    }

    @Test func blocksCount() {
        let pool = pool()
        defer { pool.destroy() }
        var buffers = (0..<8).map { _ in Buffer() }
        for index in buffers.indices { pool.reserve(64 << 10, in: &buffers[index]) }
        #expect(pool.borrowedBytes == Self.bound / 2)
        #expect(pool.readBytesMax == 15 << 10)
        for index in buffers.indices { pool.release(&buffers[index]) }
        #expect(pool.readBytesMax == Self.plenty)
    }

    /// Who has one piece waiting at the most: however many there are, the bound is hardly passed.
    @Test func manySlowOnesShareWhatThereIs() {
        let pool = pool()
        defer { pool.destroy() }
        var buffers: [Buffer] = []
        while !pool.isExhausted {
            var buffer = Buffer()
            pool.reserve(pool.readBytesMax, in: &buffer)
            buffers.append(buffer)
        }
        #expect(buffers.count > 80)
        #expect(pool.borrowedBytes <= Self.bound + (4 << 10))
        for index in buffers.indices { pool.release(&buffers[index]) }
    }

    @Test func withoutABoundThereIsPlenty() {
        let pool = BufferPool(freeBytesMax: 0)
        defer { pool.destroy() }
        pool.setBound(bytes: .max, plentyBytes: Self.plenty)
        pool.charge(1 << 40)
        #expect(pool.readBytesMax == Self.plenty)
        #expect(!pool.isExhausted)
        // A reload bounds it, and frees it again.
        pool.setBound(bytes: Self.bound, plentyBytes: Self.plenty)
        #expect(pool.isExhausted)
        pool.setBound(bytes: .max, plentyBytes: 4096)
        #expect(pool.readBytesMax == 4096)
        pool.discharge(1 << 40)
    }
}
