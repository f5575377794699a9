// A certificate that is made on the spot and signed by itself: for a demonstration or a test on one's own machine. It is
// never written to a file.

internal import COpenSSL

extension TLSCertificate {
    /// Makes a pair with a fresh P-256 key.
    /// - Parameters:
    ///   - names: the DNS names it is for; the first is also the subject's.
    ///   - addresses: the addresses it is for.
    ///   - validSeconds: how long it is valid, from a minute ago.
    package static func throwAway(
        names: [String], addresses: [String] = [], validSeconds: Int
    ) throws(TLSSetupError) -> TLSCertificate {
        OpenSSLLibrary.start()
        ERR_clear_error()
        guard let key = COpenSSL_EVP_EC_gen("P-256") else { throw .library(OpenSSLErrors.takeText()) }
        defer { EVP_PKEY_free(key) }
        guard let certificate = X509_new() else { throw .library(OpenSSLErrors.takeText()) }
        defer { X509_free(certificate) }
        let alternatives = names.map { "DNS:\($0)" } + addresses.map { "IP:\($0)" }
        guard X509_set_version(certificate, 2) == 1, setSerialNumber(of: certificate),
            X509_gmtime_adj(X509_getm_notBefore(certificate), -60) != nil,
            X509_gmtime_adj(X509_getm_notAfter(certificate), validSeconds) != nil,
            setSubject(of: certificate, to: names.first ?? "localhost"),
            add(NID_subject_alt_name, alternatives.joined(separator: ","), to: certificate),
            add(NID_basic_constraints, "critical,CA:FALSE", to: certificate),
            add(NID_key_usage, "critical,digitalSignature", to: certificate),
            add(NID_ext_key_usage, "serverAuth", to: certificate),
            X509_set_pubkey(certificate, key) == 1, X509_sign(certificate, key, EVP_sha256()) > 0
        else { throw .library(OpenSSLErrors.takeText()) }
        return try TLSCertificate(
            certificate: pem("throw-away certificate") { PEM_write_bio_X509($0, certificate) },
            key: pem("throw-away key") { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) })
    }

    /// Random, as RFC 5280 section 4.1.2.2 has it: positive, and no two alike.
    private static func setSerialNumber(of certificate: OpaquePointer) -> Bool {
        guard let number = BN_new() else { return false }
        defer { BN_free(number) }
        return BN_rand(number, 126, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1
            && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nil
    }

    private static func setSubject(of certificate: OpaquePointer, to name: String) -> Bool {
        guard let subject = X509_get_subject_name(certificate) else { return false }
        return X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, name, -1, -1, 0) == 1
            && X509_set_issuer_name(certificate, subject) == 1
    }

    private static func add(_ kind: Int32, _ value: String, to certificate: OpaquePointer) -> Bool {
        guard let addition = X509V3_EXT_conf_nid(nil, nil, kind, value) else { return false }
        defer { X509_EXTENSION_free(addition) }
        return X509_add_ext(certificate, addition, -1) == 1
    }

    private static func pem(_ name: String, _ write: (OpaquePointer) -> Int32) throws(TLSSetupError) -> PEMFile {
        guard let bio = BIO_new(BIO_s_mem()) else { throw .library(OpenSSLErrors.takeText()) }
        defer { BIO_free(bio) }
        guard write(bio) == 1 else { throw .library(OpenSSLErrors.takeText()) }
        let bytes = [UInt8](unsafeUninitializedCapacity: BIO_ctrl_pending(bio)) { room, count in
            count = Int(max(0, BIO_read(bio, room.baseAddress, Int32(room.count))))
        }
        return PEMFile(name: name, bytes: bytes)
    }
}
