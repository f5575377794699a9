// What one turn writes leaves in order, in one call, copied or referred to.

import Bytes
import CLinux
import EventLoop
import TestSupport
import Testing

@Suite struct GatherTests {
    /// The bytes that a gather would send.
    private func bytes(_ gather: Gather, skipping skipped: Int = 0) -> [UInt8] {
        let pool = BufferPool(freeBytesMax: 0)
        defer { pool.destroy() }
        var buffer = Buffer()
        gather.copy(skipping: skipped, to: &buffer, of: pool)
        defer { pool.release(&buffer) }
        return Array(buffer.bytes)
    }

    @Test func everyPrefixCanBeSkipped() {
        let gather = Gather(scratchCapacity: 16384)
        defer { gather.destroy() }
        let large = [UInt8]((0..<5000).map { UInt8(truncatingIfNeeded: $0) })
        large.withUnsafeBufferPointer { source in
            guard let base = source.baseAddress else { return }
            #expect(gather.write { $0.append("head") })
            #expect(gather.append(base, count: 5000))
            #expect(gather.append(base, count: 10))
            #expect(gather.write { $0.append("end") })
            #expect(gather.append(base, count: 4097))
            let expected = Array("head".utf8) + large + large[0..<10] + Array("end".utf8) + large[0..<4097]
            #expect(gather.byteCount == expected.count)
            #expect(gather.room == 16384 - 17)
            for skipped in [0, 1, 3, 4, 5, 5003, 5004, 5010, 5014, 5017, 5018, expected.count - 1] {
                #expect(bytes(gather, skipping: skipped) == Array(expected[skipped...]))
            }
        }
        gather.clear()
        #expect(gather.isEmpty)
        #expect(gather.room == 16384)
    }

    @Test func nothingLeftBorrowsNothing() {
        let gather = Gather(scratchCapacity: 64)
        defer { gather.destroy() }
        let pool = BufferPool(freeBytesMax: 0)
        defer { pool.destroy() }
        var buffer = Buffer()
        #expect(gather.write { $0.append("sent") })
        gather.copy(skipping: 4, to: &buffer, of: pool)
        #expect(pool.borrowedBytes == 0)
    }

    @Test func whatDoesNotFitIsNotAdded() {
        let gather = Gather(scratchCapacity: 8)
        defer { gather.destroy() }
        #expect(gather.write { $0.append("12345") })
        #expect(!gather.write { $0.append("6789") })
        #expect(gather.write { _ in })
        var more = Array("678".utf8)
        #expect(gather.append(&more, count: 3))
        #expect(!gather.append(&more, count: 1))
        #expect(bytes(gather) == Array("12345678".utf8))
    }

    @Test func piecesAreBounded() throws {
        let gather = Gather(scratchCapacity: 4096)
        defer { gather.destroy() }
        let large = [UInt8](repeating: 7, count: 4097)
        var count = 0
        var isFull = false
        while !isFull, count < 200 {
            isFull = large.withUnsafeBufferPointer { source in
                guard let base = source.baseAddress else { return false }
                return !gather.append(base, count: 4097)
            }
            // Between large pieces small ones, so that none joins another.
            if !isFull {
                count += 1
                #expect(gather.write { $0.append("x") })
            }
        }
        #expect(isFull)
        #expect(gather.write { $0.append("end") })
        #expect(gather.write { $0.append("end") })
        #expect(gather.byteCount == count * 4098 + 6)
        // All of it fits one call.
        var sockets: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0, &sockets) == 0)
        defer {
            close(sockets[0])
            close(sockets[1])
        }
        guard case .bytes(let sent) = gather.send(to: sockets[0]) else {
            Issue.record("nothing was sent")
            return
        }
        #expect(sent == gather.byteCount)
    }

    @Test func likeOneArray() {
        var random = SeededGenerator(seed: 21)
        let gather = Gather(scratchCapacity: 20_000)
        defer { gather.destroy() }
        let source = [UInt8]((0..<10_000).map { _ in UInt8.random(in: 0...255, using: &random) })
        source.withUnsafeBufferPointer { source in
            guard let base = source.baseAddress else { return }
            for _ in 0..<300 {
                var expected: [UInt8] = []
                for _ in 0..<Int.random(in: 0...90, using: &random) {
                    let isLarge = Int.random(in: 0..<3, using: &random) == 0
                    let count = Int.random(in: isLarge ? 4097...9000 : 1...400, using: &random)
                    let start = Int.random(in: 0..<(10_000 - count), using: &random)
                    let isAdded =
                        Bool.random(using: &random)
                        ? gather.append(base + start, count: count)
                        : count <= 400 && gather.write { $0.append(base + start, count: count) }
                    if isAdded { expected += source[start..<(start + count)] }
                }
                guard bytes(gather) == expected, gather.byteCount == expected.count else {
                    Issue.record("bytes differ")
                    return
                }
                gather.clear()
            }
        }
    }
}
