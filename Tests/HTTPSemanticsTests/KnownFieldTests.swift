// Names of fields are found in any case, and nothing else is taken for them.

import HTTPSemantics
import Testing

@Suite struct KnownFieldTests {
    /// - Parameter spare: how many bytes may be read behind the name.
    private func identify(_ name: String, spare: Int = 0, in head: Head) throws -> KnownField? {
        let bytes = Array(name.utf8) + [UInt8](repeating: UInt8(ascii: ":"), count: spare)
        return try bytes.withUnsafeBufferPointer { buffer in
            try head.identify(
                try #require(buffer.baseAddress), count: name.utf8.count, readable: buffer.count)
        }
    }

    @Test(arguments: KnownField.allCases.filter { $0 != .other })
    func found(_ field: KnownField) throws {
        let head = Head(fieldsCapacity: 1)
        defer { head.destroy() }
        let name = field.lowercaseName.description
        for spare in [0, 1, 7, 8, 20] {
            #expect(try identify(name, spare: spare, in: head) == field)
            #expect(try identify(name.uppercased(), spare: spare, in: head) == field)
            #expect(try identify(name + "x", spare: spare, in: head) == .other)
            #expect(try identify(String(name.dropLast()), spare: spare, in: head) == .other)
            #expect(try identify("x" + name, spare: spare, in: head) == .other)
        }
        // One letter off, at every place.
        for place in name.indices where name[place] != "-" {
            var other = name
            other.replaceSubrange(place...place, with: name[place] == "q" ? "p" : "q")
            #expect(try identify(other, in: head) == .other, "\(other)")
        }
    }

    @Test func anEmptyNameIsNone() {
        let head = Head(fieldsCapacity: 1)
        defer { head.destroy() }
        let bytes = Array(": value and more".utf8)
        let found = bytes.withUnsafeBufferPointer { buffer in
            buffer.baseAddress.map { head.knownField($0, count: 0) == nil }
        }
        #expect(found == true)
    }

    @Test func othersAreOther() throws {
        let head = Head(fieldsCapacity: 1)
        defer { head.destroy() }
        for name in ["a", "accept", "x", "content-lengths", "x-forwarded-port", "aaaaaaaaaaaaaaaaaaaaaaaa"] {
            #expect(try identify(name, in: head) == .other)
        }
        #expect(try identify(String(repeating: "a", count: 5000), in: head) == .other)
    }

    @Test(arguments: ["accept", "content-length", "http2-settings", "x-y", "sec-ch-ua-platform", "alt-svc"])
    func namesWithAByteThatNoTokenHasAreNone(_ name: String) throws {
        let head = Head(fieldsCapacity: 1)
        defer { head.destroy() }
        #expect(try identify(name, in: head) != nil)
        // At every place every byte, control characters that differ from a hyphen or a digit by one bit among them.
        for place in name.utf8.indices {
            for byte in UInt8.min...0x7F where !Head.isToken(byte) {
                var other = name
                other.replaceSubrange(place...place, with: String(UnicodeScalar(byte)))
                for spare in [0, 8] { #expect(try identify(other, spare: spare, in: head) == nil, "\(place) \(byte)") }
            }
        }
        #expect(try identify("\u{E9}", in: head) == nil)
    }

    @Test(arguments: KnownField.allCases.filter { $0.lowercaseName.description.contains("-") })
    func lookalikes(_ field: KnownField) throws {
        let head = Head(fieldsCapacity: 1)
        defer { head.destroy() }
        let lookalike = field.lowercaseName.description.replacing("-", with: "_")
        switch field {
        // Nothing is decided by these, so imitating them gains nothing.
        case .http2Settings, .userAgent, .contentType, .grpcStatus:
            #expect(try identify(lookalike, in: head) == .other)
        default:
            #expect(throws: HeadFault.lookalikeName) { try identify(lookalike, in: head) }
            #expect(throws: HeadFault.lookalikeName) { try identify(lookalike.uppercased(), in: head) }
        }
    }
}
