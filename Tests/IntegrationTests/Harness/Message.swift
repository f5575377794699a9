// Messages as the scripted peers read them. Strict about framing, so that a wrong byte of the proxy is an error.

/// A head.
struct Message: Sendable {
    let raw: [UInt8]
    let startLine: String
    let fields: [(name: String, value: String)]
    var content: [UInt8] = []
    var trailers: [String] = []

    init(_ raw: [UInt8]) {
        self.raw = raw
        let text = String(decoding: raw, as: UTF8.self)
        let lines = text.split(separator: "\r\n", omittingEmptySubsequences: false).dropLast(2)
        startLine = String(lines.first ?? "")
        fields = lines.dropFirst().map { line in
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            let value = parts.count > 1 ? parts[1] : ""
            return (String(parts[0]), String(value.drop { $0 == " " }))
        }
    }

    /// The values of a field, in order.
    func all(_ name: String) -> [String] {
        fields.filter { $0.name.lowercased() == name.lowercased() }.map(\.value)
    }

    /// The only value of a field; nil if there is none. Two are a value that no test expects.
    subscript(_ name: String) -> String? {
        let values = all(name)
        return values.count > 1 ? "<\(values.count) fields>" : values.first
    }

    /// Whether it has this line, byte for byte.
    func has(line: String) -> Bool {
        String(decoding: raw, as: UTF8.self).contains("\r\n\(line)\r\n")
    }

    var text: String { String(decoding: content, as: UTF8.self) }
    var status: Int { Int(startLine.split(separator: " ").dropFirst().first ?? "") ?? 0 }
    var method: String { String(startLine.split(separator: " ").first ?? "") }
    var target: String { String(startLine.split(separator: " ").dropFirst().first ?? "") }
    var isChunked: Bool { self["Transfer-Encoding"] == "chunked" }
    var length: Int? { self["Content-Length"].flatMap { Int($0) } }
}

/// What no strict reader accepts.
struct Malformed: Error { let what: String }

extension Wire {
    /// The next head.
    func head() throws -> Message { Message(try headBytes()) }

    /// One chunk's data; empty for the last one, whose trailers come next.
    func chunk() throws -> [UInt8] {
        let text = try line()
        let digits = text.prefix { $0 != ";" }
        guard let size = Int(digits, radix: 16), !digits.isEmpty else { throw Malformed(what: "chunk size '\(text)'") }
        if size == 0 { return [] }
        let data = try exactly(size)
        guard try exactly(2) == [13, 10] else { throw Malformed(what: "no CRLF behind a chunk") }
        return data
    }

    /// Chunked content with its trailers.
    func chunkedContent(of message: inout Message) throws {
        while true {
            let data = try chunk()
            if data.isEmpty { break }
            message.content += data
        }
        while true {
            let text = try line()
            if text.isEmpty { return }
            message.trailers.append(text)
        }
    }

    /// Waits for the word to go on, and throws if the connection ends meanwhile.
    func await(_ word: Handoff<Void>) throws {
        while word.count == 0 {
            do throws(WireError) {
                try pull(milliseconds: 5)
            } catch  where error != .late {
                throw error
            } catch {
                continue
            }
        }
        try word.take()
    }

    /// A whole request.
    func request() throws -> Message {
        var message = try head()
        if message.isChunked {
            try chunkedContent(of: &message)
        } else if let length = message.length {
            message.content = try exactly(length)
        }
        return message
    }

    /// A whole response, final or interim.
    func response(toHEAD: Bool = false) throws -> Message {
        var message = try head()
        switch message.status {
        case _ where toHEAD, 100..<200, 204, 304: break
        case _ where message.isChunked: try chunkedContent(of: &message)
        default:
            if let length = message.length {
                message.content = try exactly(length)
            } else {
                let (bytes, end) = drain()
                guard end == .ended else { throw end }
                message.content = bytes
            }
        }
        return message
    }

    /// Sends lines, each with CRLF, and the empty one; then content as it is.
    func send(head lines: String..., content: String = "") throws {
        try send(lines.joined(separator: "\r\n") + "\r\n\r\n" + content)
    }

    /// Sends a request with Host.
    func ask(
        _ line: String = "GET / HTTP/1.1", _ fields: String..., host: String = "test", content: String = ""
    ) throws {
        try send(([line, "Host: \(host)"] + fields).joined(separator: "\r\n") + "\r\n\r\n" + content)
    }

    /// Sends a 200 with sized content.
    func ok(_ content: String = "ok", _ fields: String...) throws {
        let head = ["HTTP/1.1 200 OK", "Content-Length: \(content.utf8.count)"] + fields
        try send(head.joined(separator: "\r\n") + "\r\n\r\n" + content)
    }
}
