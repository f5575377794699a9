// What is explained, part by part. That it is also what happens is for the tests of the running proxy to say
// (IntegrationTests/ExplainTests).

import HTTP1
import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

/// What a worker's decoder says of a head.
private func readHead(_ bytes: UnsafeBufferPointer<UInt8>, _ head: Head, _ limits: HeadLimits) -> HeadFault? {
    var decoder = HTTP1Decoder(.request)
    var offset = 0
    let event = decoder.next(bytes, from: &offset, into: head, limits: limits)
    if case .failed(let fault) = event { return fault }
    #expect(event == .head)
    return nil
}

private func parsed(_ text: String) throws -> Configuration {
    try ConfigurationFile.parse(text: Array(text.utf8), file: "test.conf").configuration
}

private func explain(
    _ method: String, _ url: String, _ fields: String..., in configuration: Configuration, listener: String? = nil,
    client: String? = nil
) throws -> Explanation {
    try Explanation(
        of: ExplainedRequest(method: method, url: url, fields: fields), in: configuration, listener: listener,
        client: client.flatMap { IPAddress($0) }, nodeName: "node-1", readingHeadBy: readHead)
}

private func head(_ lines: String...) -> String { lines.joined(separator: "\r\n") + "\r\n\r\n" }

@Suite struct ExplainedRequestTests {
    private func text(_ method: String, _ url: String, _ fields: String...) throws -> String {
        String(decoding: try ExplainedRequest(method: method, url: url, fields: fields).bytes, as: UTF8.self)
    }

    @Test(arguments: [
        ("http://a.test/x?y=%20z", "/x?y=%20z", "a.test"), ("http://a.test", "/", "a.test"),
        ("HTTP://A.test?q", "/?q", "A.test"), ("http://a.test:80/", "/", "a.test"),
        ("http://a.test:8080/x#part", "/x", "a.test:8080"), ("http://[::1]:81/", "/", "[::1]:81"),
        ("http://[::1]/./..//", "/./..//", "[::1]"), ("/only/a/path?x#y", "/only/a/path?x#y", "localhost"),
        ("*", "*", "localhost"),
    ])
    func whatAURLMeans(url: String, target: String, host: String) throws {
        #expect(try text("GET", url) == head("GET \(target) HTTP/1.1", "Host: \(host)"))
    }

    @Test func fieldsPassAsTheyAreAndHostIsReplaced() throws {
        #expect(
            try text("GET", "http://a.test/", "X-A:1", "X-a : 2")
                == head("GET / HTTP/1.1", "Host: a.test", "X-A:1", "X-a : 2"))
        #expect(try text("GET", "http://a.test/", "hOST: b") == head("GET / HTTP/1.1", "hOST: b"))
        #expect(try text("CONNECT", "db:1", "A: b") == head("CONNECT db:1 HTTP/1.1", "Host: db:1", "A: b"))
    }

    @Test(arguments: [
        "a.test/", "ftp://a.test/", "", "http://", "http:///x", "http://:80/", "http://a.test:x/",
        "http://a.test:0/", "http://a.test:65536/", "http://u:p@a.test/",
    ])
    func whatIsNoURL(url: String) {
        #expect { try ExplainedRequest(method: "GET", url: url) } throws: { error in
            if case ExplanationError.url? = error as? ExplanationError { true } else { false }
        }
    }

    @Test func aLineIsOneLine() {
        for (method, url, field) in [
            ("GET\r\nX: y", "/", "A: b"), ("GET", "/\nx", "A: b"), ("GET", "/", "A: b\rc"), ("GET", "/", "no colon"),
        ] {
            #expect { try ExplainedRequest(method: method, url: url, fields: [field]) } throws: { error in
                if case ExplanationError.line? = error as? ExplanationError { true } else { false }
            }
        }
    }
}

@Suite struct ListenerChoiceTests {
    private let configuration: Configuration

