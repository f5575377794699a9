import Testing

@testable import DemoOrigin

@Suite(.timeLimit(.minutes(1)))
struct DemoOriginTests {
    @Test func thePageIsWholeAndTheConnectionIsReused() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            for _ in 0..<2 {
                client.get("/?again")
                let head = client.head()
                #expect(head?.statusLine == "HTTP/1.1 200 OK")
                #expect(head?.value("Content-Type") == "text/html; charset=utf-8")
                let length = head?.value("Content-Length").flatMap { Int($0) } ?? 0
                #expect(String(decoding: client.bytes(length), as: UTF8.self) == DemoPage.html)
            }
            client.send("HEAD / HTTP/1.1\r\nHost: demo\r\n\r\nGET /nothing HTTP/1.1\r\nHost: demo\r\n\r\n")
            #expect(client.head()?.value("Content-Length") == String(DemoPage.html.utf8.count))
            #expect(client.head()?.statusLine == "HTTP/1.1 404 Not Found", "no content between")
        }
        origin.stop()
    }

    @Test func thePageNamesNothingFromElsewhere() {
        // The namespace of SVG is a name, not an address.
        let addresses = DemoPage.html.split(separator: "://").dropFirst()
        #expect(addresses.allSatisfy { $0.hasPrefix("www.w3.org/2000/svg") })
        #expect(!DemoPage.html.contains("src="))
    }

    @Test func slowSendsItsHeadAtOnce() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/slow")
            let head = client.head()
            #expect(client.elapsed < 2.5, "the content is due at 3 s")
            let length = head?.value("Content-Length").flatMap { Int($0) } ?? 0
            #expect(length > 0)
            #expect(client.bytes(length).count == length)
            #expect(client.elapsed >= 2.9)
        }
        origin.stop()
    }

    @Test func heldDoesNot() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/held")
            #expect(client.head()?.statusLine == "HTTP/1.1 200 OK")
            #expect(client.elapsed >= 2.9)
        }
        origin.stop()
    }

    @Test func reportHasTenLinesAndTheirDigest() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/report")
            let head = client.head()
            #expect(head?.has("Transfer-Encoding: chunked") == true)
            #expect(head?.has("Trailer: Content-Digest") == true)
            #expect(client.elapsed < 4.5, "the last line is due at 5 s")
            var digest = SHA256()
            var count = 0
            while let chunk = client.chunk(), !chunk.isEmpty {
                digest.update(chunk)
                count += 1
                #expect(client.elapsed >= Double(count) * 0.5 - 0.1)
            }
            #expect(count == 10)
            #expect(client.line() == "Content-Digest: sha-256=:\(base64(digest.finish())):")
            #expect(client.line() == "")
        }
        origin.stop()
    }

    @Test func hintsSendsA103First() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/hints")
            let hint = client.head()
            #expect(client.elapsed < 1.5, "the page is due at 2 s")
            #expect(hint?.statusLine == "HTTP/1.1 103 Early Hints")
            #expect(hint?.has("Link: </style.css>; rel=preload; as=style") == true)
            #expect(client.head()?.statusLine == "HTTP/1.1 200 OK")
            #expect(client.elapsed >= 1.9)
            // RFC 9110 section 15.2: never to an HTTP/1.0 client.
            let old = Client(port: origin.port)
            old.send("GET /hints HTTP/1.0\r\n\r\n")
            #expect(old.head()?.statusLine == "HTTP/1.1 200 OK")
        }
        origin.stop()
    }

    @Test func eventsComeOneASecond() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/events")
            #expect(client.head()?.value("Content-Type") == "text/event-stream")
            #expect(client.elapsed < 2.5, "the last of these events is due at 3 s")
            for number in 1...3 {
                #expect(client.chunk() == Array("id: \(number)\ndata: event \(number)\n\n".utf8))
                #expect(client.elapsed >= Double(number) - 0.1)
            }
        }
        origin.stop()
    }

    @Test func uploadIsAnsweredWhileItIsSent() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.send("PUT /upload HTTP/1.1\r\nHost: demo\r\nTransfer-Encoding: chunked\r\n\r\n")
            #expect(client.head()?.statusLine == "HTTP/1.1 200 OK", "before any content")
            func line() -> Substring { String(decoding: client.chunk() ?? [], as: UTF8.self).drop { $0 != " " } }
            client.send("5\r\nhello\r\n")
            #expect(line() == " s  piece 1: 5 bytes, 5 in all\n")
            client.send("6;note=x\r\n world\r\n")
            #expect(line() == " s  piece 2: 6 bytes, 11 in all\n")
            client.send("0\r\nSome: trailer\r\n\r\n")
            #expect(line() == " s  the end: 11 bytes in 2 pieces\n")
            #expect(client.chunk() == [])
            #expect(client.line() == "")
            client.get("/nothing")
            #expect(client.head()?.statusLine == "HTTP/1.1 404 Not Found", "the connection is good for more")
        }
        origin.stop()
    }

    @Test func aClientThatWaitsIsToldToContinueFirst() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.send("POST /upload HTTP/1.1\r\nHost: demo\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            #expect(client.head()?.statusLine == "HTTP/1.1 100 Continue")
            #expect(client.head()?.statusLine == "HTTP/1.1 200 OK")
            client.send("ok")
            while let chunk = client.chunk(), !chunk.isEmpty {}
            #expect(client.line() == "")
        }
        origin.stop()
    }

    @Test func anOldClientGetsNoChunks() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.send("POST /upload HTTP/1.0\r\nContent-Length: 2\r\n\r\nok")
            let head = client.head()
            #expect(head?.value("Transfer-Encoding") == nil)
            #expect(head?.has("Connection: close") == true)
            #expect(client.line()?.hasSuffix("piece 1: 2 bytes, 2 in all") == true)
            #expect(client.line()?.hasSuffix("the end: 2 bytes in 1 pieces") == true)
            #expect(client.line() == nil, "the end is the close")
        }
        origin.stop()
    }

    @Test(arguments: [
        ("POST /slow HTTP/1.1\r\nHost: demo\r\nContent-Length: 2\r\n\r\nok", "405 Method Not Allowed", "GET, HEAD"),
        ("GET /upload HTTP/1.1\r\nHost: demo\r\n\r\n", "405 Method Not Allowed", "POST, PUT"),
        ("nonsense\r\n\r\n", "400 Bad Request", nil),
        ("GET / HTTP/2.0\r\n\r\n", "505 HTTP Version Not Supported", nil),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request", nil),
        ("POST /upload HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400 Bad Request", nil),
        (
            "POST /upload HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400 Bad Request", nil
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400 Bad Request", nil),
    ])
    func whatCannotBeServedIsRefused(request: String, status: String, allow: String?) async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.send(request)
            let head = client.head()
            #expect(head?.statusLine == "HTTP/1.1 \(status)")
            #expect(head?.value("Allow") == allow)
        }
        origin.stop()
    }

    @Test func aHeadWithoutEndIsRefused() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.send("GET / HTTP/1.1\r\n" + String(repeating: "A: b\r\n", count: 6_000))
            #expect(client.head()?.statusLine == "HTTP/1.1 431 Request Header Fields Too Large")
        }
        origin.stop()
    }

    @Test func connectionsAreBoundedAndEndWithTheirClients() async throws {
        let origin = try DemoOrigin()
        await blocking {
            var clients = (0..<DemoOrigin.connectionsMax).map { _ in Client(port: origin.port) }
            for client in clients { client.get("/events") }
            #expect(clients.allSatisfy { $0.head()?.statusLine == "HTTP/1.1 200 OK" })
            #expect(Client(port: origin.port).head()?.statusLine == "HTTP/1.1 503 Service Unavailable")
            clients = []
            // Each thread notices in its own time; all must, for this takes every place.
            var served: [Client] = []
            let clock = ContinuousClock()
            let deadline = clock.now + .seconds(20)
            while served.count < DemoOrigin.connectionsMax, clock.now < deadline {
                let client = Client(port: origin.port)
                client.get("/nothing")
                if client.head()?.statusLine == "HTTP/1.1 404 Not Found" { served.append(client) }
            }
            #expect(served.count == DemoOrigin.connectionsMax)
        }
        origin.stop()
    }

    @Test func stoppingEndsWhatIsRunning() async throws {
        let origin = try DemoOrigin()
        await blocking {
            let client = Client(port: origin.port)
            client.get("/events")
            #expect(client.head() != nil)
            origin.stop()
            #expect(client.elapsed < 10)
            #expect(client.line() == nil)
        }
    }
}
