// Connections that speak TLS: what is read is decrypted before anybody looks at it, what is written is encrypted as it
// leaves, and what waits in a connection's `outbound` is ciphertext. All else is as in clear. The engine's output is
// empty between two calls: whatever a call made is sent, or waits, before the next.

import Bytes
import EventLoop
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import TLS

/// A client's TLS. Reached by pointer; lives as long as its connection.
struct ClientTLS {
    var session: TLSSession
    /// What requests tell of it; nothing before the handshake is over.
    var peer = PeerTLS(
        version: ClientTLS.nothing, cipher: ClientTLS.nothing, serverName: ClientTLS.nothing,
        certificateText: ClientTLS.nothing, verifiesClients: false)
    /// Where the name and the certificate's text are.
    var texts: UnsafeMutablePointer<UInt8>?

    static var nothing: UnsafeBufferPointer<UInt8> { UnsafeBufferPointer(start: nil, count: 0) }
}

/// What a read of a TLS connection gave.
private enum TLSReadOutcome {
    /// As in clear.
    case read(ReadOutcome)
    /// The session has failed.
    case failed(TLSFailure)
}

extension Worker {
    /// What a session takes of memory, its handshake over and OpenSSL's buffers given back.
    private static var sessionBytes: Int { 14 << 10 }
    /// The longest certificate of a client that is passed on, in DER.
    private static var certificateBytesMax: Int { PeerTLS.certificateTextBytesMax / 4 * 3 }

    // MARK: Reading

    /// Reads and decrypts what is there, once.
    private func receiveTLS(
        _ session: inout TLSSession, _ socket: Int32, into inbound: inout Buffer, _ outbound: inout Outbound,
        _ state: inout SocketState, truncationMatters: Bool
    ) -> TLSReadOutcome {
        if session.inputIsOver {
            let isBroken =
                session.isFailed || state.contains(.isReset) || (truncationMatters && session.isTruncated)
            return .read(isBroken ? .broken : .ended)
        }
        var count = 0
        var isLast = false
        let capacity = pool.readBytesMax
        switch Socket.receive(socket, into: cipherScratch, capacity: capacity) {
        case .bytes(let bytes):
            count = bytes
            if count < capacity, !state.contains(.peerEnded) { state.remove(.mayRead) }
        case .wouldBlock:
            state.remove(.mayRead)
            return .read(.nothing)
        case .ended: isLast = true
        case .failed: return .read(.broken)
        }
        let isScratch = inbound.isEmpty
        let roomBytes = count + TLSSession.plaintextBytesExtra
        var room = scratch
        if !isScratch {
            pool.reserve(roomBytes, in: &inbound)
            room = inbound.base.unsafelyUnwrapped + Int(inbound.end)
        }
        let received = session.receive(
            UnsafeBufferPointer(start: UnsafePointer(cipherScratch), count: count), isLast: isLast, into: room,
            capacity: roomBytes)
        let answerBytes = tlsEngine.output.count
        if !sendOutput(to: socket, &outbound, &state), received.plaintextBytes == 0 { return .read(.broken) }
        guard mayAnswer(answerBytes, &session, outbound) else { return .read(.broken) }
        switch received.input {
        case .needsInput: break
        case .needsRoom: precondition(isLast, "there was room for all of it")
        case .ended, .truncated:
            // What came before the end is told first. The end is told by every call from now on: no readiness will, to
            // who asks later.
            state.insert(.mayRead)
            if received.plaintextBytes == 0 {
                return .read(truncationMatters && session.isTruncated ? .broken : .ended)
            }
        case .failed(let failure):
            // What came before it is told first; that the session is over, by the next call.
            if received.plaintextBytes == 0 {
                state.remove(.mayRead)
                return .failed(failure)
            }
            state.insert(.mayRead)
        }
        guard received.plaintextBytes > 0 else {
            if !isScratch, inbound.isEmpty { pool.release(&inbound) }
            return .read(.nothing)
        }
        if isScratch {
            return .read(
                .bytes(UnsafeBufferPointer(start: UnsafePointer(room), count: received.plaintextBytes), isScratch: true)
            )
        }
        inbound.end += UInt32(received.plaintextBytes)
        return .read(.bytes(inbound.bytes, isScratch: false))
    }