    init() throws {
        configuration = try parsed(
            """
            listener local { bind 127.0.0.1:8080; bind [::1]:8080; route / { respond 200; } }
            listener open { bind 0.0.0.0:80; bind 10.0.0.1:8080; route / { respond 200; } }
            listener tunnels { bind unix:/run/t.sock; connect allow *:443; route / { respond 200; } }
            """)
    }

    @Test(arguments: [
        ("http://127.0.0.1:8080/", "local", ListenerChoice.address), ("http://[::1]:8080/", "local", .address),
        ("http://localhost:8080/", "local", .address), ("http://any.test:8080/", "local", .address),
        ("http://10.0.0.1:8080/", "open", .address), ("http://any.test/", "open", .address),
        ("http://192.0.2.9/", "open", .address), ("http://localhost/", "open", .address),
        ("http://[2001:db8::1]/", "local", .first), ("http://10.0.0.2:8080/", "local", .first),
        ("http://any.test:99/", "local", .first), ("/", "local", .first),
    ])
    func theFirstThatFits(url: String, name: String, choice: ListenerChoice) throws {
        let found = try explain("GET", url, in: configuration)
        #expect(found.listener.name == name)
        #expect(found.listenerChoice == choice)
    }

    @Test func connectGoesWhereItMay() throws {
        let found = try explain("CONNECT", "db.test:443", in: configuration)
        #expect(found.listener.name == "tunnels")
        #expect(found.listenerChoice == .connect)
        // Its only address is a Unix socket, so the client has no other.
        #expect(found.client == "unix:")
        #expect(try explain("CONNECT", "db.test:443", in: configuration, client: "10.0.0.9").client == "10.0.0.9")
    }

    @Test func theOneThatIsNamed() throws {
        let found = try explain("GET", "http://127.0.0.1:8080/", in: configuration, listener: "open")
        #expect(found.listener.name == "open")
        #expect(found.listenerChoice == .named)
        #expect(throws: ExplanationError.listener("opn", known: ["local", "open", "tunnels"])) {
            try explain("GET", "/", in: configuration, listener: "opn")
        }
    }
}

