// Answers of our own: errors, `respond`, `redirect`. Short, framed, and with Proxy-Status (RFC 9209) where they
// tell of a failure.

import Bytes
import HTTPSemantics
import ProxyConfiguration

/// What an answer of our own needs to know of the exchange.
public struct LocalResponseContext {
    /// The client speaks HTTP/1.0.
    public var isToHTTP10: Bool
    /// The request was HEAD: no content goes out.
    public var isToHEAD: Bool
    /// The client's connection ends with the answer.
    public var closes: Bool
    /// The text of Date.
    public var date: UnsafeBufferPointer<UInt8>
    /// Our name in Proxy-Status.
    public var proxyName: UnsafeBufferPointer<UInt8>

    /// A context.
    public init(
        isToHTTP10: Bool, isToHEAD: Bool, closes: Bool, date: UnsafeBufferPointer<UInt8>,
        proxyName: UnsafeBufferPointer<UInt8>
    ) {
        self.isToHTTP10 = isToHTTP10
        self.isToHEAD = isToHEAD
        self.closes = closes
        self.date = date
        self.proxyName = proxyName
    }
}

/// Writes answers of our own, head and content together.
public enum LocalResponse {
    /// The methods that Allow names where CONNECT is refused.
    private static var allowedMethods: StaticString { "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS" }

