// Sessions that go on from earlier ones: on another worker, after the keys were rotated, and never where they may not.

import Testing

@testable import TLS

@Suite struct ResumptionTests {
    static let versions = [TLSVersion.tls12, .tls13]

    /// Two workers of one listener, and what a client does there.
    @Test(arguments: versions)
    func resumesOnAnotherWorker(_ version: TLSVersion) throws {
        let keys = try TicketKeys.random()
        let policy = serverPolicy("rsa")
        let wire = try Wire([policy], clientPolicy { only(version, &$0) }, keys: keys)
        let other = try TLSServerContext(policies: [policy], ticketKeys: keys)
        defer { other.retire() }
        #expect(try !wire.connected().server.session.isResumed)
        for server in [other, wire.server, other, other] {
            let (client, server) = try wire.connected(server: server)
            #expect(client.isEstablished && server.isEstablished)
            #expect(client.session.isResumed && server.session.isResumed)
            #expect(server.serverName == "site.example.com")
            try client.send(bytes(9))
            try server.send(bytes(8))
            exchange(client, server)
            #expect(server.plaintext == bytes(9) && client.plaintext == bytes(8))
        }
        // Other keys: a whole handshake, and all is well.
        let stranger = try TLSServerContext(policies: [policy], ticketKeys: try .random())
        defer { stranger.retire() }
        let (client, server) = try wire.connected(server: stranger)
        #expect(client.isEstablished && server.isEstablished && !server.session.isResumed)
    }

    @Test(arguments: versions)
    func ticketsOutliveOneRotation(_ version: TLSVersion) throws {
        let first = try TicketKeys.random()
        let wire = try Wire([serverPolicy("rsa")], clientPolicy { only(version, &$0) }, keys: first)
        _ = try wire.connected()
        let second = try first.rotated()
        wire.server.setTicketKeys(second)
        #expect(try wire.connected().server.session.isResumed)
        // That session was sealed anew, so it outlives the next rotation.
        let third = try second.rotated()
        wire.server.setTicketKeys(third)
        #expect(try wire.connected().server.session.isResumed)
        // Unused over two rotations it is too old.
        wire.server.setTicketKeys(try third.rotated().rotated())
        let (client, server) = try wire.connected()
        #expect(client.isEstablished && server.isEstablished && !server.session.isResumed)
    }

    /// A ticket of one policy is worth nothing under another, nor one name's under another name.
    @Test(arguments: versions)
    func neverResumesUnderAnotherPolicyOrName(_ version: TLSVersion) throws {
        let keys = try TicketKeys.random()
        let plain = serverPolicy("rsa")
        let strict = serverPolicy("rsa") {
            $0.clientVerification = .optional
            $0.clientTrust = certificates.trust()
        }
        let partner = serverPolicy("partner") {
            $0.name = "tls partner"
            $0.hostNames = ["partner.example.com"]
        }
        let wire = try Wire([plain], clientPolicy { only(version, &$0) }, keys: keys)
        _ = try wire.connected()
        #expect(try wire.connected().server.session.isResumed)
        for policies in [[strict], [serverPolicy("rsa") { $0.name = "another" }]] {
            let other = try TLSServerContext(policies: policies, ticketKeys: keys)
            defer { other.retire() }
            let (client, server) = try wire.connected(server: other)
            #expect(client.isEstablished && server.isEstablished && !server.session.isResumed)
            // Back again: the ticket is now the other's.
            #expect(try !wire.connected().server.session.isResumed)
        }
        // The same client's session for one host is offered for another: a peer that mixes names up on purpose.
        let both = try TLSServerContext(policies: [plain, partner], ticketKeys: keys)
        defer { both.retire() }
        let mixed = try Wire([plain], clientPolicy(trust: nil) { only(version, &$0) }, keys: keys)
        let site = try mixed.peer("site.example.com")
        let other = try mixed.peer("partner.example.com")
        let wild = try mixed.peer("a.wild.example.com")
        func connect(_ peer: TLSClientPeer) -> Side {
            let (client, server) = (Side(client: peer), Side(server: both))
            exchange(client, server)
            #expect(client.isEstablished && server.isEstablished)
            return server
        }
        #expect(!connect(site).session.isResumed)
        #expect(connect(site).session.isResumed)
        other.adoptSession(of: site)
        #expect(!connect(other).session.isResumed)
        wild.adoptSession(of: site)
        #expect(!connect(wild).session.isResumed)
        #expect(connect(wild).session.isResumed)
    }

