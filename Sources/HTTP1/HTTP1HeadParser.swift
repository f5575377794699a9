// The parser of heads and trailer sections (RFC 9112 sections 2 to 5, 7.1.2). It reads each byte once, throws at
// the first thing that two parsers could read differently, and leaves ranges in the head scratch.

import Bytes
import HTTPSemantics

/// Whether a head was there as a whole.
enum HeadParseOutcome {
    /// More bytes are needed.
    case incomplete
    /// The head takes this many bytes.
    case complete(Int)
}

/// Parses over `[0, end)` of `bytes`.
struct HTTP1HeadParser {
    let bytes: UnsafePointer<UInt8>
    let end: Int
    let head: Head
    let limits: HeadLimits

    /// A parser over the bytes that are there. Bytes beyond the bound of a head are not looked at, so that what is
    /// found never depends on how many arrived together.
    init(bytes: UnsafePointer<UInt8>, available: Int, head: Head, limits: HeadLimits) {
        self.bytes = bytes
        end = min(available, limits.headBytesMax)
        self.head = head
        self.limits = limits
    }

    private static var cr: UInt8 { 13 }
    private static var lf: UInt8 { 10 }
    /// `GET ` as a word.
    private static var getAndSpace: UInt32 { UInt32(littleEndian: 0x2054_4547) }

    /// RFC 9112 section 3.
    func parseRequest() throws(HeadFault) -> HeadParseOutcome {
        head.begin(at: bytes)
        guard let fields = try parseRequestLine() else { return try incomplete() }
        return try parseFields(from: fields, isRequest: true)
    }

    /// RFC 9112 section 4.
    func parseResponse() throws(HeadFault) -> HeadParseOutcome {
        head.begin(at: bytes)
        guard let fields = try parseStatusLine() else { return try incomplete() }
        return try parseFields(from: fields, isRequest: false)
    }

    // MARK: Start lines

    /// `method SP request-target SP HTTP-version CRLF`
    /// - Returns: where the field section begins; nil if more bytes are needed.
    private func parseRequestLine() throws(HeadFault) -> Int? {
        let storage = head.storage
        var methodEnd = 3
        if end > 4, (UnsafeRawPointer(bytes).loadUnaligned(as: UInt32.self)) == Self.getAndSpace {
            storage.pointee.method = .get
        } else {
            methodEnd = head.tokenEnd(bytes, from: 0, end: end).end
            if methodEnd == end { return nil }
            guard bytes[methodEnd] == UInt8(ascii: " "), methodEnd > 0 else { throw .method }
            storage.pointee.method = Method(name: UnsafeBufferPointer(start: bytes, count: methodEnd))
        }
        storage.pointee.methodName = ByteRange(start: 0, count: methodEnd)

        let targetStart = methodEnd + 1
        let targetEnd = ByteScan.targetEnd(bytes, from: targetStart, end: end)
        if targetEnd - targetStart > limits.targetBytesMax { throw .targetTooLong }
        if targetEnd == end { return nil }
        guard bytes[targetEnd] == UInt8(ascii: " "), targetEnd > targetStart else { throw .target }
        storage.pointee.target = ByteRange(start: targetStart, count: targetEnd - targetStart)

        let versionStart = targetEnd + 1
        guard let lineEnd = try parseVersion(from: versionStart) else { return nil }
        if end < lineEnd + 2 {
            if end > lineEnd, bytes[lineEnd] != Self.cr { throw .startLine }
            return nil
        }
        guard bytes[lineEnd] == Self.cr, bytes[lineEnd + 1] == Self.lf else { throw .startLine }
        try splitTarget()
        return lineEnd + 2
    }

    /// `HTTP/1.1` or `HTTP/1.0`.
    /// - Returns: where the version ends; nil if more bytes are needed.
    @inline(__always)
    private func parseVersion(from start: Int) throws(HeadFault) -> Int? {
        if start + 8 <= end {
            let word = UInt64(littleEndian: UnsafeRawPointer(bytes + start).loadUnaligned(as: UInt64.self))
            if word == 0x312E_312F_5054_5448 { return start + 8 }  // HTTP/1.1
        }
        return try parseOtherVersion(from: start)
    }

