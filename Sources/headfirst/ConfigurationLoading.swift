import ArgumentParser
import Glibc
import ProxyConfiguration

/// Which configuration file a command is about.
struct ConfigurationPath: ParsableArguments {
    @Option(
        help: ArgumentHelp("The configuration file (default: \(LoadedConfiguration.standardPath)).", valueName: "file"))
    var config: String?

    @Argument(help: "The same, without the option's name.")
    var file: String?

    /// The path.
    var path: String { config ?? file ?? LoadedConfiguration.standardPath }

    func validate() throws {
        if config != nil, file != nil { throw ValidationError("Name the file once: with --config or without.") }
    }
}

extension LoadedConfiguration {
    /// Where the configuration is unless told otherwise; the container has it there.
    static let standardPath = "/etc/headfirst/proxy.conf"

    /// Loads a file and prints its warnings; prints every error and ends with `Exit.configuration` if it has any.
    static func load(orExitFrom path: String) throws -> LoadedConfiguration {
        if access(path, F_OK) != 0, errno == ENOENT {
            Terminal.complain("headfirst: \(path): no such file")
            if path == standardPath {
                Terminal.complain(
                    "Begin with a copy of proxy.conf.example, name another file with --config FILE, "
                        + "or see it at work first: headfirst demo")
            }
            throw Exit.configuration
        }
        do throws(ConfigurationErrors) {
            let loaded = try ConfigurationFile.load(path: path, environment: Terminal.environment())
            for warning in loaded.warnings { Terminal.complain(warning.description) }
            return loaded
        } catch {
            Terminal.complain(error.description)
            throw Exit.configuration
        }
    }
}
