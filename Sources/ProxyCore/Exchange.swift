// One request with its responses, in any HTTP version: what follows from what happened. No I/O, no bytes, no time
// but the timestamps it is given. Flat machines side by side:
//
//   request side     receiving -> ended | discarding | failed;  discarding -> ended | failed
//   response side    awaitingHead -> relaying | ended | failed;  relaying -> ended | failed
//   tunnel           behind a 101 that was asked for, or a 2xx to CONNECT, two directions: none -> open -> draining -> ended, or open -> ended
//   attachment       none (answered here); seeking -> attached | seeking (another server) | detached;
//                    attached -> seeking (another try) | detached
//
// One function for each event, named in the past tense; each returns what to do on either side. An exchange is
// over when the action is one of `finish`, `finishAndClose`, `truncate`, `reset` and `close`; nothing may be told to it then.

import HTTPSemantics
import ProxyConfiguration

/// What to do towards the client.
public enum DownstreamAction: UInt8, Sendable {
    /// Nothing.
    case none
    /// Write the interim head that is in the scratch.
    case forwardInterim
    /// Write the final head that is in the scratch.
    case forwardHead
    /// Write the content.
    case forwardContent
    /// Write the response's end; the request's content still comes, and the exchange goes on for it.
    case endResponse
    /// Write the response's end, if it was not yet; the exchange is over and the next request may come.
    case finish
    /// Write the response's end, if it was not yet, then end the connection, reading what still comes for a while.
    case finishAndClose
    /// Tunnels: answer 2xx to CONNECT ourselves; from now on bytes pass.
    case acceptTunnel
    /// Answer with an error of our own (`failure`); the exchange goes on until that is done.
    case refuse
    /// End the connection so that the client sees the response is not whole. The exchange is over.
    case truncate
    /// Close; nobody listens. The exchange is over.
    case close
    /// Tunnels: end our direction.
    case endSending
    /// Tunnels: close by a reset. The exchange is over.
    case reset
}

/// What to do towards the upstream.
public enum UpstreamAction: UInt8, Sendable {
    /// Nothing.
    case none
    /// Write the request's head, and from now on its content.
    case sendRequest
    /// Write the content.
    case forwardContent
    /// Write the request's end.
    case endRequest
    /// Write the request's end; the connection is free for another exchange.
    case endRequestAndRelease
    /// The connection is free for another exchange.
    case release
    /// Close the connection, or give up looking for one: the server has to see that nobody waits any more.
    case close
    /// Tunnels: end our direction.
    case endSending
    /// Tunnels: close by a reset.
    case reset
    /// Close the connection and look for another, on which the request is sent again from its first byte.
    case retry
}

/// What an event leads to.
public struct Actions: Equatable, Sendable {
    /// Towards the client.
    public var downstream: DownstreamAction
    /// Towards the upstream.
    public var upstream: UpstreamAction

    /// Actions; nothing where nothing is said.
    public init(_ downstream: DownstreamAction = .none, _ upstream: UpstreamAction = .none) {
        self.downstream = downstream
        self.upstream = upstream
    }
}

/// When the phases of an exchange were reached, in microseconds of the monotonic clock; 0 is never.
public struct ExchangePhases: Sendable {
    /// The request's head was received.
    public var requestHead: UInt64 = 0
    /// The last byte of the request was received.
    public var requestEnd: UInt64 = 0
    /// A connection to the upstream was there.
    public var upstreamAttached: UInt64 = 0
    /// The first interim head was received.
    public var firstInterim: UInt64 = 0
    /// The final head was received.
    public var responseHead: UInt64 = 0
    /// The first byte of content was received.
    public var firstContent: UInt64 = 0
}

/// The machine. Trivial.
public struct Exchange: Sendable {
    /// The request's content.
    public enum RequestSide: UInt8, Sendable {
        /// More of it is to come, and the upstream gets it.
        case receiving
        /// More of it is to come, and nobody wants it.
        case discarding
        /// All of it was received.
        case ended
        /// It broke off.
        case failed
    }

    /// The response.
    public enum ResponseSide: UInt8, Sendable {
        /// No final head yet.
        case awaitingHead
        /// The head is written, the content follows.
        case relaying
        /// It is complete.
        case ended
        /// It broke off.
        case failed
    }