    /// Counts what reading alone has made us say, key updates for instance, to a peer that does not listen.
    /// - Returns: false if that is more than anybody honest asks for.
    private func mayAnswer(_ bytes: Int, _ session: inout TLSSession, _ outbound: Outbound) -> Bool {
        guard bytes > 0 else { return true }
        session.unreadAnswerBytes = outbound.isEmpty ? 0 : session.unreadAnswerBytes + bytes
        return session.unreadAnswerBytes <= Self.unreadAnswerBytesMax
    }

    /// A handshake's flight with a long chain of certificates fits.
    private static var unreadAnswerBytesMax: Int { 64 << 10 }

    /// Reads what a client has sent by TLS.
    func receiveTLS(_ connection: DownstreamPointer) -> ReadOutcome {
        guard let tls = connection.pointee.tls ?? beginTLS(connection) else { return .broken }
        let wasEstablished = tls.pointee.session.isEstablished
        let isTunnel = connection.pointee.exchange?.pointee.machine.isTunnel ?? false
        let outcome = receiveTLS(
            &tls.pointee.session, connection.pointee.socket, into: &connection.pointee.inbound,
            &connection.pointee.outbound, &connection.pointee.state, truncationMatters: isTunnel)
        if !wasEstablished, tls.pointee.session.isEstablished { handshakeEnded(connection, tls) }
        switch outcome {
        case .read(let read): return read
        case .failed(let failure):
            guard failure.kind == .plainHTTP else { return .broken }
            // Who speaks in clear is answered in clear.
            endTLS(connection)
            connection.pointee.state.remove(.isTLS)
            refuseRequest(connection, .requestRefused, .plainHTTP, headIsThere: false)
            return .nothing
        }
    }

    /// The client's first byte is there: until then a connection costs no more than one in clear.
    private func beginTLS(_ connection: DownstreamPointer) -> UnsafeMutablePointer<ClientTLS>? {
        guard !pool.isScarce, let context = connection.pointee.listener.pointee.tls,
            let session = TLSSession(server: context, tlsEngine)
        else { return nil }
        let tls = UnsafeMutablePointer<ClientTLS>.allocate(capacity: 1)
        tls.initialize(to: ClientTLS(session: session))
        connection.pointee.tls = tls
        pool.charge(Self.sessionBytes)
        return tls
    }

    private func handshakeEnded(_ connection: DownstreamPointer, _ tls: UnsafeMutablePointer<ClientTLS>) {
        let session = tls.pointee.session
        metrics.count(session.isResumed ? .handshakesResumed : .handshakesFull)
        let nameMax = TLSSession.serverNameBytesMax
        var certificateBytes = session.hasPeerCertificate ? session.peerCertificate(into: scratch, capacity: 0) : 0
        // It is left out rather than cut.
        if certificateBytes > Self.certificateBytesMax { certificateBytes = 0 }
        let textBytes = Base64.textBytes(of: certificateBytes)
        let texts = UnsafeMutablePointer<UInt8>.allocate(capacity: nameMax + textBytes + certificateBytes)
        let nameBytes = session.serverName(into: texts)
        if certificateBytes > 0 {
            let certificate = texts + nameMax + textBytes
            _ = session.peerCertificate(into: certificate, capacity: certificateBytes)
            Base64.write(UnsafeBufferPointer(start: certificate, count: certificateBytes), to: texts + nameMax)
        }
        tls.pointee.texts = texts
        tls.pointee.peer = PeerTLS(
            version: session.version, cipher: session.cipher,
            serverName: UnsafeBufferPointer(start: texts, count: nameBytes),
            certificateText: UnsafeBufferPointer(start: texts + nameMax, count: textBytes),
            verifiesClients: session.verifiesPeer)
        connection.pointee.peer.tlsEstablished(tls.peer)
        if session.isHTTP2, !beginHTTP2(connection) { connection.pointee.state.insert(.isBroken) }
        updateTimer(connection)
    }

