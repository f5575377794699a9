// Handshakes that succeed and that do not: versions, names, certificates, protocols, and who is told what.

import TLS
import Testing

@Suite struct HandshakeTests {
    @Test(arguments: [TLSVersion.tls12, .tls13], ["rsa", "ecdsa"])
    func succeedsInEachVersion(_ version: TLSVersion, _ certificate: String) throws {
        let wire = try Wire([serverPolicy(certificate)], clientPolicy { only(version, &$0) })
        let (client, server) = try wire.connected()
        #expect(client.isEstablished && server.isEstablished, "\(client.input) \(server.input)")
        for side in [client, server] {
            #expect(text(side.session.version) == (version == .tls12 ? "TLSv1.2" : "TLSv1.3"))
            #expect(text(side.session.cipher).contains("AES"))
            #expect(text(side.session.applicationProtocol) == "http/1.1")
            #expect(!side.session.isHTTP2 && !side.session.isResumed)
        }
        #expect(server.serverName == "site.example.com")
        try client.send(bytes(5))
        try server.send(bytes(7, seed: 9))
        exchange(client, server)
        #expect(server.plaintext == bytes(5))
        #expect(client.plaintext == bytes(7, seed: 9))
    }

    @Test(arguments: [TLSVersion.tls12, .tls13], [1, 2, 7, 1000])
    func succeedsInPieces(_ version: TLSVersion, _ piece: Int) throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy { only(version, &$0) })
        let (client, server) = try wire.sides()
        exchange(client, server, piece: piece)
        #expect(client.isEstablished && server.isEstablished)
        try client.send(bytes(3000))
        try server.send(bytes(3000))
        exchange(client, server, piece: piece)
        #expect(server.plaintext == bytes(3000))
        #expect(client.plaintext == bytes(3000))
    }

    @Test func plaintextBehindTheLastFlightIsNotLost() throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy())
        let (client, server) = try wire.sides()
        server.receive(client.takeOutgoing())
        client.receive(server.takeOutgoing())
        #expect(client.isEstablished && !server.isEstablished)
        try client.send(bytes(100))
        server.receive(client.takeOutgoing())
        #expect(server.isEstablished)
        #expect(server.plaintext == bytes(100))
    }

    @Test func minimumVersionIsKept() throws {
        let wire = try Wire(
            [serverPolicy("rsa") { $0.minimumVersion = .tls13 }], clientPolicy { only(.tls12, &$0) })
        let (client, server) = try wire.connected()
        #expect(server.failure == .noSharedVersion)
        #expect(client.failure == .alertReceived)
        let other = try Wire(
            [serverPolicy("rsa")],
            clientPolicy {
                only(.tls12, &$0)
                $0.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256"
            })
        #expect(try other.connected().server.failure == .noSharedCipher)
    }

    @Test func groupsAreKept() throws {
        let wire = try Wire(
            [serverPolicy("rsa") { $0.groups = "P-384" }], clientPolicy { $0.groups = "X25519" })
        #expect(try wire.connected().server.failure == .noSharedCipher)
        let retried = try Wire(
            [serverPolicy("rsa") { $0.groups = "P-384" }], clientPolicy { $0.groups = "X25519:P-384" })
        #expect(try retried.connected().server.isEstablished)
    }

    // MARK: Names

    @Test(
        arguments: [
            ("second.example.com", "second", 0), ("SECOND.example.com", "second", 0), ("site.example.com", "rsa", 0),
            ("a.wild.example.com", "rsa", 0), ("wild.example.com", "rsa", 0), ("other.example.com", "rsa", 0),
            ("partner.example.com", "partner", 1), ("x.partner.example.com", "partner", 1),
            ("x.y.partner.example.com", "partner", 1),
        ])
    func certificateAndPolicyAreChosenByName(_ name: String, _ expected: String, _ policy: Int) throws {
        let wire = try Wire(
            [
                serverPolicy("rsa", "second"),
                serverPolicy("partner") {
                    $0.name = "tls partner"
                    $0.hostNames = ["partner.example.com", "*.partner.example.com"]
                },
            ], clientPolicy(trust: nil))
        let (client, server) = try wire.connected(name)
        #expect(client.isEstablished && server.isEstablished)
        #expect(try client.peerCertificate == der(expected))
        #expect(server.session.policyIndex == policy)
        #expect(server.serverName == name.lowercased())
        #expect(server.accepts("partner.example.com", under: wire.server) == (policy == 1))
        #expect(server.accepts("Z.Partner.Example.Com.", under: wire.server) == (policy == 1))
        // Below a policy's wildcard at any depth, as routes are: nobody gets around the policy by a longer name.
        #expect(server.accepts("a.b.c.partner.example.com", under: wire.server) == (policy == 1))
        #expect(server.accepts("anything.else", under: wire.server) == (policy == 0))
        #expect(server.accepts("", under: wire.server) == (policy == 0))
    }

    /// When another context is in force, the host's policy there must be the one of the handshake: other certificates are
    /// no other policy, another word on clients' certificates is.
    @Test func sessionsAreJudgedByTheContextInForce() throws {
        let wire = try Wire([serverPolicy("rsa")], clientPolicy(trust: nil))
        let (_, server) = try wire.connected("site.example.com")
        for (policies, accepts, isValid) in [
            ([serverPolicy("second")], true, true),
            ([serverPolicy("rsa"), serverPolicy("partner") { $0.hostNames = ["site.example.com"] }], false, true),
            ([serverPolicy("rsa") { $0.minimumVersion = .tls13 }], false, false),
        ] {
            let context = try TLSServerContext(policies: policies, ticketKeys: try .random())
            defer { context.retire() }
            #expect(server.accepts("site.example.com", under: context) == accepts)
            #expect(server.accepts("other.example.com", under: context) == isValid)
            #expect(server.session.isValid(under: context) == isValid)
        }
    }

    @Test func addressesSendNoName() throws {
        let wire = try Wire([serverPolicy("address")], clientPolicy())
        for name in ["192.0.2.1", "2001:db8::1"] {
            let (client, server) = try wire.connected(name)
            #expect(client.isEstablished && server.isEstablished)
            #expect(server.serverName == "")
        }
        #expect(try wire.connected("192.0.2.2").client.failure == .certificateNameMismatch)
    }

    @Test func certificateKindFollowsTheClient() throws {
        let both = serverPolicy("rsa", "ecdsa")
        for (ciphers, expected) in [
            ("ECDHE-RSA-AES128-GCM-SHA256", "rsa"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
        ] {
            let wire = try Wire(
                [both],
                clientPolicy {
                    only(.tls12, &$0)
                    $0.ciphers = ciphers
                })
            let (client, server) = try wire.connected()
            #expect(client.isEstablished && server.isEstablished)
            #expect(try client.peerCertificate == der(expected))
        }
    }

    /// The policy that a name selects brings its own minimum version, groups and demands on clients.
    @Test func policiesDifferInMoreThanCertificates() throws {
        let policies = [
            serverPolicy("rsa"),
            serverPolicy("partner") {
                $0.name = "tls partner"
                $0.hostNames = ["partner.example.com"]
                $0.minimumVersion = .tls13
                $0.groups = "P-384"
                $0.clientVerification = .required
                $0.clientTrust = certificates.trust()
            },
        ]
        let old = try Wire(policies, clientPolicy { only(.tls12, &$0) })
        #expect(try old.connected("site.example.com").server.isEstablished)
        #expect(try old.connected("partner.example.com").server.failure == .noSharedVersion)
        let group = try Wire(policies, clientPolicy { $0.groups = "X25519" })
        #expect(try group.connected("site.example.com").server.isEstablished)
        #expect(try group.connected("partner.example.com").server.failure == .noSharedCipher)
        let bare = try Wire(policies, clientPolicy())
        #expect(try bare.connected("site.example.com").server.isEstablished)
        #expect(try bare.connected("partner.example.com").server.failure == .certificateMissing)
        // And the other way round: a strict first policy does not bind the others.
        let strictFirst = try Wire(
            [
                serverPolicy("rsa") {
                    $0.minimumVersion = .tls13
                    $0.clientVerification = .required
                    $0.clientTrust = certificates.trust()
                },
                serverPolicy("partner") {
                    $0.name = "tls partner"
                    $0.hostNames = ["partner.example.com"]
                },
            ], clientPolicy { only(.tls12, &$0) })
        #expect(try strictFirst.connected("partner.example.com").server.isEstablished)
        #expect(try strictFirst.connected("site.example.com").server.failure == .noSharedVersion)
    }

    // MARK: The server's certificate

    @Test(
        arguments: [
            ("untrusted", "site.example.com", TLSFailure.Kind.certificateUntrusted),
            ("expired", "site.example.com", .certificateExpired), ("future", "site.example.com", .certificateExpired),
            ("rsa", "other.example.com", .certificateNameMismatch),
            ("rsa", "a.b.wild.example.com", .certificateNameMismatch),
            ("rsa", "wild.example.com", .certificateNameMismatch),
            ("rsa", "192.0.2.1", .certificateNameMismatch),
            // The subjects' common names are these; they do not count, not even where there is no other name.
            ("rsa", "rsa", .certificateNameMismatch), ("address", "address", .certificateNameMismatch),
            ("client", "client.example.com", .certificateInvalid),
        ], [TLSVersion.tls12, .tls13])
    func badCertificatesAreRefused(
        _ bad: (certificate: String, name: String, kind: TLSFailure.Kind), _ version: TLSVersion
    ) throws {
        let wire = try Wire([serverPolicy(bad.certificate)], clientPolicy { only(version, &$0) })
        let (client, server) = try wire.connected(bad.name)
        #expect(client.failure == bad.kind)
        #expect(server.failure == .alertReceived)
        guard case .failed(let failure) = client.input else { return }
        #expect(failure.verification != 0)
        #expect(failure.description.contains("the peer's certificate"))
        // Unless nothing is verified.
        let trusting = try Wire([serverPolicy(bad.certificate)], clientPolicy(trust: nil) { only(version, &$0) })
        #expect(try trusting.connected(bad.name).client.isEstablished)
    }

    @Test func serverNamesAreChecked() throws {
        let context = try TLSClientContext(clientPolicy())
        defer { context.destroy() }
        for name in ["", ".", "a b", "a..b", "exämple.com", "999.1.1.1", "a/b", String(repeating: "a", count: 64)] {
            #expect(throws: TLSSetupError.badServerName(name)) { try TLSClientPeer(context, serverName: name) }
        }
    }

    @Test func theSystemsAuthoritiesAreThere() throws {
        let trust = try TLSTrust(system: ())
        var policy = TLSClientPolicy(trust: trust)
        policy.applicationProtocols = []
        let wire = try Wire([serverPolicy("rsa")], policy)
        #expect(try wire.connected().client.failure == .certificateUntrusted)
    }

    // MARK: The client's certificate

    @Test(arguments: [TLSVersion.tls12, .tls13])
    func clientsAreVerified(_ version: TLSVersion) throws {
        func outcome(_ verification: TLSClientVerification, _ certificate: String?) throws -> (Side, Side) {
            let server = serverPolicy("rsa") {
                $0.clientVerification = verification
                $0.clientTrust = certificates.trust()
            }
            let client = clientPolicy {
                only(version, &$0)
                $0.certificate = certificate.map { certificates.pair($0) }
            }
            return try Wire([server], client).connected()
        }
        let (_, unasked) = try outcome(.off, "client")
        #expect(unasked.isEstablished && !unasked.session.hasPeerCertificate && unasked.peerCertificate.isEmpty)
        for verification in [TLSClientVerification.optional, .required] {
            let (_, good) = try outcome(verification, "client")
            #expect(good.isEstablished)
            #expect(try good.peerCertificate == der("client"))
            #expect(try outcome(verification, "foreignclient").1.failure == .certificateUntrusted)
            // A server's certificate is none for a client.
            #expect(try outcome(verification, "second").1.failure == .certificateInvalid)
        }
        let (_, none) = try outcome(.optional, nil)
        #expect(none.isEstablished && !none.session.hasPeerCertificate)
        let (client, refused) = try outcome(.required, nil)
        #expect(refused.failure == .certificateMissing)
        #expect(client.failure == .alertReceived)
    }

    // MARK: Application protocols

    @Test func protocolsAreAgreed() throws {
        func chosen(_ server: [String], _ client: [String]) throws -> (Side, Side) {
            try Wire(
                [serverPolicy("rsa") { $0.applicationProtocols = server }],
                clientPolicy { $0.applicationProtocols = client }
            ).connected()
        }
        let (client, server) = try chosen(["h2", "http/1.1"], ["http/1.1", "h2"])
        #expect(server.session.isHTTP2 && client.session.isHTTP2)
        let (_, second) = try chosen(["h2", "http/1.1"], ["spdy/1", "http/1.1"])
        #expect(text(second.session.applicationProtocol) == "http/1.1")
        for (ours, theirs) in [(["http/1.1"], []), ([], ["http/1.1"])] as [([String], [String])] {
            let (_, none) = try chosen(ours, theirs)
            #expect(none.isEstablished && none.session.applicationProtocol.isEmpty)
        }
        let (refusedClient, refused) = try chosen(["http/1.1"], ["h2"])
        #expect(refused.failure == .noSharedProtocol)
        guard case .failed(let failure) = refusedClient.input else {
            Issue.record("the client goes on")
            return
        }
        #expect(failure.kind == .alertReceived && failure.alert == 120)
        #expect(failure.alertName == "no application protocol")
    }
}

/// The first certificate of a pair in DER, as OpenSSL's command writes it.
func der(_ name: String) throws -> [UInt8] {
    // Between the marks PEM is DER in base64.
    let pem = String(decoding: try PEMFile(path: certificates.path("\(name).pem")).bytes, as: UTF8.self)
    let lines = pem.split(separator: "\n")
    let first = try #require(lines.firstIndex(of: "-----BEGIN CERTIFICATE-----"))
    let last = try #require(lines.firstIndex(of: "-----END CERTIFICATE-----"))
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var out: [UInt8] = []
    var bits: UInt32 = 0
    var count = 0
    for byte in lines[(first + 1)..<last].joined().utf8 where byte != UInt8(ascii: "=") {
        bits = bits << 6 | UInt32(try #require(alphabet.firstIndex(of: byte)))
        count += 6
        if count >= 8 {
            count -= 8
            out.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
    }
    return out
}
