// Rule 3: framing is written anew for each side, and declared lengths are enforced.

import Testing

@Suite struct FramingTests {
    private func fetch(
        _ response: String, request: String = "GET / HTTP/1.1", thenCloses: Bool = false
    ) throws -> (Message, client: Wire) {
        let origin = Origin.serving { wire, _ in
            try wire.send(response)
            if thenCloses { throw WireError.ended }
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask(request)
        return (try client.response(toHEAD: request.hasPrefix("HEAD")), client)
    }

    @Test func lengthStaysLengthAndChunkedStaysChunked() throws {
        let (sized, _) = try fetch(head("HTTP/1.1 200 OK", "content-LENGTH: 5") + "hello")
        #expect(sized.has(line: "content-LENGTH: 5"))
        #expect(sized["Transfer-Encoding"] == nil)
        #expect(sized.text == "hello")
        let (chunked, _) = try fetch(
            head("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked") + "00005;name=\"v;\\\"x\"\r\nhello\r\n" + lastChunk)
        #expect(chunked["Content-Length"] == nil)
        #expect(chunked.text == "hello")
    }

    @Test("A close-delimited response becomes chunked for HTTP/1.1", arguments: ["1.0", "1.1"])
    func closeDelimited(version: String) throws {
        let (response, client) = try fetch(head("HTTP/\(version) 200 OK") + "hello", thenCloses: true)
        #expect(response.isChunked)
        #expect(response.text == "hello")
        // The client's connection need not end with the server's.
        try client.ask()
        #expect(try client.response().text == "hello")
    }

    @Test(
        "HTTP/1.0 clients get no chunked",
        arguments: [
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum") + chunk("hello")
                + "0\r\nX-Sum: 1\r\n\r\n",
            head("HTTP/1.1 200 OK", "Connection: close") + "hello",
        ])
    func toHTTP10(response: String) throws {
        let (message, _) = try fetch(
            response, request: "GET / HTTP/1.0", thenCloses: response.contains("close"))
        #expect(message["Transfer-Encoding"] == nil)
        #expect(message["Trailer"] == nil)
        #expect(message["Connection"] == "close")
        #expect(message.text == "hello")
    }

    @Test func anHTTP10ConnectionIsKeptIfItAsksAndTheLengthIsKnown() throws {
        let proxy = try Headfirst(to: Origin.serving())
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.ask("GET / HTTP/1.0", "Connection: keep-alive")
            let response = try client.response()
            #expect(response["Connection"]?.lowercased() == "keep-alive")
            #expect(response.text == "ok")
        }
        try client.ask("GET / HTTP/1.0")
        #expect(try client.response().text == "ok")
        #expect(client.end() == .ended)
    }

