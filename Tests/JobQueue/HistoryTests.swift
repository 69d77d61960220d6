import JobQueue
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    /// Queues whose finished jobs leave nothing behind.
    @Suite(.serialized) struct History {
        @Test func withoutHistoryNothingStaysOfWhatSucceeded() async throws {
            try await withQueue { queue, database in
                try await database.client.query("select queue.define('quick', 'short', history => false)")
                #expect(
                    try await database.client.query("select history from ops.queue_now where queue = 'quick'")[0]["history"].bool == false)
                let handler = JobHandler(kind: "quick", concurrency: 4) { job in
                    if job.arguments.contains("wrong") { throw JobError.permanent("wrong") }
                    return job.arguments.contains("effect") ? insertEffect(job) : JobResult(json: "7")
                }
                var ids = try await queue.enqueueMany(kind: "quick", jobs: (0..<40).map { _ in (json: "{}", dedupeKey: nil) })
                ids.append(try await queue.enqueue(kind: "quick", json: #"{"effect":1}"#))
                let wrong = try await queue.enqueue(kind: "quick", json: #"{"wrong":1}"#)
                let parent = try await queue.enqueue(kind: "quick")
                let child = try await queue.enqueue(kind: "quick", waitsFor: [parent])
                try await withWorkers(1, database, [handler]) {
                    try await eventually("nothing is live any more") {
                        try await database.client.integer("select count(*) from queue.job") == 0
                    }
                }
                #expect(try await database.client.integer("select count(*) from public.effect") == 1)
                // Another job waited for this one, and may have read its result.
                let parentRecord = try await queue.show(parent)
                #expect(parentRecord.result == "7")
                let wrongRecord = try await queue.show(wrong)
                #expect(wrongRecord.state == .dead)
                for id in ids + [child] { await #expect(throws: JobError.unknown(id)) { try await queue.show(id) } }
                #expect(try await database.client.integer("select count(*) from queue.done") == 1)
                #expect(try await database.client.integer("select count(*) from queue.body") == 2)
                // On again, it is as it was.
                try await database.client.query("select queue.define('quick', 'short')")
                let kept = try await queue.enqueue(kind: "quick")
                try await withWorkers(1, database, [handler]) {
                    let record = try await queue.finished(kept)
                    #expect(record.state == .succeeded)
                }
            }
        }
    }
}
