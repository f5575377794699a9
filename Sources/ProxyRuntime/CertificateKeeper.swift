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
    private var generation: Generation
    private var material: TLSMaterial
    /// Session tickets are sealed with these.
    private(set) var keys: TicketKeys
    private var keysMadeMilliseconds: UInt64
    /// The files as they were when they were read, and as they were a second ago.
    private var readStamps: FileStamps
    private var lastStamps: FileStamps

    /// Whether there is anything to look after.
    var hasWork: Bool {
        generation.configuration.listeners.contains { !$0.tls.isEmpty }
            || generation.configuration.upstreams.contains { $0.tls != nil }
    }

    /// - Parameters:
    ///   - material: what was read at the start.
    ///   - stamps: the files as they were just before.
    init(
        _ shared: SharedState, _ generation: Generation, _ material: TLSMaterial, stamps: FileStamps, keys: TicketKeys
    ) {
        self.shared = shared
        self.generation = generation
        self.material = material
        self.keys = keys
        readStamps = stamps
        lastStamps = stamps
        keysMadeMilliseconds = Clock.monotonicMicroseconds() / 1000
        shared.metrics.certificatesTaken(material, of: generation.configuration)
    }

    /// Another generation is in force, with what was read for it.
    mutating func take(_ generation: Generation, _ material: TLSMaterial, stamps: FileStamps) {
        self.generation = generation
        self.material = material
        readStamps = stamps
        lastStamps = stamps
        shared.metrics.certificatesTaken(material, of: generation.configuration)
    }

    /// Called every second.
    mutating func look(_ logger: Logger) {
        let now = Clock.monotonicMicroseconds() / 1000
        if now - keysMadeMilliseconds >= UInt64(TLSServerContext.sessionLifetimeSeconds) * 1000 {
            keysMadeMilliseconds = now
            turnKeysOver(logger)
        }
        let stamps = FileStamps(generation.configuration)
        defer { lastStamps = stamps }
        // A certificate and its key are two files: they are read when a second has passed without a change.
        if stamps != readStamps, stamps == lastStamps { readAgain(stamps, logger) }
    }

    /// Reads every file, changed or not.
    mutating func readAgain(_ logger: Logger) {
        readAgain(FileStamps(generation.configuration), logger)
    }

    private mutating func turnKeysOver(_ logger: Logger) {
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

    private mutating func readAgain(_ stamps: FileStamps, _ logger: Logger) {
        readStamps = stamps
        var fresh = TLSMaterial.read(generation.configuration)
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
            shared.metrics.certificatesTaken(fresh, of: generation.configuration)
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
        do throws(TLSSetupError) {
            for _ in shared.mailboxes { made.append(try fresh.workerTLS(generation.servers, keys)) }
        } catch {
            for tls in made { tls.retire() }
            throw error
        }
        for (mailbox, tls) in zip(shared.mailboxes, made) { mailbox.post(.tlsChanged(tls)) }
    }
}
