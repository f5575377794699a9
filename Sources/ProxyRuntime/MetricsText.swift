// The metrics in the text format of Prometheus, version 0.0.4. Written by the admin thread whenever somebody asks:
// strings are made here and nowhere else. Every series is there from the start, with 0, so that a first event counts.

import EventLoop
import HTTP2
import HTTPSemantics
import ProxyCore

/// See the head of the file.
struct MetricsText {
    private var text = ""
    private let shared: SharedState
    private let metrics: ProxyMetrics
    private let reading: RouteReading
    private let facts: Standing.Facts

    /// The media type.
    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    private typealias Labels = [(name: String, value: String)]

    private enum Kind: String {
        case counter
        case gauge
        case histogram
    }

    /// All of it, at this moment.
    static func write(_ shared: SharedState) -> String {
        var writer = MetricsText(shared)
        writer.writeRequests()
        writer.writeDurations()
        writer.writeConnections()
        writer.writeServers()
        writer.writeFailures()
        writer.writeHTTP2()
        writer.writeTLS()
        writer.writeConfiguration()
        writer.writeProcess()
        return writer.text
    }

    private init(_ shared: SharedState) {
        self.shared = shared
        metrics = shared.metrics
        // What ended comes first: see `gauge`.
        reading = metrics.readRoutes()
        facts = shared.standing.facts
    }

    // MARK: Groups

    private mutating func writeRequests() {
        let codes = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
        begin("headfirst_requests_total", .counter, "Exchanges that ended, by the class of the final status.")
        for (entry, cells) in reading.routes {
            for (cell, code) in codes.enumerated() {
                let labels = Self.labels(entry) + [("upstream", entry.upstream), ("code", code)]
                line("headfirst_requests_total", labels, cells[cell])
            }
        }
        let sizes = [
            (
                "headfirst_request_content_bytes_total", RouteCells.requestBytes,
                "Content of requests, and bytes that clients sent through tunnels, of exchanges that ended."
            ),
            (
                "headfirst_response_content_bytes_total", RouteCells.responseBytes,
                "Content of servers' responses, and bytes that servers sent through tunnels, of exchanges that ended."
            ),
        ]
        for (name, cell, help) in sizes {
            begin(name, .counter, help)
            for (entry, cells) in reading.routes { line(name, Self.labels(entry), cells[cell]) }
        }
    }

    private mutating func writeDurations() {
        let phases = [
            ("headfirst_head_seconds", RouteCells.head, "From a request's head to the server's final response head."),
            (
                "headfirst_first_content_seconds", RouteCells.firstContent,
                "From a request's head to the server's first content."
            ),
            ("headfirst_exchange_seconds", RouteCells.exchange, "From a request's head to the end of its exchange."),
        ]
        for (name, first, help) in phases {
            begin(name, .histogram, help)
            for (entry, cells) in reading.routes where entry.hasServer || first == RouteCells.exchange {
                histogram(name, Self.labels(entry), cells[first...].prefix(Histogram.cellCount))
            }
        }
        begin(
            "headfirst_held_heads_total", .counter,
            "Heads that came together with the first content, after more than half a second of silence.")
        for (entry, cells) in reading.routes where entry.hasServer {
            line("headfirst_held_heads_total", Self.labels(entry), cells[RouteCells.heldHeads])
        }
        let name = "headfirst_hold_seconds"
        begin(name, .histogram, "From when a server's final head was there until it was written to the client.")
        for (listener, cells) in reading.holds { histogram(name, [("listener", listener)], cells[...]) }
    }

    private mutating func writeConnections() {
        let downstream = metrics.gauge(.connectionsAccepted, less: [.connectionsClosed])
        let upstream = metrics.gauge(.upstreamConnects, less: [.upstreamClosed])
        let idle = metrics.gauge(.idlePushed, less: [.idleClosed, .upstreamReuses])
        begin("headfirst_connections", .gauge, "Open connections.")
        line("headfirst_connections", [("side", "downstream")], downstream)
        line("headfirst_connections", [("side", "upstream")], upstream)
        single("headfirst_idle_upstream_connections", .gauge, "Connections to servers that wait for a request.", idle)
        single(
            "headfirst_exchanges", .gauge, "Running exchanges, tunnels among them.",
            metrics.exchanges(endedAre: reading.exchangesEnded))
        for (name, help, read) in [
            ("headfirst_streams", "Responses of no declared length that are being relayed.", RouteReading.streams),
            ("headfirst_tunnels", "Open tunnels.", RouteReading.tunnels),
        ] {
            begin(name, .gauge, help)
            for (entry, cells) in reading.routes where entry.hasServer { line(name, Self.labels(entry), read(cells)) }
        }
        single(
            "headfirst_connections_accepted_total", .counter, "Connections of clients that were accepted.",
            metrics.sum { $0.value(.connectionsAccepted) })
        single(
            "headfirst_proxy_header_refused_total", .counter,
            "Connections that were closed because they did not begin with a PROXY header.",
            metrics.sum { $0.value(.proxyHeadersRefused) })
        single(
            "headfirst_upstream_connects_total", .counter, "Connections to servers that were begun.",
            metrics.sum { $0.value(.upstreamConnects) })
        single(
            "headfirst_upstream_reuses_total", .counter,
            "Requests that went out on a connection that had served before.",
            metrics.sum { $0.value(.upstreamReuses) })
    }

