// One connection's TLS as a transformer of bytes: ciphertext in, plaintext out, and the other way. It has no socket and
// no buffer; what it wants to send lies in the engine's `output` after every call, those that only read included.
//
// States: handshaking -> established -> each direction ends by itself; failed from everywhere. A trivial handle: it
// lives in a connection's slot, and `destroy()` is called exactly once. One thread, that of its engine.

internal import COpenSSL

/// Where a session's input stands after a call.
@frozen public enum TLSInput: Equatable, Sendable {
    /// All ciphertext was used; more is needed.
    case needsInput
    /// The room for plaintext is full and there is more: call again with the ciphertext that was not consumed.
    case needsRoom
    /// The peer has ended its direction by close_notify. Sending may go on.
    case ended
    /// The peer's connection ended without close_notify: where an end matters, this is none.
    case truncated
    /// The session is over. Output may hold an alert; send it if that costs nothing.
    case failed(TLSFailure)
}

/// What a call made of the input.
@frozen public struct TLSReceived: Equatable, Sendable {
    /// How much of the ciphertext was used.
    public var consumedBytes: Int
    /// How much plaintext was written.
    public var plaintextBytes: Int
    /// Where the input stands.
    public var input: TLSInput
}

/// See the head of the file.
package struct TLSSession {
    /// Plaintext that may come out beyond the length of the ciphertext that goes in: the rest of one record. With so much
    /// more room than input, `receive` never needs room.
    package static let plaintextBytesExtra = 16_384

    private struct State: OptionSet {
        let rawValue: UInt8
        static let isEstablished = State(rawValue: 1 << 0)
        static let isFailed = State(rawValue: 1 << 1)
        static let inputIsOver = State(rawValue: 1 << 2)
        static let isTruncated = State(rawValue: 1 << 3)
        static let sendingIsEnded = State(rawValue: 1 << 4)
        static let hasSeenBytes = State(rawValue: 1 << 5)
        /// The first byte was a capital letter: a method's, not a record's.
        static let looksLikeText = State(rawValue: 1 << 6)
    }

    /// Records after the handshake that carry no plaintext, since the last `plaintextBytesPerPause` that came: key updates,
    /// tickets. Each costs a peer little and us much.
    private static let emptyRecordsMax: UInt8 = 64
    private static let plaintextBytesPerPause: UInt32 = 64 << 10
    /// So many records may go out under one key (RFC 8446 section 5.5: 2^24.5 for AES-GCM).
    private static let recordsPerKeyMax: UInt32 = 1 << 24

    let ssl: OpaquePointer
    private let window: UnsafeMutablePointer<TLSWindow>
    private var sizer = RecordSizer()
    private var state: State = []
    private var emptyRecordCount: UInt8 = 0
    private var countedPlaintextBytes: UInt32 = 0
    private var keyRecordCount: UInt32 = 0
    /// What the peer was answered and has not taken, as far as the connection counts it.
    package var unreadAnswerBytes = 0

    private init?(_ context: OpaquePointer, _ engine: TLSEngine) {
        ERR_clear_error()
        guard let ssl = SSL_new(context) else { return nil }
        guard let bio = WindowBIO.make(engine.window) else {
            SSL_free(ssl)
            return nil
        }
        SSL_set_bio(ssl, bio, bio)
        self.ssl = ssl
        window = engine.window
    }

    /// The session of a client's connection; nil if there is no memory.
    package init?(server context: TLSServerContext, _ engine: TLSEngine) {
        self.init(context.storage.pointee.cells[0].pointee.context, engine)
        SSL_set_accept_state(ssl)
        context.storage.pointee.sessionCount += 1
    }

    /// The session of a connection to a server; nil if there is no memory. Call `start` next.
    package init?(client peer: TLSClientPeer, _ engine: TLSEngine) {
        self.init(peer.storage.pointee.context, engine)
        peer.storage.pointee.sessionCount += 1
        SSL_set_connect_state(ssl)
        guard peer.prepare(ssl) else {
            destroy()
            return nil
        }
    }

    /// Frees the session. Says nothing to the peer.
    package func destroy() {
        ERR_clear_error()
        let isEstablished = state.contains(.isEstablished) && !state.contains(.isFailed)
        // A connection that ends without close_notify does not make its session useless for the next.
        if isEstablished { SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN) }
        if SSL_is_server(ssl) == 1 {
            let cell = TLSServerContext.cell(of: ssl)
            let storage = cell?.pointee.storage
            SSL_free(ssl)
            if let storage { TLSServerContext.sessionEnded(storage) }
        } else {
            let storage = TLSClientPeer.of(ssl)
            SSL_free(ssl)
            if let storage { TLSClientPeer.sessionEnded(storage) }
        }
    }

    // MARK: State

    /// Whether the handshake is over and plaintext can be sent.
    package var isEstablished: Bool { state.contains(.isEstablished) }
    /// Whether the session has failed.
    package var isFailed: Bool { state.contains(.isFailed) }
    /// Whether nothing more will be received: ended, truncated or failed.
    package var inputIsOver: Bool { state.contains(.inputIsOver) }
    /// Whether the input ended without close_notify.
    package var isTruncated: Bool { state.contains(.isTruncated) }
    /// Whether plaintext may still be sent.
    package var maySend: Bool {
        state.contains(.isEstablished) && state.isDisjoint(with: [.isFailed, .sendingIsEnded])
    }
    /// Whether plaintext waits inside that had no room.
    package var hasPending: Bool { SSL_has_pending(ssl) == 1 }

    // MARK: Receiving

    /// Begins a client's handshake; the first flight is in the engine's output.
    package mutating func start() -> TLSInput {
        var byte: UInt8 = 0
        return receive(UnsafeBufferPointer(start: nil, count: 0), isLast: false, into: &byte, capacity: 0).input
    }

    /// Takes ciphertext: goes on with the handshake, then decrypts.
    /// - Parameters:
    ///   - ciphertext: what the socket gave, behind what an earlier call did not consume.
    ///   - isLast: whether the peer's end of the connection was read behind it.
    ///   - room: where plaintext goes; must not overlap the ciphertext.
    ///   - capacity: how much room there is. See `plaintextBytesExtra`.
    package mutating func receive(
        _ ciphertext: UnsafeBufferPointer<UInt8>, isLast: Bool, into room: UnsafeMutablePointer<UInt8>, capacity: Int
    ) -> TLSReceived {
        if state.contains(.inputIsOver) { return overAlready(ciphertext.count) }
        precondition(window.pointee.outputCount == 0, "the output of the last call is still there")
        if !state.contains(.hasSeenBytes), let first = ciphertext.first {
            state.insert(.hasSeenBytes)
            if first &- UInt8(ascii: "A") < 26, SSL_is_server(ssl) == 1 { state.insert(.looksLikeText) }
        }
        window.pointee.input = ciphertext.baseAddress
        window.pointee.inputCount = ciphertext.count
        window.pointee.inputOffset = 0
        clearErrors()
        var received = TLSReceived(consumedBytes: 0, plaintextBytes: 0, input: .needsInput)
        received.input = advance(into: room, capacity: capacity, isLast: isLast, count: &received.plaintextBytes)
        received.consumedBytes = window.pointee.inputOffset
        window.pointee.input = nil
        switch received.input {
        case .needsInput, .needsRoom: break
        case .ended, .truncated, .failed: received.consumedBytes = ciphertext.count
        }
        return received
    }

    private func overAlready(_ count: Int) -> TLSReceived {
        // What comes behind the end is thrown away. A failure is told once; to ask again is no new one.
        let input: TLSInput =
            state.contains(.isFailed)
            ? .failed(TLSFailure(.protocolError)) : state.contains(.isTruncated) ? .truncated : .ended
        return TLSReceived(consumedBytes: count, plaintextBytes: 0, input: input)
    }

    private mutating func advance(
        into room: UnsafeMutablePointer<UInt8>, capacity: Int, isLast: Bool, count: inout Int
    ) -> TLSInput {
        if !state.contains(.isEstablished) {
            let result = SSL_do_handshake(ssl)
            guard result == 1 else { return stopped(result, isLast: isLast) }
            state.insert(.isEstablished)
            TLSClientPeer.handshakeEnded(ssl)
            // What the handshake has left would be taken for the reason why the next read gives nothing.
            clearErrors()
        }
        let answered = window.pointee.outputCount
        let countBefore = emptyRecordCount
        while count < capacity {
            var bytes = 0
            let result = SSL_read_ex(ssl, room + count, capacity - count, &bytes)
            guard result == 1 else {
                let hasMore = window.pointee.inputOffset < window.pointee.inputCount
                if hasMore, SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ {
                    // A record was read that carried nothing.
                    guard mayCarryNothing() else { return failed(TLSFailure(.protocolError)) }
                    continue
                }
                // It may also be the last one there is, but then we have answered it, with a key update for instance.
                let isAnswer = window.pointee.outputCount > answered && emptyRecordCount == countBefore
                if isAnswer, SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ, !mayCarryNothing() {
                    return failed(TLSFailure(.protocolError))
                }
                return stopped(result, isLast: isLast)
            }
            count += bytes
            countedPlaintextBytes &+= UInt32(truncatingIfNeeded: bytes)
            if countedPlaintextBytes >= Self.plaintextBytesPerPause {
                countedPlaintextBytes = 0
                emptyRecordCount = 0
            }
            // Nothing is left that another read could give: it would take a buffer only to say so.
            if !isLast, window.pointee.inputOffset == window.pointee.inputCount, SSL_has_pending(ssl) == 0 {
                return .needsInput
            }
        }
        let hasMore = window.pointee.inputOffset < window.pointee.inputCount || SSL_has_pending(ssl) == 1
        return hasMore || isLast ? .needsRoom : .needsInput
    }

    /// Clearing costs 800 instructions, looking 60.
    private func clearErrors() {
        if ERR_peek_error() != 0 { ERR_clear_error() }
    }

    private mutating func stopped(_ result: Int32, isLast: Bool) -> TLSInput {
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ: return isLast ? cutShort() : .needsInput
        case SSL_ERROR_ZERO_RETURN:
            state.insert(.inputIsOver)
            return .ended
        // OpenSSL's numbers; everything else is the end of the session.
        default: break
        }
        let isHandshaking = !state.contains(.isEstablished)
        let failure = TLSFailure.taken(
            from: ssl, looksLikeText: state.contains(.looksLikeText) && isHandshaking)
        if failure.kind == .plainHTTP { window.pointee.outputCount = 0 }
        return failed(failure)
    }

    private mutating func failed(_ failure: TLSFailure) -> TLSInput {
        state.insert([.inputIsOver, .isFailed])
        forgetResumed()
        return .failed(failure)
    }

    private mutating func mayCarryNothing() -> Bool {
        emptyRecordCount += 1
        return emptyRecordCount <= Self.emptyRecordsMax
    }

    /// The peer's connection has ended, and its TLS had not. OpenSSL is not told: what we still have to say can be said.
    private mutating func cutShort() -> TLSInput {
        state.insert(.inputIsOver)
        if state.contains(.isEstablished) {
            state.insert(.isTruncated)
            return .truncated
        }
        return failed(TLSFailure(.closedInHandshake))
    }

    /// A handshake failed: should it have resumed a session, the next one does not.
    private func forgetResumed() {
        guard !state.contains(.isEstablished), SSL_is_server(ssl) == 0, let peer = TLSClientPeer.of(ssl) else { return }
        TLSClientPeer.forget(peer)
    }

    // MARK: Sending

    /// Encrypts plaintext; all of it is in the engine's output afterwards, behind what calls for this session have left
    /// there in this turn.
    package mutating func send(
        _ plaintext: UnsafeBufferPointer<UInt8>, nowMilliseconds: UInt64
    ) throws(TLSFailure) {
        precondition(maySend, "plaintext goes out only while the session is established")
        guard plaintext.count > 0, let start = plaintext.baseAddress else { return }
        clearErrors()
        sizer.sendingBegan(nowMilliseconds: nowMilliseconds)
        var offset = 0
        while offset < plaintext.count {
            let count = min(plaintext.count - offset, sizer.recordBytesMax)
            var written = 0
            guard SSL_write_ex(ssl, start + offset, count, &written) == 1 else {
                state.insert([.isFailed, .inputIsOver])
                throw TLSFailure.taken(from: ssl, looksLikeText: false)
            }
            sizer.recordSent(written)
            offset += written
            keyRecordCount += 1
            if keyRecordCount >= Self.recordsPerKeyMax { updateKey(asksPeer: false) }
        }
    }

    /// Takes a new key for what is sent from now on; the message about it goes out with the next record. TLS 1.3 only.
    mutating func updateKey(asksPeer: Bool) {
        keyRecordCount = 0
        guard SSL_version(ssl) == TLS1_3_VERSION else { return }
        _ = SSL_key_update(ssl, asksPeer ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED)
        ERR_clear_error()
    }

    /// Ends our direction: a close_notify is in the engine's output afterwards. The other direction goes on. Does
    /// nothing where none can be sent.
    package mutating func endSending() {
        guard maySend else { return }
        state.insert(.sendingIsEnded)
        ERR_clear_error()
        // The answer says only whether the peer has ended, too.
        _ = SSL_shutdown(ssl)
        ERR_clear_error()
    }
}
