// An explanation for people: sections of aligned rows. The request and what is sent for it stand between lines, byte for
// byte, so that they can be compared with what a capture shows.

import HTTPSemantics
import ProxyConfiguration

/// Pieces of text.
enum ExplanationText {
    /// A duration as the configuration file has it, in the largest unit that reads well.
    static func duration(_ milliseconds: Int) -> String {
        for (unit, suffix, countMin) in [(86_400_000, "d", 2), (3_600_000, "h", 1), (60_000, "m", 2), (1000, "s", 1)]
        where milliseconds % unit == 0 && milliseconds / unit >= countMin {
            return "\(milliseconds / unit)\(suffix)"
        }
        return milliseconds == 0 ? "0" : "\(milliseconds)ms"
    }

    /// A duration that may be off.
    static func duration(_ milliseconds: Int?) -> String { milliseconds.map { duration($0) } ?? "off" }

    /// A size as the configuration file has it.
    static func size(_ bytes: Int) -> String {
        for (unit, suffix) in [(1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k")] where bytes >= unit && bytes % unit == 0
        {
            return "\(bytes / unit)\(suffix)"
        }
        return "\(bytes)"
    }

    /// Rows in columns; the last column is not padded.
    static func table(_ rows: [[String]]) -> [String] {
        let columnCount = rows.map(\.count).max() ?? 0
        let widths = (0..<columnCount).map { column in
            rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
        }
        return rows.map { row in
            var line = " "
            for (column, cell) in row.enumerated() {
                line += " " + cell
                if column < row.count - 1 { line += String(repeating: " ", count: widths[column] - cell.count + 1) }
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}

extension Endpoint {
    /// As the configuration file has it.
    var text: String {
        switch self {
        case .ip(let address, let port): address.isIPv4 ? "\(address):\(port)" : "[\(address)]:\(port)"
        case .name(let name, let port): "\(name):\(port)"
        case .unix(let path): "unix:\(path)"
        case .inherited(let name): "fd:\(name)"
        }
    }
}

extension Explanation: CustomStringConvertible {
    /// The whole, for people.
    public var description: String {
        var lines = ["The request"]
        lines += Self.between(String(decoding: request.bytes, as: UTF8.self))
        lines += ["", "Where it goes"] + ExplanationText.table(destination)
        lines += ["", outcomeTitle] + Self.between(outcomeText)
        lines += standIns.map { "  \($0)." }
        lines += ["", "What becomes of it"] + ExplanationText.table(conduct.map { [$0.subject, $0.text] })
        lines += ["", "Limits"] + ExplanationText.table(limits.map { $0.row })
        lines += ["", "Timers, in the order of the phases"] + ExplanationText.table(timers.map { $0.row })
        lines += ["", "What may hold bytes back"]
        if mayHoldBack.isEmpty {
            lines.append("  Nothing: the answer is the proxy's own, head and content in one write.")
        } else {
            lines.append("  A head never waits for content, and nothing is kept that a socket takes. But:")
            lines += mayHoldBack.map { "  - \($0)" }
        }
        return lines.joined(separator: "\n")
    }

    private static func between(_ text: String) -> [String] {
        let rule = String(repeating: "-", count: 72)
        var lines = text.split(separator: "\r\n", omittingEmptySubsequences: false).map(String.init)
        // What ends in CRLF has no line behind it.
        if lines.last == "" { lines.removeLast() }
        return [rule] + lines + [rule]
    }

    /// What is between the lines of the second part.
    private var outcomeTitle: String {
        switch outcome {
        case .forwarded: "The head that goes up; lines end in CRLF, and content follows as it comes"
        case .dialled: "The answer when the connection is there; lines of the head end in CRLF"
        case .answered: "The answer; lines of the head end in CRLF"
        case .refused(let failure, let fault, _):
            "The answer, since \(failure.explanation(fault)); lines of the head end in CRLF"
        }
    }

    // MARK: Where it goes

    private var destination: [[String]] {
        var rows = [
            ["client", "\(client)\(clientIsTrusted ? ", whose forwarding fields are believed" : "")"],
            ["listener", "\(listener.name), on \(listener.binds.map(\.endpoint.text).joined(separator: " "))"],
            ["", "taken because \(listenerReason)"],
        ]
        guard let matched else {
            rows.append(["route", isReadable ? "none" : "not looked for: the request is refused before"])
            if case .refused(.noRoute, _, _) = outcome {
                rows.append(["", "the listener has: \(routeNames)"])
            }
            return rows
        }
        let route = matched.route
        if !isConnect {
            rows.append([
                "host",
                matched.hosts.isEmpty ? "any (the listener's own routes)" : matched.hosts.joined(separator: " "),
            ])
        }
        rows.append(["route", "\(route.name)  (\(route.location.text))"])
        rows.append(["action", actionText(matched)])
        guard let upstream = matched.upstream else { return rows }
        for (index, server) in upstream.servers.enumerated() {
            rows.append([index == 0 ? "servers" : "", server.text])
        }
        if upstream.protocolVersion == .http2 {
            rows.append(["protocol", "http2: the head's lines go up as fields of HTTP/2"])
        }
        rows.append(["balance", upstream.balance.rawValue])
        rows.append(["keepalive", upstream.keepalive.text])
        rows.append(["retries", "\(route.forwarding.retriesMax)"])
        return rows
    }

    private var isConnect: Bool { matched.map { $0.route.path.isEmpty } ?? false }

    private var listenerReason: String {
        switch listenerChoice {
        case .named: "it was named"
        case .address: "the URL may lead to its address"
        case .connect: "it is the first with connect"
        case .first where request.host == nil: "it is the first, and the URL names no address (--listener names one)"
        case .first: "it is the first; the URL leads to no address of any (--listener names one)"
        }
    }

    private var routeNames: String {
        let all = listener.hosts.flatMap { host in
            host.routes.map {
                host.patterns.isEmpty ? $0.name : "\(host.patterns[0])\($0.isExact ? " " : "")\($0.name)"
            }
        }
        let more = all.count > 8 ? " and \(all.count - 8) more" : ""
        return all.prefix(8).joined(separator: ", ") + more
    }

    private func actionText(_ matched: MatchedRoute) -> String {
        switch (matched.route.action, outcome) {
        case (.upstream, .refused), (.dial, .refused): "none: the request is refused before"
        case (_, .answered) where matched.upstream != nil: "none: Max-Forwards has run out, the proxy answers"
        case (.upstream, _): "upstream \(matched.upstream?.name ?? "")"
        case (.respond(let status, _), _): "respond \(status)"
        case (.redirect(let status, _), _): "redirect \(status)"
        case (.dial, _): "connects to what CONNECT asks for"
        }
    }

    // MARK: What becomes of it

    /// One thing that is done.
    struct Conduct: Equatable {
        var subject: String
        var text: String
    }

    /// What is done with the parts of the exchange.
    var conduct: [Conduct] {
        var rows = [Conduct(subject: "request content", text: contentText)]
        if goesUp, let matched {
            if case .forwarded = outcome {
                rows.append(Conduct(subject: "Expect", text: expectText))
                rows.append(Conduct(subject: "Upgrade", text: upgradeText(matched.route.forwarding)))
                rows.append(Conduct(subject: "interim responses", text: interimText(matched.route.forwarding)))
                rows.append(Conduct(subject: "response edits", text: editsText(matched.route.responseEdits)))
                rows += tries(matched.route.forwarding)
            }
            rows.append(Conduct(subject: "the client closes", text: closeText(matched.route.forwarding)))
        }
        rows.append(Conduct(subject: "afterwards", text: afterwardsText))
        return rows
    }

    private var contentText: String {
        guard isReadable else { return "not read: where it would end is not certain" }
        let what: String
        switch framing {
        case .none, .untilClose:
            return tunnelRequest == .connect || tunnelRequest == .dial ? "none; bytes of the tunnel follow" : "none"
        case .length: what = "\(contentBytes) bytes, as Content-Length says"
        case .chunked: what = "chunked, trailers included"
        }
        return goesUp ? "\(what); passed on as it comes" : "\(what); nobody takes it"
    }

    private var expectText: String {
        awaitsContinue ? "100-continue passes; the upstream's 100 or its final answer decides" : "not asked for"
    }

    private func upgradeText(_ forwarding: Forwarding) -> String {
        if tunnelRequest == .connect { return "CONNECT; the upstream's 2xx opens a tunnel" }
        guard hasUpgrade else { return "not asked for" }
        if tunnelRequest == .upgrade { return "passes; the upstream's 101 opens a tunnel, anything else is an answer" }
        switch requestedUpgrade {
        case .none: return "ignored: Connection does not name it, or it is h2c alone"
        case .webSocket, .other: return "ignored, as upgrade \(forwarding.upgrade.rawValue) says"
        }
    }

    private func interimText(_ forwarding: Forwarding) -> String {
        switch forwarding.interim {
        case .forward: "every 1xx is forwarded at once and in order"
        case .http2: "only 100 and 101 are forwarded: interim http2, and this client speaks HTTP/1.1"
        case .off: "only 100 and 101 are forwarded: interim off"
        }
    }

    private func editsText(_ edits: [FieldEdit]) -> String {
        if edits.isEmpty { return "none" }
        return edits.map { edit in
            switch edit.operation {
            case .set: "set \(edit.name)"
            case .add: "add \(edit.name)"
            case .remove: "remove \(edit.name)"
            }
        }.joined(separator: ", ")
    }

    /// docs/FORWARDING.md, rule 10.
    private func tries(_ forwarding: Forwarding) -> [Conduct] {
        let again = "again at the next server or address, up to \(forwarding.retriesMax) times"
        return [
            Conduct(
                subject: "a connect fails",
                text: forwarding.retriesMax == 0 ? "no other try (retries 0)" : "\(again) (retries)"),
            Conduct(
                subject: "a used connection ends",
                text: isIdempotent
                    ? "before any answer: once more on a fresh one, if the request is still at hand"
                    : "before any answer: once more on a fresh one, if nothing had left"),
        ]
    }

    private func closeText(_ forwarding: Forwarding) -> String {
        if case .dialled = outcome { return "an end passes through the tunnel, a reset resets the other side" }
        return switch forwarding.onClientClose {
        case .abort: "the upstream's work is ended at once (on_client_close abort)"
        case .finish: "the answer runs out unread, once the request is complete (on_client_close finish)"
        case .halfClose: "a FIN ends its requests only, what was asked is answered (on_client_close half_close)"
        }
    }

    private var afterwardsText: String {
        if case .dialled = outcome { return "both connections end with the tunnel" }
        let upstream: String
        switch (outcome, tunnelRequest) {
        case (.forwarded, .none): upstream = ""
        case (.forwarded, _): upstream = ", and the upstream's is not used again"
        case (.dialled, _), (.answered, _), (.refused, _): upstream = ""
        }
        return
            (closesDownstream
            ? "the client's connection ends with the exchange" : "the client's connection may serve another request")
            + upstream
    }
}

extension SourceLocation {
    fileprivate var text: String { "\(file):\(line):\(column)" }
}

extension Server {
    fileprivate var text: String {
        var text = endpoint.text
        if weight != 1 { text += " weight=\(weight)" }
        if let exchangesMax { text += " max_exchanges=\(exchangesMax)" }
        if family != .any { text += " family=\(family.rawValue)" }
        return text
    }
}

extension Keepalive {
    fileprivate var text: String {
        if connectionsMax == 0 { return "off" }
        return "\(connectionsMax) idle=\(ExplanationText.duration(idleMilliseconds)) requests=\(requestsMax ?? 0) "
            + "age=\(ageMilliseconds.map { ExplanationText.duration($0) } ?? "0")"
    }
}

extension ExplainedLimit {
    fileprivate var row: [String] {
        func text(_ number: Int) -> String {
            switch unit {
            case .bytes: ExplanationText.size(number)
            case .count: "\(number)"
            }
        }
        return [name, max.map { text($0) } ?? "off", used.map { "\($0) here" } ?? "", beyondText]
    }

    private var beyondText: String {
        if max == nil, status != nil { return "" }
        return max == nil ? beyond : "then \(beyond)"
    }
}

extension ExplainedTimer {
    fileprivate var row: [String] { [name, valueText, value == .off ? "" : expiry, phase] }

    private var valueText: String {
        switch value {
        case .off: "off"
        case .milliseconds(let time): ExplanationText.duration(time)
        case .idleAndTotalMilliseconds(let idle, let total):
            "\(ExplanationText.duration(idle)), at most \(ExplanationText.duration(total))"
        case .bytesPerSecond(let rate): "\(ExplanationText.size(rate))/s"
        }
    }
}
