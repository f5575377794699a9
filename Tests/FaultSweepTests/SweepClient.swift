// The sweep's client: one connection to the proxy, which sends what a case says, as its schedule cuts it, and keeps
// what it said and what it saw. How messages become bytes is its layer's; how bytes travel is its transport's.

import TestSupport

/// A client's HTTP: what it has to say, and what it understood. HTTP/1 is one; HTTP/2 may be another.
protocol ClientLayer {
    /// What was really sent, as messages.
    var sent: SeenStream { get }
    /// What was received, as messages.
    var seen: SeenStream { get }
    /// Whether everything was given out.
    var hasSaidAll: Bool { get }
    /// Whether a direction of a tunnel ends within the layer, and the connection goes on.
    var endsTunnels: Bool { get }
    /// Gives out what may be said now, each byte once.
    mutating func takeOutput() -> [UInt8]
    /// Those bytes went out.
    mutating func didSend(_ bytes: ArraySlice<UInt8>)
    /// The own direction ended.
    mutating func didEndSending(_ ending: Ending)
    /// These bytes came.
    mutating func didReceive(_ bytes: [UInt8])
    /// The proxy's direction ended.
    mutating func didSeeEnd(_ ending: Ending)
}

/// A client's HTTP/1.
struct HTTP1ClientLayer: ClientLayer {
    private var parts: ArraySlice<(exchange: Int, part: Part)>
    private var sentReader: HTTP1Reader
    private var seenReader: HTTP1Reader

    init(_ plans: [ExchangePlan], switches: Bool) {
        parts = plans.indices.flatMap { exchange in plans[exchange].request.map { (exchange, $0) } }[...]
        sentReader = HTTP1Reader(.requests, switches: switches)
        seenReader = HTTP1Reader(.responses, switches: switches, methods: plans.map(\.method))
    }

    var sent: SeenStream { sentReader.stream }
    var seen: SeenStream { seenReader.stream }
    var hasSaidAll: Bool { parts.isEmpty }
    var endsTunnels: Bool { false }

    mutating func takeOutput() -> [UInt8] {
        var output: [UInt8] = []
        while let next = parts.first, next.part.gate.isOpen(seenReader.stream, next.exchange) {
            output += next.part.bytes
            parts.removeFirst()
        }
        return output
    }

    mutating func didSend(_ bytes: ArraySlice<UInt8>) { sentReader.feed(bytes) }
    mutating func didEndSending(_ ending: Ending) { sentReader.end(ending) }
    mutating func didReceive(_ bytes: [UInt8]) { seenReader.feed(bytes[...]) }
    mutating func didSeeEnd(_ ending: Ending) { seenReader.end(ending) }
}

/// Bytes that wait to be sent in pieces.
struct Outbox {
    private var bytes: [UInt8] = []
    private var start = 0

    var isEmpty: Bool { start == bytes.count }

    mutating func append(_ more: [UInt8]) {
        if isEmpty {
            bytes = more
            start = 0
        } else {
            bytes += more
        }
    }

    mutating func clear() {
        bytes = []
        start = 0
    }

    /// Sends one piece.
    /// - Parameters:
    ///   - total: how many bytes went before, in all.
    ///   - max: how many may go.
    /// - Returns: what went.
    mutating func send(
        to transport: any SweepTransport, _ pieces: Pieces, total: Int, max: Int, _ generator: inout SeededGenerator
    ) -> ArraySlice<UInt8> {
        var count = min(bytes.count - start, max)
        switch pieces {
        case .whole: break
        case .split(let offset): if total < offset { count = min(count, offset - total) }
        case .single: count = min(count, 1)
        case .random(let longest): count = min(count, Int.random(in: 1...longest, using: &generator))
        }
        guard count > 0 else { return [] }
        let sent = transport.send(bytes[start..<(start + count)])
        defer { start += sent }
        return bytes[start..<(start + sent)]
    }
}

/// One client with one connection.
final class SweepClient {
    private let transport: any SweepTransport
    private var layer: any ClientLayer
    private let exchangeCase: ExchangeCase
    private let exchangeCount: Int
    private let side: Schedule.Side
    private var outbox = Outbox()
    private var hasEndedSending = false
    private var isBlocked = false
    /// Whether the connection is closed on this side.
    private(set) var isOver = false
    private(set) var sentTotal = 0
    private(set) var receivedTotal = 0
    /// The fault that happened, if one did.
    private(set) var fault: Fault?

