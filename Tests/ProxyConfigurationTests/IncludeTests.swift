// Other files and the environment.

import Glibc
import ProxyConfiguration
import Testing

@Suite struct EnvironmentTests {
    @Test(arguments: [
        ("${N}", 3), ("${N:-4}", 3), ("${UNSET:-4}", 4), ("${EMPTY:-5}", 5), ("\"${N}\"", 3), ("'${N}${UNSET:-1}'", 31),
        ("1${N}2", 132),
    ])
    func expandsInWords(_ text: String, _ workers: Int) throws {
        let (_, behind) = SnippetPlace.top.surroundings
        let configuration = try model("workers \(text);\n" + behind, environment: ["N": "3", "EMPTY": ""])
        #expect(configuration.workers == workers)
    }

    @Test func whatItBringsIsNeverReadAgain() throws {
        let value = "a b;c{d}#\"e' $host ${N} \\n $$"
        let (_, behind) = SnippetPlace.top.surroundings
        let text = "error_log ${V};\n" + behind
        #expect(try model(text, environment: ["V": value]).errorLog.destination == .file(value))
    }

    @Test func mistakesAreAtTheirPlace() {
        let (_, behind) = SnippetPlace.top.surroundings
        #expect(
            mistakes("error_log a${B}c${D:-d}${E};\n" + behind) == [
                "1:12: the environment has no B, and no default is given",
                "1:24: the environment has no E, and no default is given",
            ])
        #expect(mistakes("# ${B}\n" + behind).isEmpty)
        #expect(
            mistakes("workers ${B};\n" + behind, environment: ["B": "x"]) == [
                "1:9: expected auto or a number from 1 to 1024, not \"x\""
            ])
        #expect(
            mistakes("workers ${B};\n" + behind, environment: ["B": ""]) == [
                "1:9: expected auto or a number from 1 to 1024, not \"\""
            ])
        let long = String(repeating: "x", count: 40_000)
        #expect(
            mistakes("workers ${B}${B};\n" + behind, environment: ["B": long]) == [
                "1:9: the word is longer than 65536 bytes"
            ])
    }
}

@Suite struct IncludeTests {
    private let main = "listener l {\n  bind 1;\n  include routes/*.conf;\n}\ninclude upstreams.conf;\n"

