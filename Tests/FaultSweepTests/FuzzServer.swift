// The servers: each accepts any number of connections and answers each request as its plan says, by HTTP/1 or HTTP/2. What
// goes wrong is planned, too; only when it happens is up to the connection.

import EventLoop
import TestSupport

/// A listening server.
final class FuzzServer {
    let isHTTP2: Bool
    let port: UInt16
    private let listener: PlainListener
    private let name: String
    private let ledger: () -> FuzzLedger
    private let faultPercent: Int
    private var generator: SeededGenerator
    private(set) var connections: [FuzzConnection] = []
    var isCalm = false { didSet { for connection in connections { connection.isCalm = isCalm } } }

    /// - Parameter serve: makes a transport of an accepted socket.
    init(
        _ name: String, isHTTP2: Bool, seed: UInt64, faultPercent: Int, ledger: @escaping () -> FuzzLedger,
        serve: @escaping (Int32) -> any SweepTransport
    ) throws {
        self.name = name
        self.isHTTP2 = isHTTP2
        self.ledger = ledger
        self.faultPercent = faultPercent
        generator = SeededGenerator(seed: seed)
        let isNarrow = generator.chance(10)
        listener = try PlainListener {
            if isNarrow { PlainTransport.setReceiveBytes($0, 8192) }
            return serve($0)
        }
        port = listener.port
    }

    /// Takes connections that wait.
    func accept() -> Bool {
        var hasAccepted = false
        while let transport = listener.accept() {
            hasAccepted = true
            let name = "\(name).\(connections.count)"
            let ledger = ledger()
            let seed = generator.next()
            let connection: FuzzConnection =
                isHTTP2
                ? FuzzHTTP2Server(name, ledger, transport, seed: seed, faultPercent: faultPercent)
                : FuzzHTTP1Server(name, ledger, transport, seed: seed)
            connection.isCalm = isCalm
            ledger.serverLinks.append((isHTTP2, connection.link))
            connections.append(connection)
        }
        return hasAccepted
    }
}

extension FuzzAnswer {
    /// Whether its head may be sent.
    func isDue(_ attempt: FuzzAttempt) -> Bool {
        if attempt.requestEnd == .clean { return true }
        return !awaitsEnd && attempt.receivedBytes >= awaitedContent
    }

    /// Fields of its head but the first line and framing.
    func fields(_ tag: Int) -> [(String, String)] {
        [(Fuzz.mark, "\(tag)")] + (padBytes > 0 ? [("x-pad", Sea.text(tag, .down, 1, count: padBytes))] : [])
    }

    /// An interim head's.
    func interim(_ index: Int, of plan: FuzzPlan) -> (status: Int, fields: [(String, String)]) {
        let isContinue = plan.expects && index == 0
        let pad = interims[index] > 0 ? [("x-pad", Sea.text(plan.tag, .down, 2, count: interims[index]))] : []
        return (isContinue ? 100 : index % 3 == 1 ? 102 : 103, [(Fuzz.mark, "\(plan.tag)")] + pad)
    }
}

/// A connection of a server of HTTP/1.
final class FuzzHTTP1Server: FuzzConnection {
    private var reader = HTTP1Reader(.requests, switches: true)
    private var attempt: FuzzAttempt?
    private var overCount = 0
    private var lookedBytes = 0
    // Of the answer to it, what was put into the outbox.
    private var interimsQueued = 0
    private var headIsQueued = false
    private var queuedBytes = 0
    private var answerIsQueued = false

    override init(_ name: String, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64) {
        super.init(name, ledger, transport, seed: seed)
        reader.grants = { [unowned ledger] message in
            guard let exchange = ledger.exchange(message[Fuzz.mark]) else { return false }
            // This request is no attempt yet.
            return exchange.plan.answer(attempt: exchange.attempts.count).grants
        }
    }

    // MARK: Hearing

    override func received(_ bytes: [UInt8]) {
        reader.feed(bytes[...])
        look()
    }

    override func inputEnded(_ ending: Ending) {
        reader.end(ending)
        look()
        if let attempt {
            ledger.requestEndSeen(attempt, reader.stream.tunnel != nil && ending == .clean ? .clean : .broken)
            // A tunnel's other direction goes on.
            if !isOver, ending == .clean, reader.stream.tunnel != nil { return }
        }
        if !isOver { close() }
    }

    private func look() {
        let stream = reader.stream
        if let nonsense = stream.nonsense {
            ledger.report("nonsense to a server (\(nonsense.prefix(100)))", attempt?.exchange)
        }
        while overCount < stream.messages.count {
            let message = stream.messages[overCount]
            if attempt == nil {
                guard let exchange = ledger.exchange(message[Fuzz.mark]) else {
                    return ledger.report("a request of nobody: \(message.startLine)")
                }
                let new = FuzzAttempt(exchange, link, isHTTP2: false)
                attempt = new
                let words = message.startLine.split(separator: " ")
                ledger.requestSeen(exchange, new, message.fields, target: String(words[1]))
                if words[0] != exchange.plan.method { ledger.report("a method \(words[0])", exchange) }
                if new.answer.fault != .none { link.hasFaulted = true }
            }
            guard let attempt else { return }
            if let tunnel = stream.tunnel, overCount == stream.messages.count - 1 {
                ledger.requestContentSeen(attempt, tunnel[lookedBytes...])
                lookedBytes = tunnel.count
                return
            }
            ledger.requestContentSeen(attempt, message.content[lookedBytes...])
            lookedBytes = message.content.count
            guard message.isComplete else { return }
            if attempt.exchange.plan.kind == .message {
                let isChunked = message["Transfer-Encoding"] != nil
                ledger.requestEndSeen(attempt, .clean, trailers: message.trailers, mayDropTrailers: !isChunked)
            }
            guard answerIsQueued, outbox.isEmpty, !outbox.hasMarks else { return }
            goOn()
        }
    }