    /// Writes an error.
    public static func writeFailure(
        _ failure: Failure, fault: HeadFault, format: ErrorFormat, context: LocalResponseContext,
        to out: inout ByteWriter
    ) {
        let status = failure.status(fault)
        let error = failure.proxyStatusError(fault)
        let explanation = failure.explanation(fault)
        let reason = ReasonPhrase.of(status)
        beginHead(status, context, to: &out)
        if failure == .methodNotAllowed {
            out.append("Allow: ")
            out.append(allowedMethods)
            out.append("\r\n")
        }
        if status == 503 { out.append("Retry-After: 1\r\n") }
        out.append("Proxy-Status: ")
        if context.proxyName.isEmpty { out.append("headfirst") } else { writeProxyName(context.proxyName, to: &out) }
        out.append("; error=")
        out.append(error)
        out.append("; details=\"")
        out.append(explanation)
        out.append("\"\r\n")
        switch format {
        case .text:
            let count = 3 + 1 + reason.utf8CodeUnitCount + 2 + explanation.utf8CodeUnitCount + 2
            endHead(contentType: "text/plain; charset=utf-8", contentCount: count, status, context, to: &out)
            if context.isToHEAD { return }
            out.append(decimal: UInt64(status))
            out.append(" ")
            out.append(reason)
            out.append(": ")
            out.append(explanation)
            out.append(".\n")
        case .json:
            let fixed = #"{"status":,"reason":"","error":"","details":""}"#.utf8.count + 3 + 1
            let count =
                fixed + reason.utf8CodeUnitCount + error.utf8CodeUnitCount + explanation.utf8CodeUnitCount
            endHead(contentType: "application/json", contentCount: count, status, context, to: &out)
            if context.isToHEAD { return }
            out.append(#"{"status":"#)
            out.append(decimal: UInt64(status))
            out.append(#","reason":""#)
            out.append(reason)
            out.append(#"","error":""#)
            out.append(error)
            out.append(#"","details":""#)
            out.append(explanation)
            out.append("\"}\n")
        }
    }

    /// How much content an answer has that was written here: what stands behind the empty line.
    public static func contentBytes(of answer: UnsafeBufferPointer<UInt8>) -> Int {
        var index = 3
        while index < answer.count {
            if answer[index] == 10, answer[index - 1] == 13, answer[index - 2] == 10 { return answer.count - index - 1 }
            index += 1
        }
        return 0
    }

    /// RFC 9209 section 2: a token or a string.
    private static func writeProxyName(_ name: UnsafeBufferPointer<UInt8>, to out: inout ByteWriter) {
        let isToken = name.allSatisfy { Head.isToken($0) || $0 == UInt8(ascii: ":") }
        let startsRight = name.first.map { ($0 | 0x20) &- UInt8(ascii: "a") < 26 || $0 == UInt8(ascii: "*") } ?? false
        if isToken, startsRight {
            out.append(name)
        } else {
            out.append(UInt8(ascii: "\""))
            out.append(name)
            out.append(UInt8(ascii: "\""))
        }
    }

    /// Writes the answer of a `respond` route.
    public static func writeText(
        status: UInt16, text: CompiledTemplate, values: VariableValues, edits: CompiledEdits,
        context: LocalResponseContext, to out: inout ByteWriter
    ) {
        beginHead(status, context, to: &out)
        writeEdits(edits, values, to: &out)
        writeContent(status, context, hasContentType: edits.removes("content-type"), to: &out) { content in
            values.write(text, to: &content)
        }
    }

    /// Writes the answer of a `redirect` route.
    public static func writeRedirect(
        status: UInt16, location: CompiledTemplate, values: VariableValues, edits: CompiledEdits,
        context: LocalResponseContext, to out: inout ByteWriter
    ) {
        beginHead(status, context, to: &out)
        out.append("Location: ")
        values.write(location, to: &out)
        out.append("\r\n")
        writeEdits(edits, values, to: &out)
        writeContent(status, context, hasContentType: edits.removes("content-type"), to: &out) { content in
            content.append(decimal: UInt64(status))
            content.append(" ")
            content.append(ReasonPhrase.of(status))
            content.append("\n")
        }
    }

    /// Writes the answer to an OPTIONS whose Max-Forwards has run out: we are its final recipient (RFC 9110
    /// section 7.6.2).
    public static func writeOptions(context: LocalResponseContext, to out: inout ByteWriter) {
        beginHead(200, context, to: &out)
        out.append("Allow: ")
        out.append(allowedMethods)
        out.append("\r\nContent-Length: 0\r\n")
        endFields(context, to: &out)
    }

    /// Writes the answer to a TRACE whose Max-Forwards has run out: the request as it came, without what is secret
    /// (RFC 9110 section 9.3.8).
    public static func writeTrace(_ head: Head, context: LocalResponseContext, to out: inout ByteWriter) {
        let storage = head.storage
        let startLineEnd = storage.pointee.target.end + 11
        func isSecret(_ field: KnownField) -> Bool {
            field == .authorization || field == .proxyAuthorization || field == .cookie
        }
        var count = startLineEnd + 2
        for index in 0..<storage.pointee.fieldCount where !isSecret(head.fields[index].field) {
            count += Int(head.fields[index].lineEnd) - Int(head.fields[index].name.start)
        }
        beginHead(200, context, to: &out)
        endHead(contentType: "message/http", contentCount: count, 200, context, to: &out)
        out.append(storage.pointee.bytes, count: startLineEnd)
        for index in 0..<storage.pointee.fieldCount where !isSecret(head.fields[index].field) {
            let line = head.fields[index]
            out.append(
                storage.pointee.bytes + Int(line.name.start), count: Int(line.lineEnd) - Int(line.name.start))
        }
        out.append("\r\n")
    }

    /// Writes the 2xx that opens a tunnel which we dialled (RFC 9110 section 9.3.6): nothing frames it.
    public static func writeTunnelAccepted(context: LocalResponseContext, to out: inout ByteWriter) {
        beginHead(200, context, to: &out)
        out.append("\r\n")
    }

    // MARK: Pieces

    private static func beginHead(_ status: UInt16, _ context: LocalResponseContext, to out: inout ByteWriter) {
        out.append("HTTP/1.1 ")
        out.append(decimal: UInt64(status))
        out.append(" ")
        out.append(ReasonPhrase.of(status))
        out.append("\r\nDate: ")
        out.append(context.date)
        out.append("\r\n")
    }

    private static func endHead(
        contentType: StaticString, contentCount: Int, _ status: UInt16, _ context: LocalResponseContext,
        to out: inout ByteWriter
    ) {
        out.append("Content-Type: ")
        out.append(contentType)
        out.append("\r\nContent-Length: ")
        out.append(decimal: UInt64(contentCount))
        out.append("\r\n")
        endFields(context, to: &out)
    }

    private static func endFields(_ context: LocalResponseContext, to out: inout ByteWriter) {
        if context.closes {
            out.append("Connection: close\r\n")
        } else if context.isToHTTP10 {
            out.append("Connection: keep-alive\r\n")
        }
        out.append("\r\n")
    }

    private static func writeEdits(_ edits: CompiledEdits, _ values: VariableValues, to out: inout ByteWriter) {
        for edit in edits.edits where edit.operation != .remove && !edit.isSuperseded {
            out.append(edit.name)
            out.append(": ")
            values.write(edit.value, to: &out)
            out.append("\r\n")
        }
    }

    /// The content's length stands before it, so its text is written to a place of its own first.
    private static func writeContent(
        _ status: UInt16, _ context: LocalResponseContext, hasContentType: Bool, to out: inout ByteWriter,
        _ body: (inout ByteWriter) -> Void
    ) {
        // RFC 9110 section 15.3.5, 15.4.5: these have no content, whatever the text says.
        if status == 204 || status == 304 {
            endFields(context, to: &out)
            return
        }
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: out.capacity - out.count) { room in
            guard let base = room.baseAddress else { return }
            var content = ByteWriter(base: base, capacity: room.count)
            body(&content)
            if content.isOverfull { out.isOverfull = true }
            if !hasContentType { out.append("Content-Type: text/plain; charset=utf-8\r\n") }
            out.append("Content-Length: ")
            out.append(decimal: UInt64(content.count))
            out.append("\r\n")
            endFields(context, to: &out)
            if !context.isToHEAD { out.append(content.base, count: content.count) }
        }
    }

}
