// Telling the service manager what the process is doing (sd_notify(3)): a datagram to the socket that it has named in
// NOTIFY_SOCKET. Where there is none, nothing happens.

import CLinux

/// The manager that has started us, if it wants to know.
public struct ServiceManager: Sendable {
    /// What it may be told.
    public enum State: Sendable {
        /// Connections are taken.
        case ready
        /// The configuration's files are read again; `ready` follows.
        case reloading
        /// The end has begun.
        case stopping
    }

    private let socketName: String?

    /// The manager of this process.
    public init() {
        socketName = getenv("NOTIFY_SOCKET").map { String(cString: $0) }
    }

    /// Tells it. What it does not hear is its loss: a proxy serves without.
    public func tell(_ state: State) {
        guard let socketName, let first = socketName.utf8.first,
            first == UInt8(ascii: "/") || first == UInt8(ascii: "@"),
            var address = SocketAddress(path: socketName)
        else { return }
        if first == UInt8(ascii: "@") {
            // An abstract name begins with a zero and has no end but its length.
            let pathStart = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
            withUnsafeMutableBytes(of: &address.storage) { $0[pathStart] = 0 }
            address.length = socklen_t(pathStart + socketName.utf8.count)
        }
        let kind = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let socket = CLinux.socket(AF_UNIX, kind, 0)
        guard socket >= 0 else { return }
        defer { close(socket) }
        guard headfirst_connect(socket, &address.storage, address.length) == 0 else { return }
        let text: String =
            switch state {
            case .ready: "READY=1"
            case .reloading: "RELOADING=1\nMONOTONIC_USEC=\(Clock.monotonicMicroseconds())"
            case .stopping: "STOPPING=1"
            }
        let bytes = Array(text.utf8)
        _ = headfirst_send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }
}
