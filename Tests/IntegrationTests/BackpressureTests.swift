// Rule 5: what one side does not take is not read from the other, and costs no memory.

import Testing

@Suite(.serialized) struct BackpressureTests {
    private static let mebibyte = [UInt8](repeating: 0x78, count: 1 << 20)

    @Test func aClientThatReadsNothingStopsTheServer() throws {
        let sent = Handoff<Int>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(64 << 20)"))
            var count = 0
            while count < 64 << 20 {
                let piece = try wire.sendSome(Self.mebibyte, stallMilliseconds: 300)
                count += piece
                if piece < Self.mebibyte.count { break }
            }
            sent.give(count)
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let before = proxy.command.residentKibibytes
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        // The kernel's buffers take some MiB; the rest must have stayed where it was.
        #expect(try sent.take() < 24 << 20)
        #expect(proxy.command.residentKibibytes - before < 1024)
    }

    @Test func aServerThatReadsNothingStopsTheClient() throws {
        let go = Handoff<Void>()
        let origin = Origin(receiveBuffer: 4096) { wire, _ in
            var request = try wire.head()
            try go.take()
            request.content = try wire.exactly(32 << 20)
            try wire.ok("\(request.content.count)")
        }
        let proxy = try Headfirst(to: origin)
        let before = proxy.command.residentKibibytes
        let client = try proxy.connect()
        try client.ask("PUT / HTTP/1.1", "Content-Length: \(32 << 20)")
        var sent = 0
        while sent < 32 << 20 {
            let count = try client.sendSome(Self.mebibyte, stallMilliseconds: 300)
            sent += count
            if count < Self.mebibyte.count { break }
        }
        #expect(sent < 24 << 20)
        #expect(proxy.command.residentKibibytes - before < 1024)
        go.give()
        try client.send([UInt8](repeating: 0x78, count: (32 << 20) - sent))
        #expect(try client.response().text == "\(32 << 20)")
    }

    @Test func manyClientsThatReadNothingCostLittle() throws {
        let stalled = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Connection: close"))
            while try wire.sendSome(Self.mebibyte, stallMilliseconds: 300) == Self.mebibyte.count {}
            stalled.give()
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let before = proxy.command.residentKibibytes
        let clients = try (0..<20).map { _ in try proxy.connect(receiveBuffer: 4096) }
        for client in clients { try client.ask() }
        for _ in clients { try stalled.take(milliseconds: 10_000) }
        #expect(proxy.command.residentKibibytes - before < 8 << 10)
    }

    @Test func aPausedStreamGoesOnWhereItStopped() throws {
        let size = 16 << 20
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(size)"))
            for number in 0..<(size / 16) { if number % 4096 == 0 { try wire.send(Self.pattern(from: number)) } }
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect(receiveBuffer: 16 << 10)
        try client.ask()
        _ = try client.head()
        for number in stride(from: 0, to: size / 16, by: 4096) {
            guard try client.exactly(4096 * 16) == Self.pattern(from: number) else {
                Issue.record("bytes from \(number * 16) on are not what was sent")
                return
            }
        }
    }

    /// 64 KiB that no other place of the stream has.
    private static func pattern(from number: Int) -> [UInt8] {
        (number..<(number + 4096)).flatMap { value in
            (0..<16).map { UInt8(truncatingIfNeeded: (value &* 2_654_435_761) >> ($0 * 2)) }
        }
    }
}
