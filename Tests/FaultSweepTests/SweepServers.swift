// The sweep's servers: two of them, each with any number of connections from the proxy. They answer what a case says,
// as its schedule cuts it, and keep what was asked of them and what they said, for each connection.

import EventLoop
import TestSupport

/// One time that a server saw a request.
struct Attempt {
    var exchange: Int
    /// The order among all servers.
    var order: Int
    /// The message of the connection.
    var index: Int
    /// Whether the connection had served another request before.
    var isReused: Bool
    /// How many bytes of a response to it were sent.
    var responseBytes = 0
}

/// A connection from the proxy.
final class ServerConnection {
    let server: Int
    fileprivate let transport: any SweepTransport
    fileprivate var seenReader: HTTP1Reader
    fileprivate var sentReader: HTTP1Reader
    fileprivate(set) var attempts: [Attempt] = []
    fileprivate(set) var hasFaulted = false
    /// Whether its reset may have taken back bytes that it had sent.
    fileprivate(set) var hasLost = false
    /// Whether it is closed on this side.
    fileprivate(set) var isOver = false
    fileprivate var outbox = Outbox()
    fileprivate var hasEndedSending = false
    /// The message that is answered or awaited, and how many parts of the answer were given out.
    fileprivate var index = 0
    fileprivate var partCount = 0
    fileprivate var receivedInCase = 0

    init(server: Int, _ transport: any SweepTransport, switches: Bool) {
        self.server = server
        self.transport = transport
        seenReader = HTTP1Reader(.requests, switches: switches)
        sentReader = HTTP1Reader(.responses, switches: switches)
    }

    var seen: SeenStream { seenReader.stream }
    var sent: SeenStream { sentReader.stream }

    fileprivate func endSending() {
        transport.endSending()
        sentReader.end(.clean)
        outbox.clear()
        hasEndedSending = true
    }

    fileprivate func close() {
        isOver = true
        sentReader.end(transport.close() ? .clean : .broken)
    }

    /// - Returns: whether everything that was sent had arrived.
    @discardableResult
    fileprivate func reset() -> Bool {
        isOver = true
        sentReader.end(.broken)
        return transport.reset()
    }

    fileprivate func perform(_ kind: Fault.Kind) {
        hasFaulted = true
        switch kind {
        case .close: close()
        case .endSending: endSending()
        case .reset: hasLost = !reset()
        }
    }
}

/// Both servers.
final class SweepServers {
    private let listeners: [PlainListener]
    private(set) var connections: [ServerConnection] = []
    private var exchangeCase = ExchangeCase.warmUp
    private var plans: [ExchangePlan] = []
    private var side = Schedule.Side()
    private var attemptCount = 0
    /// Bytes of responses that were sent in this case.
    private(set) var sentTotal = 0
    /// The fault that happened, if one did.
    private(set) var fault: Fault?
    /// Whether they say nothing more for the time being.
    var isFrozen = false

    /// - Parameter serve: makes a transport of an accepted socket.
    init(serve: @escaping (Int32) -> any SweepTransport) throws(SystemError) {
        listeners = [try PlainListener(serve: serve), try PlainListener(serve: serve)]
    }

    var ports: [UInt16] { listeners.map(\.port) }

    /// Another case begins. Connections that are open stay; they are reused then.
    func begin(_ exchangeCase: ExchangeCase, _ plans: [ExchangePlan], _ side: Schedule.Side) {
        self.exchangeCase = exchangeCase
        self.plans = plans
        self.side = side
        connections.removeAll { $0.isOver }
        for connection in connections { connection.receivedInCase = 0 }
        (attemptCount, sentTotal, fault, isFrozen) = (0, 0, nil, false)
    }

    /// Takes new connections; then every connection reads and writes a piece, and ends where the schedule says so.
    /// - Returns: whether anything happened.
    func step(_ generator: inout SeededGenerator) -> Bool {
        var hasProgress = false
        if fault == nil, let planned = side.fault, case .before = planned.moment {
            fault = planned
            hasProgress = true
            for connection in connections { connection.perform(planned.kind) }
        }
        for (index, listener) in listeners.enumerated() {
            while let transport = listener.accept() {
                connections.append(ServerConnection(server: index, transport, switches: exchangeCase.switches))
                hasProgress = true
            }
        }
        for connection in connections where !connection.isOver {
            if step(connection, &generator) { hasProgress = true }
        }
        return hasProgress
    }

