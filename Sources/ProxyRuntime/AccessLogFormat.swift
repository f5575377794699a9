// How an access record reads: Apache's combined format, or one JSON object a line. On the log's thread only.

import Bytes
import HTTPSemantics
import ProxyConfiguration
import ProxyCore

/// Writes records as lines.
struct AccessLogFormatter {
    let format: AccessLogFormat

    /// The most a line takes: every string byte may become six (`\u00XX`), and the rest is fixed.
    static func lineBytesMax(stringBytes: Int) -> Int { 2048 + stringBytes * 6 }

    private struct Strings {
        var rest: UnsafePointer<UInt8>

        mutating func next(_ count: UInt16) -> UnsafeBufferPointer<UInt8> {
            let bytes = UnsafeBufferPointer(start: rest, count: Int(count))
            rest += Int(count)
            return bytes
        }
    }

    /// Writes one line with its end.
    func write(_ record: AccessRecord, strings: UnsafePointer<UInt8>, to out: inout ByteWriter) {
        switch format {
        case .combined: writeCombined(record, Strings(rest: strings), to: &out)
        case .json: writeJSON(record, Strings(rest: strings), to: &out)
        }
    }

    /// `client - - [time] "request line" status bytes "referer" "user agent"`
    private func writeCombined(_ record: AccessRecord, _ strings: Strings, to out: inout ByteWriter) {
        var strings = strings
        let lengths = record.stringBytes
        let method = strings.next(lengths.method)
        let target = strings.next(lengths.target)
        _ = strings.next(lengths.authority)
        _ = strings.next(lengths.requestID)
        let userAgent = strings.next(lengths.userAgent)
        let referer = strings.next(lengths.referer)
        record.peer.writeAddress(to: &out)
        out.append(" - - [")
        let date = HTTPDate(secondsSince1970: record.receivedWallMicroseconds / 1_000_000)
        HTTPDate.write(date.day, digits: 2, to: &out)
        out.append("/")
        out.append(date.monthName)
        out.append("/")
        HTTPDate.write(date.year, digits: 4, to: &out)
        out.append(":")
        date.writeTime(to: &out)
        out.append(" +0000] \"")
        if method.isEmpty {
            out.append("-")
        } else {
            writeEscaped(method, to: &out)
            out.append(" ")
            writeEscaped(target, to: &out)
            out.append(UInt8(ascii: " "))
            out.append(record.version.text)
        }
        out.append("\" ")
        if record.status == 0 { out.append("499") } else { out.append(decimal: UInt64(record.status)) }
        out.append(" ")
        out.append(decimal: record.responseContentBytes)
        out.append(" \"")
        if referer.isEmpty { out.append("-") } else { writeEscaped(referer, to: &out) }
        out.append("\" \"")
        if userAgent.isEmpty { out.append("-") } else { writeEscaped(userAgent, to: &out) }
        out.append("\"\n")
    }

