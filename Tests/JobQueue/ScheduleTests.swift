import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
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
