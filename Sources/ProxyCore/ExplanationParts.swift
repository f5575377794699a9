// What bounds a request that is explained: limits, timers in the order of the phases, and what may make bytes wait. Each
// stands here if it would run or be looked at for this very request. What follows when one is reached is read from
// `Failure`, the one table.

import HTTPSemantics
import ProxyConfiguration

/// A bound.
public struct ExplainedLimit: Equatable, Sendable {
    /// What is counted.
    public enum Unit: String, Equatable, Sendable {
        /// Bytes.
        case bytes
        /// Pieces.
        case count
    }
    /// The directive; `fixed: ...` for what has none.
    public var name: String
    /// The bound; nil is off.
    public var max: Int?
    /// What is counted.
    public var unit: Unit
    /// What the request has of it, if that is known.
    public var used: Int?
    /// What follows beyond it.
    public var beyond: String
    /// The status that answers it, if one does.
    public var status: UInt16?
}

/// A timer.
public struct ExplainedTimer: Equatable, Sendable {
    /// How long, or how fast.
    public enum Value: Equatable, Sendable {
        /// It does not run.
        case off
        /// So long.
        case milliseconds(Int)
        /// So long since the last progress, and so long in all.
        case idleAndTotalMilliseconds(Int, Int)
        /// So fast.
        case bytesPerSecond(Int)
    }
    /// The directive; `fixed: ...` for what has none.
    public var name: String
    /// How long.
    public var value: Value
    /// While what.
    public var phase: String
    /// What follows when it is over.
    public var expiry: String
    /// The status that answers it, if one does.
    public var status: UInt16?
}

extension ExplainedTimer {
    fileprivate init(_ name: String, _ milliseconds: Int?, _ phase: String, _ expiry: String) {
        self.init(name: name, value: Value(milliseconds), phase: phase, expiry: expiry, status: nil)
    }

    /// A timer whose end is answered as the failure is.
    fileprivate init(_ name: String, _ value: Value, _ phase: String, _ failure: Failure, _ otherwise: String = "") {
        let status = failure.status(.startLine)
        self.init(
            name: name, value: value, phase: phase,
            expiry: "\(status) \(ReasonPhrase.of(status))\(otherwise)", status: status)
    }
}

extension ExplainedTimer.Value {
    fileprivate init(_ milliseconds: Int?) { self = milliseconds.map { .milliseconds($0) } ?? .off }
}

extension Explanation {
    /// Whether a server or a target of CONNECT takes part.
    var goesUp: Bool {
        switch outcome {
        case .forwarded, .dialled: true
        case .answered, .refused: false
        }
    }

    /// Whether a request may find every server at its bound.
    var mayQueue: Bool { matched?.upstream?.servers.allSatisfy { $0.exchangesMax != nil } ?? false }

    /// Whether the request was read to its end and understood.
    var isReadable: Bool {
        if case .refused(.requestRefused, _, _) = outcome { return false }
        return true
    }

    // MARK: Limits

