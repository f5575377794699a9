// A reader of flat JSON objects, strict about what it accepts: a log line that another reader refuses is an error.

/// The members of one object, as text: strings unescaped, numbers and words as they stand.
struct JSON {
    private(set) var members: [String: String] = [:]
    private var rest: Substring

    subscript(_ key: String) -> String? { members[key] }

    init(_ text: String) throws {
        rest = text.last == "\n" ? text.dropLast() : text[...]
        try expect("{")
        repeat {
            let key = try string()
            try expect(":")
            let value = rest.first == "\"" ? try string() : try word()
            guard members.updateValue(value, forKey: key) == nil else { throw Malformed(what: "two members \(key)") }
        } while take(",")
        try expect("}")
        guard rest.isEmpty else { throw Malformed(what: "behind the object: \(rest)") }
    }

    private mutating func take(_ character: Character) -> Bool {
        guard rest.first == character else { return false }
        rest.removeFirst()
        return true
    }

    private mutating func expect(_ character: Character) throws {
        guard take(character) else { throw Malformed(what: "no \(character) at: \(rest)") }
    }

    private mutating func word() throws -> String {
        let word = rest.prefix { $0.isLetter || $0.isNumber || $0 == "." || $0 == "-" }
        let isNumber = Double(word) != nil && word.first?.isNumber == true
        guard isNumber || ["true", "false", "null"].contains(word) else { throw Malformed(what: "value \(rest)") }
        rest = rest.dropFirst(word.count)
        return String(word)
    }

    private mutating func string() throws -> String {
        try expect("\"")
        var text = ""
        while let character = rest.popFirst() {
            switch character {
            case "\"": return text
            case "\\": text.unicodeScalars.append(try escape())
            default:
                guard character.unicodeScalars.allSatisfy({ $0.value >= 0x20 }) else {
                    throw Malformed(what: "control character in a string")
                }
                text.append(character)
            }
        }
        throw Malformed(what: "string without end")
    }

    private mutating func escape() throws -> Unicode.Scalar {
        switch rest.popFirst() {
        case "\"": return "\""
        case "\\": return "\\"
        case "/": return "/"
        case "n": return "\n"
        case "r": return "\r"
        case "t": return "\t"
        case "u":
            let digits = rest.prefix(4)
            rest = rest.dropFirst(4)
            guard digits.count == 4, let value = UInt32(digits, radix: 16), let scalar = Unicode.Scalar(value) else {
                throw Malformed(what: "escape \(digits)")
            }
            return scalar
        default: throw Malformed(what: "escape at: \(rest)")
        }
    }
}
