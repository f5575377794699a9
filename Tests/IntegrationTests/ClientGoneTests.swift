// Rule 9: what a client's close means while its answer is owed. And pipelining.

import Testing

@Suite struct ClientGoneTests {
    /// An origin that tells when a request came and how its connection ended, and answers when it may.
    private struct Scripted {
        let came = Handoff<String>()
        let go = Handoff<Void>()
        let ended = Handoff<WireError>()

        func origin() -> Origin {
            let (came, go, ended) = (came, go, ended)
            return Origin { wire, _ in
                do {
                    while true {
                        let request = try wire.request()
                        came.give(request.target)
                        try wire.await(go)
                        try wire.ok(request.target)
                    }
                } catch let error as WireError { ended.give(error) }
            }
        }
    }

    enum Leaving: CaseIterable { case fin, reset, close }

    private func leave(_ client: Wire, _ leaving: Leaving) {
        switch leaving {
        case .fin: client.endSending()
        case .reset: client.reset()
        case .close: client.close()
        }
    }

    @Test("Under `abort` the server is told at once", arguments: Leaving.allCases)
    func abort(leaving: Leaving) throws {
        let script = Scripted()
        let proxy = try Headfirst(to: script.origin())
        let client = try proxy.connect()
        try client.ask()
        _ = try script.came.take()
        let start = Now.milliseconds
        leave(client, leaving)
        #expect(try script.ended.take() != .late)
        #expect(Now.milliseconds - start < 1000)
    }

    @Test("In the middle of a response", arguments: Leaving.allCases)
    func abortInTheMiddle(leaving: Leaving) throws {
        let ended = Handoff<WireError>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"))
            ended.give(wire.drain().end)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        _ = try client.head()
        _ = try client.chunk()
        leave(client, leaving)
        #expect(try ended.take(milliseconds: 1000) != .late)
    }

    @Test("In the middle of a request", arguments: Leaving.allCases)
    func abortUpload(leaving: Leaving) throws {
        let (came, ended) = (Handoff<Void>(), Handoff<WireError>())
        let origin = Origin { wire, _ in
            _ = try wire.head()
            came.give()
            ended.give(wire.drain().end)
        }
        let proxy = try Headfirst(to: origin, route: "on_client_close finish;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 10", content: "hello")
        try came.take()
        leave(client, leaving)
        #expect(try ended.take(milliseconds: 1000) != .late)
    }

    @Test("Under `finish` the answer runs out unread", arguments: Leaving.allCases)
    func finish(leaving: Leaving) throws {
        let script = Scripted()
        let proxy = try Headfirst(to: script.origin(), route: "on_client_close finish;", log: "stdout format=json")
        let client = try proxy.connect()
        try client.ask("GET /left HTTP/1.1")
        _ = try script.came.take()
        leave(client, leaving)
        script.go.give()
        #expect(try proxy.accessLog.lines(1)[0].contains("\"response_bytes\":5"))
        // The server's connection was not harmed: it serves the next.
        let other = try proxy.connect()
        try other.ask("GET /next HTTP/1.1")
        #expect(try script.came.take() == "/next")
        script.go.give()
        #expect(try other.response().text == "/next")
        #expect(script.ended.count == 0)
    }

    @Test func underHalfCloseAFinIsTheEndOfRequestsOnly() throws {
        let script = Scripted()
        let proxy = try Headfirst(to: script.origin(), route: "on_client_close half_close;")
        let client = try proxy.connect()
        try client.ask("GET /1 HTTP/1.1")
        try client.ask("GET /2 HTTP/1.1")
        client.endSending()
        #expect(try script.came.take() == "/1")
        script.go.give()
        #expect(try client.response().text == "/1")
        script.go.give()
        #expect(try client.response().text == "/2")
        #expect(client.end() == .ended)
    }

    @Test func underAbortPipelinedRequestsAreDroppedWithTheFin() throws {
        let script = Scripted()
        let proxy = try Headfirst(to: script.origin())
        let client = try proxy.connect()
        try client.ask("GET /1 HTTP/1.1")
        try client.ask("GET /2 HTTP/1.1")
        #expect(try script.came.take() == "/1")
        client.endSending()
        #expect(try script.ended.take() != .late)
        #expect(script.came.count == 0)
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() throws {
        let origin = Origin.serving { wire, request in try wire.ok("\(request.target) \(request.text)") }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        var batch = ""
        for number in 0..<50 {
            batch +=
                number % 2 == 0
                ? head("GET /\(number) HTTP/1.1", "Host: test")
                : head("POST /\(number) HTTP/1.1", "Host: test", "Content-Length: 3") + "abc"
        }
        try client.send(batch)
        for number in 0..<50 {
            #expect(try client.response().text == (number % 2 == 0 ? "/\(number) " : "/\(number) abc"))
        }
    }

    @Test func aResetDoesNotEndWhatOthersDo() throws {
        let script = Scripted()
        let proxy = try Headfirst(to: script.origin())
        let leaver = try proxy.connect()
        let stayer = try proxy.connect()
        try stayer.ask("GET /stay HTTP/1.1")
        _ = try script.came.take()
        try leaver.ask("GET /leave HTTP/1.1")
        _ = try script.came.take()
        leaver.reset()
        #expect(try script.ended.take() != .late)
        script.go.give()
        #expect(try stayer.response().text == "/stay")
    }
}
