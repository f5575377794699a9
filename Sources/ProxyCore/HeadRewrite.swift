// Heads as they leave. Everything that is not ours to change is copied in runs of whole lines, byte for byte; what
// frames the message towards the next hop is written anew from what is in hand (docs/FORWARDING.md, rules 3 and 7).

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// Writes heads into a writer. Made for one head; reads the scratch, so it is used within the turn.
public struct HeadRewrite {
    private let head: Head
    private let values: VariableValues?
    /// `headfirst` or nothing, with a space before it.
    private let via: UnsafeBufferPointer<UInt8>

    /// A rewrite of the head in the scratch.
    /// - Parameter values: needed for a request, and for a response that is edited.
    public init(_ head: Head, values: VariableValues?, via: UnsafeBufferPointer<UInt8>) {
        self.head = head
        self.values = values
        self.via = via
    }

    // MARK: Usual requests

    /// Whether every line of a request passes on as it came, and what we add has its usual form.
    public static func isUsualRequest(_ head: Head, from peer: UnsafePointer<Peer>) -> Bool {
        let facts = head.storage.pointee.facts
        return facts.contains(.host) && peer.pointee.isUsual
            && facts.isDisjoint(with: [
                .needsRewriting, .nominates, .absoluteForm, .isHTTP10, .authorityIsNoToken, .acceptsTrailers,
            ])
    }

    /// Writes a usual request that no edit is about in few pieces: all of its lines in one, then what we add.
    public static func writeUsualRequest(
        _ head: Head, from peer: UnsafePointer<Peer>, requestID: RequestID, via: UnsafeBufferPointer<UInt8>,
        to out: inout ByteWriter
    ) {
        let authority = head.bytes(head.storage.pointee.authority)
        out.append(head.storage.pointee.bytes, count: head.storage.pointee.byteCount &- 2)
        out.append("X-Forwarded-For: ")
        peer.pointee.writeShortText(to: &out)
        let isInClear = peer.pointee.tls == nil
        // Texts that are known are written in words; one that is chosen would be copied by a call.
        if isInClear {
            out.append("\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: ")
        } else {
            out.append("\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: ")
        }
        out.append(authority)
        out.append("\r\nForwarded: for=")
        peer.pointee.writeShortText(to: &out)
        out.append(";host=")
        out.append(authority)
        if isInClear { out.append(";proto=http\r\n") } else { out.append(";proto=https\r\n") }
        if !via.isEmpty {
            if !head.storage.pointee.facts.contains(.isHTTP2) { out.append("Via: 1.1") } else { out.append("Via: 2.0") }
            out.append(via)
            out.append("\r\n")
        }
        if !head.storage.pointee.facts.contains(.requestID) {
            out.append("X-Request-Id: ")
            requestID.write(to: &out)
            out.append("\r\n\r\n")
        } else {
            out.append("\r\n")
        }
    }

    // MARK: Usual responses

    /// Whether every line of a response to an HTTP/1.1 client passes on as it came.
    /// - Parameter opensTunnel: whether it is the 101 or 2xx behind which a tunnel begins.
    public static func isUsualResponse(_ head: Head, opensTunnel: Bool) -> Bool {
        let storage = head.storage
        let isFramedAsItCame =
            switch storage.pointee.framing {
            case .length: true
            case .none: storage.pointee.status != 204 && !opensTunnel
            case .chunked, .untilClose: false
            }
        return isFramedAsItCame && storage.pointee.reason.start != 0
            && storage.pointee.facts.isDisjoint(with: [.needsRewriting, .nominates, .isHTTP10, .isHTTP2])
    }

