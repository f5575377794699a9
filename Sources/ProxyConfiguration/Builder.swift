// The tree -> the model. Blocks are walked from the outside in, each with its parent's settings; upstreams come before
// listeners, since routes take the upstream side's settings from them. Mistakes are reported and building goes on: a
// model with mistakes is dropped at the end.

import HTTPSemantics

struct Builder {
    let diagnostics: Diagnostics
    let folder: String

    private var upstreams: [Upstream] = []
    private var upstreamSettings: [UpstreamSettings] = []
    private var upstreamIsUsed: [Bool] = []
    private var upstreamIndices: [String: Int] = [:]
    /// Where an address is bound, over all listeners.
    private var bindPlaces: [Endpoint: Place] = [:]

    init(diagnostics: Diagnostics, folder: String) {
        self.diagnostics = diagnostics
        self.folder = folder
    }

    func scope(_ statements: [Statement], _ context: Context) -> Scope {
        Scope(statements, in: context, diagnostics: diagnostics, folder: folder)
    }

    mutating func configuration(from statements: [Statement]) -> Configuration {
        let top = scope(statements, .top)
        let settings = top.settings(from: .defaults)
        checkLimits(settings, in: top)
        let upstreamEntries = named(top.entries(named: "upstream"))
        for (name, entry) in upstreamEntries { addUpstream(name, entry, outer: settings) }
        let listeners = named(top.entries(named: "listener")).map { name, entry in
            listener(name, entry, outer: settings)
        }
        let admin = admin(in: top)
        if !top.has("listener") {
            let start = Place(source: 0, offset: 0, line: 1, column: 1)
            diagnostics.error(at: start, "there is no listener; nothing could be asked of this proxy")
        }
        for (index, (name, entry)) in upstreamEntries.enumerated() where !upstreamIsUsed[index] {
            diagnostics.warning(at: entry.place, "the upstream \(quoted(name)) is used by no route")
        }
        return Configuration(
            workers: settings.workers, accessLog: settings.accessLog, errorLog: settings.errorLog,
            shutdownGraceMilliseconds: settings.shutdownGraceMilliseconds,
            drainDelayMilliseconds: admin == nil ? 0 : settings.drainDelayMilliseconds, resolver: settings.resolver,
            connectionsMax: settings.connectionsMax, relayBufferBytes: settings.relayBufferBytes,
            bufferMemory: settings.bufferMemory, admin: admin, upstreams: upstreams, listeners: listeners)
    }

    /// Blocks with their names. One whose name is wrong or taken is kept, so that what is in it gets looked at.
    private func named(_ entries: [Entry]) -> [(String, Entry)] {
        var places: [String: Place] = [:]
        return entries.map { entry in
            guard let name = entry.arguments.value(0, Value.name) else { return ("", entry) }
            if let first = places[name] {
                let place = diagnostics.location(first).text
                diagnostics.error(
                    at: entry.statement.arguments[0],
                    "a second \(entry.directive.name) \(quoted(name)); first at \(place)")
            } else {
                places[name] = entry.place
            }
            return (name, entry)
        }
    }

    /// `request_target_max` is a part of `request_head_max`. Reported at the last of the two
    /// in this block; a block with neither inherits what was reported already.
    private func checkLimits(_ settings: Settings, in scope: Scope) {
        let limits = settings.limits
        guard limits.targetBytesMax > limits.headBytesMax else { return }
        let names = ["request_target_max", "request_head_max"]
        guard let entry = scope.entries.last(where: { names.contains($0.directive.name) }) else { return }
        let target = Value.sizeText(limits.targetBytesMax)
        let head = Value.sizeText(limits.headBytesMax)
        diagnostics.error(
            at: entry.statement.name, "request_target_max (\(target)) is larger than request_head_max (\(head))")
    }

    // MARK: - Upstreams

