import ArgumentParser
import EventLoop
import ProxyConfiguration
import ProxyRuntime

/// `headfirst run`
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve, until a signal says stop.",
        discussion: """
            Reads the configuration, binds every listener and serves in the foreground. The logs go where the \
            configuration says: by default the access log to standard output, the error log to standard error. SIGHUP reloads it.
            """)

    @OptionGroup var configuration: ConfigurationPath

    func run() throws {
        // What is asked for while the configuration is read is done when it is served.
        Signals.block()
        let loaded = try LoadedConfiguration.load(orExitFrom: configuration.path)
        do throws(StartupError) {
            // The runtime's own log says what it listens on.
            try Proxy.run(
                loaded.configuration,
                reloadingFrom: { () throws(ConfigurationErrors) in
                    try ConfigurationFile.load(path: configuration.path, environment: Terminal.environment())
                }, onReady: { _ in })
        } catch {
            Terminal.complain("headfirst: \(error.description)")
            throw Exit.operatingSystem
        }
    }
}
