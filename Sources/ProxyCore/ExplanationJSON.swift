// An explanation for programs: one JSON object (RFC 8259). Durations are milliseconds, sizes bytes; what is off or not
// known is null.

import HTTPSemantics
import ProxyConfiguration

extension Explanation {
    /// The whole, for programs.
    public var json: String {
        JSONValue.object([
            ("request", .string(String(decoding: request.bytes, as: UTF8.self))),
            ("client", .object([("address", .string(client)), ("trusted", .bool(clientIsTrusted))])),
            (
                "listener",
                .object([
                    ("name", .string(listener.name)), ("binds", JSONValue(listener.binds.map(\.endpoint.text))),
                    ("chosen_by", .string(listenerChoice.rawValue)),
                ])
            ),
            ("route", routeJSON), ("upstream", upstreamJSON), ("outcome", outcomeJSON),
            ("stand_ins", JSONValue(standIns)),
            (
                "conduct",
                .object(
                    conduct.map { row in
                        (row.subject.lowercased().split(separator: " ").joined(separator: "_"), .string(row.text))
                    })
            ),
            ("limits", .array(limits.map(\.json))), ("timers", .array(timers.map(\.json))),
            ("may_hold_back", JSONValue(mayHoldBack)),
        ]).text()
    }

    private var routeJSON: JSONValue {
        guard let matched else { return .null }
        let action: String
        switch matched.route.action {
        case .upstream: action = "upstream"
        case .respond: action = "respond"
        case .redirect: action = "redirect"
        case .dial: action = "dial"
        }
        return .object([
            ("name", .string(matched.route.name)), ("hosts", JSONValue(matched.hosts)), ("action", .string(action)),
            ("file", .string(matched.route.location.file)), ("line", .integer(matched.route.location.line)),
            ("column", .integer(matched.route.location.column)),
            ("retries", .integer(matched.route.forwarding.retriesMax)),
        ])
    }

    private var upstreamJSON: JSONValue {
        guard let upstream = matched?.upstream else { return .null }
        return .object([
            ("name", .string(upstream.name)),
            (
                "servers",
                .array(
                    upstream.servers.map { server in
                        .object([
                            ("address", .string(server.endpoint.text)), ("weight", .integer(server.weight)),
                            ("max_exchanges", JSONValue(server.exchangesMax)),
                            ("family", .string(server.family.rawValue)),
                        ])
                    })
            ),
            ("protocol", .string(upstream.protocolVersion.rawValue)),
            ("balance", .string(upstream.balance.rawValue)),
            (
                "keepalive",
                .object([
                    ("connections", .integer(upstream.keepalive.connectionsMax)),
                    ("idle_milliseconds", JSONValue(upstream.keepalive.idleMilliseconds)),
                    ("requests", JSONValue(upstream.keepalive.requestsMax)),
                    ("age_milliseconds", JSONValue(upstream.keepalive.ageMilliseconds)),
                ])
            ),
        ])
    }

    private var outcomeJSON: JSONValue {
        switch outcome {
        case .forwarded: .object([("kind", .string("forwarded")), ("head", .string(outcomeText))])
        case .dialled:
            .object([("kind", .string("dialled")), ("status", .integer(200)), ("response", .string(outcomeText))])
        case .answered(let status, _):
            .object([
                ("kind", .string("answered")), ("status", .integer(Int(status))), ("response", .string(outcomeText)),
            ])
        case .refused(let failure, let fault, _):
            .object([
                ("kind", .string("refused")), ("status", .integer(Int(failure.status(fault)))),
                ("reason", .string(failure.logName.description)),
                ("proxy_status_error", .string(failure.proxyStatusError(fault).description)),
                ("details", .string(failure.explanation(fault).description)), ("response", .string(outcomeText)),
            ])
        }
    }
}

extension ExplainedLimit {
    fileprivate var json: JSONValue {
        .object([
            ("name", .string(name)), ("max", JSONValue(max)), ("unit", .string(unit.rawValue)),
            ("used", JSONValue(used)), ("beyond", .string(beyond)), ("status", JSONValue(status.map(Int.init))),
        ])
    }
}

extension ExplainedTimer {
    fileprivate var json: JSONValue {
        var milliseconds: Int?
        var total: Int?
        var rate: Int?
        switch value {
        case .off: break
        case .milliseconds(let time): milliseconds = time
        case .idleAndTotalMilliseconds(let idle, let all): (milliseconds, total) = (idle, all)
        case .bytesPerSecond(let bytes): rate = bytes
        }
        var members: [(String, JSONValue)] = [("name", .string(name)), ("milliseconds", JSONValue(milliseconds))]
        if let total { members.append(("total_milliseconds", .integer(total))) }
        if let rate { members.append(("bytes_per_second", .integer(rate))) }
        members += [
            ("phase", .string(phase)), ("expiry", .string(expiry)), ("status", JSONValue(status.map(Int.init))),
        ]
        return .object(members)
    }
}
