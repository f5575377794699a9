// IMF-fixdate (RFC 9110 section 5.6.7).

import Bytes
import HTTPSemantics
import Testing

@Suite struct HTTPDateTests {
    private func text(_ seconds: UInt64) -> String {
        let room = UnsafeMutablePointer<UInt8>.allocate(capacity: HTTPDate.textBytes)
        defer { room.deallocate() }
        var writer = ByteWriter(base: room, capacity: HTTPDate.textBytes)
        HTTPDate(secondsSince1970: seconds).write(to: &writer)
        #expect(!writer.isOverfull)
        return String(decoding: writer.bytes, as: UTF8.self)
    }

    @Test(
        arguments: [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"), (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"), (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"), (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"), (2_147_483_647, "Tue, 19 Jan 2038 03:14:07 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"), (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] as [(UInt64, String)])
    func vectors(_ seconds: UInt64, _ expected: String) { #expect(text(seconds) == expected) }

    @Test func everyDayFollowsTheOneBefore() {
        // A calendar of its own, counted day by day from 1970 to 2110.
        let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        var (year, month, day, weekday) = (1970, 1, 1, 4)
        var seconds: UInt64 = 0
        while year < 2110 {
            let date = HTTPDate(secondsSince1970: seconds + 43_200)
            guard date.year == year, date.month == month, date.day == day, date.weekday == weekday else {
                Issue.record("\(year)-\(month)-\(day)")
                return
            }
            seconds += 86400
            weekday = (weekday + 1) % 7
            day += 1
            let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
            if day > lengths[month - 1] + (isLeap && month == 2 ? 1 : 0) {
                day = 1
                month += 1
            }
            if month > 12 {
                month = 1
                year += 1
            }
        }
    }

    @Test func monthNames() {
        let names = (0..<12).map {
            HTTPDate(secondsSince1970: UInt64($0) * 2_628_000 + 1_000_000).monthName.description
        }
        #expect(names == ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])
    }
}
