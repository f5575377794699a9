// The validated, immutable model that a configuration file becomes. Every default and every inheritance
// (top level -> listener -> host -> route, top level -> upstream -> route) is already applied: who reads the
// model never looks further out. Units: milliseconds and bytes.

import HTTPSemantics

/// A whole configuration, valid by construction: `ConfigurationFile.load` is the only maker besides tests.
public struct Configuration: Sendable, Equatable {
    /// The number of worker threads; nil is `auto`, the CPUs of the container's quota.
    public var workers: Int?
    /// Where access records go.
    public var accessLog: AccessLog
    /// Where the error log goes.
    public var errorLog: ErrorLog
    /// How long running exchanges may go on after SIGTERM.
    public var shutdownGraceMilliseconds: Int
    /// How long after SIGTERM everything is served as before; 0 where there is no `admin`.
    public var drainDelayMilliseconds: Int
    /// Who answers for the names of servers.
    public var resolver: ResolverSource
    /// The bound of client connections in the whole process; nil is `off`.
    public var connectionsMax: Int?
    /// What may wait in user space for one direction of one exchange.
    public var relayBufferBytes: Int
    /// What all that waits may take of memory.
    public var bufferMemory: BufferMemory
    /// Where the process can be watched; nil is nowhere.
    public var admin: Admin?
    /// Upstreams in the order of the file.
    public var upstreams: [Upstream]
    /// Listeners in the order of the file.
    public var listeners: [Listener]

    /// What `relay_buffer` may be, in bytes.
    public static let relayBufferRange = 4096...1_048_576
    /// What `fields_max` may be.
    public static let fieldsMaxRange = 8...1000
}

/// `buffer_memory auto | off | SIZE`
public enum BufferMemory: Sendable, Equatable {
    /// Half of the container's limit; no bound where there is none.
    case automatic
    /// No bound.
    case off
    /// So many bytes.
    case bytes(Int)
}

/// `admin { bind ADDRESS; ... allow NETWORK ...; host NAME ...; }`
public struct Admin: Sendable, Equatable {
    /// Addresses, at least one, in the order of the file. None speaks TLS.
    public var binds: [Bind]
    /// Who may see the status, besides the loopback and peers on Unix sockets.
    public var allowedNetworks: [IPNetwork]
    /// What requests may ask for in Host, besides `localhost` and the addresses that are bound.
    public var allowedHosts: [AdminHost]
}

/// A host that a request to the admin listener asks for, or may ask for. It has no port.
public enum AdminHost: Sendable, Hashable {
    /// A name in lower case, without a dot at its end.
    case name(String)
    /// An address.
    case address(IPAddress)

    /// The host of a Host field, or of the configuration: a name, an IPv4 address, or an IPv6 address in brackets.
    public init(_ text: some StringProtocol) {
        if text.hasPrefix("["), text.hasSuffix("]"), text.contains(":"),
            let address = IPAddress(text.dropFirst().dropLast())
        {
            self = .address(address)
            return
        }
        let name = text.hasSuffix(".") ? text.dropLast() : text[...]
        // A bare IPv6 address is none in a Host field: its end would pass for a port.
        if !name.contains(":"), let address = IPAddress(name) {
            self = .address(address)
        } else {
            self = .name(name.lowercased())
        }
    }
}

/// `access_log off | stdout | stderr | FILE [format=combined|json]`
public struct AccessLog: Sendable, Equatable {
    /// nil is `off`.
    public var destination: LogDestination?
    /// How a record is written.
    public var format: AccessLogFormat
}

/// The form of an access record.
public enum AccessLogFormat: String, Sendable, CaseIterable {
    /// Apache's and nginx's combined format.
    case combined
    /// One JSON object a line.
    case json
}

/// `error_log stdout | stderr | FILE [level=LEVEL] [format=text|json]`
public struct ErrorLog: Sendable, Equatable {
    /// Where lines go.
    public var destination: LogDestination
    /// The least severe level that is written.
    public var level: ErrorLogLevel
    /// How a line is written.
    public var format: ErrorLogFormat
}

/// Severity of a line of the error log.
public enum ErrorLogLevel: String, Sendable, CaseIterable {
    /// Everything.
    case debug
    /// Normal events worth a line.
    case info
    /// Something a person may want to know.
    case notice
    /// Something is wrong, service goes on.
    case warning
    /// Something failed.
    case error
}

/// The form of a line of the error log.
public enum ErrorLogFormat: String, Sendable, CaseIterable {
    /// For people.
    case text
    /// One JSON object a line.
    case json
}

/// Where a log is written to.
public enum LogDestination: Sendable, Equatable {
    /// Standard output.
    case standardOutput
    /// Standard error.
    case standardError
    /// A file that is appended to; relative paths start at the configuration file's folder.
    case file(String)
}

