// A certificate chain with its private key, checked, as an immutable value that every worker makes its own objects of.

internal import COpenSSL
import Glibc

/// A pair of certificate chain and private key that belong together.
package struct TLSCertificate: Sendable, Equatable {
    /// The kind of a key. For one name OpenSSL chooses among certificates of different kinds by what the client knows.
    package enum KeyKind: UInt8, Sendable {
        /// RSA.
        case rsa
        /// RSA that may sign by PSS only.
        case rsaPSS
        /// An elliptic curve, for ECDSA.
        case ecdsa
        /// Ed25519 or Ed448.
        case edwards
        /// Something newer.
        case other
    }

    /// The chain's file.
    package let certificateFile: PEMFile
    /// The key's file.
    package let keyFile: PEMFile
    /// The kind of the key.
    package let keyKind: KeyKind
    /// The strength of the key in its own measure, 2048 for instance.
    package let keyBits: Int
    /// The DNS names of the certificate (subjectAltName), lower-cased, wildcards among them, in their order.
    package let names: [String]
    /// The subject, for people.
    package let subject: String
    /// From when on the certificate is valid; seconds since 1970.
    package let notBeforeSeconds: Int64
    /// Until when it is valid; seconds since 1970. The leaf's own end: chains carry expired links that nobody follows.
    package let notAfterSeconds: Int64

    /// Reads both files and checks the pair. Blocks; not for a worker.
    package init(certificatePath: String, keyPath: String) throws(TLSSetupError) {
        try self.init(certificate: PEMFile(path: certificatePath), key: PEMFile(path: keyPath))
    }

    /// Checks a pair.
    package init(certificate: PEMFile, key: PEMFile) throws(TLSSetupError) {
        let chain = try CertificateList(certificate)
        let privateKey = try PrivateKey(key)
        let leaf = chain.pointers[0]
        ERR_clear_error()
        let isMatch = X509_check_private_key(leaf, privateKey.pointer) == 1
        ERR_clear_error()
        guard isMatch else { throw .mismatch(certificate: certificate.name, key: key.name) }
        // A context that nobody uses tells what a worker's context would say.
        guard let context = SSL_CTX_new(TLS_server_method()) else { throw .library(OpenSSLErrors.takeText()) }
        defer { SSL_CTX_free(context) }
        try Self.install(chain, privateKey, in: context, name: certificate.name)

        certificateFile = certificate
        keyFile = key
        keyKind = Self.kind(of: privateKey.pointer)
        keyBits = Int(EVP_PKEY_get_bits(privateKey.pointer))
        names = Self.names(of: leaf)
        subject = Self.subject(of: leaf)
        notBeforeSeconds = Self.seconds(X509_get0_notBefore(leaf))
        notAfterSeconds = Self.seconds(X509_get0_notAfter(leaf))
    }

    /// Whether the certificate is for a host, by exact name or by wildcard.
    package func covers(_ host: String) -> Bool {
        let table = HostNameTable(names.map { ($0, 0) })
        defer { table.destroy() }
        var host = host
        return host.withUTF8 { table.value(of: $0) >= 0 }
    }

    /// Makes objects of the calling thread's own and puts them in a context.
    func install(in context: OpaquePointer) throws(TLSSetupError) {
        let chain = try CertificateList(certificateFile)
        let privateKey = try PrivateKey(keyFile)
        try Self.install(chain, privateKey, in: context, name: certificateFile.name)
    }

    private static func install(
        _ chain: borrowing CertificateList, _ key: borrowing PrivateKey, in context: OpaquePointer, name: String
    ) throws(TLSSetupError) {
        ERR_clear_error()
        guard SSL_CTX_use_certificate(context, chain.pointers[0]) == 1,
            SSL_CTX_use_PrivateKey(context, key.pointer) == 1
        else { throw .refused(certificate: name, reason: OpenSSLErrors.takeText()) }
        for certificate in chain.pointers.dropFirst() {
            guard COpenSSL_SSL_CTX_add1_chain_cert(context, certificate) == 1 else {
                throw .refused(certificate: name, reason: OpenSSLErrors.takeText())
            }
        }
    }

    private static func kind(of key: OpaquePointer) -> KeyKind {
        switch EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA: .rsa
        case EVP_PKEY_RSA_PSS: .rsaPSS
        case EVP_PKEY_EC: .ecdsa
        case EVP_PKEY_ED25519, EVP_PKEY_ED448: .edwards
        // OpenSSL's numbers.
        default: .other
        }
    }

    private static func names(of certificate: OpaquePointer) -> [String] {
        guard let extensionValue = X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil) else { return [] }
        let all = OpaquePointer(extensionValue)
        defer { GENERAL_NAMES_free(all) }
        var names: [String] = []
        for index in 0..<COpenSSL_sk_GENERAL_NAME_num(all) {
            guard let name = COpenSSL_GENERAL_NAME_dns(COpenSSL_sk_GENERAL_NAME_value(all, index)),
                let bytes = ASN1_STRING_get0_data(name)
            else { continue }
            let text = UnsafeBufferPointer(start: bytes, count: Int(ASN1_STRING_length(name)))
            // What is no host name, with or without a wildcard in front, can never be asked for.
            let isWildcard = text.starts(with: [UInt8(ascii: "*"), UInt8(ascii: ".")])
            let rest = isWildcard ? UnsafeBufferPointer(rebasing: text[2...]) : text
            guard HostName.isValid(rest) else { continue }
            names.append(String(decoding: text.map(HostName.lowercased), as: UTF8.self))
        }
        return names
    }

    private static func subject(of certificate: OpaquePointer) -> String {
        guard let bio = BIO_new(BIO_s_mem()) else { return "" }
        defer { BIO_free(bio) }
        X509_NAME_print_ex(bio, X509_get_subject_name(certificate), 0, COpenSSL_XN_FLAG_ONELINE)
        return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 1024) { room in
            let count = BIO_read(bio, room.baseAddress, Int32(room.count))
            return String(decoding: room[..<Int(max(0, count))], as: UTF8.self)
        }
    }

    private static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> Int64 {
        var parts = tm()
        guard let time, ASN1_TIME_to_tm(time, &parts) == 1 else { return 0 }
        return Int64(timegm(&parts))
    }
}
