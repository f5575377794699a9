// The slow origin that `headfirst demo` puts behind the proxy: blocking sockets and a thread for each connection, on
// purpose as plain as a server can be, so that nothing but its own pauses shapes what the proxy gets to forward.
// It imports nothing of the proxy: what it shows is the proxy's work.

import Glibc
import Synchronization

/// The origin could not start.
package struct DemoOriginError: Error, CustomStringConvertible {
    /// The call that failed.
    package var call: StaticString
    /// Its `errno`.
    package var code: Int32

    package var description: String { "demo origin: \(call): \(String(cString: strerror(code)))" }
}

/// An HTTP/1.1 origin on a free port of 127.0.0.1 that answers slowly in several ways; see `DemoRoutes.swift`.
///
/// At most `connectionsMax` connections live at once; more are answered with 503. A thread ends with its connection,
/// and a connection as soon as its client is gone. No signal is handled on its threads.
package final class DemoOrigin: Sendable {
    /// Connections at once.
    package static let connectionsMax = 256

    /// The port it listens on.
    package let port: UInt16

    private let shared: Shared
    private let acceptor: Mutex<pthread_t?>

    /// What the threads share.
    private final class Shared: Sendable {
        struct Threads {
            /// By descriptor. A descriptor is closed only together with leaving this table.
            var running: [Int32: pthread_t] = [:]
            /// Ended, or about to; not joined yet.
            var ended: [pthread_t] = []
            var isStopping = false
        }

        let listener: Int32
        let threads = Mutex(Threads())

        init(listener: Int32) { self.listener = listener }

        deinit { close(listener) }
    }

    /// Binds and starts to answer.
    package init() throws(DemoOriginError) {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard listener >= 0 else { throw DemoOriginError(call: "socket", code: errno) }
        shared = Shared(listener: listener)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(listener, address, length) == 0 && listen(listener, 128) == 0
                    && getsockname(listener, address, &length) == 0
            }
        }
        guard isListening else { throw DemoOriginError(call: "bind", code: errno) }
        port = UInt16(bigEndian: address.sin_port)
        let shared = shared
        guard let thread = startThread({ DemoOrigin.acceptConnections(shared) }) else {
            throw DemoOriginError(call: "pthread_create", code: EAGAIN)
        }
        acceptor = Mutex(thread)
    }

    deinit { stop() }

    /// Closes every connection, whatever is still to be said on it, and joins all threads. Again is harmless.
    package func stop() {
        let running = acceptor.withLock { held in
            defer { held = nil }
            return held
        }
        guard let running else { return }
        shared.threads.withLock { $0.isStopping = true }
        // Linux ends a waiting accept when the listening socket is shut down.
        shutdown(shared.listener, Int32(SHUT_RDWR))
        pthread_join(running, nil)
    }

    // MARK: the accepting thread

    private static func acceptConnections(_ shared: Shared) {
        while true {
            let descriptor = accept(shared.listener, nil, nil)
            joinEnded(shared)
            if descriptor >= 0 {
                _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
                serve(descriptor, shared)
                continue
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                // Out of descriptors or memory: those in use come back as connections end.
                poll(nil, 0, 100)
                if shared.threads.withLock({ $0.isStopping }) { return endAll(shared) }
            default: return endAll(shared)
            }
        }
    }

    private static func serve(_ descriptor: Int32, _ shared: Shared) {
        let isServed = shared.threads.withLock { threads in
            guard !threads.isStopping, threads.running.count < connectionsMax else { return false }
            let thread = startThread {
                var connection = DemoConnection(descriptor: descriptor)
                connection.serve()
                shared.threads.withLock { threads in
                    // If the entry is gone, the acceptor has taken it to join this thread.
                    if let me = threads.running.removeValue(forKey: descriptor) { threads.ended.append(me) }
                    close(descriptor)
                }
            }
            guard let thread else { return false }
            threads.running[descriptor] = thread
            return true
        }
        guard !isServed else { return }
        let refusal = Array("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".utf8)
        send(descriptor, refusal, refusal.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        close(descriptor)
    }

    private static func joinEnded(_ shared: Shared) {
        let ended = shared.threads.withLock { threads in
            defer { threads.ended = [] }
            return threads.ended
        }
        for thread in ended { pthread_join(thread, nil) }
    }

    private static func endAll(_ shared: Shared) {
        let running = shared.threads.withLock { threads in
            defer { threads.running = [:] }
            for descriptor in threads.running.keys { shutdown(descriptor, Int32(SHUT_RDWR)) }
            return Array(threads.running.values)
        }
        for thread in running { pthread_join(thread, nil) }
        joinEnded(shared)
    }
}

/// Starts a thread that handles no signals: those are for whoever waits for them. nil if there is none to be had.
private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
    final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    let boxed = Unmanaged.passRetained(Body(body))
    var all = sigset_t()
    var previous = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, &previous)
    defer { pthread_sigmask(SIG_SETMASK, &previous, nil) }
    var created = pthread_t()
    let code = pthread_create(
        &created, nil,
        { argument in
            guard let argument else { return nil }
            Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run()
            return nil
        }, boxed.toOpaque())
    guard code == 0 else {
        boxed.release()
        return nil
    }
    return created
}
