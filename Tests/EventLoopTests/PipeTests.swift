// The pool of pipes over pairs of sockets: what goes in comes out once and in order, a pipe is held while bytes are
// in it and not longer, and where there is none the caller is told to copy.

import Bytes
import CLinux
import EventLoop
import TestSupport
import Testing

@Suite final class PipeTests {
    private let pool = PipePool(countMax: 2)
    private let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 1 << 20)

    deinit {
        pool.destroy()
        room.deallocate()
    }

    private func send(_ bytes: [UInt8], to pair: SocketPair) -> Int {
        room.update(from: bytes, count: bytes.count)
        guard case .bytes(let count) = Socket.send(pair.one, room, count: bytes.count) else { return 0 }
        return count
    }

    @Test func whatGoesInComesOutOnceAndInOrder() throws {
        let (source, destination) = (try SocketPair(), try SocketPair())
        var random = SeededGenerator(seed: 5)
        var piped = PipedBytes()
        for _ in 0..<200 {
            let bytes = (0..<Int.random(in: 1...20000, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            let sent = send(bytes, to: source)
            var received: [UInt8] = []
            while case .bytes(let count) = pool.receive(source.other, count: .max, into: &piped) {
                #expect(piped.count == count)
                #expect(pool.heldCount == 1)
                guard case .bytes(count) = pool.send(&piped, to: destination.one) else {
                    Issue.record("all of it fits")
                    return
                }
                #expect(piped.isEmpty)
                #expect(pool.heldCount == 0)
                received += destination.received()
            }
            #expect(received == Array(bytes[..<sent]))
        }
    }

    @Test func noMoreThanAskedForLeavesTheSource() throws {
        let (source, destination) = (try SocketPair(), try SocketPair())
        _ = send(Array("abcdef".utf8), to: source)
        var piped = PipedBytes()
        guard case .bytes(4) = pool.receive(source.other, count: 4, into: &piped) else {
            Issue.record("four bytes were asked for")
            return
        }
        _ = pool.send(&piped, to: destination.one)
        #expect(destination.received() == Array("abcd".utf8))
        guard case .bytes(2) = Socket.receive(source.other, into: room, capacity: 16) else {
            Issue.record("two bytes are left")
            return
        }
    }

    @Test func aFullDestinationLeavesTheRestInThePipe() throws {
        let (source, destination) = (try SocketPair(), try SocketPair())
        var expected: [UInt8] = []
        var received: [UInt8] = []
        var piped = PipedBytes()
        var value: UInt8 = 0
        var wasFull = false
        for _ in 0..<64 {
            value &+= 1
            let bytes = [UInt8](repeating: value, count: 16384)
            expected += bytes[..<send(bytes, to: source)]
            guard case .bytes = pool.receive(source.other, count: .max, into: &piped) else { break }
            switch pool.send(&piped, to: destination.one) {
            case .bytes where piped.isEmpty: continue
            case .bytes, .wouldBlock:
                wasFull = true
                #expect(pool.heldCount == 1)
                while !piped.isEmpty {
                    received += destination.received()
                    _ = pool.send(&piped, to: destination.one)
                }
            case .ended, .failed:
                Issue.record("the destination is there")
                return
            }
        }
        received += destination.received()
        #expect(wasFull)
        #expect(received == expected)
        #expect(pool.heldCount == 0)
    }

    @Test func endsAndNothing() throws {
        let source = try SocketPair()
        var piped = PipedBytes()
        guard case .wouldBlock = pool.receive(source.other, count: .max, into: &piped) else {
            Issue.record("nothing was sent")
            return
        }
        Socket.endSending(source.one)
        guard case .ended = pool.receive(source.other, count: .max, into: &piped) else {
            Issue.record("the peer has ended")
            return
        }
        #expect(piped.isEmpty)
        #expect(pool.heldCount == 0)
    }

    @Test func aBoundedNumberOfPipes() throws {
        let source = try SocketPair()
        _ = send(Array("abc".utf8), to: source)
        var held = [PipedBytes(), PipedBytes(), PipedBytes()]
        for index in 0..<2 {
            guard case .bytes(1) = pool.receive(source.other, count: 1, into: &held[index]) else {
                Issue.record("there are two pipes")
                return
            }
        }
        guard case .unavailable = pool.receive(source.other, count: 1, into: &held[2]) else {
            Issue.record("there is no third")
            return
        }
        pool.discard(&held[0])
        #expect(held[0].isEmpty)
        #expect(pool.heldCount == 1)
        guard case .bytes(1) = pool.receive(source.other, count: 1, into: &held[0]) else {
            Issue.record("one was given back")
            return
        }
        for index in 0..<2 { pool.discard(&held[index]) }
        #expect(pool.heldCount == 0)
    }

    @Test func aPipeCanBeReadOut() throws {
        let source = try SocketPair()
        let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let sent = send(bytes, to: source)
        var piped = PipedBytes()
        guard case .bytes(let count) = pool.receive(source.other, count: .max, into: &piped) else {
            Issue.record("bytes were sent")
            return
        }
        #expect(count <= sent)
        let buffers = BufferPool(freeBytesMax: 0)
        defer { buffers.destroy() }
        var buffer = Buffer()
        pool.copy(&piped, to: &buffer, of: buffers)
        #expect(Array(buffer.bytes) == Array(bytes[..<count]))
        #expect(pool.heldCount == 0)
        buffers.release(&buffer)
    }

    @Test func whatIsNoSocketForPipesIsTold() throws {
        var piped = PipedBytes()
        // A directory can be opened and not be spliced from.
        let folder = headfirst_open("/", O_RDONLY | O_CLOEXEC, 0)
        defer { close(folder) }
        switch pool.receive(folder, count: 1, into: &piped) {
        case .unsupported, .failed: break
        case .bytes, .wouldBlock, .ended, .unavailable: Issue.record("a folder has no bytes")
        }
        #expect(piped.isEmpty)
        #expect(pool.heldCount == 0)
    }
}
