// What the control thread lets everybody know of the configuration in force: for whoever writes metrics or the status.

import EventLoop
import ProxyConfiguration
import Synchronization

/// See the head of the file.
final class Standing: Sendable {
    /// The facts at one moment.
    struct Facts: Sendable {
        /// The configuration in force; nil before the start.
        var generation: Generation?
        /// What each listener is reached by, by its index.
        var addresses: [[String]] = []
        /// When it came into force; microseconds since 1970.
        var takenWallMicroseconds: UInt64 = 0
        /// How often the configuration was read again, with success (also if nothing had changed), and without.
        var reloadsDone: UInt64 = 0
        var reloadsFailed: UInt64 = 0
        /// Why the last reload failed; nil if it did not, or if there was none.
        var lastError: String?
    }

    private let current = Mutex<Facts>(Facts())

    var facts: Facts { current.withLock { $0 } }

    func take(_ generation: Generation, _ plan: ListeningPlan) {
        let addresses = generation.configuration.listeners.indices.map { plan.names(ofListener: $0) }
        current.withLock {
            $0.generation = generation
            $0.addresses = addresses
            $0.takenWallMicroseconds = Clock.wallMicroseconds()
        }
    }

    func reloaded() {
        current.withLock {
            $0.reloadsDone += 1
            $0.lastError = nil
        }
    }

    func reloadFailed(_ reason: String) {
        current.withLock {
            $0.reloadsFailed += 1
            $0.lastError = reason
        }
    }
}

/// How many records of the access log were lost, over all the logs that there were.
final class RecordLosses: Sendable {
    /// The logs that are alive, the one in use last, and what those before have lost.
    private let state = Mutex<(logs: [AccessLogThread], before: Int)>(([], 0))

    /// Records go here from now on.
    func take(_ log: AccessLogThread?) {
        state.withLock { state in
            if let log, !state.logs.contains(where: { $0 === log }) { state.logs.append(log) }
        }
    }

    /// A log that was used before has ended.
    func forget(_ log: AccessLogThread) {
        state.withLock { state in
            state.before += log.lostCount
            state.logs.removeAll { $0 === log }
        }
    }

    var count: Int { state.withLock { state in state.logs.reduce(state.before) { $0 + $1.lostCount } } }
}
