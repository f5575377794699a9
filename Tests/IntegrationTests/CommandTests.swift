// The command: its exit codes and what it says, and how it stops.

import Glibc
import Testing

@Suite struct CommandTests {
    private static let good =
        "workers 1; access_log off; listener main { bind 127.0.0.1:0; route / { respond 200 ok; } }"

    private func run(_ arguments: String...) throws -> (code: Int, output: String, errors: String) {
        let command = Command(arguments)
        let code = try command.exitCode()
        try command.output.waitForEnd(milliseconds: 1000)
        return (code, command.output.text, command.errors.text)
    }

    // MARK: Exit codes

    @Test func checkSaysOk() throws {
        let folder = Folder()
        let file = folder.write(Self.good, to: "good.conf")
        let (code, output, errors) = try run("check", file)
        #expect(code == 0)
        #expect(output == "\(file): ok\n")
        #expect(errors.isEmpty)
    }

    @Test("Every mistake is listed, and the code is 78", arguments: ["check", "run"])
    func mistakes(subcommand: String) throws {
        let folder = Folder()
        let file = folder.write(
            "upstrem a { }\nlistener main {\n    bind 127.0.0.1:99999;\n    route / { upstream b; }\n}\n",
            to: "bad.conf")
        let (code, _, errors) = try run(subcommand, "--config", file)
        #expect(code == 78)
        #expect(errors.contains("\(file):1:1: error: unknown directive \"upstrem\""))
        #expect(errors.contains("did you mean \"upstream\"?"))
        #expect(errors.contains("\(file):3:10: error:"))
        #expect(errors.contains("\(file):4:"))
        #expect(errors.contains("^"))
    }

    @Test func aMissingFileIs78() throws {
        let (code, _, errors) = try run("run", "--config", "/nowhere/proxy.conf")
        #expect(code == 78)
        #expect(errors.contains("/nowhere/proxy.conf"))
    }

    @Test(
        "A wrong command line is 64",
        arguments: [
            ["fly"], ["run", "--confg", "x"], ["check", "a", "--config", "b"], ["run", "a", "b"],
        ])
    func usage(arguments: [String]) throws {
        let command = Command(arguments)
        #expect(try command.exitCode() == 64)
        #expect(command.errors.text.contains("Usage:"))
    }

    @Test func helpAndVersionAre0() throws {
        #expect(try run("--help").code == 0)
        #expect(try run("--help").output.contains("headfirst run"))
        #expect(try run("--version").code == 0)
    }

    @Test func anAddressInUseIs71() throws {
        let socket = Wire(Address.ipv4(port: 0).makeSocket())
        let address = try Address.ipv4(port: 0).listening(on: socket.descriptor, backlog: 1)
        let folder = Folder()
        let file = folder.write(
            "access_log off;\nlistener main {\n    bind \(address.text);\n    route / { respond 200; }\n}\n",
            to: "p.conf")
        let (code, _, errors) = try run("run", "--config", file)
        #expect(code == 71)
        // The directive's place, the address, the reason.
        #expect(errors.contains("\(file):3:5: error:"))
        #expect(errors.contains("\(address.text): Address already in use"))
        withExtendedLifetime(socket) {}
    }

    @Test("A log that cannot be opened is 71", arguments: ["access_log", "error_log"])
    func unwritableLog(directive: String) throws {
        let folder = Folder()
        let file = folder.write(
            "\(directive) /nowhere/at/all.log;\nlistener main { bind 127.0.0.1:0; route / { respond 200; } }",
            to: "p.conf")
        let (code, _, errors) = try run("run", "--config", file)
        #expect(code == 71)
        #expect(errors.contains("log"))
    }