    func explainLimits(_ configuration: Configuration) -> [ExplainedLimit] {
        func refusal(_ failure: Failure, _ fault: HeadFault = .startLine) -> (String, UInt16) {
            let status = failure.status(fault)
            return ("\(status) \(ReasonPhrase.of(status))", status)
        }
        func limit(
            _ name: String, _ max: Int?, _ unit: ExplainedLimit.Unit, used: Int?, _ refusal: (String, UInt16)
        ) -> ExplainedLimit {
            ExplainedLimit(name: name, max: max, unit: unit, used: used, beyond: refusal.0, status: refusal.1)
        }
        let own = listener.limits
        var found = [
            ExplainedLimit(
                name: "max_connections", max: configuration.connectionsMax, unit: .count, used: nil,
                beyond: configuration.connectionsMax == nil
                    ? "half of the process's descriptors; then accepting pauses" : "accepting pauses", status: nil),
            limit(
                "request_head_max", own.headBytesMax, .bytes, used: request.bytes.count,
                refusal(.requestRefused, .headTooLong)),
            limit(
                "request_target_max", own.targetBytesMax, .bytes, used: isReadable ? targetBytes : nil,
                refusal(.requestRefused, .targetTooLong)),
            limit(
                "fields_max", own.fieldsMax, .count, used: isReadable ? fieldCount : nil,
                refusal(.requestRefused, .tooManyFields)),
        ]
        guard let matched else { return found }
        if framing != .none {
            found.append(
                limit(
                    "content_max", matched.route.forwarding.contentBytesMax, .bytes,
                    used: framing == .length ? Int(clamping: contentBytes) : nil, refusal(.requestContentTooLong)))
        }
        guard goesUp else { return found }
        found.append(
            ExplainedLimit(
                name: "relay_buffer", max: configuration.relayBufferBytes, unit: .bytes, used: nil,
                beyond: "reading from the faster side pauses", status: nil))
        guard let upstream = matched.upstream else { return found }
        for server in upstream.servers where server.exchangesMax != nil {
            found.append(
                ExplainedLimit(
                    name: "max_exchanges of \(server.endpoint.text)", max: server.exchangesMax, unit: .count, used: nil,
                    beyond: upstream.servers.count > 1 ? "another server, or the queue" : "the queue", status: nil))
        }
        found.append(
            limit(
                "response_head_max", matched.route.forwarding.responseHeadBytesMax, .bytes, used: nil,
                refusal(.responseHeadTooLong)))
        found.append(
            limit(
                "fixed: all interim heads", Int(Exchange.interimBytesMax), .bytes, used: nil, refusal(.tooManyInterim)))
        return found
    }

    // MARK: Timers

    func explainTimers() -> [ExplainedTimer] {
        let own = listener.timers
        let handshake = ExplainedTimer(
            "tls_handshake_timeout", own.handshakeMilliseconds,
            "from the connection's beginning to the handshake's end",
            "the connection is closed")
        var found = request.isSecure ? [handshake] : []
        found += [
            ExplainedTimer(
                "keepalive_timeout", own.keepaliveMilliseconds, "before a request's first byte",
                "the connection is closed"),
            ExplainedTimer(
                "request_head_timeout", ExplainedTimer.Value(own.requestHeadMilliseconds),
                "from the head's first byte to its last", .requestHeadTimedOut),
            ExplainedTimer(
                "request_timeout", ExplainedTimer.Value(own.requestMilliseconds), "from the head to the exchange's end",
                .requestTimedOut, ", or a visible cut"),
        ]
        if goesUp, let matched {
            found += seekingTimers(matched)
            found += requestContentTimers(own)
            found += responseTimers(matched)
        }
        found.append(
            ExplainedTimer(
                "send_idle_timeout", own.sendIdleMilliseconds, "while the client takes nothing of what waits for it",
                "a visible cut"))
        if framing != .none, isReadable, goesUp || !closesDownstream {
            found.append(
                ExplainedTimer(
                    "fixed: rest of the content", 5000, "while it still comes, and the answer is complete",
                    "the connection is closed"))
        }
        if closesDownstream, !isTunnelForSure {
            found.append(
                ExplainedTimer(
                    name: "fixed: lingering", value: .idleAndTotalMilliseconds(5000, 30_000),
                    phase: "after the answer, until the client closes, too", expiry: "the connection is closed",
                    status: nil))
        }
        return found
    }

    /// Whether nothing but a tunnel can come of it.
    private var isTunnelForSure: Bool {
        if case .dialled = outcome { return true }
        return false
    }

    private func seekingTimers(_ matched: MatchedRoute) -> [ExplainedTimer] {
        var found: [ExplainedTimer] = []
        if mayQueue, let upstream = matched.upstream {
            found.append(
                ExplainedTimer(
                    "queue_timeout", .milliseconds(upstream.queueTimeoutMilliseconds),
                    "while every server is at its max_exchanges", .queueTimedOut))
        }
        found.append(
            ExplainedTimer(
                "connect_timeout", ExplainedTimer.Value(matched.route.timers.connectMilliseconds),
                matched.upstream == nil
                    ? "for the name, if it is one, then for each connect"
                    : "for a name not yet looked up, then for each connect", .connectTimedOut))
        return found
    }