    private func step(_ connection: ServerConnection, _ generator: inout SeededGenerator) -> Bool {
        if performFault(on: connection) { return true }
        let hasReceived = receive(connection)
        let hasSent = !isFrozen && answer(connection, &generator)
        if side.fault?.isGlued ?? false, performFault(on: connection) { return true }
        return endIfOver(connection) || hasReceived || hasSent
    }

    /// Closes when the proxy has ended and nothing is left to say.
    private func endIfOver(_ connection: ServerConnection) -> Bool {
        guard !connection.isOver else { return false }
        let isTunnel = connection.sent.tunnel != nil
        switch connection.seen.ending {
        case .open: return false
        case .clean:
            if isTunnel, !connection.hasEndedSending {
                // What the other side would have to say first will never come.
                guard connection.outbox.isEmpty || connection.transport.isBroken, !isFrozen else { return false }
                connection.endSending()
            }
            // The proxy has closed altogether, but for a tunnel; a reset leaves nothing behind in the kernel.
            if isTunnel { connection.close() } else { connection.reset() }
        case .broken: connection.reset()
        }
        return true
    }

    private func performFault(on connection: ServerConnection) -> Bool {
        guard let planned = side.fault, fault == nil, !connection.isOver, !isFrozen else { return false }
        switch planned.moment {
        case .before: return false
        case .sent(let offset):
            // Whoever spoke last; if that one is closed meanwhile, whoever is asked next.
            let speaker = connections.first { !$0.isOver && $0.attempts.last?.responseBytes ?? 0 > 0 }
            let isAsked = connection.attempts.contains { $0.exchange != Mark.warmUp }
            guard sentTotal == offset, isAsked, offset == 0 || speaker == nil || connection === speaker else {
                return false
            }
        case .received(let offset):
            guard connection.receivedInCase >= offset, offset > 0 || connection.transport.hasNews else { return false }
        }
        fault = planned
        connection.perform(planned.kind)
        return true
    }

    private func receive(_ connection: ServerConnection) -> Bool {
        var room = side.readMax
        if fault == nil, let max = side.fault?.receivedMax { room = min(room, max - connection.receivedInCase) }
        guard room > 0, connection.seen.ending == .open else { return false }
        let bytes = connection.transport.receive(max: room)
        connection.receivedInCase += bytes.count
        connection.seenReader.feed(bytes[...])
        let ending = connection.transport.ending
        if ending != .open { connection.seenReader.end(ending) }
        while connection.sentReader.methods.count < connection.seen.messages.count {
            let index = connection.sentReader.methods.count
            let message = connection.seen.messages[index]
            connection.sentReader.methods.append(message.method)
            let attempt = Attempt(
                exchange: message.exchange ?? -1, order: attemptCount, index: index, isReused: index > 0)
            connection.attempts.append(attempt)
            attemptCount += 1
        }
        return !bytes.isEmpty || ending != .open
    }

    private func answer(_ connection: ServerConnection, _ generator: inout SeededGenerator) -> Bool {
        guard !connection.hasEndedSending, connection.index < connection.attempts.count else { return false }
        let exchange = connection.attempts[connection.index].exchange
        guard plans.indices.contains(exchange) || exchange == Mark.warmUp else { return false }
        let plan = plans[exchange == Mark.warmUp ? 0 : exchange]
        while connection.partCount < plan.response.count {
            let part = plan.response[connection.partCount]
            guard part.gate.isOpen(connection.seen, connection.index) else { break }
            connection.outbox.append(part.bytes)
            connection.partCount += 1
        }
        let max = (fault == nil ? side.fault?.sentMax : nil).map { $0 - sentTotal } ?? .max
        let sent = connection.outbox.send(
            to: connection.transport, side.pieces, total: sentTotal, max: max, &generator)
        sentTotal += sent.count
        connection.attempts[connection.index].responseBytes += sent.count
        connection.sentReader.feed(sent)
        guard connection.partCount == plan.response.count, connection.outbox.isEmpty else { return !sent.isEmpty }
        if fault == nil, let max = side.fault?.sentMax, max == sentTotal { return !sent.isEmpty }
        if plan.responseEndsConnection || exchangeCase.endsSending {
            connection.endSending()
        } else {
            connection.index += 1
            connection.partCount = 0
        }
        return true
    }

    /// Ends what is still open.
    func finish() {
        for connection in connections where !connection.isOver { connection.reset() }
    }

    /// Adds a connection that the proxy did not make: only a planted fault does that.
    func plant(_ transport: any SweepTransport, server: Int) {
        connections.append(ServerConnection(server: server, transport, switches: exchangeCase.switches))
    }
}
