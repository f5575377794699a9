// What all HTTP/2 connections of a worker share: scratch that is valid within a call or until the events of a call were
// pulled, the slab of streams, nghttp2's callbacks and options. Belongs to one thread.

import Bytes
import CNghttp2
import HTTPSemantics

/// A handle: copying it copies the reference, `destroy()` frees everything.
public struct HTTP2Engine {
    /// The largest field section that any session may be asked to take, in bytes.
    public static let sectionBytesMax = 256 << 10
    /// What is given to nghttp2 at once.
    static let sliceBytesMax = 16 << 10
    /// Lines of sections that wait to be pulled.
    static let linesMax = 16 << 10

    /// PRIORITY_UPDATE (RFC 9218 section 7.1).
    static let priorityUpdateType: UInt32 = 0x10

    /// What a callback has seen.
    struct Seen {
        enum Kind: UInt8 {
            case section
            case content
            case ended
            case closed
            case settings
            case goAway
            case pingAnswered
        }
        let kind: Kind
        let stream: HTTP2StreamPointer?
        /// Of a section its place among `sections`, of content where it begins, of a close its code.
        let first: Int
        /// Of content how much it is.
        let count: Int
    }

    /// One line of a field section: the name, a colon with a space, the value, CRLF.
    struct Line {
        var nameBytes: UInt32
        var valueBytes: UInt32
    }

    struct Storage {
        let pool: BufferPool
        let streams: Slab<HTTP2Stream>
        let callbacks: OpaquePointer
        let serverOptions: OpaquePointer
        let clientOptions: OpaquePointer
        /// Sections as they come.
        let text: UnsafeMutablePointer<UInt8>
        var textCount = 0
        let lines: UnsafeMutablePointer<Line>
        var lineCount = 0
        var sections: [Section] = []
        var seen: [Seen] = []
        /// How many of `seen` were pulled.
        var pulledCount = 0
        /// What was seen while something was sent, and how much of that was taken.
        var notices: [NoticeRecord] = []
        var takenCount = 0
        /// The section that was pulled last, as HTTP/1 would write it.
        let message: UnsafeMutablePointer<UInt8>
        /// A section that is about to be sent, as HTTP/1 would write it.
        var outgoing: UnsafeMutablePointer<UInt8>
        var outgoingCapacity: Int
        /// The same for nghttp2.
        let pairs: UnsafeMutablePointer<nghttp2_nv>
        /// What names the key of a WebSocket's handshake; changes with each.
        var keySeed: (UInt64, UInt64)
    }

    /// A notice that waits: by then its stream may be gone.
    struct NoticeRecord {
        let stream: SlabToken
        /// The code of a close; nil if all that waited was sent.
        let closeCode: UInt32?
    }

    /// What sending has led to.
    public enum Notice {
        /// Everything that waited was given to the connection, or the end that was awaited.
        case drained(HTTP2StreamPointer)
        /// The stream is closed.
        case closed(HTTP2StreamPointer, code: UInt32)
        /// A stream that nobody has is gone: its connection has one fewer. Whose that is, and which role it has.
        case gone(of: UnsafeMutableRawPointer, HTTP2Session.Role)
    }

    static var textCapacity: Int { 4 * sectionBytesMax }
    static var pairsMax: Int { 2048 }

    let storage: UnsafeMutablePointer<Storage>

    /// An engine.
    /// - Parameters:
    ///   - pool: where what waits is kept.
    ///   - random: two words that nobody can guess.
    /// - Returns: nil if there is no memory.
    public init?(pool: BufferPool, random: (UInt64, UInt64)) {
        var callbacks: OpaquePointer?
        var serverOptions: OpaquePointer?
        var clientOptions: OpaquePointer?
        guard nghttp2_session_callbacks_new(&callbacks) == 0, nghttp2_option_new(&serverOptions) == 0,
            nghttp2_option_new(&clientOptions) == 0, let callbacks, let serverOptions, let clientOptions
        else { return nil }
        HTTP2Callbacks.set(callbacks)
        for options in [serverOptions, clientOptions] { Self.configure(options) }
        storage = .allocate(capacity: 1)
        storage.initialize(
            to: Storage(
                pool: pool, streams: Slab(), callbacks: callbacks, serverOptions: serverOptions,
                clientOptions: clientOptions, text: .allocate(capacity: Self.textCapacity),
                lines: .allocate(capacity: Self.linesMax), message: .allocate(capacity: Self.sectionBytesMax + 4096),
                outgoing: .allocate(capacity: 0), outgoingCapacity: 0,
                pairs: .allocate(capacity: Self.pairsMax), keySeed: random))
    }

