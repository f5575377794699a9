// What holds for every exchange, whatever befalls it. Each invariant is one function with its statement on top; it
// compares what was really sent with what was seen, and returns what is wrong in words.

import Glibc

/// What was sent and seen on a server's connection.
struct ServerEvidence {
    var server: Int
    var sent: SeenStream
    var seen: SeenStream
    var attempts: [Attempt]
    var hasFaulted: Bool
    /// Whether its reset may have taken back bytes that it had sent.
    var hasLost: Bool
}

/// What was sent and seen in one run of a case.
struct Evidence {
    var exchangeCase: ExchangeCase
    var plans: [ExchangePlan]
    var clientSent: SeenStream
    var clientSeen: SeenStream
    var clientFault: Fault?
    var serverFault: Fault?
    var servers: [ServerEvidence]

    /// The times that servers saw a request, in order.
    func attempts(_ exchange: Int) -> [(connection: ServerEvidence, attempt: Attempt)] {
        servers.flatMap { server in server.attempts.map { (server, $0) } }
            .filter { $0.1.exchange == exchange }
            .sorted { $0.1.order < $1.1.order }
    }

    /// What servers said in answer to a request; nil where not even a final head was said.
    func answers(_ exchange: Int) -> [SeenMessage] {
        attempts(exchange).compactMap { connection, attempt in
            attempt.index < connection.sent.messages.count ? connection.sent.messages[attempt.index] : nil
        }
    }
}

/// The invariants.
enum Invariants {
    static let all: [@Sendable (Evidence) -> [String]] = [
        everythingIsHTTP, bytesAreThoseThatWereSent, nothingIncompleteEndsCleanly, noRequestReachesTwoServers,
        ownAnswersAreForFaults, whoIsNotCutGetsAll, tunnelsPassBytesAndEnds,
    ]

    /// Whatever the proxy writes is well-formed, and no head of it is cut off.
    static func everythingIsHTTP(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        if let nonsense = evidence.clientSeen.nonsense { wrong.append("the client sees \(nonsense)") }
        if evidence.clientSeen.hasPartialHead, evidence.clientFault == nil {
            wrong.append("the client sees half a head")
        }
        for connection in evidence.servers {
            if let nonsense = connection.seen.nonsense { wrong.append("a server sees \(nonsense)") }
            if connection.seen.hasPartialHead, !connection.hasFaulted { wrong.append("a server sees half a head") }
            for attempt in connection.attempts
            where attempt.exchange != Mark.warmUp && !evidence.plans.indices.contains(attempt.exchange) {
                wrong.append("a server sees a request that nobody made")
            }
        }
        return wrong
    }

    /// Nobody sees a byte that was not sent to them, in order, nothing twice.
    static func bytesAreThoseThatWereSent(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        for (index, seen) in evidence.clientSeen.messages.enumerated() {
            guard let exchange = seen.exchange else { continue }
            guard exchange == index, let sent = evidence.answers(index).last else {
                wrong.append("the client sees as answer \(index) one that nobody sent it")
                continue
            }
            wrong += difference("answer \(index)", seen: seen, sent: sent)
        }
        wrong += interimDifference(evidence)
        for connection in evidence.servers {
            for attempt in connection.attempts where attempt.exchange != Mark.warmUp {
                guard attempt.exchange < evidence.clientSent.messages.count else {
                    wrong.append("a server sees request \(attempt.exchange), which was not sent")
                    continue
                }
                wrong += difference(
                    "request \(attempt.exchange)", seen: connection.seen.messages[attempt.index],
                    sent: evidence.clientSent.messages[attempt.exchange])
            }
        }
        return wrong
    }

    private static func difference(_ name: String, seen: SeenMessage, sent: SeenMessage) -> [String] {
        var wrong: [String] = []
        let isRequest = !sent.startLine.utf8.starts(with: "HTTP/".utf8)
        // The version is each hop's own.
        let sentLine = isRequest ? String(sent.startLine.dropLast()) + "1" : sent.startLine
        if seen.startLine != sentLine { wrong.append("\(name) begins '\(seen.startLine)' for '\(sent.startLine)'") }
        if seen.fields.count(where: { $0.isNamed(Mark.name) }) != 1 { wrong.append("\(name) is not marked once") }
        if !isPrefix(seen.content, of: sent.content) {
            wrong.append("\(name) has other content: \(text(seen.content)) for \(text(sent.content))")
        }
        if seen.trailers != Array(sent.trailers.prefix(seen.trailers.count)) { wrong.append("\(name): other trailers") }
        return wrong
    }

    private static func interimDifference(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        for index in evidence.plans.indices {
            let seen = evidence.clientSeen.interims.filter { $0.index == index }
            var sent: [SeenInterim] = []
            for (connection, attempt) in evidence.attempts(index) {
                sent = connection.sent.interims.filter { $0.index == attempt.index }
            }
            let lines = seen.map { "\($0.startLine) \($0.mark ?? "")" }
            if lines != sent.prefix(seen.count).map({ "\($0.startLine) \($0.mark ?? "")" }) {
                wrong.append("answer \(index) has other interim heads: \(lines)")
            }
        }
        return wrong
    }

