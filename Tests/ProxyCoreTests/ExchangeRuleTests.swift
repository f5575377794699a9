// The rules that an exchange decides: retries, early answers, interim responses, closing clients, limits, answers of
// our own (docs/FORWARDING.md, rules 2, 4, 6, 9, 10, 12).

import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

@Suite struct ExchangeRuleTests {
    private func exchange(
        _ method: String = "GET", version: String = "1.1", _ lines: String = "", mayPersist: Bool = true,
        _ change: (inout Forwarding) -> Void = { _ in }
    ) throws -> Exchange {
        let request = try ParsedHead.request(method, "/", version: version, lines)
        return Exchange(
            requestHeadReceived: request, forwarding: try forwarding(change), mayPersist: mayPersist, now: 10)
    }

    private func attached(
        _ method: String = "GET", version: String = "1.1", _ lines: String = "", isReused: Bool = false,
        _ change: (inout Forwarding) -> Void = { _ in }
    ) throws -> Exchange {
        var exchange = try exchange(method, version: version, lines, change)
        exchange.upstreamSought()
        #expect(exchange.upstreamAttached(isReused: isReused, now: 20) == Actions(.none, .sendRequest))
        return exchange
    }

    // MARK: Retries, rule 10

    @Test(arguments: [
        ("GET", true), ("HEAD", true), ("PUT", true), ("DELETE", true), ("OPTIONS", true), ("TRACE", true),
        ("POST", false), ("PATCH", false), ("UNKNOWN", false),
    ])
    func aStaleConnectionIsRetriedOnceIfTheMethodMayBe(_ method: String, _ isRetried: Bool) throws {
        var exchange = try attached(method, isReused: true)
        #expect(exchange.mayReuse(idleMilliseconds: 999))
        #expect(exchange.mayReuse(idleMilliseconds: 1000) == isRetried)
        let actions = exchange.upstreamFailed(.closedBeforeResponse)
        guard isRetried else {
            #expect(actions == Actions(.refuse, .close))
            #expect(exchange.failure == .closedBeforeResponse)
            return
        }
        #expect(actions == Actions(.none, .retry))
        #expect(exchange.failure == nil)
        // On a fresh connection, however young an idle one is.
        #expect(!exchange.mayReuse(idleMilliseconds: 0))
        #expect(exchange.upstreamAttached(isReused: false, now: 30) == Actions(.none, .sendRequest))
        #expect(exchange.upstreamFailed(.closedBeforeResponse) == Actions(.refuse, .close))
        #expect(exchange.tries == 2)
    }

    @Test func aRequestThatNeverLeftIsRetriedWhateverItsMethod() throws {
        var exchange = try attached("POST", isReused: true)
        #expect(exchange.upstreamFailed(.closedBeforeResponse, nothingSent: true) == Actions(.none, .retry))
    }

    @Test func aFreshConnectionThatClosesIsNotRetried() throws {
        var exchange = try attached("GET", isReused: false)
        #expect(exchange.upstreamFailed(.closedBeforeResponse, nothingSent: true) == Actions(.refuse, .close))
    }

    @Test func nothingIsRetriedAfterAByteOfAResponse() throws {
        var exchange = try attached("GET", isReused: true)
        exchange.responseBytesReceived()
        #expect(!exchange.isReplayable)
        #expect(exchange.upstreamFailed(.closedBeforeResponse) == Actions(.refuse, .close))
        var interim = try attached("GET", isReused: true)
        interim.responseBytesReceived()
        _ = interim.interimReceived(status: 103, bytes: 30, now: 30)
        #expect(interim.upstreamFailed(.closedBeforeResponse) == Actions(.refuse, .close))
    }

    @Test func contentThatIsGoneIsNotRetried() throws {
        var exchange = try attached("PUT", "Content-Length: 5\r\n", isReused: true)
        _ = exchange.requestContentReceived(5)
        exchange.isReplayable = false
        #expect(exchange.upstreamFailed(.closedBeforeResponse) == Actions(.refuse, .close))
    }

    @Test func contentInHandIsSentAgain() throws {
        var exchange = try attached("PUT", "Content-Length: 5\r\n", isReused: true)
        _ = exchange.requestContentReceived(3)
        #expect(exchange.upstreamFailed(.closedBeforeResponse) == Actions(.none, .retry))
        #expect(!exchange.wantsRequestContent)
        #expect(exchange.upstreamAttached(isReused: false, now: 30) == Actions(.none, .sendRequest))
        #expect(exchange.wantsRequestContent)
        #expect(exchange.requestContentReceived(2) == Actions(.none, .forwardContent))
        #expect(exchange.requestContentBytes == 5)
    }

