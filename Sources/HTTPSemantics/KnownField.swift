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
        }
    }

    /// Whether the field frames a message: nobody may nominate it in Connection, and no trailer may carry it.
    var isFraming: Bool { self == .contentLength || self == .transferEncoding }

    /// Whether a nomination in Connection is ignored: removing the field would change who is asked, by whom, or
    /// what we say about the request's way.
    var isKeptThoughNominated: Bool {
        switch self {
        case .host, .authorization, .via, .forwarded, .xForwardedFor, .xForwardedProto, .xForwardedHost, .xRequestID:
            true
        case .other, .connection, .contentLength, .transferEncoding, .keepAlive, .proxyConnection, .te, .trailer,
            .upgrade, .http2Settings, .expect, .date, .maxForwards, .proxyAuthorization, .cookie, .userAgent, .referer,
            .contentType:
            false
        }
    }

    /// Whether a look-alike with `_` for `-` is refused, since backends (CGI, WSGI) read both as one name.
    var isProtectedFromLookalikes: Bool {
        switch self {
        case .contentLength, .transferEncoding, .host, .connection, .keepAlive, .proxyConnection, .te, .trailer,
            .upgrade, .expect, .forwarded, .via, .xForwardedFor, .xForwardedProto, .xForwardedHost, .xRequestID,
            .authorization, .proxyAuthorization, .maxForwards:
            true
        case .other, .http2Settings, .date, .cookie, .userAgent, .referer, .contentType:
            false
        }
    }

    /// Whether a trailer section may not have the field (RFC 9110 section 6.5.1): framing, routing, request
    /// modifiers, authentication, and what tells of the message's way.
    var isForbiddenInTrailers: Bool {
        switch self {
        case .contentLength, .transferEncoding, .host, .connection, .te, .trailer, .upgrade, .expect, .maxForwards,
            .authorization, .proxyAuthorization, .cookie, .via, .forwarded, .xForwardedFor, .xForwardedProto,
            .xForwardedHost, .contentType, .http2Settings:
            true
        case .other, .keepAlive, .proxyConnection, .xRequestID, .date, .userAgent, .referer:
            false
        }
    }

    /// Whether a line of the field may have to change, or to go, when the message is passed on.
    func isRewritten(isRequest: Bool) -> Bool {
        switch self {
        case .connection, .keepAlive, .proxyConnection, .te, .upgrade, .http2Settings, .transferEncoding, .via,
            .trailer:
            true
        case .expect, .forwarded, .xForwardedFor, .xForwardedProto, .xForwardedHost, .maxForwards: isRequest
        case .other, .contentLength, .host, .xRequestID, .date, .authorization, .proxyAuthorization, .cookie,
            .userAgent, .referer, .contentType:
            false
        }
    }

    /// Whether the field is for this connection alone and is never passed on as it came.
    public var isHopByHop: Bool {
        switch self {
        case .connection, .keepAlive, .proxyConnection, .te, .upgrade, .http2Settings, .transferEncoding: true
        case .other, .contentLength, .host, .trailer, .expect, .via, .forwarded, .xForwardedFor, .xForwardedProto,
            .xForwardedHost, .xRequestID, .date, .maxForwards, .authorization, .proxyAuthorization, .cookie,
            .userAgent, .referer, .contentType:
            false
        }
    }
}

/// The table of known names. A handle; one for each head scratch.
@frozen @usableFromInline struct KnownFieldTable {
    @frozen @usableFromInline struct Entry {
        @usableFromInline var first: UInt64
        @usableFromInline var middle: UInt64
        @usableFromInline var last: UInt64
        @usableFromInline var length: UInt32
        @usableFromInline var field: KnownField
    }
    @inlinable static var sizeMask: Int { 255 }
    @inlinable static var nameBytesMax: Int { 24 }

