import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import SeededRandom
import Testing

/// What a cron expression comes to, against moments written down by hand.
private struct Case: CustomTestStringConvertible, Sendable {
    var cron: String
    var zone: String
    var after: String
    var expected: [String]

    init(_ cron: String, _ zone: String, after: String, _ expected: String...) {
        (self.cron, self.zone, self.after, self.expected) = (cron, zone, after, expected)
    }

    var testDescription: String { "\(cron) in \(zone) after \(after)" }
}

private let cases = [
    // Nothing special.
    Case("0 3 * * *", "UTC", after: "2026-02-27T03:00Z", "2026-02-28T03:00Z", "2026-03-01T03:00Z"),
    Case("*/20 9-10 * * mon-fri", "UTC", after: "2026-11-20T10:30Z", "2026-11-20T10:40Z", "2026-11-23T09:00Z", "2026-11-23T09:20Z"),
    Case("@weekly", "UTC", after: "2026-11-21T12:00Z", "2026-11-22T00:00Z", "2026-11-29T00:00Z"),
    Case("@monthly", "Asia/Kolkata", after: "2026-11-21T12:00Z", "2026-11-30T18:30Z", "2026-12-31T18:30Z"),
    Case("@yearly", "UTC", after: "2026-11-21T12:00Z", "2027-01-01T00:00Z"),
    Case("5/25 12 * JAN,mar *", "UTC", after: "2026-01-31T12:10Z", "2026-01-31T12:30Z", "2026-01-31T12:55Z", "2026-03-01T12:05Z"),
    Case("0 0 29 2 *", "UTC", after: "2026-01-01T00:00Z", "2028-02-29T00:00Z", "2032-02-29T00:00Z"),
    Case("0 0 29 2 *", "UTC", after: "2096-03-01T00:00Z", "2104-02-29T00:00Z"),
    Case("0 12 * * 7", "UTC", after: "2026-11-21T12:00Z", "2026-11-22T12:00Z", "2026-11-29T12:00Z"),
    Case("0 12 * * fri-sun", "UTC", after: "2026-11-22T12:00Z", "2026-11-27T12:00Z", "2026-11-28T12:00Z", "2026-11-29T12:00Z"),
    // Vixie's rule: both day fields say something, and one is enough …
    Case(
        "0 0 13 * fri", "UTC", after: "2026-11-06T00:00Z", "2026-11-13T00:00Z", "2026-11-20T00:00Z", "2026-11-27T00:00Z",
        "2026-12-04T00:00Z", "2026-12-11T00:00Z", "2026-12-13T00:00Z"),
    // … but one that begins with * says nothing, and both must agree.
    Case("0 0 */2 * mon", "UTC", after: "2026-11-01T00:00Z", "2026-11-09T00:00Z", "2026-11-23T00:00Z", "2026-12-07T00:00Z"),
    // Berlin, 29 March 2026: 02:00 to 03:00 is skipped at 01:00 UTC.
    Case("30 2 * * *", "Europe/Berlin", after: "2026-03-28T00:00Z", "2026-03-28T01:30Z", "2026-03-29T01:00Z", "2026-03-30T00:30Z"),
    Case("0,20,40 2 * * *", "Europe/Berlin", after: "2026-03-28T02:00Z", "2026-03-29T01:00Z", "2026-03-30T00:00Z", "2026-03-30T00:20Z"),
    Case("0 2,3 * * *", "Europe/Berlin", after: "2026-03-29T00:00Z", "2026-03-29T01:00Z", "2026-03-30T00:00Z"),
    Case("0 * * * *", "Europe/Berlin", after: "2026-03-28T23:30Z", "2026-03-29T00:00Z", "2026-03-29T01:00Z", "2026-03-29T02:00Z"),
    Case("30 * * * *", "Europe/Berlin", after: "2026-03-28T23:45Z", "2026-03-29T00:30Z", "2026-03-29T01:30Z", "2026-03-29T02:30Z"),
    // Berlin, 25 October 2026: 02:00 to 03:00 is shown twice, from 00:00 UTC and from 01:00 UTC.
    Case("30 2 * * *", "Europe/Berlin", after: "2026-10-24T00:00Z", "2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z"),
    Case("30 2 * * *", "Europe/Berlin", after: "2026-10-25T01:10Z", "2026-10-26T01:30Z"),
    Case("*/30 1-3 * * *", "Europe/Berlin", after: "2026-10-24T23:45Z", "2026-10-25T00:00Z", "2026-10-25T00:30Z", "2026-10-25T02:00Z"),
    Case("0 * * * *", "Europe/Berlin", after: "2026-10-24T23:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
    Case("@daily", "Europe/Berlin", after: "2026-10-24T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
    // New York, 8 March and 1 November 2026.
    Case("15 2 * * *", "America/New_York", after: "2026-03-07T08:00Z", "2026-03-08T07:00Z", "2026-03-09T06:15Z"),
    Case("15 1 * * *", "America/New_York", after: "2026-10-31T06:00Z", "2026-11-01T05:15Z", "2026-11-02T06:15Z"),
    Case("15 * * * *", "America/New_York", after: "2026-11-01T04:30Z", "2026-11-01T05:15Z", "2026-11-01T06:15Z", "2026-11-01T07:15Z"),
    // Lord Howe Island changes by half an hour: 4 October 2026, 02:00 to 02:30 is skipped; 5 April 2026, 01:30 to 02:00 comes twice.
    Case("10 2 * * *", "Australia/Lord_Howe", after: "2026-10-02T16:00Z", "2026-10-03T15:30Z", "2026-10-04T15:10Z"),
    Case("40 1 * * *", "Australia/Lord_Howe", after: "2026-04-03T15:00Z", "2026-04-04T14:40Z", "2026-04-05T15:10Z"),
    Case("30 * * * *", "Australia/Lord_Howe", after: "2026-10-03T14:30Z", "2026-10-03T15:00Z", "2026-10-03T15:30Z", "2026-10-03T16:30Z"),
    Case("45 * * * *", "Australia/Lord_Howe", after: "2026-04-04T14:00Z", "2026-04-04T14:45Z", "2026-04-04T15:15Z", "2026-04-04T16:15Z"),
    // Midnight itself is skipped in Beirut (29 March 2026) and shown twice in Havana (1 November 2026).
    Case("@daily", "Asia/Beirut", after: "2026-03-28T12:00Z", "2026-03-28T22:00Z", "2026-03-29T21:00Z"),
    Case("@daily", "America/Havana", after: "2026-10-31T12:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
    // A whole day was skipped in Samoa: 30 December 2011.
    Case("0 6 30 12 *", "Pacific/Apia", after: "2011-12-01T00:00Z", "2011-12-30T10:00Z", "2012-12-29T16:00Z"),
]

private struct Refusal: CustomTestStringConvertible, Sendable {
    var cron: String
    var zone = "UTC"
    /// What the message must say.
    var says: String

    var testDescription: String { "\(cron) in \(zone)" }
}

private let refusals = [
    Refusal(cron: "60 * * * *", says: "minute: 60"), Refusal(cron: "* 24 * * *", says: "hour: 24"),
    Refusal(cron: "* * 0 * *", says: "day of month: 0"), Refusal(cron: "* * * 13 *", says: "month: 13"),
    Refusal(cron: "* * * * 8", says: "day of week: 8"), Refusal(cron: "* * * brumaire *", says: "brumaire"),
    Refusal(cron: "0 0 30 2 *", says: "day of month: 30 never comes in month 2"),
    Refusal(cron: "0 0 31 4,6,9,11 *", says: "never comes"), Refusal(cron: "*/0 * * * *", says: "step of 0"),
    Refusal(cron: "*/61 * * * *", says: "step of 61"), Refusal(cron: "1,,2 * * * *", says: "minute"),
    Refusal(cron: "* 22-3 * * *", says: "backwards"), Refusal(cron: "* * * *", says: "4 fields, not five"),
    Refusal(cron: "0 * * * * *", says: "6 fields, not five"), Refusal(cron: "", says: "0 fields"),
    Refusal(cron: "@reboot", says: "@reboot"),
    Refusal(cron: "* * L * *", says: "day of month"), Refusal(cron: "99999999999999 * * * *", says: "minute"),
    Refusal(cron: "* * * * *", zone: "Europe/Berln", says: "time zone"), Refusal(cron: "* * * * *", zone: "FOO+3", says: "FOO+3"),
    Refusal(cron: "* * * * *", zone: "", says: "time zone"),
]

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Cron {
        @Test func expressionsFireWhenUsersExpectThemTo() async throws {
            try await withQueue { _, database in
                for one in cases {
                    let rows = try await database.client.query(
                        """
                        select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"') from queue.schedule_preview($1, $2, $3, $4::timestamptz) at
                        """, [.string(one.cron), .string(one.zone), .int(one.expected.count), .string(one.after)])
                    #expect(try rows.map { try $0[0].string } == one.expected, "\(one.testDescription)")
                }
            }
        }

        @Test func nonsenseIsRefusedByTheNameOfTheField() async throws {
            try await withQueue { queue, _ in
                for refusal in refusals {
                    let error = await failure {
                        try await queue.addSchedule(key: "s", kind: "slow", cron: refusal.cron, timeZone: refusal.zone)
                    }
                    let refused = try #require(error as? PostgresError, "\(refusal.testDescription) was taken")
                    #expect(refused.sqlState == "22023" && refused.message.contains(refusal.says), "\(refusal.testDescription): \(refused)")
                }
                #expect(try await queue.schedules().isEmpty)
            }
        }

        /// A second reading of the rules, minute by minute over the weeks around each change of the clocks, by Foundation's time zones.
        @Test func randomExpressionsAgreeWithAScanOfEveryMinute() async throws {
            try await withQueue { _, database in
                var random = SplitMix64(seed: 11)
                var compared = 0
                for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Antarctica/Troll"] {
                    // Days of 2026: from the end of February, and from the end of September.
                    for first in [55, 267] {
                        let clock = WallClock(zone, from: first, days: 50)
                        for _ in 0..<3 {
                            let cron = RandomCron(using: &random)
                            let expected = clock.moments(cron)
                            let rows = try await database.client.query(
                                """
                                select extract(epoch from at)::bigint / 60
                                from unnest(queue.cron_last($1, $2, to_timestamp($3), to_timestamp($4), 1000000)) at
                                """, [.string(cron.text), .string(zone), .int(clock.first * 60 - 1), .int(clock.last * 60)])
                            let found = try rows.map { try $0[0].int }
                            #expect(
                                found == expected, "\(cron.text) in \(zone): \(Set(found).symmetricDifference(expected).sorted().prefix(5))"
                            )
                            compared += expected.count
                        }
                    }
                }
                #expect(compared > 300)
            }
        }
    }
}

