// What may still come on streams that are over, and what may not.

import HTTP2Support
import Testing

@testable import HTTP2

@Suite struct LedgerTests {
    private let post = Frame.get.map { $0.0 == ":method" ? ($0.0, "POST") : $0 }
    private let trailers = Frame.headers([("x", "y")])

    private func goAway(_ bytes: [UInt8], piece: Int = .max) -> [UInt32] {
        End.server(bytes, piece: piece).codes(ofType: 7)
    }

    @Test(arguments: [1, 10, Int.max])
    func trailersOfStreamsThatAreOpen(_ piece: Int) {
        // In one read with others that were begun behind it, and in reads of their own.
        let open = Frame.headers(post, stream: 1, endsStream: false) + Frame.headers(Frame.get, stream: 3)
        #expect(goAway(open + trailers, piece: piece).isEmpty)
    }

    /// nghttp2 does not know a stream before it has read its head, which may come in parts.
    @Test func whatComesBehindAHeadThatWasCut() {
        let head = Frame.headers(post, endsStream: false)
        for rest in [Frame.make(0, stream: 1, [1]), trailers] {
            for cut in 1..<head.count {
                let end = End.server([])
                end.receive(Array(head.prefix(cut)))
                end.receive(Array(head.dropFirst(cut)) + rest)
                #expect(end.codes(ofType: 7).isEmpty, "cut at \(cut)")
            }
        }
    }

    /// Streams that GOAWAY leaves out are not told of by anything else.
    @Test func whatComesForStreamsThatAreLeftOut() throws {
        let end = End.server(Frame.headers(post, stream: 1, endsStream: false))
        end.session.shutDown()
        end.receive(Frame.headers(post, stream: 3, endsStream: false))
        _ = end.takeOutput()
        end.receive(Frame.make(0, stream: 3, [1]) + Frame.headers([("x", "y")], stream: 3))
        #expect(end.codes(ofType: 7).isEmpty)
    }

    @Test func headersOnStreamsThatTheClientHasReset() {
        let reset = Frame.headers(post, endsStream: false) + Frame.make(3, stream: 1, Frame.number(8))
        #expect(goAway(reset + trailers) == [HTTP2ErrorCode.streamClosed])
    }

    @Test(arguments: [1, 10, Int.max])
    func contentOnStreamsThatTheClientHasReset(_ piece: Int) {
        let reset = Frame.headers(post, endsStream: false) + Frame.make(3, stream: 1, Frame.number(8))
        #expect(goAway(reset + Frame.make(0, stream: 1, [1]), piece: piece) == [HTTP2ErrorCode.streamClosed])
        #expect(goAway(reset + Frame.headers(Frame.get, stream: 3), piece: piece).isEmpty)
    }

    @Test func contentOnStreamsThatAreComplete() throws {
        let end = End.server(Frame.headers(Frame.get))
        let stream = try #require(end.streams[1])
        end.session.sendHead(
            end.write("HTTP/1.1 204 No Content\r\n\r\n"), isWhole: true, opensTunnel: false, on: stream)
        _ = end.takeOutput()
        end.receive(Frame.make(0, stream: 1, [1]))
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.streamClosed])
    }

    @Test func headersOnStreamsThatWereNeverBegun() {
        #expect(
            goAway(Frame.headers(Frame.get, stream: 5) + Frame.headers(Frame.get, stream: 3))
                == [HTTP2ErrorCode.protocolError])
    }

    @Test func headersOnStreamsThatAreComplete() throws {
        let end = End.server(Frame.headers(Frame.get))
        let stream = try #require(end.streams[1])
        end.session.sendHead(
            end.write("HTTP/1.1 204 No Content\r\n\r\n"), isWhole: true, opensTunnel: false, on: stream)
        _ = end.takeOutput()
        end.receive(Frame.headers(Frame.get))
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.streamClosed])
    }

    @Test func trailersOnTheirWayToAStreamThatWeHaveReset() throws {
        let end = End.server(Frame.headers(post, endsStream: false))
        end.session.reset(try #require(end.streams[1]), code: HTTP2ErrorCode.noError)
        _ = end.takeOutput()
        end.receive(Frame.make(0, stream: 1, [1, 2, 3]) + trailers + Frame.headers(Frame.get, stream: 3))
        #expect(end.codes(ofType: 7).isEmpty)
        #expect(end.told.contains(.ended(stream: 3)))
    }

    @Test func prioritiesOfNoStream() {
        #expect(goAway(Frame.make(2, [0, 0, 0, 0, 1])) == [HTTP2ErrorCode.protocolError])
        #expect(goAway(Frame.make(16, Frame.number(0) + Array("u=1".utf8))) == [HTTP2ErrorCode.protocolError])
    }

    @Test func manyStreamsBeforeAreForgotten() throws {
        let end = End.server([])
        for number in 0..<300 {
            let id = UInt32(1 + 2 * number)
            end.receive(Frame.headers(Frame.get, stream: id))
            let stream = try #require(end.streams[Int32(id)])
            end.session.sendHead(
                end.write("HTTP/1.1 204 No Content\r\n\r\n"), isWhole: true, opensTunnel: false, on: stream)
            end.session.exchangeCompleted()
            _ = end.takeOutput()
        }
        #expect(!end.session.isOver)
        end.receive(Frame.headers(Frame.get, stream: 1))
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.protocolError])
    }
}
