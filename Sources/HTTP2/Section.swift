// A field section as it came, and what becomes of it: a head in the scratch, laid out as HTTP/1.1 would have written it,
// so that whoever routes, rewrites and forwards learns nothing of versions. What nghttp2 has checked already (RFC 9113
// section 8.2: names and values, pseudo-fields, connection-specific fields) is not checked again; everything that a rule of
// ours is about is.

import Bytes
import HTTPSemantics

/// The pseudo-fields of RFC 9113 section 8.3 and RFC 8441.
struct PseudoFields {
    var method = ByteRange()
    var scheme = ByteRange()
    var authority = ByteRange()
    var path = ByteRange()
    var protocolName = ByteRange()
    var status = ByteRange()
}

/// Where a section lies in the engine's scratch; ranges are relative to its first byte.
struct Section {
    enum Kind: UInt8 {
        case request
        case response
        case trailers
    }
    var kind = Kind.request
    var textStart = 0
    var textBytes = 0
    /// Where the lines begin, behind the pseudo-fields.
    var linesStart = 0
    var firstLine = 0
    var lineCount = 0
    var pseudo = PseudoFields()
    /// How many lines are crumbs of a cookie (RFC 9113 section 8.2.3).
    var crumbCount = 0
    /// Why it is refused whatever else it says.
    var fault: HeadFault?
    var endsMessage = false
}

/// Lays a section out as a message of HTTP/1.1 and fills the scratch.
struct SectionReader {
    let text: UnsafePointer<UInt8>
    let lines: UnsafePointer<HTTP2Engine.Line>
    let section: Section
    let head: Head
    let limits: HeadLimits
    private var out: ByteWriter

    init(
        _ section: Section, _ engine: UnsafeMutablePointer<HTTP2Engine.Storage>, into head: Head, limits: HeadLimits
    ) {
        self.section = section
        text = UnsafePointer(engine.pointee.text + section.textStart)
        lines = UnsafePointer(engine.pointee.lines + section.firstLine)
        self.head = head
        self.limits = limits
        out = ByteWriter(base: engine.pointee.message, capacity: HTTP2Engine.sectionBytesMax + 4096)
    }

