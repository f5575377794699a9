// The sweep's world: a worker with a listener and two servers.

/// See the head of the file.
final class SweepWorld: WorkerWorld {
    let servers: SweepServers
    private let secure: SweepTLS?

    /// - Parameter secure: the TLS of those who speak it.
    init(secure: SweepTLS?) throws {
        self.secure = secure
        let serversTLS = secure?.isOnServers == true ? secure : nil
        servers = try SweepServers { serversTLS?.serve($0) ?? PlainTransport($0) }
        let text = """
            access_log off;
            http2 on;
            upstream servers {
                \(servers.ports.map { "server 127.0.0.1:\($0) max_exchanges=64;" }.joined(separator: " "))
                \(serversTLS == nil ? "" : "tls { verify off; }")
            }
            listener web {
                bind 127.0.0.1:0 \(secure?.isOnClients == true ? "tls; tls { certificate none none; }" : ";")
                connect upstream servers; route / { upstream servers; }
            }
            """
        try super.init(configuration: text, listenerContext: try secure?.listenerContext()) { _ in
            try secure?.serverPeer()
        }
    }

    deinit { servers.finish() }

    /// A client's connection.
    func connect() throws -> any SweepTransport {
        if let secure, secure.isOnClients { return try secure.connect(port: port) }
        return try PlainTransport(port: port)
    }
}
