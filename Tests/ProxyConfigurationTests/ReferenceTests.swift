// The example and the reference say what the table says.

import Glibc
import Testing

@testable import ProxyConfiguration

@Suite struct ReferenceTests {
    private static let root = FilePath.folder(of: #filePath) + "../../"

    private static func text(of path: String) throws -> String {
        String(decoding: try SystemFiles().read(root + path), as: UTF8.self)
    }

    @Test func theExamplePassesWithAnEmptyEnvironment() throws {
        let loaded = try ConfigurationFile.load(path: Self.root + "proxy.conf.example", environment: [:])
        #expect(loaded.warnings.isEmpty)
        #expect(loaded.configuration.listeners.count == 1)
    }

    /// What needs files of the operator's is commented out in a way that can be taken back.
    @Test func theExamplePassesWithItsTLSToo() throws {
        let lines = try Self.text(of: "proxy.conf.example").split(separator: "\n").map { line in
            guard let mark = line.firstRange(of: "#| ") else { return String(line) }
            return String(line[..<mark.lowerBound]) + line[mark.upperBound...]
        }
        let text = lines.joined(separator: "\n")
        let loaded = try ConfigurationFile.parse(text: Array(text.utf8), file: "proxy.conf.example")
        #expect(loaded.warnings.isEmpty)
        #expect(loaded.configuration.listeners[0].tls.count == 2)
        #expect(loaded.configuration.upstreams.last?.tls?.serverName == "api.example.com")
    }

    @Test func theExampleShowsEveryDirective() throws {
        let words = Set(
            try Self.text(of: "proxy.conf.example").split { !($0.isLetter || $0.isNumber || $0 == "_") }.map(
                String.init))
        // The other three field edits are like those that are shown.
        #expect(Directive.names.subtracting(words) == [])
    }

    @Test func theReferenceIsThatOfTheTable() throws {
        let path = Self.root + "docs/CONFIGURATION.md"
        if getenv("UPDATE_DOCS") != nil {
            let file = try #require(fopen(path, "w"))
            fputs(ConfigurationReference.markdown(), file)
            fclose(file)
        }
        let text = try Self.text(of: "docs/CONFIGURATION.md")
        #expect(text == ConfigurationReference.markdown())
    }

    @Test func theReferenceHasEveryDirectiveAndVariable() {
        let text = ConfigurationReference.markdown()
        for directive in Directive.all {
            #expect(text.contains("| `\(directive.name) "), "\(directive.name)")
            #expect(directive.summary.hasSuffix(".") || directive.summary.hasSuffix(")."), "\(directive.name)")
        }
        for variable in Variable.allCases { #expect(text.contains("`$\(variable.rawValue)`")) }
        #expect(text.split(separator: "\n").allSatisfy { $0.hasPrefix("|") || $0.count <= 120 })
    }

    @Test func everySettingHasADefaultThatIsValid() {
        for directive in Directive.all {
            #expect((directive.read != nil) == (directive.defaultText != nil), "\(directive.name)")
        }
        // Evaluating them checks them.
        #expect(Settings.defaults.relayBufferBytes == 65536)
    }

    @Test func aDirectiveHasOneRowInEachPlace() {
        for context in Context.allCases {
            let names = Directive.names(in: context)
            #expect(Set(names).count == names.count, "\(context)")
        }
    }
}
