// A reload by SIGHUP: what runs is not touched, what comes meets the new configuration, and what cannot be used changes
// nothing.

import Glibc
import Testing

extension Headfirst {
    /// Writes another configuration and sends SIGHUP.
    func hangUp(_ configuration: String) {
        let parts = configuration.split(separator: "$FOLDER", omittingEmptySubsequences: false)
        // As editors and ConfigMaps do it: the file is there as a whole or not at all.
        let file = folder.write(parts.joined(separator: folder.path), to: "proxy.conf.new")
        rename(file, "\(folder.path)/proxy.conf")
        command.signal(SIGHUP)
    }

    /// Brings another configuration into force, the one with this number.
    func reload(_ configuration: String, generation: Int = 2) throws {
        hangUp(configuration)
        _ = try errorLog.line(with: "was taken on generation=\(generation)")
    }
}

/// An origin whose answers name the connection, and wait for a word if the target asks for it.
private final class Patient: Sendable {
    let came = Handoff<Void>()
    let go = Handoff<Void>()

    func origin() -> Origin {
        Origin { [self] wire, number in
            while true {
                let request = try wire.request()
                if request.target == "/slow" {
                    came.give()
                    try go.take()
                }
                try wire.ok("\(number)")
            }
        }
    }
}

@Suite struct ReloadTests {
    private static func configuration(
        _ origin: Origin, workers: Int = 1, top: String = "", server: String = "", upstream: String = "",
        listener: String = "bind 127.0.0.1:0;", route: String = ""
    ) -> String {
        """
        workers \(workers); access_log off; \(top)
        upstream origin { server \(origin.address.text) \(server); \(upstream) }
        listener main { \(listener) route / { upstream origin; \(route) } }
        """
    }

    private func start(_ configuration: String, _ origins: Origin...) throws -> Headfirst {
        try Headfirst(configuration: configuration, origins: origins)
    }

    // MARK: What runs

    /// A kept connection is not closed, its next request meets the new configuration, and the pool is kept.
    @Test(arguments: [1, 2])
    func aKeptConnectionMeetsTheNewConfiguration(workers: Int) throws {
        let origin = Patient().origin()
        let proxy = try start(Self.configuration(origin, workers: workers), origin)
        let client = try proxy.connect()
        for generation in 1...5 {
            try client.ask()
            let response = try client.response()
            #expect(response.status == 200)
            #expect(response["Connection"] == nil)
            #expect(response["X-Generation"] == (generation == 1 ? nil : "\(generation)"))
            try proxy.reload(
                Self.configuration(
                    origin, workers: workers, route: "set_response_field X-Generation \(generation + 1);"),
                generation: generation + 1)
        }
        #expect(origin.connectionCount == 1)
    }

    @Test func anExchangeKeepsTheConfigurationItBeganUnder() throws {
        let patient = Patient()
        let origin = patient.origin()
        let proxy = try start(Self.configuration(origin, route: "set_response_field X-Generation 1;"), origin)
        let (old, new) = (try proxy.connect(), try proxy.connect())
        try old.ask("GET /slow HTTP/1.1")
        try patient.came.take()
        try proxy.reload(Self.configuration(origin, route: "set_response_field X-Generation 2;"))
        try new.ask()
        #expect(try new.response()["X-Generation"] == "2")
        patient.go.give()
        #expect(try old.response()["X-Generation"] == "1")
        try old.ask()
        #expect(try old.response()["X-Generation"] == "2")
    }

