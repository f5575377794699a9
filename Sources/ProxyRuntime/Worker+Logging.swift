// What a worker leaves for the logs: binary records and small events, never text.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyCore

extension Worker {
    /// The most that a record takes of one part of the request.
    private static var logPartBytesMax: Int { 512 }

    func writeRecord(_ exchange: ExchangePointer) {
        guard let log = hot.pointee.log else { return }
        let memo = exchange.pointee.memo
        let machine = exchange.pointee.machine
        let empty = UnsafeBufferPointer<UInt8>(start: nil, count: 0)
        let serverName: UnsafeBufferPointer<UInt8>
        if let state = exchange.pointee.upstreamState, exchange.pointee.serverIndex >= 0 {
            serverName = state.pointee.servers[exchange.pointee.serverIndex].pointee.logName
        } else {
            serverName = exchange.pointee.dial?.pointee.logName ?? empty
        }
        let listener = exchange.pointee.listener.pointee.name
        let route = exchange.pointee.route?.pointee.name ?? empty
        let upstream = exchange.pointee.route?.pointee.upstreamName ?? empty
        // A memo that was kept in full for variables may have longer parts than a record takes.
        func part(_ range: ByteRange) -> UnsafeBufferPointer<UInt8> {
            UnsafeBufferPointer(rebasing: memo.bytes(range).prefix(Self.logPartBytesMax))
        }
        let parts = (
            method: part(memo.method), target: part(memo.target), authority: part(memo.authority),
            requestID: part(memo.requestID), userAgent: part(memo.userAgent), referer: part(memo.referer),
            traceID: memo.traceparent.isEmpty ? empty : TraceContext.traceID(in: memo.bytes(memo.traceparent)) ?? empty
        )
        func length(_ bytes: UnsafeBufferPointer<UInt8>) -> UInt16 { UInt16(clamping: bytes.count) }
        let lengths = AccessRecord.StringLengths(
            method: length(parts.method), target: length(parts.target), authority: length(parts.authority),
            requestID: length(parts.requestID), userAgent: length(parts.userAgent), referer: length(parts.referer),
            traceID: length(parts.traceID), listener: length(listener), route: length(route),
            upstream: length(upstream), server: length(serverName))
        let record = AccessRecord(
            receivedWallMicroseconds: exchange.pointee.receivedWallMicroseconds, phases: machine.phases,
            endMicroseconds: nowMicroseconds, requestContentBytes: machine.requestContentBytes,
            responseContentBytes: machine.responseContentBytes + UInt64(machine.ownContentBytes),
            peer: exchange.pointee.downstream.pointee.peer.withoutTLS,
            requestID: exchange.pointee.requestID, status: machine.status, tries: machine.tries,
            isReused: exchange.pointee.reusedUpstream, version: exchange.pointee.version,
            grpcStatus: exchange.pointee.grpcStatus,
            beganTrace: parts.traceID.isEmpty && exchange.pointee.route?.pointee.requestEdits.beginsTrace ?? false,
            failure: machine.failure,
            stringBytes: lengths)
        log.ring.write(
            record,
            {
                $0.append(parts.method)
                $0.append(parts.target)
                $0.append(parts.authority)
                $0.append(parts.requestID)
                $0.append(parts.userAgent)
                $0.append(parts.referer)
                $0.append(parts.traceID)
                $0.append(listener)
                $0.append(route)
                $0.append(upstream)
                $0.append(serverName)
            }, stringBytes: lengths.total)
        log.thread.recordsCame()
    }

    func reportFailure(_ failure: Failure, status: UInt16, _ exchange: ExchangePointer) {
        report(
            PeerEvent(
                failure: failure, fault: exchange.pointee.machine.fault,
                server: exchange.pointee.upstreamState == nil || exchange.pointee.serverIndex < 0
                    ? nil
                    : exchange.pointee.upstreamState?.pointee.servers[exchange.pointee.serverIndex].pointee.shared,
                target: exchange.pointee.dial.map { String(decoding: $0.pointee.logName, as: UTF8.self) },
                detail: hot.pointee.tlsFailureText, status: status, tries: exchange.pointee.machine.tries))
    }
}

/// Something for the error log that a peer caused.
struct PeerEvent: Sendable {
    let failure: Failure
    let fault: HeadFault
    /// The server, if one was chosen.
    let server: SharedServer?
    /// What CONNECT asked for, if that was dialled.
    let target: String?
    /// What more is known of it.
    let detail: String?
    let status: UInt16
    let tries: UInt8
}
