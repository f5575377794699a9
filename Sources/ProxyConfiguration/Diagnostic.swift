// What a configuration file is told about: one diagnostic for each mistake, in a compiler's form. `Diagnostics`
// collects them while the file is read; nothing stops at the first. The texts of the files are kept until the end,
// for the line and the caret under it.

import Bytes

/// One remark about a configuration file.
public struct Diagnostic: Sendable, Equatable, CustomStringConvertible {
    /// How bad it is.
    public enum Severity: String, Sendable {
        /// The configuration cannot be used.
        case error
        /// It can be used, but is probably not what was meant.
        case warning
    }
    /// How bad it is.
    public var severity: Severity
    /// Where it is. Line 0 stands for the file as a whole (one that cannot be read).
    public var location: SourceLocation
    /// What is wrong, in one line.
    public var message: String
    /// The line of the file, cut to a window around the place if it is long, control bytes replaced.
    public var sourceLine: String
    /// Blanks and a caret that stands under the place when it is printed below `sourceLine`.
    public var caretLine: String

    /// `proxy.conf:12:5: error: ...`
    public var headline: String {
        let place = location.line == 0 ? location.file : location.text
        return "\(place): \(severity.rawValue): \(message)"
    }

    /// The headline, then the line and the caret, without a line end.
    public var description: String {
        location.line == 0 ? headline : "\(headline)\n    \(sourceLine)\n    \(caretLine)"
    }
}

/// Everything that is wrong with a configuration.
public struct ConfigurationErrors: Error, Equatable, CustomStringConvertible {
    /// Errors, at least one, and warnings, by file in the order of reading, then by place.
    public var diagnostics: [Diagnostic]

    /// The diagnostics, one after the other.
    public var description: String { diagnostics.map(\.description).joined(separator: "\n") }
}

/// The bytes of a file under the name by which diagnostics call it.
struct SourceText {
    let name: String
    let bytes: [UInt8]

    /// How many characters of a long line are shown on either side of the place.
    private static let windowCharacters = 76

    /// The line around `offset` and the line with the caret. The time does not depend on the line's length.
    func excerpt(at offset: Int) -> (line: String, caret: String) {
        let lineFeed = UInt8(ascii: "\n")
        var start = offset
        while start > 0, bytes[start - 1] != lineFeed, offset - start < 4 * SourceText.windowCharacters { start -= 1 }
        let isCutBefore = start > 0 && bytes[start - 1] != lineFeed
        while isCutBefore, start < offset, bytes[start] & 0xC0 == 0x80 { start += 1 }
        if start == 0, bytes.starts(with: Lexer.byteOrderMark) { start = min(offset, Lexer.byteOrderMark.count) }

        var before: [Unicode.Scalar] = []
        var index = start
        while index < offset { before.append(scalar(at: &index)) }
        var shown = before.suffix(SourceText.windowCharacters)
        let dots = isCutBefore || shown.count < before.count ? "..." : ""
        if dots.isEmpty { shown = before[...] }
        var line = dots
        line.unicodeScalars.append(contentsOf: shown)

        var count = 0
        while index < bytes.count, bytes[index] != lineFeed, count < SourceText.windowCharacters {
            if bytes[index] == UInt8(ascii: "\r"), index + 1 < bytes.count, bytes[index + 1] == lineFeed { break }
            line.unicodeScalars.append(scalar(at: &index))
            count += 1
        }
        if count == SourceText.windowCharacters, index < bytes.count, bytes[index] != lineFeed { line += "..." }
        // Tabs are kept as tabs, so that the caret moves with them.
        let blanks = shown.map { $0 == "\t" ? "\t" : String(repeating: " ", count: SourceText.cells($0)) }.joined()
        return (line, String(repeating: " ", count: dots.count) + blanks + "^")
    }

    /// The next character for printing: what could steer a terminal, and broken UTF-8, is U+FFFD.
    private func scalar(at index: inout Int) -> Unicode.Scalar {
        guard let count = UTF8Text.scalarLength(bytes, at: index),
            let scalar = String(decoding: bytes[index..<index + count], as: UTF8.self).unicodeScalars.first
        else {
            index += 1
            return "\u{FFFD}"
        }
        index += count
        switch scalar.properties.generalCategory {
        case .control where scalar != "\t": return "\u{FFFD}"
        case .format, .lineSeparator, .paragraphSeparator: return "\u{FFFD}"
        default: return scalar
        }
    }

    /// How many cells of a terminal a character fills.
    private static func cells(_ scalar: Unicode.Scalar) -> Int {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark: return 0
        default: break
        }
        switch scalar.value {
        case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F, 0xFF00...0xFF60,
            0xFFE0...0xFFE6, 0x1F300...0x1F64F, 0x1F900...0x1F9FF, 0x20000...0x3FFFD:
            return 2
        default: return 1
        }
    }
}

/// A place in one of the texts that were read.
struct Place {
    /// The index of the text.
    var source: Int
    /// The byte.
    var offset: Int
    /// The line, from 1.
    var line: Int
    /// The column in characters, from 1.
    var column: Int
}

/// Collects diagnostics while a configuration is read.
final class Diagnostics {
    /// So many are kept; a file of garbage has no more to tell.
    static let countMax = 1000

    private var sources: [SourceText] = []
    private var entries: [(source: Int, offset: Int, order: Int, diagnostic: Diagnostic)] = []
    /// Whether the configuration cannot be used.
    private(set) var hasErrors = false
    /// Whether no more are kept, so that nobody needs to look for suggestions.
    var isFull: Bool { entries.count >= Diagnostics.countMax }

    /// Takes a text that places will refer to.
    func add(_ source: SourceText) -> Int {
        sources.append(source)
        return sources.count - 1
    }

    /// The place as the model tells it.
    func location(_ place: Place) -> SourceLocation {
        SourceLocation(file: sources[place.source].name, line: place.line, column: place.column)
    }

    func error(at place: Place, _ message: @autoclosure () -> String) {
        report(.error, at: place, message)
    }

    /// An error of a word. One that was already found broken while it was read is not reported again.
    func error(at word: Word, _ message: @autoclosure () -> String) {
        if !word.isBroken { report(.error, at: word.place, message) }
    }

    func warning(at place: Place, _ message: @autoclosure () -> String) {
        report(.warning, at: place, message)
    }

    private func report(_ severity: Diagnostic.Severity, at place: Place, _ message: () -> String) {
        if severity == .error { hasErrors = true }
        guard !isFull else { return }
        let excerpt = sources[place.source].excerpt(at: place.offset)
        let diagnostic = Diagnostic(
            severity: severity, location: location(place), message: message(), sourceLine: excerpt.line,
            caretLine: excerpt.caret)
        entries.append((place.source, place.offset, entries.count, diagnostic))
    }

    /// All of them, by file in the order of reading, then by place.
    func sorted() -> [Diagnostic] {
        var all = entries.sorted { ($0.source, $0.offset, $0.order) < ($1.source, $1.offset, $1.order) }
            .map(\.diagnostic)
        if isFull, let last = all.last {
            var final = last
            final.severity = hasErrors ? .error : .warning
            final.message = "too much to tell; only the first \(Diagnostics.countMax) found are listed"
            all.append(final)
        }
        return all
    }
}