    private mutating func addUpstream(_ name: String, _ entry: Entry, outer: Settings) {
        let scope = scope(entry.block, .upstream)
        let settings = scope.settings(from: outer).upstream
        if !scope.has("server") {
            diagnostics.error(at: entry.place, "the upstream \(quoted(name)) has no server")
        }
        var servers: [Server] = []
        var places: [Endpoint: Place] = [:]
        for entry in scope.entries(named: "server") {
            guard let server = server(entry.arguments) else { continue }
            if let first = places[server.endpoint] {
                let place = diagnostics.location(first).text
                diagnostics.error(at: entry.statement.arguments[0], "this server is here twice; first at \(place)")
                continue
            }
            places[server.endpoint] = entry.place
            servers.append(server)
        }
        if upstreamIndices[name] == nil { upstreamIndices[name] = upstreams.count }
        upstreams.append(
            Upstream(
                name: name, servers: servers, balance: settings.balance, keepalive: settings.keepalive,
                queueTimeoutMilliseconds: settings.queueTimeoutMilliseconds,
                protocolVersion: settings.protocolVersion,
                tls: upstreamTLS(in: scope, servers: servers)))
        upstreamSettings.append(settings)
        upstreamIsUsed.append(false)
    }

    private func server(_ arguments: Arguments) -> Server? {
        let endpoint = arguments.value { text throws(Problem) in try Value.server(text, folder: folder) }
        let weight = arguments.option("weight") { text throws(Problem) in try Value.count(text, in: 1...1000) }
        let exchangesMax = arguments.option("max_exchanges") { text throws(Problem) in
            try Value.count(text, in: 1...1_000_000)
        }
        let family = arguments.option("family") { text throws(Problem) -> AddressFamily in
            switch endpoint {
            case .name, nil: break
            case .ip, .unix, .inherited:
                throw Problem("\"family\" is for the names of servers; this one is an address")
            }
            return try Value.choice(text)
        }
        return endpoint.map {
            Server(endpoint: $0, weight: weight ?? 1, exchangesMax: exchangesMax, family: family ?? .any)
        }
    }

    // MARK: - Listeners

    private mutating func listener(_ name: String, _ entry: Entry, outer: Settings) -> Listener {
        let scope = scope(entry.block, .listener)
        let settings = scope.settings(from: outer)
        checkLimits(settings, in: scope)
        if !scope.has("bind") {
            diagnostics.error(at: entry.place, "the listener \(quoted(name)) has no bind")
        }
        if !scope.has("route"), !scope.has("host"), !scope.has("connect") {
            diagnostics.error(at: entry.place, "the listener \(quoted(name)) has no route")
        }
        let edits = FieldEdits(scope, diagnostics: diagnostics)
        var hosts: [VirtualHost] = []
        var hostPlaces: [String: Place] = [:]
        for entry in scope.entries(named: "host") {
            hosts.append(host(entry, places: &hostPlaces, settings: settings, edits: edits))
        }
        if scope.has("route") {
            hosts.append(VirtualHost(patterns: [], routes: routes(in: scope, settings: settings, edits: edits)))
        }
        let connectRoutes = scope.entries(named: "connect").compactMap { connect($0, settings: settings, edits: edits) }
        return Listener(
            name: name, binds: scope.entries(named: "bind").compactMap { bind($0) },
            trustedProxies: settings.trustedProxies, limits: settings.limits, timers: settings.downstreamTimers,
            via: settings.via, errorFormat: settings.errorFormat, http2: settings.http2,
            tls: serverTLS(in: scope, listener: name, entry),
            connect: connectRoutes.first, hosts: hosts)
    }

    mutating func bind(_ entry: Entry) -> Bind? {
        let arguments = entry.arguments
        let endpoint = arguments.value { text throws(Problem) in try Value.bind(text, folder: folder) }
        let backlog = arguments.option("backlog") { text throws(Problem) in try Value.count(text, in: 1...65535) }
        let isTLS = arguments.has(flag: "tls")
        guard let endpoint else { return nil }
        // Port 0 is another port each time.
        let isAnyPort = if case .ip(_, port: 0) = endpoint { true } else { false }
        if let first = bindPlaces[endpoint], !isAnyPort {
            let place = diagnostics.location(first).text
            diagnostics.error(at: entry.statement.arguments[0], "this address is bound twice; first at \(place)")
        } else {
            bindPlaces[endpoint] = entry.place
        }
        return Bind(
            endpoint: endpoint, isTLS: isTLS, hasProxyHeaders: arguments.has(flag: "proxy_protocol"),
            backlog: backlog ?? 4096, location: diagnostics.location(entry.place))
    }

