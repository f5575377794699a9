// A token finds its element for as long as that lives, and nothing afterwards; elements never move.

import TestSupport
import Testing

@testable import Bytes

@Suite struct SlabTests {
    @Test func tokensOfFreedElementsFindNothing() {
        let slab = Slab<Int>()
        defer { slab.destroy() }
        let (place, token) = slab.insert(1)
        #expect(place.pointee == 1)
        #expect(slab.find(token) == place)
        #expect(slab.count == 1)
        slab.free(token)
        #expect(slab.find(token) == nil)
        #expect(slab.count == 0)
        // The same slot, and not the same token.
        let (_, second) = slab.insert(2)
        #expect(second.index == token.index)
        #expect(second != token)
        #expect(slab.find(token) == nil)
        #expect(slab.find(second)?.pointee == 2)
    }

    @Test func tokensThatNeverWereFindNothing() {
        let slab = Slab<Int>()
        defer { slab.destroy() }
        #expect(slab.find(SlabToken(index: 0, generation: 0)) == nil)
        #expect(slab.find(SlabToken(index: .max, generation: 1)) == nil)
        let (_, token) = slab.insert(1)
        #expect(slab.find(SlabToken(index: token.index, generation: token.generation + 1)) == nil)
        #expect(slab.find(SlabToken(index: token.index + 1, generation: 0)) == nil)
        #expect(slab.find(SlabToken(index: token.index + 1, generation: 1)) == nil)
    }

    @Test func generationsFit24BitsAndWrap() {
        let slab = Slab<UInt8>()
        defer { slab.destroy() }
        let (_, first) = slab.insert(0)
        slab.free(first)
        // As if the slot had been used sixteen million times.
        slab.slot(first.index).pointee.generation = 0xFF_FFFE
        let last = slab.insert(1).token
        #expect(last.generation == 0xFF_FFFF)
        #expect(slab.find(last)?.pointee == 1)
        slab.free(last)
        let wrapped = slab.insert(2).token
        #expect(wrapped.index == last.index)
        #expect(wrapped.generation == 0)
        #expect(slab.find(wrapped)?.pointee == 2)
        #expect(slab.find(last) == nil)
    }

    /// What lives stays where it is; what was given back finds nothing, also when its place is taken again.
    @Test func chunksInWhichNothingLivesAreGivenBack() {
        let slab = Slab<Int>()
        defer { slab.destroy() }
        var tokens = (0..<2000).map { slab.insert($0).token }
        #expect(slab.freeCount == 48)
        let kept = [tokens[300], tokens[1999]]
        let places = kept.map { slab.find($0) }
        for token in tokens where !kept.contains(token) { slab.free(token) }
        #expect(slab.shrink())
        #expect(slab.count == 2)
        #expect(slab.freeCount == 2 * 128 - 2)
        #expect(!slab.shrink())
        for token in tokens where !kept.contains(token) { #expect(slab.find(token) == nil) }
        #expect(kept.map { slab.find($0) } == places)
        #expect(kept.map { slab.find($0)?.pointee } == [300, 1999])
        let old = tokens
        tokens = (0..<3000).map { slab.insert($0).token }
        #expect(slab.count == 3002)
        for token in old where !kept.contains(token) { #expect(slab.find(token) == nil) }
        for (value, token) in tokens.enumerated() { #expect(slab.find(token)?.pointee == value) }
        var sum = 0
        slab.forEach { sum += $0.pointee }
        #expect(sum == 2999 * 1500 + 300 + 1999)
        for token in tokens + kept { slab.free(token) }
        #expect(slab.shrink())
        #expect(slab.freeCount == 0)
        #expect(slab.insert(7).place.pointee == 7)
    }

    @Test func likeADictionary() {
        let slab = Slab<Int>()
        defer { slab.destroy() }
        var random = SeededGenerator(seed: 3)
        var live: [(token: SlabToken, place: UnsafeMutablePointer<Int>, value: Int)] = []
        var freed: [SlabToken] = []
        for step in 0..<20_000 {
            // First it grows over several chunks, later it shrinks.
            if live.isEmpty || Int.random(in: 0..<100, using: &random) < (step < 8000 ? 70 : 45) {
                let (place, token) = slab.insert(step)
                live.append((token, place, step))
            } else {
                let index = Int.random(in: 0..<live.count, using: &random)
                slab.free(live[index].token)
                freed.append(live[index].token)
                live.swapAt(index, live.count - 1)
                live.removeLast()
            }
            if step % 500 == 0 {
                for element in live {
                    guard slab.find(element.token) == element.place, element.place.pointee == element.value else {
                        Issue.record("element lost or moved")
                        return
                    }
                }
                for token in freed where slab.find(token) != nil {
                    Issue.record("freed element found")
                    return
                }
                var sum = 0
                slab.forEach { sum += $0.pointee }
                #expect(sum == live.reduce(0) { $0 + $1.value })
                #expect(slab.count == live.count)
            }
        }
        #expect(live.count > 128)
    }

    @Test func elementsMayBeFreedWhileTheyAreVisited() {
        let slab = Slab<SlabToken>()
        defer { slab.destroy() }
        for _ in 0..<300 {
            let (place, token) = slab.insert(SlabToken(index: 0, generation: 0))
            place.pointee = token
        }
        var visited = 0
        slab.forEach {
            visited += 1
            slab.free($0.pointee)
        }
        #expect(visited == 300)
        #expect(slab.count == 0)
    }

    #if DEBUG
        @Test func aWriteToAFreeElementIsFound() async {
            await #expect(processExitsWith: .failure) {
                let slab = Slab<Int>()
                let (place, token) = slab.insert(1)
                slab.free(token)
                place.pointee = 2
                _ = slab.insert(3)
            }
        }
    #endif
}
