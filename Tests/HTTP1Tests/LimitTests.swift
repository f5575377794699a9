// Each bound of a head: exactly at it, and one beyond, however the bytes arrive.

import HTTP1
import HTTPSemantics
import Testing

@Suite struct LimitTests {
    private let feeder = Feeder()

    private func last(_ text: String, _ limits: HeadLimits, _ kind: MessageKind = .request) -> Told? {
        let result = feeder.toldInEveryWay(Array(text.utf8), kind, limits: limits)
        #expect(result.differing == nil, "\(text.debugDescription)")
        return result.events.last
    }

    private func request(bytes: Int) -> String {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: "
        return start + String(repeating: "x", count: bytes - start.utf8.count - 4) + "\r\n\r\n"
    }

    @Test func headBytes() {
        let limits = HeadLimits(headBytesMax: 100, fieldsMax: 10, targetBytesMax: 50)
        #expect(last(request(bytes: 99), limits) == .ended)
        #expect(last(request(bytes: 100), limits) == .ended)
        #expect(last(request(bytes: 101), limits) == .failed(.headTooLong))
        #expect(last(request(bytes: 102), limits) == .failed(.headTooLong))
        #expect(last(request(bytes: 103), limits) == .failed(.headTooLong))
        #expect(last(request(bytes: 300), limits) == .failed(.headTooLong))
        // Another request behind it does not count.
        #expect(last(request(bytes: 100) + request(bytes: 100), limits) == .ended)
    }

    @Test func responseHeadBytes() {
        let limits = HeadLimits(headBytesMax: 64, fieldsMax: 10, targetBytesMax: 0)
        func response(bytes: Int) -> String {
            "HTTP/1.1 204 N\r\nX: " + String(repeating: "x", count: bytes - 23) + "\r\n\r\n"
        }
        #expect(last(response(bytes: 64), limits, .response) == .ended)
        #expect(last(response(bytes: 65), limits, .response) == .failed(.headTooLong))
        #expect(last("HTTP/1.1 204 " + String(repeating: "x", count: 64), limits, .response) == .failed(.headTooLong))
    }

    @Test func aHeadThatFillsItsBoundWithoutAnEndIsRefusedAtOnce() {
        // Nothing more could make it whole, and whoever holds the bytes has no room for more.
        let limits = HeadLimits(headBytesMax: 32, fieldsMax: 10, targetBytesMax: 32)
        #expect(last("GET / HTTP/1.1\r\nHost: aaaaaaaaaa", limits) == .failed(.headTooLong))
        #expect(last("GET / HTTP/1.1\r\nHost: aaaaaaa\r\n\r", limits) == .failed(.headTooLong))
        #expect(last(String(repeating: "G", count: 32), limits) == .failed(.headTooLong))
        #expect(last("GET /" + String(repeating: "g", count: 27), limits) == .failed(.headTooLong))
    }

    @Test func targetBytes() {
        let limits = HeadLimits(headBytesMax: 100, fieldsMax: 10, targetBytesMax: 20)
        func request(_ count: Int) -> String {
            "GET /\(String(repeating: "x", count: count - 1)) HTTP/1.1\r\nHost: a\r\n\r\n"
        }
        #expect(last(request(20), limits) == .ended)
        #expect(last(request(21), limits) == .failed(.targetTooLong))
        #expect(
            feeder.told("GET /" + String(repeating: "x", count: 20), .request, limits: limits) == [
                .failed(.targetTooLong)
            ])
    }

    @Test func nominations() {
        // Each costs a look at each field, so the bound of fields, 128 here, is theirs as well.
        func request(_ count: Int) -> String {
            let half = String(repeating: "x,", count: count / 2)
            let rest = String(repeating: "y,", count: count - count / 2)
            return "GET / HTTP/1.1\r\nHost: a\r\nConnection: \(half)\r\nConnection: \(rest)\r\n\r\n"
        }
        #expect(last(request(128), standardLimits) == .ended)
        #expect(last(request(129), standardLimits) == .failed(.tooManyFields))
    }

    @Test func fields() {
        func request(_ count: Int) -> String {
            "GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "X: y\r\n", count: count - 1) + "\r\n"
        }
        let limits = HeadLimits(headBytesMax: 4096, fieldsMax: 5, targetBytesMax: 20)
        #expect(last(request(5), limits) == .ended)
        #expect(last(request(6), limits) == .failed(.tooManyFields))
        // The scratch has room for 128, whatever the bound says.
        let generous = HeadLimits(headBytesMax: 4096, fieldsMax: 1000, targetBytesMax: 20)
        #expect(feeder.told(request(128), .request, limits: generous).last == .ended)
        #expect(feeder.told(request(129), .request, limits: generous).last == .failed(.tooManyFields))
    }
}
