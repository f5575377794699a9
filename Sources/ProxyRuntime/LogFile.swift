// Where a log goes. A file can be opened again while others write to it: its descriptor stays the same number.

import EventLoop
import Glibc
import ProxyConfiguration

/// A log's destination, open for appending.
final class LogFile: Sendable {
    /// What is written to.
    let descriptor: Int32
    /// nil: standard output or standard error.
    private let path: String?

    /// Opens a destination; a file is made if it is missing.
    init(_ destination: LogDestination) throws(SystemError) {
        switch destination {
        case .standardOutput: (descriptor, path) = (1, nil)
        case .standardError: (descriptor, path) = (2, nil)
        case .file(let path):
            descriptor = try Self.open(path)
            self.path = path
        }
    }

    deinit { if path != nil { close(descriptor) } }

    /// Opens a file again by its name. If that fails, the old one stays in use.
    func reopen() throws(SystemError) {
        guard let path else { return }
        try Process.replace(descriptor, by: try Self.open(path))
    }

    private static func open(_ path: String) throws(SystemError) -> Int32 {
        let descriptor = Glibc.open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o640)
        if descriptor < 0 { throw SystemError("open", number: errno) }
        return descriptor
    }
}
