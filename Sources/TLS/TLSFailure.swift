// Why a session failed: a small value that decides the answer and the log's line, and a text that is made only when
// somebody asks for it. OpenSSL's error queue belongs to the thread: it is cleared before and read after every call.

internal import COpenSSL

/// Why a TLS session failed. Trivial.
@frozen public struct TLSFailure: Error, Equatable, Sendable {
    /// What kind of failure it is.
    @frozen public enum Kind: UInt8, Sendable, CaseIterable {
        /// The client speaks HTTP without TLS. No alert waits to be sent: a readable answer can be.
        case plainHTTP
        /// What came is not TLS.
        case notTLS
        /// No version of TLS suits both sides.
        case noSharedVersion
        /// No cipher suite, group or signature algorithm suits both sides.
        case noSharedCipher
        /// No application protocol suits both sides (RFC 7301).
        case noSharedProtocol
        /// The peer had to send a certificate and sent none.
        case certificateMissing
        /// The peer's certificate leads to no authority that we trust.
        case certificateUntrusted
        /// A certificate of the peer's chain is not valid yet, or no longer.
        case certificateExpired
        /// The peer's certificate is for another name or address.
        case certificateNameMismatch
        /// The peer's certificate is wrong in another way.
        case certificateInvalid
        /// The peer ended the session by an alert; `alert` says which.
        case alertReceived
        /// The peer ended the connection within the handshake.
        case closedInHandshake
        /// A record that is too long, or that was changed on the way.
        case badRecord
        /// Any other breach of the protocol.
        case protocolError
        /// Our own trouble, memory for instance.
        case internalError
    }

    /// What kind of failure it is.
    public let kind: Kind
    /// The alert that the peer sent (RFC 8446 section 6), 0 if none.
    public let alert: UInt8
    /// What the verification of the peer's certificate found, as OpenSSL numbers it; 0 if nothing.
    public let verification: Int32
    /// OpenSSL's code of the error; 0 if there is none.
    public let code: UInt

    init(_ kind: Kind, alert: UInt8 = 0, verification: Int32 = 0, code: UInt = 0) {
        self.kind = kind
        self.alert = alert
        self.verification = verification
        self.code = code
    }
}

extension TLSFailure {
    private static let alertReasonOffset: Int32 = 1_000

    /// Reads the thread's error queue after a call that failed, and empties it.
    static func taken(from ssl: OpaquePointer, looksLikeText: Bool) -> TLSFailure {
        let code = OpenSSLErrors.takeFirst(ofLibrary: ERR_LIB_SSL)
        guard code != 0 else {
            return TLSFailure(.internalError)
        }
        let verification = Int32(truncatingIfNeeded: SSL_get_verify_result(ssl))
        let reason = ERR_GET_REASON(code)
        guard OpenSSLErrors.library(of: code) == ERR_LIB_SSL else { return TLSFailure(.protocolError, code: code) }
        if reason > alertReasonOffset, reason < alertReasonOffset + 256 {
            return TLSFailure(.alertReceived, alert: UInt8(reason - alertReasonOffset), code: code)
        }
        let kind = kind(of: reason, verification: verification, looksLikeText: looksLikeText)
        let isAboutCertificate = reason == SSL_R_CERTIFICATE_VERIFY_FAILED
        return TLSFailure(kind, verification: isAboutCertificate ? verification : 0, code: code)
    }

