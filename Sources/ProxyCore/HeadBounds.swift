// How large a head can become when it is written, from the configuration alone. Scratch is sized by it, so that
// nothing a peer sends can overfill it.

import ProxyConfiguration

extension Configuration {
    /// What we add of our own: forwarding fields and Via without the parts that come from the request, framing, Date,
    /// Proxy-Status and the like.
    private static var ownBytesMax: Int { 2048 }

    func headWriteBytesMax(nodeNameBytes: Int) -> Int {
        listeners.map { listener in
            let requestBytes = listener.limits.headBytesMax
            let viaBytes = listener.via?.utf8.count ?? 0
            let values = VariableBounds(
                requestBytesMax: requestBytes,
                nameBytesMax: nodeNameBytes + listener.name.utf8.count
                    + (upstreams.map(\.name.utf8.count).max() ?? 0))
            // Host is written up to four times: as CONNECT's target, as itself, in X-Forwarded-Host and in Forwarded.
            // TRACE is answered with the request.
            let verifiesClients = listener.tls.contains { $0.clientVerification != .off }
            let request =
                requestBytes * 4 + viaBytes + Self.ownBytesMax
                + (verifiesClients ? PeerTLS.certificateTextBytesMax + 64 : 0)
            let routes = listener.hosts.flatMap(\.routes) + (listener.connect.map { [$0] } ?? [])
            return routes.map { route in
                let upward = request + values.bytesMax(of: route.requestEdits)
                let downward =
                    route.forwarding.responseHeadBytesMax + viaBytes + Self.ownBytesMax
                    + values.bytesMax(of: route.responseEdits)
                let local: Int =
                    switch route.action {
                    case .upstream, .dial: 0
                    case .respond(_, let text), .redirect(_, let text):
                        values.bytesMax(of: text, routeName: route.name) + values.bytesMax(of: route.responseEdits)
                            + Self.ownBytesMax
                    }
                return max(upward, downward, local)
            }.reduce(request, max)
        }.reduce(Self.ownBytesMax, max)
    }
}

/// How long values of variables can be.
private struct VariableBounds {
    /// No part of a request is longer than its head.
    let requestBytesMax: Int
    /// Names that the configuration gives.
    let nameBytesMax: Int

    func bytesMax(of edits: [FieldEdit]) -> Int {
        edits.map { $0.name.utf8.count + 4 + bytesMax(of: $0.value, routeName: "") }.reduce(0, +)
    }

    func bytesMax(of template: Template, routeName: String) -> Int {
        template.segments.map { segment in
            switch segment {
            case .literal(let bytes): bytes.count
            case .variable(let variable):
                switch variable {
                case .host, .method, .target, .path, .query, .requestID: max(requestBytesMax, 32)
                case .route: max(requestBytesMax, routeName.utf8.count)
                case .node, .listener, .upstream: nameBytesMax
                case .clientAddress, .clientPort, .scheme: 48
                case .tlsVersion, .tlsCipher: 64
                case .tlsServerName: 255
                }
            }
        }.reduce(0, +)
    }
}
