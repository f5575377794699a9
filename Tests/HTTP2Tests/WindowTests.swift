// Windows: what is taken is opened again, what is not is not; and nobody waits for another's stream.

import HTTP2Support
import HTTPSemantics
import Testing

@testable import HTTP2

@Suite struct WindowTests {
    private func upload(_ pair: Pair) throws -> HTTP2StreamPointer {
        try #require(pair.client.request("POST / HTTP/1.1\r\nHost: a\r\n\r\n", isWhole: false))
    }

    @Test func oneStalledUploadStarvesNoOther() throws {
        let pair = Pair()
        pair.server.takesContent = false
        // More than a default connection's window, on several streams that nobody takes anything of.
        let stalled = try (0..<4).map { _ in try upload(pair) }
        pair.exchange()
        for stream in stalled { pair.client.send([UInt8](repeating: 1, count: 200_000), on: stream) }
        pair.exchange()
        for stream in stalled {
            // Each has sent what its window is, and the rest waits.
            #expect(pair.client.waitingBytes(stream.pointee.id) == 200_000 - 65_536)
        }
        pair.server.takesContent = true
        pair.server.told = []
        let other = try upload(pair)
        pair.exchange()
        pair.client.send([UInt8](repeating: 2, count: 500_000), isLast: true, on: other)
        pair.exchange()
        #expect(pair.client.waitingBytes(other.pointee.id) == 0)
        #expect(pair.server.told.contains(.ended(stream: other.pointee.id)))
    }

    @Test func windowsGrowForStreamsThatAreTaken() throws {
        let pair = Pair()
        let stream = try upload(pair)
        pair.exchange()
        for _ in 0..<40 {
            pair.client.send([UInt8](repeating: 1, count: 100_000), on: stream)
            pair.exchange()
        }
        let window = try #require(pair.server.streams[1]).pointee.windowBytes
        #expect(window == HTTP2Session.windowBytesMax)
        // Not one of them is taken any more: no more than the window comes.
        pair.server.takesContent = false
        pair.client.send([UInt8](repeating: 1, count: 3 << 20), on: stream)
        pair.exchange()
        #expect(pair.client.waitingBytes(1) >= (3 << 20) - Int(window))
    }

    @Test func windowsGrowWithinTheConnectionsBudget() throws {
        let pair = Pair()
        let streams = try (0..<10).map { _ in try upload(pair) }
        pair.exchange()
        for _ in 0..<40 {
            for stream in streams { pair.client.send([UInt8](repeating: 1, count: 60_000), on: stream) }
            pair.exchange()
        }
        let total = pair.server.streams.values.reduce(0) { $0 + Int($1.pointee.windowBytes) }
        #expect(total > 10 * Int(HTTP2Session.windowBytesMin))
        #expect(total <= 10 * Int(HTTP2Session.windowBytesMin) + HTTP2Session.windowBudgetBytes)
    }

