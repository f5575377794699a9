// Every transition of the exchange: for each state that can occur, each event that can come in it, what follows and
// where it leads.

import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

/// A state that a driver can be in, named by the three sides.
enum Stage: String, CaseIterable {
    case newUpload = "receiving awaitingHead none"
    case new = "ended awaitingHead none"
    case seekingUpload = "receiving awaitingHead seeking"
    case seeking = "ended awaitingHead seeking"
    case attachedUpload = "receiving awaitingHead attached"
    case attached = "ended awaitingHead attached"
    case relayingUpload = "receiving relaying attached"
    case relaying = "ended relaying attached"
    case answeredUpload = "receiving ended attached"
    case answeringLocallyDiscarding = "discarding relaying none"
    case answeringLocally = "ended relaying none"
    case answeredLocallyDiscarding = "discarding ended none"
    case failedUploadRefused = "failed relaying detached"

    /// An exchange in this state. The client's connection persists, nothing was reused, and one byte of content came.
    func make(_ rules: Forwarding, _ method: String = "PUT") throws -> Exchange {
        let isUpload: Bool
        switch self {
        case .newUpload, .seekingUpload, .attachedUpload, .relayingUpload, .answeredUpload,
            .answeringLocallyDiscarding, .answeredLocallyDiscarding, .failedUploadRefused:
            isUpload = true
        case .new, .seeking, .attached, .relaying, .answeringLocally: isUpload = false
        }
        let request = try ParsedHead.request(method, "/", isUpload ? "Content-Length: 9\r\n" : "")
        var exchange = Exchange(requestHeadReceived: request, forwarding: rules, mayPersist: true, now: 1)
        switch self {
        case .newUpload, .new: return exchange
        case .answeringLocallyDiscarding, .answeringLocally, .answeredLocallyDiscarding:
            _ = exchange.refused(.noRoute)
            exchange.localAnswerBegan(status: 404, requestContentRemaining: isUpload ? 9 : 0)
            if self == .answeredLocallyDiscarding { _ = exchange.localAnswerEnded() }
            return exchange
        default: break
        }
        exchange.upstreamSought()
        if self == .seekingUpload || self == .seeking { return exchange }
        _ = exchange.upstreamAttached(isReused: false, now: 2)
        switch self {
        case .attachedUpload, .attached: return exchange
        case .failedUploadRefused:
            _ = exchange.requestTimedOut(.requestContentTimedOut)
            exchange.localAnswerBegan(status: 408, requestContentRemaining: 9)
            return exchange
        default: break
        }
        exchange.responseBytesReceived()
        _ = exchange.responseHeadReceived(try ParsedHead.response(200, "Content-Length: 3\r\n"), now: 3)
        if self == .relayingUpload || self == .relaying { return exchange }
        _ = exchange.responseEnded(isReusable: true)
        return exchange
    }
}

/// An event, as a driver tells it.
enum Event: String, CaseIterable {
    case refused, attached, interim, head, switching, content, ended, endedAndClosed
    case connectFailed, noServer, closed, malformed, timedOut
    case requestContent, requestTooLong, requestEnded, requestMalformed, requestTimedOut
    case abandoned, clientEnded, clientReset, localAnswerEnded

    /// Whether it can come in a state.
    func isPossible(in stage: Stage) -> Bool {
        let sides = stage.rawValue.split(separator: " ")
        let isReceiving = sides[0] == "receiving" || sides[0] == "discarding"
        let isAwaiting = sides[1] == "awaitingHead"
        let isAttached = sides[2] == "attached"
        switch self {
        case .refused: return isAwaiting && sides[2] == "none"
        case .attached, .connectFailed, .noServer: return sides[2] == "seeking"
        case .interim, .head, .switching: return isAttached && isAwaiting
        case .content, .ended, .endedAndClosed: return isAttached && sides[1] == "relaying"
        case .closed, .malformed, .timedOut: return isAttached
        // Content is taken from the client when it is wanted: by a server, or to be thrown away.
        case .requestContent, .requestEnded, .requestMalformed:
            return isReceiving && (isAttached || sides[0] == "discarding")
        case .requestTooLong: return sides[0] == "receiving" && isAttached
        case .requestTimedOut, .abandoned, .clientEnded, .clientReset: return true
        case .localAnswerEnded: return sides[1] == "relaying" && !isAttached
        }
    }

