// Taking on a generation of the configuration, and letting the one before go. New exchanges begin under the generation in
// force; those that run keep theirs by a plain counter, and the last one frees it. Sockets that a reload keeps are not
// touched; connections of a listener that is gone are served until their next response, which ends them.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import TLS

/// A snapshot with what the worker made for it. Reached by pointer.
struct SnapshotSlot {
    let snapshot: Snapshot
    let generation: Generation
    let upstreams: [UnsafeMutablePointer<UpstreamState>]
    /// Each listener's TLS.
    var contexts: [TLSServerContext?]
    /// Where its listeners and routes are counted.
    let metrics: RouteMetricCells
    /// Exchanges that hold it, and listeners that are gone but still have connections: the last one lets a replaced
    /// snapshot go.
    var holderCount = 0
}

/// A listening socket of a worker. Reached by pointer; lives until the last connection that came by it is closed.
struct ListenerState {
    /// Names it in readiness tokens.
    let number: UInt32
    let socket: ListeningSocket
    /// The snapshot in force; the last one that had it, if it is gone.
    var slot: UnsafeMutablePointer<SnapshotSlot>
    /// Its listener in that snapshot.
    var compiled: UnsafePointer<CompiledListener>
    /// Its TLS, if clients speak TLS on this socket.
    var tls: TLSServerContext?
    /// Its index in the configuration.
    var index: Int
    /// Open connections that came by it.
    var connectionCount = 0
    /// Whether epoll tells of it.
    var isWatched = false
    /// Whether it is gone: nobody comes by it any more.
    var isRemoved = false
    /// Whether connections are served to their next response only, because it is gone or the process drains.
    var isEnding = false

    /// Whether the forwarding fields of a peer are believed.
    func trusts(_ address: IPAddress, isUnix: Bool) -> Bool {
        isUnix
            ? compiled.pointee.trustsUnixPeers : compiled.pointee.trustedNetworks.contains { $0.contains(address) }
    }

    var token: ReadinessToken {
        ReadinessToken(kind: TokenKind.listener, SlabToken(index: number, generation: 0))
    }
}

extension Worker {
    // MARK: Taking

    /// From now on this is the configuration.
    func take(_ next: WorkerGeneration) {
        growScratch(for: next.snapshot)
        let slot = makeSlot(next)
        hot.pointee.snapshot = slot
        hot.pointee.slots.append(slot)
        takeListeners(next, slot)
        hot.pointee.log = next.log
        for server in hot.pointee.servers.values {
            server.pointee.isRemoved = !slot.pointee.upstreams.contains { $0.pointee.servers.contains(server) }
            if server.pointee.isRemoved { closeIdle(server) }
        }
        buryReplacedSnapshots()
        shared.control.post(.generationTaken(next.generation.number))
    }

    private func growScratch(for snapshot: Snapshot) {
        pool.setBound(bytes: shared.bufferBytesOfWorkerMax, plentyBytes: snapshot.relayBufferBytes)
        // Room for the largest head there can be, and for the small pieces of a turn's content. Exchanges of earlier
        // generations may still need what these asked for.
        let gatherBytes = snapshot.headWriteBytesMax + snapshot.relayBufferBytes + (16 << 10)
        downstreamGather.grow(scratchCapacity: gatherBytes)
        upstreamGather.grow(scratchCapacity: gatherBytes)
        http2Engine.grow(outgoingBytes: snapshot.headWriteBytesMax + Self.retainedBytesMax)
    }

    private func makeSlot(_ next: WorkerGeneration) -> UnsafeMutablePointer<SnapshotSlot> {
        for shared in next.generation.servers { takeServer(shared, next) }
        let upstreams = next.generation.configuration.upstreams.map { upstreamState($0, next.generation) }
        let slot = UnsafeMutablePointer<SnapshotSlot>.allocate(capacity: 1)
        slot.initialize(
            to: SnapshotSlot(
                snapshot: next.snapshot, generation: next.generation, upstreams: upstreams,
                contexts: next.tls.listeners, metrics: next.generation.metrics.cells(ofWorker: number)))
        return slot
    }