    @Test func theEnvironmentIsReadAndMissingIs78() throws {
        let text = Self.good.split(separator: "respond 200 ok").joined(separator: "respond 200 \"${GREETING} $host\"")
        let proxy = try Headfirst(configuration: text, environment: ["GREETING=hi; there"])
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).text == "hi; there t")
        let folder = Folder()
        let (code, _, errors) = try run("check", folder.write(text, to: "p.conf"))
        #expect(code == 78)
        #expect(errors.contains("GREETING"))
    }

    // MARK: Stopping

    private var answering: (origin: Origin, go: Handoff<Void>, came: Handoff<Void>) {
        let (go, came) = (Handoff<Void>(), Handoff<Void>())
        let origin = Origin.serving { wire, _ in
            came.give()
            try wire.await(go)
            try wire.ok()
        }
        return (origin, go, came)
    }

    @Test("A signal lets running exchanges end", arguments: [SIGTERM, SIGINT])
    func drains(signal: Int32) throws {
        let (origin, go, came) = answering
        let proxy = try Headfirst(to: origin)
        let idle = try proxy.connect()
        let busy = try proxy.connect()
        try busy.ask()
        try came.take()
        proxy.terminate(signal)
        // Idle connections end, the running one does not, and nobody new comes in.
        #expect(idle.end() == .ended)
        #expect(throws: (any Error).self) { try proxy.connect() }
        go.give()
        let response = try busy.response()
        #expect(response.text == "ok")
        #expect(response["Connection"] == "close")
        busy.close()
        #expect(try proxy.command.exitCode() == 0)
    }

    @Test func shutdownGraceBoundsIt() throws {
        let (origin, _, came) = answering
        let proxy = try Headfirst(to: origin, top: "shutdown_grace 300ms;")
        let client = try proxy.connect()
        try client.ask()
        try came.take()
        let start = Now.milliseconds
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        #expect((250..<1500).contains(Now.milliseconds - start))
        // Nothing was sent yet, so it can be said.
        let response = try client.response()
        #expect(response.status == 503)
        #expect(response["Proxy-Status"] != nil)
    }

    @Test func aSecondSignalEndsItAtOnce() throws {
        let (origin, _, came) = answering
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        try came.take()
        proxy.terminate()
        _ = try proxy.errorLog.line(with: "stopping")
        let start = Now.milliseconds
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        #expect(Now.milliseconds - start < 1000)
    }

    @Test func whatASlowClientHasNotReadYetIsStillSent() throws {
        let size = 4 << 20
        let finished = Handoff<Void>()
        let origin = Origin.serving { wire, _ in
            try wire.send(head("HTTP/1.1 200 OK", "Content-Length: \(size)"))
            try wire.send([UInt8](repeating: 0x78, count: size))
            finished.give()
        }
        let proxy = try Headfirst(to: origin, top: "relay_buffer 1m;")
        let client = try proxy.connect(receiveBuffer: 4096)
        try client.ask()
        var response = try client.head()
        // Read on until the server has sent everything, then signal: the last part waits in the proxy.
        while finished.count == 0 {
            response.content += try client.exactly(1 << 10)
        }
        proxy.terminate()
        _ = try proxy.errorLog.line(with: "stopping")
        _ = client.isSilent(milliseconds: 1)
        response.content += try client.exactly(size - response.content.count)
        #expect(response.content.count == size)
        client.close()
        #expect(try proxy.command.exitCode() == 0)
    }

    @Test func aRestartCanBindTheSamePortAtOnce() throws {
        let first = try Headfirst(configuration: Self.good)
        let client = try first.connect()
        try client.ask()
        _ = try client.response()
        let address = first.listening[0]
        first.terminate()
        #expect(try first.command.exitCode() == 0)
        let second = try Headfirst(
            configuration: Self.good.split(separator: "127.0.0.1:0").joined(separator: address))
        #expect(try second.answer(to: head("GET / HTTP/1.1", "Host: t")).text == "ok")
        client.close()
    }
}

