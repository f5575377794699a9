// What a worker leaves for the logs: binary records and small events, never text.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyCore

extension Worker {
    func writeRecord(_ exchange: ExchangePointer, to ring: LogRing) {
        let memo = exchange.pointee.memo
        let machine = exchange.pointee.machine
        let empty = UnsafeBufferPointer<UInt8>(start: nil, count: 0)
        let serverName: UnsafeBufferPointer<UInt8>
        if let state = exchange.pointee.upstreamState, exchange.pointee.serverIndex >= 0 {
            serverName = state.pointee.servers[exchange.pointee.serverIndex].pointee.logName
        } else {
            serverName = empty
        }
        let listener = exchange.pointee.listener.pointee.name
        let route = exchange.pointee.route?.pointee.name ?? empty
        let upstream = exchange.pointee.route?.pointee.upstreamName ?? empty
        func length(_ bytes: Int) -> UInt16 { UInt16(clamping: bytes) }
        let lengths = AccessRecord.StringLengths(
            method: length(Int(memo.method.count)), target: length(Int(memo.target.count)),
            authority: length(Int(memo.authority.count)), requestID: length(Int(memo.requestID.count)),
            userAgent: length(Int(memo.userAgent.count)), referer: length(Int(memo.referer.count)),
            listener: length(listener.count), route: length(route.count), upstream: length(upstream.count),
            server: length(serverName.count))
        let record = AccessRecord(
            receivedWallMicroseconds: exchange.pointee.receivedWallMicroseconds, phases: machine.phases,
            endMicroseconds: nowMicroseconds, requestContentBytes: machine.requestContentBytes,
            responseContentBytes: machine.responseContentBytes, peer: exchange.pointee.downstream.pointee.peer,
            requestID: exchange.pointee.requestID, status: machine.status, tries: machine.tries,
            isReused: exchange.pointee.reusedUpstream, isHTTP10: exchange.pointee.isHTTP10, failure: machine.failure,
            stringBytes: lengths)
        let memoBytes = exchange.pointee.memo.block.bytes
        let count = memoBytes.count + listener.count + route.count + upstream.count + serverName.count
        // The memo's parts lie in its block in the order of the record's strings.
        let wasEmpty = ring.write(
            record,
            {
                $0.append(memoBytes)
                $0.append(listener)
                $0.append(route)
                $0.append(upstream)
                $0.append(serverName)
            }, stringBytes: count)
        if wasEmpty { shared.accessLog?.recordsCame() }
    }

    func reportFailure(_ failure: Failure, _ exchange: ExchangePointer) {
        report(
            PeerEvent(
                failure: failure, fault: exchange.pointee.machine.fault,
                server: exchange.pointee.upstreamState == nil || exchange.pointee.serverIndex < 0
                    ? nil : exchange.pointee.upstreamState?.pointee.servers[exchange.pointee.serverIndex].pointee.index,
                status: exchange.pointee.machine.status, tries: exchange.pointee.machine.tries))
    }
}

/// Something for the error log that a peer caused.
struct PeerEvent: Sendable {
    let failure: Failure
    let fault: HeadFault
    /// The server's index in the table of servers, if one was chosen.
    let server: Int?
    let status: UInt16
    let tries: UInt8
}
