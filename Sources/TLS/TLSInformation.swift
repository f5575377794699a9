// What is known of an established session: for variables, for logs, for the field Client-Cert (RFC 9440), and for the
// question whether a Host is served under the handshake's policy (RFC 9110 section 7.4). Ranges over memory of
// OpenSSL's, valid as long as the session; no String.

internal import COpenSSL
import Glibc

extension TLSSession {
    private static func text(_ pointer: UnsafePointer<CChar>?) -> UnsafeBufferPointer<UInt8> {
        guard let pointer else { return UnsafeBufferPointer(start: nil, count: 0) }
        let count = strlen(pointer)
        return UnsafeBufferPointer(
            start: UnsafeRawPointer(pointer).assumingMemoryBound(to: UInt8.self), count: count)
    }

    /// `TLSv1.2` or `TLSv1.3`.
    package var version: UnsafeBufferPointer<UInt8> { Self.text(SSL_get_version(ssl)) }

    /// The cipher suite by OpenSSL's name; empty before the handshake.
    package var cipher: UnsafeBufferPointer<UInt8> {
        Self.text(SSL_get_current_cipher(ssl).flatMap { SSL_CIPHER_get_name($0) })
    }

    /// The chosen application protocol, such as `h2`; empty if there is none.
    package var applicationProtocol: UnsafeBufferPointer<UInt8> {
        var start: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &start, &count)
        return UnsafeBufferPointer(start: start, count: start == nil ? 0 : Int(count))
    }

    /// Whether HTTP/2 was chosen.
    package var isHTTP2: Bool {
        let name = applicationProtocol
        return name.count == 2 && name[0] == UInt8(ascii: "h") && name[1] == UInt8(ascii: "2")
    }

    /// Whether the session goes on from an earlier one.
    package var isResumed: Bool { SSL_session_reused(ssl) == 1 }

    /// The longest name that `serverName(into:)` writes.
    package static let serverNameBytesMax = HostName.bytesMax

    /// Writes the host name that the client asked for (SNI), lower-cased, to `room`, which has place for
    /// `serverNameBytesMax` bytes.
    /// - Returns: the number of bytes; 0 if the client named none, or what is no host's name.
    package func serverName(into room: UnsafeMutablePointer<UInt8>) -> Int {
        let name = Self.text(SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name))
        guard HostName.isValid(name) else { return 0 }
        for index in 0..<name.count { room[index] = HostName.lowercased(name[index]) }
        return name.count
    }

    /// The index of the policy that the session runs under; a server's session only.
    package var policyIndex: Int { TLSServerContext.cell(of: ssl)?.pointee.policyIndex ?? 0 }

    /// Whether a request for that host (without a port) may be answered on this session: false if another policy is for
    /// that host, and then the answer is 421. The context in force, which may be another one than the session was made
    /// under, says which is. A server's session only.
    package func accepts(host: UnsafeBufferPointer<UInt8>, under context: TLSServerContext) -> Bool {
        guard let cell = TLSServerContext.cell(of: ssl) else { return false }
        let index = TLSServerContext.policyIndex(for: host, context.storage)
        if cell.pointee.storage == context.storage { return index == cell.pointee.policyIndex }
        return context.storage.pointee.policies[index].identity == policyIdentity(cell)
    }

    /// Whether the policy that the session was made under is still one of the context in force.
    package func isValid(under context: TLSServerContext) -> Bool {
        guard let cell = TLSServerContext.cell(of: ssl) else { return false }
        if cell.pointee.storage == context.storage { return true }
        let identity = policyIdentity(cell)
        return context.storage.pointee.policies.contains { $0.identity == identity }
    }

    private func policyIdentity(_ cell: UnsafeMutablePointer<TLSServerContext.Cell>) -> (UInt64, UInt64) {
        cell.pointee.storage.pointee.policies[cell.pointee.policyIndex].identity
    }

    /// Whether the peer is asked for a certificate.
    package var verifiesPeer: Bool { SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE }

    /// Whether the peer has shown a certificate. On a server it was verified, or the handshake would have failed.
    package var hasPeerCertificate: Bool { SSL_get0_peer_certificate(ssl) != nil }

    /// Writes the peer's certificate in DER.
    /// - Returns: its length, 0 if there is none; if that is more than `capacity`, nothing was written.
    package func peerCertificate(into room: UnsafeMutablePointer<UInt8>, capacity: Int) -> Int {
        guard let certificate = SSL_get0_peer_certificate(ssl) else { return 0 }
        let count = Int(i2d_X509(certificate, nil))
        guard count > 0, count <= capacity else {
            ERR_clear_error()
            return max(0, count)
        }
        var end: UnsafeMutablePointer<UInt8>? = room
        return Int(i2d_X509(certificate, &end))
    }
}
