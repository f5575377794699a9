// What a valid file becomes: defaults, inheritance, the order of things.

import HTTPSemantics
import Testing

@testable import ProxyConfiguration

@Suite struct ModelTests {
    @Test func theDefaults() throws {
        let configuration = try model("upstream u { server a:80; }\nlistener l { bind 80; route / { upstream u; } }")
        #expect(configuration.workers == nil)
        #expect(configuration.accessLog == AccessLog(destination: .standardOutput, format: .combined))
        #expect(configuration.errorLog == ErrorLog(destination: .standardError, level: .info, format: .text))
        #expect(configuration.shutdownGraceMilliseconds == 25_000)
        #expect(configuration.resolver == .system)
        #expect(configuration.connectionsMax == nil)
        #expect(configuration.relayBufferBytes == 65536)

        let upstream = configuration.upstreams[0]
        #expect(
            upstream.servers == [Server(endpoint: .name("a", port: 80), weight: 1, exchangesMax: nil, family: .any)])
        #expect(upstream.balance == .roundRobin)
        #expect(
            upstream.keepalive
                == Keepalive(connectionsMax: 1024, idleMilliseconds: 30_000, requestsMax: nil, ageMilliseconds: nil))
        #expect(upstream.queueTimeoutMilliseconds == 10_000)

        let listener = configuration.listeners[0]
        #expect(listener.binds[0].endpoint == .ip(IPAddress(ipv4: 0), port: 80))
        #expect(listener.binds[0].backlog == 4096)
        #expect(listener.binds[0].location == SourceLocation(file: "proxy.conf", line: 2, column: 14))
        #expect(listener.trustedProxies == TrustedProxies(networks: [], includesUnixPeers: false))
        #expect(listener.limits == RequestLimits(headBytesMax: 32768, fieldsMax: 128, targetBytesMax: 8192))
        #expect(
            listener.timers
                == DownstreamTimers(
                    requestHeadMilliseconds: 10_000, handshakeMilliseconds: 10_000, keepaliveMilliseconds: 75_000,
                    requestIdleMilliseconds: 60_000,
                    requestBytesPerSecondMin: nil, requestMilliseconds: nil, sendIdleMilliseconds: 60_000))
        #expect(listener.via == "headfirst")
        #expect(listener.errorFormat == .text)

        let route = listener.hosts[0].routes[0]
        #expect(
            route.forwarding
                == Forwarding(
                    interim: .forward, onClientClose: .abort, contentBytesMax: nil, errorFormat: .text, retriesMax: 2,
                    responseHeadBytesMax: 65536, upgrade: .any))
        #expect(
            route.timers
                == UpstreamTimers(
                    connectMilliseconds: 5000, responseHeadMilliseconds: 600_000, responseIdleMilliseconds: 3_600_000,
                    tunnelIdleMilliseconds: 3_600_000, tunnelHalfClosedMilliseconds: 300_000))
        #expect(route.location == SourceLocation(file: "proxy.conf", line: 2, column: 23))
    }

    @Test func settingsOfTheProcess() throws {
        let text = """
            workers 4; access_log /var/log/access.log format=json; error_log errors.log level=debug format=json;
            shutdown_grace 0; resolver 10.0.0.2 10.0.0.3:5353 ::1 [::2]:54; max_connections 9; relay_buffer 1M;
            """
        let configuration = try model(in: .top, text)
        #expect(configuration.workers == 4)
        #expect(configuration.accessLog == AccessLog(destination: .file("/var/log/access.log"), format: .json))
        #expect(configuration.errorLog == ErrorLog(destination: .file("errors.log"), level: .debug, format: .json))
        #expect(configuration.shutdownGraceMilliseconds == 0)
        let servers = [("10.0.0.2", 53), ("10.0.0.3", 5353), ("::1", 53), ("::2", 54)] as [(String, UInt16)]
        #expect(
            try configuration.resolver
                == .servers(servers.map { ResolverAddress(address: try #require(IPAddress($0.0)), port: $0.1) }))
        #expect(configuration.connectionsMax == 9)
        #expect(configuration.relayBufferBytes == 1 << 20)
        #expect(try model(in: .top, "access_log off;").accessLog.destination == nil)
    }

    @Test func relativePathsStartAtTheFilesFolder() throws {
        let text =
            "access_log a.log; upstream u { server unix:app.sock; } "
            + "listener l { bind unix:../l.sock; route / { upstream u; } }"
        let loaded = try ConfigurationFile.parse(text: Array(text.utf8), file: "/etc/headfirst/proxy.conf")
        #expect(loaded.configuration.accessLog.destination == .file("/etc/headfirst/a.log"))
        #expect(loaded.configuration.upstreams[0].servers[0].endpoint == .unix("/etc/headfirst/app.sock"))
        #expect(loaded.configuration.listeners[0].binds[0].endpoint == .unix("/etc/headfirst/../l.sock"))
    }

    @Test(
        arguments: [
            ("10", 0, nil), ("0", 0, 0), ("0s", 0, 0), ("1ms", 1, 1), ("2s", 2, 2000), ("3m", 3, 180_000),
            ("4h", 4, 14_400_000), ("30d", 30, 2_592_000_000),
        ] as [(String, Int, Int?)])
    func durations(_ text: String, _: Int, _ milliseconds: Int?) {
        #expect((try? model(in: .top, "shutdown_grace \(text);"))?.shutdownGraceMilliseconds == milliseconds)
    }

    @Test(arguments: [("4096", 4096), ("5k", 5120), ("5K", 5120), ("1m", 1_048_576)]) func sizes(
        _ text: String, _ bytes: Int
    ) throws {
        #expect(try model(in: .top, "relay_buffer \(text);").relayBufferBytes == bytes)
    }

    @Test func serversAndKeepalive() throws {
        let text = """
            server 10.0.0.1:1 weight=1000 max_exchanges=7; server [::1]:2; server UNIX.example:3 family=ipv6;
            server unix:/run/app.sock; balance least_outstanding; queue_timeout 0;
            keepalive 8 idle=off requests=100 age=1h;
            """
        let upstream = try model(in: .upstream, text).upstreams[0]
        let address = try #require(IPAddress("10.0.0.1"))
        #expect(
            upstream.servers.dropFirst() == [
                Server(endpoint: .ip(address, port: 1), weight: 1000, exchangesMax: 7, family: .any),
                Server(endpoint: .ip(IPAddress(high: 0, low: 1), port: 2), weight: 1, exchangesMax: nil, family: .any),
                Server(endpoint: .name("unix.example", port: 3), weight: 1, exchangesMax: nil, family: .ipv6),
                Server(endpoint: .unix("/run/app.sock"), weight: 1, exchangesMax: nil, family: .any),
            ])
        #expect(upstream.balance == .leastOutstanding)
        #expect(upstream.queueTimeoutMilliseconds == 0)
        #expect(
            upstream.keepalive
                == Keepalive(connectionsMax: 8, idleMilliseconds: nil, requestsMax: 100, ageMilliseconds: 3_600_000))
        #expect(try model(in: .upstream, "keepalive off;").upstreams[0].keepalive.connectionsMax == 0)
        #expect(
            try model(in: .upstream, "keepalive 1024;").upstreams == model(in: .upstream, "").upstreams)
    }

    @Test func bindsAndHosts() throws {
        let text = """
            bind *:2; bind 127.0.0.1:3 backlog=1; bind [::]:4; bind unix:/run/l.sock; bind 127.0.0.1:0; bind 127.0.0.1:0;
            host A.example *.B.example 10.0.0.1 [0::1] { route /h { respond 200; } }
            host other { route / { respond 200; } }
            """
        let listener = try model(in: .listener, text).listeners[0]
        let loopback = try #require(IPAddress("127.0.0.1"))
        #expect(
            listener.binds.map(\.endpoint) == [
                .ip(IPAddress(ipv4: 0), port: 1), .ip(IPAddress(ipv4: 0), port: 2), .ip(loopback, port: 3),
                .ip(IPAddress(high: 0, low: 0), port: 4), .unix("/run/l.sock"), .ip(loopback, port: 0),
                .ip(loopback, port: 0),
            ])
        #expect(listener.binds[2].backlog == 1)
        // The listener's own routes come last, wherever they stand.
        #expect(
            listener.hosts.map(\.patterns) == [["a.example", "*.b.example", "10.0.0.1", "[::1]"], ["other"], []])
        #expect(listener.hosts.map { $0.routes.map(\.name) } == [["/h"], ["/"], ["/"]])
    }

    @Test func routesAndActions() throws {
        let text = """
            route = / { redirect 308 https://$host/new; }
            route /a/ { respond 503 "busy"; }
            route = /a/ { respond 204; }
            """
        let routes = try model(in: .listener, text).listeners[0].hosts[0].routes
        #expect(routes.map(\.name) == ["/", "= /", "/a/", "= /a/"])
        #expect(routes.map(\.isExact) == [false, true, false, true])
        #expect(routes.map(\.path) == ["/", "/", "/a/", "/a/"])
        #expect(
            routes[1].action
                == .redirect(
                    status: 308,
                    location: Template(segments: [
                        .literal(Array("https://".utf8)), .variable(.host), .literal(Array("/new".utf8)),
                    ])))
        #expect(routes[2].action == .respond(status: 503, text: Template(segments: [.literal(Array("busy".utf8))])))
        #expect(routes[3].action == .respond(status: 204, text: Template(segments: [])))
    }

    @Test func upstreamSettingsComeFromTheRouteThenTheUpstreamThenTheTop() throws {
        let text = """
            connect_timeout 1s; response_head_timeout 1s; response_idle_timeout 1s; tunnel_idle_timeout 9s; response_head_max 1k; retries 1;
            queue_timeout 1s;
            listener l {
                bind 1;
                route / { upstream u; response_idle_timeout off; retries 3; }
                route /plain { upstream v; }
                route /own { respond 200; connect_timeout 9s; }
            }
            upstream u { server a:1; response_head_timeout 2s; response_idle_timeout 2s; response_head_max 2k; retries 2; queue_timeout 2s; }
            upstream v { server a:1; }
            """
        let configuration = try model(text)
        let routes = configuration.listeners[0].hosts[0].routes
        #expect(routes.map(\.action).prefix(2) == [.upstream(0), .upstream(1)])
        #expect(
            routes[0].timers
                == UpstreamTimers(
                    connectMilliseconds: 1000, responseHeadMilliseconds: 2000, responseIdleMilliseconds: nil,
                    tunnelIdleMilliseconds: 9000, tunnelHalfClosedMilliseconds: 300_000))
        #expect(routes[0].forwarding.retriesMax == 3)
        #expect(routes[0].forwarding.responseHeadBytesMax == 2048)
        #expect(
            routes[1].timers
                == UpstreamTimers(
                    connectMilliseconds: 1000, responseHeadMilliseconds: 1000, responseIdleMilliseconds: 1000,
                    tunnelIdleMilliseconds: 9000, tunnelHalfClosedMilliseconds: 300_000))
        #expect(routes[1].forwarding.retriesMax == 1)
        #expect(routes[1].forwarding.responseHeadBytesMax == 1024)
        #expect(routes[2].timers.connectMilliseconds == 9000)
        #expect(configuration.upstreams.map(\.queueTimeoutMilliseconds) == [2000, 1000])
    }

    @Test func exchangeSettingsComeFromTheInnermostBlock() throws {
        let text = """
            interim off; upgrade websocket; on_client_close finish; content_max 1k; error_format json;
            listener l {
                on_client_close half_close;
                bind 1;
                host h {
                    content_max 2k;
                    route / { respond 200; error_format text; interim http2; }
                    route /b { respond 200; content_max off; }
                }
                route / { respond 200; }
            }
            """
        let listener = try model(text).listeners[0]
        let forwarding = listener.hosts.flatMap(\.routes).map(\.forwarding)
        #expect(forwarding.map(\.interim) == [.http2, .off, .off])
        #expect(forwarding.map(\.upgrade) == [.websocket, .websocket, .websocket])
        #expect(forwarding.map(\.onClientClose) == [.halfClose, .halfClose, .halfClose])
        #expect(forwarding.map(\.contentBytesMax) == [2048, nil, 1024])
        #expect(forwarding.map(\.errorFormat) == [.text, .json, .json])
        #expect(listener.errorFormat == .json)
    }

    @Test func clientSettingsComeFromTheListenerThenTheTop() throws {
        let text = """
            request_head_timeout 1s; keepalive_timeout 1s; request_idle_timeout 1s; request_min_rate 1; request_timeout 1s;
            send_idle_timeout 1s; tls_handshake_timeout 1s; request_head_max 1k; fields_max 10; request_target_max 256; via top;
            trusted_proxies 10.0.0.0/8 unix:;
            listener a {
                bind 1; route / { respond 200; }
            }
            listener b {
                request_head_timeout off; keepalive_timeout 2s; request_idle_timeout off; request_min_rate 2k;
                request_timeout off; send_idle_timeout off; tls_handshake_timeout 3s; request_head_max 2k; fields_max 20; request_target_max 1k;
                via proxy.example:8080; trusted_proxies ::1;
                bind 2; route / { respond 200; }
            }
            listener c { bind 3; via off; trusted_proxies off; route / { respond 200; } }
            """
        let listeners = try model(text).listeners
        #expect(
            listeners[0].timers
                == DownstreamTimers(
                    requestHeadMilliseconds: 1000, handshakeMilliseconds: 1000, keepaliveMilliseconds: 1000,
                    requestIdleMilliseconds: 1000,
                    requestBytesPerSecondMin: 1, requestMilliseconds: 1000, sendIdleMilliseconds: 1000))
        #expect(
            listeners[1].timers
                == DownstreamTimers(
                    handshakeMilliseconds: 3000, keepaliveMilliseconds: 2000, requestBytesPerSecondMin: 2048))
        #expect(listeners[0].limits == RequestLimits(headBytesMax: 1024, fieldsMax: 10, targetBytesMax: 256))
        #expect(listeners[1].limits == RequestLimits(headBytesMax: 2048, fieldsMax: 20, targetBytesMax: 1024))
        #expect(listeners.map(\.via) == ["top", "proxy.example:8080", nil])
        #expect(
            try listeners.map(\.trustedProxies) == [
                TrustedProxies(networks: [#require(IPNetwork("10.0.0.0/8"))], includesUnixPeers: true),
                TrustedProxies(networks: [#require(IPNetwork("::1"))], includesUnixPeers: false),
                TrustedProxies(networks: [], includesUnixPeers: false),
            ])
    }

    @Test func fieldEditsRunFromTheOutsideIn() throws {
        let text = """
            listener l {
                bind 1;
                route / { respond 200; remove_response_field Server; set_request_field X-A route; }
                set_request_field X-A listener; add_request_field X-B "$client_address, $scheme";
                host h {
                    set_request_field X-A host; add_request_field X-A more; set_response_field X-A "";
                    route / { respond 200; set_request_field Host a.example:80; }
                }
            }
            """
        let hosts = try model(text).listeners[0].hosts
        func summary(_ edits: [FieldEdit]) -> [String] {
            edits.map { edit in
                let value = edit.value.segments.map { segment in
                    switch segment {
                    case .literal(let bytes): String(decoding: bytes, as: UTF8.self)
                    case .variable(let variable): "<\(variable.rawValue)>"
                    }
                }
                return "\(edit.operation) \(edit.name) \(value.joined())"
            }
        }
        #expect(
            summary(hosts[0].routes[0].requestEdits) == [
                "set X-A listener", "add X-B <client_address>, <scheme>", "set X-A host", "add X-A more",
                "set Host a.example:80",
            ])
        #expect(summary(hosts[0].routes[0].responseEdits) == ["set X-A "])
        #expect(
            summary(hosts[1].routes[0].requestEdits) == [
                "set X-A listener", "add X-B <client_address>, <scheme>", "set X-A route",
            ])
        #expect(summary(hosts[1].routes[0].responseEdits) == ["remove Server "])
    }

    @Test(arguments: Variable.allCases) func everyVariableIsKnown(_ variable: Variable) throws {
        let configuration = try model(in: .route, "set_request_field X-V $\(variable.rawValue);")
        #expect(
            configuration.listeners[0].hosts[0].routes[0].requestEdits.map(\.value) == [
                Template(segments: [.variable(variable)])
            ])
    }
}
