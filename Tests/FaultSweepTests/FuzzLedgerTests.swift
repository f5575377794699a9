// Whether the fuzzer's oracle tells each kind of fault from what is in order: the ledger alone, told of an exchange that
// nobody had.

import TestSupport
import Testing

@Suite struct FuzzLedgerTests {
    private final class Story {
        let ledger: FuzzLedger
        let exchange: FuzzExchange
        let attempt: FuzzAttempt
        private let mark: SeenField

        init(_ method: String = "GET", answer: (inout FuzzAnswer) -> Void = { _ in }) {
            var generator = SeededGenerator(seed: 1)
            var settings = FuzzSettings(&generator)
            (settings.isScarce, settings.drains, settings.contentMax) = (false, false, nil)
            var plan = FuzzPlan(tag: 0, settings, &generator)
            (plan.kind, plan.method, plan.path, plan.bytes, plan.padBytes) = (.message, method, "/abort/one/0", 0, 0)
            (plan.framing, plan.trailerBytes) = (.none, 0)
            var whole = FuzzAnswer(framing: .chunked, bytes: 100)
            answer(&whole)
            plan.answers = [whole]
            ledger = FuzzLedger([plan], settings)
            exchange = ledger.exchanges[0]
            exchange.link = FuzzLink("client")
            exchange.endIsSent = true
            attempt = FuzzAttempt(exchange, FuzzLink("server"), isHTTP2: false)
            mark = SeenField(name: Fuzz.mark, value: "0")
            ledger.requestSeen(exchange, attempt, [mark], target: plan.path)
            ledger.requestEndSeen(attempt, .clean)
            attempt.headIsSent = true
        }

        func head() { ledger.headSeen(exchange, status: 200, [mark]) }

        func content(_ count: Int) {
            ledger.contentSeen(exchange, Sea.content(0, .down, from: exchange.receivedBytes, count: count))
        }

        func serverEnds(_ count: Int) { (attempt.sentBytes, attempt.endIsSent) = (count, true) }

        var findings: [String] {
            ledger.checkAll()
            return ledger.findings
        }
    }

    @Test func anAnswerThatPassesWholeIsInOrder() {
        let story = Story()
        story.head()
        story.content(60)
        story.content(40)
        story.serverEnds(100)
        story.ledger.endSeen(story.exchange, .clean)
        #expect(story.findings.isEmpty)
    }

    @Test func anEndThatNobodySaidIsFound() {
        let story = Story()
        story.head()
        story.content(100)
        story.ledger.endSeen(story.exchange, .clean)
        #expect(story.findings.count == 1)
    }

    @Test func anEndBeforeAllContentIsFound() {
        let story = Story()
        story.serverEnds(100)
        story.head()
        story.content(99)
        story.ledger.endSeen(story.exchange, .clean)
        #expect(story.findings.count == 1)
    }

    @Test func aByteThatIsMissingInTheMiddleIsFound() {
        let story = Story()
        story.head()
        story.ledger.contentSeen(story.exchange, Sea.content(0, .down, from: 1, count: 50))
        #expect(story.findings.count == 1)
    }

    @Test(arguments: [0, 1, 2])
    func trailersAreWholeOrTheEndIsNotClean(_ count: Int) {
        let story = Story { $0.trailerBytes = 5000 }
        story.serverEnds(100)
        story.head()
        story.content(100)
        let trailers = Sea.trailers(0, .down, bytes: 5000)
        #expect(trailers.count == 2)
        story.ledger.endSeen(story.exchange, .clean, trailers: Array(trailers.prefix(count)))
        #expect(story.findings.isEmpty == (count == 2))
    }

    @Test(arguments: [("POST", false), ("POST", true), ("PUT", false)])
    func onlyWhatIsIdempotentOrRefusedIsSentAgain(_ method: String, _ isRefused: Bool) {
        let story = Story(method)
        story.attempt.isRefused = isRefused
        let again = FuzzAttempt(story.exchange, FuzzLink("another"), isHTTP2: true)
        let mark = SeenField(name: Fuzz.mark, value: "0")
        story.ledger.requestSeen(story.exchange, again, [mark], target: story.exchange.plan.path)
        #expect(story.findings.isEmpty == (method == "PUT" || isRefused))
    }

    @Test(arguments: [false, true])
    func anErrorOfTheProxyNeedsACause(_ isFaulty: Bool) {
        let story = Story()
        story.attempt.link.hasFaulted = isFaulty
        story.ledger.headSeen(story.exchange, status: 502, [SeenField(name: "Proxy-Status", value: "a; error=b")])
        #expect(story.findings.isEmpty == isFaulty)
    }

    @Test func aBrokenEndOfWhatWasWholeIsFound() {
        let story = Story()
        story.head()
        story.serverEnds(100)
        story.ledger.endSeen(story.exchange, .broken)
        #expect(story.findings.count == 1)
    }

    @Test func theAnswerOfAnotherRequestIsFound() {
        let story = Story()
        story.ledger.headSeen(story.exchange, status: 200, [SeenField(name: Fuzz.mark, value: "1")])
        #expect(story.findings.count == 1)
    }
}
