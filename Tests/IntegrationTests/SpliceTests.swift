// Long content and tunnels in full flow go from socket to socket within the kernel: nothing of what holds for bytes
// that are copied may differ.

import Glibc
import Testing

/// A block whose length is a prime, so that no place of what is made of it looks like its neighbours.
private let block: [UInt8] = (0..<65_521).map { UInt8(truncatingIfNeeded: ($0 &* 0x9E37_79B1) >> 16) }

/// Bytes that tell their place.
private func coded(_ count: Int, seed: Int = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count)
    bytes += block[min(seed * 1009, block.count)...].prefix(count)
    while bytes.count < count { bytes += block.prefix(count - bytes.count) }
    return bytes
}

extension Command {
    /// Pipes that the process has open; two descriptors each.
    fileprivate var pipeDescriptorCount: Int {
        guard let listing = opendir("/proc/\(process)/fd") else { return 0 }
        defer { closedir(listing) }
        var count = 0
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var room = [CChar](repeating: 0, count: 64)
            let length = readlink("/proc/\(process)/fd/\(name)", &room, room.count)
            let link = room[..<max(0, length)].map { UInt8(bitPattern: $0) }
            if link.starts(with: Array("pipe:".utf8)) { count += 1 }
        }
        return count
    }
}

@Suite struct SpliceTests {
    private static let size = 3_000_001

    @Test func longContentPassesAndTheConnectionServesTheNext() throws {
        let origin = Origin.serving { wire, request in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(Self.size)"))
            try wire.send(coded(Self.size, seed: request.target.utf8.count))
        }
        let proxy = try Headfirst(to: origin)
        let pipesBefore = proxy.command.pipeDescriptorCount
        let client = try proxy.connect()
        for target in ["/", "/a", "/ab"] {
            try client.ask("GET \(target) HTTP/1.1")
            #expect(try client.response().content == coded(Self.size, seed: target.utf8.count))
        }
        #expect(origin.connectionCount == 1)
        // It was spliced: the pipes are kept for the next.
        #expect(proxy.command.pipeDescriptorCount > pipesBefore)
    }

    @Test func longUploadsPassAndTheConnectionServesTheNext() throws {
        let origin = Origin.serving { wire, request in
            let right = request.content == coded(Self.size, seed: request.target.utf8.count)
            try wire.ok(right ? "right" : "wrong")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        for target in ["/", "/a", "/ab"] {
            try client.ask("PUT \(target) HTTP/1.1", "Content-Length: \(Self.size)")
            try client.send(coded(Self.size, seed: target.utf8.count))
            #expect(try client.response().text == "right")
        }
        #expect(origin.connectionCount == 1)
    }

    @Test func surplusBehindLongContentReachesNobody() throws {
        let origin = Origin { wire, number in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(Self.size)"))
            try wire.send(coded(Self.size) + Array("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".utf8))
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.ask()
            #expect(try client.response().content == coded(Self.size))
        }
        #expect(origin.connectionCount == 2)
    }

    @Test(arguments: [false, true])
    func aServerThatGivesUpIsSeen(byReset: Bool) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(Self.size)"))
            try wire.send(coded(1_000_000))
            _ = wire.isSilent(milliseconds: 100)
            if byReset { wire.reset() }
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        _ = try client.head()
        let got = client.drain()
        #expect(got.bytes == coded(1_000_000))
        #expect(got.end != .late)
    }

    @Test func aStalledClientHoldsOnePipeAndGetsAllOfIt() throws {
        let origin = Origin.serving { wire, _ in
            wire.patienceMilliseconds = 20_000
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(30_000_000)"))
            try wire.send(coded(30_000_000))
        }
        let proxy = try Headfirst(to: origin)
        let before = proxy.command.residentKibibytes
        let pipesBefore = proxy.command.pipeDescriptorCount
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        _ = try client.head()
        let deadline = Now.milliseconds + 4000
        while proxy.command.pipeDescriptorCount == pipesBefore, Now.milliseconds < deadline { usleep(10_000) }
        #expect(proxy.command.pipeDescriptorCount == pipesBefore + 2)
        #expect(proxy.command.residentKibibytes - before < 1024)
        client.patienceMilliseconds = 20_000
        #expect(try client.exactly(30_000_000) == coded(30_000_000))
    }

