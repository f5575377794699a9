// Connections that a balancer hands on with a PROXY header: who is meant by "the client" is read from their first bytes,
// before TLS and before the first request.

import EventLoop
import HTTPSemantics
import ProxyCore

extension Worker {
    /// Reads the header, if it is there as a whole. Until then its bytes stay in the socket.
    /// - Returns: whether the connection's own bytes can be read now.
    @inline(never)
    func readProxyHeader(_ connection: DownstreamPointer) -> Bool {
        guard connection.pointee.state.contains(.mayRead) else { return false }
        switch Socket.peek(connection.pointee.socket, into: scratch, capacity: ProxyProtocol.bytesMax) {
        case .bytes(let count):
            switch ProxyProtocol.read(UnsafeBufferPointer(start: scratch, count: count)) {
            case .incomplete:
                // The socket tells of every byte that comes behind these; an end is told, too.
                connection.pointee.state.remove(.mayRead)
                if connection.pointee.state.contains(.peerEnded) { closeDownstream(connection) }
                return false
            case .header(let byteCount, let source):
                // A reset, or a byte declared urgent meanwhile, may take away what was seen.
                let outcome = Socket.receive(connection.pointee.socket, into: scratch, capacity: byteCount)
                guard case .bytes(byteCount) = outcome else {
                    closeDownstream(connection)
                    return false
                }
                connection.pointee.state.remove(.awaitsProxyHeader)
                if let source { connection.pointee.peer = peer(source, connection.pointee.listener) }
                updateTimer(connection)
                return true
            case .invalid:
                metrics.count(.proxyHeadersRefused)
                let address = connection.pointee.peer.isUnix ? "unix:" : "\(connection.pointee.peer.address)"
                report(
                    PeerEvent(
                        failure: .requestRefused, fault: .proxyHeader, server: nil, target: nil,
                        detail: "the connection from \(address) is closed", status: 0, tries: 0))
                closeDownstream(connection)
                return false
            }
        case .wouldBlock:
            connection.pointee.state.remove(.mayRead)
            return false
        case .ended, .failed:
            closeDownstream(connection)
            return false
        }
    }

    private func peer(_ source: ProxyProtocol.Source, _ listener: UnsafeMutablePointer<ListenerState>) -> Peer {
        Peer(
            address: source.address, port: source.port, isUnix: false,
            isTrusted: listener.pointee.trusts(source.address, isUnix: false))
    }
}
