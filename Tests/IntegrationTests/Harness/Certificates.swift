// Certificates for the tests, made by the `openssl` command once for the process, in a folder of its own.

import Glibc

/// An authority with what it has signed, as PEM files: NAME.pem and NAME.key.
struct Certificates: Sendable {
    /// Made when the first test asks.
    static let shared = Certificates()

    private let folder: String

    private init() {
        var template = Array("/tmp/headfirst-certificates-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { preconditionFailure("no folder for certificates") }
        folder = String(cString: made)
        atexit { _ = system("rm -rf '\(Certificates.shared.folder)'") }
        for name in ["ca", "otherca"] {
            run(
                """
                openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=\(name)' \
                -keyout \(name).key -out \(name).pem -addext basicConstraints=critical,CA:TRUE
                mkdir \(name).new; : > \(name).index; echo 01 > \(name).serial
                """)
        }
        make("site", names: "DNS:localhost,DNS:site.test,IP:127.0.0.1")
        make("renewed", names: "DNS:localhost,DNS:site.test,IP:127.0.0.1")
        make("partner", names: "DNS:partner.test,DNS:*.partner.test")
        make("expired", names: "DNS:localhost,IP:127.0.0.1", end: "20240601000000Z")
        make("elsewhere", names: "DNS:elsewhere.test")
        make("untrusted", by: "otherca", names: "DNS:localhost,IP:127.0.0.1")
        make("client", names: "DNS:client.test", use: "clientAuth")
        make("foreign", by: "otherca", names: "DNS:client.test", use: "clientAuth")
    }

    func path(_ file: String) -> String { "\(folder)/\(file)" }

    /// The two files of a pair, as a `certificate` directive has them.
    func pair(_ name: String) -> String { "\(path("\(name).pem")) \(path("\(name).key"))" }

    func text(of file: String) -> String {
        let descriptor = open(path(file), O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        var room = [UInt8](repeating: 0, count: 64 << 10)
        return String(decoding: room[..<max(0, read(descriptor, &room, room.count))], as: UTF8.self)
    }

    /// A certificate without its armour.
    func der(_ name: String) -> [UInt8] {
        var bytes: [UInt8] = []
        var (bits, bitCount) = (0, 0)
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        for line in text(of: "\(name).pem").split(separator: "\n") where !line.hasPrefix("-----") {
            for character in line.utf8 {
                guard let value = alphabet.firstIndex(of: character) else { break }
                (bits, bitCount) = (bits << 6 | value, bitCount + 6)
                if bitCount >= 8 {
                    bitCount -= 8
                    bytes.append(UInt8(bits >> bitCount & 0xFF))
                }
            }
        }
        return bytes
    }

    private func make(
        _ name: String, by authority: String = "ca", names: String, use: String = "serverAuth",
        end: String = "20991231000000Z"
    ) {
        run(
            """
            printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=\(authority).index\\nserial=\(authority).serial\\n\
            new_certs_dir=\(authority).new\\ndefault_md=sha256\\npolicy=p\\nunique_subject=no\\n[p]\\nCN=supplied\\n\
            [e]\\nsubjectAltName=\(names)\\nextendedKeyUsage=\(use)\\n' > \(name).conf
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=\(name)' -keyout \(name).key \
            -out \(name).csr
            openssl ca -batch -config \(name).conf -extensions e -cert \(authority).pem -keyfile \(authority).key \
            -startdate 20240101000000Z -enddate \(end) -in \(name).csr -out \(name).pem -notext
            """)
    }

    private func run(_ script: String) {
        // No child of another test may inherit what this one opens, nor the other way round.
        Descriptors.lock.lock()
        defer { Descriptors.lock.unlock() }
        let status = system("cd '\(folder)' && exec >>log 2>&1 </dev/null && set -e\n\(script)")
        precondition(status == 0, "openssl failed, see \(folder)/log: \(script)")
    }
}
