// Messages from one end to the other: what is said is told, whatever pieces it comes in.

import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct MessageTests {
    private let get = "GET /x?y=%2F HTTP/1.1\r\nHost: a.example\r\nX-One: 1\r\n\r\n"

    @Test(arguments: [1, 2, 7, Int.max])
    func aRequestWithItsAnswer(_ piece: Int) throws {
        let pair = Pair()
        pair.client.request(get)
        pair.exchange(piece: piece)
        #expect(
            pair.server.told == [
                .head(stream: 1, "GET /x?y=%2F HTTP/1.1|Host: a.example|x-one: 1"), .ended(stream: 1),
            ])
        let stream = try #require(pair.server.streams[1])
        pair.server.session.sendInterim(
            pair.server.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), on: stream)
        pair.exchange(piece: piece)
        // The interim head is there before anything else.
        #expect(pair.client.told == [.interim(stream: 1, "HTTP/1.1 103 Early Hints|link: </a>")])
        pair.client.told = []
        pair.server.session.sendHead(
            pair.server.write(
                "HTTP/1.1 200 Fine\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nX-Two:  2 \r\n\r\n"),
            isWhole: false, opensTunnel: false, on: stream)
        pair.exchange(piece: piece)
        #expect(pair.client.told == [.head(stream: 1, "HTTP/1.1 200 OK|x-two: 2")])
        pair.client.told = []
        pair.server.send("hello", on: stream)
        pair.exchange()
        pair.server.session.sendTrailers(
            pair.server.write("0\r\nGrpc-Status: 7\r\n\r\n"), from: 3, on: stream)
        pair.exchange(piece: piece)
        #expect(pair.client.told.contains(.content(stream: 1, "hello")) || piece < 5)
        #expect(
            pair.client.told.suffix(3) == [
                .trailers(stream: 1, "grpc-status: 7"), .ended(stream: 1), .closed(stream: 1, code: 0),
            ])
        #expect(pair.server.told.last == .closed(stream: 1, code: 0))
    }

    @Test func aHeadThatIsAllEndsItsStream() throws {
        let pair = Pair()
        pair.client.request(get)
        pair.exchange()
        let stream = try #require(pair.server.streams[1])
        pair.server.session.sendHead(
            pair.server.write("HTTP/1.1 200 OK\r\nGrpc-Status: 5\r\n\r\n"), isWhole: true, opensTunnel: false,
            on: stream)
        let output = pair.server.takeOutput()
        // One frame, HEADERS with END_STREAM: gRPC tells a failure that came at once by that.
        #expect(output[3] == 1 && output[4] & 1 == 1)
        pair.client.receive(output)
        #expect(pair.client.told.dropFirst() == [.ended(stream: 1), .closed(stream: 1, code: 0)])
        #expect(pair.client.head.storage.pointee.grpcStatus == 5)
    }

    @Test func contentOfARequest() throws {
        let pair = Pair()
        let stream = try #require(
            pair.client.request("POST /u HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n", isWhole: false))
        pair.exchange()
        #expect(pair.server.told == [.head(stream: 1, "POST /u HTTP/1.1|Host: a|content-length: 6")])
        #expect(pair.server.head.storage.pointee.framing == .length)
        pair.client.send("abc", on: stream)
        pair.exchange()
        pair.client.send("def", isLast: true, on: stream)
        pair.exchange()
        #expect(
            pair.server.told.dropFirst() == [
                .content(stream: 1, "abc"), .content(stream: 1, "def"), .ended(stream: 1),
            ])
    }

    @Test func contentOfNoDeclaredLengthIsChunkedThere() {
        let pair = Pair()
        pair.client.request("POST /u HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", isWhole: false)
        pair.exchange()
        #expect(pair.server.head.storage.pointee.framing == .chunked)
    }

    @Test func noContentIsToldWhereSomeIsUsual() {
        let pair = Pair()
        pair.client.request("POST /u HTTP/1.1\r\nHost: a\r\n\r\n")
        pair.exchange()
        #expect(pair.server.told.first == .head(stream: 1, "POST /u HTTP/1.1|Host: a|Content-Length: 0"))
    }

    @Test func crumbsBecomeOneCookie() {
        let end = End.server(
            Frame.headers(
                Frame.get + [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]))
        #expect(
            end.told.contains(.head(stream: 1, "GET / HTTP/1.1|Host: a|cookie: a=1; b=2; c=3|x: y")))
    }

    @Test func extendedConnectAsksForAnUpgrade() {
        let end = End.server(
            Frame.headers(
                [
                    (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/chat"),
                    (":authority", "a"), ("sec-websocket-version", "13"),
                ], endsStream: false))
        guard case .head(_, let text)? = end.told.last else {
            Issue.record("no head: \(end.told)")
            return
        }
        #expect(text.hasPrefix("GET /chat HTTP/1.1|Host: a|sec-websocket-version: 13|Sec-WebSocket-Key: "))
        #expect(end.head.requestedUpgrade == .webSocket)
        #expect(end.head.storage.pointee.framing == .none)
        // Sixteen bytes, and others the next time.
        #expect(text.split(separator: " ").last?.utf8.count == 24)
    }

    @Test func aTunnelsHeadIs200() throws {
        let pair = Pair()
        pair.client.request(
            "GET /c HTTP/1.1\r\nHost: a\r\nUpgrade: sweep\r\nConnection: Upgrade\r\n\r\n", isWhole: false,
            opensTunnel: true)
        pair.exchange()
        #expect(pair.server.head.requestedUpgrade == .other)
        let stream = try #require(pair.server.streams[1])
        pair.server.session.sendHead(
            pair.server.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: sweep\r\nConnection: Upgrade\r\n"
                    + "Sec-WebSocket-Accept: x\r\nX: y\r\n\r\n"), isWhole: false, opensTunnel: true, on: stream)
        pair.exchange()
        #expect(pair.client.told == [.head(stream: 1, "HTTP/1.1 200 OK|x: y")])
    }

    @Test func manyFieldsFillSeveralPauses() {
        // Six heads of nearly the bound, more than the engine's room has at once.
        let limits = HTTP2Session.Limits(sectionBytesMax: 200 << 10)
        let value = String(repeating: "v", count: 4000)
        let block = Frame.fields(Frame.get + (0..<45).map { ("x-\($0)", value) })
        var bytes: [UInt8] = []
        for number in 0..<6 {
            var rest = block[...]
            var isFirst = true
            while !rest.isEmpty {
                let piece = Array(rest.prefix(16_000))
                rest = rest.dropFirst(16_000)
                let flags: UInt8 = (rest.isEmpty ? 4 : 0) | (isFirst ? 1 : 0)
                bytes += Frame.make(isFirst ? 1 : 9, flags: flags, stream: UInt32(1 + 2 * number), piece)
                isFirst = false
            }
        }
        let end = End(.server, limits)
        end.limits = HeadLimits(headBytesMax: 250 << 10, fieldsMax: 100, targetBytesMax: 8192)
        end.receive(Frame.preface + Frame.settings + bytes)
        #expect(end.told.count == 1 + 12)
        #expect(end.told.last == .ended(stream: 11))
    }
}
