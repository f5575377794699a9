// Responses, interim responses and trailers as they go down, byte for byte (docs/FORWARDING.md, rules 2, 3 and 7).

import HTTPSemantics
import Testing

@testable import ProxyCore

@Suite struct ResponseRewriteTests {
    private let tail = "Date: DATE\r\nVia: 1.1 headfirst\r\n"

    private func check(
        _ received: String, _ expected: String, _ rewriter: Rewriter? = nil, toHEAD: Bool = false,
        toHTTP10: Bool = false, closes: Bool = false, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let rewriter = try rewriter ?? Rewriter()
        #expect(
            try rewriter.response(received, toHEAD: toHEAD, toHTTP10: toHTTP10, closes: closes) == expected,
            sourceLocation: sourceLocation)
    }

    @Test func whatIsNotOursIsKept() throws {
        let lines =
            "sErVeR: x\r\nSet-Cookie: a\r\nset-cookie:  b \r\nX-Empty:\r\nX-8: \u{E9}\r\nTrailer: Y\r\nDate: theirs\r\n"
        try check(
            "HTTP/1.1 299 Odd \u{E9} reason\r\n\(lines)Content-Length: 3\r\nETag: \"x\"\r\n\r\n",
            "HTTP/1.1 299 Odd \u{E9} reason\r\n\(lines)Content-Length: 3\r\nETag: \"x\"\r\nVia: 1.1 headfirst\r\n\r\n")
    }

    @Test func statusLines() throws {
        let rest = "\r\nContent-Length: 0\r\n"
        try check("HTTP/1.1 200 \(rest)\r\n", "HTTP/1.1 200 \(rest)\(tail)\r\n")
        try check("HTTP/1.1 200\(rest)\r\n", "HTTP/1.1 200 \(rest)\(tail)\r\n")
        try check(
            "HTTP/1.0 200 OK\(rest)\r\n",
            "HTTP/1.1 200 OK\(rest)\(tail.replacing("1.1 head", with: "1.0 head"))\r\n")
    }

    @Test func hopByHopFieldsGo() throws {
        try check(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n"
                + "Upgrade: h2\r\nProxy-Connection: x\r\nX-B: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-B: 2\r\n\(tail)\r\n")
    }

    @Test func framing() throws {
        let to11: [(String, String)] = [
            ("content-length: 07\r\nX: y\r\n", "content-length: 7\r\nX: y\r\n"),
            ("Content-Length: 7\r\nX: y\r\nContent-Length: 7\r\n", "Content-Length: 7\r\nX: y\r\n"),
            ("transfer-ENCODING: Chunked\r\nX: y\r\n", "transfer-ENCODING: chunked\r\nX: y\r\n"),
            ("X: y\r\n", "X: y\r\nTransfer-Encoding: chunked\r\n"),
        ]
        for (received, written) in to11 {
            try check("HTTP/1.1 200 OK\r\n\(received)\r\n", "HTTP/1.1 200 OK\r\n\(written)\(tail)\r\n")
        }
        let to10: [(String, String)] = [
            ("Content-Length: 7\r\nX: y\r\n", "Content-Length: 7\r\nX: y\r\n"),
            ("Transfer-Encoding: chunked\r\nX: y\r\nTrailer: Z\r\n", "X: y\r\n"), ("X: y\r\n", "X: y\r\n"),
        ]
        for (received, written) in to10 {
            try check(
                "HTTP/1.1 200 OK\r\n\(received)\r\n", "HTTP/1.1 200 OK\r\n\(written)\(tail)Connection: close\r\n\r\n",
                toHTTP10: true, closes: true)
        }
    }

    @Test func whatAnAnswerWithoutContentSaysOfIt() throws {
        for line in ["Content-Length: 700\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            try check(
                "HTTP/1.1 200 OK\r\n\(line)X: y\r\n\r\n", "HTTP/1.1 200 OK\r\n\(line)X: y\r\n\(tail)\r\n", toHEAD: true)
            try check("HTTP/1.1 304 N\r\n\(line)X: y\r\n\r\n", "HTTP/1.1 304 N\r\n\(line)X: y\r\n\(tail)\r\n")
            // RFC 9110 section 8.6, RFC 9112 section 6.1: a 204 tells neither.
            try check("HTTP/1.1 204 N\r\n\(line)X: y\r\n\r\n", "HTTP/1.1 204 N\r\nX: y\r\n\(tail)\r\n")
        }
        try check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\(tail)Connection: keep-alive\r\n\r\n", toHEAD: true, toHTTP10: true)
    }

    @Test func framingTowardsTheClient() throws {
        for (lines, to11, to10) in [
            ("Content-Length: 3\r\n", Framing.length, Framing.length),
            ("Transfer-Encoding: chunked\r\n", .chunked, .untilClose),
            ("", .chunked, .untilClose),
        ] {
            let head = try ParsedHead.response(200, lines)
            defer { withExtendedLifetime(head) {} }
            #expect(HeadRewrite.downstreamFraming(head.head, isToHTTP10: false) == to11)
            #expect(HeadRewrite.downstreamFraming(head.head, isToHTTP10: true) == to10)
        }
        let none = try ParsedHead.response(304, "Content-Length: 3\r\n")
        defer { withExtendedLifetime(none) {} }
        #expect(HeadRewrite.downstreamFraming(none.head, isToHTTP10: false) == .none)
        #expect(HeadRewrite.downstreamFraming(none.head, isToHTTP10: true) == .none)
    }

    @Test func persistence() throws {
        let received = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\(tail)"
        try check(received, start + "\r\n")
        try check(received, start + "Connection: close\r\n\r\n", closes: true)
        try check(received, start + "Connection: keep-alive\r\n\r\n", toHTTP10: true)
        try check(received, start + "Connection: close\r\n\r\n", toHTTP10: true, closes: true)
    }

    @Test func viaAndDate() throws {
        try check(
            "HTTP/1.1 204 N\r\nvia: 1.1 one\r\nX: y\r\nVia: 2 two\r\n\r\n",
            "HTTP/1.1 204 N\r\nX: y\r\nDate: DATE\r\nVia: 1.1 one, 2 two, 1.1 headfirst\r\n\r\n")
        try check(
            "HTTP/1.1 204 N\r\nvia: 1.1 one\r\ndate: theirs\r\n\r\n",
            "HTTP/1.1 204 N\r\nvia: 1.1 one\r\ndate: theirs\r\n\r\n",
            Rewriter("via off;"))
        try check(
            "HTTP/1.1 204 N\r\nConnection: date\r\nDate: theirs\r\n\r\n", "HTTP/1.1 204 N\r\n\(tail)\r\n")
    }

    @Test func edits() throws {
        try check(
            "HTTP/1.1 200 OK\r\nServer: x\r\nX-A: 1\r\nContent-Length: 0\r\nx-a: 2\r\nVia: z\r\nDate: theirs\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: example.com /p node-1\r\nX-B: 1\r\nX-B: 2\r\n\r\n",
            Rewriter(
                """
                remove_response_field server;
                set_response_field X-A "$host $path $node";
                add_response_field X-B 1;
                add_response_field X-B 2;
                remove_response_field via;
                remove_response_field Date;
                """
            ))
    }

    @Test(arguments: [100, 102, 103])
    func interim(_ status: Int) throws {
        let parsed = try ParsedHead(
            "HTTP/1.1 \(status) Any\r\nLink: </a>; rel=preload\r\nConnection: X-A\r\nX-A: 1\r\nContent-Length: 5\r\n"
                + "link:  </b>\r\n\r\n",
            .response)
        let rewriter = try Rewriter()
        defer { withExtendedLifetime((rewriter, parsed)) {} }
        let rewrite = HeadRewrite(
            parsed.head, values: rewriter.values(parsed.head, route: nil), via: rewriter.snapshot.listeners[0].via)
        #expect(
            written { rewrite.writeInterim(to: &$0) }
                == "HTTP/1.1 \(status) Any\r\nLink: </a>; rel=preload\r\nlink:  </b>\r\n\r\n")
        let bare = try ParsedHead("HTTP/1.1 \(status)\r\n\r\n", .response)
        defer { withExtendedLifetime(bare) {} }
        let bareRewrite = HeadRewrite(bare.head, values: rewriter.values(bare.head, route: nil), via: bytes(""))
        #expect(written { bareRewrite.writeInterim(to: &$0) } == "HTTP/1.1 \(status) \r\n\r\n")
    }

    @Test func trailers() throws {
        let trailers = try ParsedTrailers("ETag:  \"a\"\r\nKeep-Alive: x\r\nX: y\r\n\r\n")
        defer { withExtendedLifetime(trailers) {} }
        #expect(written { HeadRewrite.writeTrailers(trailers.head, to: &$0) } == "0\r\nETag:  \"a\"\r\nX: y\r\n\r\n")
    }
}
