// Established sessions: records of all sizes in all pieces, room that runs out, ends and truncations.

import TLS
import Testing

@Suite struct RecordTests {
    static let versions = [TLSVersion.tls12, .tls13]

    func connected(_ version: TLSVersion) throws -> (client: Side, server: Side) {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        let sides = try wire.connected()
        #expect(sides.client.isEstablished && sides.server.isEstablished)
        return sides
    }

    /// The lengths of the records in a stretch of ciphertext, without their headers.
    func recordLengths(_ ciphertext: [UInt8]) -> [Int] {
        var lengths: [Int] = []
        var place = 0
        while place + 5 <= ciphertext.count {
            let length = Int(ciphertext[place + 3]) << 8 | Int(ciphertext[place + 4])
            lengths.append(length)
            place += 5 + length
        }
        #expect(place == ciphertext.count)
        return lengths
    }

    @Test(arguments: versions)
    func carriesAllSizes(_ version: TLSVersion) throws {
        let (client, server) = try connected(version)
        var expected: [UInt8] = []
        for count in [1, 2, 255, 1399, 1400, 1401, 4200, 16_383, 16_384, 16_385, 65_536, 200_000] {
            let sent = bytes(count, seed: count)
            expected += sent
            try client.send(sent)
        }
        try client.send([])
        // All of it in one call: many records, of which none is held back.
        exchange(client, server)
        #expect(server.plaintext == expected)
        #expect(server.input == .needsInput)
    }

    @Test(arguments: versions, [1, 3, 1000, 16_384, 20_000])
    func roomMayRunOut(_ version: TLSVersion, _ room: Int) throws {
        let (client, server) = try connected(version)
        server.room = room
        let sent = bytes(50_000)
        try client.send(sent)
        client.endSending()
        let ciphertext = client.takeOutgoing()
        server.receive(ciphertext.prefix(20_000))
        server.receive(ciphertext.dropFirst(20_000), isLast: true)
        #expect(server.plaintext == sent)
        #expect(server.input == .ended)
    }

    /// Without room nothing is lost: what has none stays inside or unconsumed, and comes later.
    @Test(arguments: versions)
    func waitsForRoom(_ version: TLSVersion) throws {
        let (client, server) = try connected(version)
        try client.send(bytes(10))
        try client.send(bytes(10, seed: 2))
        let ciphertext = client.takeOutgoing()
        var out = [UInt8](repeating: 0, count: 4)
        let first = ciphertext.withUnsafeBufferPointer {
            server.session.receive($0, isLast: false, into: &out, capacity: 4)
        }
        #expect(first.input == .needsRoom && first.plaintextBytes == 4)
        #expect(first.consumedBytes == ciphertext.count / 2)
        #expect(server.session.hasPending)
        server.receive(ciphertext[first.consumedBytes...])
        #expect(out + server.plaintext == bytes(10) + bytes(10, seed: 2))
        #expect(!server.session.hasPending)
    }

    @Test(arguments: versions)
    func recordsGrowAndShrinkAgain(_ version: TLSVersion) throws {
        let (client, _) = try connected(version)
        let overhead = version == .tls12 ? 24 : 17
        client.outgoing = []
        try client.send(bytes(300_000), nowMilliseconds: 10)
        let lengths = recordLengths(client.takeOutgoing()).map { $0 - overhead }
        #expect(lengths.reduce(0, +) == 300_000)
        #expect(lengths.first == RecordSizer.smallBytes)
        #expect(lengths.filter { $0 == RecordSizer.smallBytes }.count == 12)
        #expect(lengths.contains(RecordSizer.mediumBytes))
        #expect(lengths.dropLast().last == RecordSizer.fullBytes)
        try client.send(bytes(20_000), nowMilliseconds: 900)
        #expect(recordLengths(client.takeOutgoing()).first == RecordSizer.fullBytes + overhead)
        try client.send(bytes(20_000), nowMilliseconds: 1_901)
        #expect(recordLengths(client.takeOutgoing()).first == RecordSizer.smallBytes + overhead)
    }

    // MARK: Ends

    @Test(arguments: versions)
    func eachDirectionEndsByItself(_ version: TLSVersion) throws {
        let (client, server) = try connected(version)
        try client.send(bytes(10))
        client.endSending()
        #expect(!client.session.maySend)
        exchange(client, server)
        #expect(server.plaintext == bytes(10))
        #expect(server.input == .ended && server.session.inputIsOver)
        #expect(server.session.maySend)
        try server.send(bytes(20_000))
        exchange(client, server)
        #expect(client.plaintext == bytes(20_000))
        #expect(client.input == .needsInput)
        server.endSending()
        server.endSending()
        exchange(client, server)
        #expect(client.input == .ended)
        // What comes behind the end, the connection's own end too, changes nothing.
        server.receive(bytes(100), isLast: true)
        #expect(server.input == .ended)
        #expect(server.plaintext == bytes(10))
    }

