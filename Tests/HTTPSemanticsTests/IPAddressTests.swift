// Addresses as text, both ways (RFC 4291 section 2.2, RFC 5952), and networks.

import HTTPSemantics
import TestSupport
import Testing

@Suite struct IPAddressTests {
    @Test(arguments: [
        // RFC 5952, sections 1 to 4.
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("2001:0db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8::1:0:0:1", "2001:db8::1:0:0:1"), ("2001:db8::0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:0db8::1:0:0:1", "2001:db8::1:0:0:1"), ("2001:db8:0:0:1::1", "2001:db8::1:0:0:1"),
        ("2001:db8:0000:0:1::1", "2001:db8::1:0:0:1"), ("2001:DB8:0:0:1::1", "2001:db8::1:0:0:1"),
        ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:0001", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"),
        ("2001:db8:aaaa:bbbb:cccc:dddd:0:1", "2001:db8:aaaa:bbbb:cccc:dddd:0:1"),
        ("2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("2001:db8:0:0:0:0:2:1", "2001:db8::2:1"), ("2001:db8::AAAA", "2001:db8::aaaa"),
        ("0:0:0:0:0:0:0:0", "::"), ("::", "::"), ("::1", "::1"), ("0:0:0:0:0:0:0:1", "::1"), ("1::", "1::"),
        ("1:0:0:0:0:0:0:0", "1::"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"), ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
        ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        (
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        ), ("fe80::a00:20ff:fe0a:b0c", "fe80::a00:20ff:fe0a:b0c"),
        ("0:0:1:0:0:0:0:0", "0:0:1::"), ("1:0:0:2:0:0:3:4", "1::2:0:0:3:4"),
        ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"), ("1:2:3:4:5:6:192.0.2.1", "1:2:3:4:5:6:c000:201"),
        // IPv4, and IPv4 in its mapped form.
        ("192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("255.255.255.255", "255.255.255.255"),
        ("10.100.9.99", "10.100.9.99"), ("::ffff:192.0.2.1", "192.0.2.1"), ("::FFFF:c000:201", "192.0.2.1"),
    ])
    func text(_ text: String, _ canonical: String) throws {
        let address = try #require(IPAddress(text))
        #expect(address.description == canonical)
        #expect(IPAddress(canonical) == address)
    }

    @Test(arguments: [
        "", " ", ":", ":::", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.04", "1..2.3", "1.2.3.",
        ".1.2.3.4",
        "1.2.3.4 ", " 1.2.3.4", "1.2.3.4/8", "1.2.3.a", "0x1.2.3.4", "1.2.3.-4", "1.2.3.+4", "1.2.3.1000",
        "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "::g", "1:2:3:4:5:6:7:", ":1:2:3:4:5:6:7", "[::1]",
        "::1%eth0", "::1.2.3", "::1.2.3.4:5", "1.2.3.4::", "1:2:3:4:5:6:7:1.2.3.4", "1:2:3:4:5:6:7:8::",
        "::1:2:3:4:5:6:7:8", "::256.1.1.1", "::ffff:01.2.3.4", "1:::2", "\u{0661}.2.3.4",
    ])
    func refused(_ text: String) { #expect(IPAddress(text) == nil) }

    @Test func parts() throws {
        let four = try #require(IPAddress("1.2.3.4"))
        #expect(four.isIPv4)
        #expect(four.ipv4Bits == 0x0102_0304)
        #expect(four == IPAddress(ipv4: 0x0102_0304))
        #expect(four.high == 0)
        #expect(four.low == 0xFFFF_0102_0304)
        let six = try #require(IPAddress("2001:db8::1"))
        #expect(!six.isIPv4)
        #expect(six == IPAddress(high: 0x2001_0DB8_0000_0000, low: 1))
        #expect(IPAddress("0.0.0.0")?.isUnspecified == true)
        #expect(IPAddress("::")?.isUnspecified == true)
        #expect(IPAddress("::1")?.isUnspecified == false)
        #expect(IPAddress("0.0.0.1")?.isUnspecified == false)
    }

    @Test func randomAddressesComeBack() {
        var random = SeededGenerator(seed: 5)
        for _ in 0..<5000 {
            // Zero groups are frequent, so that every shape of "::" occurs.
            let groups = (0..<8).map { _ in
                Int.random(in: 0..<2, using: &random) == 0 ? 0 : UInt64.random(in: 0...0xFFFF, using: &random)
            }
            let high = groups[0..<4].reduce(0) { $0 << 16 | $1 }
            let low = groups[4..<8].reduce(0) { $0 << 16 | $1 }
            let address = IPAddress(high: high, low: low)
            let text = address.description
            #expect(IPAddress(text) == address, "\(text)")
            #expect(text.utf8.count <= IPAddress.textBytesMax)
            let long = groups.map { String($0, radix: 16) }.joined(separator: ":")
            #expect(IPAddress(long) == address, "\(long)")
        }
    }

    @Test(arguments: [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "9.255.255.255", "::", "::1"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2", "::c000:201"]),
        ("192.0.2.1/32", ["192.0.2.1"], ["192.0.2.0"]), ("192.0.2.0/31", ["192.0.2.0", "192.0.2.1"], ["192.0.2.2"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "2001:db8::1"]),
        ("::/0", ["::", "ffff::"], ["1.2.3.4"]), ("0.0.0.0/0", ["1.2.3.4"], ["::", "::1"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::"]),
        ("2001:db8::/64", ["2001:db8::ffff:0:0:0"], ["2001:db8:0:1::"]),
        ("2001:db8:0:0:8000::/65", ["2001:db8::8000:0:0:0"], ["2001:db8::7fff:0:0:0"]),
        ("2001:db8::/63", ["2001:db8:0:1::"], ["2001:db8:0:2::"]), ("::1", ["::1"], ["::2", "0.0.0.1"]),
        ("::1/128", ["::1"], ["::"]), ("::ffff:10.0.0.0/104", ["10.9.9.9"], ["11.0.0.0"]),
        ("128.0.0.0/1", ["200.1.1.1"], ["1.1.1.1"]),
    ])
    func networks(_ text: String, _ inside: [String], _ outside: [String]) throws {
        let network = try #require(IPNetwork(text))
        for address in inside { #expect(network.contains(try #require(IPAddress(address))), "\(address)") }
        for address in outside { #expect(!network.contains(try #require(IPAddress(address))), "\(address)") }
    }

    @Test(arguments: [
        "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.1/8", "10.0.0.0/8/8", "10.0.0.0/x",
        "2001:db8::/129", "2001:db8::1/64", "10.0.0.0/0008", "::ffff:10.0.0.0/8", "[::]/0", "10/8",
    ])
    func networksRefused(_ text: String) { #expect(IPNetwork(text) == nil) }
}
