// Priorities of streams (RFC 9218), kept by us. nghttp2 gets no PRIORITY_UPDATE: to it the frame is an extension that we
// read ourselves, since 1.46 to 1.60 free memory that is in use when the frame names a stream that is not open yet. It
// learns of an open stream's urgency only, by `HTTP2Session.prioritize`.

/// What a stream's priority says.
enum StreamPriority {
    /// What holds where nothing is said.
    static let urgencyDefault: UInt8 = 3

    /// `u=N` of a priority (RFC 9218 section 4.1). What cannot be read means the default; of several members the last
    /// counts (RFC 8941 section 4.2.2).
    static func urgency(_ value: UnsafeBufferPointer<UInt8>) -> UInt8 {
        var urgency = urgencyDefault
        var start = 0
        while start < value.count {
            var end = start
            while end < value.count, value[end] != UInt8(ascii: ",") { end += 1 }
            while start < end, value[start] == 0x20 || value[start] == 0x09 { start += 1 }
            if end - start >= 2, value[start] == UInt8(ascii: "u"), value[start + 1] == UInt8(ascii: "=") {
                urgency = digit(UnsafeBufferPointer(rebasing: value[(start + 2)..<end]))
            }
            start = end + 1
        }
        return urgency
    }

    /// A digit from 0 to 7, with nothing behind it but parameters or white space.
    private static func digit(_ text: UnsafeBufferPointer<UInt8>) -> UInt8 {
        guard let first = text.first, case let digit = first &- UInt8(ascii: "0"), digit <= 7 else {
            return urgencyDefault
        }
        guard text.count > 1 else { return digit }
        return text[1] == UInt8(ascii: ";") || text[1] == 0x20 || text[1] == 0x09 ? digit : urgencyDefault
    }
}

/// A PRIORITY_UPDATE (RFC 9218 section 7.1) as its payload comes, in pieces.
struct PriorityUpdate {
    /// Any priority that makes sense is shorter; the rest of the payload is not looked at.
    private static let payloadBytesMax = 128
    private static let numberBytes = 4

    private var payload: [UInt8] = []

    mutating func begin() { payload.removeAll(keepingCapacity: true) }

    mutating func append(_ piece: UnsafeBufferPointer<UInt8>) {
        payload.append(contentsOf: piece.prefix(Self.payloadBytesMax - payload.count))
    }

    /// The stream that it is for; nil if the payload is too short to name one.
    var streamID: Int32? {
        guard payload.count >= Self.numberBytes else { return nil }
        let number = payload.prefix(Self.numberBytes).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        return Int32(number & 0x7FFF_FFFF)
    }

    /// The urgency that it names.
    var urgency: UInt8 {
        payload.withUnsafeBufferPointer {
            StreamPriority.urgency(UnsafeBufferPointer(rebasing: $0.dropFirst(Self.numberBytes)))
        }
    }
}

/// Urgencies of streams that are not open yet. As many as there may be streams; nothing is allocated before the first.
struct EarlyUrgencies {
    private var entries: [(stream: Int32, urgency: UInt8)] = []

    var count: Int { entries.count }

    func contains(_ stream: Int32) -> Bool { entries.contains { $0.stream == stream } }

    mutating func set(_ urgency: UInt8, for stream: Int32) {
        if let index = entries.firstIndex(where: { $0.stream == stream }) {
            entries[index].urgency = urgency
        } else {
            entries.append((stream, urgency))
        }
    }

    /// A stream begins: lower ones will never open any more (RFC 9113 section 5.1.1).
    /// - Returns: what came for it before, if anything did.
    mutating func take(_ stream: Int32) -> UInt8? {
        guard !entries.isEmpty else { return nil }
        let urgency = entries.first { $0.stream == stream }?.urgency
        entries.removeAll { $0.stream <= stream }
        return urgency
    }
}
