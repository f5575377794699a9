// The chunked coding and its trailers (RFC 9112 section 7.1), and what we write of it.

import Bytes
import HTTP1
import HTTPSemantics
import Testing

@Suite struct ChunkedTests {
    private let feeder = Feeder()
    private let start = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    private let startTold = Told.head("post POST / 1.1 chunked\nHost: a\n(Transfer-Encoding: chunked)\n")

    private func check(_ coded: String, _ expected: [Told], sourceLocation: SourceLocation = #_sourceLocation) {
        let result = feeder.toldInEveryWay(Array((start + coded).utf8), .request)
        #expect(result.events == [startTold] + expected, "\(coded.debugDescription)", sourceLocation: sourceLocation)
        #expect(result.differing == nil, "\(coded.debugDescription)", sourceLocation: sourceLocation)
    }

    @Test func chunks() {
        check("5\r\nhello\r\n0\r\n\r\n", [content("hello"), .ended])
        check("1\r\na\r\n02\r\nbc\r\n000\r\n\r\n", [content("abc"), .ended])
        check("A\r\n0123456789\r\n0\r\n\r\n", [content("0123456789"), .ended])
        check("a\r\n0123456789\r\n0\r\n\r\n", [content("0123456789"), .ended])
        check("4\r\n\r\n\r\n\r\n0\r\n\r\n", [content("\r\n\r\n"), .ended])
        check("0000000000000001\r\nx\r\n0\r\n\r\n", [content("x"), .ended])
    }

    @Test(arguments: [
        ";a", ";a=b", ";a=\"b\"", "; a = \"b;\\\"\t\"", " ;a", "\t; a", ";a;b=c;d=\"\"", ";a ;b", ";a=\"\u{E9}\"",
    ])
    func extensions(_ text: String) {
        check("1\(text)\r\nx\r\n0\(text)\r\n\r\n", [content("x"), .ended])
    }

    @Test(arguments: [
        "\r\n", "g\r\n", "-1\r\n", "+1\r\nx\r\n", "0x1\r\n", " 1\r\nx\r\n", "1 \r\nx\r\n", "1\nx\r\n", "1\r\r\nx\r\n",
        "1;\r\nx\r\n", "1;;\r\n", "1;a=\r\n", "1;a=\"\r\n", "1;a=\"\\\r\n", "1;a=\"x\"y\r\n", "1;a =\r\n", "1;a \r\n",
        "1;a\0\r\n", "1;a=\"\0\"\r\n", "1;(\r\n", "1 a\r\n", "1,1\r\n", "1.\r\n", "_1\r\n",
        "00000000000000001\r\nx\r\n", "8000000000000000\r\n", "10000000000000000\r\n", "FFFFFFFFFFFFFFFF\r\n",
        ";a\r\n",
    ])
    func chunkLinesThatAreRefused(_ line: String) { check(line, [.failed(.chunk)]) }

    @Test(arguments: ["1\r\nxy\r\n", "1\r\nx\n", "1\r\nx\rX", "1\r\nx0\r\n\r\n", "1\r\nx 0", "1\r\nx\r\r\n"])
    func endsOfChunksThatAreRefused(_ coded: String) { check(coded, [content("x"), .failed(.chunk)]) }

    @Test func theLargestChunk() {
        // 2^63 - 1 can be counted; nobody has to send it all.
        check("7FFFFFFFFFFFFFFF\r\nx", [content("x")])
    }

    @Test func extensionsCostNoMoreThanTheirBound() {
        // 4,096 bytes over all beyond the content.
        let most = ";" + String(repeating: "a", count: 4095)
        #expect(feeder.told(start + "1\(most)\r\nx\r\n0\r\n\r\n", .request).last == .ended)
        #expect(feeder.told(start + "1\(most)a\r\nx\r\n0\r\n\r\n", .request).last == .failed(.chunk))
        // Each byte of content pays for one.
        #expect(feeder.told(start + "1\(most)\r\nx\r\n0;\r\n\r\n", .request).last == .failed(.chunk))
        #expect(feeder.told(start + "2\(most)\r\nxy\r\n0;a\r\n\r\n", .request).last == .ended)
        #expect(feeder.told(start + "2\(most)\r\nxy\r\n0;ab\r\n\r\n", .request).last == .failed(.chunk))
        let small = String(repeating: "1;a\r\nx\r\n", count: 5000)
        #expect(feeder.told(start + small + "0\r\n\r\n", .request).last == .failed(.chunk))
        let paid = String(repeating: "2;a\r\nxy\r\n", count: 5000)
        #expect(feeder.told(start + paid + "0\r\n\r\n", .request).last == .ended)
    }

