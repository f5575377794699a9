// PROXY headers, whole, byte by byte, and what is none.

import HTTPSemantics
import Testing

@testable import ProxyCore

@Suite struct ProxyProtocolTests {
    private typealias Source = ProxyProtocol.Source

    private func read(_ bytes: [UInt8]) -> ProxyProtocol.Outcome {
        bytes.withUnsafeBufferPointer { ProxyProtocol.read($0) }
    }

    private static func source(_ address: String, _ port: UInt16) -> Source? {
        IPAddress(address).map { Source(address: $0, port: port) }
    }

    private static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]
    private static let ipv4: [UInt8] = [192, 0, 2, 1, 198, 51, 100, 2, 0xDC, 0x04, 0x01, 0xBB]
    private static let ipv6: [UInt8] =
        [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] + [UInt8](repeating: 0, count: 15) + [
            2, 0xDC, 4, 1, 0xBB,
        ]

    private static func binary(_ command: UInt8, _ family: UInt8, _ rest: [UInt8]) -> [UInt8] {
        signature + [command, family, UInt8(rest.count >> 8), UInt8(rest.count & 0xFF)] + rest
    }

    private static let headers: [(bytes: [UInt8], source: Source?)] = [
        (Array("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".utf8), source("192.0.2.1", 56324)),
        (Array("PROXY TCP6 2001:db8::1 ::2 56324 443\r\n".utf8), source("2001:db8::1", 56324)),
        (Array("PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n".utf8), source("255.255.255.255", 0)),
        (Array("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 5 443\r\n".utf8), source("192.0.2.1", 5)),
        (Array("PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n".utf8), source("192.0.2.1", 56324)),
        (Array("PROXY TCP4 192.0.2.1 ::1 56324 443\r\n".utf8), source("192.0.2.1", 56324)),
        (Array("PROXY UNKNOWN\r\n".utf8), nil), (Array("PROXY UNKNOWN ffff::1 whatever 1\r\n".utf8), nil),
        (binary(0x21, 0x11, ipv4), source("192.0.2.1", 56324)),
        (binary(0x21, 0x11, ipv4 + [3, 0, 4, 1, 2, 3, 4]), source("192.0.2.1", 56324)),
        (binary(0x21, 0x21, ipv6), source("2001:db8::1", 56324)),
        (binary(0x20, 0x00, []), nil), (binary(0x20, 0x11, ipv4), nil), (binary(0x21, 0x00, []), nil),
        (binary(0x21, 0x31, [UInt8](repeating: 0x2F, count: 216)), nil), (binary(0x21, 0x12, ipv4), nil),
    ]

    /// Every shorter beginning is incomplete, and what is behind the header is left alone.
    @Test func headersAreReadHoweverTheyCome() {
        for (bytes, source) in Self.headers {
            for count in 0..<bytes.count { #expect(read(Array(bytes[..<count])) == .incomplete) }
            for rest in ["", "GET / HTTP/1.1\r\n", "\r\n\r\n"] {
                #expect(read(bytes + Array(rest.utf8)) == .header(byteCount: bytes.count, source: source))
            }
        }
    }

    @Test(arguments: [
        "GET / HTTP/1.1\r\n", "PROXYTCP4 ", "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n", "PROXY \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n", "PROXY TCP6 nobody 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 nobody 56324 443\r\n", "PROXY TCP4 192.0.2.1  198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n", "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n", "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 x\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +6324 443\r\n", "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY UNKNOWN " + String(repeating: "x", count: 100), "\r\n\r\nGET",
    ])
    func whatIsNoneIsInvalid(_ text: String) { #expect(read(Array(text.utf8)) == .invalid) }

    @Test func binaryHeadersThatAreNoneAreInvalid() {
        let wrong = [
            Self.binary(0x11, 0x11, Self.ipv4), Self.binary(0x22, 0x11, Self.ipv4), Self.binary(0x21, 0x41, Self.ipv4),
            Self.binary(0x21, 0x11, Array(Self.ipv4.dropLast())), Self.binary(0x21, 0x21, Array(Self.ipv6.dropLast())),
            // More than is ever read.
            Self.signature + [0x21, 0x11, 0x10, 0x00],
        ]
        for bytes in wrong { #expect(read(bytes) == .invalid) }
    }
}