    private func bytes(_ range: ByteRange) -> UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(start: text + Int(range.start), count: Int(range.count))
    }

    // MARK: Requests

    /// - Parameter webSocketKey: the key of a WebSocket's handshake, which HTTP/2 does without.
    mutating func readRequest(webSocketKey: (UInt64, UInt64)) throws(HeadFault) {
        head.begin(at: UnsafePointer(out.base))
        head.storage.pointee.facts = .isHTTP2
        if let fault = section.fault { throw fault }
        if section.textBytes > limits.headBytesMax { throw .headTooLong }
        let isTunnel = !section.pseudo.protocolName.isEmpty
        let method = bytes(section.pseudo.method)
        head.storage.pointee.method = isTunnel ? .get : Method(name: method)
        let isConnect = head.storage.pointee.method == .connect
        // The request line (RFC 9112 section 3).
        if isTunnel {
            // RFC 8441 section 5: what is CONNECT here is GET with Upgrade there.
            out.append("GET")
        } else {
            out.append(method)
        }
        head.storage.pointee.methodName = ByteRange(start: 0, count: out.count)
        out.append(UInt8(ascii: " "))
        let target = isConnect ? section.pseudo.authority : section.pseudo.path
        if Int(target.count) > limits.targetBytesMax { throw .targetTooLong }
        let targetStart = out.count
        out.append(bytes(target))
        head.storage.pointee.target = ByteRange(start: targetStart, count: Int(target.count))
        out.append(" HTTP/1.1\r\n")
        if out.isOverfull { throw .headTooLong }
        var count = 0
        try readAuthority(isConnect: isConnect, &count)
        try checkTarget(isConnect: isConnect)
        if section.crumbCount > 1 {
            try readLinesJoiningCrumbs(&count)
        } else {
            try readLines(&count, isRequest: true)
        }
        if isTunnel {
            try readUpgrade(&count, webSocketKey)
        } else if !isConnect {
            try readFraming(&count)
        }
        out.append("\r\n")
        head.storage.pointee.fieldCount = count
        head.storage.pointee.byteCount = out.count
        if section.endsMessage { head.storage.pointee.facts.insert(.endsMessage) }
        try head.finishRequest()
    }

    /// RFC 9113 section 8.3.1: `:authority` is Host. A Host beside it may only repeat it.
    private mutating func readAuthority(isConnect: Bool, _ count: inout Int) throws(HeadFault) {
        let authority = section.pseudo.authority
        if isConnect {
            guard head.isHost(head.storage.pointee.target),
                head.hostOnly(head.storage.pointee.target).count + 1 < head.storage.pointee.target.count
            else { throw .target }
            head.storage.pointee.authority = head.storage.pointee.target
            head.storage.pointee.facts.insert([.absoluteForm, .mayOpenTunnel])
        }
        guard !authority.isEmpty else { return }
        let start = out.count
        out.append("Host: ")
        out.append(bytes(authority))
        out.append("\r\n")
        if out.isOverfull { throw .headTooLong }
        try add(
            at: &count, start: start, nameBytes: 4, valueBytes: Int(authority.count), field: .host, isRequest: true)
    }

    private func checkTarget(isConnect: Bool) throws(HeadFault) {
        if isConnect { return }
        let target = head.storage.pointee.target
        guard let first = bytes(section.pseudo.path).first else { throw .target }
        let base = UnsafePointer(out.base)
        guard ByteScan.targetEnd(base, from: Int(target.start), end: target.end) == target.end else { throw .target }
        switch first {
        case UInt8(ascii: "/"): break
        case UInt8(ascii: "*"):
            guard target.count == 1, head.storage.pointee.method == .options else { throw .target }
        default: throw .target
        }
        head.storage.pointee.originForm = target
    }

    /// Upgrade as HTTP/1.1 asks for it (RFC 8441 section 5.1, RFC 6455 section 4.1).
    private mutating func readUpgrade(_ count: inout Int, _ key: (UInt64, UInt64)) throws(HeadFault) {
        if head.storage.pointee.facts.contains(.contentLength) { throw .connectContent }
        let name = bytes(section.pseudo.protocolName)
        for byte in name where !Head.isToken(byte) { throw .fieldValue }
        try write(&count, "Upgrade", field: .upgrade) { $0.append(name) }
        try write(&count, "Connection", field: .connection) { $0.append("Upgrade") }
        guard Head.equals(name, "websocket") else { return }
        try write(&count, "Sec-WebSocket-Key", field: .other) { out in
            var key = key
            let bytes = Base64.textBytes(of: MemoryLayout.size(ofValue: key))
            guard out.capacity - out.count >= bytes else {
                out.isOverfull = true
                return
            }
            withUnsafeBytes(of: &key) { Base64.write($0.bindMemory(to: UInt8.self), to: out.base + out.count) }
            out.count += bytes
        }
    }

    /// Content whose length was not told is chunked there; none at all is told where some is usual (RFC 9110 section 8.6).
    private mutating func readFraming(_ count: inout Int) throws(HeadFault) {
        if head.storage.pointee.facts.contains(.contentLength) { return }
        if !section.endsMessage {
            try write(&count, "Transfer-Encoding", field: .transferEncoding) { $0.append("chunked") }
        } else if head.storage.pointee.method == .post || head.storage.pointee.method == .put {
            try write(&count, "Content-Length", field: .contentLength) { $0.append("0") }
        }
    }

    // MARK: Responses

    /// - Parameters:
    ///   - requestMethod: what it answers.
    mutating func readResponse(answering requestMethod: Method) throws(HeadFault) {
        head.begin(at: UnsafePointer(out.base))
        head.storage.pointee.facts = .isHTTP2
        if let fault = section.fault { throw fault }
        if section.textBytes > limits.headBytesMax { throw .headTooLong }
        let digits = bytes(section.pseudo.status)
        guard digits.count == 3, let status = decimal(digits), status >= 100 else { throw .status }
        head.storage.pointee.status = status
        out.append("HTTP/1.1 ")
        out.append(digits)
        out.append(UInt8(ascii: " "))
        let reason = ReasonPhrase.of(status)
        head.storage.pointee.reason = ByteRange(start: out.count, count: reason.utf8CodeUnitCount)
        out.append(reason)
        out.append("\r\n")
        var count = 0
        try readLines(&count, isRequest: false)
        out.append("\r\n")
        head.storage.pointee.fieldCount = count
        head.storage.pointee.byteCount = out.count
        if section.endsMessage { head.storage.pointee.facts.insert(.endsMessage) }
        try head.finishResponse(answering: requestMethod)
        // The stream's end delimits it, not the connection's.
        if head.storage.pointee.framing == .untilClose { head.storage.pointee.framing = .chunked }
    }

    private func decimal(_ digits: UnsafeBufferPointer<UInt8>) -> UInt16? {
        var number: UInt16 = 0
        for byte in digits {
            let digit = byte &- UInt8(ascii: "0")
            guard digit <= 9 else { return nil }
            number = number * 10 + UInt16(digit)
        }
        return number
    }

    // MARK: Trailers

    mutating func readTrailers() throws(HeadFault) {
        head.begin(at: UnsafePointer(out.base))
        head.storage.pointee.facts = .isHTTP2
        if section.fault != nil || section.textBytes > limits.headBytesMax { throw .trailers }
        out.append(text + section.linesStart, count: section.textBytes - section.linesStart)
        var offset = 0
        for index in 0..<section.lineCount {
            let line = lines[index]
            guard head.storage.pointee.fieldCount < min(limits.fieldsMax, head.fieldsCapacity) else { throw .trailers }
            let (name, value, end) = ranges(of: line, at: offset)
            guard let field = try head.identify(out.base + offset, count: Int(name.count), readable: end - offset)
            else { throw .trailers }
            try head.addTrailer(name: name, value: value, lineEnd: end, field: field)
            offset = end
        }
        head.storage.pointee.byteCount = out.count
    }

    // MARK: Lines

    private func ranges(of line: HTTP2Engine.Line, at start: Int) -> (name: ByteRange, value: ByteRange, end: Int) {
        let valueStart = start + Int(line.nameBytes) + 2
        return (
            ByteRange(start: start, count: Int(line.nameBytes)),
            ByteRange(start: valueStart, count: Int(line.valueBytes)), valueStart + Int(line.valueBytes) + 2
        )
    }

    /// Copies all lines in one run and takes note of each.
    private mutating func readLines(_ count: inout Int, isRequest: Bool) throws(HeadFault) {
        var offset = out.count
        out.append(text + section.linesStart, count: section.textBytes - section.linesStart)
        if out.isOverfull { throw .headTooLong }
        for index in 0..<section.lineCount {
            offset = try addLine(lines[index], at: offset, &count, isRequest: isRequest)
        }
    }

    private func addLine(
        _ line: HTTP2Engine.Line, at offset: Int, _ count: inout Int, isRequest: Bool
    ) throws(HeadFault) -> Int {
        let (name, value, end) = ranges(of: line, at: offset)
        guard count < min(limits.fieldsMax, head.fieldsCapacity) else { throw .tooManyFields }
        guard let field = try head.identify(out.base + offset, count: Int(name.count), readable: end - offset) else {
            throw .fieldName
        }
        if field == .host, head.storage.pointee.facts.contains(.host) {
            // It repeats `:authority`, or it differs: then nobody knows who is asked (RFC 9113 section 8.3.1).
            guard isAuthority(value) else { throw .host }
            head.fields[count] = FieldLine(
                name: name, value: value, lineEnd: UInt32(end), field: .other, isDropped: true)
            head.storage.pointee.facts.insert(.needsRewriting)
        } else {
            try head.add(at: count, name: name, value: value, lineEnd: end, field: field, isRequest: isRequest)
        }
        count += 1
        return end
    }

    private func isAuthority(_ value: ByteRange) -> Bool {
        let one = head.bytes(value)
        let other = head.bytes(head.storage.pointee.authority)
        guard one.count == other.count else { return false }
        for index in 0..<one.count where Head.lowercase(one[index]) != Head.lowercase(other[index]) { return false }
        return true
    }

    /// RFC 9113 section 8.2.3: crumbs of a cookie become one line, in the place of the first.
    private mutating func readLinesJoiningCrumbs(_ count: inout Int) throws(HeadFault) {
        var place = section.linesStart
        var areJoined = false
        for index in 0..<section.lineCount {
            let line = lines[index]
            let start = place
            place += Int(line.nameBytes) + Int(line.valueBytes) + 4
            if isCookie(line, at: start) {
                if areJoined { continue }
                areJoined = true
                let lineStart = out.count
                out.append("cookie: ")
                let valueStart = out.count
                joinCrumbs()
                let valueBytes = out.count - valueStart
                out.append("\r\n")
                if out.isOverfull { throw .headTooLong }
                let joined = HTTP2Engine.Line(nameBytes: 6, valueBytes: UInt32(valueBytes))
                _ = try addLine(joined, at: lineStart, &count, isRequest: true)
            } else {
                let lineStart = out.count
                out.append(text + start, count: place - start)
                if out.isOverfull { throw .headTooLong }
                _ = try addLine(line, at: lineStart, &count, isRequest: true)
            }
        }
    }

    private func isCookie(_ line: HTTP2Engine.Line, at start: Int) -> Bool {
        line.nameBytes == 6 && Head.equals(UnsafeBufferPointer(start: text + start, count: 6), "cookie")
    }

    private mutating func joinCrumbs() {
        var place = section.linesStart
        var isFirst = true
        for index in 0..<section.lineCount {
            let line = lines[index]
            if isCookie(line, at: place) {
                if !isFirst { out.append("; ") }
                isFirst = false
                out.append(text + place + Int(line.nameBytes) + 2, count: Int(line.valueBytes))
            }
            place += Int(line.nameBytes) + Int(line.valueBytes) + 4
        }
    }

    /// Writes a line of our own and takes note of it.
    private mutating func write(
        _ count: inout Int, _ name: StaticString, field: KnownField, _ value: (inout ByteWriter) -> Void
    ) throws(HeadFault) {
        let start = out.count
        out.append(name)
        out.append(": ")
        let valueStart = out.count
        value(&out)
        let valueBytes = out.count - valueStart
        out.append("\r\n")
        if out.isOverfull { throw .headTooLong }
        try add(
            at: &count, start: start, nameBytes: name.utf8CodeUnitCount, valueBytes: valueBytes, field: field,
            isRequest: true)
    }

    private func add(
        at count: inout Int, start: Int, nameBytes: Int, valueBytes: Int, field: KnownField, isRequest: Bool
    ) throws(HeadFault) {
        guard count < head.fieldsCapacity else { throw .tooManyFields }
        try head.add(
            at: count, name: ByteRange(start: start, count: nameBytes),
            value: ByteRange(start: start + nameBytes + 2, count: valueBytes),
            lineEnd: start + nameBytes + 2 + valueBytes + 2, field: field, isRequest: isRequest)
        count += 1
    }
}
