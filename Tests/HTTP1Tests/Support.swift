// What the tests of the codec share: a decoder that is fed in pieces from memory that ends at a page nobody may
// read, and what it told as values to compare.

import Bytes
import Glibc
import HTTP1
import HTTPSemantics

/// Something that a decoder told. Content that comes in a row is one.
enum Told: Equatable, CustomStringConvertible {
    case interim(String)
    case head(String)
    case content([UInt8])
    case trailers(String)
    case ended
    case failed(HeadFault)

    var description: String {
        switch self {
        case .interim(let text): "interim(\(text.debugDescription))"
        case .head(let text): "head(\(text.debugDescription))"
        case .content(let bytes): "content(\(String(decoding: bytes, as: UTF8.self).debugDescription))"
        case .trailers(let text): "trailers(\(text.debugDescription))"
        case .ended: "ended"
        case .failed(let fault): "failed(\(fault))"
        }
    }
}

func content(_ text: String) -> Told { .content(Array(text.utf8)) }

/// Memory whose last byte is followed by a page that cannot be read: a read behind the input ends the process.
final class GuardedMemory {
    private static let bytesMax = 512 << 10
    private static let pageBytes = 4096
    private let base: UnsafeMutableRawPointer

    init() {
        let map = mmap(
            nil, Self.bytesMax + Self.pageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let map, map != MAP_FAILED else { fatalError("mmap failed") }
        mprotect(map + Self.bytesMax, Self.pageBytes, PROT_NONE)
        base = map
    }

    deinit { munmap(base, Self.bytesMax + Self.pageBytes) }

    /// The bytes, placed so that they end where the memory does.
    func place(_ bytes: ArraySlice<UInt8>) -> UnsafeBufferPointer<UInt8> {
        precondition(bytes.count <= Self.bytesMax)
        let start = base + (Self.bytesMax - bytes.count)
        bytes.withUnsafeBytes { if let source = $0.baseAddress { start.copyMemory(from: source, byteCount: $0.count) } }
        return UnsafeBufferPointer(start: UnsafePointer(start.assumingMemoryBound(to: UInt8.self)), count: bytes.count)
    }
}

/// Bounds as the configuration has them by default.
let standardLimits = HeadLimits(headBytesMax: 32 << 10, fieldsMax: 128, targetBytesMax: 8 << 10)

/// Feeds decoders, one after the other, and collects what they tell.
final class Feeder {
    let head = Head(fieldsCapacity: 128)
    private let memory = GuardedMemory()

    deinit { head.destroy() }

    /// Feeds pieces to a new decoder. As a driver does, it gives what was not consumed again with the next piece, and
    /// lets the next message begin when one has ended.
    /// - Parameters:
    ///   - requestMethods: what each response in turn answers: GET behind the last.
    ///   - messagesMax: after so many the decoder is left as it is.
    ///   - endsInput: whether the peer's direction ends behind the last piece; an end that completes nothing is not
    ///     told.
    func told(
        _ pieces: [ArraySlice<UInt8>], _ kind: MessageKind, limits: HeadLimits = standardLimits,
        requestMethods: [HTTPSemantics.Method] = [], messagesMax: Int = .max, endsInput: Bool = false
    ) -> (events: [Told], left: Int) {
        var decoder = HTTP1Decoder(kind)
        decoder.startNext(answering: requestMethods.first ?? .get)
        var messages = 0
        var events: [Told] = []
        var waiting: [UInt8] = []
        func pull() -> Bool {
            let input = memory.place(waiting[...])
            var offset = 0
            defer { waiting.removeFirst(offset) }
            while true {
                switch decoder.next(input, from: &offset, into: head, limits: limits) {
                case .needsInput: return true
                case .interim: events.append(.interim(describe(head, kind)))
                case .head: events.append(.head(describe(head, kind)))
                case .content(let start, let count):
                    precondition(count > 0, "empty content")
                    if case .content(let before) = events.last {
                        events[events.count - 1] = .content(before + Array(input[start..<(start + count)]))
                    } else {
                        events.append(.content(Array(input[start..<(start + count)])))
                    }
                case .trailers: events.append(.trailers(fieldText(head)))
                case .ended:
                    events.append(.ended)
                    messages += 1
                    if messages == messagesMax { return false }
                    decoder.startNext(
                        answering: messages < requestMethods.count ? requestMethods[messages] : .get)
                case .failed(let fault):
                    events.append(.failed(fault))
                    return false
                }
                precondition(offset <= input.count, "consumed more than there was")
            }
        }
        for piece in pieces {
            waiting += piece
            if !pull() { return (events, waiting.count) }
        }
        if endsInput, decoder.inputEnded() { _ = pull() }
        return (events, waiting.count)
    }

    /// Feeds text whole.
    func told(
        _ text: String, _ kind: MessageKind, limits: HeadLimits = standardLimits, messagesMax: Int = .max,
        endsInput: Bool = false
    ) -> [Told] {
        told([Array(text.utf8)[...]], kind, limits: limits, messagesMax: messagesMax, endsInput: endsInput).events
    }

    /// Feeds bytes whole, byte by byte and in every two pieces.
    /// - Returns: what was told, and the first way of cutting that told something else.
    func toldInEveryWay(
        _ bytes: [UInt8], _ kind: MessageKind, limits: HeadLimits = standardLimits,
        requestMethods: [HTTPSemantics.Method] = [], endsInput: Bool = false
    ) -> (events: [Told], left: Int, differing: String?) {
        func run(_ pieces: [ArraySlice<UInt8>]) -> (events: [Told], left: Int) {
            told(
                pieces, kind, limits: limits, requestMethods: requestMethods, endsInput: endsInput)
        }
        let whole = run([bytes[...]])
        let single = run(bytes.indices.map { bytes[$0...$0] })
        if single.events != whole.events { return (whole.events, whole.left, "byte by byte: \(single.events)") }
        for cut in stride(from: 1, to: bytes.count, by: 1) {
            let cutInTwo = run([bytes[..<cut], bytes[cut...]])
            if cutInTwo.events != whole.events {
                return (whole.events, whole.left, "cut at \(cut): \(cutInTwo.events)")
            }
        }
        return (whole.events, whole.left, nil)
    }

    /// The fault that text ends in, whatever way it is cut; nil if it has none.
    func fault(
        _ text: String, _ kind: MessageKind = .request, limits: HeadLimits = standardLimits
    ) -> (fault: HeadFault?, differing: String?) {
        let result = toldInEveryWay(Array(text.utf8), kind, limits: limits)
        if case .failed(let fault) = result.events.last { return (fault, result.differing) }
        return (nil, result.differing)
    }
}

/// A head as text: what a driver reads of it.
private func describe(_ head: Head, _ kind: MessageKind) -> String {
    let storage = head.storage.pointee
    var text =
        switch kind {
        case .request: "\(storage.method) \(head.text(storage.methodName)) \(head.text(storage.target))"
        case .response: "\(storage.status) [\(head.text(storage.reason))]"
        }
    text += storage.facts.contains(.isHTTP10) ? " 1.0" : " 1.1"
    text += " \(storage.framing)"
    if storage.framing == .length { text += "=\(storage.contentLength)" }
    if !head.isPersistent { text += " closes" }
    return text + "\n" + fieldText(head)
}

/// The field lines; those that are dropped stand in parentheses.
private func fieldText(_ head: Head) -> String {
    var text = ""
    for index in 0..<head.storage.pointee.fieldCount {
        let line = head.fields[index]
        let field = "\(head.text(line.name)): \(head.text(line.value))"
        text += line.isDropped ? "(\(field))\n" : "\(field)\n"
    }
    return text
}
