// Every directive's own mistakes, each with its place.

import ProxyConfiguration
import Testing

@Suite struct DirectiveTests {
    /// A snippet, where it stands, and its mistakes.
    struct Case: Sendable, CustomTestStringConvertible {
        let place: SnippetPlace
        let text: String
        let mistakes: [String]
        var testDescription: String { "\(place) \(text.debugDescription)" }

        init(_ place: SnippetPlace, _ text: String, _ mistakes: String...) {
            self.place = place
            self.text = text
            self.mistakes = mistakes
        }
    }

    static let process: [Case] = [
        Case(.top, "workers 0;", "1:9: 0 is out of range; it can be from 1 to 1024"),
        Case(.top, "workers -1;", "1:9: expected auto or a number from 1 to 1024, not \"-1\""),
        Case(
            .top, "workers 99999999999999999999;", "1:9: expected a number from 1 to 1024, not \"99999999999999999999\""
        ),
        Case(.top, "workers 1;\nworkers 2;", "2:1: a second \"workers\" in this block; first at proxy.conf:1:1"),
        Case(.top, "access_log stdout format=xml;", "1:19: expected combined or json, not \"xml\""),
        Case(
            .top, "access_log stdout formt=json;",
            "1:19: \"access_log\" has no option \"formt\"; did you mean \"format\"?"),
        Case(
            .top, "access_log stdout format=json format=json;",
            "1:31: the option \"format\" stands here twice; first at proxy.conf:1:19"),
        Case(.top, "access_log \"\";", "1:12: \"\" is not the name of a file"),
        Case(.top, "access_log logs/;", "1:12: \"logs/\" is not the name of a file"),
        Case(.top, "error_log off;", "1:11: the error log cannot be off; level=error says the least"),
        Case(
            .top, "error_log stderr level=warn;",
            "1:18: expected debug, info, notice, warning or error, not \"warn\""),
        Case(
            .top, "error_log stderr level=eror format=txt;",
            "1:18: expected debug, info, notice, warning or error, not \"eror\"; did you mean \"error\"?",
            "1:29: expected text or json, not \"txt\"; did you mean \"text\"?"),
        Case(.top, "shutdown_grace 25;", "1:16: 25 needs a unit: ms, s, m, h or d"),
        Case(.top, "shutdown_grace off;", "1:16: expected a duration such as 500ms, 10s, 5m, 1h or 1d, not \"off\""),
        Case(.top, "shutdown_grace 31d;", "1:16: 31d is longer than 30d"),
        Case(.top, "shutdown_grace 999999999999999d;", "1:16: 999999999999999d is longer than 30d"),
        Case(.top, "shutdown_grace 1w;", "1:16: expected a duration such as 500ms, 10s, 5m, 1h or 1d, not \"1w\""),
        Case(.top, "resolver dns;", "1:10: expected system or the IP address of a name server, not \"dns\""),
        Case(
            .top, "resolver system 1.1.1.1;",
            "1:10: expected system or the IP address of a name server, not \"system\""),
        Case(
            .top, "resolver 1.1.1.1:0 [::1]:99999;", "1:10: expected a port from 1 to 65535, not \"0\"",
            "1:20: expected a port from 1 to 65535, not \"99999\""),
        Case(.top, "max_connections 0;", "1:17: 0 is out of range; it can be from 1 to 10000000"),
        Case(.top, "relay_buffer 1k;", "1:14: 1k is out of range; it can be from 4k to 1m"),
        Case(.top, "relay_buffer 64kb;", "1:14: expected a size such as 512, 64k, 1m or 2g, not \"64kb\""),
        Case(.top, "relay_buffer 999999999999999g;", "1:14: 999999999999999g is out of range; it can be from 4k to 1m"),
    ]

