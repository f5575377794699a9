// Bytes that nobody has to look at, and much of them: tunnels in full flow, and content of a declared length of which
// much is to come. They are moved from one socket to the other within the kernel. Counts, ends, breaks and
// backpressure are those of the copying path; a connection goes back to it whenever little comes at a time, since a
// short read says that nothing is left and a short splice does not.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyCore

/// What became of moving bytes from one socket to another.
private enum MoveOutcome {
    /// So many left the source; what the destination did not take waits in its pipe.
    case bytes(Int)
    /// So many left the source, and the destination is broken.
    case bytesForNobody(Int)
    /// Nothing now; readiness will tell.
    case nothing
    /// The source's peer has ended its direction.
    case ended
    /// The source is broken.
    case broken
    /// Copy.
    case unavailable
}

extension Worker {
    /// Less than this to come is copied.
    static var splicedBytesMin: UInt64 { 64 << 10 }
    /// A tunnel that brings so much at a time is in full flow,
    static var bulkBytesMin: Int { 16 << 10 }
    /// and one that moves less than this is copied again: a short read says by itself that nothing is left.
    private static var trickleBytesMax: Int { 4 << 10 }
    /// What counts as one read of a round.
    private static var bytesOfOneRead: Int { 64 << 10 }

    // MARK: When

    /// Content came to the end of a read: looks whether much more of it is to come.
    func noteBulk(of connection: UpstreamPointer, _ exchange: ExchangePointer, lastBytes: Int) {
        let isMuch =
            connection.pointee.decoder.contentRemaining >= Self.splicedBytesMin
            || (lastBytes >= Self.bulkBytesMin && connection.pointee.decoder.isUntilClose)
        if isMuch { noteBulk(of: connection, exchange) }
    }

    /// Much of a response, or of what a server sends through a tunnel, is to come.
    func noteBulk(of connection: UpstreamPointer, _ exchange: ExchangePointer) {
        let neverSplices: SocketState = [.cannotSplice, .isTLS, .isStream]
        guard connection.pointee.state.isDisjoint(with: neverSplices),
            exchange.pointee.downstream.pointee.state.isDisjoint(with: [.isTLS, .isStream, .isBroken])
        else { return }
        let machine = exchange.pointee.machine
        // What is chunked is framed anew, also for HTTP/1.0; what ends with the connection passes there as it is.
        let decoder = connection.pointee.decoder
        let passesAsItIs =
            (decoder.isSized && exchange.pointee.responseFraming == .length)
            || (decoder.isUntilClose && exchange.pointee.responseFraming == .untilClose)
        if machine.isTunnel || (machine.responseSide == .relaying && passesAsItIs) {
            connection.pointee.state.insert(.splices)
        }
    }

    /// Much of a request, or of what a client sends through a tunnel, is to come.
    func noteBulk(of connection: DownstreamPointer, _ exchange: ExchangePointer) {
        let neverSplices: SocketState = [.cannotSplice, .isTLS, .isStream]
        guard connection.pointee.state.isDisjoint(with: neverSplices),
            exchange.pointee.upstream?.pointee.state.isDisjoint(with: [.isTLS, .isStream]) ?? false
        else { return }
        let machine = exchange.pointee.machine
        if machine.isTunnel || (machine.requestSide == .receiving && connection.pointee.decoder.isSized) {
            connection.pointee.state.insert(.splices)
        }
    }

    // MARK: Moving

    private func move(
        from source: Int32, _ sourceState: inout SocketState, countMax: UInt64, to destination: Int32,
        _ outbound: inout Outbound, _ destinationState: inout SocketState
    ) -> MoveOutcome {
        var result = pipes.receive(source, count: Int(clamping: countMax), into: &outbound.piped)
        switch result {
        case .wouldBlock, .ended:
            let outcome = whatIsThere(source, &sourceState)
            guard case .bytes = outcome else { return outcome }
            // They may have come only now.
            result = pipes.receive(source, count: Int(clamping: countMax), into: &outbound.piped)
        case .bytes, .failed, .unavailable, .unsupported: break
        }
        let received: Int
        switch result {
        case .bytes(let count):
            received = count
            // Less than was asked for may be all there is; to look costs less than to try again.
            if count < PipePool.capacityBytes, UInt64(count) < countMax {
                switch Socket.peek(source) {
                case .wouldBlock: sourceState.remove(.mayRead)
                // The kernel tells a reset once.
                case .failed(let number): noteBreak(number, &sourceState)
                case .bytes, .ended: break
                }
            }
        case .failed: return .broken
        case .unavailable: return .unavailable
        case .unsupported, .wouldBlock, .ended:
            // There are bytes, and a splice does not find them: it never passes an urgent byte (RFC 9293 section 3.8.5),
            // whatever lies behind it.
            sourceState.insert(.cannotSplice)
            return .unavailable
        }
        guard destinationState.contains(.mayWrite) else { return .bytes(received) }
        switch pipes.send(&outbound.piped, to: destination) {
        case .bytes, .wouldBlock:
            if !outbound.isEmpty { destinationState.remove(.mayWrite) }
            return .bytes(received)
        case .failed(let number) where Socket.cannotTakePipes(number):
            pipes.copy(&outbound.piped, to: &outbound.buffer, of: pool)
            sourceState.remove(.splices)
            sourceState.insert(.cannotSplice)
            // There is room, and no readiness will tell of it again.
            if case .broken = sendWaiting(to: destination, &outbound, &destinationState) {
                return .bytesForNobody(received)
            }
            return .bytes(received)
        case .ended: preconditionFailure("a write finds no end")
        case .failed(let number):
            noteBreak(number, &destinationState)
            release(&outbound)
            return .bytesForNobody(received)
        }
    }

