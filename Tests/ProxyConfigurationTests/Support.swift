// What the tests of the configuration share: short ways from a text to its mistakes or to its model.

import ProxyConfiguration

/// Files in memory, for `include`.
struct MemoryFiles: ConfigurationFiles {
    var contents: [String: String] = [:]

    func read(_ path: String) throws(FileReadError) -> [UInt8] {
        guard let text = contents[path] else { throw FileReadError(reason: "No such file or directory") }
        return Array(text.utf8)
    }

    func list(_ folder: String) throws(FileReadError) -> [String] {
        let names = contents.keys.filter { $0.hasPrefix(folder) }.map { $0.dropFirst(folder.count) }
        guard !names.isEmpty else { throw FileReadError(reason: "No such file or directory") }
        // Backwards, so that sorting is not left to the folder.
        return names.filter { !$0.contains("/") }.map(String.init).sorted(by: >)
    }
}

/// The diagnostics of a text, whether it can be used or not.
func diagnostics(
    _ bytes: [UInt8], environment: [String: String] = [:], files: MemoryFiles = MemoryFiles()
) -> [Diagnostic] {
    do throws(ConfigurationErrors) {
        return try ConfigurationFile.parse(text: bytes, file: "proxy.conf", environment: environment, files: files)
            .warnings
    } catch {
        return error.diagnostics
    }
}

/// The mistakes of a whole text as `LINE:COLUMN: MESSAGE`, those of other files as `FILE:LINE:COLUMN: MESSAGE`.
func mistakes(
    _ text: String, environment: [String: String] = [:], files: MemoryFiles = MemoryFiles()
) -> [String] {
    diagnostics(Array(text.utf8), environment: environment, files: files).map { line($0) }
}

private func line(_ diagnostic: Diagnostic, below lines: Int = 0) -> String {
    let place = diagnostic.location
    let file = place.file == "proxy.conf" ? "" : place.file + ":"
    let severity = diagnostic.severity == .warning ? "warning: " : ""
    return "\(file)\(place.line - lines):\(place.column): \(severity)\(diagnostic.message)"
}

/// Where a snippet is put to be tested.
enum SnippetPlace: Sendable {
    case top, upstream, listener, host, route

    /// What stands before and behind it, on lines of its own, so that the whole is valid if the snippet is.
    var surroundings: (before: String, behind: String) {
        switch self {
        case .top:
            ("", "listener l {\nbind 1;\nroute / { respond 200; }\n}\n")
        case .upstream:
            ("upstream u {\nserver a:1;\n", "}\nlistener l {\nbind 1;\nroute / { upstream u; }\n}\n")
        case .listener:
            ("listener l {\nbind 1;\nroute / { respond 200; }\n", "}\n")
        case .host:
            ("listener l {\nbind 1;\nhost h {\nroute / { respond 200; }\n", "}\n}\n")
        case .route:
            ("upstream u { server a:1; }\nlistener l {\nbind 1;\nroute / {\nupstream u;\n", "}\n}\n")
        }
    }
}

/// The mistakes of a snippet within what makes it whole; lines are counted from the snippet's first.
func mistakes(in place: SnippetPlace, _ snippet: String) -> [String] {
    let (before, behind) = place.surroundings
    let lines = before.utf8.count { $0 == UInt8(ascii: "\n") }
    return diagnostics(Array((before + snippet + "\n" + behind).utf8)).map { line($0, below: lines) }
}

/// The model of a whole text.
func model(
    _ text: String, environment: [String: String] = [:], files: MemoryFiles = MemoryFiles()
) throws -> Configuration {
    try ConfigurationFile.parse(
        text: Array(text.utf8), file: "proxy.conf", environment: environment, files: files
    ).configuration
}

/// The model of a snippet within what makes it whole.
func model(in place: SnippetPlace, _ snippet: String) throws -> Configuration {
    let (before, behind) = place.surroundings
    return try model(before + snippet + "\n" + behind)
}
