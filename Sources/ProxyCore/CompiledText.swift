// What the hot path reads of a configuration: bytes and trivial structs in an arena, instead of strings and arrays.

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// Memory that lives as long as a snapshot.
final class Arena {
    private var blocks: [UnsafeMutableRawPointer] = []

    deinit { for block in blocks { block.deallocate() } }

    /// Copies trivial elements.
    func copy<Element>(_ elements: [Element]) -> UnsafeMutableBufferPointer<Element> {
        guard !elements.isEmpty else { return UnsafeMutableBufferPointer(start: nil, count: 0) }
        let raw = UnsafeMutableRawPointer.allocate(
            byteCount: MemoryLayout<Element>.stride * elements.count, alignment: MemoryLayout<Element>.alignment)
        blocks.append(raw)
        let typed = raw.bindMemory(to: Element.self, capacity: elements.count)
        typed.initialize(from: elements, count: elements.count)
        return UnsafeMutableBufferPointer(start: typed, count: elements.count)
    }

    /// Copies text.
    func copy(_ text: some StringProtocol) -> UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(copy(Array(text.utf8)))
    }
}

/// A template: pieces in order.
public struct CompiledTemplate {
    struct Segment {
        /// The variable; nil for literal bytes.
        let variable: Variable?
        let literal: UnsafeBufferPointer<UInt8>
    }
    let segments: UnsafeBufferPointer<Segment>
    /// Whether it reads the request: such a template in a response needs the request to be remembered.
    public let readsRequest: Bool

    init(_ template: Template, in arena: Arena) {
        segments = UnsafeBufferPointer(
            arena.copy(
                template.segments.map { segment in
                    switch segment {
                    case .literal(let bytes):
                        Segment(variable: nil, literal: UnsafeBufferPointer(arena.copy(bytes)))
                    case .variable(let variable):
                        Segment(variable: variable, literal: UnsafeBufferPointer(start: nil, count: 0))
                    }
                }))
        readsRequest = segments.contains { segment in
            switch segment.variable {
            case .host, .method, .target, .path, .query, .requestID: true
            case .node, .clientAddress, .clientPort, .scheme, .listener, .route, .upstream, .tlsVersion, .tlsCipher,
                .tlsServerName, nil:
                false
            }
        }
    }
}

/// Edits of a field section, in the order of the file.
public struct CompiledEdits {
    struct Edit {
        let operation: FieldEdit.Operation
        let name: UnsafeBufferPointer<UInt8>
        let value: CompiledTemplate
        /// Whether a later edit of the same name takes this one's field away again.
        let isSuperseded: Bool
    }
    let edits: UnsafeBufferPointer<Edit>
    /// Whether a value reads the request.
    public let readsRequest: Bool
    /// Whether a request that belongs to no trace begins one.
    public let beginsTrace: Bool
    /// Whether there is nothing to do.
    public let isEmpty: Bool

    init(_ edits: [FieldEdit], beginsTrace: Bool = false, in arena: Arena) {
        let compiled = edits.indices.map { index in
            let edit = edits[index]
            return Edit(
                operation: edit.operation, name: arena.copy(edit.name), value: CompiledTemplate(edit.value, in: arena),
                isSuperseded: edits[(index + 1)...].contains {
                    $0.operation != .add && $0.name.lowercased() == edit.name.lowercased()
                })
        }
        self.edits = UnsafeBufferPointer(arena.copy(compiled))
        readsRequest = compiled.contains { $0.value.readsRequest }
        self.beginsTrace = beginsTrace
        isEmpty = edits.isEmpty && !beginsTrace
    }

    /// Whether fields of this name that came with the message, or that we make, are taken away.
    func removes(_ name: UnsafeBufferPointer<UInt8>) -> Bool {
        for edit in edits where edit.operation != .add && isSameName(edit.name, name) { return true }
        return false
    }

    func removes(_ name: StaticString) -> Bool {
        isEmpty ? false : removes(UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount))
    }

    /// The edit that sets a field, or nil.
    func setting(_ name: StaticString) -> CompiledTemplate? {
        for edit in edits where edit.operation == .set && !edit.isSuperseded {
            if isSameName(edit.name, UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)) {
                return edit.value
            }
        }
        return nil
    }
}

func isSameName(_ one: UnsafeBufferPointer<UInt8>, _ other: UnsafeBufferPointer<UInt8>) -> Bool {
    guard one.count == other.count else { return false }
    for index in 0..<one.count where Head.lowercase(one[index]) != Head.lowercase(other[index]) { return false }
    return true
}

/// What variables stand for in one exchange. Ranges are empty where nothing is known.
public struct VariableValues {
    /// The request's authority; `$host` is its host, lower case.
    public var authority: UnsafeBufferPointer<UInt8>
    /// The method.
    public var method: UnsafeBufferPointer<UInt8>
    /// The target as received.
    public var target: UnsafeBufferPointer<UInt8>
    /// The X-Request-Id that was received; empty if it is ours.
    public var receivedRequestID: UnsafeBufferPointer<UInt8>
    /// The X-Request-Id that is ours.
    public var requestID: RequestID
    /// The client.
    public var peer: Peer
    /// The route's listener.
    public var listenerName: UnsafeBufferPointer<UInt8>
    /// The route.
    public var route: UnsafePointer<CompiledRoute>?
    /// This machine.
    public var nodeName: UnsafeBufferPointer<UInt8>

