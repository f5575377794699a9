// A certificate for trying things out: made at the start, trusted by nobody, on no disk.

import EventLoop
import ProxyConfiguration
import TLS

/// The files of a throw-away certificate.
public struct ThrowAwayFiles: Sendable {
    /// The certificate's path.
    public let certificate: String
    /// The key's path.
    public let key: String

    /// Makes a certificate for these names and addresses, good for three weeks.
    public init(names: [String], addresses: [String]) throws(StartupError) {
        let pair: TLSCertificate
        do throws(TLSSetupError) {
            pair = try TLSCertificate.throwAway(names: names, addresses: addresses, validSeconds: 21 * 86_400)
        } catch {
            throw StartupError(error.description)
        }
        do throws(SystemError) {
            certificate = try Process.memoryFile(named: "certificate", pair.certificateFile.bytes)
            key = try Process.memoryFile(named: "key", pair.keyFile.bytes)
        } catch {
            throw StartupError("cannot make a certificate", error)
        }
    }
}