    /// The way to a server.
    public enum Attachment: UInt8, Sendable {
        /// None is needed.
        case none
        /// One is looked for: a place in the queue, an address, a connection.
        case seeking
        /// A connection serves this exchange.
        case attached
        /// It did, and does not any more.
        case detached
    }

    /// What was asked for that may end in a tunnel.
    public enum TunnelRequest: UInt8, Sendable {
        /// Nothing.
        case none
        /// Another protocol, by Upgrade; a 101 opens the tunnel.
        case upgrade
        /// CONNECT, which a server answers; its 2xx opens the tunnel.
        case connect
        /// CONNECT, which we answer as soon as there is a connection.
        case dial
    }

    /// One direction of a tunnel.
    public enum TunnelDirection: UInt8, Sendable {
        /// There is no tunnel.
        case none
        /// Bytes pass.
        case open
        /// The sender has ended; what waits is still delivered.
        case draining
        /// The end was passed on.
        case ended
    }

    /// One end of a tunnel.
    public enum TunnelEnd: UInt8, Sendable {
        /// The client.
        case client
        /// The server.
        case server
    }

    /// Where the request's content stands.
    public private(set) var requestSide: RequestSide
    /// Where the response stands.
    public private(set) var responseSide: ResponseSide = .awaitingHead
    /// Where the way to a server stands.
    public private(set) var attachment: Attachment = .none

    /// What the client asked for that may end in a tunnel, if it may.
    public let tunnelRequest: TunnelRequest
    /// What the client sends through the tunnel.
    public private(set) var upward = TunnelDirection.none
    /// What the server sends through the tunnel.
    public private(set) var downward = TunnelDirection.none

    /// Rules of the route.
    public let interim: InterimPolicy
    /// What a client's close means.
    public let onClientClose: ClientClosePolicy
    private let isIdempotent: Bool
    private let isHTTP10: Bool
    private let retriesMax: UInt8
    private let contentBytesMax: UInt64

    /// Whether the client's connection ends with this exchange.
    public private(set) var closesDownstream: Bool
    /// Whether the client waits for a 100 before it sends content.
    public private(set) var awaitsContinue: Bool
    /// Whether every byte of the request that was sent upstream is still at hand, to be sent again.
    public var isReplayable = true
    private var isReused = false
    private var responseHasBegun = false
    private var staleRetried = false
    /// Servers tried, this one included.
    public private(set) var tries: UInt8 = 0
    /// The final status sent to the client; 0 before.
    public private(set) var status: UInt16 = 0
    /// What went wrong, if something did: the termination reason.
    public private(set) var failure: Failure?
    /// What was wrong with the message, where `failure` is about one.
    public private(set) var fault: HeadFault = .startLine

    /// Interim heads received, in bytes, over all.
    public private(set) var interimBytes: UInt32 = 0
    /// Content of the request received from the client, in bytes.
    public private(set) var requestContentBytes: UInt64 = 0
    /// Content of the response received from the upstream, in bytes.
    public private(set) var responseContentBytes: UInt64 = 0
    /// Content of an answer of our own, in bytes.
    public private(set) var ownContentBytes: UInt32 = 0
    /// When things happened.
    public var phases = ExchangePhases()

    /// How many bytes of interim heads one exchange may have.
    public static var interimBytesMax: UInt32 { 256 << 10 }

