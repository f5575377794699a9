// Listeners behind a balancer of connections: the client is who its PROXY header says.

import Testing

@Suite struct ProxyHeaderTests {
    private static let header = "PROXY TCP4 192.0.2.77 198.51.100.2 56324 443\r\n"
    private static let binary: [UInt8] =
        [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10, 0x21, 0x11, 0, 12]
        + [192, 0, 2, 77, 198, 51, 100, 2, 0xDC, 0x04, 0x01, 0xBB]

    private func echo() -> Origin {
        Origin.serving { wire, request in try wire.ok(request.all("X-Forwarded-For").joined(separator: "|")) }
    }

    private func start(_ origin: Origin, listener: String = "") throws -> Headfirst {
        try Headfirst(
            configuration: """
                workers 1; access_log stdout; admin { bind 127.0.0.1:0; }
                upstream origin { server \(origin.address.text); }
                listener main { bind 127.0.0.1:0 proxy_protocol; \(listener) route / { upstream origin; } }
                """, origins: [origin])
    }

    @Test(arguments: [true, false])
    func theClientIsWhoTheHeaderSays(isBinary: Bool) throws {
        let proxy = try start(echo())
        let client = try proxy.connect()
        let bytes = isBinary ? Self.binary : Array(Self.header.utf8)
        // In pieces, and the request glued to the last one.
        for byte in bytes.dropLast() {
            try client.send([byte])
            #expect(client.isSilent(milliseconds: 1))
        }
        try client.send([bytes[bytes.count - 1]] + Array(head("GET / HTTP/1.1", "Host: t").utf8))
        #expect(try client.response().text == "192.0.2.77")
        // It belongs to the connection, not to its first request.
        try client.ask()
        #expect(try client.response().text == "192.0.2.77")
        #expect(try proxy.accessLog.line(with: "192.0.2.77").contains("192.0.2.77 - -"))
    }

    @Test func trustIsJudgedByTheClientsAddress() throws {
        let proxy = try start(echo(), listener: "trusted_proxies 192.0.2.0/24;")
        let client = try proxy.connect()
        try client.send(Self.header)
        try client.ask("GET / HTTP/1.1", "X-Forwarded-For: 203.0.113.9")
        #expect(try client.response().text == "203.0.113.9, 192.0.2.77")
        let other = try proxy.connect()
        try other.send("PROXY UNKNOWN\r\n")
        try other.ask("GET / HTTP/1.1", "X-Forwarded-For: 203.0.113.9")
        #expect(try other.response().text == "127.0.0.1")
    }

    @Test func theHeaderComesBeforeTLS() throws {
        let files = Certificates.shared
        let origin = echo()
        let proxy = try Headfirst(
            configuration: """
                access_log off; upstream origin { server \(origin.address.text); }
                listener main {
                    bind 127.0.0.1:0 tls proxy_protocol; tls { certificate \(files.pair("site")); }
                    route / { upstream origin; }
                }
                """, origins: [origin])
        let client = try proxy.connect()
        try client.send(Self.binary)
        try client.beginTLS(try TLSMemory())
        try client.ask()
        #expect(try client.response().text == "192.0.2.77")
    }

    @Test func aConnectionWithoutOneIsClosed() throws {
        let proxy = try start(echo(), listener: "request_head_timeout 300ms;")
        let client = try proxy.connect()
        try client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        let (bytes, end) = client.drain()
        #expect(bytes.isEmpty)
        #expect(end == .reset || end == .ended)
        #expect(try proxy.metric("headfirst_proxy_header_refused_total", becomes: 1))
        let line = try proxy.errorLog.line(with: "the PROXY header is malformed or missing")
        #expect(line.contains("the connection from 127.0.0.1 is closed") && !line.contains("status="))
        // Half a header ends with its sender, or with its time.
        let half = try proxy.connect()
        try half.send("PROXY TCP4 192.0.2.77")
        half.endSending()
        #expect([.reset, .ended].contains(half.end() ?? .late))
        let begin = Now.milliseconds
        let slow = try proxy.connect()
        try slow.send("PROXY TCP4 192.0.2.77")
        #expect([.reset, .ended].contains(slow.end() ?? .late))
        #expect((250..<2000).contains(Now.milliseconds - begin))
    }

    /// HAProxy with `bind :::80 v4v6` and `send-proxy` says TCP6 of clients of IPv4, too.
    @Test(arguments: ["TCP6 ::ffff:192.0.2.77 ::ffff:192.0.2.1", "TCP6 192.0.2.77 2001:db8::1"])
    func aMappedAddressIsOneOfIPv4(ends: String) throws {
        let client = try start(echo()).connect()
        try client.send("PROXY \(ends) 1234 80\r\n")
        try client.ask()
        #expect(try client.response().text == "192.0.2.77")
    }

    @Test func aReloadChangesItForNewConnections() throws {
        let proxy = try start(echo())
        let old = try proxy.connect()
        try old.send(Self.header)
        try old.ask()
        _ = try old.response()
        let port = try #require(UInt16(proxy.listening[0].split(separator: ":").last ?? ""))
        let text = proxy.folder.read("proxy.conf")
        try proxy.reload(text.replacing(" proxy_protocol", with: ""))
        let new = try Address.ipv4(port: port).connect()
        try new.ask()
        #expect(try new.response().text == "127.0.0.1")
        try old.ask()
        #expect(try old.response()["Connection"] == "close")
    }
}
