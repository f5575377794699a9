// What is to happen to each request of a seed, decided before anything is sent: what its client says, and what a server
// answers to the first time that it sees it, the second, and so on. A request is known everywhere by its tag, in its path (or
// authority) and in a field; all its content is a function of tag, direction and offset.

import TestSupport

extension SeededGenerator {
    mutating func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self) }

    mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }

    mutating func pick<Value>(_ values: [Value]) -> Value { values[int(0...(values.count - 1))] }

    /// A size: often nothing or little, seldom much.
    mutating func size(max: Int) -> Int {
        switch int(0...9) {
        case 0, 1: 0
        case 2, 3, 4: int(1...min(max, 100))
        case 5, 6: int(1...min(max, 3000))
        case 7, 8: int(1...min(max, 20_000))
        default: int(1...max)
        }
    }
}

/// Bytes without a pattern. Each tag and direction has its own stretch of them, so that a byte which is foreign, missing or
/// repeated shows.
enum Sea {
    enum Direction: Int {
        case up = 1
        case down = 2
    }

    /// The most that one message may have.
    static let bytesMax = 1 << 20

    /// Twice the same, so that every stretch is in one piece.
    private static let bytes: [UInt8] = {
        var generator = SeededGenerator(seed: 4711)
        var half: [UInt8] = []
        half.reserveCapacity(2 * bytesMax)
        while half.count < bytesMax { withUnsafeBytes(of: generator.next()) { half.append(contentsOf: $0) } }
        return half + half
    }()

    private static let letters: [UInt8] = bytes.map { 0x61 + $0 % 26 }

    private static func start(_ tag: Int, _ direction: Direction, _ salt: Int = 0) -> Int {
        var generator = SeededGenerator(seed: UInt64(tag * 8 + direction.rawValue + salt * 65_536))
        return Int(generator.next() % UInt64(bytesMax))
    }

    static func content(_ tag: Int, _ direction: Direction, from offset: Int, count: Int) -> ArraySlice<UInt8> {
        let first = start(tag, direction) + offset
        return bytes[first..<(first + count)]
    }

    /// - Returns: where the first byte is that does not belong here; nil if all do.
    static func mismatch(_ some: ArraySlice<UInt8>, _ tag: Int, _ direction: Direction, from offset: Int) -> Int? {
        guard offset + some.count <= bytesMax else { return 0 }
        let expected = content(tag, direction, from: offset, count: some.count)
        if some.elementsEqual(expected) { return nil }
        return zip(some, expected).enumerated().first { $1.0 != $1.1 }?.offset
    }

    /// Letters for values of fields.
    static func text(_ tag: Int, _ direction: Direction, _ salt: Int, count: Int) -> String {
        let first = start(tag, direction, salt)
        return String(decoding: letters[first..<(first + count)], as: UTF8.self)
    }

    /// A trailer section of about so many bytes.
    static func trailers(_ tag: Int, _ direction: Direction, bytes: Int) -> [SeenField] {
        guard bytes > 0 else { return [] }
        var fields: [SeenField] = []
        var left = bytes
        while left > 0 {
            let count = min(left, 4000)
            let text = text(tag, direction, 100 + fields.count, count: count)
            fields.append(SeenField(name: "x-end-\(fields.count)", value: "\(tag).\(text)"))
            left -= count
        }
        return fields
    }
}

/// How a message's content is framed.
enum FuzzFraming {
    case none
    case length
    case chunked
    /// The end of the connection is its end. In HTTP/2, and for requests: like `chunked`.
    case close
}

/// What a server says to one request.
struct FuzzAnswer {
    /// What a server does that it should not.
    enum Fault: Equatable {
        case none
        /// It ends behind so many bytes of content.
        case cut(Int)
        case reset(Int)
        /// It ends before it says anything: HTTP/2 says REFUSED_STREAM.
        case refused
        /// GOAWAY says that this one was not looked at. In HTTP/1 like `refused`.
        case goAway
        /// A head that breaks the rules.
        case malformed
        /// Bytes behind the end.
        case surplus
        /// Its last bytes come with what ends an HTTP/2 connection.
        case fatal
    }

    /// How much of the request it waits for.
    var awaitsEnd = true
    var awaitedContent = 0
    /// Bytes of the interim heads before it.
    var interims: [Int] = []
    var status = 200
    var framing = FuzzFraming.length
    var bytes = 0
    var trailerBytes = 0
    var padBytes = 0
    /// Whether it opens the tunnel that was asked for.
    var grants = false
    /// Whether the connection ends in order behind it.
    var closes = false
    var fault = Fault.none

