// The oracle: what was really said about each request, on either side, and what the others saw of it. What is wrong is found
// where it is seen; an end that comes before there is one, at that moment.
//
// It demands: an answer is the request's own, every byte of it; it ends in order only if it is whole, or shows the cut;
// trailers are whole or gone with a visible cut; what may not be repeated reaches servers once, but where HTTP/2 says that it
// was not looked at; errors of the proxy's own come only where something failed.

/// What is known about one connection, whoever looks at it.
final class FuzzLink {
    let name: String
    /// Whether this peer broke something on it on purpose.
    var hasFaulted = false
    /// Whether it broke the rules of HTTP/2: what the proxy says on it then is the proxy's affair.
    var hasViolated = false
    /// Whether this peer ended it, or said that it would.
    var hasEnded = false
    init(_ name: String) { self.name = name }
}

/// How a message ended for who received it.
enum FuzzEnd {
    case open
    case clean
    case broken
}

/// One time that a server saw a request.
final class FuzzAttempt {
    let exchange: FuzzExchange
    let link: FuzzLink
    let answer: FuzzAnswer
    let isHTTP2: Bool
    // What the server saw.
    var receivedBytes = 0
    var requestEnd = FuzzEnd.open
    // What the server said.
    var sentBytes = 0
    var headIsSent = false
    var endIsSent = false
    /// Whether HTTP/2 told that it was not looked at.
    var isRefused = false

    init(_ exchange: FuzzExchange, _ link: FuzzLink, isHTTP2: Bool) {
        self.exchange = exchange
        self.link = link
        self.isHTTP2 = isHTTP2
        answer = exchange.plan.answer(attempt: exchange.attempts.count)
    }

    /// Whether all that a reader by HTTP/1 waits for was said.
    var contentIsWhole: Bool {
        let saysHowLong = answer.framing == .length || !answer.hasContent(exchange.plan.method)
        return headIsSent && saysHowLong && sentBytes == answer.bytes
    }
}

/// One request with all that became of it.
final class FuzzExchange {
    let plan: FuzzPlan
    var attempts: [FuzzAttempt] = []
    // What the client said.
    var link: FuzzLink?
    var isAborted = false
    var sentBytes = 0
    var endIsSent = false
    var clientIsHTTP2 = false
    // What the client saw.
    var status = 0
    var isOwnError = false
    var receivedBytes = 0
    var declaredLength: Int?
    var end = FuzzEnd.open
    var interimCount = 0

    init(_ plan: FuzzPlan) { self.plan = plan }

    var tag: Int { plan.tag }
}

/// See the head of the file.
final class FuzzLedger {
    let exchanges: [FuzzExchange]
    private let settings: FuzzSettings
    private(set) var findings: [String] = []
    /// Connections of servers, by whether they speak HTTP/2.
    var serverLinks: [(isHTTP2: Bool, link: FuzzLink)] = []

    init(_ plans: [FuzzPlan], _ settings: FuzzSettings) {
        exchanges = plans.map { FuzzExchange($0) }
        self.settings = settings
    }

    func report(_ text: String, _ exchange: FuzzExchange? = nil) {
        guard findings.count < 8 else { return }
        findings.append(exchange.map { "\(text): \(describe($0))" } ?? text)
    }

    func describe(_ exchange: FuzzExchange) -> String {
        let plan = exchange.plan
        var text = "\(plan.method) \(plan.tag) \(plan.kind) \(plan.path)"
        text +=
            ", \(exchange.link?.name ?? "nobody") by \(exchange.clientIsHTTP2 ? "HTTP/2" : plan.isHTTP10 ? "HTTP/1.0" : "HTTP/1.1")"
        text +=
            " sent \(exchange.sentBytes) of \(plan.bytes) (\(plan.framing))\(exchange.endIsSent ? " and the end" : "")"
        if exchange.isAborted { text += ", aborted" }
        if exchange.link?.hasFaulted ?? false { text += ", faulty" }
        text += "; got \(exchange.status)\(exchange.isOwnError ? " of the proxy" : "")"
        text += " with \(exchange.receivedBytes) bytes, end \(exchange.end)"
        for attempt in exchange.attempts {
            let answer = attempt.answer
            text += "; \(attempt.isHTTP2 ? "HTTP/2" : "HTTP/1") server \(attempt.link.name)"
            if attempt.link.hasFaulted { text += " (faulty)" }
            text += " got \(attempt.receivedBytes) bytes, end \(attempt.requestEnd),"
            text += " sent \(attempt.headIsSent ? "\(answer.status)" : "no head") \(answer.framing)"
            text += " \(attempt.sentBytes) of \(answer.bytes) and \(answer.trailerBytes) of trailers"
            text += attempt.endIsSent ? " and the end" : ""
            if answer.fault != .none { text += ", \(answer.fault)" }
            if attempt.isRefused { text += ", refused" }
        }
        return text
    }

