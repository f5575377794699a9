// What TLS is made of, read from the files that a configuration names: on the control thread, at the start, and
// again when files change. A file that cannot be used is told of with the place of its directive.

import Glibc
import HTTPSemantics
import ProxyConfiguration
import TLS

/// Something about a file that TLS needs.
public struct TLSProblem: Error, Sendable, CustomStringConvertible {
    /// Where the directive stands.
    public let location: SourceLocation
    /// What is wrong.
    public let message: String
    /// Whether service goes on nevertheless.
    public let isWarning: Bool

    /// As the configuration's own mistakes are told.
    public var description: String {
        "\(location.file):\(location.line):\(location.column): \(isWarning ? "warning" : "error"): \(message)"
    }
}

/// The files of a configuration's TLS.
public enum TLSFiles {
    /// Reads every file and says what is wrong: pairs that do not match, dates, names that no certificate is for.
    public static func check(_ configuration: Configuration) -> [TLSProblem] {
        TLSMaterial.read(configuration).problems
    }
}

/// What a worker gets.
struct WorkerTLS: Sendable {
    /// For each listener; nil for one without TLS.
    let listeners: [TLSServerContext?]
    /// For each server that is spoken to by TLS, by its number.
    let servers: [Int: TLSClientPeer]

    /// Frees what no worker got.
    func retire() {
        for context in listeners { context?.retire() }
        for peer in servers.values { peer.retire() }
    }
}

/// See the head of the file.
struct TLSMaterial: Sendable {
    /// Less time than this to a certificate's end is worth a warning.
    private static let warningSeconds: Int64 = 14 * 86_400

    /// The policies of each listener; none where it has no TLS, or where one could not be read.
    private(set) var listeners: [[TLSServerPolicy]] = []
    /// How upstreams are spoken to.
    private(set) var upstreams: [UpstreamTLS: TLSClientPolicy] = [:]
    /// What was found.
    private(set) var problems: [TLSProblem] = []

    /// Whether all of it can be used.
    var isUsable: Bool { problems.allSatisfy(\.isWarning) }

    /// Takes over what is missing here, because a file could not be read, from what was read before.
    mutating func complete(with old: TLSMaterial) {
        for index in listeners.indices where listeners[index].isEmpty { listeners[index] = old.listeners[index] }
        upstreams.merge(old.upstreams) { fresh, _ in fresh }
    }

    /// Reads all files of a configuration.
    static func read(_ configuration: Configuration) -> TLSMaterial {
        var material = TLSMaterial()
        for listener in configuration.listeners { material.listeners.append(material.policies(of: listener)) }
        for upstream in configuration.upstreams {
            if let tls = upstream.tls, material.upstreams[tls] == nil { material.read(tls) }
        }
        return material
    }

    private mutating func report(_ location: SourceLocation, _ message: String, isWarning: Bool = false) {
        problems.append(TLSProblem(location: location, message: message, isWarning: isWarning))
    }

    private mutating func attempt<Result>(
        at location: SourceLocation, _ body: () throws(TLSSetupError) -> Result
    ) -> Result? {
        do throws(TLSSetupError) {
            return try body()
        } catch {
            report(location, error.description)
            return nil
        }
    }

    // MARK: Listeners

    /// The policies of one listener.
    private mutating func policies(of listener: Listener) -> [TLSServerPolicy] {
        guard listener.binds.contains(where: \.isTLS) else { return [] }
        let policies = listener.tls.compactMap { policy($0, listener: listener.name, http2: listener.http2) }
        guard policies.count == listener.tls.count, let first = listener.tls.first else { return [] }
        // OpenSSL's word on lists of ciphers and curves comes with the first context.
        let context = attempt(at: first.location) { () throws(TLSSetupError) in
            try TLSServerContext(policies: policies, ticketKeys: try TicketKeys.random())
        }
        guard let context else { return [] }
        context.retire()
        return policies
    }

    private mutating func policy(_ tls: ServerTLS, listener: String, http2: HTTP2Policy) -> TLSServerPolicy? {
        let certificates = tls.certificates.compactMap { certificate($0) }
        var policy = TLSServerPolicy(
            name: "\(listener) \(tls.hosts.joined(separator: " "))", certificates: certificates)
        policy.hostNames = tls.hosts
        if http2 != .off { policy.applicationProtocols.insert("h2", at: 0) }
        policy.minimumVersion = tls.minimumVersion == .tls13 ? .tls13 : .tls12
        policy.ciphers = tls.ciphers
        policy.groups = tls.curves
        policy.clientVerification =
            switch tls.clientVerification {
            case .off: .off
            case .optional: .optional
            case .required: .required
            }
        if tls.clientVerification != .off, let file = tls.clientAuthorityFile {
            policy.clientTrust = attempt(at: tls.location) { () throws(TLSSetupError) in try TLSTrust(path: file) }
            if policy.clientTrust == nil { return nil }
        }
        guard certificates.count == tls.certificates.count else { return nil }
        for host in tls.hosts where !certificates.contains(where: { $0.covers(host) || $0.names.contains(host) }) {
            report(tls.location, "no certificate of this tls is for \(host)", isWarning: true)
        }
        return policy
    }

