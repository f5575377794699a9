// What is refused: by a fault that the proxy answers, or by a reset; never passed on (RFC 9113 section 8).

import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct RefusalTests {
    private func with(_ name: String, _ value: String) -> [(String, String)] {
        Frame.get.map { $0.0 == name ? (name, value) : $0 }
    }

    private func without(_ name: String) -> [(String, String)] { Frame.get.filter { $0.0 != name } }

    /// Names and values that nghttp2 refuses: the stream is reset, and nobody hears of it.
    @Test(arguments: [
        ("connection", "close"), ("keep-alive", "1"), ("proxy-connection", "close"), ("transfer-encoding", "chunked"),
        ("upgrade", "x"), ("te", "gzip"), ("X-Upper", "1"), ("x y", "1"), ("x\ny", "1"), ("x:y", "1"), ("", "1"),
        ("x", "a\r\nb"), ("x", "a\0b"), ("x", "a\nb"), ("x", " a"), ("x", "a "), (":status", "200"), (":x", "1"),
        (":path", "/again"), ("content-length", "a"), ("content-length", "-1"), ("content-length", "5"),
    ])
    func fieldsThatMayNotBe(_ name: String, _ value: String) {
        let end = End.server(Frame.headers(Frame.get + [(name, value)]))
        #expect(end.told == [.settings])
        let resets = end.codes(ofType: 3)
        #expect(resets == [HTTP2ErrorCode.protocolError])
    }

    @Test(arguments: [":method", ":scheme", ":path"])
    func pseudoFieldsThatAreMissing(_ name: String) {
        let end = End.server(Frame.headers(without(name)))
        #expect(end.told == [.settings])
        #expect(end.codes(ofType: 3) == [HTTP2ErrorCode.protocolError])
    }

    @Test(arguments: [
        (":path", "/a b"), (":path", "/a\r\nX: y"), (":path", ""), (":path", "a"), (":path", "/#f"), (":path", "*"),
        (":path", "http://b/"), (":method", "G T"), (":method", ""), (":authority", "u@a"), (":authority", "a/b"),
        (":authority", "a b"), (":authority", "a:99999"), (":scheme", "ht tp"),
    ])
    func pseudoFieldsThatAreMalformed(_ name: String, _ value: String) {
        let end = End.server(Frame.headers(with(name, value)))
        let isFailed = end.told.contains { if case .failed = $0 { true } else { false } }
        let isReset = !end.codes(ofType: 3).isEmpty
        #expect(isFailed || isReset)
        #expect(!end.told.contains { if case .head = $0 { true } else { false } })
    }

    @Test(arguments: [
        (("host", "b"), HeadFault.host), (("x_forwarded_for", "1"), .lookalikeName),
        (("content_length", "1"), .lookalikeName),
        (("expect", "x"), .expectation),
    ])
    func faultsThatAreAnswered(_ field: (String, String), _ fault: HeadFault) {
        let end = End.server(Frame.headers(Frame.get + [field]))
        #expect(end.told.contains(.failed(stream: 1, fault)))
    }

    @Test func aHostThatRepeatsTheAuthorityIsOne() {
        let end = End.server(Frame.headers(Frame.get + [("host", "A")]))
        #expect(end.told.contains(.head(stream: 1, "GET / HTTP/1.1|Host: a")))
    }

    @Test func hostAloneIsEnough() {
        let end = End.server(Frame.headers(without(":authority") + [("host", "b")]))
        #expect(end.told.contains(.head(stream: 1, "GET / HTTP/1.1|host: b")))
    }

    @Test(arguments: ["content-length", "transfer-encoding", "host", "authorization", "cookie", ":path"])
    func trailersThatMayNotBe(_ name: String) {
        let start = Frame.headers(
            [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")], endsStream: false)
        let end = End.server(start + Frame.headers([(name, "1")]))
        let isFailed = end.told.contains(.failed(stream: 1, .trailers))
        #expect(isFailed || end.codes(ofType: 3) == [HTTP2ErrorCode.protocolError])
        #expect(!end.told.contains { if case .trailers = $0 { true } else { false } })
    }

    @Test(arguments: ["abc", "abcdefg"])
    func contentThatIsNotAsDeclared(_ content: String) {
        let start = Frame.headers(
            [
                (":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("content-length", "5"),
            ], endsStream: false)
        let end = End.server(start + Frame.make(0, flags: 1, stream: 1, Array(content.utf8)))
        #expect(!end.told.contains(.ended(stream: 1)))
        #expect(end.codes(ofType: 3) == [HTTP2ErrorCode.protocolError])
    }

    // MARK: Limits

    @Test func headsBeyondTheirBounds() {
        let long = String(repeating: "p", count: 9000)
        #expect(
            End.server(Frame.headers(with(":path", "/" + long))).told.contains(.failed(stream: 1, .targetTooLong)))
        let many = (0..<101).map { ("x-\($0)", "1") }
        #expect(End.server(Frame.headers(Frame.get + many)).told.contains(.failed(stream: 1, .tooManyFields)))
        let large = [("x", String(repeating: "v", count: 15_000)), ("y", String(repeating: "v", count: 1_500))]
        let block = Frame.fields(Frame.get + large)
        let frames =
            Frame.make(1, flags: 1, stream: 1, Array(block.prefix(16_000)))
            + Frame.make(9, flags: 4, stream: 1, Array(block.dropFirst(16_000)))
        #expect(End.server(frames).told.contains(.failed(stream: 1, .headTooLong)))
        // The connection goes on, its table of fields in step.
        let end = End.server(frames + Frame.headers(Frame.get, stream: 3))
        #expect(end.told.contains(.head(stream: 3, "GET / HTTP/1.1|Host: a")))
    }

    @Test(arguments: [1, 3, Int.max])
    func streamsBeyondTheBoundAreRefused(_ piece: Int) {
        let end = End.server(
            (0..<3).flatMap { Frame.headers(Frame.get, stream: UInt32(1 + 2 * $0)) },
            HTTP2Session.Limits(sectionBytesMax: 8192, streamsMax: 2), piece: piece)
        #expect(end.codes(ofType: 3) == [HTTP2ErrorCode.refusedStream])
        #expect(end.streams.count == 2)
    }
}
