// One row of the table of directives, and how a row turns arguments into settings. Who may stand where, with how many
// arguments and which options, is checked by `Scope` from the row alone.

import HTTPSemantics

/// Where a directive may stand.
enum Context: String, CaseIterable, Sendable {
    case top
    case upstream
    case listener
    case host
    case route
    case tls
    case upstreamTLS
    case admin

    /// As in "it belongs ...".
    var phrase: String {
        switch self {
        case .top: "at top level"
        case .upstream: "in an upstream"
        case .listener: "in a listener"
        case .host: "in a host"
        case .route: "in a route"
        case .tls: "in a listener's tls"
        case .upstreamTLS: "in an upstream's tls"
        case .admin: "in admin"
        }
    }

    /// As the reference's tables call it.
    var title: String {
        switch self {
        case .top: "top level"
        case .upstreamTLS: "upstream's tls"
        case .tls: "listener's tls"
        case .upstream, .listener, .host, .route, .admin: rawValue
        }
    }
}

/// A row of the table.
struct Directive: Sendable {
    typealias Read = @Sendable (Arguments, inout Settings) -> Void

    let name: String
    let contexts: [Context]
    /// The arguments in the reference's notation; `{ ... }` is added for a block.
    let syntax: String
    /// The default as the file would write it; nil if there is none.
    let defaultText: String?
    /// What it does, in a sentence or two, for the reference.
    let summary: String
    /// The arguments before the options.
    let arity: ClosedRange<Int>
    /// The names of `name=value` options.
    let options: [String]
    /// Words that may stand among the options, once each.
    var flags: [String] = []
    /// Whether it has a block instead of a `;`.
    let isBlock: Bool
    /// Whether it may stand more than once in a block.
    let repeats: Bool
    /// Turns the arguments into settings; nil if the block around it wants more than a setting.
    let read: Read?

    /// How it is written, whole.
    var usage: String { name + (syntax.isEmpty ? "" : " " + syntax) + (isBlock ? " { ... }" : ";") }

    /// A directive that its block reads.
    static func structure(
        _ name: String, _ contexts: [Context], _ syntax: String = "", arity: ClosedRange<Int>, options: [String] = [],
        flags: [String] = [], isBlock: Bool = false, repeats: Bool = true, defaultText: String? = nil, _ summary: String
    ) -> Directive {
        Directive(
            name: name, contexts: contexts, syntax: syntax, defaultText: defaultText, summary: summary, arity: arity,
            options: options, flags: flags, isBlock: isBlock, repeats: repeats, read: nil)
    }

    /// A directive that is a setting.
    static func setting(
        _ name: String, _ contexts: [Context], _ syntax: String, default defaultText: String,
        arity: ClosedRange<Int> = 1...1, options: [String] = [], _ summary: String, read: @escaping Read
    ) -> Directive {
        Directive(
            name: name, contexts: contexts, syntax: syntax, defaultText: defaultText, summary: summary, arity: arity,
            options: options, isBlock: false, repeats: false, read: read)
    }

    /// A timer: a duration or `off`.
    static func timer(
        _ name: String, _ contexts: [Context], default defaultText: String,
        _ path: WritableKeyPath<Settings, Int?> & Sendable, _ summary: String
    ) -> Directive {
        setting(name, contexts, "DURATION|off", default: defaultText, summary) { arguments, settings in
            if let value = arguments.value(0, orOff(Value.positiveDuration)) { settings[keyPath: path] = value }
        }
    }

    /// A duration that cannot be switched off, but may be 0.
    static func duration(
        _ name: String, _ contexts: [Context], default defaultText: String,
        _ path: WritableKeyPath<Settings, Int> & Sendable, _ summary: String
    ) -> Directive {
        setting(name, contexts, "DURATION", default: defaultText, summary) { arguments, settings in
            if let value = arguments.value(0, Value.duration) { settings[keyPath: path] = value }
        }
    }

    /// A size within a range.
    static func size(
        _ name: String, _ contexts: [Context], _ range: ClosedRange<Int>, default defaultText: String,
        _ path: WritableKeyPath<Settings, Int> & Sendable, _ summary: String
    ) -> Directive {
        let bounds = " From \(Value.sizeText(range.lowerBound)) to \(Value.sizeText(range.upperBound))."
        return setting(name, contexts, "SIZE", default: defaultText, summary + bounds) { arguments, settings in
            let value = arguments.value { text throws(Problem) in try Value.size(text, in: range) }
            if let value { settings[keyPath: path] = value }
        }
    }