    /// Looks whether a client has ended its TLS while its answer is owed: a close_notify is no FIN, and no readiness
    /// tells of it (rule 9). What else comes, requests behind this one, is kept, a little of it. A tunnel is read to its
    /// end in turn, and so is a request.
    func readAhead(_ connection: DownstreamPointer) {
        var reads = 0
        // The end may have come with bytes before it: then only its word is missing, whatever was kept.
        while connection.pointee.state.contains(.mayRead), connection.pointee.phase == .exchanging,
            let exchange = connection.pointee.exchange, let tls = connection.pointee.tls,
            exchange.pointee.machine.requestSide == .ended, !exchange.pointee.machine.isTunnel,
            connection.pointee.inbound.count < Self.aheadBytesMax || tls.pointee.session.inputIsOver
        {
            guard mayGoOn(&reads, connection.pointee.timer.owner, &connection.pointee.state) else { return }
            switch receiveTLS(connection) {
            case .bytes(let input, let isScratch):
                keep(input, from: 0, isScratch: isScratch, in: &connection.pointee.inbound)
            case .nothing: break
            case .ended:
                perform(exchange.pointee.machine.clientEnded(), for: exchange)
                return
            case .broken:
                downstreamBroke(connection)
                return
            }
        }
    }

    private static var aheadBytesMax: Int { 4096 }

    /// Reads what a server has sent by TLS.
    func receiveTLS(_ connection: UpstreamPointer) -> ReadOutcome {
        guard let tls = connection.pointee.tls else { preconditionFailure("no session") }
        let outcome = receiveTLS(
            &tls.pointee, connection.pointee.socket, into: &connection.pointee.inbound, &connection.pointee.outbound,
            &connection.pointee.state, truncationMatters: true)
        switch outcome {
        case .read(let read): return read
        case .failed: return .broken
        }
    }

