// Rule 4: a response that was cut short never looks whole.

import Testing

@Suite struct TruncationTests {
    @Test(
        "Upstream ends in the middle",
        arguments: [
            head("HTTP/1.1 200 OK", "Content-Length: 10") + "hello",
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"),
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "a\r\nhello",
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello") + "0\r\n",
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello") + "0\r\nX-Sum: 1\r\n",
        ])
    func cut(response: String) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(response)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        let message = try client.head()
        #expect(message.status == 200)
        let (bytes, end) = client.drain()
        #expect(end != .late)
        let text = String(decoding: bytes, as: UTF8.self)
        #expect(text.contains("hello"))
        #expect(!text.contains("0\r\n\r\n"))
    }

    @Test(
        "To HTTP/1.0 only a reset tells",
        arguments: [
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("hello"),
            head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "a\r\nhello",
        ])
    func cutToHTTP10(response: String) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(response)
            try go.take()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("GET / HTTP/1.0")
        _ = try client.head()
        #expect(String(decoding: try client.exactly(5), as: UTF8.self) == "hello")
        go.give()
        #expect(client.end() == .reset)
    }

    @Test("A reset where only the close marks the end", arguments: ["1.0", "1.1"])
    func resetOfCloseDelimited(version: String) throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK") + "hello")
            try go.take()
            wire.reset()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("GET / HTTP/\(version)")
        let message = try client.head()
        if message.isChunked {
            #expect(try client.chunk() == Array("hello".utf8))
            go.give()
            #expect(client.end() != .late)
        } else {
            _ = try client.exactly(5)
            go.give()
            #expect(client.end() == .reset)
        }
    }

    @Test("Malformed content after the head", arguments: ["zz\r\n", "5\r\nhelloXX", "5 5\r\n", "-1\r\n", "5\nhello"])
    func malformed(content: String) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + chunk("good") + content)
            _ = wire.drain()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        _ = try client.head()
        let (bytes, end) = client.drain()
        #expect(end != .late)
        #expect(!String(decoding: bytes, as: UTF8.self).contains("0\r\n\r\n"))
    }

    @Test("An end before or within the head is 502", arguments: ["", "HTTP/1.1 200 OK\r\nX-Part", "HTTP/1.1 20"])
    func endWithinHead(part: String) throws {
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try wire.send(part)
        }
        let proxy = try Headfirst(to: origin)
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: test"))
        #expect(response.status == 502)
        #expect(response["Proxy-Status"]?.hasPrefix("headfirst; error=") == true)
    }
}
