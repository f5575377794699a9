// A listener's policies as one worker has them: an SSL_CTX for each set of names that certificates are for, and the
// choice among them by the name that a client asks for (SNI).
//
// The choice is made before OpenSSL looks at a ticket, so a session's identity is that of the policy and the name it
// was made under, and it resumes under no other (RFC 6066 section 3). Retired by a reload, it lives on until its last
// session is destroyed. Made by any thread and handed over once to the worker that uses it from then on.

internal import COpenSSL
import Glibc

/// See the head of the file. A handle: copying it copies the reference.
package struct TLSServerContext: @unchecked Sendable {
    /// How long a session may be resumed. Keys are to be rotated in the same rhythm.
    package static let sessionLifetimeSeconds = 3_600

    struct Storage {
        var cells: [UnsafeMutablePointer<Cell>] = []
        var policies: [Policy] = []
        var hosts: HostNameTable
        var sealer: TicketSealer
        var verificationSecondsMax = Int64(TLSServerContext.sessionLifetimeSeconds)
        var sessionCount = 0
        var isRetired = false
    }

    /// What an SSL_CTX knows of where it belongs.
    struct Cell {
        let storage: UnsafeMutablePointer<Storage>
        let context: OpaquePointer
        let policyIndex: Int
    }

    /// A policy's part that sessions are made after.
    struct Policy {
        let certificates: HostNameTable
        let firstCell: Int
        let identity: (UInt64, UInt64)
        let minimumVersion: Int32
        let verifyMode: Int32
        /// Nil where they are the first policy's.
        let groups: [CChar]?
        let protocols: UnsafeMutableBufferPointer<UInt8>
    }

    let storage: UnsafeMutablePointer<Storage>

    /// Makes a worker's own objects of a listener's policies. Takes about a millisecond for each certificate.
    /// - Parameter policies: the first is for all hosts that no other names.
    package init(policies: [TLSServerPolicy], ticketKeys: TicketKeys) throws(TLSSetupError) {
        precondition(!policies.isEmpty, "a listener with TLS has a policy")
        guard var sealer = TicketSealer() else { throw .library(OpenSSLErrors.takeText()) }
        sealer.set(ticketKeys)
        let hosts = policies.enumerated().flatMap { index, policy in policy.hostNames.map { ($0, index) } }
        storage = .allocate(capacity: 1)
        storage.initialize(to: Storage(hosts: HostNameTable(hosts), sealer: sealer))
        do throws(TLSSetupError) {
            for policy in policies { try add(policy, first: policies[0]) }
        } catch {
            Self.free(storage)
            throw error
        }
    }

    /// No new session is made; the memory is freed with the last one.
    package func retire() {
        storage.pointee.isRetired = true
        if storage.pointee.sessionCount == 0 { Self.free(storage) }
    }

    /// Keys for tickets, from now on.
    package func setTicketKeys(_ keys: TicketKeys) { storage.pointee.sealer.set(keys) }

    // MARK: Making

    private func add(_ policy: TLSServerPolicy, first: TLSServerPolicy) throws(TLSSetupError) {
        guard !policy.certificates.isEmpty else { throw .noCertificateForPolicy(policy.name) }
        if policy.clientVerification != .off, policy.clientTrust == nil { throw .noClientAuthority(policy.name) }
        let identity = try policy.identity()
        let wire = try ContextBuilder.wire(policy.applicationProtocols)
        let policyIndex = storage.pointee.policies.count
        let firstCell = storage.pointee.cells.count

        // Certificates of different kinds for the same names share a context, where OpenSSL chooses by the client.
        var groups: [(names: Set<String>, kinds: Set<TLSCertificate.KeyKind>, certificates: [TLSCertificate])] = []
        for certificate in policy.certificates {
            let names = Set(certificate.names)
            let place = groups.firstIndex { $0.names == names && !$0.kinds.contains(certificate.keyKind) }
            if let place {
                groups[place].kinds.insert(certificate.keyKind)
                groups[place].certificates.append(certificate)
            } else {
                groups.append((names, [certificate.keyKind], [certificate]))
            }
        }
        var entries: [(String, Int)] = []
        for group in groups {
            let context = try ContextBuilder.make(
                TLS_server_method(), minimumVersion: policy.minimumVersion, ciphers: policy.ciphers,
                groups: policy.groups)
            let cell = UnsafeMutablePointer<Cell>.allocate(capacity: 1)
            cell.initialize(to: Cell(storage: storage, context: context, policyIndex: policyIndex))
            storage.pointee.cells.append(cell)
            for certificate in group.certificates {
                try certificate.install(in: context)
                entries += certificate.names.map { ($0, storage.pointee.cells.count - 1) }
            }
            try configure(context, policy, cell)
        }
        let protocols = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: max(1, wire.count))
        _ = protocols.update(fromContentsOf: wire)
        let words = identity.withUnsafeBytes { bytes in
            (bytes.loadUnaligned(as: UInt64.self), bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        }
        let differs = policy.groups != first.groups
        let list = policy.groups ?? ContextBuilder.defaultGroups(for: storage.pointee.cells[firstCell].pointee.context)
        storage.pointee.policies.append(
            Policy(
                certificates: HostNameTable(entries), firstCell: firstCell, identity: words,
                minimumVersion: policy.minimumVersion.number, verifyMode: policy.clientVerification.mode,
                groups: differs ? list.utf8CString.map { $0 } : nil,
                protocols: UnsafeMutableBufferPointer(rebasing: protocols[..<wire.count])))
    }

    private func configure(
        _ context: OpaquePointer, _ policy: TLSServerPolicy, _ cell: UnsafeMutablePointer<Cell>
    ) throws(TLSSetupError) {
        SSL_CTX_set_ex_data(context, 0, cell)
        // Sessions live in the clients' tickets, so they resume on every worker; nothing is kept here.
        _ = COpenSSL_SSL_CTX_set_session_cache_mode(context, Int(SSL_SESS_CACHE_OFF))
        SSL_CTX_set_timeout(context, Self.sessionLifetimeSeconds)
        SSL_CTX_set_client_hello_cb(context, { ssl, _, _ in TLSServerContext.chooseByName(ssl) }, nil)
        // Only by this answer OpenSSL remembers the name.
        _ = COpenSSL_SSL_CTX_set_tlsext_servername_callback(context) { _, _, _ in SSL_TLSEXT_ERR_OK }
        SSL_CTX_set_alpn_select_cb(
            context,
            { ssl, out, outCount, offer, count, _ in TLSServerContext.chooseProtocol(ssl, out, outCount, offer, count)
            }, nil)
        SSL_CTX_set_tlsext_ticket_key_evp_cb(context) { ssl, name, vector, cipher, mac, isSealing in
            TLSServerContext.handleTicket(ssl, name, vector, cipher, mac, isSealing)
        }
        // OpenSSL asks those of a session's first context, whatever policy it came to by name.
        SSL_CTX_set_session_ticket_cb(
            context, { ssl, _ in TLSServerContext.noteVerification(ssl) },
            { ssl, session, _, _, status, _ in TLSServerContext.judge(ssl, session, status) }, nil)
        SSL_CTX_set_verify(context, policy.clientVerification.mode, nil)
        if policy.clientVerification != .off, let trust = policy.clientTrust {
            _ = COpenSSL_SSL_CTX_set1_verify_cert_store(context, trust.store)
            SSL_CTX_set_client_CA_list(context, trust.names.flatMap { SSL_dup_CA_list($0) })
        }
    }

    private static func free(_ storage: UnsafeMutablePointer<Storage>) {
        for cell in storage.pointee.cells {
            SSL_CTX_free(cell.pointee.context)
            cell.deallocate()
        }
        for policy in storage.pointee.policies {
            policy.certificates.destroy()
            policy.protocols.deallocate()
        }
        storage.pointee.hosts.destroy()
        storage.pointee.sealer.destroy()
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    // MARK: Sessions

    static func cell(of ssl: OpaquePointer) -> UnsafeMutablePointer<Cell>? {
        SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0)?.assumingMemoryBound(to: Cell.self)
    }

    static func sessionEnded(_ storage: UnsafeMutablePointer<Storage>) {
        storage.pointee.sessionCount -= 1
        if storage.pointee.isRetired, storage.pointee.sessionCount == 0 { free(storage) }
    }

    /// The policy for a host: that which names it, or else the first.
    static func policyIndex(for host: UnsafeBufferPointer<UInt8>, _ storage: UnsafeMutablePointer<Storage>) -> Int {
        storage.pointee.policies.count == 1 ? 0 : max(0, storage.pointee.hosts.value(of: host, atAnyDepth: true))
    }

    // MARK: What OpenSSL calls

    private static func chooseByName(_ ssl: OpaquePointer?) -> Int32 {
        guard let ssl, let cell = cell(of: ssl) else { return SSL_CLIENT_HELLO_ERROR }
        let storage = cell.pointee.storage
        let name = requestedName(ssl)
        let policyIndex = policyIndex(for: name, storage)
        let certificateCell = storage.pointee.policies[policyIndex].certificates.value(of: name)
        let chosen = storage.pointee.cells[
            certificateCell >= 0 ? certificateCell : storage.pointee.policies[policyIndex].firstCell]
        if chosen != cell {
            // OpenSSL takes along certificates, authorities, cipher suites and callbacks, but not what a session has
            // copied of its first context.
            guard SSL_set_SSL_CTX(ssl, chosen.pointee.context) != nil else { return SSL_CLIENT_HELLO_ERROR }
            _ = COpenSSL_SSL_set_min_proto_version(ssl, storage.pointee.policies[policyIndex].minimumVersion)
            SSL_set_verify(ssl, storage.pointee.policies[policyIndex].verifyMode, nil)
            if let groups = storage.pointee.policies[policyIndex].groups {
                _ = COpenSSL_SSL_set1_groups_list(ssl, groups)
            }
        }
        let identity = storage.pointee.policies[policyIndex].identity
        var context = (
            identity.0, identity.1, HostName.hash(name), HostName.hash(name, seed: 0x9E37_79B9_7F4A_7C15)
        )
        let isSet = withUnsafeBytes(of: &context) { bytes in
            SSL_set_session_id_context(
                ssl, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt32(bytes.count))
        }
        return isSet == 1 ? SSL_CLIENT_HELLO_SUCCESS : SSL_CLIENT_HELLO_ERROR
    }

    /// The name in the client's server_name extension (RFC 6066 section 3), empty if there is none that is a host's.
    /// One that is malformed is for OpenSSL to refuse.
    private static func requestedName(_ ssl: OpaquePointer) -> UnsafeBufferPointer<UInt8> {
        let none = UnsafeBufferPointer<UInt8>(start: nil, count: 0)
        var start: UnsafePointer<UInt8>?
        var count = 0
        guard SSL_client_hello_get0_ext(ssl, UInt32(TLSEXT_TYPE_server_name), &start, &count) == 1, let start else {
            return none
        }
        let bytes = UnsafeBufferPointer(start: start, count: count)
        guard count >= 5, bytes[2] == TLSEXT_NAMETYPE_host_name else { return none }
        let nameCount = Int(bytes[3]) << 8 | Int(bytes[4])
        guard nameCount <= count - 5 else { return none }
        let name = UnsafeBufferPointer(rebasing: bytes[5..<(5 + nameCount)])
        return HostName.isValid(name) ? name : none
    }

    /// The first of ours that the client offers; no other is spoken (RFC 7301 section 3.2).
    private static func chooseProtocol(
        _ ssl: OpaquePointer?, _ out: UnsafeMutablePointer<UnsafePointer<UInt8>?>?,
        _ outCount: UnsafeMutablePointer<UInt8>?, _ offer: UnsafePointer<UInt8>?, _ count: UInt32
    ) -> Int32 {
        guard let ssl, let out, let outCount, let offer, let cell = cell(of: ssl) else {
            return SSL_TLSEXT_ERR_ALERT_FATAL
        }
        let ours = cell.pointee.storage.pointee.policies[cell.pointee.policyIndex].protocols
        if ours.isEmpty { return SSL_TLSEXT_ERR_NOACK }
        let theirs = UnsafeBufferPointer(start: offer, count: Int(count))
        var place = 0
        while place < ours.count {
            let name = UnsafeBufferPointer(rebasing: ours[(place + 1)..<(place + 1 + Int(ours[place]))])
            var other = 0
            while other < theirs.count, other + 1 + Int(theirs[other]) <= theirs.count {
                if theirs[(other + 1)..<(other + 1 + Int(theirs[other]))].elementsEqual(name) {
                    out.pointee = name.baseAddress
                    outCount.pointee = UInt8(name.count)
                    return SSL_TLSEXT_ERR_OK
                }
                other += 1 + Int(theirs[other])
            }
            place += 1 + name.count
        }
        return SSL_TLSEXT_ERR_ALERT_FATAL
    }

    /// - Returns: as OpenSSL wants it: 0 no ticket or a full handshake, 1 good, 2 good and to be sealed anew, -1 failed.
    private static func handleTicket(
        _ ssl: OpaquePointer?, _ name: UnsafeMutablePointer<UInt8>?, _ vector: UnsafeMutablePointer<UInt8>?,
        _ cipher: OpaquePointer?, _ mac: OpaquePointer?, _ isSealing: Int32
    ) -> Int32 {
        guard let ssl, let name, let vector, let cipher, let mac, let cell = cell(of: ssl) else { return -1 }
        if isSealing != 0 {
            return cell.pointee.storage.pointee.sealer.seal(name, vector, cipher, mac) ? 1 : -1
        }
        switch cell.pointee.storage.pointee.sealer.open(name, vector, cipher, mac) {
        case .unknown: return 0
        case .failed: return -1
        case .previous: return 2
        // A ticket of TLS 1.3 is to be used once (RFC 8446 appendix C.4), so its user gets another.
        case .current: return SSL_version(ssl) == TLS1_3_VERSION ? 2 : 1
        }
    }

    /// A ticket is being sealed. It keeps when the client was verified: each resumption begins a new lifetime, and without
    /// this a client could go on for ever on a certificate that has expired long since.
    private static func noteVerification(_ ssl: OpaquePointer?) -> Int32 {
        guard let ssl, let session = SSL_get_session(ssl) else { return 0 }
        if !verifiesClients(ssl) { return 1 }
        if verificationSeconds(of: session) != nil { return 1 }
        var now = Int64(time(nil))
        return SSL_SESSION_set1_ticket_appdata(session, &now, MemoryLayout<Int64>.size)
    }

    /// A ticket was opened: it is not used if the verification is too long ago.
    private static func judge(
        _ ssl: OpaquePointer?, _ session: OpaquePointer?, _ status: SSL_TICKET_STATUS
    ) -> SSL_TICKET_RETURN {
        guard let ssl, let session, status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW,
            let cell = cell(of: ssl)
        else { return SSL_TICKET_RETURN_IGNORE_RENEW }
        if verifiesClients(ssl) {
            guard let seconds = verificationSeconds(of: session),
                Int64(time(nil)) - seconds <= cell.pointee.storage.pointee.verificationSecondsMax
            else { return SSL_TICKET_RETURN_IGNORE_RENEW }
        }
        return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW
    }

    private static func verifiesClients(_ ssl: OpaquePointer) -> Bool { SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE }

    private static func verificationSeconds(of session: OpaquePointer) -> Int64? {
        var data: UnsafeMutableRawPointer?
        var count = 0
        guard SSL_SESSION_get0_ticket_appdata(session, &data, &count) == 1, let data,
            count == MemoryLayout<Int64>.size
        else { return nil }
        return data.loadUnaligned(as: Int64.self)
    }
}
