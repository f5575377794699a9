// HTTP over a client's TLS: what requests tell of it, that messages pass as in clear, and what ends mean.

import Glibc
import TLS
import Testing

@Suite struct TLSTests {
    /// An origin that hands over each request and answers it.
    private static func noting(_ requests: Handoff<Message>) -> Origin {
        Origin.serving { wire, request in
            requests.give(request)
            try wire.ok("hello")
        }
    }

    // MARK: What requests tell

    @Test func variablesTellOfTLS() throws {
        let requests = Handoff<Message>()
        let edits = """
            set_request_field X-TLS "$scheme/$tls_version/$tls_cipher/$tls_server_name";
            """
        let proxy = try Headfirst.overTLS(to: Self.noting(requests), route: edits)
        let newest = try proxy.connectTLS { _ in }
        try newest.ask()
        #expect(try newest.response().text == "hello")
        #expect(try requests.take()["X-TLS"] == "https/TLSv1.3/TLS_AES_128_GCM_SHA256/localhost")
        let older = try proxy.connectTLS {
            $0.version = .tls12
            $0.serverName = "site.test"
        }
        try older.ask()
        #expect(try older.response().text == "hello")
        #expect(try requests.take()["X-TLS"] == "https/TLSv1.2/ECDHE-ECDSA-AES128-GCM-SHA256/site.test")
        let nameless = try proxy.connectTLS { $0.serverName = "127.0.0.1" }
        try nameless.ask()
        _ = try nameless.response()
        #expect(try requests.take()["X-TLS"]?.hasSuffix("SHA256/") == true)
    }

    @Test func theSchemeIsForwarded() throws {
        let requests = Handoff<Message>()
        let proxy = try Headfirst.overTLS(to: Self.noting(requests))
        let client = try proxy.connectTLS()
        try client.ask("GET / HTTP/1.1", "X-Forwarded-Proto: http", "Forwarded: proto=http")
        _ = try client.response()
        let request = try requests.take()
        #expect(request.all("X-Forwarded-Proto") == ["https"])
        #expect(request.all("Forwarded").count == 1)
        #expect(request["Forwarded"]?.contains("proto=https") == true)
        // https and its default port are no other host than the one without a port.
        try client.send(head("GET https://test/a HTTP/1.1", "Host: test:443"))
        #expect(try client.response().status == 200)
        #expect(try requests.take().target == "/a")
    }

