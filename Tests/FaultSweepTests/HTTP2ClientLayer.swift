// A client's HTTP/2: the same exchanges, each on a stream. What the client says becomes frames by a session in the client's
// role; what was really sent, frame by frame and cut anywhere, is read by another one in the server's role.
//
// The end of a stream takes the place of the connection's: a reset, or a connection that ends before the stream did, is a
// broken end; END_STREAM is a clean one.

import Bytes
import HTTP1
import HTTP2
import HTTPSemantics
import ProxyCore

/// One end of a connection that is looked at, message by message.
private final class FrameReader {
    let pool = BufferPool(freeBytesMax: 0)
    let engine: HTTP2Engine
    let session: HTTP2Session
    let head = Head(fieldsCapacity: 128)
    private let isCapitalised: Bool
    /// Cells that stand for who owns a stream.
    private var cells: [UnsafeMutablePointer<Cell>] = []

    struct Cell {
        var waiting = Buffer()
        let exchange: Int
        var isTunnel = false
        var method = Method.get
    }

    /// Messages by their exchange.
    var messages: [Int: SeenMessage] = [:]
    var interims: [SeenInterim] = []
    var tunnel: [UInt8]?
    /// How a tunnel's direction, or a broken stream, ended.
    var streamEnding = Ending.open
    var nonsense: String?
    /// Streams that are not closed.
    var openCount = 0

    init(_ role: HTTP2Session.Role) {
        guard let engine = HTTP2Engine(pool: pool, random: (1, 2)) else { preconditionFailure("no memory") }
        engine.grow(outgoingBytes: 64 << 10)
        guard let session = HTTP2Session(role, engine, limits: HTTP2Session.Limits(), nowMilliseconds: 0) else {
            preconditionFailure("no memory")
        }
        self.engine = engine
        self.session = session
        isCapitalised = role == .client
        session.produce()
    }

    deinit {
        session.forEachStream { session.release($0, code: HTTP2ErrorCode.cancel) }
        session.destroy()
        for cell in cells {
            pool.release(&cell.pointee.waiting)
            cell.deallocate()
        }
        engine.destroy()
        head.destroy()
        pool.destroy()
    }

    func makeCell(_ exchange: Int) -> UnsafeMutablePointer<Cell> {
        let cell = UnsafeMutablePointer<Cell>.allocate(capacity: 1)
        cell.initialize(to: Cell(exchange: exchange))
        cells.append(cell)
        return cell
    }

    func waiting(of cell: UnsafeMutablePointer<Cell>) -> UnsafeMutablePointer<Buffer> {
        UnsafeMutableRawPointer(cell).assumingMemoryBound(to: Buffer.self)
    }

    /// Messages in the order of their exchanges, as far as there is no gap.
    var ordered: [SeenMessage] {
        var all: [SeenMessage] = []
        while let message = messages[all.count] { all.append(message) }
        return all
    }

    func takePending() -> [UInt8] {
        var bytes: [UInt8] = []
        session.produce()
        while !session.pending.pointee.isEmpty {
            bytes += session.pending.pointee.bytes
            pool.release(&session.pending.pointee)
            session.produce()
        }
        while let notice = engine.takeNotice() {
            guard case .closed(let stream, let code) = notice else { continue }
            closed(stream, code)
        }
        return bytes
    }

    /// - Parameter exchanges: how many there are.
    func feed(_ bytes: [UInt8]) {
        bytes.withUnsafeBufferPointer { buffer in
            var offset = 0
            while offset < buffer.count || session.isPaused {
                let slice = UnsafeBufferPointer(rebasing: buffer[offset...])
                guard let count = session.receive(slice, nowMilliseconds: 0) else {
                    nonsense = "what is no HTTP/2"
                    return
                }
                pull(slice)
                if count == 0, !session.isPaused { return }
                offset += count
            }
        }
    }

    private func pull(_ slice: UnsafeBufferPointer<UInt8>) {
        let limits = HeadLimits(headBytesMax: 64 << 10, fieldsMax: 128, targetBytesMax: 8 << 10)
        while true {
            let event = session.next(
                into: head, limits: { _ in limits },
                answering: { $0.pointee.owner?.assumingMemoryBound(to: Cell.self).pointee.method ?? .get })
            switch event {
            case .none: return
            case .message(let stream, let message):
                if stream.pointee.owner == nil {
                    let cell = makeCell(messages.count)
                    session.adopt(stream, owner: cell, waiting: waiting(of: cell))
                }
                guard let cell = stream.pointee.owner?.assumingMemoryBound(to: Cell.self) else { continue }
                take(message, cell, slice)
                if case .content(_, let count) = message { session.contentTaken(count, of: stream) }
            case .closed(let stream, let code): closed(stream, code)
            case .settingsReceived, .goAwayReceived, .pingAnswered: break
            }
        }
    }

