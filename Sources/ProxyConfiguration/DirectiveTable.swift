// The directives: the one table that both the validator and docs/CONFIGURATION.md read.

import HTTPSemantics

extension Directive {
    /// A chapter of the reference.
    struct Section: Sendable {
        let title: String
        let directives: [Directive]
    }

    /// Every directive.
    static let all: [Directive] = sections.flatMap(\.directives)

    static let sections: [Section] = [
        Section(title: "The process", directives: process),
        Section(title: "Upstreams", directives: upstreams),
        Section(title: "Listeners and routes", directives: listeners),
        Section(title: "TLS", directives: tls),
        Section(title: "The client's side", directives: clientSide),
        Section(title: "The upstream's side", directives: upstreamSide),
        Section(title: "The exchange", directives: exchange),
        Section(title: "Field edits", directives: fieldEdits),
    ]

    private static let client: [Context] = [.top, .listener]
    private static let server: [Context] = [.top, .upstream, .route]
    private static let everyExchange: [Context] = [.top, .listener, .host, .route]

    private static let process: [Directive] = [
        .optionalCount(
            "workers", [.top], 1...1024, orWord: "auto", \.workers,
            "Worker threads. `auto`: one for each CPU of the machine, or of the container's quota."),
        .setting(
            "access_log", [.top], "off|stdout|stderr|FILE [format=\(names(of: AccessLogFormat.self))]",
            default: "stdout format=combined", options: ["format"],
            "One record for each request. A FILE is appended to; a relative path starts at the main file's folder.",
            read: readAccessLog),
        .setting(
            "error_log", [.top],
            "stderr|stdout|FILE [level=\(names(of: ErrorLogLevel.self))] [format=\(names(of: ErrorLogFormat.self))]",
            default: "stderr level=info format=text", options: ["level", "format"],
            "Messages of the proxy itself, those of `level` and worse. FILE as in `access_log`.", read: readErrorLog),
        .duration(
            "shutdown_grace", [.top], default: "25s", \.shutdownGraceMilliseconds,
            "How long running exchanges may go on after SIGTERM or SIGINT, once listeners have closed."),
        .duration(
            "drain_delay", [.top], default: "5s", \.drainDelayMilliseconds,
            "How long everything is served as before after SIGTERM or SIGINT, while `/readyz` says already that no more should "
                + "be sent here. Without `admin` nobody could read that, and it is 0."),
        .structure(
            "admin", [.top], arity: 0...0, isBlock: true, repeats: false,
            "Where `/healthz`, `/readyz`, `/metrics` and `/status` are answered, and a page at `/`, for those who watch over "
                + "the process. See [OPERATING.md](OPERATING.md#watching-it)."),
        .structure(
            "bind", [.admin], "ADDRESS", arity: 1...1,
            "Where to listen for them: `IP:PORT`, `[IPv6]:PORT`, `PORT` or `*:PORT` (every IPv4 address), or `unix:PATH`. "
                + "In clear: who can connect can read."),
        .structure(
            "allow", [.admin], "NETWORK ...", arity: 1...1024,
            "Who may see `/status` and the page, besides the loopback and peers on Unix sockets: networks, or IP addresses. All "
                + "others get 403 there."),
        .structure(
            "host", [.admin], "NAME ...", arity: 1...1024,
            "Names, or IP addresses, that requests may have in Host, besides `localhost` and the addresses of `bind`: for "
                + "Prometheus, say, if it scrapes by name. All others get 421. "
                + "See [OPERATING.md](OPERATING.md#by-what-name)."),
        .setting(
            "resolver", [.top], "system|ADDRESS[:PORT] ...", default: "system", arity: 1...16,
            "Who is asked for the names of servers: the system's configuration, or these name servers in this order.",
            read: readResolver),
        .optionalCount(
            "max_connections", [.top], 1...10_000_000, orWord: "off", \.connectionsMax,
            "The most client connections in the whole process."),
        .size(
            "relay_buffer", [.top], Configuration.relayBufferRange, default: "64k", \.relayBufferBytes,
            "What may wait in memory for one direction of one exchange; a full buffer stops reading."),
        .setting(
            "buffer_memory", [.top], "auto|off|SIZE", default: "auto",
            "What bytes that wait, and TLS sessions, may take of the process's memory, from 4m. The nearer it is, the less is "
                + "read at once; beyond it new requests are answered 503. `auto`: half of the container's limit, `off` where "
                + "there is none.",
            read: readBufferMemory),
        .structure(
            "include", Context.allCases, "FILE", arity: 1...1,
            "The directives of another file, in this place. See [Include](#include)."),
    ]

