import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Synchronization
import Testing

@testable import JobQueue

/// The arithmetic alone.
@Suite struct WorkerMetricsTests {
    @Test func aHistogramsBucketsGrowByAQuarterOfADoubling() {
        var histogram = TimeHistogram()
        for seconds in [0, 0.00005, 0.0001, 0.000118, 0.0002, -3, 1e12] { histogram.add(seconds) }
        #expect(histogram.counts.count == TimeHistogram.most)
        #expect(histogram.counts[0] == 5 && histogram.counts[4] == 1 && histogram.counts.last == 1)
        #expect(histogram.longest == 1e12)
    }

    @Test func whatDidNotArriveIsCountedAgain() {
        var metrics = WorkerMetrics()
        metrics.began(afterWaiting: 0.01)
        metrics.succeeded(afterRunning: 2)
        metrics.wasFenced()
        var whole = metrics
        whole.ended(afterRunning: 0.5)
        let taken = metrics.take()
        #expect(metrics.isEmpty && !taken.isEmpty)
        metrics.ended(afterRunning: 0.5)
        metrics.putBack(taken)
        #expect(metrics == whole)
        #expect(metrics.succeeded == 1 && metrics.fenced == 1 && metrics.runs.total == 2.5)
    }
}

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Metrics {
        struct Broken: Error, CustomStringConvertible { let description: String }

        @Test func percentilesAreWithinTenPerCentOfTheTruth() async throws {
            try await withQueue { _, database in
                var histogram = TimeHistogram()
                // Log-uniform from a millisecond to a minute.
                let times = (0..<5000).map { 0.001 * pow(60_000, Double($0) / 5000) }
                for time in times { histogram.add(time) }
                for p in [0.01, 0.5, 0.95, 0.99, 1] {
                    let rows = try await database.client.query(
                        "select ops.percentile($1::int[], $2) as value", [.array(histogram.counts.map(Int64.init)), .double(p)])
                    let truth = times[min(Int(p * 5000), 4999)]
                    #expect(abs(try rows[0]["value"].double / truth - 1) < 0.1, "p\(p * 100)")
                }
                #expect(try await database.client.query("select ops.percentile('{}', 0.5) as value")[0]["value"].isNull)
                let merged = try await database.client.query(
                    "select ops.merge(h)::text as sum from (values ('{1,2}'::int[]), ('{}'), ('{0,1,5}'), (null)) v (h)")
                #expect(try merged[0]["sum"].string == "{1,3,5}")
            }
        }

        @Test func enqueuesCountWithTheirTransaction() async throws {
            try await withQueue { queue, database in
                struct Undo: Error {}
                try await queue.enqueue(kind: "quick", dedupeKey: "one")
                try await queue.enqueue(kind: "quick", dedupeKey: "one")
                try await queue.enqueueMany(kind: "slow", jobs: [("{}", nil), ("{}", "a"), ("{}", "a")])
                await #expect(throws: Undo.self) {
                    try await database.client.withConnection { connection in
                        try await connection.transaction { connection in
                            try await queue.enqueue(kind: "quick", on: connection)
                            throw Undo()
                        }
                    }
                }
                try await database.client.query("select queue.fold_tallies()")
                let rows = try await database.client.query(
                    "select kind, sum(enqueued)::int as n from ops.throughput_1m group by 1 order by 1")
                #expect(try rows.map { try [$0["kind"].string: try $0["n"].int] } == [["quick": 1], ["slow": 2]])
                #expect(try await database.client.integer("select count(*) from queue.tally") == 0)
            }
        }

        /// Every kind of end once, and what the views say meanwhile and afterwards.
        @Test func aSmallLifeOfJobsShowsInEveryView() async throws {
            try await withQueue { queue, database in
                let client = database.client
                try await client.query(
                    "select queue.define('quick', 'short', max_attempts => 3, backoff_base => '0.1 s', backoff_cap => '0.1 s')")
                let gate = Mutex(false)
                let quick = JobHandler(kind: "quick", concurrency: 4) { job in
                    if job.arguments.contains("twice"), job.attempt < 3 { throw Broken(description: "frame \(job.attempt * 17) is torn") }
                    if job.arguments.contains("never") { throw JobError.permanent("no such model") }
                    if job.arguments.contains("stolen") {
                        // Somebody else has ended it meanwhile: what this run comes to is refused.
                        try await client.query("delete from queue.job where id = $1", [.int(job.id)])
                    }
                    try await Task.sleep(for: .milliseconds(20))
                    return JobResult()
                }
                let slow = JobHandler(kind: "slow") { job in
                    job.progress(0.25, "a quarter")
                    try await job.checkpoint(step: 7, state: ["n": 7])
                    while !gate.withLock({ $0 }) {
                        try job.checkCancellation()
                        try await Task.sleep(for: .milliseconds(10))
                    }
                    return JobResult()
                }
                // Taken by a worker that dies.
                let lost = try await queue.enqueue(kind: "quick")
                let hand = try await client.integer("select queue.register_worker('hand', 'here', 1, '1 hour')")
                try await client.query("select * from queue.claim($1, 'quick', 'quick', 1)", [.int(hand)])
                try await client.query("select queue.stop_worker($1)", [.int(hand)])
                try await withWorkers(1, database, [quick, slow]) {
                    let ids = try await queue.enqueueMany(kind: "quick", jobs: (0..<20).map { _ in ("{}", nil) })
                    let twice = try await queue.enqueue(kind: "quick", json: #"{"twice":1}"#)
                    let never = try await queue.enqueue(kind: "quick", json: #"{"never":1}"#)
                    let later = try await queue.enqueue(kind: "quick", runAt: Date(timeIntervalSinceNow: 3600))
                    #expect(try await queue.cancel(later) == .cancelled)
                    try await queue.enqueue(kind: "quick", json: #"{"stolen":1}"#)
                    let long = try await queue.enqueue(kind: "slow")
                    for id in ids + [twice, lost] { #expect(try await queue.finished(id).state == .succeeded) }
                    #expect(try await queue.finished(never).state == .dead)
                    try await eventually("the long job has a checkpoint") {
                        try await client.integer(
                            "select count(*) from ops.running where job_id = $1 and progress = 0.25 and checkpoint_step = 7", [.int(long)])
                            == 1
                    }
                    let running = try #require(try await client.query("select * from ops.running where job_id = $1", [.int(long)]).first)
                    #expect(try running["message"].string == "a quarter" && running["queue"].string == "slow")
                    #expect(try running["lease_left_s"].double > 0 && running["elapsed_s"].double >= 0 && !running["cancel_requested"].bool)
                    try await eventually("the worker has said what it can do") {
                        try await client.integer("select capacity from ops.queue_now where queue = 'quick'") == 4
                    }
                    let now = try #require(try await queue.queues().first { $0.name == "slow" })
                    #expect(now.leased == 1 && now.capacity == 1 && now.ready == 0)
                    let worker = try #require(try await queue.workers().first)
                    #expect(worker.service == "test" && worker.capacity == 5 && worker.inFlight >= 1 && (worker.residentMegabytes ?? 0) > 1)
                    #expect(try await client.query("select 1 from ops.workers where backend_alive").count == 1)
                    #expect(
                        try await client.query("select 1 from ops.checkpoints where job_id = $1 and kind = 'slow' and n = 7", [.int(long)])
                            .count == 1)
                    gate.withLock { $0 = true }
                    #expect(try await queue.finished(long).state == .succeeded)
                }
                try await client.query("select queue.fold_tallies()")
                try await expectCounts(client)
                try await expectTimesAndFailures(client)
            }
        }

        private func expectCounts(_ client: PostgresClient) async throws {
            let rows = try await client.query(
                """
                select kind, sum(enqueued)::int as enqueued, sum(succeeded)::int as succeeded, sum(retried)::int as retried,
                    sum(failed)::int as failed, sum(cancelled)::int as cancelled, sum(rescued)::int as rescued, sum(fenced)::int as fenced
                from ops.throughput_1m group by kind order by kind
                """)
            func counts(_ row: PostgresRow) throws -> [Int] {
                try ["enqueued", "succeeded", "retried", "failed", "cancelled", "rescued", "fenced"].map { try row[$0].int }
            }
            #expect(try rows.map { try $0["kind"].string } == ["quick", "slow"])
            #expect(try counts(rows[0]) == [25, 22, 2, 1, 1, 1, 1])
            #expect(try counts(rows[1]) == [1, 1, 0, 0, 0, 0, 0])
        }

        private func expectTimesAndFailures(_ client: PostgresClient) async throws {
            let latency = try await client.query("select * from ops.latency_1m where kind = 'quick' order by minute")
            #expect(!latency.isEmpty)
            for row in latency where try !row["run_p50"].isNull {
                let runs = try ["run_p50", "run_p95", "run_p99"].map { try row[$0].double }
                #expect(runs == runs.sorted() && runs[0] > 0)
                #expect(try runs[2] <= row["run_max"].double * 1.2)
            }
            // Twenty-two ran for 20 ms and more each.
            #expect(try latency.map { try $0["run_total"].double }.reduce(0, +) >= 0.44)
            let taken = try await client.integer(
                "select coalesce(sum(n), 0) from ops.latency_1m, unnest(wait_histogram) n where kind = 'quick'")
            #expect(taken >= 23)
            let failures = try await client.query("select * from ops.failures order by kind, count desc")
            #expect(try failures.map { try $0["count"].int } == [2, 1])
            #expect(try failures[0]["message"].string.hasPrefix("frame ") && failures[1]["message"].string == "no such model")
            #expect(try failures[0]["count_1h"].int == 2)
            let dead = try await client.query("select reason, error from ops.dead_letters order by reason")
            #expect(try dead.map { try $0["reason"].string } == ["cancelled", "permanent"])
            #expect(try await client.integer("select dead from ops.queue_now where queue = 'quick'") == 1)
            #expect(try await client.integer("select count(*) from ops.workers where ended_why = 'stopped'") == 2)
        }

        @Test func theDatabasesHealthIsSampledAndKnown() async throws {
            try await withQueue { _, database in
                let client = database.client
                try await client.withConnection { reader in
                    try await reader.query("begin isolation level repeatable read")
                    try await reader.query("select 1 from queue.job")
                    try await eventually("an old snapshot shows") {
                        let row = try #require(try await client.query("select * from ops.health").first)
                        return try row["xmin_age_s"].double > 0.5 && row["idle_in_tx"].int >= 1
                    }
                    try await reader.query("rollback")
                }
                try await eventually("a sample is taken") {
                    try await client.query("select queue.keep_metrics()")
                    return try await client.integer("select count(*) from ops.health_15s where connections > 0") == 1
                }
                #expect(try await client.query("select * from ops.health where conn_used_pct > 0 and hot_table_mb >= 0").count == 1)
                try await client.query("update queue.health set at = now() - interval '20 days'")
                try await client.query("insert into queue.metric (minute, queue_id, kind) values (now() - interval '20 days', 1, 'old')")
                try await client.query("select queue.prune()")
                #expect(try await client.integer("select (select count(*) from queue.health) + (select count(*) from queue.metric)") == 0)
            }
        }
    }
}