    /// Whether anything but TLS's own messages has come from a server that nobody asked anything. Nothing of it goes to
    /// the scratch, where a request's head may lie.
    func hasNewsBehindTLS(_ connection: UpstreamPointer) -> Bool {
        guard let tls = connection.pointee.tls else { preconditionFailure("no session") }
        while true {
            switch Socket.receive(connection.pointee.socket, into: cipherScratch, capacity: pool.readBytesMax) {
            case .bytes(let count):
                var byte: UInt8 = 0
                let received = tls.pointee.receive(
                    UnsafeBufferPointer(start: UnsafePointer(cipherScratch), count: count), isLast: false, into: &byte,
                    capacity: 1)
                let isSent = sendOutput(
                    to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
                guard received.input == .needsInput, received.plaintextBytes == 0, isSent else { return true }
            case .wouldBlock:
                connection.pointee.state.remove(.mayRead)
                return !connection.pointee.outbound.isEmpty
            case .ended, .failed: return true
            }
        }
    }

    // MARK: Writing

    /// Encrypts and writes what this turn has collected for a client. Without a session nothing leaves.
    func sendTLS(_ connection: DownstreamPointer) -> WriteOutcome {
        guard let tls = connection.pointee.tls else { return .broken }
        return sendTLS(
            downstreamGather, &tls.pointee.session, to: connection.pointee.socket, &connection.pointee.outbound,
            &connection.pointee.state)
    }

    /// The same for a server.
    func sendTLS(_ connection: UpstreamPointer) -> WriteOutcome {
        guard let tls = connection.pointee.tls else { return .broken }
        return sendTLS(
            upstreamGather, &tls.pointee, to: connection.pointee.socket, &connection.pointee.outbound,
            &connection.pointee.state)
    }

    /// Encrypts and writes what a turn has collected, behind what waits already.
    private func sendTLS(
        _ gather: Gather, _ session: inout TLSSession, to socket: Int32, _ outbound: inout Outbound,
        _ state: inout SocketState
    ) -> WriteOutcome {
        guard session.maySend else { return .broken }
        let isEncrypted = gather.forEachPiece { encrypt($0, &session) }
        let count = gather.byteCount
        guard isEncrypted else {
            tlsEngine.clearOutput()
            return .broken
        }
        guard sendOutput(to: socket, &outbound, &state) else { return .broken }
        return outbound.isEmpty ? .all(count) : .some(count)
    }

    private func encrypt(_ bytes: UnsafeBufferPointer<UInt8>, _ session: inout TLSSession) -> Bool {
        do {
            try session.send(bytes, nowMilliseconds: nowMilliseconds)
            return true
        } catch {
            return false
        }
    }

    /// Encrypts and writes bytes; ciphertext that the socket does not take waits.
    /// - Returns: false if the connection is broken.
    func sendTLS(
        _ bytes: UnsafeBufferPointer<UInt8>, _ session: inout TLSSession, to socket: Int32,
        _ outbound: inout Outbound, _ state: inout SocketState
    ) -> Bool {
        guard session.maySend else { return false }
        guard encrypt(bytes, &session) else {
            tlsEngine.clearOutput()
            return false
        }
        return sendOutput(to: socket, &outbound, &state)
    }

    /// Sends the engine's output, or lets it wait.
    /// - Returns: false if the connection is broken.
    private func sendOutput(to socket: Int32, _ outbound: inout Outbound, _ state: inout SocketState) -> Bool {
        let output = tlsEngine.output
        guard let base = output.baseAddress, output.count > 0 else { return true }
        defer { tlsEngine.clearOutput() }
        guard !state.contains(.isBroken) else { return false }
        var sent = 0
        if outbound.isEmpty, state.contains(.mayWrite) {
            switch Socket.send(socket, base, count: output.count) {
            case .bytes(let count): sent = count
            case .wouldBlock: break
            case .ended: preconditionFailure("a write finds no end")
            case .failed(let number):
                noteBreak(number, &state)
                return false
            }
            if sent == output.count { return true }
            state.remove(.mayWrite)
        }
        pool.append(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(output)[sent...]), to: &outbound.buffer)
        return true
    }

    /// Ends our direction by a close_notify.
    /// - Returns: whether all of it is out, so that a FIN may follow.
    func endSendingTLS(
        _ session: inout TLSSession, to socket: Int32, _ outbound: inout Outbound, _ state: inout SocketState
    ) -> Bool {
        session.endSending()
        return sendOutput(to: socket, &outbound, &state) && outbound.isEmpty
    }

    // MARK: The end

    /// Lets a client's session go. A client that can still hear it is told of the end.
    func endTLS(_ connection: DownstreamPointer) {
        guard let tls = connection.pointee.tls else { return }
        connection.pointee.tls = nil
        pool.discharge(Self.sessionBytes)
        if !tls.pointee.session.isEstablished { metrics.count(.handshakesFailed) }
        if connection.pointee.outbound.isEmpty, !connection.pointee.endsByReset,
            !connection.pointee.state.contains(.isBroken)
        {
            _ = endSendingTLS(
                &tls.pointee.session, to: connection.pointee.socket, &connection.pointee.outbound,
                &connection.pointee.state)
        }
        tls.pointee.session.destroy()
        tls.pointee.texts?.deallocate()
        tls.deinitialize(count: 1)
        tls.deallocate()
    }

