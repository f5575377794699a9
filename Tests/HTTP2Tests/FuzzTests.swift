// Whatever a peer sends: nothing traps, nothing goes on for ever, and what is told of a stream is in order: a head, then its
// content, then its end, once each.

import HTTP2Support
import HTTPSemantics
import TestSupport
import Testing

@testable import HTTP2

@Suite struct FuzzTests {
    /// A conversation of a client, as frames.
    private static func frames(_ generator: inout SeededGenerator) -> [[UInt8]] {
        (0..<Int.random(in: 1...40, using: &generator)).map { _ in
            let stream = UInt32.random(in: 0...9, using: &generator)
            let flags = UInt8.random(in: 0...255, using: &generator) & 0x2D
            switch Int.random(in: 0..<10, using: &generator) {
            case 0...2: return Frame.headers(Frame.get, stream: stream | 1, endsStream: flags & 1 == 1)
            case 3:
                return Frame.make(0, flags: flags & 1, stream: stream, [UInt8](repeating: 7, count: Int(stream) * 9))
            case 4: return Frame.make(3, stream: stream, Frame.number(UInt32(flags)))
            case 5: return Frame.make(8, stream: stream, Frame.number(UInt32(flags) * 1000))
            case 6: return Frame.make(9, flags: flags, stream: stream, Frame.fields([("x", "y")]))
            case 7: return Frame.make(1, flags: flags, stream: stream | 1, [0x82, 0x86, 0x84, 0x41, 1, 97, 0xBE])
            case 8: return Frame.make(4, flags: flags & 1)
            default:
                return Frame.make(
                    UInt8.random(in: 0...17, using: &generator), flags: flags, stream: stream,
                    (0..<Int.random(in: 0...12, using: &generator)).map { _ in .random(in: 0...255, using: &generator) }
                )
            }
        }
    }

    private func check(_ told: [Told], _ seed: UInt64) {
        var heads: Set<Int32> = []
        var ends: Set<Int32> = []
        for event in told {
            switch event {
            case .head(let id, _): #expect(heads.insert(id).inserted, "two heads, \(seed)")
            case .content(let id, _), .trailers(let id, _):
                #expect(heads.contains(id) && !ends.contains(id), "content without a head, \(seed)")
            case .ended(let id): #expect(ends.insert(id).inserted, "two ends, \(seed)")
            case .failed(let id, _): heads.insert(id)
            case .interim, .closed, .settings, .goAway, .pingAnswered: break
            }
        }
    }

    @Test(arguments: 0..<8)
    func aServerSurvivesAnything(_ hundred: UInt64) {
        for seed in (hundred * 250)..<(hundred * 250 + 250) {
            var generator = SeededGenerator(seed: seed)
            var bytes = Frame.preface + Frame.settings + Self.frames(&generator).flatMap { $0 }
            for _ in 0..<Int.random(in: 0...3, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            let end = End(.server)
            end.takesContent = seed % 3 != 0
            end.receive(bytes, piece: seed % 2 == 0 ? .max : Int.random(in: 1...40, using: &generator))
            _ = end.takeOutput()
            check(end.told, seed)
        }
    }

    @Test(arguments: 0..<4)
    func aClientSurvivesAnything(_ hundred: UInt64) {
        for seed in (hundred * 250)..<(hundred * 250 + 250) {
            var generator = SeededGenerator(seed: seed)
            let end = End(.client)
            for _ in 0..<4 { end.request("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }
            _ = end.takeOutput()
            let answer = Frame.headers([(":status", "200"), ("x", "y")], stream: 1, endsStream: false)
            let bytes = Frame.settings + answer + Self.frames(&generator).flatMap { $0 }
            end.receive(bytes, piece: seed % 2 == 0 ? .max : 7)
            _ = end.takeOutput()
        }
    }
}
