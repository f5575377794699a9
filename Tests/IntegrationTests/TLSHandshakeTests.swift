// Handshakes that go wrong: clients that are too old, unknown, silent, that speak something else or end in the middle.
// Whatever they do, the next one is served.

import Glibc
import TLS
import Testing

@Suite struct TLSHandshakeTests {
    private static let answer = "route / { respond 200 ok; }"

    private static func proxy(_ tls: String = "", _ listener: String = "", top: String = "") throws -> Headfirst {
        try Headfirst(
            configuration: """
                workers 1; access_log off; \(top)
                listener main {
                    bind 127.0.0.1:0 tls; tls { certificate \(Certificates.shared.pair("site")); \(tls) }
                    \(listener) \(answer)
                }
                """)
    }

    private static func isServed(_ proxy: Headfirst) throws -> Bool {
        let client = try proxy.connectTLS()
        try client.ask()
        return try client.response().text == "ok"
    }

    @Test func theOldestVersionIsKept() throws {
        let proxy = try Self.proxy("min_version 1.3;")
        #expect(throws: WireError.refused) { try proxy.connectTLS { $0.version = .tls12 } }
        let client = try proxy.connectTLS { $0.version = .tls13 }
        #expect(client.tls?.version == "TLSv1.3")
        #expect(try Self.isServed(proxy))
    }

    @Test(arguments: [TLSVersion.tls12, .tls13], [nil, "foreign", "client"])
    func aCertificateMayBeRequired(version: TLSVersion, certificate: String?) throws {
        let proxy = try Self.proxy("client_ca \(Certificates.shared.path("ca.pem")); client_verify required;")
        // In TLS 1.3 the client's handshake is over before the server looks at its certificate.
        func ask() throws -> Int {
            let client = try proxy.connectTLS {
                $0.version = version
                $0.certificate = certificate
            }
            try client.ask()
            return try client.response().status
        }
        if certificate == "client" {
            #expect(try ask() == 200)
        } else {
            #expect(throws: WireError.self) { try ask() }
        }
    }

    @Test func sessionsAreResumed() throws {
        let proxy = try Self.proxy("", "", top: "")
        for version in [TLSVersion.tls12, .tls13] {
            let memory = try TLSMemory(TLSClientSettings(version: version))
            for number in 0..<3 {
                let client = try proxy.connectTLS(memory)
                try client.ask()
                #expect(try client.response().status == 200)
                #expect(client.tls?.isResumed == (number > 0), "\(version) \(number)")
            }
        }
    }

    /// Readable for a person, in the protocol that the client speaks.
    @Test(arguments: [
        "GET / HTTP/1.1\r\nHost: t\r\n\r\n", "POST /x HTTP/1.0\r\n\r\n", "CONNECT t:1 HTTP/1.1\r\nHost: t:1\r\n\r\n",
    ])
    func plainHTTPIsAnsweredInClear(request: String) throws {
        let proxy = try Self.proxy()
        let client = try proxy.connect()
        try client.send(request)
        let response = try client.response()
        #expect(response.status == 400)
        #expect(response.text.contains("TLS") || response.text.lowercased().contains("https"))
        #expect(client.end() == .ended)
        #expect(try Self.isServed(proxy))
    }

    @Test func plainHTTPInPiecesIsAnsweredInClear() throws {
        let proxy = try Self.proxy()
        let client = try proxy.connect()
        for byte in head("GET / HTTP/1.1", "Host: t").utf8 { try? client.send([byte]) }
        #expect(try client.response().status == 400)
    }

    @Test(
        "Silent from the first byte, from the middle, or after the server's flight",
        arguments: [0, 1, 5, 100, Int.max])
    func aHandshakeHasToEndInTime(bytes: Int) throws {
        let proxy = try Self.proxy("", "tls_handshake_timeout 300ms; keepalive_timeout 20s;")
        let client = try proxy.connect()
        let start = Now.milliseconds
        try client.send(Array(try TLSLayer(client: TLSMemory()).start().prefix(bytes)))
        #expect(client.drain().end != .late)
        let took = Now.milliseconds - start
        #expect((250...2000).contains(took))
        #expect(try Self.isServed(proxy))
    }

