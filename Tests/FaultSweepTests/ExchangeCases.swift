// The exchanges that are swept, as data: what the client sends and what the server answers, in parts, each with what
// its sender waits for. Content is coded by position: eight bytes tell direction, exchange and offset, so that bytes
// which are foreign, repeated or out of order are found where they are.

/// What a sender waits for before it sends a part: always something of the other side.
enum Gate: Sendable {
    /// Nothing.
    case now
    /// The response before this one is complete (client).
    case previousEnd
    /// An interim response came (client).
    case interim
    /// The head came.
    case head
    /// So much of the content came.
    case content(Int)
    /// All of it came.
    case end
    /// So much came through the tunnel.
    case tunnel(Int)

    /// Whether it is open for the message at `index` of the other side's stream.
    func isOpen(_ stream: SeenStream, _ index: Int) -> Bool {
        let message = index < stream.messages.count ? stream.messages[index] : nil
        switch self {
        case .now: return true
        case .previousEnd: return index == 0 || index <= stream.messages.count && stream.messages[index - 1].isComplete
        case .interim: return stream.interims.contains { $0.index == index }
        case .head: return message != nil
        case .content(let count): return (message?.content.count ?? -1) >= count
        case .end: return message?.isComplete ?? false
        case .tunnel(let count): return (stream.tunnel?.count ?? -1) >= count
        }
    }
}

/// A run of bytes and what it waits for.
struct Part: Sendable {
    var gate: Gate
    var bytes: [UInt8]

    init(_ gate: Gate, _ bytes: [UInt8]) {
        self.gate = gate
        self.bytes = bytes
    }
}

/// One request with its answer.
struct ExchangePlan: Sendable {
    var method: String
    var request: [Part]
    var response: [Part]
    /// Whether only the end of the server's direction ends the response.
    var responseEndsConnection = false
}

/// What happens on one connection of a client.
struct ExchangeCase: Sendable, CustomStringConvertible {
    let name: String
    /// Whether each server has an idle connection before.
    let isWarm: Bool
    /// Whether the upgrade is granted.
    let switches: Bool
    /// Whether each direction ends when all its parts are sent.
    let endsSending: Bool
    /// Whether the response ends before the request can: its rest goes nowhere then.
    let cutsUpload: Bool
    /// How many offsets of it are swept; all of them, unless it is large.
    let offsetsMax: Int
    let plans: [ExchangePlan]

    init(
        _ name: String, isWarm: Bool = false, switches: Bool = false, endsSending: Bool = false,
        cutsUpload: Bool = false, offsetsMax: Int = .max, _ plans: () -> [ExchangePlan]
    ) {
        self.name = name
        self.isWarm = isWarm
        self.switches = switches
        self.endsSending = endsSending
        self.cutsUpload = cutsUpload
        self.offsetsMax = offsetsMax
        self.plans = plans()
    }

    var description: String { name }

    /// Methods that may be sent twice.
    static let idempotentMethods: Set<String> = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"]
}

/// Content that tells where each of its bytes belongs.
func coded(_ direction: Character, _ exchange: Int, _ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    var offset = 0
    while bytes.count < count {
        let digits = String(offset, radix: 36)
        bytes += "\(direction)\(exchange)\(String(repeating: "0", count: 5 - digits.utf8.count))\(digits).".utf8
        offset += 8
    }
    return Array(bytes.prefix(count))
}

private func request(_ exchange: Int, _ method: String, version: String = "1.1", _ lines: String...) -> [UInt8] {
    let all = ["\(method) /x/\(exchange) HTTP/\(version)", "Host: t", "\(Mark.name): \(exchange)"] + lines
    return Array((all.joined(separator: "\r\n") + "\r\n\r\n").utf8)
}

private func response(_ exchange: Int, _ status: String, _ lines: String...) -> [UInt8] {
    let all = ["HTTP/1.1 \(status)", "\(Mark.name): \(exchange)"] + lines
    return Array((all.joined(separator: "\r\n") + "\r\n\r\n").utf8)
}

/// Chunks of these sizes, without a last one.
private func chunks(_ content: [UInt8], _ sizes: Int...) -> [UInt8] {
    var bytes: [UInt8] = []
    var start = 0
    for size in sizes {
        bytes += Array("\(String(size, radix: 16))\r\n".utf8) + content[start..<(start + size)] + Array("\r\n".utf8)
        start += size
    }
    return bytes
}

private let lastChunk = Array("0\r\n\r\n".utf8)
private let lastChunkWithTrailers = Array("0\r\nX-First: 1\r\nX-Second: 2\r\n\r\n".utf8)
private let chunkedLine = "Transfer-Encoding: chunked"

private func get(_ exchange: Int, gate: Gate = .now) -> [Part] { [Part(gate, request(exchange, "GET"))] }

private func post(_ exchange: Int, gate: Gate = .now) -> [Part] {
    [Part(gate, request(exchange, "POST", "Content-Length: 24") + coded("q", exchange, 24))]
}