    static let upstreams: [Case] = [
        Case(
            .top, "upstream a { }", "1:1: the upstream \"a\" has no server",
            "1:1: warning: the upstream \"a\" is used by no route"),
        Case(
            .top, "upstream \"a b\" { server a:1; }",
            "1:1: warning: the upstream \"\" is used by no route",
            "1:10: a name is 1 to 64 letters, digits and \"-_.\", not \"a b\""),
        Case(
            .upstream, "}\nupstream u { server a:1; ", "2:1: warning: the upstream \"u\" is used by no route",
            "2:10: a second upstream \"u\"; first at proxy.conf:1:1"),
        Case(.upstream, "server b;", "1:8: \"b\" needs a port: HOST:PORT"),
        Case(.upstream, "server b:0;", "1:8: expected a port from 1 to 65535, not \"0\""),
        Case(.upstream, "server b:x;", "1:8: expected a port from 1 to 65535, not \"x\""),
        Case(
            .upstream, "server http://b:1;",
            "1:8: expected HOST:PORT or unix:PATH, not \"http://b:1\"; this is no place for a URL or a path"),
        Case(
            .upstream, "server ::1:80;",
            "1:8: an IPv6 address stands in brackets, with the port behind: [2001:db8::1]:8080"),
        Case(.upstream, "server [::g]:80;", "1:8: \"[::g]\" is not an IPv6 address in brackets"),
        Case(.upstream, "server [::1];", "1:8: \"[::1]\" needs a port: HOST:PORT"),
        Case(.upstream, "server 1.2.3:80;", "1:8: \"1.2.3\" is neither an IP address nor the name of a host"),
        Case(.upstream, "server a..b:80;", "1:8: \"a..b\" is neither an IP address nor the name of a host"),
        Case(.upstream, "server unix:;", "1:8: unix: needs the path of a socket behind it"),
        Case(
            .upstream, "server unix:/\(String(repeating: "x", count: 107));",
            "1:8: the path is longer than 107 bytes, the most a socket takes"),
        Case(.upstream, "server A:1;", "1:8: this server is here twice; first at proxy.conf:2:1"),
        Case(
            .upstream, "server b weight=0 max_exchanges=x family=ip4;", "1:8: \"b\" needs a port: HOST:PORT",
            "1:10: 0 is out of range; it can be from 1 to 1000", "1:19: expected a number from 1 to 1000000, not \"x\"",
            "1:35: expected any, ipv4 or ipv6, not \"ip4\"; did you mean \"ipv4\"?"),
        Case(
            .upstream, "server 1.2.3.4:5 family=ipv4;",
            "1:18: \"family\" is for the names of servers; this one is an address"),
        Case(
            .upstream, "server b:1 backup;",
            "1:12: \"server\" has no option \"backup\"; write: server ADDRESS [weight=N] [max_exchanges=N] "
                + "[family=any|ipv4|ipv6];"),
        Case(
            .upstream, "balance roundrobin;",
            "1:9: expected round_robin or least_outstanding, not \"roundrobin\"; did you mean \"round_robin\"?"),
        Case(.upstream, "keepalive 0;", "1:11: 0 is out of range; it can be from 1 to 1000000"),
        Case(
            .upstream, "keepalive off idle=1s;",
            "1:15: \"keepalive off\" keeps no connections; options have no use with it"),
        Case(
            .upstream, "keepalive 8 idle=0 requests=x age=1;",
            "1:13: a duration of 0 would end everything at once; write off for none",
            "1:20: expected a number from 0 to 1000000000, not \"x\"", "1:31: 1 needs a unit: ms, s, m, h or d"),
        Case(
            .upstream, "queue_timeout off;",
            "1:15: expected a duration such as 500ms, 10s, 5m, 1h or 1d, not \"off\""),
    ]

    static let listeners: [Case] = [
        Case(
            .listener, "}\nlistener m {", "2:1: the listener \"m\" has no bind", "2:1: the listener \"m\" has no route"),
        Case(
            .listener, "}\nlistener l {\nbind 2; route / { respond 200; }",
            "2:10: a second listener \"l\"; first at proxy.conf:1:1"),
        Case(.listener, "bind localhost:80;", "1:6: \"localhost\" is not an IP address; a name cannot be bound"),
        Case(.listener, "bind 1.2.3.4;", "1:6: \"1.2.3.4\" needs a port: ADDRESS:PORT"),
        Case(.listener, "bind 65536;", "1:6: expected a port from 0 to 65535, not \"65536\""),
        Case(.listener, "bind 0.0.0.0:1;", "1:6: this address is bound twice; first at proxy.conf:2:1"),
        Case(.listener, "bind 2 backlog=0;", "1:8: 0 is out of range; it can be from 1 to 65535"),
        Case(.listener, "bind 2 tsl;", "1:8: \"bind\" has no option \"tsl\"; did you mean \"tls\"?"),
        Case(.listener, "host a { }", "1:1: this host has no route"),
        Case(
            .listener, "host { route / { respond 200; } }",
            "1:1: \"host\" needs an argument; write: host NAME ... { ... }"),
        Case(
            .listener, "host a A b. b:80 * a.*.c *x ü [::1]:80 [x] -- { route / { respond 200; } }",
            "1:8: the host \"a\" is in this listener twice; first at proxy.conf:4:6",
            "1:10: \"b.\": leave the dot at the end out",
            "1:13: \"b:80\": a host has no port here; IPv6 goes in brackets",
            "1:18: for every host, write the routes outside of any host section",
            "1:20: \"a.*.c\": the only wildcard is \"*.\" at the front",
            "1:26: \"*x\": the only wildcard is \"*.\" at the front",
            "1:29: \"ü\": write an international name in its ASCII form (xn--...)",
            "1:31: \"[::1]:80\": a host has no port here", "1:40: \"[x]\" is not an IPv6 address in brackets"),
        Case(
            .listener, "request_target_max 64k;",
            "1:1: request_target_max (64k) is larger than request_head_max (32k)"),
        Case(.top, "request_head_max 4k;", "1:1: request_target_max (8k) is larger than request_head_max (4k)"),
        Case(.listener, "request_head_max 512k;", "1:18: 512k is out of range; it can be from 1k to 256k"),
        Case(.listener, "fields_max 7;", "1:12: 7 is out of range; it can be from 8 to 1000"),
        Case(
            .listener, "keepalive_timeout 0;",
            "1:19: a duration of 0 would end everything at once; write off for none"),
        Case(
            .listener, "keepalive_timeout x;",
            "1:19: expected off or a duration such as 500ms, 10s, 5m, 1h or 1d, not \"x\""),
        Case(.listener, "request_min_rate 0;", "1:18: 0 is out of range; it can be from 1 to 1g"),
        Case(
            .listener, "trusted_proxies 10.0.0.1/8 10.0.0.0/33 x off;",
            "1:17: \"10.0.0.1/8\" has bits set behind its prefix; write the network's first address",
            "1:28: expected a network such as 10.0.0.0/8, an IP address or unix:, not \"10.0.0.0/33\"",
            "1:40: expected a network such as 10.0.0.0/8, an IP address or unix:, not \"x\"",
            "1:42: expected a network such as 10.0.0.0/8, an IP address or unix:, not \"off\""),
        Case(.listener, "via \"a b\";", "1:5: expected off or a token or HOST[:PORT], not \"a b\""),
        Case(.listener, "via a:99999;", "1:5: expected off or a token or HOST[:PORT], not \"a:99999\""),
        Case(
            .listener, "retries 2;",
            "1:1: \"retries\" is not allowed in a listener; it belongs at top level, "
                + "in an upstream or in a route"),
    ]

