// A client and a server wired by arrays of bytes instead of sockets.

import TLS
import Testing

let certificates = TestCertificates.shared

/// One side, with what it has received so far and what it has to send.
final class Side {
    let engine = TLSEngine()
    var session: TLSSession
    var plaintext: [UInt8] = []
    /// Ciphertext on its way to the other side.
    var outgoing: [UInt8] = []
    var input = TLSInput.needsInput
    /// Room given to each call; the default never runs out.
    var room = 0

    init(server: TLSServerContext) {
        guard let session = TLSSession(server: server, engine) else { fatalError("no session") }
        self.session = session
    }

    init(client: TLSClientPeer) {
        guard let session = TLSSession(client: client, engine) else { fatalError("no session") }
        self.session = session
        input = self.session.start()
        drain()
    }

    deinit {
        session.destroy()
        engine.destroy()
    }

    func drain() {
        outgoing += engine.output
        engine.clearOutput()
    }

    /// Takes ciphertext as the runtime would: again as long as room runs out.
    func receive(_ bytes: some Collection<UInt8>, isLast: Bool = false) {
        var rest = Array(bytes)
        repeat {
            let capacity = room > 0 ? room : rest.count + TLSSession.plaintextBytesExtra
            let out = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
            defer { out.deallocate() }
            let received = rest.withUnsafeBufferPointer {
                session.receive($0, isLast: isLast, into: out, capacity: capacity)
            }
            plaintext += UnsafeBufferPointer(start: out, count: received.plaintextBytes)
            rest.removeFirst(received.consumedBytes)
            input = received.input
            drain()
            if room == 0, !isLast { #expect(input != .needsRoom) }
        } while input == .needsRoom
        #expect(rest.isEmpty)
    }

    func send(_ bytes: [UInt8], nowMilliseconds: UInt64 = 1) throws {
        try bytes.withUnsafeBufferPointer { bytes throws(TLSFailure) in
            try session.send(bytes, nowMilliseconds: nowMilliseconds)
        }
        drain()
    }

    func endSending() {
        session.endSending()
        drain()
    }

    func takeOutgoing() -> [UInt8] {
        defer { outgoing = [] }
        return outgoing
    }

    var failure: TLSFailure.Kind? {
        if case .failed(let failure) = input { return failure.kind }
        return nil
    }

    var isEstablished: Bool { session.isEstablished && !session.isFailed }
}

func text(_ bytes: UnsafeBufferPointer<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

extension Side {
    var serverName: String {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: TLSSession.serverNameBytesMax) { room in
            guard let base = room.baseAddress else { return "" }
            return String(decoding: room[..<session.serverName(into: base)], as: UTF8.self)
        }
    }

    var peerCertificate: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 8192) { room, count in
            guard let base = room.baseAddress else { return }
            count = session.peerCertificate(into: base, capacity: room.count)
        }
    }

    func accepts(_ host: String, under context: TLSServerContext) -> Bool {
        var host = host
        return host.withUTF8 { session.accepts(host: $0, under: context) }
    }
}

/// Contexts that end with the test.
final class Wire {
    let server: TLSServerContext
    let client: TLSClientContext
    private var peers: [String: TLSClientPeer] = [:]

    init(_ policies: [TLSServerPolicy], _ clientPolicy: TLSClientPolicy, keys: TicketKeys? = nil) throws {
        server = try TLSServerContext(policies: policies, ticketKeys: keys ?? .random())
        client = try TLSClientContext(clientPolicy)
    }

    deinit {
        for peer in peers.values { peer.retire() }
        server.retire()
        client.destroy()
    }

    func peer(_ name: String) throws -> TLSClientPeer {
        if let peer = peers[name] { return peer }
        let peer = try TLSClientPeer(client, serverName: name)
        peers[name] = peer
        return peer
    }

    /// A fresh pair of sides, with the client's first flight under way.
    func sides(_ name: String = "site.example.com", server other: TLSServerContext? = nil) throws -> (Side, Side) {
        (Side(client: try peer(name)), Side(server: other ?? server))
    }

    /// A pair whose handshake has run as far as it goes.
    func connected(
        _ name: String = "site.example.com", server other: TLSServerContext? = nil
    ) throws -> (client: Side, server: Side) {
        let (client, server) = try sides(name, server: other)
        exchange(client, server)
        return (client, server)
    }
}

/// Carries bytes between two sides, in pieces of at most so many, until nothing is under way.
func exchange(_ client: Side, _ server: Side, piece: Int = .max) {
    while !client.outgoing.isEmpty || !server.outgoing.isEmpty {
        for (from, to) in [(client, server), (server, client)] {
            var bytes = from.takeOutgoing()[...]
            while !bytes.isEmpty {
                to.receive(bytes.prefix(piece))
                bytes = bytes.dropFirst(piece)
            }
        }
    }
}

func serverPolicy(_ names: String..., change: (inout TLSServerPolicy) -> Void = { _ in }) -> TLSServerPolicy {
    var policy = TLSServerPolicy(name: "tls", certificates: names.map { certificates.pair($0) })
    change(&policy)
    return policy
}

func clientPolicy(trust: String? = "ca", change: (inout TLSClientPolicy) -> Void = { _ in }) -> TLSClientPolicy {
    var policy = TLSClientPolicy(trust: trust.map { certificates.trust($0) })
    change(&policy)
    return policy
}

/// Settings that lead to one version, for both sides.
func only(_ version: TLSVersion, _ policy: inout TLSClientPolicy) {
    policy.minimumVersion = version
    policy.maximumVersion = version
}

func bytes(_ count: Int, seed: Int = 1) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ seed) } }
