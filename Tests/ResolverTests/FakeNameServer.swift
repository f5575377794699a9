// A name server on a loopback port that answers as a test tells it to, well or badly. It has its own thread, since
// the tests' threads wait for the resolver.

import Glibc
import HTTPSemantics
import Synchronization

/// What a resolver asked.
struct Question: Sendable {
    /// The name, lower case, without the last dot.
    var name: String
    /// 1 is A, 28 is AAAA.
    var type: UInt16
    /// Whether it came by TCP.
    var isTCP: Bool
    /// How often this name and type were asked before.
    var previousCount: Int
}

/// What the server does about a question.
enum Answer: Sendable {
    /// The addresses that are of the type asked for.
    case addresses([IPAddress], ttlSeconds: UInt32)
    /// An alias, and the addresses of the name it stands for.
    case alias(aliasTTLSeconds: UInt32, of: [IPAddress], ttlSeconds: UInt32)
    /// No record and this response code: 2 is SERVFAIL, 3 is NXDOMAIN, 5 is REFUSED.
    case code(UInt8)
    /// Nothing at all.
    case silence
    /// "Truncated": ask again by TCP.
    case truncated
    /// Bytes that are no message.
    case garbage
    /// A good head, then a record that runs over the end.
    case malformedRecord
}

final class FakeNameServer: Sendable {
    let port: UInt16
    private let udp: Int32
    private let tcp: Int32
    private let stopPipe: (reading: Int32, writing: Int32)
    private let answer: @Sendable (Question) -> Answer
    /// When each name and type was asked for.
    private let asked = Mutex<[String: [ContinuousClock.Instant]]>([:])
    private let thread = Mutex<pthread_t?>(nil)

    init(answer: @escaping @Sendable (Question) -> Answer) {
        self.answer = answer
        var made: (udp: Int32, tcp: Int32, port: UInt16)?
        // Another process may hold the TCP port of the number that UDP was given.
        while made == nil { made = Self.bindBoth() }
        (udp, tcp, port) = made ?? (-1, -1, 0)
        var ends: [Int32] = [-1, -1]
        precondition(pipe(&ends) == 0)
        stopPipe = (ends[0], ends[1])
        var created = pthread_t()
        let code = pthread_create(
            &created, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<FakeNameServer>.fromOpaque(argument).takeRetainedValue().serve()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0)
        thread.withLock { $0 = created }
    }

    deinit {
        for descriptor in [udp, tcp, stopPipe.reading, stopPipe.writing] { close(descriptor) }
    }

    /// Ends the thread.
    func stop() {
        guard let running = thread.withLock({ $0.take() }) else { return }
        var byte: UInt8 = 0
        precondition(write(stopPipe.writing, &byte, 1) == 1)
        pthread_join(running, nil)
    }

    /// How often a name was asked for, any type.
    func askedCount(_ name: String) -> Int {
        asked.withLock { $0.reduce(0) { $0 + ($1.key.hasPrefix("\(name)/") ? $1.value.count : 0) } }
    }

    /// Whether a type of a name was asked for.
    func wasAsked(_ name: String, type: UInt16) -> Bool {
        asked.withLock { $0["\(name)/\(type)"] != nil }
    }

    /// The time between two questions for the IPv4 addresses of a name, by their indices.
    func duration(_ name: String, from first: Int, to second: Int) -> Duration {
        asked.withLock { asked in
            guard let times = asked["\(name)/1"], times.indices.contains(second) else { return .zero }
            return times[first].duration(to: times[second])
        }
    }

    // MARK: sockets