    static let routes: [Case] = [
        Case(.listener, "route / { respond 404; }", "1:1: the route \"/\" is here twice; first at proxy.conf:3:1"),
        Case(.host, "route / { respond 404; }", "1:1: the route \"/\" is here twice; first at proxy.conf:4:1"),
        Case(.listener, "route x { respond 200; }", "1:7: a path begins with \"/\"; write: route PATH or route = PATH"),
        Case(
            .listener, "route ~ /x { respond 200; }",
            "1:7: expected \"=\" before the path, not \"~\"; write: route [=] PATH { ... }"),
        Case(
            .listener, "route = /a /b { respond 200; }",
            "1:12: \"route\" takes no argument here; write: route [=] PATH { ... }"),
        Case(.listener, "route /a?b { respond 200; }", "1:7: a route matches the path; the query has no part in it"),
        Case(.listener, "route /a#b { respond 200; }", "1:7: a path has no fragment"),
        Case(
            .listener, "route /ä { respond 200; }",
            "1:7: a path is ASCII without spaces; write other bytes as they are sent, like %20"),
        Case(.listener, "route /a { }", "1:1: this route does nothing; give it an upstream, a respond or a redirect"),
        Case(.listener, "route /a { upstream nix; }", "1:21: there is no upstream \"nix\""),
        Case(.route, "upstream u;", "1:1: a second \"upstream\" in this block; first at proxy.conf:5:1"),
        Case(.route, "upstream v { }", "1:1: a second \"upstream\" in this block; first at proxy.conf:5:1"),
        Case(
            .route, "respond 200;",
            "1:1: a route does one thing: \"respond\" stands beside the \"upstream\" at proxy.conf:5:1"),
        Case(
            .route, "redirect 301 /;",
            "1:1: a route does one thing: \"redirect\" stands beside the \"upstream\" at proxy.conf:5:1"),
        Case(.listener, "route /a { respond 199; }", "1:20: 199 is out of range; it can be from 200 to 599"),
        Case(.listener, "route /a { respond 204 x; }", "1:24: a 204 response has no content"),
        Case(
            .listener, "route /a { respond 2xx $hst; }", "1:20: expected a number from 200 to 599, not \"2xx\"",
            "1:24: there is no variable \"$hst\"; did you mean \"$host\"?"),
        Case(
            .listener, "route /a { redirect 302; }",
            "1:12: \"redirect\" needs another argument; write: redirect STATUS URL;"),
        Case(.listener, "route /a { redirect 304 /x; }", "1:21: expected 301, 302, 303, 307 or 308, not \"304\""),
        Case(
            .listener, "route /a { redirect 308 \"/x y\"; }",
            "1:25: a URL is ASCII without spaces; write other bytes like %20"),
        Case(.listener, "route /a { redirect 308 \"\"; }", "1:25: the URL is empty"),
        Case(.route, "interim http1;", "1:9: expected forward, http2 or off, not \"http1\"; did you mean \"http2\"?"),
        Case(
            .route, "on_client_close halfclose;",
            "1:17: expected abort, finish or half_close, not \"halfclose\"; did you mean \"half_close\"?"),
        Case(.route, "retries 11;", "1:9: 11 is out of range; it can be from 0 to 10"),
        Case(.route, "balance round_robin;", "1:1: \"balance\" is not allowed in a route; it belongs in an upstream"),
    ]