    @Test func requestsGoUpAsHTTP11WithTheirOwnFraming() throws {
        let seen = Handoff<Message>()
        let origin = Origin.serving { wire, request in
            seen.give(request)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST /a HTTP/1.1", "Content-Length: 5", content: "hello")
        _ = try client.response()
        let sized = try seen.take()
        #expect(sized["Content-Length"] == "5")
        try client.ask(
            "POST /b HTTP/1.1", "Transfer-Encoding: chunked", content: chunk("hel") + chunk("lo") + lastChunk)
        _ = try client.response()
        let chunked = try seen.take()
        #expect(chunked.isChunked && chunked["Content-Length"] == nil)
        #expect(chunked.text == "hello")
        try client.ask("POST /c HTTP/1.0", "Content-Length: 2", content: "hi")
        _ = try client.response()
        #expect(try seen.take().startLine == "POST /c HTTP/1.1")
    }

    @Test(
        "Answers without content keep the connection",
        arguments: [
            ("HEAD / HTTP/1.1", head("HTTP/1.1 200 OK", "Content-Length: 12345")),
            ("HEAD / HTTP/1.1", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")),
            ("HEAD / HTTP/1.1", head("HTTP/1.1 200 OK")),
            ("GET / HTTP/1.1", head("HTTP/1.1 204 No Content")),
            ("GET / HTTP/1.1", head("HTTP/1.1 304 Not Modified", "Content-Length: 77", "ETag: \"x\"")),
        ])
    func withoutContent(request: String, response: String) throws {
        let (message, client) = try fetch(response, request: request)
        if response.contains("12345") { #expect(message["Content-Length"] == "12345") }
        if message.status == 204 {
            #expect(message["Content-Length"] == nil && message["Transfer-Encoding"] == nil)
        }
        try client.ask(request)
        #expect(try client.response(toHEAD: true).status == message.status)
    }

    @Test func contentBehindA204IsNotForwardedAndNotTakenForTheNextAnswer() throws {
        let origin = Origin { wire, number in
            _ = try wire.request()
            if number == 1 {
                try wire.send(head("HTTP/1.1 204 No Content") + head("HTTP/1.1 200 OK", "Content-Length: 6") + "POISON")
            } else {
                try wire.ok("clean")
            }
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        #expect(try client.response().status == 204)
        try client.ask()
        #expect(try client.response().text == "clean")
    }

    @Test func surplusNeverReachesAnotherMessage() throws {
        let origin = Origin { wire, number in
            _ = try wire.request()
            try wire.send(
                head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok"
                    + (number == 1 ? head("HTTP/1.1 200 OK", "Content-Length: 6") + "POISON" : ""))
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.ask()
            #expect(try client.response().text == "ok")
        }
        #expect(client.isSilent(milliseconds: 100))
        #expect(origin.connectionCount == 2)
    }

    /// The response ends exactly where a read of the proxy ends, so the surplus is still in its socket.
    @Test("Surplus behind a response that fills a read", arguments: [4 << 10, 64 << 10])
    func surplusBehindAFullRead(bufferBytes: Int) throws {
        let origin = Origin { wire, number in
            _ = try wire.request()
            guard number % 2 == 1 else {
                try wire.ok("clean")
                return
            }
            let size = bufferBytes - 100
            let unfilled = head("HTTP/1.1 200 OK", "Content-Length: \(size)", "X-Fill: ")
            let fill = String(repeating: "f", count: 100 - unfilled.utf8.count)
            let padded = head("HTTP/1.1 200 OK", "Content-Length: \(size)", "X-Fill: \(fill)")
            try wire.send(
                padded + String(repeating: "x", count: size)
                    + head("HTTP/1.1 200 OK", "Content-Length: 6") + "POISON")
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin, top: "relay_buffer \(bufferBytes);")
        for _ in 0..<10 {
            let client = try proxy.connect()
            try client.ask()
            #expect(try client.response().content.count == bufferBytes - 100)
            try client.ask("GET /next HTTP/1.1")
            try #require(try client.response().text == "clean")
        }
    }

    @Test func trailersPassInBothDirections() throws {
        let origin = Origin.serving { wire, request in
            try wire.send(
                head("HTTP/1.1 200 OK", "Trailer: X-Sum", "Transfer-Encoding: chunked")
                    + chunk("\(request["TE"] ?? "") \(request.trailers)") + "0\r\nX-Sum: 42\r\nx-other: a b\r\n\r\n")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask(
            "POST / HTTP/1.1", "Transfer-Encoding: chunked", "Trailer: X-Up", "TE: trailers", "Connection: TE",
            content: chunk("hello") + "0\r\nX-Up: 1\r\n\r\n")
        let response = try client.response()
        #expect(response.text == "trailers [\"X-Up: 1\"]")
        #expect(response["Trailer"] == "X-Sum")
        #expect(response.trailers == ["X-Sum: 42", "x-other: a b"])
    }

    @Test("Each chunk of a byte arrives", arguments: [20_000])
    func tinyChunks(count: Int) throws {
        let origin = Origin.serving { wire, request in
            let content = String(repeating: "1\r\nx\r\n", count: count)
            try wire.send(
                head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "X-Got: \(request.content.count)") + content
                    + lastChunk)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask(
            "POST / HTTP/1.1", "Transfer-Encoding: chunked",
            content: String(repeating: "1\r\ny\r\n", count: count) + lastChunk)
        let response = try client.response()
        #expect(response["X-Got"] == "\(count)")
        #expect(response.content.count == count)
    }
}