    /// Options of every session.
    private static func configure(_ options: OpaquePointer) {
        // Windows are opened by what was taken, see `HTTP2Session.contentTaken`.
        nghttp2_option_set_no_auto_window_update(options, 1)
        nghttp2_option_set_no_closed_streams(options, 1)
        // Given to us as it comes, and never to nghttp2's own priorities: see `StreamPriority`.
        nghttp2_option_set_user_recv_extension_type(options, UInt8(priorityUpdateType))
        // Our own budget of frames is tighter; these are a second line.
        nghttp2_option_set_max_outbound_ack(options, 1000)
        nghttp2_option_set_stream_reset_rate_limit(options, 1000, 33)
        // Heads are bounded by us, in bytes of their fields.
        nghttp2_option_set_max_send_header_block_length(options, 4 * sectionBytesMax)
        nghttp2_option_set_max_continuations(options, 32)
        nghttp2_option_set_peer_max_concurrent_streams(options, 100)
    }

    /// Frees the engine. No session is left.
    public func destroy() {
        nghttp2_session_callbacks_del(storage.pointee.callbacks)
        nghttp2_option_del(storage.pointee.serverOptions)
        nghttp2_option_del(storage.pointee.clientOptions)
        storage.pointee.streams.destroy()
        storage.pointee.text.deallocate()
        storage.pointee.lines.deallocate()
        storage.pointee.message.deallocate()
        storage.pointee.outgoing.deallocate()
        storage.pointee.pairs.deallocate()
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    /// Makes room for heads that are to be sent.
    /// - Parameter outgoingBytes: the longest, as HTTP/1 writes it.
    public func grow(outgoingBytes: Int) {
        guard outgoingBytes > storage.pointee.outgoingCapacity else { return }
        storage.pointee.outgoing.deallocate()
        storage.pointee.outgoing = .allocate(capacity: outgoingBytes)
        storage.pointee.outgoingCapacity = outgoingBytes
    }

    /// Streams that are alive.
    public var streamCount: Int { storage.pointee.streams.count }

    /// Takes the next notice of what sending has led to.
    public func takeNotice() -> Notice? {
        while storage.pointee.takenCount < storage.pointee.notices.count {
            let record = storage.pointee.notices[storage.pointee.takenCount]
            storage.pointee.takenCount += 1
            guard let stream = storage.pointee.streams.find(record.stream) else { continue }
            guard let code = record.closeCode else {
                if stream.pointee.owner != nil { return .drained(stream) }
                continue
            }
            let session = stream.pointee.session
            if Self.closeTold(stream, storage) { return .closed(stream, code: code) }
            if let owner = session.pointee.owner { return .gone(of: owner, session.pointee.role) }
        }
        storage.pointee.notices.removeAll(keepingCapacity: true)
        storage.pointee.takenCount = 0
        return nil
    }

    /// Whether there is any.
    public var hasNotices: Bool { storage.pointee.takenCount < storage.pointee.notices.count }

    /// That a stream is closed is about to be told. One that nobody has is let go.
    /// - Returns: whether there is somebody to tell.
    static func closeTold(_ stream: HTTP2StreamPointer, _ storage: UnsafeMutablePointer<Storage>) -> Bool {
        stream.pointee.state.insert(.closeIsTold)
        if stream.pointee.owner != nil { return true }
        free(stream, storage)
        return false
    }

    /// Writes a head to be sent, as HTTP/1 would; `HTTP2Session` reads it from here.
    /// - Returns: how many bytes it has; nil if it does not fit.
    public func write(_ body: (inout ByteWriter) -> Void) -> Int? {
        var writer = ByteWriter(base: storage.pointee.outgoing, capacity: storage.pointee.outgoingCapacity)
        body(&writer)
        return writer.isOverfull ? nil : writer.count
    }

    /// What `write` has written.
    public func written(_ count: Int) -> UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(start: storage.pointee.outgoing, count: count)
    }

    /// Frees a stream that nghttp2 knows no more.
    static func free(_ stream: HTTP2StreamPointer, _ storage: UnsafeMutablePointer<Storage>) {
        let session = stream.pointee.session
        if let previous = stream.pointee.previous {
            previous.pointee.next = stream.pointee.next
        } else {
            session.pointee.firstStream = stream.pointee.next
        }
        stream.pointee.next?.pointee.previous = stream.pointee.previous
        session.pointee.windowBudgetBytes += Int(stream.pointee.windowBytes) - Int(HTTP2Session.windowBytesMin)
        session.pointee.streamCount -= 1
        storage.pointee.pool.release(&stream.pointee.trailers)
        storage.pointee.streams.free(stream.pointee.token)
    }
}
