// The head of a message as a table of ranges over its bytes, filled by a codec (HTTP/1 today) and read by who
// routes, rewrites and logs. It lives in the worker's scratch and is valid within one turn of the loop.

import Bytes

/// A range of bytes, relative to the head's first byte.
@frozen public struct ByteRange: Sendable, Equatable {
    /// Where it begins.
    public var start: UInt32
    /// How many bytes it has.
    public var count: UInt32

    /// A range.
    @inlinable public init(start: Int, count: Int) {
        self.start = UInt32(truncatingIfNeeded: start)
        self.count = UInt32(truncatingIfNeeded: count)
    }

    /// Nothing.
    @inlinable public init() {
        start = 0
        count = 0
    }

    /// Where it ends.
    @inlinable public var end: Int { Int(start) + Int(count) }
    /// Whether it has no byte.
    @inlinable public var isEmpty: Bool { count == 0 }
}

/// One field line.
@frozen public struct FieldLine: Sendable {
    /// The name.
    public var name: ByteRange
    /// The value, without the white space around it.
    public var value: ByteRange
    /// Where the line ends: behind its CRLF. The line begins with its name.
    public var lineEnd: UInt32
    /// Which field it is, if the proxy has to know it.
    public var field: KnownField
    /// Whether the line is not passed on: hop-by-hop, or nominated by Connection.
    public var isDropped: Bool

    /// A line.
    @inlinable public init(name: ByteRange, value: ByteRange, lineEnd: UInt32, field: KnownField, isDropped: Bool) {
        self.name = name
        self.value = value
        self.lineEnd = lineEnd
        self.field = field
        self.isDropped = isDropped
    }
}

/// Request methods that a rule of the proxy is about (RFC 9110 section 9).
public enum Method: UInt8, Sendable {
    /// Any other method.
    case other
    /// GET
    case get
    /// HEAD
    case head
    /// POST
    case post
    /// PUT
    case put
    /// DELETE
    case delete
    /// OPTIONS
    case options
    /// TRACE
    case trace
    /// CONNECT
    case connect

    /// The method of that name, which is case-sensitive.
    public init(name: UnsafeBufferPointer<UInt8>) {
        func matches(_ text: StaticString) -> Bool {
            for index in 0..<name.count where name[index] != text.utf8Start[index] { return false }
            return true
        }
        self = .other
        guard let first = name.first else { return }
        switch (name.count, first) {
        case (3, UInt8(ascii: "G")): if matches("GET") { self = .get }
        case (3, UInt8(ascii: "P")): if matches("PUT") { self = .put }
        case (4, UInt8(ascii: "H")): if matches("HEAD") { self = .head }
        case (4, UInt8(ascii: "P")): if matches("POST") { self = .post }
        case (5, UInt8(ascii: "T")): if matches("TRACE") { self = .trace }
        case (6, UInt8(ascii: "D")): if matches("DELETE") { self = .delete }
        case (7, UInt8(ascii: "O")): if matches("OPTIONS") { self = .options }
        case (7, UInt8(ascii: "C")): if matches("CONNECT") { self = .connect }
        default: break
        }
    }

    /// RFC 9110 section 9.2.2. Methods we do not know are not.
    public var isIdempotent: Bool {
        switch self {
        case .get, .head, .put, .delete, .options, .trace: true
        case .other, .post, .connect: false
        }
    }
}

/// How a message's content is delimited (RFC 9112 section 6).
public enum Framing: UInt8, Sendable {
    /// There is none.
    case none
    /// By Content-Length.
    case length
    /// By chunked transfer coding.
    case chunked
    /// By the end of the connection; responses only.
    case untilClose

    /// Whether nobody knows beforehand how long the content will be.
    @inlinable public var isOpenEnded: Bool { rawValue >= Framing.chunked.rawValue }
}

/// What a request's Upgrade asks for.
public enum RequestedUpgrade: UInt8, Sendable {
    /// Nothing that could be passed on.
    case none
    /// WebSocket alone (RFC 6455).
    case webSocket
    /// Another protocol, or a choice of several.
    case other
}