    @Test func standsAtTopLevelAndInBlocks() throws {
        let files = MemoryFiles(contents: [
            "upstreams.conf": "upstream u { include servers; }",
            "servers": "server a:1; server b:2;",
            "routes/b.conf": "route /b { upstream u; }",
            "routes/a.conf": "route /a { upstream u; }",
            "routes/.hidden.conf": "nonsense",
            "routes/a.txt": "nonsense",
        ])
        let configuration = try model(main, files: files)
        #expect(configuration.upstreams[0].servers.count == 2)
        #expect(configuration.listeners[0].hosts[0].routes.map(\.path) == ["/a", "/b"])
        #expect(
            configuration.listeners[0].hosts[0].routes[1].location
                == SourceLocation(file: "routes/b.conf", line: 1, column: 1))
    }

    @Test func mistakesNameTheirFileInTheOrderOfReading() {
        let files = MemoryFiles(contents: [
            "upstreams.conf": "upstream u {\n  server a;\n",
            "routes/a.conf": "route /a { upstream u; } }",
        ])
        #expect(
            mistakes(main + "workers x;", files: files) == [
                "6:9: expected auto or a number from 1 to 1024, not \"x\"",
                "routes/a.conf:1:26: unexpected \"}\"; no block is open here",
                "upstreams.conf:1:12: this block is never closed",
                "upstreams.conf:2:10: \"a\" needs a port: HOST:PORT",
            ])
    }

    @Test func duplicatesAreFoundAcrossFiles() {
        let (_, behind) = SnippetPlace.top.surroundings
        let files = MemoryFiles(contents: ["more.conf": "\n  workers 3;"])
        #expect(
            mistakes("workers 2;\ninclude more.conf;\n" + behind, files: files) == [
                "more.conf:2:3: a second \"workers\" in this block; first at proxy.conf:1:1"
            ])
    }

    @Test func pathsStartAtTheIncludingFile() throws {
        let files = MemoryFiles(contents: [
            "conf.d/a.conf": "include b.conf; include ../c.conf; include /etc/d.conf;",
            "conf.d/b.conf": "workers 2;", "conf.d/../c.conf": "retries 3;", "/etc/d.conf": "relay_buffer 8k;",
        ])
        let (_, behind) = SnippetPlace.top.surroundings
        let configuration = try model("include conf.d/a.conf;\n" + behind, files: files)
        #expect(configuration.workers == 2)
        #expect(configuration.relayBufferBytes == 8192)
    }

    @Test(arguments: [
        ("include no.conf;", "1:9: cannot read \"no.conf\": No such file or directory"),
        ("include no/*.conf;", "1:9: cannot list \"no/\": No such file or directory"),
        ("include */a.conf;", "1:9: wildcards can stand in the name of the file only, not in its folder"),
        ("include conf.d/;", "1:9: \"conf.d/\" is not the name of a file"),
        ("include \"\";", "1:9: \"\" is not the name of a file"),
        ("include;", "1:1: \"include\" takes one file and no block; write: include FILE;"),
        ("include a b;", "1:1: \"include\" takes one file and no block; write: include FILE;"),
        ("include a { }", "1:1: \"include\" takes one file and no block; write: include FILE;"),
        ("include $host;", "1:9: no variable can stand here; write \"$$\" for a dollar"),
        ("include big.conf;", "1:9: \"big.conf\" is larger than 1 MiB"),
        ("include proxy.conf;", "1:9: \"proxy.conf\" includes itself: proxy.conf -> proxy.conf"),
        ("include ./x/../proxy.conf;", "1:9: \"./x/../proxy.conf\" includes itself: proxy.conf -> ./x/../proxy.conf"),
        ("include one;", "two:1:9: \"one\" includes itself: one -> two -> one"),
        ("include deep/1;", "deep/8:1:9: includes are nested more than 8 deep"),
    ])
    func mistakesOfInclude(_ text: String, _ mistake: String) {
        var contents = [
            "conf.d/a": "", "one": "include two;", "two": "include one;",
            "big.conf": String(repeating: "#", count: (1 << 20) + 1),
        ]
        for depth in 1...9 { contents["deep/\(depth)"] = "include \(depth + 1);" }
        let (_, behind) = SnippetPlace.top.surroundings
        #expect(mistakes(text + "\n" + behind, files: MemoryFiles(contents: contents)) == [mistake])
    }

    @Test func aWildcardMayFindNothing() {
        let (_, behind) = SnippetPlace.top.surroundings
        let files = MemoryFiles(contents: ["conf.d/readme": ""])
        #expect(mistakes("include conf.d/*.conf;\n" + behind, files: files).isEmpty)
    }

    @Test func filesAreCounted() {
        // Each file includes the next ten times: ten million files, if nobody counted.
        var contents: [String: String] = [:]
        for depth in 1...7 { contents["\(depth)"] = String(repeating: "include \(depth + 1);", count: 10) }
        contents["8"] = ""
        let found = mistakes("include 1;", files: MemoryFiles(contents: contents))
        #expect(found.contains { $0.hasSuffix("more than 256 files in all") })
    }

    @Test(arguments: [
        ("*.conf", "a.conf", true), ("*.conf", ".conf", false), (".*", ".conf", true), ("*", "", true),
        ("a*b*c", "aXbYbZc", true), ("a*b*c", "aXbYbZ", false), ("?.conf", "ab.conf", false),
        ("?.conf", "a.conf", true),
        ("**", "x", true), ("a", "a", true), ("a", "ab", false),
    ])
    func wildcards(_ pattern: String, _ name: String, _ matches: Bool) throws {
        let files = MemoryFiles(contents: ["d/\(name)": "workers 7;", "d/~": ""])
        let (_, behind) = SnippetPlace.top.surroundings
        let configuration = try? model("include d/\(pattern);\n" + behind, files: files)
        #expect(configuration?.workers == (matches ? 7 : nil))
    }

    @Test func realFilesAreReadAndListed() throws {
        var template = Array("/tmp/headfirst-XXXXXX".utf8CString)
        let made = mkdtemp(&template) != nil
        try #require(made)
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let files = [
            "proxy.conf": "include *.inc;\n" + SnippetPlace.top.surroundings.behind, "a.inc": "workers 5;", "b.inc": "",
        ]
        defer {
            for name in files.keys { unlink("\(folder)/\(name)") }
            rmdir(folder)
        }
        for (name, text) in files {
            let file = try #require(fopen("\(folder)/\(name)", "w"))
            fputs(text, file)
            fclose(file)
        }
        let loaded = try ConfigurationFile.load(path: "\(folder)/proxy.conf", environment: [:])
        #expect(loaded.configuration.workers == 5)
    }
}
