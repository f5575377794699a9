// Writers never write past their end, and say when something did not fit.

import Bytes
import Testing

@Suite struct ByteWriterTests {
    /// What a body writes into `capacity` bytes with a guard behind them.
    private func written(_ capacity: Int, _ body: (inout ByteWriter) -> Void) -> (text: String, isOverfull: Bool) {
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity + 32)
        defer { room.deallocate() }
        room.initialize(repeating: 0xEE, count: capacity + 32)
        var writer = ByteWriter(base: room, capacity: capacity)
        body(&writer)
        #expect(writer.count <= capacity)
        for index in capacity..<(capacity + 32) { #expect(room[index] == 0xEE, "wrote behind its end") }
        return (String(decoding: writer.bytes, as: UTF8.self), writer.isOverfull)
    }

    @Test func exactlyFull() {
        let full = written(5) { $0.append("hello") }
        #expect(full == ("hello", false))
        #expect(written(4) { $0.append("hello") }.isOverfull)
        #expect(written(0) { $0.append("") } == ("", false))
        #expect(written(0) { $0.append(UInt8(ascii: "x")) }.isOverfull)
        #expect(written(1) { $0.append(UInt8(ascii: "x")) } == ("x", false))
        #expect(written(3) { $0.append(text: "a\u{E9}") } == ("a\u{E9}", false))
        #expect(written(2) { $0.append(text: "a\u{E9}") }.isOverfull)
        #expect(written(4) { $0.append(UnsafeBufferPointer(start: nil, count: 0)) } == ("", false))
    }

    @Test func textOfEveryLength() {
        let source = Array("0123456789abcdefghijklmnopqrstuv".utf8)
        source.withUnsafeBufferPointer { source in
            for count in 0...32 {
                let piece = UnsafeBufferPointer(rebasing: source[0..<count])
                let text = String(decoding: piece, as: UTF8.self)
                for room in [count, count + 1, count + 15, count + 16, 64] {
                    #expect(written(room) { $0.append(piece) } == (text, false))
                }
                if count > 0 { #expect(written(count - 1) { $0.append(piece) }.isOverfull) }
            }
        }
    }

    @Test func staysOverfull() {
        let result = written(3) {
            $0.append("four")
            $0.append("x")
        }
        #expect(result.isOverfull)
    }

    @Test(arguments: [
        0, 1, 9, 10, 11, 99, 100, 999, 1000, 123_456_789, 9_999_999_999_999_999_999, 10_000_000_000_000_000_000,
        UInt64(Int64.max), .max - 1, .max,
    ])
    func numbers(_ value: UInt64) {
        #expect(written(20) { $0.append(decimal: value) } == (String(value), false))
        #expect(written(16) { $0.append(hexadecimal: value) } == (String(value, radix: 16), false))
    }

    @Test func numbersAtThePowers() {
        var power: UInt64 = 1
        for _ in 0..<19 {
            power *= 10
            for value in [power - 1, power, power + 1] {
                #expect(written(20) { $0.append(decimal: value) }.text == String(value))
            }
        }
        for shift in UInt64(0)..<64 {
            for value in [(UInt64(1) << shift) - 1, UInt64(1) << shift] {
                #expect(written(16) { $0.append(hexadecimal: value) }.text == String(value, radix: 16))
            }
        }
    }

    @Test func numbersNeedTheRoomOfTheLongest() {
        #expect(written(19) { $0.append(decimal: 1) }.isOverfull)
        #expect(written(15) { $0.append(hexadecimal: 1) }.isOverfull)
    }
}
