// What is wrong with certificates, keys and settings: errors of the operator, told once by whoever loads them, in whole
// sentences with the file's name. Never thrown on the way of bytes.

/// Why a certificate, a store or a policy cannot be used.
package enum TLSSetupError: Error, Equatable, Sendable {
    /// The file cannot be read.
    case unreadable(file: String, reason: String)
    /// The file holds no certificate in PEM.
    case noCertificate(file: String)
    /// A certificate in the file is broken.
    case badCertificate(file: String, reason: String)
    /// The file holds no private key in PEM.
    case noKey(file: String)
    /// The private key is broken, or of a kind that TLS does not use.
    case badKey(file: String, reason: String)
    /// The private key is protected by a passphrase.
    case encryptedKey(file: String)
    /// The key is not the certificate's.
    case mismatch(certificate: String, key: String)
    /// OpenSSL refuses the pair, because it is too weak for instance.
    case refused(certificate: String, reason: String)
    /// The list of cipher suites has none that OpenSSL knows.
    case badCiphers(String)
    /// The list of groups has one that OpenSSL does not know.
    case badGroups(String)
    /// A protocol's name in the ALPN list is empty or too long.
    case badProtocolName(String)
    /// A policy has no certificate.
    case noCertificateForPolicy(String)
    /// `client_verify` needs a `client_ca`.
    case noClientAuthority(String)
    /// The server's name is no host name and no address.
    case badServerName(String)
    /// OpenSSL has no memory, or is not what we were built for.
    case library(String)
}

extension TLSSetupError: CustomStringConvertible {
    /// A sentence for the operator.
    package var description: String {
        switch self {
        case .unreadable(let file, let reason): "cannot read \(file): \(reason)"
        case .noCertificate(let file): "\(file) holds no certificate in PEM form"
        case .badCertificate(let file, let reason): "\(file) holds a certificate that cannot be read: \(reason)"
        case .noKey(let file): "\(file) holds no private key in PEM form"
        case .badKey(let file, let reason): "\(file) holds a private key that cannot be used: \(reason)"
        case .encryptedKey(let file):
            "\(file) holds a private key that is protected by a passphrase; take the passphrase off first"
        case .mismatch(let certificate, let key): "the private key \(key) does not belong to \(certificate)"
        case .refused(let certificate, let reason): "OpenSSL refuses the certificate \(certificate): \(reason)"
        case .badCiphers(let list): "\"\(list)\" names no cipher suite that this OpenSSL has"
        case .badGroups(let list): "\"\(list)\" names a group that this OpenSSL does not have"
        case .badProtocolName(let name): "\"\(name)\" cannot be a protocol's name in ALPN"
        case .noCertificateForPolicy(let name): "\(name) has no certificate"
        case .noClientAuthority(let name): "\(name) verifies clients but has no client_ca"
        case .badServerName(let name): "\"\(name)\" is no host name and no address"
        case .library(let reason): "OpenSSL failed: \(reason)"
        }
    }
}
