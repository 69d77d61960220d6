import Foundation
import Glibc
import Postgres

/// Schedules by the clock under trouble: five processes serve them while they are killed, frozen and disconnected at the moment of firing,
/// others fire beside them, and the clocks of the database and of their hosts leap. Every time of every schedule must make one job.
///
/// The database's clock is one of our own, which ``queue.tick`` is given as its default; its body is the product's. It goes through the days
/// on which Europe's clocks change.
public struct ScheduleTest: Sendable {
    /// What came of it.
    public struct Report: Sendable {
        /// Times that came, and jobs that they made.
        public var ticks = 0
        public var jobs = 0
        /// What happened while a schedule fired, and how often.
        public var strikes: [String: Int] = [:]
        /// How often the database's clock went back, and ahead.
        public var leaps = (back: 0, ahead: 0)
        /// Times without a job, with two, or jobs without their time.
        public var wrong: [String] = []
        /// The invariants afterwards.
        public var checks: [Check] = []
        /// Seconds it took.
        public var seconds = 0.0

        /// What is wrong, one line each.
        public var violations: [String] {
            wrong + checks.filter { $0.violations > 0 }.map { "\($0.name): \($0.violations) of \($0.examined), first: \($0.example)" }
        }
    }

    /// A schedule, and the minutes (since 1970) of a stretch at which it is due, worked out without PostgreSQL.
    private struct Planted {
        var key: String
        var cron: String
        var zone: String
        var minutes: [Int]
    }

    /// A day on which clocks change in Europe, or the hours around that moment.
    private struct Stretch {
        var name: String
        /// In minutes since 1970: 01:00 UTC of the last Sunday of March or October.
        var change: Int
        var half: Int
        var start: Int { change - half }
        var end: Int { change + half }

