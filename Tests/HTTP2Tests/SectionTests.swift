// Field sections that come in several reads, and what must not be left of one that nobody wants any more.

import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct SectionTests {
    /// Two exchanges are under way, and the first is given up while its head is half there: the other's is its own.
    @Test(arguments: [1, 7, 20])
    func aHeadThatIsGivenUpLeavesNothingToTheNext(split: Int) throws {
        let pair = Pair()
        let first = try #require(pair.client.request("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"))
        let second = try #require(pair.client.request("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"))
        _ = pair.client.takeOutput()
        let (one, three) = (UInt32(first.pointee.id), UInt32(second.pointee.id))
        let secret = Frame.fields([(":status", "200"), ("set-cookie", "session=secret"), ("x-more", "yes")])
        pair.client.receive(Frame.make(1, flags: 5, stream: one, secret).dropLast(9).map { $0 })
        pair.client.session.reset(first, code: HTTP2ErrorCode.cancel)
        _ = pair.client.takeOutput()
        pair.client.receive(Array(Frame.make(1, flags: 5, stream: one, secret).suffix(9)))
        let answer = Frame.headers([(":status", "204"), ("x-own", "value"), ("x-other", "one")], stream: three)
        pair.client.receive(Array(answer.dropLast(split)))
        pair.client.receive(Array(answer.suffix(split)))
        let heads = pair.client.told.compactMap { told in
            if case .head(let id, let text) = told { (id, text) } else { nil }
        }
        #expect(heads.map(\.0) == [Int32(three)])
        #expect(heads.first?.1 == "HTTP/1.1 204 No Content|x-own: value|x-other: one")
    }

    /// The same with trailers that a client sends behind its answer.
    @Test func trailersThatNobodyWantsLeaveNothingToTheNextRequest() throws {
        let post = Frame.get.map { $0.0 == ":method" ? (":method", "POST") : $0 }
        let end = End.server(
            Frame.headers(post, endsStream: false)
                + Frame.make(1, flags: 1, stream: 1, Frame.fields([("x-hidden", "a: b")])))
        let stream = try #require(end.streams[1])
        end.session.sendHead(
            end.write("HTTP/1.1 204 No Content\r\n\r\n"), isWhole: true, opensTunnel: false, on: stream)
        end.session.reset(stream, code: HTTP2ErrorCode.noError)
        _ = end.takeOutput()
        end.receive(Frame.make(9, flags: 4, stream: 1, Frame.fields([("x-more", "1")])))
        let next = Frame.headers(Frame.get + [("x-own", "value")], stream: 3)
        end.receive(Array(next.dropLast(4)))
        end.receive(Array(next.suffix(4)))
        #expect(end.told.contains(.head(stream: 3, "GET / HTTP/1.1|Host: a|x-own: value")))
    }

    /// Many sections that each come in two reads, on streams that are reset in between at random.
    @Test func sectionsStayApartWhateverIsReset() throws {
        for seed in 0..<40 {
            let pair = Pair()
            var streams: [HTTP2StreamPointer] = []
            for number in 0..<8 {
                streams.append(
                    try #require(pair.client.request("GET /\(number) HTTP/1.1\r\nHost: a\r\n\r\n")))
            }
            _ = pair.client.takeOutput()
            var wanted: [Told] = []
            for (number, stream) in streams.enumerated() {
                let id = stream.pointee.id
                let fields = (0...(number % 3)).map { ("x-\(number)-\($0)", "value \(seed)") }
                let bytes = Frame.headers([(":status", "200")] + fields, stream: UInt32(id))
                let cut = 9 + (seed * 5 + number * 7) % (bytes.count - 10)
                pair.client.receive(Array(bytes.prefix(cut)))
                if (seed + number) % 3 == 0 {
                    pair.client.session.reset(stream, code: HTTP2ErrorCode.cancel)
                    _ = pair.client.takeOutput()
                } else {
                    let lines = fields.map { "|\($0.0): \($0.1)" }.joined()
                    wanted.append(.head(stream: id, "HTTP/1.1 200 OK\(lines)"))
                }
                pair.client.receive(Array(bytes.dropFirst(cut)))
            }
            let heads = pair.client.told.filter { if case .head = $0 { true } else { false } }
            #expect(heads == wanted)
        }
    }

    /// An end may have to wait though nothing else does: for a window that another stream has used up.
    @Test func anEndThatHasToWaitIsToldWhenItIsSent() throws {
        let end = End.server(Frame.headers(Frame.get, stream: 1) + Frame.headers(Frame.get, stream: 3))
        let (one, three) = (try #require(end.streams[1]), try #require(end.streams[3]))
        for stream in [one, three] {
            end.session.sendHead(
                end.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
        }
        end.send("x", on: three)
        // The connection's window is gone.
        end.receive(Frame.make(8, stream: 1, Frame.number(1 << 20)))
        end.send([UInt8](repeating: 1, count: 100_000), on: one)
        end.session.sendEnd(on: three)
        _ = end.takeOutput()
        #expect(end.session.willTellEnd(of: three))
        end.receive(Frame.make(8, Frame.number(1 << 20)))
        end.session.produce()
        var notices: [Int32] = []
        while let notice = end.engine.takeNotice() {
            if case .drained(let stream) = notice { notices.append(stream.pointee.id) }
        }
        #expect(notices.contains(3))
        #expect(!end.session.willTellEnd(of: three))
    }
}
