// What would become of a request, from the configuration alone: no socket, no name looked up, nothing remembered. The
// parts that serve do the work: the codec's reader, the snapshot's router, the exchange's own decisions, and the writers of
// heads. What only a connection could tell has stand-ins, and `standIns` says which of them can be seen.
//
// `Decision` repeats the order in which a worker asks when a request's head is there; a test holds what is explained
// against what the running proxy sends.

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// Reads a request's head into the scratch as the codec does that serves, and returns what is wrong with it. The core
/// does not know in which version of HTTP a request comes, so it is handed in.
public typealias RequestHeadReader = (
    _ bytes: UnsafeBufferPointer<UInt8>, _ head: Head, _ limits: HeadLimits
) -> HeadFault?

/// What would become of a request.
public struct Explanation: Equatable, Sendable {
    /// What answers it.
    public enum Outcome: Equatable, Sendable {
        /// An upstream; the head as it goes up.
        case forwarded(head: [UInt8])
        /// A tunnel to where CONNECT asks for; the answer when it stands.
        case dialled(response: [UInt8])
        /// The proxy, as the route says or as the final recipient.
        case answered(status: UInt16, response: [UInt8])
        /// The proxy, by an error.
        case refused(Failure, HeadFault, response: [UInt8])
    }

    /// The route that matched.
    public struct MatchedRoute: Equatable, Sendable {
        /// The names of its host section; empty for the listener's own routes.
        public var hosts: [String]
        /// The route.
        public var route: Route
        /// The upstream, if it leads to one.
        public var upstream: Upstream?
    }

    /// The request's head as a client would send it.
    public var request: ExplainedRequest
    /// The client's address.
    public var client: String
    /// Whether the client's forwarding fields are believed.
    public var clientIsTrusted: Bool
    /// The listener.
    public var listener: Listener
    /// Why it is this one.
    public var listenerChoice: ListenerChoice
    /// The route; nil if none matched or none was looked for.
    public var matched: MatchedRoute?
    /// What answers.
    public var outcome: Outcome
    /// How the request's content is delimited.
    public var framing: Framing
    /// The length that is declared, if `framing` is `.length`.
    public var contentBytes: UInt64
    /// How many field lines the request has.
    public var fieldCount: Int
    /// How long its target is.
    public var targetBytes: Int
    /// Whether the method is idempotent (RFC 9110 section 9.2.2).
    public var isIdempotent: Bool
    /// What may end in a tunnel.
    public var tunnelRequest: Exchange.TunnelRequest
    /// Whether the request has an Upgrade field.
    public var hasUpgrade: Bool
    /// What may be done of what that field asks for, whatever the route says.
    public var requestedUpgrade: RequestedUpgrade
    /// Whether the client waits for a 100 before it sends content.
    public var awaitsContinue: Bool
    /// Whether the client's connection ends with the exchange, as far as that is known before the answer.
    public var closesDownstream: Bool
    /// What in the text below stands for something that only a connection has.
    public var standIns: [String]
    /// Bounds, in the order in which they are met.
    public var limits: [ExplainedLimit]
    /// Timers that would run, in the order of the phases.
    public var timers: [ExplainedTimer]
    /// What may make bytes wait on their way, and what of them does not pass.
    public var mayHoldBack: [String]

    /// The stand-in for the client's address (RFC 5737).
    public static let clientStandIn = IPAddress(ipv4: 0xC000_0201)
    /// The stand-in for the client's port, the first of the dynamic ones (RFC 6335 section 6).
    public static let clientPortStandIn: UInt16 = 49152
    private static var versionStandIn: String { "TLSv1.3" }
    private static var cipherStandIn: String { "TLS_AES_128_GCM_SHA256" }
    private static var dateStandIn: StaticString { "Thu, 01 Jan 1970 00:00:00 GMT" }