    /// The time is the handshake's own: from the connection's beginning, however busily bytes come.
    @Test func aSlowHandshakeIsNotLonger() throws {
        let proxy = try Self.proxy("", "tls_handshake_timeout 400ms;")
        let client = try proxy.connect()
        let start = Now.milliseconds
        for byte in try TLSLayer(client: TLSMemory()).start() {
            do { try client.send([byte]) } catch { break }
            if client.drain(milliseconds: 20).end != .late { break }
        }
        #expect((350...2500).contains(Now.milliseconds - start))
    }

    @Test func clientsThatDoNotReadInTheHandshakeCostNothing() throws {
        let proxy = try Self.proxy("", "tls_handshake_timeout 500ms;")
        var clients: [Wire] = []
        let before = proxy.command.descriptorCount
        for _ in 0..<50 {
            let client = try proxy.connect(receiveBuffer: 1)
            try client.send(try TLSLayer(client: TLSMemory()).start())
            clients.append(client)
        }
        #expect(try Self.isServed(proxy))
        let deadline = Now.milliseconds + 4000
        while proxy.command.descriptorCount > before, Now.milliseconds < deadline { usleep(20_000) }
        #expect(proxy.command.descriptorCount <= before)
        #expect(!clients.isEmpty)
    }

    @Test func garbageEndsTheConnection() throws {
        let proxy = try Self.proxy()
        var hello = try TLSLayer(client: TLSMemory()).start()
        hello[9] = 0xFF
        let inputs: [[UInt8]] = [
            [0], [0x16], [0x80, 0x2E, 1, 3, 1], [UInt8](repeating: 0xFF, count: 5000),
            [0x16, 3, 1, 0xFF, 0xFF] + [UInt8](repeating: 0, count: 70_000),
            [0x16, 3, 1, 0, 0], [0x15, 3, 3, 0, 2, 2, 40], [0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5], hello,
            Array("SSH-2.0-OpenSSH\r\n".utf8), Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8),
        ]
        for input in inputs {
            let client = try proxy.connect()
            // It may be refused before all of it is sent.
            try? client.send(input)
            client.endSending()
            #expect(client.drain().end != .late, "\(input.prefix(8))")
        }
        #expect(try Self.isServed(proxy))
    }

    enum Cut: CaseIterable { case fin, reset }

    /// The client's two flights, cut behind every so-many-eth byte of either.
    @Test(arguments: Cut.allCases)
    func aHandshakeMayBeCutAnywhere(cut: Cut) throws {
        let proxy = try Self.proxy()
        let memory = try TLSMemory()
        let helloBytes = try TLSLayer(client: memory).start().count
        let before = proxy.command.descriptorCount
        for offset in Array(stride(from: 0, through: helloBytes, by: 13)) + [helloBytes - 1] {
            let client = try proxy.connect()
            try client.send(Array(try TLSLayer(client: memory).start().prefix(offset)))
            if cut == .fin {
                client.endSending()
                #expect(client.drain().end != .late)
            } else {
                client.reset()
            }
        }
        for offset in 0..<90 {
            let client = try proxy.connect()
            let layer = try TLSLayer(client: memory)
            try client.send(layer.start())
            var second: [UInt8] = []
            while second.isEmpty {
                try client.pull()
                second = layer.receive(client.take(client.buffer.count), isLast: false).output
            }
            try client.send(Array(second.prefix(offset)))
            if cut == .fin {
                client.endSending()
                #expect(client.drain().end != .late)
            } else {
                client.reset()
            }
        }
        #expect(try Self.isServed(proxy))
        let deadline = Now.milliseconds + 2000
        while proxy.command.descriptorCount > before, Now.milliseconds < deadline { usleep(10_000) }
        #expect(proxy.command.descriptorCount <= before)
    }

    /// A client of another make, if one is here.
    @Test func anotherLibraryIsServed() throws {
        let proxy = try Self.proxy()
        let port = proxy.listening[0].split(separator: ":").last ?? ""
        let folder = Folder()
        Descriptors.lock.lock()
        let status = system(
            "printf 'GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'"
                + " | openssl s_client -quiet -ign_eof -verify_return_error -CAfile \(Certificates.shared.path("ca.pem"))"
                + " -servername localhost -connect 127.0.0.1:\(port) >\(folder.path)/out 2>\(folder.path)/err")
        Descriptors.lock.unlock()
        #expect(status == 0)
        let descriptor = open("\(folder.path)/out", O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        var room = [UInt8](repeating: 0, count: 4096)
        let text = String(decoding: room[..<max(0, read(descriptor, &room, room.count))], as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n") && text.hasSuffix("\r\n\r\nok"))
    }
}
