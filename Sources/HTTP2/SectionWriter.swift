// A head as HTTP/1 writes it, turned into pairs for nghttp2. Whoever decides what goes out writes one text for every version;
// what only frames a connection of HTTP/1 is left out here (RFC 9113 section 8.2.2).

import Bytes
import CNghttp2
import HTTPSemantics

/// Reads a head's lines; names become lower-case where they lie.
struct SectionWriter {
    private let text: UnsafeMutablePointer<UInt8>
    private let end: Int
    private let pairs: UnsafeMutablePointer<nghttp2_nv>
    private(set) var count = 0
    /// Where the next line begins; behind the last one, where content begins.
    private(set) var place = 0

    init(_ text: UnsafeMutablePointer<UInt8>, count: Int, _ pairs: UnsafeMutablePointer<nghttp2_nv>) {
        self.text = text
        end = count
        self.pairs = pairs
    }

    /// Pairs point to the text: it stays as it is until they were used.
    private static var flags: UInt8 {
        UInt8(NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue | NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue)
    }

    private mutating func add(
        _ name: UnsafePointer<UInt8>, _ nameBytes: Int, _ value: UnsafePointer<UInt8>, _ valueBytes: Int
    ) {
        guard count < HTTP2Engine.pairsMax else { return }
        pairs[count] = nghttp2_nv(
            name: UnsafeMutablePointer(mutating: name), value: UnsafeMutablePointer(mutating: value),
            namelen: nameBytes,
            valuelen: valueBytes, flags: Self.flags)
        count += 1
    }

    private mutating func add(_ name: StaticString, _ value: UnsafePointer<UInt8>, _ valueBytes: Int) {
        add(name.utf8Start, name.utf8CodeUnitCount, value, valueBytes)
    }

    private mutating func add(_ name: StaticString, _ value: StaticString) {
        add(name, value.utf8Start, value.utf8CodeUnitCount)
    }

    /// The length of the line at `place`, without its CRLF.
    private func lineBytes() -> Int { ByteScan.first(13, in: text, from: place, end: end) - place }

    /// A response's head.
    /// - Parameter opensTunnel: whether a tunnel begins behind it: then it is 200 here, whatever opened it there
    ///   (RFC 8441 section 5).
    mutating func readResponse(opensTunnel: Bool) {
        let line = lineBytes()
        if opensTunnel {
            add(":status", "200")
        } else {
            // Behind `HTTP/1.1 `.
            add(":status", text + 9, 3)
        }
        place = line + 2
        readLines(opensTunnel: opensTunnel, isRequest: false)
    }

    /// A request's head.
    /// - Parameter opensTunnel: whether its Upgrade is asked for by extended CONNECT (RFC 8441 section 4).
    mutating func readRequest(isTLS: Bool, opensTunnel: Bool) {
        let line = lineBytes()
        let methodEnd = ByteScan.first(0x20, in: text, from: 0, end: line)
        let targetStart = methodEnd + 1
        let targetEnd = line - 9  // " HTTP/1.1"
        let isConnect = Head.equals(UnsafeBufferPointer(start: text, count: methodEnd), "connect")
        if opensTunnel { add(":method", "CONNECT") } else { add(":method", text, methodEnd) }
        if isConnect {
            add(":authority", text + targetStart, targetEnd - targetStart)
        } else {
            if isTLS { add(":scheme", "https") } else { add(":scheme", "http") }
            // Host becomes `:authority`, and pseudo-fields come first.
            let authority = count
            count += 1
            add(":path", text + targetStart, targetEnd - targetStart)
            pairs[authority] = nghttp2_nv(
                name: UnsafeMutablePointer(mutating: (":authority" as StaticString).utf8Start),
                value: UnsafeMutablePointer(mutating: ("" as StaticString).utf8Start), namelen: 10, valuelen: 0,
                flags: Self.flags)
        }
        place = line + 2
        if opensTunnel, let name = upgradeName() { add(":protocol", name.start, name.count) }
        readLines(opensTunnel: opensTunnel, isRequest: true)
    }

