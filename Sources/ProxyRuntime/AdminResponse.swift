// What the admin listener answers: a function from a request to bytes, or to a stream of events.

import HTTPSemantics
import ProxyCore

/// What a request to the admin listener leads to.
enum AdminAnswer {
    case response(AdminResponse)
    /// A stream of server-sent events: the status, every second. To HEAD its head alone.
    case events
}

/// A request to the admin listener.
struct AdminRequest {
    let method: Method
    /// The target without its query.
    let path: String
    /// Whether it asks for a host that is ours.
    let isForUs: Bool
    /// Whether who asks may see the status.
    let mayWatch: Bool
}

/// What the admin listener tells of.
struct AdminSubject {
    let isDraining: Bool
    /// Called if it is asked for.
    let metrics: () -> String
    /// The same, in one line or in several.
    let status: (_ inOneLine: Bool) -> String
}

/// An answer of the admin listener.
struct AdminResponse {
    var status: UInt16
    var fields = AdminResponse.plain("text/plain; charset=utf-8")
    var content: String

    /// The answer to a request.
    static func answer(_ request: AdminRequest, _ subject: AdminSubject) -> AdminAnswer {
        guard request.isForUs else {
            // RFC 9110 section 15.5.20.
            return .response(
                AdminResponse(
                    status: 421,
                    content: "this host is not served here: if it should be, add host NAME; to the admin block\n"))
        }
        guard ["/healthz", "/readyz", "/metrics", "/", "/status", "/status/events"].contains(request.path) else {
            return .response(
                AdminResponse(
                    status: 404, content: "there are /healthz, /readyz, /metrics, /status, and a page at /\n"))
        }
        guard request.method == .get || request.method == .head else {
            // RFC 9110 section 15.5.6.
            return .response(
                AdminResponse(
                    status: 405, fields: plain("text/plain; charset=utf-8") + [("Allow", "GET, HEAD")],
                    content: "GET or HEAD\n"))
        }
        switch request.path {
        case "/healthz": return .response(AdminResponse(status: 200, content: "ok\n"))
        case "/readyz":
            return .response(
                subject.isDraining
                    ? AdminResponse(status: 503, content: "draining\n")
                    : AdminResponse(status: 200, content: "ready\n"))
        case "/metrics":
            return .response(
                AdminResponse(status: 200, fields: plain(MetricsText.contentType), content: subject.metrics()))
        default: break
        }
        guard request.mayWatch else {
            return .response(
                AdminResponse(
                    status: 403, content: "from here the status may not be seen: see allow in the admin block\n"))
        }
        switch request.path {
        case "/": return .response(AdminResponse(status: 200, fields: StatusPage.fields, content: StatusPage.html))
        case "/status/events": return .events
        default:
            return .response(
                AdminResponse(status: 200, fields: plain("application/json"), content: subject.status(false) + "\n"))
        }
    }

    private static func plain(_ contentType: String) -> [(String, String)] {
        [("Content-Type", contentType), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
    }

    /// The answer to what is no request.
    init(refusing fault: HeadFault) {
        self.init(status: fault.requestStatus, content: "\(fault.explanation)\n")
    }

    init(
        status: UInt16, fields: [(String, String)] = AdminResponse.plain("text/plain; charset=utf-8"), content: String
    ) {
        self.status = status
        self.fields = fields
        self.content = content
    }

    /// As it goes out. The connection ends behind it.
    func bytes(toHEAD: Bool) -> [UInt8] {
        let text = Array(content.utf8)
        return Self.head(status, fields + [("Content-Length", "\(text.count)")]) + (toHEAD ? [] : text)
    }

    /// The head of a stream of events. Only the end of the connection ends it.
    static func eventsHead() -> [UInt8] { head(200, plain("text/event-stream")) }

    private static func head(_ status: UInt16, _ fields: [(String, String)]) -> [UInt8] {
        var head = "HTTP/1.1 \(status) \(ReasonPhrase.of(status))\r\n"
        for (name, value) in fields { head += "\(name): \(value)\r\n" }
        return Array((head + "Connection: close\r\n\r\n").utf8)
    }
}
