// Answers of our own: their status, Proxy-Status, and a Content-Length that is the content's (docs/FORWARDING.md,
// rule 13).

import HTTPSemantics
import ProxyConfiguration
import Testing

@testable import ProxyCore

@Suite struct LocalResponseTests {
    private func context(
        toHTTP10: Bool = false, toHEAD: Bool = false, closes: Bool = false, name: StaticString = "headfirst"
    ) -> LocalResponseContext {
        LocalResponseContext(
            isToHTTP10: toHTTP10, isToHEAD: toHEAD, closes: closes, date: bytes("DATE"), proxyName: bytes(name))
    }

    /// An answer, taken apart as a client would.
    private struct Answer {
        let statusLine: String
        let fields: [String]
        let content: String

        init(_ text: String?) throws {
            let text = try #require(text)
            let parts = text.split(separator: "\r\n\r\n", maxSplits: 1, omittingEmptySubsequences: false)
            try #require(parts.count == 2)
            let lines = parts[0].split(separator: "\r\n", omittingEmptySubsequences: false).map(String.init)
            statusLine = lines[0]
            fields = Array(lines.dropFirst())
            content = String(parts[1])
        }

        func value(_ name: String) -> String? {
            let values = fields.filter { $0.hasPrefix(name + ": ") }.map { String($0.dropFirst(name.count + 2)) }
            return values.count == 1 ? values[0] : nil
        }

        var lengthIsRight: Bool { value("Content-Length") == String(content.utf8.count) }
    }

    private func failure(
        _ failure: Failure, _ fault: HeadFault, _ format: ErrorFormat, _ context: LocalResponseContext
    ) throws -> Answer {
        try Answer(
            written { LocalResponse.writeFailure(failure, fault: fault, format: format, context: context, to: &$0) })
    }

