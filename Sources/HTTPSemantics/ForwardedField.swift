// Forwarded (RFC 7239): whether an element of ours may stand behind a value that was received.

/// See the head of the file.
public enum ForwardedField {
    /// Where in a value a byte is.
    private enum Place {
        /// In a parameter's name, or before it.
        case name
        /// Right behind the `=` of a parameter.
        case valueStart
        /// In a value without quotes.
        case token
        /// In a quoted string.
        case quotedString
        /// In a quoted string, behind a backslash.
        case quotedPair
        /// Behind a quoted string.
        case valueEnd
    }

    /// Whether every double quote of a value delimits a whole parameter value, as in `for="[2001:db8::1]"` (RFC 7239
    /// section 4), and every quoted string ends. Otherwise recipients need not agree on where a quoted string begins, and to
    /// one of them what is appended may be a part of it.
    public static func hasSoundQuotes(_ value: UnsafeBufferPointer<UInt8>) -> Bool {
        var place = Place.name
        for byte in value {
            switch (place, byte) {
            case (.quotedPair, _): place = .quotedString
            case (.quotedString, UInt8(ascii: "\\")): place = .quotedPair
            case (.quotedString, UInt8(ascii: "\"")): place = .valueEnd
            case (.quotedString, _): break
            case (.valueStart, UInt8(ascii: "\"")): place = .quotedString
            case (.name, UInt8(ascii: "\"")), (.token, UInt8(ascii: "\"")), (.valueEnd, UInt8(ascii: "\"")):
                return false
            case (_, UInt8(ascii: ";")), (_, UInt8(ascii: ",")): place = .name
            case (.name, UInt8(ascii: "=")): place = .valueStart
            case (.name, _): break
            case (.valueStart, _), (.token, _): place = .token
            case (.valueEnd, UInt8(ascii: " ")), (.valueEnd, UInt8(ascii: "\t")): break
            case (.valueEnd, _): return false
            }
        }
        return place != .quotedString && place != .quotedPair
    }
}
