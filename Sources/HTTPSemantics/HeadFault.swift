// What can be wrong with a message. A peer's mistake is a value; whose mistake it was decides the status.

/// Why a message was refused. Small and without text of the peer's.
public enum HeadFault: UInt8, Error, Sendable, CaseIterable {
    /// The start line has no method, target or version where one must be, or a stray byte.
    case startLine
    /// The method is no token.
    case method
    /// The target has bytes that RFC 3986 does not allow, or a form that does not go with the method.
    case target
    /// The version is not HTTP/1.0 or HTTP/1.1.
    case version
    /// The status is not three digits from 100 on.
    case status
    /// The target is longer than `request_target_max`.
    case targetTooLong
    /// The head is longer than `request_head_max` or `response_head_max`.
    case headTooLong
    /// There are more fields than `fields_max`.
    case tooManyFields
    /// A line ends without CRLF, or a CR stands alone.
    case lineEnd
    /// A field name is empty or has a byte that no token has; white space before the colon among them.
    case fieldName
    /// A field value has a control byte.
    case fieldValue
    /// A line begins with white space (obs-fold, RFC 9112 section 5.2).
    case folding
    /// A name reads like a protected one when `_` is taken for `-`.
    case lookalikeName
    /// Host is missing.
    case hostMissing
    /// There are two Host fields.
    case hostTwice
    /// Host is no host with an optional port, or it differs from the target's authority.
    case host
    /// Content-Length is no number, or there are two that differ.
    case contentLength
    /// Transfer-Encoding does not end in one `chunked`, or stands in HTTP/1.0.
    case transferEncoding
    /// Transfer-Encoding names a coding besides `chunked`.
    case transferCoding
    /// Both Content-Length and Transfer-Encoding.
    case framingConflict
    /// Connection nominates a field that frames the message.
    case nomination
    /// An expectation other than 100-continue.
    case expectation
    /// A chunk's size, its extension or what follows its data is malformed or too long.
    case chunk
    /// A trailer section that is malformed, too long, or has a field that may not be there.
    case trailers
    /// Max-Forwards is no number.
    case maxForwards
    /// CONNECT with content.
    case connectContent
    /// HTTP in clear, where TLS was expected.
    case plainHTTP
    /// A field section of HTTP/2 that breaks its rules (RFC 9113 section 8.1.1).
    case section
    /// What a balancer says of its client before anything else (PROXY protocol) is malformed, or missing.
    case proxyHeader

    /// The status for a client whose request has the fault (RFC 9110 section 15, RFC 9112 section 3, RFC 6585).
    public var requestStatus: UInt16 {
        switch self {
        case .targetTooLong: 414
        case .headTooLong, .tooManyFields: 431
        case .version: 505
        case .transferCoding: 501
        case .expectation: 417
        case .startLine, .method, .target, .status, .lineEnd, .fieldName, .fieldValue, .folding, .lookalikeName,
            .hostMissing, .hostTwice, .host, .contentLength, .transferEncoding, .framingConflict, .nomination, .chunk,
            .trailers, .maxForwards, .connectContent, .plainHTTP, .section,
            .proxyHeader:
            400
        }
    }

    /// One sentence for people, without a full stop.
    public var explanation: StaticString {
        switch self {
        case .startLine: "the start line is malformed"
        case .method: "the method is not a token"
        case .target: "the request target is malformed"
        case .version: "the HTTP version is not supported"
        case .status: "the status code is malformed"
        case .targetTooLong: "the request target is too long"
        case .headTooLong: "the head is too long"
        case .tooManyFields: "there are too many fields"
        case .lineEnd: "a line does not end in CRLF"
        case .fieldName: "a field name is malformed"
        case .fieldValue: "a field value has a control character"
        case .folding: "a field line is folded"
        case .lookalikeName: "a field name imitates a protected one"
        case .hostMissing: "Host is missing"
        case .hostTwice: "there is more than one Host"
        case .host: "Host is malformed or differs from the request target"
        case .contentLength: "Content-Length is malformed"
        case .transferEncoding: "Transfer-Encoding is malformed"
        case .transferCoding: "the transfer coding is not supported"
        case .framingConflict: "Content-Length and Transfer-Encoding exclude each other"
        case .nomination: "Connection names a field that frames the message"
        case .expectation: "the expectation is not supported"
        case .chunk: "the chunked coding is malformed"
        case .trailers: "the trailer section is malformed"
        case .maxForwards: "Max-Forwards is malformed"
        case .connectContent: "CONNECT has no content"
        case .proxyHeader: "the PROXY header is malformed or missing"
        case .section: "the field section is malformed"
        case .plainHTTP: "HTTP in clear was sent to a port that speaks TLS; use https"
        }
    }
}
