// Invariants, over random walks of many exchanges that share the connections of a fake multiplexed transport:
// one final head; no content before it and none behind its end; a clean end only of a message that is whole; nothing
// after an exchange is over; its stream is released or closed by then; a request is sent twice only as docs/FORWARDING.md's
// rule 10 allows; and what happens to one stream does not touch another.

import HTTPSemantics
import ProxyConfiguration
import TestSupport
import Testing

@testable import ProxyCore

/// Connections that carry many streams each. Closing a stream leaves the connection to the others.
private final class MultiplexedTransport {
    private(set) var streams: [Int: Set<Int>] = [:]
    private var hasServed: Set<Int> = []
    private var nextConnection = 0

    /// Opens a stream for an exchange, on a connection that is there or on a new one.
    func open(_ exchange: Int, mayReuse: Bool, _ random: inout SeededGenerator) -> (connection: Int, isReused: Bool) {
        if mayReuse, let connection = streams.keys.sorted().randomElement(using: &random),
            Bool.random(using: &random)
        {
            streams[connection, default: []].insert(exchange)
            return (connection, hasServed.contains(connection))
        }
        nextConnection += 1
        streams[nextConnection] = [exchange]
        return (nextConnection, false)
    }

    func end(_ exchange: Int, on connection: Int) {
        streams[connection]?.remove(exchange)
        hasServed.insert(connection)
    }

    /// The connection breaks: all who have a stream on it are told.
    func fail(_ connection: Int) -> [Int] { (streams.removeValue(forKey: connection) ?? []).sorted() }
}

/// One exchange with its client and what a driver knows of it.
private struct Walker {
    let number: Int
    var exchange: Exchange
    let method: String
    let isHTTP10: Bool
    let uploadBytes: Int
    let retainedBytesMax: Int
    var connection: Int?
    var isReusedConnection = false
    var isSeeking = true
    var receivedBytes = 0
    var requestIsWhole: Bool
    var requestIsSent = false
    var requestEndIsSent = false
    var responseHasBegun = false
    var staleRetries = 0
    var finalHeads = 0
    var responseIsWhole = false
    var responseIsEnded = false
    var isTruncated = false
    var clientIsThere = true
    var isOver = false
    var mistakes: [String] = []

    mutating func expect(_ condition: Bool, _ mistake: String) { if !condition { mistakes.append(mistake) } }

    mutating func perform(_ actions: Actions, _ transport: MultiplexedTransport) {
        expect(!isOver, "acts when it is over")
        switch actions.upstream {
        case .none: break
        case .sendRequest:
            expect(connection != nil && !requestIsSent, "request sent twice on a stream, or on none")
            requestIsSent = true
            // What was received before goes out again with the head.
            expect(receivedBytes == 0 || exchange.isReplayable, "content is gone")
            requestEndIsSent = requestIsWhole
        case .forwardContent: expect(requestIsSent && !requestEndIsSent, "content behind the request's end")
        case .endRequest:
            expect(requestIsSent && !requestEndIsSent && requestIsWhole, "an end that is none")
            requestEndIsSent = true
        case .endRequestAndRelease:
            expect(requestIsSent && !requestEndIsSent && requestIsWhole, "an end that is none")
            release(transport)
        case .release:
            expect(requestEndIsSent, "released with an unfinished request")
            release(transport)
        case .close:
            expect(connection != nil || isSeeking, "closes what it has not")
            detach(transport)
        case .retry: detach(transport, seeks: true)
        case .endSending, .reset: expect(false, "a tunnel's action without a tunnel")
        }
        switch actions.downstream {
        case .none: break
        case .forwardInterim: expect(finalHeads == 0 && !isHTTP10, "interim behind the final head, or to HTTP/1.0")
        case .forwardHead:
            finalHeads += 1
            expect(finalHeads == 1, "a second final head")
        case .forwardContent: expect(finalHeads == 1 && !responseIsEnded, "content outside the response")
        case .endResponse: endResponse()
        case .finish:
            endResponse()
            expect(requestIsWhole, "the next request is in the middle of this one")
            expect(!exchange.closesDownstream, "goes on though it closes")
            isOver = true
        case .finishAndClose:
            endResponse()
            expect(exchange.closesDownstream, "closes unannounced")
            isOver = true
        case .refuse:
            expect(finalHeads == 0, "refused behind a head")
            expect(connection == nil && !isSeeking, "refused with an upstream")
            answer(transport)
        case .truncate:
            expect(!responseIsEnded, "truncated behind its end")
            isTruncated = true
            isOver = true
        case .close: isOver = true
        case .acceptTunnel, .endSending, .reset: expect(false, "a tunnel's action without a tunnel")
        }
        if isOver { expect(connection == nil && !isSeeking, "over with an upstream") }
    }

