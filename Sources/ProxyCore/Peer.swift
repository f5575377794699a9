// Who sent a request, and what names it.

import Bytes
import HTTPSemantics

/// What TLS tells of a client. The bytes live as long as the connection.
public struct PeerTLS {
    /// The longest certificate, as a Structured Field's byte sequence (RFC 8941 section 3.3.5), that is passed on.
    public static var certificateTextBytesMax: Int { 24 << 10 }

    /// `TLSv1.3`, for instance.
    public var version: UnsafeBufferPointer<UInt8>
    /// The cipher suite by OpenSSL's name.
    public var cipher: UnsafeBufferPointer<UInt8>
    /// The host that the client asked for, in lower case; empty if it named none.
    public var serverName: UnsafeBufferPointer<UInt8>
    /// The client's verified certificate in base64; empty if there is none.
    public var certificateText: UnsafeBufferPointer<UInt8>
    /// Whether clients are asked for certificates: then nobody else's word about them is passed on.
    public var verifiesClients: Bool

    /// What is known.
    public init(
        version: UnsafeBufferPointer<UInt8>, cipher: UnsafeBufferPointer<UInt8>,
        serverName: UnsafeBufferPointer<UInt8>, certificateText: UnsafeBufferPointer<UInt8>, verifiesClients: Bool
    ) {
        self.version = version
        self.cipher = cipher
        self.serverName = serverName
        self.certificateText = certificateText
        self.verifiesClients = verifiesClients
    }
}

/// The other end of a client's connection.
public struct Peer: @unchecked Sendable {
    /// Its address; meaningless for a Unix socket.
    public var address: IPAddress
    /// Its port.
    public var port: UInt16
    /// Whether it came by a Unix socket.
    public var isUnix: Bool
    /// Whether its forwarding fields are believed (`trusted_proxies`).
    public var isTrusted: Bool
    /// What TLS tells of it; nil in clear. Read by the connection's worker alone.
    public private(set) var tls: UnsafePointer<PeerTLS>?
    /// The text of an IPv4 address: it is written twice a request.
    private var text: (UInt64, UInt64) = (0, 0)
    private var textCount: UInt8 = 0

    /// A peer.
    public init(address: IPAddress, port: UInt16, isUnix: Bool, isTrusted: Bool) {
        self.address = address
        self.port = port
        self.isUnix = isUnix
        self.isTrusted = isTrusted
        isUsual = false
        guard !isUnix, address.isIPv4 else { return }
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: IPAddress.textBytesMax) { room in
            guard let base = room.baseAddress else { return }
            let count = address.write(to: base)
            guard count <= MemoryLayout.size(ofValue: text) else { return }
            withUnsafeMutableBytes(of: &text) { $0.copyMemory(from: UnsafeRawBufferPointer(start: base, count: count)) }
            textCount = UInt8(count)
            isUsual = true
        }
    }

    /// The minor version of its TLS 1.x; nil in clear. Unlike `tls` it can be kept.
    public private(set) var tlsMinorVersion: UInt8?
    /// Whether what a request says of it has its usual form: the text is kept for IPv4 addresses alone, which are also
    /// all that Forwarded takes without quotes, and no certificate is told of.
    public private(set) var isUsual: Bool

    /// The same without what lives only as long as the connection.
    public var withoutTLS: Peer {
        var peer = self
        peer.tls = nil
        return peer
    }

    /// A TLS handshake with it is over.
    public mutating func tlsEstablished(_ tls: UnsafePointer<PeerTLS>) {
        self.tls = tls
        tlsMinorVersion = tls.pointee.version.last.map { $0 &- UInt8(ascii: "0") }
        if !tls.pointee.certificateText.isEmpty { isUsual = false }
    }

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
