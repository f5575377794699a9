// Requests as they go up, byte for byte (docs/FORWARDING.md, rules 3 and 7).

import HTTPSemantics
import Testing

@testable import ProxyCore

@Suite struct RequestRewriteTests {
    private func check(
        _ received: String, _ expected: String, _ rewriter: Rewriter? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let rewriter = try rewriter ?? Rewriter()
        #expect(try rewriter.request(received) == expected, sourceLocation: sourceLocation)
    }

    @Test func whatIsNotOursIsKept() throws {
        // Case, order, duplicates, odd white space, empty values, bytes beyond ASCII, and the target to the byte.
        let lines =
            "hOsT: a\r\naccept:*/*\r\nX-B:  two  blanks \t\r\nx-b: again\r\nX-Empty:\r\nX-8: \u{E9}\r\n"
            + "Cookie: a=b\r\nCookie: c=d\r\nUser_Agent: z\r\nDate: any\r\nTrailer: X\r\n"
        try check(
            "GET /a/../%2e//b?x=%00&y= HTTP/1.1\r\n\(lines)\r\n",
            "GET /a/../%2e//b?x=%00&y= HTTP/1.1\r\n\(lines)\(Rewriter.additions())\r\n")
        try check("get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n")
    }

    @Test func whichRequestsAreUsual() throws {
        func isUsual(_ lines: String, _ target: String = "/", version: String = "1.1", peer: String = "1.2.3.4") throws
            -> Bool
        {
            let request = try ParsedHead.request("GET", target, version: version, lines)
            defer { withExtendedLifetime(request) {} }
            let peer = Peer(address: try #require(IPAddress(peer)), port: 1, isUnix: false, isTrusted: true)
            return withUnsafePointer(to: peer) { HeadRewrite.isUsualRequest(request.head, from: $0) }
        }
        #expect(try isUsual(""))
        #expect(try isUsual("Content-Length: 5\r\nCookie: a\r\nX-Request-Id: b\r\n"))
        for lines in [
            "Content-Length:5\r\n", "Content-Length: 05\r\n", "Transfer-Encoding: chunked\r\n", "Via: 1.1 a\r\n",
            "Connection: keep-alive\r\n", "Keep-Alive: 1\r\n", "TE: trailers\r\n", "Upgrade: x\r\n",
            "Proxy-Connection: x\r\n", "HTTP2-Settings: x\r\n", "Expect: 100-continue\r\n", "Forwarded: for=a\r\n",
            "X-Forwarded-For: a\r\n", "X-Forwarded-Proto: a\r\n", "X-Forwarded-Host: a\r\n", "X-Request-Id:\r\n",
        ] { #expect(try !isUsual(lines), "\(lines)") }
        #expect(try !isUsual("", "http://example.com/"))
        #expect(try !isUsual("", version: "1.0"))
        #expect(try !isUsual("", peer: "::1"))
    }

    @Test func hopByHopFieldsGo() throws {
        try check(
            "GET / HTTP/1.1\r\nConnection: close, X-A, te\r\nHost: a\r\nX-A: 1\r\nKeep-Alive: 5\r\nX-B: 2\r\n"
                + "Proxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nTE: gzip\r\nX-C: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-B: 2\r\nX-C: 3\r\n\(Rewriter.additions())\r\n")
    }

    @Test func onlyTrailersAreLeftOfTE() throws {
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())TE: trailers\r\nConnection: TE\r\n\r\n")
    }

    @Test func framingIsOurs() throws {
        let rest = "X: y\r\n"
        for (received, written) in [
            ("Content-Length: 5\r\n", "Content-Length: 5\r\n"),
            ("content-LENGTH:  007\t\r\n", "content-LENGTH: 7\r\n"),
            ("Content-Length:5\r\n", "Content-Length: 5\r\n"), ("Content-Length: 5 \r\n", "Content-Length: 5\r\n"),
            ("Content-Length:\t5\r\n", "Content-Length: 5\r\n"), ("Content-Length: 00\r\n", "Content-Length: 0\r\n"),
            ("Content-Length: 0\r\n", "Content-Length: 0\r\n"),
            ("Content-Length: 5\r\nContent-Length: 05\r\n", "Content-Length: 5\r\n"),
            ("transfer-encoding:  Chunked \r\n", "transfer-encoding: chunked\r\n"),
        ] {
            try check(
                "POST / HTTP/1.1\r\nHost: a\r\n\(received)\(rest)\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\n\(written)\(rest)\(Rewriter.additions())\r\n")
        }
    }

    @Test func absoluteForm() throws {
        for (target, host, path) in [
            ("http://B:80/x?y", "b", "/x?y"), ("http://b", "b", "/"), ("http://b?q", "b", "/?q"),
            ("HTTP://b/", "B:80", "/"),
        ] {
            let authority = target.dropFirst(7).prefix { $0 != "/" && $0 != "?" }
            try check(
                "GET \(target) HTTP/1.1\r\nA: 1\r\nhost: \(host)\r\nB: 2\r\n\r\n",
                "GET \(path) HTTP/1.1\r\nA: 1\r\nHost: \(authority)\r\nB: 2\r\n"
                    + Rewriter.additions(host: String(authority), quoted: authority.contains(":") || host.contains(":"))
                    + "\r\n")
        }
        try check(
            "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n")
        try check(
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n")
    }

    @Test func HTTP10() throws {
        // Without Host the server's own authority stands in, and nothing is said about a host that was not asked for.
        try check(
            "GET / HTTP/1.0\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:9000\r\nX: y\r\nX-Forwarded-For: 192.0.2.7\r\n"
                + "X-Forwarded-Proto: http\r\nForwarded: for=192.0.2.7;proto=http\r\nVia: 1.0 headfirst\r\n"
                + "X-Request-Id: 00112233445566778899aabbccddeeff\r\n\r\n")
        try check(
            "GET http://b/ HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: b\r\n"
                + Rewriter.additions(host: "b").replacing("1.1 headfirst", with: "1.0 headfirst") + "\r\n")
        try check(
            "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                + Rewriter.additions().replacing("1.1 headfirst", with: "1.0 headfirst") + "\r\n")
    }

    @Test func forwardingFieldsOfAPeerThatIsNotTrusted() throws {
        try check(
            "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nForwarded: for=x\r\nHost: a\r\nX-Forwarded-Proto: https\r\n"
                + "x-forwarded-host: evil\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\(Rewriter.additions())\r\n")
    }

    @Test func forwardingFieldsOfATrustedPeer() throws {
        try check(
            "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nForwarded: for=x;proto=https\r\nHost: a\r\n"
                + "X-Forwarded-Proto: https\r\nx-forwarded-host: outer\r\nx-forwarded-for: 2.2.2.2\r\n"
                + "X-Forwarded-For:\r\nforwarded: for=z\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nx-forwarded-host: outer\r\nX: y\r\n"
                + "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7\r\n"
                + "Forwarded: for=x;proto=https, for=z, for=192.0.2.7;host=a;proto=http\r\nVia: 1.1 headfirst\r\n"
                + "X-Request-Id: 00112233445566778899aabbccddeeff\r\n\r\n",
            Rewriter(isTrusted: true))
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n",
            Rewriter(isTrusted: true))
    }

    @Test(
        "Our element is never a part of a quoted string that a trusted peer began",
        arguments: [
            (["for=\"x"], ""), (["for=\"x", "for=b"], ""), (["for=b", "for=\"x"], ""), (["for=\"x", "y\""], ""),
            (["for=\"x\\\""], ""), (["for=a\"b"], ""), (["for=a\"b;by=\"c"], ""),
            (
                ["for=\"[2001:db8::1]\"", "for=\"_\\\"x, y\" ; by=c"],
                "for=\"[2001:db8::1]\", for=\"_\\\"x, y\" ; by=c, "
            ),
        ])
    func quotesInForwarded(received: [String], kept: String) throws {
        let lines = received.map { "Forwarded: \($0)\r\n" }.joined()
        // X-Forwarded-For has no quoted strings, and is judged for itself.
        let expected = Rewriter.additions().replacing("For: 192", with: "For: 1.1.1.1, 192")
            .replacing("Forwarded: for", with: "Forwarded: \(kept)for")
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\n\(lines)\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(expected)\r\n", Rewriter(isTrusted: true))
    }

    @Test(arguments: [
        "2001:db8::1", "::1", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", "255.255.255.255", "1.2.3.4",
        "1:2:3:4:5:6:7:8", "2001:db8::1:1", "2001:db8::12:12",
    ])
    func addresses(_ address: String) throws {
        for isTrusted in [false, true] {
            try check(
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions(address: address))\r\n",
                Rewriter(peer: address, isTrusted: isTrusted))
        }
    }

    @Test func peersOnUnixSockets() throws {
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: unix:\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n"
                + "Forwarded: for=unknown;host=a;proto=http\r\nVia: 1.1 headfirst\r\n"
                + "X-Request-Id: 00112233445566778899aabbccddeeff\r\n\r\n",
            Rewriter(isUnix: true))
    }

