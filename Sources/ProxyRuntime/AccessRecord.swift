// One record an exchange, written by a worker as bytes into a ring and formatted by the log's own thread. The worker
// never waits: a full ring loses the record and counts it.

import Bytes
import HTTPSemantics
import ProxyCore
import Synchronization

/// What the log says of an exchange. Trivial; strings lie behind it in the ring.
struct AccessRecord {
    var receivedWallMicroseconds: UInt64
    var phases: ExchangePhases
    var endMicroseconds: UInt64
    var requestContentBytes: UInt64
    var responseContentBytes: UInt64
    var peer: Peer
    var requestID: RequestID
    var status: UInt16
    var tries: UInt8
    var isReused: Bool
    var version: HTTPVersion
    /// `grpc-status` of the response; negative if there was none.
    var grpcStatus: Int8
    /// Whether a trace began here, under the name of the request's identity.
    var beganTrace: Bool
    /// nil: it ended as it should.
    var failure: Failure?
    /// Lengths of the strings that follow, in this order.
    var stringBytes: StringLengths

    struct StringLengths {
        var method: UInt16 = 0
        var target: UInt16 = 0
        var authority: UInt16 = 0
        var requestID: UInt16 = 0
        var userAgent: UInt16 = 0
        var referer: UInt16 = 0
        var traceID: UInt16 = 0
        var listener: UInt16 = 0
        var route: UInt16 = 0
        var upstream: UInt16 = 0
        var server: UInt16 = 0

        var total: Int {
            Int(method) + Int(target) + Int(authority) + Int(requestID) + Int(userAgent) + Int(referer) + Int(traceID)
                + Int(listener) + Int(route) + Int(upstream) + Int(server)
        }
    }
}

/// A ring of bytes from one writer to one reader.
final class LogRing: Sendable {
    /// Written by the writer alone where `written` allows, read by the reader alone where `taken` does.
    nonisolated(unsafe) private let bytes: UnsafeMutableRawPointer
    private let capacity: Int
    private let written = Atomic<Int>(0)
    private let taken = Atomic<Int>(0)
    /// Records that did not fit.
    let lostCount = Atomic<Int>(0)

    /// A ring.
    /// - Parameter capacity: a power of two.
    init(capacity: Int) {
        precondition(capacity.nonzeroBitCount == 1, "the capacity is a power of two")
        self.capacity = capacity
        bytes = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { bytes.deallocate() }

    /// A record's size in the ring: its length, itself, the strings, rounded up to words.
    private static func size(_ stringBytes: Int) -> Int {
        (8 + MemoryLayout<AccessRecord>.stride + stringBytes + 7) & ~7
    }

    /// Writes a record; the writer's thread only.
    func write(_ record: AccessRecord, _ strings: (inout ByteWriter) -> Void, stringBytes: Int) {
        let size = Self.size(stringBytes)
        let end = written.load(ordering: .relaxed)
        let start = taken.load(ordering: .acquiring)
        let position = end & (capacity - 1)
        // A record lies in one piece: the rest of the lap is skipped if it is too short.
        let skipped = capacity - position < size ? capacity - position : 0
        guard capacity - (end - start) >= size + skipped else {
            lostCount.add(1, ordering: .relaxed)
            return
        }
        if skipped > 0 { (bytes + position).storeBytes(of: 0, as: UInt64.self) }
        let place = bytes + ((position + skipped) & (capacity - 1))
        place.storeBytes(of: UInt64(size), as: UInt64.self)
        (place + 8).storeBytes(of: record, as: AccessRecord.self)
        var writer = ByteWriter(
            base: (place + 8 + MemoryLayout<AccessRecord>.stride).assumingMemoryBound(to: UInt8.self),
            capacity: stringBytes)
        strings(&writer)
        written.store(end + skipped + size, ordering: .releasing)
    }

    /// Reads every record that is there; the reader's thread only.
    /// - Returns: how many there were.
    func readAll(_ body: (AccessRecord, UnsafePointer<UInt8>) -> Void) -> Int {
        var start = taken.load(ordering: .relaxed)
        let end = written.load(ordering: .acquiring)
        var count = 0
        while start < end {
            let position = start & (capacity - 1)
            let size = Int((bytes + position).load(as: UInt64.self))
            if size == 0 {
                start += capacity - position
            } else {
                let place = bytes + position + 8
                body(
                    place.load(as: AccessRecord.self),
                    UnsafePointer((place + MemoryLayout<AccessRecord>.stride).assumingMemoryBound(to: UInt8.self)))
                start += size
                count += 1
            }
            taken.store(start, ordering: .releasing)
        }
        return count
    }
}
