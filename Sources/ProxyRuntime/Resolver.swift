// Names of servers become addresses here, on one thread of their own, so that no worker ever waits for a name
// server. This file is what other threads see: watching a name, its outcomes, stopping. ResolverThread.swift decides
// when a name is looked up; ResolverLookup.swift is one lookup by c-ares.

import Glibc
import HTTPSemantics
import ProxyConfiguration
import Synchronization

/// What looking a name up came to.
package enum ResolutionOutcome: Sendable, Equatable {
    /// The name's addresses: at least one, no duplicates, IPv4 first, each family in ascending order, so that equal
    /// answers compare equal whatever order a name server gave. At most `ResolverTiming.addressesMax`.
    case addresses([IPAddress])
    /// There is no answer, and there has been none yet.
    case failed(ResolutionFailure)
}

/// Why a name has no addresses. The description is for the log.
package enum ResolutionFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// The name does not exist, or has no address of the family asked for.
    case notFound
    /// No name server answered in time.
    case timedOut
    /// The name server said SERVFAIL, or that it cannot do this.
    case serverFailed
    /// The name server refused to answer.
    case refused
    /// Every name server was unreachable or failed; c-ares does not tell which of both.
    case unanswered
    /// An answer that cannot be parsed.
    case malformedAnswer
    /// A text that is no domain name.
    case invalidName
    /// More names wait to be looked up once than are let wait.
    case tooManyWaiting
    /// The lookup could not be made on this machine; c-ares's code.
    case notMade(code: Int32)

    package var description: String {
        switch self {
        case .notFound: "name not found"
        case .timedOut: "no name server answered in time"
        case .serverFailed: "the name server failed (SERVFAIL)"
        case .refused: "the name server refused to answer"
        case .unanswered: "no name server could be reached, or all of them failed"
        case .malformedAnswer: "the name server's answer is malformed"
        case .invalidName: "not a domain name"
        case .tooManyWaiting: "too many names wait to be looked up"
        case .notMade(let code): "the lookup could not be made (c-ares error \(code))"
        }
    }
}

/// The resolver could not start.
package struct ResolverError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The call that failed.
    package var call: StaticString
    /// Its `errno`.
    package var code: Int32

    package var description: String { "resolver: \(call): \(String(cString: strerror(code)))" }

    package static func == (left: ResolverError, right: ResolverError) -> Bool {
        left.code == right.code && left.call.description == right.call.description
    }
}

/// When names are looked up. Tests shorten it; the program uses what stands here.
package struct ResolverTiming: Sendable {
    /// How long a name server has for its first answer; each further round doubles it.
    package var queryTimeoutMilliseconds: Int32 = 2_000
    /// Rounds over the name servers: one server that never answers costs 2 + 4 + 8 s. Nobody waits for it but the
    /// requests for a name that has never been answered, and those have `connect_timeout`.
    package var roundsMax: Int32 = 3
    /// A shorter TTL, 0 included, counts as this.
    package var ttlMillisecondsMin: Int64 = 1_000
    /// A longer TTL counts as this.
    package var ttlMillisecondsMax: Int64 = 3_600_000
    /// How long an answer without a TTL (/etc/hosts) holds.
    package var hostsMilliseconds: Int64 = 30_000
    /// The first pause after a failure; it doubles with each further one.
    package var retryMillisecondsMin: Int64 = 1_000
    /// The longest pause after a failure.
    package var retryMillisecondsMax: Int64 = 30_000

    /// Lookups that run at once; each holds a socket or two.
    package static let lookupsMax = 64
    /// Of these, lookups that are made once: what clients ask for leaves room for the servers' names.
    package static let onceLookupsMax = 48
    /// Names that are to be looked up once, waiting and running.
    package static let onceCountMax = 512
    /// Addresses of one name; a longer answer is cut.
    package static let addressesMax = 256

    package init() {}

    /// How long an answer holds; nil is an answer without a TTL.
    func milliseconds(forTTLSeconds ttlSeconds: Int32?) -> Int64 {
        guard let ttlSeconds else { return hostsMilliseconds }
        return min(max(Int64(ttlSeconds) * 1_000, ttlMillisecondsMin), ttlMillisecondsMax)
    }
}

/// Tells one watch of a resolver from all others.
package struct WatchToken: Sendable, Hashable {
    fileprivate(set) var number: UInt64
}