    /// RFC 9440 section 2.4: nobody but the proxy says what certificate a client showed.
    @Test(arguments: ["off", "optional", "required"])
    func aClientsCertificateIsPassedOn(verify: String) throws {
        let requests = Handoff<Message>()
        let files = Certificates.shared
        let verification = verify == "off" ? "" : "client_ca \(files.path("ca.pem")); client_verify \(verify);"
        let proxy = try Headfirst.overTLS(to: Self.noting(requests), tls: verification)
        func told(by client: Wire) throws -> [String] {
            try client.ask("GET / HTTP/1.1", "Client-Cert: :AAAA:", "client-cert: :BBBB:", "Client-Cert-Chain: :CCCC:")
            #expect(try client.response().status == 200)
            let request = try requests.take()
            #expect(request.all("Client-Cert-Chain").isEmpty)
            return request.all("Client-Cert")
        }
        let known = try told(by: try proxy.connectTLS { $0.certificate = "client" })
        if verify == "off" {
            #expect(known.isEmpty)
        } else {
            let body = files.text(of: "client.pem").split(separator: "\n").filter { !$0.hasPrefix("-----") }
            #expect(known == [":\(body.joined()):"])
        }
        if verify != "required" { #expect(try told(by: try proxy.connectTLS()).isEmpty) }
    }

    @Test func aClientsOwnClientCertIsRemovedInClear() throws {
        let requests = Handoff<Message>()
        let proxy = try Headfirst(to: Self.noting(requests))
        let client = try proxy.connect()
        try client.ask("GET / HTTP/1.1", "Client-Cert: :AAAA:", "CLIENT-CERT: :BBBB:", "Client-Cert-Chain: :CCCC:")
        _ = try client.response()
        let request = try requests.take()
        #expect(request.all("Client-Cert").isEmpty)
        #expect(request.all("Client-Cert-Chain").isEmpty)
    }

    // MARK: Names

    private static func twoPolicies(_ partner: String = "") throws -> Headfirst {
        let files = Certificates.shared
        return try Headfirst(
            configuration: """
                workers 1; access_log off;
                listener main {
                    bind 127.0.0.1:0 tls;
                    tls { certificate \(files.pair("site")); }
                    tls partner.test *.partner.test { certificate \(files.pair("partner")); \(partner) }
                    route / { respond 200 "$host"; }
                }
                """)
    }

    @Test(arguments: [
        ("localhost", "site"), ("site.test", "site"), ("partner.test", "partner"), ("a.partner.test", "partner"),
    ])
    func theCertificateIsChosenByName(name: String, certificate: String) throws {
        // The client verifies that the certificate is for the name that it asked for.
        let client = try Self.twoPolicies().connectTLS { $0.serverName = name }
        #expect(client.tls?.peerCertificate == Certificates.shared.der(certificate))
        try client.send(head("GET / HTTP/1.1", "Host: \(name)"))
        #expect(try client.response().text == name)
    }

    @Test func aHostOfAnotherPolicyIsMisdirected() throws {
        let proxy = try Self.twoPolicies()
        for (name, host, status) in [
            ("localhost", "localhost", 200), ("localhost", "anything.test", 200), ("localhost", "partner.test", 421),
            ("localhost", "A.PARTNER.test:443", 421), ("partner.test", "partner.test", 200),
            ("partner.test", "a.partner.test", 200), ("partner.test", "localhost", 421),
        ] {
            let client = try proxy.connectTLS { $0.serverName = name }
            try client.send(head("GET / HTTP/1.1", "Host: \(host)"))
            #expect(try client.response().status == status, "\(name), \(host)")
            // The connection stays good for its own hosts.
            try client.send(head("GET / HTTP/1.1", "Host: \(name)"))
            #expect(try client.response().status == 200, "\(name), after \(host)")
        }
    }

    /// Otherwise a client would come to the partner's routes without the partner's certificate.
    @Test func aPolicyOfClientsIsNotEvadedByAnotherName() throws {
        let files = Certificates.shared
        let proxy = try Self.twoPolicies("client_ca \(files.path("ca.pem")); client_verify required;")
        let client = try proxy.connectTLS { $0.serverName = "localhost" }
        try client.send(head("GET / HTTP/1.1", "Host: partner.test"))
        #expect(try client.response().status == 421)
        let known = try proxy.connectTLS {
            $0.serverName = "partner.test"
            $0.certificate = "client"
        }
        try known.send(head("GET / HTTP/1.1", "Host: partner.test"))
        #expect(try known.response().status == 200)
    }

    // MARK: Messages

    @Test func connectionsPersist() throws {
        let proxy = try Headfirst.overTLS(
            to: Origin.serving { wire, request in try wire.ok(request.target) })
        let client = try proxy.connectTLS()
        for number in 0..<20 {
            try client.ask("GET /\(number) HTTP/1.1")
            #expect(try client.response().text == "/\(number)")
        }
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() throws {
        let proxy = try Headfirst.overTLS(to: Origin.serving { wire, request in try wire.ok(request.target) })
        let client = try proxy.connectTLS()
        // More than is read ahead while one is answered.
        let padding = String(repeating: "p", count: 500)
        let requests = (0..<40).map { head("GET /\($0) HTTP/1.1", "Host: t", "X-Padding: \(padding)") }
        try client.send(requests.joined())
        for number in 0..<40 { #expect(try client.response().text == "/\(number)") }
    }

    @Test func theHeadComesBeforeContent() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 103 Early Hints", "Link: </a>"))
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            try go.take()
            try wire.send(chunk("hello") + lastChunk)
        }
        let proxy = try Headfirst.overTLS(to: origin)
        let client = try proxy.connectTLS()
        try client.ask()
        #expect(try client.head().status == 103)
        #expect(try client.head().status == 200)
        go.give()
        #expect(try client.chunk() == Array("hello".utf8))
    }

    @Test func largeUploadsReachASlowServer() throws {
        let bytes = 12 << 20
        let counts = Handoff<Int>()
        let origin = Origin(receiveBuffer: 16 << 10) { wire, _ in
            _ = try wire.head()
            var sum = 0
            for _ in 0..<(bytes >> 16) {
                for byte in try wire.exactly(1 << 16) { sum = sum &* 31 &+ Int(byte) }
            }
            counts.give(sum)
            try wire.ok()
        }
        let proxy = try Headfirst.overTLS(to: origin)
        let client = try proxy.connectTLS()
        client.patienceMilliseconds = 20_000
        try client.ask("POST / HTTP/1.1", "Content-Length: \(bytes)")
        let piece = (0..<(1 << 16)).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        var sum = 0
        for _ in 0..<(bytes >> 16) {
            try client.send(piece)
            for byte in piece { sum = sum &* 31 &+ Int(byte) }
        }
        #expect(try client.response().status == 200)
        #expect(try counts.take() == sum)
    }

    @Test func aSlowReaderHoldsTheServerBack() throws {
        let sent = Monitor(0)
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(64 << 20)"))
            wire.patienceMilliseconds = 20_000
            let piece = [UInt8](repeating: 7, count: 1 << 16)
            for _ in 0..<1024 {
                try wire.send(piece)
                sent.update { $0 += piece.count }
            }
        }
        let proxy = try Headfirst.overTLS(to: origin)
        let client = try proxy.connectTLS(receiveBuffer: 32 << 10)
        client.patienceMilliseconds = 20_000
        try client.ask()
        _ = try client.head()
        // It stands still before all is sent: nothing more is taken for half a second.
        var last = -1
        while last != sent.update({ $0 }) {
            last = sent.update { $0 }
            usleep(500_000)
        }
        #expect(last < 32 << 20)
        #expect(proxy.command.residentKibibytes < 96 << 10)
        // And goes on: every byte comes.
        var left = 64 << 20
        while left > 0 {
            if client.buffer.isEmpty { try client.pull() }
            let taken = client.take(client.buffer.count)
            #expect(taken.first == 7 && taken.last == 7)
            left -= taken.count
        }
        #expect(left == 0)
    }

