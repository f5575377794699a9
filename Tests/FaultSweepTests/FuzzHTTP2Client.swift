// A client of HTTP/2: many streams at once, in any order, frames of all sorts between them; and one that breaks the rules.

import HTTP2Support
import TestSupport

/// See the head of the file.
final class FuzzHTTP2Client: FuzzHTTP2Peer {
    private enum Fault {
        case reset
        case close
        case halfClose
        case violation
        case goAway
    }

    private var script: [FuzzExchange]
    private var nextID: UInt32 = 1
    private let streamsMax: Int
    private let isTLS: Bool
    private let resetPercent: Int
    private var fault: Fault?
    private var faultOffset = 0
    private var beginsNothing = false

    init(
        _ name: String, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64, _ script: [FuzzExchange],
        faultPercent: Int, isTLS: Bool
    ) {
        self.script = script
        self.isTLS = isTLS
        var own = SeededGenerator(seed: seed &+ 1)
        streamsMax = own.pick([1, 3, 10, 50])
        resetPercent = own.chance(faultPercent) ? own.pick([1, 5]) : 0
        if own.chance(faultPercent) {
            fault = own.pick([.reset, .close, .halfClose, .goAway, .violation, .violation, .violation, .violation])
            faultOffset = own.size(max: 30_000)
        }
        super.init(name, isClient: true, ledger, transport, seed: seed)
    }

    // MARK: Saying

    private var openStreams: [FuzzStream] { streams.keys.sorted().compactMap { streams[$0] }.filter { !$0.isOver } }

    override func act() -> Bool {
        guard !hasEndedSending, outbox.count < 1 << 17 else { return false }
        sayHello()
        if let fault, sentTotal >= faultOffset {
            self.fault = nil
            befall(fault)
            return true
        }
        if isDoomed { return false }
        var hasSaid = credit()
        for _ in 0..<(isCalm ? 1000 : generator.int(1...4)) {
            if outbox.count > 1 << 18 { break }
            if !isCalm, generator.chance(8) {
                sayNuisance()
                hasSaid = true
                continue
            }
            let open = openStreams
            if !script.isEmpty, !beginsNothing, open.count < min(streamsMax, peerStreamsMax),
                isCalm || generator.chance(30)
            {
                begin(script.removeFirst())
                hasSaid = true
                continue
            }
            let ready = open.filter { !$0.sendingIsOver && maySay($0) }
            guard let stream = isCalm ? ready.first : ready.isEmpty ? nil : generator.pick(ready) else { break }
            if !isCalm, generator.chance(resetPercent) {
                abort(stream)
            } else {
                upload(stream)
            }
            hasSaid = true
        }
        return hasSaid
    }

    private func befall(_ fault: Fault) {
        link.hasFaulted = true
        for stream in openStreams { stream.exchange?.isAborted = true }
        beginsNothing = true
        switch fault {
        case .reset: reset()
        case .close: close()
        case .halfClose: endSending()
        case .violation:
            // Behind other things in one write, so that it meets them in one read.
            if generator.chance(50), !script.isEmpty, openStreams.count < peerStreamsMax { begin(script.removeFirst()) }
            sayViolation()
            if generator.chance(50) { sayViolation() }
        case .goAway: sayGoAway(0)
        }
    }

    private func begin(_ exchange: FuzzExchange) {
        let plan = exchange.plan
        exchange.link = link
        exchange.clientIsHTTP2 = true
        exchange.isAborted = link.hasFaulted
        let stream = FuzzStream(nextID, sendWindow: peerWindow)
        nextID += 2
        stream.exchange = exchange
        streams[stream.id] = stream
        var fields: [(String, String)] = []
        let scheme = (":scheme", isTLS ? "https" : "http")
        switch plan.kind {
        case .message:
            fields = [(":method", plan.method), scheme, (":path", plan.path), (":authority", "t")]
        case .upgrade:
            fields = [
                (":method", "CONNECT"), (":protocol", "fuzz"), scheme, (":path", plan.path), (":authority", "t"),
            ]
        case .connect: fields = [(":method", "CONNECT"), (":authority", "t\(plan.tag):443")]
        }
        fields.append((Fuzz.mark, "\(plan.tag)"))
        if plan.padBytes > 0 { fields.append(("x-pad", Sea.text(plan.tag, .up, 1, count: plan.padBytes))) }
        if plan.kind == .message {
            if plan.framing == .length { fields.append(("content-length", "\(plan.bytes)")) }
            if plan.expects { fields.append(("expect", "100-continue")) }
            if generator.chance(30) { fields.append(("te", "trailers")) }
            if generator.chance(20) { fields.append(("priority", "u=\(generator.int(0...7))")) }
        }
        stream.isTunnel = plan.kind != .message
        let isWhole = plan.kind == .message && (plan.framing == .none || plan.bytes == 0 && plan.trailerBytes == 0)
        saySection(stream.id, fields, endsStream: isWhole)
        if isWhole {
            stream.sendingIsOver = true
            outbox.mark { exchange.endIsSent = true }
        }
    }

