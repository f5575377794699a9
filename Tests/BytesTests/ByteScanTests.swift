// Scans by words find what a loop over bytes finds, for every byte at every place.

import Bytes
import TestSupport
import Testing

@Suite struct ByteScanTests {
    private func forEachPlacedByte(_ filler: UInt8, _ body: (UnsafePointer<UInt8>, Int, UInt8, Int) -> Void) {
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 40)
        defer { room.deallocate() }
        for count in [0, 1, 7, 8, 9, 16, 19, 40] {
            for place in 0..<max(count, 1) {
                for byte in UInt8.min...UInt8.max {
                    room.initialize(repeating: filler, count: 40)
                    if place < count { room[place] = byte }
                    body(room, count, byte, place)
                }
            }
        }
    }

    private func index(
        _ bytes: UnsafePointer<UInt8>, _ from: Int, _ end: Int, _ matches: (UInt8) -> Bool
    ) -> Int {
        (from..<max(from, end)).first { matches(bytes[$0]) } ?? end
    }

    @Test func fieldValues() {
        var mistakes = 0
        forEachPlacedByte(UInt8(ascii: "v")) { bytes, count, _, place in
            let expected = index(bytes, 0, count) { $0 < 0x20 && $0 != 9 || $0 == 0x7F }
            if ByteScan.fieldValueEnd(bytes, from: 0, end: count) != expected { mistakes += 1 }
            if place > 0, ByteScan.fieldValueEnd(bytes, from: 1, end: count) != expected { mistakes += 1 }
        }
        #expect(mistakes == 0)
    }

    @Test func usualFieldValues() {
        // It may stop early at what is odd, but never goes past what a value must not have.
        var mistakes = 0
        forEachPlacedByte(UInt8(ascii: "v")) { bytes, count, _, _ in
            let found = ByteScan.usualFieldValueEnd(bytes, from: 0, end: count)
            let expected = index(bytes, 0, count) { $0 < 0x20 || $0 == 0x7F }
            if found != expected { mistakes += 1 }
        }
        var random = SeededGenerator(seed: 12)
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 64)
        defer { room.deallocate() }
        for _ in 0..<20_000 {
            for index in 0..<64 {
                room[index] = [0x7E, 0x7F, 0xFF, 0x20, 0x1F, 0x80, 0x41].randomElement(using: &random) ?? 0
            }
            let from = Int.random(in: 0...63, using: &random)
            let found = ByteScan.usualFieldValueEnd(room, from: from, end: 64)
            if found > index(room, from, 64, { $0 < 0x20 || $0 == 0x7F }) { mistakes += 1 }
        }
        #expect(mistakes == 0)
    }

    @Test func targets() {
        var mistakes = 0
        forEachPlacedByte(UInt8(ascii: "/")) { bytes, count, _, _ in
            let expected = index(bytes, 0, count) { $0 < 0x21 || $0 > 0x7E || $0 == UInt8(ascii: "#") }
            if ByteScan.targetEnd(bytes, from: 0, end: count) != expected { mistakes += 1 }
        }
        #expect(mistakes == 0)
    }

    @Test func bytes() {
        var mistakes = 0
        for wanted in [0, 10, 0x7F, 0x80, 0xFF] as [UInt8] {
            forEachPlacedByte(wanted ^ 1) { bytes, count, _, _ in
                let expected = index(bytes, 0, count) { $0 == wanted }
                if ByteScan.first(wanted, in: bytes, from: 0, end: count) != expected { mistakes += 1 }
            }
        }
        #expect(mistakes == 0)
    }

    @Test func randomBytes() {
        var random = SeededGenerator(seed: 11)
        var mistakes = 0
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: 64)
        defer { room.deallocate() }
        for _ in 0..<20_000 {
            for index in 0..<64 { room[index] = UInt8.random(in: 0...255, using: &random) }
            let from = Int.random(in: 0...63, using: &random)
            let end = Int.random(in: from...64, using: &random)
            if ByteScan.fieldValueEnd(room, from: from, end: end)
                != index(room, from, end, { $0 < 0x20 && $0 != 9 || $0 == 0x7F })
            {
                mistakes += 1
            }
            if ByteScan.first(10, in: room, from: from, end: end) != index(room, from, end, { $0 == 10 }) {
                mistakes += 1
            }
        }
        #expect(mistakes == 0)
    }
}
