// What befalls an exchange: how each side's bytes are cut into pieces, where a side ends and how, and in which order
// everybody gets a turn. A schedule says all of it, so that a run can be told in one line and repeated.

import TestSupport

/// How a peer's own bytes are cut.
enum Pieces: CustomStringConvertible {
    /// As much as may be sent at once.
    case whole
    /// A pause behind so many bytes of the connection.
    case split(Int)
    /// One at a time.
    case single
    /// Runs of random length, up to this.
    case random(Int)

    var description: String {
        switch self {
        case .whole: "whole"
        case .split(let offset): "split at \(offset)"
        case .single: "one at a time"
        case .random(let max): "random pieces up to \(max)"
        }
    }
}

/// A peer's end before its time.
struct Fault: CustomStringConvertible {
    /// How it ends.
    enum Kind: String, CaseIterable {
        case close
        case endSending
        case reset
    }

    /// When it ends.
    enum Moment {
        /// Before anything else: servers with idle connections end those.
        case before
        /// Behind so many bytes of its own.
        case sent(Int)
        /// Behind so many bytes that it received; more are left unread.
        case received(Int)
    }

    var kind: Kind
    var moment: Moment
    /// Whether the end follows its last byte at once, before the proxy had a turn.
    var isGlued = false

    var description: String {
        let place =
            switch moment {
            case .before: "before anything"
            case .sent(let offset): "behind byte \(offset) sent"
            case .received(let offset): "behind byte \(offset) received"
            }
        return "\(kind.rawValue) \(place)\(isGlued ? ", glued" : "")"
    }

    var sentMax: Int? {
        if case .sent(let offset) = moment { return offset }
        return nil
    }

    var receivedMax: Int? {
        if case .received(let offset) = moment { return offset }
        return nil
    }
}

/// What befalls one exchange case.
struct Schedule: CustomStringConvertible {
    /// What befalls one side.
    struct Side {
        var pieces = Pieces.whole
        var fault: Fault?
        /// Bytes taken in one read, at most.
        var readMax = Int.max
    }

    var client = Side()
    var server = Side()
    /// Whether both sides act before the proxy has its turn, so that it finds both at once.
    var isTogether = false
    /// Decides random lengths, stalls and the order of turns; without it everybody gets a turn, and the proxy as many
    /// as it can use.
    var seed: UInt64?

    var description: String {
        func text(_ name: String, _ side: Side) -> String {
            var text = "\(name): \(side.pieces)"
            if side.readMax != .max { text += ", reads up to \(side.readMax)" }
            if let fault = side.fault { text += ", \(fault)" }
            return text
        }
        let order = seed.map { "; seed \($0)" } ?? ""
        let together = isTogether ? "; both before the proxy's turn" : ""
        return "\(text("client", client)); \(text("server", server))\(together)\(order)"
    }

    /// A random one.
    /// - Parameter bytes: about how many bytes pass each way, so that faults fall among them.
    static func random(seed: UInt64, bytes: Int) -> Schedule {
        var generator = SeededGenerator(seed: seed)
        func side(_ kinds: [Fault.Kind]) -> Side {
            var side = Side()
            switch Int.random(in: 0..<5, using: &generator) {
            case 0: side.pieces = .whole
            case 1: side.pieces = .single
            case 2: side.pieces = .split(Int.random(in: 0...bytes, using: &generator))
            default: side.pieces = .random(Int.random(in: 2...64, using: &generator))
            }
            if Int.random(in: 0..<3, using: &generator) == 0 {
                side.readMax = Int.random(in: 1...100, using: &generator)
            }
            if Int.random(in: 0..<5, using: &generator) < 2, let kind = kinds.randomElement(using: &generator) {
                let offset = Int.random(in: 0...bytes, using: &generator)
                side.fault = Fault(
                    kind: kind, moment: Bool.random(using: &generator) ? .sent(offset) : .received(offset),
                    isGlued: Bool.random(using: &generator))
            }
            return side
        }
        var schedule = Schedule(seed: generator.next())
        schedule.client = side(Fault.Kind.allCases)
        schedule.server = side([.close, .endSending, .reset])
        return schedule
    }
}
