// Making the listening sockets, before any worker uses them: a port in use is found out here, and told by its directive.
// A reload asks for the sockets of another configuration: those that are there are kept, and only what is missing is
// bound. On the control thread.

import EventLoop
import HTTPSemantics
import ProxyConfiguration

/// A listening socket as a worker gets it.
struct ListeningSocket: Sendable {
    let descriptor: Int32
    /// Whether other workers have it, too (Unix sockets, and those that were handed to the process).
    let isShared: Bool
    /// Whether it was handed to the process: another process may have it, too, so it is let alone in the end.
    let isInherited: Bool
    let isUnix: Bool
    let isTLS: Bool
    /// Whether every connection begins with a PROXY header.
    let hasProxyHeaders: Bool
    /// The listener's index in the configuration.
    let listener: Int

    /// Whether connections of another may go on as those of this one.
    func isSameSocket(as other: ListeningSocket) -> Bool {
        descriptor == other.descriptor && isTLS == other.isTLS && hasProxyHeaders == other.hasProxyHeaders
    }
}

/// An address that is listened on.
final class BoundAddress {
    let endpoint: Endpoint
    /// For each worker its own, or one for all, or one for the admin thread.
    let descriptors: [Int32]
    let isUnix: Bool
    let isAdmin: Bool
    /// `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/x.sock`, `fd:web (0.0.0.0:80)`
    let name: String
    /// Whether it was handed to the process: it is never closed, since it may be asked for again.
    let isInherited: Bool

    init(
        _ endpoint: Endpoint, _ descriptors: [Int32], name: String, isUnix: Bool, isAdmin: Bool,
        isInherited: Bool = false
    ) {
        self.endpoint = endpoint
        self.descriptors = descriptors
        self.name = name
        self.isUnix = isUnix
        self.isAdmin = isAdmin
        self.isInherited = isInherited
    }

    /// Whether each worker has a socket of its own, and closes it.
    var isOfWorkers: Bool { !isAdmin && !isUnix && !isInherited }

    /// Closes it where that is the control thread's part: no worker uses it any more, or none ever did.
    /// - Parameter withWorkers: whether no worker ever got it.
    func close(withWorkers: Bool) {
        if isOfWorkers ? withWorkers : !isInherited {
            for descriptor in descriptors { Socket.close(descriptor) }
        }
        if case .unix(let path) = endpoint { Socket.removePath(path) }
    }
}

/// What a configuration listens on.
struct ListeningPlan {
    /// Each `bind`, with its address and its listener's index; nil for `admin`.
    fileprivate(set) var binds: [(bind: Bind, address: BoundAddress, listener: Int?)] = []
    /// Those that were bound for it.
    fileprivate(set) var added: [BoundAddress] = []

    /// A worker's sockets.
    func sockets(ofWorker number: Int) -> [ListeningSocket] {
        binds.compactMap { bind, address, listener in
            guard let listener else { return nil }
            return ListeningSocket(
                descriptor: address.descriptors[address.isOfWorkers ? number : 0], isShared: !address.isOfWorkers,
                isInherited: address.isInherited, isUnix: address.isUnix, isTLS: bind.isTLS,
                hasProxyHeaders: bind.hasProxyHeaders,
                listener: listener)
        }
    }

    /// What each listener is reached by, as text, by its index.
    func names(ofListener index: Int) -> [String] {
        binds.filter { $0.listener == index }.map(\.address.name)
    }

    /// What all listeners are reached by.
    var names: [String] { binds.filter { $0.listener != nil }.map(\.address.name) }

    /// The addresses of `admin`.
    var admin: [BoundAddress] { binds.filter { $0.listener == nil }.map(\.address) }

    /// Nothing came of it: what was bound for it is closed.
    func abandon() { for address in added { address.close(withWorkers: true) } }
}

/// The listening sockets of the process.
struct ListeningSockets {
    private var addresses: [BoundAddress] = []
    private let inherited: InheritedSockets
    private let workerCount: Int

