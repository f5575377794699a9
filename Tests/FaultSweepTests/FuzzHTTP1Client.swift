// A client of HTTP/1: requests in a row, pipelined or not, with content of either framing, in any pieces; tunnels; and the
// ways in which a client may go.

import TestSupport

/// See the head of the file.
final class FuzzHTTP1Client: FuzzConnection {
    private enum Fault {
        case reset
        case close
        case halfClose
        case garbage
    }

    private var script: [FuzzExchange]
    /// What was asked, in order; nil is garbage.
    private var asked: [FuzzExchange?] = []
    private var reader = HTTP1Reader(.responses, switches: true)
    private let depth: Int
    private var uploading: FuzzExchange?
    private var queuedBytes = 0
    private var upIsOver = false
    /// Of the answers, how many are over, and how much of the next one was looked at.
    private var overCount = 0
    private var headIsChecked = false
    private var lookedBytes = 0
    private var interimsLooked = 0
    private var fault: Fault?
    private var faultOffset = 0
    private var isGivingUp = false

    init(
        _ name: String, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64, _ script: [FuzzExchange],
        faultPercent: Int
    ) {
        self.script = script
        var own = SeededGenerator(seed: seed &+ 1)
        depth = own.pick([1, 1, 2, 8])
        if own.chance(faultPercent) {
            fault = own.pick([.reset, .close, .halfClose, .halfClose, .garbage])
            faultOffset = own.size(max: 20_000)
        }
        super.init(name, ledger, transport, seed: seed)
    }

    // MARK: Saying

    override func act() -> Bool {
        if hasEndedSending { return false }
        if let fault, sentTotal >= faultOffset {
            self.fault = nil
            // In content or in a tunnel there is no garbage.
            let isElsewhere =
                uploading != nil || reader.stream.tunnel != nil || (asked.last ?? nil)?.plan.kind != .message
            befall(fault == .garbage && isElsewhere ? .reset : fault)
            return true
        }
        guard !isGivingUp, outbox.count < 1 << 17 else { return false }
        if let exchange = uploading { return upload(exchange) }
        if isCalm, reader.stream.ending == .open, inputIsOver { return false }
        if endsInGarbage { return false }
        guard !script.isEmpty, asked.count - overCount < depth, reader.stream.tunnel == nil else { return false }
        // Nothing is asked behind a request for a tunnel that is not answered.
        if let last = asked.last ?? nil, last.plan.kind != .message, last.end == .open { return false }
        begin(script.removeFirst())
        return true
    }

    private func befall(_ fault: Fault) {
        link.hasFaulted = true
        for exchange in asked.compactMap({ $0 }) where exchange.end == .open { exchange.isAborted = true }
        switch fault {
        case .reset: reset()
        case .close: close()
        case .halfClose: endSending()
        case .garbage:
            asked.append(nil)
            reader.methods.append("GET")
            script = []
            uploading = nil
            isGivingUp = true
            outbox.append(
                Array(
                    generator.pick([
                        "\0\0\0", "GET /\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n", "\u{16}\u{3}\u{1}",
                        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    ]).utf8))
        }
    }

    private func begin(_ exchange: FuzzExchange) {
        let plan = exchange.plan
        exchange.link = link
        asked.append(exchange)
        reader.methods.append(plan.method)
        let target = plan.kind == .connect ? "t\(plan.tag):443" : plan.path
        var lines = ["\(plan.method) \(target) HTTP/\(plan.isHTTP10 ? "1.0" : "1.1")"]
        lines.append("Host: \(plan.kind == .connect ? target : "t")")
        lines.append("\(Fuzz.mark): \(plan.tag)")
        if plan.padBytes > 0 { lines.append("x-pad: \(Sea.text(plan.tag, .up, 1, count: plan.padBytes))") }
        if plan.isHTTP10, generator.chance(50) { lines.append("Connection: keep-alive") }
        switch plan.kind {
        case .message:
            switch plan.framing {
            case .none: break
            case .length: lines.append("Content-Length: \(plan.bytes)")
            case .chunked, .close: lines.append("Transfer-Encoding: chunked")
            }
            if plan.expects { lines.append("Expect: 100-continue") }
            if generator.chance(30) { lines.append("TE: trailers") }
        case .upgrade: lines += ["Connection: Upgrade", "Upgrade: fuzz"]
        case .connect: break
        }
        outbox.append(Array((lines.joined(separator: "\r\n") + "\r\n\r\n").utf8))
        queuedBytes = 0
        if plan.kind == .message, plan.framing == .none {
            outbox.mark { exchange.endIsSent = true }
        } else {
            uploading = exchange
        }
    }

    /// Whether it speaks before the tunnel is there. If there will be none, that is garbage, and nothing comes behind it.
    private func speaksEarly(_ exchange: FuzzExchange) -> Bool {
        guard exchange.plan.speaksEarly, exchange.plan.bytes > 0 else { return false }
        if !endsInGarbage {
            asked.append(nil)
            reader.methods.append("GET")
            script = []
        }
        return true
    }