    /// Whether content follows its head, in answer to a method.
    func hasContent(_ method: String) -> Bool { method != "HEAD" && status != 204 && status != 304 }
}

/// What one request is.
struct FuzzPlan {
    enum Kind {
        case message
        case upgrade
        case connect
    }

    let tag: Int
    var kind = Kind.message
    var method = "GET"
    var path = ""
    /// Whether servers of HTTP/2 answer it.
    var goesToHTTP2 = false
    var framing = FuzzFraming.none
    var bytes = 0
    var trailerBytes = 0
    var padBytes = 0
    var expects = false
    var isHTTP10 = false
    /// Whether its client does not wait until the tunnel is there.
    var speaksEarly = false
    /// The first try's, the second's; the last one counts for all that follow.
    var answers: [FuzzAnswer] = []

    var isIdempotent: Bool { kind != .connect && method != "POST" }

    func answer(attempt: Int) -> FuzzAnswer { answers[min(attempt, answers.count - 1)] }
}

/// What a seed says about the whole world.
struct FuzzSettings: CustomStringConvertible {
    var relayKiB = 64
    var responseHeadKiB = 64
    var retries = 2
    var keepalive = "1024"
    var interim = "forward"
    /// Whether CONNECT goes to servers of HTTP/2.
    var connectsToHTTP2 = false
    var tls: TLSMode?
    var requestHeadKiB = 32
    var contentMax: Int?
    /// Exchanges that a server gets at once; nil is any number.
    var exchangesMax: Int?
    /// Whether there is little memory for what waits.
    var isScarce = false
    /// Whether the worker is told to end in the middle.
    var drains = false
    /// How often something goes wrong, in percent.
    var faultPercent = 0

    init(_ generator: inout SeededGenerator) {
        relayKiB = generator.pick([4, 5, 8, 16, 64])
        responseHeadKiB = generator.pick([4, 16, 64, 64, 256])
        retries = generator.int(0...3)
        keepalive = generator.pick(["off", "1", "4", "1024", "1024", "1024 requests=3"])
        interim = generator.pick(["forward", "forward", "forward", "http2", "off"])
        connectsToHTTP2 = generator.chance(40)
        if generator.chance(25) { tls = generator.pick(TLSMode.allCases) }
        faultPercent = generator.pick([0, 5, 15, 30])
        if generator.chance(15) { requestHeadKiB = 8 }
        if generator.chance(10) { contentMax = generator.pick([10, 3000, 40_000]) }
        if generator.chance(15) { exchangesMax = generator.pick([1, 2, 5]) }
        isScarce = generator.chance(5)
        drains = generator.chance(8)
    }

    /// What is not usual, in words.
    var description: String {
        "relay_buffer \(relayKiB)k, response_head_max \(responseHeadKiB)k, retries \(retries), keepalive \(keepalive), "
            + "interim \(interim), connect \(connectsToHTTP2 ? "two" : "one"), TLS of \(tls?.rawValue ?? "nobody"), "
            + "faults \(faultPercent) %, head \(requestHeadKiB)k, content_max \(contentMax ?? -1), "
            + "max_exchanges \(exchangesMax ?? -1)\(isScarce ? ", scarce memory" : "")\(drains ? ", drains" : "")"
    }

    /// - Parameters:
    ///   - first: ports of the servers of HTTP/1.
    ///   - second: ports of those of HTTP/2.
    func configuration(_ first: [UInt16], _ second: [UInt16]) -> String {
        func servers(_ ports: [UInt16]) -> String {
            ports.map { "server 127.0.0.1:\($0)\(exchangesMax.map { " max_exchanges=\($0)" } ?? "");" }.joined(
                separator: " ")
        }
        let upstreamTLS = tls == .servers || tls == .both ? "tls { verify off; }" : ""
        let routes = ["abort", "finish", "half_close"].flatMap { policy in
            ["one", "two"].map { "route /\(policy)/\($0) { upstream \($0); on_client_close \(policy); }" }
        }
        return """
            access_log off;
            http2 on;
            relay_buffer \(relayKiB)k;
            response_head_max \(responseHeadKiB)k;
            retries \(retries);
            interim \(interim);
            request_head_max \(requestHeadKiB)k;
            \(contentMax.map { "content_max \($0);" } ?? "")
            \(isScarce ? "buffer_memory 4m;" : "")
            upstream one { \(servers(first)) keepalive \(keepalive); \(upstreamTLS) }
            upstream two { \(servers(second)) protocol http2; \(upstreamTLS) }
            listener web {
                bind 127.0.0.1:0 \(tls == .clients || tls == .both ? "tls; tls { certificate none none; }" : ";")
                connect upstream \(connectsToHTTP2 ? "two" : "one");
                \(routes.joined(separator: "\n    "))
            }
            """
    }
}

