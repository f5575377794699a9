// Certificates as files: what `headfirst check` says of them, and their replacement while the proxy runs.

import Glibc
import TLS
import Testing

@Suite struct CertificateTests {
    private static let files = Certificates.shared

    // MARK: check

    private func check(_ directives: String, upstream: String = "") throws -> (code: Int, errors: String) {
        let folder = Folder()
        let file = folder.write(
            """
            listener main {
                bind 127.0.0.1:0 tls;
                tls { \(directives) }
                route / { \(upstream.isEmpty ? "respond 200 ok" : "upstream app"); }
            }
            \(upstream.isEmpty ? "" : "upstream app { server 127.0.0.1:1; tls { \(upstream) } }")
            """, to: "proxy.conf")
        let command = Command(["check", file])
        return (try command.exitCode(), command.errors.text)
    }

    @Test func aGoodPairIsRight() throws {
        let (code, errors) = try check("certificate \(Self.files.pair("site"));")
        #expect(code == 0)
        #expect(errors.isEmpty)
    }

    @Test func mistakesAreToldWithTheirPlace() throws {
        let (site, partner) = (Self.files.path("site.pem"), Self.files.path("partner.key"))
        let wrong: [(String, String)] = [
            ("certificate \(site) \(partner);", "key"),
            ("certificate /nowhere/site.pem \(partner);", "/nowhere/site.pem"),
            ("certificate \(site) /nowhere/site.key;", "/nowhere/site.key"),
            ("certificate \(partner) \(site);", "partner.key"),
            ("certificate \(Self.files.path("site.csr")) \(partner);", "site.csr"),
        ]
        for (directive, text) in wrong {
            let (code, errors) = try check(directive)
            #expect(code == 78, "\(directive)")
            #expect(errors.contains("proxy.conf:3:") && errors.contains("error:"), "\(errors)")
            #expect(errors.contains(text), "\(errors)")
        }
    }

    @Test func everyMistakeIsTold() throws {
        let (code, errors) = try check(
            "certificate /nowhere/a.pem /nowhere/a.key;", upstream: "ca_file /nowhere/ca.pem;")
        #expect(code == 78)
        #expect(errors.contains("/nowhere/a.pem"))
        #expect(errors.contains("/nowhere/ca.pem"))
    }

    @Test func anExpiredCertificateIsAWarning() throws {
        let (code, errors) = try check("certificate \(Self.files.pair("expired"));")
        #expect(code == 0)
        #expect(errors.contains("warning:") && errors.contains("expired"))
    }

    @Test func aProxyWithoutItsCertificateDoesNotStart() throws {
        let folder = Folder()
        let file = folder.write(
            """
            listener main {
                bind 127.0.0.1:0 tls;
                tls { certificate \(Self.files.path("site.pem")) \(Self.files.path("partner.key")); }
                route / { respond 200 ok; }
            }
            """, to: "proxy.conf")
        let command = Command(["run", "--config", file])
        #expect(try command.exitCode() != 0)
        #expect(command.errors.text.contains("proxy.conf:3:"))
    }

    // MARK: Replacement

    /// A folder with a pair in use: site.pem and site.key, straight or by a link to a folder that can be swapped.
    private final class Site {
        let folder = Folder()
        let proxy: Headfirst
        private(set) var generation = 0
        private let isLinked: Bool

        init(isLinked: Bool) throws {
            self.isLinked = isLinked
            let folder = folder
            if isLinked {
                Self.fill("\(folder.path)/0", "site")
                Self.must(symlink("0", "\(folder.path)/current"))
            } else {
                Self.copy("site.pem", to: "\(folder.path)/site.pem")
                Self.copy("site.key", to: "\(folder.path)/site.key")
            }
            let place = isLinked ? "\(folder.path)/current" : folder.path
            proxy = try Headfirst(
                configuration: """
                    workers 2; access_log off;
                    listener main {
                        bind 127.0.0.1:0 tls; tls { certificate \(place)/site.pem \(place)/site.key; }
                        route / { respond 200 ok; }
                    }
                    listener other { bind 127.0.0.1:0; route / { upstream nobody; } }
                    upstream nobody { server 127.0.0.1:1; }
                    """)
        }

        deinit {
            for number in 0...generation where isLinked {
                for name in ["site.pem", "site.key"] { unlink("\(folder.path)/\(number)/\(name)") }
                rmdir("\(folder.path)/\(number)")
            }
        }

        private static func must(_ result: Int32) { precondition(result == 0, "a file of the test: \(errno)") }

        static func copy(_ file: String, to path: String) {
            let text = Certificates.shared.text(of: file)
            let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
            precondition(Glibc.write(descriptor, text, text.utf8.count) == text.utf8.count, "a file of the test")
            Glibc.close(descriptor)
        }

        private static func fill(_ path: String, _ name: String, key: String? = nil) {
            must(mkdir(path, 0o700))
            copy("\(name).pem", to: "\(path)/site.pem")
            copy("\(key ?? name).key", to: "\(path)/site.key")
        }

        /// Puts another pair in the place of the present one.
        func replace(by name: String, key: String? = nil) {
            generation += 1
            if isLinked {
                Self.fill("\(folder.path)/\(generation)", name, key: key)
                Self.must(symlink("\(generation)", "\(folder.path)/next"))
                Self.must(rename("\(folder.path)/next", "\(folder.path)/current"))
            } else {
                Self.copy("\(name).pem", to: "\(folder.path)/new.pem")
                Self.copy("\(key ?? name).key", to: "\(folder.path)/new.key")
                Self.must(rename("\(folder.path)/new.pem", "\(folder.path)/site.pem"))
                Self.must(rename("\(folder.path)/new.key", "\(folder.path)/site.key"))
            }
        }

