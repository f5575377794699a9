// What a peer may send that is no TLS, or not quite: the session fails cleanly, tells why, and nothing else is disturbed.

import TestSupport
import Testing

@testable import TLS

@Suite struct HostileTests {
    static let versions = [TLSVersion.tls12, .tls13]

    @Test(arguments: [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /", "HEAD / HTTP/1.0\r\n\r\n", "PUT / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n", "DELETE /x HTTP/1.1\r\n", "CONNECT a:443 HTTP/1.1\r\n", "PATCH / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROPFIND / HTTP/1.1\r\n", "X / HTTP/1.1\r\n",
    ])
    func plainHTTPIsTold(_ request: String) throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy())
        for piece in [1, 4, 1000] {
            let server = Side(server: wire.server)
            var rest = Array(request.utf8)[...]
            while !rest.isEmpty, server.failure == nil {
                server.receive(rest.prefix(piece))
                rest = rest.dropFirst(piece)
            }
            #expect(server.failure == .plainHTTP)
            // No alert goes out before our readable answer.
            #expect(server.outgoing.isEmpty)
        }
    }

    @Test func otherProtocolsAreNotTLS() throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy())
        for text in ["\u{0}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}", "ssh-2.0-x", "\u{5}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}"] {
            let server = Side(server: wire.server)
            server.receive(Array(text.utf8))
            server.receive([], isLast: true)
            #expect(server.failure != nil && server.failure != .plainHTTP)
        }
        // And a server that answers in clear is none.
        let client = Side(client: try wire.peer("site.example.com"))
        client.receive(Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8))
        #expect(client.failure == .notTLS)
        #expect(client.plaintext.isEmpty)
    }

    @Test func garbageFails() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        var random = SeededGenerator(seed: 4)
        for round in 0..<2_000 {
            let server = Side(server: wire.server)
            var garbage = (0..<Int.random(in: 1...600, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            // Half of it begins like a record of a handshake.
            if round % 2 == 0 {
                let header: [UInt8] = [22, 3, 1, 0, UInt8.random(in: 1...255, using: &random), 1, 0, 0]
                garbage.replaceSubrange(0..<min(header.count, garbage.count), with: header)
            }
            server.receive(garbage)
            if server.failure == nil { server.receive([], isLast: true) }
            #expect(server.failure != nil)
            #expect(server.plaintext.isEmpty && !server.session.isEstablished)
        }
        #expect(try wire.connected().server.isEstablished)
    }

    @Test(arguments: versions)
    func handshakesMayBeCutAtEveryByte(_ version: TLSVersion) throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        let hello = Side(client: try wire.peer("site.example.com")).takeOutgoing()
        for cut in 0..<hello.count {
            let server = Side(server: wire.server)
            server.receive(hello.prefix(cut), isLast: true)
            #expect(server.failure == .closedInHandshake)
        }
        // The client's second flight: without session, so that there is always a whole handshake.
        var cut = 0
        while true {
            let (client, server) = try wire.sides()
            server.receive(client.takeOutgoing())
            client.receive(server.takeOutgoing())
            let flight = client.takeOutgoing()
            if cut >= flight.count { break }
            server.receive(flight.prefix(cut), isLast: true)
            #expect(server.failure == .closedInHandshake, "cut at \(cut)")
            cut += 1
        }
        #expect(cut > 50)
        // The server's flight, cut before the client has what it needs.
        cut = 0
        while true {
            let (client, server) = try wire.sides()
            server.receive(client.takeOutgoing())
            let flight = server.takeOutgoing()
            if cut >= flight.count { break }
            client.receive(flight.prefix(cut), isLast: true)
            #expect(client.failure == .closedInHandshake, "cut at \(cut)")
            cut += 1
        }
        #expect(cut > 500)
    }

    /// One changed bit anywhere in the server's flight or in the client's second.
    @Test(arguments: versions, [1, 2])
    func changedLaterFlightsFailCleanly(_ version: TLSVersion, _ changedFlight: Int) throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        var offset = 0
        while true {
            let (client, server) = try wire.sides()
            server.receive(client.takeOutgoing())
            if changedFlight == 2 { client.receive(server.takeOutgoing()) }
            let (from, to) = changedFlight == 1 ? (server, client) : (client, server)
            var flight = from.takeOutgoing()
            if offset >= flight.count { break }
            // A record's version and the lone byte of a change_cipher_spec are not covered by anything.
            var header = 0
            while header + 5 + (Int(flight[header + 3]) << 8 | Int(flight[header + 4])) <= offset {
                header += 5 + (Int(flight[header + 3]) << 8 | Int(flight[header + 4]))
            }
            let isCovered = offset != header + 1 && offset != header + 2 && flight[header] != 20
            flight[offset] ^= 1 << UInt8(offset % 8)
            to.receive(flight)
            exchange(client, server)
            if isCovered { #expect(!(client.isEstablished && server.isEstablished), "changed at \(offset)") }
            #expect(server.plaintext.isEmpty && client.plaintext.isEmpty)
            offset += 1
        }
        #expect(offset > 50)
    }

    /// One changed bit anywhere in the first flight, or in a record with content: no crash, no made-up bytes.
    @Test(arguments: versions)
    func changedBytesFailCleanly(_ version: TLSVersion) throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        var offset = 0
        var failures = 0
        while true {
            let (client, server) = try wire.sides()
            var hello = client.takeOutgoing()
            if offset >= hello.count { break }
            hello[offset] ^= 1 << UInt8(offset % 8)
            server.receive(hello)
            client.receive(server.takeOutgoing())
            exchange(client, server)
            // The transcript is part of the handshake: what was changed cannot end well for both. Only the version in
            // the first record's header is outside of it, and ignored (RFC 8446 section 5.1).
            let isIgnored = offset == 2
            #expect((client.isEstablished && server.isEstablished) == isIgnored, "changed at \(offset)")
            if server.failure != nil || client.failure != nil { failures += 1 }
            #expect(server.plaintext.isEmpty && client.plaintext.isEmpty)
            offset += 1
        }
        #expect(failures > offset / 2)
        let probe = try wire.connected().client
        try probe.send(bytes(20))
        for offset in 0..<probe.outgoing.count {
            let (client, server) = try wire.connected()
            try client.send(bytes(20))
            var record = client.takeOutgoing()
            record[offset] ^= 0x11
            server.receive(record)
            if server.failure == nil { server.receive([], isLast: true) }
            #expect(server.input != .needsInput && server.input != .ended, "changed at \(offset)")
            #expect(server.plaintext.isEmpty)
        }
    }

    @Test(arguments: versions)
    func oversizedRecordsFail(_ version: TLSVersion) throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        let (_, server) = try wire.connected()
        server.receive([23, 3, 3, 0x48, 1] + bytes(100))
        #expect(server.failure == .badRecord)
        let fresh = Side(server: wire.server)
        fresh.receive([22, 3, 1, 0xFF, 0xFF] + bytes(100))
        #expect(fresh.failure != nil)
    }

    /// A hello that says it is as long as can be is not waited for in memory without end.
    @Test func endlessHelloFails() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        let server = Side(server: wire.server)
        server.receive([22, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF] + [UInt8](repeating: 0, count: 0x4000 - 4))
        #expect(server.failure != nil)
    }

    @Test func plaintextBeforeTheHandshakeEndsFails() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        let server = Side(server: wire.server)
        server.receive([23, 3, 3, 0, 5] + bytes(5))
        #expect(server.failure != nil && server.plaintext.isEmpty)
        let client = Side(client: try wire.peer("site.example.com"))
        client.receive([23, 3, 3, 0, 5] + bytes(5))
        #expect(client.failure != nil && client.plaintext.isEmpty)
    }

    /// Key updates that ask for ours are answered, but not without end.
    @Test func keyUpdatesAreBounded() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(.tls13, &$0) })
        let (client, server) = try wire.connected()
        for round in 1...20 {
            client.session.updateKey(asksPeer: true)
            try client.send(bytes(3))
            try server.send(bytes(2))
            exchange(client, server)
            #expect(server.plaintext.count == 3 * round && client.plaintext.count == 2 * round)
        }
        // Behind enough content there may be as many again.
        try client.send(bytes(70_000))
        exchange(client, server)
        var updates = 0
        while server.failure == nil, updates < 1_000 {
            client.session.updateKey(asksPeer: true)
            try client.send(bytes(1))
            server.receive(client.takeOutgoing())
            server.outgoing = []
            updates += 1
        }
        #expect((30...65).contains(updates))
        #expect(server.failure == .protocolError)
    }

    /// The same in one call.
    @Test func manyKeyUpdatesInOneCallAreBounded() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(.tls13, &$0) })
        let (client, server) = try wire.connected()
        for _ in 0..<500 {
            client.session.updateKey(asksPeer: true)
            try client.send(bytes(1))
        }
        server.receive(client.takeOutgoing())
        #expect(server.failure == .protocolError)
        #expect((30...65).contains(server.plaintext.count))
    }

    @Test func failureIsFinal() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        let (client, server) = try wire.connected()
        server.receive([23, 3, 3, 0, 30] + bytes(30))
        #expect(server.failure == .badRecord)
        #expect(!server.session.maySend && server.session.isFailed && server.session.inputIsOver)
        // The alert tells the client.
        client.receive(server.takeOutgoing())
        guard case .failed(let failure) = client.input else {
            Issue.record("the client goes on")
            return
        }
        #expect(failure.alert == 20 && failure.description == "the peer sent the alert bad record mac")
        server.endSending()
        #expect(server.outgoing.isEmpty)
        server.receive(bytes(10))
        #expect(server.input != .needsInput && server.plaintext.isEmpty)
        #expect(try wire.connected().server.isEstablished)
    }
}
