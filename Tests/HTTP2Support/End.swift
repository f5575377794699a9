// What the tests of HTTP/2 share: a session with what belongs to it, two of them that speak to each other in memory, and
// frames by hand for what no honest peer sends.

package import Bytes
package import HTTPSemantics

package import HTTP2

/// What an end has told.
package enum Told: Equatable {
    case head(stream: Int32, String)
    case interim(stream: Int32, String)
    case content(stream: Int32, String)
    case trailers(stream: Int32, String)
    case ended(stream: Int32)
    case failed(stream: Int32, HeadFault)
    case closed(stream: Int32, code: UInt32)
    case settings
    case goAway
    case pingAnswered
}

/// One end of a connection.
package final class End {
    package let pool = BufferPool(freeBytesMax: 0)
    package let engine: HTTP2Engine
    package let session: HTTP2Session
    package let head = Head(fieldsCapacity: 200)
    package var told: [Told] = []
    /// Streams that are open, by their number.
    package private(set) var streams: [Int32: HTTP2StreamPointer] = [:]
    private var waiting: [Int32: UnsafeMutablePointer<Buffer>] = [:]
    private var unnumbered: [UnsafeMutablePointer<Buffer>] = []
    package var limits = HeadLimits(headBytesMax: 16 << 10, fieldsMax: 100, targetBytesMax: 8 << 10)
    /// Whether content is taken as it comes.
    package var takesContent = true
    package var now: UInt64 = 0
    package private(set) var isFailed = false

    package init(_ role: HTTP2Session.Role, _ limits: HTTP2Session.Limits = .init(sectionBytesMax: 16 << 10)) {
        guard let engine = HTTP2Engine(pool: pool, random: (3, 4)) else { preconditionFailure("no memory") }
        engine.grow(outgoingBytes: 256 << 10)
        guard let session = HTTP2Session(role, engine, limits: limits, nowMilliseconds: 0) else {
            preconditionFailure("no memory")
        }
        self.engine = engine
        self.session = session
    }

    deinit {
        session.forEachStream { session.release($0, code: HTTP2ErrorCode.cancel) }
        session.destroy()
        for buffer in Array(waiting.values) + unnumbered {
            pool.release(&buffer.pointee)
            buffer.deallocate()
        }
        precondition(pool.borrowedBytes == 0, "a buffer is lost")
        engine.destroy()
        head.destroy()
        pool.destroy()
    }

    /// How much of a stream's content waits.
    package func waitingBytes(_ stream: Int32) -> Int { waiting[stream]?.pointee.count ?? 0 }

    private func makeBuffer() -> UnsafeMutablePointer<Buffer> {
        let buffer = UnsafeMutablePointer<Buffer>.allocate(capacity: 1)
        buffer.initialize(to: Buffer())
        return buffer
    }

    package func write(_ text: String) -> Int {
        guard let count = engine.write({ $0.append(text: text) }) else { preconditionFailure("too long") }
        return count
    }

    /// - Parameter head: as HTTP/1 has it.
    @discardableResult
    package func request(_ head: String, isWhole: Bool = true, opensTunnel: Bool = false) -> HTTP2StreamPointer? {
        let buffer = makeBuffer()
        let stream = session.sendRequest(
            write(head), isWhole: isWhole, opensTunnel: opensTunnel, isTLS: false, owner: buffer, waiting: buffer)
        guard let stream else {
            unnumbered.append(buffer)
            return nil
        }
        streams[stream.pointee.id] = stream
        waiting[stream.pointee.id] = buffer
        return stream
    }

    package func send(_ text: String, isLast: Bool = false, on stream: HTTP2StreamPointer) {
        send(Array(text.utf8), isLast: isLast, on: stream)
    }

    package func send(_ bytes: [UInt8], isLast: Bool = false, on stream: HTTP2StreamPointer) {
        bytes.withUnsafeBufferPointer { session.sendContent($0, isLast: isLast, on: stream) }
    }

    /// What is to be sent, and nothing of it twice.
    package func takeOutput() -> [UInt8] {
        session.produce()
        let bytes = Array(session.pending.pointee.bytes)
        pool.release(&session.pending.pointee)
        while let notice = engine.takeNotice() {
            if case .closed(let stream, let code) = notice { close(stream, code) }
        }
        return bytes
    }

    private func close(_ stream: HTTP2StreamPointer, _ code: UInt32) {
        told.append(.closed(stream: stream.pointee.id, code: code))
        streams[stream.pointee.id] = nil
        session.release(stream, code: code)
    }

    package func receive(_ bytes: [UInt8], piece: Int = .max) {
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + min(piece, bytes.count))
            feed(Array(bytes[start..<end]))
            start = end
        }
    }

    private func feed(_ bytes: [UInt8]) {
        bytes.withUnsafeBufferPointer { buffer in
            var offset = 0
            while offset < buffer.count || session.isPaused {
                let slice = UnsafeBufferPointer(rebasing: buffer[offset...])
                guard let count = session.receive(slice, nowMilliseconds: now) else {
                    isFailed = true
                    return
                }
                pull(slice)
                if count == 0, !session.isPaused { return }
                offset += count
            }
        }
    }

    private func pull(_ slice: UnsafeBufferPointer<UInt8>) {
        while true {
            switch session.next(into: head, limits: { _ in self.limits }, answering: { _ in .get }) {
            case .none: return
            case .settingsReceived: told.append(.settings)
            case .goAwayReceived: told.append(.goAway)
            case .pingAnswered: told.append(.pingAnswered)
            case .closed(let stream, let code): close(stream, code)
            case .message(let stream, let event):
                let id = stream.pointee.id
                if stream.pointee.owner == nil {
                    let buffer = makeBuffer()
                    session.adopt(stream, owner: buffer, waiting: buffer)
                    streams[id] = stream
                    waiting[id] = buffer
                }
                switch event {
                case .head: told.append(.head(stream: id, text))
                case .interim: told.append(.interim(stream: id, text))
                case .content(let start, let count):
                    told.append(
                        .content(stream: id, String(decoding: slice[start..<(start + count)], as: UTF8.self)))
                    if takesContent { session.contentTaken(count, of: stream) }
                case .trailers: told.append(.trailers(stream: id, text))
                case .ended: told.append(.ended(stream: id))
                case .failed(let fault): told.append(.failed(stream: id, fault))
                case .needsInput: break
                }
            }
        }
    }

    /// The head in the scratch as HTTP/1 writes it, without lines that are not passed on.
    package var text: String {
        let storage = head.storage
        let all = String(
            decoding: UnsafeBufferPointer(start: storage.pointee.bytes, count: storage.pointee.byteCount), as: UTF8.self
        )
        var lines: [String] = []
        if storage.pointee.status != 0 || storage.pointee.methodName.count > 0 {
            lines.append(String(all.prefix { $0 != "\r\n" }))
        }
        for index in 0..<storage.pointee.fieldCount where !head.fields[index].isDropped {
            lines.append("\(head.text(head.fields[index].name)): \(head.text(head.fields[index].value))")
        }
        return lines.joined(separator: "|")
    }
}

