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

    /// - Returns: whether the kernel watches all listeners now.
    func watchListeners() -> Bool {
        for listener in hot.pointee.listeners where !listener.pointee.isWatched {
            do {
                try epoll.addSource(
                    listener.pointee.socket.descriptor, listener.pointee.token,
                    exclusive: listener.pointee.socket.isShared)
                listener.pointee.isWatched = true
            } catch {
                return false
            }
        }
        return true
    }

    func unwatch(_ listener: UnsafeMutablePointer<ListenerState>) {
        guard listener.pointee.isWatched else { return }
        epoll.remove(listener.pointee.socket.descriptor)
        listener.pointee.isWatched = false
    }

    func stopAccepting() {
        for listener in hot.pointee.listeners { unwatch(listener) }
    }

    /// The kernel's queue holds who comes meanwhile.
    func pauseAccepting(_ reason: String) {
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
        if watchListeners() {
            acceptingIsPaused = false
        } else {
            // The kernel has no room to watch them: nobody is taken meanwhile, and it is tried again.
            stopAccepting()
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
            switch Socket.accept(listener.pointee.socket.descriptor) {
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
            listener.pointee.socket.isUnix
            ? compiled.pointee.trustsUnixPeers
            : compiled.pointee.trustedNetworks.contains { $0.contains(peerAddress) }
        let peer = Peer(
            address: peerAddress, port: ip.port, isUnix: listener.pointee.socket.isUnix, isTrusted: isTrusted)
        let connection = downstreams.insert { token in
            DownstreamConnection(
                token: token, socket: socket, kind: TokenKind.downstream, listener: listener, peer: peer)
        }.place
        listener.pointee.connectionCount += 1
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