    @Test func aTunnelAndAStreamLiveOn() throws {
        let origin = Origin { wire, _ in
            let request = try wire.request()
            if request["Upgrade"] != nil {
                try wire.send(head: "HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: echo")
                while true {
                    if wire.buffer.isEmpty { try wire.pull(milliseconds: 10_000) }
                    try wire.send(wire.take(wire.buffer.count))
                }
            }
            try wire.send(head: "HTTP/1.1 200 OK", "Transfer-Encoding: chunked")
            for number in 0..<100 {
                try wire.send(chunk("\(number)"))
                usleep(20_000)
            }
            try wire.send(lastChunk)
        }
        let proxy = try start(Self.configuration(origin), origin)
        let (tunnel, stream) = (try proxy.connect(), try proxy.connect())
        try tunnel.ask("GET / HTTP/1.1", "Connection: upgrade", "Upgrade: echo")
        #expect(try tunnel.head().status == 101)
        try stream.ask()
        let other = Patient().origin()
        for generation in 2...6 {
            try proxy.reload(
                Self.configuration(generation % 2 == 0 ? other : origin), generation: generation)
            try tunnel.send("hello \(generation)")
            #expect(String(decoding: try tunnel.exactly(7), as: UTF8.self) == "hello \(generation)")
        }
        #expect(try stream.response().text == (0..<100).map { "\($0)" }.joined())
    }

    /// The listener's route to the old server is gone, and so are its idle connections; what runs there ends in peace.
    @Test func aRemovedServerFinishesItsExchanges() throws {
        let patient = Patient()
        let (old, new) = (patient.origin(), Patient().origin())
        let proxy = try Headfirst(configuration: Self.configuration(old), origins: [old, new])
        let (slow, quick) = (try proxy.connect(), try proxy.connect())
        try slow.ask("GET /slow HTTP/1.1")
        try patient.came.take()
        try quick.ask()
        #expect(try quick.response().text == "2")
        try proxy.reload(Self.configuration(new))
        try old.waitForEnds(1)
        try quick.ask()
        #expect(try quick.response().text == "1")
        #expect(new.connectionCount == 1)
        patient.go.give()
        #expect(try slow.response().text == "1")
        try old.waitForEnds(2)
        // It comes back.
        try proxy.reload(Self.configuration(old), generation: 3)
        try slow.ask()
        #expect(try slow.response().text == "3")
    }

    /// The places below `max_exchanges` are the server's, whatever generation an exchange is of; and who waits under an
    /// earlier one is served.
    @Test func aServersBoundHoldsOverGenerations() throws {
        let patient = Patient()
        let origin = patient.origin()
        func text(_ number: Int) -> String {
            Self.configuration(origin, server: "max_exchanges=1", upstream: "queue_timeout \(number + 10)s;")
        }
        let proxy = try start(text(1), origin)
        let clients = try (0..<3).map { _ in try proxy.connect() }
        try clients[0].ask("GET /slow HTTP/1.1")
        try patient.came.take()
        try clients[1].ask("GET /slow HTTP/1.1")
        try proxy.reload(text(2))
        try clients[2].ask("GET /slow HTTP/1.1")
        #expect(clients[2].isSilent(milliseconds: 100))
        #expect(patient.came.count == 0)
        for client in clients {
            patient.go.give()
            #expect(try client.response().status == 200)
        }
    }

    /// A line that moves changes nothing: not even the pool of a server that is spoken to by TLS.
    @Test func whereThingsStandMakesNoDifference() throws {
        let origin = Origin.overTLS { wire, number in
            while true {
                _ = try wire.request()
                try wire.ok("\(number)")
            }
        }
        let text = Self.configuration(origin, server: "max_exchanges=1", upstream: "tls { verify off; }")
        let proxy = try start(text, origin)
        let client = try proxy.connect()
        try client.ask()
        #expect(try client.response().text == "1")
        proxy.hangUp("# A comment.\n\n" + text)
        _ = try proxy.errorLog.line(with: "has not changed")
        try proxy.reload("# A comment.\n" + text.replacing("route /", with: "route /x { respond 204; } route /"))
        try client.ask()
        #expect(try client.response().text == "1")
    }

