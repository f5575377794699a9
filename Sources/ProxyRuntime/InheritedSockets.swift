// Listening sockets that the process was started with, as systemd's socket activation hands them over (sd_listen_fds(3)):
// LISTEN_PID names the process, LISTEN_FDS says how many descriptors there are from 3 on, LISTEN_FDNAMES what each is
// called. `bind fd:NAME` takes all of one name; `bind fd:NUMBER` takes a descriptor by its number, whoever left it open.

import EventLoop
import Glibc
import HTTPSemantics

/// See the head of the file.
struct InheritedSockets {
    private static let firstDescriptor: Int32 = 3
    private static let descriptorsMax: Int32 = 1024

    private let named: [(name: String, descriptor: Int32)]
    /// Sockets that were open when the process started: only these can be named by number.
    private let open: Set<Int32>

    /// None.
    init(none: ()) {
        named = []
        open = []
    }

    /// Those that were handed over. To be asked before the process opens any of its own.
    init(environment: (String) -> String?) {
        open = Set(
            (Self.firstDescriptor..<Self.firstDescriptor + Self.descriptorsMax).filter { Socket.isListenable($0) })
        guard let process = environment("LISTEN_PID").flatMap({ Int32($0) }), process == getpid(),
            let count = environment("LISTEN_FDS").flatMap({ Int32($0) }), count > 0, count <= Self.descriptorsMax
        else {
            named = []
            return
        }
        let names = (environment("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
        named = (0..<count).map { index in
            let name = Int(index) < names.count ? String(names[Int(index)]) : "unknown"
            return (name, Self.firstDescriptor + index)
        }
    }

    /// The sockets that a name stands for.
    func sockets(named name: String) -> [Int32] {
        let found = named.filter { $0.name == name }.map(\.descriptor)
        if !found.isEmpty { return found }
        guard let number = Int32(name), open.contains(number) else { return [] }
        return [number]
    }

    /// Why a name stands for none.
    func absence(of name: String) -> String {
        if Int32(name) != nil { return "the process was not started with such a socket" }
        if named.isEmpty { return "no socket was handed to this process (LISTEN_FDS)" }
        let names = Set(named.map(\.name)).sorted().joined(separator: ", ")
        return "no socket of this name was handed to this process; there are: \(names)"
    }

    /// Makes a descriptor ready to be listened on, and tells its address.
    static func prepare(
        _ descriptor: Int32, backlog: Int
    ) throws(SystemError) -> (name: String, isUnix: Bool) {
        let local = try Socket.localAddress(of: descriptor)
        try Socket.makeListening(descriptor, backlog: backlog)
        if let path = local.path { return ("unix:\(path)", true) }
        if local.isUnix { return ("unix", true) }
        let ip = IPAddress(high: local.ip.high, low: local.ip.low)
        return (ip.isIPv4 ? "\(ip):\(local.ip.port)" : "[\(ip)]:\(local.ip.port)", false)
    }
}
