// HTTP/2 frame by frame, for peers that do what no library would.

import HTTP2Support

/// A frame as it came.
struct SeenFrame {
    let type: UInt8
    let flags: UInt8
    let stream: UInt32
    let payload: [UInt8]
    var endsStream: Bool { flags & 1 != 0 && type <= 1 }
}

extension Wire {
    func frame() throws -> SeenFrame {
        let header = try exactly(9)
        let length = Int(header[0]) << 16 | Int(header[1]) << 8 | Int(header[2])
        let stream = header[5...].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        return SeenFrame(type: header[3], flags: header[4], stream: stream, payload: try exactly(length))
    }

    /// Reads frames until one ends this stream, in order or by a reset.
    @discardableResult
    func endOfStream(_ stream: UInt32) throws -> SeenFrame {
        while true {
            let frame = try frame()
            if frame.stream == stream, frame.endsStream || frame.type == 3 { return frame }
        }
    }

    /// Waits for a request's HEADERS: a server's end.
    func requestedStream() throws -> UInt32 {
        while true {
            let frame = try frame()
            if frame.type == 1 { return frame.stream }
        }
    }

    /// A server's first words, and a client's.
    func serveHTTP2(settings: [UInt8] = []) throws {
        _ = try exactly(Frame.preface.count)
        try send(Frame.make(4, settings))
    }

    func beginHTTP2(_ settings: [UInt8] = []) throws { try send(Frame.preface + Frame.make(4, settings)) }
}

func setting(_ number: UInt16, _ value: UInt32) -> [UInt8] {
    [UInt8(number >> 8), UInt8(number & 255)] + Frame.number(value)
}

/// A head that goes on and on: what nghttp2 calls fatal.
func endlessHead(_ stream: UInt32, _ pairs: [(String, String)]) -> [UInt8] {
    var bytes = Frame.make(1, stream: stream, Frame.fields(pairs))
    for _ in 0..<40 { bytes += Frame.make(9, stream: stream, Frame.fields([("x", "y")])) }
    return bytes
}

func data(_ stream: UInt32, _ content: [UInt8], isLast: Bool = false) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = content[...]
    repeat {
        let piece = rest.prefix(16 << 10)
        rest = rest.dropFirst(piece.count)
        bytes += Frame.make(0, flags: isLast && rest.isEmpty ? 1 : 0, stream: stream, Array(piece))
    } while !rest.isEmpty
    return bytes
}

/// Bytes of which each tells where it belongs.
func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }
