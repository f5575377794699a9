// What a peer can do to the process, and to other people's messages: each of these has ended the process, mixed messages,
// or hung before.

import Glibc
import HTTP2
import HTTP2Support
import Testing

@Suite struct SafetyTests {
    private func start(_ origin: Origin, top: String = "", upstream: String = "", route: String = "") throws
        -> Headfirst
    {
        try Headfirst(to: origin, top: top, upstream: upstream, listener: "http2 on;", route: route)
    }

    // MARK: Priorities

    @Test func priorityUpdatesOfStreamsThatAreStillToComeHurtNobody() throws {
        let client = try start(Origin.serving()).connect()
        try client.beginHTTP2()
        for number in 0..<300 as Range<UInt32> {
            let id = 2 * number + 1
            try client.send(
                Frame.make(16, Frame.number(id) + Array("u=1".utf8)) + Frame.headers(Frame.get, stream: id))
            #expect(try client.endOfStream(id).type != 3)
        }
    }

    // MARK: What outlives its parent

    @Test func anAnswerThatComesWhenItsClientsConnectionIsGone() throws {
        let (asked, go) = (Handoff<Void>(), Handoff<Void>())
        let origin = Origin { wire, _ in
            while true {
                let request = try wire.request()
                if request.startLine.contains("/late") {
                    asked.give()
                    try go.take()
                }
                try wire.ok("late")
            }
        }
        let proxy = try start(origin, route: "on_client_close finish;")
        for _ in 0..<20 {
            let client = try proxy.connect()
            try client.beginHTTP2()
            let get = Frame.get.map { $0.0 == ":path" ? (":path", "/late") : $0 }
            try client.send(Frame.headers(get))
            try asked.take()
            try client.send(Frame.make(3, stream: 1, Frame.number(8)) + Frame.make(6, [UInt8](repeating: 1, count: 8)))
            // The PING's answer says that the reset was seen.
            while case let frame = try client.frame(), frame.type != 6 {}
            client.close()
            #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: a")).status == 200)
            go.give()
            #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: a")).text == "late")
        }
    }

    // MARK: Sizes that a peer chooses

    /// The heads before it are collected in the same turn, and leave no room for what stands behind the last.
    @Test func bytesBehindConnectsAnswerFindRoomBehindManyInterimHeads() throws {
        let value = String(repeating: "v", count: 3000)
        let glued = pattern(4000)
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            for count in 20... {
                let stream = try wire.requestedStream()
                let status = Frame.fields([(":status", "103")])
                // The field is in HPACK's table from the first head on, so that many heads fit into one read.
                let first = status + [0x40, 1, UInt8(ascii: "x"), 0x7F, 0xB9, 0x16] + Array(value.utf8)
                var bytes = Frame.make(1, flags: 4, stream: stream, first)
                for _ in 0..<count { bytes += Frame.make(1, flags: 4, stream: stream, status + [0x80 | 62]) }
                bytes += Frame.headers([(":status", "200")], stream: stream, endsStream: false) + data(stream, glued)
                try wire.send(bytes)
            }
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text); protocol http2; }
                listener main { bind 127.0.0.1:0; connect upstream origin; route / { upstream origin; } }
                """, origins: [origin])
        for _ in 0..<60 {
            let client = try proxy.connect()
            try client.send(head("CONNECT a:1 HTTP/1.1", "Host: a:1"))
            var answer = try client.head()
            while answer.status == 103 { answer = try client.head() }
            #expect(answer.status == 200)
            #expect(try client.exactly(glued.count) == glued)
        }
    }

    @Test func bytesBehindASwitchFindRoomBehindManyInterimHeads() throws {
        let glued = pattern(4000)
        let counts = Array(stride(from: 1240, through: 1560, by: 40))
        let origin = Origin { wire, number in
            _ = try wire.head()
            let long = head("HTTP/1.1 103 Early Hints", "X: " + String(repeating: "v", count: 62_000))
            try wire.send(String(long.dropLast(4)))
            // What is there of the head is read in many pieces, and makes room for the rest to come in one.
            usleep(20_000)
            let short = String(repeating: "HTTP/1.1 103 \r\n\r\n", count: counts[(number - 1) % counts.count])
            let last = head("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: any")
            try wire.send(Array(("\r\n\r\n" + short + last).utf8) + glued)
            _ = wire.drain()
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; relay_buffer 4k;
                upstream origin { server \(origin.address.text); }
                listener main { bind 127.0.0.1:0; request_head_max 4k; request_target_max 1k; route / { upstream origin; } }
                """, origins: [origin])
        for _ in counts {
            let client = try proxy.connect()
            try client.ask("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: any")
            var answer = try client.head()
            while answer.status == 103 { answer = try client.head() }
            #expect(answer.status == 101)
            #expect(try client.exactly(glued.count) == glued)
        }
    }

    @Test(
        "Trailers of any size pass whole or cut the answer off", arguments: [1_000, 60_000, 70_000, 140_000, 200_000])
    func trailersOfAServerOfHTTP2(bytes: Int) throws {
        let value = String(repeating: "t", count: 10_000)
        let fields = (0..<max(1, bytes / 10_000)).map { ("x-\($0)", bytes < 10_000 ? "short" : value) }
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            while true {
                let stream = try wire.requestedStream()
                var block = Frame.fields(fields)[...]
                var frames = Frame.headers([(":status", "200")], stream: stream, endsStream: false)
                frames += data(stream, Array("content".utf8))
                frames += Frame.make(1, flags: 1, stream: stream, Array(block.prefix(16_000)))
                block = block.dropFirst(16_000)
                repeat {
                    let piece = Array(block.prefix(16_000))
                    block = block.dropFirst(16_000)
                    frames += Frame.make(9, flags: block.isEmpty ? 4 : 0, stream: stream, piece)
                } while !block.isEmpty
                try wire.send(frames)
            }
        }
        for relay in ["4k", "16k", "64k"] {
            let proxy = try start(origin, top: "relay_buffer \(relay);", upstream: "protocol http2;")
            let client = try proxy.connect()
            try client.ask()
            // `response_head_max` is 64k.
            if bytes <= 60_000 {
                let answer = try client.response()
                #expect(answer.text == "content" && answer.trailers.count == fields.count)
            } else {
                let (answer, end) = client.drain()
                #expect(end == .ended || end == .reset)
                #expect(!String(decoding: answer.suffix(100), as: UTF8.self).contains("0\r\n"))
            }
            let other = try proxy.connectHTTP2()
            try other.ask()
            let isWhole = try other.next { told -> Bool? in
                switch told {
                case .ended(stream: 1): true
                case .closed(stream: 1, _): false
                default: nil
                }
            }
            #expect(isWhole == (bytes <= 60_000))
        }
    }

    // MARK: A session that fails behind the end of a message

    /// The client reads late, so that the answer is still here when the server's connection fails.
    @Test(arguments: [false, true])
    func anAnswerBehindWhichTheConnectionFailsIsWholeOrLooksCut(readsLate: Bool) throws {
        let content = pattern(readsLate ? 3_064_419 : 60_000)
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            try wire.serveHTTP2()
            let first = try wire.requestedStream()
            let second = try wire.requestedStream()
            try wire.send(
                Frame.headers(
                    [(":status", "200"), ("content-length", "\(content.count)")], stream: first, endsStream: false))
            // As much as windows let through; the rest waits for them.
            var window = 65_535
            var sent = 0
            while content.count - sent > 1000 {
                let count = min(16 << 10, window, content.count - sent - 1000)
                if count == 0 {
                    let frame = try wire.frame()
                    if frame.type == 8, frame.stream == first {
                        window += Int(frame.payload.reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
                    }
                    continue
                }
                try wire.send(data(first, Array(content[sent..<(sent + count)])))
                sent += count
                window -= count
            }
            try go.take()
            try wire.send(
                data(first, Array(content[sent...]), isLast: true) + endlessHead(second, [(":status", "200")]))
            _ = wire.drain()
        }
        let proxy = try start(origin, upstream: "protocol http2;")
        let client = try proxy.connect(receiveBuffer: readsLate ? 4096 : nil)
        try client.ask("GET /first HTTP/1.1", "X-Number: 1")
        let other = try proxy.connect()
        try other.ask("GET /second HTTP/1.1")
        if !readsLate {
            go.give()
        } else {
            startThread {
                usleep(300_000)
                go.give()
            }
        }
        let answer = try client.head()
        #expect(answer.status == 200)
        var received: [UInt8] = []
        var ending: WireError?
        if readsLate { usleep(500_000) }
        while received.count < content.count, ending == nil {
            do {
                if client.buffer.isEmpty { try client.pull() }
                received += client.take(client.buffer.count)
            } catch {
                ending = error
            }
        }
        #expect(received == Array(content.prefix(received.count)))
        // Whole, or cut by the end of the connection; never waited for.
        #expect(received.count == content.count || ending == .ended || ending == .reset)
        #expect(received.count == content.count)
    }

    /// Content that comes by turns on several streams waits for the end of the turn, and so does the word that it is over.
    @Test func aRequestBehindWhichTheConnectionFailsIsWholeOrLooksCut() throws {
        let content = pattern(52_005)
        let begun = Handoff<Void>()
        let seen = Handoff<(path: String, isWhole: Bool, count: Int)>()
        let origin = Origin { wire, _ in
            var request = try wire.head()
            begun.give()
            let isWhole = (try? wire.chunkedContent(of: &request)) != nil
            seen.give((request.startLine, isWhole, request.content.count))
        }
        let proxy = try start(origin)
        for last in [1, 2974, 16_000] {
            let client = try proxy.connect()
            try client.beginHTTP2()
            func post(_ path: String) -> [(String, String)] {
                [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
            }
            try client.send(
                Frame.headers(post("/whole"), stream: 1, endsStream: false)
                    + Frame.headers(post("/other"), stream: 3, endsStream: false))
            try begun.take()
            try begun.take()
            var bytes: [UInt8] = []
            var sent = 0
            while sent < content.count - last {
                let count = min(500, content.count - last - sent)
                bytes += data(1, Array(content[sent..<(sent + count)])) + data(3, [1])
                sent += count
            }
            try client.send(
                bytes + data(1, Array(content.suffix(last)), isLast: true) + endlessHead(5, Frame.get))
            for _ in 0..<2 {
                let (path, isWhole, count) = try seen.take()
                #expect(!isWhole || (path.contains("/whole") && count == content.count))
            }
        }
    }

    // MARK: Who goes on reading

    @Test func requestsBehindManyLongHeadsAreReadWhenTheClientHasReadThem() throws {
        let value = String(repeating: "v", count: 20_000)
        let origin = Origin.serving { wire, _ in try wire.ok("", "X-Long: \(value)") }
        let proxy = try start(origin)
        // How much waits here when the client reads on, and how much the kernel takes of that at once, is its own affair.
        for first in stride(from: 12 as UInt32, through: 60, by: 4) {
            let client = try proxy.connect(receiveBuffer: 16 << 10)
            // No table: each head goes down as long as it is.
            try client.beginHTTP2(setting(1, 0))
            let count = first + 20
            for number in 0..<first { try client.send(Frame.headers(Frame.get, stream: 2 * number + 1)) }
            usleep(60_000)
            for number in first..<count { try client.send(Frame.headers(Frame.get, stream: 2 * number + 1)) }
            usleep(20_000)
            // Nothing was read so far, and nothing is sent from here on.
            var answered = Set<UInt32>()
            while answered.count < count {
                let frame = try client.frame()
                if frame.endsStream { answered.insert(frame.stream) }
            }
        }
    }

    @Test func answersOfAServerThatReadsLateAreRead() throws {
        let value = String(repeating: "v", count: 30_000)
        // So many that more than the kernel takes of them waits here.
        for count in [120, 180] {
            let origin = Origin(receiveBuffer: 4096) { wire, _ in
                // It answers before it reads on, and then reads everything, and says nothing more.
                try wire.serveHTTP2(settings: setting(1, 0))
                let first = try wire.requestedStream()
                usleep(350_000)
                try wire.send(Frame.headers([(":status", "204")], stream: first))
                usleep(50_000)
                _ = wire.drain()
            }
            let proxy = try start(origin, upstream: "protocol http2;")
            let waiting = try proxy.connect()
            try waiting.ask("GET /first HTTP/1.1")
            usleep(30_000)
            var others: [Wire] = []
            for _ in 0..<count {
                let other = try proxy.connect()
                try other.ask("GET /other HTTP/1.1", "X: \(value)")
                others.append(other)
            }
            #expect(try waiting.response().status == 204)
        }
    }

    // MARK: What nobody takes

    @Test(arguments: ["http1", "http2"])
    func interimHeadsThatNobodyTakesTakeNoMemory(version: String) throws {
        let value = String((0..<3900).map { Character(UnicodeScalar(UInt8(97 + ($0 &* $0) % 26))) })
        let origin: Origin
        if version == "http1" {
            origin = Origin { wire, _ in
                _ = try wire.head()
                for number in 0..<60 { try wire.send(head("HTTP/1.1 103 Early Hints", "X-\(number): \(value)")) }
                try wire.ok()
            }
        } else {
            origin = Origin { wire, _ in
                try wire.serveHTTP2()
                while true {
                    let stream = try wire.requestedStream()
                    for number in 0..<60 {
                        try wire.send(
                            Frame.make(
                                1, flags: 4, stream: stream,
                                Frame.fields([(":status", "103"), ("x-\(number)", value)])))
                    }
                    try wire.send(Frame.headers([(":status", "204")], stream: stream))
                }
            }
        }
        let proxy = try start(
            origin, upstream: version == "http2" ? "protocol http2;" : "", route: "response_head_timeout 2s;")
        let before = proxy.command.residentKibibytes
        let deaf = try proxy.connect(receiveBuffer: 4096)
        try deaf.beginHTTP2(setting(1, 0))
        for number in 0..<100 as Range<UInt32> { try deaf.send(Frame.headers(Frame.get, stream: 2 * number + 1)) }
        // Others are served meanwhile.
        for _ in 0..<10 {
            usleep(50_000)
            #expect(try proxy.answer(to: head("HEAD / HTTP/1.1", "Host: a"), toHEAD: true).status != 0)
        }
        let grownBy = proxy.command.residentKibibytes - before
        #expect(grownBy < 12 << 10, "\(grownBy) KiB")
    }

    @Test func aServerOfOneStreamGetsNoMoreConnectionsThanMayBeKept() throws {
        let origin = Origin { wire, _ in
            try wire.serveHTTP2(settings: setting(3, 1))
            while true {
                let stream = try wire.requestedStream()
                usleep(20_000)
                try wire.send(Frame.headers([(":status", "204")], stream: stream))
            }
        }
        let client = try start(origin, upstream: "protocol http2; keepalive 4;").connectHTTP2()
        for _ in 0..<60 {
            try client.ask()
            usleep(2000)
        }
        for _ in 0..<60 {
            let head = try client.next { if case .head(_, let text) = $0 { text } else { nil } }
            #expect(head.hasPrefix("HTTP/1.1 204"))
        }
        #expect((2...4).contains(origin.connectionCount), "\(origin.connectionCount) connections")
    }

    /// Who waits for a stream waits for any of them, and not for one of a connection that is gone.
    @Test func whoWaitsForAStreamIsServedWhenItsConnectionIsGone() throws {
        let origin = Origin { wire, number in
            if number == 1 {
                // Nothing is said, and the connection ends while others wait for what it would say.
                _ = try wire.exactly(Frame.preface.count)
                usleep(100_000)
                return
            }
            try wire.serveHTTP2(settings: setting(3, 2))
            while true {
                let stream = try wire.requestedStream()
                try wire.send(Frame.headers([(":status", "204")], stream: stream))
            }
        }
        let client = try start(origin, upstream: "protocol http2; keepalive 1;").connectHTTP2()
        for _ in 0..<20 { try client.ask() }
        var statuses: [String: Int] = [:]
        for _ in 0..<20 {
            let head = try client.next { if case .head(_, let text) = $0 { text } else { nil } }
            statuses[String(head.prefix(12)), default: 0] += 1
        }
        // GET is asked again (rule 10).
        #expect(statuses == ["HTTP/1.1 204": 20])
    }

    @Test func whoWaitsForAStreamTooLongIsTold() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            try wire.serveHTTP2(settings: setting(3, 1))
            let stream = try wire.requestedStream()
            try go.take()
            try wire.send(Frame.headers([(":status", "204")], stream: stream))
            let next = try wire.requestedStream()
            try wire.send(Frame.headers([(":status", "204")], stream: next))
            _ = wire.drain()
        }
        let proxy = try start(origin, upstream: "protocol http2; keepalive 1; queue_timeout 200ms;")
        let first = try proxy.connect()
        try first.ask("GET /1 HTTP/1.1")
        usleep(50_000)
        #expect(try proxy.answer(to: head("GET /2 HTTP/1.1", "Host: a")).status == 503)
        // Who goes leaves the queue.
        let gone = try proxy.connect()
        try gone.ask("GET /3 HTTP/1.1")
        usleep(50_000)
        gone.close()
        let last = try proxy.connect()
        try last.ask("GET /4 HTTP/1.1")
        usleep(50_000)
        go.give()
        #expect(try first.response().status == 204)
        #expect(try last.response().status == 204)
    }
}