    /// A server that has sent as much as a window takes, and has more.
    private func blocked(initialWindow: UInt32 = 65_535) throws -> End {
        let end = End.server(Frame.make(4, [0, 4] + Frame.number(initialWindow)) + Frame.headers(Frame.get))
        let stream = try #require(end.streams[1])
        end.session.sendHead(end.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
        end.send([UInt8](repeating: 1, count: 200_000), on: stream)
        _ = end.takeOutput()
        return end
    }

    private func open(_ end: End, stream: Int, by bytes: UInt32) {
        end.receive(Frame.make(8, stream: UInt32(stream), Frame.number(bytes)))
    }

    private func sizes(_ end: End) -> [Int] {
        let bytes = end.takeOutput()
        var sizes: [Int] = []
        var place = 0
        while place + 9 <= bytes.count {
            let length = Int(bytes[place]) << 16 | Int(bytes[place + 1]) << 8 | Int(bytes[place + 2])
            if bytes[place + 3] == 0 { sizes.append(length) }
            place += 9 + length
        }
        return sizes
    }

    @Test func aLittleOfAWindowIsNotFilled() throws {
        let end = try blocked()
        open(end, stream: 0, by: 100)
        open(end, stream: 1, by: 100)
        #expect(sizes(end).isEmpty && end.session.holdsContent)
        open(end, stream: 0, by: 4096)
        #expect(sizes(end).isEmpty && end.session.holdsContent)
        open(end, stream: 1, by: 4096)
        #expect(sizes(end) == [4196] && !end.session.holdsContent)
    }

    @Test func theConnectionsWindowMayComeLast() throws {
        let end = try blocked()
        open(end, stream: 1, by: 50_000)
        open(end, stream: 0, by: 10)
        #expect(sizes(end).isEmpty && end.session.holdsContent)
        // A frame, and what is left of this is little again.
        open(end, stream: 0, by: 16_384)
        #expect(sizes(end) == [16_384] && end.session.holdsContent)
    }

    @Test func whatLittleThereIsGoesWhenNothingMoreCame() throws {
        let end = try blocked()
        open(end, stream: 0, by: 100)
        open(end, stream: 1, by: 100)
        #expect(sizes(end).isEmpty)
        end.session.sendRemnants()
        #expect(sizes(end) == [100])
        #expect(!end.session.holdsContent)
    }

    @Test func newContentDoesNotFillIt() throws {
        let end = try blocked()
        open(end, stream: 0, by: 100)
        open(end, stream: 1, by: 100)
        end.send([2], on: try #require(end.streams[1]))
        #expect(sizes(end).isEmpty && end.session.holdsContent)
    }

    @Test func windowsThatAreSmallFromTheStartAreFilled() throws {
        let end = try blocked(initialWindow: 1)
        open(end, stream: 1, by: 1)
        #expect(sizes(end) == [1])
        #expect(!end.session.holdsContent)
    }

    @Test func theRestOfAMessageGoesAtOnce() throws {
        let end = try blocked()
        open(end, stream: 0, by: 200_000)
        open(end, stream: 1, by: 200_000 - 65_535)
        // All that was left of the window is less than a frame, and all that there is.
        let sent = (0..<3).flatMap { _ in sizes(end) }
        #expect(sent.reduce(0, +) == 200_000 - 65_535)
        #expect(!end.session.holdsContent)
    }

    @Test func aStreamThatIsResetWaitsForNothing() throws {
        let end = try blocked()
        open(end, stream: 0, by: 100)
        open(end, stream: 1, by: 100)
        #expect(sizes(end).isEmpty && end.session.holdsContent)
        end.receive(Frame.make(3, stream: 1, Frame.number(8)))
        #expect(!end.session.holdsContent)
    }

    @Test func settingsMayOpenWhatIsLittle() throws {
        let end = try blocked()
        open(end, stream: 0, by: 100_000)
        open(end, stream: 1, by: 100)
        #expect(sizes(end).isEmpty && end.session.holdsContent)
        end.receive(Frame.make(4, [0, 4] + Frame.number(75_535)))
        #expect(sizes(end) == [10_100])
    }

    @Test func equalStreamsTakeTurns() throws {
        let pair = Pair()
        for _ in 0..<2 { pair.client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }
        pair.exchange()
        for id in [Int32(1), 3] {
            let stream = try #require(pair.server.streams[id])
            pair.server.session.sendHead(
                pair.server.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
            pair.server.send([UInt8](repeating: 1, count: 300_000), isLast: true, on: stream)
        }
        pair.client.told = []
        pair.exchange()
        let order = pair.client.told.compactMap { told -> Int32? in
            if case .content(let stream, _) = told { return stream }
            return nil
        }
        let firstOfSecond = try #require(order.firstIndex(of: 3))
        let lastOfFirst = try #require(order.lastIndex(of: 1))
        #expect(firstOfSecond < lastOfFirst)
        #expect(pair.client.told.contains(.ended(stream: 1)) && pair.client.told.contains(.ended(stream: 3)))
    }

    @Test func whatIsUrgentOvertakes() throws {
        let pair = Pair()
        pair.client.request("GET /slow HTTP/1.1\r\nHost: a\r\nPriority: u=7\r\n\r\n")
        pair.exchange()
        let slow = try #require(pair.server.streams[1])
        pair.server.session.sendHead(
            pair.server.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: slow)
        pair.server.send([UInt8](repeating: 1, count: 400_000), isLast: true, on: slow)
        pair.client.receive(pair.server.takeOutput())
        pair.client.request("GET /fast HTTP/1.1\r\nHost: a\r\nPriority: u=0\r\n\r\n")
        pair.server.receive(pair.client.takeOutput())
        let fast = try #require(pair.server.streams[3])
        pair.server.session.sendHead(
            pair.server.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: fast)
        pair.server.send([UInt8](repeating: 2, count: 100_000), isLast: true, on: fast)
        pair.client.told = []
        pair.exchange()
        let ends = pair.client.told.compactMap { told -> Int32? in
            if case .ended(let stream) = told { return stream }
            return nil
        }
        #expect(ends == [3, 1])
    }

    @Test func pendingIsBounded() throws {
        let pair = Pair()
        pair.client.session.terminate(0)
        let other = Pair()
        other.client.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        other.exchange()
        let stream = try #require(other.server.streams[1])
        other.server.session.sendHead(
            other.server.write("HTTP/1.1 200 OK\r\n\r\n"), isWhole: false, opensTunnel: false, on: stream)
        for _ in 0..<100 { other.server.send([UInt8](repeating: 1, count: 65_536), on: stream) }
        #expect(other.server.session.pending.pointee.count <= HTTP2Session.pendingBytesMax + 17_000)
    }

    @Test func aShutdownTakesTwoSteps() {
        let pair = Pair()
        pair.server.session.announceShutdown()
        // A request that was on its way is still taken.
        pair.client.request("GET /one HTTP/1.1\r\nHost: a\r\n\r\n")
        let up = pair.client.takeOutput()
        pair.client.receive(pair.server.takeOutput())
        pair.server.receive(up)
        #expect(pair.server.told.first == .head(stream: 1, "GET /one HTTP/1.1|Host: a"))
        #expect(pair.client.told.contains(.goAway))
        pair.exchange()
        #expect(pair.server.told.contains(.pingAnswered))
        #expect(!pair.client.session.mayRequest)
        pair.server.session.shutDown()
        pair.exchange()
        #expect(!pair.server.session.isOver)
    }
}
