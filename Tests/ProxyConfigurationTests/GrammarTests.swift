// Words, quotes, blocks: what is read, and where a mistake is found.

import ProxyConfiguration
import Testing

@Suite struct GrammarTests {
    /// A text and its mistakes.
    struct Case: Sendable, CustomTestStringConvertible {
        let text: String
        let mistakes: [String]
        var testDescription: String { text.debugDescription }

        init(_ text: String, _ mistakes: String...) {
            self.text = text
            self.mistakes = mistakes
        }
    }

    static let cases: [Case] = [
        // Statements.
        Case("workers 2", "1:10: expected \";\" at the end of \"workers\""),
        Case("workers 2\naccess_log off;", "1:10: expected \";\" at the end of \"workers\""),
        Case(
            "workers\naccess_log off;", "1:1: \"workers\" needs an argument; write: workers N|auto;",
            "1:8: expected \";\" at the end of \"workers\""),
        Case(";", "1:1: unexpected \";\""),
        Case("workers 2;;", "1:11: unexpected \";\""),
        Case("workers 2; }", "1:12: unexpected \"}\"; no block is open here"),
        Case("{ workers 2; }", "1:1: a block without a directive's name before it"),
        Case("workers 2 { }", "1:1: \"workers\" takes no block here; write: workers N|auto;"),
        Case("upstream app;", "1:1: \"upstream\" needs a block; write: upstream NAME { ... }"),
        Case("workers 2 3;", "1:11: \"workers\" takes no argument here; write: workers N|auto;"),
        Case("workers;", "1:1: \"workers\" needs an argument; write: workers N|auto;"),
        // Names.
        Case("wrokers 2;", "1:1: unknown directive \"wrokers\"; did you mean \"workers\"?"),
        Case("zzzzzz 2;", "1:1: unknown directive \"zzzzzz\""),
        Case("gate { }", "1:1: unknown directive \"gate\""),
        Case("bind 80;", "1:1: \"bind\" is not allowed at top level; it belongs in a listener or in admin"),
        Case("route / { }", "1:1: \"route\" is not allowed at top level; it belongs in a listener or in a host"),
        Case(
            "set_request_field A b;",
            "1:1: \"set_request_field\" is not allowed at top level; it belongs in a listener, in a host or in a route"),
        // A misspelt block is looked into all the same.
        Case(
            "upstrem u { server x; }", "1:1: unknown directive \"upstrem\"; did you mean \"upstream\"?",
            "1:1: warning: the upstream \"u\" is used by no route", "1:20: \"x\" needs a port: HOST:PORT"),
        // Quotes.
        Case("error_log \"a;\nworkers 2;", "1:11: this quote is not closed on its line"),
        Case(
            "error_log 'a;  # c\nworkers x;", "1:11: this quote is not closed on its line",
            "1:19: expected \";\" at the end of \"error_log\"",
            "2:9: expected auto or a number from 1 to 1024, not \"x\""),
        Case(
            "error_log \"a", "1:11: this quote is not closed on its line",
            "1:13: expected \";\" at the end of \"error_log\""),
        Case(
            "error_log \"a\\", "1:11: this quote is not closed on its line",
            "1:14: expected \";\" at the end of \"error_log\""),
        Case("error_log a\"b\";", "1:12: a quote inside a word; put the quotes around the whole word"),
        Case("error_log \"a\"b;", "1:14: expected a space or \";\" after the closing quote"),
        Case("error_log a\\b;", "1:12: a backslash outside quotes; put the word in quotes"),
        Case("error_log \"a\\qb\";", "1:13: an unknown escape; there are \\\\ \\\" \\' \\n \\r and \\t"),
        // Bytes.
        Case("workers\u{7}2;", "1:8: a control byte (0x07)"),
        Case("\u{0}\u{0}\u{1}", "1:1: a control byte (0x00)", "1:4: expected \";\" at the end of \"\""),
        Case("error_log \"a\u{7F}\";", "1:13: a control byte (0x7F)"),
        Case(
            "workers 2;\rworkers 2;", "1:11: a carriage return without a line feed",
            "1:12: a second \"workers\" in this block; first at proxy.conf:1:1"),
        Case("# a\rb", "1:4: a carriage return without a line feed"),
        // Variables and dollars.
        Case("workers $host;", "1:9: no variable can stand here; write \"$$\" for a dollar"),
        Case("workers $;", "1:9: a \"$\" without a name behind it; write \"$$\" for a dollar"),
        Case("workers \"a$\";", "1:11: a \"$\" without a name behind it; write \"$$\" for a dollar"),
        Case("workers ${;", "1:9: expected ${NAME} or ${NAME:-default}"),
        Case("workers ${};", "1:9: expected ${NAME} or ${NAME:-default}"),
        Case("workers ${A-b};", "1:9: expected ${NAME} or ${NAME:-default}"),
        Case(
            "workers ${A:-b\n};", "1:9: expected ${NAME} or ${NAME:-default}",
            "1:15: expected \";\" at the end of \"workers\"", "2:1: unexpected \"}\"; no block is open here",
            "2:2: unexpected \";\""),
        Case("workers ${NO_SUCH_NAME};", "1:9: the environment has no NO_SUCH_NAME, and no default is given"),
        // Columns are characters.
        Case(
            "error_log \"äöü\" x;",
            "1:17: \"error_log\" has no option \"x\"; write: error_log stderr|stdout|FILE "
                + "[level=debug|info|notice|warning|error] [format=text|json];"),
    ]

