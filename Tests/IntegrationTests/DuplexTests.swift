// Rule 6: a response may begin, and end, before the request does; and the client gets its answer, not a reset.

import Testing

@Suite struct DuplexTests {
    @Test func anAnswerBeginsWhileTheRequestGoesOn() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
            while true {
                let data = try wire.chunk()
                if data.isEmpty { break }
                try wire.send(chunk("echo " + String(decoding: data, as: UTF8.self)))
            }
            try wire.send(lastChunk)
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Transfer-Encoding: chunked")
        #expect(try client.head().status == 200)
        for number in 0..<10 {
            try client.send(chunk("\(number)"))
            #expect(String(decoding: try client.chunk(), as: UTF8.self) == "echo \(number)")
        }
        try client.send(lastChunk)
        #expect(try client.chunk().isEmpty)
    }

    @Test func theUploadGoesOnAfterTheResponseEnded() throws {
        let got = Handoff<Message>()
        let origin = Origin { wire, _ in
            while true {
                var request = try wire.head()
                try wire.ok("early")
                if request.isChunked { try wire.chunkedContent(of: &request) }
                got.give(request)
            }
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Transfer-Encoding: chunked", content: chunk("one "))
        #expect(try client.response().text == "early")
        try client.send(chunk("two ") + chunk("three") + lastChunk)
        #expect(try got.take().text == "one two three")
        // Both connections are whole, so both serve again.
        try client.ask()
        #expect(try client.response().text == "early")
        #expect(origin.connectionCount == 1)
    }

    /// The server answers first and reads later: what the proxy holds of the upload by then is not lost. A Unix socket
    /// takes a fixed amount; of sizes a third of `relay_buffer` apart, some end in what the proxy has to keep.
    @Test func theEndOfAnUploadReachesAServerThatAnsweredBefore() throws {
        let (mayRead, got) = (Handoff<Int>(), Handoff<Int>())
        let folder = Folder()
        let origin = Origin(.unix(path: "\(folder.path)/origin.sock")) { wire, _ in
            // The connection stays, so that none is taken from the pool in the moment of its end.
            while true {
                _ = try wire.head()
                try wire.ok("early")
                let size = try mayRead.take()
                while wire.buffer.count < size { do { try wire.pull() } catch { break } }
                got.give(wire.take(wire.buffer.count).count)
            }
        }
        let proxy = try Headfirst(to: origin)
        for size in stride(from: 64 << 10, through: 640 << 10, by: 20 << 10) {
            let client = try proxy.connect()
            try client.ask("POST / HTTP/1.1", "Content-Length: \(size)")
            #expect(try client.response().text == "early")
            try client.send([UInt8](repeating: 0x78, count: size))
            // The proxy has taken what it can when it has nothing more to say.
            #expect(client.isSilent(milliseconds: 20))
            mayRead.give(size)
            #expect(try got.take() == size)
        }
    }

    @Test func anEarlyAnswerReachesAClientThatIsStillSending() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 413 Too Large", "Content-Length: 3", "Connection: close") + "big")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 50000000")
        // All of it is sent before the answer is read: a reset would throw the answer away.
        let piece = [UInt8](repeating: 0x78, count: 1 << 20)
        for _ in 0..<10 { _ = try client.sendSome(piece, stallMilliseconds: 1000) }
        let response = try client.response()
        #expect(response.status == 413)
        #expect(response.text == "big")
        #expect(response["Connection"] == "close")
    }

    @Test func theProxysOwn413ReachesAClientThatIsStillSending() throws {
        let origin = Origin.serving()
        let proxy = try Headfirst(to: origin, route: "content_max 1k;")
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 5000000")
        let sent = try client.sendSome([UInt8](repeating: 0x78, count: 5_000_000), stallMilliseconds: 1000)
        #expect(sent == 5_000_000)
        #expect(try client.response().status == 413)
        #expect(client.end() == .ended)
        #expect(origin.connectionCount == 0)
    }

    @Test func anUnfinishedUploadThatStandsStillIsGivenUp() throws {
        let origin = Origin { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: 2", "Connection: close") + "ok")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 10", content: "x")
        #expect(try client.response()["Connection"] == "close")
        // Our direction ends at once; the lingering read is for bytes that are under way.
        #expect(client.end() == .ended)
    }

    @Test func aRequestThatTheServerStopsReadingIsAnswered() throws {
        let origin = Origin(receiveBuffer: 4096) { wire, _ in
            _ = try wire.head()
            try wire.send(head("HTTP/1.1 403 Forbidden", "Content-Length: 2", "Connection: close") + "no")
            wire.endSending()
            _ = wire.drain(milliseconds: 1)
            wire.reset()
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask("POST / HTTP/1.1", "Content-Length: 3000000")
        _ = try client.sendSome([UInt8](repeating: 0x78, count: 3_000_000), stallMilliseconds: 500)
        #expect(try client.response().status == 403)
    }
}