/// Facts about a head that rules ask for.
@frozen public struct HeadFacts: OptionSet, Sendable {
    /// The bits.
    public let rawValue: UInt32
    /// From bits.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// HTTP/1.0.
    public static var isHTTP10: HeadFacts { HeadFacts(rawValue: 1 << 0) }
    /// `Connection: close`
    public static var connectionClose: HeadFacts { HeadFacts(rawValue: 1 << 1) }
    /// `Connection: keep-alive`
    public static var connectionKeepAlive: HeadFacts { HeadFacts(rawValue: 1 << 2) }
    /// `Connection: upgrade`
    public static var connectionUpgrade: HeadFacts { HeadFacts(rawValue: 1 << 3) }
    /// An Upgrade field, or the method CONNECT.
    public static var mayOpenTunnel: HeadFacts { HeadFacts(rawValue: 1 << 4) }
    /// `Expect: 100-continue`
    public static var expectsContinue: HeadFacts { HeadFacts(rawValue: 1 << 5) }
    /// `TE: trailers`
    public static var acceptsTrailers: HeadFacts { HeadFacts(rawValue: 1 << 6) }
    /// A Host field.
    public static var host: HeadFacts { HeadFacts(rawValue: 1 << 7) }
    /// A Date field.
    public static var date: HeadFacts { HeadFacts(rawValue: 1 << 8) }
    /// An X-Request-Id field with a value: it is passed on.
    public static var requestID: HeadFacts { HeadFacts(rawValue: 1 << 9) }
    /// The target is in absolute-form (RFC 9112 section 3.2.2).
    public static var absoluteForm: HeadFacts { HeadFacts(rawValue: 1 << 10) }
    /// Content-Length was given (also where there is no content, as in answers to HEAD).
    public static var contentLength: HeadFacts { HeadFacts(rawValue: 1 << 11) }
    /// Transfer-Encoding was given.
    public static var transferEncoding: HeadFacts { HeadFacts(rawValue: 1 << 12) }
    /// Max-Forwards was given.
    public static var maxForwards: HeadFacts { HeadFacts(rawValue: 1 << 13) }
    /// `Keep-Alive: timeout=N`
    public static var keepAliveTimeout: HeadFacts { HeadFacts(rawValue: 1 << 14) }
    /// Connection names more than close, keep-alive, upgrade and te.
    public static var nominates: HeadFacts { HeadFacts(rawValue: 1 << 15) }
    /// A Via field.
    public static var via: HeadFacts { HeadFacts(rawValue: 1 << 16) }
    /// An X-Forwarded-For or Forwarded field.
    public static var forwarding: HeadFacts { HeadFacts(rawValue: 1 << 17) }
    /// A field that may not pass on as it came, or not always: whoever rewrites has to look at each line.
    public static var needsRewriting: HeadFacts { HeadFacts(rawValue: 1 << 18) }
    /// The target is in absolute-form with the scheme `https`.
    public static var schemeIsHTTPS: HeadFacts { HeadFacts(rawValue: 1 << 20) }
    /// The authority has a byte that no token has.
    public static var authorityIsNoToken: HeadFacts { HeadFacts(rawValue: 1 << 19) }
    /// The message came in HTTP/2; its bytes are laid out as HTTP/1.1 all the same.
    public static var isHTTP2: HeadFacts { HeadFacts(rawValue: 1 << 21) }
    /// Nothing follows the head: the message ended with it, whatever its framing says.
    public static var endsMessage: HeadFacts { HeadFacts(rawValue: 1 << 22) }
}

/// Bounds of one head.
public struct HeadLimits: Sendable {
    /// The start line and the field section, or a trailer section, in bytes.
    public var headBytesMax: Int
    /// Field lines.
    public var fieldsMax: Int
    /// The request target in bytes.
    public var targetBytesMax: Int

    /// Bounds.
    public init(headBytesMax: Int, fieldsMax: Int, targetBytesMax: Int) {
        self.headBytesMax = headBytesMax
        self.fieldsMax = fieldsMax
        self.targetBytesMax = targetBytesMax
    }
}

/// The scratch. A handle: copying it copies the reference. One for each worker.
@frozen public struct Head {
    /// What a codec fills in.
    public struct Storage {
        /// The head's first byte.
        public var bytes: UnsafePointer<UInt8>
        /// How many bytes the head has, with the empty line at its end.
        public var byteCount: Int
        /// Requests: the method's bytes.
        public var methodName: ByteRange
        /// Requests: the method.
        public var method: Method
        /// Requests: the target's bytes as received.
        public var target: ByteRange
        /// Requests: the target's path with its query, as it goes up: origin-form or `*`. Empty: `/` is meant.
        public var originForm: ByteRange
        /// Requests: host and port that are asked for, from an absolute-form target or from Host.
        public var authority: ByteRange
        /// Responses: the status.
        public var status: UInt16
        /// Responses: the reason phrase.
        public var reason: ByteRange
        /// Facts.
        public var facts: HeadFacts
        /// How the content is delimited.
        public var framing: Framing
        /// The declared length.
        public var contentLength: UInt64
        /// Max-Forwards.
        public var maxForwards: UInt32
        /// `Keep-Alive: timeout=N`.
        public var keepAliveTimeoutSeconds: UInt32
        /// `grpc-status`; negative if there is none.
        public var grpcStatus: Int8
        /// Field lines in use.
        public var fieldCount: Int
        /// The field lines.
        public fileprivate(set) var fields: UnsafeMutablePointer<FieldLine>
        /// How many lines there is room for.
        public fileprivate(set) var fieldsCapacity: Int
        @usableFromInline var knownFields: KnownFieldTable
        @usableFromInline var classes: UnsafeMutablePointer<UInt8>
    }

