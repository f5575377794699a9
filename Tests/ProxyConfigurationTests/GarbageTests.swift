// Whatever is in the file: no trap, an answer in time, and places that lie within the text.

import TestSupport
import Testing

@testable import ProxyConfiguration

@Suite struct GarbageTests {
    /// Pieces that lead into the corners of the grammar.
    private static let pieces: [[UInt8]] =
        [
            "{", "}", ";", "\"", "'", "\\", "$", "${", "}", "${A:-", "$$", "#", "\n", "\r", "\r\n", "\t", " ", "=", ":",
            "/", "*",
            "[", "]", "unix:", "include x;", "include *;", "upstream", "route", "host", "listener l {",
            "99999999999999999999",
            "0", "off", "\u{FEFF}", "\u{0}", "\u{7F}", "ä", "\u{4E2D}", "e\u{301}", "\u{202E}",
        ].map { Array($0.utf8) } + [[0xFF], [0xC3], [0xE2, 0x82], [0xF0, 0x9F], [0xED, 0xA0, 0x80]]

    private static func mutate(_ bytes: [UInt8], with generator: inout SeededGenerator) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...6, using: &generator) {
            let index = Int.random(in: 0...bytes.count, using: &generator)
            let end = min(bytes.count, index + Int.random(in: 0...20, using: &generator))
            switch Int.random(in: 0..<5, using: &generator) {
            case 0: bytes.removeSubrange(index..<end)
            case 1: bytes.insert(contentsOf: bytes[index..<end], at: Int.random(in: 0...bytes.count, using: &generator))
            case 2: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: index)
            case 3 where index < end: bytes[index] ^= 1 << UInt8.random(in: 0...7, using: &generator)
            default: bytes.insert(contentsOf: pieces.randomElement(using: &generator) ?? [], at: index)
            }
        }
        return bytes
    }

    /// Every diagnostic points into the text it names and can be printed.
    private static func check(_ bytes: [UInt8]) {
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        let files = MemoryFiles(contents: ["x": "route / {", "y": "include z;", "z": "include y;"])
        for diagnostic in diagnostics(bytes, environment: ["A": "a; {"], files: files) {
            let place = diagnostic.location
            #expect(!diagnostic.message.isEmpty && diagnostic.description.utf8.count < 4096)
            guard place.file == "proxy.conf" else { continue }
            guard (1...lines.count).contains(place.line) else {
                Issue.record("line \(place.line) of \(lines.count): \(diagnostic)")
                continue
            }
            #expect((1...lines[place.line - 1].count + 1).contains(place.column), "\(diagnostic)")
        }
    }

    @Test(.timeLimit(.minutes(2))) func twentyThousandMutationsOfTheExample() throws {
        let example = try SystemFiles().read(FilePath.folder(of: #filePath) + "../../proxy.conf.example")
        // Comments would take most of the time and tell nothing.
        let dense = example.split(separator: UInt8(ascii: "\n"))
            .map { $0.prefix { $0 != UInt8(ascii: "#") } }.joined(separator: [UInt8(ascii: "\n")])
        let text = Array(dense)
        var generator = SeededGenerator(seed: 9110)
        for round in 0..<20_000 {
            if round.isMultiple(of: 100) {
                Self.check(Self.mutate(text, with: &generator))
            } else {
                let start = Int.random(in: 0..<text.count, using: &generator)
                let end = min(text.count, start + Int.random(in: 0...400, using: &generator))
                Self.check(Self.mutate(Array(text[start..<end]), with: &generator))
            }
        }
    }

    /// A megabyte of what is dear to read, or to report, is read in linear time.
    @Test(
        .timeLimit(.minutes(1)),
        arguments: [
            "{", "}", ";", "\"", "'\n", "x;", "a b ", "x{", "${A}", "$a", "#\n", "\\", "\u{1}", "upstream a{}", "\"\\",
            "${A:-",
        ])
    func aMegabyteOfOneThing(_ piece: String) {
        let text = Array(String(repeating: piece, count: (1 << 20) / piece.utf8.count).utf8)
        #expect(!diagnostics(text, environment: ["A": "b"]).isEmpty)
    }

    /// What could be compared with everything else is not.
    @Test(.timeLimit(.minutes(1))) func manyUpstreamsAndManyRoutes() {
        var text = ""
        for index in 0..<12_000 { text += "upstream name\(index) { server a:1; }\n" }
        text += "listener l {\nbind 1;\n"
        for index in 0..<256 { text += "add_request_field A \(index);\n" }
        for index in 0..<10_000 { text += "route /\(index) { upstream nam\(index); }\n" }
        let found = mistakes(text + "}")
        #expect(found.count == 1001)
        #expect(found.contains { $0.contains("there is no upstream") })
    }
}
