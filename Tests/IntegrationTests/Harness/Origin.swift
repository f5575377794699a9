// A scripted origin: it accepts on a thread of its own and runs the script on another for each connection.

import Glibc

/// A listening socket with a script. Ends with its owner.
final class Origin: Sendable {
    let address: Address
    private let descriptor: Int32
    private let accepted = Monitor(0)
    private let ended = Monitor(0)

    /// How many connections were made to it.
    var connectionCount: Int { accepted.update { $0 } }

    /// Waits until this many connections have ended.
    func waitForEnds(_ count: Int) throws { try ended.wait(for: "\(count) ends") { $0 >= count ? () : nil } }

    /// Starts one.
    /// - Parameters:
    ///   - receiveBuffer: SO_RCVBUF of its connections, for origins that are to take little.
    ///   - script: what it does with a connection; its number counts from 1. Errors end the connection.
    init(
        _ wanted: Address = .ipv4(port: 0), receiveBuffer: Int32? = nil,
        script: @escaping @Sendable (_ wire: Wire, _ number: Int) throws -> Void
    ) {
        descriptor = wanted.makeSocket()
        if var size = receiveBuffer {
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        let listener = descriptor
        let isBound = wanted.withSocketAddress { bind(listener, $0, $1) } == 0 && listen(listener, 256) == 0
        precondition(isBound, "the origin cannot listen")
        address = wanted.bound(to: descriptor)
        let (accepted, ended) = (accepted, ended)
        // Not blocking, so that a connection that is gone again does not hold up the lock on descriptors.
        _ = fcntl(listener, F_SETFL, O_NONBLOCK)
        startThread {
            // Closed here and nowhere else: the number must not become another's while this thread uses it.
            defer { close(listener) }
            while true {
                var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
                poll(&entry, 1, -1)
                if Int32(entry.revents) & (POLLHUP | POLLERR) != 0 { return }
                let socket = Descriptors.making { accept(listener, nil, nil) }
                if socket < 0 { continue }
                let number = accepted.update { count in
                    count += 1
                    return count
                }
                startThread {
                    let wire = Wire(socket)
                    try? script(wire, number)
                    wire.close()
                    ended.update { $0 += 1 }
                }
            }
        }
    }

    /// An origin that answers each request with what `answer` sends.
    static func serving(
        _ address: Address = .ipv4(port: 0),
        answer: @escaping @Sendable (_ wire: Wire, _ request: Message) throws -> Void = { wire, _ in try wire.ok() }
    ) -> Origin {
        return Origin(address) { wire, _ in
            while true {
                try answer(wire, try wire.request())
            }
        }
    }

    deinit { shutdown(descriptor, Int32(SHUT_RDWR)) }
}
