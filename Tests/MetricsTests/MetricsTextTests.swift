// The spelling of values and labels, the numbering of routes, and the answers of the admin listener.

import HTTPSemantics
import ProxyConfiguration
import ProxyCore
import Testing

@testable import ProxyRuntime

@Suite struct MetricsTextTests {
    @Test(arguments: [
        (UInt64(0), "0"), (1, "0.000001"), (32, "0.000032"), (500_000, "0.5"), (16_777_216, "16.777216"),
        (7_000_000, "7"), (4_294_967_296, "4294.967296"),
    ])
    func secondsAreExact(microseconds: UInt64, text: String) {
        #expect(MetricsText.seconds(microseconds) == text)
    }

    @Test func labelsAreEscaped() {
        #expect(MetricsText.escaped("a\"b\\c\nd é") == "a\\\"b\\\\c\\nd é")
    }

    @Test func theSnapshotAndTheReaderCountAlike() throws {
        let text = """
            upstream app { server 127.0.0.1:1; }
            listener one {
                bind 127.0.0.1:0;
                host a.example b.example { route / { upstream app; } }
                route /x { respond 200; }
                route = /y { redirect 308 /x; }
            }
            listener two { bind 127.0.0.1:0; connect allow *:443; route / { upstream app; } }
            """
        let configuration = try ConfigurationFile.parse(text: Array(text.utf8), file: "t").configuration
        let entries = RouteNumbering(configuration).entries
        #expect(entries.map(\.listener) == ["one", "one", "one", "one", "two", "two", "two"])
        #expect(entries.map(\.route) == ["/", "/x", "= /y", "", "/", "connect", ""])
        #expect(entries.map(\.host) == ["a.example", "", "", "", "", "", ""])
        #expect(entries.map(\.upstream) == ["app", "", "", "", "app", "", ""])
        #expect(entries.map(\.hasServer) == [true, false, false, false, true, true, false])
        let snapshot = Snapshot(configuration, nodeName: "node")
        #expect(snapshot.listeners.map(\.numberWithoutRoute) == [3, 6])
        #expect(snapshot.listeners.map(\.index) == [0, 1])
        #expect(snapshot.listeners[0].connectRoute == nil)
        #expect(snapshot.listeners[1].connectRoute?.pointee.number == 5)
    }
}

@Suite struct AdminResponseTests {
    private func answer(
        _ method: Method, _ path: String, isDraining: Bool = false, isForUs: Bool = true, mayWatch: Bool = true
    ) throws -> AdminResponse {
        let answer = AdminResponse.answer(
            AdminRequest(method: method, path: path, isForUs: isForUs, mayWatch: mayWatch),
            AdminSubject(isDraining: isDraining, metrics: { "metrics" }, status: { _ in "{}" }))
        guard case .response(let response) = answer else { throw Events() }
        return response
    }

    private struct Events: Error {}

    @Test func readinessEndsWithTheDrainAndHealthDoesNot() throws {
        #expect(try answer(.get, "/readyz").status == 200)
        #expect(try answer(.get, "/readyz", isDraining: true).status == 503)
        #expect(try answer(.get, "/healthz", isDraining: true).status == 200)
        #expect(try answer(.get, "/metrics", isDraining: true).content == "metrics")
    }

    @Test func whatIsThereDecidesBeforeTheMethodDoes() throws {
        #expect(try answer(.post, "/nothing").status == 404)
        #expect(try answer(.post, "/metrics").status == 405)
        #expect(try answer(.post, "/metrics").fields.contains { $0 == ("Allow", "GET, HEAD") })
        #expect(try answer(.head, "/metrics").status == 200)
    }

    @Test func whatIsAskedOfSomebodyElseIsNotLookedAt() throws {
        for path in ["/", "/status", "/status/events", "/metrics", "/healthz", "/nothing"] {
            for method in [Method.get, .head, .post] {
                #expect(try answer(method, path, isForUs: false, mayWatch: false).status == 421)
            }
        }
    }

    @Test func headHasTheLengthAndNoContent() throws {
        let text = String(decoding: try answer(.head, "/healthz").bytes(toHEAD: true), as: UTF8.self)
        #expect(text.contains("\r\nContent-Length: 3\r\n"))
        #expect(text.hasSuffix("\r\n\r\n"))
        let whole = String(decoding: try answer(.get, "/healthz").bytes(toHEAD: false), as: UTF8.self)
        #expect(whole == text + "ok\n")
    }

    @Test func theStatusIsForThoseWhoMayWatch() throws {
        for path in ["/", "/status"] {
            #expect(try answer(.get, path).status == 200)
            #expect(try answer(.get, path, mayWatch: false).status == 403)
        }
        #expect(throws: Events.self) { try answer(.get, "/status/events") }
        #expect(try answer(.get, "/status/events", mayWatch: false).status == 403)
        #expect(try answer(.get, "/metrics", mayWatch: false).status == 200)
        #expect(try answer(.post, "/status", mayWatch: false).status == 405)
    }
}
