// Responses: heads, interim heads, and where the content ends (RFC 9112 sections 4 and 6.3).

import HTTP1
import HTTPSemantics
import Testing

@Suite struct ResponseTests {
    private let feeder = Feeder()

    private func check(
        _ text: String, _ expected: [Told], to requestMethods: [HTTPSemantics.Method] = [], endsInput: Bool = false,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let result = feeder.toldInEveryWay(
            Array(text.utf8), .response, requestMethods: requestMethods, endsInput: endsInput)
        #expect(result.events == expected, sourceLocation: sourceLocation)
        #expect(result.differing == nil, sourceLocation: sourceLocation)
        #expect(result.left == 0, sourceLocation: sourceLocation)
    }

    @Test func statusLines() {
        let end = "\r\nContent-Length: 0\r\n\r\n"
        func told(_ status: String) -> [Told] { [.head("\(status) 1.1 length=0\nContent-Length: 0\n"), .ended] }
        check("HTTP/1.1 200 OK" + end, told("200 [OK]"))
        check("HTTP/1.1 200 " + end, told("200 []"))
        check("HTTP/1.1 200" + end, told("200 []"))
        check("HTTP/1.1 200  two  spaces " + end, told("200 [ two  spaces ]"))
        check("HTTP/1.1 404 N\u{E9}e\t!" + end, told("404 [N\u{E9}e\t!]"))
        check("HTTP/1.1 999 x" + end, told("999 [x]"))
    }

    @Test func contentThatEndsWithTheConnection() {
        check(
            "HTTP/1.1 200 OK\r\n\r\nhello", [.head("200 [OK] 1.1 untilClose\n"), content("hello"), .ended],
            endsInput: true)
        check("HTTP/1.1 200 OK\r\n\r\n", [.head("200 [OK] 1.1 untilClose\n"), .ended], endsInput: true)
        check("HTTP/1.1 200 OK\r\n\r\nhello", [.head("200 [OK] 1.1 untilClose\n"), content("hello")])
        check(
            "HTTP/1.0 200 OK\r\n\r\nx", [.head("200 [OK] 1.0 untilClose closes\n"), content("x"), .ended],
            endsInput: true)
    }

