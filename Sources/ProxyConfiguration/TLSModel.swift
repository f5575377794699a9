// What a configuration says of TLS: paths and choices. The files are read by who sets TLS up, so that this stays pure.

/// `tls [NAME ...] { ... }` in a listener: how its TLS binds speak to clients that ask for these hosts, or for any.
public struct ServerTLS: Sendable, Equatable {
    /// Lower-case names; `*.example.com` stands for every name below. Empty: the listener's first, for all others.
    public var hosts: [String]
    /// At least one.
    public var certificates: [CertificateFiles]
    /// The oldest version.
    public var minimumVersion: MinimumTLSVersion
    /// Cipher suites by OpenSSL's names, separated by colons; nil is our own choice.
    public var ciphers: String?
    /// Groups of the key exchange, separated by colons; nil is our own choice.
    public var curves: String?
    /// Authorities of clients' certificates.
    public var clientAuthorityFile: String?
    /// What is asked of clients.
    public var clientVerification: ClientVerification
    /// Where the directive stands.
    @Incidental public var location: SourceLocation
}

/// `tls { ... }` in an upstream: how its servers are spoken to.
public struct UpstreamTLS: Sendable, Hashable {
    /// Whether the server's certificate has to be good.
    public var verifies: Bool
    /// The name that is asked for and that the certificate has to be for; nil is the server's own.
    public var serverName: String?
    /// Authorities that are believed; nil is the system's.
    public var authorityFile: String?
    /// Our own certificate.
    public var certificate: CertificateFiles?
    /// The oldest version.
    public var minimumVersion: MinimumTLSVersion
    /// As in `ServerTLS`.
    public var ciphers: String?
    /// As in `ServerTLS`.
    public var curves: String?
    /// Where the directive stands.
    @Incidental public var location: SourceLocation
}

/// `certificate CERT KEY`: files in PEM form.
public struct CertificateFiles: Sendable, Equatable, Hashable {
    /// The chain, the server's own certificate first.
    public var certificate: String
    /// The private key.
    public var key: String
    /// Where the directive stands.
    @Incidental public var location: SourceLocation
}

/// `min_version 1.2 | 1.3`
public enum MinimumTLSVersion: String, Sendable, CaseIterable {
    /// TLS 1.2
    case tls12 = "1.2"
    /// TLS 1.3
    case tls13 = "1.3"
}

/// `client_verify off | optional | required`
public enum ClientVerification: String, Sendable, CaseIterable {
    /// No certificate is asked for.
    case off
    /// One may be shown, and then it has to be good.
    case optional
    /// A good one has to be shown.
    case required
}