    @Test(arguments: [("a:8080", true), ("[::1]", true), ("a.b-c_d~", false), ("a=b", true), ("(a)", true)])
    func hostsInForwarded(_ host: String, _ isQuoted: Bool) throws {
        try check(
            "GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \(host)\r\n\(Rewriter.additions(host: host, quoted: isQuoted))\r\n")
    }

    @Test func viaIsOneListAtTheEnd() throws {
        try check(
            "GET / HTTP/1.1\r\nvia: 1.0 one\r\nHost: a\r\nVia: 1.1 two, 2 three\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions(before: "1.0 one, 1.1 two, 2 three, "))\r\n")
        let off = Rewriter.additions().replacing("Via: 1.1 headfirst\r\n", with: "")
        try check(
            "GET / HTTP/1.1\r\nvia: 1.0 one\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nvia: 1.0 one\r\nHost: a\r\n\(off)\r\n",
            Rewriter("via off;"))
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions().replacing("headfirst", with: "edge-1"))\r\n",
            Rewriter("via edge-1;"))
    }

    @Test func requestIDs() throws {
        let without = Rewriter.additions().replacing("X-Request-Id: 00112233445566778899aabbccddeeff\r\n", with: "")
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nx-request-id: mine\r\n\(without)\r\n")
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n")
    }

    @Test(
        "Of two X-Request-Ids the first with a value is the request's; lines without one do not go up",
        arguments: [
            (["one", "two"], ["one", "two"]), (["", "two"], ["two"]), (["one", ""], ["one"]),
            (["", "two", "", "three"], ["two", "three"]),
        ])
    func severalRequestIDs(received: [String], kept: [String]) throws {
        func lines(_ values: [String]) -> String { values.map { "X-Request-Id: \($0)\r\n" }.joined() }
        let own = "X-Request-Id: 00112233445566778899aabbccddeeff\r\n"
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\(lines(received))X: y\r\n\r\n"
        let before = "GET / HTTP/1.1\r\nHost: a\r\n\(lines(kept))X: y\r\n"
        let additions = Rewriter.additions().replacing(own, with: "")
        try check(request, before + additions + "\r\n")
        try check(
            request, before + additions + "X-Named: \(kept[0])\r\n\r\n",
            Rewriter("set_request_field X-Named $request_id;"))
        // An operator who wants one line upstream has it by this.
        try check(
            request, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\(additions)X-Request-Id: \(kept[0])\r\n\r\n",
            Rewriter("set_request_field X-Request-Id $request_id;"))
    }

    @Test(
        arguments: [
            (0, 0), (.max, .max), (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210), (0x9A9A_A9A9_0F0F_F0F0, 1),
        ] as [(UInt64, UInt64)])
    func digitsOfRequestIDs(_ high: UInt64, _ low: UInt64) {
        func padded(_ value: UInt64) -> String {
            let digits = String(value, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }
        let id = RequestID(high: high, low: low)
        #expect(written(capacity: 32) { id.write(to: &$0) } == padded(high) + padded(low))
        #expect(written(capacity: 31) { id.write(to: &$0) } == nil)
        let next = id.next(low: 7)
        #expect(written(capacity: 32) { next.write(to: &$0) } == padded(high) + padded(7))
        #expect(next != id)
        #expect(id.next(low: low) == id)
    }

    @Test func maxForwards() throws {
        try check(
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nmax-forwards: 010\r\nX: y\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 9\r\nX: y\r\n\(Rewriter.additions())\r\n")
        // Of other methods it is a field like any other (RFC 9110 section 7.6.2).
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nmax-forwards: 10\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nmax-forwards: 10\r\n\(Rewriter.additions())\r\n")
    }

    @Test func expectations() throws {
        try check(
            "POST / HTTP/1.1\r\nHost: a\r\nexpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nexpect: 100-Continue\r\nContent-Length: 1\r\n\(Rewriter.additions())\r\n")
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\(Rewriter.additions())\r\n")
    }

    @Test func setAddAndRemove() throws {
        let rewriter = try Rewriter(
            """
            set_request_field X-Set one;
            add_request_field X-Add two;
            add_request_field X-Add three;
            remove_request_field X-Gone;
            remove_request_field X-Forwarded-Host;
            remove_request_field Forwarded;
            set_request_field X-Forwarded-Proto https;
            remove_request_field Via;
            remove_request_field X-Request-Id;
            """)
        try check(
            "GET / HTTP/1.1\r\nHost: a\r\nx-set: old\r\nX-Add: zero\r\nx-gone: 1\r\nX-SET: older\r\nX: y\r\nVia: z\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Add: zero\r\nX: y\r\nX-Forwarded-For: 192.0.2.7\r\nX-Set: one\r\n"
                + "X-Add: two\r\nX-Add: three\r\nX-Forwarded-Proto: https\r\n\r\n",
            rewriter)
    }

    @Test func laterEditsWin() throws {
        // The listener's, then the route's.
        let snapshot = try snapshot(
            """
            add_request_field A 1;
            set_request_field B 1;
            remove_request_field C;
            route / { upstream app; set_request_field A 2; remove_request_field B; add_request_field C 2; }
            """)
        let parsed = try ParsedHead("GET / HTTP/1.1\r\nHost: a\r\nA: 0\r\nB: 0\r\nC: 0\r\n\r\n", .request)
        let route = try #require(snapshot.listeners[0].router.route(parsed.head))
        let rewriter = try Rewriter("via off;")
        defer { withExtendedLifetime((snapshot, rewriter, parsed)) {} }
        let rewrite = HeadRewrite(
            parsed.head, values: rewriter.values(parsed.head, route: route), via: rewriter.snapshot.listeners[0].via)
        let text = try #require(
            written { rewrite.writeRequest(edits: route.pointee.requestEdits, serverAuthority: bytes("s"), to: &$0) })
        #expect(text.hasPrefix("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For"))
        #expect(text.hasSuffix("ddeeff\r\nA: 2\r\nC: 2\r\n\r\n"))
    }

    @Test func settingHost() throws {
        let rewriter = try Rewriter("set_request_field Host inner.example:8080;")
        let tail = "X: y\r\n\(Rewriter.additions())\r\n"
        try check(
            "GET / HTTP/1.1\r\nhost: a\r\nX: y\r\n\r\n", "GET / HTTP/1.1\r\nHost: inner.example:8080\r\n\(tail)",
            rewriter)
        try check(
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: inner.example:8080\r\n\(tail)",
            rewriter)
        let text = try #require(try rewriter.request("GET / HTTP/1.0\r\nX: y\r\n\r\n"))
        #expect(text.hasPrefix("GET / HTTP/1.1\r\nHost: inner.example:8080\r\nX: y\r\n"))
    }

    @Test(arguments: [
        ("$host", "b.example"), ("$node", "node-1"), ("$client_address", "192.0.2.7"), ("$client_port", "4711"),
        ("$scheme", "http"), ("$method", "GET"), ("$target", "/p/q?r=s?t"), ("$path", "/p/q"), ("$query", "r=s?t"),
        ("$request_id", "00112233445566778899aabbccddeeff"), ("$listener", "web"), ("$route", "/"),
        ("$upstream", "app"),
        ("a-$method-$path", "a-GET-/p/q"),
    ])
    func variables(_ template: String, _ value: String) throws {
        let rewriter = try Rewriter("set_request_field V \"\(template)\";")
        let text = try #require(try rewriter.request("GET /p/q?r=s?t HTTP/1.1\r\nHost: B.Example:81\r\n\r\n"))
        #expect(text.hasSuffix("\r\nV: \(value)\r\n\r\n"))
    }

    @Test func variablesOfAnAbsoluteForm() throws {
        let rewriter = try Rewriter("set_request_field V \"$host|$path|$query|$target\";")
        for (target, value) in [
            ("http://B:81/p?q", "b|/p|q|/p?q"), ("http://b", "b|||/"), ("http://b/?", "b|/||/?"),
            ("http://b?x:/y", "b||x:/y|/?x:/y"), ("https://[::1]:8/p", "[::1]|/p||/p"),
        ] {
            let host = target.split(separator: "//")[1].prefix { $0 != "/" && $0 != "?" }
            let text = try #require(try rewriter.request("GET \(target) HTTP/1.1\r\nHost: \(host)\r\n\r\n"))
            #expect(text.hasSuffix("\r\nV: \(value)\r\n\r\n"))
        }
    }

    @Test func theReceivedRequestIDIsTheVariable() throws {
        let rewriter = try Rewriter("set_request_field V $request_id;")
        let text = try #require(try rewriter.request("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n"))
        #expect(text.hasSuffix("\r\nV: mine\r\n\r\n"))
    }

    @Test func roomThatDoesNotSuffice() throws {
        let rewriter = try Rewriter("add_request_field A $target;")
        let request = "POST /abc HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 3\r\n\r\n"
        let text = try #require(try rewriter.request(request))
        for capacity in 0..<text.utf8.count { #expect(try rewriter.request(request, capacity: capacity) == nil) }
        // Numbers and addresses ask for the room of the longest of their kind.
        #expect(try rewriter.request(request, capacity: text.utf8.count + 64) == text)
    }
}