    @Test(arguments: cases) func mistakesOfGrammar(_ example: Case) {
        #expect(mistakes(in: .top, example.text) == example.mistakes)
    }

    @Test func blocksThatAreNeverClosedPointAtTheirOpening() {
        #expect(
            mistakes("listener l {\n  bind 1;\n  route / {\n    respond 200;\n") == [
                "1:12: this block is never closed", "3:11: this block is never closed",
            ])
    }

    @Test func blocksEndAtADepth() {
        let text = String(repeating: "listener l { ", count: 9) + String(repeating: "}", count: 9)
        let found = mistakes(text)
        #expect(found.contains("1:116: blocks are nested more than 8 deep"))
        #expect(!found.contains { $0.contains("never closed") || $0.contains("unexpected") })
        // And a depth that would overflow any stack ends as well.
        #expect(!mistakes(String(repeating: "listener l {", count: 80_000)).isEmpty)
    }

    @Test func brokenUTF8IsFoundOutsideComments() {
        let text = Array("# \u{FF}\nworkers ".utf8) + [0xC3, 0x28, 0xFF, 0xFE] + Array(";".utf8)
        let found = diagnostics(text).map { "\($0.location.line):\($0.location.column): \($0.message)" }
        #expect(
            found == [
                "1:1: there is no listener; nothing could be asked of this proxy", "2:9: this is not UTF-8",
                "2:11: this is not UTF-8",
            ])
        let comment: [UInt8] = Array("# ".utf8) + [0xFF, 0x00, 0x1B] + Array("\n".utf8)
        let (before, behind) = SnippetPlace.top.surroundings
        #expect(diagnostics(comment + Array((before + behind).utf8)).isEmpty)
    }

    @Test(
        arguments: [
            [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xE0, 0x80, 0x80], [0xF0, 0x8F, 0xBF, 0xBF],
            [0x80],
            [0xE2, 0x82], [0xF5, 0x80, 0x80, 0x80],
        ] as [[UInt8]])
    func formsThatAreNotUTF8(_ bytes: [UInt8]) {
        let found = diagnostics(Array("workers ".utf8) + bytes + Array(";".utf8))
        #expect(found.contains { $0.message == "this is not UTF-8" && $0.location.column == 9 })
    }

    @Test func byteOrderMarkAndCRLFAreHandled() throws {
        let (_, behind) = SnippetPlace.top.surroundings
        let lines = "workers 3;\r\nerror_log \"a b\"\r\n  level=error;\r\n"
        let text = [0xEF, 0xBB, 0xBF] + Array((lines + behind).utf8)
        let loaded = try ConfigurationFile.parse(text: text, file: "proxy.conf")
        #expect(loaded.configuration.workers == 3)
        #expect(loaded.configuration.errorLog.destination == .file("a b"))
        let broken = diagnostics([0xEF, 0xBB, 0xBF] + Array("wokers 3;\r\n".utf8)).last
        #expect(broken?.location == SourceLocation(file: "proxy.conf", line: 1, column: 1))
        #expect(broken?.sourceLine == "wokers 3;")
    }

    @Test func wordsAreReadAsWritten() throws {
        func text(_ snippet: String) throws -> Template? {
            let route = try model(in: .listener, "route = /t { respond 200 \(snippet); }").listeners[0].hosts[0].routes[
                1]
            if case .respond(_, let text) = route.action { return text }
            return nil
        }
        func literal(_ text: String) -> Template { Template(segments: [.literal(Array(text.utf8))]) }
        #expect(try text(#""a;{}# b\n\t\r\\\"\'""#) == literal("a;{}# b\n\t\r\\\"'"))
        #expect(try text(#"'a "b" c'"#) == literal("a \"b\" c"))
        #expect(try text("a#b") == literal("a#b"))
        #expect(try text("\"\"") == Template(segments: []))
        #expect(try text("$$host$$") == literal("$host$"))
        #expect(
            try text("\"on $node: $method$path\"")
                == Template(segments: [
                    .literal(Array("on ".utf8)), .variable(.node), .literal(Array(": ".utf8)), .variable(.method),
                    .variable(.path),
                ]))
        #expect(try text("grüße") == literal("grüße"))
        // The name of a directive begins no directive within a line, nor in quotes.
        #expect(try text("workers") == literal("workers"))
        #expect(try text("\n\"workers\"") == literal("workers"))
    }

    @Test func anEmptyFileHasNoListener() {
        #expect(mistakes("") == ["1:1: there is no listener; nothing could be asked of this proxy"])
    }

    @Test func garbageHasABoundOfMessages() {
        let found = mistakes(String(repeating: "x;", count: 5000))
        #expect(found.count == 1001)
        #expect(found.last?.hasSuffix("too much to tell; only the first 1000 found are listed") == true)
    }

    @Test func sizesOfFilesAndWordsAreBounded() throws {
        let long = String(repeating: "a", count: 65537)
        #expect(mistakes(in: .top, "workers \(long);") == ["1:9: the word is longer than 65536 bytes"])
        let comment = "#" + String(repeating: "-", count: 1 << 20)
        #expect(mistakes(comment) == ["0:0: it is larger than 1 MiB"])
        #expect(mistakes(String(comment.dropLast())).first?.hasPrefix("1:1: there is no listener") == true)
    }
}