    private func takeServer(_ shared: SharedServer, _ next: WorkerGeneration) {
        let tls = next.tls.servers[shared.number]
        if let known = hot.pointee.servers[shared.number] {
            guard let tls else { return }
            known.pointee.tls?.retire()
            known.pointee.tls = tls
            return
        }
        let server = UnsafeMutablePointer<ServerState>.allocate(capacity: 1)
        server.initialize(to: ServerState(shared, tls: tls))
        if let outcome = next.outcomes[shared.number] { server.pointee.resolved(outcome) }
        hot.pointee.servers[shared.number] = server
    }

    /// The upstream's state: that of the snapshot in force if nothing of the upstream has changed.
    private func upstreamState(_ upstream: Upstream, _ generation: Generation) -> UnsafeMutablePointer<UpstreamState> {
        if let kept = hot.pointee.snapshot?.pointee.upstreams.first(where: { $0.pointee.configuration == upstream }) {
            kept.pointee.snapshotCount += 1
            return kept
        }
        let servers = upstream.servers.map { line in
            let number = generation.server(ServerIdentity(line, of: upstream)).number
            guard let server = hot.pointee.servers[number] else { preconditionFailure("a server was not taken") }
            server.pointee.upstreamCount += 1
            return server
        }
        let state = UnsafeMutablePointer<UpstreamState>.allocate(capacity: 1)
        state.initialize(to: UpstreamState(upstream, servers: servers, workerCount: shared.workerCount))
        state.pointee.snapshotCount = 1
        return state
    }

    // MARK: Listeners

    private func takeListeners(_ next: WorkerGeneration, _ slot: UnsafeMutablePointer<SnapshotSlot>) {
        guard let first = slot.pointee.snapshot.listeners.baseAddress else {
            preconditionFailure("a configuration without a listener")
        }
        var kept: [UnsafeMutablePointer<ListenerState>] = []
        var former = hot.pointee.listeners
        for socket in next.sockets {
            let context = socket.isTLS ? next.tls.listeners[socket.listener] : nil
            precondition(!socket.isTLS || context != nil, "a socket of TLS without its TLS")
            if let index = former.firstIndex(where: { $0.pointee.socket.isSameSocket(as: socket) }) {
                let listener = former.remove(at: index)
                listener.pointee.slot = slot
                listener.pointee.compiled = UnsafePointer(first + socket.listener)
                listener.pointee.tls = context
                listener.pointee.index = socket.listener
                kept.append(listener)
            } else {
                kept.append(addListener(socket, slot, UnsafePointer(first + socket.listener), context))
            }
        }
        // From here on a pause is for those that are kept; each of the others is looked after by `remove`.
        hot.pointee.listeners = kept
        // Those that are gone first: a socket that is kept, but for its TLS, is watched under another token.
        for listener in former {
            let descriptor = listener.pointee.socket.descriptor
            remove(listener, closing: !kept.contains { $0.pointee.socket.descriptor == descriptor })
        }
        if !acceptingIsPaused, !watchListeners() { watchListenersLater() }
        trustAnew()
    }

    /// Whom `trusted_proxies` names may be others now: connections that are there are judged by it, too.
    private func trustAnew() {
        downstreams.forEach { connection in
            let listener = connection.pointee.listener
            guard !listener.pointee.isRemoved else { return }
            connection.pointee.peer.isTrusted = listener.pointee.trusts(
                connection.pointee.peer.address, isUnix: connection.pointee.peer.isUnix)
        }
    }

    private func addListener(
        _ socket: ListeningSocket, _ slot: UnsafeMutablePointer<SnapshotSlot>,
        _ compiled: UnsafePointer<CompiledListener>, _ context: TLSServerContext?
    ) -> UnsafeMutablePointer<ListenerState> {
        let listener = UnsafeMutablePointer<ListenerState>.allocate(capacity: 1)
        listener.initialize(
            to: ListenerState(
                number: hot.pointee.nextListenerNumber, socket: socket, slot: slot, compiled: compiled, tls: context,
                index: socket.listener))
        hot.pointee.nextListenerNumber += 1
        return listener
    }

