import Foundation
import JobQueue
import Migrations
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Slots {
        /// At every commit that changes a lease, one at a time, what is held is counted and written down when it is too much. What is held
        /// since before the total was lowered, the surplus, may go on.
        private static let watch = """
            create table public.breach (what text);
            create function public.look() returns trigger language plpgsql as $$
            begin
                perform pg_advisory_xact_lock(42);
                insert into public.breach
                select format('%s run under %s', count(*), l.key) from queue.slot_limit l join queue.job j on j.slot = l.key and j.state = 1
                group by l.key, l.total, l.surplus having count(*) > l.total + l.surplus;
                insert into public.breach
                select format('permit %s %s is held by job %s, which has no such lease', s.key, s.n, s.job_id) from queue.slot s
                where s.job_id is not null and not exists (
                    select from queue.job j where j.id = s.job_id and j.token = s.token and j.state = 1);
                insert into public.breach
                select format('job %s runs under %s permits', j.id, count(s.job_id)) from queue.job j
                left join queue.slot s on s.job_id = j.id and s.key = j.slot and s.token = j.token
                where j.state = 1 and j.slot is not null group by j.id having count(s.job_id) <> 1;
                return null;
            end
            $$;
            create constraint trigger look after insert or update or delete on queue.job deferrable initially deferred
                for each row execute function public.look();
            """

        @Test func neverMoreRunThanThereArePermitsHoweverManyClaimAndDie() async throws {
            try await withQueue { queue, database in
                let client = database.client
                try await client.execute(Self.watch)
                try await queue.defineSlot("pair", total: 2)
                for n in 0..<600 {
                    try await queue.enqueue(kind: n % 2 == 0 ? "quick" : "slow", slot: n % 3 == 0 ? "one" : n % 3 == 1 ? "pair" : nil)
                }
                let counts = Counts()
                let claimers = Task {
                    await withTaskGroup { group in
                        for n in 0..<32 { group.addTask { await claim(database, n, counts) } }
                    }
                }
                let killer = Task {
                    while !Task.isCancelled {
                        try? await Task.sleep(for: .milliseconds(Int.random(in: 20...150)))
                        let killed = try await client.query(
                            """
                            select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'claimer'
                            and datname = current_database() order by random() limit 1
                            """)
                        await counts.add("killed", killed.count)
                        try await client.query("select queue.rescue('1 millisecond')")
                        // Lowered and raised while they run.
                        try await queue.defineSlot("pair", total: Int.random(in: 1...4))
                    }
                }
                try await Task.sleep(for: .seconds(6))
                claimers.cancel()
                killer.cancel()
                await claimers.value
                _ = await killer.result
                let breaches = try await client.query("select what, count(*) from public.breach group by what limit 5")
                #expect(try breaches.map { try $0[0].string } == [])
                let seen = await counts.seen
                print("slots: \(seen.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", "))")
                for what in ["claimed with a permit", "completed", "failed", "released", "killed"] {
                    #expect(seen[what, default: 0] > 2, "hardly anything was \(what): \(seen)")
                }
                // Whatever they left behind is given back by the rescue.
                try await client.execute("update queue.worker set expires_at = now() where ended_at is null; select queue.rescue()")
                #expect(try await client.integer("select count(*) from queue.slot where job_id is not null") == 0)
                #expect(
                    try await client.integer("select count(*) from queue.slot s join queue.slot_limit l using (key) where l.surplus > 0")
                        == 0)
                let off = "select count(*) from queue.slot_limit l where l.total <> (select count(*) from queue.slot s where s.key = l.key)"
                #expect(try await client.integer(off) == 0)
            }
        }

        private actor Counts {
            var seen: [String: Int] = [:]
            func add(_ what: String, _ n: Int = 1) { seen[what, default: 0] += n }
        }

        /// Claims, and ends what it has claimed in one way or another, until it is told to stop; whoever kills its connection ends a worker.
        private func claim(_ database: TestDatabase, _ n: Int, _ counts: Counts) async {
            let client = PostgresClient(
                configuration: PostgresConfiguration(url: database.url), maximumConnections: 1, applicationName: "claimer", logger: quiet)
            let name = n % 2 == 0 ? "quick" : "slow"
            while !Task.isCancelled {
                do {
                    try await client.withConnection { connection in
                        let worker = try await connection.query("select queue.register_worker('test', 'h', 1, '1 minute')")[0][0].int64
                        while !Task.isCancelled {
                            let rows = try await connection.query(
                                "select c.id, c.token, j.slot is not null as slot from queue.claim($1, $2, $2, 2) c join queue.job j on j.id = c.id",
                                [.int(worker), .string(name)])
                            for row in rows {
                                let lease: [PostgresValue] = [.int(try row["id"].int64), .int(try row["token"].int64)]
                                if try row["slot"].bool { await counts.add("claimed with a permit") }
                                switch Int.random(in: 0..<8) {
                                case 0...2:
                                    try await connection.query(
                                        "select queue.complete(array[$1::bigint], array[$2::bigint], array[null::jsonb])", lease)
                                    await counts.add("completed")
                                case 3:
                                    try await connection.query("select queue.fail($1, $2, '{}', retry_after => '1 millisecond')", lease)
                                    await counts.add("failed")
                                case 4:
                                    try await connection.query("select queue.fail($1, $2, '{}', permanent => true)", lease)
                                    await counts.add("given up")
                                case 5, 6:
                                    try await connection.query("select queue.release($1, $2)", lease)
                                    await counts.add("released")
                                default:
                                    try await connection.query("select queue.cancel($1)", [lease[0]])
                                    try await connection.query("select queue.acknowledge_cancel($1, $2)", lease)
                                    await counts.add("cancelled")
                                }
                            }
                            if rows.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
                        }
                    }
                } catch { continue }
            }
            await client.close()
        }

        @Test func aJobThatCannotHaveItsPermitKeepsNobodyWaiting() async throws {
            try await withQueue { queue, database in
                let client = database.client
                let worker = try await client.integer("select queue.register_worker('t', 'h', 1, '1 minute')")
                func claim() async throws -> [Int64] {
                    try await client.query("select id from queue.claim($1, 'slow', 'slow', 1) order by id", [.int(worker)]).map {
                        try $0[0].int64
                    }
                }
                let first = try await queue.enqueue(kind: "slow", slot: "gpu")
                let second = try await queue.enqueue(kind: "slow", slot: "gpu")
                let free = try await queue.enqueue(kind: "slow")
                #expect(try await claim() == [first])
                #expect(try await claim() == [free])
                #expect(try await claim() == [])
                #expect(try await client.query("select key, held, free, jobs[1] as job from ops.slots")[0]["job"].int64 == first)
                try await queue.defineSlot("gpu", total: 2)
                #expect(try await claim() == [second])
                // A retry needs its permit again.
                try await queue.defineSlot("gpu", total: 0)
                for id in [first, second] {
                    try await client.query("select queue.fail(id, token, '{}', permanent => true) from queue.job where id = $1", [.int(id)])
                    try await queue.retry(id)
                }
                #expect(try await claim() == [])
                try await queue.defineSlot("gpu", total: 1)
                #expect(try await claim() == [first])
            }
        }

        /// Jobs that are enqueued while a claim is under way: whatever it leases, it must say so, or nobody would do it for a minute.
        @Test func aClaimNamesAllThatItLeasesHoweverMuchIsEnqueuedMeanwhile() async throws {
            try await withQueue { queue, database in
                try await queue.enqueue(kind: "quick", slot: "gpu")
                let worker = try await database.client.integer("select queue.register_worker('hand', 'here', 1, '1 hour')")
                let producers = (0..<2).map { _ in
                    Task {
                        try await database.client.withConnection { connection in
                            while !Task.isCancelled {
                                try await connection.query("select queue.enqueue('quick', '{}') from generate_series(1, 3)")
                            }
                        }
                    }
                }
                defer { for task in producers { task.cancel() } }
                var named = 0
                let end = ContinuousClock.now + .seconds(1.5)
                while ContinuousClock.now < end {
                    named += try await database.client.query(
                        "select id from queue.turn($1, 'quick', 'quick', 50)", [.int(worker)]
                    ).count
                }
                for task in producers { task.cancel() }
                for task in producers { _ = await task.result }
                #expect(named > 100)
                #expect(try await database.client.integer("select count(*) from queue.job where state = 1") == named)
            }
        }

        /// Two processes on one machine with one permit: one trains, the other waits, and takes over within seconds of a kill.
        @Test func twoTrainersOfOneMachineTakeTurns() async throws {
            try await withQueue { queue, database in
                let running = Running()
                let handler = JobHandler(kind: "slow", slot: "trainer:here") { job in
                    await running.begin()
                    try await Task.sleep(for: .milliseconds(100))
                    await running.end()
                    return insertEffect(job)
                }
                for _ in 0..<6 { try await queue.enqueue(kind: "slow") }
                try await withWorkers(3, database, [handler]) {
                    try await eventually("all are done") { try await queue.list(state: .succeeded).count == 6 }
                }
                #expect(await running.most == 1)
                #expect(try await database.client.query("select total, held from ops.slots where key = 'trainer:here'")[0]["held"].int == 0)
            }
        }

        private actor Running {
            private var now = 0
            private(set) var most = 0
            func begin() {
                now += 1
                most = max(most, now)
            }
            func end() { now -= 1 }
        }
    }
}
