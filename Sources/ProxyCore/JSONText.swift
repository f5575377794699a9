// JSON (RFC 8259), for what is written off the hot path: explanations, the status and the error log.

/// Writes texts for JSON.
package enum JSONText {
    /// A text as a JSON string, with its quotes. Control characters are escaped, DEL among them.
    package static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\r": quoted += "\\r"
            case "\n": quoted += "\\n"
            case "\t": quoted += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}

/// A value of JSON, with the members of objects in an order that people can read.
package indirect enum JSONValue {
    case null
    case bool(Bool)
    case integer(Int)
    /// A number as it is written.
    case number(String)
    case string(String)
    case array([JSONValue])
    case object([(String, JSONValue)])

    package init(_ number: Int?) { self = number.map { .integer($0) } ?? .null }
    package init(_ text: String?) { self = text.map { .string($0) } ?? .null }
    package init(_ texts: [String]) { self = .array(texts.map { .string($0) }) }

    /// The text, with two spaces for each level.
    package func text(indentation: Int = 0) -> String {
        let inner = String(repeating: " ", count: indentation + 2)
        let outer = String(repeating: " ", count: indentation)
        switch self {
        case .null, .bool, .integer, .number, .string: return line
        case .array(let values):
            if values.isEmpty { return "[]" }
            return "[\n" + values.map { inner + $0.text(indentation: indentation + 2) }.joined(separator: ",\n")
                + "\n\(outer)]"
        case .object(let members):
            if members.isEmpty { return "{}" }
            return "{\n"
                + members.map { inner + JSONText.quoted($0.0) + ": " + $0.1.text(indentation: indentation + 2) }
                .joined(separator: ",\n") + "\n\(outer)}"
        }
    }

    /// The text in one line.
    package var line: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .integer(let value): "\(value)"
        case .number(let text): text
        case .string(let value): JSONText.quoted(value)
        case .array(let values): "[" + values.map(\.line).joined(separator: ",") + "]"
        case .object(let members):
            "{" + members.map { JSONText.quoted($0.0) + ":" + $0.1.line }.joined(separator: ",") + "}"
        }
    }
}
