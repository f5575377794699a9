// The arguments of one statement, checked against its row of the table. Each mistake is reported at its own word, and
// the others are still looked at.

import HTTPSemantics

struct Arguments {
    let statement: Statement
    let directive: Directive
    let diagnostics: Diagnostics
    /// The main file's folder, where relative paths of logs and sockets start.
    let folder: String

    init(_ statement: Statement, of directive: Directive, diagnostics: Diagnostics, folder: String) {
        self.statement = statement
        self.directive = directive
        self.diagnostics = diagnostics
        self.folder = folder
    }

    /// What stands before the options.
    var words: ArraySlice<Word> {
        directive.options.isEmpty ? statement.arguments[...] : statement.arguments.prefix(directive.arity.upperBound)
    }

    /// Checks the number of arguments and the names of options; reports what is wrong.
    /// - Returns: whether the arguments can be read.
    func areWellFormed() -> Bool {
        let count = statement.arguments.count
        let usage = "; write: \(directive.usage)"
        guard count >= directive.arity.lowerBound else {
            let missing = count == 0 ? "an argument" : "another argument"
            diagnostics.error(at: statement.name, "\(quoted(directive.name)) needs \(missing)\(usage)")
            return false
        }
        guard count > directive.arity.upperBound else { return true }
        let surplus = statement.arguments[directive.arity.upperBound...]
        guard !directive.options.isEmpty else {
            if let first = surplus.first {
                diagnostics.error(at: first, "\(quoted(directive.name)) takes no argument here\(usage)")
            }
            return false
        }
        checkOptions(surplus, usage: usage)
        return true
    }

    /// Reports options that there are not. The others can be read nevertheless.
    private func checkOptions(_ options: ArraySlice<Word>, usage: String) {
        var firsts: [String: Place] = [:]
        for word in options where !word.isBroken {
            if directive.flags.contains(word.text) {
                if let first = firsts[word.text] {
                    let place = diagnostics.location(first).text
                    diagnostics.error(at: word, "\(quoted(word.text)) stands here twice; first at \(place)")
                }
                firsts[word.text] = word.place
                continue
            }
            let parts = word.text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts[0])
            if parts.count < 2 || !directive.options.contains(name) {
                let hint = suggestion(for: name, among: directive.options + directive.flags)
                diagnostics.error(
                    at: word, "\(quoted(directive.name)) has no option \(quoted(name))" + (hint.isEmpty ? usage : hint))
            } else if let first = firsts[name] {
                let place = diagnostics.location(first).text
                diagnostics.error(at: word, "the option \(quoted(name)) stands here twice; first at \(place)")
            } else {
                firsts[name] = word.place
            }
        }
    }

    /// The text of an argument; nil, with a report, if it is broken or has variables.
    func text(of word: Word) -> String? {
        guard !word.isBroken else { return nil }
        if let place = word.firstVariable {
            diagnostics.error(at: place, Word.variableRefusal)
            return nil
        }
        return word.text
    }

    /// What `read` makes of an argument; nil, with a report, if it refuses it.
    func value<Result>(of word: Word, _ read: (String) throws(Problem) -> Result) -> Result? {
        guard let text = text(of: word) else { return nil }
        do throws(Problem) {
            return try read(text)
        } catch {
            diagnostics.error(at: word, error.message)
            return nil
        }
    }

    /// What `read` makes of the argument at `index`; nil, with a report, if it refuses it, and nil if there is none.
    func value<Result>(_ index: Int = 0, _ read: (String) throws(Problem) -> Result) -> Result? {
        words.count > index ? value(of: words[words.startIndex + index], read) : nil
    }

    /// What `read` makes of the option's value; nil, with a report, if it refuses it, and nil if there is none.
    func option<Result>(_ name: String, _ read: (String) throws(Problem) -> Result) -> Result? {
        let prefix = name + "="
        let options = statement.arguments.dropFirst(directive.arity.upperBound)
        guard let word = options.first(where: { $0.text.hasPrefix(prefix) }) else { return nil }
        return value(of: word) { text throws(Problem) in try read(String(text.dropFirst(prefix.count))) }
    }

    /// Whether a word stands among the options.
    func has(flag: String) -> Bool {
        statement.arguments.dropFirst(directive.arity.upperBound).contains { $0.text == flag && !$0.isBroken }
    }

    /// The argument at `index` as a template; nil, with a report, if a variable is unknown or `check` refuses a literal.
    func template(_ index: Int, literal check: (UInt8) -> String? = { _ in nil }) -> Template? {
        guard words.count > index else { return nil }
        let word = words[words.startIndex + index]
        guard !word.isBroken else { return nil }
        var segments: [Template.Segment] = []
        var isFine = true
        for segment in word.segments {
            switch segment {
            case .literal(let bytes):
                if let refusal = bytes.lazy.compactMap(check).first {
                    diagnostics.error(at: word, refusal)
                    isFine = false
                }
                if !bytes.isEmpty { segments.append(.literal(bytes)) }
            case .variable(let name, let place):
                if let variable = Variable(rawValue: name) {
                    segments.append(.variable(variable))
                } else {
                    let hint = suggestion(for: "$" + name, among: Variable.allCases.map { "$" + $0.rawValue })
                    diagnostics.error(at: place, "there is no variable \(quoted("$" + name))" + hint)
                    isFine = false
                }
            }
        }
        return isFine ? Template(segments: segments) : nil
    }
}

extension SourceLocation {
    /// `FILE:LINE:COLUMN`
    public var text: String { "\(file):\(line):\(column)" }
}
