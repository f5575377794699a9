// Rule 10: which upstream connection takes a request, and what is sent twice.

import Glibc
import Testing

@Suite struct ReuseTests {
    /// An origin whose answers name the connection.
    private func numbering(_ fields: String...) -> Origin {
        let lines = ["HTTP/1.1 200 OK", "Content-Length: 1"] + fields
        return Origin { wire, number in
            while true {
                _ = try wire.request()
                try wire.send(lines.joined(separator: "\r\n") + "\r\n\r\n" + "\(number)")
            }
        }
    }

    private func connectionNumber(_ proxy: Headfirst, _ request: String = "GET / HTTP/1.1") throws -> String {
        let client = try proxy.connect()
        try client.ask(request, "Content-Length: 0")
        return try client.response().text
    }

    @Test func oneConnectionServesOneAfterTheOther() throws {
        let origin = numbering()
        let proxy = try Headfirst(to: origin)
        for _ in 0..<10 { #expect(try connectionNumber(proxy) == "1") }
        #expect(try connectionNumber(proxy, "POST / HTTP/1.1") == "1")
        #expect(origin.connectionCount == 1)
    }

    @Test func theLastUsedConnectionIsTakenFirst() throws {
        let (came, go) = (Handoff<Int>(), Monitor<Set<Int>>([]))
        let origin = Origin { wire, number in
            while true {
                _ = try wire.request()
                came.give(number)
                _ = try go.wait(for: "the word") { $0.remove(number) }
                try wire.ok("\(number)")
            }
        }
        let proxy = try Headfirst(to: origin)
        let clients = try (0..<3).map { _ in
            let client = try proxy.connect()
            try client.ask()
            _ = try came.take()
            return client
        }
        for number in [1, 3, 2] {
            go.update { _ = $0.insert(number) }
            #expect(try clients[number - 1].response().text == "\(number)")
        }
        let client = try proxy.connect()
        try client.ask()
        #expect(try came.take() == 2)
        go.update { _ = $0.insert(2) }
        _ = try client.response()
    }

    @Test(
        "Connections that are not kept",
        arguments: [
            ("keepalive off;", ""), ("keepalive 10 requests=1;", ""), ("", "Connection: close"),
            ("", "Keep-Alive: timeout=1"), ("", "Keep-Alive: timeout=0, max=5"),
        ])
    func notKept(upstream: String, field: String) throws {
        let origin = field.isEmpty ? numbering() : numbering(field)
        let proxy = try Headfirst(to: origin, upstream: upstream)
        #expect(try connectionNumber(proxy) == "1")
        #expect(try connectionNumber(proxy) == "2")
    }

    @Test func requestsBoundsTheUseOfAConnection() throws {
        let proxy = try Headfirst(to: numbering(), upstream: "keepalive 10 requests=2;")
        #expect(try (0..<5).map { _ in try connectionNumber(proxy) } == ["1", "1", "2", "2", "3"])
    }

    @Test(
        "Idle connections end in time",
        arguments: [
            ("keepalive 10 idle=200ms;", ""), ("", "Keep-Alive: timeout=2"),
        ])
    func idleEnd(upstream: String, field: String) throws {
        let ended = Handoff<WireError>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.ok("ok", field.isEmpty ? "X-A: b" : field)
            ended.give(wire.drain().end)
        }
        let proxy = try Headfirst(to: origin, upstream: upstream)
        let start = Now.milliseconds
        let client = try proxy.connect()
        try client.ask()
        _ = try client.response()
        #expect(try ended.take() == .ended)
        let wanted = field.isEmpty ? 200 : 1000
        #expect((wanted - 50..<wanted + 700).contains(Now.milliseconds - start))
    }

    @Test func ageBoundsTheLifeOfAConnection() throws {
        let proxy = try Headfirst(to: numbering(), upstream: "keepalive 10 age=100ms;")
        #expect(try connectionNumber(proxy) == "1")
        // The clock has to move on: nothing else tells the age.
        let start = Now.milliseconds
        let client = try proxy.connect()
        _ = client.isSilent(milliseconds: 120)
        #expect(Now.milliseconds - start >= 100)
        #expect(try connectionNumber(proxy) == "2")
    }