@Suite struct ExplanationTests {
    private func refusal(_ explanation: Explanation) throws -> (Failure, HeadFault) {
        guard case .refused(let failure, let fault, let response) = explanation.outcome else {
            throw Unexpected(what: explanation.outcomeText)
        }
        #expect(
            String(decoding: response, as: UTF8.self).hasPrefix("HTTP/1.1 \(failure.status(fault)) "),
            "\(explanation.outcomeText)")
        return (failure, fault)
    }

    private struct Unexpected: Error { let what: String }

    private func timerNames(_ explanation: Explanation) -> [String] { explanation.timers.map(\.name) }

    // MARK: Where it goes

    @Test func hostAndRoute() throws {
        let configuration = try configuration(
            """
            host api.test *.api.test {
                route /v1 { upstream other; retries 0; }
                route = /v1/x { respond 200; }
            }
            route /v1 { upstream app; }
            """)
        let deep = try #require(try explain("GET", "http://b.api.test/v1/y", in: configuration).matched)
        #expect(deep.hosts == ["api.test", "*.api.test"])
        #expect(deep.route.name == "/v1")
        #expect(deep.route.location == SourceLocation(file: "test.conf", line: 6, column: 5))
        #expect(deep.upstream?.name == "other")
        let exact = try #require(try explain("GET", "http://api.test/v1/x", in: configuration).matched)
        #expect(exact.route.name == "= /v1/x")
        #expect(exact.upstream == nil)
        let own = try #require(try explain("GET", "http://c.test/v1/x", in: configuration).matched)
        #expect(own.hosts == [])
        #expect(own.route.location.line == 9)
        #expect(own.upstream?.name == "app")
    }

    @Test func theHeadAsItGoesUp() throws {
        let plain = try explain(
            "GET", "http://a.test/x", "Connection: X-Gone", "X-Gone: 1", "x-KEPT:  1 ",
            in: configuration("route / { upstream app; }"))
        #expect(
            plain.outcomeText
                == head(
                    "GET /x HTTP/1.1", "Host: a.test", "x-KEPT:  1 ", "X-Forwarded-For: 192.0.2.1",
                    "X-Forwarded-Proto: http", "X-Forwarded-Host: a.test",
                    "Forwarded: for=192.0.2.1;host=a.test;proto=http", "Via: 1.1 headfirst",
                    "X-Request-Id: 00000000000000000000000000000000"))
        #expect(plain.standIns.count == 2)
        let edited = try explain(
            "GET", "/x?y", "X-Request-Id: mine", "X-Forwarded-For: 1.2.3.4",
            in: configuration(
                """
                trusted_proxies 10.0.0.0/8; via off;
                set_request_field Host h.test; add_request_field X-From "$client_address:$client_port $request_id $node";
                route / { upstream app; }
                """), client: "10.1.1.1")
        #expect(
            edited.outcomeText
                == head(
                    "GET /x?y HTTP/1.1", "Host: h.test", "X-Request-Id: mine", "X-Forwarded-For: 1.2.3.4, 10.1.1.1",
                    "X-Forwarded-Proto: http", "X-Forwarded-Host: localhost",
                    "Forwarded: for=10.1.1.1;host=localhost;proto=http", "X-From: 10.1.1.1:49152 mine node-1"))
        #expect(edited.clientIsTrusted)
        #expect(edited.standIns == ["49152 stands for the client's port"])
    }

    // MARK: Answers of the proxy's own

    @Test func respondAndRedirect() throws {
        let configuration = try configuration(
            """
            set_response_field X-Host $host;
            route /up { respond 201 "hello $path"; }
            route /old { redirect 307 http://$host/new; }
            """)
        let respond = try explain("GET", "http://A.test/up/x", in: configuration)
        #expect(
            respond.outcomeText
                == head(
                    "HTTP/1.1 201 Created", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "X-Host: a.test",
                    "Content-Type: text/plain; charset=utf-8", "Content-Length: 11") + "hello /up/x")
        let redirect = try explain("HEAD", "http://A.test/old", "Connection: close", in: configuration)
        guard case .answered(307, _) = redirect.outcome else {
            Issue.record("\(redirect.outcome)")
            return
        }
        #expect(redirect.outcomeText.contains("\r\nLocation: http://a.test/new\r\n"))
        #expect(redirect.outcomeText.hasSuffix("\r\nConnection: close\r\n\r\n"))
        #expect(redirect.closesDownstream)
        #expect(redirect.mayHoldBack.isEmpty)
    }

    @Test func theFinalRecipientOfATrace() throws {
        let trace = try explain(
            "TRACE", "http://a.test/", "Max-Forwards: 0", "Cookie: secret",
            in: configuration("route / { upstream app; }"))
        guard case .answered(200, _) = trace.outcome else {
            Issue.record("\(trace.outcome)")
            return
        }
        #expect(trace.outcomeText.hasSuffix(head("TRACE / HTTP/1.1", "Host: a.test", "Max-Forwards: 0")))
        #expect(trace.description.contains("none: Max-Forwards has run out, the proxy answers"))
        #expect(!timerNames(trace).contains("connect_timeout"))
    }

    // MARK: Refusals

    @Test func whatTheParserRefuses() throws {
        let configuration = try configuration(
            "request_target_max 256; fields_max 8; request_head_max 1k; error_format json; route / { upstream app; }")
        let many = (0..<9).map { "X-\($0): y" }
        let cases: [(String, String, [String], HeadFault)] = [
            ("GET", "/", ["Bad Name: x"], .fieldName), ("GET", "/", ["Content_Length: 1"], .lookalikeName),
            ("POST", "/", ["Content-Length: 1", "Transfer-Encoding: chunked"], .framingConflict),
            ("GET", "/", ["Expect: wonders"], .expectation), ("GET", "/a#b", [], .target),
            ("GET", "/\(String(repeating: "x", count: 256))", [], .targetTooLong), ("GET", "/", many, .tooManyFields),
            ("GET", "/", ["X: \(String(repeating: "x", count: 1024))"], .headTooLong),
            ("GET", "http://a b/", [], .host), ("G T", "/", [], .startLine), ("", "/", [], .method),
        ]
        for (method, url, fields, fault) in cases {
            let found = try Explanation(
                of: ExplainedRequest(method: method, url: url, fields: fields), in: configuration, nodeName: "n",
                readingHeadBy: readHead)
            let (failure, actual) = try refusal(found)
            #expect(failure == .requestRefused)
            #expect(actual == fault, "\(method) \(url) \(fields)")
            #expect(found.matched == nil)
            #expect(found.closesDownstream)
            #expect(found.outcomeText.contains("\"details\":\"\(fault.explanation)\""))
            #expect(found.description.contains("not looked for: the request is refused before"))
        }
    }

    @Test func whatRoutesRefuse() throws {
        let none = try explain("GET", "http://a.test/b", in: configuration("host a.test { route /a { respond 200; } }"))
        #expect(try refusal(none).0 == .noRoute)
        #expect(!none.closesDownstream)
        #expect(none.description.contains("the listener has: a.test/a"))
        let bounded = try configuration("route / { upstream app; content_max 10; error_format json; }")
        let long = try explain("POST", "/", "Content-Length: 11", in: bounded)
        #expect(try refusal(long).0 == .requestContentTooLong)
        #expect(long.matched?.upstream?.name == "app")
        #expect(long.outcomeText.contains("application/json"))
        #expect(timerNames(long).last == "fixed: lingering")
        guard case .forwarded = try explain("POST", "/", "Content-Length: 10", in: bounded).outcome else {
            Issue.record("ten bytes are not too long")
            return
        }
    }

    @Test func aLoop() throws {
        let configuration = try configuration("route / { upstream app; }")
        let via = "Via: " + Array(repeating: "1.1 headfirst", count: 10).joined(separator: ", ")
        #expect(try refusal(try explain("GET", "/", via, in: configuration)) == (.loopDetected, .startLine))
    }

    // MARK: CONNECT

    @Test func connect() throws {
        let closed = try explain("CONNECT", "db.test:443", in: configuration("route / { upstream app; }"))
        #expect(try refusal(closed).0 == .methodNotAllowed)
        let allowing = try configuration("connect allow *.test:443; route / { upstream app; }")
        #expect(try refusal(try explain("CONNECT", "db.test:80", in: allowing)).0 == .connectForbidden)
        #expect(try refusal(try explain("CONNECT", "nonsense", in: allowing)).0 == .requestRefused)
        let framed = try explain("CONNECT", "db.test:443", "Content-Length: 1", in: allowing)
        #expect(try refusal(framed) == (.requestRefused, .connectContent))
        let empty = try explain("CONNECT", "db.test:443", "Content-Length: 0", in: allowing)
        if case .dialled = empty.outcome {} else { Issue.record("\(empty.outcome)") }
        let dialled = try explain("CONNECT", "db.test:443", in: allowing)
        guard case .dialled = dialled.outcome else {
            Issue.record("\(dialled.outcome)")
            return
        }
        #expect(dialled.outcomeText == head("HTTP/1.1 200 OK", "Date: Thu, 01 Jan 1970 00:00:00 GMT"))
        #expect(
            timerNames(dialled) == [
                "keepalive_timeout", "request_head_timeout", "request_timeout", "connect_timeout",
                "tunnel_idle_timeout", "tunnel_half_closed_timeout", "send_idle_timeout",
            ])
        let forwarded = try explain(
            "CONNECT", "db.test:443", in: configuration("connect upstream other; route / { upstream app; }"))
        #expect(forwarded.outcomeText.hasPrefix("CONNECT db.test:443 HTTP/1.1\r\nHost: db.test:443\r\n"))
        #expect(forwarded.matched?.upstream?.name == "other")
        #expect(forwarded.tunnelRequest == .connect)
        #expect(forwarded.closesDownstream)
    }

    // MARK: Timers and limits

    @Test func timersOfAPlainRequest() throws {
        let found = try explain(
            "GET", "/", in: configuration("request_timeout 90s; route / { upstream app; response_head_timeout off; }"))
        #expect(
            timerNames(found) == [
                "keepalive_timeout", "request_head_timeout", "request_timeout", "connect_timeout",
                "response_head_timeout", "response_idle_timeout", "send_idle_timeout",
            ])
        #expect(found.timers.map(\.status) == [nil, 408, 504, 504, 504, nil, nil])
        #expect(found.timers[2].value == .milliseconds(90_000))
        #expect(found.timers[3].value == .milliseconds(5000))
        #expect(found.timers[4].value == .off)
    }

    @Test func timersOfContent() throws {
        let configuration = try configuration("request_min_rate 1k; route / { upstream app; }")
        let found = try explain("POST", "/", "Transfer-Encoding: chunked", "Expect: 100-continue", in: configuration)
        #expect(found.framing == .chunked)
        #expect(found.awaitsContinue)
        let content = found.timers.filter { $0.name.hasPrefix("request_idle") || $0.name.hasPrefix("request_min") }
        #expect(content.map(\.value) == [.milliseconds(60_000), .bytesPerSecond(1024)])
        #expect(content.map(\.status) == [408, 408])
        #expect(timerNames(found).last == "fixed: rest of the content")
        // Without content none of them runs.
        let without = try explain("POST", "/", in: configuration)
        #expect(Set(timerNames(found)).subtracting(timerNames(without)).count == 3)
    }

    @Test func theQueueIsThereWhereEveryServerHasABound() throws {
        func names(_ servers: String) throws -> [String] {
            let found = try explain(
                "GET", "/",
                in: parsed(
                    "upstream u { \(servers) queue_timeout 3s; } listener l { bind 8080; route / { upstream u; } }"))
            #expect(found.mayHoldBack.contains { $0.hasPrefix("max_exchanges") } == found.mayQueue)
            return timerNames(found)
        }
        #expect(
            try names("server 10.0.0.1:1 max_exchanges=1; server 10.0.0.2:1 max_exchanges=1;").contains("queue_timeout")
        )
        #expect(try !names("server 10.0.0.1:1 max_exchanges=1; server 10.0.0.2:1;").contains("queue_timeout"))
    }

    @Test(arguments: [
        ("any", "websocket", Exchange.TunnelRequest.upgrade), ("any", "h2c", .none), ("websocket", "other", .none),
        ("off", "websocket", .none),
    ])
    func upgrades(policy: String, wanted: String, result: Exchange.TunnelRequest) throws {
        let found = try explain(
            "GET", "/", "Connection: upgrade", "Upgrade: \(wanted)",
            in: configuration("upgrade \(policy); route / { upstream app; }"))
        #expect(found.tunnelRequest == result)
        #expect(found.hasUpgrade)
        #expect(found.outcomeText.contains("\r\nUpgrade: ") == (result == .upgrade))
        #expect(timerNames(found).contains("tunnel_idle_timeout") == (result == .upgrade))
        #expect(found.conduct.first { $0.subject == "Upgrade" }?.text.hasPrefix("ignored") == (result == .none))
    }

    @Test func limitsTellWhatTheRequestHas() throws {
        let found = try explain(
            "POST", "/abc", "Content-Length: 5", in: configuration("route / { upstream app; content_max 1k; }"))
        func limit(_ name: String) throws -> ExplainedLimit {
            try #require(found.limits.first { $0.name == name })
        }
        #expect(try limit("request_head_max").used == found.request.bytes.count)
        #expect(try limit("request_target_max").used == 4)
        #expect(try limit("fields_max").used == 2)
        #expect(try limit("content_max").used == 5)
        #expect(try limit("content_max").max == 1024)
        #expect(try limit("content_max").status == 413)
        #expect(try limit("fields_max").status == 431)
        #expect(try limit("request_target_max").status == 414)
        #expect(try limit("response_head_max").status == 502)
    }

    @Test func whatIsSaidOfInterimResponses() throws {
        for policy in InterimPolicy.allCases {
            let found = try explain(
                "GET", "/", in: configuration("interim \(policy.rawValue); route / { upstream app; }"))
            #expect(found.mayHoldBack.contains { $0.hasPrefix("interim ") } == (policy != .forward))
        }
    }
}