    /// Lets a server's session go.
    func endTLS(_ connection: UpstreamPointer) {
        guard let tls = connection.pointee.tls else { return }
        connection.pointee.tls = nil
        pool.discharge(Self.sessionBytes)
        if connection.pointee.outbound.isEmpty, !connection.pointee.endsByReset,
            !connection.pointee.state.contains(.isBroken)
        {
            _ = endSendingTLS(
                &tls.pointee, to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        }
        tls.pointee.destroy()
        tls.deinitialize(count: 1)
        tls.deallocate()
    }

    // MARK: The handshake with a server

    /// The connection is there: TLS begins on it.
    func beginTLS(_ connection: UpstreamPointer, _ peer: TLSClientPeer) {
        guard var session = TLSSession(client: peer, tlsEngine) else {
            connectingFailed(connection, .outOfResources)
            return
        }
        let input = session.start()
        let tls = UnsafeMutablePointer<TLSSession>.allocate(capacity: 1)
        tls.initialize(to: session)
        connection.pointee.tls = tls
        pool.charge(Self.sessionBytes)
        connection.pointee.state.insert(.isTLS)
        connection.pointee.phase = .handshaking
        let isSent = sendOutput(
            to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
        if case .failed(let failure) = input { handshakeFailed(connection, failure) }
        if case .needsInput = input, !isSent { connectingFailed(connection, .connectRefused) }
    }

    /// Bytes of the server's handshake may be there.
    func continueHandshake(_ connection: UpstreamPointer) {
        guard let tls = connection.pointee.tls else { preconditionFailure("a handshake without a session") }
        while connection.pointee.state.contains(.mayRead) {
            let outcome = receiveTLS(
                &tls.pointee, connection.pointee.socket, into: &connection.pointee.inbound,
                &connection.pointee.outbound, &connection.pointee.state, truncationMatters: true)
            switch outcome {
            case .read(.nothing): break
            case .failed(let failure):
                handshakeFailed(connection, failure)
                return
            case .read(.bytes), .read(.ended), .read(.broken):
                if case .read(.bytes(let bytes, _)) = outcome, mayBeginEarly(connection, tls) {
                    beginHTTP2(connection, with: bytes)
                    return
                }
                // Nothing was asked yet, so nothing may be answered.
                hot.pointee.tlsFailureText = "the server ended the connection, or spoke first"
                connectingFailed(connection, .tlsFailed)
                hot.pointee.tlsFailureText = nil
                return
            }
            if tls.pointee.isEstablished {
                connectionMade(connection)
                return
            }
        }
    }

    /// A server of HTTP/2 names its settings without being asked (RFC 9113 section 3.4).
    private func mayBeginEarly(_ connection: UpstreamPointer, _ tls: UnsafeMutablePointer<TLSSession>) -> Bool {
        connection.pointee.http2 != nil && tls.pointee.isEstablished && tls.pointee.isHTTP2
    }

    private func handshakeFailed(_ connection: UpstreamPointer, _ failure: TLSFailure) {
        hot.pointee.tlsFailureText = failure.description
        connectingFailed(connection, Failure(failure))
        hot.pointee.tlsFailureText = nil
    }
}

extension UnsafeMutablePointer<ClientTLS> {
    /// The place of the session.
    var session: UnsafeMutablePointer<TLSSession> {
        let offset = MemoryLayout<ClientTLS>.offset(of: \.session).unsafelyUnwrapped
        return (UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: TLSSession.self)
    }

    /// The place of what requests tell.
    fileprivate var peer: UnsafePointer<PeerTLS> {
        let offset = MemoryLayout<ClientTLS>.offset(of: \.peer).unsafelyUnwrapped
        return UnsafePointer((UnsafeMutableRawPointer(self) + offset).assumingMemoryBound(to: PeerTLS.self))
    }
}

extension Failure {
    /// What a failed handshake with a server means.
    init(_ failure: TLSFailure) {
        switch failure.kind {
        case .certificateMissing, .certificateUntrusted, .certificateExpired, .certificateNameMismatch,
            .certificateInvalid:
            self = .tlsCertificateRefused
        case .alertReceived: self = .tlsAlertReceived
        case .plainHTTP, .notTLS, .noSharedVersion, .noSharedCipher, .noSharedProtocol, .closedInHandshake, .badRecord,
            .protocolError, .internalError:
            self = .tlsFailed
        }
    }
}
