// What a traceparent must be to mean something (W3C Trace Context, section 3.2).

import Testing

@testable import ProxyCore

@Suite struct TraceContextTests {
    private func traceID(_ value: String) -> String? {
        Array(value.utf8).withUnsafeBufferPointer { bytes in
            TraceContext.traceID(in: bytes).map { String(decoding: $0, as: UTF8.self) }
        }
    }

    private static let trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    private static let parent = "00f067aa0ba902b7"

    @Test(arguments: [
        "00-\(trace)-\(parent)-01", "00-\(trace)-\(parent)-ff", "cc-\(trace)-\(parent)-01",
        "cc-\(trace)-\(parent)-01-what the future will be like",
    ])
    func namesATrace(_ value: String) { #expect(traceID(value) == Self.trace) }

    @Test(arguments: [
        "", "00", "00-\(trace)-\(parent)", "00-\(trace)-\(parent)-0", "00-\(trace)-\(parent)-01-",
        "00-\(trace)-\(parent)-01x",
        "00-\(trace)-\(parent)-01-more", "cc-\(trace)-\(parent)-01.more", "ff-\(trace)-\(parent)-01",
        "0x-\(trace)-\(parent)-01", "00-\(trace.uppercased())-\(parent)-01", "00-\(trace)-\(parent)-0G",
        "00-00000000000000000000000000000000-\(parent)-01", "00-\(trace)-0000000000000000-01",
        "00_\(trace)-\(parent)-01",
        "00-\(trace)_\(parent)-01", "00-\(trace)-\(parent)_01", "00-.bf92f3577b34da6a3ce929d0e0e4736-\(parent)-01",
    ])
    func meansNothing(_ value: String) { #expect(traceID(value) == nil) }
}
