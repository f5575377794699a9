// `headfirst explain`: its exit codes, and that what it says is what the running proxy does, byte for byte.

import Testing

@Suite struct ExplainTests {
    private func explain(_ arguments: String...) throws -> (code: Int, output: String, errors: String) {
        try explain(arguments)
    }

    private func explain(_ arguments: [String]) throws -> (code: Int, output: String, errors: String) {
        let command = Command(["explain"] + arguments)
        let code = try command.exitCode()
        try command.output.waitForEnd(milliseconds: 1000)
        return (code, command.output.text, command.errors.text)
    }

    private static let good = "listener main { bind 127.0.0.1:8080; route / { respond 200 ok; } }"

    // MARK: The command

    @Test func itExplainsWithoutServing() throws {
        let folder = Folder()
        let file = folder.write(
            "upstream app { server 127.0.0.1:1; }\nlistener web {\n    bind 127.0.0.1:8080;\n"
                + "    route /a { upstream app; }\n}\n", to: "p.conf")
        let (code, output, errors) = try explain("--config", file, "GET", "http://localhost:8080/a/b", "-H", "X-A: 1")
        #expect(code == 0)
        #expect(errors.isEmpty)
        #expect(output.contains("\n  route      /a  (\(file):4:5)\n"))
        #expect(output.contains("\nGET /a/b HTTP/1.1\nHost: localhost:8080\nX-A: 1\nX-Forwarded-For: 192.0.2.1\n"))
        #expect(output.hasSuffix("\n"))
        let json = try explain("--config", file, "--format", "json", "GET", "http://localhost:8080/a/b")
        #expect(json.code == 0)
        #expect(
            json.output.hasPrefix("{\n  \"request\": \"GET /a/b HTTP/1.1\\r\\nHost: localhost:8080\\r\\n\\r\\n\",\n"))
    }

    @Test func aRefusalIsExplainedToo() throws {
        let folder = Folder()
        let file = folder.write(Self.good, to: "p.conf")
        let (code, output, _) = try explain("--config", file, "GET", "/", "-H", "Bad Name: x")
        #expect(code == 0)
        #expect(output.contains("\nHTTP/1.1 400 Bad Request\n"))
        #expect(output.contains("\nProxy-Status: headfirst; error=http_request_error; details=\"a field name is"))
    }

    @Test(
        "A wrong command line is 64",
        arguments: [
            [], ["GET"], ["GET", "/", "more"], ["GET", "a.test"],
            ["GET", "/", "-H", "bad"],
            ["--client", "me", "GET", "/"], ["--format", "xml", "GET", "/"], ["--listener", "other", "GET", "/"],
        ])
    func usage(arguments: [String]) throws {
        let folder = Folder()
        let file = folder.write(Self.good, to: "p.conf")
        let (code, output, errors) = try explain(["--config", file] + arguments)
        #expect(code == 64)
        #expect(output.isEmpty)
        #expect(errors.contains("Usage:"))
    }

    @Test func aWrongConfigurationIs78() throws {
        let folder = Folder()
        let file = folder.write("upstrem a { }\n", to: "p.conf")
        let (code, output, errors) = try explain("--config", file, "GET", "/")
        #expect(code == 78)
        #expect(output.isEmpty)
        #expect(errors.contains("\(file):1:1: error: unknown directive"))
        #expect(try explain("--config", "/nowhere/proxy.conf", "GET", "/").code == 78)
    }

    // MARK: What it says and what is done

    /// The text between the lines of the second part.
    private func outcome(of output: String) throws -> String {
        let rule = "\n" + String(repeating: "-", count: 72) + "\n"
        let parts = output.split(separator: rule, omittingEmptySubsequences: false)
        try #require(parts.count == 5, "\(output)")
        return String(parts[3])
    }

    /// With the lines of a head ended as people end them, and what no two runs share replaced by the stand-ins.
    private func comparable(_ bytes: [UInt8]) -> String {
        String(decoding: bytes, as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false).map { line in
            if line.hasPrefix("Date: ") { return "Date: Thu, 01 Jan 1970 00:00:00 GMT" }
            // Ours is 32 digits; a client's own is kept.
            if line.hasPrefix("X-Request-Id: "), line.utf8.count == 46 {
                return "X-Request-Id: 00000000000000000000000000000000"
            }
            return String(line)
        }.joined(separator: "\n")
    }

    /// A request as both sides put it.
    private struct Case {
        var method = "GET"
        var target = "/"
        var fields: [String] = []

        var head: String { ["\(method) \(target) HTTP/1.1", ""].joined(separator: "\r\n") + lines }
        private var lines: String { fields.map { $0 + "\r\n" }.joined() + "\r\n" }
        var arguments: [String] { ["--client", "127.0.0.1", method, target] + fields.flatMap { ["-H", $0] } }
    }

    @Test func theHeadIsWhatAServerGets() throws {
        let received = Monitor<[UInt8]>([])
        let origin = Origin { wire, _ in
            let bytes = try wire.headBytes()
            received.update { $0 = bytes }
            try wire.send(head: "HTTP/1.1 200 OK", "Content-Length: 0", "Connection: close")
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text); }
                listener main {
                    bind 127.0.0.1:0;
                    connect upstream origin;
                    trusted_proxies 127.0.0.0/8;
                    route / { upstream origin; }
                    route /named { upstream origin; set_request_field X-Named $request_id; }
                    route /edited {
                        upstream origin; upgrade off;
                        set_request_field X-Where "$listener $route $host $path $query $node $client_address";
                        remove_request_field Accept;
                    }
                }
                """, origins: [origin])
        let cases = [
            Case(fields: ["Host: a.test"]),
            Case(target: "/%7e/../x//?a=b&c", fields: ["hOST: a.test:81", "ACCEPT: */*"]),
            Case(fields: ["Host: a.test", "Connection: close, X-Hop", "X-Hop: 1", "X-Stays: 2", "Keep-Alive: 5"]),
            Case(fields: ["Host: a.test", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "Via: 1.0 x"]),
            Case(fields: ["Host: a.test", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=\"x"]),
            Case(fields: ["Host: a.test", "X-Request-Id: of-the-client", "TE: trailers, deflate"]),
            Case(
                target: "/named", fields: ["Host: a.test", "X-Request-Id:", "X-Request-Id: one", "X-Request-Id: two"]),
            Case(fields: ["Host: a.test", "Connection: Upgrade", "Upgrade: websocket, h2c"]),
            Case(
                target: "/edited/x?y",
                fields: ["Host: A.test", "Connection: Upgrade", "Upgrade: websocket", "Accept: a"]),
            Case(method: "POST", fields: ["Host: a.test", "Content-Length: 0"]),
            Case(method: "TRACE", fields: ["Host: a.test", "Max-Forwards: 7"]),
            Case(method: "CONNECT", target: "db.test:443", fields: ["Host: db.test:443"]),
        ]
        for one in cases {
            received.update { $0 = [] }
            let client = try proxy.connect()
            try client.send(one.head)
            _ = try client.head()
            let explained = try explain(["--config", "\(proxy.folder.path)/proxy.conf"] + one.arguments)
            #expect(explained.code == 0)
            let sent = comparable(received.update { $0 })
            #expect(try outcome(of: explained.output) + "\n" == sent, "\(one)")
        }
    }

    @Test func theAnswerIsWhatAClientGets() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; request_target_max 300;
                listener main {
                    bind 127.0.0.1:0;
                    connect allow *.test:443;
                    set_response_field X-From "$listener $route $client_address $method $target";
                    route = /up { respond 200 "up $host $node"; }
                    route /old { redirect 308 http://$host$path; error_format json; content_max 4; }
                }
                """)
        let host = "Host: A.test"
        let cases = [
            Case(target: "/up", fields: [host]), Case(method: "HEAD", target: "/up", fields: [host]),
            Case(target: "/up", fields: [host, "Connection: close"]), Case(target: "/old/x?y", fields: [host]),
            Case(method: "POST", target: "/old", fields: [host, "Content-Length: 5"]),
            Case(method: "POST", target: "/up", fields: [host, "Content-Length: 70000"]),
            Case(method: "POST", target: "/up", fields: [host, "Content-Length: 7", "Expect: 100-continue"]),
            Case(target: "/none", fields: [host]), Case(target: "/up", fields: [host, "Bad Name: x"]),
            Case(target: "/up", fields: [host, host]), Case(target: "/up", fields: [host, "Expect: x"]),
            Case(target: "/" + String(repeating: "x", count: 300), fields: [host]),
            Case(method: "CONNECT", target: "a.test:80", fields: ["Host: a.test:80"]),
            Case(method: "CONNECT", target: "a.test:443", fields: ["Host: a.test:443", "Content-Length: 1"]),
            Case(method: "TRACE", target: "/up", fields: [host, "Max-Forwards: 0", "Cookie: secret"]),
            Case(method: "OPTIONS", target: "/up", fields: [host, "Max-Forwards: 0"]),
            Case(method: "OPTIONS", target: "*", fields: [host]),
        ]
        for one in cases {
            let client = try proxy.connect()
            try client.send(one.head)
            let head = try client.headBytes()
            let message = Message(head)
            let count = one.method == "HEAD" ? 0 : Int(message["Content-Length"] ?? "0") ?? 0
            let answer = try head + client.exactly(count)
            let explained = try explain(["--config", "\(proxy.folder.path)/proxy.conf"] + one.arguments)
            #expect(explained.code == 0)
            // What ends in CRLF has no empty line of its own behind it.
            let said = try outcome(of: explained.output)
            #expect(comparable(answer) == said || comparable(answer) == said + "\n", "\(one)")
        }
    }

    @Test func httpsLeadsToABindThatSpeaksTLS() throws {
        let folder = Folder()
        let file = folder.write(
            """
            upstream u { server 127.0.0.1:9; }
            listener clear { bind 127.0.0.1:8080; route / { respond 200 clear; } }
            listener secure {
                bind 127.0.0.1:8443 tls; tls { certificate a.pem a.key; }
                route / { upstream u; set_request_field X-TLS "$scheme $tls_version $tls_server_name"; }
            }
            """, to: "p.conf")
        let (code, output, _) = try explain("--config", file, "GET", "https://localhost:8443/x")
        #expect(code == 0)
        #expect(output.contains("X-Forwarded-Proto: https\n"))
        #expect(output.contains("X-TLS: https TLSv1.3 localhost\n"))
        #expect(output.contains("tls_handshake_timeout"))
    }
}