    private mutating func host(
        _ entry: Entry, places: inout [String: Place], settings: Settings, edits: FieldEdits
    ) -> VirtualHost {
        var patterns: [String] = []
        for word in entry.arguments.words {
            guard let pattern = entry.arguments.value(of: word, Value.hostPattern) else { continue }
            if let first = places[pattern] {
                let place = diagnostics.location(first).text
                diagnostics.error(at: word, "the host \(quoted(pattern)) is in this listener twice; first at \(place)")
            } else {
                places[pattern] = word.place
                patterns.append(pattern)
            }
        }
        let scope = scope(entry.block, .host)
        if !scope.has("route") { diagnostics.error(at: entry.place, "this host has no route") }
        let inner = edits.followed(by: FieldEdits(scope, diagnostics: diagnostics))
        return VirtualHost(
            patterns: patterns, routes: routes(in: scope, settings: scope.settings(from: settings), edits: inner))
    }

    // MARK: - Routes

    /// Where CONNECT goes.
    private mutating func connect(_ entry: Entry, settings: Settings, edits: FieldEdits) -> Route? {
        let arguments = entry.arguments
        let action: RouteAction?
        switch arguments.text(of: arguments.words[0]) {
        case "upstream":
            if let superfluous = arguments.words.dropFirst(2).first {
                diagnostics.error(at: superfluous, "CONNECT goes to one upstream")
            }
            action = upstream(arguments, at: 1)
        case "allow":
            let words = arguments.words.dropFirst()
            let targets = words.compactMap { arguments.value(of: $0, Value.connectTarget) }
            action = targets.count == words.count ? .dial(targets) : nil
        case let text:
            if let text {
                diagnostics.error(at: arguments.words[0], "expected upstream or allow, not \(quoted(text))")
            }
            action = nil
        }
        guard let action else { return nil }
        var settings = settings
        if case .upstream(let index) = action { settings.upstream = upstreamSettings[index] }
        return Route(
            name: "connect", path: "", isExact: false, action: action, requestEdits: edits.request,
            responseEdits: edits.response, forwarding: Forwarding(settings), timers: settings.upstream.timers,
            location: diagnostics.location(entry.place))
    }

    private mutating func routes(in scope: Scope, settings: Settings, edits: FieldEdits) -> [Route] {
        var routes: [Route] = []
        var places: [String: Place] = [:]
        for entry in scope.entries(named: "route") {
            let route = route(entry, settings: settings, edits: edits)
            guard let route else { continue }
            if let first = places[route.name] {
                let place = diagnostics.location(first).text
                diagnostics.error(at: entry.place, "the route \(quoted(route.name)) is here twice; first at \(place)")
            } else {
                places[route.name] = entry.place
            }
            routes.append(route)
        }
        return routes
    }

    private mutating func route(_ entry: Entry, settings outer: Settings, edits: FieldEdits) -> Route? {
        let words = entry.arguments.words
        var path: String?
        let isExact = words.count == 2
        if isExact, let sign = words.first, let text = entry.arguments.text(of: sign), text != "=" {
            diagnostics.error(
                at: sign, "expected \"=\" before the path, not \(quoted(text)); write: \(entry.directive.usage)")
        } else if let last = words.last, words.count <= 2 {
            path = entry.arguments.value(of: last, Value.path)
        }
        let scope = scope(entry.block, .route)
        let action = action(of: scope, route: entry)
        var settings = outer
        if case .upstream(let index)? = action { settings.upstream = upstreamSettings[index] }
        settings = scope.settings(from: settings)
        let edits = edits.followed(by: FieldEdits(scope, diagnostics: diagnostics))
        guard let path, let action else { return nil }
        return Route(
            name: isExact ? "= " + path : path, path: path, isExact: isExact, action: action,
            requestEdits: edits.request, responseEdits: edits.response,
            forwarding: Forwarding(settings),
            timers: settings.upstream.timers, location: diagnostics.location(entry.place))
    }

