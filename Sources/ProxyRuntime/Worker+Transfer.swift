// Reading and writing as both sides do it: into the scratch or behind what waits, from the gather or from what waits.
// What follows from it is for each side to say.

import Bytes
import EventLoop

/// What a read gave.
enum ReadOutcome {
    /// What there is to look at: all of it from the scratch, or from the connection's buffer with what waited there.
    case bytes(UnsafeBufferPointer<UInt8>, isScratch: Bool)
    /// Nothing now; readiness will tell.
    case nothing
    /// The peer has ended its direction.
    case ended
    /// The connection is broken.
    case broken
}

/// What became of a write.
enum WriteOutcome {
    /// Everything went out: so many bytes.
    case all(Int)
    /// So many went out, and the rest waits.
    case some(Int)
    /// The connection is broken.
    case broken
}

extension Worker {
    /// Bytes that are read at least, where a part of a message is already there.
    private static var readBytesMin: Int { 4096 }

    /// Reads what is there, once.
    @inline(__always)
    func receive(_ socket: Int32, into inbound: inout Buffer, _ state: inout SocketState) -> ReadOutcome {
        let isScratch = inbound.isEmpty
        var room = scratch
        var capacity = pool.readBytesMax
        if !isScratch {
            pool.reserve(Self.readBytesMin, in: &inbound)
            room = inbound.base.unsafelyUnwrapped + Int(inbound.end)
            capacity = Int(inbound.capacity) - Int(inbound.end)
        }
        switch Socket.receive(socket, into: room, capacity: capacity) {
        case .bytes(let count):
            // A short read means that nothing is left, unless the end is behind it.
            if count < capacity, !state.contains(.peerEnded) { state.remove(.mayRead) }
            if isScratch { return .bytes(UnsafeBufferPointer(start: room, count: count), isScratch: true) }
            inbound.end += UInt32(count)
            return .bytes(inbound.bytes, isScratch: false)
        case .wouldBlock:
            state.remove(.mayRead)
            return .nothing
        case .ended:
            state.remove(.mayRead)
            return state.contains(.isReset) ? .broken : .ended
        case .failed: return .broken
        }
    }

    /// Reads what a client has sent, in clear or by TLS.
    @inline(__always)
    func receive(_ connection: DownstreamPointer) -> ReadOutcome {
        connection.pointee.state.contains(.isTLS)
            ? receiveTLS(connection)
            : receive(connection.pointee.socket, into: &connection.pointee.inbound, &connection.pointee.state)
    }

    /// Reads what a server has sent, in clear or by TLS.
    @inline(__always)
    func receive(_ connection: UpstreamPointer) -> ReadOutcome {
        connection.pointee.state.contains(.isTLS)
            ? receiveTLS(connection)
            : receive(connection.pointee.socket, into: &connection.pointee.inbound, &connection.pointee.state)
    }

    /// Keeps what was not consumed of a read until there is more.
    func keep(
        _ input: UnsafeBufferPointer<UInt8>, from offset: Int, isScratch: Bool, in inbound: inout Buffer
    ) {
        if !isScratch {
            if offset > 0 { pool.consume(offset, of: &inbound) }
        } else if offset < input.count {
            pool.append(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: input[offset...])), to: &inbound)
        }
    }

    /// Adds bytes to what this turn has collected for a client, and makes room first if there is none. They stay where they
    /// are until they are flushed.
    @inline(__always)
    func collect(_ bytes: UnsafeBufferPointer<UInt8>, for connection: DownstreamPointer) {
        guard let base = bytes.baseAddress, !downstreamGather.append(base, count: bytes.count) else { return }
        flush(connection)
        let fits = downstreamGather.append(base, count: bytes.count)
        precondition(fits, "an empty gather takes bytes however many")
    }

    /// The same for a server.
    @inline(__always)
    func collect(_ bytes: UnsafeBufferPointer<UInt8>, for connection: UpstreamPointer) {
        guard let base = bytes.baseAddress, !upstreamGather.append(base, count: bytes.count) else { return }
        flush(connection)
        let fits = upstreamGather.append(base, count: bytes.count)
        precondition(fits, "an empty gather takes bytes however many")
    }

    /// Writes what a turn has collected, behind what waits already.
    @inline(__always)
    func send(
        _ gather: Gather, to socket: Int32, _ outbound: inout Outbound, _ state: inout SocketState
    ) -> WriteOutcome {
        var sent = 0
        if outbound.isEmpty, state.contains(.mayWrite) {
            switch gather.send(to: socket) {
            case .bytes(let count):
                sent = count
                if sent == gather.byteCount { return .all(sent) }
            case .wouldBlock: break
            case .ended: preconditionFailure("a write finds no end")
            case .failed(let number):
                noteBreak(number, &state)
                return .broken
            }
            state.remove(.mayWrite)
        }
        gather.copy(skipping: sent, to: &outbound.buffer, of: pool)
        return .some(sent)
    }

    /// Writes what waits.
    func sendWaiting(to socket: Int32, _ outbound: inout Outbound, _ state: inout SocketState) -> WriteOutcome {
        var sent = 0
        if !outbound.piped.isEmpty {
            switch pipes.send(&outbound.piped, to: socket) {
            case .bytes(let count): sent = count
            case .wouldBlock, .ended: break
            case .failed(let number):
                noteBreak(number, &state)
                release(&outbound)
                return .broken
            }
            if !outbound.piped.isEmpty {
                state.remove(.mayWrite)
                return .some(sent)
            }
        }
        let bytes = outbound.buffer.bytes
        guard let base = bytes.baseAddress else { return .all(sent) }
        switch Socket.send(socket, base, count: bytes.count) {
        case .bytes(let count):
            sent += count
            pool.consume(count, of: &outbound.buffer)
            if outbound.isEmpty { return .all(sent) }
            state.remove(.mayWrite)
            return .some(sent)
        case .wouldBlock:
            state.remove(.mayWrite)
            return .some(sent)
        case .ended:
            preconditionFailure("a write finds no end")
        case .failed(let number):
            noteBreak(number, &state)
            release(&outbound)
            return .broken
        }
    }

    /// Takes note of what a write was told.
    func noteBreak(_ number: Int32, _ state: inout SocketState) {
        if Socket.isReset(number) { state.insert(.isReset) }
    }

    /// Throws away what waits.
    @inline(__always)
    func release(_ outbound: inout Outbound) {
        pool.release(&outbound.buffer)
        if !outbound.piped.isEmpty { pipes.discard(&outbound.piped) }
    }
}
