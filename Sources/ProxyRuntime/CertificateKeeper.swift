// Keeps the workers' certificates what the files say: looks at them every second, reads them again when they have
// changed and come to rest, and hands new contexts to the workers. What cannot be used changes nothing. It also turns
// the keys of session tickets over. On the control thread.

import EventLoop
import Logging
import ProxyConfiguration
import TLS

/// See the head of the file.
struct CertificateKeeper {
    /// How often files are looked at.
    static let intervalMilliseconds: UInt64 = 1000

    private let shared: SharedState
    private let logger: Logger
    private var material: TLSMaterial
    private var keys: TicketKeys
    private var keysMadeMilliseconds: UInt64
    /// The files as they were when they were read, and as they were a second ago.
    private var readStamps: FileStamps
    private var lastStamps: FileStamps

    /// Whether there is anything to look after.
    var hasWork: Bool {
        shared.configuration.listeners.contains { !$0.tls.isEmpty }
            || shared.configuration.upstreams.contains { $0.tls != nil }
    }

    /// - Parameters:
    ///   - material: what was read at the start.
    ///   - stamps: the files as they were just before.
    init(_ shared: SharedState, _ material: TLSMaterial, stamps: FileStamps, keys: TicketKeys, _ logger: Logger) {
        self.shared = shared
        self.material = material
        self.keys = keys
        self.logger = logger
        readStamps = stamps
        lastStamps = stamps
        keysMadeMilliseconds = Clock.monotonicMicroseconds() / 1000
        shared.metrics.certificatesTaken(material)
    }

    /// Called every second.
    mutating func look() {
        let now = Clock.monotonicMicroseconds() / 1000
        if now - keysMadeMilliseconds >= UInt64(TLSServerContext.sessionLifetimeSeconds) * 1000 {
            keysMadeMilliseconds = now
            turnKeysOver()
        }
        let stamps = FileStamps(shared.configuration)
        defer { lastStamps = stamps }
        // A certificate and its key are two files: they are read when a second has passed without a change.
        if stamps != readStamps, stamps == lastStamps { readAgain(stamps) }
    }

    /// Reads every file, changed or not.
    mutating func readAgain() {
        readAgain(FileStamps(shared.configuration))
    }

    private mutating func turnKeysOver() {
        do throws(TLSSetupError) {
            keys = try keys.rotated()
        } catch {
            logger.error(
                "there are no new keys for session tickets; the old ones stay in use",
                metadata: ["reason": "\(error.description)"])
            return
        }
        for mailbox in shared.mailboxes { mailbox.post(.ticketKeysChanged(keys)) }
    }

    private mutating func readAgain(_ stamps: FileStamps) {
        readStamps = stamps
        var fresh = TLSMaterial.read(shared.configuration)
        for problem in fresh.problems {
            if problem.isWarning {
                logger.warning("\(problem.message)", metadata: ["at": "\(problem.location.text)"])
            } else {
                logger.error(
                    "a file of TLS cannot be used; what was read before stays in use",
                    metadata: ["at": "\(problem.location.text)", "reason": "\(problem.message)"])
            }
        }
        // A listener with a broken file keeps what it has; the others are renewed.
        let isWhole = fresh.isUsable
        fresh.complete(with: material)
        do throws(TLSSetupError) {
            try hand(out: fresh)
            material = fresh
            shared.metrics.certificatesTaken(fresh)
            shared.metrics.certificatesReadAgain(done: isWhole)
            logger.info("certificates were read anew", metadata: isWhole ? [:] : ["but": "not all of them"])
        } catch {
            shared.metrics.certificatesReadAgain(done: false)
            logger.error(
                "certificates cannot be used; those before stay in use", metadata: ["reason": "\(error.description)"])
        }
    }

    /// Makes everything first, so that a failure changes nothing.
    private func hand(out fresh: TLSMaterial) throws(TLSSetupError) {
        var made: [WorkerTLS] = []
        for _ in shared.mailboxes { made.append(try fresh.workerTLS(shared.servers, keys)) }
        for (mailbox, tls) in zip(shared.mailboxes, made) {
            mailbox.post(.certificatesChanged(tls.listeners))
            for (index, peer) in tls.servers.enumerated() {
                if let peer { mailbox.post(.serverTLSChanged(server: index, peer)) }
            }
        }
    }
}
