// What clients and servers of HTTP/2 share: frames written by hand and read by hand, windows, settings, HPACK, and what a
// peer may do at any time and what it may not. Only HPACK's decoder is nghttp2's.

import CNghttp2
import HTTP2Support
import TestSupport

/// Decodes field sections of one connection.
final class FuzzInflater {
    private var inflater: OpaquePointer?

    init() { precondition(nghttp2_hd_inflate_new(&inflater) == 0, "no memory") }

    deinit { nghttp2_hd_inflate_del(inflater) }

    func changeTable(_ bytes: Int) { nghttp2_hd_inflate_change_table_size(inflater, bytes) }

    /// - Returns: nil if it is none.
    func fields(_ block: [UInt8]) -> [SeenField]? {
        var fields: [SeenField] = []
        var isWhole = block.isEmpty
        let isGood = block.withUnsafeBufferPointer { buffer -> Bool in
            guard var place = buffer.baseAddress else { return true }
            var left = buffer.count
            while true {
                var pair = nghttp2_nv()
                var flags: Int32 = 0
                let count = nghttp2_hd_inflate_hd2(inflater, &pair, &flags, place, left, 1)
                guard count >= 0 else { return false }
                place += count
                left -= count
                if flags & Int32(NGHTTP2_HD_INFLATE_EMIT.rawValue) != 0 {
                    fields.append(
                        SeenField(name: text(pair.name, pair.namelen), value: text(pair.value, pair.valuelen)))
                }
                if flags & Int32(NGHTTP2_HD_INFLATE_FINAL.rawValue) != 0 {
                    isWhole = true
                    return nghttp2_hd_inflate_end_headers(inflater) == 0
                }
                if left == 0, count == 0 { return false }
            }
        }
        return isGood && isWhole ? fields : nil
    }

    private func text(_ bytes: UnsafeMutablePointer<UInt8>?, _ count: Int) -> String {
        String(decoding: UnsafeBufferPointer(start: UnsafePointer(bytes), count: count), as: UTF8.self)
    }
}

/// One stream, for one of the peers of the proxy.
final class FuzzStream {
    let id: UInt32
    var exchange: FuzzExchange?
    var attempt: FuzzAttempt?
    var sendWindow: Int
    /// Content received, and given back to the stream's window.
    var receivedBytes = 0
    var creditedBytes = 0
    var headIsReceived = false
    var receivingIsOver = false
    var sendingIsOver = false
    var isReset = false
    // What was put into the outbox.
    var headIsQueued = false
    var queuedBytes = 0
    var interimsQueued = 0
    /// Whether its content is a tunnel's.
    var isTunnel = false

    init(_ id: UInt32, sendWindow: Int) {
        self.id = id
        self.sendWindow = sendWindow
    }

    var isOver: Bool { isReset || (receivingIsOver && sendingIsOver) }
}

/// See the head of the file.
class FuzzHTTP2Peer: FuzzConnection {
    let isClient: Bool
    var streams: [UInt32: FuzzStream] = [:]
    private let inflater = FuzzInflater()
    private var input: [UInt8] = []
    private var inputStart = 0
    private var section: (stream: UInt32, endsStream: Bool, block: [UInt8])?
    private var hasPreface = false
    private var hasSettings = false
    private var awaitsPreface: Bool
    // The proxy's settings.
    private(set) var peerWindow = 65_535
    private(set) var peerStreamsMax = 100
    private(set) var peerTakesTunnels = false
    private(set) var goAwayLast: UInt32?
    // Windows of the connection.
    private var sendWindow = 65_535
    private var receivedBytes = 0
    private var creditedBytes = 0
    // Settings of our own: the window that streams begin with, the largest there ever was, and tables not yet acknowledged.
    private var ownWindow = 65_535
    private var ownWindowMax = 65_535
    private var tablesAwaited: [Int?] = []
    private let isStingy: Bool
    private let paddingPercent: Int
    private var nuisanceCount = 0
    private var isGenerous = false
    /// The highest stream that the proxy began.
    private(set) var newestPeerStream: UInt32 = 0
    /// The last stream that was looked at, as was said.
    private(set) var lastLookedAt = UInt32.max
    /// Nothing is said any more: what was said ends the connection.
    var isDoomed = false

    init(
        _ name: String, isClient: Bool, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64
    ) {
        self.isClient = isClient
        awaitsPreface = !isClient
        var own = SeededGenerator(seed: seed &+ 2)
        isStingy = own.chance(30)
        paddingPercent = own.pick([0, 0, 10, 50])
        super.init(name, ledger, transport, seed: seed)
    }

