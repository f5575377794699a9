// HTTP/2 with clients: the rules of forwarding on streams, and what belongs to the connection.

import Glibc
import HTTP2
import HTTP2Support
import Testing

@Suite struct HTTP2Tests {
    private func start(_ origin: Origin, top: String = "", route: String = "", log: String = "off") throws -> Headfirst
    {
        try Headfirst(to: origin, top: top, listener: "http2 on;", route: route, log: log)
    }

    // MARK: Heads

    @Test(
        "A head goes on alone, before any content exists",
        arguments: [
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), head("HTTP/1.1 200 OK", "Content-Length: 5"),
            head("HTTP/1.1 200 OK"),
        ])
    func responseHead(response: String) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(response)
            try go.take()
            try wire.send(response.contains("chunked") ? chunk("hello") + lastChunk : "hello")
        }
        let client = try start(origin).connectHTTP2()
        let stream = try client.ask()
        #expect(try client.head(of: stream).hasPrefix("HTTP/1.1 200 OK|"))
        go.give()
        #expect(try client.content(of: 1) == "hello")
    }

    @Test func aRequestsHeadGoesUpBeforeItsContent() throws {
        let seen = Handoff<String>()
        let origin = Origin { wire, _ in
            var request = try wire.head()
            seen.give(request.startLine + " " + (request["Transfer-Encoding"] ?? ""))
            try wire.chunkedContent(of: &request)
            try wire.ok(request.text)
        }
        let client = try start(origin).connectHTTP2()
        let stream = try client.ask(
            head("POST /up HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), isWhole: false)
        #expect(try seen.take() == "POST /up HTTP/1.1 chunked")
        try client.send("hel", on: stream)
        try client.send("lo", isLast: true, on: stream)
        #expect(try client.content(of: 1) == "hello")
    }

    @Test func everyInterimHeadIsAHeadOfItsOwn() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            for status in [102, 103, 103, 104] {
                try wire.send(head("HTTP/1.1 \(status) Any", "X-Number: \(status)"))
                try go.take()
            }
            try wire.ok("done")
        }
        let client = try start(origin).connectHTTP2()
        try client.ask()
        for status in [102, 103, 103, 104] {
            let text = try client.next { if case .interim(_, let text) = $0 { text } else { nil } }
            #expect(text.hasPrefix("HTTP/1.1 \(status) ") && text.hasSuffix("|x-number: \(status)"))
            go.give()
        }
        #expect(try client.content(of: 1) == "done")
    }

    @Test func interimHeadsMayBeForHTTP2Alone() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 103 Early Hints"))
            try wire.ok()
        }
        let proxy = try start(origin, route: "interim http2;")
        let client = try proxy.connectHTTP2()
        try client.ask()
        try client.next { if case .interim = $0 { () } else { nil } }
        let other = try proxy.connect()
        try other.ask()
        #expect(try other.head().status == 200)
    }

    @Test func trailersPassBothWays() throws {
        let seen = Handoff<String>()
        let origin = Origin { wire, _ in
            var request = try wire.head()
            try wire.chunkedContent(of: &request)
            seen.give(request.trailers.joined())
            try wire.send(
                head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("x") + "0\r\nGrpc-Status: 3\r\n\r\n")
        }
        let proxy = try start(origin, log: "stdout format=json")
        let client = try proxy.connectHTTP2()
        let stream = try client.ask(
            head("POST / HTTP/1.1", "Host: a", "TE: trailers", "Transfer-Encoding: chunked"), isWhole: false)
        client.end.send("content", on: stream)
        client.end.session.sendTrailers(client.end.write("0\r\nX-Sum: 9\r\n\r\n"), from: 3, on: stream)
        try client.flush()
        #expect(try seen.take() == "x-sum: 9")
        try client.expect(Told.trailers(stream: 1, "grpc-status: 3"))
        let line = try proxy.accessLog.line(with: "\"protocol\":\"HTTP/2.0\"")
        #expect(line.contains("\"grpc_status\":3,"))
    }

    // MARK: Ends

    @Test(arguments: [
        head("HTTP/1.1 200 OK", "Content-Length: 9") + "half",
        head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("half"),
    ])
    func whatIsCutOffIsReset(answer: String) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(answer)
        }
        let client = try start(origin).connectHTTP2()
        try client.ask()
        try client.expect(.content(stream: 1, "half"))
        try client.expect(.closed(stream: 1, code: HTTP2ErrorCode.internalError))
        #expect(!client.end.told.contains(.ended(stream: 1)))
        // The connection is as good as before.
        try client.ask()
        try client.expect(.content(stream: 3, "half"))
    }

    @Test func aStreamThatIsCancelledEndsTheServersWorkAlone() throws {
        let ended = Handoff<String>()
        let origin = Origin { wire, _ in
            let request = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("first"))
            if request.startLine.contains("/one") {
                #expect(throws: WireError.self) { try wire.pull() }
                ended.give("one")
            } else {
                #expect(try ended.take() == "one")
                try wire.send(chunk(" second") + lastChunk)
            }
        }
        let client = try start(origin).connectHTTP2()
        let one = try client.ask(head("GET /one HTTP/1.1", "Host: a"))
        let two = try client.ask(head("GET /two HTTP/1.1", "Host: a"))
        _ = try client.head(of: two)
        client.end.session.reset(one, code: HTTP2ErrorCode.cancel)
        try client.flush()
        #expect(try client.content(of: 3).hasSuffix(" second"))
    }

    @Test func aSlowStreamDoesNotHoldUpAnother() throws {
        let big = String(repeating: "x", count: 3 << 20)
        let origin = Origin.serving { wire, request in
            try wire.ok(request.startLine.contains("/big") ? big : "small")
        }
        let client = try start(origin).connectHTTP2()
        client.end.takesContent = false
        let stalled = try client.ask(head("GET /big HTTP/1.1", "Host: a"))
        _ = try client.head(of: stalled)
        for number in 1...20 {
            try client.ask(head("GET /small HTTP/1.1", "Host: a"))
            #expect(try client.content(of: Int32(1 + 2 * number)) == "small")
        }
    }

    // MARK: Tunnels

    @Test func aWebSocketPassesBothWaysAndEachEndsForItself() throws {
        let origin = Origin { wire, _ in
            let request = try wire.head()
            #expect(request.startLine == "GET /chat HTTP/1.1")
            #expect(request["Upgrade"] == "websocket" && request["Connection"] == "Upgrade")
            #expect(request["Sec-WebSocket-Key"]?.utf8.count == 24)
            try wire.send(
                head(
                    "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
                    "Sec-WebSocket-Accept: \(request["Sec-WebSocket-Key"] ?? "")", "X: y") + "glued")
            #expect(try wire.exactly(4) == Array("ping".utf8))
            try wire.send("pong")
            wire.endSending()
            #expect(try wire.exactly(4) == Array("late".utf8))
            #expect(throws: WireError.ended) { try wire.pull() }
        }
        let client = try start(origin).connectHTTP2()
        let stream = try client.ask(
            head(
                "GET /chat HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade",
                "Sec-WebSocket-Version: 13"),
            isWhole: false, opensTunnel: true)
        let answer = try client.head(of: stream)
        #expect(answer.hasPrefix("HTTP/1.1 200 OK|x: y"))
        #expect(!answer.contains("sec-websocket-accept") && !answer.contains("upgrade"))
        try client.send("ping", on: stream)
        #expect(try client.content(of: 1) == "gluedpong")
        try client.send("late", isLast: true, on: stream)
        try client.expect(.closed(stream: 1, code: HTTP2ErrorCode.noError))
    }

    @Test func aRefusedWebSocketIsAnOrdinaryAnswer() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 403 Forbidden", "Content-Length: 2") + "no")
        }
        let client = try start(origin).connectHTTP2()
        let stream = try client.ask(
            head("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade"), isWhole: false,
            opensTunnel: true)
        #expect(try client.head(of: stream).hasPrefix("HTTP/1.1 403 "))
        #expect(try client.content(of: 1) == "no")
        try client.expect(.closed(stream: 1, code: HTTP2ErrorCode.noError))
    }

    @Test func aSuccessThatOpensNoTunnelIsNone() throws {
        let client = try start(.serving()).connectHTTP2()
        let stream = try client.ask(
            head("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade"), isWhole: false,
            opensTunnel: true)
        let answer = try client.head(of: stream)
        #expect(answer.hasPrefix("HTTP/1.1 502 ") && answer.contains("http_upgrade_failed"))
    }

    @Test func connectIsRefusedWhereNothingAllowsIt() throws {
        let client = try start(.serving()).connectHTTP2()
        let stream = try client.ask(head("CONNECT a:443 HTTP/1.1", "Host: a:443"), isWhole: false)
        #expect(try client.head(of: stream).hasPrefix("HTTP/1.1 405 "))
    }

    // MARK: The connection

    @Test func http1AndHTTP2ShareAPort() throws {
        let proxy = try start(.serving())
        let client = try proxy.connectHTTP2()
        #expect(try client.head(of: try client.ask()).hasPrefix("HTTP/1.1 200 "))
        #expect(try proxy.answer(to: head("PUT / HTTP/1.1", "Host: a", "Content-Length: 0")).status == 200)
        // A preface that comes byte by byte.
        let slow = try proxy.connect()
        for byte in Frame.preface { try slow.send([byte]) }
        #expect(try slow.exactly(4)[3] == 4)
    }

    @Test func nothingIsHTTP2WhereItIsOff() throws {
        let proxy = try Headfirst(to: .serving())
        let client = try proxy.connect()
        try client.send(Frame.preface + Frame.settings)
        #expect(try client.response().status == 505)
    }

    @Test func overTLSItIsChosenByName() throws {
        for (listener, isSpoken) in [("", true), ("http2 off;", false)] {
            let proxy = try Headfirst.overTLS(to: .serving(), listener: listener)
            let client = try proxy.connectTLS { $0.protocols = ["h2", "http/1.1"] }
            #expect(client.tls?.applicationProtocol == (isSpoken ? "h2" : "http/1.1"))
            guard isSpoken else { continue }
            let http2 = try HTTP2Wire(client)
            #expect(try http2.head(of: try http2.ask()).hasPrefix("HTTP/1.1 200 "))
        }
    }

    @Test func theForwardingFieldsTellOfIt() throws {
        let seen = Handoff<[String?]>()
        let origin = Origin.serving { wire, request in
            seen.give(["Host", "Via", "X-Forwarded-For", "Forwarded", "Cookie"].map { request[$0] })
            try wire.ok()
        }
        let client = try start(origin).connectHTTP2()
        try client.ask(head("GET / HTTP/1.1", "Host: shop.example", "Cookie: a=b"))
        #expect(
            try seen.take() == [
                "shop.example", "2.0 headfirst", "127.0.0.1", "for=127.0.0.1;host=shop.example;proto=http", "a=b",
            ])
    }

    @Test func aFloodEndsAndIsCounted() throws {
        let proxy = try start(.serving(), top: "admin { bind 127.0.0.1:0; }")
        let flood = try proxy.connectHTTP2()
        // At once: what came after the end would reset the connection, and take GOAWAY with it.
        try flood.wire.send((0..<1100).flatMap { _ in Frame.make(6, [UInt8](repeating: 0, count: 8)) })
        try flood.expect(.goAway)
        try flood.ended()
        // Nobody else notices.
        let client = try proxy.connectHTTP2()
        #expect(try client.head(of: try client.ask()).hasPrefix("HTTP/1.1 200 "))
        #expect(try proxy.metric("headfirst_http2_floods_total{kind=\"pings\"}", becomes: 1))
        #expect(try proxy.metric("headfirst_http2_connections_total") == 2)
        #expect(try proxy.metric("headfirst_http2_streams_total") == 1)
    }

    @Test func whatNobodyCanReadOnEndsAloneThoughARequestCameWithIt() throws {
        let proxy = try start(.serving())
        for count in [100, 2000] {
            let client = try proxy.connect()
            let open = Frame.make(1, stream: 3, Frame.fields(Frame.get))
            let flood = (0..<count).flatMap { _ in Frame.make(9, stream: 3) }
            try client.send(Frame.preface + Frame.settings + Frame.headers(Frame.get) + open + flood)
            let (bytes, _) = client.drain()
            #expect(bytes.contains(7))
            let other = try proxy.connectHTTP2()
            #expect(try other.head(of: try other.ask()).hasPrefix("HTTP/1.1 200 "))
        }
        // Acknowledgements that nobody takes.
        let deaf = try proxy.connect(receiveBuffer: 4096)
        let pings = (0..<3000).flatMap { _ in Frame.make(6, [UInt8](repeating: 0, count: 8)) }
        _ = try? deaf.sendSome(
            Frame.preface + Frame.settings + Frame.headers(Frame.get) + pings, stallMilliseconds: 500)
        let other = try proxy.connectHTTP2()
        #expect(try other.head(of: try other.ask()).hasPrefix("HTTP/1.1 200 "))
    }

    @Test func aHeadThatDoesNotEndIsNotWaitedForLong() throws {
        let proxy = try start(.serving(), top: "request_head_timeout 300ms;")
        let client = try proxy.connectHTTP2()
        try client.wire.send(Frame.make(1, stream: 1, Frame.fields(Frame.get)))
        try client.expect(.goAway)
        try client.ended()
    }

    @Test func anIdleConnectionEndsInOrder() throws {
        let proxy = try start(.serving(), top: "keepalive_timeout 300ms;")
        let client = try proxy.connectHTTP2()
        #expect(try client.head(of: try client.ask()).hasPrefix("HTTP/1.1 200 "))
        try client.expect(.goAway)
        try client.ended()
    }

    @Test func whoTakesNothingIsNotWaitedForLong() throws {
        let big = String(repeating: "x", count: 1 << 20)
        let origin = Origin.serving { wire, _ in try wire.ok(big) }
        let client = try start(origin, top: "send_idle_timeout 300ms;").connectHTTP2()
        client.end.takesContent = false
        try client.ask()
        try client.expect(.closed(stream: 1, code: HTTP2ErrorCode.internalError))
    }

    @Test func whoReadsNothingGetsNoMoreTimeBySendingPings() throws {
        let big = String(repeating: "x", count: 16 << 20)
        let origin = Origin.serving { wire, _ in try wire.ok(big) }
        let proxy = try start(origin, top: "send_idle_timeout 500ms;")
        let deaf = try proxy.connect(receiveBuffer: 4096)
        let large: UInt32 = 0x7FFF_0000
        try deaf.send(
            Frame.preface + Frame.make(4, [0, 4] + Frame.number(large)) + Frame.make(8, Frame.number(large))
                + Frame.headers(Frame.get))
        let deadline = Now.milliseconds + 4000
        var end: WireError?
        while end == nil, Now.milliseconds < deadline {
            do { try deaf.send(Frame.make(6, [UInt8](repeating: 0, count: 8))) } catch { end = error }
            usleep(50_000)
        }
        #expect(end == .reset)
    }

    /// Windows that are left with little room are not filled at once; a client that waits for it gets it all the same.
    @Test func creditThatIsExactIsUsed() throws {
        let origin = Origin.serving { wire, _ in try wire.ok(String(repeating: "x", count: 70_000)) }
        let client = try start(origin).connect()
        try client.send(Frame.preface + Frame.settings + Frame.headers(Frame.get))
        try client.framedContent(65_535)
        try client.send(Frame.make(8, Frame.number(4465)) + Frame.make(8, stream: 1, Frame.number(10)))
        try client.framedContent(10)
        try client.send(Frame.make(8, stream: 1, Frame.number(4455)))
        try client.framedContent(4455)
    }

    /// Content of a few bytes each, of many streams in turn, goes up in few writes and whole.
    @Test func streamsThatTakeTurnsByteByByteArriveWhole() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request.text) }
        let client = try start(origin).connectHTTP2()
        let streams = try (0..<20).map { number in
            try client.ask(head("POST /\(number) HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), isWhole: false)
        }
        for piece in 0..<200 {
            for (number, stream) in streams.enumerated() {
                client.end.send("\(number):\(piece),", isLast: piece == 199, on: stream)
            }
        }
        try client.flush()
        var contents: [Int32: String] = [:]
        var left = Set(streams.map(\.pointee.id))
        while !left.isEmpty {
            try client.next { told in
                if case .content(let id, let text) = told { contents[id, default: ""] += text }
                guard case .ended(let id) = told else { return nil as Void? }
                left.remove(id)
                return ()
            }
        }
        for number in 0..<20 {
            let wanted = (0..<200).map { "\(number):\($0)," }.joined()
            #expect(contents[Int32(1 + 2 * number)] == wanted)
        }
    }

    /// The client's stream is over with the last of its request, which is still on its way up then.
    @Test func aRequestThatEndsBehindItsAnswerGoesUpToItsEnd() throws {
        let contents = Handoff<String>()
        let early = Origin { wire, _ in
            for _ in 0..<2 {
                var request = try wire.head()
                try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok")
                try wire.chunkedContent(of: &request)
                contents.give(request.text)
            }
        }
        let client = try start(early).connectHTTP2()
        let post = head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        for _ in 0..<2 {
            let streams = try (0..<2).map { _ in
                let stream = try client.ask(post, isWhole: false)
                #expect(try client.content(of: stream.pointee.id) == "ok")
                return stream
            }
            client.end.send("x", on: streams[1])
            client.end.send("last", isLast: true, on: streams[0])
            try client.flush()
            #expect(try contents.take() == "last")
            try client.send("", isLast: true, on: streams[1])
            #expect(try contents.take() == "x")
        }
    }

    @Test func headsThatAreRefusedAgainAndAgainAreAFlood() throws {
        let client = try start(.serving()).connectHTTP2()
        let long = head("GET /" + String(repeating: "x", count: 9000) + " HTTP/1.1", "Host: a")
        var count = 0
        repeat {
            try client.ask(long)
            count += 1
        } while try client.next({ told -> Bool? in
            if case .head = told { true } else if told == .goAway { false } else { nil }
        }) && count < 2000
        #expect(count < 1000)
    }

    // MARK: Shutdown

    @Test func aShutdownIsAnnouncedAndStreamsRunOut() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 4"))
            try go.take()
            try wire.send("done")
        }
        let proxy = try start(origin)
        let client = try proxy.connectHTTP2()
        let stream = try client.ask()
        _ = try client.head(of: stream)
        proxy.terminate()
        // First the notice, then, when the client must have heard it, the last word.
        try client.expect(.goAway)
        try client.expect(.goAway)
        go.give()
        #expect(try client.content(of: 1) == "done")
        try client.ended()
        #expect(try proxy.command.exitCode() == 0)
    }

    @Test func aListenerThatGoesTellsItsClients() throws {
        let origin = Origin.serving()
        let both = """
            workers 1; access_log off; upstream origin { server \(origin.address.text); }
            listener a { bind 127.0.0.1:0; http2 on; route / { upstream origin; } }
            """
        let proxy = try Headfirst(configuration: both, origins: [origin])
        let client = try proxy.connectHTTP2()
        #expect(try client.head(of: try client.ask()).hasPrefix("HTTP/1.1 200 "))
        let other = both.replacing("listener a { bind 127.0.0.1:0;", with: "listener b { bind 127.0.0.1:0;")
        _ = proxy.folder.write(other.replacing("127.0.0.1:0", with: "[::1]:0"), to: "proxy.conf")
        proxy.command.signal(1)
        try client.expect(.goAway)
        try client.ended()
    }
}
