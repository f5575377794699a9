// Rule 11, the client's side: what two parsers could read differently is refused, and no byte of it goes up.

import Testing

@Suite struct StrictRequestTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let bytes: String
        var status = 400
        var testDescription: String { name }
    }

    private static func get(_ lines: String) -> String { "GET / HTTP/1.1\r\nHost: t\r\n\(lines)\r\n\r\n" }
    private static func post(_ lines: String, _ content: String = "") -> String {
        "POST / HTTP/1.1\r\nHost: t\r\n\(lines)\r\n\r\n\(content)"
    }

    static let cases: [Case] = [
        Case(name: "length and chunked", bytes: post("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        Case(name: "chunked and length", bytes: post("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n")),
        Case(name: "two lengths", bytes: post("Content-Length: 5\r\nContent-Length: 6", "hello")),
        Case(name: "a list of lengths", bytes: post("Content-Length: 5, 6", "hello")),
        Case(name: "length with a sign", bytes: post("Content-Length: +5", "hello")),
        Case(name: "negative length", bytes: post("Content-Length: -5")),
        Case(name: "hexadecimal length", bytes: post("Content-Length: 0x5", "hello")),
        Case(name: "empty length", bytes: post("Content-Length: ")),
        Case(name: "length with space", bytes: post("Content-Length: 1 1", "x")),
        Case(name: "length beyond 63 bits", bytes: post("Content-Length: 9223372036854775808")),
        Case(name: "length beyond 64 bits", bytes: post("Content-Length: 18446744073709551621", "hello")),
        Case(name: "length with a control byte", bytes: post("Content-Length: \u{b}5", "hello")),
        Case(name: "chunked twice", bytes: post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n")),
        Case(
            name: "chunked in two fields", bytes: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
        Case(name: "chunked not last", bytes: post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n")),
        Case(name: "identity", bytes: post("Transfer-Encoding: identity", "")),
        Case(name: "a near miss of chunked", bytes: post("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        Case(name: "chunked with a parameter", bytes: post("Transfer-Encoding: chunked;a=b", "0\r\n\r\n")),
        Case(name: "chunked in quotes", bytes: post("Transfer-Encoding: \"chunked\"", "0\r\n\r\n")),
        Case(name: "chunked behind a vertical tab", bytes: post("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n")),
        Case(name: "empty transfer-encoding", bytes: post("Transfer-Encoding: ", "0\r\n\r\n")),
        Case(
            name: "chunked in HTTP/1.0",
            bytes: "POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Case(name: "another coding", bytes: post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), status: 501),
        Case(name: "bare LF behind the request line", bytes: "GET / HTTP/1.1\nHost: t\r\n\r\n"),
        Case(name: "bare LF behind a field", bytes: "GET / HTTP/1.1\r\nHost: t\n\r\n"),
        Case(name: "bare LF as the empty line", bytes: "GET / HTTP/1.1\r\nHost: t\r\n\n"),
        Case(name: "bare CR in a value", bytes: get("X-A: a\rb")),
        Case(name: "bare CR before CRLF", bytes: get("X-A: a\r")),
        Case(name: "NUL in a value", bytes: get("X-A: a\0b")),
        Case(name: "control byte in a value", bytes: get("X-A: a\u{1}b")),
        Case(name: "DEL in a value", bytes: get("X-A: a\u{7f}b")),
        Case(name: "folding", bytes: get("X-A: a\r\n b")),
        Case(name: "folding of the first field", bytes: "GET / HTTP/1.1\r\n Host: t\r\n\r\n"),
        Case(name: "space before the colon", bytes: get("X-A : a")),
        Case(name: "tab before the colon", bytes: get("X-A\t: a")),
        Case(name: "empty name", bytes: get(": a")),
        Case(name: "no colon", bytes: get("X-A")),
        Case(name: "bad byte in a name", bytes: get("X(A: a")),
        Case(name: "foreign byte in a name", bytes: get("X-Ä: a")),
        Case(name: "no Host", bytes: "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
        Case(name: "two Hosts", bytes: get("Host: t")),
        Case(name: "empty Host", bytes: "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        Case(name: "Host with a path", bytes: "GET / HTTP/1.1\r\nHost: t/x\r\n\r\n"),
        Case(name: "Host with userinfo", bytes: "GET / HTTP/1.1\r\nHost: a@t\r\n\r\n"),
        Case(name: "Host as a list", bytes: "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        Case(name: "Host with a bad port", bytes: "GET / HTTP/1.1\r\nHost: t:99999\r\n\r\n"),
        Case(name: "Host with an open bracket", bytes: "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        Case(name: "absolute-form against Host", bytes: "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"),
        Case(name: "absolute-form with userinfo", bytes: "GET http://u@t/ HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "absolute-form of another scheme", bytes: "GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "fragment", bytes: "GET /a#b HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "foreign byte in the target", bytes: "GET /ä HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "tab in the target", bytes: "GET /a\tb HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "two spaces", bytes: "GET  / HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "space at the line's end", bytes: "GET / HTTP/1.1 \r\nHost: t\r\n\r\n"),
        Case(name: "space before the method", bytes: " GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "no target", bytes: "GET HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "relative target", bytes: "GET a HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "asterisk for GET", bytes: "GET * HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "HTTP/0.9", bytes: "GET /\r\n\r\n"),
        Case(name: "bad method", bytes: "GE(T / HTTP/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "lower-case version", bytes: "GET / http/1.1\r\nHost: t\r\n\r\n"),
        Case(name: "long version", bytes: "GET / HTTP/1.10\r\nHost: t\r\n\r\n"),
        Case(name: "HTTP/2.0", bytes: "GET / HTTP/2.0\r\nHost: t\r\n\r\n", status: 505),
        Case(name: "HTTP/1.2", bytes: "GET / HTTP/1.2\r\nHost: t\r\n\r\n", status: 505),
        Case(name: "HTTP/2 preface", bytes: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", status: 505),
        Case(name: "TLS", bytes: "\u{16}\u{3}\u{1}\0abc\r\n\r\n"),
        Case(name: "lookalike of Content-Length", bytes: get("Content_Length: 5")),
        Case(name: "lookalike of Transfer-Encoding", bytes: get("Transfer_Encoding: chunked")),
        Case(name: "lookalike of X-Forwarded-For", bytes: get("X_Forwarded_For: 1.1.1.1")),
        Case(
            name: "Connection nominates Content-Length", bytes: post("Connection: content-length\r\nContent-Length: 0")),
        Case(
            name: "Connection nominates Transfer-Encoding",
            bytes: post("Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        Case(name: "unknown expectation", bytes: get("Expect: 100-continue, x"), status: 417),
        Case(name: "CONNECT", bytes: "CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", status: 405),
        Case(
            name: "CONNECT with content",
            bytes: "CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\nContent-Length: 1\r\n\r\nx"),
    ]

    @Test("A head that is refused", arguments: cases)
    func refused(_ test: Case) throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        // A second request behind it must not be taken for one.
        try client.send(test.bytes + head("GET /smuggled HTTP/1.1", "Host: t"))
        let response = try client.response()
        #expect(response.status == test.status)
        #expect(response["Connection"] == "close")
        #expect(response["Proxy-Status"] != nil)
        if test.status == 405 { #expect(response["Allow"]?.contains("GET") == true) }
        #expect(client.end() == .ended)
        #expect(origin.connectionCount == 0)
    }

    @Test(
        "Content that is refused",
        arguments: [
            "zz\r\nx\r\n", "\r\n", "5\nhello\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n",
            "-5\r\nhello\r\n", "+5\r\nhello\r\n", "10000000000000000\r\nx", "FFFFFFFFFFFFFFFFF\r\nx", "5;\r\nhello\r\n",
            "5;a=\u{1}\r\nhello\r\n", "5;a\rb\r\nhello\r\n", "5\r\r\nhello\r\n", "0\r\nX-A : b\r\n\r\n",
            "0\r\nX-A\r\n\r\n",
            "0\r\nContent-Length: 5\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nHost: x\r\n\r\n",
            "0\r\nAuthorization: x\r\n\r\n", "0\r\n X: folded\r\n\r\n", "0\r\nX: a\nb\r\n\r\n", "0\n\n",
            "1;" + String(repeating: "e", count: 5000) + "\r\nx\r\n0\r\n\r\n",
        ])
    func badChunks(content: String) throws {
        let ended = Handoff<[UInt8]>()
        let origin = Origin { wire, _ in
            _ = try wire.head()
            ended.give(wire.drain().bytes)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask(
            "POST / HTTP/1.1", "Transfer-Encoding: chunked",
            content: content + head("GET /smuggled HTTP/1.1", "Host: t"))
        #expect(try client.response().status == 400)
        #expect(client.end() == .ended)
        if origin.connectionCount > 0 {
            // The head had gone up at once; the message was not ended there.
            #expect(!String(decoding: try ended.take(), as: UTF8.self).contains("0\r\n\r\n"))
        }
    }

    @Test func emptyLinesBeforeARequestAreForgiven() throws {
        let proxy = try Headfirst(to: Origin.serving())
        let client = try proxy.connect()
        try client.send("\r\n\r\n" + head("GET / HTTP/1.1", "Host: t"))
        #expect(try client.response().status == 200)
        try client.send("\r\n" + head("GET / HTTP/1.1", "Host: t"))
        #expect(try client.response().status == 200)
    }

    @Test(
        "What is right, however odd, passes",
        arguments: [
            get("X-A:"), get("X-A:   \t b \t"), get("!#$%&'*+-.^_`|~: x"), get("X_Custom: x"),
            get("Connection: ,, ,close"),
            "get / HTTP/1.1\r\nHost: t\r\n\r\n", "A!B / HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n", post("Content-Length: 0005", "hello"),
            post("Transfer-Encoding: CHUNKED", "0\r\n\r\n"),
            post("Transfer-Encoding: chunked", "0005;a=b;c=\"d\"\r\nhello\r\n000\r\nX: y\r\n\r\n"),
        ])
    func odd(request: String) throws {
        let proxy = try Headfirst(to: Origin.serving())
        #expect(try proxy.answer(to: request).status == 200)
    }
}