    @Test func aClosedConnectionClosesThePipeThatHeldItsBytes() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(30_000_000)"))
            try wire.send(coded(30_000_000))
        }
        let proxy = try Headfirst(to: origin)
        let pipesBefore = proxy.command.pipeDescriptorCount
        for _ in 0..<20 {
            let client = try proxy.connect(receiveBuffer: 4096)
            try client.ask()
            _ = try client.head()
            _ = client.isSilent(milliseconds: 20)
            client.reset()
        }
        let deadline = Now.milliseconds + 4000
        while proxy.command.pipeDescriptorCount > pipesBefore + 2, Now.milliseconds < deadline { usleep(10_000) }
        #expect(proxy.command.pipeDescriptorCount <= pipesBefore + 2)
    }

    @Test func toHTTP10WhatEndsWithTheConnectionPasses() throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Connection: close"))
            try wire.send(coded(Self.size))
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.send("GET / HTTP/1.0\r\n\r\n")
        _ = try client.head()
        let got = client.drain()
        #expect(got.bytes == coded(Self.size))
        #expect(got.end == .ended)
    }

    @Test func aTunnelInFullFlowPassesBothWaysAtOnce() throws {
        let origin = Origin { wire, _ in
            wire.patienceMilliseconds = 20_000
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 101 S", "Connection: Upgrade", "Upgrade: x"))
            // What comes goes back; what was sent at the end comes before the end.
            while true {
                try wire.pull()
                try wire.send(wire.take(wire.buffer.count))
            }
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        client.patienceMilliseconds = 20_000
        try client.send(head("GET / HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: x"))
        _ = try client.head()
        let bytes = coded(8_000_000)
        var sent = 0
        while sent < bytes.count {
            let piece = min(400_000, bytes.count - sent)
            sent += try client.sendSome(Array(bytes[sent..<(sent + piece)]), stallMilliseconds: 20)
            while client.receivedCount < sent - 2_000_000 { try client.pull() }
        }
        // Small pieces among the large ones stay in order.
        try client.send("end")
        #expect(try client.exactly(bytes.count) == bytes)
        #expect(try client.exactly(3) == Array("end".utf8))
    }

    @Test func whatATunnelStillHoldsIsDeliveredBeforeAReset() throws {
        let origin = Origin { wire, _ in
            wire.patienceMilliseconds = 20_000
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 101 S", "Connection: Upgrade", "Upgrade: x"))
            _ = try wire.sendSome(coded(30_000_000), stallMilliseconds: 300)
            wire.reset()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect(receiveBuffer: 65536)
        try client.send(head("GET / HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: x"))
        _ = try client.head()
        _ = client.isSilent(milliseconds: 700)
        let got = client.drain(milliseconds: 20_000)
        #expect(got.bytes == Array(coded(30_000_000)[..<got.bytes.count]))
        #expect(got.end == .reset)
    }

    @Test func aLargeChunkToHTTP10IsNoSizedContent() throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            try wire.send("\(String(Self.size, radix: 16))\r\n")
            try wire.send(coded(Self.size))
            try wire.send("\r\n4\r\ntail\r\n0\r\n\r\n")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.send("GET / HTTP/1.0\r\n\r\n")
        _ = try client.head()
        let got = client.drain()
        #expect(got.bytes == coded(Self.size) + Array("tail".utf8))
        #expect(got.end == .ended)
    }

    @Test func anAnswerRunsOutUnreadBehindAClientThatIsGone() throws {
        let over = Handoff<Bool>()
        let origin = Origin { wire, _ in
            wire.patienceMilliseconds = 20_000
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(30_000_000)"))
            over.give((try? wire.send(coded(30_000_000))) != nil)
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin, route: "on_client_close finish;")
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        _ = try client.head()
        _ = client.isSilent(milliseconds: 200)
        client.reset()
        #expect(try over.take())
    }

    @Test func whatLiesBehindAnUrgentByteIsNotLost() throws {
        let got = Handoff<[UInt8]>()
        let origin = Origin { wire, _ in
            wire.patienceMilliseconds = 20_000
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 101 S", "Connection: Upgrade", "Upgrade: x"))
            got.give(wire.drain().bytes)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        client.patienceMilliseconds = 20_000
        try client.send(head("GET / HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: x"))
        _ = try client.head()
        try client.send(coded(4_000_000))
        var urgent: UInt8 = 0x21
        #expect(send(client.descriptor, &urgent, 1, Int32(MSG_OOB)) == 1)
        try client.send(coded(300_000, seed: 3))
        client.endSending()
        // The urgent byte itself is not a part of the stream.
        #expect(try got.take() == coded(4_000_000) + coded(300_000, seed: 3))
    }
}
