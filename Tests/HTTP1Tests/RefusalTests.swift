// What two parsers could read differently is refused, always with the same fault however the bytes arrive.

import HTTP1
import HTTPSemantics
import Testing

@Suite struct RefusalTests {
    private let feeder = Feeder()

    private func expectFault(
        _ text: String, _ fault: HeadFault, _ kind: MessageKind = .request,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        // What follows makes a half-read line whole, so that the refusal does not depend on more input.
        let result = feeder.fault(text, kind)
        #expect(result.fault == fault, "\(text.debugDescription)", sourceLocation: sourceLocation)
        #expect(result.differing == nil, "\(text.debugDescription)", sourceLocation: sourceLocation)
    }

    @Test(arguments: [
        ("\n\r\n", HeadFault.method), ("\rGET / HTTP/1.1\r\n\r\n", .method), (" GET / HTTP/1.1\r\n\r\n", .method),
        ("\n GET / HTTP/1.1\r\n\r\n", .method), ("G(T / HTTP/1.1\r\n\r\n", .method),
        ("G\u{E9}T / HTTP/1.1\r\n\r\n", .method), ("GET\t/ HTTP/1.1\r\n\r\n", .method), ("GET\r\n\r\n", .method),
        ("\0GET / HTTP/1.1\r\n\r\n", .method),
        ("GET  / HTTP/1.1\r\n\r\n", .target), ("GET /\r\n\r\n", .target), ("GET /a b HTTP/1.1\r\n\r\n", .startLine),
        ("GET /a\tb HTTP/1.1\r\n\r\n", .target), ("GET /\u{7F} HTTP/1.1\r\n\r\n", .target),
        ("GET /\u{E9} HTTP/1.1\r\n\r\n", .target), ("GET /#x HTTP/1.1\r\n\r\n", .target),
        ("GET /aaaaaaaaaaaa#x HTTP/1.1\r\n\r\n", .target), ("GET /\0 HTTP/1.1\r\n\r\n", .target),
        ("GET x HTTP/1.1\r\n\r\n", .target), ("GET http://u@a/ HTTP/1.1\r\n\r\n", .target),
        ("GET / HTTP/1.1 \r\n\r\n", .startLine), ("GET /  HTTP/1.1\r\n\r\n", .startLine),
        ("GET / http/1.1\r\n\r\n", .startLine), ("GET / HTTP/1,1\r\n\r\n", .startLine),
        ("GET / HTTP/1.10\r\n\r\n", .startLine), ("GET / HTTP/11\r\n\r\n\r\n", .startLine),
        ("GET / HTTP/x.1\r\n\r\n", .startLine), ("GET / HTTP/1.1\n\r\n", .startLine),
        ("GET / HTTP/1.1\rX\r\n\r\n", .startLine), ("GET / HTTP/1.1\r\r\n\r\n", .startLine),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", .version), ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", .version),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", .version), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .version),
    ])
    func requestLines(_ text: String, _ fault: HeadFault) { expectFault(text, fault) }

    @Test(arguments: [
        (": a value that is long enough", HeadFault.fieldName), ("Host : a", HeadFault.fieldName),
        ("Host\t: a", .fieldName), (": a", .fieldName), ("No colon", .fieldName),
        ("X(: a", .fieldName), ("X\0: a", .fieldName), ("X\u{E9}: a", .fieldName), ("X", .fieldName),
        (" X: a", .folding), ("\tX: a", .folding), ("X: a\r\n b", .folding),
        ("Content\rLength: 1", .fieldName), ("Transfer\rEncoding: chunked", .fieldName),
        ("http\u{12}-settings: x", .fieldName), ("Accept\rEncoding: x", .fieldName),
        ("X: a\u{1}b", .fieldValue), ("X: a\0b", .fieldValue), ("X: a\u{7F}", .fieldValue),
        ("X: aaaaaaaaaaaaaaaa\u{1F}", .fieldValue),
        ("X: a\nY: b", .lineEnd), ("X: a\rY: b", .lineEnd), ("X: a\r\rY: b", .lineEnd), ("\nX: a", .lineEnd),
        ("X\n: a", .lineEnd), ("X\r\n: a", .fieldName),
        ("Content_Length: 1", .lookalikeName), ("content-_length: 1", HeadFault.hostMissing),
        ("Transfer_Encoding: chunked", .lookalikeName), ("X_Forwarded-For: a", .lookalikeName),
        ("x_forwarded_proto: https", .lookalikeName), ("X_REQUEST_ID: 1", .lookalikeName),
        ("keep_alive: 1", .lookalikeName), ("Proxy_Authorization: x", .lookalikeName),
        ("Max_Forwards: 1", .lookalikeName), ("Proxy_Connection: x", .lookalikeName),
    ])
    func fieldLines(_ lines: String, _ fault: HeadFault) {
        expectFault("GET / HTTP/1.1\r\n\(lines)\r\n\r\n", fault)
    }

    @Test(arguments: ["user_agent: x", "X_Any: y", "content_type: text/plain", "cookie_: z"])
    func underscoresThatImitateNothingPass(_ line: String) {
        #expect(feeder.fault("GET / HTTP/1.1\r\nHost: a\r\n\(line)\r\n\r\n").fault == nil)
    }

    @Test(arguments: [
        ("", HeadFault.hostMissing), ("Host: a\r\nHost: a\r\n", .hostTwice), ("Host:\r\n", .host),
        ("Host: a b\r\n", .host), ("Host: a/b\r\n", .host), ("Host: u@a\r\n", .host), ("Host: a:b\r\n", .host),
        ("Host: a:70000\r\n", .host), ("Host: a:80:80\r\n", .host), ("Host: [::1\r\n", .host),
        ("Host: []\r\n", .host), ("Host: [::1]x\r\n", .host), ("Host: [a z]\r\n", .host), ("Host: ::1\r\n", .host),
        ("Host: :80\r\n", .host), ("Host: a,\u{E9}\r\n", .host), ("Host: \"a\"\r\n", .host),
        ("Host: a\\b\r\n", .host), ("Host: a?b\r\n", .host), ("Host: <a>\r\n", .host),
    ])
    func hosts(_ fields: String, _ fault: HeadFault) { expectFault("GET / HTTP/1.1\r\n\(fields)\r\n", fault) }

    @Test(arguments: ["a", "a.b-c.d", "a:", "a:0", "a:65535", "127.0.0.1:8080", "[::1]", "[fe80::1]:443", "a_b", "%41"])
    func hostsThatPass(_ host: String) {
        #expect(feeder.fault("GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n").fault == nil)
    }

    @Test(arguments: [
        ("http://a/", "b"), ("http://a:8080/", "a"), ("http://a/", "a:8080"), ("http://a.b/", "a"), ("http://a/", "aa"),
        ("http://a:80/", "a:8080"), ("https://a/", "a:80"), ("http://a/", "a:443"), ("http://[::1]/", "[::2]"),
    ])
    func absoluteFormAgainstHost(_ target: String, _ host: String) {
        expectFault("GET \(target) HTTP/1.1\r\nHost: \(host)\r\n\r\n", .host)
    }

    @Test(arguments: [
        ("http://A.b/", "a.B:80"), ("http://a:80/", "a"), ("https://a/", "a:443"), ("https://a:443/", "a"),
    ])
    func absoluteFormThatAgreesWithHost(_ target: String, _ host: String) {
        #expect(feeder.fault("GET \(target) HTTP/1.1\r\nHost: \(host)\r\n\r\n").fault == nil)
    }

    @Test func absoluteFormNeedsHostToo() {
        expectFault("GET http://a/ HTTP/1.1\r\n\r\n", .hostMissing)
        #expect(feeder.fault("GET http://a/ HTTP/1.0\r\n\r\n").fault == nil)
    }

    @Test(arguments: [
        ("Content-Length: ", HeadFault.contentLength), ("Content-Length: -1", .contentLength),
        ("Content-Length: +1", .contentLength), ("Content-Length: 1 2", .contentLength),
        ("Content-Length: 0x1", .contentLength), ("Content-Length: 1.0", .contentLength),
        ("Content-Length: 1, 1", .contentLength), ("Content-Length: 1,", .contentLength),
        ("Content-Length: 9223372036854775808", .contentLength),
        ("Content-Length: 18446744073709551616", .contentLength),
        ("Content-Length: 00000000000000000001", .contentLength),
        ("Content-Length: 1\r\nContent-Length: 2", .contentLength),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", .framingConflict),
        ("Transfer-Encoding: chunked\r\nContent-Length: 1", .framingConflict),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", .framingConflict),
        ("Transfer-Encoding:", .transferEncoding), ("Transfer-Encoding: ,", .transferEncoding),
        ("Transfer-Encoding: identity", .transferEncoding), ("Transfer-Encoding: gzip", .transferEncoding),
        ("Transfer-Encoding: chunked, gzip", .transferEncoding),
        ("Transfer-Encoding: chunked, chunked", .transferEncoding),
        ("Transfer-Encoding: chunked,", .transferEncoding), ("Transfer-Encoding: ,chunked", .transferEncoding),
        ("Transfer-Encoding: gzip,, chunked", .transferEncoding),
        ("Transfer-Encoding: xchunked", .transferEncoding), ("Transfer-Encoding: chunkedx", .transferEncoding),
        ("Transfer-Encoding: chun ked", .transferEncoding), ("Transfer-Encoding: \"chunked\"", .transferEncoding),
        ("Transfer-Encoding: chunked;a=b", .transferEncoding), ("Transfer-Encoding: \u{B}chunked", .fieldValue),
        ("Transfer-Encoding: gzip;q=1, chunked", .transferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", .transferEncoding),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", .transferEncoding),
        ("Transfer-Encoding: gzip, chunked", .transferCoding),
        ("Transfer-Encoding: Deflate ,\tCHUNKED", .transferCoding),
    ])
    func framing(_ fields: String, _ fault: HeadFault) {
        expectFault("POST / HTTP/1.1\r\nHost: a\r\n\(fields)\r\n\r\n", fault)
    }

    @Test func chunkedInHTTP10() {
        expectFault("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", .transferEncoding)
        expectFault("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", .transferEncoding, .response)
    }

    @Test(arguments: [
        ("Connection: content-length", HeadFault.nomination), ("Connection: close, Transfer-Encoding", .nomination),
        ("Connection: x\r\nConnection: CONTENT-LENGTH", .nomination), ("Expect: 200-ok", .expectation),
        ("Expect: 100-continue, x", .expectation), ("Expect: 100-continue;q=1", .expectation),
        ("Max-Forwards: x", .maxForwards),
        ("Max-Forwards:", .maxForwards), ("Max-Forwards: 4294967296", .maxForwards),
        ("Max-Forwards: 1\r\nMax-Forwards: 1", .maxForwards),
    ])
    func others(_ fields: String, _ fault: HeadFault) {
        expectFault("OPTIONS * HTTP/1.1\r\nHost: a\r\n\(fields)\r\n\r\n", fault)
    }

    @Test func expectationsOfResponsesAreNotOurs() {
        #expect(feeder.fault("HTTP/1.1 200 OK\r\nExpect: x\r\nHost: a\r\nHost: b\r\n\r\n", .response).fault == nil)
    }

    @Test(arguments: [
        ("HTTP/1.1 99 x\r\n\r\n", HeadFault.status), ("HTTP/1.1 099 x\r\n\r\n", .status),
        ("HTTP/1.1 2000 x\r\n\r\n", .status), ("HTTP/1.1 20 x\r\n\r\n", .status), ("HTTP/1.1  200 x\r\n\r\n", .status),
        ("HTTP/1.1\t200 x\r\n\r\n", .status), ("HTTP/1.1 2x0 x\r\n\r\n", .status), ("HTTP/1.1 200x\r\n\r\n", .status),
        ("HTTP/1.1 200\n\r\n", .lineEnd), ("HTTP/1.1 200 x\n\r\n", .lineEnd), ("HTTP/1.1 200 x\ry\r\n", .lineEnd),
        ("HTTP/1.1 200 a\0b\r\n\r\n", .startLine), ("HTTP/1.1\r\n\r\n", .status), ("HTTP/2.0 200 OK\r\n\r\n", .version),
        ("HTTP/1.2 200 OK\r\n\r\n", .version), ("ICY 200 OK\r\n\r\n", .startLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", .startLine),
        ("http/1.1 200 OK\r\n\r\n", .startLine), ("HTTP/1.1 200 OK\r\n X: a\r\n\r\n", .folding),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", .fieldName), ("HTTP/1.1 200 OK\r\nX: a\n\r\n", .lineEnd),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", .contentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", .framingConflict),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", .transferEncoding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", .transferCoding),
        ("HTTP/1.1 200 OK\r\nConnection: content-length\r\n\r\n", .nomination),
        ("HTTP/1.1 103 E\r\nContent-Length: x\r\n\r\n", .contentLength),
    ])
    func responses(_ text: String, _ fault: HeadFault) { expectFault(text, fault, .response) }

    @Test(arguments: HeadFault.allCases)
    func statuses(_ fault: HeadFault) {
        // docs/FORWARDING.md, rules 11 and 13.
        let expected: UInt16 =
            switch fault {
            case .targetTooLong: 414
            case .headTooLong, .tooManyFields: 431
            case .version: 505
            case .transferCoding: 501
            case .expectation: 417
            default: 400
            }
        #expect(fault.requestStatus == expected)
        #expect(fault.explanation.utf8CodeUnitCount > 0)
    }
}
