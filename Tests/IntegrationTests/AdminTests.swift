// The admin listener: what it answers, that nothing a client does keeps it from answering, the order of the end, and
// that the numbers are those of what happened.

import Glibc
import Testing

/// The text format of Prometheus, read strictly.
private struct Exposition {
    /// Values by series, as `name{label="value"}`.
    private(set) var values: [String: Double] = [:]
    private(set) var kinds: [String: String] = [:]

    init(_ text: String) throws {
        guard text.hasSuffix("\n") else { throw Malformed(what: "no line feed at the end") }
        var family = ""
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
            let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
            if line.hasPrefix("# HELP ") {
                guard words.count == 4, kinds[words[2]] == nil else { throw Malformed(what: "a family twice: \(line)") }
                family = words[2]
                kinds[family] = ""
            } else if line.hasPrefix("# TYPE ") {
                guard words.count == 4, words[2] == family, kinds[family] == "",
                    ["counter", "gauge", "histogram"].contains(words[3]),
                    (words[3] == "counter") == family.hasSuffix("_total")
                else { throw Malformed(what: "\(line)") }
                kinds[family] = words[3]
            } else {
                try take(String(line), family: family)
            }
        }
        for (family, kind) in kinds {
            guard !kind.isEmpty else { throw Malformed(what: "\(family) has no type") }
            if kind == "histogram" { try check(histogram: family) }
        }
    }

    private mutating func take(_ line: String, family: String) throws {
        guard let blank = line.lastIndex(of: " "), let value = Double(line[line.index(after: blank)...]) else {
            throw Malformed(what: "no value: \(line)")
        }
        let series = String(line[..<blank])
        let name = String(series.prefix { $0 != "{" })
        let suffixes = kinds[family] == "histogram" ? ["_bucket", "_sum", "_count"] : [""]
        guard suffixes.contains(where: { family + $0 == name }) else { throw Malformed(what: "a stray line: \(line)") }
        guard values[series] == nil else { throw Malformed(what: "a series twice: \(series)") }
        guard series == name || series.hasSuffix("\"}") else { throw Malformed(what: "labels: \(line)") }
        values[series] = value
    }

    /// Buckets grow, and the last one is all.
    private func check(histogram family: String) throws {
        var buckets: [String: [(bound: Double, count: Double)]] = [:]
        for (series, value) in values where series.hasPrefix("\(family)_bucket{") {
            let parts = series.split(separator: ",le=\"", omittingEmptySubsequences: false)
            let bound = parts.count == 2 ? parts[1].dropLast(2) : ""
            guard let number = bound == "+Inf" ? Double.infinity : Double(bound) else {
                throw Malformed(what: "a bound: \(series)")
            }
            buckets["\(parts[0].dropFirst(family.count + 7))}", default: []].append((number, value))
        }
        for (labels, unsorted) in buckets {
            let sorted = unsorted.sorted { $0.bound < $1.bound }
            guard sorted.map(\.count) == sorted.map(\.count).sorted(), sorted.last?.bound == .infinity,
                sorted.last?.count == values["\(family)_count\(labels)"], values["\(family)_sum\(labels)"] != nil
            else { throw Malformed(what: "the histogram \(family)\(labels)") }
        }
    }

    subscript(_ series: String) -> Double? { values[series] }

    /// All series of a name that are not 0.
    func nonzero(_ name: String) -> [String: Double] {
        values.filter { $0.key.prefix { $0 != "{" } == name && $0.value != 0 }
    }
}

extension Headfirst {
    /// The metrics, as soon as a series has a value: an exchange is counted when its answer is out.
    fileprivate func metrics(when series: String, is value: Double) throws -> Exposition {
        let deadline = Now.milliseconds + 4000
        while true {
            let metrics = try Exposition(try askAdmin("/metrics").text)
            if metrics[series] == value { return metrics }
            guard Now.milliseconds < deadline else {
                throw Malformed(what: "\(series) is \(metrics[series].map { "\($0)" } ?? "nothing")")
            }
            usleep(2000)
        }
    }
}