/// A client and a server.
package final class Pair {
    package let client = End(.client)
    package let server: End

    package init(_ limits: HTTP2Session.Limits = .init(sectionBytesMax: 16 << 10)) {
        server = End(.server, limits)
        exchange()
        client.told = []
        server.told = []
    }

    /// Carries bytes until neither has any.
    /// - Parameter piece: how many at once.
    package func exchange(piece: Int = .max) {
        while true {
            let up = client.takeOutput()
            server.receive(up, piece: piece)
            let down = server.takeOutput()
            client.receive(down, piece: piece)
            if up.isEmpty, down.isEmpty { return }
        }
    }
}

/// Frames by hand (RFC 9113 section 4.1).
package enum Frame {
    package static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    package static let settings = make(4)

    package static func make(_ type: UInt8, flags: UInt8 = 0, stream: UInt32 = 0, _ payload: [UInt8] = []) -> [UInt8] {
        var frame = Array(number(UInt32(payload.count)).dropFirst())
        frame += [type, flags]
        frame += number(stream)
        return frame + payload
    }

    package static func number(_ value: UInt32) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

    /// Fields without the table and without Huffman (RFC 7541 section 6.2.2).
    package static func fields(_ pairs: [(String, String)]) -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, value) in pairs {
            bytes.append(0)
            bytes += length(name.utf8.count)
            bytes += name.utf8
            bytes += length(value.utf8.count)
            bytes += value.utf8
        }
        return bytes
    }

    private static func length(_ count: Int) -> [UInt8] {
        if count < 127 { return [UInt8(count)] }
        var bytes: [UInt8] = [127]
        var rest = count - 127
        while rest >= 128 {
            bytes.append(UInt8(rest % 128 + 128))
            rest /= 128
        }
        return bytes + [UInt8(rest)]
    }

    package static func headers(_ pairs: [(String, String)], stream: UInt32 = 1, endsStream: Bool = true) -> [UInt8] {
        make(1, flags: endsStream ? 5 : 4, stream: stream, fields(pairs))
    }

    package static let get: [(String, String)] = [
        (":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"),
    ]
}

extension End {
    /// A server that has got a client's first bytes, and these.
    package static func server(
        _ bytes: [UInt8], _ limits: HTTP2Session.Limits = .init(sectionBytesMax: 16 << 10), piece: Int = .max
    ) -> End {
        let end = End(.server, limits)
        end.receive(Frame.preface + Frame.settings + bytes, piece: piece)
        return end
    }

    /// The codes of frames of a type among what is to be sent: of RST_STREAM with their stream, of GOAWAY without.
    package func codes(ofType type: UInt8) -> [UInt32] {
        let bytes = takeOutput()
        var codes: [UInt32] = []
        var place = 0
        while place + 9 <= bytes.count {
            let length = Int(bytes[place]) << 16 | Int(bytes[place + 1]) << 8 | Int(bytes[place + 2])
            let payload = bytes[(place + 9)..<(place + 9 + length)]
            if bytes[place + 3] == type {
                let word = type == 7 ? payload.dropFirst(4).prefix(4) : payload.prefix(4)
                codes.append(word.reduce(0) { $0 << 8 | UInt32($1) })
            }
            place += 9 + length
        }
        return codes
    }
}
