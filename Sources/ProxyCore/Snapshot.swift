// A configuration as a worker reads it: each worker has its own, so nothing of it is shared between threads.
// Exchanges and connections hold a snapshot by a plain counter; the last one that lets go of a replaced snapshot
// frees it.

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// A route, compiled. Reached by pointer; lives as long as its snapshot.
public struct CompiledRoute {
    /// What answers.
    public enum Action {
        /// An upstream, by its index in the configuration.
        case upstream(Int)
        /// A status and a text.
        case respond(UInt16, CompiledTemplate)
        /// A status and a Location.
        case redirect(UInt16, CompiledTemplate)
        /// What CONNECT asks for, under the rules at this index of `Snapshot.connectRules`.
        case dial(Int)
    }
    /// Its place among all routes of the configuration, by which it is counted: see `RouteNumbering`.
    public let number: Int
    /// The name for logs.
    public let name: UnsafeBufferPointer<UInt8>
    /// The upstream's name, or nothing.
    public let upstreamName: UnsafeBufferPointer<UInt8>
    /// What answers.
    public let action: Action
    /// Edits of the request's fields.
    public let requestEdits: CompiledEdits
    /// Edits of the response's fields.
    public let responseEdits: CompiledEdits
    /// Rules of forwarding.
    public let forwarding: Forwarding
    /// Timers of the upstream's side.
    public let timers: UpstreamTimers
}

/// A listener, compiled. Reached by pointer; lives as long as its snapshot.
public struct CompiledListener {
    /// The name.
    public let name: UnsafeBufferPointer<UInt8>
    /// Where requests go.
    public let router: Router
    /// Where CONNECT goes; nil refuses it.
    public let connectRoute: UnsafePointer<CompiledRoute>?
    /// Bounds of a request's head.
    public let headLimits: HeadLimits
    /// Timers of the client's side.
    public let timers: DownstreamTimers
    /// Networks whose forwarding fields are believed.
    public let trustedNetworks: UnsafeBufferPointer<IPNetwork>
    /// Whether peers on Unix sockets are believed.
    public let trustsUnixPeers: Bool
    /// Whether clients may speak HTTP/2 in clear.
    public let allowsHTTP2InClear: Bool
    /// What we add to Via behind the version; nothing if it is off.
    public let via: UnsafeBufferPointer<UInt8>
    /// How often a request may have come by here.
    private static let roundsMax = 10

    /// Whether a request has come by here so often that it goes round in a loop. Without `via` nobody can tell.
    @inline(never)
    public func isLoop(_ head: Head) -> Bool {
        !via.isEmpty && head.viaCount(of: UnsafeBufferPointer(rebasing: via.dropFirst())) >= Self.roundsMax
    }

    /// How errors are written where no route was found.
    public let errorFormat: ErrorFormat
    /// Rules for requests that no route was found for.
    public let forwardingWithoutRoute: Forwarding
    /// Its place in the order of the file.
    public let index: Int
    /// The number by which requests without a route are counted.
    public let numberWithoutRoute: Int
}

/// The whole.
public final class Snapshot {
    /// Listeners in the order of the file.
    public let listeners: UnsafeBufferPointer<CompiledListener>
    /// What listeners allow CONNECT to reach.
    public let connectRules: [ConnectRules]
    /// This machine's name.
    public let nodeName: UnsafeBufferPointer<UInt8>
    /// What may wait in user space for one direction.
    public let relayBufferBytes: Int
    /// The most field lines that any listener admits.
    public let fieldsMax: Int
    /// The most bytes that one head, or one answer of our own, can take when it is written, whatever a peer sends.
    public let headWriteBytesMax: Int
    private let arena = Arena()

    /// Compiles a configuration.
    public init(_ configuration: Configuration, nodeName: String) {
        let arena = arena
        self.nodeName = arena.copy(nodeName)
        relayBufferBytes = configuration.relayBufferBytes
        fieldsMax = configuration.listeners.map(\.limits.fieldsMax).max() ?? 128
        headWriteBytesMax = configuration.headWriteBytesMax(nodeNameBytes: nodeName.utf8.count)
        var connectRules: [ConnectRules] = []
        var number = 0
        listeners = UnsafeBufferPointer(
            arena.copy(
                configuration.listeners.enumerated().map { index, listener in
                    let first = number
                    number += listener.routeCount + 1
                    return CompiledListener(
                        name: arena.copy(listener.name),
                        router: Router(
                            listener.hosts, upstreams: configuration.upstreams, firstNumber: first, in: arena),
                        connectRoute: listener.connect.flatMap { route in
                            let compiled = CompiledRoute(
                                route, number: number - 2, upstreams: configuration.upstreams,
                                connectRules: &connectRules, in: arena)
                            return UnsafePointer(arena.copy([compiled]).baseAddress)
                        },
                        headLimits: HeadLimits(
                            headBytesMax: listener.limits.headBytesMax, fieldsMax: listener.limits.fieldsMax,
                            targetBytesMax: listener.limits.targetBytesMax),
                        timers: listener.timers,
                        trustedNetworks: UnsafeBufferPointer(arena.copy(listener.trustedProxies.networks)),
                        trustsUnixPeers: listener.trustedProxies.includesUnixPeers,
                        allowsHTTP2InClear: listener.http2 == .on,
                        via: arena.copy(listener.via.map { " " + $0 } ?? ""), errorFormat: listener.errorFormat,
                        forwardingWithoutRoute: Forwarding(withoutRouteIn: listener), index: index,
                        numberWithoutRoute: number - 1)
                }))
        self.connectRules = connectRules
    }
}
