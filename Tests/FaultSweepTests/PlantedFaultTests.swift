// Whether the sweep finds what it is for: faults planted between the proxy and its peers, where they look as if the
// proxy had made them. Each must be told by the invariant that it breaks.

import Testing

/// A transport that does something to what another one receives.
private class AlteringTransport: SweepTransport {
    let inner: any SweepTransport
    init(_ inner: any SweepTransport) { self.inner = inner }

    var ending: Ending { inner.ending }
    var hasNews: Bool { inner.hasNews }
    var isBroken: Bool { inner.isBroken }
    func send(_ bytes: ArraySlice<UInt8>) -> Int { inner.send(bytes) }
    func receive(max: Int) -> [UInt8] { inner.receive(max: max) }
    func endSending() { inner.endSending() }
    func close() -> Bool { inner.close() }
    func reset() -> Bool { inner.reset() }
}

private let lastChunk = Array("0\r\n\r\n".utf8)

/// As if the proxy forgot the last chunk, and then ended in order.
private final class LastChunkDropper: AlteringTransport {
    private var hasDropped = false

    override var ending: Ending { hasDropped ? .clean : inner.ending }

    override func receive(max: Int) -> [UInt8] {
        let bytes = inner.receive(max: max)
        guard bytes.count >= lastChunk.count, Array(bytes.suffix(lastChunk.count)) == lastChunk else { return bytes }
        hasDropped = true
        return bytes.dropLast(lastChunk.count)
    }
}

/// As if the proxy ended a truncated response like a whole one.
private final class LastChunkAdder: AlteringTransport {
    private var hasAdded = false

    override var ending: Ending { hasAdded || inner.ending == .open ? inner.ending : .open }

    override func receive(max: Int) -> [UInt8] {
        let bytes = inner.receive(max: max)
        guard bytes.isEmpty, inner.ending != .open, !hasAdded else { return bytes }
        hasAdded = true
        return lastChunk
    }
}

/// As if the proxy let a byte of one exchange slip into another.
private final class ByteSwapper: AlteringTransport {
    override func receive(max: Int) -> [UInt8] {
        inner.receive(max: max).map { $0 == UInt8(ascii: "r") ? UInt8(ascii: "q") : $0 }
    }
}

/// A connection on which the proxy seems to have sent these bytes, and to have ended then.
private final class ReplayTransport: SweepTransport {
    private var bytes: [UInt8]
    private(set) var ending = Ending.open
    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var hasNews: Bool { ending == .open }
    var isBroken: Bool { false }
    func send(_ bytes: ArraySlice<UInt8>) -> Int { 0 }
    func receive(max: Int) -> [UInt8] {
        if bytes.isEmpty { ending = .clean }
        defer { bytes = [] }
        return bytes
    }
    func endSending() {}
    func close() -> Bool { true }
    func reset() -> Bool { true }
}

@Suite struct PlantedFaultTests {
    private func find(_ name: String) throws -> ExchangeCase {
        try #require(ExchangeCase.all.first { $0.name == name })
    }

    private func serverFault(_ kind: Fault.Kind, _ moment: Fault.Moment) -> Schedule {
        var schedule = Schedule()
        schedule.server.fault = Fault(kind: kind, moment: moment)
        return schedule
    }

    @Test func aDroppedLastChunkIsFound() throws {
        let sweep = try Sweep(transport: { LastChunkDropper(try $0.connect()) })
        let outcome = try sweep.run(try find("chunked"), Schedule())
        #expect(outcome.violations == ["answer 0 is whole, and the client does not get it"])
    }

    @Test func anEndThatHidesATruncationIsFound() throws {
        let exchangeCase = try find("chunked")
        let sweep = try Sweep(transport: { LastChunkAdder(try $0.connect()) })
        let bytes = try #require(exchangeCase.plans.first?.response.first?.bytes.count)
        // Between the last byte of content's chunk and the last chunk.
        let outcome = try sweep.run(exchangeCase, serverFault(.close, .sent(bytes - lastChunk.count)))
        #expect(outcome.violations == ["the client sees the end of answer 0, which has none"])
    }

    @Test func aForeignByteIsFound() throws {
        let sweep = try Sweep(transport: { ByteSwapper(try $0.connect()) })
        let outcome = try sweep.run(try find("sized"), Schedule())
        #expect(outcome.violations.contains { $0.hasPrefix("answer 0 has other content") })
    }

    @Test func aRetriedPOSTIsFound() throws {
        let exchangeCase = try find("POST on a warm connection")
        let request = exchangeCase.plans[0].request.flatMap(\.bytes)
        var hasReplayed = false
        let sweep = try Sweep(afterRound: { servers in
            // The server that had the request is lost without an answer: the other one gets it, too.
            let lost = servers.connections.first { $0.hasFaulted && $0.attempts.last?.exchange == 0 }
            guard let lost, !hasReplayed else { return }
            hasReplayed = true
            servers.plant(ReplayTransport(request), server: 1 - lost.server)
        })
        let outcome = try sweep.run(exchangeCase, serverFault(.close, .sent(0)))
        #expect(hasReplayed)
        #expect(outcome.violations == ["POST 0 reaches 2 servers"])
    }

    /// The rule that the invariant about two servers allows for is really used: otherwise it would say nothing.
    @Test(arguments: [("GET", 2), ("PUT", 2), ("POST", 1)])
    func onlyIdempotentRequestsAreSentAgain(_ method: String, _ attemptCount: Int) throws {
        let sweep = try Sweep()
        for kind in [Fault.Kind.close, .endSending, .reset] {
            let schedule = serverFault(kind, .sent(0))
            let outcome = try #require(try sweep.check(try find("\(method) on a warm connection"), schedule))
            #expect(outcome.attemptCount == attemptCount)
        }
    }
}
