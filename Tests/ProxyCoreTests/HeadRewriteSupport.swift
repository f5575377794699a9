// How the tests write heads: a message and a configuration in, the bytes on the wire out.

import Bytes
import HTTPSemantics
import Testing

@testable import ProxyCore

/// Writes heads with the edits and names of one configuration's first route.
struct Rewriter {
    let snapshot: Snapshot
    let peer: Peer
    var requestID = RequestID(high: 0x0011_2233_4455_6677, low: 0x8899_AABB_CCDD_EEFF)

    init(_ lines: String = "", peer: String = "192.0.2.7", isUnix: Bool = false, isTrusted: Bool = false) throws {
        snapshot = try ProxyCoreTests.snapshot("\(lines)\nroute / { upstream app; }")
        self.peer = Peer(
            address: try #require(IPAddress(peer)), port: 4711, isUnix: isUnix, isTrusted: isTrusted)
    }

    func values(_ head: Head, route: UnsafePointer<CompiledRoute>?) -> VariableValues {
        VariableValues(
            head, requestID: requestID, peer: peer, listenerName: snapshot.listeners[0].name, route: route,
            nodeName: snapshot.nodeName)
    }

    /// The request as it goes up. Where the short way for usual requests can be taken, it writes the same.
    func request(_ text: String, capacity: Int = 64 << 10) throws -> String? {
        let parsed = try ParsedHead(text, .request)
        defer { withExtendedLifetime(parsed) {} }
        let listener = snapshot.listeners[0]
        let route = try #require(listener.router.route(parsed.head))
        let rewrite = HeadRewrite(parsed.head, values: values(parsed.head, route: route), via: listener.via)
        let general = written(capacity: capacity) {
            rewrite.writeRequest(
                edits: route.pointee.requestEdits, serverAuthority: bytes("127.0.0.1:9000"), to: &$0)
        }
        withUnsafePointer(to: peer) { peer in
            guard general != nil, route.pointee.requestEdits.isEmpty,
                HeadRewrite.isUsualRequest(parsed.head, from: peer)
            else { return }
            let usual = written {
                HeadRewrite.writeUsualRequest(
                    parsed.head, from: peer, requestID: requestID, via: listener.via, to: &$0)
            }
            #expect(usual == general, "\(text.debugDescription)")
        }
        return general
    }

    /// The response as it goes down.
    func response(
        _ text: String, toHEAD: Bool = false, toHTTP10: Bool = false, closes: Bool = false,
        of request: String = "GET /p?q HTTP/1.1\r\nHost: Example.com:81\r\n\r\n"
    ) throws -> String? {
        let asked = try ParsedHead(request, .request)
        let listener = snapshot.listeners[0]
        let route = try #require(listener.router.route(asked.head))
        let parsed = try ParsedHead(text, .response, isToHEAD: toHEAD)
        defer { withExtendedLifetime((asked, parsed)) {} }
        let rewrite = HeadRewrite(parsed.head, values: values(asked.head, route: route), via: listener.via)
        return written {
            rewrite.writeResponse(
                edits: route.pointee.responseEdits, isToHTTP10: toHTTP10, closes: closes, date: bytes("DATE"), to: &$0)
        }
    }

    /// What a request has at its end from us.
    static func additions(
        host: String = "a", address: String = "192.0.2.7", quoted: Bool = false, before: String = ""
    ) -> String {
        let node = address.contains(":") ? "\"[\(address)]\"" : address
        let name = quoted ? "\"\(host)\"" : host
        return "X-Forwarded-For: \(address)\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: \(host)\r\n"
            + "Forwarded: for=\(node);host=\(name);proto=http\r\nVia: \(before)1.1 headfirst\r\n"
            + "X-Request-Id: 00112233445566778899aabbccddeeff\r\n"
    }
}
