// HTTP/2 with servers: exchanges that share a connection, and what a server may do to it.

import HTTP2
import HTTP2Support
import Testing

@Suite struct HTTP2UpstreamTests {
    private let request = head("POST /call HTTP/1.1", "Host: a", "TE: trailers", "Content-Length: 3") + "abc"

    /// An origin of HTTP/2.
    private func origin(_ script: @escaping @Sendable (_ server: HTTP2Wire, _ number: Int) throws -> Void) -> Origin {
        Origin { wire, number in try script(try HTTP2Wire(wire, role: .server), number) }
    }

    private func start(_ origin: Origin, server: String = "", top: String = "", route: String = "") throws -> Headfirst
    {
        try Headfirst(
            to: origin, top: top, upstream: "protocol http2;", server: server, listener: "http2 on;", route: route)
    }

    @Test func anExchangeInBothVersions() throws {
        let heads = Handoff<String>()
        let origin = origin { server, _ in
            while true {
                let (stream, text) = try server.request()
                heads.give(text)
                #expect(try server.content(of: stream.pointee.id) == "abc")
                try server.answer("HTTP/1.1 200 OK\r\nX-One: 1\r\n\r\n", isWhole: false, on: stream)
                server.end.send("def", on: stream)
                server.end.session.sendTrailers(server.end.write("0\r\nX-Sum: 2\r\n\r\n"), from: 3, on: stream)
                try server.flush()
            }
        }
        let proxy = try start(origin)
        let client = try proxy.connect()
        for _ in 0..<2 {
            try client.send(request)
            let answer = try client.response()
            #expect(answer.startLine == "HTTP/1.1 200 OK" && answer["x-one"] == "1" && answer.text == "def")
            #expect(answer["Via"] == "2.0 headfirst")
            #expect(answer.trailers == ["x-sum: 2"])
            let seen = try heads.take()
            #expect(seen.hasPrefix("POST /call HTTP/1.1|Host: a|") && seen.contains("|content-length: 3|"))
        }
        let other = try proxy.connectHTTP2()
        let stream = try other.ask(head("POST /call HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), isWhole: false)
        try other.send("abc", isLast: true, on: stream)
        #expect(try other.content(of: 1) == "def")
        // All of them on one connection.
        #expect(origin.connectionCount == 1)
    }

    @Test func manyAtOnceShareAConnection() throws {
        let origin = origin { server, _ in
            var waiting: [HTTP2StreamPointer] = []
            for _ in 0..<20 { waiting.append(try server.request().stream) }
            for stream in waiting.reversed() {
                try server.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", on: stream)
            }
            try server.ended()
        }
        let client = try start(origin).connectHTTP2()
        for _ in 0..<20 { try client.ask() }
        for number in 0..<20 {
            let id = Int32(39 - 2 * number)
            #expect(try client.content(of: id) == "ok")
        }
        #expect(origin.connectionCount == 1)
    }

    /// As a client's, a server's window is not filled at once where it is left with little room; but it is.
    @Test func creditThatIsExactIsUsed() throws {
        let origin = Origin { wire, _ in
            _ = try wire.exactly(Frame.preface.count)
            try wire.send(Frame.settings)
            try wire.framedContent(65_535)
            try wire.send(Frame.make(8, Frame.number(5000)) + Frame.make(8, stream: 1, Frame.number(10)))
            try wire.framedContent(10)
            try wire.send(Frame.make(8, stream: 1, Frame.number(4990)))
            try wire.framedContent(4455)
            try wire.send(Frame.headers([(":status", "204")]))
            _ = wire.drain()
        }
        let client = try start(origin).connect()
        try client.ask("PUT / HTTP/1.1", "Content-Length: 70000")
        try client.send([UInt8](repeating: 1, count: 70_000))
        #expect(try client.response().status == 204)
    }

    @Test func whatAServerHasNotLookedAtIsAskedAgain() throws {
        let origin = origin { server, number in
            let (stream, _) = try server.request()
            if number == 1 {
                server.end.session.reset(stream, code: HTTP2ErrorCode.refusedStream)
                try server.flush()
                let (again, _) = try server.request()
                try server.answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain", on: again)
            }
            try server.ended()
        }
        #expect(try start(origin).answer(to: request).text == "again")
    }

    @Test func whatItMayHaveSeenIsNot() throws {
        let origin = origin { server, _ in
            let (stream, _) = try server.request()
            server.end.session.reset(stream, code: HTTP2ErrorCode.internalError)
            try server.flush()
            try server.ended()
        }
        let answer = try start(origin).answer(to: request)
        #expect(answer.status == 502)
        #expect(answer["Proxy-Status"]?.contains("connection_terminated") ?? false)
    }

    @Test(
        "A head that breaks the rules is the server's fault, and said so",
        arguments: [
            [(":status", "200"), ("Upper", "case")], [(":status", "200"), ("connection", "close")],
            [("x-no", "status")], [(":status", "200"), (":path", "/")],
        ])
    func malformedHead(fields: [(String, String)]) throws {
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            while true {
                let stream = try wire.requestedStream()
                try wire.send(Frame.headers(fields, stream: stream))
            }
        }
        let answer = try start(origin).answer(to: head("GET / HTTP/1.1", "Host: a"))
        #expect(answer.status == 502)
        #expect(answer["Proxy-Status"]?.contains("error=http_protocol_error") ?? false, "\(answer)")
    }

    @Test func aServerThatGoesIsLeft() throws {
        let origin = origin { server, number in
            let (stream, _) = try server.request()
            server.end.session.shutDown()
            try server.answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)", on: stream)
            try server.ended()
        }
        let proxy = try start(origin)
        #expect(try proxy.answer(to: request).text == "1")
        #expect(try proxy.answer(to: request).text == "2")
    }

