// The edits of field sections. What the proxy writes for each connection by itself cannot be edited: it would be wrong
// or overwritten.

/// The edits of a block, after those of the blocks around it.
struct FieldEdits {
    /// So many may stand in one block: each route holds all that concern it.
    static let countMax = 256

    private(set) var request: [FieldEdit] = []
    private(set) var response: [FieldEdit] = []

    /// Those of one block alone.
    init(_ scope: Scope, diagnostics: Diagnostics) {
        var firsts: [String: Place] = [:]
        var count = 0
        for entry in scope.entries {
            guard let operation = FieldEdits.operation(of: entry.directive.name) else { continue }
            count += 1
            guard count <= FieldEdits.countMax else {
                diagnostics.error(at: entry.place, "more than \(FieldEdits.countMax) field edits in one block")
                break
            }
            let isRequest = entry.directive.name.hasSuffix("_request_field")
            guard let edit = FieldEdits.edit(operation, isRequest: isRequest, entry.arguments) else { continue }
            if operation == .set {
                let key = (isRequest ? "request " : "response ") + edit.name.lowercased()
                if let first = firsts[key] {
                    let place = diagnostics.location(first).text
                    diagnostics.error(
                        at: entry.statement.arguments[0],
                        "\(quoted(edit.name)) is set twice in this block; first at \(place)")
                    continue
                }
                firsts[key] = entry.place
            }
            if isRequest { request.append(edit) } else { response.append(edit) }
        }
    }

    /// These, then those of a block within.
    func followed(by inner: FieldEdits) -> FieldEdits {
        var edits = self
        // Most routes have none of their own, and share the array of those around them.
        if !inner.request.isEmpty { edits.request += inner.request }
        if !inner.response.isEmpty { edits.response += inner.response }
        return edits
    }

    private static func operation(of name: String) -> FieldEdit.Operation? {
        guard name.hasSuffix("_field") else { return nil }
        if name.hasPrefix("set_") { return .set }
        if name.hasPrefix("add_") { return .add }
        return .remove
    }

    private static func edit(
        _ operation: FieldEdit.Operation, isRequest: Bool, _ arguments: Arguments
    ) -> FieldEdit? {
        let name = arguments.value { text throws(Problem) in
            try fieldName(text, operation: operation, isRequest: isRequest)
        }
        if operation == .remove {
            return name.map { FieldEdit(operation: .remove, name: $0, value: Template(segments: [])) }
        }
        let value = arguments.template(1) { byte in
            byte < 0x20 && byte != UInt8(ascii: "\t") || byte == 0x7F ? "a field's value holds no control bytes" : nil
        }
        guard let name, let value else { return nil }
        if let refusal = refusal(of: value, name: name) {
            arguments.diagnostics.error(at: arguments.statement.arguments[1], refusal)
            return nil
        }
        return FieldEdit(operation: operation, name: name, value: value)
    }

    /// A field's name (RFC 9110 section 5.1) that may be edited.
    private static func fieldName(
        _ text: String, operation: FieldEdit.Operation, isRequest: Bool
    ) throws(Problem) -> String {
        guard Value.isToken(text) else { throw Problem("\(quoted(text)) is not the name of a field") }
        // Some backends read "_" as "-", and would take Content_Length for framing.
        switch String(text.lowercased().map { $0 == "_" ? "-" : $0 }) {
        case "connection", "keep-alive", "proxy-connection", "te", "upgrade":
            throw Problem("\(text) belongs to one connection, and the proxy writes it for each of its own")
        case "transfer-encoding", "content-length", "trailer":
            throw Problem("\(text) is framing, and the proxy writes it from the content in hand")
        case "expect": throw Problem("Expect is settled between the client and the upstream")
        case "host" where !isRequest: throw Problem("Host is a field of requests only")
        case "host" where operation != .set:
            let done = operation == .add ? "added" : "removed"
            throw Problem("a request has exactly one Host; it can be set, but not \(done)")
        default: return text
        }
    }

    private static func refusal(of value: Template, name: String) -> String? {
        let isBlank = { (byte: UInt8?) in byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
        if case .literal(let bytes)? = value.segments.first, isBlank(bytes.first) {
            return "a field's value does not begin with a blank; it would be lost on the way"
        }
        if case .literal(let bytes)? = value.segments.last, isBlank(bytes.last) {
            return "a field's value does not end with a blank; it would be lost on the way"
        }
        guard name.lowercased() == "host" else { return nil }
        if value.segments.isEmpty { return "Host cannot be empty" }
        if value.segments.count == 1, case .literal(let bytes) = value.segments[0] {
            let text = String(decoding: bytes, as: UTF8.self)
            return Value.isHostAndPort(text) ? nil : "\(quoted(text)) is not HOST or HOST:PORT"
        }
        return nil
    }
}