    /// No socket yet.
    /// - Parameter inherited: what the process was started with.
    init(workerCount: Int, inherited: InheritedSockets = InheritedSockets(none: ())) {
        self.workerCount = workerCount
        self.inherited = inherited
    }

    /// Finds the sockets of a configuration among those that are there, and binds what is missing. If that fails,
    /// nothing is bound.
    func plan(for configuration: Configuration) throws(StartupError) -> ListeningPlan {
        var plan = ListeningPlan()
        var free = addresses
        do throws(StartupError) {
            for (index, listener) in configuration.listeners.enumerated() {
                for bind in listener.binds { try add(bind, listener: index, to: &plan, free: &free) }
            }
            for bind in configuration.admin?.binds ?? [] { try add(bind, listener: nil, to: &plan, free: &free) }
        } catch {
            plan.abandon()
            throw error
        }
        return plan
    }

    /// A plan is carried out.
    /// - Returns: addresses that are not listened on any more; to be closed when no worker uses them.
    mutating func take(_ plan: ListeningPlan) -> [BoundAddress] {
        let kept = plan.binds.map(\.address)
        for (bind, address, listener) in plan.binds where listener != nil {
            // The queue may have another length now; that cannot fail for what listens already.
            for descriptor in address.descriptors { try? Socket.listen(descriptor, backlog: bind.backlog) }
        }
        let removed = addresses.filter { address in !kept.contains { $0 === address } }
        addresses = kept
        return removed
    }

    /// Removes the paths of Unix sockets: the process ends.
    func removePaths() {
        for address in addresses {
            if case .unix(let path) = address.endpoint { Socket.removePath(path) }
        }
    }

    private func add(
        _ bind: Bind, listener: Int?, to plan: inout ListeningPlan, free: inout [BoundAddress]
    ) throws(StartupError) {
        let isAdmin = listener == nil
        if case .inherited(let name) = bind.endpoint {
            for address in try found(bind, name, isAdmin: isAdmin, plan) {
                plan.binds.append((bind, address, listener))
            }
            return
        }
        if let index = free.firstIndex(where: { $0.endpoint == bind.endpoint && $0.isAdmin == isAdmin }) {
            plan.binds.append((bind, free.remove(at: index), listener))
            return
        }
        let address: BoundAddress
        switch bind.endpoint {
        case .ip(let ip, let port): address = try bound(bind, ip, port, isAdmin: isAdmin)
        case .unix(let path): address = try bound(bind, path: path, isAdmin: isAdmin)
        case .name, .inherited: preconditionFailure("a bind directive never has a name, and no other kind is left")
        }
        plan.added.append(address)
        plan.binds.append((bind, address, listener))
    }

    /// For workers one socket each, all on one address. The first is bound without sharing, so that a port which somebody
    /// else has, sharing or not, is an error and not half of the connections.
    private func bound(
        _ bind: Bind, _ ip: IPAddress, _ port: UInt16, isAdmin: Bool
    ) throws(StartupError) -> BoundAddress {
        let host = ip.isIPv4 ? "\(ip)" : "[\(ip)]"
        var boundPort = port
        var descriptors: [Int32] = []
        do throws(SystemError) {
            if isAdmin {
                descriptors.append(try Socket.bound(to: SocketAddress(ip, port: port), shared: false))
                boundPort = try Socket.localAddress(of: descriptors[0]).ip.port
            } else {
                // The port may be ours by another address (0.0.0.0 and 127.0.0.1), which a reload moves.
                if !hasPort(port) {
                    let probe = try Socket.bound(to: SocketAddress(ip, port: port), shared: false)
                    // It never listens: a client that came to it would be reset when it closes.
                    defer { Socket.close(probe) }
                    boundPort = try Socket.localAddress(of: probe).ip.port
                }
                for _ in 0..<workerCount {
                    descriptors.append(try Socket.bound(to: SocketAddress(ip, port: boundPort), shared: true))
                }
            }
            for descriptor in descriptors { try Socket.listen(descriptor, backlog: bind.backlog) }
        } catch {
            for descriptor in descriptors { Socket.close(descriptor) }
            throw StartupError(at: bind.location, "cannot listen on \(host):\(boundPort)", error)
        }
        return BoundAddress(
            bind.endpoint, descriptors, name: "\(host):\(boundPort)", isUnix: false, isAdmin: isAdmin)
    }

