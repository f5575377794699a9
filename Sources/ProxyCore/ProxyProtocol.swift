// The PROXY protocol, versions 1 and 2 (haproxy.org/download/2.9/doc/proxy-protocol.txt): what a balancer of connections
// writes before a connection's own bytes, to say who is at its other end.

import Bytes
import HTTPSemantics

/// Reads the header.
public enum ProxyProtocol {
    /// What was found at the beginning of a connection.
    public enum Outcome: Equatable, Sendable {
        /// Not yet all of it.
        case incomplete
        /// Something else.
        case invalid
        /// A header of so many bytes.
        /// - Parameter source: who connected to the balancer; nil if it speaks for itself or does not know.
        case header(byteCount: Int, source: Source?)
    }

    /// The client's end of its connection to the balancer.
    public struct Source: Equatable, Sendable {
        /// Its address.
        public let address: IPAddress
        /// Its port.
        public let port: UInt16

        /// An end.
        public init(address: IPAddress, port: UInt16) {
            self.address = address
            self.port = port
        }
    }

    /// The longest header that is read, with whatever a balancer has to add to it.
    public static let bytesMax = 4096
    /// The longest line of version 1, with its end.
    private static let lineBytesMax = 107
    private static let signature: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]
    private static let fixedBytes = 16
    private static let lineStart = Array("PROXY ".utf8)

    /// Looks at the first bytes of a connection.
    public static func read(_ bytes: UnsafeBufferPointer<UInt8>) -> Outcome {
        guard let first = bytes.first else { return .incomplete }
        return first == signature[0] ? readBinary(bytes) : readLine(bytes)
    }

    // MARK: Version 1

    /// `PROXY TCP4 192.0.2.1 198.51.100.2 56324 443`, or `PROXY UNKNOWN` and whatever follows.
    private static func readLine(_ bytes: UnsafeBufferPointer<UInt8>) -> Outcome {
        guard lineStart.starts(with: bytes.prefix(lineStart.count)) else { return .invalid }
        guard let end = bytes.prefix(lineBytesMax).firstIndex(of: UInt8(ascii: "\n")) else {
            return bytes.count < lineBytesMax ? .incomplete : .invalid
        }
        guard end > lineStart.count, bytes[end - 1] == UInt8(ascii: "\r") else { return .invalid }
        let words = String(decoding: bytes[lineStart.count..<(end - 1)], as: UTF8.self)
            .split(separator: " ", omittingEmptySubsequences: false)
        if words.first == "UNKNOWN" { return .header(byteCount: end + 1, source: nil) }
        // A balancer that listens for both families on one socket has clients of IPv4 whose addresses are mapped ones, or says
        // TCP6 of them: who is meant can be read all the same.
        guard words.count == 5, words[0] == "TCP4" || words[0] == "TCP6", let source = IPAddress(words[1]),
            IPAddress(words[2]) != nil, let port = self.port(words[3]), self.port(words[4]) != nil
        else { return .invalid }
        return .header(byteCount: end + 1, source: Source(address: source, port: port))
    }

    private static func port(_ text: Substring) -> UInt16? {
        // No sign, and no zero in front.
        guard text.utf8.allSatisfy({ $0 &- UInt8(ascii: "0") <= 9 }), text == "0" || text.first != "0" else {
            return nil
        }
        return UInt16(text)
    }

    // MARK: Version 2

    private static func readBinary(_ bytes: UnsafeBufferPointer<UInt8>) -> Outcome {
        guard signature.starts(with: bytes.prefix(signature.count)) else { return .invalid }
        guard bytes.count >= fixedBytes else { return .incomplete }
        let length = Int(bytes[14]) << 8 | Int(bytes[15])
        guard bytes[12] >> 4 == 2, fixedBytes + length <= bytesMax else { return .invalid }
        guard bytes.count >= fixedBytes + length else { return .incomplete }
        let end = fixedBytes + length
        switch (bytes[12] & 15, bytes[13]) {
        // LOCAL: the balancer itself, looking whether we live.
        case (0, _): return .header(byteCount: end, source: nil)
        case (1, 0x11):
            guard length >= 12 else { return .invalid }
            let address = IPAddress(ipv4: UInt32(truncatingIfNeeded: number(bytes, at: 16, count: 4)))
            return .header(byteCount: end, source: Source(address: address, port: port(bytes, at: 24)))
        case (1, 0x21):
            guard length >= 36 else { return .invalid }
            let address = IPAddress(high: number(bytes, at: 16, count: 8), low: number(bytes, at: 24, count: 8))
            return .header(byteCount: end, source: Source(address: address, port: port(bytes, at: 48)))
        // Other families and UDP: the address is none that a request can have.
        case (1, 0x00), (1, 0x12), (1, 0x22), (1, 0x31), (1, 0x32): return .header(byteCount: end, source: nil)
        default: return .invalid
        }
    }

    private static func port(_ bytes: UnsafeBufferPointer<UInt8>, at offset: Int) -> UInt16 {
        UInt16(truncatingIfNeeded: number(bytes, at: offset, count: 2))
    }

    private static func number(_ bytes: UnsafeBufferPointer<UInt8>, at offset: Int, count: Int) -> UInt64 {
        bytes[offset..<(offset + count)].reduce(0) { $0 << 8 | UInt64($1) }
    }
}
