// Loading pairs and building policies: what is known of a good one, and what is said of a bad one.

import Testing

@testable import TLS

@Suite struct CertificateTests {
    @Test func factsAreRead() throws {
        let rsa = certificates.pair("rsa")
        #expect(rsa.keyKind == .rsa && rsa.keyBits == 2048)
        #expect(rsa.names == ["site.example.com", "*.wild.example.com"])
        #expect(rsa.subject == "CN = rsa")
        #expect(rsa.notBeforeSeconds == 1_704_067_200)
        #expect(rsa.notAfterSeconds == 4_102_358_400)
        #expect(rsa.covers("SITE.example.com") && rsa.covers("x.wild.example.com"))
        #expect(!rsa.covers("wild.example.com") && !rsa.covers("a.b.wild.example.com") && !rsa.covers("rsa"))
        #expect(certificates.pair("ecdsa").keyKind == .ecdsa)
        #expect(certificates.pair("address").names.isEmpty)
        #expect(certificates.pair("expired").notAfterSeconds == 1_577_836_800)
    }

    @Test func throwAwayCertificatesWork() throws {
        let pair = try TLSCertificate.throwAway(
            names: ["localhost", "*.demo.example"], addresses: ["127.0.0.1", "::1"], validSeconds: 3_600)
        #expect(pair.names == ["localhost", "*.demo.example"] && pair.keyKind == .ecdsa)
        #expect(pair.notAfterSeconds - pair.notBeforeSeconds == 3_660)
        #expect(try TLSCertificate.throwAway(names: ["a"], validSeconds: 60).certificateFile != pair.certificateFile)
        // Who trusts it is served.
        var server = serverPolicy("rsa")
        server.certificates = [pair]
        let wire = try Wire([server], TLSClientPolicy(trust: try TLSTrust(pair.certificateFile)))
        for name in ["localhost", "x.demo.example", "127.0.0.1", "::1"] {
            #expect(try wire.connected(name).client.isEstablished)
        }
        #expect(try wire.connected("other.example").client.failure == .certificateNameMismatch)
        #expect(throws: TLSSetupError.self) {
            try TLSCertificate.throwAway(names: ["a"], addresses: ["nonsense"], validSeconds: 60)
        }
    }

    @Test func otherFormsAreRead() throws {
        func load(_ certificate: String, _ key: String) throws(TLSSetupError) -> TLSCertificate {
            try TLSCertificate(certificatePath: certificates.path(certificate), keyPath: certificates.path(key))
        }
        #expect(try load("rsa.pem", "traditional.key").keyKind == .rsa)
        #expect(try load("both.pem", "both.pem").keyKind == .rsa)
        // A chain is sent as it stands in the file.
        var policy = serverPolicy("rsa")
        policy.certificates = [try load("chain.pem", "rsa.key")]
        let long = try Wire([policy], clientPolicy()).sides()
        let short = try Wire([serverPolicy("rsa")], clientPolicy()).sides()
        for (client, server) in [long, short] { server.receive(client.takeOutgoing()) }
        #expect(long.1.outgoing.count > short.1.outgoing.count + 300)
    }

    @Test func badPairsAreExplained() {
        func message(_ certificate: String, _ key: String) -> String {
            do {
                _ = try TLSCertificate(
                    certificatePath: certificates.path(certificate), keyPath: certificates.path(key))
                return "accepted"
            } catch {
                return error.description.split(separator: certificates.folder + "/").joined()
            }
        }
        #expect(message("missing.pem", "rsa.key") == "cannot read missing.pem: No such file or directory")
        #expect(message("ca.new", "rsa.key") == "cannot read ca.new: not a regular file")
        #expect(message("empty.pem", "rsa.key") == "empty.pem holds no certificate in PEM form")
        #expect(message("text.pem", "rsa.key") == "text.pem holds no certificate in PEM form")
        #expect(message("rsa.key", "rsa.key") == "rsa.key holds no certificate in PEM form")
        #expect(message("cut.pem", "rsa.key").hasPrefix("cut.pem holds a certificate that cannot be read: "))
        #expect(message("garbled.pem", "rsa.key").hasPrefix("garbled.pem holds a certificate that cannot be read: "))
        #expect(message("rsa.pem", "rsa.pem") == "rsa.pem holds no private key in PEM form")
        #expect(message("rsa.pem", "empty.pem") == "empty.pem holds no private key in PEM form")
        #expect(message("rsa.pem", "ecdsa.key") == "the private key ecdsa.key does not belong to rsa.pem")
        #expect(message("rsa.pem", "second.key") == "the private key second.key does not belong to rsa.pem")
        for file in ["encrypted.key", "encryptedold.key"] {
            #expect(
                message("rsa.pem", file)
                    == "\(file) holds a private key that is protected by a passphrase; take the passphrase off first")
        }
        #expect(message("weak.pem", "weak.key") == "OpenSSL refuses the certificate weak.pem: ee key too small")
    }

    @Test func badPoliciesAreExplained() {
        func error(_ change: (inout TLSServerPolicy) -> Void) -> TLSSetupError? {
            do {
                let context = try TLSServerContext(
                    policies: [serverPolicy("rsa", change: change)], ticketKeys: try .random())
                context.retire()
                return nil
            } catch {
                return error
            }
        }
        #expect(error { $0.ciphers = "NONSENSE" } == .badCiphers("NONSENSE"))
        #expect(error { $0.ciphers = "" } == .badCiphers(""))
        #expect(error { $0.ciphers = "TLS_NONSENSE" } == .badCiphers("TLS_NONSENSE"))
        #expect(error { $0.ciphers = "TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES256-GCM-SHA384" } == nil)
        #expect(error { $0.groups = "P-256:nonsense" } == .badGroups("P-256:nonsense"))
        #expect(error { $0.applicationProtocols = [""] } == .badProtocolName(""))
        #expect(error { $0.certificates = [] } == .noCertificateForPolicy("tls"))
        #expect(error { $0.clientVerification = .optional } == .noClientAuthority("tls"))
        #expect(throws: TLSSetupError.noCertificate(file: certificates.path("rsa.key"))) {
            try TLSTrust(path: certificates.path("rsa.key"))
        }
    }
}

