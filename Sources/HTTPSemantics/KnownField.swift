// The fields that the proxy itself has to know, found by words instead of by bytes: a name is folded to lower case
// eight bytes at a time and looked up by hash in a small table that lives beside the head scratch.

import Bytes

/// A field that some rule of the proxy is about.
@frozen public enum KnownField: UInt8, Sendable, CaseIterable {
    /// Any other field.
    case other
    /// RFC 9110 section 7.6.1
    case connection
    /// RFC 9110 section 8.6
    case contentLength
    /// RFC 9112 section 6.1
    case transferEncoding
    /// RFC 9110 section 7.2
    case host
    /// RFC 2068 section 19.7.1; hop-by-hop
    case keepAlive
    /// Never standardised; hop-by-hop
    case proxyConnection
    /// RFC 9110 section 10.1.4
    case te
    /// RFC 9110 section 6.6.2
    case trailer
    /// RFC 9110 section 7.8
    case upgrade
    /// RFC 7540 section 3.2.1; hop-by-hop
    case http2Settings
    /// RFC 9110 section 10.1.1
    case expect
    /// RFC 9110 section 7.6.3
    case via
    /// RFC 7239
    case forwarded
    /// The forerunner of Forwarded's `for`
    case xForwardedFor
    /// The forerunner of Forwarded's `proto`
    case xForwardedProto
    /// The forerunner of Forwarded's `host`
    case xForwardedHost
    /// The request's identity in logs
    case xRequestID
    /// RFC 9110 section 6.6.1
    case date
    /// RFC 9110 section 7.6.2
    case maxForwards
    /// RFC 9110 section 11.6.2
    case authorization
    /// RFC 9110 section 11.7.2
    case proxyAuthorization
    /// RFC 6265
    case cookie
    /// RFC 9110 section 10.1.5, for the log
    case userAgent
    /// RFC 9110 section 10.1.3, for the log
    case referer
    /// RFC 9110 section 8.3
    case contentType
    /// RFC 9440
    case clientCert
    /// RFC 9440
    case clientCertChain
    /// W3C Trace Context
    case traceparent
    /// W3C Trace Context
    case tracestate
    /// What a call over gRPC came to, for the log
    case grpcStatus

    /// The name, lower case.
    public var lowercaseName: StaticString {
        switch self {
        case .other: ""
        case .connection: "connection"
        case .contentLength: "content-length"
        case .transferEncoding: "transfer-encoding"
        case .host: "host"
        case .keepAlive: "keep-alive"
        case .proxyConnection: "proxy-connection"
        case .te: "te"
        case .trailer: "trailer"
        case .upgrade: "upgrade"
        case .http2Settings: "http2-settings"
        case .expect: "expect"
        case .via: "via"
        case .forwarded: "forwarded"
        case .xForwardedFor: "x-forwarded-for"
        case .xForwardedProto: "x-forwarded-proto"
        case .xForwardedHost: "x-forwarded-host"
        case .xRequestID: "x-request-id"
        case .date: "date"
        case .maxForwards: "max-forwards"
        case .authorization: "authorization"
        case .proxyAuthorization: "proxy-authorization"
        case .cookie: "cookie"
        case .userAgent: "user-agent"
        case .referer: "referer"
        case .contentType: "content-type"
        case .clientCert: "client-cert"
        case .clientCertChain: "client-cert-chain"
        case .traceparent: "traceparent"
        case .tracestate: "tracestate"
        case .grpcStatus: "grpc-status"
        }
    }

    /// Whether the field frames a message: nobody may nominate it in Connection, and no trailer may carry it.
    var isFraming: Bool { self == .contentLength || self == .transferEncoding }

    /// Whether a nomination in Connection is ignored: removing the field would change who is asked, by whom, or
    /// what we say about the request's way.
    var isKeptThoughNominated: Bool {
        switch self {
        case .host, .authorization, .via, .forwarded, .xForwardedFor, .xForwardedProto, .xForwardedHost, .xRequestID,
            .clientCert, .clientCertChain:
            true
        case .other, .connection, .contentLength, .transferEncoding, .keepAlive, .proxyConnection, .te, .trailer,
            .upgrade, .http2Settings, .expect, .date, .maxForwards, .proxyAuthorization, .cookie, .userAgent, .referer,
            .contentType, .traceparent, .tracestate, .grpcStatus:
            false
        }
    }