    /// A request's head was received.
    /// - Parameters:
    ///   - head: the scratch that holds it.
    ///   - forwarding: the rules of the route it goes to.
    ///   - mayPersist: whether the client's connection may serve more requests; false while draining.
    ///   - dials: whether a CONNECT is answered by us.
    ///   - now: microseconds.
    public init(
        requestHeadReceived head: Head, forwarding: Forwarding, mayPersist: Bool, dials: Bool = false, now: UInt64
    ) {
        let storage = head.storage
        tunnelRequest =
            storage.pointee.facts.contains(.mayOpenTunnel)
            ? Self.tunnelRequest(of: head, forwarding.upgrade, dials: dials) : .none
        requestSide = storage.pointee.framing == .none ? .ended : .receiving
        interim = forwarding.interim
        onClientClose = forwarding.onClientClose
        isIdempotent = storage.pointee.method.isIdempotent
        isHTTP10 = storage.pointee.facts.contains(.isHTTP10)
        retriesMax = UInt8(clamping: forwarding.retriesMax)
        contentBytesMax = forwarding.contentBytesMax.map(UInt64.init) ?? .max
        closesDownstream = !mayPersist || !head.isPersistent
        awaitsContinue = storage.pointee.facts.contains(.expectsContinue)
        phases.requestHead = now
        if requestSide == .ended { phases.requestEnd = now }
        switch tunnelRequest {
        case .none, .upgrade: break
        // What stands behind a CONNECT is the tunnel's: after a refusal nobody could tell it from a request.
        case .connect, .dial: closesDownstream = true
        }
    }

    @inline(never)
    private static func tunnelRequest(of head: Head, _ policy: UpgradePolicy, dials: Bool) -> TunnelRequest {
        if head.storage.pointee.method == .connect { return dials ? .dial : .connect }
        return mayUpgrade(head.requestedUpgrade, policy) ? .upgrade : .none
    }

    private static func mayUpgrade(_ requested: RequestedUpgrade, _ policy: UpgradePolicy) -> Bool {
        switch (requested, policy) {
        case (.none, _), (_, .off), (.other, .websocket): false
        case (.webSocket, .any), (.webSocket, .websocket), (.other, .any): true
        }
    }

    // MARK: What the runtime asks

    /// Whether the client asked to switch protocols and may.
    public var wantsUpgrade: Bool { tunnelRequest == .upgrade }

    /// Whether bytes pass without being looked at.
    public var isTunnel: Bool { upward != .none }

    /// Whether one direction of the tunnel has ended.
    public var isHalfClosed: Bool { upward != downward || upward == .draining }

    /// Whether request content is wanted from the client now.
    public var wantsRequestContent: Bool {
        switch requestSide {
        case .receiving: attachment == .attached
        case .discarding: true
        case .ended, .failed: false
        }
    }

    /// Whether the final head was written, by the upstream's word or ours.
    public var hasAnswered: Bool { responseSide != .awaitingHead }

    /// Whether a connection that was idle before may take this request.
    public func mayReuse(idleMilliseconds: UInt64) -> Bool {
        !staleRetried && (isIdempotent || idleMilliseconds < 1000)
    }

    /// Whether a declared length is more than the route allows.
    public func exceedsContentMax(_ length: UInt64) -> Bool { length > contentBytesMax }

    // MARK: Events of the upstream's side

    /// The route leads to an upstream.
    public mutating func upstreamSought() {
        precondition(attachment == .none, "sought twice")
        attachment = .seeking
        tries = 1
    }

    /// A connection is there.
    /// - Parameter isReused: whether it served another exchange before.
    public mutating func upstreamAttached(isReused: Bool, now: UInt64) -> Actions {
        precondition(attachment == .seeking, "attached without seeking")
        attachment = .attached
        self.isReused = isReused
        phases.upstreamAttached = now
        guard tunnelRequest == .dial else { return Actions(.none, .sendRequest) }
        openTunnel()
        responseSide = .relaying
        status = 200
        phases.responseHead = now
        return Actions(.acceptTunnel)
    }

    private mutating func openTunnel() {
        upward = .open
        downward = .open
        closesDownstream = true
    }

    /// A byte of a response came: from now on the server has begun to answer.
    public mutating func responseBytesReceived() {
        responseHasBegun = true
        isReplayable = false
    }

    /// An interim response's head was received (RFC 9110 section 15.2).
    /// - Parameter isToHTTP2: whether the client speaks HTTP/2.
    public mutating func interimReceived(
        status: UInt16, bytes: Int, isToHTTP2: Bool = false, now: UInt64
    ) -> Actions {
        guard responseSide == .awaitingHead else { return failUpstream(.responseRefused) }
        interimBytes += UInt32(clamping: bytes)
        if interimBytes > Self.interimBytesMax { return failUpstream(.tooManyInterim) }
        if phases.firstInterim == 0 { phases.firstInterim = now }
        if status == 100 { awaitsContinue = false }
        // A 100 is part of the request's handshake: it is asked for, so no policy holds it back.
        let isWanted = interim == .forward || (interim == .http2 && isToHTTP2) || status == 100
        return Actions(isHTTP10 || !isWanted ? .none : .forwardInterim)
    }