    /// The end of the connection at any byte before the close_notify is complete is a truncation; not a byte is made up.
    @Test(arguments: versions)
    func truncationIsSeenAtEveryByte(_ version: TLSVersion) throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy { only(version, &$0) })
        let length = {
            let (client, _) = try wire.connected()
            try client.send(bytes(40))
            client.endSending()
            return client.outgoing.count
        }
        for cut in try 0...length() {
            let (client, server) = try wire.connected()
            try client.send(bytes(40))
            let wholeRecord = client.outgoing.count
            client.endSending()
            let ciphertext = client.takeOutgoing()
            server.receive(ciphertext.prefix(cut), isLast: true)
            #expect(server.input == (cut == ciphertext.count ? .ended : .truncated), "cut at \(cut)")
            #expect(server.plaintext == (cut >= wholeRecord ? bytes(40) : []))
            server.receive([], isLast: true)
            #expect(server.input == (cut == ciphertext.count ? .ended : .truncated))
            // The other direction is not ended by it.
            try server.send(bytes(10, seed: 3))
            client.receive(server.takeOutgoing())
            #expect(client.plaintext == bytes(10, seed: 3))
        }
    }

    @Test(arguments: versions)
    func theEndMayComeLater(_ version: TLSVersion) throws {
        let (client, server) = try connected(version)
        try client.send(bytes(5))
        exchange(client, server)
        server.receive([], isLast: true)
        #expect(server.input == .truncated)
    }

    @Test func manySessionsShareAnEngine() throws {
        let wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        let engine = TLSEngine()
        defer { engine.destroy() }
        let peer = try wire.peer("site.example.com")
        var pairs: [(TLSSession, TLSSession)] = []
        var flights: [[UInt8]] = []
        for _ in 0..<20 {
            var client = try #require(TLSSession(client: peer, engine))
            #expect(client.start() == .needsInput)
            flights.append(Array(engine.output))
            engine.clearOutput()
            pairs.append((client, try #require(TLSSession(server: wire.server, engine))))
        }
        defer {
            for pair in pairs {
                pair.0.destroy()
                pair.1.destroy()
            }
        }
        // All handshakes go on side by side, a flight of each in turn.
        var room = [UInt8](repeating: 0, count: 40_000)
        for turn in 0..<4 {
            for index in pairs.indices {
                let flight = flights[index]
                let received = flight.withUnsafeBufferPointer { flight in
                    turn % 2 == 0
                        ? pairs[index].1.receive(flight, isLast: false, into: &room, capacity: room.count)
                        : pairs[index].0.receive(flight, isLast: false, into: &room, capacity: room.count)
                }
                #expect(received.input == .needsInput && received.consumedBytes == flight.count)
                flights[index] = Array(engine.output)
                engine.clearOutput()
            }
        }
        #expect(pairs.allSatisfy { $0.0.isEstablished && $0.1.isEstablished })
    }
}

@Suite struct RecordSizerTests {
    @Test func growsByWhatWasSent() {
        var sizer = RecordSizer()
        sizer.sendingBegan(nowMilliseconds: 5_000)
        #expect(sizer.recordBytesMax == RecordSizer.smallBytes)
        sizer.recordSent(16_383)
        #expect(sizer.recordBytesMax == RecordSizer.smallBytes)
        sizer.recordSent(1)
        #expect(sizer.recordBytesMax == RecordSizer.mediumBytes)
        sizer.recordSent(49_151)
        #expect(sizer.recordBytesMax == RecordSizer.mediumBytes)
        sizer.recordSent(1)
        #expect(sizer.recordBytesMax == RecordSizer.fullBytes)
        for _ in 0..<1_000 { sizer.recordSent(.max) }
        #expect(sizer.recordBytesMax == RecordSizer.fullBytes)
        sizer.sendingBegan(nowMilliseconds: 6_000)
        #expect(sizer.recordBytesMax == RecordSizer.fullBytes)
        sizer.sendingBegan(nowMilliseconds: 7_001)
        #expect(sizer.recordBytesMax == RecordSizer.smallBytes)
    }
}
