// How streams of HTTP/2 end when something is in the way: no window, no reader, another end that came first.

import Glibc
import HTTP2
import HTTP2Support
import Testing

private let post = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")]

@Suite struct StreamEndTests {
    private func start(_ origin: Origin, top: String = "", upstream: String = "", route: String = "") throws
        -> Headfirst
    {
        try Headfirst(to: origin, top: top, upstream: upstream, listener: "http2 on;", route: route)
    }

    /// Another stream has used up the connection's window: the end needs none of it, but nghttp2 sends it behind that.
    @Test(arguments: [lastChunk, "0\r\nX-Status: 0\r\n\r\n"])
    func anEndThatHasToWaitForAWindowIsNoReset(end: String) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            while true {
                let request = try wire.request()
                if request.startLine.contains("/large") {
                    try wire.ok(String(repeating: "l", count: 1 << 20))
                } else {
                    try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("x"))
                    try go.take()
                    try wire.send(end)
                }
            }
        }
        let client = try start(origin).connect()
        try client.beginHTTP2()
        try client.send(Frame.headers(Frame.get, stream: 1))
        while case let frame = try client.frame(), frame.type != 0 {}
        let large = Frame.get.map { $0.0 == ":path" ? (":path", "/large") : $0 }
        try client.send(Frame.headers(large, stream: 3) + Frame.make(8, stream: 3, Frame.number(1 << 20)))
        var content = 1
        while content < 65_535 {
            let frame = try client.frame()
            if frame.type == 0 { content += frame.payload.count }
        }
        go.give()
        usleep(100_000)
        try client.send(Frame.make(8, Frame.number(4 << 20)))
        let last = try client.endOfStream(1)
        #expect(last.type != 3 && last.endsStream)
        #expect(try client.endOfStream(3).type == 0)
    }

    /// A client that gives no window for the end of a connection's content is not waited for longer than others.
    @Test func anEndThatIsNotTakenIsNotWaitedForLong() throws {
        let origin = Origin { wire, _ in
            let request = try wire.request()
            if request.startLine.contains("/large") {
                try wire.ok(String(repeating: "l", count: 1 << 20))
            } else {
                try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
                usleep(200_000)
                try wire.send(lastChunk)
            }
        }
        let proxy = try start(origin, top: "send_idle_timeout 300ms;")
        let client = try proxy.connect()
        try client.beginHTTP2()
        let large = Frame.get.map { $0.0 == ":path" ? (":path", "/large") : $0 }
        try client.send(Frame.headers(Frame.get, stream: 1) + Frame.headers(large, stream: 3))
        #expect(try client.endOfStream(1).type == 3)
    }

    @Test func aStreamThatIsFreeAgainIsForWhoWaits() throws {
        let origin = Origin { wire, _ in
            try wire.serveHTTP2(settings: setting(3, 1))
            _ = try wire.requestedStream()
            // The first is never answered; its client goes.
            let second = try wire.requestedStream()
            try wire.send(Frame.headers([(":status", "204")], stream: second))
            _ = wire.drain()
        }
        let proxy = try start(origin, upstream: "protocol http2; keepalive 1;")
        let first = try proxy.connect()
        try first.ask("GET /1 HTTP/1.1")
        usleep(50_000)
        let second = try proxy.connect()
        try second.ask("GET /2 HTTP/1.1")
        usleep(50_000)
        first.close()
        #expect(try second.response().status == 204)
    }

    @Test func aConnectionWhoseLastStreamWasResetIsIdle() throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 5") + "cut")
        }
        let proxy = try start(origin, top: "keepalive_timeout 300ms;")
        let client = try proxy.connect()
        try client.beginHTTP2()
        try client.send(Frame.headers(Frame.get))
        #expect(try client.endOfStream(1).type == 3)
        // It is told to go, without another word of its own.
        while case let frame = try client.frame(), frame.type != 7 {}
    }

    @Test func aTunnelWhoseServerHasGoneHalfwayIsOver() throws {
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            let stream = try wire.requestedStream()
            try wire.send(
                Frame.headers([(":status", "200")], stream: stream, endsStream: false)
                    + data(stream, Array("last words".utf8), isLast: true)
                    + Frame.make(3, stream: stream, Frame.number(0)))
            _ = wire.drain()
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text); protocol http2; }
                listener main { bind 127.0.0.1:0; connect upstream origin; route / { upstream origin; } }
                """, origins: [origin])
        let client = try proxy.connect()
        try client.send(head("CONNECT a:1 HTTP/1.1", "Host: a:1"))
        #expect(try client.head().status == 200)
        #expect(try client.exactly(10) == Array("last words".utf8))
        // What is sent from here on reaches nobody, and the client learns that.
        let deadline = Now.milliseconds + 3000
        var isTold = false
        while !isTold, Now.milliseconds < deadline {
            usleep(20_000)
            do { try client.send("for nobody") } catch { isTold = true }
        }
        #expect(isTold)
    }

    @Test func aCompleteRequestIsServedToItsEndThoughItsClientHasGone() throws {
        let count = 60_000
        let seen = Handoff<Int>()
        let go = Handoff<Void>()
        let origin = Origin(receiveBuffer: 4096) { wire, _ in
            var request = try wire.head()
            try go.take()
            try wire.chunkedContent(of: &request)
            seen.give(request.content.count)
            try wire.ok()
        }
        let proxy = try start(origin, route: "on_client_close finish;")
        let client = try proxy.connect()
        try client.beginHTTP2()
        try client.send(
            Frame.headers(post, endsStream: false) + data(1, [UInt8](repeating: 1, count: count), isLast: true))
        usleep(100_000)
        client.endSending()
        usleep(100_000)
        go.give()
        #expect(try seen.take() == count)
    }

    @Test func anUploadThatNobodyWantsIsStopped() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                listener main { bind 127.0.0.1:0; http2 on; route /here { respond 200 "ok"; } }
                """)
        let client = try proxy.connect()
        try client.beginHTTP2()
        try client.send(Frame.headers(post + [("content-length", "1000000000")], endsStream: false))
        #expect(try client.endOfStream(1).type == 0)
        let reset = try client.endOfStream(1)
        #expect(reset.type == 3 && reset.payload == [0, 0, 0, 0])
        // A short one is read to its end, and the stream ends in order.
        try client.send(
            Frame.headers(post + [("content-length", "5")], stream: 3, endsStream: false)
                + data(3, Array("hello".utf8), isLast: true) + Frame.headers(Frame.get, stream: 5))
        #expect(try client.endOfStream(3).type == 0)
        while true {
            let frame = try client.frame()
            #expect(frame.stream != 3)
            if frame.stream == 5, frame.endsStream { break }
        }
    }

    /// nghttp2 does not hold servers to the length of what they answer CONNECT with.
    @Test(arguments: [5, 15])
    func aRefusalOfConnectThatIsNotAsLongAsDeclaredLooksCut(count: Int) throws {
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            while true {
                let stream = try wire.requestedStream()
                try wire.send(
                    Frame.headers([(":status", "404"), ("content-length", "10")], stream: stream, endsStream: false)
                        + data(stream, [UInt8](repeating: 1, count: count), isLast: true))
            }
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text); protocol http2; }
                listener main { bind 127.0.0.1:0; http2 on; connect upstream origin; route / { upstream origin; } }
                """, origins: [origin])
        let client = try proxy.connect()
        try client.send(head("CONNECT a:1 HTTP/1.1", "Host: a:1"))
        #expect(try client.head().status == 404)
        #expect(client.drain().bytes.count < 10)
        let other = try proxy.connect()
        try other.beginHTTP2()
        try other.send(Frame.headers([(":method", "CONNECT"), (":authority", "a:1")], endsStream: false))
        #expect(try other.endOfStream(1).type == 3)
    }

    /// The end of a client's TLS is told by every read from then on: it is taken note of once.
    @Test func aTLSClientThatHasEndedItsDirectionCostsNothing() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            try go.take()
            try wire.send(chunk("late") + lastChunk)
        }
        let proxy = try Headfirst.overTLS(to: origin, route: "on_client_close half_close;")
        let client = try HTTP2Wire(try proxy.connectTLS { $0.protocols = ["h2"] })
        let stream = try client.ask()
        #expect(try client.head(of: stream).hasPrefix("HTTP/1.1 200"))
        client.wire.notifyEnd()
        usleep(50_000)
        let before = proxy.command.processorMilliseconds
        usleep(500_000)
        #expect(proxy.command.processorMilliseconds - before < 200)
        go.give()
        #expect(try client.content(of: 1) == "late")
    }

    /// The name that CONNECT asks for goes up four times: as target, Host, and in both kinds of forwarding fields.
    @Test(arguments: ["4k", "64k"])
    func aLongNameToConnectToFindsRoom(relay: String) throws {
        let origin = Origin { wire, _ in
            let request = try wire.head()
            try wire.ok("\(request.startLine.utf8.count)")
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; relay_buffer \(relay);
                upstream origin { server \(origin.address.text); }
                listener main {
                    bind 127.0.0.1:0; request_head_max 128k; request_target_max 128k;
                    connect upstream origin; route / { upstream origin; }
                }
                """, origins: [origin])
        for length in [20_000, 60_000, 120_000] {
            let name = String(repeating: "a", count: length) + ":443"
            let answer = try proxy.answer(to: head("CONNECT \(name) HTTP/1.0"))
            #expect(answer.status == 200)
        }
    }
}