    // MARK: What subclasses do

    func headReceived(_ stream: FuzzStream, _ fields: [SeenField]) {}
    func trailersReceived(_ stream: FuzzStream, _ fields: [SeenField]) {}
    func contentReceived(_ stream: FuzzStream, _ bytes: ArraySlice<UInt8>) {}
    func endReceived(_ stream: FuzzStream, trailers: [SeenField]) {}
    func resetReceived(_ stream: FuzzStream, _ code: UInt32) {}
    func goAwayReceived(_ last: UInt32, _ code: UInt32) {}
    /// A stream that the proxy begins.
    func begin(_ id: UInt32) -> FuzzStream? { nil }

    // MARK: Saying

    func say(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, _ payload: [UInt8] = []) {
        Fuzz.trace("\(link.name) says type \(type) flags \(flags) stream \(stream), \(payload.count) bytes")
        outbox.append(Frame.make(type, flags: flags, stream: stream, payload))
    }

    /// The first words.
    func sayHello() {
        guard !hasPreface else { return }
        hasPreface = true
        if isClient { outbox.append(Frame.preface) }
        var values: [(UInt16, UInt32)] = []
        if generator.chance(50) {
            let window = generator.pick([0, 1, 100, 3000, 65_535, 1 << 20])
            values.append((4, UInt32(window)))
        }
        if generator.chance(20) { values.append((5, generator.pick([16_384, 20_000, 1 << 20]))) }
        if generator.chance(20) { values.append((1, generator.pick([0, 100, 4096]))) }
        if !isClient { values.append((3, generator.pick([1, 2, 100, 100]))) }
        if isClient { values.append((2, 0)) }
        saySettings(values)
        if generator.chance(30) { sayWindow(0, generator.pick([1, 100_000, 1 << 20])) }
    }

    func saySettings(_ values: [(UInt16, UInt32)]) {
        var payload: [UInt8] = []
        var table: Int?
        for (name, value) in values {
            payload += [UInt8(name >> 8), UInt8(name & 255)] + Frame.number(value)
            if name == 1 { table = Int(value) }
            if name == 4 {
                ownWindow = Int(value)
                ownWindowMax = max(ownWindowMax, ownWindow)
            }
        }
        tablesAwaited.append(table)
        say(4, payload)
    }

    /// More of a window.
    func sayWindow(_ stream: UInt32, _ bytes: Int) {
        guard bytes > 0 else { return }
        if stream == 0 { creditedBytes += bytes } else { streams[stream]?.creditedBytes += bytes }
        say(8, stream: stream, Frame.number(UInt32(bytes)))
    }

    /// A field section, in as many frames as it likes.
    func saySection(_ stream: UInt32, _ fields: [(String, String)], endsStream: Bool) {
        var block: [UInt8] = []
        for pair in fields {
            var one = Frame.fields([pair])
            // Some go into the table, or may never.
            if generator.chance(20), !pair.1.isEmpty, pair.1.utf8.count < 200 { one[0] = generator.pick([0x40, 0x10]) }
            block += one
        }
        var payload: [UInt8] = []
        var flags: UInt8 = endsStream ? 1 : 0
        let padding = generator.chance(paddingPercent) ? generator.int(0...255) : nil
        if let padding {
            flags |= 8
            payload.append(UInt8(padding))
        }
        if isClient, generator.chance(10) {
            flags |= 0x20
            payload += Frame.number(0) + [UInt8(generator.int(0...255))]
        }
        var place = 0
        let pieceMax = generator.chance(80) ? 16_000 : generator.pick([1, 10, 100, 1000])
        var count = min(block.count, pieceMax)
        payload += block[..<count]
        payload += [UInt8](repeating: 0, count: padding ?? 0)
        place = count
        var continuations = 0
        say(1, flags: flags | (place == block.count ? 4 : 0), stream: stream, payload)
        while place < block.count {
            // Few are as good as many: more than eight are taken for an attack by some.
            count = min(block.count - place, continuations < 6 ? pieceMax : 16_000)
            continuations += 1
            let isLast = place + count == block.count
            say(9, flags: isLast ? 4 : 0, stream: stream, Array(block[place..<(place + count)]))
            place += count
        }
    }

    /// What may be sent of a stream's content now.
    func room(_ stream: FuzzStream) -> Int { max(0, min(min(sendWindow, stream.sendWindow), 16_384)) }

