// The access log: what a record says, and that nobody can forge one.

import Glibc
import Testing

@Suite struct AccessLogTests {
    @Test func jsonSaysWhatHappened() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 103 Early Hints"))
            try wire.ok("hello")
        }
        let proxy = try Headfirst(to: origin, log: "stdout format=json")
        let client = try proxy.connect()
        try client.ask(
            "POST /a?b HTTP/1.1", "User-Agent: agent", "Referer: there", "X-Request-Id: id-1", "Content-Length: 3",
            content: "abc")
        _ = try client.response()
        _ = try client.response()
        try client.ask("GET /second HTTP/1.0")
        _ = try client.response()
        let lines = try proxy.accessLog.lines(2).map { try JSON($0) }
        let first = lines[0]
        let expected = [
            "client": "127.0.0.1", "method": "POST", "target": "/a?b", "host": "test", "protocol": "HTTP/1.1",
            "status": "200", "request_bytes": "3", "response_bytes": "5", "listener": "main", "route": "/",
            "upstream": "origin", "server": origin.address.text, "tries": "1", "reused": "false",
            "tls": "null", "request_id": "id-1", "user_agent": "agent", "referer": "there", "termination": "complete",
        ]
        for (key, value) in expected { #expect(first[key] == value, "\(key)") }
        for key in ["request", "connect", "interim", "head", "content", "total"] {
            #expect(Double(first["\(key)_seconds"] ?? "").map { $0 < 4 } == true, "\(key)_seconds")
        }
        #expect(first["time"]?.hasSuffix("Z") == true)
        #expect(lines[1]["protocol"] == "HTTP/1.0")
        #expect(lines[1]["reused"] == "true")
        #expect(lines[1]["user_agent"] == "null")
    }

    @Test(
        "With several X-Request-Ids, log, edits and upstream name the same one",
        arguments: [["first", "second"], ["", "first"], ["first", ""]])
    func oneRequestID(values: [String]) throws {
        let origin = Origin.serving { wire, request in
            try wire.ok("", "X-Seen: \(request.all("X-Request-Id").first ?? "")", "X-Named: \(request["X-Up"] ?? "")")
        }
        for log in ["stdout format=json", "off"] {
            let proxy = try Headfirst(
                to: origin,
                listener: "set_request_field X-Up $request_id; set_response_field X-Down $request_id;", log: log)
            let client = try proxy.connect()
            try client.send(
                (["GET / HTTP/1.1", "Host: t"] + values.map { "X-Request-Id: \($0)" }).joined(separator: "\r\n")
                    + "\r\n\r\n")
            let response = try client.response()
            for name in ["X-Seen", "X-Named", "X-Down"] { #expect(response[name] == "first", "\(name)") }
            if log != "off" { #expect(try JSON(try proxy.accessLog.lines(1)[0])["request_id"] == "first") }
        }
    }

    @Test(
        "The reason of an end",
        arguments: [
            ("GET / HTTP/1.1\r\n\r\n", "request_refused", "400"),
            ("GET /none HTTP/1.1\r\nHost: t\r\n\r\n", "no_route", "404"),
            ("CONNECT t:1 HTTP/1.1\r\nHost: t:1\r\n\r\n", "method_not_allowed", "405"),
            ("POST /up HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n", "request_too_long", "413"),
            ("GET /up/cut HTTP/1.1\r\nHost: t\r\n\r\n", "upstream_truncated", "200"),
            ("GET /up/bad HTTP/1.1\r\nHost: t\r\n\r\n", "upstream_malformed", "502"),
            ("GET /up/close HTTP/1.1\r\nHost: t\r\n\r\n", "upstream_closed", "502"),
            ("GET /up/slow HTTP/1.1\r\nHost: t\r\n\r\n", "upstream_timeout", "504"),
            ("GET /refused HTTP/1.1\r\nHost: t\r\n\r\n", "upstream_refused", "502"),
        ])
    func termination(request: String, reason: String, status: String) throws {
        let origin = Origin { wire, _ in
            let request = try wire.request()
            switch request.target {
            case "/up/cut": try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 9") + "cut")
            case "/up/bad": try wire.send("bad\r\n\r\n")
            case "/up/slow": _ = wire.drain()
            default: return
            }
        }
        let closed = Wire(Address.ipv4(port: 0).makeSocket())
        let nobody = Address.ipv4(port: 0)
        _ = nobody.withSocketAddress { bind(closed.descriptor, $0, $1) }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log stdout format=json; response_head_timeout 200ms;
                upstream up { server \(origin.address.text); }
                upstream nobody { server \(nobody.bound(to: closed.descriptor).text); }
                listener main {
                    bind 127.0.0.1:0;
                    route /up { upstream up; content_max 10; }
                    route /refused { upstream nobody; }
                }
                """, origins: [origin])
        let client = try proxy.connect()
        try client.send(request)
        let line = try JSON(try proxy.accessLog.lines(1)[0])
        #expect(line["termination"] == reason)
        #expect(line["status"] == status)
    }

    @Test func aClientThatLeavesIsLogged() throws {
        let came = Handoff<Void>()
        let origin = Origin.serving { wire, _ in
            came.give()
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin, log: "stdout format=json")
        let client = try proxy.connect()
        try client.ask()
        try came.take()
        client.reset()
        let line = try JSON(try proxy.accessLog.lines(1)[0])
        #expect(line["termination"] == "client_aborted")
        #expect(line["status"] == "0")
    }

    @Test("Nobody can forge a record", arguments: ["json", "combined"])
    func injection(format: String) throws {
        let proxy = try Headfirst(to: Origin.serving(), log: "stdout format=\(format)")
        let client = try proxy.connect()
        let evil = "\"}\\\" \u{e9}\u{2028} \t \\n{\"status\":1"
        try client.ask("GET /\"\\{} HTTP/1.1", "User-Agent: \(evil)", "Referer: \(evil)")
        #expect(try client.response().status == 200)
        try client.send("GET /bad\u{1}\r\n\"x\": 1\r\n\r\n")
        #expect(try client.response().status == 400)
        let lines = try proxy.accessLog.lines(2)
        #expect(lines.count == 2)
        for line in lines {
            #expect(line.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F })
            if format == "json" { _ = try JSON(line) }
        }
        if format == "combined" {
            // What stands between quotes has none of its own.
            #expect(lines[0].count { $0 == "\"" } == 6)
            #expect(lines[0].hasPrefix("127.0.0.1 - - ["))
        }
    }

    @Test func combinedIsTheOldForm() throws {
        let proxy = try Headfirst(to: Origin.serving(), log: "stdout")
        let client = try proxy.connect()
        try client.ask("GET /a HTTP/1.1", "User-Agent: agent")
        _ = try client.response()
        let line = try proxy.accessLog.lines(1)[0]
        #expect(line.hasSuffix("] \"GET /a HTTP/1.1\" 200 2 \"-\" \"agent\""))
    }

    @Test func aFileIsAppendedTo() throws {
        let folder = Folder()
        let file = folder.write("before\n", to: "access.log")
        let configuration = """
            workers 2; access_log \(file) format=json; error_log stderr level=info format=json;
            listener main { bind 127.0.0.1:0; route / { respond 200 ok; } }
            """
        // The harness finds the port in a text log only, so this one says where it listens by a socket's path.
        let path = "\(folder.path)/proxy.sock"
        let proxy = try Headfirst(
            configuration: configuration.split(separator: "bind 127.0.0.1:0").joined(separator: "bind unix:\(path)")
                .split(separator: " format=json;\nlistener").joined(separator: ";\nlistener"))
        let client = try Address.unix(path: path).connect()
        try client.ask()
        _ = try client.response()
        client.close()
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        let descriptor = open(file, O_RDONLY | O_CLOEXEC)
        var room = [UInt8](repeating: 0, count: 4096)
        let count = read(descriptor, &room, room.count)
        close(descriptor)
        let lines = String(decoding: room[..<max(0, count)], as: UTF8.self).split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines[0] == "before")
        #expect(try JSON(String(lines[1]))["status"] == "200")
    }

    @Test func aDestinationThatCannotBeWrittenHarmsNobody() throws {
        let proxy = try Headfirst(to: Origin.serving(), log: "/dev/full")
        let client = try proxy.connect()
        for _ in 0..<20 {
            try client.ask()
            #expect(try client.response().status == 200)
        }
        #expect(try !proxy.errorLog.line(with: "the access log lost records").isEmpty)
    }

    /// A line that a full disk cut is lost, and no other with it: what comes when there is room again is a line of its own.
    @Test func aLineThatWasCutTakesNoOtherWithIt() throws {
        let folder = Folder()
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log $FOLDER/access.log format=json; admin { bind 127.0.0.1:0; }
                listener main { bind 127.0.0.1:0; route / { respond 200; } }
                """, limit: "ulimit -f 16", folder: folder)
        let client = try proxy.connect()
        for _ in 0..<60 {
            try client.ask()
            #expect(try client.response().status == 200)
        }
        let lost = "headfirst_access_log_lost_total"
        _ = try proxy.errorLog.line(with: "the access log lost records")
        let path = "\(folder.path)/access.log"
        let full = folder.read("access.log")
        #expect(!full.hasSuffix("\n"))
        // Every whole line counts, and the others are told of.
        let before = Double(60 - full.count { $0 == "\n" })
        #expect(try proxy.metric(lost, becomes: before))
        // There is room again, for a part of a line and some whole ones.
        truncate(path, off_t(full.utf8.count - 2000))
        for _ in 0..<2 {
            try client.ask()
            #expect(try client.response().status == 200)
        }
        let deadline = Now.milliseconds + 4000
        var lines: [Substring] = []
        while Now.milliseconds < deadline {
            let text = folder.read("access.log")
            lines = text.split(separator: "\n")
            if text.hasSuffix("\n"), text.utf8.count > full.utf8.count - 1000 { break }
            usleep(10_000)
        }
        for line in lines.suffix(2) { #expect(try JSON(String(line))["status"] == "200") }
        #expect(try proxy.metric(lost) == before)
    }

    @Test func aDestinationThatNobodyReadsHarmsNobodyAndDoesNotHoldUpTheEnd() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        let (reading, writing) = (ends[0], ends[1])
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(reading) }
        let origin = Origin.serving()
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log stdout format=json; shutdown_grace 500ms;
                upstream origin { server \(origin.address.text); }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """, origins: [origin], standardOutput: writing)
        close(writing)
        let client = try proxy.connect()
        for _ in 0..<1000 {
            try client.ask()
            #expect(try client.response().status == 200)
        }
        client.close()
        proxy.terminate()
        #expect(try proxy.command.exitCode(milliseconds: 3000) == 0)
    }

    /// Lines of every file whose name begins so.
    private func lineCount(_ folder: Folder, _ names: [String]) -> Int {
        names.reduce(0) { sum, name in
            let file = open("\(folder.path)/\(name)", O_RDONLY | O_CLOEXEC)
            guard file >= 0 else { return sum }
            defer { close(file) }
            var room = [UInt8](repeating: 0, count: 4 << 20)
            return sum + room[..<max(0, read(file, &room, room.count))].count { $0 == 10 }
        }
    }

    /// A trace is passed on and logged, or begun where that is asked for.
    @Test func tracesArePassedOnOrBegun() throws {
        let origin = Origin.serving { wire, request in
            try wire.ok("\(request.all("traceparent").joined(separator: ",")) \(request["tracestate"] ?? "-")")
        }
        let trace = "0af7651916cd43dd8448eb211c80319c"
        let valid = "00-\(trace)-b7ad6b7169203331-00"
        for begins in [false, true] {
            let proxy = try Headfirst(
                to: origin, route: begins ? "traceparent begin;" : "", log: "stdout format=json")
            let client = try proxy.connect()
            func ask(_ fields: String...) throws -> (traceparent: String, state: String, logged: String?) {
                let lines = ["GET / HTTP/1.1", "Host: t", "X-Count: \(count)"] + fields
                try client.send(lines.joined(separator: "\r\n") + "\r\n\r\n")
                let words = try client.response().text.split(separator: " ", omittingEmptySubsequences: false)
                count += 1
                let line = try proxy.accessLog.lines(count)[count - 1]
                return (String(words[0]), String(words[1]), try JSON(line)["trace_id"])
            }
            var count = 0
            let passed = try ask("Traceparent: \(valid)", "tracestate: a=b")
            #expect(passed == (valid, "a=b", trace))
            for wrong in [
                [], ["traceparent: nonsense"], ["traceparent: 00-\(trace)-0000000000000000-00"],
                ["traceparent: \(valid)-more"], ["traceparent: \(valid)", "traceparent: \(valid)"],
                ["traceparent: \(valid)", "traceparent: \(valid)", "traceparent: \(valid)"],
            ] {
                let lines = wrong + (wrong.isEmpty ? [] : ["tracestate: a=b"])
                try client.send((["GET / HTTP/1.1", "Host: t"] + lines).joined(separator: "\r\n") + "\r\n\r\n")
                let words = try client.response().text.split(separator: " ", omittingEmptySubsequences: false)
                count += 1
                let record = try JSON(try proxy.accessLog.lines(count)[count - 1])
                guard begins else {
                    #expect(words[0] == wrong.map { $0.dropFirst(13) }.joined(separator: ","))
                    #expect(record["trace_id"] == "null")
                    continue
                }
                #expect(words[1] == "-")
                let parts = words[0].split(separator: "-")
                #expect(parts.map(\.count) == [2, 32, 16, 2])
                #expect(record["trace_id"] == String(parts[1]))
                #expect(record["request_id"] == String(parts[1]))
            }
        }
    }

    @Test func whatIsAnsweredHereHasItsLength() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log stdout format=json;
                listener main { bind 127.0.0.1:0; http2 on; route /here { respond 200 "twelve bytes"; } }
                """)
        let found = try proxy.answer(to: head("GET /here HTTP/1.1", "Host: a"))
        #expect(try proxy.accessLog.lines(1)[0].contains("\"response_bytes\":\(found.content.count)"))
        #expect(found.content.count == 12)
        let missing = try proxy.answer(to: head("GET /nowhere HTTP/1.1", "Host: a"))
        #expect(try proxy.accessLog.lines(2)[1].contains("\"response_bytes\":\(missing.content.count)"))
        _ = try proxy.answer(to: head("HEAD /here HTTP/1.1", "Host: a"), toHEAD: true)
        #expect(try proxy.accessLog.lines(3)[2].contains("\"response_bytes\":0"))
        let stream = try proxy.connectHTTP2()
        try stream.ask(head("GET /here HTTP/1.1", "Host: a"))
        #expect(try stream.content(of: 1) == "twelve bytes")
        #expect(try proxy.accessLog.lines(4)[3].contains("\"response_bytes\":12"))
    }

    @Test(
        "UTF-8 stays as it is, and nothing else that is not ASCII",
        arguments: [("combined", "\\x"), ("json", "\\u00")])
    func otherBytes(format: String, escape: String) throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log stdout format=\(format);
                listener main { bind 127.0.0.1:0; route / { respond 200; } }
                """)
        let client = try proxy.connect()
        let agent: [UInt8] = Array("größe € 🎉 ".utf8) + [0xFF, 0xC3, 0x28, 0xC2, 0x9B, 0xE2, 0x82]
        try client.send(
            Array("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: ".utf8) + agent + Array("\r\n\r\n".utf8))
        #expect(try client.response().status == 200)
        let line = try proxy.accessLog.lines(1)[0]
        let escaped =
            ["FF", "C3"].map { escape + $0 }.joined() + "("
            + ["C2", "9B", "E2", "82"].map { escape + $0 }.joined()
        #expect(line.contains("größe € 🎉 " + escaped + "\""), "\(line)")
    }

    @Test func rotatingLosesNoRecord() throws {
        let folder = Folder()
        let proxy = try Headfirst(
            configuration: """
                workers 2; access_log $FOLDER/access.log; error_log stderr;
                listener main { bind 127.0.0.1:0; route / { respond 200; } }
                """, folder: folder)
        let client = try proxy.connect()
        var names = ["access.log"]
        let (rounds, requests) = (40, 25)
        for round in 0..<rounds {
            let old = "access.log.\(round)"
            names.append(old)
            #expect(rename("\(folder.path)/access.log", "\(folder.path)/\(old)") == 0)
            proxy.command.signal(round % 2 == 0 ? SIGHUP : SIGUSR1)
            for _ in 0..<requests {
                try client.ask()
                _ = try client.response()
            }
            // The next file has to be there before it can be moved.
            let deadline = Now.milliseconds + 4000
            while access("\(folder.path)/access.log", F_OK) != 0, Now.milliseconds < deadline { usleep(1000) }
        }
        let deadline = Now.milliseconds + 4000
        while lineCount(folder, names) < rounds * requests, Now.milliseconds < deadline { usleep(10_000) }
        #expect(lineCount(folder, names) == rounds * requests)
    }
}
