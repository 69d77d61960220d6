import Foundation
import Glibc
import JobQueue
import Postgres
import PostgresTesting
import Synchronization
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Ending {
        struct Broken: Error {}

        @Test func aFailureIsRetriedAndTheAttemptsAreLimited() async throws {
            try await withQueue { queue, database in
                try await database.client.query(
                    "select queue.define('quick', 'short', max_attempts => 3, backoff_base => '0.1 seconds', backoff_cap => '0.3 seconds')")
                let handler = JobHandler(kind: "quick") { job in
                    guard job.attempt == 3, job.arguments.contains("mend") else { throw Broken() }
                    return JobResult()
                }
                try await withWorkers(1, database, [handler]) {
                    let mended = try await queue.finished(try await queue.enqueue(kind: "quick", json: #"{"mend":true}"#))
                    #expect(mended.state == .succeeded && mended.attempt == 3 && mended.failures == 2)
                    let broken = try await queue.finished(try await queue.enqueue(kind: "quick"))
                    #expect(broken.state == .dead && broken.failures == 3 && broken.message == "attempts")
                    #expect(broken.error == "Broken()")
                    #expect(try await queue.redrive(kind: "slow") == 0)
                    #expect(try await queue.redrive(kind: "quick") == 1)
                    let again = try await queue.finished(broken.id)
                    #expect(again.state == .dead && again.attempt == 6)
                }
            }
        }

        @Test func aPermanentFailureIsDeadAtOnceAndRetryAfterIsHeeded() async throws {
            try await withQueue { queue, database in
                let handler = JobHandler(kind: "quick") { job in
                    if job.arguments.contains("later"), job.attempt == 1 { throw JobError.retryAfter(.seconds(2), "busy") }
                    if job.arguments.contains("wrong") { _ = try job.arguments(as: [String: Int].self) }
                    return JobResult()
                }
                try await withWorkers(1, database, [handler]) {
                    let later = try await queue.enqueue(kind: "quick", json: #"{"later":1}"#)
                    let wrong = try await queue.finished(try await queue.enqueue(kind: "quick", json: #"{"wrong":"x"}"#))
                    #expect(wrong.state == .dead && wrong.attempt == 1 && wrong.message == "permanent")
                    #expect(wrong.error == "the arguments of quick are wrong: wrong is no Int")
                    let record = try await queue.finished(later)
                    let started = try #require(record.startedAt)
                    #expect(started.timeIntervalSince(record.createdAt) >= 2)
                }
            }
        }

        @Test func theBackoffIsJitteredAndGrowsToItsCap() async throws {
            try await withQueue { queue, database in
                try await database.client.query("select queue.define('quick', 'short', max_attempts => 200, backoff_cap => '60 seconds')")
                let worker = try await database.client.integer("select queue.register_worker('hand', 'here', 1, '1 hour')")
                let id = try await queue.enqueue(kind: "quick")
                var delays: [Double] = []
                for _ in 0..<40 {
                    let row = try await database.client.query("select id, token from queue.claim($1, 'quick', 'quick', 1)", [.int(worker)])[
                        0]
                    _ = try await database.client.query(
                        "select queue.fail($1, $2, '{}')", [.int(try row["id"].int64), .int(try row["token"].int64)])
                    delays.append(
                        try await database.client.query("select (last_error ->> 'delay_s')::float8 as delay from queue.job")[0]["delay"]
                            .double)
                    try await queue.retry(id)
                }
                #expect(delays.allSatisfy { $0 >= 1 && $0 <= 60 })
                for (before, after) in zip(delays, delays.dropFirst()) { #expect(after <= max(3 * before, 3) + 0.01) }
                #expect(delays.max()! > 20)
                #expect(Set(delays).count > 10)
            }
        }

        @Test func aRunningJobIsCancelledAndAWaitingOneAtOnce() async throws {
            try await withQueue { queue, database in
                for kind in ["quick", "slow"] {
                    let stopped = Mutex(false)
                    let handler = JobHandler(kind: kind) { job in
                        do {
                            for step in 0..<600 {
                                job.progress(Double(step) / 600, "step \(step)")
                                try job.checkCancellation()
                                try await Task.sleep(for: .milliseconds(50))
                            }
                        } catch {
                            stopped.withLock { $0 = true }
                            throw error
                        }
                        return insertEffect(job)
                    }
                    try await withWorkers(1, database, [handler]) {
                        let id = try await queue.enqueue(kind: kind)
                        try await eventually("it runs") { try await queue.show(id).state == .leased }
                        let waiting = try await queue.enqueue(kind: kind)
                        #expect(try await queue.cancel(waiting) == .cancelled)
                        let asked = ContinuousClock.now
                        #expect(try await queue.cancel(id, reason: "wrong backbone") == .requested)
                        let job = try await queue.finished(id)
                        #expect(ContinuousClock.now - asked < .seconds(2))
                        #expect(job.state == .cancelled && job.error == "wrong backbone")
                        #expect(stopped.withLock { $0 })
                        #expect(try await queue.cancel(id) == .finished)
                    }
                }
                #expect(try await database.client.integer("select count(*) from public.effect") == 0)
                await #expect(throws: PostgresError.self) { try await queue.cancel(999_999) }
                await #expect(throws: JobError.unknown(999_999)) { try await queue.show(999_999) }
            }
        }

        @Test func progressAndTimeLeftAreShownWhileItRuns() async throws {
            try await withQueue { queue, database in
                let handler = JobHandler(kind: "slow") { job in
                    for step in 1...40 {
                        job.progress(Double(step) / 40, "step \(step)")
                        try await Task.sleep(for: .milliseconds(100))
                    }
                    return JobResult()
                }
                try await withWorkers(1, database, [handler]) {
                    var seen: [JobRecord] = []
                    for try await job in queue.wait(try await queue.enqueue(kind: "slow")) { seen.append(job) }
                    let running = seen.filter { $0.state == .leased && $0.eta != nil }
                    #expect(running.count >= 2)
                    #expect(zip(running, running.dropFirst()).allSatisfy { ($0.progress ?? 0) < ($1.progress ?? 0) })
                    #expect(running.allSatisfy { ($0.eta ?? 100) < 10 && $0.message?.hasPrefix("step ") == true })
                    #expect(seen.last?.state == .succeeded)
                }
            }
        }

        @Test func aShutdownHandsTheJobBackWithItsCheckpoint() async throws {
            try await withQueue { queue, database in
                let process = try await startProcess(database, queue: "slow")
                let id = try await queue.enqueue(kind: "slow", json: #"{"steps":30,"pause":0.05}"#)
                try await eventually("it has begun") { try await queue.show(id).progress ?? 0 > 0.1 }
                process.signal(SIGTERM)
                #expect(await process.exitStatus() == 0)
                let handedBack = try await queue.show(id)
                #expect(handedBack.state == .ready && handedBack.failures == 0 && handedBack.rescues == 0)
                #expect(try await database.client.integer("select max(n) from queue.checkpoint where job_id = $1", [.int(id)]) >= 3)
                let next = try await startProcess(database, queue: "slow")
                #expect(try await queue.finished(id).attempt == 2)
                next.signal(SIGTERM)
                #expect(await next.exitStatus() == 0)
            }
        }

        @Test func aRunThatStandsStillLosesItsLease() async throws {
            try await withQueue { queue, database in
                try await database.client.query(
                    "select queue.define('slow', 'long', worker_ttl => '2 seconds', stall_timeout => '1 second')")
                let handler = JobHandler(kind: "slow", concurrency: 2) { job in
                    if job.attempt == 1 { while !job.isStopRequested { try? await Task.sleep(for: .milliseconds(50)) } }
                    return insertEffect(job)
                }
                try await withWorkers(1, database, [handler]) {
                    let job = try await queue.finished(try await queue.enqueue(kind: "slow"))
                    #expect(job.attempt == 2 && job.rescues == 1)
                }
                #expect(try await database.client.integer("select count(*) from public.effect") == 1)
            }
        }
    }
}
