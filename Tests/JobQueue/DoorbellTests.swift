import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Synchronization
import Testing

extension JobQueueDatabaseTests {
    /// How a worker learns of work, and what it costs when there is none.
    @Suite(.serialized) struct Doorbell {
        @Test func aBurstRingsSeldomAndAllOfItIsPickedUpSoon() async throws {
            try await withQueue { queue, database in
                let heard = Atomic<Int>(0)
                let listener = Task {
                    for await notification in database.client.listen(["queue_short"]) where notification != .reconnected {
                        heard.add(1, ordering: .relaxed)
                    }
                }
                let waits = Mutex<[Double]>([])
                let handler = JobHandler(kind: "quick", concurrency: 8) { job in
                    struct Arguments: Decodable { let at: Double }
                    let wait = Date().timeIntervalSince1970 - (try job.arguments(as: Arguments.self).at)
                    waits.withLock { $0.append(wait) }
                    return JobResult()
                }
                try await withWorkers(1, database, [handler]) {
                    _ = try await queue.finished(try await queue.enqueue(kind: "quick", arguments: ["at": 0.0]))
                    waits.withLock { $0 = [] }
                    let before = heard.load(ordering: .relaxed)
                    var bursts = 0
                    for _ in 0..<10 {
                        // One session, as a producer has it; ten in a row without a pause, then silence.
                        try await database.client.withConnection { connection in
                            for _ in 0..<10 {
                                try await queue.enqueue(
                                    kind: "quick", arguments: ["at": Date().timeIntervalSince1970], on: connection)
                            }
                        }
                        bursts += 1
                        try await Task.sleep(for: .milliseconds(100))
                    }
                    try await eventually("all are picked up") { waits.withLock { $0.count } == 100 }
                    let rings = heard.load(ordering: .relaxed) - before
                    #expect(rings >= bursts, "the first of a burst rings")
                    print("doorbell: \(rings) rings for 100 enqueues in \(bursts) bursts")
                    // Nobody waited for the sweep, which comes once a second; the bound leaves room for a busy machine.
                    let sorted = waits.withLock { $0.sorted() }
                    #expect(sorted[50] < 0.25, "half of them within \(sorted[50]) s")
                }
                listener.cancel()
            }
        }

        @Test func aSessionThatHasJustRungDoesNotRingAgain() async throws {
            try await withQueue { _, database in
                let rings = Atomic<Int>(0)
                let listener = Task {
                    for await notification in database.client.listen(["queue_short"]) {
                        rings.add(notification == .reconnected ? 100 : 1, ordering: .relaxed)
                    }
                }
                try await eventually("it listens") { rings.load(ordering: .relaxed) >= 100 }
                // The moment of the last ring is set in the same statement, so that it hardly ever takes four milliseconds. One in the
                // future, from before a clock was set back, counts for nothing.
                try await database.client.withConnection { connection in
                    for (age, isSilent) in [(0, true), (4, false), (-60_000, false)] {
                        let before = rings.load(ordering: .relaxed)
                        for _ in 0..<20 {
                            try await connection.query(
                                """
                                select set_config('queue.rung_short', (extract(epoch from clock_timestamp()) * 1000 - $1)::bigint::text, false),
                                    queue.ring('short', sparing => true)
                                """, [.int(age)])
                        }
                        if isSilent {
                            try await Task.sleep(for: .milliseconds(300))
                            #expect(rings.load(ordering: .relaxed) - before < 15)
                        } else {
                            try await eventually("it rings \(age) ms later") { rings.load(ordering: .relaxed) == before + 20 }
                        }
                    }
                }
                listener.cancel()
            }
        }

        @Test func inALongerTransactionEveryEnqueueRings() async throws {
            try await withQueue { queue, database in
                let rings = Atomic<Int>(0)
                let listener = Task {
                    for await notification in database.client.listen(["queue_short"]) {
                        rings.add(notification == .reconnected ? 100 : 1, ordering: .relaxed)
                    }
                }
                try await eventually("it listens") { rings.load(ordering: .relaxed) >= 100 }
                try await database.client.withConnection { connection in
                    try await queue.enqueue(kind: "quick", on: connection)
                    try await connection.transaction {
                        try await $0.query("select pg_sleep(0.002)")
                        try await queue.enqueue(kind: "quick", on: $0)
                    }
                }
                try await eventually("both rang") { rings.load(ordering: .relaxed) >= 102 }
                listener.cancel()
            }
        }

        @Test func aJobWhoseRingWasLostIsFoundByTheSweep() async throws {
            try await withQueue { queue, database in
                try await withWorkers(1, database, [JobHandler(kind: "quick") { _ in JobResult() }]) {
                    _ = try await queue.finished(try await queue.enqueue(kind: "quick"))
                    try await Task.sleep(for: .milliseconds(300))
                    let id = try await database.client.query(
                        """
                        with job as (insert into queue.job (queue_id, kind) select id, name from queue.queue where name = 'quick' returning id)
                        insert into queue.body (id, args) select id, '{}' from job returning id
                        """)[0]["id"].int64
                    let job = try await queue.finished(id)
                    #expect(try #require(job.startedAt).timeIntervalSince(job.createdAt) < 4)
                }
            }
        }

        @Test func anIdleProcessAsksLittleAndBurnsLess() async throws {
            try await withQueue { _, database in
                let worker = try await startProcess(database, queue: "quick")
                // Another database counts, and this one's other sessions hand in their statistics and go.
                let observer = PostgresClient(
                    configuration: PostgresConfiguration(url: database.url.replacing("/\(database.name)?", with: "/postgres?")),
                    maximumConnections: 1)
                try await eventually("it listens") {
                    try await observer.integer(
                        "select count(*) from pg_stat_activity where datname = $1 and application_name like '% listen'",
                        [.string(database.name)]) == 1
                }
                try await observer.query(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and application_name = 'test'",
                    [.string(database.name)])
                func statements() async throws -> Int {
                    try await observer.integer(
                        "select xact_commit + xact_rollback from pg_stat_database where datname = $1", [.string(database.name)])
                }
                try await Task.sleep(for: .seconds(3))
                let before = (try await statements(), try cpu(worker.identifier), ContinuousClock.now)
                try await Task.sleep(for: .seconds(8))
                let after = (try await statements(), try cpu(worker.identifier), ContinuousClock.now)
                let seconds = (after.2 - before.2) / .seconds(1)
                let rate = Double(after.0 - before.0) / seconds
                let share = (after.1 - before.1) / seconds
                print("idle: \(rate) statements a second, \(share * 100) % of a core")
                // The edges of the eight seconds may fall so that one more is counted.
                #expect(rate <= 2 + 1 / seconds)
                #expect(share <= 0.002)
                #expect(rate > 0.5, "it does sweep and beat")
                worker.signal(SIGKILL)
                await observer.close()
            }
        }

        /// Seconds of CPU of a process, to the nanosecond, thread by thread.
        private func cpu(_ process: Int32) throws -> Double {
            let tasks = "/proc/\(process)/task"
            return try FileManager.default.contentsOfDirectory(atPath: tasks).reduce(0) { sum, thread in
                let text = try String(contentsOfFile: "\(tasks)/\(thread)/schedstat", encoding: .utf8)
                return sum + (Double(text.split(separator: " ").first ?? "0") ?? 0) / 1e9
            }
        }
    }
}