    private func parseOtherVersion(from start: Int) throws(HeadFault) -> Int? {
        let name: StaticString = "HTTP/"
        for offset in 0..<5 {
            if start + offset == end { return nil }
            if bytes[start + offset] != name.utf8Start[offset] { throw .startLine }
        }
        if start + 8 > end {
            for index in (start + 5)..<end where index != start + 6 && bytes[index] &- UInt8(ascii: "0") > 9 {
                throw .startLine
            }
            return nil
        }
        let major = bytes[start + 5] &- UInt8(ascii: "0")
        let minor = bytes[start + 7] &- UInt8(ascii: "0")
        guard major <= 9, minor <= 9, bytes[start + 6] == UInt8(ascii: ".") else { throw .startLine }
        guard major == 1, minor <= 1 else { throw .version }
        if minor == 0 { head.storage.pointee.facts.insert(.isHTTP10) }
        return start + 8
    }

    /// Whether the first line is `HTTP/1.1 200 OK`, as most are.
    @inline(__always)
    private var isUsualStatusLine: Bool {
        guard end >= 17 else { return false }
        let raw = UnsafeRawPointer(bytes)
        return UInt64(littleEndian: raw.loadUnaligned(as: UInt64.self)) == 0x312E_312F_5054_5448
            && UInt64(littleEndian: (raw + 8).loadUnaligned(as: UInt64.self)) == 0x0D4B_4F20_3030_3220
            && bytes[16] == Self.lf
    }

    /// `HTTP-version SP status-code SP [ reason-phrase ] CRLF`; the second space may be missing with the reason.
    private func parseStatusLine() throws(HeadFault) -> Int? {
        let storage = head.storage
        if isUsualStatusLine {
            storage.pointee.status = 200
            storage.pointee.reason = ByteRange(start: 13, count: 2)
            return 17
        }
        guard let versionEnd = try parseVersion(from: 0) else { return nil }
        let statusEnd = versionEnd + 4
        if statusEnd >= end {
            try checkPartialStatus(from: versionEnd)
            return nil
        }
        let hundreds = bytes[versionEnd + 1] &- UInt8(ascii: "0")
        let tens = bytes[versionEnd + 2] &- UInt8(ascii: "0")
        let ones = bytes[versionEnd + 3] &- UInt8(ascii: "0")
        guard bytes[versionEnd] == UInt8(ascii: " "), hundreds <= 9, tens <= 9, ones <= 9 else { throw .status }
        let status = UInt16(hundreds) &* 100 &+ UInt16(tens) &* 10 &+ UInt16(ones)
        guard status >= 100 else { throw .status }
        storage.pointee.status = status
        var lineEnd = statusEnd
        if bytes[statusEnd] == UInt8(ascii: " ") {
            lineEnd = ByteScan.usualFieldValueEnd(bytes, from: statusEnd + 1, end: end)
            if lineEnd < end, bytes[lineEnd] != Self.cr {
                lineEnd = ByteScan.fieldValueEnd(bytes, from: lineEnd, end: end)
            }
            storage.pointee.reason = ByteRange(start: statusEnd + 1, count: lineEnd - statusEnd - 1)
        }
        return try lineEndCRLF(at: lineEnd, otherwise: lineEnd == statusEnd ? .status : .startLine)
    }

    /// What is there of ` 200` must be right already.
    private func checkPartialStatus(from start: Int) throws(HeadFault) {
        for index in start..<max(start, end) {
            let isRight = index == start ? bytes[index] == UInt8(ascii: " ") : bytes[index] &- UInt8(ascii: "0") <= 9
            if !isRight { throw .status }
        }
    }