    private func upload(_ exchange: FuzzExchange) -> Bool {
        let plan = exchange.plan
        if plan.kind != .message {
            // What is behind a refused tunnel would be the next request.
            if exchange.status == 0, !speaksEarly(exchange) { return false }
            guard exchange.status == 0 || reader.stream.tunnel != nil else {
                uploading = nil
                return true
            }
        } else if plan.expects, exchange.interimCount == 0, exchange.status == 0, queuedBytes == 0, !isCalm {
            return false
        }
        if queuedBytes < plan.bytes {
            let count = min(plan.bytes - queuedBytes, isCalm ? 65_536 : generator.pick([1, 10, 500, 5000, 40_000]))
            let content = Sea.content(plan.tag, .up, from: queuedBytes, count: count)
            if plan.kind == .message, plan.framing == .chunked {
                outbox.append(chunk: content, extension: generator.chance(5) ? ";a=b" : "")
            } else {
                outbox.append(content)
            }
            queuedBytes += count
            let total = queuedBytes
            // Content counts as said from its first byte on: the last of it may be in the proxy's hands.
            outbox.mark { exchange.sentBytes = total }
            if queuedBytes < plan.bytes || plan.kind != .message { return true }
        }
        uploading = nil
        if plan.kind != .message {
            outbox.mark { [unowned self] in
                exchange.endIsSent = true
                self.endSending()
            }
            return true
        }
        if plan.framing == .chunked {
            let trailers = Sea.trailers(plan.tag, .up, bytes: plan.trailerBytes)
            let text = trailers.map { "\($0.name): \($0.value)\r\n" }.joined()
            outbox.append(Array("0\r\n\(text)\r\n".utf8))
        }
        outbox.mark { exchange.endIsSent = true }
        return true
    }

    // MARK: Hearing

    override func received(_ bytes: [UInt8]) {
        reader.feed(bytes[...])
        look()
    }

    override func inputEnded(_ ending: Ending) {
        reader.end(ending)
        look()
        if let exchange = current, reader.stream.tunnel != nil {
            // What a tunnel's end means its own bytes tell.
            ledger.endSeen(exchange, ending == .clean ? .clean : .broken)
        }
        for exchange in asked.compactMap({ $0 }) { ledger.endSeen(exchange, .broken) }
        // A tunnel's other direction goes on.
        if !isOver, reader.stream.tunnel == nil || ending != .clean { close() }
    }

    override func outputEnded() {
        for exchange in asked.compactMap({ $0 }) where !exchange.endIsSent || reader.stream.tunnel == nil {
            if exchange.end == .open { exchange.isAborted = true }
        }
    }

    private var endsInGarbage: Bool { asked.contains { $0 == nil } }

    private var current: FuzzExchange? { asked.indices.contains(overCount) ? asked[overCount] : nil }

    private func look() {
        let stream = reader.stream
        if let nonsense = stream.nonsense, !endsInGarbage {
            ledger.report("nonsense to a client of HTTP/1 (\(nonsense.prefix(100)))", current)
        }
        while interimsLooked < stream.interims.count {
            let interim = stream.interims[interimsLooked]
            interimsLooked += 1
            guard asked.indices.contains(interim.index), let exchange = asked[interim.index] else { continue }
            ledger.interimSeen(exchange, mark: interim.mark)
        }
        while overCount < stream.messages.count {
            guard overCount < asked.count else { return }
            let message = stream.messages[overCount]
            guard let exchange = asked[overCount] else {
                if message[Fuzz.mark] != nil { ledger.report("a server's answer to garbage") }
                overCount += 1
                continue
            }
            if !headIsChecked {
                headIsChecked = true
                ledger.headSeen(exchange, status: message.status, message.fields)
            }
            if let tunnel = stream.tunnel, overCount == stream.messages.count - 1 {
                if exchange.plan.kind == .message { ledger.report("a tunnel that nobody asked for", exchange) }
                let fresh = tunnel[lookedBytes...]
                lookedBytes = tunnel.count
                ledger.contentSeen(exchange, fresh)
                return
            }
            let fresh = message.content[lookedBytes...]
            lookedBytes = message.content.count
            ledger.contentSeen(exchange, fresh)
            guard message.isComplete else { return }
            let isChunked = message["Transfer-Encoding"] != nil
            ledger.endSeen(exchange, .clean, trailers: message.trailers, mayDropTrailers: !isChunked)
            (overCount, lookedBytes, headIsChecked) = (overCount + 1, 0, false)
            if message["Connection"]?.lowercased() == "close" { script = [] }
        }
    }

    // MARK: State

    override var isSettled: Bool {
        if isOver { return true }
        if inputIsOver { return hasEndedSending }
        let awaited = endsInGarbage ? asked.count - 1 : asked.count
        return uploading == nil && script.isEmpty && overCount >= awaited && outbox.isEmpty
    }

    override var state: String {
        "HTTP/1 client \(link.name): \(script.count) to ask, \(overCount) of \(asked.count) over, "
            + "\(outbox.count) bytes to send; next: \(current.map { ledger.describe($0) } ?? "-")"
    }
}