    private mutating func writeServers() {
        guard let generation = facts.generation else { return }
        let lines = generation.configuration.upstreams.flatMap { upstream in
            upstream.servers.map { line in
                let server = generation.server(ServerIdentity(line, of: upstream))
                return (labels: [("upstream", upstream.name), ("server", server.identity.description)], server: server)
            }
        }
        begin("headfirst_server_up", .gauge, "1 if the server has an address and the last try to connect did not fail.")
        for (labels, server) in lines { line("headfirst_server_up", labels, server.failure == nil ? 1 : 0) }
        begin("headfirst_server_connections", .gauge, "Open connections to the server, idle ones among them.")
        for (labels, server) in lines { line("headfirst_server_connections", labels, server.openConnections) }
        begin("headfirst_server_connects_total", .counter, "Connections to the server that were begun.")
        for (labels, server) in lines {
            line("headfirst_server_connects_total", labels, server.connects.load(ordering: .relaxed))
        }
        begin("headfirst_server_connect_failures_total", .counter, "Connections to the server that could not be made.")
        for (labels, server) in lines {
            line("headfirst_server_connect_failures_total", labels, server.connectFailures.load(ordering: .relaxed))
        }
    }

    private mutating func writeConfiguration() {
        begin("headfirst_reloads_total", .counter, "How often the configuration was read again.")
        line("headfirst_reloads_total", [("result", "done")], facts.reloadsDone)
        line("headfirst_reloads_total", [("result", "failed")], facts.reloadsFailed)
        single(
            "headfirst_last_reload_successful", .gauge, "0 if the last reload failed.", facts.lastError == nil ? 1 : 0)
        single(
            "headfirst_configuration_generation", .gauge, "The number of the configuration in force, from 1.",
            UInt64(facts.generation?.number ?? 0))
        begin(
            "headfirst_configuration_taken_seconds", .gauge,
            "When that configuration came into force, in seconds since 1970.")
        text += "headfirst_configuration_taken_seconds \(Self.seconds(facts.takenWallMicroseconds))\n"
    }

    private mutating func writeFailures() {
        single(
            "headfirst_retries_total", .counter, "Further tries of requests.", metrics.sum { $0.value(.retries) })
        begin(
            "headfirst_failures_total", .counter,
            "Exchanges that did not end as they should, by the access log's reason.")
        for failure in Failure.allCases {
            line(
                "headfirst_failures_total", [("reason", "\(failure.logName)")], metrics.sum { $0.value(failure) })
        }
        begin("headfirst_refused_total", .counter, "Requests that were refused, by what is wrong with them.")
        // These are no faults of requests.
        for fault in HeadFault.allCases where ![.status, .section, .proxyHeader].contains(fault) {
            line("headfirst_refused_total", [("reason", Self.snakeCase("\(fault)"))], metrics.sum { $0.value(fault) })
        }
        single(
            "headfirst_access_log_lost_total", .counter, "Records of the access log that were lost.",
            UInt64(clamping: shared.records.count))
    }

    private mutating func writeHTTP2() {
        single(
            "headfirst_http2_connections_total", .counter, "Connections of clients that spoke HTTP/2.",
            metrics.sum { $0.value(.http2Connections) })
        single(
            "headfirst_http2_streams_total", .counter, "Requests in HTTP/2, each a stream.",
            metrics.sum { $0.value(.http2Streams) })
        begin(
            "headfirst_http2_floods_total", .counter,
            "Connections that were ended because of a flood, by what it was of.")
        for kind in FloodKind.allCases {
            line(
                "headfirst_http2_floods_total", [("kind", Self.snakeCase("\(kind)"))],
                metrics.sum { $0.value(kind) })
        }
    }

