// One end of one connection with the proxy, as client or server, in HTTP/1 or HTTP/2: bytes that wait to be sent, cut at
// random, with notes of what is true once they are in the kernel; reads of random size, and pauses.

import TestSupport

/// Bytes that wait to be sent, and what is true when they were.
struct FuzzOutbox {
    private var bytes: [UInt8] = []
    private var start = 0
    private var sentTotal = 0
    private var marks: [(offset: Int, then: () -> Void)] = []
    private var firstMark = 0
    /// What is sent by one call.
    private var glued: Range<Int> = 0..<0

    var count: Int { bytes.count - start }
    var isEmpty: Bool { count == 0 }

    mutating func append(_ more: some Collection<UInt8>) { bytes.append(contentsOf: more) }

    /// Appends content as a chunk.
    mutating func append(chunk content: some Collection<UInt8>, extension text: String = "") {
        append("\(String(content.count, radix: 16))\(text)\r\n".utf8)
        append(content)
        append("\r\n".utf8)
    }

    /// Does this when all that waits now was sent; it must not be called while something is sent.
    mutating func mark(_ then: @escaping () -> Void) { marks.append((sentTotal + count, then)) }

    mutating func clear() {
        (bytes, start) = ([], 0)
        (marks, firstMark) = ([], 0)
    }

    /// The last so many bytes are sent by one call.
    mutating func glue(last bytes: Int) { glued = (sentTotal + count - min(bytes, count))..<(sentTotal + count) }

    /// What would be sent now, at most so much.
    func piece(max: Int) -> ArraySlice<UInt8> {
        var size = min(max, count)
        if glued.lowerBound < sentTotal + size, sentTotal + size < glued.upperBound {
            size = min(glued.upperBound - sentTotal, count)
        }
        return bytes[start..<(start + size)]
    }

    /// - Returns: what was to be done when this was sent.
    mutating func didSend(_ count: Int) -> [() -> Void] {
        start += count
        sentTotal += count
        if start == bytes.count || start > 1 << 16 {
            bytes.removeFirst(start)
            start = 0
        }
        var due: [() -> Void] = []
        while firstMark < marks.count, marks[firstMark].offset <= sentTotal {
            due.append(marks[firstMark].then)
            firstMark += 1
        }
        if firstMark == marks.count { (marks, firstMark) = ([], 0) }
        return due
    }

    var hasMarks: Bool { firstMark < marks.count }
}

/// See the head of the file. Subclasses say what is sent, and understand what comes.
class FuzzConnection {
    let link: FuzzLink
    let ledger: FuzzLedger
    let transport: any SweepTransport
    var outbox = FuzzOutbox()
    var generator: SeededGenerator
    /// Whether it only does its duty from now on: says what it has to say, reads all that comes, and harms nobody.
    var isCalm = false
    private(set) var isOver = false
    private(set) var hasEndedSending = false
    private(set) var inputIsOver = false
    private(set) var sentTotal = 0
    private let pieceMax: Int
    private let readMax: Int
    private let pausePercent: Int
    private var readPause = 0
    private var writePause = 0

    init(_ name: String, _ ledger: FuzzLedger, _ transport: any SweepTransport, seed: UInt64) {
        link = FuzzLink(name)
        self.ledger = ledger
        self.transport = transport
        generator = SeededGenerator(seed: seed)
        pieceMax = generator.pick([1 << 20, 1 << 20, 20_000, 1000, 50])
        readMax = generator.pick([1 << 20, 1 << 20, 20_000, 2000, 100])
        pausePercent = generator.pick([0, 2, 5, 20])
    }

    // MARK: What subclasses do

    /// Bytes came.
    func received(_ bytes: [UInt8]) {}
    /// The proxy's direction ended.
    func inputEnded(_ ending: Ending) {}
    /// Puts into the outbox what is to be said now.
    /// - Returns: whether anything was done.
    func act() -> Bool { false }
    /// Whether everything that was to happen here has.
    var isSettled: Bool { isOver }
    /// This side has ended, as it wanted or because the connection broke.
    func outputEnded() {}
    /// What is not over here, in words.
    var state: String { "" }

    // MARK: Steps

    /// Has its turn.
    /// - Returns: whether anything happened.
    final func step() -> Bool {
        guard !isOver else { return false }
        var hasProgress = false
        if isCalm {
            (readPause, writePause) = (0, 0)
        } else {
            if generator.chance(pausePercent) { readPause = generator.int(1...40) }
            if generator.chance(pausePercent / 2) { writePause = generator.int(1...30) }
        }
        if !inputIsOver || !hasEndedSending, act() { hasProgress = true }
        if writePause > 0 { writePause -= 1 } else if write() { hasProgress = true }
        guard !isOver else { return true }
        if readPause > 0 { readPause -= 1 } else if read() { hasProgress = true }
        if inputIsOver, hasEndedSending, !isOver {
            close()
            return true
        }
        return hasProgress || readPause > 0 || writePause > 0
    }

    private func write() -> Bool {
        var hasSent = false
        repeat {
            guard !outbox.isEmpty, !transport.isBroken else { break }
            let max = isCalm ? 1 << 18 : pieceMax < 1 << 20 ? generator.int(1...pieceMax) : pieceMax
            let sent = transport.send(outbox.piece(max: max))
            guard sent > 0 else { break }
            hasSent = true
            sentTotal += sent
            Fuzz.trace("\(link.name) sent \(sent), \(outbox.count - sent) left")
            for then in outbox.didSend(sent) where !isOver { then() }
        } while isCalm && !isOver
        if transport.isBroken, !hasEndedSending {
            hasEndedSending = true
            outbox.clear()
            outputEnded()
            hasSent = true
        }
        if outbox.isEmpty, outbox.hasMarks, !isOver {
            for then in outbox.didSend(0) where !isOver { then() }
        }
        return hasSent
    }

    private func read() -> Bool {
        var hasRead = false
        repeat {
            guard !inputIsOver, !isOver else { break }
            let bytes = transport.receive(max: isCalm || readMax == 1 << 20 ? 1 << 16 : generator.int(1...readMax))
            if !bytes.isEmpty {
                hasRead = true
                Fuzz.trace("\(link.name) got \(bytes.count)")
                received(bytes)
            } else if transport.ending != .open {
                inputIsOver = true
                hasRead = true
                Fuzz.trace("\(link.name) sees the end: \(transport.ending)")
                inputEnded(transport.ending)
            } else {
                break
            }
        } while isCalm
        return hasRead
    }

    // MARK: Ends

    func endSending() {
        guard !hasEndedSending, !isOver else { return }
        Fuzz.trace("\(link.name) ends sending")
        hasEndedSending = true
        link.hasEnded = true
        transport.endSending()
        outbox.clear()
        outputEnded()
    }

    func close() {
        guard !isOver else { return }
        finish()
        _ = transport.close()
    }

    func reset() {
        guard !isOver else { return }
        link.hasFaulted = true
        finish()
        _ = transport.reset()
    }

    private func finish() {
        Fuzz.trace("\(link.name) is over")
        isOver = true
        link.hasEnded = true
        hasEndedSending = true
        outbox.clear()
        outputEnded()
        if !inputIsOver {
            inputIsOver = true
            inputEnded(.broken)
        }
    }
}