/// `resolver system | ADDRESS[:PORT] ...`
public enum ResolverSource: Sendable, Equatable {
    /// /etc/resolv.conf and /etc/hosts.
    case system
    /// These name servers, in this order.
    case servers([ResolverAddress])
}

/// The address of a name server.
public struct ResolverAddress: Sendable, Equatable {
    /// Its IP address.
    public var address: IPAddress
    /// Its port; 53 unless told.
    public var port: UInt16
}

/// Where something listens or is reached.
public enum Endpoint: Hashable, Sendable {
    /// An IP address and a port.
    case ip(IPAddress, port: UInt16)
    /// A name to look up, and a port.
    case name(String, port: UInt16)
    /// The path of a Unix socket.
    case unix(String)
    /// `fd:NAME`: sockets that the process is started with. Only `bind` has them.
    case inherited(String)
}

/// `upstream NAME { ... }`: servers that answer for the same routes.
public struct Upstream: Sendable, Equatable {
    /// The name routes refer to.
    public var name: String
    /// Its servers, at least one, in the order of the file.
    public var servers: [Server]
    /// How a server is chosen.
    public var balance: Balance
    /// The pool of idle connections of each server.
    public var keepalive: Keepalive
    /// How long an exchange may wait for a server that is at `max_exchanges`.
    public var queueTimeoutMilliseconds: Int
    /// What they are spoken to in.
    public var protocolVersion: UpstreamProtocol
    /// How its servers are spoken to by TLS; nil is in clear.
    public var tls: UpstreamTLS?
}

/// `server ADDRESS [weight=N] [max_exchanges=N] [family=any|ipv4|ipv6]`
public struct Server: Sendable, Equatable, Hashable {
    /// Where it is.
    public var endpoint: Endpoint
    /// Its share among its fellows, 1 to 1000.
    public var weight: Int
    /// How many exchanges it may have at once from the whole process; nil is no bound.
    public var exchangesMax: Int?
    /// Which families of addresses its name may give.
    public var family: AddressFamily
}

/// The families of addresses that a name may give.
public enum AddressFamily: String, Sendable, CaseIterable {
    /// IPv4 and IPv6.
    case any
    /// IPv4 alone.
    case ipv4
    /// IPv6 alone.
    case ipv6
}

/// How a server is chosen among several.
public enum Balance: String, Sendable, CaseIterable {
    /// In turn, by weight.
    case roundRobin = "round_robin"
    /// The one with the fewest running exchanges for its weight.
    case leastOutstanding = "least_outstanding"
}

/// `keepalive off | COUNT [idle=DURATION] [requests=N] [age=DURATION]`
public struct Keepalive: Sendable, Equatable {
    /// Idle connections of the process to each server, divided among the workers; 0 is `off`.
    public var connectionsMax: Int
    /// How long a connection may be idle; nil is off.
    public var idleMilliseconds: Int?
    /// How many exchanges a connection may serve; nil is any number.
    public var requestsMax: Int?
    /// How old a connection may be when it is taken; nil is any age.
    public var ageMilliseconds: Int?
}

/// `listener NAME { ... }`
public struct Listener: Sendable, Equatable {
    /// Its name.
    public var name: String
    /// Addresses, at least one.
    public var binds: [Bind]
    /// Peers whose forwarding fields are believed.
    public var trustedProxies: TrustedProxies
    /// Bounds of what a client may send.
    public var limits: RequestLimits
    /// Timers of the client's side.
    public var timers: DownstreamTimers
    /// The pseudonym in `Via` (default `headfirst`); nil is `off`.
    public var via: String?
    /// How errors of our own are written, where no route was chosen.
    public var errorFormat: ErrorFormat
    /// Where HTTP/2 is spoken.
    public var http2: HTTP2Policy
    /// `tls` blocks: the one for all hosts first, if there is any.
    public var tls: [ServerTLS]
    /// `connect upstream NAME | allow TARGET ...`: where CONNECT goes, as a route that is named `connect`; nil refuses
    /// it. Its action is `upstream` or `dial`.
    public var connect: Route?
    /// `host` sections in the order of the file, then one with no names for the listener's own routes, if it has any.
    public var hosts: [VirtualHost]
}

/// `bind ADDRESS [tls] [proxy_protocol] [backlog=N]`
public struct Bind: Sendable, Equatable {
    /// Where to listen. Never a name.
    public var endpoint: Endpoint
    /// Whether clients speak TLS.
    public var isTLS: Bool
    /// Whether every connection begins with a PROXY header.
    public var hasProxyHeaders = false
    /// The length of the queue of connections not yet accepted.
    public var backlog: Int
    /// Where the directive stands, for errors of the operating system.
    @Incidental public var location: SourceLocation
}