    /// Writes a usual response that no edit is about in few pieces: all of its lines in one, then what we add.
    public static func writeUsualResponse(
        _ head: Head, closes: Bool, date: UnsafeBufferPointer<UInt8>, via: UnsafeBufferPointer<UInt8>,
        to out: inout ByteWriter
    ) {
        out.append(head.storage.pointee.bytes, count: head.storage.pointee.byteCount &- 2)
        if !head.storage.pointee.facts.contains(.date) {
            out.append("Date: ")
            out.append(date)
            out.append("\r\n")
        }
        if !via.isEmpty {
            out.append("Via: 1.1")
            out.append(via)
            out.append("\r\n")
        }
        if closes { out.append("Connection: close\r\n") }
        out.append("\r\n")
    }

    // MARK: Requests

    /// Writes the request's head for the upstream.
    /// - Parameters:
    ///   - edits: the route's.
    ///   - serverAuthority: Host for an HTTP/1.0 request that has none.
    ///   - passesUpgrade: whether the request to switch protocols goes up, too.
    public func writeRequest(
        edits: CompiledEdits, serverAuthority: UnsafeBufferPointer<UInt8>, passesUpgrade: Bool = false,
        to out: inout ByteWriter
    ) {
        let storage = head.storage
        let facts = storage.pointee.facts
        // A request line in origin-form and HTTP/1.1 is already what we would write: it begins the first run.
        let startLineEnd = storage.pointee.target.end + 11  // " HTTP/1.x\r\n"
        let startLineIsOurs = facts.isDisjoint(with: [.absoluteForm, .isHTTP10])
        if !startLineIsOurs {
            out.append(head.bytes(storage.pointee.methodName))
            out.append(UInt8(ascii: " "))
            writeTarget(to: &out)
            out.append(" HTTP/1.1\r\n")
        }
        let settingHost = edits.isEmpty ? nil : edits.setting("host")
        if !facts.contains(.host) {
            writeHost(settingHost, otherwise: facts.contains(.absoluteForm) ? authority : serverAuthority, to: &out)
        }
        let isTrusted = values?.peer.isTrusted ?? false
        let beginsTrace = edits.beginsTrace && !belongsToTrace
        var hasProto = false
        var hasForwardedHost = false
        var runStart = startLineIsOurs ? 0 : startLineEnd
        var runEnd = startLineEnd
        let bytes = storage.pointee.bytes
        for index in 0..<storage.pointee.fieldCount {
            let line = head.fields + index
            let lineEnd = Int(line.pointee.lineEnd)
            if line.pointee.field == .other, !line.pointee.isDropped,
                edits.isEmpty || !edits.removes(head.bytes(line.pointee.name))
            {
                runEnd = lineEnd
                continue
            }
            var isKept = !line.pointee.isDropped && !(!edits.isEmpty && edits.removes(head.bytes(line.pointee.name)))
            switch line.pointee.field {
            case .host:
                if facts.contains(.absoluteForm) || settingHost != nil {
                    flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                    runEnd = runStart
                    writeHost(settingHost, otherwise: authority, to: &out)
                    continue
                }
                isKept = true
            case .contentLength, .transferEncoding:
                if line.pointee.field == .contentLength, head.isCanonicalLength(line.pointee) {
                    runEnd = lineEnd
                    continue
                }
                flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                runEnd = runStart
                writeFraming(line.pointee, storage.pointee.framing, to: &out)
                continue
            case .expect: isKept = isKept && facts.contains(.expectsContinue)
            case .maxForwards:
                if isKept, facts.contains(.maxForwards) {
                    flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                    runEnd = runStart
                    out.append("Max-Forwards: ")
                    out.append(decimal: UInt64(storage.pointee.maxForwards &- 1))
                    out.append("\r\n")
                    continue
                }
            case .via: isKept = isKept && via.isEmpty
            case .forwarded, .xForwardedFor: isKept = false
            case .xForwardedProto:
                isKept = isKept && isTrusted
                hasProto = hasProto || isKept
            case .xForwardedHost:
                isKept = isKept && isTrusted
                hasForwardedHost = hasForwardedHost || isKept
            case .clientCert, .clientCertChain:
                // A client's own word about its certificate would pass for ours (RFC 9440 section 2.4).
                isKept = isKept && isTrusted && !(values?.peer.tls?.pointee.verifiesClients ?? false)
            // One without a value is as good as none; before another it would hide that one from who takes the first.
            case .xRequestID: isKept = isKept && !line.pointee.value.isEmpty
            case .traceparent, .tracestate: isKept = isKept && !beginsTrace
            case .other, .connection, .keepAlive, .proxyConnection, .te, .trailer, .upgrade, .http2Settings, .date,
                .authorization, .proxyAuthorization, .cookie, .userAgent, .referer, .contentType, .grpcStatus:
                break
            }
            if isKept {
                runEnd = lineEnd
            } else {
                flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                runEnd = runStart
            }
        }
        if runEnd > runStart { out.append(bytes + runStart, count: runEnd - runStart) }
        writeForwarding(
            hasProto: hasProto, hasHost: hasForwardedHost, edits: edits, isTrusted: isTrusted, to: &out)
        if !edits.removes("client-cert") { writeClientCertificate(to: &out) }
        if !via.isEmpty, !edits.removes("via") { writeVia(facts, to: &out) }
        if !facts.contains(.requestID), !edits.removes("x-request-id") { writeRequestID(to: &out) }
        if beginsTrace, let values, !edits.removes("traceparent") {
            TraceContext.writeBeginning(values.requestID, to: &out)
        }
        writeConnectionOptions(
            acceptsTrailers: facts.contains(.acceptsTrailers), passesUpgrade: passesUpgrade, to: &out)
        if !edits.isEmpty { writeEdits(edits, exceptHost: true, to: &out) }
        out.append("\r\n")
    }