    @Test(arguments: Failure.allCases)
    func onlyWhatWasNotProcessedIsTriedElsewhere(_ failure: Failure) throws {
        let isConnecting: Bool
        switch failure {
        case .nameNotFound, .nameTimedOut, .connectRefused, .connectUnreachable, .connectTimedOut,
            .tlsCertificateRefused, .tlsAlertReceived, .tlsFailed:
            isConnecting = true
        default: isConnecting = false
        }
        #expect(failure.isBeforeRequest == isConnecting)
        var exchange = try exchange("POST")
        exchange.upstreamSought()
        #expect(exchange.upstreamFailed(failure, nothingSent: true).upstream == (isConnecting ? .retry : .close))
    }

    @Test(arguments: [0, 1, 2, 5])
    func failuresToConnectGoToTheNextServer(_ retriesMax: Int) throws {
        var exchange = try exchange("POST") { $0.retriesMax = retriesMax }
        exchange.upstreamSought()
        for _ in 0..<retriesMax {
            #expect(exchange.upstreamFailed(.connectRefused, nothingSent: true) == Actions(.none, .retry))
        }
        #expect(exchange.upstreamFailed(.connectTimedOut, nothingSent: true) == Actions(.refuse, .close))
        #expect(exchange.failure == .connectTimedOut)
        #expect(Int(exchange.tries) == retriesMax + 1)
    }

    @Test func withoutAnotherServerNothingIsTriedAgain() throws {
        var exchange = try exchange("GET")
        exchange.upstreamSought()
        let actions = exchange.upstreamFailed(.connectRefused, nothingSent: true, hasAlternative: false)
        #expect(actions == Actions(.refuse, .close))
    }

    @Test func retriesOffDoNotTouchStaleConnections() throws {
        // A close of an idle connection that crosses the request is no failure of the server.
        var exchange = try attached("GET", isReused: true) { $0.retriesMax = 0 }
        #expect(exchange.upstreamFailed(.closedBeforeResponse) == Actions(.none, .retry))
    }

    // MARK: Early answers, rule 6

    @Test func anEarlyAnswerOfAServerThatReadsOn() throws {
        var exchange = try attached("POST", "Content-Length: 5\r\n")
        let head = try ParsedHead.response(200, "Content-Length: 1\r\n")
        #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
        #expect(!exchange.closesDownstream)
        #expect(exchange.responseContentReceived(1, now: 31) == Actions(.forwardContent))
        #expect(exchange.responseEnded(isReusable: true) == Actions(.endResponse))
        #expect(exchange.wantsRequestContent)
        #expect(exchange.requestContentReceived(5) == Actions(.none, .forwardContent))
        #expect(exchange.requestEnded(now: 40) == Actions(.finish, .endRequestAndRelease))
        #expect(exchange.failure == nil)
    }

    @Test func anEarlyAnswerOfAServerThatCloses() throws {
        var exchange = try attached("POST", "Content-Length: 5\r\n")
        let head = try ParsedHead.response(413, "Content-Length: 0\r\nConnection: close\r\n")
        #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
        // The client is told before the head leaves.
        #expect(exchange.closesDownstream)
        #expect(exchange.responseEnded(isReusable: false) == Actions(.finishAndClose, .close))
        #expect(exchange.failure == nil)
    }

    @Test func aFinalAnswerInsteadOfA100() throws {
        var exchange = try attached("POST", "Content-Length: 5\r\nExpect: 100-continue\r\n")
        #expect(exchange.awaitsContinue)
        let head = try ParsedHead.response(401, "Content-Length: 0\r\n")
        #expect(exchange.responseHeadReceived(head, now: 30) == Actions(.forwardHead))
        #expect(exchange.closesDownstream)
        #expect(exchange.responseEnded(isReusable: true) == Actions(.finishAndClose, .close))
    }

    @Test func aClientThatDoesNotWaitForThe100() throws {
        var exchange = try attached("POST", "Content-Length: 5\r\nExpect: 100-continue\r\n")
        _ = exchange.requestContentReceived(1)
        #expect(!exchange.awaitsContinue)
        _ = exchange.responseHeadReceived(try ParsedHead.response(200, "Content-Length: 0\r\n"), now: 30)
        #expect(!exchange.closesDownstream)
        #expect(exchange.responseEnded(isReusable: true) == Actions(.endResponse))
    }

    // MARK: Interim responses, rule 2