/// `trusted_proxies NETWORK ... [unix:]`
public struct TrustedProxies: Sendable, Equatable {
    /// The networks.
    public var networks: [IPNetwork]
    /// Whether peers on Unix sockets are believed.
    public var includesUnixPeers: Bool
}

/// Routes for some names, or for all (no patterns).
public struct VirtualHost: Sendable, Equatable {
    /// Lower-case names without port; `*.example.com` matches any one or more labels before it. Empty: any host.
    public var patterns: [String]
    /// Routes in the order of the file.
    public var routes: [Route]
}

/// `route [=] PATH { ... }`
public struct Route: Sendable, Equatable {
    /// How logs and errors call it: `/events` or `= /old`.
    public var name: String
    /// The path; begins with `/`.
    public var path: String
    /// Whether only this very path matches, or every path below it too.
    public var isExact: Bool
    /// What answers.
    public var action: RouteAction
    /// Edits of the request's fields: those of the listener, the host and the route, in this order.
    public var requestEdits: [FieldEdit]
    /// Edits of the final response's fields, likewise.
    public var responseEdits: [FieldEdit]
    /// Rules of forwarding.
    public var forwarding: Forwarding
    /// Timers of the upstream's side.
    public var timers: UpstreamTimers
    /// Where the directive stands.
    @Incidental public var location: SourceLocation
}

/// What a route does.
public enum RouteAction: Sendable, Equatable {
    /// Forwards to the upstream at this index of `Configuration.upstreams`.
    case upstream(Int)
    /// Answers itself: a final status and a text.
    case respond(status: Int, text: Template)
    /// Answers with a redirect (301, 302, 303, 307, 308) and its Location.
    case redirect(status: Int, location: Template)
    /// Connects to what CONNECT asks for, if one of these allows it.
    case dial([ConnectTarget])
}

/// One `HOST:PORT` of `connect allow`.
public struct ConnectTarget: Sendable, Equatable {
    /// Which hosts.
    public enum Host: Sendable, Equatable {
        /// `*`
        case any
        /// A name, in lower case.
        case name(String)
        /// `*.NAME`: every name below it.
        case namesBelow(String)
        /// An address or a network.
        case network(IPNetwork)
    }
    /// Which hosts.
    public var host: Host
    /// Which port; nil is any.
    public var port: UInt16?

    /// A target.
    public init(host: Host, port: UInt16?) {
        self.host = host
        self.port = port
    }
}

/// Rules of forwarding that stand at top level, in a listener or in a route.
public struct Forwarding: Sendable, Equatable {
    /// Which clients get interim responses.
    public var interim: InterimPolicy
    /// What a client's close means while an answer is owed.
    public var onClientClose: ClientClosePolicy
    /// The longest request content; nil is off.
    public var contentBytesMax: Int?
    /// How our own errors are written.
    public var errorFormat: ErrorFormat
    /// How often a request may be tried again.
    public var retriesMax: Int
    /// The longest head of a response.
    public var responseHeadBytesMax: Int
    /// Which upgrades pass.
    public var upgrade: UpgradePolicy
    /// What becomes of a request that belongs to no trace.
    public var traceparent = TraceparentPolicy.pass
}

extension Forwarding {
    /// Rules for a request that goes nowhere: it is answered by the listener itself.
    public init(withoutRouteIn listener: Listener) {
        self.init(
            interim: .forward, onClientClose: .abort, contentBytesMax: nil, errorFormat: listener.errorFormat,
            retriesMax: 0, responseHeadBytesMax: 0, upgrade: .off)
    }
}

/// `interim forward | http2 | off`
public enum InterimPolicy: String, Sendable, CaseIterable {
    /// To every HTTP/1.1 and HTTP/2 client.
    case forward
    /// Only to HTTP/2 clients; 100 and 101 are forwarded all the same, they are asked for.
    case http2
    /// To none; 100 and 101 are forwarded all the same, they are asked for.
    case off
}

/// `upgrade any | websocket | off`
public enum UpgradePolicy: String, Sendable, CaseIterable {
    /// Every protocol but h2c.
    case any
    /// WebSocket alone.
    case websocket
    /// None: Upgrade is ignored.
    case off
}

/// `http2 tls | on | off`
public enum HTTP2Policy: String, Sendable, CaseIterable {
    /// Over TLS, with clients that offer it (ALPN `h2`).
    case tls
    /// In clear, too, with clients that begin with its preface.
    case on
    /// Nowhere.
    case off
}

/// `protocol http1 | http2`
public enum UpstreamProtocol: String, Sendable, CaseIterable {
    /// HTTP/1.1.
    case http1
    /// HTTP/2: over TLS by ALPN, in clear by prior knowledge.
    case http2
}

