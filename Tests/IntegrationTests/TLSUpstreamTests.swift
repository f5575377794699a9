// TLS towards servers: who is trusted, what is told of who is not, what an end means, and tunnels through TLS on both
// sides.

import Glibc
import TLS
import Testing

@Suite struct TLSUpstreamTests {
    private static var trusting: String { "ca_file \(Certificates.shared.path("ca.pem"));" }

    private static func proxy(
        to origin: Origin, tls: String = trusting, route: String = "", log: String = "off", top: String = ""
    ) throws -> Headfirst {
        try Headfirst(to: origin, top: top, upstream: "tls { \(tls) }", route: route, log: log)
    }

    private static func serving(
        _ settings: TLSServerSettings = TLSServerSettings(),
        answer: @escaping @Sendable (Wire, Message) throws -> Void = { wire, _ in try wire.ok() }
    ) -> Origin {
        Origin.overTLS(settings) { wire, _ in
            while true { try answer(wire, try wire.request()) }
        }
    }

    @Test func aTrustedServerAnswers() throws {
        let names = Handoff<String>()
        let origin = Self.serving { wire, request in
            names.give(wire.tls?.serverName ?? "")
            try wire.ok("\(request["X-Forwarded-Proto"] ?? "")")
        }
        let byAddress = try Self.proxy(to: origin)
        #expect(try byAddress.answer(to: head("GET / HTTP/1.1", "Host: t")).text == "http")
        // An address is no name to ask for (RFC 6066 section 3).
        #expect(try names.take() == "")
        let byName = try Self.proxy(to: origin, tls: "server_name site.test; \(Self.trusting)")
        #expect(try byName.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
        #expect(try names.take() == "site.test")
    }

    @Test(
        "Who is not trusted is not asked",
        arguments: [
            ("untrusted", "", "not trusted"), ("expired", "", "expired"), ("elsewhere", "", "another name"),
            ("site", "server_name other.test;", "another name"),
        ])
    func aServerIsVerified(certificate: String, tls: String, reason: String) throws {
        let requests = Handoff<Void>()
        let origin = Self.serving(TLSServerSettings(certificate: certificate)) { wire, _ in
            requests.give()
            try wire.ok()
        }
        let proxy = try Self.proxy(to: origin, tls: "\(tls) \(Self.trusting)")
        let response = try proxy.answer(to: head("POST / HTTP/1.1", "Host: t", "Content-Length: 6") + "secret")
        #expect(response.status == 502)
        #expect(response["Proxy-Status"]?.contains("error=tls_certificate_error") == true)
        #expect(requests.count == 0)
        let line = try proxy.errorLog.line(with: reason)
        #expect(line.contains(origin.address.text))
        // The same server, when it is not to be verified.
        let careless = try Self.proxy(to: origin, tls: "\(tls) verify off;")
        #expect(try careless.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
    }

    @Test func theProxyShowsItsOwnCertificate() throws {
        let certificates = Handoff<[UInt8]>()
        let origin = Self.serving(TLSServerSettings(asksClients: true)) { wire, _ in
            certificates.give(wire.tls?.peerCertificate ?? [])
            try wire.ok()
        }
        let files = Certificates.shared
        let known = try Self.proxy(to: origin, tls: "\(Self.trusting) certificate \(files.pair("client"));")
        #expect(try known.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
        #expect(try certificates.take() == files.der("client"))
        // In TLS 1.3 the refusal comes behind the request.
        let unknown = try Self.proxy(to: origin)
        #expect(try unknown.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 502)
        #expect(certificates.count == 0)
    }

