// Words -> a tree of statements, with the files of `include` in the place of the directive. It goes on after every
// mistake: at the next `;` or `}`, or at the next line that begins with a directive's name.

/// A directive as it was written.
struct Statement {
    var name: Word
    var arguments: [Word] = []
    /// What stands between its braces; nil if it ended with `;`.
    var block: [Statement]?
}

/// What one reading of a configuration shares among its files.
final class Loader {
    /// How deep blocks may be nested, includes counted in.
    static let blockDepthMax = 8
    /// How deep includes may be nested.
    static let includeDepthMax = 8
    /// How many files there may be in all.
    static let filesMax = 256

    let diagnostics: Diagnostics
    private let environment: [String: String]
    private let files: any ConfigurationFiles
    private var fileCount = 0

    init(environment: [String: String], files: any ConfigurationFiles, diagnostics: Diagnostics) {
        self.environment = environment
        self.files = files
        self.diagnostics = diagnostics
    }

    /// The statements of a text. `chain` names the files that include it, the outermost first.
    func statements(
        of text: [UInt8], path: String, chain: [String] = [], blockDepth: Int = 0
    ) -> [Statement] {
        fileCount += 1
        let source = diagnostics.add(SourceText(name: path, bytes: text))
        let lexer = Lexer(text, source: source, environment: environment, diagnostics: diagnostics)
        var parser = Parser(lexer: lexer, loader: self, path: path, chain: chain + [path])
        return parser.statements(openedAt: nil, blockDepth: blockDepth)
    }

    /// The statements of what `include` names.
    func included(by statement: Statement, from path: String, chain: [String], blockDepth: Int) -> [Statement] {
        guard statement.block == nil, statement.arguments.count == 1, let argument = statement.arguments.first else {
            diagnostics.error(at: statement.name, "\"include\" takes one file and no block; write: include FILE;")
            return []
        }
        guard !argument.isBroken else { return [] }
        if let place = argument.firstVariable {
            diagnostics.error(at: place, Word.variableRefusal)
            return []
        }
        guard chain.count <= Loader.includeDepthMax else {
            diagnostics.error(at: argument, "includes are nested more than \(Loader.includeDepthMax) deep")
            return []
        }
        var result: [Statement] = []
        for file in paths(argument, in: FilePath.folder(of: path)) {
            result += self.file(file, argument: argument, chain: chain, blockDepth: blockDepth)
        }
        return result
    }

    private func file(_ file: String, argument: Word, chain: [String], blockDepth: Int) -> [Statement] {
        let identity = FilePath.identity(file)
        if let first = chain.firstIndex(where: { FilePath.identity($0) == identity }) {
            let way = (chain[first...] + [file]).joined(separator: " -> ")
            diagnostics.error(at: argument, "\(quoted(file)) includes itself: \(way)")
            return []
        }
        guard fileCount < Loader.filesMax else {
            diagnostics.error(at: argument, "more than \(Loader.filesMax) files in all")
            return []
        }
        do throws(FileReadError) {
            let text = try files.read(file)
            guard text.count <= ConfigurationFile.bytesMax else {
                diagnostics.error(at: argument, "\(quoted(file)) is larger than 1 MiB")
                return []
            }
            return statements(of: text, path: file, chain: chain, blockDepth: blockDepth)
        } catch {
            diagnostics.error(at: argument, "cannot read \(quoted(file)): \(error.reason)")
            return []
        }
    }

    /// The files that an argument names, a wildcard's in the order of their names.
    private func paths(_ argument: Word, in folder: String) -> [String] {
        let path = FilePath.resolve(argument.text, in: folder)
        let pathFolder = FilePath.folder(of: path)
        let pattern = String(path.dropFirst(pathFolder.count))
        let isWild = { (text: String) in text.contains("*") || text.contains("?") }
        guard !pattern.isEmpty, !path.utf8.contains(0) else {
            diagnostics.error(at: argument, "\(quoted(path)) is not the name of a file")
            return []
        }
        guard !isWild(pathFolder) else {
            diagnostics.error(at: argument, "wildcards can stand in the name of the file only, not in its folder")
            return []
        }
        guard isWild(pattern) else { return [path] }
        do throws(FileReadError) {
            let names = try files.list(pathFolder).filter { FilePath.matches($0, pattern: pattern) }
            return names.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }.map { pathFolder + $0 }
        } catch {
            diagnostics.error(at: argument, "cannot list \(quoted(pathFolder)): \(error.reason)")
            return []
        }
    }
}

