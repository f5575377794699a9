// One direction of an HTTP/1 connection: bytes in, message events out, in the role of a server (requests) or a
// client (responses). It is pulled: whoever has bytes asks for the next event until it needs more. It owns no
// buffer; bytes it has not consumed are given to it again, with more behind them.
//
// States and their exits:
//   head           -> head: an interim response; or by the head's framing to one of the next three, or ended
//   fixedContent   -> ended, when the declared length is there
//   chunkLine      -> chunkData, or trailers behind the last chunk
//   chunkData      -> chunkEnd
//   chunkEnd       -> chunkLine
//   trailers       -> ended
//   untilClose     -> ended, by `inputEnded` alone
//   ended          -> head, by `startNext`
//   failed         -> none

import Bytes
import HTTPSemantics

/// The machine. Trivial; a connection holds it.
public struct HTTP1Decoder: Sendable {
    private enum State: UInt8 {
        case head
        case fixedContent
        case chunkLine
        case chunkData
        case chunkEnd
        case trailers
        case untilClose
        case ended
        case failed
    }

    private var state: State
    private let kind: MessageKind
    /// Responses only: what they answer.
    private var requestMethod: Method
    private var endIsTold: Bool
    /// How much of the unconsumed input was looked at before: a line is not scanned again for its end.
    private var scannedCount: UInt32
    /// Content that is still to come, of the message or of the chunk.
    private var remainingCount: UInt64
    /// Bytes of chunk extensions beyond what content pays for.
    private var extensionDebt: UInt32
    /// Empty lines before this request line, over all reads.
    private var emptyLineCount: UInt8

    /// Chunk extensions that a message may have beyond its content (they cost the reader, and nobody uses them).
    public static var chunkExtensionBytesMax: Int { 4096 }
    /// A whole chunk line: sixteen digits, the extension, CRLF.
    private static var chunkLineBytesMax: Int { chunkExtensionBytesMax + 32 }
    /// Empty lines before a request line that are forgiven (RFC 9112 section 2.2).
    private static var emptyLinesMax: UInt8 { 8 }

    /// A decoder at the start of a connection.
    public init(_ kind: MessageKind) {
        self.kind = kind
        state = .head
        requestMethod = .get
        endIsTold = false
        scannedCount = 0
        remainingCount = 0
        extensionDebt = 0
        emptyLineCount = 0
    }

    /// Whether the current message's last byte was decoded.
    public var isEnded: Bool { state == .ended }
    /// Whether the content ends only with the connection.
    public var isUntilClose: Bool { state == .untilClose }
    /// Whether content of a declared length is under way.
    public var isSized: Bool { state == .fixedContent }
    /// How much of sized content (or of the chunk) is still to come; 0 in every other state.
    public var contentRemaining: UInt64 { state == .fixedContent || state == .chunkData ? remainingCount : 0 }

    /// The next message may come.
    /// - Parameter requestMethod: responses only: what it answers.
    public mutating func startNext(answering requestMethod: Method = .get) {
        precondition(state == .ended || state == .head, "a message is still being decoded")
        state = .head
        self.requestMethod = requestMethod
        endIsTold = false
        scannedCount = 0
    }

    /// Finds the next event.
    /// - Parameters:
    ///   - input: the bytes that are there; the first `offset` of them are consumed.
    ///   - offset: how much is consumed; grows.
    ///   - head: where heads and trailers go; valid until the next call with it.
    ///   - limits: bounds of heads and trailers.
    public mutating func next(
        _ input: UnsafeBufferPointer<UInt8>, from offset: inout Int, into head: Head, limits: HeadLimits
    ) -> MessageEvent {
        do {
            return try advance(input, &offset, head, limits)
        } catch {
            state = .failed
            return .failed(error)
        }
    }

    /// Content passed without being given to the decoder: it was moved within the kernel.
    /// - Parameter count: at most what `contentRemaining` says, where that ends the content.
    public mutating func contentPassed(_ count: Int) {
        switch state {
        case .fixedContent:
            precondition(UInt64(count) <= remainingCount, "more passed than there is")
            remainingCount -= UInt64(count)
        case .untilClose: break
        case .head, .chunkLine, .chunkData, .chunkEnd, .trailers, .ended, .failed:
            preconditionFailure("no such content is expected")
        }
    }

    /// Tells the end of sized content together with its last byte, so that nobody has to ask for it.
    /// - Returns: whether the message is complete; `ended` is not told again.
    public mutating func endedWithContent() -> Bool {
        guard state == .fixedContent, remainingCount == 0 else { return false }
        state = .ended
        endIsTold = true
        return true
    }

    /// The peer's direction is over.
    /// - Returns: whether the message is complete by that: there was none, or the end delimits it.
    public mutating func inputEnded() -> Bool {
        switch state {
        case .untilClose:
            state = .ended
            return true
        case .ended: return true
        case .head, .fixedContent, .chunkLine, .chunkData, .chunkEnd, .trailers, .failed: return false
        }
    }

    @inline(__always)
    private mutating func advance(
        _ input: UnsafeBufferPointer<UInt8>, _ offset: inout Int, _ head: Head, _ limits: HeadLimits
    ) throws(HeadFault) -> MessageEvent {
        guard let base = input.baseAddress else { return endOrNeed() }
        while true {
            let available = input.count - offset
            let bytes = base + offset
            switch state {
            case .head:
                if available == 0 { return .needsInput }
                return try decodeHead(bytes, available, &offset, head, limits)
            case .fixedContent:
                if remainingCount == 0 {
                    state = .ended
                    continue
                }
                if available == 0 { return .needsInput }
                return takeContent(available, &offset)
            case .chunkLine:
                guard try decodeChunkLine(bytes, available, &offset) else { return .needsInput }
            case .chunkData:
                if available == 0 { return .needsInput }
                let event = takeContent(available, &offset)
                if remainingCount == 0 { state = .chunkEnd }
                return event
            case .chunkEnd:
                if available > 0, bytes[0] != 13 { throw .chunk }
                if available > 1, bytes[1] != 10 { throw .chunk }
                if available < 2 { return .needsInput }
                offset += 2
                state = .chunkLine
                scannedCount = 0
            case .trailers:
                return try decodeTrailers(bytes, available, &offset, head, limits)
            case .untilClose:
                if available == 0 { return .needsInput }
                let start = offset
                offset += available
                return .content(start: start, count: available)
            case .ended:
                return endOrNeed()
            case .failed:
                return .needsInput
            }
        }
    }