    /// The final response's head was received.
    /// - Parameters:
    ///   - head: the scratch that holds it.
    ///   - now: microseconds.
    public mutating func responseHeadReceived(_ head: Head, now: UInt64) -> Actions {
        precondition(responseSide == .awaitingHead, "two final heads")
        if head.storage.pointee.status == 101 {
            guard wantsUpgrade, requestSide == .ended else { return failUpstream(.unexpectedSwitch) }
            openTunnel()
        } else if tunnelRequest == .connect, head.storage.pointee.status < 300 {
            openTunnel()
        }
        responseSide = .relaying
        status = head.storage.pointee.status
        phases.responseHead = now
        switch head.storage.pointee.framing {
        case .none, .length: break
        case .chunked, .untilClose:
            // An HTTP/1.0 client learns the end by the close.
            if isHTTP10 { closesDownstream = true }
        }
        // The server will not read the rest of the request, so the client cannot send it.
        if requestSide == .receiving, !head.isPersistent || awaitsContinue { closesDownstream = true }
        return Actions(.forwardHead)
    }

    /// Content of the response was received.
    public mutating func responseContentReceived(_ bytes: Int, now: UInt64) -> Actions {
        if phases.firstContent == 0 { phases.firstContent = now }
        responseContentBytes += UInt64(bytes)
        return Actions(.forwardContent)
    }

    /// The response is complete.
    /// - Parameter isReusable: whether the upstream's connection may serve another exchange.
    public mutating func responseEnded(isReusable: Bool) -> Actions {
        precondition(responseSide == .relaying, "ended before its head")
        responseSide = .ended
        switch requestSide {
        case .ended:
            attachment = .detached
            // A connection that might have become a tunnel is not used again.
            return Actions(finishing, isReusable && tunnelRequest == .none ? .release : .close)
        case .receiving:
            // The upload goes on while the server reads; a server that closes does not.
            if isReusable, !awaitsContinue { return Actions(.endResponse) }
            requestSide = .discarding
            closesDownstream = true
            attachment = .detached
            return Actions(.finishAndClose, .close)
        case .discarding, .failed:
            attachment = .detached
            closesDownstream = true
            return Actions(.finishAndClose, .close)
        }
    }

    private var finishing: DownstreamAction { closesDownstream ? .finishAndClose : .finish }

    /// The upstream's connection failed, or none could be had.
    /// - Parameters:
    ///   - cause: why.
    ///   - nothingSent: whether not one byte of the request left on this connection.
    ///   - hasAlternative: whether there is a server or an address that was not tried yet.
    ///   - fault: what was wrong with the message, if that was it.
    public mutating func upstreamFailed(
        _ cause: Failure, nothingSent: Bool = false, hasAlternative: Bool = true, fault: HeadFault = .startLine
    ) -> Actions {
        self.fault = fault
        let mayRetry = mayRetry(cause, nothingSent: nothingSent, hasAlternative: hasAlternative)
        if responseSide == .awaitingHead, mayRetry {
            attachment = .seeking
            tries += 1
            return Actions(.none, .retry)
        }
        return failUpstream(cause)
    }

    /// What may have been processed is never replayed.
    private mutating func mayRetry(_ cause: Failure, nothingSent: Bool, hasAlternative: Bool) -> Bool {
        guard isReplayable, !responseHasBegun, requestSide != .failed else { return false }
        if cause.isBeforeRequest { return hasAlternative && tries <= retriesMax }
        guard cause == .closedBeforeResponse, isReused, !staleRetried, isIdempotent || nothingSent else { return false }
        staleRetried = true
        return true
    }

