// The statements of one block, matched with the table: unknown and misplaced names, duplicates, blocks where there
// should be none, wrong numbers of arguments. What is left may be read.

/// A statement with its row of the table.
struct Entry {
    let directive: Directive
    let arguments: Arguments

    var statement: Statement { arguments.statement }
    var place: Place { statement.name.place }
    var block: [Statement] { statement.block ?? [] }
}

/// What stands in one block and can be read.
struct Scope {
    let context: Context
    /// In the order of the file.
    private(set) var entries: [Entry] = []
    /// The names that were seen, also where the statement cannot be read: nobody is told that something is missing
    /// when it is there but wrong.
    private var seen: [String: Place] = [:]

    private let diagnostics: Diagnostics
    private let folder: String

    init(_ statements: [Statement], in context: Context, diagnostics: Diagnostics, folder: String) {
        self.context = context
        self.diagnostics = diagnostics
        self.folder = folder
        for statement in statements { take(statement) }
    }

    /// Whether a directive stands here, right or wrong.
    func has(_ name: String) -> Bool { seen[name] != nil }

    /// The entries of one name.
    func entries(named name: String) -> [Entry] { entries.filter { $0.directive.name == name } }

    /// The settings in force within, given those outside.
    func settings(from outer: Settings) -> Settings {
        var settings = outer
        for entry in entries { entry.directive.read?(entry.arguments, &settings) }
        return settings
    }

    private mutating func take(_ statement: Statement) {
        guard !statement.name.isBroken else { return }
        guard let directive = directive(for: statement) else { return }
        if !directive.repeats {
            if let first = seen[directive.name] {
                let place = diagnostics.location(first).text
                diagnostics.error(
                    at: statement.name, "a second \(quoted(directive.name)) in this block; first at \(place)")
                return
            }
        }
        if seen[directive.name] == nil { seen[directive.name] = statement.name.place }
        guard (statement.block != nil) == directive.isBlock else {
            let problem = directive.isBlock ? "needs a block" : "takes no block here"
            diagnostics.error(at: statement.name, "\(quoted(directive.name)) \(problem); write: \(directive.usage)")
            return
        }
        let arguments = Arguments(statement, of: directive, diagnostics: diagnostics, folder: folder)
        // A block is looked into even if its arguments are wrong.
        if arguments.areWellFormed() || directive.isBlock {
            entries.append(Entry(directive: directive, arguments: arguments))
        }
    }

    /// The row for a statement in this block, with a report if there is none. A misspelt block is taken for what it
    /// was probably meant to be, so that the mistakes within are found as well.
    private func directive(for statement: Statement) -> Directive? {
        let name = statement.name.text
        let rows = Directive.rows(named: name)
        if let row = rows.first(where: { $0.contexts.contains(context) }) { return row }
        guard rows.isEmpty else {
            let contexts = Context.allCases.filter { context in rows.contains { $0.contexts.contains(context) } }
            let places = Value.alternatives(contexts.map(\.phrase))
            diagnostics.error(
                at: statement.name, "\(quoted(name)) is not allowed \(context.phrase); it belongs \(places)")
            return nil
        }
        guard !diagnostics.isFull else { return nil }
        let meant = nearest(to: name, among: Directive.names(in: context))
        diagnostics.error(at: statement.name, "unknown directive \(quoted(name))" + suggestion(meant))
        guard statement.block != nil, let meant else { return nil }
        return Directive.rows(named: meant).first { $0.contexts.contains(context) && $0.isBlock }
    }
}