    /// Explains a request.
    /// - Parameters:
    ///   - request: the request.
    ///   - configuration: the configuration.
    ///   - name: the listener's name; nil takes the first with an address that the URL may lead to, else the first.
    ///   - client: the client's address; nil takes a stand-in.
    ///   - nodeName: this machine's name.
    ///   - readHead: reads the head.
    public init(
        of request: ExplainedRequest, in configuration: Configuration, listener name: String? = nil,
        client: IPAddress? = nil, nodeName: String, readingHeadBy readHead: RequestHeadReader
    ) throws(ExplanationError) {
        let (listenerIndex, bindIndex, choice) = try configuration.listener(for: request, named: name)
        let listener = configuration.listeners[listenerIndex]
        let snapshot = Snapshot(configuration, nodeName: nodeName)
        let head = Head(fieldsCapacity: max(1000, snapshot.fieldsMax))
        defer { head.destroy() }
        var comesByUnix = false
        if client == nil, case .unix = listener.binds[bindIndex].endpoint { comesByUnix = true }
        let compiled = snapshot.listeners[listenerIndex]
        let address = client ?? Self.clientStandIn
        var peer = Peer(
            address: address, port: Self.clientPortStandIn, isUnix: comesByUnix,
            isTrusted: comesByUnix
                ? compiled.trustsUnixPeers : compiled.trustedNetworks.contains { $0.contains(address) })
        let texts = Arena()
        if request.isSecure {
            let none = UnsafeBufferPointer<UInt8>(start: nil, count: 0)
            let tls = PeerTLS(
                version: texts.copy(Self.versionStandIn), cipher: texts.copy(Self.cipherStandIn),
                serverName: texts.copy((request.host ?? "").lowercased()), certificateText: none,
                verifiesClients: false)
            if let place = texts.copy([tls]).baseAddress { peer.tlsEstablished(place) }
        }
        defer { withExtendedLifetime(texts) {} }
        let walk = request.bytes.withUnsafeBufferPointer { bytes in
            Walk(bytes, head, snapshot, compiled, peer, dateText: Self.dateStandIn, readHead)
        }
        self.request = request
        self.client = comesByUnix ? "unix:" : address.description
        clientIsTrusted = peer.isTrusted
        self.listener = listener
        listenerChoice = choice
        matched = walk.matched(in: configuration, listener)
        outcome = walk.outcome
        framing = walk.framing
        contentBytes = walk.contentBytes
        fieldCount = walk.fieldCount
        targetBytes = walk.targetBytes
        isIdempotent = walk.isIdempotent
        tunnelRequest = walk.machine.tunnelRequest
        hasUpgrade = walk.hasUpgrade
        requestedUpgrade = walk.requestedUpgrade
        awaitsContinue = walk.machine.awaitsContinue
        closesDownstream = walk.machine.closesDownstream
        standIns = []
        limits = []
        timers = []
        mayHoldBack = []
        standIns = explainStandIns(
            clientIsStandIn: client == nil && !comesByUnix, idIsOurs: !walk.hasRequestID)
        limits = explainLimits(configuration)
        timers = explainTimers()
        mayHoldBack = explainHolds(configuration)
    }

    /// Which stand-ins are in the text of the outcome.
    private func explainStandIns(clientIsStandIn: Bool, idIsOurs: Bool) -> [String] {
        var found: [String] = []
        func note(_ text: String, _ meaning: String) {
            if outcomeText.contains(text) { found.append("\(text) stands for \(meaning)") }
        }
        if clientIsStandIn { note(client, "the client's address (--client names another)") }
        if outcomeText.contains(":\(Self.clientPortStandIn)") { found.append("49152 stands for the client's port") }
        if idIsOurs { note(String(repeating: "0", count: 32), "a request id of the proxy's own") }
        note(Self.dateStandIn.description, "the time of the answer")
        if request.isSecure {
            note(Self.versionStandIn, "the version of TLS that the handshake agrees on")
            note(Self.cipherStandIn, "the cipher suite that it agrees on")
        }
        return found
    }

    /// The head that goes up, or the answer of the proxy's own.
    public var outcomeText: String {
        switch outcome {
        case .forwarded(let bytes), .dialled(let bytes), .answered(_, let bytes), .refused(_, _, let bytes):
            String(decoding: bytes, as: UTF8.self)
        }
    }
}

/// What to do with a request whose head was read or refused: the order of a worker's questions.
private enum Decision {
    case refuse(Failure, HeadFault)
    case respond(UInt16, CompiledTemplate)
    case redirect(UInt16, CompiledTemplate)
    case answerAsFinalRecipient
    case forward
    case dial

    init(
        _ head: Head, fault: HeadFault?, _ machine: Exchange, _ route: UnsafePointer<CompiledRoute>?,
        _ listener: CompiledListener, _ snapshot: Snapshot
    ) {
        let storage = head.storage
        if let fault {
            self = .refuse(.requestRefused, fault)
        } else if storage.pointee.method == .connect {
            self = Decision(connect: head, route, listener, snapshot)
        } else if route == nil {
            self = .refuse(.noRoute, .startLine)
        } else if storage.pointee.framing == .length, machine.exceedsContentMax(storage.pointee.contentLength) {
            self = .refuse(.requestContentTooLong, .startLine)
        } else if storage.pointee.facts.contains(.maxForwards), storage.pointee.maxForwards == 0 {
            self = .answerAsFinalRecipient
        } else {
            switch route?.pointee.action {
            case .upstream: self = listener.isLoop(head) ? .refuse(.loopDetected, .startLine) : .forward
            case .respond(let status, let text): self = .respond(status, text)
            case .redirect(let status, let location): self = .redirect(status, location)
            case .dial, nil: preconditionFailure("only CONNECT dials")
            }
        }
    }