    private mutating func endResponse() {
        guard !responseIsEnded else { return }
        expect(finalHeads == 1 && responseIsWhole, "a clean end of an incomplete response")
        responseIsEnded = true
    }

    private mutating func release(_ transport: MultiplexedTransport) {
        expect(connection != nil && responseIsWhole, "released in the middle of a response")
        detach(transport)
    }

    private mutating func detach(_ transport: MultiplexedTransport, seeks: Bool = false) {
        if let connection { transport.end(number, on: connection) }
        connection = nil
        isSeeking = seeks
        requestIsSent = false
        requestEndIsSent = false
    }

    private mutating func answer(_ transport: MultiplexedTransport) {
        let status = exchange.failure?.status(exchange.fault) ?? 0
        expect((400...599).contains(status), "refused with \(status)")
        exchange.localAnswerBegan(status: status, requestContentRemaining: UInt64(uploadBytes - receivedBytes))
        finalHeads += 1
        responseIsWhole = true
        perform(exchange.localAnswerEnded(), transport)
    }

    /// The stream, or the connection under it, is lost.
    mutating func fail(_ cause: Failure, _ transport: MultiplexedTransport) {
        let nothingSent = !requestIsSent
        let actions = exchange.upstreamFailed(cause, nothingSent: nothingSent, fault: .chunk)
        if actions.upstream == .retry, !cause.isBeforeRequest {
            let isIdempotent = ["GET", "PUT", "DELETE"].contains(method)
            expect(isIdempotent || nothingSent, "\(method) is sent again")
            expect(isReusedConnection, "sent again after a fresh connection")
            expect(!responseHasBegun, "sent again after a byte of a response")
            staleRetries += 1
            expect(staleRetries == 1, "sent again twice")
        }
        perform(actions, transport)
    }

    mutating func step(_ transport: MultiplexedTransport, _ heads: WalkHeads, _ random: inout SeededGenerator) {
        var choices: [(inout Walker, inout SeededGenerator) -> Void] = []
        if isSeeking {
            choices.append { walker, random in
                let mayReuse = walker.exchange.mayReuse(idleMilliseconds: UInt64.random(in: 0...2000, using: &random))
                let stream = transport.open(walker.number, mayReuse: mayReuse, &random)
                walker.connection = stream.connection
                walker.isReusedConnection = stream.isReused
                walker.isSeeking = false
                walker.perform(walker.exchange.upstreamAttached(isReused: stream.isReused, now: 2), transport)
            }
            choices.append { walker, random in
                let causes: [Failure] = [.connectRefused, .connectTimedOut, .nameNotFound, .queueTimedOut]
                walker.fail(causes.randomElement(using: &random).unsafelyUnwrapped, transport)
            }
        }
        if connection != nil {
            if finalHeads == 0 {
                choices.append { walker, _ in
                    walker.begin()
                    walker.perform(walker.exchange.interimReceived(status: 103, bytes: 100, now: 3), transport)
                }
                choices.append { walker, random in
                    walker.begin()
                    let head = heads.responses.randomElement(using: &random).unsafelyUnwrapped
                    walker.perform(walker.exchange.responseHeadReceived(head, now: 3), transport)
                }
                choices.append { walker, random in
                    let causes: [Failure] = [.responseRefused, .responseHeadTimedOut, .closedWithinHead]
                    walker.fail(causes.randomElement(using: &random).unsafelyUnwrapped, transport)
                }
            } else if !responseIsWhole {
                for _ in 0..<3 {
                    choices.append { walker, _ in
                        walker.perform(walker.exchange.responseContentReceived(5, now: 4), transport)
                    }
                }
                choices.append { walker, random in
                    walker.responseIsWhole = true
                    let isReusable = Int.random(in: 0..<3, using: &random) > 0
                    walker.perform(walker.exchange.responseEnded(isReusable: isReusable), transport)
                }
                choices.append { walker, _ in walker.fail(.responseTruncated, transport) }
            }
        }
        if clientIsThere, exchange.wantsRequestContent {
            for _ in 0..<4 { choices.append { walker, random in walker.receive(transport, &random) } }
        }
        if clientIsThere, Int.random(in: 0..<30, using: &random) == 0 {
            choices = [
                { walker, _ in
                    walker.clientIsThere = false
                    walker.perform(walker.exchange.clientEnded(), transport)
                },
                { walker, _ in
                    walker.clientIsThere = false
                    walker.perform(walker.exchange.clientReset(), transport)
                },
                { walker, _ in walker.perform(walker.exchange.abandoned(.clientStalled), transport) },
                { walker, _ in walker.perform(walker.exchange.abandoned(.shutDown), transport) },
                { walker, _ in walker.exchange.connectionDrained() },
                { walker, _ in walker.perform(walker.exchange.requestTimedOut(.requestTimedOut), transport) },
                { walker, _ in
                    guard walker.exchange.wantsRequestContent else { return }
                    walker.perform(walker.exchange.requestFailed(.chunk), transport)
                },
            ]
        }
        choices.randomElement(using: &random)?(&self, &random)
    }

