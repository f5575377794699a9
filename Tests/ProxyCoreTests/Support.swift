// What the tests of the core share: heads parsed from text, snapshots from a configuration's text.

import Bytes
import HTTP1
import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

/// A head with the bytes it lies in.
final class ParsedHead {
    let head = Head(fieldsCapacity: 128)
    private let bytes: UnsafeMutableBufferPointer<UInt8>

    /// Parses a head. Trailing bytes are not looked at.
    init(_ text: String, _ kind: MessageKind, isToHEAD: Bool = false) throws {
        let source = Array(text.utf8)
        bytes = .allocate(capacity: source.count)
        _ = bytes.initialize(from: source)
        var decoder = HTTP1Decoder(kind)
        decoder.startNext(answering: isToHEAD ? .head : .get)
        var offset = 0
        let limits = HeadLimits(headBytesMax: 64 << 10, fieldsMax: 128, targetBytesMax: 8 << 10)
        let event = decoder.next(UnsafeBufferPointer(bytes), from: &offset, into: head, limits: limits)
        try #require(event == .head || event == .interim)
    }

    /// A request with a field section of `lines`, each with its CRLF.
    static func request(
        _ method: String = "GET", _ target: String = "/", version: String = "1.1", _ lines: String = ""
    ) throws -> ParsedHead {
        try ParsedHead("\(method) \(target) HTTP/\(version)\r\nHost: example.com\r\n\(lines)\r\n", .request)
    }

    /// A response with a field section of `lines`, each with its CRLF.
    static func response(_ status: Int = 200, version: String = "1.1", _ lines: String = "") throws -> ParsedHead {
        try ParsedHead("HTTP/\(version) \(status) Any\r\n\(lines)\r\n", .response)
    }

    deinit {
        head.destroy()
        bytes.deallocate()
    }
}

extension Exchange {
    /// The head stays where it is until the call is over.
    init(requestHeadReceived request: ParsedHead, forwarding: Forwarding, mayPersist: Bool, now: UInt64) {
        self = withExtendedLifetime(request) {
            Exchange(requestHeadReceived: request.head, forwarding: forwarding, mayPersist: mayPersist, now: now)
        }
    }

    /// The head stays where it is until the call is over.
    mutating func responseHeadReceived(_ response: ParsedHead, now: UInt64) -> Actions {
        withExtendedLifetime(response) { responseHeadReceived(response.head, now: now) }
    }
}

/// A trailer section with the bytes it lies in.
final class ParsedTrailers {
    let head = Head(fieldsCapacity: 128)
    private let bytes: UnsafeMutableBufferPointer<UInt8>

    /// Parses a trailer section with the empty line at its end.
    init(_ text: String) throws {
        let source = Array("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\(text)".utf8)
        bytes = .allocate(capacity: source.count)
        _ = bytes.initialize(from: source)
        var decoder = HTTP1Decoder(.response)
        var offset = 0
        let limits = HeadLimits(headBytesMax: 64 << 10, fieldsMax: 128, targetBytesMax: 0)
        let events = (0..<2).map { [bytes, head] _ in
            decoder.next(UnsafeBufferPointer(bytes), from: &offset, into: head, limits: limits)
        }
        try #require(events == [.head, .trailers])
    }

    deinit {
        head.destroy()
        bytes.deallocate()
    }
}

/// A snapshot of a configuration in which `lines` stand in a listener `web` beside an upstream `app`.
func snapshot(_ lines: String, nodeName: String = "node-1") throws -> Snapshot {
    Snapshot(try configuration(lines), nodeName: nodeName)
}

func configuration(_ lines: String) throws -> Configuration {
    let text = """
        upstream app { server 127.0.0.1:9000; server 127.0.0.1:9001; server 127.0.0.1:9002; }
        upstream other { server 127.0.0.1:9003; }
        listener web {
        bind 127.0.0.1:8080;
        \(lines)
        }
        """
    return try ConfigurationFile.parse(text: Array(text.utf8), file: "test.conf").configuration
}

/// The rules of a route that says nothing of its own, but for `change`.
func forwarding(_ change: (inout Forwarding) -> Void = { _ in }) throws -> Forwarding {
    let route = try #require(try configuration("route / { upstream app; }").listeners.first?.hosts.first?.routes.first)
    var forwarding = route.forwarding
    change(&forwarding)
    return forwarding
}

/// Short text at a place of its own that stays.
func bytes(_ text: StaticString) -> UnsafeBufferPointer<UInt8> {
    UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
}

/// What a body writes; nil if it does not fit.
func written(capacity: Int = 64 << 10, _ body: (inout ByteWriter) -> Void) -> String? {
    let room = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    defer { room.deallocate() }
    var writer = ByteWriter(base: room, capacity: capacity)
    body(&writer)
    return writer.isOverfull ? nil : String(decoding: writer.bytes, as: UTF8.self)
}
