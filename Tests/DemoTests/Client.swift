// A client as plain as can be: it sends the bytes it is told to and says when which bytes arrived.

import Glibc

final class Client {
    /// A head as it came.
    struct Head {
        var statusLine: String
        var fields: [String]
        func has(_ field: String) -> Bool { fields.contains(field) }
        func value(_ name: String) -> String? {
            fields.first { $0.hasPrefix("\(name): ") }.map { String($0.dropFirst(name.count + 2)) }
        }
    }

    private let descriptor: Int32
    private var input: [UInt8] = []
    private let start = Client.now()

    init(port: UInt16) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        address.sin_port = port.bigEndian
        let code = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        precondition(code == 0, "the origin does not listen")
    }

    deinit { close(descriptor) }

    /// Seconds since the client connected.
    var elapsed: Double { Client.now() - start }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    func get(_ path: String) { send("GET \(path) HTTP/1.1\r\nHost: demo\r\n\r\n") }

    /// The next head, interim or final; nil if the connection ends before it does.
    func head() -> Head? {
        var lines: [String] = []
        while let line = line() {
            guard line.isEmpty else {
                lines.append(line)
                continue
            }
            return Head(statusLine: lines.first ?? "", fields: Array(lines.dropFirst()))
        }
        return nil
    }

    /// The next line without its end; nil if the connection ends before it does.
    func line() -> String? {
        while true {
            if let end = input.firstIndex(of: 10) {
                let line = input[..<end]
                input.removeFirst(end + 1)
                return String(decoding: line.last == 13 ? line.dropLast() : line, as: UTF8.self)
            }
            guard receive() else { return nil }
        }
    }

    /// So many bytes; fewer if the connection ends.
    func bytes(_ count: Int) -> [UInt8] {
        while input.count < count, receive() {}
        let bytes = Array(input.prefix(count))
        input.removeFirst(bytes.count)
        return bytes
    }

    /// The next chunk; empty is the last one, whose trailers follow as lines.
    func chunk() -> [UInt8]? {
        guard let line = line(), let count = Int(line, radix: 16) else { return nil }
        guard count > 0 else { return [] }
        let chunk = bytes(count)
        return self.line() == "" ? chunk : nil
    }

    private func receive() -> Bool {
        var room = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &room, room.count, 0)
        if count > 0 { input += room[..<count] }
        return count > 0
    }

    private static func now() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}

/// Runs a body that blocks on a thread of its own, so that the tests' few threads stay free.
func blocking(_ body: @escaping @Sendable () -> Void) async {
    final class Work: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
    await withCheckedContinuation { continuation in
        let work = Unmanaged.passRetained(
            Work {
                body()
                continuation.resume()
            })
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, work.toOpaque())
        precondition(code == 0)
        pthread_detach(thread)
    }
}