/// The first minute of 2026, since 1970.
private let newYear = 29_453_760

/// What clocks of a zone show over some days of 2026, minute by minute.
private struct WallClock {
    let first: Int
    let last: Int
    private var shown: [Int] = []

    init(_ zone: String, from day: Int, days: Int) {
        first = newYear + day * 24 * 60
        last = first + days * 24 * 60
        let timeZone = TimeZone(identifier: zone)!
        // Asking is slow, and clocks change at full and half hours.
        for half in stride(from: first, through: last, by: 30) {
            let offset = timeZone.secondsFromGMT(for: Date(timeIntervalSince1970: Double(half * 60))) / 60
            shown += (half..<half + 30).prefix { $0 <= last }.map { $0 + offset }
        }
    }

    /// By the definition: for every hour, each minute that clocks show; otherwise each time of day once, when it is first shown or passed.
    func moments(_ cron: RandomCron) -> [Int] {
        var moments: [Int] = []
        var latest = shown[0] - 1
        for (index, wall) in shown.enumerated() {
            let isReached =
                cron.isEveryHour
                ? cron.matches(wall) : wall > latest && (latest + 1...wall).contains { cron.matches($0) }
            if isReached { moments.append(first + index) }
            latest = max(latest, wall)
        }
        return moments
    }
}

