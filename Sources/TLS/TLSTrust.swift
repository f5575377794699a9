// The authorities that certificates of peers are verified against. Read once by the control thread and shared by all
// workers: OpenSSL locks such a store by itself, and only for the moment in which an issuer is looked up.

internal import COpenSSL
import Glibc

/// A set of trusted authorities. Immutable.
package final class TLSTrust: @unchecked Sendable {
    let store: OpaquePointer
    /// What was read, for a policy's identity; empty for the system's store.
    let content: [UInt8]
    /// Names of the authorities, which a server tells its clients.
    let names: OpaquePointer?

    /// Authorities of a PEM file.
    package init(_ file: PEMFile) throws(TLSSetupError) {
        let certificates = try CertificateList(file)
        guard let store = X509_STORE_new(), let names = COpenSSL_sk_X509_NAME_new_null() else {
            throw .library(OpenSSLErrors.takeText())
        }
        self.store = store
        self.names = names
        content = file.bytes
        for certificate in certificates.pointers {
            guard X509_STORE_add_cert(store, certificate) == 1 else {
                throw .badCertificate(file: file.name, reason: OpenSSLErrors.takeText())
            }
            if let name = X509_NAME_dup(X509_get_subject_name(certificate)),
                COpenSSL_sk_X509_NAME_push(names, name) == 0
            {
                X509_NAME_free(name)
            }
        }
    }

    /// Reads a PEM file. Blocks; not for a worker.
    package convenience init(path: String) throws(TLSSetupError) {
        try self.init(PEMFile(path: path))
    }

    /// The system's authorities. Blocks; not for a worker.
    ///
    /// One file with all of them is preferred to OpenSSL's folder of links, which it would read while it verifies.
    package init(system: Void) throws(TLSSetupError) {
        OpenSSLLibrary.start()
        guard let store = X509_STORE_new() else { throw .library(OpenSSLErrors.takeText()) }
        self.store = store
        content = []
        names = nil
        var files = [
            "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ]
        if let standard = X509_get_default_cert_file() { files.insert(String(cString: standard), at: 0) }
        let variable = X509_get_default_cert_file_env().map { String(cString: $0) } ?? "SSL_CERT_FILE"
        let chosen = getenv(variable).map { String(cString: $0) }
        if let chosen { files = [chosen] }
        ERR_clear_error()
        for file in files where access(file, R_OK) == 0 && X509_STORE_load_file(store, file) == 1 { return }
        let reason = OpenSSLErrors.takeText()
        if let chosen { throw .unreadable(file: chosen, reason: reason) }
        guard X509_STORE_set_default_paths(store) == 1 else { throw .library(OpenSSLErrors.takeText()) }
        ERR_clear_error()
    }

    deinit {
        X509_STORE_free(store)
        if let names { COpenSSL_sk_X509_NAME_pop_free(names) }
    }
}