    private func hasPort(_ port: UInt16) -> Bool {
        addresses.contains { address in
            if case .ip(_, port) = address.endpoint { port != 0 && address.isOfWorkers } else { false }
        }
    }

    /// One socket for all workers. A path that nobody answers at any more is taken over.
    private func bound(_ bind: Bind, path: String, isAdmin: Bool) throws(StartupError) -> BoundAddress {
        guard let address = SocketAddress(path: path) else {
            throw StartupError(at: bind.location, "cannot listen on unix:\(path)", nil, reason: "the path is too long")
        }
        do throws(SystemError) {
            if Socket.isAbandoned(address) { Socket.removePath(path) }
            let socket = try Socket.bound(to: address, shared: false)
            do throws(SystemError) {
                try Socket.listen(socket, backlog: bind.backlog)
            } catch {
                Socket.close(socket)
                throw error
            }
            return BoundAddress(bind.endpoint, [socket], name: "unix:\(path)", isUnix: true, isAdmin: isAdmin)
        } catch {
            throw StartupError(at: bind.location, "cannot listen on unix:\(path)", error)
        }
    }

    /// Sockets that the process was started with.
    private func found(
        _ bind: Bind, _ name: String, isAdmin: Bool, _ plan: ListeningPlan
    ) throws(StartupError) -> [BoundAddress] {
        let sockets = inherited.sockets(named: name)
        guard !sockets.isEmpty else {
            throw StartupError(
                at: bind.location, "cannot listen on fd:\(name)", nil, reason: inherited.absence(of: name))
        }
        var found: [BoundAddress] = []
        for socket in sockets {
            // The same socket may go by a name and by a number.
            if plan.binds.contains(where: { $0.address.descriptors.contains(socket) }) {
                throw StartupError(
                    at: bind.location, "cannot listen on fd:\(name)", nil,
                    reason: "another bind has this socket already")
            }
            let known = addresses.first { $0.isInherited && $0.isAdmin == isAdmin && $0.descriptors == [socket] }
            do throws(SystemError) {
                let local = try InheritedSockets.prepare(socket, backlog: bind.backlog)
                found.append(
                    known
                        ?? BoundAddress(
                            bind.endpoint, [socket], name: "fd:\(name) (\(local.name))", isUnix: local.isUnix,
                            isAdmin: isAdmin, isInherited: true))
            } catch {
                throw StartupError(at: bind.location, "cannot listen on fd:\(name)", error)
            }
        }
        return found
    }
}

/// Why the proxy cannot start, or a configuration not come into force. Its description is complete.
public struct StartupError: Error, CustomStringConvertible {
    /// `proxy.conf:12:5: error: cannot listen on 0.0.0.0:80: Address already in use`
    public let description: String
    /// The same without `error:`, and where in the configuration, if it is about a place in it: for a log.
    let reason: String
    let place: String?

    init(at location: SourceLocation, _ what: String, _ error: SystemError?, reason: String? = nil) {
        self.reason = "\(what): \(reason ?? error?.reason ?? "")"
        place = location.text
        description = "\(location.text): error: \(self.reason)"
    }

    init(_ what: String, _ error: SystemError) { self.init("\(what): \(error.reason)") }

    init(_ reason: String) {
        self.reason = reason
        place = nil
        description = "error: \(reason)"
    }

    init(_ problem: TLSProblem) {
        reason = problem.message
        place = problem.location.text
        description = problem.description
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