    private static let upstreams: [Directive] = [
        .structure(
            "upstream", [.top], "NAME", arity: 1...1, isBlock: true,
            "Servers that answer for the same routes."),
        .structure(
            "server", [.upstream], "ADDRESS [weight=N] [max_exchanges=N] [family=\(names(of: AddressFamily.self))]",
            arity: 1...1, options: ["weight", "max_exchanges", "family"],
            "A server: `HOST:PORT`, `IP:PORT`, `[IPv6]:PORT` or `unix:PATH`. `weight` (1 to 1000, default 1) is its share; "
                + "`max_exchanges` (default: no bound) is how many exchanges it gets at once, up to 1,024 a worker wait in "
                + "a queue; "
                + "`family` (default `any`) is which addresses of a name are used."),
        .choice(
            "balance", [.upstream], default: Balance.roundRobin, \.upstream.balance,
            "How a server is chosen: in turn by weight, or the one with the fewest running exchanges for its weight."),
        .setting(
            "keepalive", [.upstream], "off|COUNT [idle=DURATION|off] [requests=N] [age=DURATION]",
            default: "1024 idle=30s requests=0 age=0", options: ["idle", "requests", "age"],
            "Idle connections kept to each server by the whole process (more stay for a second, so that a load in waves finds "
                + "them); how long one may idle, how many requests it may serve, how old it may be when it is taken. 0 for "
                + "`requests` and `age` is no bound. A server in HTTP/2 gets no more connections than this: where none has a stream left, requests wait for `queue_timeout`.",
            read: readKeepalive),
        .choice(
            "protocol", [.upstream], default: UpstreamProtocol.http1, \.upstream.protocolVersion,
            "How servers are spoken to: by HTTP/1.1, or by HTTP/2, many exchanges on one connection, as gRPC needs it: over TLS "
                + "if the server takes it (ALPN `h2`), in clear by prior knowledge."),
        .duration(
            "queue_timeout", [.top, .upstream], default: "10s", \.upstream.queueTimeoutMilliseconds,
            "How long a request waits for a server that is at `max_exchanges`, or for a stream of one in HTTP/2 that takes no "
                + "more; then 503. 0 does not wait."),
    ]

    private static let listeners: [Directive] = [
        .structure(
            "listener", [.top], "NAME", arity: 1...1, isBlock: true,
            "Addresses, and the routes of the requests that come in there."),
        .structure(
            "bind", [.listener], "ADDRESS [tls] [proxy_protocol] [backlog=N]", arity: 1...1, options: ["backlog"],
            flags: ["tls", "proxy_protocol"],
            "Where to listen: `IP:PORT`, `[IPv6]:PORT`, `PORT` or `*:PORT` (every IPv4 address), `unix:PATH`, or "
                + "`fd:NAME`: the sockets of this name that the service manager hands over (or `fd:3`, by number). Port 0 is "
                + "any free port. With `tls` clients speak TLS, under the listener's `tls`. With `proxy_protocol` every connection has to begin with a "
                + "PROXY header (version 1 or 2), which says who the client is: for addresses that only a balancer reaches. `backlog` (1 to 65535, default 4096) bounds the connections not yet accepted."
        ),
        .structure(
            "host", [.listener], "NAME ...", arity: 1...1024, isBlock: true,
            "Routes for requests to these hosts. `*.example.com` stands for every name below `example.com`."),
        .structure(
            "route", [.listener, .host], "[=] PATH", arity: 1...2, isBlock: true,
            "What answers for a path: every path below it too, or with `=` that path alone. See [Routes](#routes)."),
        connect,
        .structure(
            "upstream", [.route], "NAME", arity: 1...1, repeats: false, "Forwards to the upstream of that name."),
        .structure(
            "respond", [.route], "STATUS [TEXT]", arity: 1...2, repeats: false,
            "Answers with this status (200 to 599) and text. Variables stand for their values in TEXT."),
        .structure(
            "redirect", [.route], "STATUS URL", arity: 2...2, repeats: false,
            "Redirects with 301, 302, 303, 307 or 308. Variables stand for their values in URL."),
    ]