    /// Whom a listener trusts is not decided for good when somebody connects.
    @Test func trustEndsWithTheReloadThatEndsIt() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request["X-Forwarded-For"] ?? "") }
        let proxy = try start(
            Self.configuration(origin, listener: "bind 127.0.0.1:0; trusted_proxies 127.0.0.0/8;"), origin)
        let client = try proxy.connect()
        for (generation, expected) in [(1, "6.6.6.6, 127.0.0.1"), (2, "127.0.0.1"), (3, "6.6.6.6, 127.0.0.1")] {
            if generation > 1 {
                let trusted = generation == 2 ? "" : "trusted_proxies 127.0.0.1;"
                try proxy.reload(
                    Self.configuration(origin, listener: "bind 127.0.0.1:0; \(trusted)"), generation: generation)
            }
            try client.ask("GET / HTTP/1.1", "X-Forwarded-For: 6.6.6.6")
            #expect(try client.response().text == expected)
        }
    }

    /// Who was let in before certificates were asked for is not let through afterwards; a renewed certificate is no
    /// other policy.
    @Test func aConnectionOfAnotherTLSPolicyIsMisdirected() throws {
        let origin = Patient().origin()
        let files = Certificates.shared
        func text(_ rest: String, certificate: String = "site") -> String {
            Self.configuration(
                origin, listener: "bind 127.0.0.1:0 tls; tls { certificate \(files.pair(certificate)); \(rest) }")
        }
        let proxy = try start(text(""), origin)
        let client = try proxy.connectTLS()
        try client.ask()
        #expect(try client.response().status == 200)
        try proxy.reload(text("", certificate: "renewed"))
        try client.ask()
        #expect(try client.response().status == 200)
        try proxy.reload(text("client_ca \(files.path("ca.pem")); client_verify required;"), generation: 3)
        try client.ask()
        let response = try client.response()
        #expect(response.status == 421)
        #expect(response["Connection"] == "close")
    }

    // MARK: Listeners

    @Test func listenersComeAndGo() throws {
        let origin = Patient().origin()
        let first = "bind 127.0.0.1:0;"
        let proxy = try start(Self.configuration(origin), origin)
        let kept = try proxy.connect()
        try kept.ask()
        _ = try kept.response()
        let added = try Address.freePort()
        try proxy.reload(Self.configuration(origin, listener: "\(first) bind 127.0.0.1:\(added);"))
        let client = try Address.ipv4(port: added).connect()
        for _ in 0..<2 {
            try client.ask()
            #expect(try client.response()["Connection"] == nil)
        }
        let waiting = try Address.ipv4(port: added).connect()
        try proxy.reload(Self.configuration(origin), generation: 3)
        #expect(throws: WireError.reset) { try Address.ipv4(port: added).connect() }
        // Who came by it is served once more, and told.
        for client in [client, waiting] {
            try client.ask()
            let response = try client.response()
            #expect(response.status == 200)
            #expect(response["Connection"] == "close")
            #expect(client.end() == .ended)
        }
        try kept.ask()
        #expect(try kept.response()["Connection"] == nil)
    }

    @Test func aRunningExchangeOfARemovedListenerEndsItsConnection() throws {
        let patient = Patient()
        let origin = patient.origin()
        let proxy = try start(Self.configuration(origin), origin)
        let client = try proxy.connect()
        try client.ask("GET /slow HTTP/1.1")
        try patient.came.take()
        let port = try Address.freePort()
        try proxy.reload(Self.configuration(origin, listener: "bind 127.0.0.1:\(port);"))
        patient.go.give()
        #expect(try client.response()["Connection"] == "close")
        #expect(client.end() == .ended)
        let other = try Address.ipv4(port: port).connect()
        try other.ask()
        #expect(try other.response().status == 200)
    }

    @Test func aUnixListenerIsKeptAndItsPathIsRemovedWithIt() throws {
        let origin = Patient().origin()
        let unix = "bind unix:$FOLDER/x.sock;"
        let proxy = try start(
            Self.configuration(origin, workers: 2, listener: "bind 127.0.0.1:0; \(unix)"), origin)
        let path = "\(proxy.folder.path)/x.sock"
        let client = try Address.unix(path: path).connect()
        try proxy.reload(
            Self.configuration(
                origin, workers: 2, listener: "bind 127.0.0.1:0; \(unix)", route: "set_response_field X-A b;"))
        for client in [client, try Address.unix(path: path).connect()] {
            try client.ask()
            #expect(try client.response()["X-A"] == "b")
        }
        try proxy.reload(Self.configuration(origin, workers: 2), generation: 3)
        #expect(access(path, F_OK) != 0)
        try client.ask()
        #expect(try client.response()["Connection"] == "close")
        try proxy.reload(
            Self.configuration(origin, workers: 2, listener: "bind 127.0.0.1:0; \(unix)"), generation: 4)
        let again = try Address.unix(path: path).connect()
        try again.ask()
        #expect(try again.response().status == 200)
    }

    /// An address and all addresses: the port is ours either way.
    @Test func anAddressGivesWayToAllAddresses() throws {
        let origin = Patient().origin()
        let port = try Address.freePort()
        let proxy = try start(Self.configuration(origin, workers: 2, listener: "bind 127.0.0.1:\(port);"), origin)
        let kept = try proxy.connect()
        for (number, address) in ["0.0.0.0", "127.0.0.1", "0.0.0.0"].enumerated() {
            try proxy.reload(
                Self.configuration(origin, workers: 2, listener: "bind \(address):\(port);"), generation: number + 2)
            let client = try Address.ipv4(port: port).connect()
            try client.ask()
            #expect(try client.response().status == 200)
        }
        try kept.ask()
        #expect(try kept.response()["Connection"] == "close")
    }

    @Test func anAddressThatTurnsToTLSDoesSoForNewConnections() throws {
        let origin = Patient().origin()
        let files = Certificates.shared
        let port = try Address.freePort()
        let secure =
            "bind 127.0.0.1:\(port) tls; tls { certificate \(files.pair("site")); }"
        let proxy = try start(Self.configuration(origin, listener: "bind 127.0.0.1:\(port);"), origin)
        let clear = try proxy.connect()
        let unused = try proxy.connect()
        try clear.ask()
        _ = try clear.response()
        try proxy.reload(Self.configuration(origin, listener: secure))
        let client = try Address.ipv4(port: port).connect()
        try client.beginTLS(try TLSMemory())
        try client.ask()
        #expect(try client.response().status == 200)
        for client in [clear, unused] {
            try client.ask()
            #expect(try client.response()["Connection"] == "close")
        }
        try proxy.reload(Self.configuration(origin, listener: "bind 127.0.0.1:\(port);"), generation: 3)
        try client.ask()
        #expect(try client.response()["Connection"] == "close")
        let last = try Address.ipv4(port: port).connect()
        try last.ask()
        #expect(try last.response().status == 200)
    }

    // MARK: What cannot be used

    @Test func aBrokenFileChangesNothing() throws {
        let origin = Patient().origin()
        let good = Self.configuration(origin, top: "admin { bind 127.0.0.1:0; }")
        let proxy = try start(good, origin)
        let client = try proxy.connect()
        proxy.hangUp(good + "\nlistner x { }\nupstream y { }\n")
        let line = try proxy.errorLog.line(with: "listner")
        #expect(line.contains("what runs stays as it is"))
        #expect(line.contains("proxy.conf:4:1"))
        // Each mistake has a line.
        _ = try proxy.errorLog.line(with: "proxy.conf:5:")
        try client.ask()
        #expect(try client.response().status == 200)
        #expect(try proxy.metric("headfirst_reloads_total{result=\"failed\"}", becomes: 1))
        #expect(try proxy.metric("headfirst_last_reload_successful", becomes: 0))
        // And the same that runs is no change.
        proxy.hangUp(good)
        _ = try proxy.errorLog.line(with: "has not changed")
        #expect(try proxy.metric("headfirst_reloads_total{result=\"done\"}", becomes: 1))
        #expect(try proxy.metric("headfirst_last_reload_successful", becomes: 1))
        #expect(try proxy.metric("headfirst_configuration_generation", becomes: 1))
    }

    /// An address in use, a missing certificate, a log that cannot be opened: the listener that could be bound before is
    /// not left behind, and the good one serves.
    @Test func whatFailsOnTheWayChangesNothing() throws {
        let origin = Patient().origin()
        let proxy = try start(Self.configuration(origin), origin)
        let client = try proxy.connect()
        try client.ask()
        _ = try client.response()
        let free = try Address.freePort()
        let count = proxy.command.descriptorCount
        let both = "bind 127.0.0.1:0; bind 127.0.0.1:\(free);"
        let broken = [
            "cannot listen on \(origin.address.text)": Self.configuration(
                origin, listener: "\(both) bind \(origin.address.text);"),
            "site.pem": Self.configuration(
                origin, listener: "\(both) bind 127.0.0.1:0 tls; tls { certificate $FOLDER/site.pem $FOLDER/site.key; }"
            ),
            "cannot open the error log": Self.configuration(
                origin, top: "error_log $FOLDER/no/such/folder;", listener: both),
            "cannot open the access log": Self.configuration(origin, listener: both)
                .replacing("access_log off", with: "access_log $FOLDER/no/such/folder"),
        ]
        for (reason, configuration) in broken {
            proxy.hangUp(configuration)
            let line = try proxy.errorLog.line(with: reason)
            #expect(line.contains("what runs stays as it is"), "\(line)")
            #expect(throws: WireError.reset) { try Address.ipv4(port: free).connect() }
        }
        #expect(proxy.command.descriptorCount == count)
        try client.ask()
        #expect(try client.response()["Connection"] == nil)
    }

    // MARK: The rest of the configuration

    @Test func logsAreTurnedOnMovedAndTurnedOff() throws {
        let origin = Patient().origin()
        let off = Self.configuration(origin)
        let proxy = try start(off, origin)
        let client = try proxy.connect()
        func ask(_ path: String) throws {
            try client.ask("GET /\(path) HTTP/1.1")
            #expect(try client.response().status == 200)
        }
        try ask("one")
        try proxy.reload(off.replacing("access_log off", with: "access_log stdout format=json"))
        try ask("two")
        #expect(try proxy.accessLog.line(with: "/two").contains("\"target\":\"/two\""))
        try proxy.reload(off.replacing("access_log off", with: "access_log $FOLDER/access.log"), generation: 3)
        try ask("three")
        try proxy.reload(off, generation: 4)
        try ask("four")
        // Its thread writes when it comes to it.
        let written = Now.milliseconds + 4000
        while !proxy.folder.read("access.log").contains("/three"), Now.milliseconds < written { usleep(5000) }
        let text = proxy.folder.read("access.log")
        #expect(text.contains("/three") && !text.contains("/four"))
        #expect(!proxy.accessLog.text.contains("/three"))
        // The error log moves, too.
        proxy.hangUp(off + "error_log $FOLDER/error.log level=debug;")
        let moved = Now.milliseconds + 4000
        while !proxy.folder.read("error.log").contains("generation=5"), Now.milliseconds < moved { usleep(5000) }
        #expect(proxy.folder.read("error.log").contains("was taken on generation=5"))
    }

    @Test func theAdminListenerMoves() throws {
        let origin = Patient().origin()
        let (one, two) = (try Address.freePort(), try Address.freePort())
        let proxy = try start(Self.configuration(origin, top: "admin { bind 127.0.0.1:\(one); }"), origin)
        func status(_ port: UInt16) throws -> Int {
            let wire = try Address.ipv4(port: port).connect()
            try wire.ask("GET /readyz HTTP/1.1", host: "127.0.0.1:\(port)")
            return try wire.response().status
        }
        #expect(try status(one) == 200)
        try proxy.reload(
            Self.configuration(origin, top: "admin { bind 127.0.0.1:\(one); bind 127.0.0.1:\(two); }"))
        #expect(try status(one) == 200)
        #expect(try status(two) == 200)
        try proxy.reload(Self.configuration(origin, top: "admin { bind 127.0.0.1:\(two); }"), generation: 3)
        #expect(try status(two) == 200)
        #expect(throws: WireError.reset) { try Address.ipv4(port: one).connect() }
        try proxy.reload(Self.configuration(origin), generation: 4)
        #expect(throws: WireError.reset) { try Address.ipv4(port: two).connect() }
    }

    /// Counters of routes that stay go on; those that are gone take nothing from the gauges.
    @Test func countersGoOn() throws {
        let patient = Patient()
        let origin = patient.origin()
        let top = "admin { bind 127.0.0.1:0; }"
        let proxy = try start(
            Self.configuration(origin, top: top, listener: "bind 127.0.0.1:0; route /gone { upstream origin; }"), origin
        )
        let (client, slow) = (try proxy.connect(), try proxy.connect())
        try slow.ask("GET /slow HTTP/1.1")
        try patient.came.take()
        for path in ["/", "/gone", "/"] {
            try client.ask("GET \(path) HTTP/1.1")
            _ = try client.response()
        }
        try proxy.reload(Self.configuration(origin, top: top, route: "response_idle_timeout 1m;"))
        try client.ask()
        _ = try client.response()
        func total(_ route: String, becomes value: Double?) throws -> Bool {
            try proxy.metric(
                "headfirst_requests_total{listener=\"main\",host=\"\",route=\"\(route)\",upstream=\"origin\",code=\"2xx\"}",
                becomes: value)
        }
        #expect(try total("/", becomes: 3))
        #expect(try total("/gone", becomes: 1))
        #expect(try proxy.metric("headfirst_exchanges", becomes: 1))
        patient.go.give()
        _ = try slow.response()
        #expect(try total("/gone", becomes: nil))
        #expect(try total("/", becomes: 4))
        #expect(try proxy.metric("headfirst_exchanges", becomes: 0))
    }

    /// What heads may need grows with the configuration, also for connections that are there.
    @Test func limitsGrowAndShrink() throws {
        let origin = Patient().origin()
        let proxy = try start(
            Self.configuration(origin, top: "request_head_max 1k; request_target_max 1k; relay_buffer 4k;"), origin)
        let client = try proxy.connect()
        let long = String(repeating: "x", count: 100_000)
        try proxy.reload(
            Self.configuration(
                origin, top: "request_head_max 256k; request_target_max 200k; relay_buffer 1m; response_head_max 256k;",
                route: "set_request_field X-Twice $target$target;"))
        try client.ask("GET / HTTP/1.1", "X-Long: \(long)")
        #expect(try client.response().status == 200)
        try proxy.reload(
            Self.configuration(origin, top: "request_head_max 1k; request_target_max 1k; relay_buffer 4k;"),
            generation: 3)
        try client.ask("GET / HTTP/1.1", "X-Long: \(long)")
        #expect(try client.response().status == 431)
    }

    // MARK: Under load

    /// Reloads in a row with clients on kept connections: none fails, none is closed.
    @Test func manyReloadsUnderLoadFailNothing() throws {
        let origin = Patient().origin()
        let other = Patient().origin()
        let proxy = try start(Self.configuration(origin, workers: 2), origin, other)
        let port = try #require(UInt16(proxy.listening[0].split(separator: ":").last ?? ""))
        let isOver = Monitor(false)
        let ended = Handoff<(requests: Int, failures: [String])>()
        for _ in 0..<4 {
            startThread {
                var count = 0
                var failures: [String] = []
                do {
                    let client = try Address.ipv4(port: port).connect()
                    while !isOver.update({ $0 }) {
                        try client.ask()
                        let response = try client.response()
                        if response.status != 200 || response["Connection"] != nil {
                            failures.append(response.startLine)
                        }
                        count += 1
                    }
                } catch { failures.append("\(error) after \(count)") }
                ended.give((count, failures))
            }
        }
        for generation in 2...100 {
            let configuration =
                switch generation % 3 {
                case 0: Self.configuration(origin, workers: 2, route: "set_response_field X-A \(generation);")
                case 1: Self.configuration(other, workers: 2, upstream: "balance least_outstanding;")
                default: Self.configuration(origin, workers: 2, listener: "bind 127.0.0.1:0; bind unix:$FOLDER/x;")
                }
            try proxy.reload(configuration, generation: generation)
        }
        isOver.update { $0 = true }
        for _ in 0..<4 {
            let (requests, failures) = try ended.take()
            #expect(failures.isEmpty)
            #expect(requests > 100)
        }
    }
}