    /// - Parameter then: what is true when the content was sent; padding may come behind it.
    func sayContent(
        _ stream: FuzzStream, _ content: ArraySlice<UInt8>, endsStream: Bool, then: @escaping () -> Void = {}
    ) {
        var flags: UInt8 = endsStream ? 1 : 0
        var padding: Int?
        if generator.chance(paddingPercent) {
            // Padding counts for the windows, too.
            let left = min(min(sendWindow, stream.sendWindow), 16_384) - content.count - 1
            if left >= 0 {
                padding = generator.int(0...min(left, 255))
                flags |= 8
            }
        }
        let length = content.count + (padding.map { $0 + 1 } ?? 0)
        sendWindow -= length
        stream.sendWindow -= length
        Fuzz.trace("\(link.name) says DATA flags \(flags) stream \(stream.id), \(length) bytes")
        outbox.append(Frame.number(UInt32(length)).dropFirst() + [0, flags] + Frame.number(stream.id))
        if let padding { outbox.append([UInt8(padding)]) }
        outbox.append(content)
        outbox.mark(then)
        if let padding { outbox.append([UInt8](repeating: 0, count: padding)) }
    }

    func sayReset(_ stream: FuzzStream, _ code: UInt32) {
        stream.isReset = true
        say(3, stream: stream.id, Frame.number(code))
    }

    func sayGoAway(_ last: UInt32, _ code: UInt32 = 0) {
        say(7, Frame.number(last) + Frame.number(code))
        // Later streams were not looked at, it says; nor are those that come.
        lastLookedAt = min(lastLookedAt, last)
        for stream in streams.values where stream.id > last { stream.attempt?.isRefused = true }
    }

    /// Opens windows again for what came: at once, late, or by little.
    /// - Returns: whether it did.
    func credit() -> Bool {
        var hasSaid = false
        if isCalm, !isGenerous {
            isGenerous = true
            hasSaid = true
            saySettings([(4, 1 << 20)])
            sayWindow(0, 1 << 24)
        }
        func step(_ owed: Int) -> Int {
            if isCalm { return owed > 30_000 ? owed : 0 }
            if owed <= 0 || generator.chance(70) { return 0 }
            return isStingy && generator.chance(30) ? min(owed, generator.pick([1, 10, 300])) : owed
        }
        let bytes = step(receivedBytes - creditedBytes)
        if bytes > 0 {
            sayWindow(0, bytes)
            hasSaid = true
        }
        for id in streams.keys.sorted() {
            guard let stream = streams[id], !stream.isReset, !stream.receivingIsOver else { continue }
            let bytes = step(stream.receivedBytes - stream.creditedBytes)
            if bytes > 0 {
                sayWindow(id, bytes)
                hasSaid = true
            }
        }
        return hasSaid
    }

    /// Something that is allowed at any time and brings nothing forward.
    func sayNuisance() {
        guard nuisanceCount < 60 else { return }
        nuisanceCount += 1
        let some = streams.keys.sorted()
        let known = some.isEmpty ? 1 : generator.pick(some)
        let any: UInt32 = generator.pick([known, known, 1, 3, 5, 99, 1001])
        switch generator.int(0...9) {
        case 0, 1: say(6, flags: 0, stream: 0, (0..<8).map { _ in UInt8(generator.int(0...255)) })
        case 2:
            // Smaller, larger, none.
            saySettings([(4, UInt32(generator.pick([0, 1, 50, 5000, 65_535, 1 << 20])))])
        case 3: saySettings([(1, UInt32(generator.pick([0, 50, 4096])))])
        case 4: saySettings([(5, UInt32(generator.pick([16_384, 30_000, 1 << 24 - 1])))])
        case 5:
            let parent = generator.pick([0, 1, 3, 7].filter { $0 != any })
            say(2, stream: any, Frame.number(parent) + [UInt8(generator.int(0...255))])
        case 6, 7:
            if isClient {
                say(16, Frame.number(any | 1) + Array(generator.pick(["u=0", "u=7, i", "i", "", "u=9", "x=;"]).utf8))
            }
        case 8: say(UInt8(generator.int(20...255)), stream: generator.pick([0, any]), [1, 2, 3])
        default:
            if let stream = streams[known], !stream.isReset, !stream.receivingIsOver { sayWindow(known, 1) }
        }
    }

