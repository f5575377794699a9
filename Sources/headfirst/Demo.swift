import ArgumentParser
import DemoOrigin
import EventLoop
import ProxyConfiguration
import ProxyRuntime

/// `headfirst demo`
struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "See it at work: a slow origin and the proxy before it.",
        discussion: """
            Starts an origin that is slow on purpose on a free port of the loopback, and the proxy in front of it. \
            Open the address in a browser, or use the lines for curl that are printed. The access log follows on \
            standard output.
            """)

    @Option(help: ArgumentHelp("Where the proxy listens: an IP address and a port.", valueName: "address:port"))
    var bind = "127.0.0.1:8080"

    @Flag(help: "Speak TLS, with a certificate that is made for this run and that nobody trusts.")
    var tls = false

    func validate() throws {
        // Only these can be in an address; nothing else of the configuration may come in this way.
        guard bind.utf8.allSatisfy({ "0123456789abcdefABCDEF.:[]".utf8.contains($0) }),
            let loaded = try? demonstration(originPort: 1),
            case .ip = loaded.configuration.listeners.first?.binds.first?.endpoint
        else {
            throw ValidationError("--bind takes an IP address and a port, as in 127.0.0.1:8080 or [::1]:8080.")
        }
    }

    func run() throws {
        // The origin's threads leave them to the proxy.
        Signals.block()
        do {
            let origin = try DemoOrigin()
            defer { origin.stop() }
            let files =
                tls ? try ThrowAwayFiles(names: ["localhost"], addresses: ["127.0.0.1", "::1"]) : nil
            try Proxy.run(demonstration(originPort: origin.port, files).configuration) { listening in
                Terminal.say(Demo.invitation(to: listening.first ?? bind, tls: tls))
            }
        } catch let error as DemoOriginError {
            Terminal.complain("headfirst: \(error.description)")
            throw Exit.operatingSystem
        } catch let error as StartupError {
            Terminal.complain(
                "headfirst: \(error.description)\nAnother address can be named: headfirst demo --bind 127.0.0.1:8081")
            throw Exit.operatingSystem
        }
    }

    /// The configuration: all that it takes to put the proxy before one server, for clients of both versions.
    private func demonstration(
        originPort: UInt16, _ files: ThrowAwayFiles? = nil
    ) throws(ConfigurationErrors) -> LoadedConfiguration {
        let tls = files.map { "tls { certificate \($0.certificate) \($0.key); }" } ?? ""
        let text = """
            shutdown_grace 1s;
            error_log stderr level=warning;
            access_log stdout;
            upstream origin { server 127.0.0.1:\(originPort); }
            listener demo {
                http2 on;
                bind \(bind)\(files == nil ? "" : " tls"); \(tls)
                route / { upstream origin; }
            }

            """
        return try ConfigurationFile.parse(text: Array(text.utf8), file: "demo")
    }

    /// What to do now.
    private static func invitation(to address: String, tls: Bool) -> String {
        // An address that stands for all is no address to go to.
        var host = address
        if host.hasPrefix("0.0.0.0:") { host = "127.0.0.1:" + host.dropFirst(8) }
        if host.hasPrefix("[::]:") { host = "[::1]:" + host.dropFirst(5) }
        let url = "\(tls ? "https" : "http")://\(host)"
        // Nobody vouches for the certificate.
        let curl = tls ? "curl -k" : "curl"
        return """

            Headfirst is between you and a slow origin. In a browser:

                \(url)/

            Or with curl, in another terminal:

                \(curl) -N -D - \(url)/slow
                    The head is there at once, the content 3 s later. Compare with /held.
                \(curl) -N -D - \(url)/report
                    The head at once, ten lines over 5 s, then a digest in the trailer.
                \(curl) -N -D - \(url)/hints
                    The 103 is there 2 s before the page it belongs to.
                \(curl) -N \(url)/events
                    An event a second. Press Ctrl-C: the origin is told at once.
                (for i in 1 2 3 4 5; do echo piece $i; sleep 1; done) | \(curl) -N -T . \(url)/upload
                    A line for each piece, while the upload is still being sent.

            Ctrl-C ends the demo. Each request is logged here when it is over:

            """
    }
}