    func exchange(_ tag: String?) -> FuzzExchange? {
        guard let number = tag.flatMap({ Int($0) }), exchanges.indices.contains(number) else { return nil }
        return exchanges[number]
    }

    // MARK: At the client

    private func value(_ name: String, _ fields: [SeenField]) -> String? { fields.first { $0.isNamed(name) }?.value }

    private func checkPad(
        _ fields: [SeenField], _ exchange: FuzzExchange, _ direction: Sea.Direction, _ counts: [Int]
    ) {
        let pad = value("x-pad", fields) ?? ""
        if !counts.contains(where: { $0 == pad.utf8.count && pad == Sea.text(exchange.tag, direction, 1, count: $0) }) {
            report("a field of a head is not what was sent (\(pad.utf8.count) bytes of \(counts))", exchange)
        }
    }

    func interimSeen(_ exchange: FuzzExchange, mark: String?) {
        if exchange.status != 0 { report("an interim head behind the final one", exchange) }
        if exchange.plan.isHTTP10, !exchange.clientIsHTTP2 { report("an interim head to HTTP/1.0", exchange) }
        if mark != "\(exchange.tag)" { report("an interim head of \(mark ?? "nobody")", exchange) }
        exchange.interimCount += 1
    }

    func headSeen(_ exchange: FuzzExchange, status: Int, _ fields: [SeenField]) {
        if exchange.status != 0 { report("a second final head", exchange) }
        exchange.status = status
        exchange.declaredLength = value("content-length", fields).flatMap { Int($0) }
        if let mark = value(Fuzz.mark, fields) {
            if mark != "\(exchange.tag)" { report("the answer of \(mark)", exchange) }
            let senders = exchange.attempts.filter { $0.headIsSent || $0.link.hasFaulted }
            if senders.isEmpty { report("an answer that nobody gave", exchange) }
            checkPad(fields, exchange, .down, senders.map(\.answer.padBytes))
        } else {
            exchange.isOwnError = true
            if value("proxy-status", fields) == nil, !mayBeAnsweredByNobody(exchange) {
                report("an answer of nobody", exchange)
            }
            if !mayFail(exchange) {
                report("an error of the proxy (\(value("proxy-status", fields) ?? "")) without a cause", exchange)
            }
        }
    }

    /// Whether a server of HTTP/2 may have said a head without a mark, even before it had read the request.
    private func mayBeAnsweredByNobody(_ exchange: FuzzExchange) -> Bool {
        exchange.plan.goesToHTTP2 && serverLinks.contains { $0.isHTTP2 && $0.link.hasViolated }
    }

    func contentSeen(_ exchange: FuzzExchange, _ bytes: ArraySlice<UInt8>) {
        defer { exchange.receivedBytes += bytes.count }
        if exchange.end != .open { report("content behind the end", exchange) }
        guard !exchange.isOwnError else { return }
        if let place = Sea.mismatch(bytes, exchange.tag, .down, from: exchange.receivedBytes) {
            report("a byte of an answer that is not its own, at \(exchange.receivedBytes + place)", exchange)
        }
    }

    /// - Parameter mayDropTrailers: whether the framing has no place for them.
    func endSeen(_ exchange: FuzzExchange, _ end: FuzzEnd, trailers: [SeenField] = [], mayDropTrailers: Bool = false) {
        guard exchange.end == .open else { return }
        exchange.end = end
        guard end == .clean, !exchange.isOwnError else { return }
        if exchange.status == 0 { report("an end without a head", exchange) }
        let isWhole = exchange.attempts.contains { attempt in
            let expected = Sea.trailers(exchange.tag, .down, bytes: attempt.answer.trailerBytes)
            let trailersFit = same(trailers, expected) || (mayDropTrailers && trailers.isEmpty)
            let isSaid = attempt.endIsSent || attempt.contentIsWhole && trailers.isEmpty
            return isSaid && exchange.receivedBytes == attempt.answer.bytes && trailersFit
        }
        if !isWhole {
            report("a clean end of an answer that is not whole (\(trailers.count) trailers)", exchange)
        }
    }

    private func same(_ some: [SeenField], _ others: [SeenField]) -> Bool {
        some.count == others.count
            && zip(some, others).allSatisfy { $0.isNamed($1.name) && $0.value == $1.value }
    }

