// How a diagnostic is printed.

import ProxyConfiguration
import Testing

@Suite struct DiagnosticTests {
    private func printed(_ text: String) -> String {
        let (_, behind) = SnippetPlace.top.surroundings
        return diagnostics(Array((text + "\n" + behind).utf8)).map(\.description).joined(separator: "\n")
    }

    @Test func likeACompiler() {
        #expect(
            printed("workers auto;\nworkes 2;") == """
                proxy.conf:2:1: error: unknown directive "workes"; did you mean "workers"?
                    workes 2;
                    ^
                """)
    }

    @Test func caretFollowsTabsAndWideCharacters() {
        #expect(
            printed("\terror_log\t\"ä\" x=1;").hasSuffix(
                "    \terror_log\t\"ä\" x=1;\n    \t         \t    ^"))
        // U+4E2D fills two cells, a combining mark none.
        #expect(
            printed("error_log \"\u{4E2D}e\u{301}\" x=1;").hasSuffix(
                "    error_log \"\u{4E2D}e\u{301}\" x=1;\n                    ^"))
    }

    @Test func nothingSteersATerminal() {
        let text = printed("workers \u{1B}[31m\u{7};\nfoo\u{202E}bar 1;")
        #expect(!text.unicodeScalars.contains("\u{1B}") && !text.unicodeScalars.contains("\u{202E}"))
        #expect(text.contains("    workers \u{FFFD}[31m\u{FFFD};\n            ^"))
        #expect(text.contains("unknown directive \"foo\u{FFFD}bar\""))
    }

    @Test func longLinesAreCut() {
        let blanks = String(repeating: " ", count: 500)
        let found = diagnostics(Array("workers\(blanks)x\(blanks);".utf8)).last
        #expect(found?.location.column == 508)
        #expect(found?.sourceLine.count == 3 + 76 + 76 + 3)
        #expect(found?.caretLine.count == 3 + 76 + 1)
        #expect(found?.sourceLine.dropFirst(79).first == "x")
    }

    @Test func aFileThatCannotBeRead() {
        do {
            _ = try ConfigurationFile.load(path: "/nonexistent/proxy.conf", environment: [:])
            Issue.record("there is no such file")
        } catch {
            #expect(
                error.description == "/nonexistent/proxy.conf: error: cannot read it: No such file or directory")
        }
    }

    @Test func aFolderIsNoFile() {
        #expect(throws: ConfigurationErrors.self) { try ConfigurationFile.load(path: "/", environment: [:]) }
    }

    @Test func manyWarningsAreNoError() throws {
        let upstreams = (1...1001).map { "upstream u\($0) { server a:1; }\n" }.joined()
        let text = Array((upstreams + SnippetPlace.top.surroundings.behind).utf8)
        let warnings = try ConfigurationFile.parse(text: text, file: "proxy.conf").warnings
        #expect(warnings.count == 1001)
        #expect(warnings.allSatisfy { $0.severity == .warning })
    }

    @Test func warningsComeWithTheConfigurationAndAmongErrors() throws {
        let text = "upstream spare {\n server a:1;\n}\nlistener l {\n bind 1;\n route / { respond 200; }\n}\n"
        let loaded = try ConfigurationFile.parse(text: Array(text.utf8), file: "proxy.conf")
        #expect(
            loaded.warnings.map(\.description) == [
                """
                proxy.conf:1:1: warning: the upstream "spare" is used by no route
                    upstream spare {
                    ^
                """
            ])
        #expect(
            mistakes(text + "workers x;") == [
                "1:1: warning: the upstream \"spare\" is used by no route",
                "8:9: expected auto or a number from 1 to 1024, not \"x\"",
            ])
    }
}