    init(
        _ exchangeCase: ExchangeCase, exchangeCount: Int, _ side: Schedule.Side, _ layer: any ClientLayer,
        _ transport: any SweepTransport
    ) {
        self.exchangeCase = exchangeCase
        self.exchangeCount = exchangeCount
        self.side = side
        self.layer = layer
        self.transport = transport
    }

    var sent: SeenStream { layer.sent }
    var seen: SeenStream { layer.seen }

    /// Whether nothing is left to do or to wait for.
    var isDone: Bool {
        if isOver || layer.seen.ending == .broken { return true }
        let isSilent = hasEndedSending || transport.isBroken || outbox.isEmpty && isBlocked
        if exchangeCase.switches, layer.seen.tunnel != nil { return layer.seen.ending != .open && isSilent }
        if layer.seen.ending != .open { return true }
        return isSilent && layer.seen.messages.count == exchangeCount
            && layer.seen.messages.allSatisfy { $0.isComplete }
    }

    /// Reads, then writes, a piece each; and ends where the schedule says so.
    /// - Returns: whether anything happened.
    func step(_ generator: inout SeededGenerator) -> Bool {
        guard !isOver else { return false }
        if isFaultDue, let fault = side.fault {
            perform(fault)
            return true
        }
        let hasReceived = receive()
        let hasSent = send(&generator)
        if let fault = side.fault, fault.isGlued, isFaultDue {
            perform(fault)
            return true
        }
        return hasReceived || hasSent
    }

    private var isFaultDue: Bool {
        guard let planned = side.fault, fault == nil else { return false }
        switch planned.moment {
        case .before: return true
        case .sent(let offset): return sentTotal >= offset
        // Before the first byte means: when it is there.
        case .received(let offset): return receivedTotal >= offset && (offset > 0 || transport.hasNews)
        }
    }

    private func perform(_ planned: Fault) {
        fault = planned
        switch planned.kind {
        case .close:
            layer.didEndSending(transport.close() ? .clean : .broken)
            isOver = true
        case .endSending:
            transport.endSending()
            layer.didEndSending(.clean)
            outbox.clear()
            hasEndedSending = true
        case .reset:
            _ = transport.reset()
            layer.didEndSending(.broken)
            isOver = true
        }
    }

    private func receive() -> Bool {
        var room = side.readMax
        if fault == nil, let max = side.fault?.receivedMax { room = min(room, max - receivedTotal) }
        guard room > 0, layer.seen.ending == .open else { return false }
        let bytes = transport.receive(max: room)
        receivedTotal += bytes.count
        if !bytes.isEmpty { layer.didReceive(bytes) }
        guard transport.ending != .open else { return !bytes.isEmpty }
        layer.didSeeEnd(transport.ending)
        return true
    }

    private func send(_ generator: inout SeededGenerator) -> Bool {
        guard !hasEndedSending else { return false }
        let output = layer.takeOutput()
        isBlocked = output.isEmpty
        outbox.append(output)
        let max = (fault == nil ? side.fault?.sentMax : nil).map { $0 - sentTotal } ?? .max
        let sent = outbox.send(to: transport, side.pieces, total: sentTotal, max: max, &generator)
        sentTotal += sent.count
        layer.didSend(sent)
        guard exchangeCase.endsSending, !layer.endsTunnels, layer.hasSaidAll, outbox.isEmpty, !isFaultDue else {
            return !sent.isEmpty
        }
        transport.endSending()
        layer.didEndSending(.clean)
        hasEndedSending = true
        return true
    }

    /// Ends whatever is still open.
    /// - Parameter byReset: leaves nothing behind in the kernel. What is ended in order waits there for a minute, and
    ///   the sweep would fill the machine with that.
    func finish(byReset: Bool) {
        guard !isOver else { return }
        isOver = true
        if byReset {
            _ = transport.reset()
            layer.didEndSending(.broken)
        } else {
            layer.didEndSending(transport.close() ? .clean : .broken)
        }
    }
}