    /// Where the next line begins, if this one ends in CRLF at `index`; nil if more bytes are needed.
    @inline(__always)
    private func lineEndCRLF(at index: Int, otherwise fault: HeadFault) throws(HeadFault) -> Int? {
        if index == end { return nil }
        guard bytes[index] == Self.cr else { throw bytes[index] == Self.lf ? .lineEnd : fault }
        if index &+ 1 == end { return nil }
        guard bytes[index &+ 1] == Self.lf else { throw .lineEnd }
        return index &+ 2
    }

    // MARK: Fields

    private func parseFields(from start: Int, isRequest: Bool) throws(HeadFault) -> HeadParseOutcome {
        let countMax = min(limits.fieldsMax, head.fieldsCapacity)
        let headBytesMax = limits.headBytesMax
        var count = 0
        var lineStart = start
        while true {
            if lineStart >= headBytesMax { throw .headTooLong }
            if lineStart == end { return try incomplete() }
            if bytes[lineStart] == Self.cr {
                guard let headEnd = try lineEndCRLF(at: lineStart, otherwise: .lineEnd) else { return try incomplete() }
                if headEnd > headBytesMax { throw .headTooLong }
                head.storage.pointee.fieldCount = count
                head.storage.pointee.byteCount = headEnd
                return .complete(headEnd)
            }
            let line: ParsedFieldLine
            if let usual = parseUsualFieldLine(from: lineStart) {
                line = usual
            } else {
                guard let other = try parseFieldLine(from: lineStart) else { return try incomplete() }
                line = other
            }
            if count >= countMax { throw .tooManyFields }
            try head.add(
                at: count, name: line.name, value: line.value, lineEnd: line.end, field: line.field,
                isRequest: isRequest)
            count &+= 1
            lineStart = line.end
        }
    }

    private typealias ParsedFieldLine = (name: ByteRange, value: ByteRange, end: Int, field: KnownField)

    /// A whole line with a known name, one space and a value without anything odd: nearly all there are. Everything
    /// else, faults above all, is left to `parseFieldLine`.
    @inline(__always)
    private func parseUsualFieldLine(from start: Int) -> ParsedFieldLine? {
        let bytes = bytes
        let end = end
        guard end &- start >= 8 else { return nil }
        let colon = ByteScan.first(UInt8(ascii: ":"), in: bytes, from: start, end: end)
        guard end &- colon >= 4,
            let field = head.knownField(bytes + start, count: colon &- start)
                ?? head.plainField(bytes + start, count: colon &- start)
        else { return nil }
        let valueStart = colon &+ 2
        guard bytes[colon &+ 1] == 0x20 else { return nil }
        let valueEnd = ByteScan.usualFieldValueEnd(bytes, from: valueStart, end: end)
        guard end &- valueEnd >= 2, bytes[valueEnd] == Self.cr, bytes[valueEnd &+ 1] == Self.lf,
            valueEnd > valueStart, bytes[valueStart] > 0x20, bytes[valueEnd &- 1] > 0x20
        else { return nil }
        return (
            ByteRange(start: start, count: colon &- start),
            ByteRange(start: valueStart, count: valueEnd &- valueStart), valueEnd &+ 2, field
        )
    }

    private func incomplete() throws(HeadFault) -> HeadParseOutcome {
        if end >= limits.headBytesMax { throw .headTooLong }
        return .incomplete
    }

    /// `field-name ":" OWS field-value OWS CRLF`
    @inline(never)
    private func parseFieldLine(from start: Int) throws(HeadFault) -> ParsedFieldLine? {
        let colon = ByteScan.first(UInt8(ascii: ":"), in: bytes, from: start, end: end)
        guard colon < end, colon > start,
            let field = try head.identify(bytes + start, count: colon &- start, readable: end &- start)
        else {
            // No colon where it belongs: it is missing still, or something stands before it that may not.
            let nameEnd = head.tokenEnd(bytes, from: start, end: end).end
            if nameEnd == end { return nil }
            throw fieldNameFault(at: nameEnd, lineStart: start)
        }
        var valueStart = colon &+ 1
        while valueStart < end, bytes[valueStart] == 0x20 || bytes[valueStart] == 0x09 { valueStart &+= 1 }
        var valueEnd = ByteScan.fieldValueEnd(bytes, from: valueStart, end: end)
        guard let lineEnd = try lineEndCRLF(at: valueEnd, otherwise: .fieldValue) else { return nil }
        while valueEnd > valueStart, bytes[valueEnd &- 1] == 0x20 || bytes[valueEnd &- 1] == 0x09 { valueEnd &-= 1 }
        return (
            ByteRange(start: start, count: colon &- start),
            ByteRange(start: valueStart, count: valueEnd &- valueStart), lineEnd, field
        )
    }