    @Test func keepaliveCountBoundsThePool() throws {
        let (came, go, ended) = (Handoff<Void>(), Handoff<Void>(), Handoff<Void>())
        let origin = Origin { wire, _ in
            _ = try wire.request()
            came.give()
            try go.take()
            try wire.ok()
            if wire.drain(milliseconds: 3000).end == .ended { ended.give() }
        }
        let proxy = try Headfirst(to: origin, upstream: "keepalive 2;")
        let clients = try (0..<5).map { _ in
            let client = try proxy.connect()
            try client.ask()
            return client
        }
        for _ in clients { try came.take() }
        for _ in clients { go.give() }
        for client in clients { #expect(try client.response().status == 200) }
        // A load in waves finds them again for a second.
        #expect(throws: Late.self) { try ended.take(milliseconds: 500) }
        for _ in 0..<3 { try ended.take(milliseconds: 2000) }
        #expect(throws: Late.self) { try ended.take(milliseconds: 100) }
    }

    @Test func aPoolSmallerThanTheLoadDoesNotFlap() throws {
        let origin = Origin.serving { wire, _ in
            usleep(30_000)
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, upstream: "keepalive 2;")
        let clients = try (0..<10).map { _ in try proxy.connect() }
        for _ in 0..<6 {
            for client in clients { try client.ask() }
            for client in clients { #expect(try client.response().status == 200) }
        }
        #expect(origin.connectionCount == 10)
    }

    @Test func bytesOnAnIdleConnectionCloseIt() throws {
        let (go, ended) = (Handoff<Void>(), Handoff<WireError>())
        let origin = Origin { wire, number in
            _ = try wire.request()
            try wire.ok("\(number)")
            if number == 1 {
                try go.take()
                try wire.send(head("HTTP/1.1 408 Request Timeout", "Content-Length: 0"))
                ended.give(wire.drain().end)
            }
        }
        let proxy = try Headfirst(to: origin)
        #expect(try connectionNumber(proxy) == "1")
        go.give()
        #expect(try ended.take() != .late)
        #expect(try connectionNumber(proxy) == "2")
    }

    /// The first connection answers once and then breaks when the next request is on it.
    private func stale(_ seen: Handoff<Message>, resets: Bool) -> Origin {
        Origin { wire, number in
            seen.give(try wire.request())
            try wire.ok("\(number)")
            let request = try wire.request()
            seen.give(request)
            if number == 1 {
                if resets { wire.reset() }
                return
            }
            try wire.ok("\(number) \(request.text)")
        }
    }

    @Test(
        "An idempotent request on a stale connection is sent once more",
        arguments: [
            ("GET /x HTTP/1.1", true), ("GET /x HTTP/1.1", false), ("PUT /x HTTP/1.1", true),
            ("DELETE /x HTTP/1.1", false),
        ])
    func retriedOnce(request: String, resets: Bool) throws {
        let seen = Handoff<Message>()
        let proxy = try Headfirst(to: stale(seen, resets: resets))
        let client = try proxy.connect()
        try client.ask()
        _ = try client.response()
        _ = try seen.take()
        try client.ask(request, "Content-Length: 5", content: "hello")
        #expect(try client.response().text == "2")
        let (first, second) = (try seen.take(), try seen.take())
        #expect(first.raw == second.raw)
        #expect(second.text == "hello")
    }

    @Test("What may have been processed is not sent again", arguments: [true, false])
    func postIsNotRetried(resets: Bool) throws {
        let seen = Handoff<Message>()
        let proxy = try Headfirst(to: stale(seen, resets: resets))
        let client = try proxy.connect()
        try client.ask()
        _ = try client.response()
        _ = try seen.take()
        try client.ask("POST /x HTTP/1.1", "Content-Length: 5", content: "hello")
        #expect(try client.response().status == 502)
        #expect(try seen.take().method == "POST")
        #expect(seen.count == 0)
    }

    @Test func aFreshConnectionThatBreaksIsNotTriedAgain() throws {
        let origin = Origin { wire, _ in _ = try wire.request() }
        let proxy = try Headfirst(to: origin)
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: test")).status == 502)
        #expect(origin.connectionCount == 1)
    }

    @Test func aRequestIsNotSentAgainOnceAnAnswerBegan() throws {
        let origin = Origin { wire, number in
            _ = try wire.request()
            try wire.ok()
            _ = try wire.request()
            try wire.send(number == 1 ? "HTTP/1.1 2" : head("HTTP/1.1 200 OK", "Content-Length: 0"))
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        _ = try client.response()
        try client.ask()
        #expect(try client.response().status == 502)
        #expect(origin.connectionCount == 1)
    }

    @Test func aPostDoesNotTakeAConnectionThatIdledForLong() throws {
        let proxy = try Headfirst(to: numbering())
        #expect(try connectionNumber(proxy) == "1")
        let client = try proxy.connect()
        _ = client.isSilent(milliseconds: 1100)
        #expect(try connectionNumber(proxy, "POST / HTTP/1.1") == "2")
        #expect(try connectionNumber(proxy, "GET / HTTP/1.1") == "2")
    }
}