/// `traceparent pass | begin`
public enum TraceparentPolicy: String, Sendable, CaseIterable {
    /// What came passes; where nothing came, nothing is added.
    case pass
    /// A request without one, or with one that means nothing, gets one of ours.
    case begin
}

/// `on_client_close abort | finish | half_close`
public enum ClientClosePolicy: String, Sendable, CaseIterable {
    /// The upstream's work is ended at once.
    case abort
    /// The answer runs out unread.
    case finish
    /// A FIN ends the client's requests only, and what was asked is answered.
    case halfClose = "half_close"
}

/// `error_format text | json`
public enum ErrorFormat: String, Sendable, CaseIterable {
    /// text/plain
    case text
    /// application/json
    case json
}

/// Bounds of what a client may send.
public struct RequestLimits: Sendable, Equatable {
    /// `request_head_max`: the request line and the field section.
    public var headBytesMax: Int
    /// `fields_max`
    public var fieldsMax: Int
    /// `request_target_max`
    public var targetBytesMax: Int
}

/// Timers of the client's side. nil is off.
public struct DownstreamTimers: Sendable, Equatable {
    /// From a head's first byte to its last, absolute.
    public var requestHeadMilliseconds: Int?
    /// From a connection's beginning to the end of its TLS handshake.
    public var handshakeMilliseconds: Int?
    /// A connection with no request, also before its first byte.
    public var keepaliveMilliseconds: Int?
    /// While content is wanted and none comes.
    public var requestIdleMilliseconds: Int?
    /// Bytes a second that the content must keep up on the average; nil is off.
    public var requestBytesPerSecondMin: Int?
    /// From the request's head to the exchange's end.
    public var requestMilliseconds: Int?
    /// While the client takes nothing.
    public var sendIdleMilliseconds: Int?
}

/// Timers of the upstream's side. nil is off.
public struct UpstreamTimers: Sendable, Equatable {
    /// Name lookup and connecting.
    public var connectMilliseconds: Int?
    /// Until the final head, from the last of: request sent, content last accepted, last interim.
    public var responseHeadMilliseconds: Int?
    /// Between two pieces of content.
    public var responseIdleMilliseconds: Int?
    /// While nothing passes through a tunnel.
    public var tunnelIdleMilliseconds: Int?
    /// While nothing passes through a tunnel of which one direction has ended.
    public var tunnelHalfClosedMilliseconds: Int?
}

/// One edit of a field section.
public struct FieldEdit: Sendable, Equatable {
    /// What is done.
    public enum Operation: Sendable, Equatable {
        /// Replaces every field of the name.
        case set
        /// Adds a field.
        case add
        /// Removes every field of the name.
        case remove
    }
    /// What is done.
    public var operation: Operation
    /// The field's name, as it is written.
    public var name: String
    /// The value; empty for `remove`.
    public var value: Template
}

/// Text with variables in it.
public struct Template: Sendable, Equatable {
    /// A piece of a template.
    public enum Segment: Sendable, Equatable {
        /// Bytes as they are.
        case literal([UInt8])
        /// The value of a variable.
        case variable(Variable)
    }
    /// The pieces in order; adjacent literals are merged.
    public var segments: [Segment]

    /// A template from its pieces.
    public init(segments: [Segment]) {
        self.segments = segments
    }
}

/// What `$name` may stand for. The raw value is the name in the file.
public enum Variable: String, Sendable, CaseIterable {
    /// The request's host, lower case, without port.
    case host
    /// The name of this machine.
    case node
    /// The client's address (the peer's), without port.
    case clientAddress = "client_address"
    /// The client's port.
    case clientPort = "client_port"
    /// `http` or `https`, as the client speaks to us.
    case scheme
    /// The request's method.
    case method
    /// The request's target, byte-exact.
    case target
    /// The target's path, without query.
    case path
    /// The target's query, without `?`.
    case query
    /// The request's X-Request-Id, received or made.
    case requestID = "request_id"
    /// The listener's name.
    case listener
    /// The route's name.
    case route
    /// The upstream's name, or empty.
    case upstream
    /// The client's TLS version, such as `TLSv1.3`; empty in clear.
    case tlsVersion = "tls_version"
    /// The client's cipher suite by OpenSSL's name; empty in clear.
    case tlsCipher = "tls_cipher"
    /// The host that the client asked for in the handshake (SNI), or empty.
    case tlsServerName = "tls_server_name"
}

/// A place in a configuration file.
public struct SourceLocation: Sendable, Equatable, Hashable {
    /// The file, as it was named.
    public var file: String
    /// The line, from 1.
    public var line: Int
    /// The column in characters, from 1.
    public var column: Int

    /// A place in a file.
    public init(file: String, line: Int, column: Int) {
        self.file = file
        self.line = line
        self.column = column
    }
}
