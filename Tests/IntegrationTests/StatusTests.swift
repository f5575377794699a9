// The status: as JSON, as events, and who may see it.

import Glibc
import Testing

/// A strict reader of JSON (RFC 8259): enough to tell a document from what is none, and to find values in it.
private indirect enum Document: Hashable {
    case null, bool(Bool), number(Double), string(String), array([Document]), object([String: Document])

    init(_ text: String) throws {
        var rest = Substring(text)
        self = try Self.value(&rest)
        Self.skipBlanks(&rest)
        guard rest.isEmpty else { throw Malformed(what: "more behind the document: \(rest.prefix(40))") }
    }

    subscript(_ name: String) -> Document? { if case .object(let members) = self { members[name] } else { nil } }
    subscript(_ index: Int) -> Document? {
        if case .array(let values) = self, values.indices.contains(index) { values[index] } else { nil }
    }

    private static func skipBlanks(_ text: inout Substring) { text = text.drop { " \n\r\t".contains($0) } }

    private static func take(_ word: String, _ text: inout Substring) -> Bool {
        guard text.hasPrefix(word) else { return false }
        text = text.dropFirst(word.count)
        return true
    }

    private static func value(_ text: inout Substring) throws -> Document {
        skipBlanks(&text)
        if take("null", &text) { return .null }
        if take("true", &text) { return .bool(true) }
        if take("false", &text) { return .bool(false) }
        if take("[", &text) { return .array(try list("]", &text) { try value(&$0) }) }
        if take("{", &text) {
            let members = try list("}", &text) { text in
                skipBlanks(&text)
                let name = try string(&text)
                skipBlanks(&text)
                guard take(":", &text) else { throw Malformed(what: "no colon: \(text.prefix(40))") }
                return (name, try value(&text))
            }
            return .object(try Dictionary(members) { _, _ in throw Malformed(what: "a name twice") })
        }
        if text.hasPrefix("\"") { return .string(try string(&text)) }
        let digits = text.prefix { "+-.eE0123456789".contains($0) }
        guard let number = Double(digits) else { throw Malformed(what: "no value: \(text.prefix(40))") }
        text = text.dropFirst(digits.count)
        return .number(number)
    }

    private static func list<Element>(
        _ end: String, _ text: inout Substring, _ element: (inout Substring) throws -> Element
    ) throws -> [Element] {
        var elements: [Element] = []
        skipBlanks(&text)
        if take(end, &text) { return elements }
        while true {
            elements.append(try element(&text))
            skipBlanks(&text)
            if take(end, &text) { return elements }
            guard take(",", &text) else { throw Malformed(what: "no comma: \(text.prefix(40))") }
        }
    }

    private static func string(_ text: inout Substring) throws -> String {
        guard take("\"", &text) else { throw Malformed(what: "no string: \(text.prefix(40))") }
        var result = ""
        while let letter = text.popFirst() {
            switch letter {
            case "\"": return result
            case "\\":
                guard let escaped = text.popFirst(), "\"\\/nrt".contains(escaped) else {
                    throw Malformed(what: "an escape that no test expects")
                }
                result.append(escaped == "n" ? "\n" : escaped == "r" ? "\r" : escaped == "t" ? "\t" : escaped)
            case _ where letter.unicodeScalars.contains { $0.value < 0x20 }:
                throw Malformed(what: "a control character")
            default: result.append(letter)
            }
        }
        throw Malformed(what: "a string without an end")
    }
}

extension Wire {
    /// A line of an event, which ends with a line feed alone.
    fileprivate func eventLine() throws -> String {
        while true {
            if let end = buffer.firstIndex(of: 10) { return String(decoding: take(end + 1).dropLast(), as: UTF8.self) }
            try pull()
        }
    }
}

@Suite struct StatusTests {
    private static let admin = "admin { bind 127.0.0.1:0; }"