    /// What goes up of the fields for one connection alone, and Connection that names them.
    private func writeConnectionOptions(acceptsTrailers: Bool, passesUpgrade: Bool, to out: inout ByteWriter) {
        if acceptsTrailers { out.append("TE: trailers\r\n") }
        if passesUpgrade {
            var isFirst = true
            out.append("Upgrade: ")
            head.forEachUpgradeProtocol { name in
                if !isFirst { out.append(", ") }
                isFirst = false
                out.append(head.bytes(name))
            }
            out.append("\r\n")
        }
        switch (acceptsTrailers, passesUpgrade) {
        case (true, true): out.append("Connection: TE, Upgrade\r\n")
        case (true, false): out.append("Connection: TE\r\n")
        case (false, true): out.append("Connection: Upgrade\r\n")
        case (false, false): break
        }
    }

    private var authority: UnsafeBufferPointer<UInt8> { head.bytes(head.storage.pointee.authority) }

    /// Origin-form, also for what came in absolute-form (RFC 9112 section 3.2.1); authority-form for CONNECT.
    private func writeTarget(to out: inout ByteWriter) {
        if head.storage.pointee.method == .connect {
            out.append(head.bytes(head.storage.pointee.target))
            return
        }
        let origin = head.bytes(head.storage.pointee.originForm)
        if origin.isEmpty {
            out.append(head.storage.pointee.method == .options ? "*" : "/")
        } else {
            if origin[0] == UInt8(ascii: "?") { out.append(UInt8(ascii: "/")) }
            out.append(origin)
        }
    }

    private func writeHost(
        _ setting: CompiledTemplate?, otherwise host: UnsafeBufferPointer<UInt8>, to out: inout ByteWriter
    ) {
        out.append("Host: ")
        if let setting { values?.write(setting, to: &out) } else { out.append(host) }
        out.append("\r\n")
    }

    /// Copies the run so far and begins the next one behind the line that is handled apart.
    @inline(__always)
    private func flush(
        _ runStart: inout Int, _ runEnd: Int, _ bytes: UnsafePointer<UInt8>, _ lineEnd: Int, to out: inout ByteWriter
    ) {
        if runEnd > runStart { out.append(bytes + runStart, count: runEnd - runStart) }
        runStart = lineEnd
    }