    func tell(_ exchange: inout Exchange) throws -> Actions {
        switch self {
        case .refused: return exchange.refused(.noRoute)
        case .attached: return exchange.upstreamAttached(isReused: false, now: 2)
        case .interim: return exchange.interimReceived(status: 103, bytes: 10, now: 3)
        case .head:
            return exchange.responseHeadReceived(try ParsedHead.response(200, "Content-Length: 3\r\n"), now: 3)
        case .switching: return exchange.responseHeadReceived(try ParsedHead.response(101), now: 3)
        case .content: return exchange.responseContentReceived(1, now: 4)
        case .ended: return exchange.responseEnded(isReusable: true)
        case .endedAndClosed: return exchange.responseEnded(isReusable: false)
        case .connectFailed: return exchange.upstreamFailed(.connectRefused, nothingSent: true)
        case .noServer: return exchange.upstreamFailed(.queueFull, nothingSent: true)
        case .closed:
            return exchange.upstreamFailed(exchange.hasAnswered ? .responseTruncated : .closedBeforeResponse)
        case .malformed: return exchange.upstreamFailed(.responseRefused, fault: .chunk)
        case .timedOut:
            return exchange.upstreamFailed(exchange.hasAnswered ? .responseIdleTimedOut : .responseHeadTimedOut)
        case .requestContent: return exchange.requestContentReceived(2)
        case .requestTooLong: return exchange.requestContentReceived(101)
        case .requestEnded: return exchange.requestEnded(now: 5)
        case .requestMalformed: return exchange.requestFailed(.chunk)
        case .requestTimedOut: return exchange.requestTimedOut(.requestContentTimedOut)
        case .abandoned: return exchange.abandoned(.clientStalled)
        case .clientEnded: return exchange.clientEnded()
        case .clientReset: return exchange.clientReset()
        case .localAnswerEnded: return exchange.localAnswerEnded()
        }
    }
}

@Suite struct ExchangeTransitionTests {
    /// Event -> downstream, upstream -> request side, response side, attachment.
    private static let table: [Stage: [Event: String]] = [
        .newUpload: [
            .refused: "refuse, none -> receiving awaitingHead none",
            .requestTimedOut: "refuse, none -> failed awaitingHead none",
            .abandoned: "truncate, none -> failed failed none",
            .clientEnded: "close, none -> failed failed none",
            .clientReset: "close, none -> failed failed none",
        ],
        .new: [
            .refused: "refuse, none -> ended awaitingHead none",
            .requestTimedOut: "refuse, none -> failed awaitingHead none",
            .abandoned: "truncate, none -> failed failed none",
            .clientEnded: "close, none -> failed failed none",
            .clientReset: "close, none -> failed failed none",
        ],
        .seekingUpload: [
            .attached: "none, sendRequest -> receiving awaitingHead attached",
            .connectFailed: "none, retry -> receiving awaitingHead seeking",
            .noServer: "refuse, close -> receiving awaitingHead detached",
            .requestTimedOut: "refuse, close -> failed awaitingHead detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .seeking: [
            .attached: "none, sendRequest -> ended awaitingHead attached",
            .connectFailed: "none, retry -> ended awaitingHead seeking",
            .noServer: "refuse, close -> ended awaitingHead detached",
            .requestTimedOut: "refuse, close -> failed awaitingHead detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .attachedUpload: [
            .interim: "forwardInterim, none -> receiving awaitingHead attached",
            .head: "forwardHead, none -> receiving relaying attached",
            .switching: "refuse, close -> receiving awaitingHead detached",
            .closed: "refuse, close -> receiving awaitingHead detached",
            .malformed: "refuse, close -> receiving awaitingHead detached",
            .timedOut: "refuse, close -> receiving awaitingHead detached",
            .requestContent: "none, forwardContent -> receiving awaitingHead attached",
            .requestTooLong: "refuse, close -> failed awaitingHead detached",
            .requestEnded: "none, endRequest -> ended awaitingHead attached",
            .requestMalformed: "refuse, close -> failed awaitingHead detached",
            .requestTimedOut: "refuse, close -> failed awaitingHead detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .attached: [
            .interim: "forwardInterim, none -> ended awaitingHead attached",
            .head: "forwardHead, none -> ended relaying attached",
            .switching: "refuse, close -> ended awaitingHead detached",
            .closed: "refuse, close -> ended awaitingHead detached",
            .malformed: "refuse, close -> ended awaitingHead detached",
            .timedOut: "refuse, close -> ended awaitingHead detached",
            .requestTimedOut: "refuse, close -> failed awaitingHead detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .relayingUpload: [
            .content: "forwardContent, none -> receiving relaying attached",
            .ended: "endResponse, none -> receiving ended attached",
            .endedAndClosed: "finishAndClose, close -> discarding ended detached",
            .closed: "truncate, close -> receiving failed detached",
            .malformed: "truncate, close -> receiving failed detached",
            .timedOut: "truncate, close -> receiving failed detached",
            .requestContent: "none, forwardContent -> receiving relaying attached",
            .requestTooLong: "truncate, close -> failed failed detached",
            .requestEnded: "none, endRequest -> ended relaying attached",
            .requestMalformed: "truncate, close -> failed failed detached",
            .requestTimedOut: "truncate, close -> failed failed detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .relaying: [
            .content: "forwardContent, none -> ended relaying attached",
            .ended: "finish, release -> ended ended detached",
            .endedAndClosed: "finish, close -> ended ended detached",
            .closed: "truncate, close -> ended failed detached",
            .malformed: "truncate, close -> ended failed detached",
            .timedOut: "truncate, close -> ended failed detached",
            .requestTimedOut: "truncate, close -> failed failed detached",
            .abandoned: "truncate, close -> failed failed detached",
            .clientEnded: "close, close -> failed failed detached",
            .clientReset: "close, close -> failed failed detached",
        ],
        .answeredUpload: [
            .closed: "finishAndClose, close -> discarding ended detached",
            .malformed: "finishAndClose, close -> discarding ended detached",
            .timedOut: "finishAndClose, close -> discarding ended detached",
            .requestContent: "none, forwardContent -> receiving ended attached",
            .requestTooLong: "finishAndClose, close -> failed ended detached",
            .requestEnded: "finish, endRequestAndRelease -> ended ended detached",
            .requestMalformed: "finishAndClose, close -> failed ended detached",
            .requestTimedOut: "finishAndClose, close -> failed ended detached",
            .abandoned: "close, close -> failed ended detached",
            .clientEnded: "close, close -> failed ended detached",
            .clientReset: "close, close -> failed ended detached",
        ],
        .answeringLocallyDiscarding: [
            .requestContent: "none, none -> discarding relaying none",
            .requestEnded: "none, none -> ended relaying none",
            .requestMalformed: "truncate, none -> failed failed none",
            .requestTimedOut: "truncate, none -> failed failed none",
            .abandoned: "truncate, none -> failed failed none",
            .clientEnded: "close, none -> failed failed none",
            .clientReset: "close, none -> failed failed none",
            .localAnswerEnded: "endResponse, none -> discarding ended none",
        ],
        .answeringLocally: [
            .requestTimedOut: "truncate, none -> failed failed none",
            .abandoned: "truncate, none -> failed failed none",
            .clientEnded: "close, none -> failed failed none",
            .clientReset: "close, none -> failed failed none",
            .localAnswerEnded: "finish, none -> ended ended none",
        ],
        .answeredLocallyDiscarding: [
            .requestContent: "none, none -> discarding ended none",
            .requestEnded: "finish, none -> ended ended none",
            .requestMalformed: "finishAndClose, none -> failed ended none",
            .requestTimedOut: "finishAndClose, none -> failed ended none",
            .abandoned: "close, none -> failed ended none",
            .clientEnded: "close, none -> failed ended none",
            .clientReset: "close, none -> failed ended none",
        ],
        .failedUploadRefused: [
            .requestTimedOut: "truncate, none -> failed failed detached",
            .abandoned: "truncate, none -> failed failed detached",
            .clientEnded: "close, none -> failed failed detached",
            .clientReset: "close, none -> failed failed detached",
            .localAnswerEnded: "finishAndClose, none -> failed ended detached",
        ],
    ]