    /// A message has an end for its receiver only if it had one for its sender.
    static func nothingIncompleteEndsCleanly(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        for (index, seen) in evidence.clientSeen.messages.enumerated() where seen.isComplete && seen.exchange != nil {
            guard let sent = evidence.answers(index).last, sent.isComplete else {
                wrong.append("the client sees the end of answer \(index), which has none")
                continue
            }
            if seen.content.count != sent.content.count || seen.trailers != sent.trailers {
                wrong.append("the client sees the end of answer \(index) before all of it")
            }
        }
        for connection in evidence.servers {
            for attempt in connection.attempts where attempt.exchange < evidence.clientSent.messages.count {
                let seen = connection.seen.messages[attempt.index]
                let sent = evidence.clientSent.messages[attempt.exchange]
                guard seen.isComplete else { continue }
                if !sent.isComplete || seen.content.count != sent.content.count || seen.trailers != sent.trailers {
                    wrong.append("a server sees the end of request \(attempt.exchange), which has none or more")
                }
            }
        }
        return wrong
    }

    /// No request reaches two servers, not even its head, unless rule 10 allows it: it is idempotent, and it was lost
    /// on a reused connection before any byte of an answer; and then once.
    static func noRequestReachesTwoServers(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        for (exchange, plan) in evidence.plans.enumerated() {
            let attempts = evidence.attempts(exchange)
            guard attempts.count > 1, let first = attempts.first else { continue }
            let isAllowed =
                attempts.count == 2 && ExchangeCase.idempotentMethods.contains(plan.method) && first.attempt.isReused
                && first.attempt.responseBytes == 0 && first.connection.hasFaulted && !attempts[1].attempt.isReused
            if !isAllowed { wrong.append("\(plan.method) \(exchange) reaches \(attempts.count) servers") }
        }
        return wrong
    }

    /// The proxy answers itself only for a server that failed before the head of its answer was sent.
    static func ownAnswersAreForFaults(_ evidence: Evidence) -> [String] {
        var wrong: [String] = []
        for (index, seen) in evidence.clientSeen.messages.enumerated() where seen.exchange == nil {
            if evidence.serverFault == nil {
                wrong.append("the proxy answers '\(seen.startLine)' though no server failed")
            } else if !evidence.answers(index).isEmpty {
                wrong.append("the proxy answers '\(seen.startLine)' though a server's head was sent")
            } else if !(502...504).contains(seen.status) {
                wrong.append("the proxy answers '\(seen.startLine)' for a server's failure")
            } else if !seen.isComplete, evidence.clientFault == nil {
                wrong.append("the proxy's own answer is cut off")
            }
        }
        return wrong
    }

    /// Who is not cut off gets all that was sent to the end; and where nobody is cut off, all of it is sent.
    static func whoIsNotCutGetsAll(_ evidence: Evidence) -> [String] {
        guard evidence.clientFault == nil else { return [] }
        var wrong: [String] = []
        for index in evidence.plans.indices {
            let isSeen = index < evidence.clientSeen.messages.count && evidence.clientSeen.messages[index].isComplete
            let hasLost = evidence.attempts(index).contains { $0.connection.hasLost }
            let isSent = !hasLost && evidence.answers(index).contains { $0.isComplete }
            if isSent, !isSeen { wrong.append("answer \(index) is whole, and the client does not get it") }
            guard evidence.serverFault == nil else { continue }
            if !isSent { wrong.append("answer \(index) was never said to its end") }
            guard !evidence.exchangeCase.cutsUpload else { continue }
            if !evidence.attempts(index).contains(where: { $0.connection.seen.messages[$0.attempt.index].isComplete }) {
                wrong.append("request \(index) did not reach a server whole")
            }
        }
        return wrong
    }

    /// A tunnel passes each direction's bytes in order, and ends it in order only where its sender did.
    static func tunnelsPassBytesAndEnds(_ evidence: Evidence) -> [String] {
        guard evidence.exchangeCase.switches, let server = evidence.attempts(0).last?.connection else { return [] }
        var wrong: [String] = []
        if let seen = evidence.clientSeen.tunnel {
            let sent = server.sent.tunnel ?? []
            if !isPrefix(seen, of: sent) { wrong.append("other bytes come down the tunnel: \(text(seen))") }
            if evidence.clientSeen.ending == .clean, server.sent.ending != .clean || seen.count != sent.count {
                wrong.append("the tunnel ends in order downwards, and its server did not")
            }
        }
        let seen = server.seen.tunnel ?? []
        let sent = evidence.clientSent.tunnel ?? []
        if !isPrefix(seen, of: sent) { wrong.append("other bytes go up the tunnel: \(text(seen))") }
        // Before there was a tunnel, the end of the upstream's connection says nothing.
        if server.seen.ending == .clean, server.sent.tunnel != nil, evidence.clientSeen.tunnel != nil,
            evidence.clientSent.ending != .clean || seen.count != sent.count
        {
            wrong.append("the tunnel ends in order upwards, and its client did not")
        }
        guard evidence.clientFault == nil, evidence.serverFault == nil else { return wrong }
        if evidence.clientSeen.tunnel?.count != server.sent.tunnel?.count || seen.count != sent.count
            || evidence.clientSeen.ending != .clean || server.seen.ending != .clean
        {
            wrong.append("the tunnel did not pass all, or did not end in order")
        }
        return wrong
    }

    private static func isPrefix(_ bytes: [UInt8], of others: [UInt8]) -> Bool {
        bytes.count <= others.count && (bytes.isEmpty || memcmp(bytes, others, bytes.count) == 0)
    }

    private static func text(_ bytes: [UInt8]) -> String { "'\(String(decoding: bytes.prefix(200), as: UTF8.self))'" }
}