    private func writeJSON(_ record: AccessRecord, _ strings: Strings, to out: inout ByteWriter) {
        var strings = strings
        let lengths = record.stringBytes
        let date = HTTPDate(secondsSince1970: record.receivedWallMicroseconds / 1_000_000)
        out.append("{\"time\":\"")
        HTTPDate.write(date.year, digits: 4, to: &out)
        out.append("-")
        HTTPDate.write(date.month, digits: 2, to: &out)
        out.append("-")
        HTTPDate.write(date.day, digits: 2, to: &out)
        out.append("T")
        date.writeTime(to: &out)
        out.append(".")
        HTTPDate.write(Int(record.receivedWallMicroseconds % 1_000_000 / 1000), digits: 3, to: &out)
        out.append("Z\",\"client\":\"")
        record.peer.writeAddress(to: &out)
        out.append("\"")
        if !record.peer.isUnix {
            out.append(",\"client_port\":")
            out.append(decimal: UInt64(record.peer.port))
        }
        writeString(",\"method\":", strings.next(lengths.method), to: &out)
        writeString(",\"target\":", strings.next(lengths.target), to: &out)
        writeString(",\"host\":", strings.next(lengths.authority), to: &out)
        let received = strings.next(lengths.requestID)
        let userAgent = strings.next(lengths.userAgent)
        let referer = strings.next(lengths.referer)
        let traceID = strings.next(lengths.traceID)
        out.append(",\"protocol\":\"")
        out.append(record.version.text)
        out.append(UInt8(ascii: "\""))
        if let minor = record.peer.tlsMinorVersion {
            out.append(",\"tls\":\"1.")
            out.append(decimal: UInt64(minor))
            out.append("\"")
        } else {
            out.append(",\"tls\":null")
        }
        out.append(",\"status\":")
        out.append(decimal: UInt64(record.status))
        if record.grpcStatus >= 0 {
            out.append(",\"grpc_status\":")
            out.append(decimal: UInt64(record.grpcStatus))
        }
        writeNumber(",\"request_bytes\":", record.requestContentBytes, to: &out)
        writeNumber(",\"response_bytes\":", record.responseContentBytes, to: &out)
        writeString(",\"listener\":", strings.next(lengths.listener), to: &out)
        writeString(",\"route\":", strings.next(lengths.route), to: &out)
        writeString(",\"upstream\":", strings.next(lengths.upstream), to: &out)
        writeString(",\"server\":", strings.next(lengths.server), to: &out)
        writeNumber(",\"tries\":", UInt64(record.tries), to: &out)
        out.append(record.isReused ? ",\"reused\":true" : ",\"reused\":false")
        out.append(",\"request_id\":\"")
        if received.isEmpty { record.requestID.write(to: &out) } else { writeEscaped(received, to: &out) }
        out.append("\"")
        writeString(",\"user_agent\":", userAgent, to: &out)
        writeString(",\"referer\":", referer, to: &out)
        if record.beganTrace {
            out.append(",\"trace_id\":\"")
            record.requestID.write(to: &out)
            out.append("\"")
        } else {
            writeString(",\"trace_id\":", traceID, to: &out)
        }
        let phases = record.phases
        writeSeconds(",\"request_seconds\":", phases.requestHead, phases.requestEnd, to: &out)
        writeSeconds(",\"connect_seconds\":", phases.requestHead, phases.upstreamAttached, to: &out)
        writeSeconds(",\"interim_seconds\":", phases.requestHead, phases.firstInterim, to: &out)
        writeSeconds(",\"head_seconds\":", phases.requestHead, phases.responseHead, to: &out)
        writeSeconds(",\"content_seconds\":", phases.requestHead, phases.firstContent, to: &out)
        writeSeconds(",\"total_seconds\":", phases.requestHead, record.endMicroseconds, to: &out)
        out.append(",\"termination\":\"")
        out.append(record.failure?.logName ?? "complete")
        out.append("\"}\n")
    }

    private func writeString(_ key: StaticString, _ value: UnsafeBufferPointer<UInt8>, to out: inout ByteWriter) {
        out.append(key)
        if value.isEmpty {
            out.append("null")
        } else {
            out.append("\"")
            writeEscaped(value, to: &out)
            out.append("\"")
        }
    }

    private func writeNumber(_ key: StaticString, _ value: UInt64, to out: inout ByteWriter) {
        out.append(key)
        out.append(decimal: value)
    }

    /// Seconds with six digits from one point to another; null if the second was never reached.
    private func writeSeconds(_ key: StaticString, _ from: UInt64, _ to: UInt64, to out: inout ByteWriter) {
        out.append(key)
        guard to != 0, to >= from else {
            out.append("null")
            return
        }
        out.append(decimal: (to - from) / 1_000_000)
        out.append(".")
        HTTPDate.write(Int((to - from) % 1_000_000), digits: 6, to: &out)
    }

    /// Quotes, backslashes and control characters are escaped, so a client can forge neither a line nor a field, and neither
    /// can it make a terminal do anything. UTF-8 stays as it is; bytes that are none are escaped one by one.
    private func writeEscaped(_ bytes: UnsafeBufferPointer<UInt8>, to out: inout ByteWriter) {
        var index = 0
        while index < bytes.count {
            let byte = bytes[index]
            let isPlain = byte >= 0x20 && byte < 0x7F && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\")
            if isPlain {
                out.append(byte)
                index += 1
                continue
            }
            // Of two bytes, those with 0xC2 in front up to 0x9F are control characters.
            if byte >= 0x80, let count = UTF8Text.scalarLength(bytes, at: index),
                byte != 0xC2 || bytes[index + 1] > 0x9F
            {
                out.append(UnsafeBufferPointer(rebasing: bytes[index..<(index + count)]))
                index += count
                continue
            }
            switch format {
            case .combined: out.append("\\x")
            case .json: out.append("\\u00")
            }
            for digit in [byte >> 4, byte & 15] {
                out.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "A") - 10 + digit)
            }
            index += 1
        }
    }
}
