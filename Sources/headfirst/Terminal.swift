// What the command says, and what it is told by its environment.

@preconcurrency import Glibc

enum Terminal {
    /// Writes a line to standard output, unbuffered: the access log may go there too, by another way.
    static func say(_ line: String) { write(line, to: STDOUT_FILENO) }

    /// Writes a diagnostic to standard error.
    static func complain(_ line: String) { write(line, to: STDERR_FILENO) }

    /// The environment, for `${NAME}` in configuration files. Read before any thread starts.
    static func environment() -> [String: String] {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee {
            let pair = String(cString: text).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2 { variables[String(pair[0])] = String(pair[1]) }
            entry += 1
        }
        return variables
    }

    private static func write(_ line: String, to descriptor: Int32) {
        var left = Array((line + "\n").utf8)[...]
        while !left.isEmpty {
            let count = left.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            // Nobody is left to be told.
            guard count > 0 else { return }
            left = left.dropFirst(count)
        }
    }
}
