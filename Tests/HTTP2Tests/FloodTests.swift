// Floods come to an end, and heavy honest use does not.

import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct FloodTests {
    /// Frames of one kind, by their number.
    static let floods: [(FloodKind, @Sendable (Int) -> [UInt8])] = [
        (.pings, { _ in Frame.make(6, [UInt8](repeating: 1, count: 8)) }),
        (.settings, { _ in Frame.settings }),
        (.others, { _ in Frame.make(2, stream: 1, [0, 0, 0, 0, 1]) }),
        (.others, { _ in Frame.make(0x77, [1]) }),
        (.pings, { _ in Frame.make(6, flags: 1, [UInt8](repeating: 1, count: 8)) }),
        (.windowUpdates, { _ in Frame.make(8, Frame.number(1)) }),
        (.windowUpdates, { _ in Frame.make(8, Frame.number(1024)) }),
        (
            .windowUpdates,
            { number in (number == 0 ? Frame.headers(Frame.get) : []) + Frame.make(8, stream: 1, Frame.number(1024)) }
        ),
        (
            .emptyData,
            { number in
                (number == 0 ? Frame.headers(Frame.get, endsStream: false) : []) + Frame.make(0, stream: 1)
            }
        ),
        (
            .emptyData,
            { number in
                // Padding alone, of no bytes and of many.
                let padding = number % 2 == 0 ? [0] : [255] + [UInt8](repeating: 0, count: 255)
                return (number == 0 ? Frame.headers(Frame.get, endsStream: false) : [])
                    + Frame.make(0, flags: 8, stream: 1, padding)
            }
        ),
        (
            .resets,
            { number in
                let stream = UInt32(1 + 2 * number)
                return Frame.headers(Frame.get, stream: stream) + Frame.make(3, stream: stream, Frame.number(8))
            }
        ),
        (
            .forcedResets,
            { number in Frame.headers(Frame.get + [("connection", "x")], stream: UInt32(1 + 2 * number)) }
        ),
        (
            .fieldSections,
            { number in
                // A line that is in the table, four thousand times.
                let first =
                    Frame.fields(Frame.get)
                    + (number == 0 ? [0x40, 1, UInt8(ascii: "x"), 1, UInt8(ascii: "y")] : [])
                return Frame.make(
                    1, flags: 5, stream: UInt32(1 + 2 * number), first + [UInt8](repeating: 0xBE, count: 8000))
            }
        ),
    ]

    @Test func changesOfTheTableAreAFloodFromTheThirdOn() {
        // 4,096, in three bytes; 0; and what may stand before them in the frame.
        let size: [UInt8] = [0x3F, 0xE1, 0x1F]
        for (flags, before): (UInt8, [UInt8]) in [(5, []), (13, [0]), (37, [0, 0, 0, 0, 7])] {
            for (updates, isFlood) in [(size + [0x20], false), (size + [0x20] + size, true)] {
                let end = End.server([])
                for number in 0..<100 {
                    let stream = UInt32(1 + 2 * number)
                    end.receive(Frame.make(1, flags: flags, stream: stream, before + updates + Frame.fields(Frame.get)))
                    end.session.exchangeCompleted()
                    if let stream = end.streams[Int32(stream)] {
                        end.session.reset(stream, code: HTTP2ErrorCode.noError)
                    }
                    _ = end.takeOutput()
                }
                #expect(end.session.flood == (isFlood ? .fieldSections : nil), "\(flags)")
            }
        }
    }

    @Test(arguments: floods.indices)
    func endBeforeTwoThousandFrames(_ index: Int) {
        let (kind, frame) = Self.floods[index]
        let end = End.server([])
        var count = 0
        while end.session.flood == nil, count < 2000 {
            end.receive(frame(count))
            end.session.produce()
            count += 1
        }
        #expect(end.session.flood == kind)
        #expect(count < 1100)
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.enhanceYourCalm])
        #expect(end.session.isOver)
    }

    @Test func continuationsEnd() {
        let end = End.server(Frame.make(1, stream: 1, Frame.fields(Frame.get)))
        for _ in 0..<100 { end.receive(Frame.make(9, stream: 1)) }
        #expect(end.session.flood == .continuations)
        #expect(end.codes(ofType: 7) == [HTTP2ErrorCode.enhanceYourCalm])
    }

    @Test func timeGivesBackWhatIsSpent() {
        let end = End.server([])
        // Thirty a second, for ten minutes.
        for number in 0..<18_000 {
            end.now = UInt64(number) * 1000 / 30
            end.receive(Frame.make(6, [UInt8](repeating: 1, count: 8)))
            _ = end.takeOutput()
        }
        #expect(end.session.flood == nil)
    }

    @Test func exchangesGiveBackWhatTheyTake() throws {
        let pair = Pair()
        for number in 0..<5000 {
            pair.client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            pair.exchange()
            let stream = try #require(pair.server.streams[Int32(1 + 2 * number)])
            pair.server.session.sendHead(
                pair.server.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), isWhole: true,
                opensTunnel: false, on: stream)
            pair.exchange()
            pair.server.session.exchangeCompleted()
        }
        #expect(pair.server.session.flood == nil)
    }

    @Test func contentMayBeGivenBackInSmallSteps() throws {
        let end = End.server(Frame.headers(Frame.get))
        let stream = try #require(end.streams[1])
        end.session.sendHead(end.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
        end.send([UInt8](repeating: 1, count: 4 << 20), on: stream)
        // Each 500 bytes that came are told, to both windows.
        for _ in 0..<(2 << 20) / 500 {
            _ = end.takeOutput()
            end.receive(Frame.make(8, Frame.number(500)) + Frame.make(8, stream: 1, Frame.number(500)))
        }
        #expect(end.session.flood == nil)
        #expect(end.waitingBytes(1) < 2 << 20)
    }

    @Test func contentThatIsGivenBackTwiceIsNot() throws {
        var budget = FrameBudget(nowMilliseconds: 0)
        budget.contentSent(bytes: 100_000, isAll: false)
        for _ in 0..<200 { budget.windowOpened(step: 1000) }
        #expect(!budget.isExhausted)
        var count: Int32 = 0
        while !budget.isExhausted, count < 2000 {
            budget.windowOpened(step: 1000)
            count += 1
        }
        #expect(count == FrameBudget.tokensMax + 1)
    }

    @Test func eventsMayBeGivenBackOneByOne() throws {
        let end = End.server(Frame.headers(Frame.get))
        let stream = try #require(end.streams[1])
        end.session.sendHead(end.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
        for _ in 0..<5000 {
            end.send("data: x\n\n", on: stream)
            _ = end.takeOutput()
            end.receive(Frame.make(8, Frame.number(9)) + Frame.make(8, stream: 1, Frame.number(9)))
        }
        #expect(end.session.flood == nil)
    }

    @Test func refusedRequestsCostMoreThanTheirAnswersGiveBack() {
        var budget = FrameBudget(nowMilliseconds: 0)
        for _ in 0..<400 where !budget.isExhausted {
            budget.spend(1, .streams)
            budget.requestRefused()
            budget.contentSent(bytes: 20, isAll: true)
            budget.exchangeCompleted()
        }
        #expect(budget.exhaustedBy == .streams)
    }

    @Test func contentOnItsWayToAStreamThatWeHaveResetIsForgiven() throws {
        let end = End.server(Frame.headers(Frame.get, endsStream: false))
        end.session.reset(try #require(end.streams[1]), code: HTTP2ErrorCode.noError)
        _ = end.takeOutput()
        for _ in 0..<600 { end.receive(Frame.make(0, stream: 1, [UInt8](repeating: 1, count: 100))) }
        #expect(end.session.flood == nil)
        // A window is not that large.
        for _ in 0..<3000 { end.receive(Frame.make(0, stream: 1, [1])) }
        #expect(end.session.flood == .emptyData)
    }

    @Test func aMeterFindsFramesInPieces() {
        for piece in 1...20 {
            var budget = FrameBudget(nowMilliseconds: 0)
            var meter = FrameMeter(prefaceBytes: 24)
            let bytes = Frame.preface + (0..<1100).flatMap { _ in Frame.make(6, [UInt8](repeating: 9, count: 8)) }
            var start = 0
            while start < bytes.count {
                let end = min(bytes.count, start + piece)
                Array(bytes[start..<end]).withUnsafeBufferPointer { meter.scan($0, charging: &budget) }
                start = end
            }
            #expect(budget.exhaustedBy == .pings, "\(piece)")
        }
    }
}