    @Test func aTruncatedAnswerLooksTruncated() throws {
        let origin = origin { server, _ in
            while true {
                let (stream, _) = try server.request()
                try server.answer("HTTP/1.1 200 OK\r\n\r\n", isWhole: false, on: stream)
                try server.send("half", on: stream)
                server.end.session.reset(stream, code: HTTP2ErrorCode.cancel)
                try server.flush()
            }
        }
        let proxy = try start(origin)
        let client = try proxy.connect()
        try client.send(request)
        _ = try client.head()
        let (bytes, ending) = client.drain()
        #expect(String(decoding: bytes, as: UTF8.self).hasSuffix("half\r\n") && ending == .ended)
        let other = try proxy.connectHTTP2()
        try other.ask()
        try other.expect(.closed(stream: 1, code: HTTP2ErrorCode.internalError))
    }

    @Test func aClientThatGoesIsToldOf() throws {
        let closed = Handoff<UInt32>()
        let origin = origin { server, _ in
            let (stream, _) = try server.request()
            try server.answer("HTTP/1.1 200 OK\r\n\r\n", isWhole: false, on: stream)
            closed.give(try server.next { if case .closed(_, let code) = $0 { code } else { nil } })
        }
        let client = try start(origin).connect()
        try client.ask()
        _ = try client.head()
        client.close()
        #expect(try closed.take() == HTTP2ErrorCode.cancel)
    }

    @Test func anUploadWaitsForItsWindow() throws {
        let go = Handoff<Void>()
        let origin = origin { server, _ in
            server.end.takesContent = false
            let (stream, _) = try server.request()
            // What the window holds comes, and no more.
            var count = 0
            while count < 65_536 {
                count += try server.next { if case .content(_, let text) = $0 { text.utf8.count } else { nil } }
            }
            #expect(count == 65_536)
            try go.take()
            server.end.takesContent = true
            server.end.session.contentTaken(count, of: stream)
            try server.flush()
            _ = try server.content(of: stream.pointee.id)
            try server.answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nread", on: stream)
            try server.ended()
        }
        let client = try start(origin).connect()
        let size = 400_000
        try client.send(head("PUT / HTTP/1.1", "Host: a", "Content-Length: \(size)"))
        startThread { [wire = Transfer(client)] in try? wire.value.send([UInt8](repeating: 1, count: size)) }
        go.give()
        #expect(try client.response().text == "read")
    }

    @Test func aServerOfHTTP1Only() throws {
        // It answers the preface with an error of its own.
        let origin = Origin { wire, _ in
            _ = try wire.exactly(24)
            try wire.send(head("HTTP/1.1 400 Bad Request", "Content-Length: 0"))
        }
        let answer = try start(origin).answer(to: request)
        #expect(answer.status == 502)
    }

    @Test func oneThatCannotBeReached() throws {
        let origin = Origin.serving()
        let free = Address.ipv4(port: try Address.freePort())
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(free.text); protocol http2; }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """, origins: [origin])
        let answer = try proxy.answer(to: request)
        #expect(answer.status == 502)
        #expect(answer["Proxy-Status"]?.contains("connection_refused") ?? false)
    }
}

/// A wire that another thread writes to, while this one reads.
private struct Transfer: @unchecked Sendable {
    let value: Wire
    init(_ value: Wire) { self.value = value }
}