    @Test(arguments: [InterimPolicy.forward, .http2, .off], [100, 102, 103, 199] as [UInt16])
    func interimPolicies(_ policy: InterimPolicy, _ status: UInt16) throws {
        var exchange = try attached("POST", "Content-Length: 5\r\nExpect: 100-continue\r\n") { $0.interim = policy }
        let isForwarded = policy == .forward || status == 100
        #expect(
            exchange.interimReceived(status: status, bytes: 9, now: 30).downstream
                == (isForwarded ? .forwardInterim : .none))
        #expect(exchange.awaitsContinue == (status != 100))
        #expect(exchange.phases.firstInterim == 30)
        _ = exchange.interimReceived(status: status, bytes: 9, now: 31)
        #expect(exchange.phases.firstInterim == 30)
        #expect(exchange.interimBytes == 18)
        var old = try attached("POST", version: "1.0", "Content-Length: 5\r\n") { $0.interim = policy }
        #expect(old.interimReceived(status: status, bytes: 9, now: 30) == Actions())
    }

    @Test func interimHeadsAreBounded() throws {
        var exchange = try attached()
        for _ in 0..<256 {
            #expect(exchange.interimReceived(status: 103, bytes: 1024, now: 30) == Actions(.forwardInterim))
        }
        #expect(exchange.interimReceived(status: 103, bytes: 1, now: 30) == Actions(.refuse, .close))
        #expect(exchange.failure == .tooManyInterim)
        #expect(Failure.tooManyInterim.status(.startLine) == 502)
    }

    @Test func aSwitchNobodyAskedFor() throws {
        var exchange = try attached()
        #expect(exchange.responseHeadReceived(try ParsedHead.response(101), now: 30) == Actions(.refuse, .close))
        #expect(exchange.failure == .unexpectedSwitch)
        #expect(exchange.failure?.status(exchange.fault) == 502)
    }

    // MARK: The client's connection

    @Test func persistenceOfTheClient() throws {
        #expect(try !exchange().closesDownstream)
        #expect(try exchange("GET", "Connection: close\r\n").closesDownstream)
        #expect(try exchange("GET", version: "1.0").closesDownstream)
        #expect(try !exchange("GET", version: "1.0", "Connection: keep-alive\r\n").closesDownstream)
        #expect(try exchange(mayPersist: false).closesDownstream)
    }

    @Test func anHTTP10ClientLearnsTheEndByTheClose() throws {
        for (lines, closes) in [
            ("Content-Length: 3\r\n", false), ("Transfer-Encoding: chunked\r\n", true), ("", true),
        ] {
            var exchange = try attached("GET", version: "1.0", "Connection: keep-alive\r\n")
            _ = exchange.responseHeadReceived(try ParsedHead.response(200, lines), now: 30)
            #expect(exchange.closesDownstream == closes)
        }
        var bodyless = try attached("GET", version: "1.0", "Connection: keep-alive\r\n")
        _ = bodyless.responseHeadReceived(try ParsedHead.response(304), now: 30)
        #expect(!bodyless.closesDownstream)
    }

    @Test(arguments: [ClientClosePolicy.abort, .finish, .halfClose])
    func aClientThatCloses(_ policy: ClientClosePolicy) throws {
        func whole() throws -> Exchange { try attached("GET") { $0.onClientClose = policy } }
        func upload() throws -> Exchange { try attached("POST", "Content-Length: 5\r\n") { $0.onClientClose = policy } }
        let gone = Actions(.close, .close)
        var ended = try whole()
        #expect(ended.clientEnded() == (policy == .abort ? gone : Actions()))
        #expect(ended.failure == (policy == .abort ? .clientGone : nil))
        var reset = try whole()
        #expect(reset.clientReset() == (policy == .finish ? Actions() : gone))
        if policy == .finish {
            // The answer runs out unread, and the connection is not used again.
            _ = reset.responseHeadReceived(try ParsedHead.response(200, "Content-Length: 0\r\n"), now: 30)
            #expect(reset.responseEnded(isReusable: true) == Actions(.finishAndClose, .release))
        }
        // A request that is cut short was not asked.
        var cutShort = try upload()
        #expect(cutShort.clientEnded() == gone)
        var cutByReset = try upload()
        #expect(cutByReset.clientReset() == gone)
    }

    // MARK: Limits

    @Test func contentThatIsTooLong() throws {
        var exchange = try attached("POST", "Transfer-Encoding: chunked\r\n") { $0.contentBytesMax = 10 }
        #expect(!exchange.exceedsContentMax(10))
        #expect(exchange.exceedsContentMax(11))
        #expect(exchange.requestContentReceived(10) == Actions(.none, .forwardContent))
        #expect(exchange.requestContentReceived(1) == Actions(.refuse, .close))
        #expect(exchange.failure == .requestContentTooLong)
        #expect(exchange.failure?.status(.startLine) == 413)
        #expect(exchange.closesDownstream)
        let unbounded = try self.exchange()
        #expect(!unbounded.exceedsContentMax(.max))
    }

    // MARK: Answers of our own

    @Test func theRestOfARefusedRequestIsReadIfItIsShort() throws {
        func closes(_ lines: String, _ remaining: UInt64?) throws -> Bool {
            var exchange = try exchange("POST", lines)
            #expect(exchange.refused(.noRoute) == Actions(.refuse))
            exchange.localAnswerBegan(status: 404, requestContentRemaining: remaining)
            #expect(exchange.status == 404)
            return exchange.closesDownstream
        }
        #expect(try !closes("", 0))
        #expect(try !closes("Content-Length: 65536\r\n", 65_536))
        #expect(try closes("Content-Length: 65537\r\n", 65_537))
        #expect(try closes("Transfer-Encoding: chunked\r\n", nil))
        // Whether the client sends content after all cannot be known.
        #expect(try closes("Content-Length: 5\r\nExpect: 100-continue\r\n", 5))
    }

    @Test(arguments: [Failure.requestRefused, .requestHeadTimedOut, .requestContentTimedOut, .requestContentTooLong])
    func refusalsThatEndTheConnection(_ failure: Failure) throws {
        var exchange = try exchange()
        #expect(exchange.refused(failure, fault: .host) == Actions(.refuse))
        #expect(exchange.fault == .host)
        exchange.localAnswerBegan(status: failure.status(.host), requestContentRemaining: 0)
        #expect(exchange.localAnswerEnded() == Actions(.finishAndClose))
    }

    @Test func aBadGatewayLeavesTheClientItsConnection() throws {
        var exchange = try attached()
        #expect(exchange.upstreamFailed(.responseRefused, fault: .folding) == Actions(.refuse, .close))
        #expect(exchange.fault == .folding)
        exchange.localAnswerBegan(status: 502, requestContentRemaining: 0)
        #expect(exchange.localAnswerEnded() == Actions(.finish))
    }

    @Test func anUploadBehindAnAnswerOfOurOwn() throws {
        var exchange = try attached("POST", "Content-Length: 50\r\n")
        _ = exchange.upstreamFailed(.closedBeforeResponse)
        exchange.localAnswerBegan(status: 502, requestContentRemaining: 50)
        #expect(exchange.wantsRequestContent)
        #expect(exchange.localAnswerEnded() == Actions(.endResponse))
        #expect(exchange.requestContentReceived(50) == Actions())
        #expect(exchange.requestEnded(now: 50) == Actions(.finish))
    }

    // MARK: What is told of it

    @Test func phasesAndCounts() throws {
        var exchange = try attached("POST", "Content-Length: 5\r\n")
        _ = exchange.requestContentReceived(2)
        _ = exchange.requestContentReceived(3)
        _ = exchange.requestEnded(now: 25)
        exchange.responseBytesReceived()
        _ = exchange.responseHeadReceived(try ParsedHead.response(200, "Content-Length: 7\r\n"), now: 30)
        _ = exchange.responseContentReceived(3, now: 40)
        _ = exchange.responseContentReceived(4, now: 50)
        #expect(exchange.responseEnded(isReusable: true) == Actions(.finish, .release))
        let phases = exchange.phases
        #expect(phases.requestHead == 10)
        #expect(phases.upstreamAttached == 20)
        #expect(phases.requestEnd == 25)
        #expect(phases.firstInterim == 0)
        #expect(phases.responseHead == 30)
        #expect(phases.firstContent == 40)
        #expect(exchange.requestContentBytes == 5)
        #expect(exchange.responseContentBytes == 7)
        #expect(exchange.status == 200)
        #expect(exchange.failure == nil)
    }

    @Test func whoIsStillOwedAnAnswerAtTheEndGetsOne() throws {
        for (stage, expected) in [
            (Stage.seekingUpload, Actions(.refuse, .close)), (.attached, Actions(.refuse, .close)),
            (.relaying, Actions(.truncate, .close)), (.answeredUpload, Actions(.close, .close)),
            (.answeringLocally, Actions(.truncate)), (.answeredLocallyDiscarding, Actions(.close)),
        ] {
            var exchange = try stage.make(try forwarding())
            #expect(exchange.abandoned(.shutDown) == expected, "\(stage)")
            if expected.downstream == .refuse {
                #expect(exchange.failure == .shutDown)
                exchange.localAnswerBegan(status: 503, requestContentRemaining: nil)
            }
            #expect(exchange.closesDownstream || exchange.responseSide == .ended)
        }
    }

    @Test func theFirstReasonStays() throws {
        var exchange = try attached()
        _ = exchange.upstreamFailed(.responseHeadTimedOut)
        exchange.localAnswerBegan(status: 504, requestContentRemaining: 0)
        _ = exchange.abandoned(.clientStalled)
        #expect(exchange.failure == .responseHeadTimedOut)
    }
}
