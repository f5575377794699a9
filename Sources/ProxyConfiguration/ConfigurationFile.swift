// The way in: text -> tree -> validated model. The grammar is in Lexer and Parser, the directives in DirectiveTable,
// what blocks make of them in Builder.

/// A configuration that can be used.
public struct LoadedConfiguration: Sendable, Equatable {
    /// The configuration.
    public var configuration: Configuration
    /// What is probably not meant so.
    public var warnings: [Diagnostic]
}

/// Reads configuration files.
public enum ConfigurationFile {
    /// The largest file, 1 MiB.
    public static let bytesMax = 1 << 20

    /// Reads a file and those it includes.
    /// - Parameters:
    ///   - path: The main file. Its folder is where the relative paths of includes, logs and Unix sockets start.
    ///   - environment: What `${NAME}` stands for.
    /// - Throws: everything that is wrong, not just the first mistake.
    public static func load(
        path: String, environment: [String: String]
    ) throws(ConfigurationErrors) -> LoadedConfiguration {
        let text: [UInt8]
        do throws(FileReadError) {
            text = try SystemFiles().read(path)
        } catch {
            throw failure(of: path, "cannot read it: \(error.reason)")
        }
        return try parse(text: text, file: path, environment: environment, files: SystemFiles())
    }

    /// The same from a text in hand.
    /// - Parameters:
    ///   - text: The main file's bytes.
    ///   - file: Its name in diagnostics; its folder is where relative paths start.
    ///   - environment: What `${NAME}` stands for.
    ///   - files: Gives the files that are included.
    /// - Throws: everything that is wrong, not just the first mistake.
    public static func parse(
        text: [UInt8], file: String, environment: [String: String] = [:],
        files: some ConfigurationFiles = NoConfigurationFiles()
    ) throws(ConfigurationErrors) -> LoadedConfiguration {
        guard text.count <= bytesMax else { throw failure(of: file, "it is larger than 1 MiB") }
        let diagnostics = Diagnostics()
        let loader = Loader(environment: environment, files: files, diagnostics: diagnostics)
        let statements = loader.statements(of: text, path: file)
        var builder = Builder(diagnostics: diagnostics, folder: FilePath.folder(of: file))
        let configuration = builder.configuration(from: statements)
        guard !diagnostics.hasErrors else { throw ConfigurationErrors(diagnostics: diagnostics.sorted()) }
        return LoadedConfiguration(configuration: configuration, warnings: diagnostics.sorted())
    }

    /// An error of a file as a whole.
    private static func failure(of file: String, _ message: String) -> ConfigurationErrors {
        let location = SourceLocation(file: file, line: 0, column: 0)
        return ConfigurationErrors(diagnostics: [
            Diagnostic(severity: .error, location: location, message: message, sourceLine: "", caretLine: "")
        ])
    }
}
