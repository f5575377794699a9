// Rule 7: what is not ours to change arrives byte for byte.

import Testing

@Suite struct FidelityTests {
    /// What the origin receives for a request.
    private func received(_ request: String, listener: String = "") throws -> Message {
        let seen = Handoff<Message>()
        let origin = Origin.serving { wire, request in
            seen.give(request)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, listener: listener)
        let client = try proxy.connect()
        try client.send(request)
        _ = try client.response()
        return try seen.take()
    }

    /// What a client receives for a response.
    private func forwarded(_ response: [UInt8], listener: String = "") throws -> Message {
        let origin = Origin.serving { wire, _ in try wire.send(response) }
        let proxy = try Headfirst(to: origin, listener: listener)
        return try proxy.answer(to: head("GET / HTTP/1.1", "Host: test"))
    }

    @Test(
        "The target is not touched",
        arguments: [
            "/a/../b/./c//d", "/%2e%2E/%00%zz?a=b&&c=%20", "/?", "/a?b?c=/../", "/*", "/a;b=c,d'e\"f",
            "/{x}|\\^`[]", "/" + String(repeating: "a", count: 8000),
        ])
    func target(target: String) throws {
        #expect(try received(head("GET \(target) HTTP/1.1", "Host: test")).target == target)
    }

    @Test func absoluteFormGoesUpAsOriginForm() throws {
        let request = try received(head("GET http://Test:80/a?b HTTP/1.1", "Host: test", "X-A: 1"))
        #expect(request.target == "/a?b")
        #expect(request.all("Host") == ["Test:80"])
        let bare = try received(head("GET http://test?q HTTP/1.1", "Host: test"))
        #expect(bare.target == "/?q")
        let options = try received(head("OPTIONS http://test HTTP/1.1", "Host: test"))
        #expect(options.target == "*")
    }

    @Test func namesValuesOrderAndDuplicatesOfRequests() throws {
        let lines = ["x-lower: 1", "X-UPPER: 2", "X-Dup: a", "Cookie: a=1", "x-dup: b", "X-Empty:", "X-Dup:   c  "]
        let request = try received(head("GET / HTTP/1.1", "hOsT: test", lines.joined(separator: "\r\n")))
        let sent = lines.joined(separator: "\r\n")
        #expect(String(decoding: request.raw, as: UTF8.self).contains("\r\nhOsT: test\r\n\(sent)\r\n"))
    }

    @Test func namesValuesOrderReasonAndForeignBytesOfResponses() throws {
        var bytes = Array("HTTP/1.1 299 Mostly \"fine\"  \r\nX-b: 1\r\nset-COOKIE: a\r\nSet-Cookie: b\r\nX-L: ".utf8)
        bytes += [0xE9, 0x09, 0x80, 0xFF] + Array("\r\nContent-Length: 0\r\n\r\n".utf8)
        let response = try forwarded(bytes)
        #expect(response.raw.starts(with: bytes.dropLast(2)))
    }

    @Test("The reason may be empty or missing", arguments: ["HTTP/1.1 200 \r\n", "HTTP/1.1 200\r\n"])
    func reason(line: String) throws {
        let response = try forwarded(Array("\(line)Content-Length: 0\r\n\r\n".utf8))
        #expect(response.startLine == "HTTP/1.1 200 ")
    }

    @Test func hopByHopFieldsOfRequestsAreRemoved() throws {
        let request = try received(
            head(
                "GET / HTTP/1.1", "Host: test", "Connection: keep-alive, X-Hop , x-two", "X-Hop: 1", "X-Two: 2",
                "Keep-Alive: timeout=9", "Proxy-Connection: keep-alive", "TE: gzip;q=1", "Upgrade: websocket",
                "X-End: 1"))
        for name in ["Connection", "X-Hop", "X-Two", "Keep-Alive", "Proxy-Connection", "TE", "Upgrade"] {
            #expect(request.all(name).isEmpty, "\(name)")
        }
        #expect(request["X-End"] == "1")
    }

    @Test func hopByHopFieldsOfResponsesAreRemoved() throws {
        let response = try forwarded(
            Array(
                head(
                    "HTTP/1.1 200 OK", "Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: timeout=9",
                    "Proxy-Connection: x", "Upgrade: h2c", "Content-Length: 0", "X-End: 1"
                ).utf8))
        for name in ["Connection", "X-Hop", "Keep-Alive", "Proxy-Connection", "Upgrade"] {
            #expect(response.all(name).isEmpty, "\(name)")
        }
        #expect(response["X-End"] == "1")
    }

    @Test(
        "What a Connection field cannot take away",
        arguments: [
            "Host", "Authorization", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded",
        ])
    func protectedFromNomination(name: String) throws {
        let request = try received(
            head("GET / HTTP/1.1", "Host: test", "Connection: \(name)", "Authorization: Basic x"))
        #expect(request["Authorization"] == "Basic x")
        #expect(request["Host"] == "test")
        #expect(request["X-Forwarded-For"] == "127.0.0.1")
        #expect(request["Forwarded"] == "for=127.0.0.1;host=test;proto=http")
    }