    private func closed(_ stream: HTTP2StreamPointer, _ code: UInt32) {
        openCount -= 1
        if code != HTTP2ErrorCode.noError || !stream.pointee.receivingEnded { streamEnding = .broken }
        session.release(stream, code: code)
    }

    private func take(_ event: MessageEvent, _ cell: UnsafeMutablePointer<Cell>, _ slice: UnsafeBufferPointer<UInt8>) {
        let exchange = cell.pointee.exchange
        switch event {
        case .head:
            messages[exchange] = SeenMessage(startLine: startLine, fields: fields)
            let status = head.storage.pointee.status
            cell.pointee.isTunnel =
                status == 0
                ? head.requestedUpgrade != .none || head.storage.pointee.method == .connect
                : cell.pointee.isTunnel && status < 300
            if status != 0, cell.pointee.isTunnel {
                tunnel = []
                messages[exchange]?.isComplete = true
                // What opened it there is 200 here (RFC 8441 section 5).
                if cell.pointee.method == .get {
                    messages[exchange]?.startLine = "HTTP/1.1 101 Switching Protocols"
                }
            }
            if status == 0, cell.pointee.isTunnel { messages[exchange]?.isComplete = true }
        case .interim:
            interims.append(
                SeenInterim(
                    index: exchange, startLine: startLine, mark: fields.first { $0.isNamed(Mark.name) }?.value))
        case .content(let start, let count):
            let content = slice[start..<(start + count)]
            if cell.pointee.isTunnel {
                tunnel = (tunnel ?? []) + content
            } else {
                messages[exchange]?.content += content
            }
        case .trailers: messages[exchange]?.trailers = fields
        case .ended:
            messages[exchange]?.isComplete = true
            if cell.pointee.isTunnel, streamEnding == .open { streamEnding = .clean }
        case .failed(let fault): nonsense = "\(fault)"
        case .needsInput: break
        }
    }

    private var startLine: String {
        let bytes = UnsafeBufferPointer(start: head.storage.pointee.bytes, count: head.storage.pointee.byteCount)
        return String(decoding: bytes.prefix { $0 != 13 }, as: UTF8.self)
    }

    /// Lines that are passed on. In HTTP/2 names are lower-case; what servers of the sweep say is capitalised.
    private var fields: [SeenField] {
        (0..<head.storage.pointee.fieldCount).map { index in
            let name = head.text(head.fields[index].name)
            return SeenField(
                name: isCapitalised ? Self.capitalised(name) : name, value: head.text(head.fields[index].value))
        }
    }

    private static func capitalised(_ name: String) -> String {
        name.split(separator: "-", omittingEmptySubsequences: false)
            .map { $0.prefix(1).uppercased() + $0.dropFirst() }.joined(separator: "-")
    }
}

/// See the head of the file.
final class HTTP2ClientLayer: ClientLayer {
    private let client = FrameReader(.client)
    private let witness = FrameReader(.server)
    private let plans: [ExchangePlan]
    private let switches: Bool
    private var parts: ArraySlice<(exchange: Int, part: Part)>
    private var decoders: [HTTP1Decoder]
    private var streams: [HTTP2StreamPointer?]
    private var isTunnel: [Bool]
    private var connectionEnding = Ending.open
    private var sentEnding = Ending.open
    private var hasEndedTunnel = false

    init(_ plans: [ExchangePlan], switches: Bool) {
        self.plans = plans
        self.switches = switches
        parts = plans.indices.flatMap { exchange in plans[exchange].request.map { (exchange, $0) } }[...]
        decoders = plans.map { _ in HTTP1Decoder(.request) }
        streams = plans.map { _ in nil }
        isTunnel = plans.map { _ in false }
    }

    var hasSaidAll: Bool { parts.isEmpty }
    var endsTunnels: Bool { true }

