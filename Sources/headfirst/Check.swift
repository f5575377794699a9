import ArgumentParser
import ProxyConfiguration

/// `headfirst check`
struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what is wrong with a configuration file, or that it is right.",
        discussion: """
            Every mistake is listed on standard error as file:line:column, with the line and a caret under the place; \
            then the exit code is 78. A file that is right is answered with "FILE: ok" on standard output. Nothing is \
            bound and no name is looked up.
            """)

    @Option(
        help: ArgumentHelp("The configuration file (default: \(LoadedConfiguration.standardPath)).", valueName: "file"))
    var config: String?

    @Argument(help: "The same, without the option's name.")
    var file: String?

    func validate() throws {
        if config != nil, file != nil { throw ValidationError("Name the file once: with --config or without.") }
    }

    func run() throws {
        let path = config ?? file ?? LoadedConfiguration.standardPath
        _ = try LoadedConfiguration.load(orExitFrom: path)
        Terminal.say("\(path): ok")
    }
}