    @Test func forwardingFieldsComeFromThePeer() throws {
        let request = try received(
            head(
                "GET / HTTP/1.1", "Host: test:81", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https",
                "X-Forwarded-Host: evil", "Forwarded: for=6.6.6.6", "X-Request-Id: mine"))
        #expect(request["X-Forwarded-For"] == "127.0.0.1")
        #expect(request["X-Forwarded-Proto"] == "http")
        #expect(request["X-Forwarded-Host"] == "test:81")
        #expect(request["Forwarded"] == "for=127.0.0.1;host=\"test:81\";proto=http")
        #expect(request["Via"] == "1.1 headfirst")
        #expect(request["X-Request-Id"] == "mine")
    }

    @Test func trustedProxiesAreAddedTo() throws {
        let request = try received(
            head(
                "GET / HTTP/1.0", "Host: test", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2",
                "X-Forwarded-Proto: https", "X-Forwarded-Host: outer", "Forwarded: for=1.1.1.1", "Via: 2 edge"),
            listener: "trusted_proxies 127.0.0.0/8;")
        #expect(request["X-Forwarded-For"] == "1.1.1.1, 2.2.2.2, 127.0.0.1")
        #expect(request["X-Forwarded-Proto"] == "https")
        #expect(request["X-Forwarded-Host"] == "outer")
        #expect(request["Forwarded"] == "for=1.1.1.1, for=127.0.0.1;host=test;proto=http")
        #expect(request["Via"] == "2 edge, 1.0 headfirst")
    }

    @Test func aRequestIdIsMadeAndViaCanBeOff() throws {
        let request = try received(head("GET / HTTP/1.1", "Host: test", "Via: 1.1 edge"), listener: "via off;")
        #expect(request["Via"] == "1.1 edge")
        #expect(request["X-Request-Id"]?.utf8.count ?? 0 >= 16)
    }

    @Test func dateIsAddedAndViaToo() throws {
        let response = try forwarded(Array(head("HTTP/1.0 200 OK", "Content-Length: 0").utf8), listener: "via edge:1;")
        #expect(response.startLine == "HTTP/1.1 200 OK")
        #expect(response["Date"]?.hasSuffix(" GMT") == true)
        #expect(response["Via"] == "1.0 edge:1")
        let dated = try forwarded(
            Array(head("HTTP/1.1 200 OK", "Content-Length: 0", "date: Thu, 01 Jan 1970 00:00:00 GMT").utf8))
        #expect(dated.all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"])
    }

    @Test func maxForwardsIsCountedDownAndEndsHere() throws {
        #expect(try received(head("OPTIONS /a HTTP/1.1", "Host: test", "Max-Forwards: 5"))["Max-Forwards"] == "4")
        #expect(try received(head("GET /a HTTP/1.1", "Host: test", "Max-Forwards: 5"))["Max-Forwards"] == "5")
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(
            to: head("TRACE /a HTTP/1.1", "Host: test", "Max-Forwards: 0", "Cookie: secret", "X-A: 1"))
        #expect(response.status == 200)
        #expect(response["Content-Type"] == "message/http")
        #expect(response.text == head("TRACE /a HTTP/1.1", "Host: test", "Max-Forwards: 0", "X-A: 1"))
        #expect(origin.connectionCount == 0)
    }

    @Test func contentOfEveryByteArrives() throws {
        let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
        let origin = Origin.serving { wire, request in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(request.content.count)"))
            try wire.send(request.content)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("PUT / HTTP/1.1", "Content-Length: \(bytes.count)")
        try client.send(bytes)
        #expect(try client.response().content == bytes)
    }

    @Test func aRequestThatComesBackIsALoop() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        func answer(_ via: String...) throws -> Message {
            let lines = via.map { "Via: \($0)\r\n" }.joined()
            return try proxy.answer(to: "GET / HTTP/1.1\r\nHost: a\r\n\(lines)\r\n")
        }
        func times(_ count: Int, _ entry: String = "1.1 headfirst") -> String {
            Array(repeating: entry, count: count).joined(separator: ", ")
        }
        #expect(try answer(times(9)).status == 200)
        #expect(try answer(times(20, "1.1 headfirst-2"), times(20, "1.1 other")).status == 200)
        let loop = try answer(times(5), times(5, "HTTP/2.0  HeadFirst (a comment)"))
        #expect(loop.status == 508)
        #expect(loop["Proxy-Status"]?.contains("error=proxy_loop_detected") ?? false)
        _ = try proxy.errorLog.line(with: "the request has come by here many times")
    }

    /// The real thing: an upstream that is the proxy itself.
    @Test func aLoopEndsByItself() throws {
        let folder = Folder()
        let path = "\(folder.path)/self.sock"
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream itself { server unix:\(path); }
                listener main { bind 127.0.0.1:0; bind unix:\(path); route / { upstream itself; } }
                """, folder: folder)
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: a")).status == 508)
    }
}
