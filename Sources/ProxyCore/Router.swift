// Which route a request goes to: by host, then by path. Host: the exact name, then the longest `*.` pattern; a host
// in neither takes the listener's own routes. Path: the exact route, then the longest prefix at a segment boundary. One hash over
// the bytes serves all prefixes of a path, so a lookup costs one pass whatever the number of routes.

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// A hash over bytes that grows byte by byte (FNV-1a).
private struct RollingHash {
    var value: UInt64 = 0xCBF2_9CE4_8422_2325

    mutating func add(_ byte: UInt8) { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }

    static func of(_ bytes: some Sequence<UInt8>) -> UInt64 {
        var hash = RollingHash()
        for byte in bytes { hash.add(byte) }
        return hash.value
    }
}

/// Bytes -> index, open addressing, in an arena. No entry is ever added after it was made.
struct ByteTable {
    private struct Slot {
        let key: UnsafeBufferPointer<UInt8>
        let value: Int
        let isUsed: Bool
    }
    private let slots: UnsafeBufferPointer<Slot>
    private let mask: Int

    init(_ entries: [(key: [UInt8], value: Int)], in arena: Arena) {
        var capacity = 4
        while capacity < entries.count * 2 { capacity *= 2 }
        mask = capacity - 1
        var slots = [Slot](
            repeating: Slot(key: UnsafeBufferPointer(start: nil, count: 0), value: 0, isUsed: false), count: capacity)
        for entry in entries {
            var index = Self.spread(RollingHash.of(entry.key)) & mask
            while slots[index].isUsed { index = (index + 1) & mask }
            slots[index] = Slot(key: UnsafeBufferPointer(arena.copy(entry.key)), value: entry.value, isUsed: true)
        }
        self.slots = UnsafeBufferPointer(arena.copy(slots))
    }

    private static func spread(_ hash: UInt64) -> Int { Int(truncatingIfNeeded: hash ^ hash >> 29) & .max }

    /// Finds `count` bytes whose hash is known.
    func find(_ bytes: UnsafePointer<UInt8>, count: Int, hash: UInt64, lowercased: Bool) -> Int? {
        var index = Self.spread(hash) & mask
        while slots[index].isUsed {
            let key = slots[index].key
            if key.count == count {
                var offset = 0
                while offset < count,
                    key[offset] == (lowercased ? Head.lowercase(bytes[offset]) : bytes[offset])
                {
                    offset += 1
                }
                if offset == count { return slots[index].value }
            }
            index = (index + 1) & mask
        }
        return nil
    }
}

/// Routes of one host section.
struct PathTable {
    private let exact: ByteTable
    private let prefixes: ByteTable
    private let exactCount: Int
    private let prefixBytesMax: Int

    init(_ routes: [(route: Route, index: Int)], in arena: Arena) {
        let exactRoutes = routes.filter { $0.route.isExact }
        let prefixRoutes = routes.filter { !$0.route.isExact }
        exact = ByteTable(exactRoutes.map { (Array($0.route.path.utf8), $0.index) }, in: arena)
        prefixes = ByteTable(prefixRoutes.map { (Array($0.route.path.utf8), $0.index) }, in: arena)
        exactCount = exactRoutes.count
        prefixBytesMax = prefixRoutes.map { $0.route.path.utf8.count }.max() ?? 0
    }

    /// A prefix ends where a segment does: before or behind a slash, or at the path's end.
    func find(_ path: UnsafePointer<UInt8>, count: Int) -> Int? {
        let scanned = exactCount > 0 ? count : min(count, prefixBytesMax + 1)
        var hash = RollingHash()
        var best: Int?
        var index = 0
        while index < scanned {
            let byte = path[index]
            if byte == UInt8(ascii: "/"), index > 0, index <= prefixBytesMax,
                let found = prefixes.find(path, count: index, hash: hash.value, lowercased: false)
            {
                best = found
            }
            hash.add(byte)
            index += 1
            if byte == UInt8(ascii: "/") || index == count, index <= prefixBytesMax,
                let found = prefixes.find(path, count: index, hash: hash.value, lowercased: false)
            {
                best = found
            }
        }
        if exactCount > 0, let found = exact.find(path, count: count, hash: hash.value, lowercased: false) {
            return found
        }
        return best
    }
}

/// Host and path -> route.
public struct Router {
    private let exactHosts: ByteTable
    private let suffixHosts: ByteTable
    private let hasHosts: Bool
    private let tables: UnsafeBufferPointer<PathTable>
    private let defaultTable: Int?
    /// Whether there is one route, and it matches everything.
    private let isCatchAll: Bool
    private let routes: UnsafeBufferPointer<CompiledRoute>

