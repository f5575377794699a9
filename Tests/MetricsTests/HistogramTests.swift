// Which bucket a duration falls into, and what is told of the buckets.

import Testing

@testable import ProxyRuntime

@Suite struct HistogramTests {
    private func reading(_ microseconds: UInt64...) -> Histogram.Reading {
        var cells = [UInt64](repeating: 0, count: Histogram.cellCount)
        for value in microseconds {
            cells[Histogram.bucket(ofMicroseconds: value)] += 1
            cells[Histogram.bucketCount] += value
        }
        return Histogram.Reading(cells)
    }

    @Test func everyBoundTakesItsOwnValueAndNoMore() {
        for (index, exponent) in Histogram.exponentsTold.enumerated() {
            let bound: UInt64 = 1 << UInt64(exponent)
            for (value, isWithin) in [(bound - 1, true), (bound, true), (bound + 1, false)] {
                let told = reading(value)
                #expect(told.cumulated[index] == (isWithin ? 1 : 0), "\(value) us, bound \(bound) us")
                #expect(told.count == 1)
                #expect(told.sumMicroseconds == value)
            }
        }
    }

    @Test func theShortestAndTheLongestAreCounted() {
        let told = reading(0, 1, 32, 33, .max >> 1)
        #expect(told.cumulated.first == 3)
        #expect(told.cumulated.last == 4)
        #expect(told.count == 5)
        #expect(told.cumulated == told.cumulated.sorted())
    }

    @Test func thePromisesCanBeRead() {
        // A head held for less than 0.1 ms at the median and 5 ms at worst, and exchanges of an hour.
        let bounds = Histogram.exponentsTold.map { UInt64(1) << UInt64($0) }
        #expect(bounds.contains { (50...100).contains($0) })
        #expect(bounds.contains { (4000...5000).contains($0) })
        #expect(bounds.last.map { $0 > 3_600_000_000 } == true)
        #expect(Histogram.exponentsTold.last == Histogram.exponentMax)
    }
}
