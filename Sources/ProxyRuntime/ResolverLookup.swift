// One lookup of one name by c-ares. The only file that imports it.
//
// A channel lives for one lookup. So a changed resolv.conf counts from the next lookup on, a name that nobody
// watches any more is cancelled alone, and each lookup has a fresh source port. What it costs, reading a few small
// files, is paid once for a TTL.

import CAres
import Glibc
import HTTPSemantics
import ProxyConfiguration

/// A name's addresses, sorted and without duplicates, and for how long they hold.
struct ResolvedAddresses: Equatable {
    var addresses: [IPAddress]
    /// The shortest TTL on the way to the addresses; nil where there is none (/etc/hosts, loopback names).
    var ttlSeconds: Int32?
}

/// A running lookup: feed `proceed` with what `poll` says of `interests` until there is a `result`. Letting go of it
/// cancels it.
final class ResolverLookup {
    /// What all lookups of a resolver share.
    struct Settings: Sendable {
        let source: ResolverSource
        let timing: ResolverTiming
    }

    /// What c-ares's callbacks write to. It outlives the channel, whose end calls back once more.
    private final class Progress {
        /// What c-ares waits for, by descriptor.
        var interests: [Int32: Int16] = [:]
        var result: Result<ResolvedAddresses, ResolutionFailure>?
        /// Whether the call that began the lookup has returned: an answer that is there before came from this machine.
        var isUnderWay = false
    }

    private let progress = Progress()
    private var channel: ares_channel?

    /// c-ares's global state; once, before the first channel.
    private static let libraryStatus = ares_library_init(ARES_LIB_INIT_ALL)

    /// Begins a lookup. It may have its result at once.
    init(name: String, family: AddressFamily, settings: Settings) {
        var status = Self.libraryStatus
        if status == ARES_SUCCESS { status = openChannel(settings) }
        guard status == ARES_SUCCESS, let channel else {
            progress.result = .failure(ResolutionFailure(status: status))
            return
        }
        var hints = ares_addrinfo_hints()
        // The sorting that is left out would probe routes by opening sockets; we sort by value.
        hints.ai_flags = ARES_AI_NOSORT
        // One node an address, not one for each type of socket.
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_family =
            switch family {
            case .any: AF_UNSPEC
            case .ipv4: AF_INET
            case .ipv6: AF_INET6
            }
        ares_getaddrinfo(
            channel, name, nil, &hints,
            { argument, status, _, found in
                defer { if let found { ares_freeaddrinfo(found) } }
                guard let argument else { return }
                let progress = Unmanaged<Progress>.fromOpaque(argument).takeUnretainedValue()
                if status == ARES_SUCCESS, let found {
                    progress.result = ResolverLookup.addresses(in: found.pointee, hasTTL: progress.isUnderWay)
                } else {
                    progress.result = .failure(ResolutionFailure(status: status))
                }
            }, Unmanaged.passUnretained(progress).toOpaque())
        progress.isUnderWay = true
    }

    deinit {
        if let channel { ares_destroy(channel) }
    }

    /// The outcome, once there is one.
    var result: Result<ResolvedAddresses, ResolutionFailure>? { progress.result }

    /// The sockets to wait for, with poll's events.
    var interests: [Int32: Int16] { progress.interests }

    /// How long to wait at most before `proceed`; nil if nothing is timed.
    var timeoutMilliseconds: Int64? {
        var room = timeval()
        guard let channel, let next = ares_timeout(channel, nil, &room) else { return nil }
        // Rounded up: a wait that ends a little early would only be repeated.
        return Int64(next.pointee.tv_sec) * 1_000 + Int64(next.pointee.tv_usec + 999) / 1_000
    }

