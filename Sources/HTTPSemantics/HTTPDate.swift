// IMF-fixdate (RFC 9110 section 5.6.7), computed from the days since 1970 without a library or a time zone.

import Bytes

/// Text of points in time in UTC.
public struct HTTPDate {
    /// Seconds since 1970.
    public let seconds: UInt64
    /// The year.
    public let year: Int
    /// The month, 1 to 12.
    public let month: Int
    /// The day of the month, 1 to 31.
    public let day: Int
    /// The day of the week, 0 for Sunday.
    public let weekday: Int

    /// Length of the text of Date.
    public static let textBytes = 29

    /// A point in time.
    public init(secondsSince1970 seconds: UInt64) {
        self.seconds = seconds
        let days = Int(seconds / 86400)
        weekday = (days + 4) % 7
        // Civil from days, in eras of 400 years that begin on 1 March.
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    }

    /// Name of the month, three letters.
    public var monthName: StaticString {
        switch month {
        case 1: "Jan"
        case 2: "Feb"
        case 3: "Mar"
        case 4: "Apr"
        case 5: "May"
        case 6: "Jun"
        case 7: "Jul"
        case 8: "Aug"
        case 9: "Sep"
        case 10: "Oct"
        case 11: "Nov"
        default: "Dec"
        }
    }

    private var weekdayName: StaticString {
        switch weekday {
        case 0: "Sun"
        case 1: "Mon"
        case 2: "Tue"
        case 3: "Wed"
        case 4: "Thu"
        case 5: "Fri"
        default: "Sat"
        }
    }

    /// Writes a number with leading zeros.
    public static func write(_ value: Int, digits: Int, to out: inout ByteWriter) {
        var divisor = 1
        for _ in 1..<digits { divisor *= 10 }
        while divisor > 0 {
            out.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value / divisor % 10))
            divisor /= 10
        }
    }

    /// Writes `hh:mm:ss`.
    public func writeTime(to out: inout ByteWriter) {
        let ofDay = Int(seconds % 86400)
        Self.write(ofDay / 3600, digits: 2, to: &out)
        out.append(UInt8(ascii: ":"))
        Self.write(ofDay / 60 % 60, digits: 2, to: &out)
        out.append(UInt8(ascii: ":"))
        Self.write(ofDay % 60, digits: 2, to: &out)
    }

    /// Writes `Sun, 06 Nov 1994 08:49:37 GMT`.
    public func write(to out: inout ByteWriter) {
        out.append(weekdayName)
        out.append(", ")
        Self.write(day, digits: 2, to: &out)
        out.append(" ")
        out.append(monthName)
        out.append(" ")
        Self.write(year, digits: 4, to: &out)
        out.append(" ")
        writeTime(to: &out)
        out.append(" GMT")
    }
}
