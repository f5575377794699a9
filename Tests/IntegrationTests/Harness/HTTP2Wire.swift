// HTTP/2 over a wire, as a client or as a server. It stands on the proxy's own HTTP2 target; that this one speaks as others
// do is shown by the conformance suites, which bring another one.

import HTTP2
import HTTP2Support

/// One end of a connection.
final class HTTP2Wire {
    let wire: Wire
    let end: End
    /// How much of what was told the test has looked at.
    private var seenCount = 0

    /// A client speaks first.
    init(_ wire: Wire, role: HTTP2Session.Role = .client) throws {
        self.wire = wire
        end = End(role)
        end.limits.headBytesMax = 64 << 10
        try flush()
    }

    func flush() throws {
        let output = end.takeOutput()
        if !output.isEmpty { try wire.send(output) }
    }

    /// Sends a request.
    /// - Parameter head: as HTTP/1 has it.
    @discardableResult
    func ask(
        _ head: String = "GET / HTTP/1.1\r\nHost: test\r\n\r\n", isWhole: Bool = true, opensTunnel: Bool = false
    ) throws -> HTTP2StreamPointer {
        guard let stream = end.request(head, isWhole: isWhole, opensTunnel: opensTunnel) else {
            throw Malformed(what: "no stream may be begun")
        }
        try flush()
        return stream
    }

    func send(_ text: String, isLast: Bool = false, on stream: HTTP2StreamPointer) throws {
        end.send(text, isLast: isLast, on: stream)
        try flush()
    }

    /// Sends an answer, whole or in part.
    func answer(_ head: String, isWhole: Bool = true, on stream: HTTP2StreamPointer) throws {
        end.session.sendHead(end.write(head), isWhole: isWhole, opensTunnel: false, on: stream)
        try flush()
    }

    /// Waits for what comes next that fits, and skips what does not.
    func next<Value>(milliseconds: Int = 4000, _ fits: (Told) -> Value?) throws -> Value {
        let deadline = Now.milliseconds + milliseconds
        while true {
            while seenCount < end.told.count {
                seenCount += 1
                if let value = fits(end.told[seenCount - 1]) { return value }
            }
            guard Now.milliseconds < deadline else { throw WireError.late }
            try wire.pull(milliseconds: deadline - Now.milliseconds)
            end.receive(wire.take(wire.buffer.count))
            try flush()
        }
    }

    /// Waits for exactly this.
    func expect(_ told: Told, milliseconds: Int = 4000) throws {
        try next(milliseconds: milliseconds) { $0 == told ? () : nil }
    }

    /// Waits for a final head.
    func head(of stream: HTTP2StreamPointer) throws -> String {
        let id = stream.pointee.id
        return try next { if case .head(id, let text) = $0 { text } else { nil } }
    }

    /// Waits for a stream's end.
    /// - Returns: its content.
    func content(of id: Int32) throws -> String {
        var content = ""
        try next { told in
            if case .content(id, let text) = told { content += text }
            return told == .ended(stream: id) ? () : nil
        }
        return content
    }

    /// Waits for a request: a server's end.
    func request() throws -> (stream: HTTP2StreamPointer, head: String) {
        let (id, text) = try next { if case .head(let id, let text) = $0 { (id, text) } else { nil } }
        guard let stream = end.streams[id] else { throw Malformed(what: "a request without a stream") }
        return (stream, text)
    }

    /// Waits for the end of the connection.
    func ended(milliseconds: Int = 4000) throws {
        do {
            try next(milliseconds: milliseconds) { _ in nil as Void? }
        } catch let error as WireError where error == .ended || error == .reset {
            return
        }
    }
}

extension Wire {
    /// Reads frames by hand until so much content has come, and not a byte more.
    func framedContent(_ count: Int) throws {
        var left = count
        while left > 0 {
            let header = try exactly(9)
            let payload = try exactly(Int(header[1]) << 8 | Int(header[2]))
            if header[3] == 0 { left -= payload.count }
        }
        guard left == 0 else { throw Malformed(what: "more content than there was a window for") }
    }
}

extension Headfirst {
    /// A client of HTTP/2 by prior knowledge.
    func connectHTTP2() throws -> HTTP2Wire { try HTTP2Wire(try connect()) }
}