    private init(
        connect head: Head, _ route: UnsafePointer<CompiledRoute>?, _ listener: CompiledListener, _ snapshot: Snapshot
    ) {
        guard head.storage.pointee.framing == .none else {
            // With framing fields it is no CONNECT at all (RFC 9110 section 9.3.6).
            self = .refuse(.requestRefused, .connectContent)
            return
        }
        switch route?.pointee.action {
        case .upstream: self = listener.isLoop(head) ? .refuse(.loopDetected, .startLine) : .forward
        case .dial(let rules):
            let destination = ConnectDestination(head.bytes(head.storage.pointee.authority))
            let verdict = destination.map { snapshot.connectRules[rules].judge($0) } ?? .denied
            self = verdict == .denied ? .refuse(.connectForbidden, .startLine) : .dial
        case .respond, .redirect, nil: self = .refuse(.methodNotAllowed, .startLine)
        }
    }
}

/// The way of the request through what serves. Everything is read while the head is in the scratch.
private struct Walk {
    var machine: Exchange
    let outcome: Explanation.Outcome
    let framing: Framing
    let contentBytes: UInt64
    let fieldCount: Int
    let targetBytes: Int
    let isIdempotent: Bool
    let hasUpgrade: Bool
    let requestedUpgrade: RequestedUpgrade
    let hasRequestID: Bool
    /// Where the route stands among the listener's; nil if none matched.
    let routePosition: Int?
    /// Whether it is the one that CONNECT has.
    let isConnectRoute: Bool

    init(
        _ bytes: UnsafeBufferPointer<UInt8>, _ head: Head, _ snapshot: Snapshot, _ listener: CompiledListener,
        _ peer: Peer, dateText: StaticString, _ readHead: RequestHeadReader
    ) {
        let fault = readHead(bytes, head, listener.headLimits)
        let storage = head.storage
        var route: UnsafePointer<CompiledRoute>?
        isConnectRoute = fault == nil && storage.pointee.method == .connect
        if fault == nil { route = isConnectRoute ? listener.connectRoute : listener.router.route(head) }
        routePosition = isConnectRoute ? nil : route.flatMap { listener.router.position(of: $0) }
        var dials = false
        if case .dial? = route?.pointee.action { dials = true }
        var machine = Exchange(
            requestHeadReceived: head, forwarding: route?.pointee.forwarding ?? listener.forwardingWithoutRoute,
            mayPersist: true, dials: dials, now: 1)
        framing = storage.pointee.framing
        contentBytes = framing == .length ? storage.pointee.contentLength : 0
        fieldCount = storage.pointee.fieldCount
        targetBytes = Int(storage.pointee.target.count)
        isIdempotent = storage.pointee.method.isIdempotent
        hasUpgrade = fault == nil && storage.pointee.facts.contains(.mayOpenTunnel) && !isConnectRoute
        requestedUpgrade = hasUpgrade ? head.requestedUpgrade : .none
        hasRequestID = storage.pointee.facts.contains(.requestID)
        let decision = Decision(head, fault: fault, machine, route, listener, snapshot)
        let writing = Writing(
            head: head, listener: listener, route: route, peer: peer, snapshot: snapshot,
            date: UnsafeBufferPointer(start: dateText.utf8Start, count: dateText.utf8CodeUnitCount))
        outcome = writing.outcome(of: decision, &machine)
        self.machine = machine
    }

    /// The route in the configuration's own words.
    func matched(in configuration: Configuration, _ listener: Listener) -> Explanation.MatchedRoute? {
        var found: (hosts: [String], route: Route)?
        if isConnectRoute {
            found = listener.connect.map { ([], $0) }
        } else if let routePosition {
            let all = listener.hosts.flatMap { host in host.routes.map { (host.patterns, $0) } }
            found = all[routePosition]
        }
        guard let found else { return nil }
        var upstream: Upstream?
        if case .upstream(let index) = found.route.action { upstream = configuration.upstreams[index] }
        return Explanation.MatchedRoute(hosts: found.hosts, route: found.route, upstream: upstream)
    }
}

