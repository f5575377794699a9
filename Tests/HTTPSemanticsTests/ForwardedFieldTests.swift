// Which received Forwarded values an element may stand behind.

import Testing

@testable import HTTPSemantics

@Suite struct ForwardedFieldTests {
    private func isSound(_ value: String) -> Bool {
        Array(value.utf8).withUnsafeBufferPointer { ForwardedField.hasSoundQuotes($0) }
    }

    @Test(arguments: [
        "", "for=192.0.2.1", "for=\"[2001:db8::1]:4711\";proto=https;by=203.0.113.43", "For=\"_gazonk\"",
        "for=a, for=\"b\" , for=c", "for=\"b\"\t;by=\"c\"", "for=\"\"", "for=\"a, b; c=d\"", "for=\"a\\\"b\"",
        "for=\"a\\\\\"",
        // Without a quote nothing can be swallowed, whatever else is wrong.
        "for=[::1]", "nonsense", ";;,,==", "for=a\\", "for", "for=a=b",
    ])
    func sound(value: String) { #expect(isSound(value)) }

    @Test(arguments: [
        // Unfinished.
        "for=\"x", "for=\"", "for=a, for=\"b", "for=\"a\\\"", "for=\"a\\", "for=\"a\";by=\"b", "for=\"a\\\\\\\"",
        // Out of place: who lets a quote begin a string anywhere reads these otherwise than who does not.
        "\"", "\"for=a\"", "for=a\"b", "for=a\"b\"", "for=a\"b, for=c\"d", "for=a\"b, for=\"c", "for= \"x\"",
        "for=\\\"x", "for=a=\"b, x=\"", "for=\"a\"\"b\"", "for=\"a\"b", "for=\"a\"b\"c\"", "for=\"a\"=\"b\"", "fo\"r=a",
    ])
    func unsound(value: String) { #expect(!isSound(value)) }
}