private func sized(_ exchange: Int, _ count: Int = 40, gate: Gate = .end) -> [Part] {
    [Part(gate, response(exchange, "200 OK", "Content-Length: \(count)") + coded("r", exchange, count))]
}

private func chunked(_ exchange: Int, gate: Gate = .end, last: [UInt8] = lastChunk) -> [Part] {
    let content = coded("r", exchange, 40)
    return [Part(gate, response(exchange, "200 OK", chunkedLine) + chunks(content, 16, 1, 23) + last)]
}

extension ExchangeCase {
    /// A request that makes a connection to a server and leaves it idle.
    static let warmUp = ExchangeCase("warm-up") {
        let bytes = request(Mark.warmUp, "GET")
        return [
            ExchangePlan(method: "GET", request: [Part(.now, bytes)], response: sized(Mark.warmUp, 2))
        ]
    }

    /// All cases but the large ones.
    static let all: [ExchangeCase] = messages + connections + tunnels

    private static let messages: [ExchangeCase] = [
        ExchangeCase("sized") { [ExchangePlan(method: "GET", request: get(0), response: sized(0))] },
        ExchangeCase("chunked") { [ExchangePlan(method: "GET", request: get(0), response: chunked(0))] },
        ExchangeCase("close-delimited") {
            let bytes = response(0, "200 OK") + coded("r", 0, 40)
            return [
                ExchangePlan(
                    method: "GET", request: get(0), response: [Part(.end, bytes)], responseEndsConnection: true)
            ]
        },
        ExchangeCase("chunked to HTTP/1.0") {
            [
                ExchangePlan(
                    method: "GET", request: [Part(.now, request(0, "GET", version: "1.0"))], response: chunked(0))
            ]
        },
        ExchangeCase("trailers both ways") {
            let upload = request(0, "POST", chunkedLine, "TE: trailers") + chunks(coded("q", 0, 24), 8, 16)
            return [
                ExchangePlan(
                    method: "POST", request: [Part(.now, upload + lastChunkWithTrailers)],
                    response: chunked(0, last: lastChunkWithTrailers))
            ]
        },
        ExchangeCase("103 then final") {
            let hints = response(0, "103 Early Hints", "Link: </a>") + response(0, "103 Early Hints")
            return [ExchangePlan(method: "GET", request: get(0), response: [Part(.head, hints)] + sized(0))]
        },
        ExchangeCase("100-continue") {
            let parts = [
                Part(.now, request(0, "POST", "Content-Length: 40", "Expect: 100-continue")),
                Part(.interim, coded("q", 0, 40)),
            ]
            let go = Part(.head, response(0, "100 Continue"))
            return [ExchangePlan(method: "POST", request: parts, response: [go] + sized(0))]
        },
        ExchangeCase("full duplex") {
            let up = coded("q", 0, 40)
            let down = coded("r", 0, 40)
            let upload = [
                Part(.now, request(0, "POST", chunkedLine) + chunks(Array(up[..<16]), 16)),
                Part(.content(16), chunks(Array(up[16..<32]), 8, 8)),
                Part(.content(32), chunks(Array(up[32...]), 8)), Part(.content(40), lastChunk),
            ]
            let answer = [
                Part(.head, response(0, "200 OK", chunkedLine)), Part(.content(16), chunks(Array(down[..<16]), 16)),
                Part(.content(32), chunks(Array(down[16..<32]), 16)),
                Part(.content(40), chunks(Array(down[32...]), 8)), Part(.end, lastChunk),
            ]
            return [ExchangePlan(method: "POST", request: upload, response: answer)]
        },
        ExchangeCase("answered early") {
            let up = coded("q", 0, 40)
            let upload = [
                Part(.now, request(0, "POST", "Content-Length: 40") + up[..<16]), Part(.end, Array(up[16...])),
            ]
            return [ExchangePlan(method: "POST", request: upload, response: sized(0, gate: .content(8)))]
        },
        ExchangeCase("answered early, close-delimited", cutsUpload: true) {
            let up = coded("q", 0, 40)
            let down = coded("r", 0, 40)
            let upload = [
                Part(.now, request(0, "POST", "Content-Length: 40") + up[..<16]), Part(.content(8), Array(up[16...])),
            ]
            let answer = [
                Part(.content(8), response(0, "200 OK") + down[..<16]), Part(.content(16), Array(down[16...])),
            ]
            return [ExchangePlan(method: "POST", request: upload, response: answer, responseEndsConnection: true)]
        },
        ExchangeCase("HEAD") {
            let answer = response(0, "200 OK", "Content-Length: 40")
            return [
                ExchangePlan(
                    method: "HEAD", request: [Part(.now, request(0, "HEAD"))], response: [Part(.end, answer)])
            ]
        },
    ]