/// Watches names of servers: looks each up at once, and again whenever its answer is over.
///
/// /etc/hosts is asked first, whatever the source; a name without a dot is tried with the search domains of
/// /etc/resolv.conf only if the source is the system. A changed /etc/resolv.conf or /etc/hosts is picked up by the
/// next lookup. `localhost` is loopback without asking anybody (RFC 6761 section 6.3).
package final class Resolver: Sendable {
    private let mailbox: ResolverMailbox
    /// The thread, until `stop` joined it.
    private let thread: Mutex<pthread_t?>
    private let nextToken = Atomic<UInt64>(1)

    /// Starts the resolver's thread. The caller has blocked the signals that it reads elsewhere: the thread inherits
    /// the mask.
    package init(source: ResolverSource, timing: ResolverTiming = ResolverTiming()) throws(ResolverError) {
        let mailbox = try ResolverMailbox()
        self.mailbox = mailbox
        let body = Unmanaged.passRetained(
            ResolverThreadBody(mailbox: mailbox, settings: ResolverLookup.Settings(source: source, timing: timing)))
        var created = pthread_t()
        let code = pthread_create(
            &created, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<ResolverThreadBody>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            throw ResolverError(call: "pthread_create", code: code)
        }
        thread = Mutex(created)
    }

    deinit { stop() }

    /// Watches a name until `unwatch`. All calls come on the resolver's thread, one at a time, and must not block.
    /// - Parameters:
    ///   - name: the name, without port.
    ///   - family: which addresses are wanted.
    ///   - onChange: called at the first outcome, then whenever the outcome differs. The last good answer is kept when
    ///     a later lookup fails; then this is not called.
    ///   - onFailure: called at the first failure after a success or the start, not at those that follow it.
    package func watch(
        name: String, family: AddressFamily, onChange: @escaping @Sendable (ResolutionOutcome) -> Void,
        onFailure: @escaping @Sendable (ResolutionFailure) -> Void
    ) -> WatchToken {
        let token = WatchToken(number: nextToken.add(1, ordering: .relaxed).oldValue)
        mailbox.post(
            .watch(
                token,
                ResolverWatch(name: name, family: family, isOnce: false, onChange: onChange, onFailure: onFailure)))
        return token
    }

    /// Looks a name up once, and forgets it. The call comes on the resolver's thread and must not block.
    /// - Parameters:
    ///   - name: the name, without port.
    ///   - family: which addresses are wanted.
    ///   - onOutcome: called once, unless `unwatch` comes first.
    package func lookUp(
        name: String, family: AddressFamily, onOutcome: @escaping @Sendable (ResolutionOutcome) -> Void
    ) -> WatchToken {
        let token = WatchToken(number: nextToken.add(1, ordering: .relaxed).oldValue)
        mailbox.post(
            .watch(
                token,
                ResolverWatch(name: name, family: family, isOnce: true, onChange: onOutcome, onFailure: { _ in })))
        return token
    }

    /// Ends a watch. A call that is already under way on the resolver's thread may still be running.
    package func unwatch(_ token: WatchToken) {
        mailbox.post(.unwatch(token))
    }

    /// Ends every watch and joins the thread; no call comes after this returns. Again is harmless. Never called on
    /// the resolver's own thread.
    package func stop() {
        let running = thread.withLock { held in
            defer { held = nil }
            return held
        }
        guard let running else { return }
        precondition(pthread_equal(running, pthread_self()) == 0, "the resolver cannot join itself")
        mailbox.post(.stop)
        pthread_join(running, nil)
    }
}

/// What other threads want of the resolver's.
enum ResolverCommand: Sendable {
    case watch(WatchToken, ResolverWatch)
    case unwatch(WatchToken)
    case stop
}

/// What was asked about a name, and who wants to know.
struct ResolverWatch: Sendable {
    let name: String
    let family: AddressFamily
    /// Whether it is forgotten after its first outcome.
    let isOnce: Bool
    let onChange: @Sendable (ResolutionOutcome) -> Void
    let onFailure: @Sendable (ResolutionFailure) -> Void
}

/// Where threads meet: commands in order, and a pipe that wakes the resolver when there were none.
final class ResolverMailbox: Sendable {
    /// Readable while commands wait.
    let wakeDescriptor: Int32
    private let postDescriptor: Int32
    private let commands = Mutex<[ResolverCommand]>([])

    init() throws(ResolverError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw ResolverError(call: "pipe", code: errno) }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        wakeDescriptor = ends[0]
        postDescriptor = ends[1]
    }

    deinit {
        close(wakeDescriptor)
        close(postDescriptor)
    }

    func post(_ command: ResolverCommand) {
        let wasEmpty = commands.withLock { waiting in
            waiting.append(command)
            return waiting.count == 1
        }
        guard wasEmpty else { return }
        // One byte for each time the list fills up from empty: the pipe never runs full, so this cannot fail but by
        // an interruption.
        var byte: UInt8 = 0
        while write(postDescriptor, &byte, 1) < 0, errno == EINTR {}
    }

    /// Takes every command that waits, oldest first.
    func takeAll() -> [ResolverCommand] {
        // The pipe is emptied first: a command posted after it finds the list taken and writes a new byte.
        withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { room in
            while read(wakeDescriptor, room.baseAddress, room.count) > 0 {}
        }
        return commands.withLock { waiting in
            let taken = waiting
            waiting = []
            return taken
        }
    }
}