    /// Does what is possible: reads and writes on those of its sockets that are ready, and acts on timeouts.
    /// - Parameter ready: poll's events by descriptor, those of other lookups too.
    func proceed(_ ready: [Int32: Int16]) {
        guard let channel else { return }
        // A copy: handling one socket may open and close others.
        for (descriptor, wanted) in progress.interests {
            guard let events = ready[descriptor], progress.result == nil else { continue }
            // Errors and hang-ups are found out by doing what was wanted.
            let isBroken = events & Int16(POLLERR | POLLHUP | POLLNVAL) != 0
            let canRead = wanted & Int16(POLLIN) != 0 && (isBroken || events & Int16(POLLIN) != 0)
            let canWrite = wanted & Int16(POLLOUT) != 0 && (isBroken || events & Int16(POLLOUT) != 0)
            ares_process_fd(channel, canRead ? descriptor : ARES_SOCKET_BAD, canWrite ? descriptor : ARES_SOCKET_BAD)
        }
        if progress.result == nil { ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD) }
    }

    // MARK: c-ares

    /// Opens the channel. Returns c-ares's status.
    private func openChannel(_ settings: Settings) -> Int32 {
        var options = ares_options()
        options.timeout = settings.timing.queryTimeoutMilliseconds
        options.tries = settings.timing.roundsMax
        options.sock_state_cb = { argument, descriptor, isReading, isWriting in
            guard let argument else { return }
            let progress = Unmanaged<Progress>.fromOpaque(argument).takeUnretainedValue()
            let events = (isReading != 0 ? POLLIN : 0) | (isWriting != 0 ? POLLOUT : 0)
            progress.interests[descriptor] = events == 0 ? nil : Int16(events)
        }
        options.sock_state_cb_data = Unmanaged.passUnretained(progress).toOpaque()
        var mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB | ARES_OPT_LOOKUPS
        var serverList = ""
        if case .servers(let servers) = settings.source {
            mask |= ARES_OPT_FLAGS
            options.flags = ARES_FLAG_NOSEARCH
            // With a second server c-ares moves on at a SERVFAIL or REFUSED, and in the end reports no more than that
            // nobody answered; with one there is nothing to move on to, and the answer itself tells more.
            if servers.count == 1 { options.flags |= ARES_FLAG_NOCHECKRESP }
            serverList = servers.map { server in
                server.address.isIPv4 ? "\(server.address):\(server.port)" : "[\(server.address)]:\(server.port)"
            }.joined(separator: ",")
        }
        // The hosts file first, then DNS, whatever nsswitch.conf says: its other sources are not ours to ask.
        var lookups: [CChar] = [CChar(bitPattern: UInt8(ascii: "f")), CChar(bitPattern: UInt8(ascii: "b")), 0]
        let status = lookups.withUnsafeMutableBufferPointer { lookups in
            options.lookups = lookups.baseAddress
            return ares_init_options(&channel, &options, mask)
        }
        guard status == ARES_SUCCESS, let channel, !serverList.isEmpty else { return status }
        return ares_set_servers_ports_csv(channel, serverList)
    }

    private static func addresses(
        in found: ares_addrinfo, hasTTL: Bool
    ) -> Result<ResolvedAddresses, ResolutionFailure> {
        var addresses: Set<IPAddress> = []
        var ttlSeconds = Int32.max
        var node = found.nodes
        while let current = node {
            if let address = IPAddress(current.pointee) { addresses.insert(address) }
            ttlSeconds = min(ttlSeconds, current.pointee.ai_ttl)
            node = current.pointee.ai_next
        }
        // An alias may end sooner than the address it leads to.
        var alias = found.cnames
        while let current = alias {
            ttlSeconds = min(ttlSeconds, current.pointee.ttl)
            alias = current.pointee.next
        }
        guard !addresses.isEmpty else { return .failure(.notFound) }
        let sorted = addresses.sorted { left, right in
            left.isIPv4 != right.isIPv4 ? left.isIPv4 : (left.high, left.low) < (right.high, right.low)
        }
        return .success(
            ResolvedAddresses(
                addresses: Array(sorted.prefix(ResolverTiming.addressesMax)), ttlSeconds: hasTTL ? ttlSeconds : nil))
    }
}

extension IPAddress {
    fileprivate init?(_ node: ares_addrinfo_node) {
        guard let address = node.ai_addr else { return nil }
        switch node.ai_family {
        case AF_INET:
            let address = UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in.self)
            self.init(ipv4: UInt32(bigEndian: address.sin_addr.s_addr))
        case AF_INET6:
            let address = UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in6.self)
            self = withUnsafeBytes(of: address.sin6_addr) { bytes in
                IPAddress(
                    high: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                    low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
            }
        default:
            return nil
        }
    }
}

extension ResolutionFailure {
    fileprivate init(status: Int32) {
        switch status {
        case ARES_ENOTFOUND, ARES_ENODATA, ARES_ENONAME: self = .notFound
        case ARES_ETIMEOUT: self = .timedOut
        case ARES_ESERVFAIL, ARES_ENOTIMP: self = .serverFailed
        case ARES_EREFUSED: self = .refused
        case ARES_ECONNREFUSED: self = .unanswered
        case ARES_EBADRESP, ARES_EFORMERR: self = .malformedAnswer
        case ARES_EBADNAME, ARES_EBADQUERY, ARES_EBADSTR: self = .invalidName
        default: self = .notMade(code: status)
        }
    }
}