@Suite struct ExplanationFormTests {
    @Test(arguments: [
        (0, "0"), (1, "1ms"), (1500, "1500ms"), (75_000, "75s"), (60_000, "60s"), (300_000, "5m"), (3_600_000, "1h"),
        (86_400_000, "24h"), (172_800_000, "2d"),
    ])
    func durations(milliseconds: Int, text: String) {
        #expect(ExplanationText.duration(milliseconds) == text)
    }

    @Test func columnsAreAligned() {
        #expect(
            ExplanationText.table([["a", "bb", "c"], ["aaa", "", "d"], ["a", "b", ""]]) == [
                "  a    bb  c", "  aaa      d", "  a    b",
            ])
    }

    @Test func theWholeText() throws {
        let found = try explain("GET", "http://a.test:8080/up", in: configuration("route = /up { respond 200 yes; }"))
        #expect(
            found.description == """
                The request
                ------------------------------------------------------------------------
                GET /up HTTP/1.1
                Host: a.test:8080

                ------------------------------------------------------------------------

                Where it goes
                  client    192.0.2.1
                  listener  web, on 127.0.0.1:8080
                            taken because the URL may lead to its address
                  host      any (the listener's own routes)
                  route     = /up  (test.conf:5:1)
                  action    respond 200

                The answer; lines of the head end in CRLF
                ------------------------------------------------------------------------
                HTTP/1.1 200 OK
                Date: Thu, 01 Jan 1970 00:00:00 GMT
                Content-Type: text/plain; charset=utf-8
                Content-Length: 3

                yes
                ------------------------------------------------------------------------
                  Thu, 01 Jan 1970 00:00:00 GMT stands for the time of the answer.

                What becomes of it
                  request content  none
                  afterwards       the client's connection may serve another request

                Limits
                  max_connections     off           half of the process's descriptors; then accepting pauses
                  request_head_max    32k  39 here  then 431 Request Header Fields Too Large
                  request_target_max  8k   3 here   then 414 URI Too Long
                  fields_max          128  1 here   then 431 Request Header Fields Too Large

                Timers, in the order of the phases
                  keepalive_timeout     75s  the connection is closed  before a request's first byte
                  request_head_timeout  10s  408 Request Timeout       from the head's first byte to its last
                  request_timeout       off                            from the head to the exchange's end
                  send_idle_timeout     60s  a visible cut             while the client takes nothing of what waits for it

                What may hold bytes back
                  Nothing: the answer is the proxy's own, head and content in one write.
                """)
    }

    @Test func jsonIsWritten() {
        let value = JSONValue.object([
            ("text", .string("a\"b\\c\r\n\t\u{1}\u{7F}é")), ("none", .null), ("empty", .array([])),
            ("list", .array([.integer(-1), .bool(true), .object([])])),
        ])
        #expect(
            value.text() == """
                {
                  "text": "a\\"b\\\\c\\r\\n\\t\\u0001\\u007fé",
                  "none": null,
                  "empty": [],
                  "list": [
                    -1,
                    true,
                    {}
                  ]
                }
                """)
    }

    @Test func theWholeAsJSON() throws {
        let found = try explain("GET", "/", in: configuration("route / { upstream app; }"))
        let lines = found.json.split(separator: "\n")
        let members = lines.filter { $0.hasPrefix("  \"") }.map { $0.split(separator: "\"")[1] }
        #expect(
            members == [
                "request", "client", "listener", "route", "upstream", "outcome", "stand_ins", "conduct", "limits",
                "timers", "may_hold_back",
            ])
        #expect(found.json.contains(#""request": "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n""#))
        #expect(found.json.contains(#""kind": "forwarded""#))
        #expect(found.json.contains(#""milliseconds": 75000"#))
    }
}