    private static func sides(_ exchange: Exchange) -> String {
        "\(exchange.requestSide) \(exchange.responseSide) \(exchange.attachment)"
    }

    @Test(arguments: Stage.allCases)
    func transitions(_ stage: Stage) throws {
        let rules = try forwarding { $0.contentBytesMax = 100 }
        let rows = try #require(Self.table[stage])
        #expect(Self.sides(try stage.make(rules)) == stage.rawValue)
        for event in Event.allCases {
            guard event.isPossible(in: stage) else {
                #expect(rows[event] == nil, "\(event) cannot come")
                continue
            }
            var exchange = try stage.make(rules)
            let actions = try event.tell(&exchange)
            #expect(
                "\(actions.downstream), \(actions.upstream) -> \(Self.sides(exchange))" == rows[event],
                "\(stage.rawValue): \(event)")
        }
    }

    @Test func whatIsLeftToTheClientDecidesTheEnd() throws {
        // The same ends of an exchange whose client's connection does not persist.
        for (stage, event) in [
            (Stage.relaying, Event.ended), (.answeredUpload, .requestEnded), (.answeringLocally, .localAnswerEnded),
            (.answeringLocallyDiscarding, .localAnswerEnded), (.answeredLocallyDiscarding, .requestEnded),
        ] {
            var exchange = try stage.make(try forwarding())
            exchange.connectionDrained()
            #expect(exchange.closesDownstream)
            #expect(try event.tell(&exchange).downstream == .finishAndClose, "\(stage) \(event)")
        }
    }

    @Test func actionsAreSmallAndExchangesTrivial() {
        #expect(MemoryLayout<Actions>.size <= 32)
        #expect(MemoryLayout<Exchange>.size <= 192)
    }
}