    /// What a codec fills in. The one word that a head is passed around as.
    public let storage: UnsafeMutablePointer<Storage>
    /// The field lines.
    @inlinable public var fields: UnsafeMutablePointer<FieldLine> { storage.pointee.fields }
    /// How many lines there is room for.
    @inlinable public var fieldsCapacity: Int { storage.pointee.fieldsCapacity }
    @inlinable var knownFields: KnownFieldTable { storage.pointee.knownFields }
    @inlinable var classes: UnsafeMutablePointer<UInt8> { storage.pointee.classes }

    @inlinable static var isTokenByte: UInt8 { 1 }
    @inlinable static var isUnderscore: UInt8 { 2 }
    @inlinable static var isHostByte: UInt8 { 4 }

    /// An empty scratch.
    public init(fieldsCapacity: Int) {
        let classes = UnsafeMutablePointer<UInt8>.allocate(capacity: 256)
        classes.initialize(repeating: 0, count: 256)
        for byte in UInt8.min...UInt8.max where Head.isToken(byte) { classes[Int(byte)] |= Head.isTokenByte }
        // RFC 3986 section 3.2.2: reg-name, and the colon before a port; brackets are judged apart.
        for byte in UInt8.min...UInt8.max where Head.isRegisteredNameByte(byte) {
            classes[Int(byte)] |= Head.isHostByte
        }
        classes[Int(UInt8(ascii: "_"))] |= Head.isUnderscore
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                bytes: UnsafePointer(classes), byteCount: 0, methodName: ByteRange(), method: .other,
                target: ByteRange(), originForm: ByteRange(), authority: ByteRange(), status: 0, reason: ByteRange(),
                facts: [], framing: .none, contentLength: 0, maxForwards: 0, keepAliveTimeoutSeconds: 0, grpcStatus: -1,
                fieldCount: 0,
                fields: .allocate(capacity: fieldsCapacity), fieldsCapacity: fieldsCapacity,
                knownFields: KnownFieldTable(), classes: classes))
    }

    /// Frees the scratch.
    public func destroy() {
        fields.deallocate()
        knownFields.destroy()
        classes.deallocate()
        storage.deallocate()
    }

    /// RFC 9110 section 5.6.2.
    public static func isToken(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
    }

    private static func isRegisteredNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: "-._~!$&'()*+,;=%".utf8.contains(byte)
        }
    }

    /// The bytes of a range.
    @inlinable public func bytes(_ range: ByteRange) -> UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(start: storage.pointee.bytes + Int(range.start), count: Int(range.count))
    }

    /// Text of a range, for tests and messages.
    public func text(_ range: ByteRange) -> String { String(decoding: bytes(range), as: UTF8.self) }

    /// The first line of a field that is passed on, or nil.
    public func first(_ field: KnownField) -> FieldLine? {
        for index in 0..<storage.pointee.fieldCount where fields[index].field == field { return fields[index] }
        return nil
    }

    /// The X-Request-Id that a request goes by, wherever it is named; empty if the proxy has to make one. The field is no
    /// list, so two lines are a mistake (RFC 9110 section 5.3): the first that has a value counts.
    public var receivedRequestID: ByteRange {
        // Most requests have none, and need not be looked through.
        guard storage.pointee.facts.contains(.requestID) else { return ByteRange() }
        for index in 0..<storage.pointee.fieldCount
        where fields[index].field == .xRequestID && !fields[index].value.isEmpty {
            return fields[index].value
        }
        return ByteRange()
    }
}

/// A version of HTTP.
public enum HTTPVersion: UInt8, Sendable {
    /// HTTP/1.0
    case http10
    /// HTTP/1.1
    case http11
    /// HTTP/2
    case http2

    /// What a head came in.
    @inlinable @inline(__always) public init(_ facts: HeadFacts) {
        self = facts.isDisjoint(with: [.isHTTP10, .isHTTP2]) ? .http11 : facts.contains(.isHTTP10) ? .http10 : .http2
    }

    /// As logs have it.
    public var text: StaticString {
        switch self {
        case .http10: "HTTP/1.0"
        case .http11: "HTTP/1.1"
        case .http2: "HTTP/2.0"
        }
    }
}
