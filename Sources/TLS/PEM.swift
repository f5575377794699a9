// Reading PEM: files into memory, certificates and keys out of memory. Files are the control thread's business; what is
// read goes to the workers as bytes, and each makes objects of its own of them, which no other thread locks.

internal import COpenSSL
import Glibc

/// The content of a PEM file with the name that errors tell.
package struct PEMFile: Sendable, Equatable {
    /// More is not a certificate or key that anybody means.
    package static let bytesMax = 8 << 20

    /// The file's name.
    package let name: String
    /// What it holds.
    package let bytes: [UInt8]

    /// Content that is at hand.
    package init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }

    /// Reads a file. Blocks; not for a worker.
    package init(path: String) throws(TLSSetupError) {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw .unreadable(file: path, reason: String(cString: strerror(errno))) }
        defer { close(file) }
        var status = stat()
        guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw .unreadable(file: path, reason: "not a regular file")
        }
        guard status.st_size <= Self.bytesMax else { throw .unreadable(file: path, reason: "too long") }
        var bytes: [UInt8] = []
        var code: Int32 = 0
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16 << 10) { room in
            while bytes.count <= Self.bytesMax {
                let count = read(file, room.baseAddress, room.count)
                if count < 0, errno == EINTR { continue }
                if count < 0 { code = errno }
                guard count > 0 else { return }
                bytes.append(contentsOf: room[..<count])
            }
        }
        guard code == 0 else { throw .unreadable(file: path, reason: String(cString: strerror(code))) }
        name = path
        self.bytes = bytes
    }

    /// Runs a reader of OpenSSL's over the bytes.
    func scan<Result>(_ body: (OpaquePointer) -> Result?) -> Result? {
        bytes.withUnsafeBytes { content -> Result? in
            guard let bio = BIO_new_mem_buf(content.baseAddress, Int32(content.count)) else { return nil }
            defer { BIO_free(bio) }
            return body(bio)
        }
    }
}

/// Certificates of OpenSSL's, owned.
struct CertificateList: ~Copyable {
    let pointers: [OpaquePointer]

    /// The certificates of a PEM file in their order.
    init(_ file: PEMFile) throws(TLSSetupError) {
        OpenSSLLibrary.start()
        ERR_clear_error()
        var found: [OpaquePointer] = []
        _ = file.scan { bio -> Bool? in
            while let certificate = PEM_read_bio_X509_AUX(bio, nil, nil, nil) { found.append(certificate) }
            return true
        }
        let code = ERR_peek_last_error()
        // The end of the file is told as a missing start line.
        let isEnd = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE
        let reason = OpenSSLErrors.takeText()
        pointers = found
        if code != 0, !isEnd { throw .badCertificate(file: file.name, reason: reason) }
        if found.isEmpty { throw .noCertificate(file: file.name) }
    }

    deinit {
        for pointer in pointers { X509_free(pointer) }
    }
}

/// A private key of OpenSSL's, owned.
struct PrivateKey: ~Copyable {
    let pointer: OpaquePointer

    /// The private key of a PEM file. A passphrase is never asked for.
    init(_ file: PEMFile) throws(TLSSetupError) {
        ERR_clear_error()
        var isEncrypted = false
        let key = withUnsafeMutablePointer(to: &isEncrypted) { flag in
            file.scan { bio in
                PEM_read_bio_PrivateKey(
                    bio, nil,
                    { _, _, _, flag in
                        flag?.assumingMemoryBound(to: Bool.self).pointee = true
                        return -1
                    }, flag)
            }
        }
        let code = ERR_peek_last_error()
        let reason = OpenSSLErrors.takeText()
        guard let key else {
            if isEncrypted { throw .encryptedKey(file: file.name) }
            let isMissing = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE
            // OpenSSL 3 tells "unsupported" also where there is no key at all.
            if isMissing || !file.mentionsPrivateKey { throw .noKey(file: file.name) }
            throw .badKey(file: file.name, reason: reason)
        }
        pointer = key
    }

    deinit { EVP_PKEY_free(pointer) }
}

extension PEMFile {
    fileprivate var mentionsPrivateKey: Bool {
        let mark = Array("PRIVATE KEY-----".utf8)
        guard bytes.count >= mark.count else { return false }
        return (0...(bytes.count - mark.count)).contains { bytes[$0...].starts(with: mark) }
    }
}
