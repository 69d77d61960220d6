import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import SeededRandom
import Synchronization
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Schedules {
        @Test func exactlyOneFiresHoweverManyCountAtOnce() async throws {
            try await withQueue { queue, database in
                try await queue.addSchedule(key: "retrain", kind: "slow", json: #"{"name":"r"}"#, everyNewPairs: 100)
                let fired = try await withThrowingTaskGroup(of: Int.self) { group in
                    for _ in 0..<8 {
                        group.addTask {
                            let client = PostgresClient(configuration: PostgresConfiguration(url: database.url), maximumConnections: 1)
                            var fired = 0
                            for _ in 0..<25 { fired += try await client.transaction { try await JobQueue.countEvent(on: $0) } }
                            await client.close()
                            return fired
                        }
                    }
                    return try await group.reduce(0, +)
                }
                #expect(fired == 1)
                #expect(try await queue.list().count == 1)
                var schedule = try #require(try await queue.schedules().first)
                #expect(schedule.counter == 100, "what came while the job lives is remembered")
                let handler = JobHandler(kind: "slow") { insertEffect($0) }
                try await withWorkers(3, database, [handler]) {
                    try await eventually("the surplus has fired once") { try await queue.list(state: .succeeded).count == 2 }
                    try await Task.sleep(for: .seconds(1.5))
                }
                schedule = try #require(try await queue.schedules().first)
                #expect(schedule.counter == 0 && schedule.fired == 2)
                #expect(try await database.client.integer("select count(*) from public.effect") == 2)
                #expect(try await queue.list().allSatisfy { $0.arguments == #"{"name": "r"}"# })
            }
        }

        @Test func aCountThatIsRolledBackIsNone() async throws {
            try await withQueue { queue, database in
                struct Rollback: Error {}
                try await queue.addSchedule(key: "s", kind: "slow", everyNewPairs: 2)
                await #expect(throws: Rollback.self) {
                    try await database.client.transaction {
                        #expect(try await JobQueue.countEvent(count: 5, on: $0) == 1)
                        throw Rollback()
                    }
                }
                #expect(try await queue.schedules().first?.counter == 0)
                #expect(try await queue.list().count == 0)
            }
        }

        @Test func oneJobSeesWhatCameTogetherAndTheRestStays() async throws {
            try await withQueue { queue, database in
                try await queue.addSchedule(key: "s", kind: "slow", everyNewPairs: 100)
                try await queue.addSchedule(key: "other", kind: "slow", everyNewPairs: 1, topic: "other")
                #expect(try await database.client.withConnection { try await JobQueue.countEvent(count: 250, on: $0) } == 1)
                #expect(try await queue.list().count == 1)
                try await queue.addSchedule(key: "s", kind: "slow", everyNewPairs: 60)
                let schedule = try await queue.schedules().first { $0.key == "s" }
                #expect(schedule?.counter == 50)
                #expect(try await queue.removeSchedule(key: "s"))
                #expect(try await !queue.removeSchedule(key: "s"))
                await #expect(throws: PostgresError.self) { try await queue.addSchedule(key: "z", kind: "slow", everyNewPairs: 0) }
            }
        }

        /// Five sweepers are asked at once for every tick of five days while their connections are killed under them; the clock that they
        /// are told goes by leaps, ahead and back.
        @Test func everyTickMakesOneJobHoweverManySweepAndDie() async throws {
            try await withQueue { queue, database in
                let client = database.client
                try await client.execute(
                    """
                    select queue.schedule_add('all', 'slow', cron => '*/5 * * * *', time_zone => 'Europe/Berlin', missed => 'all', overlap => 'allow');
                    select queue.schedule_add('hourly', 'quick', cron => '@hourly', missed => 'all', overlap => 'allow', jitter => '1 minute');
                    update queue.schedule set next_at = '2026-10-20T00:00Z';
                    """)
                let sweepers = (0..<5).map { _ in
                    PostgresClient(
                        configuration: PostgresConfiguration(url: database.url), maximumConnections: 1, applicationName: "sweeper",
                        logger: quiet)
                }
                // Who fires is active the longest, and so it is killed: on a slow machine at every attempt, if every other one were not spared.
                let allowed = Mutex(0)
                var attempt = 0
                let killer = Task {
                    var kills = 0
                    while !Task.isCancelled {
                        if allowed.withLock({ $0 }) <= 0 {
                            try? await Task.sleep(for: .milliseconds(5))
                            continue
                        }
                        let killed = try await client.query(
                            """
                            select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'sweeper%'
                            and datname = current_database() and state = 'active' order by random() limit 1
                            """
                        ).count
                        kills += killed
                        allowed.withLock { $0 -= killed }
                        try? await Task.sleep(for: .milliseconds(Int.random(in: 5...40)))
                    }
                    return kills
                }
                var random = SplitMix64(seed: 3)
                let start = try #require(ISO8601DateFormatter().date(from: "2026-10-20T00:00:00Z"))
                let end = start + 5 * 86400
                var now = start
                var latest = start
                while latest < end {
                    now = min(max(now + Double.random(in: -7200...14400, using: &random), start), end)
                    latest = max(latest, now)
                    repeat {
                        attempt += 1
                        allowed.withLock { $0 = attempt % 2 * 3 }
                        await withTaskGroup { [now] group in
                            for sweeper in sweepers {
                                group.addTask { _ = try? await sweeper.query("select queue.tick($1)", [PostgresValue(now)]) }
                            }
                        }
                        // All of them may have been killed.
                    } while try await client.integer("select count(*) from queue.schedule where next_at <= $1", [PostgresValue(now)]) > 0
                }
                killer.cancel()
                let kills = try await killer.value
                for sweeper in sweepers { await sweeper.close() }
                print("ticks: \(kills) sweepers were killed")
                #expect(kills > 10)
                for (key, step) in [("all", 300), ("hourly", 3600)] {
                    let row = try #require(
                        try await client.query(
                            """
                            select count(*) as jobs, count(distinct headers ->> 'tick') as ticks,
                                count(*) filter (where extract(epoch from (headers ->> 'tick')::timestamptz)::bigint % $2 = 0) as right,
                                min((headers ->> 'tick')::timestamptz) as first, max((headers ->> 'tick')::timestamptz) as last
                            from queue.job join queue.body using (id) where headers ->> 'schedule' = $1
                            """, [.string(key), .int(step)]
                        ).first)
                    let expected = 5 * 86400 / step + 1
                    #expect(try row["jobs"].int == expected && row["ticks"].int == expected && row["right"].int == expected, "\(key)")
                    #expect(try row["first"].date == start && row["last"].date == end)
                }
                #expect(
                    try await client.integer("select count(*) from queue.job where state = 2 and run_at > created_at + interval '1 minute'")
                        == 0)
            }
        }

        @Test func missedTimesAreMadeUpForAsTheScheduleSays() async throws {
            try await withQueue { queue, database in
                let client = database.client
                for missed in JobSchedule.Missed.allCases {
                    try await queue.addSchedule(key: missed.rawValue, kind: "slow", cron: "*/10 * * * *", missed: missed, overlap: .allow)
                }
                // Nobody was there for a day and three minutes; then for half a minute.
                for (at, fired) in [("2026-03-02T00:03Z", [100, 1, 0]), ("2026-03-02T00:10:30Z", [101, 2, 1])] {
                    if fired[2] == 0 { try await client.query("update queue.schedule set next_at = '2026-03-01T00:00Z'") }
                    try await client.query("select queue.tick($1::timestamptz)", [.string(at)])
                    #expect(try await queue.schedules().map(\.fired) == fired, "all, one, skip at \(at)")
                }
                let skipping = try #require(try await queue.schedules().last)
                #expect(skipping.skipped == 1 && skipping.lastOutcome?.hasPrefix("enqueued job") == true)
                #expect(skipping.nextAt == ISO8601DateFormatter().date(from: "2026-03-02T00:20:00Z"))
                #expect(
                    try await client.integer(
                        "select count(*) from queue.job join queue.body using (id) where (headers ->> 'tick')::timestamptz = '2026-03-02T00:00Z'"
                    ) == 2,
                    "of those that were missed, the last one runs")
            }
        }

        @Test func aScheduleWhoseJobLivesPassesItsTimeOver() async throws {
            try await withQueue { queue, database in
                let client = database.client
                try await queue.addSchedule(key: "s", kind: "slow", cron: "* * * * *")
                func tick() async throws -> JobSchedule {
                    try await client.query("select queue.tick((select next_at from queue.schedule))")
                    return try #require(try await queue.schedules().first)
                }
                var schedule = try await tick()
                #expect(schedule.fired == 1 && schedule.lastJobState == .ready)
                schedule = try await tick()
                #expect(schedule.fired == 1 && schedule.skipped == 1 && schedule.lastOutcome?.contains("still lives") == true)
                try await queue.cancel(try #require(schedule.lastJobID))
                schedule = try await tick()
                #expect(schedule.fired == 2)
                #expect(try await queue.pauseSchedule(key: "s"))
                try await client.query("update queue.schedule set next_at = next_at - interval '1 day'")
                #expect(try await client.integer("select queue.tick()") == 0)
                #expect(try await queue.resumeSchedule(key: "s"))
                #expect(try await client.integer("select queue.tick()") == 0, "the times of the pause were not missed")
                #expect(try await !queue.resumeSchedule(key: "no such schedule"))
                await #expect(throws: PostgresError.self) {
                    try await queue.addSchedule(key: "s", kind: "slow", cron: "* * * * *", missed: .all, overlap: .skip)
                }
            }
        }

        @Test func jobsOfAScheduleStandInLineOrReplaceEachOther() async throws {
            try await withQueue { queue, database in
                let client = database.client
                for overlap in [JobSchedule.Overlap.queue, .cancel, .allow] {
                    try await queue.addSchedule(key: overlap.rawValue, kind: "slow", cron: "* * * * *", missed: .one, overlap: overlap)
                }
                for _ in 1...3 { try await client.query("select queue.tick((select max(next_at) from queue.schedule))") }
                func states(_ overlap: JobSchedule.Overlap) async throws -> [String] {
                    try await client.query(
                        "select j.state from ops.jobs j join queue.body b using (id) where b.headers ->> 'schedule' = $1 order by j.id",
                        [.string(overlap.rawValue)]
                    ).map { try $0[0].string }
                }
                #expect(try await states(.queue) == ["ready", "waiting", "waiting"])
                #expect(try await states(.cancel) == ["cancelled", "cancelled", "ready"])
                #expect(try await states(.allow) == ["ready", "ready", "ready"])
                // However the first one ends, the next one starts.
                let first = try #require(
                    try await client.query("select min(id) from queue.body where headers ->> 'schedule' = 'queue'").first)[0].int64
                try await queue.cancel(first)
                #expect(try await states(.queue) == ["cancelled", "ready", "waiting"])
                // A hundred in line are enough.
                for _ in 1...110 { try await client.query("select queue.tick((select next_at from queue.schedule where key = 'queue'))") }
                let schedule = try #require(try await queue.schedules().first { $0.key == "queue" })
                #expect(try await states(.queue).filter { $0 == "waiting" || $0 == "ready" }.count == 100)
                #expect(schedule.skipped > 0 && schedule.lastOutcome?.contains("hundred") == true)
            }
        }

        @Test func aScheduleThatCannotFireStopsAndSaysWhyWhileTheOthersGoOn() async throws {
            try await withQueue { queue, database in
                try await queue.addSchedule(key: "bad", kind: "slow", cron: "* * * * *")
                try await queue.addSchedule(key: "good", kind: "slow", cron: "* * * * *")
                try await database.client.execute(
                    """
                    update queue.schedule set next_at = now() - interval '1 second';
                    update queue.schedule set time_zone = 'Atlantis/Poseidonis' where key = 'bad'
                    """)
                #expect(try await database.client.query("select fired from queue.sweep()")[0]["fired"].int == 1)
                let schedules = try await queue.schedules()
                #expect(schedules.map(\.fired) == [0, 1])
                #expect(schedules[0].pausedAt != nil && schedules[0].lastOutcome?.contains("Atlantis") == true)
            }
        }

        /// Real processes and a real clock: nobody polls for schedules, the sweep wakes for them.
        @Test func workersFireOnTimeAlthoughOneIsKilled() async throws {
            try await withQueue { queue, database in
                let client = database.client
                var processes: [ChildProcess] = []
                for _ in 0..<3 { processes.append(try await startProcess(database, queue: "quick")) }
                try await eventually("the workers are there") {
                    try await client.integer("select count(*) from queue.worker where ended_at is null") == 3
                }
                var lateness: [Double] = []
                for round in 1...3 {
                    try await queue.addSchedule(
                        key: "s", kind: "quick", json: #"{"steps":0,"pause":0}"#, cron: "* * * * *", overlap: .allow)
                    try await client.query("update queue.schedule set next_at = clock_timestamp() + interval '1.1 seconds'")
                    if round == 2 { processes[0].signal(SIGKILL) }
                    try await eventually("it has fired") { try await queue.schedules().first?.fired == round }
                    lateness.append(try await client.query("select last_lateness_s from ops.schedules")[0][0].double)
                    try await eventually("its job is done") { try await queue.list(state: .succeeded).count == round }
                }
                #expect(try await queue.list().count == 3)
                print("schedules fired \(lateness.map { String(format: "%.2f", $0) }.joined(separator: ", ")) s after their time")
                // Not a promise about a busy machine, but polling every five seconds would be seen.
                #expect(lateness.min()! < 1.2, "\(lateness)")
                for process in processes { process.signal(SIGKILL) }
                for process in processes { _ = await process.exitStatus() }
            }
        }
    }

    @Suite(.serialized) struct Operations {
        @Test func theDashboardRoleReadsOpsAndNothingElse() async throws {
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick")
                let client = database.client
                try await client.withConnection { connection in
                    try await connection.query("set role foretaste_dashboard")
                    for view in ["jobs", "queue_depth", "workers", "schedules", "checkpoints"] {
                        try await connection.query("select * from ops.\(view)")
                    }
                    for statement in [
                        "select * from queue.job", "select queue.enqueue('quick')", "select * from preferences.pair",
                        "delete from ops.jobs", "select * from public.schema_migrations", "create table public.t (x int)",
                        "update ops.schedules set counter = 0",
                    ] {
                        let error = await failure { try await connection.query(statement) }
                        // Not allowed, or not possible for anybody.
                        #expect(["42501", "55000"].contains((error as? PostgresError)?.sqlState), "\(statement): \(error)")
                    }
                    try await connection.query("reset role")
                }
            }
        }

        @Test func queueDepthCountsByStateAndShowsEmptyQueues() async throws {
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick")
                try await queue.enqueue(kind: "quick")
                try await queue.enqueue(kind: "quick", runAt: Date(timeIntervalSinceNow: 60))
                let rows = try await database.client.query("select * from ops.queue_depth")
                let quick = try #require(try rows.first { try $0["queue"].string == "quick" })
                #expect(try quick["ready"].int == 2 && quick["deferred"].int == 1 && quick["leased"].int == 0)
                #expect(try quick["oldest_ready_seconds"].double > 0)
                let empty = try #require(try rows.first { try $0["queue"].string == "train_reward" })
                #expect(try empty["ready"].int == 0)
            }
        }

        @Test func everyFunctionAnOperatorCallsIsDocumented() async throws {
            try await withQueue { _, database in
                let rows = try await database.client.query(
                    """
                    select p.proname from pg_proc p where p.pronamespace = 'queue'::regnamespace
                    and coalesce(obj_description(p.oid, 'pg_proc'), '') = ''
                    """)
                #expect(try rows.map { try $0["proname"].string } == [])
            }
        }

        @Test func oldResultsArePrunedByTheirQueuesRetention() async throws {
            try await withQueue { queue, database in
                try await withWorkers(
                    1, database, [JobHandler(kind: "quick") { _ in JobResult() }, JobHandler(kind: "slow") { _ in JobResult() }]
                ) {
                    _ = try await queue.finished(try await queue.enqueue(kind: "quick"))
                    _ = try await queue.finished(try await queue.enqueue(kind: "slow"))
                }
                try await database.client.query("update queue.done set finished_at = finished_at - interval '30 days'")
                #expect(try await database.client.integer("select queue.prune()") == 1)
                #expect(try await queue.list().map(\.kind) == ["slow"])
            }
        }

        @Test func theMigrationsGoDownAndUpAgain() async throws {
            try await withQueue { queue, database in
                let migrator = try Migrator(BundledMigrations.all())
                while try await migrator.rollBack(database.client) != nil {}
                #expect(try await database.client.query("select from pg_namespace where nspname in ('queue', 'ops')").isEmpty)
                try await migrator.migrate(database.client)
                #expect(try await queue.list().count == 0)
            }
        }
    }
}