    private func maySay(_ stream: FuzzStream) -> Bool {
        guard let exchange = stream.exchange else { return false }
        let plan = exchange.plan
        if stream.isTunnel, exchange.isOwnError { return true }
        if stream.isTunnel, exchange.status == 0, !plan.speaksEarly { return false }
        if plan.expects, stream.queuedBytes == 0, exchange.interimCount == 0, exchange.status == 0, !isCalm {
            return false
        }
        return stream.queuedBytes == plan.bytes || room(stream) > 0
    }

    private func upload(_ stream: FuzzStream) {
        guard let exchange = stream.exchange else { return }
        let plan = exchange.plan
        if stream.isTunnel, exchange.isOwnError || exchange.status >= 300 {
            // A refusal: nothing goes up.
            sayContent(stream, [], endsStream: true)
            stream.sendingIsOver = true
            return
        }
        let count = min(
            plan.bytes - stream.queuedBytes, room(stream), isCalm ? 16_384 : generator.pick([1, 10, 500, 16_384]))
        let isLast = stream.queuedBytes + count == plan.bytes
        let endsStream = isLast && plan.trailerBytes == 0 && (isCalm || generator.chance(60))
        if count > 0 || endsStream || (!isLast && generator.chance(2)) {
            let content = Sea.content(plan.tag, .up, from: stream.queuedBytes, count: count)
            stream.queuedBytes += count
            let total = stream.queuedBytes
            sayContent(stream, content, endsStream: endsStream) { exchange.sentBytes = total }
        }
        if isLast, plan.trailerBytes > 0 {
            let trailers = Sea.trailers(plan.tag, .up, bytes: plan.trailerBytes).map { ($0.name, $0.value) }
            saySection(stream.id, trailers, endsStream: true)
        } else if !endsStream {
            return
        }
        stream.sendingIsOver = true
        outbox.mark { exchange.endIsSent = true }
    }

    private func abort(_ stream: FuzzStream) {
        stream.exchange?.isAborted = true
        sayReset(stream, generator.pick([0, 5, 8, 8, 8]))
        if let exchange = stream.exchange { ledger.endSeen(exchange, .broken) }
    }

    // MARK: Hearing

    override func headReceived(_ stream: FuzzStream, _ fields: [SeenField]) {
        guard let exchange = stream.exchange else { return }
        let status = fields.first { $0.name == ":status" }.flatMap { Int($0.value) } ?? 0
        if status < 200 {
            ledger.interimSeen(exchange, mark: fields.first { $0.isNamed(Fuzz.mark) }?.value)
        } else {
            ledger.headSeen(exchange, status: status, fields)
        }
    }

    override func contentReceived(_ stream: FuzzStream, _ bytes: ArraySlice<UInt8>) {
        if let exchange = stream.exchange { ledger.contentSeen(exchange, bytes) }
    }

    override func endReceived(_ stream: FuzzStream, trailers: [SeenField]) {
        if let exchange = stream.exchange { ledger.endSeen(exchange, .clean, trailers: trailers) }
    }

    override func resetReceived(_ stream: FuzzStream, _ code: UInt32) {
        if let exchange = stream.exchange { ledger.endSeen(exchange, .broken) }
    }

    override func goAwayReceived(_ last: UInt32, _ code: UInt32) {
        beginsNothing = true
        for stream in openStreams where stream.id > last {
            stream.isReset = true
            stream.exchange?.isAborted = true
            if let exchange = stream.exchange { ledger.endSeen(exchange, .broken) }
        }
    }

    override func inputEnded(_ ending: Ending) {
        for stream in streams.values {
            if let exchange = stream.exchange { ledger.endSeen(exchange, .broken) }
        }
        if !isOver { close() }
    }

    override func outputEnded() {
        for stream in openStreams { stream.exchange?.isAborted = true }
    }

    // MARK: State

    override var isSettled: Bool {
        isOver || inputIsOver
            || (openStreams.isEmpty
                && (hasEndedSending || ((script.isEmpty || beginsNothing) && outbox.isEmpty)))
    }

    override var state: String {
        let open = openStreams
        return "HTTP/2 client \(link.name): \(script.count) to ask, \(outbox.count) bytes to send, open: "
            + open.prefix(3).map { stream in
                "\(stream.id) (window \(stream.sendWindow)) \(stream.exchange.map { ledger.describe($0) } ?? "")"
            }.joined(separator: " | ")
    }
}