    private mutating func begin() {
        responseHasBegun = true
        exchange.responseBytesReceived()
    }

    private mutating func receive(_ transport: MultiplexedTransport, _ random: inout SeededGenerator) {
        if receivedBytes < uploadBytes {
            let count = Int.random(in: 1...(uploadBytes - receivedBytes), using: &random)
            receivedBytes += count
            if receivedBytes > retainedBytesMax { exchange.isReplayable = false }
            perform(exchange.requestContentReceived(count), transport)
        } else {
            requestIsWhole = true
            perform(exchange.requestEnded(now: 5), transport)
        }
    }
}

/// Heads that are used over and over.
private struct WalkHeads {
    let responses: [ParsedHead]

    init() throws {
        responses = [
            try .response(200, "Content-Length: 10\r\n"), try .response(200, "Transfer-Encoding: chunked\r\n"),
            try .response(200), try .response(204), try .response(101),
            try .response(413, "Content-Length: 0\r\nConnection: close\r\n"),
            try .response(200, version: "1.0", "Content-Length: 3\r\n"),
        ]
    }
}

@Suite struct ExchangeWalkTests {
    private func walker(_ number: Int, _ rules: [Forwarding], _ random: inout SeededGenerator) throws -> Walker {
        let method = ["GET", "PUT", "DELETE", "POST", "PATCH"].randomElement(using: &random).unsafelyUnwrapped
        let uploadBytes = Bool.random(using: &random) ? Int.random(in: 1...120, using: &random) : 0
        let isHTTP10 = Int.random(in: 0..<4, using: &random) == 0
        var lines = uploadBytes > 0 ? "Content-Length: \(uploadBytes)\r\n" : ""
        if uploadBytes > 0, Bool.random(using: &random) { lines += "Expect: 100-continue\r\n" }
        if Bool.random(using: &random) { lines += "Connection: \(isHTTP10 ? "keep-alive" : "close")\r\n" }
        let request = try ParsedHead.request(method, "/", version: isHTTP10 ? "1.0" : "1.1", lines)
        let exchange = Exchange(
            requestHeadReceived: request, forwarding: rules.randomElement(using: &random).unsafelyUnwrapped,
            mayPersist: true, now: 1)
        var walker = Walker(
            number: number, exchange: exchange, method: method, isHTTP10: isHTTP10, uploadBytes: uploadBytes,
            retainedBytesMax: Int.random(in: 0...150, using: &random), requestIsWhole: uploadBytes == 0)
        walker.exchange.upstreamSought()
        return walker
    }

    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func manyExchanges(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let heads = try WalkHeads()
        var rules: [Forwarding] = []
        for policy in [ClientClosePolicy.abort, .finish, .halfClose] {
            rules.append(
                try forwarding {
                    $0.onClientClose = policy
                    $0.contentBytesMax = policy == .abort ? 100 : nil
                    $0.retriesMax = policy == .finish ? 0 : 2
                })
        }
        let transport = MultiplexedTransport()
        var running: [Walker] = []
        var outcomes: [String: Int] = [:]
        var started = 0
        var steps = 0
        while started < 3000 || !running.isEmpty {
            steps += 1
            try #require(steps < 2_000_000, "an exchange does not end")
            if started < 3000, running.count < 12 {
                started += 1
                running.append(try walker(started, rules, &random))
            }
            let index = Int.random(in: 0..<running.count, using: &random)
            if let connection = running[index].connection, Int.random(in: 0..<40, using: &random) == 0 {
                // The connection breaks under all its streams.
                let lost = Set(transport.fail(connection))
                for other in running.indices where lost.contains(running[other].number) {
                    running[other].fail(
                        running[other].exchange.hasAnswered ? .responseTruncated : .closedBeforeResponse, transport)
                }
            } else {
                running[index].step(transport, heads, &random)
            }
            for walker in running {
                #expect(walker.mistakes == [], "exchange \(walker.number), \(walker.method)")
                if !walker.mistakes.isEmpty { return }
                guard walker.isOver else { continue }
                let outcome = walker.isTruncated ? "truncated" : walker.responseIsEnded ? "answered" : "closed"
                outcomes[outcome, default: 0] += 1
                if walker.staleRetries > 0 { outcomes["sent again", default: 0] += 1 }
            }
            running.removeAll { $0.isOver }
        }
        // No stream is left, and the walk has come by every kind of end.
        #expect(transport.streams.values.reduce(0) { $0 + $1.count } == 0)
        for outcome in ["answered", "truncated", "closed", "sent again"] {
            #expect(outcomes[outcome, default: 0] > 10, "\(outcome)")
        }
    }
}
