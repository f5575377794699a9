// Rule 8, CONNECT: to a server that answers it, or dialled here; and everything that is refused.

import Testing

@Suite struct ConnectTests {
    private static func connectHead(_ target: String, _ fields: String...) -> String {
        "CONNECT \(target) HTTP/1.1\r\nHost: \(target)\r\n" + fields.map { $0 + "\r\n" }.joined() + "\r\n"
    }

    /// What speaks behind the tunnel: it says who it is, then sends back what comes.
    private static func echo() -> Origin {
        Origin { wire, _ in
            try wire.send("ready ")
            while true { try wire.send(wire.exactly(1)) }
        }
    }

    private func proxy(_ connect: String, origins: [Origin], top: String = "") throws -> Headfirst {
        try Headfirst(
            configuration: """
                workers 1; access_log off; \(top)
                listener main { bind 127.0.0.1:0; connect \(connect); route / { respond 200 "route"; } }
                """, origins: origins)
    }

    private func port(of origin: Origin) -> String { String(origin.address.text.split(separator: ":").last ?? "") }

    @Test func aDialledTunnelPassesBothWays() throws {
        let origin = Self.echo()
        let proxy = try proxy("allow \(origin.address.text)", origins: [origin])
        let client = try proxy.connect()
        try client.send(Self.connectHead(origin.address.text) + "early")
        let response = try client.head()
        #expect(response.status == 200)
        #expect(response["Content-Length"] == nil && response["Transfer-Encoding"] == nil)
        #expect(response["Connection"] == nil)
        #expect(try String(decoding: client.exactly(11), as: UTF8.self) == "ready early")
        try client.send("more")
        #expect(try String(decoding: client.exactly(4), as: UTF8.self) == "more")
    }

    @Test func aNameIsLookedUpAndMayBeLocalIfItIsNamed() throws {
        let origin = Self.echo()
        let port = port(of: origin)
        let proxy = try proxy("allow localhost:\(port)", origins: [origin])
        let client = try proxy.connect()
        try client.send(Self.connectHead("LocalHost:\(port)"))
        #expect(try client.head().status == 200)
        #expect(try String(decoding: client.exactly(6), as: UTF8.self) == "ready ")
    }