    // MARK: Ends

    enum Leaving: CaseIterable { case closeNotify, closeNotifyAndFIN, finAlone, reset }

    private func leave(_ client: Wire, _ leaving: Leaving) {
        switch leaving {
        case .closeNotify: client.notifyEnd()
        case .closeNotifyAndFIN: client.endSending()
        case .finAlone: shutdown(client.descriptor, Int32(SHUT_WR))
        case .reset: client.reset()
        }
    }

    @Test("Rule 9: an end while an answer is owed ends the server's work", arguments: Leaving.allCases)
    func aClientThatLeavesIsNoticed(leaving: Leaving) throws {
        for isMidResponse in [false, true] {
            let (came, ended) = (Handoff<Void>(), Handoff<WireError>())
            let origin = Origin { wire, _ in
                _ = try wire.request()
                if isMidResponse {
                    try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"))
                }
                came.give()
                ended.give(wire.drain().end)
            }
            let proxy = try Headfirst.overTLS(to: origin)
            let client = try proxy.connectTLS()
            try client.ask()
            try came.take()
            if isMidResponse { _ = try client.head() }
            let start = Now.milliseconds
            leave(client, leaving)
            #expect(try ended.take() != .late)
            #expect(Now.milliseconds - start < 1000)
        }
    }

    @Test("Pipelined requests do not hide the end", arguments: [1, 10])
    func aCloseNotifyBehindPipelinedRequestsIsNoticed(count: Int) throws {
        let (came, ended) = (Handoff<Void>(), Handoff<WireError>())
        let origin = Origin { wire, _ in
            _ = try wire.request()
            came.give()
            ended.give(wire.drain().end)
        }
        let proxy = try Headfirst.overTLS(to: origin)
        let client = try proxy.connectTLS()
        try client.ask()
        try came.take()
        for _ in 0..<count { try client.ask("GET /next HTTP/1.1", "X-Padding: \(String(repeating: "p", count: 200))") }
        client.notifyEnd()
        #expect(try ended.take(milliseconds: 1000) != .late)
    }

