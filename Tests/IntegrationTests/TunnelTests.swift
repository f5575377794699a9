// Rule 8: what a 101 opens passes bytes as they are, each direction until its own end.

import Testing

private let upgradeHead = head("GET /chat HTTP/1.1", "Host: t", "Connection: Upgrade", "Upgrade: websocket")
private let switchHead = head(
    "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x")

@Suite struct TunnelTests {
    /// A client whose request was answered by a 101; `after` is the server's end of the tunnel.
    private func open(
        upstream: String = "", route: String = "", glued: String = "", behindRequest: String = "",
        _ after: @escaping @Sendable (Wire) throws -> Void
    ) throws -> (proxy: Headfirst, client: Wire) {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(switchHead + glued)
            try after(wire)
        }
        let proxy = try Headfirst(to: origin, upstream: upstream, route: route)
        let client = try proxy.connect()
        try client.send(upgradeHead + behindRequest)
        #expect(try client.head().status == 101)
        return (proxy, client)
    }

    @Test func theHeadsOfASwitchAreWhole() throws {
        let got = Handoff<Message>()
        let origin = Origin { wire, _ in
            got.give(try wire.head())
            try wire.send(switchHead)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.send(
            head(
                "GET / HTTP/1.1", "Host: t", "Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket",
                "HTTP2-Settings: x", "Sec-WebSocket-Key: k"))
        let request = try got.take()
        #expect(request.all("Upgrade") == ["websocket"])
        #expect(request.all("Connection") == ["Upgrade"])
        #expect(request["Sec-WebSocket-Key"] == "k")
        #expect(request["HTTP2-Settings"] == nil)
        let response = try client.head()
        #expect(response.startLine == "HTTP/1.1 101 Switching Protocols")
        #expect(response.all("Upgrade") == ["websocket"])
        #expect(response.all("Connection") == ["Upgrade"])
        #expect(response["Content-Length"] == nil)
        #expect(response["Transfer-Encoding"] == nil)
    }

    @Test func bytesGluedToEitherHeadArrive() throws {
        let got = Handoff<[UInt8]>()
        let (_, client) = try open(glued: "first", behindRequest: "early") { wire in
            got.give(try wire.exactly(5))
        }
        #expect(try client.exactly(5) == Array("first".utf8))
        #expect(try got.take() == Array("early".utf8))
    }

    @Test func bytesPassBothWaysAsTheyAre() throws {
        let (_, client) = try open { wire in
            while true { try wire.send(wire.exactly(3)) }
        }
        for bytes in [[0, 13, 10], [255, 0, 1], [0x47, 0x45, 0x54]] as [[UInt8]] {
            try client.send(bytes)
            #expect(try client.exactly(3) == bytes)
        }
    }

    @Test func theServerMaySendAfterTheClientHasEnded() throws {
        let (_, client) = try open { wire in
            let got = wire.drain()
            try wire.send("you said \(String(decoding: got.bytes, as: UTF8.self))")
        }
        try client.send("hello")
        client.endSending()
        let answer = client.drain()
        #expect(String(decoding: answer.bytes, as: UTF8.self) == "you said hello")
        #expect(answer.end == .ended)
    }

    @Test func theClientMaySendAfterTheServerHasEnded() throws {
        let got = Handoff<[UInt8]>()
        let (_, client) = try open { wire in
            try wire.send("bye")
            wire.endSending()
            got.give(wire.drain().bytes)
        }
        let answer = client.drain()
        #expect(String(decoding: answer.bytes, as: UTF8.self) == "bye")
        #expect(answer.end == .ended)
        try client.send("still here")
        client.endSending()
        #expect(try String(decoding: got.take(), as: UTF8.self) == "still here")
    }

    @Test func aResetPassesToTheOtherSide() throws {
        let seen = Handoff<WireError>()
        let (_, client) = try open { wire in seen.give(wire.drain().end) }
        client.reset()
        #expect(try seen.take() == .reset)
        let (_, other) = try open { wire in wire.reset() }
        #expect(other.drain().end == .reset)
    }

    @Test func whatAFullSideHasNotTakenIsStillDelivered() throws {
        let size = 3 << 20
        let (_, client) = try open { wire in
            try wire.send([UInt8](repeating: 0x78, count: size))
        }
        // The server has ended long before this client begins to read.
        _ = client.isSilent(milliseconds: 50)
        let answer = client.drain()
        #expect(answer.bytes.count == size)
        #expect(answer.end == .ended)
    }

    @Test func aRefusalIsAnOrdinaryResponse() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request.target) }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        // What stands behind the request waits for the answer, and is the next request then.
        try client.send(upgradeHead + head("GET /next HTTP/1.1", "Host: t"))
        #expect(try client.response().text == "/chat")
        #expect(try client.response().text == "/next")
        // A connection that carried an Upgrade is not used again.
        #expect(origin.connectionCount == 2)
    }

    @Test(arguments: [
        ("off", "Upgrade: websocket", "HTTP/1.1"), ("any", "Upgrade: h2c", "HTTP/1.1"),
        ("websocket", "Upgrade: other", "HTTP/1.1"), ("any", "Upgrade: websocket", "HTTP/1.0"),
    ])
    func whatMayNotPassIsIgnored(_ policy: String, _ field: String, _ version: String) throws {
        let got = Handoff<Message>()
        let origin = Origin.serving { wire, request in
            got.give(request)
            try wire.ok("plain")
        }
        let proxy = try Headfirst(to: origin, route: "upgrade \(policy);")
        let response = try proxy.answer(to: head("GET / \(version)", "Host: t", "Connection: Upgrade", field))
        #expect(response.text == "plain")
        let request = try got.take()
        #expect(request["Upgrade"] == nil)
        #expect(request["Connection"] == nil)
    }

    @Test func aSwitchThatNobodyAskedForIs502() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(switchHead)
        }
        #expect(try Headfirst(to: origin).answer(to: head("GET / HTTP/1.1", "Host: t")).status == 502)
    }

    @Test func aTunnelThroughWhichNothingPassesEnds() throws {
        let seen = Handoff<WireError>()
        let start = Now.milliseconds
        let (_, client) = try open(route: "tunnel_idle_timeout 300ms;") { wire in seen.give(wire.drain().end) }
        try client.send("x")
        #expect(client.drain().bytes.isEmpty)
        #expect(try seen.take() == .ended)
        #expect((250..<1500).contains(Now.milliseconds - start))
    }

    @Test func aHalfClosedTunnelHasATimerOfItsOwn() throws {
        let over = Handoff<Void>()
        let (_, client) = try open(route: "tunnel_half_closed_timeout 200ms;") { wire in
            _ = wire.drain()
            try over.take()
        }
        let start = Now.milliseconds
        client.endSending()
        #expect(client.drain(milliseconds: 2000).end == .reset)
        #expect((150..<1500).contains(Now.milliseconds - start))
        over.give(())
    }
}
