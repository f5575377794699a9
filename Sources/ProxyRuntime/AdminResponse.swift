// What the admin listener answers: a function from a request's method and path to bytes.

import HTTPSemantics
import ProxyCore

/// An answer of the admin listener.
struct AdminResponse: Equatable {
    var status: UInt16
    var contentType = "text/plain; charset=utf-8"
    var content: String
    /// Whether `Allow` is to say what the method may be (RFC 9110 section 15.5.6).
    var tellsMethods = false

    /// The answer to a request.
    /// - Parameters:
    ///   - path: the target without its query.
    ///   - isDraining: whether the end is near.
    ///   - metrics: called if they are asked for.
    init(to method: Method, path: String, isDraining: Bool, metrics: () -> String) {
        guard ["/healthz", "/readyz", "/metrics"].contains(path) else {
            self.init(status: 404, content: "there are /healthz, /readyz and /metrics\n")
            return
        }
        guard method == .get || method == .head else {
            self.init(status: 405, content: "GET or HEAD\n", tellsMethods: true)
            return
        }
        switch path {
        case "/healthz": self.init(status: 200, content: "ok\n")
        case "/readyz": self.init(status: isDraining ? 503 : 200, content: isDraining ? "draining\n" : "ready\n")
        default: self.init(status: 200, contentType: MetricsText.contentType, content: metrics())
        }
    }

    /// The answer to what is no request.
    init(refusing fault: HeadFault) {
        self.init(status: fault.requestStatus, content: "\(fault.explanation)\n")
    }

    init(
        status: UInt16, contentType: String = "text/plain; charset=utf-8", content: String, tellsMethods: Bool = false
    ) {
        self.status = status
        self.contentType = contentType
        self.content = content
        self.tellsMethods = tellsMethods
    }

    /// As it goes out. The connection ends behind it.
    func bytes(toHEAD: Bool) -> [UInt8] {
        let text = Array(content.utf8)
        var head = "HTTP/1.1 \(status) \(LocalResponse.reasonPhrase(status))\r\n"
        head += "Content-Type: \(contentType)\r\nContent-Length: \(text.count)\r\nCache-Control: no-store\r\n"
        if tellsMethods { head += "Allow: GET, HEAD\r\n" }
        head += "Connection: close\r\n\r\n"
        return Array(head.utf8) + (toHEAD ? [] : text)
    }
}
