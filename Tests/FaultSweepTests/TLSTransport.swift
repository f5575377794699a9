// TLS in the place of TCP: a transport that encrypts what the sweep sends and decrypts what the proxy sends. It is what
// the sweep counts by: its bytes are plaintext, and an end without close_notify is broken, however the connection
// ended below it.
//
// What is taken by `send` is in the kernel as a whole record; a record of which the kernel took only a part is in
// nobody's count, and cannot be read by the proxy either.

import EventLoop
import Glibc
import TLS

/// How a peer ends its direction.
enum TLSEnding {
    /// A close_notify, and a FIN behind it.
    case notifyAndFIN
    /// A close_notify alone: no readiness of its own tells of it.
    case notify
}

/// See the head of the file.
final class TLSTransport: SweepTransport {
    private var socket: Int32
    private let engine = TLSEngine()
    private var session: TLSSession
    private let howToEnd: TLSEnding
    /// Decrypted, and not asked for yet.
    private var plaintext: [UInt8] = []
    /// Encrypted, and not taken by the kernel yet.
    private var pending: [UInt8] = []
    /// Plaintext in the record that waits in `pending`.
    private var pendingPlaintextBytes = 0
    private var endOfInput = Ending.open
    private(set) var isBroken = false
    /// Whether a send was told of a reset. See `PlainTransport`.
    private var isReset = false
    private var hasEndedSending = false
    private static let readBytesMax = 64 << 10
    /// One record, so that all of it counts or none.
    private static let recordBytesMax = RecordSizer.smallBytes

    /// A server: takes over an accepted socket.
    init(_ socket: Int32, _ context: TLSServerContext) {
        self.socket = socket
        howToEnd = .notifyAndFIN
        guard let session = TLSSession(server: context, engine) else { preconditionFailure("no memory") }
        self.session = session
    }

    /// A client: connects to a port of 127.0.0.1.
    init(port: UInt16, _ peer: TLSClientPeer, ending: TLSEnding) throws(SystemError) {
        let address = SocketAddress(high: 0, low: 0xFFFF_7F00_0001, isIPv4: true, port: port)
        socket = try Socket.make(for: address)
        Socket.setNoDelay(socket)
        _ = try Socket.connect(socket, to: address)
        howToEnd = ending
        guard let session = TLSSession(client: peer, engine) else { preconditionFailure("no memory") }
        self.session = session
        _ = self.session.start()
        takeOutput()
        flush()
    }

    deinit {
        session.destroy()
        engine.destroy()
        if socket >= 0 { Socket.close(socket) }
    }

    // MARK: The socket

    private func takeOutput() {
        pending += engine.output
        engine.clearOutput()
    }

    /// Sends what waits, as far as the kernel takes it.
    private func flush() {
        while !pending.isEmpty, !isBroken, socket >= 0 {
            let result = pending.withUnsafeBufferPointer { buffer -> TransferResult in
                guard let base = buffer.baseAddress else { return .wouldBlock }
                return Socket.send(socket, base, count: buffer.count)
            }
            switch result {
            case .bytes(let count): pending.removeFirst(count)
            case .wouldBlock, .ended: return
            case .failed(let number):
                isBroken = true
                if number == ECONNRESET { isReset = true }
            }
        }
    }

    /// Reads and decrypts what is there, once.
    private func pump() {
        guard socket >= 0, endOfInput == .open else { return }
        var isLast = false
        let ciphertext = [UInt8](unsafeUninitializedCapacity: Self.readBytesMax) { room, count in
            guard let base = room.baseAddress else { return }
            switch Socket.receive(socket, into: base, capacity: room.count) {
            case .bytes(let received): count = received
            case .wouldBlock: break
            case .ended: isLast = true
            case .failed: endOfInput = .broken
            }
        }
        guard endOfInput == .open, isLast || !ciphertext.isEmpty else { return }
        // Should a record wait in `pending`, what is answered here, such as a key update, goes behind it.
        let capacity = ciphertext.count + TLSSession.plaintextBytesExtra
        plaintext += [UInt8](unsafeUninitializedCapacity: capacity) { room, count in
            guard let base = room.baseAddress else { return }
            let received = ciphertext.withUnsafeBufferPointer {
                session.receive($0, isLast: isLast, into: base, capacity: capacity)
            }
            count = received.plaintextBytes
            switch received.input {
            case .needsInput: break
            case .needsRoom: preconditionFailure("there was room for all of it")
            case .ended: endOfInput = isReset ? .broken : .clean
            case .truncated, .failed: endOfInput = .broken
            }
        }
        takeOutput()
        if pendingPlaintextBytes == 0 { flush() }
    }

    // MARK: A transport

    var ending: Ending { plaintext.isEmpty ? endOfInput : .open }

    /// Whether bytes or an end can be read: of TLS's own messages the sweep knows nothing.
    var hasNews: Bool {
        if plaintext.isEmpty { pump() }
        return !plaintext.isEmpty
    }

