// What a peer's frames may cost. Every frame's header is looked at before nghttp2 sees it, whatever its type, and frames
// that bring nothing forward draw on one bucket of tokens: those that are answered, those that undo what was begun, those
// that are empty. Time, content that moves and exchanges that are completed fill it again, so that no honest peer notices.

/// What a flood is made of. The raw value is its name in the metrics.
public enum FloodKind: UInt8, Sendable, CaseIterable {
    /// Streams that are opened and given up, or never completed.
    case streams
    /// RST_STREAM of the peer (CVE-2023-44487).
    case resets
    /// Resets that the peer's own errors make us send (CVE-2025-8671).
    case forcedResets
    /// CONTINUATION.
    case continuations
    /// Field sections beyond every bound.
    case fieldSections
    /// SETTINGS.
    case settings
    /// PING.
    case pings
    /// DATA that carries nothing and ends nothing, or comes on streams that are over.
    case emptyData
    /// WINDOW_UPDATE that no content has led to, or in steps of a few bytes.
    case windowUpdates
    /// PRIORITY, PRIORITY_UPDATE, GOAWAY and types that nobody knows.
    case others
}

/// One bucket of tokens a connection. Trivial.
public struct FrameBudget: Sendable {
    /// What a connection begins with, and the most it may have: fewer frames than this bring no connection to its end.
    public static let tokensMax: Int32 = 1000
    /// What comes back each second.
    static let tokensPerSecond: Int32 = 32
    /// Content that is worth a token, in bytes.
    static let bytesPerToken: UInt32 = 1024
    /// What a completed exchange gives back: what its beginning took, and a little for what goes with it.
    static let tokensPerExchange: Int32 = 4
    /// What a request costs whose head is refused: more than its answer gives back.
    static let tokensPerRefusal: Int32 = 8
    /// Steps of windows that the peer is owed at most, in bytes.
    static let owedBytesMax: UInt32 = 64 << 20
    /// A step of a window that is worth a frame of its own, in bytes.
    static let windowStepMin: UInt32 = 256
    /// Content that is worth a frame of its own, in bytes.
    static let contentFrameMin = 1024

    private var tokens = FrameBudget.tokensMax
    private var uncountedBytes: UInt32 = 0
    private var refilledMilliseconds: UInt64
    /// Content that was sent and that the peer has not given back by steps of windows: twice, for its stream's and for the
    /// connection's.
    private var owedBytes: UInt32 = 0
    /// What took the last token.
    public private(set) var exhaustedBy: FloodKind?

    /// A full bucket.
    public init(nowMilliseconds: UInt64) { refilledMilliseconds = nowMilliseconds }

    /// Whether it is empty, and the connection is to end.
    public var isExhausted: Bool { exhaustedBy != nil }

    /// Something was done that brings nothing forward.
    public mutating func spend(_ count: Int32, _ kind: FloodKind) {
        tokens -= count
        if tokens < 0, exhaustedBy == nil { exhaustedBy = kind }
    }

    /// Time has passed.
    public mutating func refill(nowMilliseconds: UInt64) {
        let milliseconds = nowMilliseconds &- refilledMilliseconds
        let earned = Int32(clamping: milliseconds &* UInt64(Self.tokensPerSecond) / 1000)
        guard earned > 0 else { return }
        refilledMilliseconds = nowMilliseconds
        add(earned)
    }

    /// Content has moved.
    public mutating func contentMoved(bytes: Int) {
        uncountedBytes &+= UInt32(truncatingIfNeeded: bytes)
        guard uncountedBytes >= Self.bytesPerToken else { return }
        add(Int32(uncountedBytes / Self.bytesPerToken))
        uncountedBytes %= Self.bytesPerToken
    }

    /// A frame of content was sent: its reader may give it back, to both windows, as soon as it has read it.
    /// - Parameter isAll: whether it carried all there was. A small one that did not is the peer's doing, who leaves no room
    ///   for more.
    public mutating func contentSent(bytes: Int, isAll: Bool) {
        owedBytes = min(owedBytes + 2 * UInt32(truncatingIfNeeded: bytes), Self.owedBytesMax)
        if isAll || bytes >= Self.contentFrameMin { add(2) }
    }

    /// The peer has opened a window.
    /// - Parameter step: by how much, in bytes; 0 if that is not known.
    public mutating func windowOpened(step: UInt32) {
        let isOwed = step <= owedBytes
        if isOwed { owedBytes -= step }
        if !isOwed || step < Self.windowStepMin { spend(1, .windowUpdates) }
    }

    /// A request's head is refused.
    public mutating func requestRefused() { spend(Self.tokensPerRefusal, .streams) }

    /// An exchange came to its end as it should.
    public mutating func exchangeCompleted() { add(Self.tokensPerExchange) }

    private mutating func add(_ count: Int32) { tokens = min(tokens + count, Self.tokensMax) }
}

/// Walks over the headers of a connection's frames, whatever pieces they come in. Trivial.
struct FrameMeter: Sendable {
    /// Payload, or preface, that is still to come before the next header.
    private var skipped: UInt32
    /// The part of a header that came at the end of the last piece: its length, type and flags.
    private var header: UInt64 = 0
    private var headerBytes: UInt32 = 0

    /// Whether HEADERS of the peer begin streams: a server's answer what we asked.
    private let peerAsks: Bool

