// Running out: descriptors, and what a process keeps after it was busy.

import Glibc
import Testing

@Suite(.serialized) struct ResourceTests {
    @Test func descriptorExhaustionPausesAcceptingAndRecovers() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; max_connections 1000;
                listener main { bind 127.0.0.1:0; route / { respond 200 ok; } }
                """, limit: "ulimit -n 40")
        var clients = try (0..<60).map { _ in try proxy.connect() }
        try #require(try !proxy.errorLog.line(with: "taking no new connections").isEmpty)
        // Who is in is served.
        try clients[0].ask()
        #expect(try clients[0].response().text == "ok")
        // Who waits is let in as soon as others leave.
        let last = clients[59]
        try last.ask()
        clients.removeFirst(50)
        #expect(try last.response().text == "ok")
        #expect(proxy.errorLog.text.count { $0 == "\n" } < 20)
    }

    /// Without a bound of their own, clients get half of the descriptors, so that each can have a server's connection.
    @Test func clientsLeaveRoomForTheirServers() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin, limit: "ulimit -n 64")
        var waiting = try (0..<100).map { _ in try proxy.connect() }
        for client in waiting { try client.ask() }
        while !waiting.isEmpty {
            let client = waiting.removeFirst()
            #expect(try client.response().status == 200)
        }
    }

    @Test func aServerThatCannotBeConnectedToForLackOfDescriptorsIs503() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin, top: "max_connections 1000;", limit: "ulimit -n 32")
        var clients = try (0..<40).map { _ in try proxy.connect() }
        _ = try proxy.errorLog.line(with: "taking no new connections")
        try clients[0].ask()
        #expect(try clients[0].response().status == 503)
        let survivor = clients[0]
        clients.removeAll()
        // The same connection serves when there is room again.
        var status = 503
        let deadline = Now.milliseconds + 3000
        while status != 200, Now.milliseconds < deadline {
            try survivor.ask()
            status = try survivor.response().status
        }
        #expect(status == 200)
    }

    @Test func nothingIsLeftBehindByABusyTime() throws {
        let origin = Origin.serving { wire, request in
            switch request.target {
            case "/reset": wire.reset(); throw WireError.reset
            case "/close": throw WireError.ended
            case "/garbage":
                try wire.send("garbage\r\n\r\n")
                throw WireError.ended
            case "/cut":
                try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 100") + "cut")
                throw WireError.ended
            default: try wire.ok(String(repeating: "x", count: 20_000))
            }
        }
        let proxy = try Headfirst(to: origin, upstream: "keepalive 4 idle=100ms;")
        func batch() throws {
            for number in 0..<200 {
                let client = try proxy.connect()
                let target = ["/", "/reset", "/close", "/garbage", "/cut"][number % 5]
                try client.ask(
                    number % 3 == 0 ? "POST \(target) HTTP/1.1" : "GET \(target) HTTP/1.1", "Content-Length: 0")
                switch number % 4 {
                case 0: client.reset()
                case 1: _ = try client.head()
                default: _ = try? client.response()
                }
            }
        }
        try batch()
        let (memory, descriptors) = (proxy.command.residentKibibytes, proxy.command.descriptorCount)
        for _ in 0..<4 { try batch() }
        #expect(proxy.command.residentKibibytes - memory < 1024)
        #expect(proxy.command.descriptorCount <= descriptors + 8)
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
    }

    @Test func garbageFromBothSidesEndsNoProcess() throws {
        let origin = Origin { wire, number in
            var random = Random(seed: UInt64(number))
            _ = try wire.head()
            for _ in 0..<3 { try wire.send(random.mutation(of: Self.responses[Int(random.next() % 6)])) }
            _ = wire.drain(milliseconds: 20)
        }
        let proxy = try Headfirst(
            to: origin, top: "request_head_timeout 200ms; response_head_timeout 200ms; request_idle_timeout 200ms;")
        var random = Random(seed: 20_260_101)
        for _ in 0..<400 {
            let client = try proxy.connect()
            do {
                for _ in 0..<3 { try client.send(random.mutation(of: Self.requests[Int(random.next() % 5)])) }
                if random.next() % 3 == 0 { client.endSending() }
                if random.next() % 2 == 0 { try client.pull(milliseconds: 20) }
            } catch {
                continue
            }
        }
        #expect(proxy.command.isRunning)
        // And it still does its work.
        let client = try proxy.connect()
        try client.send("\r\nBAD\r\n\r\n")
        #expect(try client.response().status == 400)
    }

    private static let requests = [
        head("GET / HTTP/1.1", "Host: t"), head("HEAD http://t/ HTTP/1.0", "Host: t", "Connection: keep-alive"),
        head("POST / HTTP/1.1", "Host: t", "Content-Length: 5", "Expect: 100-continue") + "hello",
        head("PUT / HTTP/1.1", "Host: t", "Transfer-Encoding: chunked", "Trailer: X") + chunk("hello")
            + "0\r\nX: y\r\n\r\n",
        head("OPTIONS * HTTP/1.1", "Host: t", "Max-Forwards: 0", "Connection: close, X-A", "X-A: 1"),
    ]
    private static let responses = [
        head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok",
        head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("ok") + "0\r\nX: y\r\n\r\n",
        head("HTTP/1.0 200 OK") + "ok", head("HTTP/1.1 103 Early Hints", "Link: x"), head("HTTP/1.1 204 No Content"),
        head("HTTP/1.1 304 Not Modified", "Content-Length: 9", "Keep-Alive: timeout=5"),
    ]

    /// Uploads that nobody takes share the memory there is: the first ones have a large piece waiting, later ones small
    /// pieces, then what is new is refused; and all is as before when they are gone.
    @Test func slowUploadsShareTheMemoryAndTheRestIsRefused() throws {
        let isOver = Monitor(false)
        // The kernel takes little for a Unix socket, and megabytes for TCP on the loopback.
        let folder = Folder()
        let origin = Origin(.unix(path: "\(folder.path)/origin.sock")) { wire, _ in
            let request = try wire.head()
            guard request.method == "PUT" else { return try wire.ok("ok", "Connection: close") }
            while !isOver.update({ $0 }) { usleep(20_000) }
        }
        let proxy = try Headfirst(to: origin, top: "buffer_memory 4m; max_connections 2000;")
        let before = proxy.command.residentKibibytes
        let content = [UInt8](repeating: 0x78, count: 400_000)
        var clients: [Wire] = []
        var refused = 0
        while refused < 20, clients.count < 1500 {
            for _ in 0..<20 {
                let client = try proxy.connect()
                try client.ask("PUT / HTTP/1.1", "Content-Length: 10000000")
                _ = try? client.sendSome(content, stallMilliseconds: 2)
                clients.append(client)
            }
            // On a busy machine the proxy is behind; when it has answered this, it has seen those.
            _ = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
            try clients.removeAll { client in
                if client.isSilent(milliseconds: 0) { return false }
                let response = try client.response()
                #expect(response.status == 503)
                #expect(response["Connection"] == "close")
                refused += 1
                return true
            }
        }
        #expect(refused >= 20)
        #expect(clients.count > 100)
        #expect(proxy.command.residentKibibytes - before < 10 << 10)
        // A head that comes in parts takes memory, too.
        let slow = try proxy.connect()
        try slow.send("GET / HTTP/1.1\r\nHost: t\r\n")
        #expect(try slow.response().status == 503)
        // A FIN would wait behind what nobody takes.
        for client in clients { client.reset() }
        let deadline = Now.milliseconds + 4000
        var status = 503
        while status == 503, Now.milliseconds < deadline {
            status = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status
        }
        #expect(status == 200)
        isOver.update { $0 = true }
    }
}

/// A generator whose numbers a seed repeats (SplitMix64).
private struct Random {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    /// A message with up to three bytes changed, taken out or put in.
    mutating func mutation(of text: String) -> [UInt8] {
        var bytes = Array(text.utf8)
        for _ in 0..<(next() % 4) where !bytes.isEmpty {
            let index = Int(next() % UInt64(bytes.count))
            switch next() % 3 {
            case 0: bytes[index] = UInt8(truncatingIfNeeded: next())
            case 1: bytes.remove(at: index)
            default: bytes.insert(UInt8(truncatingIfNeeded: next()), at: index)
            }
        }
        return bytes
    }
}