    static let fieldEdits: [Case] = [
        Case(.route, "set_request_field \"a b\" c;", "1:19: \"a b\" is not the name of a field"),
        Case(
            .route, "set_request_field A;",
            "1:1: \"set_request_field\" needs another argument; write: set_request_field NAME VALUE;"),
        Case(
            .route, "remove_request_field A b;",
            "1:24: \"remove_request_field\" takes no argument here; write: remove_request_field NAME;"),
        Case(.route, "set_request_field A \"b\\nc\";", "1:21: a field's value holds no control bytes"),
        Case(
            .route, "set_request_field A \" b\";",
            "1:21: a field's value does not begin with a blank; it would be lost on the way"),
        Case(
            .route, "set_request_field A \"$host \";",
            "1:21: a field's value does not end with a blank; it would be lost on the way"),
        Case(
            .route, "set_request_field A b;\nset_request_field a c;",
            "2:19: \"a\" is set twice in this block; first at proxy.conf:6:1"),
        Case(.route, "set_request_field A $nod;", "1:21: there is no variable \"$nod\"; did you mean \"$node\"?"),
        Case(.route, "add_request_field Host a;", "1:19: a request has exactly one Host; it can be set, but not added"),
        Case(
            .route, "remove_request_field host;", "1:22: a request has exactly one Host; it can be set, but not removed"
        ),
        Case(.route, "set_response_field Host a;", "1:20: Host is a field of requests only"),
        Case(.route, "set_request_field Host a/b;", "1:24: \"a/b\" is not HOST or HOST:PORT"),
        Case(.route, "set_request_field Host \"\";", "1:24: Host cannot be empty"),
        Case(.route, "set_request_field Expect x;", "1:19: Expect is settled between the client and the upstream"),
    ]

    @Test(arguments: process) func theProcess(_ example: Case) {
        #expect(mistakes(in: example.place, example.text) == example.mistakes)
    }

    @Test(arguments: upstreams) func theUpstreams(_ example: Case) {
        #expect(mistakes(in: example.place, example.text) == example.mistakes)
    }

    @Test(arguments: listeners) func theListeners(_ example: Case) {
        #expect(mistakes(in: example.place, example.text) == example.mistakes)
    }

    @Test(arguments: routes) func theRoutes(_ example: Case) {
        #expect(mistakes(in: example.place, example.text) == example.mistakes)
    }

    @Test(arguments: fieldEdits) func theFieldEdits(_ example: Case) {
        #expect(mistakes(in: example.place, example.text) == example.mistakes)
    }

    @Test(
        arguments: ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "upgrade"],
        ["set_request_field", "add_response_field", "remove_request_field"])
    func fieldsOfAConnection(_ name: String, _ directive: String) {
        let value = directive.hasPrefix("remove") ? "" : " x"
        #expect(
            mistakes(in: .route, "\(directive) \(name)\(value);") == [
                "1:\(directive.utf8.count + 2): \(name) belongs to one connection, and the proxy writes it for each of its own"
            ])
    }

    @Test(arguments: ["Transfer-Encoding", "content-length", "Trailer", "Content_Length"]) func fieldsOfFraming(
        _ name: String
    ) {
        #expect(
            mistakes(in: .listener, "set_response_field \(name) x;") == [
                "1:20: \(name) is framing, and the proxy writes it from the content in hand"
            ])
    }

    @Test func fieldEditsOfABlockAreCounted() {
        let edits = (1...257).map { "add_request_field A \($0);\n" }
        #expect(mistakes(in: .route, edits.prefix(256).joined()).isEmpty)
        #expect(mistakes(in: .route, edits.joined()) == ["257:1: more than 256 field edits in one block"])
    }

    @Test func everyMistakeIsFoundInOneGo() {
        let text = """
            workers none;
            upstream app {
                server app;
                balance fair;
            }
            listener web {
                bind everywhere:80;
                route / { upstream ap; }
                route /x { respond 99; }
            }
            """
        #expect(
            mistakes(text) == [
                "1:9: expected auto or a number from 1 to 1024, not \"none\"",
                "3:12: \"app\" needs a port: HOST:PORT",
                "4:13: expected round_robin or least_outstanding, not \"fair\"",
                "7:10: \"everywhere\" is not an IP address; a name cannot be bound",
                "8:24: there is no upstream \"ap\"; did you mean \"app\"?",
                "9:24: 99 is out of range; it can be from 200 to 599",
            ])
    }
}
