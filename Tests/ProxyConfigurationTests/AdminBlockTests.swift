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
        ("drain_delay 3s;", "1:1: warning: drain_delay has no use without admin"),
    ])
    func mistake(text: String, report: String) {
        let found = mistakes(in: .top, text)
        #expect(
            found.contains { report.first?.isNumber == true ? $0.hasPrefix(report) : $0.contains(report) }, "\(found)")
    }
}
