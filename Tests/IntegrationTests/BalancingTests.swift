// Several servers: who gets an exchange, what a refused connect means, and what happens when all are full.

import Glibc
import Testing

@Suite struct BalancingTests {
    private func named(_ name: String) -> Origin { Origin.serving { wire, _ in try wire.ok(name) } }

    private func proxy(_ origins: [Origin], _ servers: [String], _ settings: String = "") throws -> Headfirst {
        let lines = servers.map { "server \($0);" }.joined(separator: " ")
        return try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream all { \(lines) \(settings) }
                listener main { bind 127.0.0.1:0; route / { upstream all; } }
                """, origins: origins)
    }

    /// An address where nobody listens: one that was bound and let go.
    private func refusing() -> String {
        let wire = Wire(Address.ipv4(port: 0).makeSocket())
        let wanted = Address.ipv4(port: 0)
        _ = wanted.withSocketAddress { bind(wire.descriptor, $0, $1) }
        return wanted.bound(to: wire.descriptor).text
    }

    private func answers(_ proxy: Headfirst, _ count: Int) throws -> [String] {
        let client = try proxy.connect()
        return try (0..<count).map { _ in
            try client.ask()
            return try client.response().text
        }
    }

    @Test func inTurnByWeight() throws {
        let (one, two) = (named("1"), named("2"))
        let proxy = try proxy([one, two], ["\(one.address.text) weight=3", two.address.text])
        let got = try answers(proxy, 40)
        #expect(got.count { $0 == "1" } == 30)
        // A heavy server does not get all of its turns in a row.
        #expect(Set(got[..<4]) == ["1", "2"])
    }

    @Test func theLeastBusyServerIsTaken() throws {
        let (came, go) = (Handoff<Void>(), Handoff<Void>())
        let slow = Origin.serving { wire, _ in
            came.give()
            try go.take()
            try wire.ok("slow")
        }
        let fast = named("fast")
        let proxy = try proxy([slow, fast], [slow.address.text, fast.address.text], "balance least_outstanding;")
        // Whoever comes first, soon one exchange hangs at the slow server; then all others go to the fast one.
        let hanging = try proxy.connect()
        try hanging.ask()
        if hanging.isSilent(milliseconds: 50) == false {
            _ = try hanging.response()
            try hanging.ask()
        }
        try came.take()
        #expect(try answers(proxy, 10) == Array(repeating: "fast", count: 10))
        go.give()
        #expect(try hanging.response().text == "slow")
    }

    @Test func aRefusedConnectGoesToTheNextServer() throws {
        let one = named("1")
        let proxy = try proxy([one], [refusing(), one.address.text, refusing()])
        #expect(try answers(proxy, 9) == Array(repeating: "1", count: 9))
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 5", content: "hello")
        #expect(try client.response().text == "1")
    }

    @Test func retriesBoundsTheTries() throws {
        let one = named("1")
        let servers = [refusing(), refusing(), refusing(), one.address.text]
        let proxy = try proxy([one], servers, "retries 0;")
        let statuses = try (0..<4).map { _ in try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status }
        #expect(statuses.sorted() == [200, 502, 502, 502])
    }

    @Test func whenEveryServerRefusesItIs502() throws {
        let proxy = try proxy([], [refusing(), refusing()])
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect(response.status == 502)
        #expect(response["Proxy-Status"]?.contains("error=connection_refused") == true)
    }

    // MARK: max_exchanges

    @Test func whoFindsAllServersFullWaits() throws {
        let (came, go) = (Handoff<String>(), Handoff<Void>())
        let origin = Origin.serving { wire, request in
            came.give(request.target)
            try go.take()
            try wire.ok(request.target)
        }
        let proxy = try Headfirst(to: origin, server: "max_exchanges=1")
        let clients = try (0..<4).map { number in
            let client = try proxy.connect()
            try client.ask("GET /\(number) HTTP/1.1")
            if number == 0 { #expect(try came.take() == "/0") }
            return client
        }
        for (number, client) in clients.enumerated() {
            #expect(came.count == 0, "no more than one at once")
            go.give()
            #expect(try client.response().text == "/\(number)")
            if number < 3 { #expect(try came.take() == "/\(number + 1)") }
        }
    }

    @Test func aFullServerIs503AfterTheQueueTimeout() throws {
        let origin = Origin.serving { wire, _ in _ = wire.drain() }
        let proxy = try Headfirst(to: origin, upstream: "queue_timeout 200ms;", server: "max_exchanges=1")
        let hanging = try proxy.connect()
        try hanging.ask()
        #expect(hanging.isSilent(milliseconds: 50))
        let start = Now.milliseconds
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect(response.status == 503)
        #expect(response["Retry-After"] != nil)
        #expect((150..<900).contains(Now.milliseconds - start))
    }

    /// The answer comes long after the request was read, and its content lies unread: it must be read on all the same.
    @Test func theNextRequestIsReadBehindALateAnswerOfOurOwn() throws {
        let origin = Origin.serving { wire, _ in _ = wire.drain() }
        let proxy = try Headfirst(to: origin, upstream: "queue_timeout 200ms;", server: "max_exchanges=1")
        let hanging = try proxy.connect()
        try hanging.ask()
        #expect(hanging.isSilent(milliseconds: 50))
        let client = try proxy.connect()
        let start = Now.milliseconds
        try client.send(
            head("POST / HTTP/1.1", "Host: t", "Content-Length: 5") + "hello" + head("GET / HTTP/1.1", "Host: t"))
        #expect(try client.response().status == 503)
        #expect(try client.response().status == 503)
        #expect(Now.milliseconds - start < 2000)
    }

    /// Places belong to the server, whichever upstream it is asked by.
    @Test func twoUpstreamsWaitForOneServer() throws {
        let origin = Origin.serving { wire, request in
            _ = wire.isSilent(milliseconds: 30)
            try wire.ok(request.target)
        }
        let server = "server \(origin.address.text) max_exchanges=1; queue_timeout 3s;"
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream a { \(server) }
                upstream b { \(server) }
                listener main { bind 127.0.0.1:0; route /a { upstream a; } route /b { upstream b; } }
                """, origins: [origin])
        let start = Now.milliseconds
        let clients = try ["/a", "/a", "/b", "/b"].map { target in
            let client = try proxy.connect()
            try client.ask("GET \(target) HTTP/1.1")
            return client
        }
        for client in clients { #expect(try client.response().status == 200) }
        #expect(Now.milliseconds - start < 2000)
    }

