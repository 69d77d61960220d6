import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    /// What operators do leaves a trace that nobody can wipe.
    @Suite(.serialized) struct Auditing {
        @Test func everyActionOfAnOperatorIsWrittenDownWithWhoAndWhat() async throws {
            try await withQueue { queue, database in
                let before = try await database.client.integer("select count(*) from queue.audit")
                let id = try await queue.enqueue(kind: "quick")
                try await queue.cancel(id, reason: "a wrong one")
                try await queue.retry(id)
                _ = try await queue.redrive(kind: "quick")
                try await queue.pause("quick")
                try await queue.resume("quick")
                try await database.client.withConnection { connection in
                    try await connection.query("select set_config('foretaste.actor', 'ada', false)")
                    try await connection.query("select queue.set_retention('metric', '30 days')")
                    try await connection.query("reset foretaste.actor")
                }
                try await database.client.query("select queue.define('new', 'long', max_attempts => 3)")
                for call in [
                    "schedule_add('s', 'quick', cron => '0 3 * * *')", "schedule_pause('s')", "schedule_resume('s')",
                    "schedule_remove('s')",
                    "schedule_remove('s')", "slots_define('gpu:here', 2)",
                ] {
                    try await database.client.query("select queue.\(call)")
                }
                let rows = try await database.client.query(
                    "select actor, on_behalf_of, application, action, target, args::text as args from ops.audit order by at offset $1",
                    [.int(before)])
                let actions = try rows.map { try $0["action"].string }
                let schedules = ["schedule_add", "schedule_pause", "schedule_resume", "schedule_remove", "slots_define"]
                #expect(actions == ["cancel", "retry", "redrive", "pause", "resume", "set_retention", "define"] + schedules)
                #expect(try rows.map { try $0["target"].string }.prefix(2) == ["job \(id)", "job \(id)"])
                #expect(
                    try rows.allSatisfy { try $0["actor"].string == EmbeddedPostgres.databaseName && $0["application"].string == "test" })
                #expect(try rows[0]["args"].string.contains("a wrong one"))
                #expect(try rows.map { try $0["on_behalf_of"].optionalString }.filter { $0 != nil } == ["ada"])
            }
        }

        @Test func anActionThatIsRolledBackOrRefusedLeavesNoTrace() async throws {
            try await withQueue { queue, database in
                let before = try await database.client.integer("select count(*) from queue.audit")
                await #expect(throws: PostgresError.self) { try await queue.retry(4711) }
                await #expect(throws: PostgresError.self) { try await queue.pause("no such queue") }
                #expect(try await database.client.integer("select count(*) from queue.audit") == before)
            }
        }

        @Test func thePastCannotBeChanged() async throws {
            try await withQueue { queue, database in
                try await queue.pause("quick")
                for statement in [
                    "update queue.audit set actor = 'nobody'", "delete from queue.audit", "truncate queue.audit",
                    "update queue.audit set at = at - interval '3 years'",
                ] {
                    let error = await failure { try await database.client.query(statement) }
                    #expect((error as? PostgresError)?.sqlState == "42501", "\(statement): \(error)")
                }
                await #expect(throws: PostgresError.self) {
                    try await database.client.query("select queue.set_retention('audit', '1 day')")
                }
                // Only what is past its retention goes.
                try await database.client.query(
                    """
                    insert into queue.audit (at, action, target, args)
                    values (now() - interval '3 years', 'pause', 'old', '{}'), (now() - interval '1 year', 'pause', 'younger', '{}')
                    """)
                try await database.client.query("select queue.prune()")
                #expect(try await database.client.query("select 1 from queue.audit where target = 'old'").isEmpty)
                #expect(try await database.client.query("select 1 from queue.audit where target = 'younger'").count == 1)
            }
        }
    }

    /// History goes by whole days where it can, in bounded batches where it cannot.
    @Suite(.serialized) struct Retention {
        /// Rows of `quick` (7 days), `brief` (1 day) and `slow` (for ever) on the day so many days ago, in a partition of its own.
        private func day(_ ago: Int, of client: PostgresClient, rows: Int = 3) async throws {
            try await client.execute(
                """
                do $$
                declare
                    day date := (now() at time zone 'UTC')::date - \(ago);
                    name text := 'done_' || to_char(day, 'YYYYMMDD');
                begin
                    execute format('create table queue.%I partition of queue.done for values from (%L) to (%L)', name,
                        day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
                    execute format('alter table queue.%I owner to foretaste_migrator', name);
                    insert into queue.done (id, token, queue_id, kind, attempt, failures, rescues, created_at, finished_at)
                    select nextval('queue.job_id'), 1, q.id, q.name, 1, 0, 0, now(), (day::timestamp at time zone 'UTC') + interval '1 hour'
                    from queue.queue q, generate_series(1, \(rows)) where q.name in ('quick', 'brief', 'slow');
                end $$
                """)
        }

        private func days(_ client: PostgresClient) async throws -> Int {
            try await client.integer("select count(*) from ops.partitions where \"to\" < now() - interval '12 hours'")
        }

        /// How many rows there are of `quick`, `brief` and `slow`.
        private func rows(_ client: PostgresClient) async throws -> [Int] {
            var counts: [Int] = []
            for kind in ["quick", "brief", "slow"] {
                counts.append(try await client.integer("select count(*) from queue.done where kind = $1", [.string(kind)]))
            }
            return counts
        }

        @Test func wholeDaysAreDroppedAndWhatIsKeptForEverMoves() async throws {
            try await withQueue { _, database in
                let client = database.client
                try await client.query("select queue.define('brief', 'short', retention => '1 day')")
                for ago in [20, 9, 3] { try await day(ago, of: client) }
                #expect(try await days(client) == 3)
                let gone = try await client.integer("select queue.prune()")
                // Two days of `quick` and `brief`, and the third's `brief`.
                #expect(gone == 15)
                #expect(try await days(client) == 1)
                #expect(try await rows(client) == [3, 0, 9])
                #expect(try await client.integer("select count(*) from queue.done_default where kind = 'slow'") == 6)
                #expect(try await client.integer("select queue.prune()") == 0)
                // A week later the third day goes too; the days ahead are made.
                #expect(try await client.integer("select count(*) from ops.partitions where \"from\" > now()") == 7)
            }
        }

        @Test func rowsGoInBoundedBatches() async throws {
            try await withQueue { _, database in
                let client = database.client
                try await client.query("select queue.define('brief', 'short', retention => '1 day')")
                try await day(3, of: client, rows: 50)
                #expect(try await client.integer("select queue.prune(up_to => 20)") == 20)
                #expect(try await client.integer("select queue.prune(up_to => 20)") == 20)
                #expect(try await client.integer("select queue.prune(up_to => 20)") == 10)
                #expect(try await rows(client) == [50, 0, 50])
                #expect(try await client.integer("select count(*) from queue.pruned") >= 1)
            }
        }

        @Test func aReaderOfHistoryIsNotWaitedForAndNobodyWaitsBehindThePruner() async throws {
            try await withQueue { queue, database in
                let client = database.client
                try await day(20, of: client)
                let id = try await queue.enqueue(kind: "quick")
                let worker = try await client.integer("select queue.register_worker('hand', 'here', 1, '1 hour')")
                let token = try await client.integer("select token from queue.claim($1, 'quick', 'quick', 1)", [.int(worker)])
                try await client.withConnection { reader in
                    try await reader.query("begin")
                    try await reader.query("select count(*) from queue.done")
                    let started = ContinuousClock.now
                    // The rows go; the day itself cannot yet.
                    #expect(try await client.integer("select queue.prune()") == 3)
                    // The job's end comes through while the pruner tries again and again.
                    async let pruned = client.query("select queue.prune() from generate_series(1, 3)")
                    let done = try await client.query(
                        "select queue.complete($1, $2, array[null]::jsonb[])", [.array([Int64(id)]), .array([Int64(token)])])
                    #expect(done.count == 1)
                    _ = try await pruned
                    #expect(ContinuousClock.now - started < .seconds(10))
                    try await reader.query("rollback")
                }
                #expect(try await days(client) == 1)
                #expect(try await client.integer("select queue.prune()") == 0)
                #expect(try await days(client) == 0)
            }
        }
    }
}