    @Test(arguments: Failure.allCases)
    func failures(_ cause: Failure) throws {
        for fault in HeadFault.allCases {
            for format in ErrorFormat.allCases {
                let answer = try failure(cause, fault, format, context())
                let status = cause.status(fault)
                #expect(answer.statusLine == "HTTP/1.1 \(status) \(ReasonPhrase.of(status))")
                #expect(ReasonPhrase.of(status).description != "Other")
                #expect(answer.lengthIsRight, "\(cause) \(fault) \(format)")
                #expect(answer.value("Date") == "DATE")
                let error = cause.proxyStatusError(fault).description
                let details = cause.explanation(fault).description
                #expect(answer.value("Proxy-Status") == "headfirst; error=\(error); details=\"\(details)\"")
                // No text of ours needs an escape, in JSON or in a quoted string.
                #expect(!details.contains { $0 == "\"" || $0 == "\\" || !$0.isASCII })
                let reason = ReasonPhrase.of(status)
                switch format {
                case .text:
                    #expect(answer.value("Content-Type") == "text/plain; charset=utf-8")
                    #expect(answer.content == "\(status) \(reason): \(details).\n")
                case .json:
                    #expect(answer.value("Content-Type") == "application/json")
                    #expect(
                        answer.content
                            == "{\"status\":\(status),\"reason\":\"\(reason)\",\"error\":\"\(error)\",\"details\":\"\(details)\"}\n"
                    )
                }
                #expect((answer.value("Allow") != nil) == (status == 405))
                #expect((answer.value("Retry-After") != nil) == (status == 503))
                // The same head without content answers HEAD.
                let toHEAD = try failure(cause, fault, format, context(toHEAD: true))
                #expect(toHEAD.fields == answer.fields)
                #expect(toHEAD.content == "")
            }
        }
    }

    @Test(arguments: Failure.allCases)
    func sidesAndStatuses(_ cause: Failure) {
        // Every fault of the client's side is 4xx, of the upstream's 502 or 504, of ours 503, but for a loop.
        for fault in HeadFault.allCases {
            let status = cause.status(fault)
            switch cause.side {
            case .upstream: #expect(status == 502 || status == 504)
            case .proxy: #expect(status == (cause == .loopDetected ? 508 : 503))
            case .downstream:
                switch cause {
                case .requestRefused: #expect(status == fault.requestStatus)
                case .requestTimedOut: #expect(status == 504)
                default: #expect([403, 404, 405, 408, 413, 421].contains(status))
                }
            }
        }
        #expect(cause.logName.utf8CodeUnitCount > 0)
    }

    @Test func logNamesDiffer() {
        #expect(Set(Failure.allCases.map { $0.logName.description }).count == Failure.allCases.count)
    }

    @Test func errorTypesAreRegistered() {
        // RFC 9209 section 2.3.
        let registered: Set<String> = [
            "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable", "destination_ip_prohibited",
            "destination_ip_unroutable", "connection_refused", "connection_terminated", "connection_timeout",
            "connection_read_timeout", "connection_write_timeout", "connection_limit_reached", "tls_protocol_error",
            "tls_certificate_error", "tls_alert_received", "http_request_error", "http_request_denied",
            "http_response_incomplete", "http_response_header_section_size", "http_response_header_size",
            "http_response_body_size", "http_response_trailer_section_size", "http_response_trailer_size",
            "http_response_transfer_coding", "http_response_content_coding", "http_response_timeout",
            "http_upgrade_failed", "http_protocol_error", "proxy_internal_response", "proxy_internal_error",
            "proxy_configuration_error", "proxy_loop_detected",
        ]
        for cause in Failure.allCases {
            for fault in HeadFault.allCases {
                #expect(registered.contains(cause.proxyStatusError(fault).description), "\(cause) \(fault)")
            }
        }
    }

    @Test func persistence() throws {
        func connection(_ context: LocalResponseContext) throws -> String? {
            try failure(.noRoute, .startLine, .text, context).value("Connection")
        }
        #expect(try connection(context()) == nil)
        #expect(try connection(context(closes: true)) == "close")
        #expect(try connection(context(toHTTP10: true)) == "keep-alive")
        #expect(try connection(context(toHTTP10: true, closes: true)) == "close")
    }

    @Test func namesInProxyStatus() throws {
        let names: [(StaticString, String)] = [
            ("edge", "edge"), ("a.b:8080", "a.b:8080"), ("1a", "\"1a\""), ("a b", "\"a b\""), ("", "headfirst"),
        ]
        for (name, written) in names {
            let answer = try failure(.noRoute, .startLine, .text, context(name: name))
            #expect(answer.value("Proxy-Status")?.hasPrefix(written + "; error=") == true)
        }
    }

    // MARK: respond and redirect

    private func local(
        _ action: String, _ request: String = "GET /p?q HTTP/1.1\r\nHost: B:81\r\n\r\n",
        context: LocalResponseContext? = nil
    ) throws -> Answer {
        let context = context ?? self.context()
        let snapshot = try snapshot("route / { \(action) }")
        let rewriter = try Rewriter()
        let parsed = try ParsedHead(request, .request)
        defer { withExtendedLifetime((snapshot, rewriter, parsed)) {} }
        let route = try #require(snapshot.listeners[0].router.route(parsed.head))
        let values = rewriter.values(parsed.head, route: route)
        let edits = route.pointee.responseEdits
        return try Answer(
            written { out in
                switch route.pointee.action {
                case .respond(let status, let text):
                    LocalResponse.writeText(
                        status: status, text: text, values: values, edits: edits, context: context, to: &out)
                case .redirect(let status, let location):
                    LocalResponse.writeRedirect(
                        status: status, location: location, values: values, edits: edits, context: context, to: &out)
                case .upstream, .dial: out.isOverfull = true
                }
            })
    }

    @Test func respond() throws {
        let answer = try local("respond 200 \"hello $path \u{E9}\"; add_response_field X-A $host;")
        #expect(answer.statusLine == "HTTP/1.1 200 OK")
        #expect(answer.content == "hello /p \u{E9}")
        #expect(answer.lengthIsRight)
        #expect(answer.value("Content-Type") == "text/plain; charset=utf-8")
        #expect(answer.value("X-A") == "b")
        let toHEAD = try local(
            "respond 200 \"hello $path \u{E9}\"; add_response_field X-A $host;", context: context(toHEAD: true))
        #expect(toHEAD.fields == answer.fields)
        #expect(toHEAD.content == "")
        let typed = try local("respond 200 \"{}\"; set_response_field Content-Type application/json;")
        #expect(typed.value("Content-Type") == "application/json")
        let empty = try local("respond 404;")
        #expect(empty.value("Content-Length") == "0")
        #expect(empty.content == "")
    }

    @Test(arguments: [204, 304])
    func answersWithoutContent(_ status: Int) throws {
        let answer = try local("respond \(status);")
        #expect(answer.statusLine.hasPrefix("HTTP/1.1 \(status) "))
        #expect(answer.value("Content-Length") == nil)
        #expect(answer.value("Content-Type") == nil)
        #expect(answer.content == "")
    }

    @Test(arguments: [301, 302, 303, 307, 308])
    func redirect(_ status: Int) throws {
        let answer = try local("redirect \(status) https://$host$target;")
        #expect(answer.statusLine.hasPrefix("HTTP/1.1 \(status) "))
        #expect(answer.value("Location") == "https://b/p?q")
        #expect(answer.lengthIsRight)
        let absolute = try local(
            "redirect \(status) https://$host$path;", "GET http://b/p HTTP/1.1\r\nHost: b\r\n\r\n")
        #expect(absolute.value("Location") == "https://b/p")
    }

    @Test func roomThatDoesNotSuffice() throws {
        let snapshot = try snapshot("route / { respond 200 hello; }")
        let parsed = try ParsedHead.request()
        let route = try #require(snapshot.listeners[0].router.route(parsed.head))
        let rewriter = try Rewriter()
        defer { withExtendedLifetime((snapshot, rewriter, parsed)) {} }
        let values = rewriter.values(parsed.head, route: route)
        guard case .respond(let status, let text) = route.pointee.action else {
            Issue.record("the route responds")
            return
        }
        func write(_ capacity: Int) -> String? {
            written(capacity: capacity) {
                LocalResponse.writeText(
                    status: status, text: text, values: values, edits: route.pointee.responseEdits, context: context(),
                    to: &$0)
            }
        }
        let whole = try #require(write(4096))
        for capacity in 0..<whole.utf8.count { #expect(write(capacity) == nil) }
        #expect(write(whole.utf8.count + 32) == whole)
    }

    // MARK: Max-Forwards

    @Test func theFinalRecipient() throws {
        let options = try Answer(written { LocalResponse.writeOptions(context: context(), to: &$0) })
        #expect(options.statusLine == "HTTP/1.1 200 OK")
        #expect(options.value("Allow")?.contains("GET") == true)
        #expect(options.lengthIsRight)
        // RFC 9110 section 9.3.8: what is secret is not sent back.
        let request =
            "TRACE /a HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\ncookie: y\r\nProxy-Authorization: z\r\nX:  y \r\n\r\n"
        let parsed = try ParsedHead(request, .request)
        defer { withExtendedLifetime(parsed) {} }
        let trace = try Answer(written { LocalResponse.writeTrace(parsed.head, context: context(), to: &$0) })
        #expect(trace.value("Content-Type") == "message/http")
        #expect(trace.content == "TRACE /a HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\n")
        #expect(trace.lengthIsRight)
    }
}