@Suite struct HostNameTests {
    @Test func validNames() {
        func isValid(_ name: String) -> Bool {
            var name = name
            return name.withUTF8 { HostName.isValid($0) }
        }
        for good in ["a", "a.b", "A-b.example.com", "xn--e1afmkfd.com", "_x.example.com", "1.example", "1a.2b"] {
            #expect(isValid(good), "\(good)")
        }
        let long = String(repeating: "a", count: 64)
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "*.a", "1.2.3.4", "12", "::1", "é.com", long, "a\0b"] {
            #expect(!isValid(bad), "\(bad)")
        }
    }

    @Test func tablesFindExactBeforeWildcard() {
        let table = HostNameTable([
            ("*.example.com", 1), ("www.Example.com", 2), ("www.example.com", 3), ("example.com", 4), ("*.com", 5),
        ])
        defer { table.destroy() }
        func value(_ name: String) -> Int {
            var name = name
            return name.withUTF8 { table.value(of: $0) }
        }
        #expect(value("WWW.example.COM") == 2)
        #expect(value("www.example.com.") == 2)
        #expect(value("a.example.com") == 1)
        #expect(value("example.com") == 4)
        #expect(value("other.com") == 5)
        for none in ["a.b.example.com", "com", "", ".", ".example.com", "*.b.com.x", "example.org", "a."] {
            #expect(value(none) == -1, "\(none)")
        }
        let many = HostNameTable((0..<500).map { ("host\($0).example.com", $0) })
        defer { many.destroy() }
        for index in 0..<500 {
            var name = "host\(index).example.com"
            #expect(name.withUTF8 { many.value(of: $0) } == index)
        }
    }
}

extension TLSClientPeer {
    /// Offers another name's session.
    func adoptSession(of other: TLSClientPeer) {
        guard let session = other.storage.pointee.session else { return }
        if let old = storage.pointee.session { SessionReference.release(old) }
        SessionReference.retain(session)
        storage.pointee.session = session
    }
}
