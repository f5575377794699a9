// Rule 11, the upstream's side: a response that two parsers could read differently is 502.

import Testing

@Suite struct StrictResponseTests {
    private static func ok(_ lines: String) -> String { "HTTP/1.1 200 OK\r\n\(lines)\r\n\r\n" }

    @Test(
        "A head that is refused",
        arguments: [
            ok("Content-Length: 5\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
            ok("Content-Length: 5\r\nContent-Length: 6") + "hello",
            ok("Content-Length: 5, 6") + "hello", ok("Content-Length: +5") + "hello", ok("Content-Length: x"),
            ok("Content-Length: 99999999999999999999"), ok("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n",
            ok("Transfer-Encoding: chunked, chunked") + "0\r\n\r\n", ok("Transfer-Encoding: chunked, gzip"),
            ok("Transfer-Encoding: identity"), "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", ok("X-A : b"),
            ok("X-A"), ok(": b"), ok("X-A: b\r\n folded"), ok("X-A: a\0b"), ok("X-A: a\rb"), ok("X(A: b"),
            ok("Connection: content-length\r\nContent-Length: 0"), "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 abc OK\r\n\r\n", "http/1.1 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "garbage\r\n\r\n", "\r\n\r\n",
            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "HTTP/1.1 200 O\u{1}K\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Hints\r\nX : y\r\n\r\n",
        ])
    func refused(response: String) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(response)
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        let answer = try client.response()
        #expect(answer.status == 502)
        // http_protocol_error, or the more exact http_response_transfer_coding.
        #expect(answer["Proxy-Status"]?.contains("error=http_") == true)
        // The client is not to blame: its connection goes on.
        #expect(answer["Connection"] == nil)
        try client.ask()
        #expect(try client.response().status == 502)
    }

    @Test func anUpstreamsOwnErrorsPassAsTheyAre() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 502 My Own", "Content-Length: 4", "X-A: b") + "mine")
        }
        let proxy = try Headfirst(to: origin)
        let answer = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect(answer.startLine == "HTTP/1.1 502 My Own")
        #expect(answer["Proxy-Status"] == nil)
        #expect(answer.text == "mine")
    }
}
