// What a side of TLS is to be like: settings, read and checked by the control thread, the same for every worker. And how
// settings become an SSL_CTX; what is common to both roles is here.

internal import COpenSSL

/// A version of TLS that may be the oldest.
package enum TLSVersion: UInt8, Sendable {
    /// TLS 1.2.
    case tls12
    /// TLS 1.3.
    case tls13

    var number: Int32 {
        switch self {
        case .tls12: TLS1_2_VERSION
        case .tls13: TLS1_3_VERSION
        }
    }
}

/// What is asked of a client's certificate.
package enum TLSClientVerification: UInt8, Sendable {
    /// None is asked for.
    case off
    /// One that is sent must be good; none may be sent.
    case optional
    /// A good one must be sent.
    case required

    var mode: Int32 {
        switch self {
        case .off: SSL_VERIFY_NONE
        case .optional: SSL_VERIFY_PEER
        case .required: SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        }
    }
}

/// How a listener speaks TLS for the hosts that it names, or for all others.
package struct TLSServerPolicy: Sendable {
    /// What errors call it, `tls partner.example.com` for instance; part of its identity, so unique in the process.
    package var name: String
    /// The hosts it is for, wildcards of one label among them. Empty for a listener's first policy.
    package var hostNames: [String] = []
    /// At least one; the first is what a client gets whose name suits none.
    package var certificates: [TLSCertificate]
    /// The oldest version.
    package var minimumVersion = TLSVersion.tls12
    /// Cipher suites by OpenSSL's names, those of TLS 1.3 (`TLS_...`) among them; nil for our own choice.
    package var ciphers: String?
    /// Groups for the key exchange, the first preferred; nil for our own choice.
    package var groups: String?
    /// What is asked of clients.
    package var clientVerification = TLSClientVerification.off
    /// Whose certificates clients may show.
    package var clientTrust: TLSTrust?
    /// Application protocols, the first preferred; empty for none (RFC 7301).
    package var applicationProtocols = ["http/1.1", "http/1.0"]

    /// A policy with our defaults.
    package init(name: String, certificates: [TLSCertificate]) {
        self.name = name
        self.certificates = certificates
    }
}

/// How an upstream is spoken to by TLS.
package struct TLSClientPolicy: Sendable {
    /// The authorities that the server's certificate is verified against; nil for no verification at all.
    package var trust: TLSTrust?
    /// Our own certificate, if the server asks.
    package var certificate: TLSCertificate?
    /// The oldest version.
    package var minimumVersion = TLSVersion.tls12
    /// The newest version; less than TLS 1.3 is for servers that fail at it, and for tests.
    package var maximumVersion = TLSVersion.tls13
    /// As in `TLSServerPolicy`.
    package var ciphers: String?
    /// As in `TLSServerPolicy`.
    package var groups: String?
    /// What is offered, the first preferred; empty for none.
    package var applicationProtocols = ["http/1.1"]

    /// A policy with our defaults.
    package init(trust: TLSTrust?) { self.trust = trust }
}

extension TLSServerPolicy {
    /// Sessions of one identity never resume under another. A renewed certificate does not change it; who may be a
    /// client, and how strong the session must be, does.
    static var identityBytes: Int { 16 }

    func identity() throws(TLSSetupError) -> [UInt8] {
        var text = [name, ciphers ?? "-", groups ?? "-"].joined(separator: "\n")
        text += "\n\(hostNames) \(applicationProtocols) \(minimumVersion.rawValue) \(clientVerification.rawValue)\n"
        let bytes = Array(text.utf8) + (clientTrust?.content ?? [])
        var digest = [UInt8](repeating: 0, count: 32)
        guard SHA256(bytes, bytes.count, &digest) != nil else { throw .library(OpenSSLErrors.takeText()) }
        return Array(digest[..<Self.identityBytes])
    }
}

