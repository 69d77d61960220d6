import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Synchronization
import Testing

extension JobQueueDatabaseTests {
    /// How a worker learns of work, and what it costs when there is none.
    @Suite(.serialized) struct Doorbell {
        /// Counts what rings for short queues while `body` runs.
        private func countingRings(_ database: TestDatabase, _ body: (_ rings: () -> Int) async throws -> Void) async throws {
            let rings = Mutex(0)
            let listening = Mutex(false)
            let listener = Task {
                for await notification in database.client.listen(["queue_short"]) {
                    if notification == .reconnected { listening.withLock { $0 = true } } else { rings.withLock { $0 += 1 } }
                }
            }
            defer { listener.cancel() }
            try await eventually("it listens") { listening.withLock { $0 } }
            try await body { rings.withLock { $0 } }
        }

        @Test func aBurstRingsSeldomAndAllOfItIsPickedUpSoon() async throws {
            try await withQueue { queue, database in
                let waits = Mutex<[Double]>([])
                let handler = JobHandler(kind: "quick", concurrency: 8) { job in
                    struct Arguments: Decodable { let at: Double }
                    let wait = Date().timeIntervalSince1970 - (try job.arguments(as: Arguments.self).at)
                    waits.withLock { $0.append(wait) }
                    return JobResult()
                }
                try await countingRings(database) { rings in
                    try await withWorkers(1, database, [handler]) {
                        _ = try await queue.finished(try await queue.enqueue(kind: "quick", arguments: ["at": 0.0]))
                        waits.withLock { $0 = [] }
                        let (before, bursts) = (rings(), 10)
                        for _ in 0..<bursts {
                            // One session, as a producer has it; ten in a row without a pause, then silence.
                            try await database.client.withConnection { connection in
                                for _ in 0..<10 {
                                    try await queue.enqueue(
                                        kind: "quick", arguments: ["at": Date().timeIntervalSince1970], on: connection)
                                }
                            }
                            try await Task.sleep(for: .milliseconds(100))
                        }
                        try await eventually("all are picked up") { waits.withLock { $0.count } == 100 }
                        let rung = rings() - before
                        #expect(rung >= bursts, "the first of a burst rings")
                        print("doorbell: \(rung) rings for 100 enqueues in \(bursts) bursts")
                        // Nobody waited for the sweep, which comes once a second; the bound leaves room for a busy machine.
                        let sorted = waits.withLock { $0.sorted() }
                        #expect(sorted[50] < 0.25, "half of them within \(sorted[50]) s")
                    }
                }
            }
        }

        @Test func aSessionThatHasJustRungDoesNotRingAgain() async throws {
            try await withQueue { _, database in
                try await countingRings(database) { rings in
                    // The moment of the last ring is set in the same statement, so that it hardly ever takes four milliseconds. One in
                    // the future, from before a clock was set back, counts for nothing.
                    for (age, isSilent) in [(0, true), (4, false), (-60_000, false)] {
                        let before = rings()
                        try await database.client.withConnection { connection in
                            for _ in 0..<20 {
                                try await connection.query(
                                    """
                                    select set_config('queue.rung_short', (extract(epoch from clock_timestamp()) * 1000 - $1)::bigint::text, false),
                                        queue.ring('short', sparing => true)
                                    """, [.int(age)])
                            }
                        }
                        if isSilent {
                            try await Task.sleep(for: .milliseconds(300))
                            #expect(rings() - before < 15)
                        } else {
                            try await eventually("it rings \(age) ms later") { rings() == before + 20 }
                        }
                    }
                }
            }
        }

        @Test func inALongerTransactionEveryEnqueueRings() async throws {
            try await withQueue { queue, database in
                try await countingRings(database) { rings in
                    try await database.client.withConnection { connection in
                        try await queue.enqueue(kind: "quick", on: connection)
                        try await connection.transaction {
                            try await $0.query("select pg_sleep(0.002)")
                            try await queue.enqueue(kind: "quick", on: $0)
                        }
                    }
                    try await eventually("both rang") { rings() >= 2 }
                }
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
    }
}
