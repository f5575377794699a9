// Where the text of a configuration comes from: the seam between reading it and the file system.

import Glibc

/// Why a file or a folder could not be read.
public struct FileReadError: Error, Equatable, Sendable {
    /// The reason in a few words, as in "No such file or directory".
    public var reason: String

    /// An error with its reason.
    public init(reason: String) {
        self.reason = reason
    }
}

/// Gives the files that a configuration includes.
public protocol ConfigurationFiles {
    /// The bytes of a file. Whoever reads may stop one byte behind `ConfigurationFile.bytesMax`.
    func read(_ path: String) throws(FileReadError) -> [UInt8]
    /// The names of what is in a folder, in any order; "" is the current one. Asked for by wildcards only.
    func list(_ folder: String) throws(FileReadError) -> [String]
}

/// No files at all: for a configuration that stands alone.
public struct NoConfigurationFiles: ConfigurationFiles {
    /// There is nothing in it.
    public init() {}

    /// Fails.
    public func read(_ path: String) throws(FileReadError) -> [UInt8] {
        throw FileReadError(reason: "No such file or directory")
    }

    /// Fails.
    public func list(_ folder: String) throws(FileReadError) -> [String] {
        throw FileReadError(reason: "No such file or directory")
    }
}

/// The files of this machine.
struct SystemFiles: ConfigurationFiles {
    private static func failure() -> FileReadError {
        FileReadError(reason: String(cString: strerror(errno)))
    }

    func read(_ path: String) throws(FileReadError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemFiles.failure() }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while bytes.count <= ConfigurationFile.bytesMax {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw SystemFiles.failure()
            }
            bytes += chunk[..<count]
        }
        return bytes
    }

    func list(_ folder: String) throws(FileReadError) -> [String] {
        guard let directory = opendir(folder.isEmpty ? "." : folder) else { throw SystemFiles.failure() }
        defer { closedir(directory) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(directory) else {
                if errno != 0 { throw SystemFiles.failure() }
                return names
            }
            let length = Int(entry.pointee.d_reclen) - (MemoryLayout<dirent>.offset(of: \.d_name) ?? 0)
            withUnsafePointer(to: &entry.pointee.d_name) { name in
                name.withMemoryRebound(to: UInt8.self, capacity: length) { bytes in
                    names.append(String(decodingCString: bytes, as: UTF8.self))
                }
            }
        }
    }
}

/// Paths, lexically.
enum FilePath {
    /// The folder of a file, with its slash; "" for the current one.
    static func folder(of path: String) -> String {
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return "" }
        return String(path[...slash])
    }

    /// A path as seen from `folder`.
    static func resolve(_ path: String, in folder: String) -> String {
        path.hasPrefix("/") ? path : folder + path
    }

    /// The path without `.`, `..` and doubled slashes, to recognise a file. Links are not followed: a cycle through
    /// one is stopped by the bound of depth.
    static func identity(_ path: String) -> String {
        var parts: [Substring] = []
        for part in path.split(separator: "/") where part != "." {
            if part == "..", let last = parts.last, last != ".." {
                parts.removeLast()
            } else {
                parts.append(part)
            }
        }
        return (path.hasPrefix("/") ? "/" : "") + parts.joined(separator: "/")
    }

    /// Whether a name matches a pattern with `*` (any text) and `?` (one byte). As in a shell, a leading dot is only
    /// matched by a dot. The time is bounded by the product of the lengths.
    static func matches(_ name: String, pattern: String) -> Bool {
        let name = Array(name.utf8)
        let pattern = Array(pattern.utf8)
        if name.first == UInt8(ascii: "."), pattern.first != UInt8(ascii: ".") { return false }
        var nameIndex = 0
        var patternIndex = 0
        var star: (pattern: Int, name: Int)?
        while nameIndex < name.count {
            if patternIndex < pattern.count, pattern[patternIndex] == UInt8(ascii: "*") {
                star = (patternIndex, nameIndex)
                patternIndex += 1
            } else if patternIndex < pattern.count,
                pattern[patternIndex] == UInt8(ascii: "?") || pattern[patternIndex] == name[nameIndex]
            {
                patternIndex += 1
                nameIndex += 1
            } else if let last = star {
                // The last star takes one byte more.
                star = (last.pattern, last.name + 1)
                patternIndex = last.pattern + 1
                nameIndex = last.name + 1
            } else {
                return false
            }
        }
        return pattern[patternIndex...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}
