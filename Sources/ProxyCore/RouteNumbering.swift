// The numbers by which routes are counted. A worker's snapshot and whoever reads its counters both come to them from the
// configuration alone: listeners in their order; of each the routes of its hosts, then `connect`, then one number for
// requests that found no route.

import ProxyConfiguration

/// See the head of the file.
public struct RouteNumbering: Sendable {
    /// What is counted under one number.
    public struct Entry: Sendable, Hashable {
        /// The listener's name.
        public let listener: String
        /// The route's name for logs; nothing if no route was found.
        public let route: String
        /// The first name of the route's host section, which no other section has; nothing for routes of the listener's
        /// own.
        public let host: String
        /// The upstream's name, or nothing.
        public let upstream: String
        /// Whether a server answers, be it an upstream's or what CONNECT asked for.
        public let hasServer: Bool
    }

    /// The entries; a route's number is its index.
    public let entries: [Entry]

    /// Numbers the routes of a configuration.
    public init(_ configuration: Configuration) {
        var entries: [Entry] = []
        for listener in configuration.listeners {
            func add(_ route: Route, host: String) {
                var upstream = ""
                let hasServer: Bool
                switch route.action {
                case .upstream(let index):
                    upstream = configuration.upstreams[index].name
                    hasServer = true
                case .dial: hasServer = true
                case .respond, .redirect: hasServer = false
                }
                entries.append(
                    Entry(
                        listener: listener.name, route: route.name, host: host, upstream: upstream,
                        hasServer: hasServer))
            }
            for host in listener.hosts {
                for route in host.routes { add(route, host: host.patterns.first ?? "") }
            }
            if let connect = listener.connect { add(connect, host: "") }
            entries.append(Entry(listener: listener.name, route: "", host: "", upstream: "", hasServer: false))
        }
        self.entries = entries
    }
}

extension Listener {
    /// How many routes it has, `connect` among them.
    var routeCount: Int { hosts.reduce(connect == nil ? 0 : 1) { $0 + $1.routes.count } }
}
