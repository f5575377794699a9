// What the lines of a field section mean together: framing, persistence, host, nominations. The same rules for both
// roles, and for every version whose codec has filled the table.

import Bytes

extension Head {
    /// Forgets the last head and takes its bytes' place.
    public func begin(at bytes: UnsafePointer<UInt8>) {
        storage.pointee.bytes = bytes
        storage.pointee.byteCount = 0
        storage.pointee.methodName = ByteRange()
        storage.pointee.method = .other
        storage.pointee.target = ByteRange()
        storage.pointee.originForm = ByteRange()
        storage.pointee.authority = ByteRange()
        storage.pointee.status = 0
        storage.pointee.reason = ByteRange()
        storage.pointee.facts = []
        storage.pointee.framing = .none
        storage.pointee.contentLength = 0
        storage.pointee.grpcStatus = -1
        storage.pointee.fieldCount = 0
    }

    /// The index behind the token that begins at `start`, and whether an underscore was in it.
    @inlinable public func tokenEnd(
        _ bytes: UnsafePointer<UInt8>, from start: Int, end: Int
    ) -> (end: Int, hasUnderscore: Bool) {
        var index = start
        var seen: UInt8 = 0
        while index < end {
            let kind = classes[Int(bytes[index])]
            if kind & Head.isTokenByte == 0 { break }
            seen |= kind
            index += 1
        }
        return (index, seen & Head.isUnderscore != 0)
    }

    /// Which field a name is that ends in a colon, or would if it were one: most names are found in the table of
    /// known ones, which makes them tokens; of the others each byte is looked at.
    /// - Parameters:
    ///   - count: bytes before the colon.
    ///   - readable: bytes that may be read.
    /// - Returns: nil if it is no token.
    /// - Throws: `lookalikeName` if it would be a protected one with `-` for `_`.
    @inlinable @inline(__always)
    public func identify(
        _ name: UnsafePointer<UInt8>, count: Int, readable: Int
    ) throws(HeadFault) -> KnownField? {
        if let field = knownFields.find(name, count: count, readable: readable) { return field }
        return try identifyUnknown(name, count: count)
    }

    /// Which field a name is, if it is in the table of known ones.
    /// - Parameter count: its bytes; eight bytes from its start may be read.
    @inlinable @inline(__always)
    public func knownField(_ name: UnsafePointer<UInt8>, count: Int) -> KnownField? {
        knownFields.find(name, count: count, readable: 8)
    }

    /// `other`, if a name that is not in the table is a token without an underscore, so that it imitates nothing.
    public func plainField(_ name: UnsafePointer<UInt8>, count: Int) -> KnownField? {
        let token = tokenEnd(name, from: 0, end: count)
        return token.end == count && count > 0 && !token.hasUnderscore ? .other : nil
    }