    private mutating func writeTLS() {
        let results: [(String, WorkerCounter)] = [
            ("full", .handshakesFull), ("resumed", .handshakesResumed), ("failed", .handshakesFailed),
        ]
        begin("headfirst_tls_handshakes_total", .counter, "TLS handshakes with clients that ended.")
        for (result, counter) in results {
            line("headfirst_tls_handshakes_total", [("result", result)], metrics.sum { $0.value(counter) })
        }
        let reloads = metrics.certificateReloads
        begin("headfirst_certificate_reloads_total", .counter, "How often certificates were read again.")
        line("headfirst_certificate_reloads_total", [("result", "done")], reloads.done)
        line("headfirst_certificate_reloads_total", [("result", "failed")], reloads.failed)
        let name = "headfirst_tls_certificate_not_after_seconds"
        begin(name, .gauge, "When a certificate in use ends, in seconds since 1970.")
        for end in metrics.certificates {
            let labels = Self.text([("listener", end.listener), ("name", end.name)])
            text += "\(name)\(labels) \(end.notAfterSeconds)\n"
        }
    }

    private mutating func writeProcess() {
        begin("headfirst_build_info", .gauge, "1, with the version.")
        line("headfirst_build_info", [("version", Proxy.version)], 1)
        begin("process_start_time_seconds", .gauge, "When the process started, in seconds since 1970.")
        text += "process_start_time_seconds \(Self.seconds(metrics.startWallMicroseconds))\n"
        begin("process_cpu_seconds_total", .counter, "Processor time of the process.")
        text += "process_cpu_seconds_total \(Self.seconds(Process.processorMicroseconds()))\n"
        if let bytes = Process.residentBytes() {
            single("process_resident_memory_bytes", .gauge, "Memory in use.", UInt64(bytes))
        }
        if let count = Process.openDescriptors() {
            single("process_open_fds", .gauge, "Open descriptors.", UInt64(max(0, count)))
        }
    }

    // MARK: Values

    private static func labels(_ entry: RouteNumbering.Entry) -> Labels {
        [("listener", entry.listener), ("host", entry.host), ("route", entry.route)]
    }

    // MARK: Lines

    private mutating func begin(_ name: String, _ kind: Kind, _ help: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n"
    }

    private mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: UInt64) {
        begin(name, kind, help)
        line(name, [], value)
    }

    private mutating func line(_ name: String, _ labels: Labels, _ value: UInt64) {
        text += "\(name)\(Self.text(labels)) \(value)\n"
    }

    private mutating func histogram(_ name: String, _ labels: Labels, _ cells: ArraySlice<UInt64>) {
        let reading = Histogram.Reading(Array(cells))
        for (exponent, count) in zip(Histogram.exponentsTold, reading.cumulated) {
            line("\(name)_bucket", labels + [("le", Self.seconds(1 << UInt64(exponent)))], count)
        }
        line("\(name)_bucket", labels + [("le", "+Inf")], reading.count)
        text += "\(name)_sum\(Self.text(labels)) \(Self.seconds(reading.sumMicroseconds))\n"
        line("\(name)_count", labels, reading.count)
    }

    private static func text(_ labels: Labels) -> String {
        guard !labels.isEmpty else { return "" }
        return "{" + labels.map { "\($0.name)=\"\(escaped($0.value))\"" }.joined(separator: ",") + "}"
    }

    /// `fieldName` as `field_name`.
    static func snakeCase(_ name: String) -> String {
        name.reduce(into: "") { text, letter in
            if letter.isUppercase { text += "_" }
            text += letter.lowercased()
        }
    }

    /// Backslashes, quotes and line feeds are escaped, all else stands for itself.
    static func escaped(_ value: String) -> String {
        var text = ""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\\": text += "\\\\"
            case "\"": text += "\\\""
            case "\n": text += "\\n"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }

    /// Microseconds as seconds, exactly: `0.000032`, `16.777216`, `7`.
    static func seconds(_ microseconds: UInt64) -> String {
        let fraction = microseconds % 1_000_000
        guard fraction > 0 else { return "\(microseconds / 1_000_000)" }
        var digits = String(fraction)
        digits = String(repeating: "0", count: 6 - digits.count) + digits
        while digits.last == "0" { digits.removeLast() }
        return "\(microseconds / 1_000_000).\(digits)"
    }
}
