// The real binary as a child process: its configuration, its logs, its end.

import Glibc
import Testing

/// What a process writes into a pipe, collected by a thread.
final class Output: Sendable {
    private let state = Monitor<(text: String, isOver: Bool)>(("", false))

    init(reading descriptor: Int32) {
        let state = state
        startThread {
            var room = [UInt8](repeating: 0, count: 16 << 10)
            while true {
                let count = read(descriptor, &room, room.count)
                if count <= 0 { break }
                state.update { $0.text += String(decoding: room[..<count], as: UTF8.self) }
            }
            close(descriptor)
            state.update { $0.isOver = true }
        }
    }

    var text: String { state.update { $0.text } }

    /// Waits for a line with this text, and returns it.
    func line(with wanted: String, milliseconds: Int = 4000) throws -> String {
        try state.wait(for: "a line with '\(wanted)'", milliseconds: milliseconds) { state in
            if let line = state.text.split(separator: "\n").first(where: { $0.contains(wanted) }) {
                return String(line)
            }
            return state.isOver ? "" : nil
        }
    }

    /// Waits for this many whole lines.
    func lines(_ count: Int, milliseconds: Int = 4000) throws -> [String] {
        try state.wait(for: "\(count) lines", milliseconds: milliseconds) { state in
            guard state.text.count(where: { $0 == "\n" }) >= count else { return nil }
            return state.text.split(separator: "\n").map(String.init)
        }
    }

    /// Waits until nobody can write any more: the process is gone.
    func waitForEnd(milliseconds: Int) throws {
        try state.wait(for: "the end of the process", milliseconds: milliseconds) { $0.isOver ? () : nil }
    }
}

/// A folder that goes away with its owner.
final class Folder: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/headfirst-test-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { preconditionFailure("no folder for a test") }
        path = String(cString: made)
    }

    deinit {
        guard let listing = opendir(path) else { return }
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            unlink("\(path)/\(name)")
        }
        closedir(listing)
        rmdir(path)
    }

    func write(_ text: String, to name: String) -> String {
        let file = "\(path)/\(name)"
        let descriptor = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        let bytes = Array(text.utf8)
        precondition(Glibc.write(descriptor, bytes, bytes.count) == bytes.count, "a test file cannot be written")
        close(descriptor)
        return file
    }
}

extension Folder {
    /// What a file has; nothing if it is not there.
    func read(_ name: String) -> String {
        let descriptor = open("\(path)/\(name)", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var (text, room) = ([UInt8](), [UInt8](repeating: 0, count: 64 << 10))
        while case let count = Glibc.read(descriptor, &room, room.count), count > 0 { text += room[..<count] }
        return String(decoding: text, as: UTF8.self)
    }
}

/// A running command.
final class Command {
    let process: pid_t
    let output: Output
    let errors: Output
    private var status: Int32?

    /// The binary under test: HEADFIRST_BINARY, or the one in the folder of the test bundle.
    static let binary: String = {
        if let path = getenv("HEADFIRST_BINARY") { return String(cString: path) }
        var room = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &room, room.count)
        let bundle = String(decoding: room[..<max(0, count)].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return (bundle.split(separator: "/").dropLast().map { "/\($0)" }.joined()) + "/headfirst"
    }()

    /// Starts the binary.
    /// - Parameters:
    ///   - environment: variables, besides the tests' own.
    ///   - limit: a line for the shell that starts it, such as `ulimit -n 64`.
    ///   - standardOutput: where its output goes instead of to `output`.
    ///   - sockets: what it gets as descriptors from 3 on.
    init(
        _ arguments: [String], environment: [String] = [], limit: String? = nil, standardOutput: Int32? = nil,
        sockets: [Int32] = []
    ) {
        // One at a time: a pipe that another child inherits would not tell the end of this one.
        Descriptors.lock.lock()
        defer { Descriptors.lock.unlock() }
        let (outputs, errors) = (Self.makePipe(), Self.makePipe())
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, standardOutput ?? outputs.write, 1)
        posix_spawn_file_actions_adddup2(&actions, errors.write, 2)
        // Whatever the tests' own parent has left open would count against the limits under test.
        let copies = sockets.map { fcntl($0, F_DUPFD_CLOEXEC, 256) }
        defer { for copy in copies { close(copy) } }
        for descriptor in Int32(3)..<256 { posix_spawn_file_actions_addclose(&actions, descriptor) }
        for (index, copy) in copies.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, copy, Int32(3 + index))
        }
        let command = [Self.binary] + arguments
        let words = limit.map { ["/bin/sh", "-c", "\($0); exec \"$@\"", "sh"] + command } ?? command
        var argv = words.map { strdup($0) } + [nil]
        // A sanitizer's options are for the binary, too.
        let options = getenv("ASAN_OPTIONS").map { ["ASAN_OPTIONS=" + String(cString: $0)] } ?? []
        var variables = (environment + options).map { strdup($0) } + [nil]
        var process: pid_t = 0
        let error = posix_spawn(&process, words[0], &actions, nil, &argv, &variables)
        precondition(error == 0, "cannot start \(words[0])")
        posix_spawn_file_actions_destroy(&actions)
        for word in argv + variables { free(word) }
        close(outputs.write)
        close(errors.write)
        self.process = process
        output = Output(reading: outputs.read)
        self.errors = Output(reading: errors.read)
    }

    private static func makePipe() -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        precondition(pipe(&ends) == 0, "no pipe")
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return (ends[0], ends[1])
    }

    deinit {
        if status == nil {
            kill(process, SIGKILL)
            collect()
        }
    }

    private func collect() {
        var status: Int32 = 0
        waitpid(process, &status, 0)
        self.status = status
    }

    /// Waits for the end.
    /// - Returns: the exit code; the signal, negative, if one ended it.
    func exitCode(milliseconds: Int = 4000) throws -> Int {
        if status == nil {
            try errors.waitForEnd(milliseconds: milliseconds)
            collect()
        }
        let status = status ?? 0
        return status & 0x7F == 0 ? Int(status >> 8 & 0xFF) : -Int(status & 0x7F)
    }

    func signal(_ number: Int32) { kill(process, number) }

    /// Whether it still runs.
    var isRunning: Bool {
        guard status == nil else { return false }
        var status: Int32 = 0
        if waitpid(process, &status, WNOHANG) != process { return true }
        self.status = status
        return false
    }

    private func readFile(_ path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        var room = [UInt8](repeating: 0, count: 16 << 10)
        let count = read(descriptor, &room, room.count)
        return String(decoding: room[..<max(0, count)], as: UTF8.self)
    }

    /// Resident memory in KiB. 0 under a sanitizer, which keeps what is given back and adds to what is taken: it says nothing
    /// there.
    var residentKibibytes: Int {
        if getenv("ASAN_OPTIONS") != nil { return 0 }
        let line = readFile("/proc/\(process)/status").split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        return line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap { Int($0) } ?? 0
    }

    /// Processor time that it has used.
    var processorMilliseconds: Int {
        // Behind the name, which may have spaces: the state, and eleven figures before these two, in ticks of 10 ms.
        let figures = readFile("/proc/\(process)/stat").split(separator: ")").last?.split(separator: " ") ?? []
        guard figures.count > 12, let user = Int(figures[11]), let system = Int(figures[12]) else { return 0 }
        return (user + system) * 10
    }

    /// Open descriptors.
    var descriptorCount: Int {
        guard let listing = opendir("/proc/\(process)/fd") else { return 0 }
        defer { closedir(listing) }
        var count = -2
        while readdir(listing) != nil { count += 1 }
        return count
    }
}