    private static func bindBoth() -> (udp: Int32, tcp: Int32, port: UInt16)? {
        let udp = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let tcp = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(udp, address, length) == 0 && getsockname(udp, address, &length) == 0
                    && bind(tcp, address, length) == 0 && listen(tcp, 16) == 0
            }
        }
        guard isBound else {
            close(udp)
            close(tcp)
            return nil
        }
        return (udp, tcp, UInt16(bigEndian: address.sin_port))
    }

    private func serve() {
        var room = [UInt8](repeating: 0, count: 65_535)
        while true {
            var waiting = [udp, tcp, stopPipe.reading].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            guard poll(&waiting, 3, -1) > 0 else { continue }
            if waiting[2].revents != 0 { return }
            if waiting[0].revents != 0 { answerDatagram(&room) }
            if waiting[1].revents != 0 { answerConnection(&room) }
        }
    }

    private func answerDatagram(_ room: inout [UInt8]) {
        var peer = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutablePointer(to: &peer) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                let count = recvfrom(udp, &room, room.count, 0, address, &length)
                guard count > 12, let message = reply(to: Array(room[..<count]), isTCP: false) else { return }
                _ = sendto(udp, message, message.count, 0, address, length)
            }
        }
    }

    private func answerConnection(_ room: inout [UInt8]) {
        let connection = accept(tcp, nil, nil)
        guard connection >= 0 else { return }
        defer { close(connection) }
        var patience = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        // Questions may share the connection, one after the other, until the resolver closes it.
        while recv(connection, &room, 2, Int32(MSG_WAITALL)) == 2 {
            let count = Int(room[0]) << 8 | Int(room[1])
            guard recv(connection, &room, count, Int32(MSG_WAITALL)) == count,
                let message = reply(to: Array(room[..<count]), isTCP: true)
            else { return }
            let framed = [UInt8(message.count >> 8), UInt8(message.count & 255)] + message
            guard send(connection, framed, framed.count, Int32(MSG_NOSIGNAL)) == framed.count else { return }
        }
    }

    // MARK: messages (RFC 1035 section 4)

    private func reply(to query: [UInt8], isTCP: Bool) -> [UInt8]? {
        var labels: [String] = []
        var index = 12
        while index < query.count, query[index] != 0 {
            let end = index + 1 + Int(query[index])
            guard end < query.count else { return nil }
            labels.append(String(decoding: query[(index + 1)..<end], as: UTF8.self).lowercased())
            index = end
        }
        guard index + 4 < query.count else { return nil }
        let type = UInt16(query[index + 1]) << 8 | UInt16(query[index + 2])
        let name = labels.joined(separator: ".")
        let previousCount = asked.withLock { asked in
            var times = asked["\(name)/\(type)", default: []]
            times.append(ContinuousClock.now)
            asked["\(name)/\(type)"] = times
            return times.count - 1
        }
        let question = Array(query[12..<(index + 5)])
        let told = answer(Question(name: name, type: type, isTCP: isTCP, previousCount: previousCount))

        func message(code: UInt8 = 0, isTruncated: Bool = false, records: [[UInt8]] = []) -> [UInt8] {
            let head: [UInt8] = [
                query[0], query[1], isTruncated ? 0x87 : 0x85, 0x80 | code, 0, 1,
                UInt8(records.count >> 8), UInt8(records.count & 255), 0, 0, 0, 0,
            ]
            return head + question + records.joined()
        }
        switch told {
        case .addresses(let addresses, let ttl):
            return message(records: addresses.compactMap { Self.record([0xC0, 12], $0, type, ttl) })
        case .alias(let aliasTTL, let addresses, let ttl):
            let target: [UInt8] = [4] + Array("real".utf8) + [4] + Array("test".utf8) + [0]
            let alias =
                [0xC0, 12, 0, 5, 0, 1] + Self.bytes(aliasTTL) + [0, UInt8(target.count)] + target
            return message(records: [alias] + addresses.compactMap { Self.record(target, $0, type, ttl) })
        case .code(let code): return message(code: code)
        case .silence: return nil
        case .truncated: return message(isTruncated: true)
        case .garbage: return [query[0], query[1]] + [UInt8](repeating: 0xFF, count: 40)
        case .malformedRecord: return message(records: [[0xC0, 12, 0, UInt8(type), 0, 1, 0, 0, 0, 60, 0xFF, 0xFF, 1]])
        }
    }

    private static func record(_ name: [UInt8], _ address: IPAddress, _ type: UInt16, _ ttl: UInt32) -> [UInt8]? {
        guard address.isIPv4 == (type == 1) else { return nil }
        let data =
            address.isIPv4
            ? bytes(address.ipv4Bits)
            : [address.high, address.low].flatMap {
                bytes(UInt32(truncatingIfNeeded: $0 >> 32)) + bytes(UInt32(truncatingIfNeeded: $0))
            }
        return name + [0, UInt8(type), 0, 1] + bytes(ttl) + [0, UInt8(data.count)] + data
    }

    private static func bytes(_ value: UInt32) -> [UInt8] {
        stride(from: 24, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> UInt32($0)) }
    }
}