    /// Names that no rule is about but that most messages have. To find one here is to know that it is a token
    /// without a look at each byte.
    private static var commonNames: [StaticString] {
        [
            "accept", "accept-encoding", "accept-language", "accept-ranges", "age", "alt-svc", "cache-control",
            "content-disposition", "content-encoding", "content-language", "content-range", "dnt", "etag", "expires",
            "if-modified-since", "if-none-match", "last-modified", "link", "location", "origin", "pragma", "priority",
            "range", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode",
            "sec-fetch-site", "sec-fetch-user", "server", "set-cookie", "traceparent", "tracestate", "vary",
            "x-content-type-options", "x-frame-options", "x-powered-by", "x-requested-with",
        ]
    }

    @usableFromInline let entries: UnsafeMutablePointer<Entry>

    init() {
        entries = .allocate(capacity: Self.sizeMask + 1)
        entries.initialize(
            repeating: Entry(first: 0, middle: 0, last: 0, length: 0, field: .other), count: Self.sizeMask + 1)
        let known = KnownField.allCases.filter { $0 != .other }.map { (name: $0.lowercaseName, field: $0) }
        for (name, field) in known + Self.commonNames.map({ (name: $0, field: .other) }) {
            let words = Self.words(name.utf8Start, count: name.utf8CodeUnitCount, readable: name.utf8CodeUnitCount)
            var index = Self.slot(words, name.utf8CodeUnitCount)
            while entries[index].length != 0 { index = (index + 1) & Self.sizeMask }
            entries[index] = Entry(
                first: words.first, middle: words.middle, last: words.last, length: UInt32(name.utf8CodeUnitCount),
                field: field)
        }
    }

    func destroy() { entries.deallocate() }

    /// The name's first, second and last eight bytes, folded to lower case. Only bytes from 0x40 on are folded, and of
    /// those only letters become letters: no byte that a token may not have, CR before all, is taken for another.
    /// - Parameter readable: how many bytes may be read, at least `count`.
    @inlinable @inline(__always)
    static func words(
        _ name: UnsafePointer<UInt8>, count: Int, readable: Int
    ) -> (first: UInt64, middle: UInt64, last: UInt64) {
        if count >= 8 {
            let raw = UnsafeRawPointer(name)
            let first = folded(raw.loadUnaligned(as: UInt64.self))
            let last = folded((raw + count - 8).loadUnaligned(as: UInt64.self))
            let middle = count > 16 ? folded((raw + 8).loadUnaligned(as: UInt64.self)) : 0
            return (first, middle, last)
        }
        if readable >= 8 {
            let mask: UInt64 = (1 << UInt64(count * 8)) - 1
            return (folded(UnsafeRawPointer(name).loadUnaligned(as: UInt64.self) & mask), 0, 0)
        }
        var word: UInt64 = 0
        for index in 0..<count { word |= UInt64(name[index]) << UInt64(index * 8) }
        return (folded(word), 0, 0)
    }

    @inlinable @inline(__always)
    static func folded(_ word: UInt64) -> UInt64 { word | (word & 0x4040_4040_4040_4040) >> 1 }

    @inlinable @inline(__always)
    static func slot(_ words: (first: UInt64, middle: UInt64, last: UInt64), _ count: Int) -> Int {
        let mixed = (words.first ^ (words.last &* 0x9E37_79B9_7F4A_7C15)) &* 0xD6E8_FEB8_6659_FD93
        return Int(truncatingIfNeeded: (mixed >> 48) &+ UInt64(count)) & sizeMask
    }

    /// Finds a name; nil if it is not in the table.
    @inlinable @inline(__always)
    func find(_ name: UnsafePointer<UInt8>, count: Int, readable: Int) -> KnownField? {
        if count > Self.nameBytesMax { return nil }
        let words = Self.words(name, count: count, readable: readable)
        var index = Self.slot(words, count)
        while entries[index].length != 0 {
            let entry = entries + index
            if entry.pointee.length == UInt32(count), entry.pointee.first == words.first,
                entry.pointee.last == words.last, entry.pointee.middle == words.middle
            {
                return entry.pointee.field
            }
            index = (index + 1) & Self.sizeMask
        }
        return nil
    }
}