    @Test("half_close answers what was asked", arguments: [Leaving.closeNotify, .closeNotifyAndFIN])
    func halfClose(leaving: Leaving) throws {
        let go = Handoff<Void>()
        let origin = Origin.serving { wire, request in
            try go.take()
            try wire.ok(request.target)
        }
        let proxy = try Headfirst.overTLS(to: origin, route: "on_client_close half_close;")
        let client = try proxy.connectTLS()
        try client.send(head("GET /a HTTP/1.1", "Host: t") + head("GET /b HTTP/1.1", "Host: t"))
        leave(client, leaving)
        #expect(client.isSilent(milliseconds: 200))
        go.give()
        go.give()
        #expect(try client.response().text == "/a")
        #expect(try client.response().text == "/b")
        #expect(client.end() == .ended)
    }

    /// A request whose content waits, here for a place at the server, is complete though its end was read ahead.
    @Test(arguments: ["half_close", "finish"], [Leaving.closeNotify, .closeNotifyAndFIN])
    func anEndBehindContentThatWaitsLosesNothing(mode: String, leaving: Leaving) throws {
        let (came, go, got) = (Handoff<Void>(), Handoff<Void>(), Handoff<Int>())
        let origin = Origin.serving { wire, request in
            if request.method == "GET" {
                came.give()
                try go.take()
            } else {
                got.give(request.content.count)
            }
            try wire.ok(request.method)
        }
        let proxy = try Headfirst.overTLS(
            to: origin, server: "max_exchanges=1", route: "on_client_close \(mode);")
        let first = try proxy.connectTLS()
        try first.ask()
        try came.take()
        let second = try proxy.connectTLS()
        try second.ask("POST / HTTP/1.1", "Content-Length: 3000")
        try second.send([UInt8](repeating: 1, count: 3000))
        leave(second, leaving)
        #expect(second.isSilent(milliseconds: 200))
        go.give()
        #expect(try first.response().text == "GET")
        #expect(try got.take() == 3000)
        if mode == "half_close" {
            #expect(try second.response().text == "POST")
            #expect(second.end() == .ended)
        }
    }

    @Test func aConnectionThatIsClosedIsToldInOrder() throws {
        let proxy = try Headfirst.overTLS(to: Origin.serving(), listener: "keepalive_timeout 200ms;")
        let client = try proxy.connectTLS()
        try client.ask()
        _ = try client.response()
        #expect(client.end() == .ended)
        let other = try proxy.connectTLS()
        try other.ask("GET / HTTP/1.1", "Connection: close")
        _ = try other.response()
        #expect(other.end() == .ended)
    }

    /// Rule 4: to HTTP/1.0 only the end of TLS marks the end of such a response.
    @Test(arguments: [true, false])
    func anUntilCloseResponseEndsInOrderOnlyIfItsSourceDid(isWhole: Bool) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"))
            try go.take()
            if isWhole { try wire.send(lastChunk) }
        }
        let proxy = try Headfirst.overTLS(to: origin)
        let client = try proxy.connectTLS()
        try client.ask("GET / HTTP/1.0")
        _ = try client.head()
        #expect(try client.exactly(5) == Array("hello".utf8))
        go.give()
        let end = client.end()
        if isWhole { #expect(end == .ended) } else { #expect(end == .reset || end == .truncated) }
    }

    /// Records that come a byte at a time are one request all the same.
    @Test func bytesOfRecordsComeOneByOne() throws {
        let proxy = try Headfirst.overTLS(to: Origin.serving { wire, request in try wire.ok(request.target) })
        let client = try proxy.connectTLS()
        let layer = try #require(client.tls)
        for byte in try layer.send(Array(head("GET /slow HTTP/1.1", "Host: t").utf8)) { try client.sendRaw([byte]) }
        #expect(try client.response().text == "/slow")
    }

    @Test func aRecordThatWasChangedEndsTheConnection() throws {
        let requests = Handoff<Message>()
        let proxy = try Headfirst.overTLS(to: Self.noting(requests))
        let client = try proxy.connectTLS()
        let layer = try #require(client.tls)
        var record = try layer.send(Array(head("GET / HTTP/1.1", "Host: t").utf8))
        record[20] ^= 1
        try client.sendRaw(record)
        let (bytes, end) = client.drain()
        #expect(bytes.isEmpty && end != .late)
        #expect(requests.count == 0)
    }
}