        func planted() -> [Planted] {
            func schedule(_ key: String, _ cron: String, _ zone: String, _ isDue: (Int) -> Bool) -> Planted {
                Planted(key: "\(name) \(key)", cron: cron, zone: zone, minutes: (start...end).filter(isDue))
            }
            // The night of the change has 02:30 never (it is made up for at 03:00) or twice (the first counts).
            let night = name.hasPrefix("spring") ? change : change - 30
            return ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"].map { zone in
                schedule("minutes in \(zone)", "* * * * *", zone) { _ in true }
            } + [
                schedule("sevenths", "*/7 * * * *", "Europe/Berlin") { $0 % 60 % 7 == 0 },
                schedule("hours", "@hourly", "Europe/Berlin") { $0 % 60 == 0 },
                schedule("half an hour beside", "15 * * * *", "Asia/Kolkata") { $0 % 60 == 45 },
                schedule("nights", "30 2 * * *", "Europe/Berlin") { $0 == night },
            ]
        }
    }

    let server: ChaosServer
    let ticks: Int
    let seed: UInt64
    private static let processes = 5

    /// At least so many times come in all.
    public init(server: ChaosServer, ticks: Int, seed: UInt64) { (self.server, self.ticks, self.seed) = (server, ticks, seed) }

    /// Runs it: a spring and an autumn, and as many more as it takes.
    public func run() async throws -> Report {
        let began = ContinuousClock.now
        // 4 1/6 schedules a minute, and at most a day around each change.
        let pairs = max(1, (ticks + 11_999) / 12_000)
        let half = max(40, (ticks / (pairs * 2) * 6 / 25 + 1) / 2 + 1)
        var report = try await server.withStage(flags: ["concurrency=20"]) { stage in
            try await stage.client.execute(Self.clock)
            // Whoever else fires beside the workers.
            let others = (0..<2).map { _ in
                Task {
                    while !Task.isCancelled {
                        _ = try? await stage.client.query("select queue.tick()")
                        try? await Task.sleep(for: .milliseconds(700))
                    }
                }
            }
            defer { for task in others { task.cancel() } }
            var report = Report()
            var dice = Dice(seed: seed)
            var planted: [Planted] = []
            for pair in 0..<pairs {
                for (name, month) in [("spring", 3), ("autumn", 10)] {
                    let stretch = Stretch(name: "\(name) \(2097 + pair)", change: Self.change(2097 + pair, month), half: half)
                    planted += try await live(through: stretch, stage, &dice, &report)
                }
            }
            for task in others { task.cancel() }
            for task in others { await task.value }
            try await stage.drain(within: 90, workers: Self.processes)
            for schedule in planted { try await compare(schedule, stage, &report) }
            report.checks = try await Invariants.check(stage.client, acknowledged: [])
            return report
        }
        report.seconds = (ContinuousClock.now - began) / .seconds(1)
        return report
    }

    /// 01:00 UTC of a month's last Sunday, in minutes since 1970.
    private static func change(_ year: Int, _ month: Int) -> Int {
        let last = DateComponents(calendar: Calendar(identifier: .gregorian), timeZone: .gmt, year: year, month: month, day: 31)
        guard let last = last.date else { preconditionFailure("there is no 31st of month \(month)") }
        let day = Int(last.timeIntervalSince1970) / 86400
        // The first of January 1970 was a Thursday.
        return (day - (day + 4) % 7) * 1440 + 60
    }

    private static let clock = """
        create table chaos.clock (now timestamptz not null);
        insert into chaos.clock values ('2097-01-01T00:00Z');
        create function chaos.now() returns timestamptz language sql security definer as 'select now from chaos.clock';
        do $$
        begin
            execute replace(pg_get_functiondef('queue.tick(timestamptz)'::regprocedure), 'DEFAULT clock_timestamp()', 'DEFAULT chaos.now()');
            assert pg_get_functiondef('queue.tick(timestamptz)'::regprocedure) like '%DEFAULT chaos.now()%';
        end
        $$
        """

    // MARK: - A stretch of time

    private func live(through stretch: Stretch, _ stage: Stage, _ dice: inout Dice, _ report: inout Report) async throws -> [Planted] {
        let planted = stretch.planted()
        try await setClock(stretch.start - 1, stage)
        for schedule in planted {
            try await stage.client.transaction { connection in
                try await connection.query(
                    """
                    select queue.schedule_add($1, 'chaos_short', '{"p":0}', cron => $2, time_zone => $3, missed => 'all', overlap => 'allow')
                    """, [.string(schedule.key), .string(schedule.cron), .string(schedule.zone)])
                try await connection.query(
                    "update queue.schedule set next_at = queue.cron_next(cron, time_zone, to_timestamp($2::float8 * 60 - 1)) where key = $1",
                    [.string(schedule.key), .int(stretch.start)])
                if schedule.cron == "* * * * *" {
                    try await connection.query(
                        "insert into chaos.planted values ($1, to_timestamp($2::float8 * 60))",
                        [.string(schedule.key), .int(stretch.start)])
                }
            }
        }
        let locker = await server.client(stage.database, connections: 1, name: "harness lock")
        do {
            var (now, latest) = (stretch.start, stretch.start)
            while latest < stretch.end {
                // A schedule makes up for a hundred times at most, so nobody may be more than that behind.
                let behind = try await stage.client.query(
                    "select (extract(epoch from min(next_at)) / 60)::bigint as m from queue.schedule where paused_at is null and cron = '* * * * *'"
                )[0]["m"].int
                let leap = Int.random(in: -60...95, using: &dice)
                now = max(min(now + leap, behind + 95, stretch.end), stretch.start)
                if leap < 0 { report.leaps.back += 1 } else { report.leaps.ahead += 1 }
                latest = max(latest, now)
                try await stage.fleet.ensure(Self.processes)
                try await fire(until: now, stage, locker, &dice, &report)
            }
            await locker.close()
        } catch {
            await locker.close()
            throw error
        }
        for _ in 0..<600 {
            try await stage.fleet.ensure(Self.processes)
            guard try await Self.isDue(stage) else { break }
            try await Task.sleep(for: .milliseconds(50))
        }
        try await stage.client.query("select queue.schedule_pause(s.key) from queue.schedule s")
        return planted
    }

    private static func isDue(_ stage: Stage) async throws -> Bool {
        try await stage.client.query(
            "select exists (select from queue.schedule s where s.next_at <= chaos.now() and s.paused_at is null) as due")[0]["due"].bool
    }

    private func setClock(_ minute: Int, _ stage: Stage) async throws {
        try await stage.client.query("update chaos.clock set now = to_timestamp($1::float8 * 60 + 17)", [.int(minute)])
    }

    /// Sets the clock; whoever fires first is held in the middle of it and struck.
    private func fire(
        until now: Int, _ stage: Stage, _ locker: PostgresClient, _ dice: inout Dice, _ report: inout Report
    ) async throws {
        let (choice, seconds) = (Int.random(in: 0..<6, using: &dice), Double.random(in: 3.2...5, using: &dice))
        let point = Point.scheduleTick
        let victim = try await locker.withConnection { connection in
            try await connection.query("select pg_advisory_lock(\(Instrumentation.lockClass), \(point.rawValue))")
            try await setClock(now, stage)
            var victim: Victim?
            let deadline = ContinuousClock.now + .seconds(6)
            // Those beside the workers are never held, and may have been faster.
            while victim == nil, ContinuousClock.now < deadline, try await Self.isDue(stage) {
                victim = try await stage.waiter(at: point)
                if victim == nil { try await Task.sleep(for: .milliseconds(4)) }
            }
            if let victim { try await strike(victim, choice, seconds, stage) }
            try await connection.query("select pg_advisory_unlock_all()")
            return victim
        }
        guard victim != nil else { return }
        report.strikes[
            ["killed", "frozen past its lease", "backend killed", "backends killed", "host clock", "left alone"][choice], default: 0] += 1
    }

    private func strike(_ victim: Victim, _ choice: Int, _ seconds: Double, _ stage: Stage) async throws {
        switch choice {
        case 0: await stage.fleet.signal(victim.process, SIGKILL)
        case 1: if await stage.fleet.frozenCount < 4 { await stage.fleet.freeze(victim.process, seconds: seconds) }
        case 2: try await stage.client.query("select pg_terminate_backend($1)", [.int(Int(victim.backend ?? 0))])
        case 3:
            try await stage.client.query(
                """
                select pg_terminate_backend(a.pid) from (select pid from pg_stat_activity where datname = current_database()
                    and application_name like 'chaos:%' order by random() limit 6) a
                """)
        case 4: await stage.fleet.signal(victim.process, seconds < 4 ? SIGUSR1 : SIGUSR2)
        default: break
        }
    }

    // MARK: - Afterwards

    private func compare(_ schedule: Planted, _ stage: Stage, _ report: inout Report) async throws {
        let rows = try await stage.client.query(
            """
            select extract(epoch from (t.headers ->> 'tick')::timestamptz)::bigint as tick from chaos.trace t
            where t.what = 'in' and t.headers ->> 'schedule' = $1 order by 1
            """, [.string(schedule.key)])
        let fired = try rows.map { try $0["tick"].int }
        let due = schedule.minutes.map { $0 * 60 }
        report.ticks += due.count
        report.jobs += fired.count
        guard fired != due else { return }
        let (missing, extra) = (Set(due).subtracting(fired), Set(fired).subtracting(due))
        report.wrong.append(
            "\(schedule.key): \(fired.count) jobs for \(due.count) times; missing \(missing.sorted().prefix(3)), not due \(extra.sorted().prefix(3)), "
                + "\(fired.count - Set(fired).count) more than once")
    }
}