    @Test(
        "What is no TLS is no server",
        arguments: [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "SSH-2.0-x\r\n", "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}",
            "",
        ])
    func serversThatSpeakSomethingElse(first: String) throws {
        let origin = Origin { wire, _ in
            try wire.pull()
            try wire.send(first)
        }
        let proxy = try Self.proxy(to: origin)
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect(response.status == 502)
        #expect(response["Proxy-Status"]?.contains("error=tls_") == true)
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 502)
    }

    /// Bytes in clear before the handshake end the connection, whatever they say.
    @Test func aServerThatSpeaksFirstIsNotHeard() throws {
        let origin = Origin { wire, _ in
            try wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            _ = wire.drain()
        }
        let proxy = try Self.proxy(to: origin)
        // Its bytes come with the connection, or a moment later: each order has its turn.
        for _ in 0..<30 { #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 502) }
    }

    @Test func aServerThatIsSilentInTheHandshakeIsLate() throws {
        let origin = Origin { wire, _ in _ = wire.drain(milliseconds: 5000) }
        let proxy = try Self.proxy(to: origin, route: "connect_timeout 300ms; retries 0;")
        let start = Now.milliseconds
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 504)
        #expect((250...2000).contains(Now.milliseconds - start))
    }

    @Test func sessionsAreResumed() throws {
        let resumed = Handoff<Bool>()
        let origin = Self.serving { wire, _ in
            resumed.give(wire.tls?.isResumed ?? false)
            try wire.ok("ok", "Connection: close")
        }
        let proxy = try Self.proxy(to: origin)
        for number in 0..<4 {
            #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200)
            #expect(try resumed.take() == (number > 0))
        }
    }

    @Test func connectionsAreReused() throws {
        let origin = Self.serving { wire, request in try wire.ok(request.target) }
        let proxy = try Self.proxy(to: origin)
        for number in 0..<10 {
            #expect(try proxy.answer(to: head("GET /\(number) HTTP/1.1", "Host: t")).text == "/\(number)")
        }
        #expect(origin.connectionCount == 1)
    }

    enum ServerEnd: CaseIterable { case closeNotify, closeNotifyAndFIN, finAlone, reset }

    private static func leave(_ wire: Wire, _ end: ServerEnd) {
        switch end {
        case .closeNotify: wire.notifyEnd()
        case .closeNotifyAndFIN: wire.endSending()
        case .finAlone: shutdown(wire.descriptor, Int32(SHUT_WR))
        case .reset: wire.reset()
        }
    }

    /// Rule 4: an end without close_notify is truncation where the end matters.
    @Test(arguments: ServerEnd.allCases, ["1.0", "1.1"])
    func theEndOfACloseDelimitedResponse(end: ServerEnd, version: String) throws {
        for isTLS in [true, false] { try checkEnd(end, version: version, isTLS: isTLS) }
    }

    private func checkEnd(_ end: ServerEnd, version: String, isTLS: Bool) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            try wire.beginTLS(TLSServerSettings())
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK") + "hello")
            try go.take()
            Self.leave(wire, end)
            if end != .reset { _ = wire.drain() }
        }
        let proxy =
            isTLS
            ? try Headfirst.overTLS(to: origin, upstreamTLS: Self.trusting) : try Self.proxy(to: origin)
        let client = isTLS ? try proxy.connectTLS() : try proxy.connect()
        try client.ask("GET / HTTP/\(version)")
        let message = try client.head()
        #expect(message.status == 200)
        #expect(message.isChunked == (version == "1.1"))
        if version == "1.1" {
            #expect(try client.chunk() == Array("hello".utf8))
        } else {
            #expect(try client.exactly(5) == Array("hello".utf8))
        }
        go.give()
        let isWhole = end == .closeNotify || end == .closeNotifyAndFIN
        if version == "1.1" {
            if isWhole {
                #expect(try client.chunk().isEmpty)
            } else {
                let (bytes, seen) = client.drain()
                #expect(bytes.isEmpty && seen != .late)
            }
        } else {
            let seen = client.end()
            if isWhole { #expect(seen == .ended) } else { #expect(seen == .reset || seen == .truncated) }
        }
    }

    /// What is framed needs no end of TLS.
    @Test func aFramedResponseIsWholeWithoutCloseNotify() throws {
        let origin = Origin { wire, _ in
            try wire.beginTLS(TLSServerSettings())
            _ = try wire.request()
            try wire.ok("hello")
            shutdown(wire.descriptor, Int32(SHUT_WR))
            _ = wire.drain()
        }
        let proxy = try Self.proxy(to: origin)
        for _ in 0..<3 { #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).text == "hello") }
    }

    @Test("Rule 10 holds for connections that ended while idle", arguments: ServerEnd.allCases)
    func staleConnectionsAreReplaced(end: ServerEnd) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, number in
            try wire.beginTLS(TLSServerSettings())
            _ = try wire.request()
            try wire.ok("\(number)")
            try go.take()
            Self.leave(wire, end)
            go.give()
            if end != .reset { _ = wire.drain() }
        }
        let proxy = try Self.proxy(to: origin)
        let client = try proxy.connect()
        try client.ask()
        #expect(try client.response().text == "1")
        go.give()
        try client.ask("GET / HTTP/1.1")
        #expect(try client.response().text == "2")
    }

    // MARK: Both sides

    @Test func largeDownloadsPassThroughTLSTwice() throws {
        let bytes = 24 << 20
        let origin = Origin.overTLS { wire, _ in
            _ = try wire.request()
            wire.patienceMilliseconds = 20_000
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(bytes)"))
            for number in 0..<(bytes >> 16) {
                try wire.send((0..<(1 << 16)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number) })
            }
        }
        let proxy = try Headfirst.overTLS(to: origin, upstreamTLS: Self.trusting)
        let client = try proxy.connectTLS(receiveBuffer: 64 << 10)
        client.patienceMilliseconds = 20_000
        try client.ask()
        #expect(try client.head().length == bytes)
        for number in 0..<(bytes >> 16) {
            let piece = try client.exactly(1 << 16)
            #expect(piece == (0..<(1 << 16)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ number) })
        }
    }

    /// WebSocket through TLS on both sides; each direction ends by itself (rule 8). A FIN that follows the close_notify
    /// later is nothing new.
    @Test(arguments: [true, false], [true, false])
    func halfOfATunnelEnds(isClientFirst: Bool, hasFIN: Bool) throws {
        let (ended, go) = (Handoff<WireError>(), Handoff<Void>())
        let origin = Origin { wire, _ in
            try wire.beginTLS(TLSServerSettings())
            _ = try wire.head()
            try wire.send(
                head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade") + "glued")
            #expect(try wire.exactly(5) == Array("early".utf8))
            if isClientFirst {
                ended.give(wire.drain().end)
                try go.take()
                try wire.send("late data")
                wire.endSending()
                // What it says to our own end.
                _ = wire.drain()
            } else {
                wire.notifyEnd()
                try go.take()
                if hasFIN { wire.endSending() }
                ended.give(try wire.exactly(9) == Array("late data".utf8) ? wire.drain().end : .refused)
            }
        }
        let proxy = try Headfirst.overTLS(to: origin, upstreamTLS: Self.trusting)
        let client = try proxy.connectTLS()
        try client.send(
            head("GET /chat HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: websocket") + "early")
        #expect(try client.head().status == 101)
        #expect(try client.exactly(5) == Array("glued".utf8))
        if isClientFirst {
            client.notifyEnd()
            #expect(try ended.take() == .ended)
            if hasFIN { client.endSending() }
            go.give()
            #expect(try client.exactly(9) == Array("late data".utf8))
            #expect(client.end() == .ended)
        } else {
            #expect(client.end() == .ended)
            go.give()
            try client.send("late data")
            client.endSending()
            #expect(try ended.take() == .ended)
        }
    }

    @Test("An end of a tunnel without close_notify is none in order", arguments: [true, false], [true, false])
    func aBrokenTunnelIsBrokenForBoth(isByClient: Bool, isReset: Bool) throws {
        let (opened, ended) = (Handoff<Void>(), Handoff<WireError>())
        func breakOff(_ wire: Wire) { if isReset { wire.reset() } else { shutdown(wire.descriptor, Int32(SHUT_WR)) } }
        let origin = Origin { wire, _ in
            try wire.beginTLS(TLSServerSettings())
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"))
            if isByClient {
                ended.give(wire.drain().end)
            } else {
                try opened.take()
                if isReset { wire.reset() } else { shutdown(wire.descriptor, Int32(SHUT_WR)) }
                if !isReset { _ = wire.drain() }
            }
        }
        let proxy = try Headfirst.overTLS(to: origin, upstreamTLS: Self.trusting)
        let client = try proxy.connectTLS()
        try client.send(head("GET /chat HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: websocket"))
        #expect(try client.head().status == 101)
        if isByClient {
            breakOff(client)
            let end = try ended.take()
            #expect(end == .reset || end == .truncated)
        } else {
            opened.give()
            let end = client.drain().end
            #expect(end == .reset || end == .truncated)
        }
    }

    /// What a tunnel holds back for a slow server is not lost when the client ends behind it.
    @Test func anEndBehindBytesThatWaitInATunnel() throws {
        let (isStuck, got) = (Handoff<Void>(), Handoff<(Int, WireError)>())
        let origin = Origin.overTLS(receiveBuffer: 16 << 10) { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"))
            try isStuck.take(milliseconds: 30_000)
            let (bytes, end) = wire.drain(milliseconds: 30_000)
            got.give((bytes.count, end))
        }
        let proxy = try Headfirst.overTLS(to: origin, upstreamTLS: Self.trusting)
        let client = try proxy.connectTLS()
        try client.send(head("GET /chat HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: websocket"))
        #expect(try client.head().status == 101)
        let layer = try #require(client.tls)
        // Records until one does not fit: all buffers are full then, those of the proxy among them.
        let piece = [UInt8](repeating: 1, count: 16 << 10)
        var (bytes, rest) = (0, ArraySlice<UInt8>())
        while rest.isEmpty {
            let records = try layer.send(piece)
            bytes += piece.count
            rest = records.dropFirst(try client.sendSomeRaw(records, stallMilliseconds: 300))
        }
        isStuck.give()
        client.patienceMilliseconds = 20_000
        try client.sendRaw(Array(rest))
        client.notifyEnd()
        #expect(try got.take(milliseconds: 30_000) == (bytes, .ended))
    }
}