    private static func kind(of reason: Int32, verification: Int32, looksLikeText: Bool) -> Kind {
        switch reason {
        case SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST: return .plainHTTP
        case SSL_R_WRONG_VERSION_NUMBER, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_UNEXPECTED_MESSAGE, SSL_R_BAD_RECORD_TYPE,
            SSL_R_UNEXPECTED_RECORD, SSL_R_UNKNOWN_PROTOCOL, SSL_R_LENGTH_TOO_SHORT, SSL_R_RECORD_LENGTH_MISMATCH:
            if looksLikeText { return .plainHTTP }
            if reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_UNKNOWN_PROTOCOL { return .notTLS }
            return reason == SSL_R_PACKET_LENGTH_TOO_LONG ? .badRecord : .protocolError
        case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_VERSION_TOO_LOW, SSL_R_NO_PROTOCOLS_AVAILABLE,
            SSL_R_WRONG_SSL_VERSION, SSL_R_INAPPROPRIATE_FALLBACK:
            return .noSharedVersion
        case SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE,
            SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, SSL_R_NO_CIPHERS_AVAILABLE:
            return .noSharedCipher
        case SSL_R_NO_APPLICATION_PROTOCOL: return .noSharedProtocol
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: return .certificateMissing
        case SSL_R_CERTIFICATE_VERIFY_FAILED: return kind(ofVerification: verification)
        case SSL_R_EE_KEY_TOO_SMALL, SSL_R_CA_KEY_TOO_SMALL, SSL_R_CA_MD_TOO_WEAK, SSL_R_DH_KEY_TOO_SMALL,
            SSL_R_WRONG_CERTIFICATE_TYPE, SSL_R_WRONG_SIGNATURE_TYPE:
            return .certificateInvalid
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, SSL_R_ENCRYPTED_LENGTH_TOO_LONG, SSL_R_DATA_LENGTH_TOO_LONG,
            SSL_R_BLOCK_CIPHER_PAD_IS_WRONG:
            return .badRecord
        case COpenSSL_ERR_R_MALLOC_FAILURE, COpenSSL_ERR_R_INTERNAL_ERROR: return .internalError
        // Not an enumeration of ours: OpenSSL has three hundred reasons.
        default: return .protocolError
        }
    }

    private static func kind(ofVerification result: Int32) -> Kind {
        switch result {
        case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID: return .certificateExpired
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH: return .certificateNameMismatch
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
            X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED:
            return .certificateUntrusted
        // OpenSSL's numbers again.
        default: return .certificateInvalid
        }
    }
}

extension TLSFailure: CustomStringConvertible {
    /// One line for the error log. Allocates.
    public var description: String {
        var text: String
        switch kind {
        case .plainHTTP: return "plain HTTP was sent to a TLS port"
        case .notTLS: text = "what the peer sends is not TLS"
        case .noSharedVersion: text = "no TLS version in common"
        case .noSharedCipher: text = "no cipher suite, group or signature algorithm in common"
        case .noSharedProtocol: text = "no application protocol in common (ALPN)"
        case .certificateMissing: text = "the peer sent no certificate"
        case .certificateUntrusted: text = "the peer's certificate is not trusted"
        case .certificateExpired: text = "the peer's certificate is expired or not valid yet"
        case .certificateNameMismatch: text = "the peer's certificate is for another name"
        case .certificateInvalid: text = "the peer's certificate is invalid"
        case .alertReceived: text = "the peer sent the alert \(alertName)"
        case .closedInHandshake: return "the peer closed the connection within the handshake"
        case .badRecord: text = "the peer sent a bad record"
        case .protocolError: text = "the peer broke the protocol"
        case .internalError: text = "TLS failed here"
        }
        if verification != 0, let reason = X509_verify_cert_error_string(Int(verification)) {
            text += ": " + String(cString: reason)
        } else if alert == 0, code != 0, let reason = ERR_reason_error_string(code) {
            text += ": " + String(cString: reason)
        }
        return text
    }

    /// The received alert's name, such as `bad certificate`; for Proxy-Status. Allocates.
    public var alertName: String {
        guard alert != 0, let name = SSL_alert_desc_string_long(Int32(alert)) else { return "" }
        return String(cString: name)
    }
}

/// The library as a whole.
enum OpenSSLLibrary {
    /// Called before the first use. OpenSSL would otherwise tidy itself away at the process's exit, while other threads
    /// are still using it.
    static func start() { _ = isStarted }

    private static let isStarted = OPENSSL_init_crypto(UInt64(OPENSSL_INIT_NO_ATEXIT), nil) == 1
}

/// The thread's error queue.
enum OpenSSLErrors {
    static func library(of code: UInt) -> Int32 { ERR_GET_LIB(code) }

    /// Empties the queue.
    /// - Returns: the first error of a library, or else the first of all, or 0.
    static func takeFirst(ofLibrary library: Int32) -> UInt {
        var first: UInt = 0
        var chosen: UInt = 0
        while true {
            let code = ERR_get_error()
            if code == 0 { return chosen != 0 ? chosen : first }
            if first == 0 { first = code }
            if chosen == 0, self.library(of: code) == library { chosen = code }
        }
    }

    /// Empties the queue.
    /// - Returns: the newest error as a text.
    static func takeText() -> String {
        let code = ERR_peek_last_error()
        ERR_clear_error()
        guard code != 0, let reason = ERR_reason_error_string(code) else { return "unknown error" }
        return String(cString: reason)
    }
}
