import ArgumentParser
import ProxyConfiguration
import ProxyRuntime

/// `headfirst check`
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what is wrong with a configuration file, or that it is right.",
        discussion: """
            Every mistake is listed on standard error as file:line:column, with the line and a caret under the place; \
            then the exit code is 78. Certificates and keys are read: whether they belong together, their dates and \
            their names. A file that is right is answered with "FILE: ok" on standard output. Nothing is bound and no \
            name is looked up.
            """)

    @OptionGroup var configuration: ConfigurationPath

    func run() throws {
        let loaded = try LoadedConfiguration.load(orExitFrom: configuration.path)
        let problems = TLSFiles.check(loaded.configuration)
        for problem in problems { Terminal.complain(problem.description) }
        if !problems.allSatisfy(\.isWarning) { throw Exit.configuration }
        Terminal.say("\(configuration.path): ok")
    }
}