    /// Our own framing in the place and with the name's case of theirs.
    private func writeFraming(_ line: FieldLine, _ framing: Framing, to out: inout ByteWriter) {
        switch (line.field, framing) {
        case (.contentLength, .length) where !line.isDropped:
            writeContentLength(line, to: &out)
        case (.transferEncoding, .chunked):
            out.append(head.bytes(line.name))
            out.append(": chunked\r\n")
        default: break
        }
    }

    private func writeContentLength(_ line: FieldLine, to out: inout ByteWriter) {
        out.append(head.bytes(line.name))
        out.append(": ")
        out.append(decimal: head.storage.pointee.contentLength)
        out.append("\r\n")
    }

    /// Whether there is one `traceparent`, and it means something.
    private var belongsToTrace: Bool {
        guard head.storage.pointee.fieldCount > 0, let line = head.first(.traceparent),
            TraceContext.traceID(in: head.bytes(line.value)) != nil
        else { return false }
        return (0..<head.storage.pointee.fieldCount).count { head.fields[$0].field == .traceparent } == 1
    }

    private func writeRequestID(to out: inout ByteWriter) {
        out.append("X-Request-Id: ")
        values?.requestID.write(to: &out)
        out.append("\r\n")
    }

    /// X-Forwarded-* and Forwarded (RFC 7239): set from the peer; what came is kept before it only from a peer that
    /// is trusted, and only where our element stays an element behind it.
    private func writeForwarding(
        hasProto: Bool, hasHost: Bool, edits: CompiledEdits, isTrusted: Bool, to out: inout ByteWriter
    ) {
        let facts = head.storage.pointee.facts
        if !edits.removes("x-forwarded-for") {
            out.append("X-Forwarded-For: ")
            if isTrusted, facts.contains(.forwarding) { writeJoined(.xForwardedFor, to: &out) }
            values?.peer.writeAddress(to: &out)
            out.append("\r\n")
        }
        let isInClear = values?.peer.tls == nil
        if !hasProto, !edits.removes("x-forwarded-proto") {
            out.append(isInClear ? "X-Forwarded-Proto: http\r\n" : "X-Forwarded-Proto: https\r\n")
        }
        if !hasHost, !authority.isEmpty, !edits.removes("x-forwarded-host") {
            out.append("X-Forwarded-Host: ")
            out.append(authority)
            out.append("\r\n")
        }
        if !edits.removes("forwarded") {
            out.append("Forwarded: ")
            if isTrusted, facts.contains(.forwarding), forwardedIsSound { writeJoined(.forwarded, to: &out) }
            writeForwardedElement(to: &out)
            out.append("\r\n")
        }
    }

    /// Whether our element can stand behind every Forwarded that came. If it cannot behind one, none is kept: a list with a
    /// gap would name somebody as our peer who is not.
    private var forwardedIsSound: Bool {
        for index in 0..<head.storage.pointee.fieldCount where head.fields[index].field == .forwarded {
            if !ForwardedField.hasSoundQuotes(head.bytes(head.fields[index].value)) { return false }
        }
        return true
    }

    private func writeForwardedElement(to out: inout ByteWriter) {
        guard let values else { return }
        if values.peer.isUnix {
            out.append("for=unknown")
        } else if values.peer.address.isIPv4 {
            out.append("for=")
            values.peer.writeAddress(to: &out)
        } else {
            out.append("for=\"[")
            values.peer.writeAddress(to: &out)
            out.append("]\"")
        }
        if !authority.isEmpty {
            // A host may have bytes that no token has; in a quoted string none of them needs an escape.
            let isToken = !head.storage.pointee.facts.contains(.authorityIsNoToken)
            out.append(isToken ? ";host=" : ";host=\"")
            out.append(authority)
            if !isToken { out.append(UInt8(ascii: "\"")) }
        }
        out.append(values.peer.tls == nil ? ";proto=http" : ";proto=https")
    }

    /// RFC 9440: the certificate that the client has shown, verified.
    private func writeClientCertificate(to out: inout ByteWriter) {
        guard let tls = values?.peer.tls, !tls.pointee.certificateText.isEmpty else { return }
        out.append("Client-Cert: :")
        out.append(tls.pointee.certificateText)
        out.append(":\r\n")
    }