/// The heads and answers, by those who write them when the proxy serves.
private struct Writing {
    let head: Head
    let listener: CompiledListener
    let route: UnsafePointer<CompiledRoute>?
    let peer: Peer
    let snapshot: Snapshot
    let date: UnsafeBufferPointer<UInt8>
    let requestID = RequestID(high: 0, low: 0)

    func outcome(of decision: Decision, _ machine: inout Exchange) -> Explanation.Outcome {
        switch decision {
        case .forward:
            machine.upstreamSought()
            _ = machine.upstreamAttached(isReused: false, now: 1)
            return .forwarded(head: forwardedHead(machine))
        case .dial:
            machine.upstreamSought()
            _ = machine.upstreamAttached(isReused: false, now: 1)
            let context = context(machine)
            return .dialled(response: written { LocalResponse.writeTunnelAccepted(context: context, to: &$0) })
        case .refuse(let failure, let fault):
            _ = machine.refused(failure, fault: fault)
            let context = answering(failure.status(fault), &machine)
            let format = route?.pointee.forwarding.errorFormat ?? listener.errorFormat
            return .refused(
                failure, fault,
                response: written {
                    LocalResponse.writeFailure(failure, fault: fault, format: format, context: context, to: &$0)
                })
        case .answerAsFinalRecipient:
            let context = answering(200, &machine)
            let isTrace = head.storage.pointee.method == .trace
            return .answered(
                status: 200,
                response: written {
                    if isTrace {
                        LocalResponse.writeTrace(head, context: context, to: &$0)
                    } else {
                        LocalResponse.writeOptions(context: context, to: &$0)
                    }
                })
        case .respond(let status, let text):
            let context = answering(status, &machine)
            return .answered(
                status: status,
                response: written {
                    LocalResponse.writeText(
                        status: status, text: text, values: values, edits: edits, context: context, to: &$0)
                })
        case .redirect(let status, let location):
            let context = answering(status, &machine)
            return .answered(
                status: status,
                response: written {
                    LocalResponse.writeRedirect(
                        status: status, location: location, values: values, edits: edits, context: context, to: &$0)
                })
        }
    }

    private var edits: CompiledEdits {
        guard let route else { preconditionFailure("no route answers") }
        return route.pointee.responseEdits
    }

    private func answering(_ status: UInt16, _ machine: inout Exchange) -> LocalResponseContext {
        let storage = head.storage
        machine.localAnswerBegan(
            status: status,
            requestContentRemaining: storage.pointee.framing == .length ? storage.pointee.contentLength : nil)
        return context(machine)
    }

    private func context(_ machine: Exchange) -> LocalResponseContext {
        let via = listener.via
        return LocalResponseContext(
            isToHTTP10: head.storage.pointee.facts.contains(.isHTTP10), isToHEAD: head.storage.pointee.method == .head,
            closes: machine.closesDownstream, date: date,
            proxyName: via.isEmpty ? via : UnsafeBufferPointer(rebasing: via.dropFirst()))
    }

    private var values: VariableValues {
        VariableValues(
            head, requestID: requestID, peer: peer, listenerName: listener.name, route: route,
            nodeName: snapshot.nodeName)
    }

    private func forwardedHead(_ machine: Exchange) -> [UInt8] {
        guard let route else { preconditionFailure("no route") }
        return withUnsafePointer(to: peer) { peer in
            if route.pointee.requestEdits.isEmpty, HeadRewrite.isUsualRequest(head, from: peer) {
                return written {
                    HeadRewrite.writeUsualRequest(head, from: peer, requestID: requestID, via: listener.via, to: &$0)
                }
            }
            let rewrite = HeadRewrite(head, values: values, via: listener.via)
            return written {
                // A server's own name would be Host only for a client of HTTP/1.0, and this one is not.
                rewrite.writeRequest(
                    edits: route.pointee.requestEdits, serverAuthority: UnsafeBufferPointer(start: nil, count: 0),
                    passesUpgrade: machine.wantsUpgrade, to: &$0)
            }
        }
    }

    /// Room is bounded as it is for a worker.
    private func written(_ body: (inout ByteWriter) -> Void) -> [UInt8] {
        let capacity = snapshot.headWriteBytesMax
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
        defer { room.deallocate() }
        var out = ByteWriter(base: room, capacity: capacity)
        body(&out)
        precondition(!out.isOverfull, "a head is larger than its bounds allow")
        return Array(out.bytes)
    }
}