    /// A splice found nothing, or the end. Neither is believed before a look: see `move`.
    private func whatIsThere(_ source: Int32, _ state: inout SocketState) -> MoveOutcome {
        switch Socket.peek(source) {
        case .bytes(let count): return .bytes(count)
        case .wouldBlock:
            state.remove(.mayRead)
            return .nothing
        case .ended:
            state.remove(.mayRead)
            return state.contains(.isReset) ? .broken : .ended
        case .failed: return .broken
        }
    }

    /// Moves what a server sends on to the client.
    /// - Returns: whether reading may go on.
    func spliceResponse(_ connection: UpstreamPointer, _ reads: inout Int) -> Bool {
        guard let exchange = connection.pointee.exchange else { preconditionFailure("a response for nobody") }
        let downstream = exchange.pointee.downstream
        if downstream.pointee.state.contains(.isBroken) {
            // Under `on_client_close finish` the rest is read and thrown away.
            connection.pointee.state.remove(.splices)
            return true
        }
        let isTunnel = exchange.pointee.machine.isTunnel
        let isSized = !isTunnel && !connection.pointee.decoder.isUntilClose
        let outcome = move(
            from: connection.pointee.socket, &connection.pointee.state,
            countMax: isSized ? connection.pointee.decoder.contentRemaining : .max, to: downstream.pointee.socket,
            &downstream.pointee.outbound, &downstream.pointee.state)
        switch outcome {
        case .bytes(let count), .bytesForNobody(let count):
            reads += count / Self.bytesOfOneRead
            if case .bytesForNobody = outcome {
                downstream.pointee.state.insert(.isBroken)
                schedule(downstream)
            } else if !downstream.pointee.outbound.isEmpty {
                clientBecameFull(downstream)
            }
            if !isSized, count < Self.trickleBytesMax { connection.pointee.state.remove(.splices) }
            if isTunnel {
                exchange.pointee.machine.tunnelBytesReceived(count, from: .server, now: nowMicroseconds)
            } else {
                _ = exchange.pointee.machine.responseContentReceived(count, now: nowMicroseconds)
                connection.pointee.decoder.contentPassed(count)
                if connection.pointee.decoder.endedWithContent() {
                    connection.pointee.state.remove(.splices)
                    endResponse(exchange, connection, hasSurplus: false)
                    return true
                }
            }
            updateTimer(connection)
            return true
        case .nothing: return true
        case .ended:
            responseInputEnded(connection)
            return false
        case .broken:
            upstreamBroke(connection)
            return false
        case .unavailable:
            connection.pointee.state.remove(.splices)
            return true
        }
    }

    /// Moves what a client sends on to the server.
    /// - Returns: whether reading may go on.
    func spliceRequest(_ connection: DownstreamPointer, _ reads: inout Int) -> Bool {
        guard let exchange = connection.pointee.exchange, let upstream = exchange.pointee.upstream else {
            // Nobody wants the rest of this content: it is read and thrown away.
            connection.pointee.state.remove(.splices)
            return true
        }
        let isTunnel = exchange.pointee.machine.isTunnel
        let outcome = move(
            from: connection.pointee.socket, &connection.pointee.state,
            countMax: isTunnel ? .max : connection.pointee.decoder.contentRemaining, to: upstream.pointee.socket,
            &upstream.pointee.outbound, &upstream.pointee.state)
        switch outcome {
        case .bytes(let count), .bytesForNobody(let count):
            reads += count / Self.bytesOfOneRead
            if case .bytesForNobody = outcome {
                sendingBroke(upstream)
            } else {
                upstream.pointee.sentBytes += UInt64(count - upstream.pointee.outbound.count)
            }
            if isTunnel {
                exchange.pointee.machine.tunnelBytesReceived(count, from: .client, now: nowMicroseconds)
                if count < Self.trickleBytesMax { connection.pointee.state.remove(.splices) }
                updateTimer(upstream)
                return true
            }
            // What passed is not at hand for another try.
            exchange.pointee.machine.isReplayable = false
            pool.release(&exchange.pointee.retained)
            connection.pointee.decoder.contentPassed(count)
            // The bound of the content was held against its declared length.
            _ = exchange.pointee.machine.requestContentReceived(count)
            updateTimer(upstream)
            if connection.pointee.decoder.endedWithContent() {
                connection.pointee.state.remove(.splices)
                perform(exchange.pointee.machine.requestEnded(now: nowMicroseconds), for: exchange)
            }
            updateTimerAfterInput(connection)
            return true
        case .nothing: return true
        case .ended:
            inputEnded(connection)
            return false
        case .broken:
            downstreamBroke(connection)
            return false
        case .unavailable:
            connection.pointee.state.remove(.splices)
            return true
        }
    }
}
