// Unix sockets and IPv6 on both sides, and servers that have names.

import Glibc
import Testing

@Suite struct TransportTests {
    @Test func unixSocketsOnBothSides() throws {
        let folder = Folder()
        let origin = Origin.serving(.unix(path: "\(folder.path)/origin.sock")) { wire, request in
            try wire.ok("\(request["Host"] ?? "") \(request["Forwarded"] ?? "")")
        }
        let proxy = try Headfirst(
            configuration: """
                workers 2; access_log stdout format=json;
                upstream origin { server unix:\(folder.path)/origin.sock; }
                listener main { bind unix:$FOLDER/proxy.sock; route / { upstream origin; } }
                """, origins: [origin])
        let client = try Address.unix(path: "\(proxy.folder.path)/proxy.sock").connect()
        try client.ask()
        #expect(try client.response().text == "test for=unknown;host=test;proto=http")
        let line = try JSON(try proxy.accessLog.lines(1)[0])
        #expect(line["server"] == "unix:\(folder.path)/origin.sock")
        #expect(line["client_port"] == nil)
        client.close()
        proxy.terminate()
        #expect(try proxy.command.exitCode() == 0)
        #expect(access("\(proxy.folder.path)/proxy.sock", F_OK) != 0)
    }

    @Test func aStaleUnixSocketIsReplaced() throws {
        let folder = Folder()
        let configuration = """
            workers 1; access_log off;
            listener main { bind unix:$FOLDER/proxy.sock; route / { respond 200 ok; } }
            """
        let first = try Headfirst(configuration: configuration, folder: folder)
        first.command.signal(SIGKILL)
        _ = try first.command.exitCode()
        first.terminate()
        let second = try Headfirst(configuration: configuration, folder: folder)
        let client = try Address.unix(path: "\(folder.path)/proxy.sock").connect()
        client.peer = second
        try client.ask()
        #expect(try client.response().text == "ok")
    }

    @Test func ipv6OnBothSides() throws {
        let origin = Origin.serving(.ipv6(port: 0)) { wire, request in
            try wire.ok("\(request["X-Forwarded-For"] ?? "") \(request["Forwarded"] ?? "")")
        }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text); }
                listener main { bind [::1]:0; trusted_proxies ::1/128; route / { upstream origin; } }
                """, origins: [origin])
        let client = try proxy.connect()
        try client.ask("GET / HTTP/1.1", "X-Forwarded-For: 2001:db8::1", "Forwarded: for=\"[2001:db8::1]\"")
        #expect(
            try client.response().text
                == "2001:db8::1, ::1 for=\"[2001:db8::1]\", for=\"[::1]\";host=test;proto=http")
    }

    @Test func aListenerMayHaveSeveralAddresses() throws {
        let proxy = try Headfirst(
            configuration: """
                workers 2; access_log off;
                listener one { bind 127.0.0.1:0; bind [::1]:0; route / { respond 200 one; } }
                listener two { bind 127.0.0.1:0; route / { respond 200 two; } }
                """)
        #expect(proxy.listening.count == 3)
        var texts: [String] = []
        for index in 0..<3 {
            let client = try proxy.connect(listener: index)
            try client.ask()
            texts.append(try client.response().text)
        }
        #expect(texts.sorted() == ["one", "one", "two"])
    }

    @Test func namesAreLookedUp() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request["Host"] ?? "") }
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server localhost:\(origin.address.port) family=ipv4; }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """, origins: [origin])
        #expect(try proxy.answer(to: head("GET / HTTP/1.0")).text == "localhost:\(origin.address.port)")
    }

    @Test func everyAddressOfANameIsTried() throws {
        // Nobody listens on the IPv6 address of the name.
        let origin = Origin.serving()
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server localhost:\(origin.address.port); keepalive off; }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """, origins: [origin])
        for _ in 0..<4 { #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 200) }
    }

    @Test func aNameWithoutAddressIs502Or504() throws {
        // A name server that is not there: nothing leaves this machine.
        let proxy = try Headfirst(
            configuration: """
                workers 1; access_log off; resolver 127.0.0.1:9; connect_timeout 500ms; retries 0;
                upstream origin { server nowhere.invalid:80; }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """)
        let response = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t"))
        #expect([502, 504].contains(response.status))
        #expect(response["Proxy-Status"]?.contains("error=dns_") == true)
    }

    @Test func answersOfSeveralWorkersDoNotMix() throws {
        let origin = Origin.serving { wire, request in try wire.ok(request.target) }
        let proxy = try Headfirst(
            configuration: """
                workers 4; access_log off;
                upstream origin { server \(origin.address.text); }
                listener main { bind 127.0.0.1:0; route / { upstream origin; } }
                """, origins: [origin])
        let clients = try (0..<32).map { _ in try proxy.connect() }
        for round in 0..<5 {
            for (number, client) in clients.enumerated() { try client.ask("GET /\(round)/\(number) HTTP/1.1") }
            for (number, client) in clients.enumerated() {
                #expect(try client.response().text == "/\(round)/\(number)")
            }
        }
    }
}
