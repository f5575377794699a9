// Who sent a request, and what names it.

import Bytes
import HTTPSemantics

/// The other end of a client's connection.
public struct Peer: Sendable {
    /// Its address; meaningless for a Unix socket.
    public var address: IPAddress
    /// Its port.
    public var port: UInt16
    /// Whether it came by a Unix socket.
    public var isUnix: Bool
    /// Whether its forwarding fields are believed (`trusted_proxies`).
    public var isTrusted: Bool
    /// The text of an IPv4 address: it is written twice a request.
    private var text: (UInt64, UInt64) = (0, 0)
    private var textCount: UInt8 = 0

    /// A peer.
    public init(address: IPAddress, port: UInt16, isUnix: Bool, isTrusted: Bool) {
        self.address = address
        self.port = port
        self.isUnix = isUnix
        self.isTrusted = isTrusted
        guard !isUnix, address.isIPv4 else { return }
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: IPAddress.textBytesMax) { room in
            guard let base = room.baseAddress else { return }
            let count = address.write(to: base)
            guard count <= MemoryLayout.size(ofValue: text) else { return }
            withUnsafeMutableBytes(of: &text) { $0.copyMemory(from: UnsafeRawBufferPointer(start: base, count: count)) }
            textCount = UInt8(count)
        }
    }

    /// Whether the text is kept: for IPv4 addresses alone, which are also all that Forwarded takes without quotes.
    @inline(__always) var hasShortText: Bool { textCount > 0 }

    @inline(__always) func writeShortText(to out: inout ByteWriter) {
        out.append(short: text, count: Int(textCount))
    }

    /// Writes the address, or `unix:`.
    public func writeAddress(to out: inout ByteWriter) {
        if isUnix {
            out.append("unix:")
        } else if textCount > 0 {
            out.append(short: text, count: Int(textCount))
        } else if out.capacity - out.count < IPAddress.textBytesMax {
            out.isOverfull = true
        } else {
            out.count += address.write(to: out.base + out.count)
        }
    }
}
