// The `tls` blocks of listeners and upstreams: what they become, and what is wrong with them.

import HTTPSemantics
import Testing

@testable import ProxyConfiguration

@Suite struct TLSBlockTests {
    private func listener(_ text: String) throws -> Listener {
        try model("listener l { bind 1 tls; \(text) route / { respond 200; } }").listeners[0]
    }

    private func mistake(_ text: String) -> String? {
        do {
            let text = Array(text.utf8)
            _ = try ConfigurationFile.parse(text: text, file: "f")
            return nil
        } catch {
            return error.description
        }
    }

    @Test func aPolicyWithItsDefaults() throws {
        let listener = try listener("tls { certificate a.pem /k/a.key; }")
        #expect(listener.binds[0].isTLS)
        let policy = try #require(listener.tls.first)
        #expect(policy.hosts == [])
        #expect(policy.certificates.map(\.key) == ["/k/a.key"])
        #expect(policy.certificates[0].certificate.hasSuffix("a.pem"))
        #expect(policy.minimumVersion == .tls12)
        #expect(policy.ciphers == nil && policy.curves == nil)
        #expect(policy.clientVerification == .off)
    }

    @Test func thePolicyForAllComesFirst() throws {
        let listener = try listener(
            """
            tls a.test *.B.test { certificate a b; certificate c d; client_ca ca; client_verify required; min_version 1.3; }
            tls { certificate e f; ciphers X:TLS_Y; curves P-256:X25519; }
            """)
        #expect(listener.tls.map(\.hosts) == [[], ["a.test", "*.b.test"]])
        #expect(listener.tls[1].certificates.count == 2)
        #expect(listener.tls[1].clientVerification == .required)
        #expect(listener.tls[1].minimumVersion == .tls13)
        #expect(listener.tls[0].ciphers == "X:TLS_Y")
        #expect(listener.tls[0].curves == "P-256:X25519")
    }

    @Test func anUpstreamsTLS() throws {
        let text = """
            upstream a { server a.test:1; tls { } }
            upstream b { server 10.0.0.1:1; tls { verify off; server_name B.test; certificate c k; min_version 1.3; } }
            upstream c { server unix:/s; tls { server_name c.test; ca_file ca; } }
            listener l { bind 1; route /a { upstream a; } route /b { upstream b; } route /c { upstream c; } }
            """
        let upstreams = try model(text).upstreams
        #expect(upstreams[0].tls?.verifies == true)
        #expect(upstreams[0].tls?.serverName == nil)
        #expect(upstreams[1].tls?.verifies == false)
        #expect(upstreams[1].tls?.serverName == "b.test")
        #expect(upstreams[1].tls?.certificate?.key.hasSuffix("k") == true)
        #expect(upstreams[2].tls?.authorityFile?.hasSuffix("ca") == true)
    }

    @Test(arguments: [
        ("bind 1 tls;", "binds tls and has no tls { ... } with a certificate"),
        ("bind 1 tls; tls { }", "this tls has no certificate"),
        ("bind 1 tls; tls a.test { certificate a b; }", "needs a tls without a name"),
        ("bind 1 tls; tls { certificate a b; } tls { certificate a b; }", "a second tls without a name"),
        (
            "bind 1 tls; tls { certificate a b; } tls x.test { certificate a b; } tls X.test { certificate a b; }",
            "the host \"x.test\" has two tls blocks"
        ),
        ("bind 1 tls; tls { certificate a b; } tls 10.0.0.1 { certificate a b; }", "never for addresses"),
        ("bind 1 tls; tls { certificate a; }", "\"certificate\" needs another argument"),
        ("bind 1 tls; tls { certificate a b; client_verify required; }", "client_verify needs a client_ca"),
        ("bind 1 tls; tls { certificate a b; min_version 1.1; }", "expected 1.2 or 1.3"),
        ("bind 1 tls; tls { certificate a b; ciphers \"a b\"; }", "expected names with colons between them"),
        ("bind 1 tls; tls { certificate a b; verify off; }", "\"verify\" is not allowed in a listener's tls"),
        ("bind 1 tls tls; tls { certificate a b; }", "\"tls\" stands here twice"),
    ])
    func mistakesInAListener(_ text: String, _ expected: String) {
        let found = mistake("listener l { \(text) route / { respond 200; } }")
        #expect(found?.contains(expected) == true, "\(found ?? "nothing")")
    }

    @Test(arguments: [
        ("server unix:/s; tls { }", "has no name to verify"),
        ("server a:1; tls { server_name \"a b\"; }", "neither the name of a host nor an address"),
        ("server a:1; tls { verify maybe; }", "expected on or off"),
        ("server a:1; tls { certificate a b; certificate c d; }", "one certificate is shown"),
        ("server a:1; tls { client_ca x; }", "\"client_ca\" is not allowed in an upstream's tls"),
        ("server a:1; tls x { }", "takes no argument here"),
    ])
    func mistakesInAnUpstream(_ text: String, _ expected: String) {
        let found = mistake("upstream u { \(text) } listener l { bind 1; route / { upstream u; } }")
        #expect(found?.contains(expected) == true, "\(found ?? "nothing")")
    }
}
