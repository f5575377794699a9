// Listening sockets of a worker: taking connections, and pausing when the process has no room for more.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyCore

extension Worker {
    /// Connections taken in one turn, so that a flood of them does not starve the others.
    private static var acceptsPerTurnMax: Int { 64 }
    /// How long accepting pauses at least when there is no room.
    private static var pauseMilliseconds: UInt64 { 100 }
    /// How often a pause is told of at most.
    private static var pauseReportMilliseconds: UInt64 { 10_000 }

    func startAccepting() throws(SystemError) {
        for index in 0..<listenerCount {
            try epoll.addSource(
                listeners[index].socket,
                ReadinessToken(kind: TokenKind.listener, SlabToken(index: UInt32(index), generation: 0)),
                exclusive: listeners[index].isShared)
        }
    }

    func stopAccepting() {
        if !acceptingIsPaused { removeListeners() }
    }

    private func removeListeners() {
        for index in 0..<listenerCount { epoll.remove(listeners[index].socket) }
    }

    /// The kernel's queue holds who comes meanwhile.
    private func pauseAccepting(_ reason: String) {
        if nowMilliseconds >= pauseReportMilliseconds {
            pauseReportMilliseconds = nowMilliseconds + Self.pauseReportMilliseconds
            shared.control.post(.acceptingPaused(reason))
        }
        stopAccepting()
        acceptingIsPaused = true
        wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
    }

    func resumeAccepting() {
        guard acceptingIsPaused, !isDraining else { return }
        if shared.connectionCount >= shared.connectionsMax {
            wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
            return
        }
        do {
            try startAccepting()
            acceptingIsPaused = false
        } catch {
            // The kernel has no room to watch them: what was added is taken out, and it is tried again.
            removeListeners()
            wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
        }
    }

    func acceptConnections(_ listener: UnsafeMutablePointer<ListenerState>) {
        // An event of this batch may be older than the word to drain.
        if isDraining { return }
        for _ in 0..<Self.acceptsPerTurnMax {
            if shared.connectionCount >= shared.connectionsMax {
                pauseAccepting("the bound of connections is reached")
                return
            }
            switch Socket.accept(listener.pointee.socket) {
            case .accepted(let socket, let address): addConnection(socket, address, listener)
            case .nothingWaiting: return
            case .goneAlready: continue
            case .exhausted(let error):
                pauseAccepting(error.reason)
                return
            }
        }
    }

    private func addConnection(
        _ socket: Int32, _ address: SocketAddress, _ listener: UnsafeMutablePointer<ListenerState>
    ) {
        let ip = address.ip
        let peerAddress = IPAddress(high: ip.high, low: ip.low)
        let compiled = listener.pointee.compiled
        let isTrusted =
            listener.pointee.isUnix
            ? compiled.pointee.trustsUnixPeers
            : compiled.pointee.trustedNetworks.contains { $0.contains(peerAddress) }
        let peer = Peer(
            address: peerAddress, port: ip.port, isUnix: listener.pointee.isUnix, isTrusted: isTrusted)
        let connection = downstreams.insert { token in
            DownstreamConnection(
                token: token, socket: socket, kind: TokenKind.downstream, listener: listener, peer: peer)
        }.place
        connection.pointee.phaseStartMilliseconds = nowMilliseconds
        shared.connectionOpened()
        metrics.count(.connectionsAccepted)
        do {
            try epoll.addConnection(socket, connection.pointee.timer.owner)
        } catch {
            closeDownstream(connection)
            return
        }
        updateTimer(connection)
    }
}
