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

    /// - Returns: whether the kernel watches all listeners now. One that it does not keeps no other from being watched.
    func watchListeners() -> Bool {
        var areAllWatched = true
        for listener in hot.pointee.listeners where !listener.pointee.isWatched {
            do {
                try epoll.addSource(
                    listener.pointee.socket.descriptor, listener.pointee.token,
                    exclusive: listener.pointee.socket.isShared)
                listener.pointee.isWatched = true
            } catch {
                areAllWatched = false
            }
        }
        return areAllWatched
    }

    private func reportPause(_ reason: String) {
        guard nowMilliseconds >= pauseReportMilliseconds else { return }
        pauseReportMilliseconds = nowMilliseconds + Self.pauseReportMilliseconds
        shared.control.post(.acceptingPaused(reason))
    }

    /// The kernel had no room to watch one: it is tried again.
    func watchListenersLater() {
        reportPause("the kernel has no room to watch a listener")
        wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
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
        reportPause(reason)
        stopAccepting()
        acceptingIsPaused = true
        wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
    }

    func resumeAccepting() {
        guard !isDraining else { return }
        if acceptingIsPaused, shared.connectionCount >= shared.connectionsMax {
            wheel.set(acceptTimer, deadlineMilliseconds: nowMilliseconds + Self.pauseMilliseconds)
            return
        }
        acceptingIsPaused = false
        if !watchListeners() { watchListenersLater() }
    }

    /// Lets in whoever waits in a listener's queue, however long that is: the listener goes.
    func acceptAllWaiting(_ listener: UnsafeMutablePointer<ListenerState>) {
        // The longest queue that can be asked for.
        for _ in 0...(65_535 / Self.acceptsPerTurnMax) {
            if acceptingIsPaused || !acceptConnections(listener) { return }
        }
    }

    /// - Returns: whether more may be waiting.
    @discardableResult
    func acceptConnections(_ listener: UnsafeMutablePointer<ListenerState>) -> Bool {
        // An event of this batch may be older than the word to drain.
        if isDraining { return false }
        for _ in 0..<Self.acceptsPerTurnMax {
            if shared.connectionCount >= shared.connectionsMax {
                pauseAccepting("the bound of connections is reached")
                return false
            }
            switch Socket.accept(listener.pointee.socket.descriptor) {
            case .accepted(let socket, let address): addConnection(socket, address, listener)
            case .nothingWaiting: return false
            case .goneAlready: continue
            case .exhausted(let error):
                pauseAccepting(error.reason)
                return false
            }
        }
        return true
    }

    private func addConnection(
        _ socket: Int32, _ address: SocketAddress, _ listener: UnsafeMutablePointer<ListenerState>
    ) {
        let ip = address.ip
        let peerAddress = IPAddress(high: ip.high, low: ip.low)
        let isTrusted = listener.pointee.trusts(peerAddress, isUnix: listener.pointee.socket.isUnix)
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
