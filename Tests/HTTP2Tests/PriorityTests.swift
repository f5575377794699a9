// Priorities (RFC 9218): the field, the frame, and the frame that comes before its stream.

import HTTP2Support
import Testing

@testable import HTTP2

@Suite struct PriorityTests {
    private static func update(_ stream: UInt32, _ value: String, on frameStream: UInt32 = 0) -> [UInt8] {
        Frame.make(16, stream: frameStream, Frame.number(stream) + Array(value.utf8))
    }

    private func urgency(_ value: String) -> UInt8 {
        Array(value.utf8).withUnsafeBufferPointer { StreamPriority.urgency($0) }
    }

    @Test(
        "What a priority says",
        arguments: [
            ("", 3), ("u=0", 0), ("u=7", 7), ("u=5, i", 5), ("i, u=1", 1), ("i,u=1", 1), ("i ,\tu=1;a=2", 1),
            ("u=1, u=2", 2), ("u=8", 3), ("u=10", 3), ("u=-1", 3), ("u", 3), ("u=", 3), ("u=a", 3), ("uu=1", 3),
            ("x=\"u=1\"", 3), (",,u=4", 4),
        ] as [(String, UInt8)])
    func field(value: String, urgency wanted: UInt8) { #expect(urgency(value) == wanted) }

    /// nghttp2 1.46 to 1.60 free what is in use after about a hundred of these, if it gets the frames.
    @Test func streamsThatArePrioritizedBeforeTheyBeginHurtNobody() {
        let end = End.server([])
        for number in 0..<1000 as Range<UInt32> {
            let id = 2 * number + 1
            end.now += 1000
            end.receive(Self.update(id, "u=1") + Frame.headers(Frame.get, stream: id))
            let stream = end.streams[Int32(id)]
            #expect(stream?.pointee.urgency == 1)
            guard let stream else { return }
            end.session.sendHead(
                end.write("HTTP/1.1 204 No Content\r\n\r\n"), isWhole: true, opensTunnel: false, on: stream)
            _ = end.takeOutput()
            #expect(end.session.streamCount == 0)
        }
        #expect(!end.isFailed && !end.session.isOver)
    }

    @Test func theFrameGoesBeforeTheFieldWhetherItComesBeforeOrBehind() {
        let prioritized = Frame.get + [("priority", "u=6, i")]
        let before = End.server(Self.update(1, "u=1") + Frame.headers(prioritized))
        #expect(before.streams[1]?.pointee.urgency == 1)
        let behind = End.server(Frame.headers(prioritized) + Self.update(1, "u=1"))
        #expect(behind.streams[1]?.pointee.urgency == 1)
        let alone = End.server(Frame.headers(prioritized))
        #expect(alone.streams[1]?.pointee.urgency == 6)
    }

    @Test func theFrameMayComeInPieces() {
        let bytes = Frame.preface + Frame.settings + Self.update(1, "u=2") + Frame.headers(Frame.get)
        let end = End(.server)
        end.receive(bytes, piece: 1)
        #expect(end.streams[1]?.pointee.urgency == 2)
    }

    @Test func theLastFrameCounts() {
        let end = End.server(
            Self.update(3, "u=1") + Self.update(3, "u=5") + Frame.headers(Frame.get, stream: 3)
                + Self.update(3, "u=0"))
        #expect(end.streams[3]?.pointee.urgency == 0)
    }

    @Test func streamsThatAreOverOrPassedByAreIgnored() {
        let end = End.server(
            Self.update(1, "u=1") + Frame.headers(Frame.get, stream: 3) + Self.update(1, "u=1")
                + Frame.make(3, stream: 3, Frame.number(8)) + Self.update(3, "u=1"))
        #expect(!end.session.isOver)
        #expect(end.codes(ofType: 7).isEmpty)
    }

    @Test func noMoreAreKeptThanThereMayBeStreams() {
        var bytes: [UInt8] = []
        for number in 0..<100 as Range<UInt32> { bytes += Self.update(2 * number + 1, "u=1") }
        let end = End.server(bytes + Self.update(1, "u=2"))
        #expect(end.codes(ofType: 7).isEmpty)
        end.receive(Self.update(201, "u=1"))
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.protocolError])
    }

    @Test(
        "What breaks the frame's rules ends the connection",
        arguments: [
            (update(0, "u=1"), HTTP2ErrorCode.protocolError), (update(2, "u=1"), HTTP2ErrorCode.protocolError),
            (update(1, "u=1", on: 1), HTTP2ErrorCode.protocolError),
            (Frame.make(16, [0, 0, 1]), HTTP2ErrorCode.frameSizeError),
            (Frame.make(16), HTTP2ErrorCode.frameSizeError),
        ])
    func rules(frame: [UInt8], code: UInt32) {
        #expect(End.server(frame).codes(ofType: 7) == [code])
    }

    @Test func aServerHasNoPriorities() {
        let end = End(.client)
        _ = end.takeOutput()
        end.receive(Frame.settings + Self.update(1, "u=1"))
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.protocolError])
    }

    @Test func theUrgentStreamsContentGoesFirst() throws {
        let end = End.server([])
        end.receive(
            Frame.headers(Frame.get, stream: 1) + Self.update(3, "u=0") + Frame.headers(Frame.get, stream: 3))
        for id in [1, 3] as [Int32] {
            let stream = try #require(end.streams[id])
            end.session.sendHead(
                end.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
            end.send([UInt8](repeating: UInt8(id), count: 100_000), isLast: true, on: stream)
        }
        // The first windows are used up by whoever was there first; behind that the urgent stream goes alone.
        _ = end.takeOutput()
        let window = Frame.make(8, stream: 1, Frame.number(1 << 20)) + Frame.make(8, stream: 3, Frame.number(1 << 20))
        end.receive(window + Frame.make(8, Frame.number(1 << 20)))
        var order: [UInt8] = []
        while case let bytes = end.takeOutput(), !bytes.isEmpty {
            var place = 0
            while place + 9 <= bytes.count {
                let length = Int(bytes[place]) << 16 | Int(bytes[place + 1]) << 8 | Int(bytes[place + 2])
                if bytes[place + 3] == 0, length > 0 { order.append(bytes[place + 8]) }
                place += 9 + length
            }
        }
        let lastUrgent = try #require(order.lastIndex(of: 3))
        let firstOther = order.firstIndex(of: 1) ?? order.count
        #expect(lastUrgent < firstOther, "\(order)")
    }
}
