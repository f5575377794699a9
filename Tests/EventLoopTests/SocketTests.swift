// Sockets, the gather, the mailbox and epoll over a pair of sockets and over loopback. Nothing waits: what was sent
// to a local socket is there when the call returns.

import Bytes
import CLinux
import EventLoop
import Testing

/// Two sockets that are connected to each other.
final class SocketPair {
    let one: Int32
    let other: Int32

    init() throws {
        var sockets: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        try #require(socketpair(AF_UNIX, kind, 0, &sockets) == 0)
        one = sockets[0]
        other = sockets[1]
    }

    deinit {
        close(one)
        close(other)
    }

    /// All that waits at the other end.
    func received() -> [UInt8] {
        var bytes: [UInt8] = []
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 65536)
        defer { room.deallocate() }
        while case .bytes(let count) = Socket.receive(other, into: room, capacity: 65536) {
            bytes += UnsafeBufferPointer(start: room, count: count)
        }
        return bytes
    }
}

@Suite final class SocketTests {
    private let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 65536)

    deinit { room.deallocate() }

    @Test func resultsOfReadingAndWriting() throws {
        let pair = try SocketPair()
        guard case .wouldBlock = Socket.receive(pair.other, into: room, capacity: 16) else {
            Issue.record("nothing was there to read")
            return
        }
        #expect(!Socket.hasNews(pair.other))
        room[0] = 7
        guard case .bytes(1) = Socket.send(pair.one, room, count: 1) else {
            Issue.record("one byte fits")
            return
        }
        #expect(Socket.hasNews(pair.other))
        #expect(pair.received() == [7])
        #expect(!Socket.hasNews(pair.other))
        Socket.endSending(pair.one)
        #expect(Socket.hasNews(pair.other))
        guard case .ended = Socket.receive(pair.other, into: room, capacity: 16) else {
            Issue.record("the end was sent")
            return
        }
        // A send to a peer that is gone fails with a number and raises no signal.
        let lone = try SocketPair()
        shutdown(lone.other, Int32(SHUT_RDWR))
        guard case .failed(let number) = Socket.send(lone.one, room, count: 1) else {
            Issue.record("nobody can read that")
            return
        }
        #expect(number == EPIPE)
    }

    @Test func aFullSocketWouldBlock() throws {
        let pair = try SocketPair()
        room.initialize(repeating: 1, count: 65536)
        var sent = 0
        var isFull = false
        while !isFull, sent < 64 << 20 {
            switch Socket.send(pair.one, room, count: 65536) {
            case .bytes(let count): sent += count
            case .wouldBlock: isFull = true
            case .ended, .failed:
                Issue.record("the socket is whole")
                return
            }
        }
        #expect(isFull)
        #expect(pair.received().count == sent)
    }

    @Test(arguments: [
        (UInt64(0), UInt64(0xFFFF_7F00_0001), true), (0, 1, false),
    ])
    func loopback(_ high: UInt64, _ low: UInt64, _ isIPv4: Bool) throws {
        let any = SocketAddress(high: high, low: low, isIPv4: isIPv4, port: 0)
        guard let listener = try? Socket.bound(to: any, shared: false) else {
            // A machine may have no IPv6.
            try #require(!isIPv4)
            return
        }
        defer { Socket.close(listener) }
        try Socket.listen(listener, backlog: 4)
        guard case .nothingWaiting = Socket.accept(listener) else {
            Issue.record("nobody has connected")
            return
        }
        let address = try Socket.localAddress(of: listener)
        #expect(address.ip.high == high)
        #expect(address.ip.low == low)
        #expect(address.ip.port != 0)
        #expect(!address.isUnix)
        let client = try Socket.make(for: address)
        defer { Socket.close(client) }
        _ = try Socket.connect(client, to: address)
        // The kernel completes a handshake over loopback within the call.
        guard case .accepted(let server, let peer) = Socket.accept(listener) else {
            Issue.record("a connection waits")
            return
        }
        #expect(peer.ip.low == low)
        #expect(peer.ip.port == (try Socket.localAddress(of: client)).ip.port)
        #expect(Socket.takeError(client) == 0)
        // A reset is seen as a failure, not as an end.
        Socket.reset(server)
        guard case .failed(let number) = Socket.receive(client, into: room, capacity: 16) else {
            Issue.record("the connection was reset")
            return
        }
        #expect(number == ECONNRESET)
    }

    @Test func aPortInUseIsFoundOut() throws {
        let any = SocketAddress(high: 0, low: 0xFFFF_7F00_0001, isIPv4: true, port: 0)
        let first = try Socket.bound(to: any, shared: false)
        defer { Socket.close(first) }
        try Socket.listen(first, backlog: 1)
        let address = try Socket.localAddress(of: first)
        #expect(throws: SystemError("bind", number: EADDRINUSE)) { try Socket.bound(to: address, shared: true) }
    }

    @Test func pathsOfUnixSockets() throws {
        #expect(SocketAddress(path: String(repeating: "a", count: 108)) == nil)
        let longest = try #require(SocketAddress(path: String(repeating: "a", count: 107)))
        #expect(longest.isUnix)
        #expect(longest.ip.port == 0)
    }

    @Test func tokensOfReadiness() {
        let token = SlabToken(index: .max - 1, generation: 0xFF_FFFF)
        let readiness = ReadinessToken(kind: 255, token)
        #expect(readiness.kind == 255)
        #expect(readiness.slabToken == token)
        #expect(ReadinessToken(kind: 3, SlabToken(index: 1, generation: 2)).rawValue == 0x0300_0002_0000_0001)
    }

    @Test func readinessComesOnceForEachChange() throws {
        let pair = try SocketPair()
        let epoll = try Epoll(batchMax: 8)
        let token = ReadinessToken(kind: 2, SlabToken(index: 5, generation: 9))
        try epoll.addConnection(pair.other, token)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 1)
        #expect(epoll.event(0).token == token)
        #expect(epoll.event(0).readiness == .writable)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 0)
        room[0] = 1
        _ = Socket.send(pair.one, room, count: 1)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 1)
        #expect(epoll.event(0).readiness.contains(.readable))
        #expect(epoll.wait(timeoutMilliseconds: 0) == 0)
        Socket.endSending(pair.one)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 1)
        #expect(epoll.event(0).readiness.contains([.readable, .peerEnded]))
        epoll.remove(pair.other)
    }

    @Test func theMailboxRingsWhenItWasEmpty() throws {
        let mailbox = try Mailbox<Int>()
        let epoll = try Epoll(batchMax: 8)
        let token = ReadinessToken(kind: 1, SlabToken(index: 0, generation: 0))
        try epoll.addSource(mailbox.wakeUp.descriptor, token, exclusive: false)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 0)
        #expect(mailbox.takeAll() == [])
        for number in 1...3 { mailbox.post(number) }
        #expect(epoll.wait(timeoutMilliseconds: 0) == 1)
        #expect(mailbox.takeAll() == [1, 2, 3])
        #expect(epoll.wait(timeoutMilliseconds: 0) == 0)
        mailbox.post(4)
        #expect(epoll.wait(timeoutMilliseconds: 0) == 1)
        #expect(mailbox.takeAll() == [4])
    }

    @Test func messagesOfManyThreadsComeInTheOrderOfEach() async throws {
        let mailbox = try Mailbox<(sender: Int, number: Int)>()
        await withTaskGroup(of: Void.self) { group in
            for sender in 0..<4 {
                group.addTask { for number in 0..<1000 { mailbox.post((sender, number)) } }
            }
        }
        var next = [0, 0, 0, 0]
        for message in mailbox.takeAll() {
            #expect(next[message.sender] == message.number)
            next[message.sender] += 1
        }
        #expect(next == [1000, 1000, 1000, 1000])
    }
}