    @Test(arguments: versions)
    func theClientsCertificateIsRemembered(_ version: TLSVersion) throws {
        let wire = try Wire(
            [
                serverPolicy("rsa") {
                    $0.clientVerification = .required
                    $0.clientTrust = certificates.trust()
                }
            ],
            clientPolicy {
                only(version, &$0)
                $0.certificate = certificates.pair("client")
            })
        #expect(try !wire.connected().server.session.isResumed)
        for _ in 0..<3 {
            let (_, server) = try wire.connected()
            #expect(server.session.isResumed)
            #expect(try server.peerCertificate == der("client"))
        }
        // The same where a name selects that policy, and the first one asks for nothing.
        let named = serverPolicy("rsa") {
            $0.name = "tls site"
            $0.hostNames = ["site.example.com"]
            $0.clientVerification = .required
            $0.clientTrust = certificates.trust()
        }
        let behind = try TLSServerContext(policies: [serverPolicy("second"), named], ticketKeys: try .random())
        defer { behind.retire() }
        #expect(try !wire.connected(server: behind).server.session.isResumed)
        #expect(try wire.connected(server: behind).server.session.isResumed)
        behind.storage.pointee.verificationSecondsMax = -1
        #expect(try !wire.connected(server: behind).server.session.isResumed)
        _ = try wire.connected()
        #expect(try wire.connected().server.session.isResumed)
        // But not for ever: in the end the certificate is verified anew, however often the ticket was.
        wire.server.storage.pointee.verificationSecondsMax = -1
        let (client, server) = try wire.connected()
        #expect(client.isEstablished && server.isEstablished && !server.session.isResumed)
    }

    /// A renewed certificate changes no policy: sessions go on.
    @Test func aReloadKeepsSessions() throws {
        let keys = try TicketKeys.random()
        let wire = try Wire([serverPolicy("rsa")], clientPolicy(), keys: keys)
        _ = try wire.connected()
        let renewed = try TLSServerContext(policies: [serverPolicy("ecdsa")], ticketKeys: keys)
        defer { renewed.retire() }
        #expect(try wire.connected(server: renewed).server.session.isResumed)
    }

    /// Contexts and peers that were retired live on until their last session ends.
    @Test func retiredContextsServeTheirSessions() throws {
        let server = try TLSServerContext(policies: [serverPolicy("rsa")], ticketKeys: try .random())
        let client = try TLSClientContext(clientPolicy())
        let peer = try TLSClientPeer(client, serverName: "site.example.com")
        let sides = (Side(client: peer), Side(server: server))
        peer.retire()
        client.destroy()
        server.retire()
        exchange(sides.0, sides.1)
        #expect(sides.0.isEstablished && sides.1.isEstablished)
        #expect(sides.1.accepts("site.example.com", under: server))
        try sides.0.send(bytes(5))
        exchange(sides.0, sides.1)
        #expect(sides.1.plaintext == bytes(5))
    }

    /// A server that fails a resumed handshake is tried afresh the next time.
    @Test func aFailedResumptionForgetsTheSession() throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy())
        _ = try wire.connected()
        let client = Side(client: try wire.peer("site.example.com"))
        client.receive(Array("nonsense".utf8))
        #expect(client.failure != nil)
        let (fresh, server) = try wire.connected()
        #expect(fresh.isEstablished && !server.session.isResumed)
    }
}
