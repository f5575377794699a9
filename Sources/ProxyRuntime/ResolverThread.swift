// The resolver's thread: which name is looked up when, and who is told. Everything here is touched by this thread
// alone. At rest it sleeps in one poll until the next name is due or a command comes.
//
//   due --(a place among the running)--> running --answer--> due again when its TTL is over
//                                               \--failure--> due again after 1, 2, 4, ... 30 s

import Glibc
import HTTPSemantics
import ProxyConfiguration

/// What the new thread runs; made by the thread that starts it.
final class ResolverThreadBody: Sendable {
    private let mailbox: ResolverMailbox
    private let settings: ResolverLookup.Settings

    init(mailbox: ResolverMailbox, settings: ResolverLookup.Settings) {
        self.mailbox = mailbox
        self.settings = settings
    }

    func run() {
        var loop = ResolverLoop(mailbox: mailbox, settings: settings)
        loop.run()
    }
}

/// One watched name with what is known about it.
private struct WatchedName {
    let watch: ResolverWatch
    /// The lookup that runs; nil while the name waits for `dueMilliseconds`.
    var lookup: ResolverLookup?
    /// When it is looked up next.
    var dueMilliseconds: Int64
    /// What the watcher was told last.
    var told: ResolutionOutcome?
    /// Failures since the last success or the start.
    var failuresInARow = 0
}

private struct ResolverLoop {
    private let mailbox: ResolverMailbox
    private let settings: ResolverLookup.Settings
    private var names: [WatchToken: WatchedName] = [:]
    private var runningCount = 0
    /// Of these, those that are made once; and how many there are of them, running or not.
    private var runningOnceCount = 0
    private var onceCount = 0
    private var isStopping = false

    init(mailbox: ResolverMailbox, settings: ResolverLookup.Settings) {
        self.mailbox = mailbox
        self.settings = settings
    }

    mutating func run() {
        while true {
            for command in mailbox.takeAll() { commandReceived(command) }
            // What still runs is cancelled as its lookup goes out of scope.
            if isStopping { return }
            startDue()
            let ready = waitForReadiness()
            proceed(ready)
        }
    }

    private mutating func commandReceived(_ command: ResolverCommand) {
        switch command {
        case .watch(_, let watch) where watch.isOnce && onceCount >= ResolverTiming.onceCountMax:
            watch.onChange(.failed(.tooManyWaiting))
        case .watch(let token, let watch):
            if watch.isOnce { onceCount += 1 }
            names[token] = WatchedName(watch: watch, dueMilliseconds: monotonicMilliseconds())
        case .unwatch(let token):
            guard let name = names.removeValue(forKey: token) else { break }
            if name.watch.isOnce { onceCount -= 1 }
            if name.lookup != nil { ended(name.watch) }
        case .stop:
            isStopping = true
        }
    }

    private func mayStart(_ watch: ResolverWatch) -> Bool {
        runningCount < ResolverTiming.lookupsMax
            && (!watch.isOnce || runningOnceCount < ResolverTiming.onceLookupsMax)
    }

    private mutating func ended(_ watch: ResolverWatch) {
        runningCount -= 1
        if watch.isOnce { runningOnceCount -= 1 }
    }

    private mutating func startDue() {
        let now = monotonicMilliseconds()
        // In the order in which they were asked for, so that none waits for ever.
        let due = names.filter { $0.value.lookup == nil && $0.value.dueMilliseconds <= now }.keys
        for token in due.sorted(by: { $0.number < $1.number }) {
            guard let name = names[token], mayStart(name.watch) else { continue }
            let lookup = ResolverLookup(name: name.watch.name, family: name.watch.family, settings: settings)
            if let result = lookup.result {
                // /etc/hosts, a loopback name, or a failure of our own: nothing was sent.
                lookupEnded(token, result)
            } else {
                names[token]?.lookup = lookup
                runningCount += 1
                if name.watch.isOnce { runningOnceCount += 1 }
            }
        }
    }

    /// Sleeps until a socket is ready, a deadline has come or a command was posted.
    private func waitForReadiness() -> [Int32: Int16] {
        var waiting = [pollfd(fd: mailbox.wakeDescriptor, events: Int16(POLLIN), revents: 0)]
        var deadline: Int64?
        func wakeNoLaterThan(_ milliseconds: Int64) { deadline = min(deadline ?? .max, milliseconds) }
        let now = monotonicMilliseconds()
        for name in names.values {
            guard let lookup = name.lookup else {
                if mayStart(name.watch) { wakeNoLaterThan(name.dueMilliseconds) }
                continue
            }
            for (descriptor, events) in lookup.interests {
                waiting.append(pollfd(fd: descriptor, events: events, revents: 0))
            }
            if let timeout = lookup.timeoutMilliseconds { wakeNoLaterThan(now + timeout) }
        }
        let timeout = deadline.map { Int32(clamping: max(0, $0 - now)) } ?? -1
        // An interruption or a lack of memory is no readiness: the turn goes on with what is due.
        guard poll(&waiting, nfds_t(waiting.count), timeout) > 0 else { return [:] }
        var ready: [Int32: Int16] = [:]
        for entry in waiting where entry.revents != 0 { ready[entry.fd] = entry.revents }
        return ready
    }

    private mutating func proceed(_ ready: [Int32: Int16]) {
        guard runningCount > 0 else { return }
        for token in names.keys {
            guard let name = names[token], let lookup = name.lookup else { continue }
            lookup.proceed(ready)
            guard let result = lookup.result else { continue }
            names[token]?.lookup = nil
            ended(name.watch)
            lookupEnded(token, result)
        }
    }

    private mutating func lookupEnded(_ token: WatchToken, _ result: Result<ResolvedAddresses, ResolutionFailure>) {
        guard var name = names[token] else { return }
        let timing = settings.timing
        let now = monotonicMilliseconds()
        var change: ResolutionOutcome?
        var firstFailure: ResolutionFailure?
        switch result {
        case .success(let answer):
            name.failuresInARow = 0
            name.dueMilliseconds = now + timing.milliseconds(forTTLSeconds: answer.ttlSeconds)
            change = .addresses(answer.addresses)
        case .failure(let failure):
            let doublings = min(name.failuresInARow, 16)
            name.dueMilliseconds = now + min(timing.retryMillisecondsMin << doublings, timing.retryMillisecondsMax)
            name.failuresInARow += 1
            if name.failuresInARow == 1 { firstFailure = failure }
            switch name.told {
            case .addresses: change = nil
            case .failed, nil: change = .failed(failure)
            }
        }
        if change == name.told { change = nil }
        if let change { name.told = change }
        if name.watch.isOnce { onceCount -= 1 }
        names[token] = name.watch.isOnce ? nil : name
        if let firstFailure { name.watch.onFailure(firstFailure) }
        if let change { name.watch.onChange(change) }
    }
}

private func monotonicMilliseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000
}