    private mutating func failUpstream(_ cause: Failure) -> Actions {
        failure = cause
        attachment = .detached
        switch responseSide {
        case .awaitingHead:
            return Actions(refuse(), .close)
        case .relaying:
            responseSide = .failed
            closesDownstream = true
            return Actions(.truncate, .close)
        case .ended:
            // The response was whole; the rest of the upload has nowhere to go.
            failure = nil
            requestSide = .discarding
            closesDownstream = true
            return Actions(.finishAndClose, .close)
        case .failed:
            return Actions(.close, .close)
        }
    }

    // MARK: Events of the client's side

    /// Content of the request was received.
    public mutating func requestContentReceived(_ bytes: Int) -> Actions {
        requestContentBytes += UInt64(bytes)
        awaitsContinue = false
        switch requestSide {
        case .receiving:
            if requestContentBytes > contentBytesMax { return refuseRequest(.requestContentTooLong) }
            return Actions(.none, .forwardContent)
        case .discarding, .ended, .failed:
            return Actions()
        }
    }

    /// The request is complete.
    public mutating func requestEnded(now: UInt64) -> Actions {
        phases.requestEnd = now
        switch requestSide {
        case .receiving:
            requestSide = .ended
            guard responseSide == .ended else { return Actions(.none, .endRequest) }
            attachment = .detached
            return Actions(finishing, .endRequestAndRelease)
        case .discarding:
            requestSide = .ended
            return Actions(responseSide == .ended ? finishing : .none)
        case .ended, .failed:
            return Actions()
        }
    }

    /// The request's content breaks a rule.
    public mutating func requestFailed(_ fault: HeadFault) -> Actions {
        self.fault = fault
        return refuseRequest(.requestRefused)
    }

    /// A timer of the client's side is over.
    public mutating func requestTimedOut(_ cause: Failure) -> Actions { refuseRequest(cause) }

    private mutating func refuseRequest(_ cause: Failure) -> Actions {
        let upstream: UpstreamAction = attachment == .attached || attachment == .seeking ? .close : .none
        if attachment != .none { attachment = .detached }
        requestSide = .failed
        switch responseSide {
        case .awaitingHead:
            failure = cause
            return Actions(refuse(), upstream)
        case .relaying:
            failure = cause
            responseSide = .failed
            closesDownstream = true
            return Actions(.truncate, upstream)
        case .ended:
            closesDownstream = true
            return Actions(.finishAndClose, upstream)
        case .failed:
            return Actions(.close, upstream)
        }
    }

    /// The client takes nothing any more, or the process ends: the exchange cannot go on.
    public mutating func abandoned(_ cause: Failure) -> Actions {
        let upstream: UpstreamAction = attachment == .attached || attachment == .seeking ? .close : .none
        if attachment != .none { attachment = .detached }
        if failure == nil { failure = cause }
        requestSide = .failed
        if responseSide == .awaitingHead, cause == .shutDown { return Actions(refuse(), upstream) }
        if responseSide != .ended { responseSide = .failed }
        closesDownstream = true
        return Actions(responseSide == .ended ? .close : .truncate, upstream)
    }

    /// The client ended its direction while an answer is owed.
    /// - Parameter requestIsHere: whether the request is complete, though some of it was not passed on yet.
    public mutating func clientEnded(requestIsHere: Bool = false) -> Actions {
        switch onClientClose {
        case .abort: return clientGone()
        case .finish, .halfClose:
            // What was asked is answered. A request that is cut short by the end was not asked.
            return requestSide == .ended || requestIsHere ? Actions() : clientGone()
        }
    }

    /// The client's connection is broken.
    /// - Parameter requestIsHere: as for `clientEnded`.
    /// - Returns: under `finish` nothing: the answer runs out unread.
    public mutating func clientReset(requestIsHere: Bool = false) -> Actions {
        closesDownstream = true
        if onClientClose == .finish, requestSide == .ended || requestIsHere { return Actions() }
        return clientGone()
    }

    private mutating func clientGone() -> Actions {
        let upstream: UpstreamAction = attachment == .attached || attachment == .seeking ? .close : .none
        if attachment != .none { attachment = .detached }
        if responseSide != .ended {
            failure = .clientGone
            responseSide = .failed
        }
        requestSide = .failed
        return Actions(.close, upstream)
    }

