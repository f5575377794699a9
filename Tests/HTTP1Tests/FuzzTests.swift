// Invariant: whatever the bytes are, a decoder tells the same however they are cut, never reads behind them (the
// memory there cannot be read), and consumes no more than there is.

import HTTP1
import HTTPSemantics
import TestSupport
import Testing

@Suite struct FuzzTests {
    private static let requests = [
        "GET / HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
        "POST /a?b=c HTTP/1.1\r\nHost: a:80\r\nContent-Length: 11\r\nConnection: keep-alive, x-y\r\nX-Y: z\r\n\r\nhello world",
        "PUT http://a/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\nTE: trailers\r\n\r\n"
            + "5;e=\"v\"\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\nMax-Forwards: 3\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\nX_Y: z\r\n\r\n",
    ]
    private static let responses = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nhello",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n\r\n3\r\nabc\r\n0\r\nETag: x\r\n\r\n",
        "HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nno length, until close",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
    ]
    private static let fragments = [
        "\r\n", "\n", "\r", "\r\n\r\n", " ", "\t", ":", "\0", "\u{7F}", ",", ";", "\"", "chunked", "Content-Length: ",
        "Transfer-Encoding: chunked\r\n", "Host: a\r\n", "Connection: close\r\n", "0\r\n", "ffffffffffffffff", "-", "_",
        "HTTP/1.1 ", "HTTP/1.0", "GET ", "http://", "[", "]", "*", "100-continue", "0\r\n\r\n", "X-Forwarded-For",
    ]

    private static func mutated(_ seeds: [String], _ random: inout SeededGenerator) -> [UInt8] {
        var bytes = Array(seeds.randomElement(using: &random).unsafelyUnwrapped.utf8)
        if Int.random(in: 0..<4, using: &random) == 0 {
            bytes += Array(seeds.randomElement(using: &random).unsafelyUnwrapped.utf8)
        }
        for _ in 0..<Int.random(in: 0...4, using: &random) {
            guard !bytes.isEmpty else { break }
            let place = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
            case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: bytes.removeSubrange(place..<min(bytes.count, place + Int.random(in: 1...8, using: &random)))
            case 3:
                let fragment = fragments.randomElement(using: &random).unsafelyUnwrapped
                bytes.insert(contentsOf: Array(fragment.utf8), at: place)
            case 4:
                let end = min(bytes.count, place + Int.random(in: 1...16, using: &random))
                bytes.insert(contentsOf: Array(bytes[place..<end]), at: place)
            default: bytes.removeSubrange(place...)
            }
        }
        return bytes
    }

    private static func cut(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [ArraySlice<UInt8>] {
        var pieces: [ArraySlice<UInt8>] = []
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + Int.random(in: 1...24, using: &random))
            pieces.append(bytes[start..<end])
            start = end
        }
        return pieces
    }

    @Test(
        arguments: [(MessageKind.request, 1), (.request, 2), (.response, 3), (.response, 4)] as [(MessageKind, UInt64)])
    func mutatedMessages(_ kind: MessageKind, _ seed: UInt64) {
        let feeder = Feeder()
        var random = SeededGenerator(seed: seed)
        let seeds = kind == .request ? Self.requests : Self.responses
        let small = HeadLimits(headBytesMax: 96, fieldsMax: 4, targetBytesMax: 12)
        var failures = 0
        var completions = 0
        for round in 0..<4000 {
            // A line feed at the end: a line that is not complete is not judged before its end is there.
            let bytes = Self.mutated(seeds, &random) + [10]
            let limits = round % 4 == 0 ? small : standardLimits
            let requestMethods = (0..<3).map { _ in
                [HTTPSemantics.Method.get, .get, .head, .connect].randomElement(using: &random) ?? .get
            }
            func told(_ pieces: [ArraySlice<UInt8>]) -> [Told] {
                feeder.told(pieces, kind, limits: limits, requestMethods: requestMethods, endsInput: true).events
            }
            let whole = told([bytes[...]])
            let single = told(bytes.indices.map { bytes[$0...$0] })
            let cut = told(Self.cut(bytes, &random))
            if single != whole || cut != whole {
                let input = String(String.UnicodeScalarView(bytes.map { UnicodeScalar($0) })).debugDescription
                Issue.record("\(input): whole \(whole), byte by byte \(single), cut \(cut)")
                return
            }
            if case .failed = whole.last { failures += 1 }
            if whole.contains(.ended) { completions += 1 }
        }
        // The mutations reach both outcomes, or the test would show nothing.
        #expect(failures > 400)
        #expect(completions > 400)
    }
}
