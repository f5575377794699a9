// Bytes -> words and punctuation. The environment is expanded here, once, into the text of the word in hand: what
// comes from it is never read again, neither as punctuation nor as a variable.
//
// Decisions: CRLF ends a line like LF, a bare CR is an error. A byte order mark at the start is skipped. Comments may
// hold any bytes (but a bare CR, which some editors show as a line end). Elsewhere control bytes and broken UTF-8 are
// errors. A quoted word ends on its line, so that a forgotten quote spoils one line and not the rest of the file.

import Bytes

/// A word of the file, with its escapes and its environment already replaced.
struct Word {
    enum Segment {
        case literal([UInt8])
        /// `$name`, the name alone.
        case variable(String, Place)
    }
    /// The pieces in order; adjacent literals are merged.
    var segments: [Segment] = []
    /// Its first byte.
    var place: Place
    /// The byte behind its last one.
    var end: Place
    /// Whether it began with a quote.
    var isQuoted = false
    /// Whether an error was reported while it was read; more of them would only be noise.
    var isBroken = false
    /// How many bytes the literals hold.
    fileprivate var literalBytes = 0

    /// The text, variables written as they stand.
    var text: String {
        var bytes: [UInt8] = []
        for segment in segments {
            switch segment {
            case .literal(let literal): bytes += literal
            case .variable(let name, _): bytes += [UInt8(ascii: "$")] + name.utf8
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    fileprivate mutating func append(_ bytes: some Collection<UInt8>) {
        literalBytes += bytes.count
        guard literalBytes <= Lexer.wordBytesMax else { return }
        if case .literal(var literal) = segments.last {
            // Taken out first, so that the array is not copied for each byte.
            segments.removeLast()
            literal.append(contentsOf: bytes)
            segments.append(.literal(literal))
        } else {
            segments.append(.literal(Array(bytes)))
        }
    }
}

enum Token {
    case word(Word)
    case semicolon(Place)
    case open(Place)
    case close(Place)
    case end(Place)
}

struct Lexer {
    static let byteOrderMark: [UInt8] = [0xEF, 0xBB, 0xBF]
    /// The longest word, after expansion.
    static let wordBytesMax = 65536

    private let bytes: [UInt8]
    private let environment: [String: String]
    private let diagnostics: Diagnostics
    private var here: Place

    init(_ bytes: [UInt8], source: Int, environment: [String: String], diagnostics: Diagnostics) {
        self.bytes = bytes
        self.environment = environment
        self.diagnostics = diagnostics
        here = Place(source: source, offset: 0, line: 1, column: 1)
        if bytes.starts(with: Lexer.byteOrderMark) { here.offset = Lexer.byteOrderMark.count }
    }

    private var peek: UInt8? { here.offset < bytes.count ? bytes[here.offset] : nil }

    private func isLineFeed(at offset: Int) -> Bool { offset < bytes.count && bytes[offset] == UInt8(ascii: "\n") }

    /// Goes past one character of `count` bytes within the line.
    private mutating func step(_ count: Int = 1) {
        here.offset += count
        here.column += 1
    }

    mutating func next() -> Token {
        while let byte = peek {
            switch byte {
            case UInt8(ascii: " "), UInt8(ascii: "\t"): step()
            case UInt8(ascii: "\n"), UInt8(ascii: "\r"): endOfLine()
            case UInt8(ascii: "#"): comment()
            case UInt8(ascii: ";"): return punctuation(Token.semicolon)
            case UInt8(ascii: "{"): return punctuation(Token.open)
            case UInt8(ascii: "}"): return punctuation(Token.close)
            default: return .word(word())
            }
        }
        return .end(here)
    }

    private mutating func punctuation(_ token: (Place) -> Token) -> Token {
        defer { step() }
        return token(here)
    }

    /// At a CR or an LF.
    private mutating func endOfLine() {
        if bytes[here.offset] == UInt8(ascii: "\r") {
            guard isLineFeed(at: here.offset + 1) else {
                diagnostics.error(at: here, "a carriage return without a line feed")
                return step()
            }
            here.offset += 1
        }
        here.offset += 1
        here.line += 1
        here.column = 1
    }

    private mutating func comment() {
        while let byte = peek, byte != UInt8(ascii: "\n") {
            if byte == UInt8(ascii: "\r") {
                if isLineFeed(at: here.offset + 1) { return }
                diagnostics.error(at: here, "a carriage return without a line feed")
            }
            step(UTF8Text.scalarLength(bytes, at: here.offset) ?? 1)
        }
    }

    private mutating func word() -> Word {
        var word = Word(place: here, end: here)
        word.isQuoted = peek == UInt8(ascii: "\"") || peek == UInt8(ascii: "'")
        var quoteHasEnded = false
        loop: while let byte = peek {
            switch byte {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: ";"),
                UInt8(ascii: "{"), UInt8(ascii: "}"):
                break loop
            case _ where quoteHasEnded && !word.isBroken:
                fail(&word, at: here, "expected a space or \";\" after the closing quote")
            case UInt8(ascii: "\""), UInt8(ascii: "'"):
                if here.offset > word.place.offset, !word.isBroken {
                    fail(&word, at: here, "a quote inside a word; put the quotes around the whole word")
                }
                quoted(by: byte, into: &word)
                quoteHasEnded = true
            case UInt8(ascii: "\\"):
                fail(&word, at: here, "a backslash outside quotes; put the word in quotes")
                step()
            default: character(byte, into: &word)
            }
        }
        word.end = here
        if word.literalBytes > Lexer.wordBytesMax {
            fail(&word, at: word.place, "the word is longer than \(Lexer.wordBytesMax) bytes")
        }
        if word.segments.isEmpty { word.segments = [.literal([])] }
        return word
    }

    private mutating func fail(_ word: inout Word, at place: Place, _ message: @autoclosure () -> String) {
        diagnostics.error(at: place, message())
        word.isBroken = true
    }

    /// From an opening quote to behind the closing one.
    private mutating func quoted(by quote: UInt8, into word: inout Word) {
        let opening = here
        var closing = here.offset + 1
        while closing < bytes.count, bytes[closing] != quote, bytes[closing] != UInt8(ascii: "\n") {
            closing += bytes[closing] == UInt8(ascii: "\\") && !isLineFeed(at: closing + 1) ? 2 : 1
        }
        guard closing < bytes.count, bytes[closing] == quote else {
            fail(&word, at: opening, "this quote is not closed on its line")
            return recoverFromUnclosedQuote(into: &word)
        }
        step()
        while here.offset < closing, let byte = peek {
            if byte == UInt8(ascii: "\\") {
                escape(into: &word)
            } else {
                character(byte, into: &word, limit: closing)
            }
        }
        step()
    }

    /// Takes the rest of the line for the word, but not the `;` or `{` that most likely ended it, nor what is behind.
    private mutating func recoverFromUnclosedQuote(into word: inout Word) {
        step()
        let rest = bytes[here.offset...].prefix { $0 != UInt8(ascii: "\n") }
        let isTail: (UInt8) -> Bool = { " \t\r;{}".utf8.contains($0) }
        let tailStart = rest.lastIndex { !isTail($0) }.map { $0 + 1 } ?? rest.startIndex
        // A `}` at the front of the tail may be one of `${NAME}`.
        let end = rest[tailStart...].firstIndex { $0 == UInt8(ascii: ";") || $0 == UInt8(ascii: "{") } ?? rest.endIndex
        word.append(rest[..<end])
        while here.offset < end { step(UTF8Text.scalarLength(bytes, at: here.offset) ?? 1) }
    }

    private mutating func escape(into word: inout Word) {
        let start = here
        step()
        switch peek {
        case UInt8(ascii: "\\"), UInt8(ascii: "\""), UInt8(ascii: "'"): word.append([bytes[here.offset]])
        case UInt8(ascii: "n"): word.append([UInt8(ascii: "\n")])
        case UInt8(ascii: "r"): word.append([UInt8(ascii: "\r")])
        case UInt8(ascii: "t"): word.append([UInt8(ascii: "\t")])
        default:
            return fail(&word, at: start, #"an unknown escape; there are \\ \" \' \n \r and \t"#)
        }
        step()
    }

    /// One character of a word, or what begins with a `$`. `limit` is where the quoted text ends.
    private mutating func character(_ byte: UInt8, into word: inout Word, limit: Int? = nil) {
        if byte == UInt8(ascii: "$") { return dollar(into: &word, limit: limit ?? bytes.count) }
        guard let count = UTF8Text.scalarLength(bytes, at: here.offset) else {
            fail(&word, at: here, "this is not UTF-8")
            while let byte = peek, byte >= 0x80, UTF8Text.scalarLength(bytes, at: here.offset) == nil { step() }
            return
        }
        if byte < 0x20 && byte != UInt8(ascii: "\t") || byte == 0x7F {
            fail(&word, at: here, "a control byte (\(Lexer.hexadecimal(byte)))")
            while let next = peek, next < 0x20 || next == 0x7F,
                next != UInt8(ascii: "\t"), next != UInt8(ascii: "\n"), next != UInt8(ascii: "\r") || next == byte
            {
                step()
            }
            return
        }
        let start = here.offset
        step(count)
        while here.offset < bytes.count, Lexer.isNamePart(bytes[here.offset]) { step() }
        word.append(bytes[start..<here.offset])
    }

    private static func hexadecimal(_ byte: UInt8) -> String {
        "0x" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
    }

    private static func isNameStart(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "_") || (byte | 0x20) >= UInt8(ascii: "a") && (byte | 0x20) <= UInt8(ascii: "z")
    }

    private static func isNamePart(_ byte: UInt8) -> Bool {
        isNameStart(byte) || byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9")
    }

    /// The name at the place in hand, which may be empty.
    private mutating func name(limit: Int) -> String {
        let start = here.offset
        guard here.offset < limit, Lexer.isNameStart(bytes[start]) else { return "" }
        while here.offset < limit, Lexer.isNamePart(bytes[here.offset]) { step() }
        return String(decoding: bytes[start..<here.offset], as: UTF8.self)
    }

    /// `$$`, `$name`, `${NAME}` or `${NAME:-default}`.
    private mutating func dollar(into word: inout Word, limit: Int) {
        let start = here
        step()
        let byte = here.offset < limit ? bytes[here.offset] : 0
        if byte == UInt8(ascii: "$") {
            word.append([byte])
            return step()
        }
        if byte == UInt8(ascii: "{") { return environmentVariable(from: start, into: &word, limit: limit) }
        let name = name(limit: limit)
        if name.isEmpty {
            return fail(&word, at: start, "a \"$\" without a name behind it; write \"$$\" for a dollar")
        }
        word.segments.append(.variable(name, start))
    }

    private mutating func environmentVariable(from start: Place, into word: inout Word, limit: Int) {
        step()
        let name = name(limit: limit)
        var fallback: String?
        if !name.isEmpty, here.offset + 1 < limit, bytes[here.offset] == UInt8(ascii: ":"),
            bytes[here.offset + 1] == UInt8(ascii: "-")
        {
            step()
            step()
            let textStart = here.offset
            while here.offset < limit, bytes[here.offset] != UInt8(ascii: "}"),
                bytes[here.offset] >= 0x20, let count = UTF8Text.scalarLength(bytes, at: here.offset)
            {
                step(count)
            }
            fallback = String(decoding: bytes[textStart..<here.offset], as: UTF8.self)
        }
        let isClosed = here.offset < limit && bytes[here.offset] == UInt8(ascii: "}")
        guard isClosed, !name.isEmpty else {
            fail(&word, at: start, "expected ${NAME} or ${NAME:-default}")
            return skipReference(limit: limit)
        }
        step()
        var value = environment[name]
        if fallback != nil, value?.isEmpty ?? true { value = fallback }
        guard let value else {
            return fail(&word, at: start, "the environment has no \(name), and no default is given")
        }
        word.append(value.utf8)
    }

    /// To behind the `}` of a reference that cannot be read, if it is on this line and in this word.
    private mutating func skipReference(limit: Int) {
        let isEnd: (UInt8) -> Bool = { " \t\r\n;{}\"'".utf8.contains($0) }
        guard let end = bytes[here.offset..<limit].firstIndex(where: isEnd), bytes[end] == UInt8(ascii: "}") else {
            return
        }
        while here.offset <= end { step(UTF8Text.scalarLength(bytes, at: here.offset) ?? 1) }
    }
}
