// Rule 2: interim responses and expectations.

import Testing

@Suite struct InterimTests {
    private static let hints = head("HTTP/1.1 103 Early Hints", "Link: </a.css>; rel=preload")

    /// An origin that waits for `go` behind each of its interim heads, then answers 200.
    private func origin(_ interim: [String], _ go: Handoff<Void>) -> Origin {
        Origin.serving { wire, _ in
            for text in interim {
                try wire.send(text)
                try go.take()
            }
            try wire.ok()
        }
    }

    @Test func everyInterimResponseArrivesAtOnceAndInOrder() throws {
        let statuses = [100, 102, 103, 104, 103, 199]
        let go = Handoff<Void>()
        let origin = origin(statuses.map { head("HTTP/1.1 \($0) Some Reason", "X-Status: \($0)") }, go)
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        for status in statuses {
            let message = try client.response()
            #expect(message.startLine == "HTTP/1.1 \(status) Some Reason")
            #expect(message["X-Status"] == "\(status)")
            go.give()
        }
        #expect(try client.response().text == "ok")
        // And the connection goes on.
        for _ in statuses { go.give() }
        try client.ask()
        for _ in statuses { _ = try client.response() }
        #expect(try client.response().status == 200)
    }

    @Test func interimAndFinalHeadInOneSegment() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(Self.hints + Self.hints + head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        #expect(try client.response().status == 103)
        #expect(try client.response().status == 103)
        #expect(try client.response().text == "ok")
    }

    @Test func hopByHopAndFramingFieldsOfInterimResponsesAreRemoved() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(
                head(
                    "HTTP/1.1 103 Early Hints", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5",
                    "Content-Length: 5", "link: </A>"))
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        let interim = try client.response()
        #expect(interim.has(line: "link: </A>"))
        for name in ["Connection", "X-Hop", "Keep-Alive", "Content-Length"] { #expect(interim[name] == nil) }
        #expect(try client.response().status == 200)
    }

    @Test(
        "Nothing interim for HTTP/1.0, nor where `interim` says so",
        arguments: [
            ("GET / HTTP/1.0", ""), ("GET / HTTP/1.1", "interim off;"), ("GET / HTTP/1.1", "interim http2;"),
        ])
    func notForwarded(request: String, setting: String) throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(Self.hints)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, route: setting)
        let client = try proxy.connect()
        try client.ask(request)
        #expect(try client.response().status == 200)
    }

    @Test func aFloodOfInterimResponsesIs502() throws {
        let origin = Origin.serving { wire, _ in
            let flood = String(repeating: "HTTP/1.1 102 Processing\r\n\r\n", count: 12_000)
            try wire.send(flood)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        var count = 0
        var final = try client.response()
        while final.status == 102 {
            count += 1
            final = try client.response()
        }
        #expect(final.status == 502)
        #expect(count <= (256 << 10) / 27)
    }

    @Test func aSwitchThatNobodyAskedForIs502() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 101 Switching Protocols", "Upgrade: x", "Connection: upgrade") + "bytes")
        }
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: test"))
        #expect(response.status == 502)
    }

    // MARK: Expect

    @Test func theOriginsContinueDecides() throws {
        let go = Handoff<Void>()
        let expecting = Origin { wire, _ in
            var request = try wire.head()
            try go.take()
            try wire.send(head("HTTP/1.1 100 Continue"))
            request.content = try wire.exactly(5)
            try wire.ok("\(request["Expect"] ?? "nothing") \(request.text)")
        }
        let proxy = try Headfirst(to: expecting)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        #expect(client.isSilent(milliseconds: 150))
        go.give()
        #expect(try client.response().startLine == "HTTP/1.1 100 Continue")
        try client.send("hello")
        #expect(try client.response().text == "100-continue hello")
    }

    @Test func aFinalAnswerInsteadOfContinueEndsTheConnection() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 403 No", "Content-Length: 2") + "no")
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        let response = try client.response()
        #expect(response.status == 403)
        #expect(response["Connection"] == "close")
        #expect(client.end(milliseconds: 2000) == .ended)
    }

    @Test func aClientNeedNotWaitForTheContinue() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request.text) }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 5", "Expect: 100-continue", content: "hello")
        #expect(try client.response().text == "hello")
    }

    @Test func otherExpectationsAre417() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(
            to: head("POST / HTTP/1.1", "Host: test", "Expect: 200-maybe", "Content-Length: 0"))
        #expect(response.status == 417)
        #expect(origin.connectionCount == 0)
    }

    @Test func anExpectationFromHTTP10IsIgnored() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request["Expect"] ?? "none") }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.0", "Content-Length: 2", "Expect: 100-continue", content: "hi")
        #expect(try client.response().text == "none")
    }
}