    @Test func theDocumentHasTheFigures() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin, top: Self.admin, listener: "route = /a { respond 204; }")
        for _ in 0..<3 { #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200) }
        let series =
            "headfirst_requests_total{listener=\"main\",host=\"\",route=\"/\",upstream=\"origin\",code=\"2xx\"}"
        #expect(try proxy.metric(series, becomes: 3))
        let events = try proxy.askAdmin("/status/events", method: "HEAD")
        #expect(events.status == 200 && events["Content-Type"] == "text/event-stream")
        let response = try proxy.askAdmin("/status")
        #expect(response["Content-Type"] == "application/json")
        let status = try Document(response.text)
        #expect(status["state"] == .string("running"))
        #expect(status["workers"] == .number(1))
        #expect(status["configuration"]?["generation"] == .number(1))
        #expect(status["configuration"]?["last_error"] == .null)
        #expect(status["listeners"]?[0]?["name"] == .string("main"))
        #expect(status["listeners"]?[0]?["addresses"]?[0] == .string(proxy.listening[0]))
        #expect(status["upstreams"]?[0]?["servers"]?[0]?["address"] == .string(origin.address.text))
        #expect(status["upstreams"]?[0]?["servers"]?[0]?["up"] == .bool(true))
        let routes = (0..<3).compactMap { status["routes"]?[$0] }
        #expect(Set(routes.map { $0["route"] ?? .null }) == [.string("/"), .string("= /a"), .string("")])
        let route = try #require(routes.first { $0["route"] == .string("/") })
        #expect(route["requests"]?["2xx"] == .number(3))
        guard case .array(let buckets)? = route["head"]?["buckets"],
            case .array(let bounds)? = status["histogram_bounds_seconds"]
        else { throw Malformed(what: "no histogram") }
        #expect(buckets.count == bounds.count + 1)
        #expect(buckets.count { $0 != .number(0) } > 0)
    }

    @Test func eventsComeEverySecondAndTellOfAReload() throws {
        let text = """
            workers 1; access_log off; \(Self.admin)
            listener main { bind 127.0.0.1:0; route / { respond 204; } }
            """
        let proxy = try Headfirst(configuration: text)
        let client = try proxy.connectToAdmin()
        try client.ask("GET /status/events HTTP/1.1", host: "localhost")
        let response = try client.head()
        #expect(response.status == 200)
        #expect(response["Content-Type"] == "text/event-stream")
        func event() throws -> Document {
            let line = try client.eventLine()
            #expect(line.hasPrefix("data: "))
            #expect(try client.eventLine() == "")
            return try Document(String(line.dropFirst(6)))
        }
        let begin = Now.milliseconds
        // The first comes at once.
        #expect(try event()["configuration"]?["generation"] == .number(1))
        #expect(Now.milliseconds - begin < 500)
        proxy.hangUp(text + "nonsense;")
        _ = try proxy.errorLog.line(with: "nonsense")
        try proxy.reload(text.replacing("204", with: "205"))
        var last = try event()
        while last["configuration"]?["generation"] != .number(2), Now.milliseconds - begin < 5000 { last = try event() }
        #expect(last["configuration"]?["reloads_failed"] == .number(1))
        #expect(Now.milliseconds - begin > 900)
        // Longer than any other connection lives.
        proxy.terminate()
        while last["state"] != .string("draining"), Now.milliseconds - begin < 8000 { last = try event() }
        #expect(last["state"] == .string("draining"))
        proxy.command.signal(SIGTERM)
        #expect(try proxy.command.exitCode() == 0)
    }

    /// Who watches takes nobody's place, and nobody takes theirs.
    @Test func watchersAreBounded() throws {
        let proxy = try Headfirst(
            configuration: "access_log off; \(Self.admin) listener main { bind 127.0.0.1:0; route / { respond 204; } }")
        func watch() throws -> (wire: Wire, status: Int) {
            let client = try proxy.connectToAdmin()
            try client.ask("GET /status/events HTTP/1.1", host: "localhost")
            return (client, try client.head().status)
        }
        let watchers = try (0..<16).map { _ in try watch() }
        #expect(watchers.allSatisfy { $0.status == 200 })
        #expect(try watch().status == 503)
        let silent = try (0..<100).map { _ in try proxy.connectToAdmin() }
        #expect(try proxy.askAdmin("/healthz").status == 200)
        for (wire, _) in watchers {
            _ = try wire.eventLine()
            wire.close()
        }
        #expect(silent.count == 100)
        let deadline = Now.milliseconds + 4000
        var status = 503
        while status == 503, Now.milliseconds < deadline { status = try watch().status }
        #expect(status == 200)
    }

    @Test func onlyThoseWhoAreAllowedSeeTheStatus() throws {
        // Every address of 127.0.0.0/8 is the loopback: another address of this machine stands for the rest.
        guard let address = OwnAddress.find() else { return }
        for (allow, status) in [
            ("", 403), ("allow 203.0.113.0/24;", 403), ("allow 203.0.113.0/24 \(address.text);", 200),
        ] {
            let proxy = try Headfirst(
                configuration: """
                    access_log off; admin { bind 0.0.0.0:0; \(allow) }
                    listener main { bind 127.0.0.1:0; route / { respond 204; } }
                    """)
            let line = try proxy.errorLog.line(with: "admin=0.0.0.0:")
            let port = try #require(
                UInt16(line.split(separator: "admin=0.0.0.0:").last?.prefix { $0.isNumber } ?? ""))
            for path in ["/", "/status", "/status/events"] {
                let client = try address.connect(port: port)
                try client.ask("GET \(path) HTTP/1.1", host: address.text)
                #expect(try client.head().status == status, "\(path) \(allow)")
                let own = try Address.ipv4(port: port).connect()
                try own.ask("GET \(path) HTTP/1.1", host: "localhost")
                #expect(try own.head().status == 200)
            }
            for path in ["/healthz", "/readyz", "/metrics"] {
                let client = try address.connect(port: port)
                try client.ask("GET \(path) HTTP/1.1", host: address.text)
                #expect(try client.head().status == 200)
            }
        }
    }

    @Test func thePageLoadsNothing() throws {
        let proxy = try Headfirst(
            configuration: "access_log off; \(Self.admin) listener main { bind 127.0.0.1:0; route / { respond 204; } }")
        let response = try proxy.askAdmin("/")
        #expect(response["Content-Type"] == "text/html; charset=utf-8")
        #expect(response["Content-Security-Policy"]?.contains("default-src 'none'") == true)
        #expect(response.text.contains("EventSource(\"status/events\")"))
        #expect(!response.text.contains("innerHTML"))
        for word in ["src=\"http", "href=\"http", "url(http", "@import"] { #expect(!response.text.contains(word)) }
    }
}

/// An address of this machine that is not the loopback.
private struct OwnAddress {
    let text: String
    private let number: UInt32

    static func find() -> OwnAddress? {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return nil }
        defer { freeifaddrs(list) }
        var next = list
        while let entry = next {
            next = entry.pointee.ifa_next
            guard let place = entry.pointee.ifa_addr, Int32(place.pointee.sa_family) == AF_INET,
                entry.pointee.ifa_flags & UInt32(IFF_UP) != 0
            else { continue }
            let address = UnsafeRawPointer(place).loadUnaligned(as: sockaddr_in.self).sin_addr.s_addr
            let bytes = withUnsafeBytes(of: address) { Array($0) }
            if bytes[0] != 127 {
                return OwnAddress(text: bytes.map { "\($0)" }.joined(separator: "."), number: address)
            }
        }
        return nil
    }

    func connect(port: UInt16) throws -> Wire {
        let wire = Wire(Address.ipv4(port: 0).makeSocket())
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = number
        let outcome = withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(wire.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard outcome == 0 else { throw WireError.reset }
        return wire
    }
}