    private static let tls: [Directive] = [
        .structure(
            "tls", [.listener], "[NAME ...]", arity: 0...1024, isBlock: true,
            "How the listener's `bind ... tls` speak to clients: the one without a name to all that ask for no other, one "
                + "with names (`*.example.com` is every name below, as in `host`) to clients that ask for these. A request whose Host "
                + "belongs to another `tls` than its connection is 421."),
        .structure(
            "tls", [.upstream], arity: 0...0, isBlock: true, repeats: false,
            "Speaks TLS to the servers. Their certificates are verified unless `verify` is off."),
        .structure(
            "certificate", [.tls, .upstreamTLS], "CERT KEY", arity: 2...2,
            "A certificate with its chain, and its key, in PEM files. A listener may have several: by name, and an RSA and an "
                + "ECDSA one for the same names. To an upstream it is our own, if it asks. Files that change are read again."
        ),
        .structure(
            "min_version", [.tls, .upstreamTLS], names(of: MinimumTLSVersion.self), arity: 1...1, repeats: false,
            "The oldest version of TLS; 1.2 by default."),
        .structure(
            "ciphers", [.tls, .upstreamTLS], "LIST", arity: 1...1, repeats: false,
            "Cipher suites by OpenSSL's names, with colons between them, for TLS 1.2, and those of TLS 1.3 (`TLS_...`). "
                + "By default those with forward secrecy and authenticated encryption."),
        .structure(
            "curves", [.tls, .upstreamTLS], "LIST", arity: 1...1, repeats: false,
            "Groups of the key exchange, the first preferred. By default X25519, P-256 and P-384, and before them the "
                + "post-quantum X25519MLKEM768 where OpenSSL has it."),
        .structure(
            "client_ca", [.tls], "FILE", arity: 1...1, repeats: false,
            "Authorities (PEM) that clients' certificates are verified against."),
        .structure(
            "client_verify", [.tls], names(of: ClientVerification.self), arity: 1...1, repeats: false,
            "Whether clients are asked for a certificate; off by default. A good one goes to the upstream as `Client-Cert` "
                + "(RFC 9440), if it is no longer than 18,432 bytes; what a client sends in that field itself is removed, "
                + "but for trusted proxies where nobody is asked. CONNECT names no host of ours: any policy serves it."),
        .structure(
            "verify", [.upstreamTLS], "on|off", arity: 1...1, repeats: false,
            "Whether a server's certificate has to be trusted and for its name; on by default."),
        .structure(
            "server_name", [.upstreamTLS], "NAME", arity: 1...1, repeats: false,
            "The name that is asked for (SNI) and that the certificate has to be for, in place of the server's own."),
        .structure(
            "ca_file", [.upstreamTLS], "FILE", arity: 1...1, repeats: false,
            "Authorities (PEM) that are trusted, in place of the system's."),
        .timer(
            "tls_handshake_timeout", client, default: "10s", \.downstreamTimers.handshakeMilliseconds,
            "From a connection's beginning to the end of its TLS handshake."),
    ]

    private static let connect = Directive.structure(
        "connect", [.listener], "upstream NAME | allow HOST:PORT ...", arity: 2...1024, repeats: false,
        "What CONNECT may do; without it, it is 405. `upstream NAME` sends it there; `allow` connects to what is asked for, "
            + "if it is among these, else 403. HOST is a name, `*.NAME`, an address or a network (for targets that are "
            + "addresses), or `*`; PORT is a number or `*`. What is on this machine or link-local, or a cloud's "
            + "metadata service, is connected to only if its name or its own network is among them: neither `*` nor "
            + "`*.NAME` lets it pass.")

