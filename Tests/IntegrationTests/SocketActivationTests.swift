// Sockets that the process is started with, as systemd hands them over.

import Glibc
import Testing

@Suite struct SocketActivationTests {
    /// The environment of systemd, for the process that the shell becomes.
    private static let activation = "export LISTEN_PID=$$"

    private static func environment(_ names: String...) -> [String] {
        ["LISTEN_FDS=\(names.count)", "LISTEN_FDNAMES=\(names.joined(separator: ":"))"]
    }

    private func listen(_ address: Address = .ipv4(port: 0)) throws -> (descriptor: Int32, address: Address) {
        let descriptor = address.makeSocket()
        return (descriptor, try address.listening(on: descriptor, backlog: 16))
    }

    private func status(_ address: Address) throws -> Int {
        let client = try address.connect()
        try client.ask()
        return try client.response().status
    }

    /// Who connects while no process is there is answered by the next one.
    @Test(arguments: [1, 2])
    func theSocketOutlivesTheProcess(workers: Int) throws {
        let (descriptor, address) = try listen()
        defer { close(descriptor) }
        var waiting = try address.connect()
        for status in [201, 202] {
            let proxy = try Headfirst(
                configuration: """
                    workers \(workers); access_log off; listener main { bind fd:web; route / { respond \(status); } }
                    """, environment: Self.environment("web"), limit: Self.activation, sockets: [descriptor])
            try waiting.ask()
            #expect(try waiting.response().status == status)
            #expect(try self.status(address) == status)
            proxy.terminate()
            #expect(try proxy.command.exitCode() == 0)
            waiting = try address.connect()
        }
    }

    @Test func oneNameMayStandForSeveralSockets() throws {
        let folder = Folder()
        let sockets = [try listen(), try listen(.ipv6(port: 0)), try listen(.unix(path: "\(folder.path)/x.sock"))]
        defer { for (descriptor, _) in sockets { close(descriptor) } }
        let text = "workers 2; access_log off; listener main { bind fd:web; route / { respond 204; } }"
        let proxy = try Headfirst(
            configuration: text, environment: Self.environment("web", "web", "web"), limit: Self.activation,
            sockets: sockets.map(\.descriptor), folder: folder)
        for (_, address) in sockets { #expect(try status(address) == 204) }
        // A reload may let them go and take them again.
        try proxy.reload("listener main { bind 127.0.0.1:0; route / { respond 204; } }")
        let waiting = try sockets[0].address.connect()
        try waiting.ask()
        #expect(waiting.isSilent(milliseconds: 50))
        try proxy.reload(text, generation: 3)
        #expect(try waiting.response().status == 204)
        for (_, address) in sockets { #expect(try status(address) == 204) }
        #expect(access("\(folder.path)/x.sock", F_OK) == 0)
    }

    @Test func aNumberNamesADescriptor() throws {
        // Bound alone: it listens when the proxy does.
        let descriptor = Address.ipv4(port: 0).makeSocket()
        defer { close(descriptor) }
        #expect(Address.ipv4(port: 0).withSocketAddress { bind(descriptor, $0, $1) } == 0)
        let address = Address.ipv4(port: 0).bound(to: descriptor)
        let proxy = try Headfirst(
            configuration: "access_log off; listener main { bind fd:3; route / { respond 204; } }",
            sockets: [descriptor])
        #expect(proxy.listening == ["fd:3 (127.0.0.1:\(address.port))"] || proxy.listening.first == "fd:3")
        #expect(try status(address) == 204)
    }

    /// One socket under two names would be watched twice, and none of the process's own can be named.
    @Test func aSocketIsTakenOnce() throws {
        let (descriptor, address) = try listen()
        defer { close(descriptor) }
        let text = "workers 1; access_log off; listener main { bind fd:web; route / { respond 204; } }"
        let proxy = try Headfirst(
            configuration: text, environment: Self.environment("web"), limit: Self.activation, sockets: [descriptor])
        for (more, reason) in [
            ("listener more { bind fd:3; route / { respond 204; } }", "another bind has this socket already"),
            ("admin { bind fd:3; }", "another bind has this socket already"),
            ("listener more { bind fd:6; route / { respond 204; } }", "was not started with such a socket"),
        ] {
            proxy.hangUp(text + more)
            _ = try proxy.errorLog.line(with: reason)
            #expect(try status(address) == 204)
        }
    }

    @Test func whatWasNotHandedOverIsAnErrorWithItsPlace() throws {
        let (descriptor, _) = try listen()
        defer { close(descriptor) }
        let folder = Folder()
        let file = folder.write("listener main { bind fd:api; route / { respond 204; } }", to: "proxy.conf")
        for (environment, limit, reason) in [
            ([], nil, "no socket was handed to this process"),
            (Self.environment("web"), Self.activation, "there are: web"),
            // Those of another process are not ours.
            (Self.environment("api") + ["LISTEN_PID=1"], nil, "no socket was handed to this process"),
        ] {
            let command = Command(["run", file], environment: environment, limit: limit, sockets: [descriptor])
            #expect(try command.exitCode() == 71)
            #expect(command.errors.text.contains("proxy.conf:1:17: error: cannot listen on fd:api: "))
            #expect(command.errors.text.contains(reason), "\(command.errors.text)")
        }
        let socket = folder.write("", to: "plain")
        let plain = open(socket, O_RDONLY)
        defer { close(plain) }
        let number = folder.write("listener main { bind fd:3; route / { respond 204; } }", to: "number.conf")
        let command = Command(["run", number], sockets: [plain])
        #expect(try command.exitCode() == 71)
        #expect(command.errors.text.contains("was not started with such a socket"))
        // To check a file, nobody need hand over anything.
        let check = Command(["check", file])
        #expect(try check.exitCode() == 0)
    }
}
