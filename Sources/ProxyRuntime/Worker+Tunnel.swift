// Tunnels: behind a 101 that was asked for, bytes pass as they are. Backpressure, half-close and resets pass, too.
// Reading and writing are those of every connection; what stands here is what differs.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyCore

extension Worker {
    /// The head of a 101 is written. What came with it passes at once, and so does what the client sent behind its
    /// request.
    /// - Parameter glued: bytes behind the head.
    func openTunnel(_ exchange: ExchangePointer, _ glued: UnsafeBufferPointer<UInt8>) {
        exchange.pointee.snapshot.pointee.metrics.count(RouteCells.tunnelsOpened, exchange)
        // Should we have to cut it off, only a reset shows that.
        exchange.pointee.responseFraming = .untilClose
        if !glued.isEmpty { passDown(glued, exchange) }
        if let upstream = exchange.pointee.upstream { updateTimer(upstream) }
        schedule(exchange.pointee.downstream)
    }

    /// Bytes of the client for the server.
    func passUp(_ bytes: UnsafeBufferPointer<UInt8>, _ exchange: ExchangePointer) {
        guard let upstream = exchange.pointee.upstream, !bytes.isEmpty else { return }
        exchange.pointee.machine.tunnelBytesReceived(bytes.count, from: .client, now: nowMicroseconds)
        collect(bytes, for: upstream)
        flush(upstream)
        if bytes.count >= Self.bulkBytesMin { noteBulk(of: exchange.pointee.downstream, exchange) }
        updateTimer(upstream)
    }

    /// Bytes of the server for the client.
    func passDown(_ bytes: UnsafeBufferPointer<UInt8>, _ exchange: ExchangePointer) {
        guard !bytes.isEmpty else { return }
        exchange.pointee.machine.tunnelBytesReceived(bytes.count, from: .server, now: nowMicroseconds)
        // Heads of the same read may be collected already.
        collect(bytes, for: exchange.pointee.downstream)
        flush(exchange.pointee.downstream)
        guard let upstream = exchange.pointee.upstream else { return }
        updateTimer(upstream)
        if bytes.count >= Self.bulkBytesMin { noteBulk(of: upstream, exchange) }
    }

    /// The client's end of a tunnel is broken: the server gets what waits for it, then a reset.
    func resetWhenDelivered(_ connection: UpstreamPointer, _ exchange: ExchangePointer) {
        connection.pointee.endsByReset = true
        exchange.pointee.upstream = nil
        connection.pointee.exchange = nil
        if connection.pointee.outbound.isEmpty || connection.pointee.state.contains(.isBroken) {
            closeUpstream(connection)
        } else {
            connection.pointee.phase = .finishing
            updateTimer(connection)
        }
        letGo(exchange)
    }

    /// One direction of a tunnel is over, and all of it is written.
    func endSendingInTunnel(_ connection: DownstreamPointer) {
        if connection.pointee.state.contains(.isStream) {
            flushStream(connection, isLast: true)
            return
        }
        if let tls = connection.pointee.tls {
            let isOut = endSendingTLS(
                &tls.pointee.session, to: connection.pointee.socket, &connection.pointee.outbound,
                &connection.pointee.state)
            // What waits of the close_notify says it as well as a FIN would.
            if !isOut { return }
        }
        Socket.endSending(connection.pointee.socket)
    }

    /// The same towards the server.
    func endSendingInTunnel(_ connection: UpstreamPointer) {
        if connection.pointee.state.contains(.isStream) {
            flushRequestStream(connection, isLast: true)
            return
        }
        if let tls = connection.pointee.tls {
            let isOut = endSendingTLS(
                &tls.pointee, to: connection.pointee.socket, &connection.pointee.outbound, &connection.pointee.state)
            if !isOut { return }
        }
        Socket.endSending(connection.pointee.socket)
    }
}