    @Test func whoGaveUpWaitingTakesNoPlace() throws {
        let (came, go) = (Handoff<String>(), Handoff<Void>())
        let origin = Origin.serving { wire, request in
            came.give(request.target)
            try go.take()
            try wire.ok(request.target)
        }
        let proxy = try Headfirst(to: origin, server: "max_exchanges=1")
        let first = try proxy.connect()
        try first.ask("GET /first HTTP/1.1")
        _ = try came.take()
        let leaver = try proxy.connect()
        try leaver.ask("GET /leaver HTTP/1.1")
        let last = try proxy.connect()
        try last.ask("GET /last HTTP/1.1")
        leaver.reset()
        #expect(last.isSilent(milliseconds: 100))
        go.give()
        _ = try first.response()
        #expect(try came.take() == "/last")
        go.give()
        #expect(try last.response().text == "/last")
    }

    @Test func newcomersDoNotOvertakeWhoWaits() throws {
        let (came, go) = (Handoff<String>(), Handoff<Void>())
        let origin = Origin.serving { wire, request in
            came.give(request.target)
            try go.take()
            try wire.ok()
        }
        let proxy = try Headfirst(to: origin, server: "max_exchanges=1")
        let greedy = try proxy.connect()
        try greedy.send(String(repeating: head("GET /greedy HTTP/1.1", "Host: t"), count: 20))
        #expect(try came.take() == "/greedy")
        let patient = try proxy.connect()
        try patient.ask("GET /patient HTTP/1.1")
        // The request is in the queue when the proxy has had time to read it.
        #expect(patient.isSilent(milliseconds: 100))
        var order: [String] = []
        for _ in 0..<3 {
            go.give()
            order.append(try came.take())
        }
        #expect(order.contains("/patient"))
    }
}
