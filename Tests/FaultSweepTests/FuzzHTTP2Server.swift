// A connection of a server of HTTP/2: many answers at once, a frame of this one and a frame of that, and what such servers do
// wrong.

import HTTP2Support
import TestSupport

/// See the head of the file.
final class FuzzHTTP2Server: FuzzHTTP2Peer {
    /// When it breaks a rule by itself, in bytes sent; nil is never.
    private var violationOffset: Int?
    /// The last stream that it answers, once it said so.
    private var lastAnswered: UInt32?

    init(_ name: String, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64, faultPercent: Int) {
        var own = SeededGenerator(seed: seed &+ 1)
        if own.chance(faultPercent / 3) { violationOffset = own.size(max: 50_000) }
        super.init(name, isClient: false, ledger, transport, seed: seed)
    }

    // MARK: Hearing

    override func begin(_ id: UInt32) -> FuzzStream? { FuzzStream(id, sendWindow: peerWindow) }

    override func headReceived(_ stream: FuzzStream, _ fields: [SeenField]) {
        func value(_ name: String) -> String? { fields.first { $0.name == name }?.value }
        guard let exchange = ledger.exchange(value(Fuzz.mark)) else {
            return ledger.report("a request of nobody by HTTP/2")
        }
        let attempt = FuzzAttempt(exchange, link, isHTTP2: true)
        stream.exchange = exchange
        stream.attempt = attempt
        ledger.requestSeen(exchange, attempt, fields, target: value(":path") ?? value(":authority") ?? "")
        if value(":method") != exchange.plan.method { ledger.report("a method \(value(":method") ?? "")", exchange) }
        if exchange.plan.kind == .connect { stream.isTunnel = attempt.answer.grants }
        if attempt.answer.fault != .none { link.hasFaulted = true }
        if stream.id > lastLookedAt { attempt.isRefused = true }
        if let lastAnswered, stream.id > lastAnswered {
            attempt.isRefused = true
            stream.isReset = true
        }
    }

    override func contentReceived(_ stream: FuzzStream, _ bytes: ArraySlice<UInt8>) {
        if let attempt = stream.attempt { ledger.requestContentSeen(attempt, bytes) }
    }

    override func endReceived(_ stream: FuzzStream, trailers: [SeenField]) {
        guard let attempt = stream.attempt else { return }
        // What was not answered by a tunnel is no content.
        if attempt.exchange.plan.kind != .message, !attempt.answer.grants {
            attempt.requestEnd = .clean
        } else {
            ledger.requestEndSeen(attempt, .clean, trailers: trailers)
        }
    }

    override func resetReceived(_ stream: FuzzStream, _ code: UInt32) {
        if let attempt = stream.attempt { ledger.requestEndSeen(attempt, .broken) }
    }

    override func inputEnded(_ ending: Ending) {
        for stream in streams.values {
            if let attempt = stream.attempt { ledger.requestEndSeen(attempt, .broken) }
        }
        if !isOver { close() }
    }

    // MARK: Answering

    private var openStreams: [FuzzStream] {
        streams.keys.sorted().compactMap { streams[$0] }.filter {
            !$0.isReset && !$0.sendingIsOver && $0.attempt != nil
        }
    }

    override func act() -> Bool {
        guard !hasEndedSending, outbox.count < 1 << 17 else { return false }
        sayHello()
        if isDoomed { return false }
        if let offset = violationOffset, sentTotal >= offset, !isCalm {
            violationOffset = nil
            sayViolation()
            return true
        }
        var hasSaid = credit()
        for _ in 0..<(isCalm ? 1000 : generator.int(1...4)) {
            if outbox.count > 1 << 18 || isDoomed { break }
            if !isCalm, generator.chance(5) {
                sayNuisance()
                hasSaid = true
                continue
            }
            let ready = openStreams.filter { maySay($0) }
            guard let stream = isCalm ? ready.first : ready.isEmpty ? nil : generator.pick(ready) else { break }
            if let attempt = stream.attempt { answer(stream, attempt) }
            hasSaid = true
        }
        if lastAnswered != nil, !isDoomed, streams.values.allSatisfy({ $0.isOver || $0.isReset }) {
            isDoomed = true
            outbox.mark { [unowned self] in self.endSending() }
            hasSaid = true
        }
        return hasSaid
    }

    private func maySay(_ stream: FuzzStream) -> Bool {
        guard let attempt = stream.attempt else { return false }
        let answer = attempt.answer
        if answer.fault == .refused || answer.fault == .goAway { return true }
        if stream.interimsQueued < answer.interims.count { return true }
        if !stream.headIsQueued { return answer.isDue(attempt) }
        return room(stream) > 0 || isAtEnd(stream, answer)
    }

    /// Whether no more content comes.
    private func isAtEnd(_ stream: FuzzStream, _ answer: FuzzAnswer) -> Bool {
        switch answer.fault {
        case .cut(let offset), .reset(let offset): stream.queuedBytes == offset
        default: stream.queuedBytes == answer.bytes
        }
    }

    private func answer(_ stream: FuzzStream, _ attempt: FuzzAttempt) {
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        if answer.fault == .refused {
            attempt.isRefused = true
            return sayReset(stream, 7)
        }
        if answer.fault == .goAway { return leave(last: stream.id >= 2 ? stream.id - 2 : 0) }
        if stream.interimsQueued < answer.interims.count {
            let (status, fields) = answer.interim(stream.interimsQueued, of: plan)
            stream.interimsQueued += 1
            return saySection(stream.id, [(":status", "\(status)")] + fields, endsStream: false)
        }
        if !stream.headIsQueued { return sayFinalHead(stream, attempt) }
        sayContent(stream, attempt)
    }