/// The making of an SSL_CTX.
enum ContextBuilder {
    /// Forward secrecy and authenticated encryption only. AES-128 first: it is the fastest and strong enough.
    private static let ciphers12 =
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
        + "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    private static let ciphers13 =
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    /// A chain of certificates from a peer may be so long; OpenSSL's own bound is 100 KiB.
    private static let peerChainBytesMax = 64 << 10

    /// Our choice of groups: hybrid post-quantum where this OpenSSL has it.
    static func defaultGroups(for context: OpaquePointer) -> String {
        let hybrid = "X25519MLKEM768:X25519:P-256:P-384"
        let hasHybrid = COpenSSL_SSL_CTX_set1_groups_list(context, hybrid) == 1
        ERR_clear_error()
        return hasHybrid ? hybrid : "X25519:P-256:P-384"
    }

    static func make(
        _ method: OpaquePointer?, minimumVersion: TLSVersion, ciphers: String?, groups: String?
    ) throws(TLSSetupError) -> OpaquePointer {
        OpenSSLLibrary.start()
        ERR_clear_error()
        guard let context = SSL_CTX_new(method) else { throw .library(OpenSSLErrors.takeText()) }
        do throws(TLSSetupError) {
            _ = COpenSSL_SSL_CTX_set_min_proto_version(context, minimumVersion.number)
            // Released buffers keep an idle session small. Chains are sent as the operator wrote them: none is built
            // from the authorities that clients are verified against.
            _ = COpenSSL_SSL_CTX_set_mode(
                context,
                Int(SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN))
            // A record that carries nothing is told, so that they can be counted.
            _ = COpenSSL_SSL_CTX_clear_mode(context, Int(SSL_MODE_AUTO_RETRY))
            SSL_CTX_set_options(
                context,
                COpenSSL_OP_NO_COMPRESSION | COpenSSL_OP_NO_RENEGOTIATION | COpenSSL_OP_CIPHER_SERVER_PREFERENCE
                    | COpenSSL_OP_PRIORITIZE_CHACHA)
            _ = SSL_CTX_set_max_early_data(context, 0)
            _ = COpenSSL_SSL_CTX_set_max_cert_list(context, peerChainBytesMax)
            try setCiphers(ciphers, context)
            try setGroups(groups, context)
            return context
        } catch {
            SSL_CTX_free(context)
            throw error
        }
    }

    private static func setCiphers(_ list: String?, _ context: OpaquePointer) throws(TLSSetupError) {
        let parts = (list ?? "\(ciphers12):\(ciphers13)").split(separator: ":")
        let suites13 = parts.filter { $0.hasPrefix("TLS_") }.joined(separator: ":")
        let others = parts.filter { !$0.hasPrefix("TLS_") }.joined(separator: ":")
        let isGood13 = suites13.isEmpty || SSL_CTX_set_ciphersuites(context, suites13) == 1
        // A list of TLS 1.3's names alone leaves TLS 1.2 with our choice.
        let isGood12 = SSL_CTX_set_cipher_list(context, others.isEmpty ? ciphers12 : others) == 1
        ERR_clear_error()
        guard isGood13, isGood12, !parts.isEmpty else { throw .badCiphers(list ?? "") }
    }

    private static func setGroups(_ list: String?, _ context: OpaquePointer) throws(TLSSetupError) {
        let groups = list ?? defaultGroups(for: context)
        let isGood = COpenSSL_SSL_CTX_set1_groups_list(context, groups) == 1
        ERR_clear_error()
        guard isGood else { throw .badGroups(groups) }
    }

    /// The protocols as they stand on the wire (RFC 7301 section 3.1).
    static func wire(_ protocols: [String]) throws(TLSSetupError) -> [UInt8] {
        var bytes: [UInt8] = []
        for name in protocols {
            guard (1...255).contains(name.utf8.count) else { throw .badProtocolName(name) }
            bytes.append(UInt8(name.utf8.count))
            bytes.append(contentsOf: name.utf8)
        }
        return bytes
    }
}