    private static let clientSide: [Directive] = [
        .timer(
            "request_head_timeout", client, default: "10s", \.downstreamTimers.requestHeadMilliseconds,
            "From the first byte of a request's head to its last; then 408."),
        .timer(
            "keepalive_timeout", client, default: "75s", \.downstreamTimers.keepaliveMilliseconds,
            "How long a connection may stay without a request, also before its first."),
        .timer(
            "request_idle_timeout", client, default: "60s", \.downstreamTimers.requestIdleMilliseconds,
            "How long the client may send none of the content that is waited for; then 408."),
        .optionalSize(
            "request_min_rate", client, 1...1 << 30, default: "off", \.downstreamTimers.requestBytesPerSecondMin,
            "Bytes a second that a request's content must keep up on the average; else 408."),
        .timer(
            "request_timeout", client, default: "off", \.downstreamTimers.requestMilliseconds,
            "From a request's head to the end of its exchange. Off, so that a stream may live for days."),
        .timer(
            "send_idle_timeout", client, default: "60s", \.downstreamTimers.sendIdleMilliseconds,
            "How long the client may take none of what waits for it."),
        .size(
            "request_head_max", client, 1024...262_144, default: "32k", \.limits.headBytesMax,
            "The longest request line and field section; more is 431."),
        .count(
            "fields_max", client, Configuration.fieldsMaxRange, default: "128", \.limits.fieldsMax,
            "The most fields in a request; more is 431."),
        .size(
            "request_target_max", client, 256...262_144, default: "8k", \.limits.targetBytesMax,
            "The longest request target; more is 414. At most `request_head_max`."),
        .setting(
            "trusted_proxies", client, "off|NETWORK ... [unix:]", default: "off", arity: 1...1024,
            "Peers whose `Forwarded` and `X-Forwarded-*` fields are kept and added to; those of all others are replaced. "
                + "`unix:` stands for peers on Unix sockets.",
            read: readTrustedProxies),
        .choice(
            "http2", client, default: HTTP2Policy.tls, \.http2,
            "Where clients may speak HTTP/2: over TLS, if they offer it (ALPN `h2`); with `on` in clear, too, if they begin with "
                + "its preface (prior knowledge), beside HTTP/1.1 on the same port; or nowhere."),
        .setting(
            "via", client, "NAME|off", default: "headfirst",
            "The name of this proxy in `Via`: a token or HOST[:PORT]. `off` sends no `Via` of its own.",
            read: readVia),
    ]

    private static let upstreamSide: [Directive] = [
        .timer(
            "connect_timeout", server, default: "5s", \.upstream.timers.connectMilliseconds,
            "For looking up the server's name and connecting."),
        .timer(
            "response_head_timeout", server, default: "10m", \.upstream.timers.responseHeadMilliseconds,
            "Until the response's head, from the last of: request sent, content taken, interim response; then 504."),
        .timer(
            "response_idle_timeout", server, default: "1h", \.upstream.timers.responseIdleMilliseconds,
            "Between two pieces of a response's content. It stands still while the client is the slow one."),
        .timer(
            "tunnel_idle_timeout", server, default: "1h", \.upstream.timers.tunnelIdleMilliseconds,
            "How long nothing may pass through a tunnel, such as a WebSocket, in either direction."),
        .timer(
            "tunnel_half_closed_timeout", server, default: "5m", \.upstream.timers.tunnelHalfClosedMilliseconds,
            "The same once one direction has ended and the other lives on."),
        .size(
            "response_head_max", server, 1024...262_144, default: "64k", \.upstream.responseHeadBytesMax,
            "The longest status line and field section; more is 502."),
        .count(
            "retries", server, 0...10, default: "2", \.upstream.retriesMax,
            "How often a failed connect is tried again, at the next server. What a server may have seen is not sent again."
        ),
    ]

    private static let exchange: [Directive] = [
        .choice(
            "interim", everyExchange, default: InterimPolicy.forward, \.interim,
            "Which clients get interim (1xx) responses: all but HTTP/1.0, only HTTP/2, or none. A 100 that was asked for "
                + "always passes."),
        .choice(
            "upgrade", everyExchange, default: UpgradePolicy.any, \.upgrade,
            "Which protocols a client may switch to by `Upgrade`: any but h2c, WebSocket alone, or none; then the field "
                + "is ignored."),
        .choice(
            "traceparent", everyExchange, default: TraceparentPolicy.pass, \.traceparent,
            "W3C Trace Context: `traceparent` passes as it came and is logged; with `begin` a request that belongs to no trace "
                + "gets one, whose name is the request id that we make."),
        .choice(
            "on_client_close", everyExchange, default: ClientClosePolicy.abort, \.onClientClose,
            "What a client's close means while its answer is owed: end the upstream's work, let it finish unread, or "
                + "take a FIN as the end of requests only."),
        .optionalSize(
            "content_max", everyExchange, 0...1 << 50, default: "off", \.contentBytesMax,
            "The longest content of a request; more is 413."),
        .choice(
            "error_format", everyExchange, default: ErrorFormat.text, \.errorFormat,
            "The form of the proxy's own error responses."),
    ]

