// The router against the plainest model of its rules: exact before prefix, the longest prefix at a segment
// boundary, the exact host before the longest pattern before none.

import HTTPSemantics
import ProxyConfiguration
import TestSupport
import Testing

@testable import ProxyCore

@Suite struct RouterTests {
    private func route(
        _ snapshot: Snapshot, _ target: String, host: String? = "h", method: String = "GET"
    ) throws -> String? {
        let version = host == nil ? "1.0" : "1.1"
        let line = host.map { "Host: \($0)\r\n" } ?? ""
        let parsed = try ParsedHead("\(method) \(target) HTTP/\(version)\r\n\(line)\r\n", .request)
        defer { withExtendedLifetime(parsed) {} }
        guard let route = snapshot.listeners[0].router.route(parsed.head) else { return nil }
        let names = [route.pointee.upstreamName, route.pointee.name]
        return names.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " ")
    }

    @Test(arguments: [
        ("/", "app /"), ("/a", "app /a"), ("/a/", "app /a"), ("/a/b", "app /a"), ("/ab", "app /"), ("/a?b", "app /a"),
        ("/b", "app = /b"), ("/b?x/y", "app = /b"), ("/b/", "app /"), ("/b/c", "app /"), ("/c/d/e", "app /c/d"),
        ("/c/d", "app /c/d"), ("/c/", "app /c/"), ("/c/x", "app /c/"), ("/c", "app /"), ("/c/de", "app /c/"),
        ("/c/d/e/f", "app = /c/d/e/f"), ("/c/d/e/f/g", "app /c/d"), ("//a", "app /"), ("/A", "app /"),
        ("/a%2Fb", "app /"), ("/?/a", "app /"), ("/a;x", "app /"), ("http://h/a/x", "app /a"), ("http://h", "app /"),
        ("http://h?/a", "app /"),
    ])
    func paths(_ target: String, _ expected: String) throws {
        let snapshot = try ProxyCoreTests.snapshot(
            """
            route / { upstream app; }
            route /a { upstream app; }
            route = /b { upstream app; }
            route /c/ { upstream app; }
            route /c/d { upstream app; }
            route = /c/d/e/f { upstream app; }
            """
        )
        let found = try route(snapshot, target)
        #expect(found == expected)
    }

    @Test func noRoute() throws {
        let snapshot = try ProxyCoreTests.snapshot("route /a { upstream app; }")
        #expect(try route(snapshot, "/") == nil)
        #expect(try route(snapshot, "/ab") == nil)
        #expect(try route(snapshot, "*", method: "OPTIONS") == nil)
        let exact = try ProxyCoreTests.snapshot("route = / { upstream app; }")
        #expect(try route(exact, "*", method: "OPTIONS") == "app = /")
        #expect(try route(exact, "http://h") == "app = /")
        #expect(try route(exact, "/x") == nil)
    }

    @Test(
        arguments: [
            ("a.example", "app /exact"), ("A.Example:8080", "app /exact"), ("a.example.", "app /exact"),
            ("b.example", "app /suffix"), ("x.b.example", "app /suffix"), ("deep.b.c.example", "app /longer"),
            ("c.example", "app /suffix"), ("x.c.example", "app /longer"), (".example", nil), ("example", nil),
            ("xexample", nil), ("[::1]", "app /six"), ("[::1]:80", "app /six"), ("other", nil),
            ("b.example.", "app /suffix"),
        ] as [(String, String?)])
    func hosts(_ host: String, _ expected: String?) throws {
        let snapshot = try ProxyCoreTests.snapshot(
            """
            host a.example { route /exact { upstream app; } }
            host *.example { route /suffix { upstream app; } }
            host *.c.example { route /longer { upstream app; } }
            host [::1] { route /six { upstream app; } }
            """
        )
        let found = try ["/exact", "/suffix", "/longer", "/six"].compactMap { try route(snapshot, $0, host: host) }
        #expect(found == (expected.map { [$0] } ?? []))
    }

    @Test func aHostWithASectionHasThatOneAlone() throws {
        let snapshot = try ProxyCoreTests.snapshot(
            """
            route / { upstream other; }
            host a.example { route /a { upstream app; } }
            """
        )
        #expect(try route(snapshot, "/a", host: "a.example") == "app /a")
        #expect(try route(snapshot, "/b", host: "a.example") == nil)
        #expect(try route(snapshot, "/a", host: "b.example") == "other /")
        #expect(try route(snapshot, "/a", host: nil) == "other /")
    }

    /// The rules, in as many words.
    private func model(_ hosts: [VirtualHost], host: String, path: String) -> String? {
        func find(_ routes: [Route]) -> String? {
            if let exact = routes.first(where: { $0.isExact && $0.path == path }) { return exact.name }
            let prefixes = routes.filter { route in
                guard !route.isExact, path.hasPrefix(route.path) else { return false }
                return route.path.hasSuffix("/") || path.count == route.path.count
                    || path.dropFirst(route.path.count).first == "/"
            }
            return prefixes.max { $0.path.count < $1.path.count }?.name
        }
        let named = hosts.first { $0.patterns.contains(host) }
        let matching = hosts.flatMap { section in
            section.patterns.filter { $0.hasPrefix("*.") && host.hasSuffix($0.dropFirst()) }.map { ($0.count, section) }
        }
        let section = named ?? matching.max { $0.0 < $1.0 }?.1
        if let section { return find(section.routes) }
        return hosts.first { $0.patterns.isEmpty }.flatMap { find($0.routes) }
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func likeTheModel(_ seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        func path() -> String {
            let count = Int.random(in: 0...4, using: &random)
            let segments = (0..<count).map { _ in
                ["a", "b", "ab", "", "long-segment"].randomElement(using: &random).unsafelyUnwrapped
            }
            return "/" + segments.joined(separator: "/")
        }
        func host() -> String {
            let count = Int.random(in: 1...4, using: &random)
            return (0..<count).map { _ in ["a", "b", "c"].randomElement(using: &random).unsafelyUnwrapped }.joined(
                separator: ".")
        }
        for _ in 0..<12 {
            var patterns: Set<String> = []
            var sections: [String] = []
            for index in 0..<4 {
                var paths: Set<String> = []
                var routes: [String] = []
                for _ in 0..<Int.random(in: 0...8, using: &random) {
                    let route = (Bool.random(using: &random) ? "= " : "") + path()
                    if paths.insert(route).inserted { routes.append("route \(route) { upstream app; }") }
                }
                if routes.isEmpty { routes = ["route /only { upstream app; }"] }
                guard index > 0 else {
                    sections += routes
                    continue
                }
                let pattern = (Bool.random(using: &random) ? "*." : "") + host()
                guard patterns.insert(pattern).inserted else { continue }
                sections.append("host \(pattern) {\n" + routes.joined(separator: "\n") + "\n}")
            }
            let configuration = try configuration(sections.joined(separator: "\n"))
            let snapshot = Snapshot(configuration, nodeName: "n")
            let hosts = configuration.listeners[0].hosts
            for _ in 0..<150 {
                let (path, host) = (path(), host())
                let found = try route(snapshot, path + "?q", host: host)
                #expect(found == model(hosts, host: host, path: path).map { "app " + $0 }, "\(host) \(path)")
            }
        }
    }
}
