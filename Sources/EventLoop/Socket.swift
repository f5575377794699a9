// Sockets: every call is non-blocking, retries EINTR, and returns what happened as a value. SIGPIPE never comes.

import CLinux
import Bytes

/// The address of a socket, as the kernel has it. Values are made in the runtime from endpoints.
public struct SocketAddress: Sendable {
    package var storage: sockaddr_storage
    package var length: socklen_t

    /// An IPv4 or IPv6 address in network order: sixteen bytes in two halves, IPv4 in its mapped form.
    public init(high: UInt64, low: UInt64, isIPv4: Bool, port: UInt16) {
        storage = sockaddr_storage()
        if isIPv4 {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(truncatingIfNeeded: low).bigEndian
            length = socklen_t(MemoryLayout<sockaddr_in>.size)
            withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: address, as: sockaddr_in.self) }
        } else {
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &address.sin6_addr) {
                $0.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
                $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            length = socklen_t(MemoryLayout<sockaddr_in6>.size)
            withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: address, as: sockaddr_in6.self) }
        }
    }

    /// A Unix socket's path; nil if it is longer than the 107 bytes that the kernel takes.
    public init?(path: String) {
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) else { return nil }
        storage = sockaddr_storage()
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        length = socklen_t(MemoryLayout<sockaddr_un>.size)
        withUnsafeMutableBytes(of: &storage) { $0.storeBytes(of: address, as: sockaddr_un.self) }
    }

    init(_ storage: sockaddr_storage, length: socklen_t) {
        self.storage = storage
        self.length = length
    }

    /// Whether this is the address of a Unix socket.
    public var isUnix: Bool { storage.ss_family == sa_family_t(AF_UNIX) }

    /// A Unix socket's path; nil for one without (unnamed, abstract), and for an IP address.
    public var path: String? {
        guard isUnix else { return nil }
        let start = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let bytes = withUnsafeBytes(of: storage) { Array($0[start..<max(start, Int(length))].prefix { $0 != 0 }) }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    /// The parts of an IP address; zeros for a Unix socket.
    public var ip: (high: UInt64, low: UInt64, port: UInt16) {
        withUnsafeBytes(of: storage) { bytes in
            switch Int32(storage.ss_family) {
            case AF_INET:
                let address = bytes.loadUnaligned(as: sockaddr_in.self)
                return (
                    0, 0xFFFF_0000_0000 | UInt64(UInt32(bigEndian: address.sin_addr.s_addr)),
                    UInt16(bigEndian: address.sin_port)
                )
            case AF_INET6:
                let address = bytes.loadUnaligned(as: sockaddr_in6.self)
                return withUnsafeBytes(of: address.sin6_addr) { halves in
                    (
                        UInt64(bigEndian: halves.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
                        UInt64(bigEndian: halves.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
                        UInt16(bigEndian: address.sin6_port)
                    )
                }
            default:
                return (0, 0, 0)
            }
        }
    }
}

/// What became of a read or a write.
@frozen public enum TransferResult {
    /// So many bytes went through, at least one.
    case bytes(Int)
    /// Nothing now; readiness will tell.
    case wouldBlock
    /// Reading only: the peer ended its direction.
    case ended
    /// The connection is broken, by this error number.
    case failed(Int32)
}

/// What became of an accept.
public enum AcceptResult {
    /// A new connection; its socket is non-blocking and owned by the caller now.
    case accepted(Int32, SocketAddress)
    /// No connection waits.
    case nothingWaiting
    /// The process or the machine is out of descriptors or memory.
    case exhausted(SystemError)
    /// That one connection is gone already; try the next.
    case goneAlready
}

/// Calls on sockets. A socket is a plain descriptor here, since it lives in trivial structs; its owner closes it.
public enum Socket {
    /// A non-blocking stream socket for an address.
    public static func make(for address: SocketAddress) throws(SystemError) -> Int32 {
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let socket = CLinux.socket(Int32(address.storage.ss_family), kind, 0)
        if socket < 0 { throw .last("socket") }
        return socket
    }

    /// Closes a socket.
    public static func close(_ socket: Int32) {
        CLinux.close(socket)
    }

    /// Ends the sending direction.
    public static func endSending(_ socket: Int32) {
        shutdown(socket, Int32(SHUT_WR))
    }

    /// Closes so that the peer sees a reset instead of an end: for truncation that only a reset can show.
    public static func reset(_ socket: Int32) {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<CLinux.linger>.size))
        CLinux.close(socket)
    }

    /// Sends small writes at once (TCP; does nothing elsewhere).
    public static func setNoDelay(_ socket: Int32) {
        setOption(socket, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    }

    /// Bounds what the kernel takes beyond what it can send, so that what is urgent does not wait behind it.
    public static func setUnsentMax(_ socket: Int32, bytes: Int32) {
        setOption(socket, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, bytes)
    }

    /// Lets the kernel find dead peers: first probe after `idleSeconds`, then every `intervalSeconds`, given up after 5.
    public static func setKeepAlive(_ socket: Int32, idleSeconds: Int32, intervalSeconds: Int32) {
        setOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1)
        setOption(socket, Int32(IPPROTO_TCP), TCP_KEEPIDLE, idleSeconds)
        setOption(socket, Int32(IPPROTO_TCP), TCP_KEEPINTVL, intervalSeconds)
        setOption(socket, Int32(IPPROTO_TCP), TCP_KEEPCNT, 5)
    }

    @discardableResult
    private static func setOption(_ socket: Int32, _ level: Int32, _ name: Int32, _ value: Int32) -> Bool {
        var value = value
        return setsockopt(socket, level, name, &value, socklen_t(MemoryLayout<Int32>.size)) == 0
    }

    /// A bound socket, not yet listening. Accepted sockets inherit TCP_NODELAY and keepalive from it.
    /// - Parameter shared: whether other sockets of this process may be bound to the same TCP address (SO_REUSEPORT).
    public static func bound(to address: SocketAddress, shared: Bool) throws(SystemError) -> Int32 {
        let socket = try make(for: address)
        if !address.isUnix {
            setOption(socket, SOL_SOCKET, SO_REUSEADDR, 1)
            if shared { setOption(socket, SOL_SOCKET, SO_REUSEPORT, 1) }
            if address.storage.ss_family == sa_family_t(AF_INET6) {
                setOption(socket, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1)
            }
            setNoDelay(socket)
            setKeepAlive(socket, idleSeconds: 60, intervalSeconds: 15)
        }
        var storage = address.storage
        if headfirst_bind(socket, &storage, address.length) != 0 {
            let error = SystemError.last("bind")
            CLinux.close(socket)
            throw error
        }
        return socket
    }

    /// Starts listening.
    public static func listen(_ socket: Int32, backlog: Int) throws(SystemError) {
        if CLinux.listen(socket, Int32(clamping: backlog)) != 0 { throw .last("listen") }
    }

    /// Makes a listening socket of one that somebody else has bound: non-blocking, closed for children, with the options
    /// of our own; if it does not listen yet, it does now.
    public static func makeListening(_ socket: Int32, backlog: Int) throws(SystemError) {
        guard option(socket, SOL_SOCKET, SO_TYPE) == Int32(SOCK_STREAM.rawValue) else {
            throw SystemError("listen", number: ESOCKTNOSUPPORT)
        }
        if headfirst_make_nonblocking(socket) != 0 { throw .last("fcntl") }
        setNoDelay(socket)
        setKeepAlive(socket, idleSeconds: 60, intervalSeconds: 15)
        if option(socket, SOL_SOCKET, SO_ACCEPTCONN) != 1 { try listen(socket, backlog: backlog) }
    }

    /// Whether a descriptor is a socket that listens or could: a bound stream socket that is not connected.
    public static func isListenable(_ descriptor: Int32) -> Bool {
        guard option(descriptor, SOL_SOCKET, SO_TYPE) == Int32(SOCK_STREAM.rawValue) else { return false }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return headfirst_getpeername(descriptor, &storage, &length) != 0
    }

    private static func option(_ socket: Int32, _ level: Int32, _ name: Int32) -> Int32? {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(socket, level, name, &value, &length) == 0 ? value : nil
    }

    /// The address that a socket is bound to.
    public static func localAddress(of socket: Int32) throws(SystemError) -> SocketAddress {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        if headfirst_getsockname(socket, &storage, &length) != 0 { throw .last("getsockname") }
        return SocketAddress(storage, length: length)
    }

    /// Takes a waiting connection.
    public static func accept(_ listener: Int32) -> AcceptResult {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let socket = headfirst_accept4(listener, &storage, &length)
        if socket >= 0 { return .accepted(socket, SocketAddress(storage, length: length)) }
        switch headfirst_errno() {
        case EAGAIN: return .nothingWaiting
        case EMFILE, ENFILE, ENOBUFS, ENOMEM: return .exhausted(.last("accept4"))
        default: return .goneAlready
        }
    }

    /// Starts connecting.
    /// - Returns: whether the connection is there already; otherwise writability will tell.
    public static func connect(_ socket: Int32, to address: SocketAddress) throws(SystemError) -> Bool {
        var storage = address.storage
        if headfirst_connect(socket, &storage, address.length) == 0 { return true }
        if headfirst_errno() == EINPROGRESS { return false }
        throw .last("connect")
    }

    /// The socket's pending error, which is cleared by asking; 0 if there is none.
    public static func takeError(_ socket: Int32) -> Int32 {
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(socket, SOL_SOCKET, SO_ERROR, &number, &length) == 0 ? number : headfirst_errno()
    }

    /// Reads what is there.
    public static func receive(_ socket: Int32, into room: UnsafeMutablePointer<UInt8>, capacity: Int) -> TransferResult
    {
        receive(socket, into: room, capacity: capacity, flags: 0)
    }

    /// Looks at what is there without taking it.
    public static func peek(_ socket: Int32) -> TransferResult {
        var byte: UInt8 = 0
        return peek(socket, into: &byte, capacity: 1)
    }

    /// Copies what is there without taking it.
    public static func peek(_ socket: Int32, into room: UnsafeMutablePointer<UInt8>, capacity: Int) -> TransferResult {
        receive(socket, into: room, capacity: capacity, flags: Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
    }

    /// Whether an idle connection has something to read: bytes nobody asked for, an end, or an error.
    public static func hasNews(_ socket: Int32) -> Bool {
        switch peek(socket) {
        case .wouldBlock: false
        case .bytes, .ended, .failed: true
        }
    }

    @inline(__always)
    private static func receive(
        _ socket: Int32, into room: UnsafeMutablePointer<UInt8>, capacity: Int, flags: Int32
    ) -> TransferResult {
        while true {
            let count = headfirst_receive(socket, room, capacity, flags)
            if count > 0 { return .bytes(count) }
            if count == 0 { return .ended }
            switch headfirst_errno() {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let number: return .failed(number)
            }
        }
    }

    /// Writes bytes.
    public static func send(_ socket: Int32, _ bytes: UnsafePointer<UInt8>, count: Int) -> TransferResult {
        while true {
            let sent = headfirst_send(socket, bytes, count, Int32(MSG_NOSIGNAL))
            if sent >= 0 { return .bytes(sent) }
            switch headfirst_errno() {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let number: return .failed(number)
            }
        }
    }

    /// Writes the bytes of several places in one call.
    public static func send(_ socket: Int32, _ pieces: UnsafeMutablePointer<iovec>, count: Int) -> TransferResult {
        var message = msghdr()
        message.msg_iov = pieces
        message.msg_iovlen = count
        while true {
            let sent = headfirst_send_message(socket, &message, Int32(MSG_NOSIGNAL))
            if sent >= 0 { return .bytes(sent) }
            switch headfirst_errno() {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let number: return .failed(number)
            }
        }
    }

    /// Whether the error of a read or a write says that the peer has reset the connection.
    public static func isReset(_ number: Int32) -> Bool { number == ECONNRESET }

    /// Whether this error of splice(2) says that the socket never takes bytes from a pipe.
    public static func cannotTakePipes(_ number: Int32) -> Bool { number == EINVAL }

    /// Bytes that were written and that the peer has not acknowledged yet; nil where the kernel does not tell.
    public static func unacknowledgedBytes(_ socket: Int32) -> Int? {
        var bytes: Int32 = 0
        return headfirst_unacknowledged(socket, &bytes) == 0 ? Int(bytes) : nil
    }
}

extension Socket {
    /// Whether a Unix socket's file is there and nobody listens behind it.
    public static func isAbandoned(_ address: SocketAddress) -> Bool {
        guard address.isUnix, let socket = try? make(for: address) else { return false }
        defer { CLinux.close(socket) }
        var storage = address.storage
        return headfirst_connect(socket, &storage, address.length) != 0 && headfirst_errno() == ECONNREFUSED
    }

    /// Ends listening for every process and thread that has the socket: who connects is refused.
    public static func stopListening(_ listener: Int32) {
        shutdown(listener, Int32(SHUT_RDWR))
    }

    /// Removes a Unix socket's file.
    public static func removePath(_ path: String) {
        unlink(path)
    }
}