@Suite struct ServiceManagerTests {
    /// systemd's side of sd_notify(3).
    @Test(arguments: ["/", "@"])
    func theServiceManagerIsToldOfEachState(kind: String) throws {
        let folder = Folder()
        let name = kind == "/" ? "\(folder.path)/notify" : "@headfirst-test-\(getpid())-notify"
        let listening = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(listening) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(name.utf8)) }
        if kind == "@" { address.sun_path.0 = 0 }
        let length = socklen_t(MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2) + socklen_t(name.utf8.count)
        let isBound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listening, $0, length) == 0 }
        }
        #expect(isBound)
        func next() -> String {
            var entry = pollfd(fd: listening, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 4000) > 0 else { return "nothing" }
            var room = [UInt8](repeating: 0, count: 256)
            return String(decoding: room[..<max(0, recv(listening, &room, room.count, 0))], as: UTF8.self)
        }
        let file = folder.write(
            "workers 1; access_log off; listener main { bind 127.0.0.1:0; route / { respond 200; } }", to: "p.conf")
        let command = Command(["run", file], environment: ["NOTIFY_SOCKET=\(name)"])
        #expect(next() == "READY=1")
        command.signal(SIGHUP)
        #expect(next().hasPrefix("RELOADING=1\nMONOTONIC_USEC="))
        #expect(next() == "READY=1")
        command.signal(SIGTERM)
        #expect(next() == "STOPPING=1")
        #expect(try command.exitCode() == 0)
    }
}

@Suite struct SignalTests {
    private static let text = "workers 1; access_log off; listener main { bind 127.0.0.1:0; route / { respond 200; } }"

    @Test func whatMeansNothingIsIgnored() throws {
        let proxy = try Headfirst(configuration: Self.text)
        let signals = [
            (SIGUSR2, "SIGUSR2"), (SIGALRM, "SIGALRM"), (SIGVTALRM, "SIGVTALRM"), (SIGPROF, "SIGPROF"),
            (SIGIO, "SIGIO"), (SIGPWR, "SIGPWR"), (SIGSTKFLT, "SIGSTKFLT"),
        ]
        for (number, name) in signals {
            proxy.command.signal(number)
            _ = try proxy.errorLog.line(with: "signal is ignored signal=\(name)")
        }
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: a")).status == 200)
    }

    @Test func logsAreOpenedAgainWithoutAReload() throws {
        let proxy = try Headfirst(configuration: Self.text)
        proxy.command.signal(SIGUSR1)
        _ = try proxy.errorLog.line(with: "logs were opened again")
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: a")).status == 200)
        #expect(!proxy.errorLog.text.contains("configuration is in force"))
    }

    @Test func quitIsAnOrderlyEnd() throws {
        let go = Handoff<Void>()
        let origin = Origin { wire, _ in
            _ = try wire.request()
            try go.take()
            try wire.ok("late")
        }
        let proxy = try Headfirst(to: origin)
        let client = try proxy.connect()
        try client.ask()
        usleep(50_000)
        proxy.terminate(SIGQUIT)
        _ = try proxy.errorLog.line(with: "running exchanges may end")
        go.give()
        #expect(try client.response().text == "late")
        #expect(try proxy.command.exitCode() == 0)
    }

    /// What comes while the configuration is read waits until it is served.
    @Test func signalsThatComeEarlyWait() throws {
        let folder = Folder()
        let fifo = "\(folder.path)/p.conf"
        #expect(mkfifo(fifo, 0o600) == 0)
        let command = Command(["run", fifo])
        // The file is open for reading from when somebody can write to it.
        let writer = open(fifo, O_WRONLY)
        for number in [SIGUSR1, SIGUSR2, SIGALRM] { command.signal(number) }
        let bytes = Array(Self.text.utf8)
        #expect(write(writer, bytes, bytes.count) == bytes.count)
        close(writer)
        _ = try command.errors.line(with: "listening=")
        _ = try command.errors.line(with: "signal is ignored signal=SIGALRM")
        command.signal(SIGTERM)
        #expect(try command.exitCode() == 0)
    }
}

@Suite struct DemoCommandTests {
    @Test(arguments: [false, true])
    func theDemoShowsItselfAndEnds(tls: Bool) throws {
        let command = Command(["demo", "--bind", "127.0.0.1:0"] + (tls ? ["--tls"] : []))
        let line = try command.output.line(with: "\(tls ? "https" : "http")://127.0.0.1:")
        let port = try #require(UInt16(line.split { $0 == ":" || $0 == "/" }.last ?? ""))
        let client = try Address.ipv4(port: port).connect()
        try client.send(head("GET /no-such-page HTTP/1.1", "Host: demo"))
        // In clear a port that speaks TLS says what is wrong.
        #expect(try client.head().status == (tls ? 400 : 404))
        command.signal(SIGTERM)
        #expect(try command.exitCode() == 0)
    }
}