    private func requestContentTimers(_ own: DownstreamTimers) -> [ExplainedTimer] {
        guard framing != .none else { return [] }
        let phase = awaitsContinue ? "while content is wanted, after the 100" : "while content is wanted and none comes"
        return [
            ExplainedTimer(
                "request_idle_timeout", ExplainedTimer.Value(own.requestIdleMilliseconds), phase,
                .requestContentTimedOut),
            ExplainedTimer(
                "request_min_rate", own.requestBytesPerSecondMin.map { .bytesPerSecond($0) } ?? .off,
                "on the average while content is wanted, 5s of grace", .requestContentTimedOut),
        ]
    }

    private func responseTimers(_ matched: MatchedRoute) -> [ExplainedTimer] {
        let timers = matched.route.timers
        var found: [ExplainedTimer] = []
        if !isTunnelForSure {
            found.append(
                ExplainedTimer(
                    "response_head_timeout", ExplainedTimer.Value(timers.responseHeadMilliseconds),
                    "since the request was sent, its content taken, or a 1xx came", .responseHeadTimedOut))
            found.append(
                ExplainedTimer(
                    "response_idle_timeout", timers.responseIdleMilliseconds,
                    "between pieces of content; stands while the client is slow", "a visible cut"))
        }
        if tunnelRequest != .none {
            found.append(
                ExplainedTimer(
                    "tunnel_idle_timeout", timers.tunnelIdleMilliseconds, "while nothing passes through the tunnel",
                    "the tunnel is closed"))
            found.append(
                ExplainedTimer(
                    "tunnel_half_closed_timeout", timers.tunnelHalfClosedMilliseconds,
                    "the same once one direction has ended", "the tunnel is closed"))
        }
        return found
    }

    // MARK: What may hold bytes back

    func explainHolds(_ configuration: Configuration) -> [String] {
        // An answer of the proxy's own is written at once, head and content together.
        guard goesUp, let matched else { return [] }
        let forwarding = matched.route.forwarding
        var found = [
            "relay_buffer \(ExplanationText.size(configuration.relayBufferBytes)): when so much waits for the slower "
                + "side, the faster one is not read"
        ]
        if let upstream = matched.upstream {
            var waits = "the request waits for a connection, if none is idle"
            if upstream.keepalive.connectionsMax == 0 { waits = "the request waits for a connection (keepalive off)" }
            if !isIdempotent, upstream.keepalive.connectionsMax > 0 {
                waits = "\(request.method) waits for a new connection, if none was idle for less than 1s"
            }
            if upstream.servers.contains(where: { $0.hasName }) {
                waits += ", and for the server's name to be looked up"
            }
            found.append(waits)
            if mayQueue {
                found.append(
                    "max_exchanges: when every server is at its bound, the request waits in a queue, at most "
                        + ExplanationText.duration(upstream.queueTimeoutMilliseconds) + "; then 503")
            }
        }
        if awaitsContinue {
            found.append("Expect: the client keeps its content until the upstream's 100, which passes at once")
        }
        switch tunnelRequest {
        case .none: break
        case .upgrade: found.append("Upgrade: what the client sends behind the request waits for the 101")
        case .connect: found.append("CONNECT: what the client sends behind the head waits for the 2xx")
        case .dial: found.append("CONNECT: what the client sends behind the head waits for the connection")
        }
        if !isTunnelForSure {
            switch forwarding.interim {
            case .forward: break
            case .http2, .off:
                found.append(
                    "interim \(forwarding.interim.rawValue): interim responses are dropped, not delayed; but for 100 and 101"
                )
            }
            if !matched.route.responseEdits.isEmpty {
                found.append("response field edits are written with the head; they wait for no content")
            }
        }
        return found
    }
}

extension Server {
    fileprivate var hasName: Bool {
        switch endpoint {
        case .name: true
        case .ip, .unix, .inherited: false
        }
    }
}
