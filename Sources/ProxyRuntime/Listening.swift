// Making the listening sockets, before any worker starts: a port in use is found out here, and told by its
// directive.

import EventLoop
import HTTPSemantics
import ProxyConfiguration

/// The listening sockets of a process.
struct ListeningSockets {
    /// For each worker its own.
    private(set) var ofWorker: [[ListeningSocket]]
    /// What is listened on, as text: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/x.sock`.
    private(set) var names: [String] = []
    /// Paths of Unix sockets, to be removed in the end.
    private(set) var paths: [String] = []
    /// The sockets of `admin`: bound, so that an address in use is found out; they listen when the workers do.
    private(set) var admin: [Int32] = []
    /// Their addresses as text.
    private(set) var adminNames: [String] = []

    /// Binds everything that the configuration says.
    init(_ configuration: Configuration, workerCount: Int) throws(StartupError) {
        ofWorker = Array(repeating: [], count: workerCount)
        for (index, listener) in configuration.listeners.enumerated() {
            for bind in listener.binds { try add(bind, listener: index) }
        }
        for bind in configuration.admin?.binds ?? [] { try addAdmin(bind) }
    }

    private mutating func add(_ bind: Bind, listener: Int) throws(StartupError) {
        switch bind.endpoint {
        case .ip(let address, let port): try addTCP(bind, address, port, listener: listener)
        case .unix(let path): try addUnix(bind, path, listener: listener)
        case .name: preconditionFailure("a bind directive never has a name")
        }
    }

    /// One socket a worker, all on one address. The first is bound without sharing, so that a port which somebody
    /// else has, sharing or not, is an error and not half of the connections.
    private mutating func addTCP(
        _ bind: Bind, _ address: IPAddress, _ port: UInt16, listener: Int
    ) throws(StartupError) {
        var boundPort = port
        let host = address.isIPv4 ? "\(address)" : "[\(address)]"
        do {
            let probe = try Socket.bound(to: SocketAddress(address, port: port), shared: false)
            // It never listens: a client that came to it would be reset when it closes.
            defer { Socket.close(probe) }
            boundPort = try Socket.localAddress(of: probe).ip.port
        } catch {
            throw StartupError(at: bind.location, "cannot listen on \(host):\(port)", error)
        }
        for worker in ofWorker.indices {
            do {
                let socket = try Socket.bound(to: SocketAddress(address, port: boundPort), shared: true)
                try Socket.listen(socket, backlog: bind.backlog)
                ofWorker[worker].append(
                    ListeningSocket(
                        socket: socket, isShared: false, isUnix: false, isTLS: bind.isTLS, listener: listener))
            } catch {
                throw StartupError(at: bind.location, "cannot listen on \(host):\(boundPort)", error)
            }
        }
        names.append("\(host):\(boundPort)")
    }

    private mutating func addAdmin(_ bind: Bind) throws(StartupError) {
        let address: SocketAddress?
        var name: String
        switch bind.endpoint {
        case .ip(let ip, let port):
            address = SocketAddress(ip, port: port)
            name = ip.isIPv4 ? "\(ip):" : "[\(ip)]:"
            name += "\(port)"
        case .unix(let path):
            address = SocketAddress(path: path)
            name = "unix:\(path)"
        case .name: preconditionFailure("a bind directive never has a name")
        }
        guard let address else {
            throw StartupError(at: bind.location, "cannot listen on \(name)", nil, reason: "the path is too long")
        }
        do {
            if case .unix(let path) = bind.endpoint, Socket.isAbandoned(address) { Socket.removePath(path) }
            let socket = try Socket.bound(to: address, shared: false)
            admin.append(socket)
            if case .ip(let ip, port: 0) = bind.endpoint {
                let port = try Socket.localAddress(of: socket).ip.port
                name = (ip.isIPv4 ? "\(ip):" : "[\(ip)]:") + "\(port)"
            }
        } catch {
            throw StartupError(at: bind.location, "cannot listen on \(name)", error)
        }
        adminNames.append(name)
        if case .unix(let path) = bind.endpoint { paths.append(path) }
    }

    /// One socket for all workers. A path that nobody answers at any more is taken over.
    private mutating func addUnix(_ bind: Bind, _ path: String, listener: Int) throws(StartupError) {
        guard let address = SocketAddress(path: path) else {
            throw StartupError(at: bind.location, "cannot listen on unix:\(path)", nil, reason: "the path is too long")
        }
        do {
            if Socket.isAbandoned(address) { Socket.removePath(path) }
            let socket = try Socket.bound(to: address, shared: false)
            try Socket.listen(socket, backlog: bind.backlog)
            for worker in ofWorker.indices {
                ofWorker[worker].append(
                    ListeningSocket(
                        socket: socket, isShared: ofWorker.count > 1, isUnix: true, isTLS: bind.isTLS,
                        listener: listener))
            }
        } catch {
            throw StartupError(at: bind.location, "cannot listen on unix:\(path)", error)
        }
        names.append("unix:\(path)")
        paths.append(path)
    }
}

/// Why the proxy cannot start. Its description is complete.
public struct StartupError: Error, CustomStringConvertible {
    /// `proxy.conf:12:5: error: cannot listen on 0.0.0.0:80: Address already in use`
    public let description: String

    init(at location: SourceLocation, _ what: String, _ error: SystemError?, reason: String? = nil) {
        description =
            "\(location.file):\(location.line):\(location.column): error: \(what): \(reason ?? error?.reason ?? "")"
    }

    init(_ what: String, _ error: SystemError) {
        description = "error: \(what): \(error.reason)"
    }

    init(_ description: String) {
        self.description = "error: \(description)"
    }

    init(whole description: String) {
        self.description = description
    }

    /// Does something whose failure means that the proxy cannot start.
    static func during<Result: ~Copyable>(
        _ what: String, _ body: () throws(SystemError) -> Result
    ) throws(StartupError) -> Result {
        do {
            return try body()
        } catch {
            throw StartupError(what, error)
        }
    }
}