    /// Whether a look-alike with `_` for `-` is refused, since backends (CGI, WSGI) read both as one name.
    var isProtectedFromLookalikes: Bool {
        switch self {
        case .contentLength, .transferEncoding, .host, .connection, .keepAlive, .proxyConnection, .te, .trailer,
            .upgrade, .expect, .forwarded, .via, .xForwardedFor, .xForwardedProto, .xForwardedHost, .xRequestID,
            .authorization, .proxyAuthorization, .maxForwards, .clientCert, .clientCertChain:
            true
        case .other, .http2Settings, .date, .cookie, .userAgent, .referer, .contentType, .traceparent, .tracestate,
            .grpcStatus:
            false
        }
    }

    /// Whether a trailer section may not have the field (RFC 9110 section 6.5.1): framing, routing, request
    /// modifiers, authentication, and what tells of the message's way.
    var isForbiddenInTrailers: Bool {
        switch self {
        case .contentLength, .transferEncoding, .host, .connection, .te, .trailer, .upgrade, .expect, .maxForwards,
            .authorization, .proxyAuthorization, .cookie, .via, .forwarded, .xForwardedFor, .xForwardedProto,
            .xForwardedHost, .contentType, .http2Settings, .clientCert, .clientCertChain:
            true
        case .other, .keepAlive, .proxyConnection, .xRequestID, .date, .userAgent, .referer, .traceparent, .tracestate,
            .grpcStatus:
            false
        }
    }

    /// Whether a line of the field says something that has to be taken note of when it is parsed.
    @inlinable @inline(__always) var isNoted: Bool {
        let unnoted: UInt64 =
            1 << UInt64(KnownField.other.rawValue) | 1 << UInt64(KnownField.authorization.rawValue)
            | 1 << UInt64(KnownField.proxyAuthorization.rawValue) | 1 << UInt64(KnownField.cookie.rawValue)
            | 1 << UInt64(KnownField.userAgent.rawValue) | 1 << UInt64(KnownField.referer.rawValue)
            | 1 << UInt64(KnownField.contentType.rawValue) | 1 << UInt64(KnownField.traceparent.rawValue)
            | 1 << UInt64(KnownField.tracestate.rawValue)
        return unnoted &>> UInt64(rawValue) & 1 == 0
    }

    /// Whether the field is for this connection alone and is never passed on as it came.
    public var isHopByHop: Bool {
        switch self {
        case .connection, .keepAlive, .proxyConnection, .te, .upgrade, .http2Settings, .transferEncoding: true
        case .other, .contentLength, .host, .trailer, .expect, .via, .forwarded, .xForwardedFor, .xForwardedProto,
            .xForwardedHost, .xRequestID, .date, .maxForwards, .authorization, .proxyAuthorization, .cookie,
            .userAgent, .referer, .contentType, .clientCert, .clientCertChain, .traceparent, .tracestate, .grpcStatus:
            false
        }
    }
}

/// The table of known names: a perfect hash, so that a look-up is one comparison. A handle; one for each head scratch.
@frozen @usableFromInline struct KnownFieldTable {
    @frozen @usableFromInline struct Entry {
        @usableFromInline var words: Words
        @usableFromInline var length: UInt32
        @usableFromInline var field: KnownField
    }

    /// A name's first, second and last eight bytes, folded to lower case. A shorter name has the first alone.
    @frozen @usableFromInline struct Words {
        @usableFromInline var first: UInt64
        @usableFromInline var middle: UInt64
        @usableFromInline var last: UInt64

        @inlinable @inline(__always) init(first: UInt64, middle: UInt64, last: UInt64) {
            self.first = first
            self.middle = middle
            self.last = last
        }
    }

    @inlinable static var slotBits: UInt64 { 10 }
    @inlinable static var nameBytesMax: Int { 24 }

