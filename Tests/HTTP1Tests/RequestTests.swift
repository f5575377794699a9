// Requests: what is accepted and what it becomes (RFC 9112 sections 2, 3, 5, 6).

import HTTP1
import HTTPSemantics
import Testing

@Suite struct RequestTests {
    private let feeder = Feeder()

    private func check(
        _ text: String, _ expected: [Told], left: Int = 0, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let result = feeder.toldInEveryWay(Array(text.utf8), .request)
        #expect(result.events == expected, sourceLocation: sourceLocation)
        #expect(result.differing == nil, sourceLocation: sourceLocation)
        #expect(result.left == left, sourceLocation: sourceLocation)
    }

    @Test func simplest() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", [.head("get GET / 1.1 none\nHost: a\n"), .ended])
    }

    @Test func valuesLoseTheSpaceAroundThemAndNothingElse() {
        check(
            "GET / HTTP/1.1\r\nHost:a\r\nX-One: \t b  c\t \r\nX-Empty:\r\nX-Blank:   \r\nX-8: \u{E9}\r\n\r\n",
            [.head("get GET / 1.1 none\nHost: a\nX-One: b  c\nX-Empty: \nX-Blank: \nX-8: \u{E9}\n"), .ended])
    }

    @Test func longValuesWithTabs() {
        // Tabs at each place of a word of eight bytes.
        for place in 0..<24 {
            var value = [UInt8](repeating: UInt8(ascii: "v"), count: 25)
            value[place] = 9
            let text = String(decoding: value, as: UTF8.self)
            let trimmed = place == 0 ? String(text.dropFirst()) : text
            #expect(
                feeder.told("GET / HTTP/1.1\r\nHost: a\r\nX: \(text)\r\n\r\n", .request)
                    == [.head("get GET / 1.1 none\nHost: a\nX: \(trimmed)\n"), .ended])
        }
    }

    @Test func everyTokenByteInNames() {
        let name = "!#$%&'*+-.^_`|~09azAZ"
        check(
            "GET / HTTP/1.1\r\n\(name): v\r\nHost: a\r\n\r\n",
            [.head("get GET / 1.1 none\n\(name): v\nHost: a\n"), .ended])
    }

    @Test(arguments: [
        ("GET", Method.get), ("HEAD", .head), ("POST", .post), ("PUT", .put), ("DELETE", .delete),
        ("OPTIONS", .options), ("TRACE", .trace), ("get", .other), ("GETS", .other), ("PATCH", .other),
        ("PRI", .other), ("M-SEARCH", .other), ("POSt", .other),
    ])
    func methods(_ name: String, _ method: Method) {
        check("\(name) / HTTP/1.1\r\nHost: a\r\n\r\n", [.head("\(method) \(name) / 1.1 none\nHost: a\n"), .ended])
    }

    @Test func methodsThatMayBeRepeated() {
        // RFC 9110 section 9.2.2.
        let idempotent: [Method] = [.get, .head, .put, .delete, .options, .trace]
        let other: [Method] = [.post, .connect, .other]
        #expect(idempotent.map(\.isIdempotent) == Array(repeating: true, count: 6))
        #expect(other.map(\.isIdempotent) == Array(repeating: false, count: 3))
    }

    @Test func content() {
        check(
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            [
                .head("post POST /a 1.1 length=5\nHost: a\nContent-Length: 5\n"), HTTP1Tests.content("hello"), .ended,
            ])
        check(
            "POST /a HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n",
            [.head("post POST /a 1.1 length=0\nHost: a\ncontent-length: 0\n"), .ended])
        // GET may have content, and its bytes are never the next request.
        check(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET",
            [.head("get GET / 1.1 length=3\nHost: a\nContent-Length: 3\n"), HTTP1Tests.content("GET"), .ended])
    }

    @Test func lengthsThatAgreeAreOne() {
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nok",
            [
                .head("post POST / 1.1 length=2\nHost: a\nContent-Length: 2\n(Content-Length: 02)\n"),
                HTTP1Tests.content("ok"), .ended,
            ])
    }

    @Test func chunkedIsTheOnlyCoding() {
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked \r\n\r\n0\r\n\r\n",
            [.head("post POST / 1.1 chunked\nHost: a\n(Transfer-Encoding: Chunked)\n"), .ended])
    }

    @Test func pipelined() {
        let one = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        let two = "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        let three = "PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n\r\n"
        check(
            one + two + three + one,
            [
                .head("get GET /1 1.1 none\nHost: a\n"), .ended,
                .head("post POST /2 1.1 length=1\nHost: a\nContent-Length: 1\n"), HTTP1Tests.content("x"), .ended,
                .head("put PUT /3 1.1 chunked\nHost: a\n(Transfer-Encoding: chunked)\n"), HTTP1Tests.content("y"),
                .ended,
                .head("get GET /1 1.1 none\nHost: a\n"), .ended,
            ])
    }

    @Test func bytesBehindAMessageAreLeft() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next"
        let result = feeder.told([Array(text.utf8)[...]], .request, messagesMax: 1)
        #expect(result.events.last == .ended)
        #expect(result.left == 9)
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /n", [.head("get GET / 1.1 none\nHost: a\n"), .ended], left: 6)
    }

    /// Asks so many times for the next event.
    private func pull(_ count: Int, _ decoder: inout HTTP1Decoder, _ bytes: [UInt8]) -> ([MessageEvent], Int) {
        var offset = 0
        let events = bytes.withUnsafeBufferPointer { input in
            (0..<count).map { _ in decoder.next(input, from: &offset, into: feeder.head, limits: standardLimits) }
        }
        return (events, offset)
    }

    @Test func theEndIsToldOnce() {
        var decoder = HTTP1Decoder(.request)
        let bytes = Array("GET / HTTP/1.1\r\nHost: a\r\n\r\nrest".utf8)
        let (events, consumed) = pull(4, &decoder, bytes)
        #expect(events == [.head, .ended, .needsInput, .needsInput])
        #expect(consumed == bytes.count - 4)
        #expect(decoder.isEnded)
        decoder.startNext()
        #expect(!decoder.isEnded)
    }

    @Test func nothingFollowsAFailure() {
        var decoder = HTTP1Decoder(.request)
        let bytes = Array("GET / HTTP/1.1\r\nbad name: x\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".utf8)
        let (events, consumed) = pull(3, &decoder, bytes)
        #expect(events == [.failed(.fieldName), .needsInput, .needsInput])
        #expect(consumed == 0)
        let isComplete = decoder.inputEnded()
        #expect(!isComplete)
    }

    @Test func emptyLinesBeforeARequest() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        let told: [Told] = [.head("get GET / 1.1 none\nHost: a\n"), .ended]
        check("\r\n" + request, told)
        check(String(repeating: "\r\n", count: 8) + request, told)
        check(String(repeating: "\r\n", count: 9) + request, [.failed(.startLine)], left: request.utf8.count + 2)
        // The count begins anew with each request.
        let eight = String(repeating: "\r\n", count: 8)
        check(eight + request + eight + request, told + told)
    }

    @Test func HTTP10() {
        check("GET / HTTP/1.0\r\n\r\n", [.head("get GET / 1.0 none closes\n"), .ended])
        check(
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            [.head("get GET / 1.0 none\n(Connection: Keep-Alive)\n"), .ended])
        check(
            "POST / HTTP/1.0\r\nContent-Length: 1\r\nConnection: close, keep-alive\r\n\r\nx",
            [
                .head(
                    "post POST / 1.0 length=1 closes\nContent-Length: 1\n(Connection: close, keep-alive)\n"),
                HTTP1Tests.content("x"), .ended,
            ])
    }

    @Test func persistence() {
        func persists(_ fields: String, version: String = "1.1") -> Bool {
            guard
                case .head(let text) = feeder.told("GET / HTTP/\(version)\r\nHost: a\r\n\(fields)\r\n", .request).first
            else { return false }
            return !text.contains(" closes\n")
        }
        #expect(persists(""))
        #expect(!persists("Connection: close\r\n"))
        #expect(!persists("Connection: foo ,\t CLOSE\r\n"))
        #expect(!persists("Connection: keep-alive\r\nConnection: close\r\n"))
        #expect(persists("Connection: closed\r\n"))
        #expect(!persists("Proxy-Connection: keep-alive\r\n", version: "1.0"))
    }

    @Test func targets() {
        /// Origin-form, authority, and `absolute` for the absolute-form; nil if it is refused.
        func split(_ target: String, method: String = "GET", host: String = "h") -> String? {
            let told = feeder.told("\(method) \(target) HTTP/1.1\r\nHost: \(host)\r\n\r\n", .request, messagesMax: 1)
            guard case .head = told.first else { return nil }
            let storage = feeder.head.storage.pointee
            let form = storage.facts.contains(.absoluteForm) ? " absolute" : ""
            return "\(feeder.head.text(storage.originForm)) \(feeder.head.text(storage.authority))\(form)"
        }
        #expect(split("/") == "/ h")
        #expect(split("/a/../b//c?d=%00&e") == "/a/../b//c?d=%00&e h")
        #expect(split("//evil/x") == "//evil/x h")
        #expect(split("*", method: "OPTIONS") == "* h")
        #expect(split("*") == nil)
        #expect(split("**", method: "OPTIONS") == nil)
        #expect(split("http://h/a?b") == "/a?b h absolute")
        #expect(split("HTTP://H/a") == "/a H absolute")
        #expect(split("http://h") == " h absolute")
        #expect(split("http://h?q") == "?q h absolute")
        #expect(split("http://h:80/", host: "h") == "/ h:80 absolute")
        #expect(split("http://h/", host: "h:80") == "/ h absolute")
        #expect(split("http://h:/", host: "H") == "/ h: absolute")
        #expect(split("http://[::1]:8080/", host: "[::1]:8080") == "/ [::1]:8080 absolute")
        #expect(split("https://h/a") == "/a h absolute")
        for target in [
            "a", "http:/h/", "http://", "http:///a", "http://u@h/", "http://u:p@h/", "ftp://h/", "http://h:x/",
            "http://h:65536/", "h:80", "mailto:x",
        ] { #expect(split(target) == nil, "\(target)") }
        #expect(split("h:80", method: "CONNECT", host: "h:80") == " h:80 absolute")
        for target in ["h", "/", "*", "http://h/", "h:", "h:x", ":80", "h:80/"] {
            #expect(split(target, method: "CONNECT", host: target) == nil, "CONNECT \(target)")
        }
    }

    @Test func factsOfARequest() {
        func facts(_ fields: String, version: String = "1.1", method: String = "POST") -> HeadFacts? {
            let told = feeder.told("\(method) / HTTP/\(version)\r\nHost: a\r\n\(fields)\r\n", .request, messagesMax: 1)
            if case .head = told.first {
                return feeder.head.storage.pointee.facts.subtracting([.host, .needsRewriting])
            }
            return nil
        }
        #expect(facts("") == [])
        let length = "Content-Length: 1\r\n"
        #expect(facts("Expect: 100-Continue\r\n" + length) == [.expectsContinue, .contentLength])
        for list in ["100-continue,", ", 100-continue", "100-continue, 100-Continue", "100-continue ,\t"] {
            #expect(facts("Expect: \(list)\r\n" + length) == [.expectsContinue, .contentLength])
        }
        #expect(facts("Expect:\r\n" + length) == [.contentLength])
        #expect(facts("Expect: 100-continue\r\n" + length, version: "1.0") == [.contentLength, .isHTTP10])
        #expect(facts("Expect: 100-continue\r\n") == [])
        #expect(facts("Connection: expect\r\nExpect: 100-continue\r\n" + length) == [.contentLength, .nominates])
        #expect(facts("TE: trailers\r\n") == [.acceptsTrailers])
        #expect(facts("TE: gzip;q=0.5, Trailers\r\n") == [.acceptsTrailers])
        #expect(facts("TE: trailersx\r\n") == [])
        #expect(facts("Upgrade: websocket\r\nConnection: Upgrade\r\n") == [.mayOpenTunnel, .connectionUpgrade])
        #expect(facts("X-Request-Id: 1\r\n") == [.requestID])
        #expect(facts("X-Request-Id:\r\n") == [])
        #expect(facts("Max-Forwards: 7\r\n") == [])
        #expect(facts("Max-Forwards: 7\r\n", method: "OPTIONS") == [.maxForwards])
        #expect(feeder.head.storage.pointee.maxForwards == 7)
    }
}