    /// The one action of a route; nil, with a report, if there is none that can be used.
    private mutating func action(of scope: Scope, route: Entry) -> RouteAction? {
        let names = ["upstream", "respond", "redirect"].filter { scope.has($0) }
        guard !names.isEmpty else {
            diagnostics.error(at: route.place, "this route does nothing; give it an upstream, a respond or a redirect")
            return nil
        }
        let actions = scope.entries.filter { names.contains($0.directive.name) }
        if let second = actions.dropFirst().first {
            let place = diagnostics.location(actions[0].place).text
            diagnostics.error(
                at: second.place,
                "a route does one thing: \(quoted(second.directive.name)) stands beside the "
                    + "\(quoted(actions[0].directive.name)) at \(place)")
        }
        // The others are read too, for their mistakes.
        return actions.map { read(action: $0.arguments) }.first ?? nil
    }

    private mutating func read(action arguments: Arguments) -> RouteAction? {
        switch arguments.directive.name {
        case "upstream": return upstream(arguments, at: 0)
        case "respond": return respond(arguments)
        default: return redirect(arguments)
        }
    }

    private mutating func upstream(_ arguments: Arguments, at position: Int) -> RouteAction? {
        guard let name = arguments.value(position, Value.name) else { return nil }
        guard let index = upstreamIndices[name] else {
            let meant = diagnostics.isFull ? nil : nearest(to: name, among: upstreams.lazy.map(\.name))
            diagnostics.error(
                at: arguments.statement.arguments[position], "there is no upstream \(quoted(name))" + suggestion(meant)
            )
            // What was probably meant is not unused.
            if let meant, let index = upstreamIndices[meant] { upstreamIsUsed[index] = true }
            return nil
        }
        upstreamIsUsed[index] = true
        return .upstream(index)
    }

    private func respond(_ arguments: Arguments) -> RouteAction? {
        let status = arguments.value { text throws(Problem) in try Value.count(text, in: 200...599) }
        guard arguments.words.count == 2 else {
            return status.map { .respond(status: $0, text: Template(segments: [])) }
        }
        let text = arguments.template(1)
        // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
        if let status, [204, 205, 304].contains(status) {
            diagnostics.error(at: arguments.statement.arguments[1], "a \(status) response has no content")
            return nil
        }
        guard let status, let text else { return nil }
        return .respond(status: status, text: text)
    }

    private func redirect(_ arguments: Arguments) -> RouteAction? {
        let status = arguments.value { text throws(Problem) -> Int in
            guard let status = Int(text), [301, 302, 303, 307, 308].contains(status) else {
                throw Problem("expected 301, 302, 303, 307 or 308, not \(quoted(text))")
            }
            return status
        }
        let location = arguments.template(1) { byte in
            (0x21...0x7E).contains(byte) ? nil : "a URL is ASCII without spaces; write other bytes like %20"
        }
        guard let status, let location else { return nil }
        guard !location.segments.isEmpty else {
            diagnostics.error(at: arguments.statement.arguments[1], "the URL is empty")
            return nil
        }
        return .redirect(status: status, location: location)
    }
}

extension Forwarding {
    /// The rules in force in a block.
    fileprivate init(_ settings: Settings) {
        self.init(
            interim: settings.interim, onClientClose: settings.onClientClose,
            contentBytesMax: settings.contentBytesMax, errorFormat: settings.errorFormat,
            retriesMax: settings.upstream.retriesMax, responseHeadBytesMax: settings.upstream.responseHeadBytesMax,
            upgrade: settings.upgrade, traceparent: settings.traceparent)
    }
}
