// CONNECT that we answer ourselves (`connect allow`): the target is judged, looked up on the resolver's thread if it
// is a name, and dialled, one address after the other. The 2xx goes out when there is a connection, not before.

import Bytes
import EventLoop
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

/// What an exchange keeps of a CONNECT that we answer. Reached by pointer; freed with the exchange.
struct Dial {
    let destination: ConnectDestination
    let verdict: ConnectRules.Verdict
    /// Where the target is, once that is known; tried in this order.
    var addresses: [IPAddress] = []
    var triedCount = 0
    /// The lookup that runs, and who makes it.
    var lookup: (resolver: Resolver, token: WatchToken)?
    /// The target, for the access log.
    let logName: UnsafeBufferPointer<UInt8>

    init(_ destination: ConnectDestination, _ verdict: ConnectRules.Verdict, target: UnsafeBufferPointer<UInt8>) {
        self.destination = destination
        self.verdict = verdict
        let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: target.count)
        _ = copy.initialize(from: target)
        logName = UnsafeBufferPointer(copy)
    }
}

extension Worker {
    /// A CONNECT is in the scratch, and its listener dials.
    /// - Parameter rules: their index in the snapshot.
    func beginDialling(_ exchange: ExchangePointer, rules: Int) {
        let target = head.bytes(head.storage.pointee.authority)
        guard let destination = ConnectDestination(target),
            case let verdict = exchange.pointee.snapshot.pointee.snapshot.connectRules[rules].judge(destination),
            verdict != .denied
        else {
            perform(exchange.pointee.machine.refused(.connectForbidden), for: exchange)
            return
        }
        let dial = UnsafeMutablePointer<Dial>.allocate(capacity: 1)
        dial.initialize(to: Dial(destination, verdict, target: target))
        exchange.pointee.dial = dial
        exchange.pointee.machine.upstreamSought()
        switch destination.host {
        case .address(let address):
            dial.pointee.addresses = [address]
            dialNext(exchange, dial)
        case .name(let name):
            lookUp(name, for: exchange, dial)
        }
    }

    private func lookUp(_ name: String, for exchange: ExchangePointer, _ dial: UnsafeMutablePointer<Dial>) {
        guard let resolver = exchange.pointee.snapshot.pointee.generation.resolver else {
            preconditionFailure("names may be dialled, and nobody looks them up")
        }
        let mailbox = shared.mailboxes[number]
        let token = exchange.pointee.token
        let lookup = resolver.lookUp(name: name, family: .any) { mailbox.post(.targetLookedUp(token, $0)) }
        dial.pointee.lookup = (resolver, lookup)
        exchange.pointee.waitDeadlineMilliseconds = after(timers(of: exchange).connectMilliseconds)
        updateTimer(exchange)
    }

    /// The resolver's word on a target. Its exchange may be over by now.
    func targetLookedUp(_ token: SlabToken, _ outcome: ResolutionOutcome) {
        guard let exchange = exchanges.find(token), let dial = exchange.pointee.dial, dial.pointee.lookup != nil else {
            return
        }
        dial.pointee.lookup = nil
        exchange.pointee.waitDeadlineMilliseconds = TimerEntry.never
        updateTimer(exchange)
        switch outcome {
        case .addresses(let addresses):
            let mayBeLocal = dial.pointee.verdict == .allowedAlsoLocally
            dial.pointee.addresses = addresses.filter { mayBeLocal || !ConnectRules.isLocal($0) }
            if dial.pointee.addresses.isEmpty {
                seekingFailed(exchange, .connectForbidden)
            } else {
                dialNext(exchange, dial)
            }
        case .failed(let failure):
            switch failure {
            case .timedOut: seekingFailed(exchange, .nameTimedOut)
            case .tooManyWaiting: seekingFailed(exchange, .outOfResources)
            case .notFound, .serverFailed, .refused, .unanswered, .malformedAnswer, .invalidName, .notMade:
                seekingFailed(exchange, .nameNotFound)
            }
        }
    }

    /// Tries the next address.
    func dialNext(_ exchange: ExchangePointer, _ dial: UnsafeMutablePointer<Dial>) {
        precondition(dial.pointee.triedCount < dial.pointee.addresses.count, "no address is left")
        let address = dial.pointee.addresses[dial.pointee.triedCount]
        dial.pointee.triedCount += 1
        connect(exchange, nil, SocketAddress(address, port: dial.pointee.destination.port))
    }

    /// Whether a connection has led back to this machine, by one of its own addresses, and that was not allowed.
    func isOwnAddress(_ connection: UpstreamPointer, _ dial: UnsafeMutablePointer<Dial>) -> Bool {
        guard dial.pointee.verdict != .allowedAlsoLocally,
            let own = try? Socket.localAddress(of: connection.pointee.socket)
        else { return false }
        let address = dial.pointee.addresses[dial.pointee.triedCount - 1]
        return own.ip.high == address.high && own.ip.low == address.low
    }

    /// The connection is there: the client learns it, and the tunnel is open.
    func acceptTunnel(_ exchange: ExchangePointer) {
        let context = localResponseContext(exchange)
        writeHead(.tunnel, to: exchange.pointee.downstream) {
            LocalResponse.writeTunnelAccepted(context: context, to: &$0)
        }
        flush(exchange.pointee.downstream)
        openTunnel(exchange, UnsafeBufferPointer(start: nil, count: 0))
    }

    /// Nobody waits for an address any more.
    func stopLookingUp(_ dial: UnsafeMutablePointer<Dial>) {
        guard let lookup = dial.pointee.lookup else { return }
        dial.pointee.lookup = nil
        lookup.resolver.unwatch(lookup.token)
    }

    /// The exchange is over.
    func endDialling(_ dial: UnsafeMutablePointer<Dial>) {
        stopLookingUp(dial)
        dial.pointee.logName.deallocate()
        dial.deinitialize(count: 1)
        dial.deallocate()
    }
}