/// An expression of a few minutes, one to three hours or all, and days of the month or of the week.
private struct RandomCron {
    private var minutes: [Int]
    private var hours: [Int]?
    private var days: [Int]?
    private var weekdays: [Int]?

    init(using random: inout SplitMix64) {
        func some(_ range: ClosedRange<Int>, _ most: Int) -> [Int] {
            Set((0..<Int.random(in: 1...most, using: &random)).map { _ in Int.random(in: range, using: &random) }).sorted()
        }
        minutes = some(0...59, 3)
        hours = Int.random(in: 0..<4, using: &random) == 0 ? nil : some(0...4, 3)
        days = hours == nil || Bool.random(using: &random) ? some(1...31, 6) : nil
        weekdays = Bool.random(using: &random) ? some(0...6, 3) : nil
    }

    var isEveryHour: Bool { hours == nil }

    var text: String {
        func field(_ values: [Int]?) -> String { values.map { $0.map(String.init).joined(separator: ",") } ?? "*" }
        return "\(field(minutes)) \(field(hours)) \(field(days)) * \(field(weekdays))"
    }

    /// - Parameter wall: minutes since 1970 as clocks show them.
    func matches(_ wall: Int) -> Bool {
        guard minutes.contains(wall % 60), hours?.contains(wall / 60 % 24) ?? true else { return false }
        let weekday = (wall / (24 * 60) + 4) % 7
        var day = (wall - newYear) / (24 * 60) + 1
        for length in [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if day <= length { break }
            day -= length
        }
        switch (days, weekdays) {
        case (nil, nil): return true
        case (let days?, nil): return days.contains(day)
        case (nil, let weekdays?): return weekdays.contains(weekday)
        case (let days?, let weekdays?): return days.contains(day) || weekdays.contains(weekday)
        }
    }
}
