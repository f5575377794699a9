// The status as JSON: what `/status` answers and what the page's events carry. It has the same figures as the metrics, for
// people and small scripts; histograms are told by cell, so that who watches can take differences.

import EventLoop
import ProxyConfiguration
import ProxyCore

/// See the head of the file.
struct StatusDocument {
    private let shared: SharedState
    private let reading: RouteReading
    private let facts: Standing.Facts
    private let isDraining: Bool

    /// The document, at this moment.
    static func make(_ shared: SharedState, isDraining: Bool) -> JSONValue {
        StatusDocument(shared: shared, isDraining: isDraining).value
    }

    private init(shared: SharedState, isDraining: Bool) {
        self.shared = shared
        self.isDraining = isDraining
        // What ended is read before what began.
        reading = shared.metrics.readRoutes()
        facts = shared.standing.facts
    }

    private var value: JSONValue {
        let metrics = shared.metrics
        return .object([
            ("version", .string(Proxy.version)), ("node", .string(shared.nodeName)),
            ("time_seconds", Self.seconds(Clock.wallMicroseconds())),
            ("start_seconds", Self.seconds(metrics.startWallMicroseconds)),
            ("state", .string(isDraining ? "draining" : "running")), ("workers", .integer(shared.workerCount)),
            ("configuration", configuration), ("process", process), ("connections", connections),
            ("exchanges", Self.count(metrics.exchanges(endedAre: reading.exchangesEnded))),
            ("streams", Self.count(reading.routes.reduce(0) { $0 + RouteReading.streams($1.cells) })),
            ("tunnels", Self.count(reading.routes.reduce(0) { $0 + RouteReading.tunnels($1.cells) })),
            (
                "histogram_bounds_seconds",
                .array((Histogram.exponentMin...Histogram.exponentMax).map { Self.seconds(1 << UInt64($0)) })
            ),
            ("listeners", .array(listeners)), ("routes", .array(reading.routes.map(route))),
            ("upstreams", .array(upstreams)),
            (
                "failures",
                .object(
                    Failure.allCases.map { failure in
                        ("\(failure.logName)", Self.count(metrics.sum { $0.value(failure) }))
                    })
            ),
            (
                "certificates",
                .array(
                    metrics.certificates.map { end in
                        .object([
                            ("listener", .string(end.listener)), ("name", .string(end.name)),
                            ("not_after_seconds", .number("\(end.notAfterSeconds)")),
                        ])
                    })
            ),
            ("retries_total", Self.count(metrics.sum { $0.value(.retries) })),
            ("access_log_lost", .integer(shared.records.count)),
        ])
    }

    private var configuration: JSONValue {
        .object([
            ("generation", JSONValue(facts.generation?.number)),
            ("taken_seconds", Self.seconds(facts.takenWallMicroseconds)),
            ("reloads_done", Self.count(facts.reloadsDone)), ("reloads_failed", Self.count(facts.reloadsFailed)),
            ("last_error", JSONValue(facts.lastError)),
        ])
    }

    private var process: JSONValue {
        .object([
            ("cpu_seconds", Self.seconds(Process.processorMicroseconds())),
            ("resident_bytes", JSONValue(Process.residentBytes())),
            ("descriptors", JSONValue(Process.openDescriptors())),
            ("descriptors_max", .integer(shared.descriptorsMax)),
        ])
    }

    private var connections: JSONValue {
        let metrics = shared.metrics
        return .object([
            ("downstream", Self.count(metrics.gauge(.connectionsAccepted, less: [.connectionsClosed]))),
            ("downstream_max", .integer(shared.connectionsMax)),
            ("upstream", Self.count(metrics.gauge(.upstreamConnects, less: [.upstreamClosed]))),
            ("idle_upstream", Self.count(metrics.gauge(.idlePushed, less: [.idleClosed, .upstreamReuses]))),
            ("accepted_total", Self.count(metrics.sum { $0.value(.connectionsAccepted) })),
        ])
    }

    private var listeners: [JSONValue] {
        let names = facts.generation?.configuration.listeners.map(\.name) ?? []
        return reading.holds.map { name, cells in
            let addresses = names.firstIndex(of: name).map { facts.addresses[$0] } ?? []
            return .object([
                ("name", .string(name)), ("addresses", JSONValue(addresses)), ("hold", Self.histogram(cells[...])),
            ])
        }
    }

    private func route(_ route: RouteReading.Route) -> JSONValue {
        let (entry, cells) = route
        let codes = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
        return .object([
            ("listener", .string(entry.listener)), ("host", .string(entry.host)), ("route", .string(entry.route)),
            ("upstream", .string(entry.upstream)), ("has_server", .bool(entry.hasServer)),
            ("requests", .object(codes.enumerated().map { ($1, Self.count(cells[$0])) })),
            ("request_bytes", Self.count(cells[RouteCells.requestBytes])),
            ("response_bytes", Self.count(cells[RouteCells.responseBytes])),
            ("streams", Self.count(RouteReading.streams(cells))),
            ("tunnels", Self.count(RouteReading.tunnels(cells))),
            ("held_heads", Self.count(cells[RouteCells.heldHeads])),
            ("head", entry.hasServer ? Self.histogram(cells[RouteCells.head...]) : .null),
            ("first_content", entry.hasServer ? Self.histogram(cells[RouteCells.firstContent...]) : .null),
            ("exchange", Self.histogram(cells[RouteCells.exchange...])),
        ])
    }

    private var upstreams: [JSONValue] {
        guard let generation = facts.generation else { return [] }
        return generation.configuration.upstreams.map { upstream in
            .object([
                ("name", .string(upstream.name)),
                (
                    "servers",
                    .array(
                        upstream.servers.map { server(generation.server(ServerIdentity($0, of: upstream))) })
                ),
            ])
        }
    }

    private func server(_ server: SharedServer) -> JSONValue {
        let failure = server.failure
        return .object([
            ("address", .string(server.identity.description)), ("up", .bool(failure == nil)),
            ("reason", JSONValue(failure.map { "\($0.logName)" })),
            ("connections", Self.count(server.openConnections)),
            ("connects_total", Self.count(server.connects.load(ordering: .relaxed))),
            ("connect_failures_total", Self.count(server.connectFailures.load(ordering: .relaxed))),
        ])
    }

    // MARK: Values

    private static func histogram(_ cells: ArraySlice<UInt64>) -> JSONValue {
        let first = cells.startIndex
        return .object([
            ("sum_seconds", seconds(cells[first + Histogram.bucketCount])),
            ("buckets", .array(cells.prefix(Histogram.bucketCount).map(count))),
        ])
    }

    private static func count(_ value: UInt64) -> JSONValue { .number("\(value)") }

    private static func seconds(_ microseconds: UInt64) -> JSONValue { .number(MetricsText.seconds(microseconds)) }
}