    private static let fieldEdits: [Directive] = [
        edit("set_request_field", "Replaces every field of this name in the request."),
        edit("add_request_field", "Adds a field to the request."),
        edit("remove_request_field", "Removes every field of this name from the request."),
        edit("set_response_field", "Replaces every field of this name in the final response."),
        edit("add_response_field", "Adds a field to the final response."),
        edit("remove_response_field", "Removes every field of this name from the final response."),
    ]

    private static func edit(_ name: String, _ summary: String) -> Directive {
        let hasValue = !name.hasPrefix("remove")
        return .structure(
            name, [.listener, .host, .route], hasValue ? "NAME VALUE" : "NAME", arity: hasValue ? 2...2 : 1...1, summary
        )
    }
}

// MARK: - Settings with a form of their own

extension Directive {
    private static func readAccessLog(_ arguments: Arguments, _ settings: inout Settings) {
        let destination = arguments.value(
            0, orOff { text throws(Problem) in try Value.logDestination(text, folder: arguments.folder) })
        let format = arguments.option("format") { text throws(Problem) -> AccessLogFormat in try Value.choice(text) }
        if let destination {
            settings.accessLog = AccessLog(destination: destination, format: format ?? .combined)
        }
    }

    private static func readErrorLog(_ arguments: Arguments, _ settings: inout Settings) {
        let destination = arguments.value { text throws(Problem) in
            if text == "off" { throw Problem("the error log cannot be off; level=error says the least") }
            return try Value.logDestination(text, folder: arguments.folder)
        }
        let level = arguments.option("level") { text throws(Problem) -> ErrorLogLevel in try Value.choice(text) }
        let format = arguments.option("format") { text throws(Problem) -> ErrorLogFormat in try Value.choice(text) }
        if let destination {
            settings.errorLog = ErrorLog(destination: destination, level: level ?? .info, format: format ?? .text)
        }
    }

    private static func readResolver(_ arguments: Arguments, _ settings: inout Settings) {
        if arguments.words.count == 1, arguments.words.first?.text == "system" {
            settings.resolver = .system
            return
        }
        settings.resolver = .servers(arguments.words.compactMap { arguments.value(of: $0, Value.resolver) })
    }

    private static func readBufferMemory(_ arguments: Arguments, _ settings: inout Settings) {
        let memory = arguments.value(0) { text throws(Problem) -> BufferMemory in
            switch text {
            case "auto": .automatic
            case "off": .off
            default: .bytes(try Value.size(text, in: 4 << 20...1 << 40))
            }
        }
        if let memory { settings.bufferMemory = memory }
    }

    private static func readTrustedProxies(_ arguments: Arguments, _ settings: inout Settings) {
        var trusted = TrustedProxies(networks: [], includesUnixPeers: false)
        let isOff = arguments.words.count == 1 && arguments.words.first?.text == "off"
        for word in arguments.words where !isOff {
            if word.text == "unix:" {
                trusted.includesUnixPeers = true
            } else if let network = arguments.value(of: word, Value.network) {
                trusted.networks.append(network)
            }
        }
        settings.trustedProxies = trusted
    }

    private static func readVia(_ arguments: Arguments, _ settings: inout Settings) {
        if let via = arguments.value(0, orWord("off", Value.pseudonym)) { settings.via = via }
    }

    private static func readKeepalive(_ arguments: Arguments, _ settings: inout Settings) {
        let count = arguments.value(
            0, orOff { text throws(Problem) in try Value.count(text, in: 1...1_000_000) })
        let idle = arguments.option("idle", orOff(Value.positiveDuration))
        let requests = arguments.option("requests") { text throws(Problem) in
            try Value.count(text, in: 0...1_000_000_000)
        }
        let age = arguments.option("age", orOff(Value.duration))
        guard let count else { return }
        if count == nil, arguments.statement.arguments.count > 1 {
            let first = arguments.statement.arguments[1]
            return arguments.diagnostics.error(
                at: first, "\"keepalive off\" keeps no connections; options have no use with it")
        }
        settings.upstream.keepalive = Keepalive(
            connectionsMax: count ?? 0, idleMilliseconds: idle ?? 30_000,
            requestsMax: requests == 0 ? nil : requests, ageMilliseconds: age.flatMap { $0 == 0 ? nil : $0 })
    }
}
