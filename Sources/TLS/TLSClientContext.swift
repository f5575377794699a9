// An upstream's TLS as one worker has it, and what it keeps of each of the upstream's servers: the name to verify and
// the newest session to resume. A context is made by any thread and handed over once to the worker that uses it from
// then on; all else belongs to that worker.

internal import COpenSSL

/// A worker's SSL_CTX for an upstream. A handle: copying it copies the reference.
package struct TLSClientContext: @unchecked Sendable {
    let context: OpaquePointer
    let verifies: Bool

    /// Makes the worker's own objects.
    package init(_ policy: TLSClientPolicy) throws(TLSSetupError) {
        let context = try ContextBuilder.make(
            TLS_client_method(), minimumVersion: policy.minimumVersion, ciphers: policy.ciphers, groups: policy.groups)
        do throws(TLSSetupError) {
            let wire = try ContextBuilder.wire(policy.applicationProtocols)
            // The other way round than everywhere: 0 is good.
            if !wire.isEmpty, SSL_CTX_set_alpn_protos(context, wire, UInt32(wire.count)) != 0 {
                throw .library(OpenSSLErrors.takeText())
            }
            _ = COpenSSL_SSL_CTX_set_max_proto_version(context, policy.maximumVersion.number)
            if let certificate = policy.certificate { try certificate.install(in: context) }
            if let trust = policy.trust {
                _ = COpenSSL_SSL_CTX_set1_verify_cert_store(context, trust.store)
                SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nil)
            } else {
                SSL_CTX_set_verify(context, SSL_VERIFY_NONE, nil)
            }
        } catch {
            SSL_CTX_free(context)
            throw error
        }
        // Sessions are kept by us, one for each server.
        _ = COpenSSL_SSL_CTX_set_session_cache_mode(
            context, Int(SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL))
        SSL_CTX_sess_set_new_cb(context) { ssl, session in TLSClientPeer.keep(session, of: ssl) }
        self.context = context
        verifies = policy.trust != nil
    }

    /// Lets the context go; peers and sessions that were made of it keep what they need.
    package func destroy() { SSL_CTX_free(context) }
}

/// A server of an upstream: under which name, and with which session to resume. A handle, handed over once to its worker.
package struct TLSClientPeer: @unchecked Sendable {
    struct Storage {
        let context: OpaquePointer
        /// Ends with a zero.
        let name: [CChar]
        let isAddress: Bool
        let verifies: Bool
        var session: OpaquePointer?
        var sessionCount = 0
        var isRetired = false
    }

    let storage: UnsafeMutablePointer<Storage>

    /// A server.
    /// - Parameter serverName: the name, or the address, that its certificate must be for; the name is also sent (SNI).
    package init(_ context: TLSClientContext, serverName: String) throws(TLSSetupError) {
        guard let parameters = X509_VERIFY_PARAM_new() else { throw .library(OpenSSLErrors.takeText()) }
        defer { X509_VERIFY_PARAM_free(parameters) }
        var name = serverName
        if name.hasSuffix(".") { name.removeLast() }
        let isAddress = X509_VERIFY_PARAM_set1_ip_asc(parameters, name) == 1
        ERR_clear_error()
        guard isAddress || name.withUTF8({ HostName.isValid($0) }) else { throw .badServerName(serverName) }
        SSL_CTX_up_ref(context.context)
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                context: context.context, name: name.utf8CString.map { $0 }, isAddress: isAddress,
                verifies: context.verifies))
    }

    /// No new session is made; the memory is freed with the last one.
    package func retire() {
        storage.pointee.isRetired = true
        if storage.pointee.sessionCount == 0 { Self.free(storage) }
    }

    static func sessionEnded(_ storage: UnsafeMutablePointer<Storage>) {
        storage.pointee.sessionCount -= 1
        if storage.pointee.isRetired, storage.pointee.sessionCount == 0 { free(storage) }
    }

    private static func free(_ storage: UnsafeMutablePointer<Storage>) {
        forget(storage)
        SSL_CTX_free(storage.pointee.context)
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    /// Throws the session away: a handshake that tried to resume it failed.
    static func forget(_ storage: UnsafeMutablePointer<Storage>) {
        if let session = storage.pointee.session { SessionReference.release(session) }
        storage.pointee.session = nil
    }

    static func of(_ ssl: OpaquePointer) -> UnsafeMutablePointer<Storage>? {
        SSL_get_ex_data(ssl, 0)?.assumingMemoryBound(to: Storage.self)
    }

    /// OpenSSL has a new session, or in TLS 1.3 another ticket for it.
    /// - Returns: 1, which means that it is ours now.
    fileprivate static func keep(_ session: OpaquePointer?, of ssl: OpaquePointer?) -> Int32 {
        guard let ssl, let session, let storage = of(ssl) else { return 0 }
        forget(storage)
        storage.pointee.session = session
        return 1
    }

    /// OpenSSL tells of no new session when one of TLS 1.2 was resumed, though the server may have sealed it anew.
    static func handshakeEnded(_ ssl: OpaquePointer) {
        guard SSL_is_server(ssl) == 0, SSL_version(ssl) == TLS1_2_VERSION, SSL_session_reused(ssl) == 1,
            let session = SSL_get1_session(ssl)
        else { return }
        if keep(session, of: ssl) == 0 { SessionReference.release(session) }
    }

    /// Makes a session ready that has not sent anything yet.
    func prepare(_ ssl: OpaquePointer) -> Bool {
        SSL_set_ex_data(ssl, 0, storage)
        if !storage.pointee.isAddress, COpenSSL_SSL_set_tlsext_host_name(ssl, storage.pointee.name) != 1 {
            return false
        }
        if storage.pointee.verifies {
            // Only subjectAltName counts, and a wildcard only for a whole label (RFC 9525 section 6.3).
            SSL_set_hostflags(
                ssl, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT))
            let isSet =
                storage.pointee.isAddress
                ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), storage.pointee.name)
                : SSL_set1_host(ssl, storage.pointee.name)
            guard isSet == 1 else { return false }
        }
        if let session = storage.pointee.session, SSL_SESSION_is_resumable(session) == 1 {
            SSL_set_session(ssl, session)
        }
        return true
    }
}

/// Counted references to an SSL_SESSION.
enum SessionReference {
    static func retain(_ session: OpaquePointer) { SSL_SESSION_up_ref(session) }
    static func release(_ session: OpaquePointer) { SSL_SESSION_free(session) }
}