    var seen: SeenStream {
        var stream = SeenStream()
        stream.messages = client.ordered
        stream.interims = client.interims
        stream.tunnel = client.tunnel
        stream.nonsense = client.nonsense
        stream.ending = ending
        stream.hasPartialHead = client.session.isWithinHead
        return stream
    }

    /// What ends a stream ends what is seen: there is nothing more to wait for.
    private var ending: Ending {
        if client.streamEnding == .broken, connectionEnding == .open, client.openCount > 0 { return .open }
        if client.streamEnding != .open { return client.streamEnding }
        guard connectionEnding == .clean else { return connectionEnding }
        return client.messages.count == plans.count && client.messages.values.allSatisfy(\.isComplete)
            && client.tunnel == nil ? .clean : .broken
    }

    var sent: SeenStream {
        var stream = SeenStream()
        stream.messages = witness.ordered
        // A declared length says the end as well as END_STREAM, which may come behind it.
        for index in stream.messages.indices {
            let declared = stream.messages[index]["content-length"].flatMap { Int($0) }
            if declared == stream.messages[index].content.count { stream.messages[index].isComplete = true }
        }
        stream.tunnel = witness.tunnel ?? (switches && !stream.messages.isEmpty ? [] : nil)
        stream.ending = witness.streamEnding == .clean ? .clean : sentEnding
        return stream
    }

    func takeOutput() -> [UInt8] {
        while let next = parts.first, next.part.gate.isOpen(seen, next.exchange) {
            parts.removeFirst()
            say(next.part.bytes, in: next.exchange)
        }
        if switches, parts.isEmpty, !hasEndedTunnel, client.tunnel != nil, let stream = streams[0] {
            hasEndedTunnel = true
            client.session.sendEnd(on: stream)
        }
        return client.takePending()
    }

    private func say(_ bytes: [UInt8], in exchange: Int) {
        bytes.withUnsafeBufferPointer { buffer in
            var offset = 0
            while true {
                if isTunnel[exchange] {
                    if let stream = streams[exchange], offset < buffer.count {
                        client.session.sendContent(
                            UnsafeBufferPointer(rebasing: buffer[offset...]), isLast: false, on: stream)
                    }
                    return
                }
                let start = offset
                let event = decoders[exchange].next(
                    buffer, from: &offset, into: client.head,
                    limits: HeadLimits(headBytesMax: 8192, fieldsMax: 128, targetBytesMax: 8192))
                switch event {
                case .head: ask(UnsafeBufferPointer(rebasing: buffer[start..<offset]), exchange)
                case .content(let start, let count):
                    guard let stream = streams[exchange] else { return }
                    client.session.sendContent(
                        UnsafeBufferPointer(rebasing: buffer[start..<(start + count)]), isLast: false, on: stream)
                case .trailers:
                    guard let stream = streams[exchange],
                        let count = client.engine.write({ HeadRewrite.writeTrailers(client.head, to: &$0) })
                    else { return }
                    client.session.sendTrailers(count, from: 3, on: stream)
                case .ended:
                    if let stream = streams[exchange] { client.session.sendEnd(on: stream) }
                    return
                case .needsInput: return
                case .interim, .failed: preconditionFailure("a case says what is no request")
                }
            }
        }
    }

    private func ask(_ text: UnsafeBufferPointer<UInt8>, _ exchange: Int) {
        let storage = client.head.storage
        let upgrades = client.head.requestedUpgrade != .none
        isTunnel[exchange] = switches
        let cell = client.makeCell(exchange)
        cell.pointee.method = storage.pointee.method
        cell.pointee.isTunnel = switches
        guard let count = client.engine.write({ $0.append(text) }) else { preconditionFailure("a head is too long") }
        streams[exchange] = client.session.sendRequest(
            count, isWhole: storage.pointee.framing == .none && !upgrades && storage.pointee.method != .connect,
            opensTunnel: upgrades, isTLS: false, owner: cell, waiting: client.waiting(of: cell))
        if streams[exchange] != nil { client.openCount += 1 }
    }

    func didSend(_ bytes: ArraySlice<UInt8>) {
        witness.feed(Array(bytes))
        _ = witness.takePending()
    }

    func didEndSending(_ ending: Ending) { sentEnding = ending == .clean && !switches ? .clean : .broken }

    func didReceive(_ bytes: [UInt8]) { client.feed(bytes) }

    func didSeeEnd(_ ending: Ending) { connectionEnding = ending }
}