    /// Whether there is a reason for an error of the proxy's own.
    private func mayFail(_ exchange: FuzzExchange) -> Bool {
        if exchange.link?.hasFaulted ?? true { return true }
        let plan = exchange.plan
        if max(plan.padBytes, plan.trailerBytes) + 1000 > settings.requestHeadKiB << 10 { return true }
        if settings.contentMax.map({ plan.bytes > $0 }) ?? false { return true }
        // Who ends, or has no memory left, says so.
        if settings.drains || settings.isScarce { return true }
        let headMax = settings.responseHeadKiB << 10
        if exchange.attempts.isEmpty {
            return serverLinks.contains { $0.isHTTP2 == plan.goesToHTTP2 && ($0.link.hasEnded || $0.link.hasFaulted) }
        }
        // The other try may have met a server that went before it saw it.
        if exchange.attempts.allSatisfy(\.isRefused) {
            // Trailers are not kept for another try, nor is more content than this (rule 10).
            if plan.trailerBytes > 0 || plan.bytes > 64 << 10 { return true }
            let others = serverLinks.filter { link in !exchange.attempts.contains { $0.link === link.link } }
            if exchange.attempts.count > 1
                || others.contains(where: { $0.isHTTP2 && ($0.link.hasEnded || $0.link.hasFaulted) })
            {
                return true
            }
        }
        return exchange.attempts.contains { attempt in
            let answer = attempt.answer
            if answer.fault != .none || attempt.link.hasFaulted { return true }
            if answer.padBytes + 1000 > headMax || answer.interims.contains(where: { $0 + 500 > headMax }) {
                return true
            }
            if answer.interims.reduce(0, { $0 + $1 + 200 }) > 200 << 10 || answer.trailerBytes + 500 > headMax {
                return true
            }
            // In HTTP/2 a success without a switch would be taken for a tunnel.
            return plan.kind != .message && !answer.grants && answer.status < 300
        }
    }

    // MARK: At servers

    func requestSeen(_ exchange: FuzzExchange, _ attempt: FuzzAttempt, _ fields: [SeenField], target: String) {
        exchange.attempts.append(attempt)
        if exchange.link == nil { report("a request that no client sent", exchange) }
        checkPad(fields, exchange, .up, [exchange.plan.padBytes])
        let expected = exchange.plan.kind == .connect ? "t\(exchange.tag):443" : exchange.plan.path
        if target != expected { report("a target '\(target)'", exchange) }
    }

    func requestContentSeen(_ attempt: FuzzAttempt, _ bytes: ArraySlice<UInt8>) {
        if let place = Sea.mismatch(bytes, attempt.exchange.tag, .up, from: attempt.receivedBytes) {
            report("a byte of a request that is not its own, at \(attempt.receivedBytes + place)", attempt.exchange)
        }
        attempt.receivedBytes += bytes.count
    }

    func requestEndSeen(
        _ attempt: FuzzAttempt, _ end: FuzzEnd, trailers: [SeenField] = [], mayDropTrailers: Bool = false
    ) {
        guard attempt.requestEnd == .open else { return }
        attempt.requestEnd = end
        guard end == .clean else { return }
        let exchange = attempt.exchange
        let plan = exchange.plan
        let isSaid = exchange.endIsSent || (plan.framing == .length && exchange.sentBytes == plan.bytes)
        // What ended was perhaps no tunnel, as the client knows only later; see `checkAll`.
        if plan.kind != .message { return }
        if !isSaid || attempt.receivedBytes != plan.bytes {
            report("a clean end of a request that is not whole (\(attempt.receivedBytes) bytes)", exchange)
        }
        let expected = Sea.trailers(plan.tag, .up, bytes: plan.trailerBytes)
        if !same(trailers, expected), !(mayDropTrailers && trailers.isEmpty) {
            report("a request's trailers are not what was sent (\(trailers.count) of \(expected.count))", exchange)
        }
    }

    // MARK: At the end

    /// What only shows when everything is over.
    func checkAll() {
        for exchange in exchanges {
            let processed = exchange.attempts.filter { !$0.isRefused }
            if !exchange.plan.isIdempotent, processed.count > 1 {
                report("what may not be repeated reaches servers \(processed.count) times", exchange)
            }
            checkTunnel(exchange)
            guard exchange.link != nil, exchange.end == .broken, !exchange.isAborted else { continue }
            if !mayFail(exchange), exchange.status != 0 || exchange.clientIsHTTP2 {
                report("a whole answer that the client does not get whole", exchange)
            }
        }
    }
}

extension FuzzLedger {
    /// The way up of a tunnel.
    private func checkTunnel(_ exchange: FuzzExchange) {
        guard exchange.plan.kind != .message, exchange.link?.hasFaulted == false, !exchange.isOwnError,
            exchange.status != 0,
            let attempt = exchange.attempts.last, attempt.answer.grants, attempt.requestEnd == .clean
        else { return }
        if !exchange.endIsSent || attempt.receivedBytes != exchange.plan.bytes {
            report("a clean end of a tunnel's way up that is not whole", exchange)
        }
    }
}

enum Fuzz {
    /// The field that tells a request.
    static let mark = Mark.name.lowercased()
    static let isTracing = environment("HEADFIRST_SWEEP_TRACE") != nil

    static func trace(_ text: @autoclosure () -> String) {
        if isTracing { print("fuzz: \(text())") }
    }
}