    func send(_ bytes: ArraySlice<UInt8>) -> Int {
        guard socket >= 0, !hasEndedSending else { return 0 }
        var taken = 0
        while taken < bytes.count, !isBroken {
            if pendingPlaintextBytes == 0 {
                flush()
                guard pending.isEmpty, session.maySend else { break }
                let piece = bytes.dropFirst(taken).prefix(Self.recordBytesMax)
                do {
                    try piece.withUnsafeBufferPointer { buffer throws(TLSFailure) in
                        try session.send(buffer, nowMilliseconds: 0)
                    }
                } catch {
                    isBroken = true
                    break
                }
                pendingPlaintextBytes = piece.count
                takeOutput()
            }
            flush()
            guard pending.isEmpty else { break }
            // What was begun by an earlier call may be more than this one offers.
            let count = min(pendingPlaintextBytes, bytes.count - taken)
            pendingPlaintextBytes -= count
            taken += count
        }
        return taken
    }

    func receive(max: Int) -> [UInt8] {
        guard max > 0 else { return [] }
        if plaintext.isEmpty { pump() }
        let taken = Array(plaintext.prefix(max))
        plaintext.removeFirst(taken.count)
        return taken
    }

    /// Writes a close_notify.
    /// - Returns: whether it is in the kernel.
    private func notify() -> Bool {
        hasEndedSending = true
        guard socket >= 0, pending.isEmpty, !isBroken, session.maySend else { return false }
        session.endSending()
        takeOutput()
        flush()
        return pending.isEmpty
    }

    func endSending() {
        guard socket >= 0, !hasEndedSending else { return }
        // With half a record in the kernel nothing more can be said, and the FIN tells it.
        if notify(), howToEnd == .notify { return }
        Socket.endSending(socket)
    }

    func close() -> Bool {
        guard socket >= 0 else { return true }
        // Tickets and the like are nothing that the sweep left unread.
        if plaintext.isEmpty { pump() }
        // With bytes unread the kernel sends a reset. Behind a close_notify it would be for the proxy to say whether that
        // is an end in order; so none is sent.
        var byte: UInt8 = 0
        let isRead = recv(socket, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) <= 0
        let isClean = isRead && (hasEndedSending || notify())
        Socket.close(socket)
        socket = -1
        return isClean
    }

    func reset() -> Bool {
        guard socket >= 0 else { return true }
        let isDelivered = pending.isEmpty && Socket.unacknowledgedBytes(socket) == 0
        Socket.reset(socket)
        socket = -1
        return isDelivered
    }
}

/// What the peers of the sweep need to speak TLS, on the sides where they do.
final class SweepTLS: @unchecked Sendable {
    let isOnClients: Bool
    let isOnServers: Bool
    /// How clients end their direction.
    let clientEnding: TLSEnding
    private let certificate: TLSCertificate
    private let keys: TicketKeys
    private let clientContext: TLSClientContext
    /// The client's memory of the proxy, and the servers' contexts: all belong to the sweep's one thread.
    private let clientPeer: TLSClientPeer
    private let serverContext: TLSServerContext

    /// What clients offer, if it is not HTTP/1.1.
    private let clientProtocols: [String]
    private let serverProtocols: [String]

    /// - Parameters:
    ///   - clientProtocols: what clients speak, by ALPN.
    ///   - serverProtocols: what servers do.
    init(
        _ mode: TLSMode, clientProtocols: [String] = ["http/1.1"], serverProtocols: [String] = ["http/1.1", "http/1.0"]
    ) throws {
        self.clientProtocols = clientProtocols
        keys = try .random()
        isOnClients = mode != .servers
        isOnServers = mode != .clients
        clientEnding = mode == .clients ? .notify : .notifyAndFIN
        certificate = try .throwAway(names: ["localhost"], addresses: ["127.0.0.1"], validSeconds: 3600)
        var clientPolicy = TLSClientPolicy(trust: nil)
        clientPolicy.applicationProtocols = clientProtocols
        clientContext = try TLSClientContext(clientPolicy)
        clientPeer = try TLSClientPeer(clientContext, serverName: "localhost")
        var serverPolicy = TLSServerPolicy(name: "servers", certificates: [certificate])
        serverPolicy.applicationProtocols = serverProtocols
        self.serverProtocols = serverProtocols
        serverContext = try TLSServerContext(policies: [serverPolicy], ticketKeys: keys)
    }

    deinit {
        clientPeer.retire()
        clientContext.destroy()
        serverContext.retire()
    }

    /// A server's end of a connection.
    func serve(_ socket: Int32) -> any SweepTransport { TLSTransport(socket, serverContext) }

    /// A client's connection.
    func connect(port: UInt16) throws -> any SweepTransport {
        try TLSTransport(port: port, clientPeer, ending: clientEnding)
    }

    /// The proxy's own: a context for its listener.
    func listenerContext() throws -> TLSServerContext? {
        guard isOnClients else { return nil }
        var policy = TLSServerPolicy(name: "listener", certificates: [certificate])
        policy.applicationProtocols = clientProtocols
        return try TLSServerContext(policies: [policy], ticketKeys: try .random())
    }

    /// The proxy's own: how it speaks to a server. Whom it trusts is not what is swept.
    func serverPeer() throws -> TLSClientPeer? {
        guard isOnServers else { return nil }
        var policy = TLSClientPolicy(trust: nil)
        if serverProtocols.contains("h2") { policy.applicationProtocols = ["h2"] }
        let context = try TLSClientContext(policy)
        defer { context.destroy() }
        return try TLSClientPeer(context, serverName: "127.0.0.1")
    }
}

/// Who speaks TLS with the proxy.
enum TLSMode: String, CaseIterable {
    case clients
    case servers
    case both
}