    /// Values of one exchange.
    public init(
        authority: UnsafeBufferPointer<UInt8>, method: UnsafeBufferPointer<UInt8>, target: UnsafeBufferPointer<UInt8>,
        receivedRequestID: UnsafeBufferPointer<UInt8>, requestID: RequestID, peer: Peer,
        listenerName: UnsafeBufferPointer<UInt8>, route: UnsafePointer<CompiledRoute>?,
        nodeName: UnsafeBufferPointer<UInt8>
    ) {
        self.authority = authority
        self.method = method
        self.target = target
        self.receivedRequestID = receivedRequestID
        self.requestID = requestID
        self.peer = peer
        self.listenerName = listenerName
        self.route = route
        self.nodeName = nodeName
    }

    /// Values of one exchange, of the request in the scratch.
    public init(
        _ head: Head, requestID: RequestID, peer: Peer, listenerName: UnsafeBufferPointer<UInt8>,
        route: UnsafePointer<CompiledRoute>?, nodeName: UnsafeBufferPointer<UInt8>
    ) {
        let storage = head.storage
        self.init(
            authority: head.bytes(storage.pointee.authority), method: head.bytes(storage.pointee.methodName),
            target: head.bytes(storage.pointee.target), receivedRequestID: head.bytes(head.receivedRequestID),
            requestID: requestID, peer: peer, listenerName: listenerName, route: route, nodeName: nodeName)
    }

    /// Writes a template's text.
    func write(_ template: CompiledTemplate, to out: inout ByteWriter) {
        for segment in template.segments {
            if let variable = segment.variable { write(variable, to: &out) } else { out.append(segment.literal) }
        }
    }

    private func write(_ variable: Variable, to out: inout ByteWriter) {
        switch variable {
        case .host: for byte in hostOnly { out.append(Head.lowercase(byte)) }
        case .node: out.append(nodeName)
        case .clientAddress: peer.writeAddress(to: &out)
        case .clientPort: if !peer.isUnix { out.append(decimal: UInt64(peer.port)) }
        case .scheme: out.append(peer.tls == nil ? "http" : "https")
        case .method: out.append(method)
        case .target: writeTarget(to: &out)
        case .path: out.append(path)
        case .query: out.append(query)
        case .requestID:
            if receivedRequestID.isEmpty { requestID.write(to: &out) } else { out.append(receivedRequestID) }
        case .listener: out.append(listenerName)
        case .route: if let route { out.append(route.pointee.name) }
        case .upstream: if let route { out.append(route.pointee.upstreamName) }
        case .tlsVersion: if let tls = peer.tls { out.append(tls.pointee.version) }
        case .tlsCipher: if let tls = peer.tls { out.append(tls.pointee.cipher) }
        case .tlsServerName: if let tls = peer.tls { out.append(tls.pointee.serverName) }
        }
    }

    /// In origin-form, as it goes up: it follows a host in a Location, whichever form the client has chosen.
    private func writeTarget(to out: inout ByteWriter) {
        let (path, query) = (path, query)
        // `*`, and CONNECT's authority, have no path.
        guard path.first == UInt8(ascii: "/") || isAbsolute else {
            out.append(target)
            return
        }
        if path.isEmpty { out.append(UInt8(ascii: "/")) } else { out.append(path) }
        if target.contains(UInt8(ascii: "?")) {
            out.append(UInt8(ascii: "?"))
            out.append(query)
        }
    }

    /// Whether the target is in absolute-form (RFC 9112 section 3.2.2).
    private var isAbsolute: Bool {
        guard target.first != UInt8(ascii: "/"), let colon = target.firstIndex(of: UInt8(ascii: ":")) else {
            return false
        }
        return colon + 2 < target.count && target[colon + 1] == UInt8(ascii: "/")
    }

    private var hostOnly: UnsafeBufferPointer<UInt8> {
        var end = authority.count
        while end > 0, authority[end - 1] &- UInt8(ascii: "0") <= 9 { end -= 1 }
        let hasPort = end > 0 && authority[end - 1] == UInt8(ascii: ":")
        return UnsafeBufferPointer(rebasing: authority[0..<(hasPort ? end - 1 : authority.count)])
    }

    private var path: UnsafeBufferPointer<UInt8> {
        let end = target.firstIndex(of: UInt8(ascii: "?")) ?? target.count
        // In absolute-form the path begins behind `scheme://authority` (RFC 9112 section 3.2.2).
        guard target.first != UInt8(ascii: "/"), let colon = target[..<end].firstIndex(of: UInt8(ascii: ":")) else {
            return UnsafeBufferPointer(rebasing: target[..<end])
        }
        return UnsafeBufferPointer(rebasing: target[min(end, colon + 3 + authority.count)..<end])
    }

    private var query: UnsafeBufferPointer<UInt8> {
        guard let mark = target.firstIndex(of: UInt8(ascii: "?")) else {
            return UnsafeBufferPointer(start: nil, count: 0)
        }
        return UnsafeBufferPointer(rebasing: target[(mark + 1)...])
    }
}