private struct Parser {
    var lexer: Lexer
    let loader: Loader
    let path: String
    let chain: [String]
    /// A token that was read too early.
    private var returned: Token?

    private var diagnostics: Diagnostics { loader.diagnostics }

    init(lexer: Lexer, loader: Loader, path: String, chain: [String]) {
        self.lexer = lexer
        self.loader = loader
        self.path = path
        self.chain = chain
    }

    private mutating func next() -> Token {
        defer { returned = nil }
        return returned ?? lexer.next()
    }

    /// The statements up to the `}` that closes the block, or up to the end of the file.
    mutating func statements(openedAt opening: Place?, blockDepth: Int) -> [Statement] {
        var result: [Statement] = []
        while true {
            switch next() {
            case .word(let name):
                let statement = statement(name, blockDepth: blockDepth)
                if name.text == "include", !name.isBroken {
                    result += loader.included(by: statement, from: path, chain: chain, blockDepth: blockDepth)
                } else {
                    result.append(statement)
                }
            case .semicolon(let place): diagnostics.error(at: place, "unexpected \";\"")
            case .open(let place):
                diagnostics.error(at: place, "a block without a directive's name before it")
                _ = block(openedAt: place, blockDepth: blockDepth)
            case .close(let place):
                if opening != nil { return result }
                diagnostics.error(at: place, "unexpected \"}\"; no block is open here")
            case .end:
                if let opening { diagnostics.error(at: opening, "this block is never closed") }
                return result
            }
        }
    }

    /// What follows a directive's name.
    private mutating func statement(_ name: Word, blockDepth: Int) -> Statement {
        var statement = Statement(name: name)
        var end = name.end
        while true {
            let token = next()
            switch token {
            case .word(let word):
                // A forgotten `;` would make the next directive an argument of this one.
                if word.place.line > end.line, !word.isQuoted, Directive.names.contains(word.text) {
                    diagnostics.error(at: end, "expected \";\" at the end of \(quoted(name.text))")
                    returned = token
                    return statement
                }
                statement.arguments.append(word)
                end = word.end
            case .semicolon: return statement
            case .open(let place):
                statement.block = block(openedAt: place, blockDepth: blockDepth)
                return statement
            case .close, .end:
                diagnostics.error(at: end, "expected \";\" at the end of \(quoted(name.text))")
                returned = token
                return statement
            }
        }
    }

    private mutating func block(openedAt place: Place, blockDepth: Int) -> [Statement] {
        guard blockDepth < Loader.blockDepthMax else {
            diagnostics.error(at: place, "blocks are nested more than \(Loader.blockDepthMax) deep")
            skipBlock()
            return []
        }
        return statements(openedAt: place, blockDepth: blockDepth + 1)
    }

    /// Past the block that was just opened, without recursion.
    private mutating func skipBlock() {
        var depth = 1
        while depth > 0 {
            let token = next()
            switch token {
            case .open: depth += 1
            case .close: depth -= 1
            case .end:
                returned = token
                return
            case .word, .semicolon: break
            }
        }
    }
}

extension Word {
    static let variableRefusal = "no variable can stand here; write \"$$\" for a dollar"

    /// Where its first variable stands.
    var firstVariable: Place? {
        for case .variable(_, let place) in segments { return place }
        return nil
    }
}

/// Text from a file, for a message: in quotes, cut, and harmless to a terminal.
func quoted(_ text: String) -> String {
    var result = "\""
    for (index, scalar) in text.unicodeScalars.enumerated() {
        if index == 80 {
            result += "..."
            break
        }
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator: result += "\u{FFFD}"
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result + "\""
}
