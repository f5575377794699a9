// Rule 12: every limit at its exact bound and one beyond, with the answer it has.

import Testing

@Suite struct LimitTests {
    private static func sized(_ prefix: String, _ bytes: Int) -> String {
        let rest = "X-Fill: \r\n\r\n"
        return prefix + "X-Fill: " + String(repeating: "f", count: bytes - prefix.utf8.count - rest.utf8.count)
            + "\r\n\r\n"
    }

    @Test("request_head_max", arguments: [(2048, 200), (2049, 431)])
    func requestHead(bytes: Int, status: Int) throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin, top: "request_head_max 2k; request_target_max 1k;")
        let client = try proxy.connect()
        try client.send(Self.sized("GET / HTTP/1.1\r\nHost: t\r\n", bytes))
        #expect(try client.response().status == status)
        #expect(origin.connectionCount == (status == 200 ? 1 : 0))
    }

    @Test("A head without end is refused at the bound", arguments: ["GET / HTTP/1.1\r\nHost: t\r\nX: ", "GET /"])
    func endless(start: String) throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        _ = try client.sendSome(Array((start + String(repeating: "a", count: 100_000)).utf8), stallMilliseconds: 500)
        #expect(try client.response().status == (start.hasSuffix("/") ? 414 : 431))
        #expect(origin.connectionCount == 0)
    }

    @Test("fields_max", arguments: [(10, 200), (11, 431)])
    func fields(count: Int, status: Int) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "fields_max 10;")
        let lines = (1..<count).map { "X-\($0): y\r\n" }.joined()
        #expect(try proxy.answer(to: "GET / HTTP/1.1\r\nHost: t\r\n\(lines)\r\n").status == status)
    }

    @Test("request_target_max", arguments: [(300, 200), (301, 414)])
    func target(bytes: Int, status: Int) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "request_target_max 300;")
        let target = "/" + String(repeating: "a", count: bytes - 1)
        #expect(try proxy.answer(to: head("GET \(target) HTTP/1.1", "Host: t")).status == status)
    }

    @Test("content_max", arguments: [(100, 200), (101, 413)], [true, false])
    func content(bound: (bytes: Int, status: Int), isChunked: Bool) throws {
        let proxy = try Headfirst(to: Origin.serving(), route: "content_max 100;")
        let client = try proxy.connect()
        let content = String(repeating: "c", count: bound.bytes)
        if isChunked {
            try client.ask(
                "POST / HTTP/1.1", "Transfer-Encoding: chunked",
                content: chunk(String(content.prefix(99))) + chunk(String(content.dropFirst(99))) + lastChunk)
        } else {
            try client.ask("POST / HTTP/1.1", "Content-Length: \(bound.bytes)", content: content)
        }
        #expect(try client.response().status == bound.status)
    }

    @Test("response_head_max", arguments: [(2048, 200), (2049, 502)])
    func responseHead(bytes: Int, status: Int) throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(Self.sized("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", bytes))
        }
        let proxy = try Headfirst(to: origin, top: "response_head_max 2k;")
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == status)
    }

    @Test func manyFieldsOfAResponsePass() throws {
        let lines = (0..<500).map { "X-\($0): y\r\n" }.joined()
        let origin = Origin.serving { wire, _ in
            try wire.send("HTTP/1.1 200 OK\r\n\(lines)Content-Length: 0\r\n\r\n")
        }
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect(String(decoding: response.raw, as: UTF8.self).contains(lines))
    }

    @Test func maxConnectionsLetsOthersWait() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "max_connections 2;")
        let first = try proxy.connect()
        let second = try proxy.connect()
        for client in [first, second] {
            try client.ask()
            _ = try client.response()
        }
        let third = try proxy.connect()
        try third.ask()
        #expect(third.isSilent(milliseconds: 250))
        first.close()
        #expect(try third.response().status == 200)
        try second.ask()
        #expect(try second.response().status == 200)
    }

    /// Heads as long as a configuration allows are no reason to die, whatever is written from them.
    @Test("The longest request head there can be", arguments: ["4k", "64k", "1m"])
    func longestRequestHead(relayBuffer: String) throws {
        let origin = Origin.serving { wire, request in try wire.ok("\(request["Host"]?.utf8.count ?? 0)") }
        let proxy = try Headfirst(to: origin, top: "request_head_max 256k; relay_buffer \(relayBuffer);")
        let host = String(repeating: "h", count: (256 << 10) - 60)
        let client = try proxy.connect()
        try client.send(head("GET / HTTP/1.1", "Host: \(host)"))
        let status = try client.response().status
        #expect([200, 400, 431].contains(status))
        #expect(proxy.command.isRunning)
    }

    @Test("The longest response head there can be", arguments: [200, 103], ["4k", "64k"])
    func longestResponseHead(status: Int, relayBuffer: String) throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(Self.sized("HTTP/1.1 \(status) OK\r\n", 256 << 10))
            if status == 103 { try wire.ok() } else { throw WireError.ended }
        }
        let proxy = try Headfirst(to: origin, top: "response_head_max 256k; relay_buffer \(relayBuffer);")
        let got = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status
        #expect([status, 502].contains(got))
        #expect(proxy.command.isRunning)
    }

    @Test(
        "Field edits and texts that multiply what a client sends",
        arguments: [
            (1...60).map { "add_request_field X-\($0) $target;" }.joined(separator: " "),
            (1...60).map { "add_response_field X-\($0) $target;" }.joined(separator: " "),
        ])
    func multipliedEdits(edits: String) throws {
        let proxy = try Headfirst(to: Origin.serving(), route: edits)
        let target = "/" + String(repeating: "a", count: 8000)
        let client = try proxy.connect()
        try client.ask("GET \(target) HTTP/1.1")
        #expect(try client.response().status > 0)
        #expect(proxy.command.isRunning)
    }

    @Test func aMultipliedText() throws {
        let text = String(repeating: "$target", count: 60)
        let proxy = try Headfirst(to: Origin.serving(), listener: "route /echo { respond 200 \"\(text)\"; }")
        let target = "/echo/" + String(repeating: "a", count: 8000)
        let client = try proxy.connect()
        try client.ask("GET \(target) HTTP/1.1")
        #expect(try client.response().status > 0)
        #expect(proxy.command.isRunning)
    }
}
