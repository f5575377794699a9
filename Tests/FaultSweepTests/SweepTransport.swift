// What a peer of the proxy is to the sweep: somebody who sends bytes, receives what is there, and ends in one of three
// ways. Cases, peers and invariants know only this, so that TLS can take the place of TCP and run the same sweep.
// Nothing here blocks.

import EventLoop
import Glibc

/// How a direction ended, as its receiver saw it.
enum Ending: String {
    /// It did not.
    case open
    /// In order: a FIN, a close_notify.
    case clean
    /// By a reset, or without the word that makes an end clean.
    case broken
}

/// One end of a connection to the proxy, without waiting.
protocol SweepTransport: AnyObject {
    /// How the proxy ended its direction, as far as it was read.
    var ending: Ending { get }
    /// Whether something can be read: bytes or an end.
    var hasNews: Bool { get }
    /// - Returns: how many of the bytes were taken; 0 also if the connection is broken.
    func send(_ bytes: ArraySlice<UInt8>) -> Int
    /// Reads what is there, at most so many bytes.
    func receive(max: Int) -> [UInt8]
    /// Ends the own direction, in order.
    func endSending()
    /// Whether a send failed: nothing can be sent any more.
    var isBroken: Bool { get }
    /// Ends both directions in order.
    /// - Returns: false if bytes were unread: the proxy sees a reset then, as it does with any kernel.
    func close() -> Bool
    /// Ends both directions by a reset.
    /// - Returns: false if bytes may be lost by that, because the kernel had not delivered them.
    func reset() -> Bool
}

/// TCP without anything on it.
final class PlainTransport: SweepTransport {
    private var socket: Int32
    private(set) var ending = Ending.open
    private(set) var isBroken = false
    /// Whether a send was told of a reset. The kernel tells it once: a read behind it finds an end like any other.
    private var isReset = false
    private static let readBytesMax = 64 << 10

    /// Takes over an accepted socket.
    init(_ socket: Int32) { self.socket = socket }

    /// Connects to a port of 127.0.0.1.
    /// - Parameter receiveBytesMax: what the kernel keeps unread, about; nil is as much as it likes.
    init(port: UInt16, receiveBytesMax: Int32? = nil) throws(SystemError) {
        let address = SocketAddress(high: 0, low: 0xFFFF_7F00_0001, isIPv4: true, port: port)
        socket = try Socket.make(for: address)
        if let receiveBytesMax { Self.setReceiveBytes(socket, receiveBytesMax) }
        Socket.setNoDelay(socket)
        _ = try Socket.connect(socket, to: address)
    }

    deinit {
        if socket >= 0 { Socket.close(socket) }
    }

    /// Bounds what the kernel keeps unread.
    static func setReceiveBytes(_ socket: Int32, _ bytes: Int32) {
        var bytes = bytes
        setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }

    var hasNews: Bool { socket >= 0 && ending == .open && Socket.hasNews(socket) }

    func send(_ bytes: ArraySlice<UInt8>) -> Int {
        guard socket >= 0, !bytes.isEmpty else { return 0 }
        return bytes.withUnsafeBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return 0 }
            switch Socket.send(socket, base, count: buffer.count) {
            case .bytes(let count): return count
            case .wouldBlock, .ended: break
            case .failed(let number):
                isBroken = true
                if number == ECONNRESET { isReset = true }
            }
            return 0
        }
    }

    func receive(max: Int) -> [UInt8] {
        guard socket >= 0, ending == .open, max > 0 else { return [] }
        return Array(unsafeUninitializedCapacity: min(max, Self.readBytesMax)) { room, count in
            guard let base = room.baseAddress else { return }
            switch Socket.receive(socket, into: base, capacity: room.count) {
            case .bytes(let received): count = received
            case .wouldBlock: break
            case .ended: ending = isReset ? .broken : .clean
            case .failed: ending = .broken
            }
        }
    }

    func endSending() {
        if socket >= 0 { Socket.endSending(socket) }
    }

    func close() -> Bool {
        guard socket >= 0 else { return true }
        var byte: UInt8 = 0
        let isClean = recv(socket, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) <= 0
        Socket.close(socket)
        socket = -1
        return isClean
    }

    func reset() -> Bool {
        guard socket >= 0 else { return true }
        let isDelivered = Socket.unacknowledgedBytes(socket) == 0
        Socket.reset(socket)
        socket = -1
        return isDelivered
    }
}

/// A listening socket of the test, for one server.
final class PlainListener {
    let socket: Int32
    let port: UInt16
    private let serve: (Int32) -> any SweepTransport

    /// - Parameter serve: makes a transport of an accepted socket.
    init(serve: @escaping (Int32) -> any SweepTransport) throws(SystemError) {
        self.serve = serve
        socket = try Socket.bound(
            to: SocketAddress(high: 0, low: 0xFFFF_7F00_0001, isIPv4: true, port: 0), shared: false)
        try Socket.listen(socket, backlog: 64)
        port = try Socket.localAddress(of: socket).ip.port
    }

    deinit { Socket.close(socket) }

    /// A connection of the proxy, if one waits.
    func accept() -> (any SweepTransport)? {
        guard case .accepted(let socket, _) = Socket.accept(socket) else { return nil }
        return serve(socket)
    }
}
