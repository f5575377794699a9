// The error log: swift-log with a handler that writes one line at a time, as text or JSON. Workers do not format:
// they leave a small event, and the control thread writes it. Lines that peers cause are bounded by the second.

import EventLoop
import Glibc
import Logging
import ProxyConfiguration
import ProxyCore

/// Writes lines of the error log.
struct ErrorLogHandler: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level
    private let file: LogFile
    private let format: ErrorLogFormat

    init(_ file: LogFile, format: ErrorLogFormat, level: Logger.Level) {
        self.file = file
        self.format = format
        logLevel = level
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(event.metadata ?? [:]) { $1 }.sorted { $0.key < $1.key }
        var line: String
        switch format {
        case .text:
            line = "\(Self.timestamp()) \(event.level): \(event.message)"
            for (key, value) in all { line += " \(key)=\(Self.quotedIfNeeded("\(value)"))" }
        case .json:
            line = "{\"time\":\"\(Self.timestamp())\",\"level\":\"\(event.level)\",\"message\":"
            line += JSONText.quoted("\(event.message)")
            for (key, value) in all { line += ",\(JSONText.quoted(key)):\(JSONText.quoted("\(value)"))" }
            line += "}"
        }
        Self.write(line, to: file.descriptor)
    }

    /// The most that a pipe takes without blocking when it says that it is writable (PIPE_BUF).
    private static let lineBytesMax = 4096

    /// One write a line: lines of several threads do not mix. A reader that takes nothing loses lines instead of
    /// stopping the thread that answers signals.
    private static func write(_ text: String, to descriptor: Int32) {
        var bytes = Array(text.utf8.prefix(lineBytesMax - 1))
        bytes.append(UInt8(ascii: "\n"))
        var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        guard poll(&entry, 1, 0) > 0, entry.revents & Int16(POLLOUT) != 0 else { return }
        _ = Glibc.write(descriptor, bytes, bytes.count)
    }

    private static func timestamp() -> String {
        let microseconds = Clock.wallMicroseconds()
        var seconds = time_t(microseconds / 1_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func padded(_ number: Int32, _ digits: Int) -> String {
            let text = String(number)
            return String(repeating: "0", count: max(0, digits - text.count)) + text
        }
        let day = "\(padded(parts.tm_year + 1900, 4))-\(padded(parts.tm_mon + 1, 2))-\(padded(parts.tm_mday, 2))"
        let time = "\(padded(parts.tm_hour, 2)):\(padded(parts.tm_min, 2)):\(padded(parts.tm_sec, 2))"
        return "\(day)T\(time).\(padded(Int32(microseconds % 1_000_000 / 1000), 3))Z"
    }

    private static func quotedIfNeeded(_ text: String) -> String {
        let isPlain = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x22 && $0 != 0x5C && $0 != 0x7F }
        return isPlain ? text : JSONText.quoted(text)
    }
}

/// Makes the error log of a configuration.
enum ErrorLog {
    /// A logger.
    static func make(_ configuration: ProxyConfiguration.ErrorLog, to file: LogFile) -> Logger {
        let level: Logger.Level =
            switch configuration.level {
            case .debug: .debug
            case .info: .info
            case .notice: .notice
            case .warning: .warning
            case .error: .error
            }
        return Logger(label: "headfirst") { _ in
            ErrorLogHandler(file, format: configuration.format, level: level)
        }
    }
}