    private mutating func certificate(_ files: CertificateFiles) -> TLSCertificate? {
        let certificate = attempt(at: files.location) { () throws(TLSSetupError) in
            try TLSCertificate(certificatePath: files.certificate, keyPath: files.key)
        }
        guard let certificate else { return nil }
        let now = Int64(time(nil))
        if certificate.notAfterSeconds < now {
            report(files.location, "\(files.certificate) has expired", isWarning: true)
        } else if certificate.notBeforeSeconds > now {
            report(files.location, "\(files.certificate) is not valid yet", isWarning: true)
        } else if certificate.notAfterSeconds < now + Self.warningSeconds {
            let days = (certificate.notAfterSeconds - now) / 86_400
            report(files.location, "\(files.certificate) expires in \(days) days", isWarning: true)
        }
        return certificate
    }

    // MARK: Upstreams

    private mutating func read(_ tls: UpstreamTLS) {
        var trust: TLSTrust?
        if tls.verifies {
            trust = attempt(at: tls.location) { () throws(TLSSetupError) in
                if let file = tls.authorityFile { return try TLSTrust(path: file) }
                return try TLSTrust(system: ())
            }
            if trust == nil { return }
        }
        var policy = TLSClientPolicy(trust: trust)
        if let files = tls.certificate {
            policy.certificate = certificate(files)
            if policy.certificate == nil { return }
        }
        policy.minimumVersion = tls.minimumVersion == .tls13 ? .tls13 : .tls12
        policy.ciphers = tls.ciphers
        policy.groups = tls.curves
        let context = attempt(at: tls.location) { () throws(TLSSetupError) in try TLSClientContext(policy) }
        guard let context else { return }
        context.destroy()
        upstreams[tls] = policy
    }

    // MARK: For a worker

    /// A listener's TLS, for one worker.
    func serverContext(ofListener index: Int, _ keys: TicketKeys) throws(TLSSetupError) -> TLSServerContext? {
        listeners[index].isEmpty ? nil : try TLSServerContext(policies: listeners[index], ticketKeys: keys)
    }

    /// A server's TLS, for one worker.
    func peer(of server: ServerIdentity) throws(TLSSetupError) -> TLSClientPeer? {
        guard let tls = server.tls, var policy = upstreams[tls] else { return nil }
        if server.protocolVersion == .http2 { policy.applicationProtocols = ["h2"] }
        let context = try TLSClientContext(policy)
        defer { context.destroy() }
        return try TLSClientPeer(context, serverName: server.verifiedName)
    }

    /// All of it, for one worker.
    func workerTLS(_ servers: [SharedServer], _ keys: TicketKeys) throws(TLSSetupError) -> WorkerTLS {
        var contexts: [TLSServerContext?] = []
        var peers: [Int: TLSClientPeer] = [:]
        do throws(TLSSetupError) {
            for index in listeners.indices { contexts.append(try serverContext(ofListener: index, keys)) }
            for server in servers { peers[server.number] = try peer(of: server.identity) }
        } catch {
            WorkerTLS(listeners: contexts, servers: peers).retire()
            throw error
        }
        return WorkerTLS(listeners: contexts, servers: peers)
    }
}

/// What the files were when they were looked at.
struct FileStamps: Equatable {
    private struct Stamp: Equatable {
        let device: UInt
        let inode: UInt
        let bytes: Int
        let seconds: Int
        let nanoseconds: Int
    }

    private var stamps: [String: Stamp] = [:]

    /// Looks at every file that a configuration's TLS names. Follows links, so that a folder of links that is swapped
    /// as a whole, as Kubernetes does, is noticed.
    init(_ configuration: Configuration) {
        func look(_ path: String?) {
            guard let path else { return }
            var status = stat()
            guard stat(path, &status) == 0 else { return }
            stamps[path] = Stamp(
                device: UInt(status.st_dev), inode: UInt(status.st_ino), bytes: Int(status.st_size),
                seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec)
        }
        for policy in configuration.listeners.flatMap(\.tls) {
            for files in policy.certificates {
                look(files.certificate)
                look(files.key)
            }
            look(policy.clientAuthorityFile)
        }
        for tls in configuration.upstreams.compactMap(\.tls) {
            look(tls.certificate?.certificate)
            look(tls.certificate?.key)
            look(tls.authorityFile)
        }
    }
}
