// Every timer, with short times: what it ends, when, and what it does not count.

import Testing

@Suite struct TimerTests {
    private static let request = head("GET / HTTP/1.1", "Host: t")

    /// Runs `body` and expects it to take about so long: not less, and not much more.
    private func expectDuration<Result>(
        _ milliseconds: Int, slack: Int = 900, _ location: SourceLocation = #_sourceLocation,
        _ body: () throws -> Result
    ) rethrows -> Result {
        let start = Now.milliseconds
        let result = try body()
        let duration = Now.milliseconds - start
        #expect((milliseconds - 30..<milliseconds + slack).contains(duration), sourceLocation: location)
        return result
    }

    private var silentOrigin: Origin {
        Origin { wire, _ in
            _ = try wire.head()
            _ = wire.drain(milliseconds: 10_000)
        }
    }

    // MARK: The client's side

    @Test("request_head_timeout is absolute", arguments: [true, false])
    func requestHead(trickles: Bool) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "request_head_timeout 300ms;")
        let client = try proxy.connect()
        try expectDuration(300) {
            try client.send("GET / HTTP/1.1\r\n")
            if trickles {
                while client.isSilent(milliseconds: 40) { try client.send("X-A: b\r\n") }
            }
            let response = try client.response()
            #expect(response.status == 408)
            #expect(response["Connection"] == "close")
        }
        #expect(client.end() != .late)
    }

    @Test("keepalive_timeout, also before the first request", arguments: [true, false])
    func keepalive(asksFirst: Bool) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "keepalive_timeout 300ms;")
        let client = try proxy.connect()
        if asksFirst {
            try client.ask()
            _ = try client.response()
        }
        #expect(expectDuration(300) { client.end() } == .ended)
    }

    @Test func requestIdle() throws {
        let proxy = try Headfirst(to: silentOrigin, top: "request_idle_timeout 300ms;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 100")
        for _ in 0..<4 {
            #expect(client.isSilent(milliseconds: 120))
            try client.send("x")
        }
        #expect(try expectDuration(300) { try client.response().status } == 408)
        #expect(client.end() != .late)
    }

    @Test func requestIdleDoesNotCountWhileTheClientWaitsForAContinue() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            _ = wire.drain(milliseconds: 600)
            try wire.send(head("HTTP/1.1 100 Continue"))
            _ = try wire.exactly(2)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, top: "request_idle_timeout 200ms;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 2", "Expect: 100-continue")
        #expect(try client.response().status == 100)
        // From the 100 on it counts.
        #expect(try expectDuration(200) { try client.response().status } == 408)
    }

    @Test func requestIdleDoesNotCountAfterTheResponseHead() throws {
        let origin = Origin { wire, _ in
            var request = try wire.head()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            try wire.chunkedContent(of: &request)
            try wire.send(chunk(request.text) + lastChunk)
        }
        let proxy = try Headfirst(to: origin, top: "request_idle_timeout 150ms;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        var response = try client.head()
        #expect(client.isSilent(milliseconds: 500))
        try client.send(chunk("late") + lastChunk)
        try client.chunkedContent(of: &response)
        #expect(response.text == "late")
    }

    @Test func requestTimeoutIsForTheWholeExchange() throws {
        let proxy = try Headfirst(to: silentOrigin, top: "request_timeout 300ms;")
        try expectDuration(300) {
            let response = try proxy.answer(to: Self.request)
            #expect(response.status == 504)
        }
        let streaming = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            while true {
                try wire.send(chunk("tick"))
                _ = wire.drain(milliseconds: 50)
            }
        }
        let other = try Headfirst(to: streaming, top: "request_timeout 300ms;")
        let client = try other.connect()
        try client.ask()
        _ = try client.head()
        expectDuration(300) {
            let (bytes, end) = client.drain()
            #expect(end != .late)
            #expect(!String(decoding: bytes, as: UTF8.self).contains("\r\n0\r\n"))
        }
    }

    @Test func sendIdle() throws {
        let ended = Handoff<WireError>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(64 << 20)"))
            do throws(WireError) {
                while try wire.sendSome([UInt8](repeating: 0x78, count: 1 << 20), stallMilliseconds: 3000) > 0 {}
                ended.give(.late)
            } catch {
                ended.give(error)
            }
        }
        let proxy = try Headfirst(to: origin, top: "send_idle_timeout 300ms;")
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        // The client takes nothing: the exchange is given up, and the server is told.
        #expect(try ended.take(milliseconds: 2500) == .reset)
    }

    @Test func aSlowReaderIsNotAStalledOne() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(8 << 20)"))
            try wire.send([UInt8](repeating: 0x78, count: 8 << 20))
        }
        let proxy = try Headfirst(to: origin, top: "send_idle_timeout 400ms;")
        let client = try proxy.connect(receiveBuffer: 32 << 10)
        try client.ask()
        // Other connections that get nothing are the clock here: a piece every 20 ms for 1.5 s.
        let clock = try proxy.connect()
        for _ in 0..<75 {
            try client.pull()
            _ = clock.isSilent(milliseconds: 20)
        }
        while client.receivedCount < 8 << 20 { try client.pull() }
        #expect(client.receivedCount > 8 << 20)
    }

    @Test func requestMinRate() throws {
        let proxy = try Headfirst(to: silentOrigin, top: "request_min_rate 1m;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 1000000")
        // Bytes keep coming, so that it is no idle client; they are too few. The first 5 s are forgiven.
        let start = Now.milliseconds
        while client.isSilent(milliseconds: 100), Now.milliseconds - start < 8000 { try client.send("x") }
        #expect(try client.response().status == 408)
        #expect(Now.milliseconds - start > 4500)
    }

    // MARK: The upstream's side

    @Test func responseHead() throws {
        let proxy = try Headfirst(to: silentOrigin, top: "response_head_timeout 300ms;")
        try expectDuration(300) {
            let response = try proxy.answer(to: Self.request)
            #expect(response.status == 504)
            #expect(response["Proxy-Status"]?.contains("error=http_response_timeout") == true)
        }
    }

    @Test func aHeadThatTricklesInIsNoProgress() throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send("HTTP/1.1 200 OK\r\n")
            while true {
                if wire.drain(milliseconds: 50).end != .late { return }
                try wire.send("X-A: b\r\n")
            }
        }
        let proxy = try Headfirst(to: origin, top: "response_head_timeout 300ms;")
        #expect(try expectDuration(300) { try proxy.answer(to: Self.request).status } == 504)
    }

    @Test func anInterimResponseIsProgress() throws {
        let origin = Origin.serving { wire, _ in
            for _ in 0..<4 {
                _ = wire.drain(milliseconds: 200)
                try wire.send(head("HTTP/1.1 102 Processing"))
            }
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, top: "response_head_timeout 300ms;")
        let client = try proxy.connect()
        try client.ask()
        for _ in 0..<4 { #expect(try client.response().status == 102) }
        #expect(try client.response().status == 200)
    }

    @Test func responseIdleTruncates() throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"))
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin, top: "response_idle_timeout 300ms;")
        let client = try proxy.connect()
        try client.ask()
        _ = try client.head()
        _ = try client.chunk()
        #expect(expectDuration(300) { client.end() } != .late)
        #expect(client.buffer.isEmpty)
    }

    @Test func responseIdleStandsStillWhileTheClientIsTheSlowOne() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(16 << 20)"))
            try wire.send([UInt8](repeating: 0x78, count: 16 << 20))
        }
        let proxy = try Headfirst(to: origin, top: "response_idle_timeout 200ms;")
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        let other = try proxy.connect()
        #expect(other.isSilent(milliseconds: 700))
        var response = try client.head()
        response.content = try client.exactly(16 << 20)
        #expect(response.content.count == 16 << 20)
    }

    @Test func connect() throws {
        // A listener that never accepts, with a full queue: the handshake gets no answer.
        let full = Wire(Address.ipv4(port: 0).makeSocket())
        let address = try Address.ipv4(port: 0).listening(on: full.descriptor, backlog: 0)
        let fillers = (0..<3).map { _ in Wire(Address.ipv4(port: 0).makeSocket()) }
        for filler in fillers { filler.beginConnecting(to: address) }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; connect_timeout 300ms; retries 0;
                upstream full { server \(address.text); }
                listener main { bind 127.0.0.1:0; route / { upstream full; } }
                """)
        try expectDuration(300) {
            let response = try proxy.answer(to: Self.request)
            #expect(response.status == 504)
        }
        withExtendedLifetime((full, fillers)) {}
    }
}