    /// Every value of a list field that came, each with the comma behind it.
    private func writeJoined(_ field: KnownField, to out: inout ByteWriter) {
        for index in 0..<head.storage.pointee.fieldCount {
            let line = head.fields[index]
            if line.field == field, !line.isDropped, !line.value.isEmpty {
                out.append(head.bytes(line.value))
                out.append(", ")
            }
        }
    }

    /// RFC 9110 section 7.6.3: the version in which the message was received.
    private func writeVia(_ facts: HeadFacts, to out: inout ByteWriter) {
        if facts.isDisjoint(with: [.via, .isHTTP10, .isHTTP2]) {
            out.append("Via: 1.1")
        } else {
            out.append("Via: ")
            writeJoined(.via, to: &out)
            out.append(facts.contains(.isHTTP10) ? "1.0" : facts.contains(.isHTTP2) ? "2.0" : "1.1")
        }
        out.append(via)
        out.append("\r\n")
    }

    private func writeEdits(_ edits: CompiledEdits, exceptHost: Bool, to out: inout ByteWriter) {
        for edit in edits.edits where edit.operation != .remove && !edit.isSuperseded {
            if exceptHost, edit.name.count == 4, Head.equals(edit.name, "host") { continue }
            out.append(edit.name)
            out.append(": ")
            values?.write(edit.value, to: &out)
            out.append("\r\n")
        }
    }

    // MARK: Responses

    /// How the content is framed towards the client.
    public static func downstreamFraming(_ head: Head, isToHTTP10: Bool) -> Framing {
        switch head.storage.pointee.framing {
        case .none: .none
        case .length: .length
        case .chunked, .untilClose: isToHTTP10 ? .untilClose : .chunked
        }
    }

    /// Writes the final response's head for the client.
    /// - Parameters:
    ///   - edits: the route's.
    ///   - isToHTTP10: whether the client speaks HTTP/1.0.
    ///   - closes: whether its connection ends with this response.
    ///   - opensTunnel: whether it is the 101 or 2xx behind which a tunnel begins: nothing frames it (RFC 9110 section
    ///     9.3.6).
    ///   - date: the text of Date, for a response that has none.
    public func writeResponse(
        edits: CompiledEdits, isToHTTP10: Bool, closes: Bool, opensTunnel: Bool = false,
        date: UnsafeBufferPointer<UInt8>, to out: inout ByteWriter
    ) {
        let storage = head.storage
        let facts = storage.pointee.facts
        // A status line of HTTP/1.1 with its reason, or the space for one, is already what we would write.
        let startLineIsOurs = !facts.contains(.isHTTP10) && storage.pointee.reason.start != 0
        if !startLineIsOurs { writeStatusLine(to: &out) }
        let framing = Self.downstreamFraming(head, isToHTTP10: isToHTTP10)
        // An answer to HEAD, and a 304, tells the framing that the content would have (RFC 9110 section 8.6).
        let isSwitch = storage.pointee.status == 101
        let isWithoutContent = storage.pointee.framing == .none && !opensTunnel
        let tellsLength = framing == .length || (isWithoutContent && storage.pointee.status != 204)
        let tellsChunked = framing == .chunked || (isWithoutContent && storage.pointee.status != 204 && !isToHTTP10)
        var chunkedIsTold = false
        let bytes = storage.pointee.bytes
        var runStart = startLineIsOurs ? 0 : startLineEnd
        var runEnd = startLineEnd
        for index in 0..<storage.pointee.fieldCount {
            let line = head.fields + index
            let lineEnd = Int(line.pointee.lineEnd)
            if line.pointee.field == .other, !line.pointee.isDropped, edits.isEmpty {
                runEnd = lineEnd
                continue
            }
            var isKept = !line.pointee.isDropped && (edits.isEmpty || !edits.removes(head.bytes(line.pointee.name)))
            switch line.pointee.field {
            case .contentLength:
                if tellsLength, head.isCanonicalLength(line.pointee) {
                    runEnd = lineEnd
                    continue
                }
                flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                runEnd = runStart
                if tellsLength, !line.pointee.isDropped { writeContentLength(line.pointee, to: &out) }
                continue
            case .transferEncoding:
                flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                runEnd = runStart
                if tellsChunked {
                    out.append(head.bytes(line.pointee.name))
                    out.append(": chunked\r\n")
                    chunkedIsTold = true
                }
                continue
            case .via: isKept = isKept && via.isEmpty
            case .trailer: isKept = isKept && !isToHTTP10
            case .upgrade: isKept = isSwitch
            case .other, .connection, .host, .keepAlive, .proxyConnection, .te, .http2Settings, .expect,
                .forwarded, .xForwardedFor, .xForwardedProto, .xForwardedHost, .xRequestID, .date, .maxForwards,
                .clientCert, .clientCertChain, .authorization, .proxyAuthorization, .cookie, .userAgent, .referer,
                .contentType, .traceparent, .tracestate, .grpcStatus:
                break
            }
            if isKept {
                runEnd = lineEnd
            } else {
                flush(&runStart, runEnd, bytes, lineEnd, to: &out)
                runEnd = runStart
            }
        }
        if runEnd > runStart { out.append(bytes + runStart, count: runEnd - runStart) }
        if framing == .chunked, !chunkedIsTold { out.append("Transfer-Encoding: chunked\r\n") }
        writeOwnResponseFields(facts, date: date, edits: edits, to: &out)
        if isSwitch {
            out.append("Connection: Upgrade\r\n")
        } else if closes, !opensTunnel {
            out.append("Connection: close\r\n")
        } else if isToHTTP10, !opensTunnel {
            out.append("Connection: keep-alive\r\n")
        }
        if !edits.isEmpty { writeEdits(edits, exceptHost: false, to: &out) }
        out.append("\r\n")
    }