    /// What the first Upgrade names, up to a comma.
    private func upgradeName() -> (start: UnsafePointer<UInt8>, count: Int)? {
        var index = place
        while index < end, text[index] != 13 {
            let lineEnd = ByteScan.first(13, in: text, from: index, end: end)
            if lineEnd - index > 8, Head.equals(UnsafeBufferPointer(start: text + index, count: 8), "upgrade:") {
                var start = index + 8
                while start < lineEnd, text[start] == 0x20 { start += 1 }
                var stop = start
                while stop < lineEnd, Head.isToken(text[stop]) { stop += 1 }
                return (UnsafePointer(text + start), stop - start)
            }
            index = lineEnd + 2
        }
        return nil
    }

    /// A trailer section.
    mutating func readTrailers() { readLines(opensTunnel: false, isRequest: false) }

    private mutating func readLines(opensTunnel: Bool, isRequest: Bool) {
        while place < end {
            if text[place] == 13 {
                place += 2
                return
            }
            let colon = ByteScan.first(UInt8(ascii: ":"), in: text, from: place, end: end)
            let lineEnd = ByteScan.first(13, in: text, from: colon, end: end)
            let nameBytes = colon - place
            var valueStart = colon + 1
            var valueEnd = lineEnd
            while valueStart < valueEnd, text[valueStart] == 0x20 || text[valueStart] == 0x09 { valueStart += 1 }
            while valueEnd > valueStart, text[valueEnd - 1] == 0x20 || text[valueEnd - 1] == 0x09 { valueEnd -= 1 }
            lower(place, nameBytes)
            let name = UnsafePointer(text + place)
            let valueBytes = valueEnd - valueStart
            switch use(name, nameBytes, opensTunnel: opensTunnel, isRequest: isRequest) {
            case .field: add(name, nameBytes, text + valueStart, valueBytes)
            case .authority:
                // The third pair of a request; CONNECT has it already.
                if count > 2, pairs[2].namelen == 10, pairs[2].valuelen == 0 {
                    pairs[2].value = text + valueStart
                    pairs[2].valuelen = valueBytes
                }
            case .nothing: break
            }
            place = lineEnd + 2
        }
    }

    /// Letters to lower case; a token's other bytes stay. Eight at a time: the last eight may overlap those before.
    @inline(__always)
    private func lower(_ start: Int, _ count: Int) {
        let end = start &+ count
        guard count >= 8 else {
            for index in start..<end { text[index] = Head.lowercase(text[index]) }
            return
        }
        var index = start
        while index < end {
            let place = UnsafeMutableRawPointer(text + min(index, end &- 8))
            let word = place.loadUnaligned(as: UInt64.self)
            let low = word & 0x7F7F_7F7F_7F7F_7F7F
            // The high bit of each byte from A on, and from behind Z on.
            let fromA = low &+ 0x3F3F_3F3F_3F3F_3F3F
            let behindZ = low &+ 0x2525_2525_2525_2525
            let capitals = (fromA ^ behindZ) & ~word & 0x8080_8080_8080_8080
            if capitals != 0 { place.storeBytes(of: word | capitals &>> 2, as: UInt64.self) }
            index &+= 8
        }
    }

    private enum Use {
        case field
        case authority
        case nothing
    }

    private func use(_ name: UnsafePointer<UInt8>, _ count: Int, opensTunnel: Bool, isRequest: Bool) -> Use {
        func matches(_ text: StaticString) -> Bool {
            for index in 0..<count where name[index] != text.utf8Start[index] { return false }
            return true
        }
        switch count {
        case 4: return isRequest && matches("host") ? .authority : .field
        case 7: return matches("upgrade") ? .nothing : .field
        case 10: return matches("connection") || matches("keep-alive") ? .nothing : .field
        case 16: return matches("proxy-connection") ? .nothing : .field
        case 17 where opensTunnel && matches("sec-websocket-key"): return .nothing
        case 17: return matches("transfer-encoding") ? .nothing : .field
        case 20: return opensTunnel && matches("sec-websocket-accept") ? .nothing : .field
        default: return .field
        }
    }
}
