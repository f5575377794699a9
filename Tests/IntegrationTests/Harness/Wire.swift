// A blocking socket with a receive buffer. Every wait has a deadline, so that no test hangs.

import Glibc

/// How a connection ended, or did not.
enum WireError: Error, Equatable {
    /// The peer's direction is over (FIN).
    case ended
    /// The connection was reset.
    case reset
    /// Nothing came in time.
    case late
    /// The peer's direction is over (FIN), and its TLS was not.
    case truncated
    /// TLS failed: an alert, or what is no TLS.
    case refused
}

/// A connected socket.
final class Wire {
    let descriptor: Int32
    /// Bytes received and not taken yet.
    private(set) var buffer: [UInt8] = []
    /// Every byte received.
    private(set) var receivedCount = 0
    /// How long each wait may take.
    var patienceMilliseconds = 4000
    private var isOpen = true
    /// What must live as long as somebody talks to it.
    var peer: AnyObject?
    /// Its TLS, if it speaks that.
    var tls: TLSLayer?
    /// Why TLS failed, in words.
    private(set) var tlsFailure: String?

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    deinit { close() }

    func close() {
        if isOpen { Glibc.close(descriptor) }
        isOpen = false
    }

    /// Closes with a reset instead of a FIN.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    /// Ends our direction only.
    func endSending() {
        notifyEnd()
        shutdown(descriptor, Int32(SHUT_WR))
    }

    /// Ends our direction by TLS's own word alone, without a FIN.
    func notifyEnd() {
        // Nobody may be there to hear it.
        if let tls { try? sendRaw(tls.endSending()) }
    }

    /// Sends a SYN and does not wait for its answer.
    func beginConnecting(to address: Address) {
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
        _ = address.withSocketAddress { connect(descriptor, $0, $1) }
    }

    private func wait(_ events: Int32, milliseconds: Int) throws(WireError) {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        guard poll(&entry, 1, Int32(max(0, milliseconds))) > 0 else { throw .late }
    }

    // MARK: Sending

    func send(_ text: String) throws(WireError) { try send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) throws(WireError) {
        guard try sendSome(bytes, stallMilliseconds: patienceMilliseconds) == bytes.count else { throw .late }
    }

    /// Sends until the peer has taken nothing for so long.
    /// - Returns: how many bytes were taken.
    func sendSome(_ bytes: [UInt8], stallMilliseconds: Int) throws(WireError) -> Int {
        guard let tls else { return try sendSomeRaw(bytes, stallMilliseconds: stallMilliseconds) }
        var sent = 0
        // What is begun is a whole record, or the stream is out of step; so a peer that takes none of it is fatal.
        while sent < bytes.count {
            let piece = Array(bytes[sent..<min(bytes.count, sent + 16 << 10)])
            let records: [UInt8]
            do { records = try tls.send(piece) } catch { throw .refused }
            guard try sendSomeRaw(records, stallMilliseconds: stallMilliseconds) == records.count else { return sent }
            sent += piece.count
        }
        return sent
    }

    /// Sends bytes as they are, past TLS.
    func sendRaw(_ bytes: [UInt8]) throws(WireError) {
        guard try sendSomeRaw(bytes, stallMilliseconds: patienceMilliseconds) == bytes.count else { throw .late }
    }

