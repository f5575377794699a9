// What the demo's origin answers, and when. Times count from the end of the request's head.

extension DemoConnection {
    /// Answers the current request.
    mutating func answer() throws(DemoEnd) {
        let start = demoMilliseconds()
        if request.path == "/upload" {
            guard request.method == "POST" || request.method == "PUT" else { return try refuseMethod("POST, PUT") }
            return try answerUpload(from: start)
        }
        while try nextPiece() != nil {}
        guard request.method == "GET" || request.method == "HEAD" else { return try refuseMethod("GET, HEAD") }
        switch request.path {
        case "/": try sendResponse("200 OK", fields: DemoPage.fields, content: Array(DemoPage.html.utf8))
        case "/slow": try answerSlowly(from: start)
        case "/held": try answerHeld(from: start)
        case "/report": try answerReport(from: start)
        case "/hints": try answerHints(from: start)
        case "/style.css":
            let fields = [("Content-Type", "text/css; charset=utf-8"), ("Cache-Control", "no-store")]
            try sendResponse("200 OK", fields: fields, content: Array(DemoPage.hintsStyle.utf8))
        case "/events": try answerEvents(from: start)
        default:
            try sendResponse("404 Not Found", fields: Self.text, content: Array("Nothing here. Try /\n".utf8))
        }
    }

    private static let text = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
    private static let lateContent = Array("The head was here three seconds ago; this is the content.\n".utf8)

    private mutating func refuseMethod(_ allowed: String) throws(DemoEnd) {
        while try nextPiece() != nil {}
        try sendResponse(
            "405 Method Not Allowed", fields: Self.text + [("Allow", allowed)],
            content: Array("This path takes \(allowed).\n".utf8))
    }

    /// The head at once, the content 3 s later.
    private mutating func answerSlowly(from start: Int64) throws(DemoEnd) {
        try sendHead("200 OK", fields: Self.text, framing: .length(Self.lateContent.count))
        guard request.method != "HEAD" else { return }
        try wait(untilMilliseconds: start + 3_000)
        try sendContent(Self.lateContent)
    }

    /// What a backend does that cannot flush: nothing for 3 s, then all at once.
    private mutating func answerHeld(from start: Int64) throws(DemoEnd) {
        try wait(untilMilliseconds: start + 3_000)
        try sendResponse("200 OK", fields: Self.text, content: Array("Three seconds of silence, then this.\n".utf8))
    }

    /// The head at once, then ten lines over 5 s, then a trailer with the digest of it all (RFC 9530).
    private mutating func answerReport(from start: Int64) throws(DemoEnd) {
        try sendHead("200 OK", fields: Self.text + [("Trailer", "Content-Digest")], framing: .chunked)
        guard request.method != "HEAD" else { return }
        var digest = SHA256()
        for number in 1...10 {
            try wait(untilMilliseconds: start + Int64(number) * 500)
            let place = number < 10 ? " \(number)" : "\(number)"
            let line = Array("line \(place) of 10, \(seconds(number * 500)) s after the head\n".utf8)
            digest.update(line)
            try sendContent(line)
        }
        try sendEnd(trailers: [("Content-Digest", "sha-256=:\(base64(digest.finish())):")])
    }

    /// A 103 (RFC 8297) at once, the page that it hints at 2 s later.
    private mutating func answerHints(from start: Int64) throws(DemoEnd) {
        let link = ("Link", "</style.css>; rel=preload; as=style")
        try sendInterim("103 Early Hints", fields: [link])
        try wait(untilMilliseconds: start + 2_000)
        let fields = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"), link]
        try sendResponse("200 OK", fields: fields, content: Array(DemoPage.hintsHTML.utf8))
    }

    /// The head at once, then an event a second for 5 minutes.
    private mutating func answerEvents(from start: Int64) throws(DemoEnd) {
        let fields = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
        try sendHead("200 OK", fields: fields, framing: .chunked)
        guard request.method != "HEAD" else { return }
        for number in 1...300 {
            try wait(untilMilliseconds: start + Int64(number) * 1_000)
            try sendContent(Array("id: \(number)\ndata: event \(number)\n\n".utf8))
        }
        try sendEnd()
    }

    /// The head at once, while the upload may not even have begun; then a line for each piece that arrives.
    private mutating func answerUpload(from start: Int64) throws(DemoEnd) {
        try acceptContent()
        try sendHead("200 OK", fields: Self.text, framing: .chunked)
        var pieces = 0
        var total = 0
        while let piece = try nextPiece() {
            pieces += 1
            total += piece.count
            let elapsed = seconds(Int(demoMilliseconds() - start))
            try sendContent(Array("\(elapsed) s  piece \(pieces): \(piece.count) bytes, \(total) in all\n".utf8))
        }
        let elapsed = seconds(Int(demoMilliseconds() - start))
        try sendContent(Array("\(elapsed) s  the end: \(total) bytes in \(pieces) pieces\n".utf8))
        try sendEnd()
    }
}

/// Seconds with three digits after the point.
private func seconds(_ milliseconds: Int) -> String {
    let rest = String(milliseconds % 1_000)
    return "\(milliseconds / 1_000).\(String(repeating: "0", count: 3 - rest.count))\(rest)"
}
