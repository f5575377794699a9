// Certificates for the tests, made by the `openssl` command once for the process in a folder of its own.

import Glibc
import TLS

/// A certificate authority with what it has signed, as files.
struct TestCertificates: Sendable {
    /// Made when the first test asks.
    static let shared = TestCertificates()

    let folder: String

    private init() {
        var template = Array("/tmp/headfirst-tls-tests.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { fatalError("no folder for certificates") }
        folder = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        atexit { _ = system("rm -rf '\(TestCertificates.shared.folder)'") }
        authority("ca")
        authority("otherca")
        certificate("rsa", by: "ca", names: "DNS:site.example.com,DNS:*.wild.example.com", algorithm: "rsa:2048")
        certificate("ecdsa", by: "ca", names: "DNS:site.example.com,DNS:*.wild.example.com")
        certificate("second", by: "ca", names: "DNS:second.example.com")
        certificate("partner", by: "ca", names: "DNS:partner.example.com,DNS:*.partner.example.com")
        certificate("address", by: "ca", names: "IP:192.0.2.1,IP:2001:db8::1")
        certificate("expired", by: "ca", names: "DNS:site.example.com", end: "20200101000000Z")
        certificate("future", by: "ca", names: "DNS:site.example.com", start: "20900101000000Z")
        certificate("untrusted", by: "otherca", names: "DNS:site.example.com")
        certificate("client", by: "ca", names: "DNS:client.example.com", use: "clientAuth")
        certificate("foreignclient", by: "otherca", names: "DNS:client.example.com", use: "clientAuth")
        certificate("weak", by: "ca", names: "DNS:site.example.com", algorithm: "rsa:1024")
        run("openssl pkey -in rsa.key -aes256 -passout pass:secret -out encrypted.key")
        run("openssl rsa -in rsa.key -aes256 -traditional -passout pass:secret -out encryptedold.key")
        run("openssl rsa -in rsa.key -traditional -out traditional.key")
        run("cat rsa.pem ca.pem > chain.pem")
        run("cat rsa.pem rsa.key > both.pem")
        run("head -c 600 rsa.pem > cut.pem; echo hello > text.pem; : > empty.pem")
        run("sed 's/^MII/MIX/' rsa.pem > garbled.pem")
    }

    func path(_ file: String) -> String { "\(folder)/\(file)" }

    func pair(_ name: String) -> TLSCertificate {
        do {
            return try TLSCertificate(certificatePath: path("\(name).pem"), keyPath: path("\(name).key"))
        } catch {
            fatalError("\(name): \(error)")
        }
    }

    func trust(_ name: String = "ca") -> TLSTrust {
        do {
            return try TLSTrust(path: path("\(name).pem"))
        } catch {
            fatalError("\(name): \(error)")
        }
    }

    private func authority(_ name: String) {
        run(
            """
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=\(name)' \
            -keyout \(name).key -out \(name).pem -addext basicConstraints=critical,CA:TRUE
            mkdir \(name).new; : > \(name).index; echo 01 > \(name).serial
            """)
    }

    private func certificate(
        _ name: String, by authority: String, names: String, algorithm: String = "ec", use: String = "serverAuth",
        start: String = "20240101000000Z", end: String = "20991231000000Z"
    ) {
        let curve = algorithm == "ec" ? "-pkeyopt ec_paramgen_curve:P-256" : ""
        run(
            """
            printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=\(authority).index\\nserial=\(authority).serial\\n\
            new_certs_dir=\(authority).new\\ndefault_md=sha256\\npolicy=p\\nunique_subject=no\\n[p]\\nCN=supplied\\n\
            [e]\\nsubjectAltName=\(names)\\nextendedKeyUsage=\(use)\\n' > \(name).conf
            openssl req -newkey \(algorithm) \(curve) -nodes -subj '/CN=\(name)' -keyout \(name).key -out \(name).csr
            openssl ca -batch -config \(name).conf -extensions e -cert \(authority).pem -keyfile \(authority).key \
            -startdate \(start) -enddate \(end) -in \(name).csr -out \(name).pem -notext
            """)
    }

    private func run(_ script: String) {
        let status = system("cd '\(folder)' && exec >>log 2>&1 && set -e\n\(script)")
        guard status == 0 else { fatalError("openssl failed, see \(folder)/log: \(script)") }
    }
}