        /// The certificate of a new handshake.
        func shown() throws -> [UInt8] { try proxy.connectTLS().tls?.peerCertificate ?? [] }

        /// Waits until every one of several new handshakes, so on both workers, shows this.
        /// - Returns: how long that took.
        func wait(for name: String, milliseconds: Int) throws -> Int {
            let start = Now.milliseconds
            let wanted = Certificates.shared.der(name)
            while Now.milliseconds - start < milliseconds {
                let isEverywhere = try (0..<8).allSatisfy { _ in try shown() == wanted }
                if isEverywhere { return Now.milliseconds - start }
                usleep(20_000)
            }
            return .max
        }
    }

    @Test("By rename, and by a link to a folder that is swapped", arguments: [false, true])
    func aCertificateIsReplacedWhileRequestsRun(isLinked: Bool) throws {
        let site = try Site(isLinked: isLinked)
        let old = try site.proxy.connectTLS()
        let (isOver, failures) = (Monitor(false), Monitor(0))
        let (ended, proxy) = (Handoff<Int>(), site.proxy.listening[0])
        let port = try #require(UInt16(proxy.split(separator: ":").last ?? ""))
        startThread {
            var count = 0
            while !isOver.update({ $0 }) {
                do {
                    let client = try Address.ipv4(port: port).connect()
                    try client.beginTLS(try TLSMemory())
                    try client.ask()
                    guard try client.response().status == 200 else { throw WireError.refused }
                    count += 1
                } catch { failures.update { $0 += 1 } }
            }
            ended.give(count)
        }
        site.replace(by: "renewed")
        #expect(try site.wait(for: "renewed", milliseconds: 4000) < 3500)
        isOver.update { $0 = true }
        #expect(try ended.take() > 0)
        #expect(failures.update { $0 } == 0)
        // Who was there before goes on as before.
        try old.ask()
        #expect(try old.response().text == "ok")
        _ = try site.proxy.errorLog.line(with: "certificates were read anew")
        // And once more.
        site.replace(by: "site")
        #expect(try site.wait(for: "site", milliseconds: 4000) < 3500)
    }

    /// What there is to write down of peers must not keep the files from being looked at.
    @Test func aCertificateIsReplacedWhileServersFail() throws {
        let site = try Site(isLinked: false)
        let (isOver, hasFailed, ended) = (Monitor(false), Handoff<Void>(), Handoff<Int>())
        let port = try #require(UInt16(site.proxy.listening[1].split(separator: ":").last ?? ""))
        startThread {
            var count = 0
            while !isOver.update({ $0 }) {
                // Each 502 is something for the control thread to write down.
                guard let client = try? Address.ipv4(port: port).connect() else { continue }
                try? client.ask("GET / HTTP/1.1", "Connection: close")
                if (try? client.response().status) == 502 { count += 1 }
                if count == 1 { hasFailed.give() }
                usleep(50_000)
            }
            ended.give(count)
        }
        try hasFailed.take()
        site.replace(by: "renewed")
        let took = try site.wait(for: "renewed", milliseconds: 5000)
        isOver.update { $0 = true }
        #expect(took < 3500)
        #expect(try ended.take() > 0)
    }

    @Test(arguments: [false, true])
    func aBrokenPairChangesNothing(isLinked: Bool) throws {
        let site = try Site(isLinked: isLinked)
        site.replace(by: "renewed", key: "partner")
        _ = try site.proxy.errorLog.line(with: "cannot be used")
        for _ in 0..<8 { #expect(try site.shown() == Self.files.der("site")) }
        // What is right again is taken.
        site.replace(by: "renewed")
        #expect(try site.wait(for: "renewed", milliseconds: 4000) < 3500)
    }

    @Test func aMissingFileChangesNothing() throws {
        let site = try Site(isLinked: false)
        unlink("\(site.folder.path)/site.key")
        _ = try site.proxy.errorLog.line(with: "cannot be used")
        for _ in 0..<8 { #expect(try site.shown() == Self.files.der("site")) }
        site.replace(by: "renewed")
        #expect(try site.wait(for: "renewed", milliseconds: 4000) < 3500)
    }

    @Test func aHangupReadsAtOnce() throws {
        let site = try Site(isLinked: false)
        // The keeper has looked a moment ago at most a second before; the signal does not wait for its next look.
        for (number, name) in ["renewed", "site", "renewed"].enumerated() {
            site.replace(by: name)
            site.proxy.command.signal(SIGHUP)
            #expect(try site.wait(for: name, milliseconds: 3000) < 700, "\(number)")
        }
    }

    /// What the proxy shows to servers, and whom it trusts of them, is read again, too.
    @Test func theAuthorityOfServersIsReplaced() throws {
        let folder = Folder()
        Site.copy("otherca.pem", to: "\(folder.path)/ca.pem")
        let origin = Origin.overTLS { wire, _ in
            while true {
                _ = try wire.request()
                try wire.ok("ok", "Connection: close")
            }
        }
        let proxy = try Headfirst(to: origin, upstream: "tls { ca_file \(folder.path)/ca.pem; }")
        #expect(try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status == 502)
        Site.copy("ca.pem", to: "\(folder.path)/new.pem")
        rename("\(folder.path)/new.pem", "\(folder.path)/ca.pem")
        proxy.command.signal(SIGHUP)
        _ = try proxy.errorLog.line(with: "certificates were read anew")
        let deadline = Now.milliseconds + 2000
        var status = 0
        while status != 200, Now.milliseconds < deadline {
            status = try proxy.answer(to: head("GET / HTTP/1.1", "Host: t")).status
        }
        #expect(status == 200)
    }
}
