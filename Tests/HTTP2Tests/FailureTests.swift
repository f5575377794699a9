// A session that fails in the middle of a read: what came before is told, an end that was not reached is not.

import Bytes
import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct FailureTests {
    /// A head that goes on and on: nghttp2 gives up, by an error that is fatal.
    private func endlessHead(_ stream: UInt32, _ pairs: [(String, String)] = Frame.get) -> [UInt8] {
        var bytes = Frame.make(1, stream: stream, Frame.fields(pairs))
        for _ in 0..<40 { bytes += Frame.make(9, stream: stream, Frame.fields([("x", "y")])) }
        return bytes
    }

    @Test func aRequestThatCameWholeBeforeIsToldWhole() {
        let post = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        let end = End.server(
            Frame.headers(post, endsStream: false) + Frame.make(0, stream: 1, Array("hello ".utf8))
                + Frame.make(0, flags: 1, stream: 1, Array("world".utf8)) + endlessHead(3))
        let told = end.told.filter { if case .head = $0 { false } else { true } }
        #expect(
            told == [
                .settings, .content(stream: 1, "hello "), .content(stream: 1, "world"), .ended(stream: 1),
                .closed(stream: 1, code: HTTP2ErrorCode.internalError),
            ])
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.enhanceYourCalm])
        #expect(end.session.streamCount == 0 && end.session.isOver && !end.session.isWithinHead)
    }

    @Test func oneThatDidNotHasNoEnd() {
        let post = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        let end = End.server(
            Frame.headers(post, endsStream: false) + Frame.make(0, stream: 1, Array("hello".utf8)) + endlessHead(3))
        #expect(end.told.contains(.content(stream: 1, "hello")))
        #expect(!end.told.contains(.ended(stream: 1)))
        #expect(end.told.last == .closed(stream: 1, code: HTTP2ErrorCode.internalError))
    }

    @Test func anAnswerThatCameWholeBeforeIsToldWhole() throws {
        let pair = Pair()
        let first = try #require(pair.client.request("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"))
        let second = try #require(pair.client.request("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"))
        _ = pair.client.takeOutput()
        let (one, three) = (UInt32(first.pointee.id), UInt32(second.pointee.id))
        pair.client.receive(
            Frame.headers([(":status", "200")], stream: one, endsStream: false)
                + Frame.make(0, flags: 1, stream: one, Array("whole".utf8))
                + endlessHead(three, [(":status", "200")]))
        #expect(pair.client.told.contains(.content(stream: Int32(one), "whole")))
        #expect(pair.client.told.contains(.ended(stream: Int32(one))))
        #expect(pair.client.told.contains(.closed(stream: Int32(three), code: HTTP2ErrorCode.internalError)))
        #expect(!pair.client.told.contains(.ended(stream: Int32(three))))
        // Nothing is begun on it, and nothing that is asked of it reaches nghttp2.
        #expect(pair.client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == nil)
    }

    /// What a callback saw is not what was told: until its end is told, a stream has none.
    @Test func aStreamHasEndedWhenThatWasTold() {
        let end = End(.server)
        let bytes = Frame.preface + Frame.settings + Frame.headers(Frame.get)
        let waiting = UnsafeMutablePointer<Buffer>.allocate(capacity: 1)
        waiting.initialize(to: Buffer())
        defer { waiting.deallocate() }
        bytes.withUnsafeBufferPointer { buffer in
            #expect(end.session.receive(buffer, nowMilliseconds: 0) == bytes.count)
            var wasTold = false
            while true {
                let event = end.session.next(
                    into: end.head,
                    limits: { _ in HeadLimits(headBytesMax: 8192, fieldsMax: 100, targetBytesMax: 8192) },
                    answering: { _ in .get })
                if case .none = event { break }
                guard case .message(let stream, let message) = event else { continue }
                if message == .ended {
                    wasTold = true
                    #expect(stream.pointee.receivingEnded)
                } else {
                    #expect(!stream.pointee.receivingEnded)
                    end.session.adopt(stream, owner: waiting, waiting: waiting)
                }
            }
            #expect(wasTold)
            end.session.forEachStream { end.session.release($0, code: HTTP2ErrorCode.cancel) }
        }
        _ = end.takeOutput()
    }
}
