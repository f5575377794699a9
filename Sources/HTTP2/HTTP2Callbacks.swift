// What nghttp2 calls. Each notes what it sees and returns; none calls anybody above. They get the session's own memory, which
// never moves, as user data.

import Bytes
import CNghttp2
import HTTPSemantics

enum HTTP2Callbacks {
    private typealias Storage = UnsafeMutablePointer<HTTP2Session.Storage>

    static func set(_ callbacks: OpaquePointer) {
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { session, frame, user in
            guard let frame, let storage = HTTP2Callbacks.storage(user) else { return 0 }
            return HTTP2Callbacks.sectionBegan(session, frame, storage)
        }
        nghttp2_session_callbacks_set_on_header_callback(callbacks) {
            _, _, name, nameBytes, value, valueBytes, _, user in
            guard let storage = HTTP2Callbacks.storage(user), let name else { return 0 }
            return HTTP2Callbacks.fieldCame(
                UnsafeBufferPointer(start: name, count: nameBytes),
                UnsafeBufferPointer(start: value, count: valueBytes), storage)
        }
        nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks) {
            session, frame, _, _, _, _, _, user in
            guard let frame, let storage = HTTP2Callbacks.storage(user) else { return 0 }
            // nghttp2 would leave the field out and go on.
            HTTP2Callbacks.abandonSection(storage)
            HTTP2Callbacks.stream(session, frame.pointee.hd.stream_id)?.pointee.state.insert(.isMalformed)
            nghttp2_submit_rst_stream(session, 0, frame.pointee.hd.stream_id, HTTP2ErrorCode.protocolError)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
        }
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { session, frame, user in
            guard let frame, let storage = HTTP2Callbacks.storage(user) else { return 0 }
            HTTP2Callbacks.frameCame(session, frame, storage)
            return 0
        }
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks) { session, frame, _, user in
            guard let frame, let storage = HTTP2Callbacks.storage(user) else { return 0 }
            HTTP2Callbacks.stream(session, frame.pointee.hd.stream_id)?.pointee.state.insert(.isMalformed)
            if UInt32(frame.pointee.hd.type) == NGHTTP2_HEADERS.rawValue { HTTP2Callbacks.abandonSection(storage) }
            return 0
        }
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) { session, _, id, bytes, count, user in
            guard let storage = HTTP2Callbacks.storage(user), let bytes else { return 0 }
            HTTP2Callbacks.contentCame(session, id, bytes, count, storage)
            return 0
        }
        nghttp2_session_callbacks_set_on_extension_chunk_recv_callback(callbacks) { _, _, bytes, count, user in
            guard let storage = HTTP2Callbacks.storage(user), let bytes else { return 0 }
            storage.pointee.priorityUpdate.append(UnsafeBufferPointer(start: bytes, count: count))
            return 0
        }
        // The payload is read as it comes; there is nothing to unpack, but without this the frame is not told of.
        nghttp2_session_callbacks_set_unpack_extension_callback(callbacks) { _, payload, _, _ in
            payload?.pointee = nil
            return 0
        }
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { session, id, code, user in
            guard let storage = HTTP2Callbacks.storage(user), let stream = HTTP2Callbacks.stream(session, id) else {
                return 0
            }
            HTTP2Callbacks.streamClosed(stream, code, storage)
            return 0
        }
        nghttp2_session_callbacks_set_send_data_callback(callbacks) { _, _, header, length, source, user in
            guard let storage = HTTP2Callbacks.storage(user), let header, let source else { return 0 }
            HTTP2Callbacks.sendContent(header, length, source, storage)
            return 0
        }
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, user in
            guard let frame, let storage = HTTP2Callbacks.storage(user) else { return 0 }
            HTTP2Callbacks.frameSent(frame, storage)
            return 0
        }
    }

    private static func storage(_ user: UnsafeMutableRawPointer?) -> Storage? {
        user?.assumingMemoryBound(to: HTTP2Session.Storage.self)
    }

    private static func stream(_ session: OpaquePointer?, _ id: Int32) -> HTTP2StreamPointer? {
        nghttp2_session_get_stream_user_data(session, id)?.assumingMemoryBound(to: HTTP2Stream.self)
    }

    // MARK: Sections

    private static func sectionBegan(
        _ session: OpaquePointer?, _ frame: UnsafePointer<nghttp2_frame>, _ storage: Storage
    ) -> Int32 {
        guard UInt32(frame.pointee.hd.type) == NGHTTP2_HEADERS.rawValue else { return 0 }
        let id = frame.pointee.hd.stream_id
        let engine = storage.pointee.engine
        var section = Section()
        section.textStart = engine.pointee.textCount
        section.firstLine = engine.pointee.lineCount
        switch frame.pointee.headers.cat {
        case NGHTTP2_HCAT_REQUEST:
            section.kind = .request
            let stream = HTTP2Session.addStream(id: id, storage)
            nghttp2_session_set_stream_user_data(session, id, stream)
            storage.pointee.newestRequest = max(storage.pointee.newestRequest, id)
            storage.pointee.sectionPrioritizes = false
            storage.pointee.sectionStream = stream
        case NGHTTP2_HCAT_RESPONSE:
            section.kind = .response
            storage.pointee.sectionStream = stream(session, id)
        default:
            // Behind an interim head a response's own comes; `:status` tells it from trailers.
            section.kind = .trailers
            storage.pointee.sectionStream = stream(session, id)
        }
        storage.pointee.section = section
        storage.pointee.hasSection = true
        storage.pointee.surplusLines = 0
        return 0
    }

    /// What came of the section under way is of no use, and nothing is kept of it: a stream may be closed between two reads.
    static func abandonSection(_ storage: UnsafeMutablePointer<HTTP2Session.Storage>) {
        storage.pointee.hasSection = false
        storage.pointee.engine.pointee.pool.release(&storage.pointee.kept)
    }

    /// Lines of a section beyond its bounds that are forgiven, since the sender may not know them, before it is a flood.
    private static var surplusLinesPerToken: Int { 16 }

    private static func fieldCame(
        _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>, _ storage: Storage
    ) -> Int32 {
        guard storage.pointee.hasSection else { return 0 }
        let engine = storage.pointee.engine
        let bytes = name.count + value.count + 4
        let isTooLong =
            storage.pointee.section.textBytes + bytes > storage.pointee.limits.sectionBytesMax
            || storage.pointee.section.lineCount >= linesOfSectionMax
        if isTooLong || storage.pointee.section.fault != nil {
            // It is read on, since HPACK needs every field, and kept no more.
            storage.pointee.section.fault = .headTooLong
            storage.pointee.surplusLines += 1
            if storage.pointee.surplusLines % surplusLinesPerToken == 0 {
                storage.pointee.budget.spend(1, .fieldSections)
                if storage.pointee.budget.isExhausted {
                    nghttp2_session_terminate_session(storage.pointee.session, HTTP2ErrorCode.enhanceYourCalm)
                }
            }
            return 0
        }
        var out = ByteWriter(
            base: engine.pointee.text + engine.pointee.textCount,
            capacity: HTTP2Engine.textCapacity - engine.pointee.textCount)
        let isPseudo = name.first == UInt8(ascii: ":")
        if isPseudo {
            addPseudo(name, value, storage, &out)
        } else {
            if let start = name.baseAddress { out.append(start, count: name.count) }
            out.append(": ")
            if let start = value.baseAddress { out.append(start, count: value.count) }
            out.append("\r\n")
            engine.pointee.lines[engine.pointee.lineCount] = HTTP2Engine.Line(
                nameBytes: UInt32(name.count), valueBytes: UInt32(value.count))
            engine.pointee.lineCount += 1
            if name.count == 6, Head.equals(name, "cookie") {
                storage.pointee.section.crumbCount += 1
            } else if name.count == 8, Head.equals(name, "priority") {
                storage.pointee.sectionStream?.pointee.urgency = StreamPriority.urgency(value)
                storage.pointee.sectionPrioritizes = true
            }
            storage.pointee.section.lineCount += 1
        }
        engine.pointee.textCount += out.count
        storage.pointee.section.textBytes += out.count
        // The largest section still fits into the other half.
        let isHalfFull =
            engine.pointee.textCount > HTTP2Engine.textCapacity / 2
            || engine.pointee.lineCount > HTTP2Engine.linesMax / 2
        storage.pointee.isPaused = isHalfFull
        return isHalfFull ? NGHTTP2_ERR_PAUSE.rawValue : 0
    }

    /// What any configuration may allow, and a little more.
    private static var linesOfSectionMax: Int { 4096 }

    private static func addPseudo(
        _ name: UnsafeBufferPointer<UInt8>, _ value: UnsafeBufferPointer<UInt8>, _ storage: Storage,
        _ out: inout ByteWriter
    ) {
        let textBytes = storage.pointee.section.textBytes
        let range = ByteRange(start: textBytes, count: value.count)
        if let start = value.baseAddress { out.append(start, count: value.count) }
        switch name.count {
        case 5: storage.pointee.section.pseudo.path = range
        case 7 where name[1] == UInt8(ascii: "m"): storage.pointee.section.pseudo.method = range
        case 7 where name[2] == UInt8(ascii: "c"): storage.pointee.section.pseudo.scheme = range
        case 7:
            storage.pointee.section.pseudo.status = range
            storage.pointee.section.kind = .response
        case 9: storage.pointee.section.pseudo.protocolName = range
        default: storage.pointee.section.pseudo.authority = range
        }
        storage.pointee.section.linesStart = textBytes + value.count
    }

    // MARK: Frames

    private static func note(_ kind: HTTP2Engine.Seen.Kind, _ stream: HTTP2StreamPointer?, _ storage: Storage) {
        storage.pointee.engine.pointee.seen.append(HTTP2Engine.Seen(kind: kind, stream: stream, first: 0, count: 0))
    }

    private static func frameCame(
        _ session: OpaquePointer?, _ frame: UnsafePointer<nghttp2_frame>, _ storage: Storage
    ) {
        let endsStream = UInt32(frame.pointee.hd.flags) & NGHTTP2_FLAG_END_STREAM.rawValue != 0
        let isAcknowledgement = UInt32(frame.pointee.hd.flags) & NGHTTP2_FLAG_ACK.rawValue != 0
        switch UInt32(frame.pointee.hd.type) {
        case NGHTTP2_DATA.rawValue:
            if endsStream, let stream = stream(session, frame.pointee.hd.stream_id) {
                note(.ended, stream, storage)
            }
        case NGHTTP2_HEADERS.rawValue:
            guard storage.pointee.hasSection, let stream = storage.pointee.sectionStream else { return }
            var section = storage.pointee.section
            storage.pointee.hasSection = false
            section.endsMessage = endsStream
            let engine = storage.pointee.engine
            engine.pointee.sections.append(section)
            engine.pointee.seen.append(
                HTTP2Engine.Seen(
                    kind: .section, stream: stream, first: engine.pointee.sections.count - 1, count: 0))
            if section.kind == .request { prioritizeRequest(stream, storage) }
            if endsStream { note(.ended, stream, storage) }
        case NGHTTP2_WINDOW_UPDATE.rawValue:
            if storage.pointee.heldCount > 0 { windowOpened(session, frame.pointee.hd.stream_id, storage) }
        case NGHTTP2_SETTINGS.rawValue:
            if isAcknowledgement { return }
            // Windows may have changed, and what is little of them.
            if storage.pointee.heldCount > 0 { resumeHeld(session, storage) }
            storage.pointee.peerAllowsTunnels =
                nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1
            note(.settings, nil, storage)
        case NGHTTP2_PING.rawValue:
            if isAcknowledgement { note(.pingAnswered, nil, storage) }
        case NGHTTP2_GOAWAY.rawValue:
            storage.pointee.goAwayIsReceived = true
            note(.goAway, nil, storage)
        case HTTP2Engine.priorityUpdateType:
            priorityUpdateCame(session, frame.pointee.hd.stream_id, storage)
        default: break
        }
    }

    /// A request's own word on its priority is known to nghttp2, too, which may read it otherwise; one that came before it
    /// in a PRIORITY_UPDATE goes before its own (RFC 9218 section 7).
    private static func prioritizeRequest(_ stream: HTTP2StreamPointer, _ storage: Storage) {
        let early = storage.pointee.earlyUrgencies.take(stream.pointee.id)
        if let early { stream.pointee.urgency = early }
        if early != nil || storage.pointee.sectionPrioritizes { HTTP2Session.prioritize(stream, storage) }
    }

    /// RFC 9218 section 7.1. What breaks its rules ends the connection, as soon as nghttp2 has returned.
    private static func priorityUpdateCame(_ session: OpaquePointer?, _ frameStream: Int32, _ storage: Storage) {
        let update = storage.pointee.priorityUpdate
        storage.pointee.priorityUpdate.begin()
        guard let id = update.streamID else {
            storage.pointee.connectionError = HTTP2ErrorCode.frameSizeError
            return
        }
        // A server's priorities are nobody's; streams with even numbers would be its own, and it begins none.
        guard storage.pointee.role == .server, frameStream == 0, id & 1 == 1 else {
            storage.pointee.connectionError = HTTP2ErrorCode.protocolError
            return
        }
        if let stream = stream(session, id) {
            stream.pointee.urgency = update.urgency
            HTTP2Session.prioritize(stream, storage)
        } else if id > storage.pointee.newestRequest {
            let isKnown = storage.pointee.earlyUrgencies.contains(id)
            let isOneTooMany =
                storage.pointee.earlyUrgencies.count + HTTP2Session.openCount(storage)
                >= Int(storage.pointee.limits.streamsMax)
            if !isKnown, isOneTooMany {
                storage.pointee.connectionError = HTTP2ErrorCode.protocolError
            } else {
                storage.pointee.earlyUrgencies.set(update.urgency, for: id)
            }
        }
    }

    private static func contentCame(
        _ session: OpaquePointer?, _ id: Int32, _ bytes: UnsafePointer<UInt8>, _ count: Int, _ storage: Storage
    ) {
        // The connection's window is not the stream's: one that stands still starves no other.
        nghttp2_session_consume_connection(session, count)
        storage.pointee.budget.contentMoved(bytes: count)
        guard let stream = stream(session, id), let input = storage.pointee.input else { return }
        storage.pointee.engine.pointee.seen.append(
            HTTP2Engine.Seen(kind: .content, stream: stream, first: bytes - input, count: count))
    }

    /// A stream is of no use any more: nghttp2 has closed it, or has failed itself.
    static func streamClosed(
        _ stream: HTTP2StreamPointer, _ code: UInt32, _ storage: UnsafeMutablePointer<HTTP2Session.Storage>
    ) {
        stream.pointee.state.insert(.isClosed)
        // By a GOAWAY of ours: no RST_STREAM tells the client of it.
        if code == HTTP2ErrorCode.refusedStream { storage.pointee.ledger.endedByUs(stream.pointee.id) }
        if stream.pointee.state.remove(.isHeld) != nil { storage.pointee.heldCount -= 1 }
        if storage.pointee.sectionStream == stream {
            storage.pointee.sectionStream = nil
            abandonSection(storage)
        }
        let engine = storage.pointee.engine
        if storage.pointee.isReceiving {
            engine.pointee.seen.append(
                HTTP2Engine.Seen(kind: .closed, stream: stream, first: Int(code), count: 0))
        } else {
            engine.pointee.notices.append(
                HTTP2Engine.NoticeRecord(stream: stream.pointee.token, closeCode: code))
        }
    }

    private static func frameSent(_ frame: UnsafePointer<nghttp2_frame>, _ storage: Storage) {
        guard UInt32(frame.pointee.hd.type) == NGHTTP2_RST_STREAM.rawValue else { return }
        storage.pointee.ledger.endedByUs(frame.pointee.hd.stream_id)
        switch frame.pointee.rst_stream.error_code {
        // Ours, not the peer's doing.
        case HTTP2ErrorCode.noError, HTTP2ErrorCode.internalError, HTTP2ErrorCode.cancel, HTTP2ErrorCode.connectError:
            break
        default: storage.pointee.budget.spend(2, .forcedResets)
        }
    }

    // MARK: Content

    /// How much content there is for a frame of at most `length` bytes.
    static let readContent:
        @convention(c) (
            OpaquePointer?, Int32, UnsafeMutablePointer<UInt8>?, Int, UnsafeMutablePointer<UInt32>?,
            UnsafeMutablePointer<nghttp2_data_source>?, UnsafeMutableRawPointer?
        ) -> Int = { session, id, _, length, flags, source, user in
            guard let flags, let pointer = source?.pointee.ptr, let storage = HTTP2Callbacks.storage(user) else {
                return Int(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue)
            }
            let stream = pointer.assumingMemoryBound(to: HTTP2Stream.self)
            let available = (stream.pointee.waiting?.pointee.count ?? 0) + stream.pointee.direct.count
            if available == 0, !stream.pointee.state.contains(.sendingEnded) {
                stream.pointee.state.insert(.isDeferred)
                return Int(NGHTTP2_ERR_DEFERRED.rawValue)
            }
            if available > 0, storage.pointee.pending.count >= HTTP2Session.pendingBytesMax {
                return Int(NGHTTP2_ERR_PAUSE.rawValue)
            }
            let count = min(length, available)
            if count < available, HTTP2Callbacks.isRemnant(session, count, storage) {
                if stream.pointee.state.insert(.isHeld).inserted { storage.pointee.heldCount += 1 }
                return Int(NGHTTP2_ERR_DEFERRED.rawValue)
            }
            if count > 0 { flags.pointee |= NGHTTP2_DATA_FLAG_NO_COPY.rawValue }
            if count == available, stream.pointee.state.contains(.sendingEnded) {
                stream.pointee.state.insert(.endIsSent)
                flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
                if stream.pointee.state.contains(.endIsAwaited) {
                    storage.pointee.engine.pointee.notices.append(
                        HTTP2Engine.NoticeRecord(stream: stream.pointee.token, closeCode: nil))
                }
                if !stream.pointee.trailers.isEmpty {
                    flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
                    HTTP2Callbacks.submitTrailers(session, id, stream, storage)
                }
            }
            return count
        }

    // MARK: Windows

    /// A frame of a part of what there is is worth sending from so many bytes on.
    private static var frameBytesMin: Int { 4096 }

    /// Whether a window has room for so little that more is waited for: who sends what little there is gets as little back,
    /// and goes on so for ever (RFC 1122 section 4.2.3.4 has the rule for TCP). A peer whose windows are small from the start
    /// is not made to wait.
    private static func isRemnant(_ session: OpaquePointer?, _ room: Int, _ storage: Storage) -> Bool {
        if room >= frameBytesMin || storage.pointee.sendsRemnants { return false }
        let windowBytes = nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE)
        return room < Int(windowBytes / 2)
    }

    /// A window was opened: what waited for that goes on.
    private static func windowOpened(_ session: OpaquePointer?, _ id: Int32, _ storage: Storage) {
        let room = Int(nghttp2_session_get_remote_window_size(session))
        if isRemnant(session, room, storage) { return }
        if id == 0 {
            resumeHeld(session, storage)
        } else if let stream = stream(session, id) {
            resumeHeld(session, stream, storage)
        }
    }

    /// nghttp2 asks again for the content of each stream that waits for a window.
    static func resumeHeld(_ session: OpaquePointer?, _ storage: UnsafeMutablePointer<HTTP2Session.Storage>) {
        var next = storage.pointee.firstStream
        while let stream = next {
            next = stream.pointee.next
            resumeHeld(session, stream, storage)
        }
    }

    private static func resumeHeld(_ session: OpaquePointer?, _ stream: HTTP2StreamPointer, _ storage: Storage) {
        guard stream.pointee.state.contains(.isHeld) else { return }
        let room = Int(nghttp2_session_get_stream_remote_window_size(session, stream.pointee.id))
        if isRemnant(session, room, storage) { return }
        stream.pointee.state.remove(.isHeld)
        storage.pointee.heldCount -= 1
        nghttp2_session_resume_data(session, stream.pointee.id)
    }

    // MARK: Parts of frames

    private static func submitTrailers(
        _ session: OpaquePointer?, _ id: Int32, _ stream: HTTP2StreamPointer, _ storage: Storage
    ) {
        let engine = storage.pointee.engine
        let text = stream.pointee.trailers.bytes
        guard let base = text.baseAddress else { return }
        // The head that is being sent is not in the pairs any more: nghttp2 has copied or used them.
        var writer = SectionWriter(UnsafeMutablePointer(mutating: base), count: text.count, engine.pointee.pairs)
        writer.readTrailers()
        for index in 0..<writer.count { engine.pointee.pairs[index].flags = 0 }
        nghttp2_submit_trailer(session, id, engine.pointee.pairs, writer.count)
        engine.pointee.pool.release(&stream.pointee.trailers)
    }

    /// Appends a frame of content: first what waited, then what is in hand.
    private static func sendContent(
        _ header: UnsafePointer<UInt8>, _ length: Int, _ source: UnsafeMutablePointer<nghttp2_data_source>,
        _ storage: Storage
    ) {
        guard let stream = source.pointee.ptr?.assumingMemoryBound(to: HTTP2Stream.self) else { return }
        let engine = storage.pointee.engine
        let pool = engine.pointee.pool
        pool.reserve(9 + length, in: &storage.pointee.pending)
        pool.append(UnsafeRawBufferPointer(start: header, count: 9), to: &storage.pointee.pending)
        var left = length
        if let waiting = stream.pointee.waiting, !waiting.pointee.isEmpty {
            let count = min(left, waiting.pointee.count)
            pool.append(
                UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(waiting.pointee.bytes)[..<count]),
                to: &storage.pointee.pending)
            pool.consume(count, of: &waiting.pointee)
            left -= count
            if waiting.pointee.isEmpty {
                engine.pointee.notices.append(
                    HTTP2Engine.NoticeRecord(stream: stream.pointee.token, closeCode: nil))
            }
        }
        if left > 0 {
            let direct = stream.pointee.direct
            pool.append(
                UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(direct)[..<left]), to: &storage.pointee.pending)
            stream.pointee.direct = UnsafeBufferPointer(rebasing: direct[left...])
        }
        storage.pointee.budget.contentMoved(bytes: length)
        let isAll = stream.pointee.direct.isEmpty && stream.pointee.waiting?.pointee.isEmpty ?? true
        storage.pointee.budget.contentSent(bytes: length, isAll: isAll)
    }
}