    /// - Parameter firstNumber: the number of the first route.
    init(_ hosts: [VirtualHost], upstreams: [Upstream], firstNumber: Int, in arena: Arena) {
        var noConnectRules: [ConnectRules] = []
        var compiled: [CompiledRoute] = []
        var tables: [PathTable] = []
        var exact: [(key: [UInt8], value: Int)] = []
        var suffixes: [(key: [UInt8], value: Int)] = []
        var defaultTable: Int?
        for host in hosts {
            var indexed: [(route: Route, index: Int)] = []
            for route in host.routes {
                indexed.append((route, compiled.count))
                compiled.append(
                    CompiledRoute(
                        route, number: firstNumber + compiled.count, upstreams: upstreams,
                        connectRules: &noConnectRules, in: arena))
            }
            for pattern in host.patterns {
                let bytes = Array(pattern.utf8)
                if bytes.starts(with: [UInt8(ascii: "*"), UInt8(ascii: ".")]) {
                    suffixes.append((Array(bytes.dropFirst()), tables.count))
                } else {
                    exact.append((bytes, tables.count))
                }
            }
            if host.patterns.isEmpty { defaultTable = tables.count }
            tables.append(PathTable(indexed, in: arena))
        }
        precondition(noConnectRules.isEmpty, "only CONNECT dials")
        exactHosts = ByteTable(exact, in: arena)
        suffixHosts = ByteTable(suffixes, in: arena)
        hasHosts = !exact.isEmpty || !suffixes.isEmpty
        let only = hosts.flatMap(\.routes)
        isCatchAll = !hasHosts && only.count == 1 && only[0].path == "/" && !only[0].isExact
        self.tables = UnsafeBufferPointer(arena.copy(tables))
        self.defaultTable = defaultTable
        routes = UnsafeBufferPointer(arena.copy(compiled))
    }

    /// Finds the route of the request whose head is in the scratch; nil if none matches.
    public func route(_ head: Head) -> UnsafePointer<CompiledRoute>? {
        isCatchAll ? routes.baseAddress.map { UnsafePointer($0) } : search(head)
    }

    /// Where a route stands among all of the listener's: those of its hosts in the order of the file.
    func position(of route: UnsafePointer<CompiledRoute>) -> Int? {
        guard let base = routes.baseAddress else { return nil }
        return UnsafePointer(base).distance(to: route)
    }

    private func search(_ head: Head) -> UnsafePointer<CompiledRoute>? {
        let storage = head.storage
        let bytes = storage.pointee.bytes
        let target = storage.pointee.originForm
        // `*` and an absolute-form without a path are about the whole server.
        var path = bytes + Int(target.start)
        var count = Int(target.count)
        let root: StaticString = "/"
        if count == 0 || path[0] != UInt8(ascii: "/") {
            path = root.utf8Start
            count = 1
        } else {
            count = ByteScan.first(UInt8(ascii: "?"), in: path, from: 0, end: count)
        }
        if hasHosts, !storage.pointee.authority.isEmpty {
            let host = head.bytes(head.hostOnly(storage.pointee.authority))
            if let base = host.baseAddress, let table = table(ofHost: base, count: host.count) {
                // A host that has a section has that one alone: nothing leaks to it from the others.
                return tables[table].find(path, count: count).flatMap { index in routes.baseAddress.map { $0 + index } }
            }
        }
        guard let defaultTable, let index = tables[defaultTable].find(path, count: count) else { return nil }
        return routes.baseAddress.map { $0 + index }
    }

    private func table(ofHost host: UnsafePointer<UInt8>, count: Int) -> Int? {
        // A name may end in the dot of the root.
        let count = count > 1 && host[count - 1] == UInt8(ascii: ".") ? count - 1 : count
        // No name is longer (RFC 1035 section 2.3.4), and the search is bounded by it. TLS policies have the same bound.
        guard count <= 255 else { return nil }
        func hash(from start: Int) -> UInt64 {
            var hash = RollingHash()
            for index in start..<count { hash.add(Head.lowercase(host[index])) }
            return hash.value
        }
        if let found = exactHosts.find(host, count: count, hash: hash(from: 0), lowercased: true) { return found }
        for index in 0..<count where host[index] == UInt8(ascii: ".") && index > 0 {
            if let found = suffixHosts.find(
                host + index, count: count - index, hash: hash(from: index), lowercased: true)
            {
                return found
            }
        }
        return nil
    }
}

extension CompiledRoute {
    /// - Parameter connectRules: where the rules of `connect allow` are added.
    init(
        _ route: Route, number: Int, upstreams: [Upstream], connectRules: inout [ConnectRules], in arena: Arena
    ) {
        self.number = number
        name = arena.copy(route.name)
        switch route.action {
        case .upstream(let index):
            action = .upstream(index)
            upstreamName = arena.copy(upstreams[index].name)
        case .respond(let status, let text):
            action = .respond(UInt16(status), CompiledTemplate(text, in: arena))
            upstreamName = UnsafeBufferPointer(start: nil, count: 0)
        case .redirect(let status, let location):
            action = .redirect(UInt16(status), CompiledTemplate(location, in: arena))
            upstreamName = UnsafeBufferPointer(start: nil, count: 0)
        case .dial(let targets):
            action = .dial(connectRules.count)
            connectRules.append(ConnectRules(targets))
            upstreamName = UnsafeBufferPointer(start: nil, count: 0)
        }
        requestEdits = CompiledEdits(
            route.requestEdits, beginsTrace: route.forwarding.traceparent == .begin, in: arena)
        responseEdits = CompiledEdits(route.responseEdits, in: arena)
        forwarding = route.forwarding
        timers = route.timers
    }
}
