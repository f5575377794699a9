// One connection of the demo's origin: requests in, responses out, one after the other, with blocking calls.

import Glibc

/// Why a connection ends before its client asked for it.
enum DemoEnd: Error {
    /// The client is gone, or has been silent for too long.
    case clientGone
    /// The request cannot be understood; the status that says so.
    case refused(status: String)
}

/// A request's head, as far as the origin cares.
struct DemoRequest {
    /// How long the content is.
    enum Content: Equatable {
        /// This many bytes, perhaps none.
        case length(Int)
        /// As many as there are chunks.
        case chunked
    }

    var method = ""
    /// The target without its query.
    var path = ""
    /// HTTP/1.0: no chunks, no interim responses, no reuse.
    var isOldVersion = false
    var content = Content.length(0)
    var awaitsContinue = false
    var closes = false
}

/// How a response's content ends.
enum DemoFraming {
    case length(Int)
    case chunked
}

struct DemoConnection: ~Copyable {
    /// How long a client may be silent, or take nothing.
    private static let patienceSeconds = 75
    private static let headBytesMax = 32_768
    private static let pieceBytesMax = 65_536
    /// Linux's POLLRDHUP, which the C library shows only to programs that ask for its extensions.
    private static let peerHasClosed: Int16 = 0x2000

    private let descriptor: Int32
    /// Bytes received and not used yet.
    private var input: [UInt8] = []
    /// What is left of the current request's content: bytes of it, or of its current chunk.
    private var contentLeft = 0
    private var isInChunks = false
    private var mustContinue = false
    /// The current response.
    private var hasContent = true
    private var writesChunks = false
    private(set) var request = DemoRequest()

