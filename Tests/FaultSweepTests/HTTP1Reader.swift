// A reader of HTTP/1 for the sweep alone: small, strict, and written apart from the proxy's, since it judges that one.
// It knows only what the cases of the sweep use; anything else is nonsense.

/// Reads one direction of a connection.
struct HTTP1Reader {
    /// Who sends what is read.
    enum Role {
        case requests
        case responses
    }

    private enum State {
        case head
        case sized(Int)
        case chunkLine
        case chunk(Int)
        case chunkEnd
        case trailers
        case untilClose
        case tunnel
        case nonsense
    }

    private let role: Role
    /// Whether a request to upgrade or to connect, and the answer that grants it, make a tunnel.
    private let switches: Bool
    /// For responses: the methods of what is answered, in order.
    var methods: [String] = []
    /// For requests: whether one that asks for a tunnel is granted it. What is behind one that is not is the next request.
    var grants: (SeenMessage) -> Bool = { _ in true }
    private(set) var stream = SeenStream()
    private var state = State.head
    private var pending: SeenMessage?
    private var buffer: [UInt8] = []
    private var start = 0
    private var scanned = 0

    init(_ role: Role, switches: Bool, methods: [String] = []) {
        self.role = role
        self.switches = switches
        self.methods = methods
    }

    /// More bytes.
    mutating func feed(_ bytes: ArraySlice<UInt8>) {
        guard !bytes.isEmpty else { return }
        if stream.ending != .open { refuse("bytes behind the end") }
        if start == buffer.count {
            buffer.removeAll(keepingCapacity: true)
            (start, scanned) = (0, 0)
        }
        buffer.append(contentsOf: bytes)
        while start < buffer.count, advance() {}
        if case .head = state { stream.hasPartialHead = pending != nil || start < buffer.count }
    }

    /// The end of the direction.
    mutating func end(_ ending: Ending) {
        guard stream.ending == .open else { return }
        stream.ending = ending
        if case .untilClose = state, ending == .clean { finish() }
    }

    private mutating func refuse(_ what: String) {
        if stream.nonsense == nil { stream.nonsense = what }
        state = .nonsense
    }

    private mutating func finish() {
        stream.messages[stream.messages.count - 1].isComplete = true
        state = .head
    }

    /// Goes on by one line or one run of content.
    /// - Returns: whether that was possible.
    private mutating func advance() -> Bool {
        switch state {
        case .head:
            if role == .responses, pending == nil, stream.messages.count >= methods.count {
                refuse("bytes behind the last response that was asked for")
                return true
            }
            guard let line = takeLine() else { return false }
            headLine(line)
        case .sized(let remaining):
            let left = takeContent(remaining)
            if left == 0 { finish() } else { state = .sized(left) }
        case .chunkLine:
            guard let line = takeLine() else { return false }
            guard let size = Int(line, radix: 16), size >= 0 else {
                refuse("a chunk of size '\(line)'")
                return true
            }
            state = size == 0 ? .trailers : .chunk(size)
        case .chunk(let remaining):
            let left = takeContent(remaining)
            state = left == 0 ? .chunkEnd : .chunk(left)
        case .chunkEnd:
            guard let line = takeLine() else { return false }
            if line.isEmpty { state = .chunkLine } else { refuse("a chunk without its end") }
        case .trailers:
            guard let line = takeLine() else { return false }
            if line.isEmpty {
                finish()
            } else if let field = field(line) {
                stream.messages[stream.messages.count - 1].trailers.append(field)
            }
        case .untilClose:
            _ = takeContent(.max)
        case .tunnel:
            stream.tunnel?.append(contentsOf: buffer[start...])
            start = buffer.count
        case .nonsense:
            start = buffer.count
        }
        return true
    }

    private mutating func takeContent(_ remaining: Int) -> Int {
        let count = min(remaining, buffer.count - start)
        stream.messages[stream.messages.count - 1].content.append(contentsOf: buffer[start..<(start + count)])
        start += count
        return remaining - count
    }

    private mutating func takeLine() -> String? {
        scanned = max(scanned, start)
        guard let end = buffer[scanned...].firstIndex(of: 0x0A) else {
            scanned = buffer.count
            return nil
        }
        let bytes = buffer[start..<end]
        start = end + 1
        guard bytes.last == 0x0D, bytes.dropLast().allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) else {
            refuse("a line '\(String(decoding: bytes, as: UTF8.self))'")
            return nil
        }
        return String(decoding: bytes.dropLast(), as: UTF8.self)
    }

    private mutating func field(_ line: String) -> SeenField? {
        guard let colon = line.utf8.firstIndex(of: 0x3A), colon > line.startIndex else {
            refuse("a field line '\(line)'")
            return nil
        }
        let value = line[line.index(after: colon)...].drop { $0 == " " }
        return SeenField(name: String(line[..<colon]), value: String(value))
    }

    private mutating func headLine(_ line: String) {
        guard pending != nil else {
            let parts = line.split(separator: " ", omittingEmptySubsequences: false)
            let version = role == .requests ? parts.last : parts.first
            guard parts.count >= 3, version == "HTTP/1.1" || version == "HTTP/1.0" else {
                refuse("a first line '\(line)'")
                return
            }
            pending = SeenMessage(startLine: line)
            return
        }
        if !line.isEmpty {
            if let field = field(line) { pending?.fields.append(field) }
            return
        }
        guard let message = pending else { return }
        pending = nil
        stream.hasPartialHead = false
        if role == .responses { beginResponse(message) } else { begin(message) }
    }

    private mutating func beginResponse(_ message: SeenMessage) {
        let status = message.status
        guard (100...599).contains(status) else {
            refuse("a status line '\(message.startLine)'")
            return
        }
        if status < 200, status != 101 {
            if message["Content-Length"] != nil || message["Transfer-Encoding"] != nil {
                refuse("framing in an interim response")
            }
            stream.interims.append(
                SeenInterim(index: stream.messages.count, startLine: message.startLine, mark: message[Mark.name]))
            return
        }
        begin(message)
    }

    private mutating func begin(_ message: SeenMessage) {
        let index = stream.messages.count
        stream.messages.append(message)
        let lengths = message.fields.filter { $0.isNamed("Content-Length") }
        let codings = message.fields.filter { $0.isNamed("Transfer-Encoding") }
        guard lengths.count + codings.count <= 1 else {
            refuse("two framings in one head")
            return
        }
        let hasNoContent: Bool
        switch role {
        case .requests:
            if switches, message["Upgrade"] != nil || message.method == "CONNECT", grants(message) {
                finish()
                beginTunnel()
                return
            }
            hasNoContent = lengths.isEmpty && codings.isEmpty
        case .responses:
            if message.status == 101 || methods[index] == "CONNECT" && message.status < 300 {
                if switches { finish() } else { refuse("a switch that nobody asked for") }
                if switches { beginTunnel() }
                return
            }
            hasNoContent = methods[index] == "HEAD" || message.status == 204 || message.status == 304
        }
        if hasNoContent {
            finish()
        } else if let coding = codings.first {
            if coding.value == "chunked" { state = .chunkLine } else { refuse("a coding '\(coding.value)'") }
        } else if let length = lengths.first {
            guard let count = Int(length.value), count >= 0 else {
                refuse("a length '\(length.value)'")
                return
            }
            if count == 0 { finish() } else { state = .sized(count) }
        } else {
            state = .untilClose
        }
    }

    private mutating func beginTunnel() {
        stream.tunnel = []
        state = .tunnel
    }
}