@Suite struct AdminTests {
    private static let admin = "admin { bind 127.0.0.1:0; }"

    // MARK: Endpoints

    @Test(arguments: [
        ("GET", "/healthz", 200, "ok\n"), ("GET", "/readyz?verbose", 200, "ready\n"), ("HEAD", "/readyz", 200, ""),
        ("POST", "/readyz", 405, "GET or HEAD\n"), ("GET", "/nothing", 404, nil), ("DELETE", "/status", 405, nil),
        ("GET", "/", 200, nil), ("GET", "/status", 200, nil),
    ])
    func answers(method: String, path: String, status: Int, text: String?) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "drain_delay 0; \(Self.admin)")
        let response = try proxy.askAdmin(path, method: method)
        #expect(response.status == status)
        if let text { #expect(response.text == text) }
        #expect(response["Connection"] == "close")
        #expect(response["Allow"] == (status == 405 ? "GET, HEAD" : nil))
        if method == "HEAD" { #expect(response.length == 6) }
    }

    @Test(
        "What is no request is answered, and the connection ends",
        arguments: [
            ("nonsense\r\n\r\n", 400), ("GET /healthz HTTP/1.1\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 9000))\r\n\r\n", 431),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n\(String(repeating: "X: y\r\n", count: 40))\r\n", 431),
        ])
    func refuses(request: String, status: Int) throws {
        let proxy = try Headfirst(to: Origin.serving(), top: Self.admin)
        let client = try proxy.connectToAdmin()
        try client.send(request)
        #expect(try client.response().status == status)
        #expect(client.end() == .ended)
    }

    @Test func aRequestInPiecesIsAnswered() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: Self.admin)
        let client = try proxy.connectToAdmin()
        for byte in head("GET /healthz HTTP/1.1", "Host: localhost").utf8 { try client.send([byte]) }
        #expect(try client.response().text == "ok\n")
    }

    @Test func nobodyKeepsOthersFromBeingAnswered() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: Self.admin)
        // More than may be connected at once: the oldest give way.
        let silent = try (0..<80).map { _ in try proxy.connectToAdmin() }
        for client in silent.suffix(20) { try client.send("GET /met") }
        // One that sends without end, and one that leaves.
        let flood = try proxy.connectToAdmin()
        try flood.ask("POST /healthz HTTP/1.1", "Content-Length: 100000000", host: "localhost")
        _ = try? flood.sendSome([UInt8](repeating: 0x78, count: 1 << 20), stallMilliseconds: 20)
        try proxy.connectToAdmin().reset()
        #expect(try proxy.askAdmin("/healthz").text == "ok\n")
        #expect(try proxy.askAdmin("/metrics").status == 200)
        #expect(silent[0].end() == .ended)
        #expect(silent[79].isSilent(milliseconds: 1))
    }

    @Test func itListensOnAUnixSocketToo() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; drain_delay 0; admin { bind unix:$FOLDER/admin.sock; }
                listener main { bind 127.0.0.1:0; route / { respond 200; } }
                """)
        let path = "\(proxy.folder.path)/admin.sock"
        // It listens when the proxy is ready, which the harness has seen a moment before.
        _ = try proxy.errorLog.line(with: "admin=unix:")
        let client = try Address.unix(path: path).connect()
        try client.ask("GET /readyz HTTP/1.1")
        #expect(try client.response().text == "ready\n")
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        #expect(access(path, F_OK) != 0)
    }

    @Test func anAddressInUseEndsTheStart() throws {
        let socket = Wire(Address.ipv4(port: 0).makeSocket())
        let address = try Address.ipv4(port: 0).listening(on: socket.descriptor, backlog: 1)
        let folder = Folder()
        let file = folder.write(
            "admin { bind \(address.text); }\nlistener main { bind 127.0.0.1:0; route / { respond 200; } }\n",
            to: "p.conf")
        let command = Command(["run", file])
        #expect(try command.exitCode() == 71)
        #expect(command.errors.text.contains("\(file):1:9: error: cannot listen on \(address.text)"))
        withExtendedLifetime(socket) {}
    }

    // MARK: Hosts

    /// DNS rebinding: the page of a stranger, whose name leads here, would be read as if it were its own.
    @Test func itAnswersToNoNameThatIsNotItsOwn() throws {
        let proxy = try Headfirst(
            to: Origin.serving(),
            top: "drain_delay 0; admin { bind 127.0.0.1:0; host Proxy.Example proxy; host [2001:db8::1]; }"
        )
        let port = try proxy.adminPort()
        for path in ["/", "/status", "/status/events", "/metrics", "/healthz", "/readyz", "/nothing"] {
            for host in ["evil.example", "evil.example:\(port)", "a.localhost", "127.0.0.1.evil.example"] {
                let response = try proxy.askAdmin(path, host: host)
                #expect(response.status == 421, "\(path) \(host)")
                #expect(response.text.contains("add host NAME; to the admin block"))
            }
        }
        #expect(try proxy.askAdmin("/status", method: "HEAD", host: "evil.example").status == 421)
        for host in [
            "localhost", "LOCALHOST.:\(port)", "127.0.0.1", "127.0.0.1:\(port)", "proxy.example", "PROXY:9901",
            "proxy.:\(port)",
            "[2001:DB8:0::1]:\(port)",
        ] {
            #expect(try proxy.askAdmin("/status", host: host).status == 200, "\(host)")
        }
        // A probe comes by the pod's address; nothing else does by one that is not ours.
        for path in ["/healthz", "/readyz"] {
            for host in ["203.0.113.9:9901", "[::1]"] { #expect(try proxy.askAdmin(path, host: host).status == 200) }
        }
        for host in ["203.0.113.9:9901", "[::1]"] { #expect(try proxy.askAdmin("/metrics", host: host).status == 421) }
        // HTTP/1.0 need not say; if it says something, that counts, in whatever form.
        for (request, status) in [
            ("GET /metrics HTTP/1.0\r\n\r\n", 200), ("GET /metrics HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
            ("GET http://evil.example/metrics HTTP/1.0\r\n\r\n", 421),
            ("GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ] {
            let client = try proxy.connectToAdmin()
            try client.send(request)
            #expect(try client.response().status == status, "\(request)")
        }
    }

    @Test func theNamesOfTheAdminListenerChangeWithAReload() throws {
        let text = """
            workers 1; access_log off; drain_delay 0; admin { bind 0.0.0.0:0; }
            listener main { bind 127.0.0.1:0; route / { respond 200; } }
            """
        let proxy = try Headfirst(configuration: text)
        let line = try proxy.errorLog.line(with: "admin=0.0.0.0:")
        let port = try #require(UInt16(line.split(separator: "admin=0.0.0.0:").last?.prefix { $0.isNumber } ?? ""))
        func status(_ host: String) throws -> Int {
            let client = try Address.ipv4(port: port).connect()
            try client.ask("GET /metrics HTTP/1.1", host: host)
            return try client.response().status
        }
        // Bound to every address, it may be reached by any.
        for host in ["203.0.113.9", "[::1]:9901"] { #expect(try status(host) == 200) }
        #expect(try status("proxy:9901") == 421)
        try proxy.reload(text.replacing("0.0.0.0:0;", with: "0.0.0.0:0; host proxy;"))
        #expect(try status("proxy:9901") == 200)
    }

    // MARK: The end

    @Test func readinessFailsFirstThenTheListenersClose() throws {
        let (go, came) = (Handoff<Void>(), Handoff<Void>())
        let origin = Origin.serving { wire, request in
            guard request.target == "/stream" else { return try wire.ok() }
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("first"))
            came.give()
            try wire.await(go)
            try wire.send(chunk("last") + lastChunk)
        }
        let proxy = try Headfirst(to: origin, top: "drain_delay 700ms; \(Self.admin)")
        let stream = try proxy.connect()
        try stream.ask("GET /stream HTTP/1.1")
        #expect(try stream.head().status == 200)
        try came.take()
        #expect(try proxy.askAdmin("/readyz").status == 200)
        let start = Now.milliseconds
        proxy.terminate()
        _ = try proxy.errorLog.line(with: "not ready any more")
        // Whoever comes meanwhile is served as before, and may stay.
        let readiness = try proxy.askAdmin("/readyz")
        #expect(readiness.status == 503)
        #expect(readiness.text == "draining\n")
        #expect(try proxy.askAdmin("/healthz").status == 200)
        let late = try proxy.connect()
        try late.ask()
        let answer = try late.response()
        #expect(answer.text == "ok")
        #expect(answer["Connection"] == nil)
        _ = try proxy.errorLog.line(with: "running exchanges may end")
        #expect((650..<2500).contains(Now.milliseconds - start))
        #expect(late.end() == .ended)
        #expect(throws: (any Error).self) { try proxy.connect() }
        // The stream runs on, and so do those who watch.
        #expect(try proxy.askAdmin("/readyz").status == 503)
        #expect(
            try proxy.metrics(when: "headfirst_exchanges", is: 1)["headfirst_connections{side=\"downstream\"}"] == 1)
        go.give()
        #expect(try stream.chunk() == Array("first".utf8))
        #expect(try stream.chunk() == Array("last".utf8))
        stream.close()
        #expect(try proxy.command.exitCode() == 0)
        #expect(throws: (any Error).self) { try proxy.connectToAdmin() }
    }

    @Test func aSecondSignalDoesNotWaitForTheDelay() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "drain_delay 1m; \(Self.admin)")
        proxy.terminate()
        _ = try proxy.errorLog.line(with: "not ready any more")
        proxy.command.signal(SIGTERM)
        #expect(try proxy.command.exitCode() == 0)
    }

    // MARK: The command

    @Test func healthAsksTheRunningOne() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "drain_delay 0; \(Self.admin)")
        let folder = Folder()
        func health(_ admin: String) throws -> (code: Int, output: String, errors: String) {
            let command = Command([
                "health", "--config",
                folder.write("\(admin) listener a { bind 127.0.0.1:0; route / { respond 200; } }", to: "p.conf"),
            ])
            let code = try command.exitCode()
            try command.output.waitForEnd(milliseconds: 1000)
            return (code, command.output.text, command.errors.text)
        }
        let port = try proxy.adminPort()
        // An address that stands for all is asked on the loopback.
        for address in ["127.0.0.1:\(port)", "0.0.0.0:\(port)", "\(port)"] {
            let answer = try health("admin { bind \(address); }")
            #expect(answer.code == 0)
            #expect(answer.output == "ok\n")
        }
        #expect(try health("admin { bind [::]:\(port); }").code == 1)
        #expect(try health("").code == 78)
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        let answer = try health("admin { bind 127.0.0.1:\(port); }")
        #expect(answer.code == 1)
        #expect(answer.errors.contains("nobody answers"))
    }

    @Test func healthWaitsForNobodyForLong() throws {
        let socket = Wire(Address.ipv4(port: 0).makeSocket())
        let address = try Address.ipv4(port: 0).listening(on: socket.descriptor, backlog: 1)
        let folder = Folder()
        let file = folder.write(
            "admin { bind \(address.text); } listener a { bind 127.0.0.1:0; route / { respond 200; } }", to: "p.conf")
        let start = Now.milliseconds
        #expect(try Command(["health", file]).exitCode(milliseconds: 6000) == 1)
        #expect((2500..<4500).contains(Now.milliseconds - start))
        withExtendedLifetime(socket) {}
    }
}

@Suite struct MetricsTests {
    @Test func theNumbersAreThoseOfWhatHappened() throws {
        let go = Handoff<Void>()
        let origin = Origin.serving { wire, request in
            switch request.target {
            case "/missing": try wire.send(head("HTTP/1.1 404 Not Found", "Content-Length: 0"))
            case "/stream":
                try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("x"))
                try wire.await(go)
                try wire.send(lastChunk)
            default: try wire.ok("hello")
            }
        }
        // Bound, and nobody listens.
        let unused = (0..<2).map { _ in Wire(Address.ipv4(port: 0).makeSocket()) }
        let refusing = unused.map { wire in
            let nobody = Address.ipv4(port: 0)
            _ = nobody.withSocketAddress { bind(wire.descriptor, $0, $1) }
            return nobody.bound(to: wire.descriptor).text
        }
        let proxy = try Headfirst(
            configuration: """
                workers 2; access_log off; admin { bind 127.0.0.1:0; }
                upstream origin { server \(origin.address.text); }
                upstream nobody { server \(refusing[0]); server \(refusing[1]); }
                listener main {
                    bind 127.0.0.1:0;
                    host b.example { route / { respond 204; } }
                    route /o { redirect 308 /; }
                    route = /refused { upstream nobody; }
                    route /missing { upstream origin; }
                    route /stream { upstream origin; }
                    route = / { upstream origin; }
                }
                listener second { bind 127.0.0.1:0; route / { respond 200 ok; } }
                """, origins: [origin])
        let client = try proxy.connect()
        for _ in 0..<3 {
            try client.ask()
            _ = try client.response()
        }
        try client.ask("POST / HTTP/1.1", "Content-Length: 4", content: "four")
        _ = try client.response()
        for target in ["/missing", "/o", "/none", "/refused"] {
            try client.ask("GET \(target) HTTP/1.1")
            _ = try client.response()
        }
        try client.send(head("GET / HTTP/1.1", "Host: B.example"))
        #expect(try client.response().status == 204)
        try client.send("nonsense\r\n\r\n")
        #expect(try client.response().status == 400)
        #expect(client.end() == .ended)
        let other = try proxy.connect(listener: 1)
        try other.ask()
        _ = try other.response()
        let stream = try proxy.connect()
        try stream.ask("GET /stream HTTP/1.1")
        #expect(try stream.head().status == 200)
        #expect(try stream.chunk() == [0x78])

        let whole = "headfirst_requests_total{listener=\"second\",host=\"\",route=\"/\",upstream=\"\",code=\"2xx\"}"
        client.close()
        _ = try proxy.metrics(when: whole, is: 1)
        let metrics = try proxy.metrics(when: "headfirst_connections{side=\"downstream\"}", is: 2)
        func series(_ route: String, _ rest: String, host: String = "") -> String {
            "{listener=\"main\",host=\"\(host)\",route=\"\(route)\"\(rest)}"
        }
        #expect(
            metrics.nonzero("headfirst_requests_total") == [
                "headfirst_requests_total\(series("= /", ",upstream=\"origin\",code=\"2xx\""))": 4,
                "headfirst_requests_total\(series("/missing", ",upstream=\"origin\",code=\"4xx\""))": 1,
                "headfirst_requests_total\(series("/o", ",upstream=\"\",code=\"3xx\""))": 1,
                "headfirst_requests_total\(series("", ",upstream=\"\",code=\"4xx\""))": 2,
                "headfirst_requests_total\(series("= /refused", ",upstream=\"nobody\",code=\"5xx\""))": 1,
                "headfirst_requests_total\(series("/", ",upstream=\"\",code=\"2xx\"", host: "b.example"))": 1,
                whole: 1,
            ])
        #expect(
            metrics.nonzero("headfirst_request_content_bytes_total") == [
                "headfirst_request_content_bytes_total\(series("= /", ""))": 4
            ])
        #expect(
            metrics.nonzero("headfirst_response_content_bytes_total") == [
                "headfirst_response_content_bytes_total\(series("= /", ""))": 20
            ])
        #expect(
            metrics.nonzero("headfirst_head_seconds_count") == [
                "headfirst_head_seconds_count\(series("= /", ""))": 4,
                "headfirst_head_seconds_count\(series("/missing", ""))": 1,
            ])
        #expect(
            metrics.nonzero("headfirst_first_content_seconds_count") == [
                "headfirst_first_content_seconds_count\(series("= /", ""))": 4
            ])
        #expect(metrics.nonzero("headfirst_exchange_seconds_count").values.reduce(0, +) == 11)
        // The head of the stream was forwarded, too, though its exchange still runs.
        #expect(
            metrics.nonzero("headfirst_hold_seconds_count") == ["headfirst_hold_seconds_count{listener=\"main\"}": 6])
        let held = try #require(metrics["headfirst_hold_seconds_sum{listener=\"main\"}"])
        #expect(held > 0 && held < 2)
        #expect(
            metrics.nonzero("headfirst_failures_total") == [
                "headfirst_failures_total{reason=\"no_route\"}": 1,
                "headfirst_failures_total{reason=\"request_refused\"}": 1,
                "headfirst_failures_total{reason=\"upstream_refused\"}": 1,
            ])
        #expect(metrics["headfirst_retries_total"] == 1)
        #expect(metrics["headfirst_connections_accepted_total"] == 3)
        #expect(metrics["headfirst_exchanges"] == 1)
        #expect(metrics.nonzero("headfirst_tunnels").isEmpty)
        #expect(metrics["headfirst_access_log_lost_total"] == 0)
        // Two to the server that answers, unless the stream came to the worker of the others; two that were refused.
        let connects = try #require(metrics["headfirst_upstream_connects_total"])
        let reuses = try #require(metrics["headfirst_upstream_reuses_total"])
        #expect(connects + reuses == 8)
        let open = try #require(metrics["headfirst_connections{side=\"upstream\"}"])
        #expect(open == connects - 2)
        #expect(metrics["headfirst_idle_upstream_connections"] == open - 1)
        #expect(metrics.kinds["headfirst_tls_certificate_not_after_seconds"] == "gauge")
        #expect(metrics.nonzero("headfirst_tls_handshakes_total").isEmpty)
        #expect(metrics.nonzero("headfirst_build_info").values.first == 1)
        let started = try #require(metrics["process_start_time_seconds"])
        #expect(abs(started - Double(time(nil))) < 60)
        #expect(metrics["process_resident_memory_bytes"].map { $0 > 1_048_576 } == true)
        let descriptors = try #require(metrics["process_open_fds"])
        #expect(abs(descriptors - Double(proxy.command.descriptorCount)) < 4)
        go.give()
        #expect(try stream.chunk() == [])
        let after = try proxy.metrics(when: "headfirst_exchanges", is: 0)
        #expect(after["headfirst_requests_total\(series("/stream", ",upstream=\"origin\",code=\"2xx\""))"] == 1)
        #expect(after["headfirst_idle_upstream_connections"] == after["headfirst_connections{side=\"upstream\"}"])
        withExtendedLifetime(unused) {}
    }

    @Test func everyMetricIsDocumented() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "admin { bind 127.0.0.1:0; }")
        let metrics = try Exposition(try proxy.askAdmin("/metrics").text)
        let path = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined() + "/docs/METRICS.md"
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        var room = [UInt8](repeating: 0, count: 64 << 10)
        let text = String(decoding: room[..<max(0, read(descriptor, &room, room.count))], as: UTF8.self)
        #expect(metrics.kinds.count > 20)
        for (name, kind) in metrics.kinds { #expect(text.contains("| `\(name)` | \(kind) |"), "\(name)") }
    }

    private let labels = "{listener=\"main\",host=\"\",route=\"/\"}"

    /// What has no declared length is a stream, until its end.
    @Test func streamsAreCountedWhileTheyAreOpen() throws {
        let go = Handoff<Void>()
        let origin = Origin.serving { wire, request in
            if request.target == "/sized" { return try wire.ok() }
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            try wire.await(go)
            try wire.send(lastChunk)
        }
        let proxy = try Headfirst(to: origin, top: "admin { bind 127.0.0.1:0; }")
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.ask("GET /sized HTTP/1.1")
            _ = try client.response()
            try client.ask()
            var response = try client.head()
            #expect(try proxy.metrics(when: "headfirst_streams\(labels)", is: 1)["headfirst_exchanges"] == 1)
            go.give()
            try client.chunkedContent(of: &response)
            _ = try proxy.metrics(when: "headfirst_streams\(labels)", is: 0)
        }
    }

    /// A head that comes with its content after a long silence was held by the backend.
    @Test func heldHeadsAreCounted() throws {
        let origin = Origin.serving { wire, request in
            switch request.target {
            case "/held":
                usleep(600_000)
                try wire.ok()
            case "/flushed":
                try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 2"))
                usleep(600_000)
                try wire.send("ok")
            default: try wire.ok()
            }
        }
        let proxy = try Headfirst(to: origin, top: "admin { bind 127.0.0.1:0; }")
        let client = try proxy.connect()
        for path in ["/flushed", "/quick", "/held"] {
            try client.ask("GET \(path) HTTP/1.1")
            #expect(try client.response().status == 200)
        }
        let metrics = try proxy.metrics(when: "headfirst_held_heads_total\(labels)", is: 1)
        #expect(metrics["headfirst_head_seconds_count\(labels)"] == 3)
    }

    @Test func aServersStandingIsTold() throws {
        let origin = Origin.serving()
        let dead = try Address.freePort()
        let proxy = try Headfirst(
            to: origin, top: "admin { bind 127.0.0.1:0; }", upstream: "server 127.0.0.1:\(dead);")
        func series(_ name: String, _ server: String) -> String {
            "headfirst_server_\(name){upstream=\"origin\",server=\"\(server)\"}"
        }
        #expect(try proxy.metric(series("up", "127.0.0.1:\(dead)"), becomes: 1))
        for _ in 0..<2 { #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200) }
        #expect(try proxy.metric(series("up", "127.0.0.1:\(dead)"), becomes: 0))
        #expect(try proxy.metric(series("connections", "127.0.0.1:\(dead)"), becomes: 0))
        #expect(try proxy.metric(series("connect_failures_total", "127.0.0.1:\(dead)"), becomes: 1))
        #expect(try proxy.metric(series("up", origin.address.text), becomes: 1))
        #expect(try proxy.metric(series("connections", origin.address.text), becomes: 1))
        #expect(try proxy.metric(series("connect_failures_total", origin.address.text), becomes: 0))
    }

    @Test func refusalsAreToldApart() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "admin { bind 127.0.0.1:0; }")
        for request in [
            head("GET / HTTP/1.1"), head("GET / HTTP/1.1", "Host: t", "Bad Name: x"), head("GET / HTTP/1.1"),
        ] {
            #expect(try proxy.answer(to: request).status == 400)
        }
        #expect(try proxy.metric("headfirst_refused_total{reason=\"host_missing\"}", becomes: 2))
        #expect(try proxy.metric("headfirst_refused_total{reason=\"field_name\"}", becomes: 1))
    }

    @Test func tunnelsAreCountedWhileTheyAreOpen() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: echo"))
            try wire.send(try wire.exactly(4))
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin, top: "admin { bind 127.0.0.1:0; }")
        let client = try proxy.connect()
        try client.ask("GET / HTTP/1.1", "Connection: upgrade", "Upgrade: echo")
        #expect(try client.head().status == 101)
        try client.send("ping")
        #expect(try client.exactly(4) == Array("ping".utf8))
        let open = try proxy.metrics(when: "headfirst_tunnels\(labels)", is: 1)
        #expect(open["headfirst_exchanges"] == 1)
        client.reset()
        let after = try proxy.metrics(when: "headfirst_tunnels\(labels)", is: 0)
        #expect(after["headfirst_request_content_bytes_total\(labels)"] == 4)
        #expect(after["headfirst_response_content_bytes_total\(labels)"] == 4)
        #expect(after["headfirst_connections{side=\"upstream\"}"] == 0)
        #expect(after["headfirst_connections{side=\"downstream\"}"] == 0)
        #expect(after["headfirst_failures_total{reason=\"client_aborted\"}"] == 1)
    }

    @Test func lostRecordsAreCounted() throws {
        let proxy = try Headfirst(to: Origin.serving(), top: "admin { bind 127.0.0.1:0; }", log: "/dev/full")
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
        _ = try proxy.metrics(when: "headfirst_access_log_lost_total", is: 1)
    }
}