    private func fieldNameFault(at index: Int, lineStart: Int) -> HeadFault {
        switch bytes[index] {
        case 0x20, 0x09: index == lineStart ? .folding : .fieldName
        case Self.lf: .lineEnd
        default: .fieldName
        }
    }

    /// A trailer section with its empty line (RFC 9112 section 7.1.2).
    func parseTrailers() throws(HeadFault) -> HeadParseOutcome {
        head.begin(at: bytes)
        var lineStart = 0
        do {
            while true {
                if lineStart < end, bytes[lineStart] == Self.cr {
                    guard let sectionEnd = try lineEndCRLF(at: lineStart, otherwise: .lineEnd) else {
                        return try incomplete()
                    }
                    head.storage.pointee.byteCount = sectionEnd
                    return .complete(sectionEnd)
                }
                guard lineStart < end, let line = try parseFieldLine(from: lineStart) else {
                    return try incomplete()
                }
                if head.storage.pointee.fieldCount >= min(limits.fieldsMax, head.fieldsCapacity) {
                    throw HeadFault.trailers
                }
                try head.addTrailer(name: line.name, value: line.value, lineEnd: line.end, field: line.field)
                lineStart = line.end
            }
        } catch {
            throw .trailers
        }
    }

    // MARK: Targets

    /// RFC 9112 section 3.2: origin-form, absolute-form, authority-form (CONNECT), asterisk-form (OPTIONS).
    private func splitTarget() throws(HeadFault) {
        let storage = head.storage
        let target = storage.pointee.target
        let start = Int(target.start)
        if storage.pointee.method == .connect {
            // With a port, and not an empty one (RFC 9110 section 9.3.6).
            guard head.isHost(target), head.hostOnly(target).count + 1 < target.count else { throw .target }
            storage.pointee.authority = target
            storage.pointee.facts.insert([.absoluteForm, .mayOpenTunnel])
            return
        }
        switch bytes[start] {
        case UInt8(ascii: "/"):
            storage.pointee.originForm = target
        case UInt8(ascii: "*"):
            guard target.count == 1, storage.pointee.method == .options else { throw .target }
            storage.pointee.originForm = target
        default:
            try splitAbsoluteForm(target)
        }
    }

    private func splitAbsoluteForm(_ target: ByteRange) throws(HeadFault) {
        let start = Int(target.start)
        let schemes: [StaticString] = ["http://", "https://"]
        guard
            let scheme = schemes.first(where: {
                target.count > $0.utf8CodeUnitCount
                    && head.isEqual(ByteRange(start: start, count: $0.utf8CodeUnitCount), $0)
            })
        else { throw .target }
        let authorityStart = start + scheme.utf8CodeUnitCount
        var authorityEnd = authorityStart
        while authorityEnd < target.end, bytes[authorityEnd] != UInt8(ascii: "/"),
            bytes[authorityEnd] != UInt8(ascii: "?")
        {
            authorityEnd += 1
        }
        let authority = ByteRange(start: authorityStart, count: authorityEnd - authorityStart)
        // Userinfo is refused with it: RFC 9110 section 4.2.4.
        guard head.isHost(authority) else { throw .target }
        let storage = head.storage
        storage.pointee.authority = authority
        storage.pointee.facts.insert(.absoluteForm)
        if authorityStart - start == 8 { storage.pointee.facts.insert(.schemeIsHTTPS) }
        storage.pointee.originForm = ByteRange(start: authorityEnd, count: target.end - authorityEnd)
    }
}