    /// Names that no rule is about but that most messages have. To find one here is to know that it is a token
    /// without a look at each byte.
    private static var commonNames: [StaticString] {
        [
            "accept", "accept-encoding", "accept-language", "accept-ranges", "age", "alt-svc", "cache-control",
            "content-disposition", "content-encoding", "content-language", "content-range", "dnt", "etag", "expires",
            "if-modified-since", "if-none-match", "last-modified", "link", "location", "origin", "pragma", "priority",
            "range", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode",
            "sec-fetch-site", "sec-fetch-user", "server", "set-cookie", "vary",
            "x-content-type-options", "x-frame-options", "x-powered-by", "x-requested-with",
        ]
    }

    @usableFromInline let entries: UnsafeMutablePointer<Entry>
    @usableFromInline let multiplier: UInt64

    init() {
        let known = KnownField.allCases.filter { $0 != .other }.map { (name: $0.lowercaseName, field: $0) }
        let named = (known + Self.commonNames.map { (name: $0, field: .other) }).map { name, field in
            Entry(
                words: Self.words(name.utf8Start, count: name.utf8CodeUnitCount, readable: name.utf8CodeUnitCount),
                length: UInt32(name.utf8CodeUnitCount), field: field)
        }
        let slotCount = 1 << Int(Self.slotBits)
        entries = .allocate(capacity: slotCount)
        // Some odd number spreads these names without a collision; it is found after few tries.
        var candidate: UInt64 = 0x9E37_79B9_7F4A_7C15
        while Set(named.map { Self.slot($0.words, candidate) }).count < named.count {
            candidate = (candidate &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407) | 1
        }
        multiplier = candidate
        // No name has this length; 0 would be found for an empty one.
        let empty = Entry(words: Words(first: 0, middle: 0, last: 0), length: .max, field: .other)
        entries.initialize(repeating: empty, count: slotCount)
        for entry in named { entries[Self.slot(entry.words, candidate)] = entry }
    }

    func destroy() { entries.deallocate() }

    /// - Parameter readable: how many bytes may be read, at least `count`.
    @inlinable @inline(__always)
    static func words(_ name: UnsafePointer<UInt8>, count: Int, readable: Int) -> Words {
        let raw = UnsafeRawPointer(name)
        if count >= 8 {
            return Words(
                first: folded(raw.loadUnaligned(as: UInt64.self)),
                middle: count > 16 ? folded((raw + 8).loadUnaligned(as: UInt64.self)) : 0,
                last: folded((raw + (count &- 8)).loadUnaligned(as: UInt64.self)))
        }
        if readable >= 8 {
            let mask: UInt64 = (1 &<< UInt64(truncatingIfNeeded: count &* 8)) &- 1
            return Words(first: folded(raw.loadUnaligned(as: UInt64.self) & mask), middle: 0, last: 0)
        }
        var word: UInt64 = 0
        for index in 0..<count { word |= UInt64(name[index]) << UInt64(index * 8) }
        return Words(first: folded(word), middle: 0, last: 0)
    }

    /// Only bytes from 0x40 on are folded, and of those only letters become letters: no byte that a token may not
    /// have, CR before all, is taken for another.
    @inlinable @inline(__always)
    static func folded(_ word: UInt64) -> UInt64 { word | (word & 0x4040_4040_4040_4040) &>> 1 }

    @inlinable @inline(__always)
    static func slot(_ words: Words, _ multiplier: UInt64) -> Int {
        let mixed = (words.first ^ (words.last &* 31)) &* multiplier
        return Int(truncatingIfNeeded: mixed &>> (64 - slotBits))
    }

    /// Finds a name; nil if it is not in the table.
    @inlinable @inline(__always)
    func find(_ name: UnsafePointer<UInt8>, count: Int, readable: Int) -> KnownField? {
        if count > Self.nameBytesMax { return nil }
        let words = Self.words(name, count: count, readable: readable)
        let entry = entries + Self.slot(words, multiplier)
        let difference =
            (entry.pointee.words.first ^ words.first) | (entry.pointee.words.middle ^ words.middle)
            | (entry.pointee.words.last ^ words.last) | UInt64(entry.pointee.length ^ UInt32(truncatingIfNeeded: count))
        return difference == 0 ? entry.pointee.field : nil
    }
}
