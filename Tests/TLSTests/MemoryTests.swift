// Nothing is left behind by sessions, whether they end well or in the middle.

import Glibc
import TLS
import Testing

@Suite struct MemoryTests {
    /// In a process of its own, for the system counts memory by processes.
    @Test func tenThousandHandshakesLeaveNothing() async {
        await #expect(processExitsWith: .success) {
            let storm = try HandshakeStorm()
            try storm.run(1_000)
            let before = residentBytes()
            try storm.run(10_000)
            let grown = residentBytes() - before
            // One leaked BIO for each handshake would be more.
            #expect(grown < 1 << 20, "\(grown) bytes")
        }
    }

    /// The same for everything that a reload makes anew and lets go, with a session alive on each side; and for what
    /// cannot be made.
    @Test func reloadsLeaveNothing() async {
        await #expect(processExitsWith: .success) {
            func reload(_ count: Int) throws {
                for _ in 0..<count {
                    let strict = serverPolicy("partner") {
                        $0.name = "tls partner"
                        $0.hostNames = ["*.partner.example.com"]
                        $0.clientVerification = .optional
                        $0.clientTrust = certificates.trust()
                    }
                    let policies = [serverPolicy("rsa", "ecdsa", "second"), strict]
                    let client = clientPolicy { $0.certificate = certificates.pair("client") }
                    let sides = try Wire(policies, client).connected()
                    #expect(sides.server.isEstablished)
                    let broken = serverPolicy("rsa", "second") { $0.groups = "nonsense" }
                    #expect(throws: TLSSetupError.badGroups("nonsense")) {
                        try TLSServerContext(policies: policies + [broken], ticketKeys: try .random())
                    }
                    #expect(throws: TLSSetupError.self) {
                        try TLSCertificate(
                            certificatePath: certificates.path("rsa.pem"), keyPath: certificates.path("ecdsa.key"))
                    }
                }
            }
            try reload(20)
            let before = residentBytes()
            try reload(200)
            let grown = residentBytes() - before
            // One leaked certificate for each round would be more.
            #expect(grown < 400 << 10, "\(grown) bytes")
        }
    }
}

/// Memory of this process that is in use; 0 under a sanitizer, where it says nothing.
func residentBytes() -> Int {
    if getenv("ASAN_OPTIONS") != nil { return 0 }
    guard let file = fopen("/proc/self/statm", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 128)
    guard fgets(&line, Int32(line.count), file) != nil else { return 0 }
    let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    let pages = text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
    return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
}

/// Handshakes on one engine: whole ones, resumed ones, cut ones and disturbed ones.
final class HandshakeStorm {
    private let wire: Wire
    private let engine = TLSEngine()
    private let peer: TLSClientPeer
    private var room = [UInt8](repeating: 0, count: 32_768)

    init() throws {
        wire = try Wire([serverPolicy("ecdsa")], clientPolicy())
        peer = try wire.peer("site.example.com")
    }

    deinit { engine.destroy() }

    func run(_ count: Int) throws {
        var established = 0
        for index in 0..<count {
            let steps = index % 5 == 4 ? 4 : index % 5
            if try connect(steps: steps, isDisturbed: index % 10 == 3) { established += 1 }
        }
        #expect(established >= count / 5)
    }

    /// - Parameter steps: flights that are carried before both sides are dropped.
    private func connect(steps: Int, isDisturbed: Bool) throws -> Bool {
        var client = try #require(TLSSession(client: peer, engine))
        var server = try #require(TLSSession(server: wire.server, engine))
        defer {
            client.destroy()
            server.destroy()
        }
        _ = client.start()
        for step in 0..<steps where engine.hasOutput {
            var flight = Array(engine.output)
            engine.clearOutput()
            if isDisturbed, step == steps - 1 { flight[flight.count / 2] ^= 1 }
            flight.withUnsafeBufferPointer { flight in
                _ =
                    step % 2 == 0
                    ? server.receive(flight, isLast: false, into: &room, capacity: room.count)
                    : client.receive(flight, isLast: false, into: &room, capacity: room.count)
            }
        }
        engine.clearOutput()
        return client.isEstablished && server.isEstablished
    }
}