    private func goOn() {
        attempt = nil
        overCount += 1
        (lookedBytes, interimsQueued, headIsQueued, queuedBytes, answerIsQueued) = (0, 0, false, 0, false)
    }

    // MARK: Answering

    override func act() -> Bool {
        guard let attempt, !hasEndedSending, outbox.count < 1 << 17 else { return false }
        if answerIsQueued {
            guard outbox.isEmpty, !outbox.hasMarks, attempt.requestEnd != .open else { return false }
            goOn()
            look()
            return true
        }
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        if interimsQueued < answer.interims.count {
            let (status, fields) = answer.interim(interimsQueued, of: plan)
            interimsQueued += 1
            sayHead("\(status) Interim", fields)
            return true
        }
        if answer.fault == .refused || answer.fault == .goAway {
            close()
            return true
        }
        if !headIsQueued {
            guard answer.isDue(attempt) else { return false }
            headIsQueued = true
            sayFinalHead(attempt)
            return true
        }
        return sayContent(attempt)
    }

    private func sayHead(_ status: String, _ fields: [(String, String)]) {
        let lines = ["HTTP/1.1 \(status)"] + fields.map { "\($0.0): \($0.1)" }
        outbox.append(Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8))
    }

    private func sayFinalHead(_ attempt: FuzzAttempt) {
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        var fields = answer.fields(plan.tag)
        if answer.fault == .malformed {
            let bad = generator.pick([
                "HTTP/1.1 20\r\n\r\n", "HTTP/2 200 OK\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
                "HTTP/1.1 200 OK\r\nX : y\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "\r\n\r\n\r\n",
                "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
                // To somebody who asked for it that is none.
                plan.kind == .upgrade
                    ? "\r\n" : "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\nabc",
            ])
            outbox.append(Array(bad.utf8))
            answerIsQueued = true
            outbox.mark { [unowned self] in self.endSending() }
            return
        }
        if answer.closes { fields.append(("Connection", "close")) }
        if plan.kind == .upgrade, answer.grants {
            fields += [("Connection", "Upgrade"), ("Upgrade", "fuzz")]
            sayHead("101 Switching Protocols", fields)
        } else {
            if answer.hasContent(plan.method), !(answer.grants && plan.kind == .connect) {
                switch answer.framing {
                case .none, .length: fields.append(("Content-Length", "\(answer.bytes)"))
                case .chunked: fields.append(("Transfer-Encoding", "chunked"))
                case .close: if !answer.closes { fields.append(("Connection", "close")) }
                }
            } else if plan.method == "HEAD", answer.framing == .length, answer.status != 204 {
                fields.append(("Content-Length", "77"))
            }
            sayHead("\(answer.status) Final", fields)
        }
        outbox.mark { attempt.headIsSent = true }
    }

    private func sayContent(_ attempt: FuzzAttempt) -> Bool {
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        var count = min(answer.bytes - queuedBytes, isCalm ? 65_536 : generator.pick([1, 10, 500, 5000, 40_000]))
        var stop: Int?
        switch answer.fault {
        case .cut(let offset), .reset(let offset): stop = offset
        default: break
        }
        if let stop { count = min(count, stop - queuedBytes) }
        if count > 0 {
            let content = Sea.content(plan.tag, .down, from: queuedBytes, count: count)
            if answer.framing == .chunked {
                outbox.append(chunk: content)
            } else {
                outbox.append(content)
            }
            queuedBytes += count
            let total = queuedBytes
            outbox.mark { attempt.sentBytes = total }
        }
        if let stop, queuedBytes == stop {
            answerIsQueued = true
            let isReset = if case .reset = answer.fault { true } else { false }
            // Often at once, before the proxy has a turn.
            outbox.mark { [unowned self] in
                if isReset { self.reset() } else { self.endSending() }
            }
            return true
        }
        guard queuedBytes == answer.bytes else { return true }
        answerIsQueued = true
        if answer.hasContent(plan.method), answer.framing == .chunked, !answer.grants {
            let trailers = Sea.trailers(plan.tag, .down, bytes: answer.trailerBytes)
            let text = trailers.map { "\($0.name): \($0.value)\r\n" }.joined()
            outbox.append(Array("0\r\n\(text)\r\n".utf8))
        }
        let ends = answer.grants || answer.closes || (answer.framing == .close && answer.hasContent(plan.method))
        outbox.mark { [unowned self] in
            attempt.endIsSent = true
            if ends { self.endSending() }
        }
        if answer.fault == .surplus {
            // What comes later could be an answer to the next request.
            let more = Array("HTTP/1.1 200 OK\r\n\(Fuzz.mark): 9999\r\nContent-Length: 4\r\n\r\nevil".utf8)
            outbox.append(more)
            outbox.glue(last: more.count + 1)
        }
        return true
    }

    // MARK: State

    override var isSettled: Bool { isOver || inputIsOver || attempt == nil || hasEndedSending }

    override var state: String {
        guard let attempt, !isOver else { return "" }
        return "HTTP/1 server \(link.name): \(outbox.count) bytes to send; \(ledger.describe(attempt.exchange))"
    }
}
