// What one direction of one connection said, as messages: the common language of the sweep's invariants. An HTTP
// version's reader fills it, from bytes that were sent (what is true) and from bytes that were received (what was
// seen); HTTP/2 is to fill the same.

/// A field line.
struct SeenField: Equatable {
    var name: String
    var value: String

    /// Whether it has this name, in any case.
    func isNamed(_ other: String) -> Bool {
        name.utf8.count == other.utf8.count && zip(name.utf8, other.utf8).allSatisfy { $0 | 0x20 == $1 | 0x20 }
    }
}

/// A request or a final response, as far as it came.
struct SeenMessage {
    var startLine: String
    var fields: [SeenField] = []
    var content: [UInt8] = []
    var trailers: [SeenField] = []
    /// Whether its end was said: by its length, a last chunk, or a clean close where that is the end.
    var isComplete = false

    /// The first value of a field.
    subscript(_ name: String) -> String? { fields.first { $0.isNamed(name) }?.value }

    /// The exchange that a peer of the test wrote into it; nil if the proxy itself said this.
    var exchange: Int? { self[Mark.name].flatMap { Int($0) } }

    /// The status of a response.
    var status: Int { Int(startLine.split(separator: " ").dropFirst().first ?? "") ?? 0 }
    /// The method of a request.
    var method: String { String(startLine.split(separator: " ").first ?? "") }
}

/// An interim response.
struct SeenInterim: Equatable {
    /// Which of the responses of the connection it came before.
    var index: Int
    var startLine: String
    /// The value of the mark.
    var mark: String?
}

/// The field by which every head of the test tells its exchange.
enum Mark {
    static let name = "X-Sweep"
    /// The exchange of a request that only makes a connection warm.
    static let warmUp = 9
}

/// One direction of a connection, as messages.
struct SeenStream {
    var interims: [SeenInterim] = []
    /// Requests, or final responses.
    var messages: [SeenMessage] = []
    /// What passed behind a switch of protocols; nil before one.
    var tunnel: [UInt8]?
    var ending = Ending.open
    /// Whether a head began that did not end.
    var hasPartialHead = false
    /// What is no HTTP at all.
    var nonsense: String?
}