    @Test func aLineWithoutEndIsRefused() {
        let endless = "1;" + String(repeating: "a", count: 5000)
        #expect(feeder.told(start + endless, .request).last == .failed(.chunk))
        let pieces = Array((start + endless).utf8)
        #expect(feeder.told(pieces.indices.map { pieces[$0...$0] }, .request).events.last == .failed(.chunk))
    }

    @Test func trailers() {
        check("0\r\nX-A: 1\r\nx-b:\t2 \r\n\r\n", [.trailers("X-A: 1\nx-b: 2\n"), .ended])
        check("1\r\nx\r\n0\r\nETag: \"a\"\r\n\r\n", [content("x"), .trailers("ETag: \"a\"\n"), .ended])
        check("0\r\nKeep-Alive: x\r\nX: y\r\n\r\n", [.trailers("(Keep-Alive: x)\nX: y\n"), .ended])
    }

    @Test(arguments: [
        "Content-Length: 1", "Transfer-Encoding: chunked", "Host: a", "Connection: close", "TE: trailers",
        "Trailer: x", "Upgrade: x", "Expect: x", "Max-Forwards: 1", "Authorization: x", "Proxy-Authorization: x",
        "Cookie: x", "Via: 1.1 a", "Forwarded: for=a", "X-Forwarded-For: a", "X-Forwarded-Proto: https",
        "X-Forwarded-Host: a", "Content-Type: x", "HTTP2-Settings: x", "X_Forwarded_For: a", "Content_Length: 1",
        " X: y", "X : y", ": y", "X", "X: \0", "X: y\nY: z", "X: y\r\n Z: a", "X: y\rY: z",
    ])
    func trailersThatAreRefused(_ line: String) { check("0\r\n\(line)\r\n\r\n", [.failed(.trailers)]) }

    @Test func trailersHaveTheBoundsOfAHead() {
        let limits = HeadLimits(headBytesMax: 64, fieldsMax: 3, targetBytesMax: 64)
        func last(_ trailers: String) -> Told? {
            let result = feeder.toldInEveryWay(Array((start + "0\r\n" + trailers).utf8), .request, limits: limits)
            #expect(result.differing == nil)
            return result.events.last
        }
        // The section with its empty line: 64 bytes pass, 65 do not.
        #expect(last("X: \(String(repeating: "a", count: 57))\r\n\r\n") == .ended)
        #expect(last("X: \(String(repeating: "a", count: 58))\r\n\r\n") == .failed(.trailers))
        #expect(last("X: \(String(repeating: "a", count: 61))") == .failed(.trailers))
        #expect(last("A: b\r\nC: d\r\nE: f\r\n\r\n") == .ended)
        #expect(last("A: b\r\nC: d\r\nE: f\r\nG: h\r\n\r\n") == .failed(.trailers))
    }

    @Test func whatIsLeftToCome() {
        var decoder = HTTP1Decoder(.response)
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe"
        let bytes = Array(text.utf8)
        var offset = 0
        bytes.withUnsafeBufferPointer { input in
            var event = MessageEvent.ended
            while event != .needsInput {
                event = decoder.next(input, from: &offset, into: feeder.head, limits: standardLimits)
            }
        }
        #expect(decoder.contentRemaining == 3)
        #expect(!decoder.isUntilClose)
        #expect(offset == bytes.count)
    }

    @Test(arguments: [1, 9, 10, 15, 16, 255, 4096, 65536, Int.max])
    func written(_ size: Int) {
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 64)
        defer { room.deallocate() }
        var writer = ByteWriter(base: room, capacity: 64)
        ChunkedCoding.writeLine(size: size, to: &writer)
        #expect(writer.count <= 18)
        #expect(String(decoding: writer.bytes, as: UTF8.self) == String(size, radix: 16) + "\r\n")
        writer.count = 0
        ChunkedCoding.writeEnd(to: &writer)
        ChunkedCoding.writeLastChunk(to: &writer)
        #expect(String(decoding: writer.bytes, as: UTF8.self) == "\r\n0\r\n\r\n")
    }
}