    @Test func anEndThatComesTooEarlyIsNone() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            [.head("200 [OK] 1.1 length=3\nContent-Length: 3\n"), content("ab")], endsInput: true)
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        let head = Told.head("200 [OK] 1.1 chunked\n(Transfer-Encoding: chunked)\n")
        check(chunked, [head], endsInput: true)
        check(chunked + "2\r\nab\r\n", [head, content("ab")], endsInput: true)
        check(chunked + "2\r\nab\r\n0\r\n\r\n", [head, content("ab"), .ended], endsInput: true)
        for incomplete in [chunked + "2\r\nab\r\n0\r\n", chunked + "2\r\nab\r\n0\r\nX: y\r\n", chunked + "2"] {
            let told = feeder.told(incomplete, .response, endsInput: true)
            #expect(!told.contains(.ended))
        }
        #expect(feeder.told("HTTP/1.1 200 OK\r\n", .response, endsInput: true) == [])
    }

    @Test(arguments: [100, 102, 103, 199])
    func interim(_ status: Int) {
        check(
            "HTTP/1.1 \(status) Wait\r\nLink: </a>\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 N\r\nX: y\r\n\r\n",
            [
                .interim("\(status) [Wait] 1.1 none\nLink: </a>\n"), .interim("103 [E] 1.1 none\n"),
                .head("204 [N] 1.1 none\nX: y\n"), .ended,
            ])
    }

    @Test func interimHeadsHaveNoContent() {
        check(
            "HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
            [.interim("103 [E] 1.1 none\nContent-Length: 5\n"), .head("204 [N] 1.1 none\n"), .ended])
    }

    @Test func aSwitchIsFinal() {
        let told = feeder.told(
            [Array("HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\nbytes".utf8)[...]], .response, messagesMax: 1)
        #expect(told.events == [.head("101 [S] 1.1 none\n(Upgrade: x)\n"), .ended])
        #expect(told.left == 5)
    }

    @Test(arguments: ["Content-Length: 5", "Transfer-Encoding: chunked", "X: y"])
    func answersWithoutContent(_ line: String) {
        let isDropped = line.hasPrefix("Transfer")
        let field = isDropped ? "(\(line))" : line
        for status in [204, 304] {
            check(
                "HTTP/1.1 \(status) N\r\n\(line)\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
                [.head("\(status) [N] 1.1 none\n\(field)\n"), .ended, .head("204 [N] 1.1 none\n"), .ended])
        }
        check(
            "HTTP/1.1 200 OK\r\n\(line)\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            [
                .head("200 [OK] 1.1 none\n\(field)\n"), .ended,
                .head("200 [OK] 1.1 length=1\nContent-Length: 1\n"), content("x"), .ended,
            ],
            to: [.head, .get])
    }

    @Test func aTunnelBeginsBehindA2xxToCONNECT() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nx",
            [
                .head("200 [OK] 1.1 none\nContent-Length: 5\n"), .ended,
                .head("407 [No] 1.1 length=1\nContent-Length: 1\n"), content("x"), .ended,
            ],
            to: [.connect, .connect])
    }

    @Test func interimHeadsBeforeAnAnswerToHEAD() {
        check(
            "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
            [
                .interim("103 [E] 1.1 none\n"), .head("200 [OK] 1.1 none\nContent-Length: 9\n"), .ended,
                .head("204 [N] 1.1 none\n"), .ended,
            ],
            to: [.head])
    }

    @Test func keepAliveTimeout() {
        func seconds(_ value: String) -> UInt32? {
            _ = feeder.told("HTTP/1.1 204 N\r\nKeep-Alive: \(value)\r\n\r\n", .response, messagesMax: 1)
            let storage = feeder.head.storage.pointee
            return storage.facts.contains(.keepAliveTimeout) ? storage.keepAliveTimeoutSeconds : nil
        }
        #expect(seconds("timeout=5") == 5)
        #expect(seconds("max=100, Timeout=60") == 60)
        #expect(seconds("timeout=0") == 0)
        #expect(seconds("timeout=") == nil)
        #expect(seconds("timeout=x") == nil)
        #expect(seconds("timeout=4294967296") == nil)
        #expect(seconds("xtimeout=5") == nil)
        #expect(seconds("") == nil)
    }

    @Test func nominatedFieldsAreDropped() {
        check(
            "HTTP/1.1 204 N\r\nX-A: 1\r\nConnection: close, x-a ,X-B,,\r\nx-b: 2\r\nX-AB: 3\r\nX-A: 4\r\n\r\n",
            [
                .head(
                    "204 [N] 1.1 none closes\n(X-A: 1)\n(Connection: close, x-a ,X-B,,)\n(x-b: 2)\nX-AB: 3\n(X-A: 4)\n"),
                .ended,
            ])
    }

    @Test func fieldsThatAreKeptThoughNominated() {
        let request = """
            GET / HTTP/1.1\r\nConnection: host, Authorization, forwarded, X-Forwarded-For, x-forwarded-proto, \
            x-forwarded-host, via, cookie, keep-alive, date\r\nHost: a\r\nAuthorization: b\r\nForwarded: for=c\r\n\
            X-Forwarded-For: d\r\nX-Forwarded-Proto: e\r\nX-Forwarded-Host: f\r\nVia: 1.1 g\r\nCookie: h\r\n\
            Keep-Alive: i\r\nDate: j\r\n\r\n
            """
        _ = feeder.told(request, .request, messagesMax: 1)
        let storage = feeder.head.storage.pointee
        let kept = (0..<storage.fieldCount).map { feeder.head.fields[$0] }.filter { !$0.isDropped }
        #expect(
            kept.map { feeder.head.text($0.name) } == [
                "Host", "Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via",
            ])
        #expect(!storage.facts.contains(.date))
    }

    @Test func hopByHopFieldsAreDropped() {
        let request = """
            GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: 1\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
            Upgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: TE, Upgrade, HTTP2-Settings\r\nTrailer: X\r\n\r\n
            """
        _ = feeder.told(request, .request, messagesMax: 1)
        let kept = (0..<feeder.head.storage.pointee.fieldCount).map { feeder.head.fields[$0] }
            .filter { !$0.isDropped }.map { feeder.head.text($0.name) }
        #expect(kept == ["Host", "Trailer"])
    }
}