    /// No request is to follow on this connection: the process drains.
    public mutating func connectionDrained() { closesDownstream = true }

    // MARK: Tunnels

    /// Bytes came out of one end.
    public mutating func tunnelBytesReceived(_ bytes: Int, from end: TunnelEnd, now: UInt64) {
        switch end {
        case .client: requestContentBytes += UInt64(bytes)
        case .server:
            if phases.firstContent == 0 { phases.firstContent = now }
            responseContentBytes += UInt64(bytes)
        }
    }

    /// One end sends no more; the other direction lives on.
    /// - Parameter nothingWaits: whether everything it sent was written to the other end.
    public mutating func tunnelInputEnded(_ end: TunnelEnd, nothingWaits: Bool) -> Actions {
        switch end {
        case .client:
            precondition(upward == .open, "a direction ended twice")
            upward = nothingWaits ? .ended : .draining
            return nothingWaits ? tunnelDirectionEnded(Actions(.none, .endSending)) : Actions()
        case .server:
            precondition(downward == .open, "a direction ended twice")
            downward = nothingWaits ? .ended : .draining
            return nothingWaits ? tunnelDirectionEnded(Actions(.endSending)) : Actions()
        }
    }

    /// Everything that waited was written to one end.
    public mutating func tunnelDelivered(to end: TunnelEnd) -> Actions {
        switch end {
        case .client:
            guard downward == .draining else { return Actions() }
            downward = .ended
            return tunnelDirectionEnded(Actions(.endSending))
        case .server:
            guard upward == .draining else { return Actions() }
            upward = .ended
            return tunnelDirectionEnded(Actions(.none, .endSending))
        }
    }

    private mutating func tunnelDirectionEnded(_ actions: Actions) -> Actions {
        guard upward == .ended, downward == .ended else { return actions }
        responseSide = .ended
        attachment = .detached
        return Actions(.close, .close)
    }

    /// One end is broken: the other must see that, too.
    public mutating func tunnelBroke(_ end: TunnelEnd) -> Actions {
        attachment = .detached
        responseSide = .failed
        switch end {
        case .client:
            failure = .clientGone
            return Actions(.close, .reset)
        case .server:
            failure = .tunnelReset
            return Actions(.reset, .close)
        }
    }

    /// Nothing passed for too long.
    public mutating func tunnelTimedOut() -> Actions {
        attachment = .detached
        responseSide = .failed
        failure = .tunnelTimedOut
        return Actions(.close, .close)
    }

    // MARK: Answers of our own

    /// The exchange is refused before a server was sought: by the route or by a limit.
    public mutating func refused(_ cause: Failure, fault: HeadFault = .startLine) -> Actions {
        precondition(responseSide == .awaitingHead, "refused after an answer")
        failure = cause
        self.fault = fault
        return Actions(refuse())
    }

    private mutating func refuse() -> DownstreamAction {
        switch failure {
        case .requestRefused, .requestHeadTimedOut, .requestContentTimedOut, .requestContentTooLong:
            // Where the message ends is not known, or not worth waiting for.
            closesDownstream = true
        default: break
        }
        return .refuse
    }

    /// An answer of our own is about to be written. Decides whether the connection can go on: the rest of a request
    /// that nobody wants is read only if it is short and was not held back for a 100.
    /// - Parameter requestContentRemaining: declared bytes still to come; nil if nobody knows.
    public mutating func localAnswerBegan(status: UInt16, requestContentRemaining: UInt64?) {
        self.status = status
        responseSide = .relaying
        switch requestSide {
        case .ended: break
        case .failed: closesDownstream = true
        case .receiving, .discarding:
            requestSide = .discarding
            if awaitsContinue || (requestContentRemaining ?? .max) > 64 << 10 { closesDownstream = true }
        }
    }

    /// The answer of our own is written.
    /// - Parameter contentBytes: how much content it has.
    public mutating func localAnswerEnded(contentBytes: Int = 0) -> Actions {
        responseSide = .ended
        ownContentBytes = UInt32(clamping: contentBytes)
        if closesDownstream { return Actions(.finishAndClose) }
        return Actions(requestSide == .ended ? .finish : .endResponse)
    }
}