    /// A listener is gone: who waits in its queue is let in, then nobody.
    /// - Parameter closing: whether nobody else listens on its socket.
    private func remove(_ listener: UnsafeMutablePointer<ListenerState>, closing: Bool) {
        acceptAllWaiting(listener)
        unwatch(listener)
        listener.pointee.isRemoved = true
        listener.pointee.isEnding = true
        listener.pointee.slot.pointee.holderCount += 1
        // The control thread closes it when no worker uses it any more; a worker's own is closed here.
        if closing, !listener.pointee.socket.isShared { Socket.close(listener.pointee.socket.descriptor) }
        if listener.pointee.connectionCount == 0 {
            free(listener)
            return
        }
        downstreams.forEach { connection in
            guard connection.pointee.listener == listener else { return }
            connection.pointee.exchange?.pointee.machine.connectionDrained()
            if connection.pointee.phase == .multiplexing { announceShutdown(connection) }
        }
    }

    private func free(_ listener: UnsafeMutablePointer<ListenerState>) {
        let slot = listener.pointee.slot
        listener.deinitialize(count: 1)
        listener.deallocate()
        release(slot)
    }

    /// A connection's slot is freed.
    func connectionFreed(_ listener: UnsafeMutablePointer<ListenerState>) {
        listener.pointee.connectionCount -= 1
        if listener.pointee.isRemoved, listener.pointee.connectionCount == 0 { free(listener) }
    }

    // MARK: Letting go

    /// An exchange, or a listener, does not hold a snapshot any more. A replaced one that nobody holds is freed at the end
    /// of the batch: who has just ended an exchange may still look at its route.
    @inline(__always)
    func release(_ slot: UnsafeMutablePointer<SnapshotSlot>) {
        slot.pointee.holderCount &-= 1
        if slot.pointee.holderCount == 0, slot != hot.pointee.snapshot { buryReplacedSnapshots() }
    }

    @inline(never)
    private func buryReplacedSnapshots() {
        buryLater(ReadinessToken(kind: TokenKind.snapshot, SlabToken(index: 0, generation: 0)))
    }

    /// Frees all snapshots that are neither in force nor held.
    func freeReplacedSnapshots() {
        for slot in hot.pointee.slots where slot != hot.pointee.snapshot && slot.pointee.holderCount == 0 {
            free(slot)
        }
    }

    /// Frees a snapshot that nobody holds.
    func free(_ slot: UnsafeMutablePointer<SnapshotSlot>) {
        precondition(slot.pointee.holderCount == 0, "a snapshot is freed that somebody holds")
        hot.pointee.slots.removeAll { $0 == slot }
        for upstream in slot.pointee.upstreams { release(upstream) }
        for context in slot.pointee.contexts { context?.retire() }
        let generation = slot.pointee.generation.number
        slot.deinitialize(count: 1)
        slot.deallocate()
        shared.control.post(.generationReleased(generation))
    }

    private func release(_ upstream: UnsafeMutablePointer<UpstreamState>) {
        upstream.pointee.snapshotCount -= 1
        guard upstream.pointee.snapshotCount == 0 else { return }
        precondition(upstream.pointee.queue.isEmpty, "an upstream is freed that exchanges wait for")
        for server in upstream.pointee.servers {
            server.pointee.upstreamCount -= 1
            freeIfUnused(server)
        }
        upstream.pointee.balancer.destroy()
        upstream.deinitialize(count: 1)
        upstream.deallocate()
    }

    private func closeIdle(_ server: UnsafeMutablePointer<ServerState>) {
        while let oldest = server.pointee.idle.oldestOwner, let connection = upstreams.find(oldest) {
            closeUpstream(connection)
        }
        for connection in server.pointee.multiplexed { updateTimer(connection) }
    }

    /// A connection's slot is freed.
    func connectionFreed(_ server: UnsafeMutablePointer<ServerState>, isStream: Bool) {
        server.pointee.connectionCount -= 1
        if !isStream { server.pointee.shared.closes.add(1, ordering: .releasing) }
        freeIfUnused(server)
    }

    private func freeIfUnused(_ server: UnsafeMutablePointer<ServerState>) {
        guard server.pointee.upstreamCount == 0, server.pointee.connectionCount == 0 else { return }
        hot.pointee.servers[server.pointee.shared.number] = nil
        server.pointee.destroy()
        server.deinitialize(count: 1)
        server.deallocate()
    }
}
