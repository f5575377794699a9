// What CONNECT may reach: targets as they are written, and as somebody might write them to get around the rules.

import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

@Suite struct ConnectRulesTests {
    private func target(_ host: ConnectTarget.Host, _ port: UInt16? = 443) -> ConnectTarget {
        ConnectTarget(host: host, port: port)
    }

    private func network(_ text: String) throws -> ConnectTarget.Host { .network(try #require(IPNetwork(text))) }

    private func verdict(_ targets: [ConnectTarget], _ asked: String) -> ConnectRules.Verdict? {
        ConnectDestination(Array(asked.utf8)).map { ConnectRules(targets).judge($0) }
    }

    @Test(arguments: [
        "example.com", "example.com:", "example.com:0", "example.com:65536", ":443", "127.1:443", "0x7f000001:443",
        "2130706433:443", "a..b:443", "a b:443", "a%2e:443", "[::1:443", "[fe80::1%25eth0]:443", "::1:443",
        "1.2.3.4.:443",
    ])
    func whatNamesNothing(_ text: String) {
        #expect(ConnectDestination(Array(text.utf8)) == nil)
    }

    @Test func addressesAndNamesAreToldApart() throws {
        #expect(ConnectDestination(Array("10.1.2.3:80".utf8))?.host == .address(try #require(IPAddress("10.1.2.3"))))
        #expect(
            ConnectDestination(Array("[2001:DB8::1]:80".utf8))?.host == .address(try #require(IPAddress("2001:db8::1")))
        )
        // The mapped form is the IPv4 address.
        #expect(
            ConnectDestination(Array("[::ffff:7f00:1]:80".utf8))?.host == .address(try #require(IPAddress("127.0.0.1")))
        )
        #expect(ConnectDestination(Array("Example.COM:80".utf8))?.host == .name("example.com"))
    }

    @Test func namesMatchWholeAndByLabel() {
        let rules = [target(.name("api.test")), target(.namesBelow("example.com"), nil)]
        #expect(verdict(rules, "api.test:443") == .allowedAlsoLocally)
        #expect(verdict(rules, "API.test.:443") == .allowedAlsoLocally)
        #expect(verdict(rules, "api.test:444") == .denied)
        #expect(verdict(rules, "x.api.test:443") == .denied)
        #expect(verdict(rules, "a.b.example.com:1") == .allowed)
        #expect(verdict(rules, "example.com:1") == .denied)
        #expect(verdict(rules, "notexample.com:1") == .denied)
    }

    @Test func networksAreForAddresses() throws {
        let rules = [target(try network("10.0.0.0/8")), target(try network("2001:db8::/32"), nil)]
        #expect(verdict(rules, "10.255.0.1:443") == .allowed)
        #expect(verdict(rules, "11.0.0.1:443") == .denied)
        #expect(verdict(rules, "[2001:db8::5]:7") == .allowed)
        #expect(verdict(rules, "ten.example:443") == .denied)
    }

    @Test(arguments: [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "[::1]", "[::]", "[fe80::1]", "[::ffff:127.0.0.1]",
    ])
    func whatIsLocalIsNamedOrDenied(_ host: String) throws {
        let everything = [target(.any, nil), target(try network("0.0.0.0/0"), nil), target(try network("::/0"), nil)]
        #expect(verdict(everything, "\(host):443") == .denied)
        let destination = try #require(ConnectDestination(Array("\(host):443".utf8)))
        guard case .address(let address) = destination.host else {
            Issue.record("an address")
            return
        }
        #expect(ConnectRules.isLocal(address))
        let named = everything + [target(.network(try #require(IPNetwork(address.description))))]
        #expect(verdict(named, "\(host):443") == .allowedAlsoLocally)
        #expect(verdict(named, "\(host):444") == .denied)
    }

    @Test(arguments: ["168.63.129.16", "100.100.100.200", "192.0.0.192", "[fd00:ec2::254]", "[fd20:ce::254]"])
    func metadataServicesAreNamedOrDenied(_ host: String) {
        #expect(verdict([target(.any, nil)], "\(host):80") == .denied)
    }

    @Test func aNetworkOfOneVersionIsNotForTheOther() throws {
        #expect(verdict([target(try network("::/0"))], "10.1.1.1:443") == .denied)
        #expect(verdict([target(try network("::/0"))], "[2001:db8::1]:443") == .allowed)
        #expect(verdict([target(try network("0.0.0.0/0"))], "10.1.1.1:443") == .allowed)
        #expect(verdict([target(try network("0.0.0.0/0"))], "[2001:db8::1]:443") == .denied)
    }

    @Test func aNameUnderAWildcardMayNotBeLocal() {
        // Whoever answers for the name chooses its address; the verdict is what the lookup is held against.
        #expect(verdict([target(.any, nil)], "localhost:80") == .allowed)
        #expect(verdict([target(.any, nil), target(.name("localhost"), nil)], "localhost:80") == .allowedAlsoLocally)
    }
}