/// A running proxy. When the test lets go of it, it must still be alive: nothing that peers do may end it.
final class Headfirst {
    let command: Command
    let folder: Folder
    /// Where it listens, in the order of the configuration.
    let listening: [String]
    /// The origins live as long as the proxy.
    private let origins: [Origin]
    private var isExpectedToRun = true

    var errorLog: Output { command.errors }
    var accessLog: Output { command.output }

    /// Starts one with a whole configuration, and waits until it takes connections.
    /// - Parameter configuration: the text; `$FOLDER` stands for the folder of its file.
    init(
        configuration: String, origins: [Origin] = [], environment: [String] = [], limit: String? = nil,
        standardOutput: Int32? = nil, sockets: [Int32] = [], folder: Folder = Folder()
    ) throws {
        self.folder = folder
        self.origins = origins
        let parts = configuration.split(separator: "$FOLDER", omittingEmptySubsequences: false)
        let file = folder.write(parts.joined(separator: folder.path), to: "proxy.conf")
        command = Command(
            ["run", "--config", file], environment: environment, limit: limit, standardOutput: standardOutput,
            sockets: sockets)
        let line = try command.errors.line(with: "listening=")
        let addresses = line.split(separator: "listening=").last?.split(separator: " workers=").first ?? ""
        listening = addresses.split { $0 == " " || $0 == "\"" }.map(String.init)
        try #require(!listening.isEmpty, "the proxy did not start: \(command.errors.text)")
    }

    /// Starts one in front of an origin. One worker, so that pools and turns are as the test expects.
    convenience init(
        to origin: Origin, top: String = "", upstream: String = "", server: String = "", listener: String = "",
        route: String = "", log: String = "off", limit: String? = nil
    ) throws {
        try self.init(
            configuration: """
                workers 1; access_log \(log); \(top)
                upstream origin { server \(origin.address.text) \(server); \(upstream) }
                listener main { bind 127.0.0.1:0; \(listener) route / { upstream origin; \(route) } }
                """, origins: [origin], limit: limit)
    }

    deinit {
        if isExpectedToRun, !command.isRunning { Issue.record("the proxy ended by itself: \(command.errors.text)") }
    }

    /// A client. The proxy lives as long as it.
    func connect(receiveBuffer: Int32? = nil, listener: Int = 0) throws -> Wire {
        let text = listening[listener]
        guard let port = UInt16(text.split(separator: ":").last ?? "") else { throw Malformed(what: text) }
        let address = text.hasPrefix("[") ? Address.ipv6(port: port) : .ipv4(port: port)
        let client = try address.connect(receiveBuffer: receiveBuffer)
        client.peer = self
        return client
    }

    /// Sends bytes on a connection of their own and reads the response.
    func answer(to request: String, toHEAD: Bool = false) throws -> Message {
        let client = try connect()
        try client.send(request)
        return try client.response(toHEAD: toHEAD)
    }

    /// Sends a signal that stops it; from now on its end is no surprise.
    func terminate(_ signal: Int32 = SIGTERM) {
        isExpectedToRun = false
        command.signal(signal)
    }
}

/// Lines with CRLF and the empty line: a head.
func head(_ lines: String...) -> String { lines.joined(separator: "\r\n") + "\r\n\r\n" }

/// One chunk.
func chunk(_ data: String) -> String { String(data.utf8.count, radix: 16) + "\r\n\(data)\r\n" }

/// The last chunk, without trailers.
let lastChunk = "0\r\n\r\n"
