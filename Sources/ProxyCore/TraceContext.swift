// W3C Trace Context (https://www.w3.org/TR/trace-context/): `traceparent` names the trace that a request belongs to. It
// passes as it came; where the configuration says so, a request without one, or with one that means nothing, begins a
// trace here.

import Bytes

/// Reads and writes `traceparent`.
public enum TraceContext {
    /// `00-` and the trace's 32 digits, a dash, the parent's 16, a dash, the flags' 2.
    private static let traceStart = 3
    private static let traceDigits = 32
    private static let valueBytes = 55

    /// The digits of the trace that a value names; nil if it means nothing (section 3.2.2).
    public static func traceID(in value: UnsafeBufferPointer<UInt8>) -> UnsafeBufferPointer<UInt8>? {
        let dash = UInt8(ascii: "-")
        // Later versions may have more, behind another dash; version ff is none.
        guard value.count >= valueBytes, value[2] == dash, value[35] == dash, value[52] == dash,
            value.count == valueBytes || (value[valueBytes] == dash && !isAll("00", value[0..<2])),
            areDigits(value[0..<2]), !isAll("ff", value[0..<2]), areDigits(value[53..<55])
        else { return nil }
        let trace = value[traceStart..<traceStart + traceDigits]
        let parent = value[36..<52]
        guard areDigits(trace), areDigits(parent), trace.contains(where: { $0 != UInt8(ascii: "0") }),
            parent.contains(where: { $0 != UInt8(ascii: "0") })
        else { return nil }
        return UnsafeBufferPointer(rebasing: trace)
    }

    /// Writes a field that begins a trace. Its name is the request's identity, and it is said to be recorded: the access
    /// log is the record.
    static func writeBeginning(_ requestID: RequestID, to out: inout ByteWriter) {
        out.append("traceparent: 00-")
        requestID.write(to: &out)
        out.append("-")
        requestID.writeSecondHalf(to: &out)
        out.append("-01\r\n")
    }

    private static func areDigits(_ bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
        bytes.allSatisfy { $0 &- UInt8(ascii: "0") <= 9 || $0 &- UInt8(ascii: "a") <= 5 }
    }

    private static func isAll(_ text: StaticString, _ bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
        bytes.elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}