    @usableFromInline func identifyUnknown(_ name: UnsafePointer<UInt8>, count: Int) throws(HeadFault) -> KnownField? {
        let token = tokenEnd(name, from: 0, end: count)
        if token.end < count { return nil }
        if token.hasUnderscore, count <= KnownFieldTable.nameBytesMax {
            let lookalike = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: count) { copy in
                for index in 0..<count {
                    copy[index] = name[index] == UInt8(ascii: "_") ? UInt8(ascii: "-") : name[index]
                }
                return copy.baseAddress.flatMap { knownFields.find($0, count: count, readable: count) } ?? .other
            }
            if lookalike.isProtectedFromLookalikes { throw .lookalikeName }
        }
        return .other
    }

    /// Puts a line at `index` of the table and takes note of what it says. Who parses sets `fieldCount` in the end.
    /// - Throws: the fault that this line alone makes.
    @inlinable @inline(__always)
    public func add(
        at index: Int, name: ByteRange, value: ByteRange, lineEnd: Int, field: KnownField, isRequest: Bool
    ) throws(HeadFault) {
        fields[index] = FieldLine(
            name: name, value: value, lineEnd: UInt32(truncatingIfNeeded: lineEnd), field: field, isDropped: false)
        guard field.isNoted else { return }
        // Nearly every response has a Date, and to be there is all that it says.
        if field == .date {
            storage.pointee.facts.insert(.date)
        } else {
            try note(value, field: field, index: index, isRequest: isRequest)
        }
    }

    @usableFromInline func note(_ value: ByteRange, field: KnownField, index: Int, isRequest: Bool) throws(HeadFault) {
        switch field {
        case .connection:
            dropHopByHop(index)
            noteConnection(value)
        case .contentLength:
            let length = try parseLength(value)
            if storage.pointee.facts.contains(.contentLength), storage.pointee.contentLength != length {
                throw .contentLength
            }
            // Of two that agree the first is written again, by us; the second is not.
            if storage.pointee.facts.contains(.contentLength) { fields[index].isDropped = true }
            if !isCanonicalLength(fields[index]) { storage.pointee.facts.insert(.needsRewriting) }
            storage.pointee.contentLength = length
            storage.pointee.facts.insert(.contentLength)
        case .transferEncoding:
            dropHopByHop(index)
            try noteTransferEncoding(value)
        case .host:
            guard isRequest else { break }
            if storage.pointee.facts.contains(.host) { throw .hostTwice }
            storage.pointee.facts.insert(.host)
            if !isHost(value) { throw .host }
            if storage.pointee.method == .connect {
                // Clients leave the scheme's port out of Host, and the target has no scheme to tell it by.
                let target = storage.pointee.authority
                guard isSameName(value, target) || isSameName(value, hostOnly(target)) else { throw .host }
            } else if storage.pointee.facts.contains(.absoluteForm) {
                if !isSameAuthority(value, storage.pointee.authority) { throw .host }
            } else {
                storage.pointee.authority = value
            }
        case .expect:
            guard isRequest else { break }
            storage.pointee.facts.insert(.needsRewriting)
            // A list (RFC 9110 section 10.1.1), in which only another member is one that we do not know.
            var hasOther = false
            forEachListItem(value) { item in
                if isEqual(item, "100-continue") {
                    storage.pointee.facts.insert(.expectsContinue)
                } else {
                    hasOther = true
                }
            }
            if hasOther { throw .expectation }
        case .te:
            dropHopByHop(index)
            if isRequest, listContains(value, "trailers") { storage.pointee.facts.insert(.acceptsTrailers) }
        case .upgrade:
            dropHopByHop(index)
            storage.pointee.facts.insert(.mayOpenTunnel)
        case .proxyConnection, .http2Settings:
            dropHopByHop(index)
        case .keepAlive:
            dropHopByHop(index)
            if !isRequest { noteKeepAlive(value) }
        case .maxForwards:
            guard isRequest, storage.pointee.method == .trace || storage.pointee.method == .options else { break }
            guard !storage.pointee.facts.contains(.maxForwards), let number = decimal(value, max: UInt64(UInt32.max))
            else { throw .maxForwards }
            storage.pointee.maxForwards = UInt32(number)
            storage.pointee.facts.insert([.maxForwards, .needsRewriting])
        case .xRequestID:
            storage.pointee.facts.insert(value.isEmpty ? .needsRewriting : .requestID)
        case .via:
            storage.pointee.facts.insert([.via, .needsRewriting])
        case .forwarded, .xForwardedFor:
            storage.pointee.facts.insert([.forwarding, .needsRewriting])
        case .trailer, .xForwardedProto, .xForwardedHost, .clientCert, .clientCertChain:
            storage.pointee.facts.insert(.needsRewriting)
        case .grpcStatus: noteGRPCStatus(value)
        case .other, .date, .authorization, .proxyAuthorization, .cookie, .userAgent, .referer, .contentType,
            .traceparent, .tracestate:
            break
        }
    }

    /// The line is for this connection alone.
    private func dropHopByHop(_ index: Int) {
        fields[index].isDropped = true
        storage.pointee.facts.insert(.needsRewriting)
    }

    /// A line of a trailer section.
    /// - Throws: `trailers` for a field that may not be there.
    public func addTrailer(
        name: ByteRange, value: ByteRange, lineEnd: Int, field: KnownField
    ) throws(HeadFault) {
        if field.isForbiddenInTrailers { throw .trailers }
        if field == .grpcStatus { noteGRPCStatus(value) }
        let index = storage.pointee.fieldCount
        fields[index] = FieldLine(
            name: name, value: value, lineEnd: UInt32(truncatingIfNeeded: lineEnd), field: field,
            isDropped: field.isHopByHop)
        storage.pointee.fieldCount = index + 1
    }

    // MARK: The section as a whole

    /// Judges a request's section when all its lines are there.
    public func finishRequest() throws(HeadFault) {
        let facts = storage.pointee.facts
        if !facts.contains(.host), !facts.contains(.isHTTP10) { throw .hostMissing }
        try finishFraming()
        if facts.contains(.transferEncoding) {
            storage.pointee.framing = .chunked
        } else if facts.contains(.contentLength) {
            storage.pointee.framing = .length
            if storage.pointee.method == .connect { dropEmptyContent() }
        } else {
            storage.pointee.framing = .none
        }
        // RFC 9110 section 10.1.1: an expectation from HTTP/1.0 is ignored, and there is nothing to wait for
        // without content.
        if facts.contains(.expectsContinue), facts.contains(.isHTTP10) || storage.pointee.framing == .none {
            storage.pointee.facts.remove(.expectsContinue)
        }
        if facts.contains(.nominates) { try dropNominated() }
    }

    /// A CONNECT that says it has no content says what is so: there is nothing to frame, and nothing to pass on.
    @inline(never)
    private func dropEmptyContent() {
        guard storage.pointee.contentLength == 0 else { return }
        storage.pointee.framing = .none
        storage.pointee.facts.insert(.needsRewriting)
        for index in 0..<storage.pointee.fieldCount where fields[index].field == .contentLength {
            fields[index].isDropped = true
        }
    }

    /// Judges a response's section when all its lines are there.
    /// - Parameter requestMethod: what it answers.
    public func finishResponse(answering requestMethod: Method) throws(HeadFault) {
        let facts = storage.pointee.facts
        let status = storage.pointee.status
        try finishFraming()
        // RFC 9112 section 6.3, in its order.
        if requestMethod == .head || status < 200 || status == 204 || status == 304 {
            storage.pointee.framing = .none
        } else if requestMethod == .connect, status < 300 {
            // The tunnel begins behind the head, whatever it says of content.
            storage.pointee.framing = .none
        } else if facts.contains(.transferEncoding) {
            storage.pointee.framing = .chunked
        } else if facts.contains(.contentLength) {
            storage.pointee.framing = .length
        } else {
            storage.pointee.framing = .untilClose
        }
        if facts.contains(.nominates) { try dropNominated() }
    }

    @inline(__always)
    private func finishFraming() throws(HeadFault) {
        let facts = storage.pointee.facts
        guard facts.contains(.transferEncoding) else { return }
        if facts.contains(.contentLength) { throw .framingConflict }
        if facts.contains(.isHTTP10) { throw .transferEncoding }
    }

    /// Whether the connection may serve another message after this one (RFC 9112 section 9.3).
    public var isPersistent: Bool {
        let facts = storage.pointee.facts
        if facts.contains(.connectionClose) { return false }
        return !facts.contains(.isHTTP10) || facts.contains(.connectionKeepAlive)
    }

    /// Whether nothing follows the head: neither content nor trailers.
    public var isWholeMessage: Bool {
        switch storage.pointee.framing {
        case .none: true
        case .length: storage.pointee.contentLength == 0 || storage.pointee.facts.contains(.endsMessage)
        case .chunked, .untilClose: storage.pointee.facts.contains(.endsMessage)
        }
    }

    // MARK: Values

    private func noteConnection(_ value: ByteRange) {
        forEachListItem(value) { item in
            switch item.count {
            case 5 where isEqual(item, "close"): storage.pointee.facts.insert(.connectionClose)
            case 10 where isEqual(item, "keep-alive"): storage.pointee.facts.insert(.connectionKeepAlive)
            case 7 where isEqual(item, "upgrade"): storage.pointee.facts.insert(.connectionUpgrade)
            case 2 where isEqual(item, "te"): break
            default: storage.pointee.facts.insert(.nominates)
            }
        }
    }

    /// `timeout=N` among the parameters of Keep-Alive.
    private func noteKeepAlive(_ value: ByteRange) {
        forEachListItem(value) { item in
            guard item.count > 8, isEqual(ByteRange(start: Int(item.start), count: 8), "timeout="),
                let seconds = decimal(
                    ByteRange(start: Int(item.start) + 8, count: Int(item.count) - 8), max: UInt64(UInt32.max))
            else { return }
            storage.pointee.keepAliveTimeoutSeconds = UInt32(seconds)
            storage.pointee.facts.insert(.keepAliveTimeout)
        }
    }

    /// What a call over gRPC came to, for the log: in trailers, or in a head that is all there is.
    private func noteGRPCStatus(_ value: ByteRange) {
        if let number = decimal(value, max: 99) { storage.pointee.grpcStatus = Int8(number) }
    }

    /// RFC 9112 section 6.1: chunked must be there once and last; another coding before it is one we do not have.
    private func noteTransferEncoding(_ value: ByteRange) throws(HeadFault) {
        if storage.pointee.facts.contains(.transferEncoding) { throw .transferEncoding }
        storage.pointee.facts.insert(.transferEncoding)
        if isEqual(value, "chunked") { return }
        var codings = 0
        var chunkedCount = 0
        var chunkedIsLast = false
        var wellFormed = true
        forEachListItem(value) { item in
            codings += 1
            chunkedIsLast = isEqual(item, "chunked")
            if chunkedIsLast { chunkedCount += 1 }
            let bytes = storage.pointee.bytes
            if tokenEnd(bytes, from: Int(item.start), end: item.end).end != item.end { wellFormed = false }
        }
        // An item that is empty was skipped by the list; two parsers may differ about it.
        let commas = bytes(value).reduce(into: 0) { $0 += $1 == UInt8(ascii: ",") ? 1 : 0 }
        guard wellFormed, commas == codings - 1, chunkedIsLast, chunkedCount == 1 else { throw .transferEncoding }
        throw .transferCoding
    }

    /// Whether a Content-Length line is passed on and is, byte for byte, what we would write for its number.
    public func isCanonicalLength(_ line: FieldLine) -> Bool {
        let bytes = storage.pointee.bytes
        let start = Int(line.value.start)
        return !line.isDropped && start == line.name.end + 2 && bytes[start - 1] == UInt8(ascii: " ")
            && Int(line.lineEnd) == line.value.end + 2
            && (line.value.count == 1 || bytes[start] != UInt8(ascii: "0"))
    }

    private func parseLength(_ value: ByteRange) throws(HeadFault) -> UInt64 {
        guard let number = decimal(value, max: UInt64(Int64.max)) else { throw .contentLength }
        return number
    }

    /// A decimal number of digits alone, at most `max`; nil otherwise.
    public func decimal(_ value: ByteRange, max: UInt64) -> UInt64? {
        guard value.count >= 1, value.count <= 19 else { return nil }
        var number: UInt64 = 0
        for byte in bytes(value) {
            let digit = byte &- UInt8(ascii: "0")
            guard digit <= 9 else { return nil }
            number = number * 10 + UInt64(digit)
        }
        return number <= max ? number : nil
    }

    /// Whether a range is `text`, which is lower case, in any case.
    public func isEqual(_ range: ByteRange, _ text: StaticString) -> Bool {
        Head.equals(bytes(range), text)
    }

    /// Whether bytes are `text`, which is lower case, in any case.
    public static func equals(_ bytes: UnsafeBufferPointer<UInt8>, _ text: StaticString) -> Bool {
        guard bytes.count == text.utf8CodeUnitCount else { return false }
        for index in 0..<bytes.count where lowercase(bytes[index]) != text.utf8Start[index] { return false }
        return true
    }

    /// An ASCII letter in lower case, any other byte as it is.
    @inlinable public static func lowercase(_ byte: UInt8) -> UInt8 {
        byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte
    }

    /// Calls `body` for each item of a comma-separated list that is not empty (RFC 9110 section 5.6.1).
    private func forEachListItem(_ value: ByteRange, _ body: (ByteRange) -> Void) {
        let bytes = storage.pointee.bytes
        var start = Int(value.start)
        let end = value.end
        while start < end {
            var stop = start
            while stop < end, bytes[stop] != UInt8(ascii: ",") { stop += 1 }
            var first = start
            var last = stop
            while first < last, bytes[first] == 0x20 || bytes[first] == 0x09 { first += 1 }
            while last > first, bytes[last - 1] == 0x20 || bytes[last - 1] == 0x09 { last -= 1 }
            if last > first { body(ByteRange(start: first, count: last - first)) }
            start = stop + 1
        }
    }

    private func listContains(_ value: ByteRange, _ text: StaticString) -> Bool {
        var found = false
        forEachListItem(value) { item in if isEqual(item, text) { found = true } }
        return found
    }

    // MARK: Via

    /// How often a name stands in Via as the one who received the message (RFC 9110 section 7.6.3). A comment with commas in it
    /// may hide a name, and no more.
    /// - Parameter name: compared without regard to case.
    public func viaCount(of name: UnsafeBufferPointer<UInt8>) -> Int {
        var count = 0
        for index in 0..<storage.pointee.fieldCount where fields[index].field == .via {
            forEachListItem(fields[index].value) { item in
                let text = bytes(item)
                // The protocol comes first, behind it the name, behind that there may be a comment.
                guard let space = text.firstIndex(where: { $0 == 0x20 || $0 == 0x09 }) else { return }
                let rest = text[space...].drop { $0 == 0x20 || $0 == 0x09 }
                let received = rest.prefix { $0 != 0x20 && $0 != 0x09 }
                guard received.count == name.count else { return }
                let isSame = zip(received, name).allSatisfy { Head.lowercase($0) == Head.lowercase($1) }
                if isSame { count += 1 }
            }
        }
        return count
    }

    // MARK: Upgrade

    /// What Upgrade asks for, if Connection names it (RFC 9110 section 7.8) and the request is HTTP/1.1.
    public var requestedUpgrade: RequestedUpgrade {
        let facts = storage.pointee.facts
        guard facts.contains([.mayOpenTunnel, .connectionUpgrade]), !facts.contains(.isHTTP10) else { return .none }
        var protocols = 0
        var isWebSocket = false
        for index in 0..<storage.pointee.fieldCount where fields[index].field == .upgrade {
            forEachListItem(fields[index].value) { item in
                // h2c is between two neighbours and has no place behind a proxy (RFC 9113 section 3.1).
                if isEqual(item, "h2c") { return }
                protocols += 1
                isWebSocket = isEqual(item, "websocket")
            }
        }
        if protocols == 0 { return .none }
        return protocols == 1 && isWebSocket ? .webSocket : .other
    }

    /// Calls `body` for each protocol that Upgrade names, h2c excepted.
    public func forEachUpgradeProtocol(_ body: (ByteRange) -> Void) {
        for index in 0..<storage.pointee.fieldCount where fields[index].field == .upgrade {
            forEachListItem(fields[index].value) { item in if !isEqual(item, "h2c") { body(item) } }
        }
    }

    // MARK: Nominations

    /// RFC 9110 section 7.6.1: what Connection names is for this hop alone. Each name is compared with each field, so
    /// there may be no more of them than of fields.
    private func dropNominated() throws(HeadFault) {
        var fault = false
        var count = 0
        for index in 0..<storage.pointee.fieldCount where fields[index].field == .connection {
            forEachListItem(fields[index].value) { item in
                count += 1
                if count > fieldsCapacity { return }
                let name = bytes(item)
                guard let base = name.baseAddress else { return }
                let field = knownFields.find(base, count: name.count, readable: name.count) ?? .other
                if field.isFraming { fault = true }
                if field.isKeptThoughNominated { return }
                for other in 0..<storage.pointee.fieldCount where fields[other].field == field {
                    if field != .other || isSameName(fields[other].name, item) { fields[other].isDropped = true }
                    if field == .expect { storage.pointee.facts.remove(.expectsContinue) }
                    if field == .date { storage.pointee.facts.remove(.date) }
                }
            }
        }
        if count > fieldsCapacity { throw .tooManyFields }
        if fault { throw .nomination }
    }

    private func isSameName(_ one: ByteRange, _ other: ByteRange) -> Bool {
        guard one.count == other.count else { return false }
        let bytes = storage.pointee.bytes
        for offset in 0..<Int(one.count)
        where Head.lowercase(bytes[Int(one.start) + offset]) != Head.lowercase(bytes[Int(other.start) + offset]) {
            return false
        }
        return true
    }

    // MARK: Host

    /// RFC 9110 section 7.2: `uri-host [ ":" port ]`, and not empty, since every target we forward has a host.
    /// Takes note if not all of it is a token.
    public func isHost(_ range: ByteRange) -> Bool {
        if isPlainHost(range) { return true }
        storage.pointee.facts.insert(.authorityIsNoToken)
        return isOtherHost(range)
    }

    /// A name or an IPv4 address, of token bytes alone.
    @inline(__always)
    private func isPlainHost(_ range: ByteRange) -> Bool {
        let classes = classes
        var common = Head.isHostByte | Head.isTokenByte
        for byte in bytes(range) { common &= classes[Int(byte)] }
        return common == Head.isHostByte | Head.isTokenByte && !range.isEmpty
    }

    private func isOtherHost(_ range: ByteRange) -> Bool {
        let bytes = storage.pointee.bytes
        var index = Int(range.start)
        let end = range.end
        guard index < end else { return false }
        if bytes[index] == UInt8(ascii: "[") {
            index += 1
            let start = index
            while index < end, bytes[index] != UInt8(ascii: "]") {
                switch bytes[index] {
                case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
                    UInt8(ascii: "A")...UInt8(ascii: "F"), UInt8(ascii: ":"), UInt8(ascii: "."):
                    index += 1
                default: return false
                }
            }
            guard index < end, index > start else { return false }
            index += 1
        } else {
            let start = index
            while index < end, classes[Int(bytes[index])] & Head.isHostByte != 0 { index &+= 1 }
            guard index > start else { return false }
        }
        if index == end { return true }
        guard bytes[index] == UInt8(ascii: ":") else { return false }
        index += 1
        let digits = end - index
        guard digits <= 5 else { return false }
        var port = 0
        while index < end {
            let digit = bytes[index] &- UInt8(ascii: "0")
            guard digit <= 9 else { return false }
            port = port * 10 + Int(digit)
            index += 1
        }
        return port <= 65535
    }

    /// An authority without its port: its host.
    public func hostOnly(_ authority: ByteRange) -> ByteRange {
        let bytes = storage.pointee.bytes
        var index = authority.end
        while index > Int(authority.start), bytes[index - 1] &- UInt8(ascii: "0") <= 9 { index -= 1 }
        if index > Int(authority.start), bytes[index - 1] == UInt8(ascii: ":") {
            return ByteRange(start: Int(authority.start), count: index - 1 - Int(authority.start))
        }
        return authority
    }

    /// Whether two authorities are one: lower-cased, with the default port of the target's scheme removed.
    private func isSameAuthority(_ one: ByteRange, _ other: ByteRange) -> Bool {
        isSameName(withoutDefaultPort(one), withoutDefaultPort(other))
    }

    private func withoutDefaultPort(_ authority: ByteRange) -> ByteRange {
        let host = hostOnly(authority)
        let portDigits = Int(authority.count) - Int(host.count) - 1
        guard portDigits >= 0 else { return authority }
        let port = ByteRange(start: host.end + 1, count: portDigits)
        let defaultPort: UInt64 = storage.pointee.facts.contains(.schemeIsHTTPS) ? 443 : 80
        return portDigits == 0 || decimal(port, max: 65535) == defaultPort ? host : authority
    }
}
