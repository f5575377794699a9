// TLS for a scripted peer's wire: in place of the bytes of the socket, those inside its records. Blocks as the wire
// does. It stands on the proxy's own TLS target; that this one speaks TLS as others do is shown in its own tests and by
// the conformance probe, which brings another one.

import Glibc
import TLS

/// How a client asks for TLS.
struct TLSClientSettings {
    /// Whom it trusts; nil takes any certificate.
    var authority: String? = "ca"
    /// Its own certificate.
    var certificate: String?
    /// What it asks for (SNI) and expects the certificate to be for.
    var serverName = "localhost"
    /// The one version it speaks; nil for all.
    var version: TLSVersion?
    /// Application protocols that it offers, the first preferred.
    var protocols = ["http/1.1"]
}

/// How a client remembers a server, for several connections one after the other.
final class TLSMemory {
    fileprivate let context: TLSClientContext
    fileprivate let peer: TLSClientPeer

    init(_ settings: TLSClientSettings = TLSClientSettings()) throws {
        let files = Certificates.shared
        var policy = TLSClientPolicy(
            trust: try settings.authority.map { try TLSTrust(path: files.path("\($0).pem")) })
        policy.certificate = try settings.certificate.map {
            try TLSCertificate(certificatePath: files.path("\($0).pem"), keyPath: files.path("\($0).key"))
        }
        policy.applicationProtocols = settings.protocols
        if let version = settings.version { (policy.minimumVersion, policy.maximumVersion) = (version, version) }
        context = try TLSClientContext(policy)
        peer = try TLSClientPeer(context, serverName: settings.serverName)
    }

    deinit {
        peer.retire()
        context.destroy()
    }
}

/// What the TLS of a scripted server is made of. Each connection makes its own context: they are on threads of their
/// own.
struct TLSServerSettings: Sendable {
    var certificate = "site"
    /// Whether clients have to show a certificate of our authority.
    var asksClients = false
    /// The oldest version.
    var minimumVersion = TLSVersion.tls12
    private let keys = Result { try TicketKeys.random() }

    fileprivate func context() throws -> TLSServerContext {
        let files = Certificates.shared
        let pair = try TLSCertificate(
            certificatePath: files.path("\(certificate).pem"), keyPath: files.path("\(certificate).key"))
        var policy = TLSServerPolicy(name: "origin", certificates: [pair])
        policy.minimumVersion = minimumVersion
        if asksClients {
            policy.clientVerification = .required
            policy.clientTrust = try TLSTrust(path: files.path("ca.pem"))
        }
        return try TLSServerContext(policies: [policy], ticketKeys: try keys.get())
    }
}

/// One wire's session.
final class TLSLayer {
    private let engine = TLSEngine()
    private var session: TLSSession
    /// What has to live as long.
    private let memory: TLSMemory?
    private let context: TLSServerContext?
    private static let noMemory = Malformed(what: "no memory for a session")

    init(client memory: TLSMemory) throws {
        guard let session = TLSSession(client: memory.peer, engine) else { throw Self.noMemory }
        self.session = session
        self.memory = memory
        context = nil
    }

    init(server settings: TLSServerSettings) throws {
        let context = try settings.context()
        guard let session = TLSSession(server: context, engine) else {
            context.retire()
            throw Self.noMemory
        }
        self.session = session
        self.context = context
        memory = nil
    }

    deinit {
        session.destroy()
        context?.retire()
        engine.destroy()
    }

    var isEstablished: Bool { session.isEstablished }
    var isResumed: Bool { session.isResumed }
    var inputIsOver: Bool { session.inputIsOver }
    var isTruncated: Bool { session.isTruncated }
    var applicationProtocol: String { String(decoding: session.applicationProtocol, as: UTF8.self) }
    var version: String { String(decoding: session.version, as: UTF8.self) }