    /// Says that it leaves.
    private func leave(last: UInt32) {
        guard lastAnswered == nil else {
            // It has said so already: there is no more to say.
            for stream in openStreams where stream.attempt?.answer.fault == .goAway { sayReset(stream, 2) }
            return
        }
        link.hasEnded = true
        lastAnswered = last
        sayGoAway(last)
        for stream in streams.values where stream.id > last && !stream.isOver {
            stream.attempt?.isRefused = true
            stream.isReset = true
        }
    }

    private func sayFinalHead(_ stream: FuzzStream, _ attempt: FuzzAttempt) {
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        stream.headIsQueued = true
        var fields = [(":status", "\(answer.status)")] + answer.fields(plan.tag)
        if answer.fault == .malformed {
            link.hasViolated = true
            switch generator.int(0...4) {
            case 0: fields.removeFirst()
            case 1: fields.append(("X-Upper", "1"))
            case 2: fields.append(("connection", "close"))
            case 3: fields[0] = (":status", "101")
            default: fields.append((":path", "/"))
            }
            saySection(stream.id, fields, endsStream: generator.chance(30))
            stream.sendingIsOver = true
            return
        }
        let hasContent = answer.hasContent(plan.method) && !answer.grants
        if hasContent, answer.framing == .length { fields.append(("content-length", "\(answer.bytes)")) }
        if plan.method == "HEAD", answer.framing == .length, answer.status != 204 {
            fields.append(("content-length", "77"))
        }
        let isWhole =
            answer.bytes == 0 && answer.trailerBytes == 0 && answer.fault == .none && !answer.grants
            && generator.chance(70)
        saySection(stream.id, fields, endsStream: isWhole)
        outbox.mark { attempt.headIsSent = true }
        if isWhole { ended(stream, attempt) }
    }

    private func sayContent(_ stream: FuzzStream, _ attempt: FuzzAttempt) {
        let answer = attempt.answer
        let plan = attempt.exchange.plan
        var left = answer.bytes - stream.queuedBytes
        if case .cut(let offset) = answer.fault { left = offset - stream.queuedBytes }
        if case .reset(let offset) = answer.fault { left = offset - stream.queuedBytes }
        let count = min(left, room(stream), isCalm ? 16_384 : generator.pick([1, 10, 500, 16_384, 16_384]))
        let isLast = count == left
        let isFaulty = answer.fault != .none && answer.fault != .surplus && answer.fault != .fatal
        let endsStream = isLast && answer.trailerBytes == 0 && !isFaulty && (isCalm || generator.chance(70))
        if count > 0 || endsStream {
            let content = Sea.content(plan.tag, .down, from: stream.queuedBytes, count: count)
            stream.queuedBytes += count
            let total = stream.queuedBytes
            sayContent(stream, content, endsStream: endsStream) { attempt.sentBytes = total }
        }
        guard isLast else { return }
        switch answer.fault {
        case .cut:
            if answer.framing == .length, generator.chance(30) {
                sayContent(stream, [], endsStream: true)
                stream.sendingIsOver = true
            } else {
                sayReset(stream, generator.pick([0, 1, 2, 8]))
            }
            return
        case .reset:
            isDoomed = true
            if generator.chance(30) { sayGoAway(newestPeerStream, 2) }
            outbox.mark { [unowned self] in self.reset() }
            return
        default: break
        }
        if answer.trailerBytes > 0 {
            let trailers = Sea.trailers(plan.tag, .down, bytes: answer.trailerBytes).map { ($0.name, $0.value) }
            saySection(stream.id, trailers, endsStream: true)
        } else if !endsStream {
            return
        }
        ended(stream, attempt)
    }

    private func ended(_ stream: FuzzStream, _ attempt: FuzzAttempt) {
        stream.sendingIsOver = true
        let answer = attempt.answer
        outbox.mark { attempt.endIsSent = true }
        if answer.fault == .surplus || answer.fault == .fatal { link.hasViolated = true }
        if answer.fault == .surplus { say(0, flags: 1, stream: stream.id, [1, 2, 3]) }
        if answer.fault == .fatal {
            // In one write with the last of the answer.
            attempt.endIsSent = true
            let before = outbox.count
            if generator.chance(50) {
                say(1, flags: 1, stream: stream.id, [])
                for _ in 0..<generator.int(10...60) { say(9, stream: stream.id) }
            } else {
                sayViolation()
            }
            outbox.glue(last: outbox.count - before + 1)
            return
        }
        if !stream.receivingIsOver, !answer.grants, generator.chance(30) { sayReset(stream, 0) }
        if answer.closes, lastAnswered == nil { leave(last: newestPeerStream) }
    }

    // MARK: State

    override var isSettled: Bool { isOver || inputIsOver || openStreams.isEmpty }

    override var state: String {
        guard !isOver else { return "" }
        return "HTTP/2 server \(link.name): \(outbox.count) bytes to send, open: "
            + openStreams.prefix(3).map { stream in
                "\(stream.id) (window \(stream.sendWindow)) \(stream.exchange.map { ledger.describe($0) } ?? "")"
            }.joined(separator: " | ")
    }
}