    /// `ended` is told once.
    private mutating func endOrNeed() -> MessageEvent {
        if state == .fixedContent, remainingCount == 0 { state = .ended }
        if state == .ended, !endIsTold {
            endIsTold = true
            return .ended
        }
        return .needsInput
    }

    private mutating func decodeHead(
        _ bytes: UnsafePointer<UInt8>, _ available: Int, _ offset: inout Int, _ head: Head, _ limits: HeadLimits
    ) throws(HeadFault) -> MessageEvent {
        var bytes = bytes
        var available = available
        if kind == .request, bytes[0] == 13 || bytes[0] == 10 {
            while available >= 2, bytes[0] == 13, bytes[1] == 10 {
                emptyLineCount += 1
                if emptyLineCount > Self.emptyLinesMax { throw .startLine }
                offset += 2
                bytes += 2
                available -= 2
            }
            scannedCount = 0
            if available == 0 || (available == 1 && bytes[0] == 13) { return .needsInput }
        }
        // Came back with more: a head is parsed again only when at least one line more is there. That bounds the
        // work by the number of lines, however small the pieces are.
        let scanned = Int(scannedCount)
        if scanned > 0, scanned <= available, available < limits.headBytesMax,
            ByteScan.first(10, in: bytes, from: scanned, end: available) == available
        {
            scannedCount = UInt32(available)
            return .needsInput
        }
        let parser = HTTP1HeadParser(bytes: bytes, available: available, head: head, limits: limits)
        switch kind {
        case .request:
            guard case .complete(let count) = try parser.parseRequest() else {
                scannedCount = UInt32(available)
                return .needsInput
            }
            try head.finishRequest()
            offset += count
        case .response:
            guard case .complete(let count) = try parser.parseResponse() else {
                scannedCount = UInt32(available)
                return .needsInput
            }
            try head.finishResponse(answering: requestMethod)
            offset += count
        }
        scannedCount = 0
        emptyLineCount = 0
        let storage = head.storage
        if kind == .response, storage.pointee.status < 200, storage.pointee.status != 101 { return .interim }
        beginContent(storage.pointee.framing, storage.pointee.contentLength)
        return .head
    }

    private mutating func beginContent(_ framing: Framing, _ length: UInt64) {
        switch framing {
        case .none: state = .ended
        case .length:
            state = .fixedContent
            remainingCount = length
        case .chunked:
            state = .chunkLine
            extensionDebt = 0
        case .untilClose: state = .untilClose
        }
    }

    private mutating func takeContent(_ available: Int, _ offset: inout Int) -> MessageEvent {
        let count = Int(min(UInt64(available), remainingCount))
        remainingCount -= UInt64(count)
        extensionDebt -= min(extensionDebt, UInt32(clamping: count))
        let start = offset
        offset += count
        return .content(start: start, count: count)
    }

    /// - Returns: whether the line was there as a whole.
    private mutating func decodeChunkLine(
        _ bytes: UnsafePointer<UInt8>, _ available: Int, _ offset: inout Int
    ) throws(HeadFault) -> Bool {
        let end = min(available, Self.chunkLineBytesMax)
        let lineFeed = ByteScan.first(10, in: bytes, from: min(Int(scannedCount), end), end: end)
        if lineFeed == end {
            if end == Self.chunkLineBytesMax { throw .chunk }
            // What is there must still be able to become a size.
            if available > 0, !Self.isHexadecimalDigit(bytes[0]) { throw .chunk }
            scannedCount = UInt32(end)
            return false
        }
        let line = try ChunkLine(bytes, lineFeed: lineFeed)
        extensionDebt += UInt32(line.extensionBytes)
        if extensionDebt > Self.chunkExtensionBytesMax { throw .chunk }
        offset += lineFeed + 1
        scannedCount = 0
        remainingCount = line.size
        state = line.size == 0 ? .trailers : .chunkData
        return true
    }

    private static func isHexadecimalDigit(_ byte: UInt8) -> Bool {
        byte &- UInt8(ascii: "0") <= 9 || (byte | 0x20) &- UInt8(ascii: "a") <= 5
    }

    private mutating func decodeTrailers(
        _ bytes: UnsafePointer<UInt8>, _ available: Int, _ offset: inout Int, _ head: Head, _ limits: HeadLimits
    ) throws(HeadFault) -> MessageEvent {
        if available == 0 { return .needsInput }
        let scanned = Int(scannedCount)
        if scanned > 0, scanned <= available, available < limits.headBytesMax,
            ByteScan.first(10, in: bytes, from: scanned, end: available) == available
        {
            scannedCount = UInt32(available)
            return .needsInput
        }
        let parser = HTTP1HeadParser(bytes: bytes, available: available, head: head, limits: limits)
        guard case .complete(let count) = try parser.parseTrailers() else {
            scannedCount = UInt32(available)
            return .needsInput
        }
        scannedCount = 0
        offset += count
        state = .ended
        if head.storage.pointee.fieldCount > 0 { return .trailers }
        return endOrNeed()
    }
}