    @Test func aStarDoesNotReachThisMachine() throws {
        let origin = Self.echo()
        let port = port(of: origin)
        let proxy = try proxy("allow *:*", origins: [origin])
        for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"] {
            let client = try proxy.connect()
            try client.send(Self.connectHead("\(host):\(port)"))
            let response = try client.response()
            #expect(response.status == 403, "\(host)")
            #expect(response["Proxy-Status"]?.contains("http_request_denied") == true)
            #expect(client.drain().end == .ended)
        }
        #expect(origin.connectionCount == 0)
    }

    @Test func whatIsNotAllowedIsRefusedAndTheConnectionEnds() throws {
        let origin = Self.echo()
        let proxy = try proxy("allow \(origin.address.text)", origins: [origin])
        let client = try proxy.connect()
        try client.send(Self.connectHead("127.0.0.1:1") + "GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        #expect(try client.response().status == 403)
        let rest = client.drain()
        #expect(rest.bytes.isEmpty)
        #expect(rest.end == .ended)
    }

    @Test func aTargetThatRefusesIs502() throws {
        let origin = Origin { _, _ in }
        let target = origin.address.text
        let proxy = try proxy("allow 127.0.0.1:1", origins: [])
        #expect(target != "127.0.0.1:1")
        #expect(try proxy.answer(to: Self.connectHead("127.0.0.1:1")).status == 502)
        #expect(try proxy.errorLog.line(with: "target=").contains("127.0.0.1:1"))
    }

    @Test func aTargetWithoutAnAddressIs502() throws {
        let proxy = try proxy("allow *:*", origins: [])
        let response = try proxy.answer(to: Self.connectHead("nobody.invalid:443"))
        #expect(response.status == 502 || response.status == 504)
        #expect(response["Proxy-Status"]?.contains("dns_") == true)
    }

    @Test func withContentItIsNoConnect() throws {
        let origin = Self.echo()
        let proxy = try proxy("allow \(origin.address.text)", origins: [origin])
        for field in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
            let response = try proxy.answer(to: Self.connectHead(origin.address.text, field))
            #expect(response.status == 400)
        }
        #expect(origin.connectionCount == 0)
    }

    @Test func withoutContentItMaySaySo() throws {
        let origin = Self.echo()
        let proxy = try proxy("allow \(origin.address.text)", origins: [origin])
        let client = try proxy.connect()
        try client.send(Self.connectHead(origin.address.text, "Content-Length: 0") + "hello")
        #expect(try client.head().status == 200)
        #expect(try client.exactly(11) == Array("ready hello".utf8))
    }

    @Test func withoutTheDirectiveItIs405() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(to: Self.connectHead("example.com:443"))
        #expect(response.status == 405)
        #expect(response["Allow"]?.contains("GET") == true)
    }

    @Test func otherRequestsTakeTheirRoutes() throws {
        let proxy = try proxy("allow 127.0.0.1:1", origins: [])
        #expect(try proxy.answer(to: "GET / HTTP/1.1\r\nHost: t\r\n\r\n").text == "route")
    }

    @Test func hostMayLackThePortAndNothingElse() throws {
        let origin = Self.echo()
        let target = origin.address.text
        let proxy = try proxy("allow \(target)", origins: [origin])
        for (host, status) in [("127.0.0.1", 200), ("127.0.0.2", 400), ("127.0.0.1:1", 400)] {
            let client = try proxy.connect()
            try client.send("CONNECT \(target) HTTP/1.1\r\nHost: \(host)\r\n\r\n")
            #expect(try client.head().status == status)
        }
    }

    // MARK: To an upstream

    private func proxyWithUpstream(_ origin: Origin) throws -> Headfirst {
        try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream u { server \(origin.address.text); }
                listener main { bind 127.0.0.1:0; connect upstream u; }
                """, origins: [origin])
    }

    @Test func anUpstreamGetsItInAuthorityForm() throws {
        let got = Handoff<Message>()
        let behind = Handoff<[UInt8]>()
        let origin = Origin { wire, _ in
            got.give(try wire.head())
            // Nothing goes up before the 2xx.
            #expect(wire.isSilent(milliseconds: 100))
            try wire.send("HTTP/1.1 201 Tunnel\r\nContent-Length: 5\r\nX-By: u\r\n\r\nglued")
            behind.give(try wire.exactly(5))
        }
        let proxy = try proxyWithUpstream(origin)
        let client = try proxy.connect()
        try client.send(Self.connectHead("a.test:443", "X-Mine: 1") + "early")
        let request = try got.take()
        #expect(request.startLine == "CONNECT a.test:443 HTTP/1.1")
        #expect(request.all("Host") == ["a.test:443"])
        #expect(request["X-Mine"] == "1")
        let response = try client.head()
        #expect(response.startLine == "HTTP/1.1 201 Tunnel")
        #expect(response["X-By"] == "u")
        #expect(response["Content-Length"] == nil && response["Connection"] == nil)
        #expect(try client.exactly(5) == Array("glued".utf8))
        #expect(try behind.take() == Array("early".utf8))
    }

    @Test func anUpstreamsRefusalPassesAndTheConnectionEnds() throws {
        let origin = Origin.serving { wire, _ in
            try wire.send("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno")
        }
        let proxy = try proxyWithUpstream(origin)
        let client = try proxy.connect()
        try client.send(Self.connectHead("a.test:443") + "GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        let response = try client.response()
        #expect(response.status == 407)
        #expect(response["Connection"] == "close")
        #expect(response.text == "no")
        #expect(client.drain().end == .ended)
    }
}