    /// Sends bytes as they are, until the peer has taken nothing for so long.
    /// - Returns: how many were taken.
    func sendSomeRaw(_ bytes: [UInt8], stallMilliseconds: Int) throws(WireError) -> Int {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress.unsafelyUnwrapped + sent, bytes.count - sent,
                    Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count > 0 {
                sent += count
            } else if errno == EAGAIN {
                do { try wait(POLLOUT, milliseconds: stallMilliseconds) } catch { return sent }
            } else if errno != EINTR {
                throw .reset
            }
        }
        return sent
    }

    // MARK: Receiving

    /// Waits for bytes and keeps them.
    func pull(milliseconds: Int? = nil) throws(WireError) {
        guard let tls else { return try pullOnce(milliseconds: milliseconds ?? patienceMilliseconds) }
        let deadline = Now.milliseconds + (milliseconds ?? patienceMilliseconds)
        let before = receivedCount
        while receivedCount == before {
            // What came before the end was told by the pull before.
            if tls.inputIsOver { throw tls.isTruncated ? .truncated : .ended }
            try pullOnce(milliseconds: deadline - Now.milliseconds)
        }
    }

    /// Reads from the socket once: with TLS that may give nothing.
    func pullOnce(milliseconds: Int) throws(WireError) {
        try wait(POLLIN, milliseconds: milliseconds)
        var room = [UInt8](repeating: 0, count: 64 << 10)
        let count = room.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
        if count < 0 { throw .reset }
        if let tls {
            let (plaintext, output, failure) = tls.receive(Array(room[..<count]), isLast: count == 0)
            if !output.isEmpty { try sendRaw(output) }
            receivedCount += plaintext.count
            buffer += plaintext
            guard let failure else { return }
            tlsFailure = failure.description
            throw .refused
        }
        if count == 0 { throw .ended }
        receivedCount += count
        buffer += room[..<count]
    }

    /// Takes bytes from the front of the buffer.
    func take(_ count: Int) -> [UInt8] {
        let taken = Array(buffer[..<count])
        buffer.removeFirst(count)
        return taken
    }

    func exactly(_ count: Int) throws(WireError) -> [UInt8] {
        while buffer.count < count { try pull() }
        return take(count)
    }

    /// The bytes up to the end of the next line, without its CRLF.
    func line() throws(WireError) -> String {
        while true {
            if let end = buffer.firstIndex(of: 10) {
                return String(decoding: take(end + 1).dropLast(2), as: UTF8.self)
            }
            try pull()
        }
    }

    /// A head with its empty line.
    func headBytes() throws(WireError) -> [UInt8] {
        var searched = 0
        while true {
            var index = max(3, searched)
            while index < buffer.count {
                if buffer[index] == 10, buffer[index - 1] == 13, buffer[index - 2] == 10 { return take(index + 1) }
                index += 1
            }
            searched = buffer.count
            try pull()
        }
    }

    /// Everything up to the end of the connection.
    /// - Returns: the bytes, and how it ended; `.late` if it did not.
    func drain(milliseconds: Int? = nil) -> (bytes: [UInt8], end: WireError) {
        let deadline = Now.milliseconds + (milliseconds ?? patienceMilliseconds)
        while true {
            do {
                try pull(milliseconds: deadline - Now.milliseconds)
            } catch {
                return (take(buffer.count), error)
            }
        }
    }

    /// Whether nothing at all comes for so long.
    func isSilent(milliseconds: Int) -> Bool {
        do { try pull(milliseconds: milliseconds) } catch { return error == .late && buffer.isEmpty }
        return false
    }

    /// How the connection ends, without another byte before.
    func end(milliseconds: Int? = nil) -> WireError? {
        let (bytes, end) = drain(milliseconds: milliseconds)
        return bytes.isEmpty ? end : nil
    }
}

/// Where a peer is.
enum Address: Sendable {
    case ipv4(port: UInt16)
    case ipv6(port: UInt16)
    case unix(path: String)

    /// As it stands in a configuration.
    var text: String {
        switch self {
        case .ipv4(let port): "127.0.0.1:\(port)"
        case .ipv6(let port): "[::1]:\(port)"
        case .unix(let path): "unix:\(path)"
        }
    }

    var port: UInt16 {
        switch self {
        case .ipv4(let port), .ipv6(let port): port
        case .unix: 0
        }
    }

    /// Calls `body` with the address as the system wants it.
    func withSocketAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        func call<Specific>(_ address: Specific) -> Result {
            withUnsafePointer(to: address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    body($0, socklen_t(MemoryLayout<Specific>.size))
                }
            }
        }
        switch self {
        case .ipv4(let port):
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            return call(address)
        case .ipv6(let port):
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            address.sin6_addr = in6addr_loopback
            return call(address)
        case .unix(let path):
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            return call(address)
        }
    }

    var family: Int32 {
        switch self {
        case .ipv4: AF_INET
        case .ipv6: AF_INET6
        case .unix: AF_UNIX
        }
    }

    func makeSocket() -> Int32 {
        socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    }

    /// Listens here with a socket.
    func listening(on descriptor: Int32, backlog: Int32) throws -> Address {
        guard withSocketAddress({ bind(descriptor, $0, $1) }) == 0, listen(descriptor, backlog) == 0 else {
            throw WireError.reset
        }
        return bound(to: descriptor)
    }

    /// The same address with the port that the socket got.
    func bound(to descriptor: Int32) -> Address {
        var storage = sockaddr_in6()
        var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
        withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = getsockname(descriptor, $0, &length) }
        }
        // The port lies in the same place in both families.
        let port = UInt16(bigEndian: storage.sin6_port)
        switch self {
        case .ipv4: return .ipv4(port: port)
        case .ipv6: return .ipv6(port: port)
        case .unix: return self
        }
    }

    /// A port of the loopback that nobody has at this moment.
    static func freePort() throws -> UInt16 {
        let descriptor = Address.ipv4(port: 0).makeSocket()
        defer { close(descriptor) }
        return try Address.ipv4(port: 0).listening(on: descriptor, backlog: 1).port
    }

    /// A connection to here.
    /// - Parameter receiveBuffer: SO_RCVBUF, for peers that are to read little.
    func connect(receiveBuffer: Int32? = nil) throws -> Wire {
        let wire = Wire(makeSocket())
        if var size = receiveBuffer {
            setsockopt(wire.descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        guard withSocketAddress({ Glibc.connect(wire.descriptor, $0, $1) }) == 0 else { throw WireError.reset }
        return wire
    }
}