    /// Something that is not allowed. What follows on this connection is the proxy's affair.
    func sayViolation() {
        link.hasFaulted = true
        link.hasViolated = true
        let some = streams.keys.sorted()
        let known = some.isEmpty ? 1 : generator.pick(some)
        // Elsewhere it would be content, or its end.
        let ended = some.first { streams[$0]?.sendingIsOver ?? false } ?? 9999
        switch generator.int(0...24) {
        case 0: say(0, stream: 9999, [1, 2, 3])
        case 1: say(1, flags: 5, stream: 2, Frame.fields(Frame.get))
        case 2: say(8, stream: generator.pick([0, known]), Frame.number(0))
        case 3: say(8, stream: generator.pick([0, known]), Frame.number(0x7FFF_FFFF))
        case 4: say(4, [0, 4] + Frame.number(0x8000_0000))
        case 5: say(6, [1, 2, 3])
        case 6: say(3, stream: generator.pick([0, 9999]), Frame.number(8))
        case 7: say(9, flags: 4, stream: known, [1, 2])
        case 8: outbox.append(Array([0xFF, 0xFF, 0xFF, 0, 0]) + Frame.number(known))
        case 9: say(1, flags: 5, stream: known, Frame.fields([("X-Upper", "1")]))
        case 10: say(1, flags: 5, stream: known, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF])
        case 11: say(2, stream: known, Frame.number(known) + [1])
        case 12: say(0, flags: 1, stream: ended, [])
        case 13, 14:
            say(1, flags: 1, stream: known, Frame.fields([("a", "b")]))
            for _ in 0..<generator.int(10...60) { say(9, stream: known) }
        case 15: sayGoAway(generator.pick([0, known, 0x7FFF_FFFF]), generator.pick([0, 1, 11]))
        case 16: outbox.append((0..<generator.int(1...40)).map { _ in UInt8(generator.int(0...255)) })
        case 17: say(4, flags: 1, stream: 0, [0, 4, 0, 0, 0, 0])
        case 18: say(1, flags: 4, stream: known, Frame.fields([("x-end", "1")]))
        case 19: say(0, stream: ended, [UInt8](repeating: 7, count: 16_384))
        case 20: say(0, flags: 8, stream: known, [200, 1, 2])
        case 21: say(5, flags: 4, stream: known, Frame.number(8) + Frame.fields(Frame.get))
        case 22: say(1, flags: 5, stream: known, Frame.fields([(":status", "200"), (":path", "/")]))
        case 23: for _ in 0..<4 { say(1, flags: 4, stream: known, Frame.fields([(":status", "200")])) }
        default: for _ in 0..<generator.int(1...400) { say(4) }
        }
    }

    // MARK: Hearing

    /// The proxy broke a rule; that of who broke one before is its own affair.
    private func protest(_ text: String, _ exchange: FuzzExchange? = nil) {
        if !link.hasViolated { ledger.report(text, exchange) }
    }

    override func received(_ bytes: [UInt8]) {
        input.append(contentsOf: bytes)
        if awaitsPreface {
            guard input.count >= Frame.preface.count else { return }
            if !input.starts(with: Frame.preface) { protest("a connection to \(link.name) without the preface") }
            awaitsPreface = false
            inputStart = Frame.preface.count
        }
        while input.count - inputStart >= 9, !isOver {
            let head = input[inputStart..<(inputStart + 9)].map { Int($0) }
            let length = head[0] << 16 | head[1] << 8 | head[2]
            guard input.count - inputStart >= 9 + length else { break }
            let id = UInt32(head[5] << 24 | head[6] << 16 | head[7] << 8 | head[8]) & 0x7FFF_FFFF
            let payload = input[(inputStart + 9)..<(inputStart + 9 + length)]
            inputStart += 9 + length
            if length > 16_384 { protest("a frame of \(length) bytes") }
            frameReceived(UInt8(head[3]), UInt8(head[4]), id, payload)
        }
        if inputStart > 1 << 16 || inputStart == input.count {
            input.removeFirst(inputStart)
            inputStart = 0
        }
    }

    private func number(_ payload: ArraySlice<UInt8>) -> UInt32 { payload.prefix(4).reduce(0) { $0 << 8 | UInt32($1) } }

    private func frameReceived(_ type: UInt8, _ flags: UInt8, _ id: UInt32, _ payload: ArraySlice<UInt8>) {
        Fuzz.trace(
            "\(link.name) hears type \(type) flags \(flags) stream \(id), \(payload.count) bytes \(payload.prefix(8))")
        if section != nil, type != 9 { protest("a frame of type \(type) within a field section") }
        if !hasSettings, type != 4 { protest("a frame of type \(type) before SETTINGS") }
        switch type {
        case 0: dataReceived(flags, id, payload)
        case 1:
            if flags & 8 != 0 || flags & 0x20 != 0 { protest("HEADERS with what the proxy has no use for") }
            section = (id, flags & 1 != 0, Array(payload))
            if flags & 4 != 0 { sectionReceived() }
        case 9:
            guard section?.stream == id else { return protest("a CONTINUATION of nothing") }
            section?.block += payload
            if flags & 4 != 0 { sectionReceived() }
        case 3:
            guard let stream = streams[id] else { return }
            if !stream.isReset {
                stream.isReset = true
                resetReceived(stream, number(payload))
            }
        case 4: settingsReceived(flags, payload)
        case 6: if flags & 1 == 0, !hasEndedSending { say(6, flags: 1, stream: 0, Array(payload)) }
        case 7:
            let last = number(payload) & 0x7FFF_FFFF
            let code = number(payload.dropFirst(4))
            goAwayLast = last
            if code != 0 {
                protest("GOAWAY with code \(code) to \(link.name), which did nothing wrong")
            }
            goAwayReceived(last, code)
        case 8:
            let bytes = Int(number(payload))
            if bytes == 0 { protest("a window opened by nothing") }
            if id == 0 { sendWindow += bytes } else { streams[id]?.sendWindow += bytes }
        case 2, 5: protest("a frame of type \(type)")
        default: break
        }
    }

    private func settingsReceived(_ flags: UInt8, _ payload: ArraySlice<UInt8>) {
        hasSettings = true
        if flags & 1 != 0 {
            guard !tablesAwaited.isEmpty else { return protest("SETTINGS acknowledged that nobody sent") }
            if let table = tablesAwaited.removeFirst() { inflater.changeTable(table) }
            return
        }
        var place = payload.startIndex
        while place + 6 <= payload.endIndex {
            let name = Int(payload[place]) << 8 | Int(payload[place + 1])
            let value = Int(number(payload[(place + 2)..<(place + 6)]))
            switch name {
            case 3: peerStreamsMax = value
            case 4:
                for stream in streams.values { stream.sendWindow += value - peerWindow }
                peerWindow = value
            case 8: peerTakesTunnels = value == 1
            default: break
            }
            place += 6
        }
        if !hasEndedSending { say(4, flags: 1, stream: 0, []) }
    }

    private func dataReceived(_ flags: UInt8, _ id: UInt32, _ payload: ArraySlice<UInt8>) {
        receivedBytes += payload.count
        if receivedBytes > creditedBytes + 65_535 { protest("DATA beyond the connection's window at \(link.name)") }
        guard let stream = streams[id] else { return protest("DATA on a stream that is none (\(id))") }
        stream.receivedBytes += payload.count
        if stream.receivedBytes > stream.creditedBytes + ownWindowMax {
            protest("DATA beyond a stream's window at \(link.name)", stream.exchange)
        }
        if stream.receivingIsOver { protest("DATA behind END_STREAM at \(link.name)", stream.exchange) }
        if stream.isReset { return }
        if !stream.headIsReceived { protest("DATA before a head at \(link.name)", stream.exchange) }
        if !payload.isEmpty { contentReceived(stream, payload) }
        if flags & 1 != 0 {
            stream.receivingIsOver = true
            endReceived(stream, trailers: [])
        }
    }

    private func sectionReceived() {
        guard let whole = section else { return }
        section = nil
        guard let fields = inflater.fields(whole.block) else {
            return protest("a field section that cannot be read at \(link.name)")
        }
        if streams[whole.stream] == nil, !isClient {
            if whole.stream <= newestPeerStream || whole.stream & 1 == 0 { protest("stream \(whole.stream) begins") }
            newestPeerStream = max(newestPeerStream, whole.stream)
            streams[whole.stream] = begin(whole.stream)
        }
        guard let stream = streams[whole.stream] else { return }
        if stream.receivingIsOver { protest("HEADERS behind END_STREAM at \(link.name)", stream.exchange) }
        if stream.isReset { return }
        let status = fields.first { $0.name == ":status" }.flatMap { Int($0.value) }
        let isHead = !stream.headIsReceived
        if isHead {
            if status.map({ $0 >= 200 }) ?? true { stream.headIsReceived = true }
            headReceived(stream, fields)
        } else {
            if fields.contains(where: { $0.name.hasPrefix(":") }) {
                protest("a second head on a stream at \(link.name)", stream.exchange)
            }
            if !whole.endsStream { protest("trailers that end nothing at \(link.name)", stream.exchange) }
            trailersReceived(stream, fields)
        }
        if whole.endsStream {
            stream.receivingIsOver = true
            endReceived(stream, trailers: isHead ? [] : fields)
        }
    }
}