    private static let headerBytesMax: UInt32 = 9
    /// The most that padding takes of a frame, with its length (RFC 9113 section 6.1).
    private static let paddingBytesMax: UInt32 = 256
    /// What a section costs that begins with more changes of HPACK's table than make sense: each takes time.
    private static let tokensPerResizing: Int32 = 16

    /// A meter at the start of a connection.
    /// - Parameter prefaceBytes: what comes before the first frame.
    /// - Parameter peerAsks: whether the peer is a client.
    init(prefaceBytes: UInt32, peerAsks: Bool = true) {
        skipped = prefaceBytes
        self.peerAsks = peerAsks
    }

    /// Looks at what came, and charges for it.
    /// - Parameter look: gets the type and the stream of each frame that may be where it must not. It says how many tokens
    ///   more the frame costs.
    mutating func scan(
        _ bytes: UnsafeBufferPointer<UInt8>, charging budget: inout FrameBudget,
        _ look: (_ type: UInt8, _ stream: Int32) -> Int32 = { _, _ in 0 }
    ) {
        guard let base = bytes.baseAddress else { return }
        var index = 0
        let end = bytes.count
        while index < end {
            if skipped > 0 {
                let count = min(Int(skipped), end - index)
                skipped -= UInt32(count)
                index += count
                continue
            }
            // A header in one piece, as nearly all are.
            if headerBytes == 0, end - index >= 9 {
                let word = UInt64(bigEndian: UnsafeRawPointer(base + index).loadUnaligned(as: UInt64.self))
                let last = base[index + 8]
                index += 9
                frameBegan(word, last, UnsafeRawBufferPointer(start: base + index, count: end - index), &budget, look)
                continue
            }
            let byte = base[index]
            if headerBytes < 8 { header = header << 8 | UInt64(byte) }
            headerBytes += 1
            index += 1
            if headerBytes == Self.headerBytesMax {
                headerBytes = 0
                frameBegan(header, byte, UnsafeRawBufferPointer(start: base + index, count: end - index), &budget, look)
                header = 0
            }
        }
    }

    /// - Parameters:
    ///   - word: the header's first eight bytes: length (3), type, flags, and three of the stream's number.
    ///   - last: the last byte of that number.
    ///   - rest: what stands behind the header.
    @inline(__always)
    private mutating func frameBegan(
        _ word: UInt64, _ last: UInt8, _ rest: UnsafeRawBufferPointer, _ budget: inout FrameBudget,
        _ look: (_ type: UInt8, _ stream: Int32) -> Int32
    ) {
        let length = UInt32(truncatingIfNeeded: word >> 40)
        let flags = UInt8(truncatingIfNeeded: word >> 24)
        skipped = length
        let isMarked = flags & 1 != 0  // END_STREAM, or ACK
        let type = UInt8(truncatingIfNeeded: word >> 32)
        if type <= 3 {
            let stream = (UInt32(truncatingIfNeeded: word) << 8 | UInt32(last)) & 0x7FFF_FFFF
            let tokens = look(type, Int32(stream))
            if tokens > 0 { budget.spend(tokens, .emptyData) }
        }
        switch type {
        case 0: if !isMarked, Self.isEmpty(length, flags, rest) { budget.spend(1, .emptyData) }
        case 1:
            if peerAsks { budget.spend(1, .streams) }
            if Self.resizesTable(flags, rest.prefix(Int(length))) {
                budget.spend(Self.tokensPerResizing, .fieldSections)
            }
        case 3: budget.spend(2, .resets)
        case 4: if !isMarked { budget.spend(2, .settings) }
        case 6: budget.spend(1, .pings)
        case 8: budget.windowOpened(step: Self.number(in: rest) ?? 0)
        case 9: budget.spend(1, .continuations)
        default: budget.spend(1, .others)
        }
    }

    /// The first four bytes of a payload, if they are at hand.
    private static func number(in payload: UnsafeRawBufferPointer) -> UInt32? {
        payload.count >= 4 ? UInt32(bigEndian: payload.loadUnaligned(as: UInt32.self)) : nil
    }

    /// Whether a field section begins with more than two changes of the table's size: the smallest and the last are all that
    /// an encoder has to tell (RFC 7541 section 4.2).
    private static func resizesTable(_ flags: UInt8, _ payload: Slice<UnsafeRawBufferPointer>) -> Bool {
        var index = payload.startIndex + (flags & 0x08 != 0 ? 1 : 0) + (flags & 0x20 != 0 ? 5 : 0)
        var count = 0
        while index < payload.endIndex, payload[index] & 0xE0 == 0x20 {
            count += 1
            if count > 2 { return true }
            let isLong = payload[index] & 0x1F == 0x1F
            index += 1
            while isLong, index < payload.endIndex, payload[index] & 0x80 != 0 { index += 1 }
            if isLong { index += 1 }
        }
        return false
    }

    /// Whether DATA has no content. Padding whose length is not at hand is taken for all there is, if it may be.
    private static func isEmpty(_ length: UInt32, _ flags: UInt8, _ payload: UnsafeRawBufferPointer) -> Bool {
        let isPadded = flags & 8 != 0
        guard isPadded else { return length == 0 }
        guard let padding = payload.first else { return length <= paddingBytesMax }
        return length <= UInt32(padding) + 1
    }
}