    private func writeOwnResponseFields(
        _ facts: HeadFacts, date: UnsafeBufferPointer<UInt8>, edits: CompiledEdits, to out: inout ByteWriter
    ) {
        if !facts.contains(.date), !edits.removes("date") {
            out.append("Date: ")
            out.append(date)
            out.append("\r\n")
        }
        if !via.isEmpty, !edits.removes("via") { writeVia(facts, to: &out) }
    }

    private var startLineEnd: Int {
        let reason = head.storage.pointee.reason
        return (reason.start == 0 ? 12 : reason.end) + 2
    }

    private func writeStatusLine(to out: inout ByteWriter) {
        out.append("HTTP/1.1 ")
        out.append(decimal: UInt64(head.storage.pointee.status))
        out.append(UInt8(ascii: " "))
        out.append(head.bytes(head.storage.pointee.reason))
        out.append("\r\n")
    }

    /// Writes an interim response's head for the client. It has no content, so nothing may frame one.
    public func writeInterim(to out: inout ByteWriter) {
        let storage = head.storage
        writeStatusLine(to: &out)
        let bytes = storage.pointee.bytes
        for index in 0..<storage.pointee.fieldCount {
            let line = head.fields[index]
            if line.isDropped || line.field == .contentLength || line.field == .transferEncoding { continue }
            out.append(bytes + Int(line.name.start), count: Int(line.lineEnd) - Int(line.name.start))
        }
        out.append("\r\n")
    }

    /// Writes the last chunk with the trailer section that is in the scratch.
    public static func writeTrailers(_ head: Head, to out: inout ByteWriter) {
        out.append("0\r\n")
        let bytes = head.storage.pointee.bytes
        for index in 0..<head.storage.pointee.fieldCount {
            let line = head.fields[index]
            if line.isDropped { continue }
            out.append(bytes + Int(line.name.start), count: Int(line.lineEnd) - Int(line.name.start))
        }
        out.append("\r\n")
    }
}