    private static let connections: [ExchangeCase] = [
        ExchangeCase("two in turn") {
            [
                ExchangePlan(method: "GET", request: get(0), response: sized(0, 16)),
                ExchangePlan(method: "POST", request: post(1, gate: .previousEnd), response: chunked(1)),
            ]
        },
        // The third comes to the server of the first again, since both take turns.
        ExchangeCase("three in turn, the first answered with a surplus") {
            let surplus = response(2, "200 OK", "Content-Length: 4") + Array("evil".utf8)
            return [
                ExchangePlan(
                    method: "GET", request: get(0), response: [Part(.end, sized(0, 16)[0].bytes + surplus)]),
                ExchangePlan(method: "GET", request: get(1, gate: .previousEnd), response: sized(1, 16)),
                ExchangePlan(method: "GET", request: get(2, gate: .previousEnd), response: sized(2, 16)),
            ]
        },
        ExchangeCase("two pipelined") {
            [
                ExchangePlan(method: "GET", request: get(0), response: chunked(0)),
                ExchangePlan(method: "GET", request: get(1), response: sized(1, 16)),
            ]
        },
        ExchangeCase("GET on a warm connection", isWarm: true) {
            [ExchangePlan(method: "GET", request: get(0), response: sized(0))]
        },
        ExchangeCase("GET with a 103 on a warm connection", isWarm: true) {
            let hints = Part(.head, response(0, "103 Early Hints"))
            return [ExchangePlan(method: "GET", request: get(0), response: [hints] + sized(0))]
        },
        ExchangeCase("PUT on a warm connection", isWarm: true) {
            let upload = request(0, "PUT", chunkedLine) + chunks(coded("q", 0, 24), 8, 16) + lastChunk
            return [ExchangePlan(method: "PUT", request: [Part(.now, upload)], response: sized(0))]
        },
        ExchangeCase("POST on a warm connection", isWarm: true) {
            [ExchangePlan(method: "POST", request: post(0), response: sized(0))]
        },
    ]

    private static let tunnels: [ExchangeCase] = [
        ExchangeCase("tunnel", switches: true, endsSending: true) {
            let up = coded("q", 0, 40)
            let down = coded("r", 0, 40)
            let asked = request(0, "GET", "Connection: Upgrade", "Upgrade: sweep")
            let granted = response(0, "101 Switching Protocols", "Connection: Upgrade", "Upgrade: sweep")
            return [
                ExchangePlan(
                    method: "GET",
                    request: [
                        Part(.now, asked + up[..<8]), Part(.tunnel(8), Array(up[8..<24])),
                        Part(.tunnel(24), Array(up[24...])),
                    ],
                    response: [
                        Part(.head, granted + down[..<8]), Part(.tunnel(8), Array(down[8..<24])),
                        Part(.tunnel(24), Array(down[24...])),
                    ])
            ]
        },
        ExchangeCase("tunnel by CONNECT", switches: true, endsSending: true) {
            let up = coded("q", 0, 24)
            let down = coded("r", 0, 24)
            let asked = Array("CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\(Mark.name): 0\r\n\r\n".utf8)
            return [
                ExchangePlan(
                    method: "CONNECT", request: [Part(.now, asked + up[..<8]), Part(.tunnel(8), Array(up[8...]))],
                    response: [Part(.head, response(0, "200 OK") + down[..<8]), Part(.tunnel(8), Array(down[8...]))])
            ]
        },
        ExchangeCase("upgrade refused, then another request") {
            let asked = request(0, "GET", "Connection: Upgrade", "Upgrade: sweep")
            return [
                ExchangePlan(method: "GET", request: [Part(.now, asked)], response: sized(0, 16)),
                ExchangePlan(method: "GET", request: get(1), response: sized(1, 16)),
            ]
        },
    ]

    /// Bodies for which the proxy may take its other ways: more than fits any buffer of one turn.
    static let large: [ExchangeCase] = bodies("large", bytes: 200 << 10, offsetsMax: 200)

    /// Bodies that the kernel's buffers do not hold, so that the proxy has to wait for a slow reader.
    static let huge: [ExchangeCase] = bodies("huge", bytes: 6 << 20, offsetsMax: 6)

    private static func bodies(_ size: String, bytes: Int, offsetsMax: Int) -> [ExchangeCase] {
        let up = coded("q", 0, bytes)
        let down = coded("r", 0, bytes)
        return [
            ExchangeCase("\(size), sized", offsetsMax: offsetsMax) {
                let answer = response(0, "200 OK", "Content-Length: \(bytes)") + down
                return [ExchangePlan(method: "GET", request: get(0), response: [Part(.end, answer)])]
            },
            ExchangeCase("\(size) upload, sized", offsetsMax: offsetsMax) {
                let upload = request(0, "POST", "Content-Length: \(bytes)") + up
                return [ExchangePlan(method: "POST", request: [Part(.now, upload)], response: sized(0))]
            },
            ExchangeCase("\(size) tunnel", switches: true, endsSending: true, offsetsMax: offsetsMax) {
                let asked = request(0, "GET", "Connection: Upgrade", "Upgrade: sweep")
                let granted = response(0, "101 Switching Protocols", "Connection: Upgrade", "Upgrade: sweep")
                return [
                    ExchangePlan(
                        method: "GET", request: [Part(.now, asked), Part(.tunnel(0), up)],
                        response: [Part(.head, granted), Part(.tunnel(0), down)])
                ]
            },
        ]
    }
}