    init(descriptor: Int32) {
        self.descriptor = descriptor
        var patience = timeval(tv_sec: Self.patienceSeconds, tv_usec: 0)
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Answers requests until either side has enough. The descriptor stays open.
    mutating func serve() {
        do throws(DemoEnd) {
            repeat {
                try receiveHead()
                try answer()
            } while !request.closes
        } catch {
            guard case .refused(let status) = error else { return }
            let head = "HTTP/1.1 \(status)\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            try? send(Array(head.utf8)[...])
        }
    }

    // MARK: the request

    private mutating func receiveHead() throws(DemoEnd) {
        var searched = 0
        while true {
            if let end = Self.headEnd(in: input, from: searched) {
                request = try Self.parse(input[..<end])
                input.removeFirst(end)
                break
            }
            guard input.count < Self.headBytesMax else { throw .refused(status: "431 Request Header Fields Too Large") }
            searched = max(0, input.count - 3)
            try receive()
        }
        switch request.content {
        case .length(let length): (contentLeft, isInChunks) = (length, false)
        case .chunked: (contentLeft, isInChunks) = (0, true)
        }
        mustContinue = request.awaitsContinue && !request.isOldVersion
    }

    private static func headEnd(in bytes: [UInt8], from start: Int) -> Int? {
        var index = start
        while index + 3 < bytes.count {
            if bytes[index] == 13, bytes[index + 1] == 10, bytes[index + 2] == 13, bytes[index + 3] == 10 {
                return index + 4
            }
            index += 1
        }
        return nil
    }

    private static func parse(_ head: ArraySlice<UInt8>) throws(DemoEnd) -> DemoRequest {
        let bad = DemoEnd.refused(status: "400 Bad Request")
        // Lines end with CRLF; a character of Swift's is one of them both, so this cuts between bytes instead.
        let lines = head.dropLast(4).split(separator: 10, omittingEmptySubsequences: false).map { line in
            String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
        }
        let words = lines[0].split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[1].hasPrefix("/") else { throw bad }
        var request = DemoRequest()
        request.method = String(words[0])
        request.path = String(words[1].prefix { $0 != "?" })
        switch words[2] {
        case "HTTP/1.1": request.isOldVersion = false
        case "HTTP/1.0": (request.isOldVersion, request.closes) = (true, true)
        default: throw .refused(status: "505 HTTP Version Not Supported")
        }
        var length: Int?
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":"), colon != line.startIndex else { throw bad }
            let value = line[line.index(after: colon)...].split(separator: " ").joined(separator: " ").lowercased()
            switch line[..<colon].lowercased() {
            case "content-length":
                guard length == nil, value.utf8.allSatisfy({ (48...57).contains($0) }), let parsed = Int(value) else {
                    throw bad
                }
                length = parsed
            case "transfer-encoding":
                guard value == "chunked", !request.isOldVersion else { throw bad }
                request.content = .chunked
            case "connection":
                if value.split(separator: ",").contains(where: { $0.trimmingSpaces == "close" }) {
                    request.closes = true
                }
            case "expect":
                request.awaitsContinue = value == "100-continue"
            default: break
            }
        }
        if let length {
            // RFC 9112 section 6.3: both is an attack or an accident.
            guard request.content == .length(0) else { throw bad }
            request.content = .length(length)
        }
        return request
    }

    /// Sends the 100 that the client waits for, if it does. Too late once the response's head is sent.
    mutating func acceptContent() throws(DemoEnd) {
        guard mustContinue else { return }
        mustContinue = false
        try sendInterim("100 Continue", fields: [])
    }

    /// The next piece of the request's content as it arrives; nil at its end.
    mutating func nextPiece() throws(DemoEnd) -> ArraySlice<UInt8>? {
        try acceptContent()
        if contentLeft == 0, isInChunks { try beginChunk() }
        guard contentLeft > 0 else { return nil }
        if input.isEmpty { try receive() }
        let piece = input.prefix(contentLeft)
        input.removeFirst(piece.count)
        contentLeft -= piece.count
        if contentLeft == 0, isInChunks {
            guard try receiveLine().isEmpty else { throw .refused(status: "400 Bad Request") }
        }
        return piece
    }

    /// Reads a chunk's size, and after the last chunk the trailer section.
    private mutating func beginChunk() throws(DemoEnd) {
        let size = try receiveLine().prefix { $0 != ";" }
        guard (1...15).contains(size.utf8.count), let value = Int(size, radix: 16), value >= 0 else {
            throw .refused(status: "400 Bad Request")
        }
        contentLeft = value
        guard value == 0 else { return }
        isInChunks = false
        while try !receiveLine().isEmpty {}
    }

    private mutating func receiveLine() throws(DemoEnd) -> String {
        while true {
            if let end = input.firstIndex(of: 10) {
                let line = input[..<end]
                input.removeFirst(end + 1)
                return String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
            }
            guard input.count < Self.headBytesMax else { throw .refused(status: "400 Bad Request") }
            try receive()
        }
    }

    private mutating func receive() throws(DemoEnd) {
        let count = withUnsafeTemporaryAllocation(byteCount: Self.pieceBytesMax, alignment: 1) { room in
            var count: Int
            repeat { count = recv(descriptor, room.baseAddress, room.count, 0) } while count < 0 && errno == EINTR
            if count > 0 { input.append(contentsOf: room[..<count]) }
            return count
        }
        guard count > 0 else { throw .clientGone }
    }

    // MARK: the response

    /// Sends an interim response.
    func sendInterim(_ status: String, fields: [(String, String)]) throws(DemoEnd) {
        guard !request.isOldVersion else { return }
        try send(Self.head(status, fields)[...])
    }

    /// Sends a response's head, alone. What `sendContent` is given follows it.
    mutating func sendHead(_ status: String, fields: [(String, String)], framing: DemoFraming) throws(DemoEnd) {
        try send(openResponse(status, fields: fields, framing: framing)[...])
    }

    /// Sends a whole response in one piece.
    mutating func sendResponse(_ status: String, fields: [(String, String)], content: [UInt8]) throws(DemoEnd) {
        var bytes = openResponse(status, fields: fields, framing: .length(content.count))
        if hasContent { bytes += content }
        try send(bytes[...])
    }

    /// Sends content, framed as the head said.
    func sendContent(_ content: [UInt8]) throws(DemoEnd) {
        guard hasContent, !content.isEmpty else { return }
        guard writesChunks else { return try send(content[...]) }
        try send((Array("\(String(content.count, radix: 16))\r\n".utf8) + content + [13, 10])[...])
    }

    /// Ends a chunked response, with trailers.
    func sendEnd(trailers: [(String, String)] = []) throws(DemoEnd) {
        guard hasContent, writesChunks else { return }
        try send(Array(("0\r\n" + trailers.map { "\($0): \($1)\r\n" }.joined() + "\r\n").utf8)[...])
    }

    /// Waits; ends early, by throwing, if the client goes away meanwhile.
    func wait(untilMilliseconds deadline: Int64) throws(DemoEnd) {
        while true {
            let left = deadline - demoMilliseconds()
            guard left > 0 else { return }
            var watched = pollfd(fd: descriptor, events: Self.peerHasClosed, revents: 0)
            if poll(&watched, 1, Int32(clamping: left)) > 0 { throw .clientGone }
        }
    }

    private mutating func openResponse(
        _ status: String, fields: [(String, String)], framing: DemoFraming
    ) -> [UInt8] {
        // nosniff, or a browser holds the head back itself until it has content to look at.
        let ownFields = [
            ("Date", demoDate()), ("Server", "headfirst-demo"), ("X-Content-Type-Options", "nosniff"),
        ]
        var fields = ownFields + fields
        hasContent = request.method != "HEAD"
        switch framing {
        case .length(let length):
            writesChunks = false
            fields.append(("Content-Length", String(length)))
        case .chunked:
            writesChunks = !request.isOldVersion
            if writesChunks { fields.append(("Transfer-Encoding", "chunked")) }
        }
        if request.closes { fields.append(("Connection", "close")) }
        return Self.head(status, fields)
    }

    private static func head(_ status: String, _ fields: [(String, String)]) -> [UInt8] {
        Array(("HTTP/1.1 \(status)\r\n" + fields.map { "\($0): \($1)\r\n" }.joined() + "\r\n").utf8)
    }

    private func send(_ bytes: ArraySlice<UInt8>) throws(DemoEnd) {
        var left = bytes
        while !left.isEmpty {
            let count = left.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .clientGone }
            left = left.dropFirst(count)
        }
    }
}

extension Substring {
    fileprivate var trimmingSpaces: String { split(separator: " ").joined(separator: " ") }
}

/// A clock that only goes forward.
func demoMilliseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
}

/// The time of day as RFC 9110 section 5.6.7 writes it.
private func demoDate() -> String {
    var now = time(nil)
    var parts = tm()
    gmtime_r(&now, &parts)
    let day = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][Int(parts.tm_wday)]
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    func two(_ value: Int32) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let clock = "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
    return "\(day), \(two(parts.tm_mday)) \(months[Int(parts.tm_mon)]) \(parts.tm_year + 1900) \(clock) GMT"
}