    /// A size or `off`.
    static func optionalSize(
        _ name: String, _ contexts: [Context], _ range: ClosedRange<Int>, default defaultText: String,
        _ path: WritableKeyPath<Settings, Int?> & Sendable, _ summary: String
    ) -> Directive {
        setting(name, contexts, "SIZE|off", default: defaultText, summary) { arguments, settings in
            let value = arguments.value(0, orOff { text throws(Problem) in try Value.size(text, in: range) })
            if let value { settings[keyPath: path] = value }
        }
    }

    /// A number within a range.
    static func count(
        _ name: String, _ contexts: [Context], _ range: ClosedRange<Int>, default defaultText: String,
        _ path: WritableKeyPath<Settings, Int> & Sendable, _ summary: String
    ) -> Directive {
        let bounds = " From \(range.lowerBound) to \(range.upperBound)."
        return setting(name, contexts, "N", default: defaultText, summary + bounds) { arguments, settings in
            let value = arguments.value { text throws(Problem) in try Value.count(text, in: range) }
            if let value { settings[keyPath: path] = value }
        }
    }

    /// A number within a range, or a word for none.
    static func optionalCount(
        _ name: String, _ contexts: [Context], _ range: ClosedRange<Int>, orWord word: String,
        _ path: WritableKeyPath<Settings, Int?> & Sendable, _ summary: String
    ) -> Directive {
        setting(name, contexts, "N|\(word)", default: word, summary) { arguments, settings in
            let value = arguments.value(
                0, orWord(word) { text throws(Problem) in try Value.count(text, in: range) })
            if let value { settings[keyPath: path] = value }
        }
    }

    /// One of an enumeration's names.
    static func choice<Choice: RawRepresentable & CaseIterable & Sendable>(
        _ name: String, _ contexts: [Context], default defaultChoice: Choice,
        _ path: WritableKeyPath<Settings, Choice> & Sendable, _ summary: String
    ) -> Directive where Choice.RawValue == String {
        setting(name, contexts, names(of: Choice.self), default: defaultChoice.rawValue, summary) {
            arguments, settings in
            let value = arguments.value { text throws(Problem) -> Choice in try Value.choice(text) }
            if let value { settings[keyPath: path] = value }
        }
    }

    /// `a|b|c`
    static func names<Choice: RawRepresentable & CaseIterable>(of _: Choice.Type) -> String
    where Choice.RawValue == String {
        Choice.allCases.map(\.rawValue).joined(separator: "|")
    }

    /// `read`, but `off` is nil.
    static func orOff<Result>(
        _ read: @escaping (String) throws(Problem) -> Result
    ) -> (String) throws(Problem) -> Result? {
        orWord("off", read)
    }

    /// `read`, but `word` is nil.
    static func orWord<Result>(
        _ word: String, _ read: @escaping (String) throws(Problem) -> Result
    ) -> (String) throws(Problem) -> Result? {
        { text throws(Problem) in
            if text == word { return nil }
            do throws(Problem) {
                return try read(text)
            } catch {
                // A text that is not even a value may have meant the word.
                let first = text.utf8.first ?? 0
                let isNumber = first >= UInt8(ascii: "0") && first <= UInt8(ascii: "9")
                if isNumber { throw error }
                throw Problem(error.message.replacingPrefix("expected ", with: "expected \(word) or "))
            }
        }
    }
}

extension Directive {
    /// The names of all directives.
    static let names = Set(all.map(\.name))

    private static let byName = Dictionary(grouping: all, by: \.name)

    /// The rows of a name; there are two of `upstream`.
    static func rows(named name: String) -> [Directive] { byName[name] ?? [] }

    /// What may stand in a block, in the table's order.
    static func names(in context: Context) -> [String] { namesByContext[context] ?? [] }

    private static let namesByContext: [Context: [String]] = Dictionary(
        uniqueKeysWithValues: Context.allCases.map { context in
            (context, all.filter { $0.contexts.contains(context) }.map(\.name))
        })
}

extension String {
    fileprivate func replacingPrefix(_ prefix: String, with other: String) -> String {
        hasPrefix(prefix) ? other + dropFirst(prefix.count) : self
    }
}