extension FuzzPlan {
    /// A random one.
    init(tag: Int, _ settings: FuzzSettings, _ generator: inout SeededGenerator) {
        self.tag = tag
        let policy = generator.pick(["abort", "abort", "finish", "half_close"])
        goesToHTTP2 = generator.chance(50)
        method = generator.pick(["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"])
        switch generator.int(0...19) {
        case 0, 1:
            (kind, method, goesToHTTP2) = (.upgrade, "GET", false)
        case 2, 3:
            (kind, method, goesToHTTP2) = (.connect, "CONNECT", settings.connectsToHTTP2)
        default: break
        }
        path = "/\(policy)/\(goesToHTTP2 ? "two" : "one")/\(tag)"
        if kind != .message {
            bytes = generator.size(max: 60_000)
            speaksEarly = generator.chance(30)
        } else if method == "POST" || method == "PUT" || generator.chance(5) {
            framing = generator.pick([.length, .chunked])
            bytes = generator.size(max: generator.chance(5) ? 300_000 : 60_000)
            if framing == .chunked, generator.chance(30) {
                trailerBytes = generator.pick([10, 500, 3000, 20_000])
            }
            expects = generator.chance(10)
        }
        if generator.chance(20) { padBytes = generator.pick([50, 1000, 5000, 20_000]) }
        isHTTP10 = kind == .message && framing != .chunked && !expects && generator.chance(5)
        let hasFault = generator.chance(settings.faultPercent)
        answers = [answer(settings, hasFault: hasFault, &generator)]
        if hasFault { answers.append(answer(settings, hasFault: generator.chance(20), &generator)) }
    }

    private func answer(
        _ settings: FuzzSettings, hasFault: Bool, _ generator: inout SeededGenerator
    ) -> FuzzAnswer {
        var answer = FuzzAnswer()
        if generator.chance(35) {
            answer.awaitsEnd = false
            answer.awaitedContent = generator.chance(50) ? 0 : generator.int(0...max(0, bytes))
        }
        if generator.chance(20) {
            let count = generator.pick([1, 1, 2, 5, generator.chance(30) ? 110 : 3])
            answer.interims = (0..<count).map { _ in generator.pick([0, 30, 30, 1000, 3000]) }
        }
        answer.status = generator.pick([200, 200, 200, 200, 404, 503, 204, 304])
        answer.framing = generator.pick([.length, .length, .chunked, .chunked, .close])
        answer.bytes = generator.size(max: generator.chance(10) ? 400_000 : 60_000)
        if answer.framing == .chunked, generator.chance(30) {
            answer.trailerBytes = generator.pick([10, 500, 3000, 30_000])
            if generator.chance(10) { answer.trailerBytes = 200_000 }
        }
        if generator.chance(20) { answer.padBytes = generator.pick([50, 1000, 3000, 15_000]) }
        answer.closes = generator.chance(10)
        if kind != .message {
            answer.grants = generator.chance(75)
            answer.awaitsEnd = false
            answer.awaitedContent = 0
            if answer.grants {
                (answer.status, answer.framing, answer.trailerBytes) = (200, .close, 0)
            } else {
                answer.status = 404
            }
        }
        if !answer.hasContent(method) { (answer.bytes, answer.trailerBytes) = (0, 0) }
        guard hasFault else { return answer }
        switch generator.int(0...9) {
        case 0: answer.fault = .refused
        case 1: answer.fault = .goAway
        case 2: answer.fault = .malformed
        case 3: answer.fault = answer.grants ? .reset(0) : .surplus
        case 4, 5: answer.fault = goesToHTTP2 ? .fatal : .cut(generator.int(0...answer.bytes))
        case 6, 7: answer.fault = .cut(generator.int(0...answer.bytes))
        default: answer.fault = .reset(generator.int(0...answer.bytes))
        }
        // Behind an answer that its head ends, what comes is perhaps an answer to the next request.
        if answer.fault == .surplus, answer.bytes == 0 { answer.fault = .refused }
        if answer.fault == .surplus, answer.framing == .close { answer.framing = .length }
        // What only the end ends is whole wherever it ends in order.
        if case .cut(let count) = answer.fault {
            if answer.grants {
                answer.fault = .reset(count)
            } else if answer.framing == .close {
                answer.framing = .length
            }
        }
        return answer
    }
}