    /// The peer's certificate in DER.
    var peerCertificate: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: 16 << 10) { room, count in
            if let base = room.baseAddress { count = session.peerCertificate(into: base, capacity: room.count) }
        }
    }

    /// A server's: the name that the client asked for.
    var serverName: String {
        let name = [UInt8](unsafeUninitializedCapacity: TLSSession.serverNameBytesMax) { room, count in
            if let base = room.baseAddress { count = session.serverName(into: base) }
        }
        return String(decoding: name, as: UTF8.self)
    }

    private func takeOutput() -> [UInt8] {
        defer { engine.clearOutput() }
        return Array(engine.output)
    }

    /// A client's first flight.
    func start() -> [UInt8] {
        _ = session.start()
        return takeOutput()
    }

    /// Decrypts.
    /// - Returns: the plaintext, what has to be sent for it, and why it failed, if it did.
    func receive(
        _ ciphertext: [UInt8], isLast: Bool
    ) -> (plaintext: [UInt8], output: [UInt8], failure: TLSFailure?) {
        var failure: TLSFailure?
        let capacity = ciphertext.count + TLSSession.plaintextBytesExtra
        let plaintext = [UInt8](unsafeUninitializedCapacity: capacity) { room, count in
            guard let base = room.baseAddress else { return }
            let received = ciphertext.withUnsafeBufferPointer {
                session.receive($0, isLast: isLast, into: base, capacity: capacity)
            }
            count = received.plaintextBytes
            if case .failed(let cause) = received.input { failure = cause }
        }
        return (plaintext, takeOutput(), failure)
    }

    /// Encrypts.
    func send(_ plaintext: [UInt8]) throws(TLSFailure) -> [UInt8] {
        try plaintext.withUnsafeBufferPointer { bytes throws(TLSFailure) in
            try session.send(bytes, nowMilliseconds: UInt64(Now.milliseconds))
        }
        return takeOutput()
    }

    /// Encrypts the end of the own direction.
    func endSending() -> [UInt8] {
        session.endSending()
        return takeOutput()
    }
}

extension Wire {
    /// Begins TLS as a client, and waits for the end of the handshake.
    func beginTLS(_ memory: TLSMemory) throws {
        let layer = try TLSLayer(client: memory)
        try sendRaw(layer.start())
        tls = layer
        try finishHandshake()
    }

    /// Begins TLS as a server, and waits for the end of the handshake.
    func beginTLS(_ settings: TLSServerSettings) throws {
        tls = try TLSLayer(server: settings)
        try finishHandshake()
    }

    private func finishHandshake() throws {
        while let tls, !tls.isEstablished { try pullOnce(milliseconds: patienceMilliseconds) }
    }
}

extension Headfirst {
    /// A client that speaks TLS.
    func connectTLS(
        _ memory: TLSMemory? = nil, receiveBuffer: Int32? = nil, listener: Int = 0
    ) throws -> Wire {
        let client = try connect(receiveBuffer: receiveBuffer, listener: listener)
        try client.beginTLS(try memory ?? TLSMemory())
        return client
    }

    /// A client that speaks TLS, as it wants it.
    func connectTLS(listener: Int = 0, _ change: (inout TLSClientSettings) -> Void) throws -> Wire {
        var settings = TLSClientSettings()
        change(&settings)
        return try connectTLS(TLSMemory(settings), listener: listener)
    }

    /// Starts one with TLS towards clients, and towards the origin if that speaks it, too.
    static func overTLS(
        to origin: Origin, upstreamTLS: String? = nil, server: String = "", listener: String = "", tls: String = "",
        route: String = ""
    ) throws -> Headfirst {
        let files = Certificates.shared
        let upstreamText = upstreamTLS.map { "tls { \($0) }" } ?? ""
        return try Headfirst(
            configuration: """
                workers 1; access_log off;
                upstream origin { server \(origin.address.text) \(server); \(upstreamText) }
                listener main {
                    bind 127.0.0.1:0 tls; tls { certificate \(files.pair("site")); \(tls) }
                    \(listener) route / { upstream origin; \(route) }
                }
                """, origins: [origin])
    }
}

extension Origin {
    /// An origin that speaks TLS.
    static func overTLS(
        _ settings: TLSServerSettings = TLSServerSettings(), receiveBuffer: Int32? = nil,
        script: @escaping @Sendable (_ wire: Wire, _ number: Int) throws -> Void
    ) -> Origin {
        Origin(receiveBuffer: receiveBuffer) { wire, number in
            try wire.beginTLS(settings)
            try script(wire, number)
            wire.endSending()
        }
    }
}
