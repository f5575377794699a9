// The `admin` block, and `drain_delay` with it and without it.

import HTTPSemantics
import Testing

@testable import ProxyConfiguration

@Suite struct AdminBlockTests {
    @Test func addressesInTheirOrder() throws {
        let admin = try #require(
            try model(in: .top, "admin { bind 127.0.0.1:9901; bind [::1]:9901; bind unix:/a.sock; bind 9902; }").admin)
        #expect(
            admin.binds.map(\.endpoint) == [
                .ip(try #require(IPAddress("127.0.0.1")), port: 9901), .ip(try #require(IPAddress("::1")), port: 9901),
                .unix("/a.sock"), .ip(try #require(IPAddress("0.0.0.0")), port: 9902),
            ])
        #expect(admin.binds.allSatisfy { !$0.isTLS })
    }

    @Test func hostsInOneDirectiveOrInSeveral() throws {
        let admin = try #require(
            try model(in: .top, "admin { bind 9901; host Proxy.Example a_b; host 192.0.2.1 [2001:DB8:0::1]; host a; }")
                .admin)
        #expect(
            admin.allowedHosts == [
                .name("proxy.example"), .name("a_b"), .address(try #require(IPAddress("192.0.2.1"))),
                .address(try #require(IPAddress("2001:db8::1"))), .name("a"),
            ])
        #expect(try model(in: .top, "admin { bind 9901; }").admin?.allowedHosts == [])
    }

    @Test(arguments: [
        ("LocalHost.", AdminHost.name("localhost")), ("a.b", .name("a.b")), ("a..", .name("a.")), (".", .name("")),
        ("[127.0.0.1]", .name("[127.0.0.1]")), ("::1", .name("::1")), ("127.1", .name("127.1")),
        ("127.0.0.1.", .address(IPAddress(ipv4: 0x7F00_0001))),
        ("[::FFFF:7f00:1]", .address(IPAddress(ipv4: 0x7F00_0001))),
        ("[::1]", .address(IPAddress(high: 0, low: 1))), ("[::1].", .name("[::1]")),
    ])
    func hostsAsTheyAreAskedFor(text: String, host: AdminHost) { #expect(AdminHost(text) == host) }

    @Test func onlyWhoCanBeAskedDelaysTheDrain() throws {
        #expect(try model(in: .top, "").drainDelayMilliseconds == 0)
        #expect(try model(in: .top, "").admin == nil)
        #expect(try model(in: .top, "admin { bind 9901; }").drainDelayMilliseconds == 5000)
        #expect(try model(in: .top, "drain_delay 2s; admin { bind 9901; }").drainDelayMilliseconds == 2000)
        #expect(try model(in: .top, "drain_delay 0; admin { bind 9901; }").drainDelayMilliseconds == 0)
    }

    @Test(arguments: [
        ("admin { }", "1:1: the admin block has no bind"),
        ("admin x { bind 9; }", "1:7: "),
        ("admin;", "1:1: \"admin\" needs a block"),
        ("admin { bind 9; }\nadmin { bind 10; }", "2:1: a second \"admin\" in this block"),
        ("admin { bind 9; bind 9; }", "1:22: this address is bound twice; first at proxy.conf:1:9"),
        ("admin { bind 1; }", "bound twice"),
        ("admin { bind 9 tls; }", "1:16: "),
        ("admin { bind example.com:9; }", "1:14: "),
        ("admin { route / { } }", "1:9: \"route\" is not allowed in admin"),
        ("admin { bind 9; host; }", "1:17: \"host\" needs an argument"),
        ("admin { bind 9; host *.example.com; }", "1:22: \"*.example.com\": the hosts of the admin listener are"),
        ("admin { bind 9; host *; }", "1:22: \"*\": the hosts of the admin listener are written out"),
        ("admin { bind 9; host a:9; }", "1:22: \"a:9\": a host has no port here"),
        ("admin { bind 9; host 127.1; }", "1:22: \"127.1\" is neither an IP address nor the name of a host"),
        ("admin { bind 9; host a { } }", "1:17: \"host\" takes no block here"),
        ("drain_delay 3s;", "1:1: warning: drain_delay has no use without admin"),
    ])
    func mistake(text: String, report: String) {
        let found = mistakes(in: .top, text)
        #expect(
            found.contains { report.first?.isNumber == true ? $0.hasPrefix(report) : $0.contains(report) }, "\(found)")
    }
}
