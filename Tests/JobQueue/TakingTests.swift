import Foundation
import JobQueue
import Postgres
import PostgresTesting
import Synchronization
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct Taking {
        @Test func aJobGoesThroughTheWorkerAndLeavesItsResultAndEffect() async throws {
            try await withQueue { queue, database in
                let handler = JobHandler(kind: "quick") { job in
                    let row: [PostgresValue] = [.int(job.id), .int(job.token)]
                    return try JobResult(["square": try job.arguments(as: [String: Int].self)["n"].map { $0 * $0 }]) {
                        try await $0.query("insert into public.effect (job, token) values ($1, $2)", row)
                    }
                }
                try await withWorkers(1, database, [handler]) {
                    let job = try await queue.finished(try await queue.enqueue(kind: "quick", arguments: ["n": 7]))
                    #expect(job.state == .succeeded)
                    #expect(job.attempt == 1)
                    #expect(try job.result(as: [String: Int].self) == ["square": 49])
                    #expect(job.pid == Int(ProcessInfo.processInfo.processIdentifier))
                    #expect(job.worker?.hasPrefix("test@") == true)
                    #expect(try await database.client.integer("select count(*) from public.effect where job = $1", [.int(job.id)]) == 1)
                }
            }
        }

        @Test func hundredsOfJobsOverSeveralWorkersEachRunOnce() async throws {
            try await withQueue { queue, database in
                let counts = Counts()
                let handler = JobHandler(kind: "quick", concurrency: 8) { job in
                    counts.add(job.id)
                    // Half bring effects and half do not: the two ways of completing.
                    return job.id % 2 == 0 ? insertEffect(job) : JobResult()
                }
                var ids = try await queue.enqueueMany(kind: "quick", jobs: (0..<400).map { (json: #"{"n":\#($0)}"#, dedupeKey: nil) })
                try await withWorkers(3, database, [handler]) {
                    for _ in 0..<200 { ids.append(try await queue.enqueue(kind: "quick")) }
                    try await eventually("all are done") {
                        try await database.client.integer("select count(*) from queue.done") == ids.count
                    }
                }
                #expect(counts.all == Dictionary(uniqueKeysWithValues: ids.map { ($0, 1) }))
                #expect(try await database.client.integer("select count(distinct id) from queue.done") == ids.count)
                let even = ids.filter { $0 % 2 == 0 }.count
                #expect(try await database.client.integer("select count(distinct job) from public.effect") == even)
                #expect(try await database.client.integer("select count(*) from public.effect") == even)
                #expect(try await database.client.integer("select count(*) from queue.job") == 0)
            }
        }

        @Test func aKeyIsAddedOnceWhileItsJobLives() async throws {
            try await withQueue { queue, database in
                let first = try await queue.enqueue(kind: "quick", dedupeKey: "k")
                #expect(try await queue.enqueue(kind: "quick", dedupeKey: "k") == first)
                let racing = try await withThrowingTaskGroup(of: Int64.self) { group in
                    for _ in 0..<8 { group.addTask { try await queue.enqueue(kind: "quick", dedupeKey: "race") } }
                    return try await group.reduce(into: Set<Int64>()) { _ = $0.insert($1) }
                }
                #expect(racing.count == 1)
                #expect(try await queue.enqueueMany(kind: "quick", jobs: [("{}", "k"), ("{}", "new"), ("{}", nil)]).count == 2)
                try await queue.cancel(first)
                #expect(try await queue.enqueue(kind: "quick", dedupeKey: "k") != first)
            }
        }

        @Test func aJobIsPartOfTheTransactionItIsEnqueuedIn() async throws {
            try await withQueue { queue, database in
                struct Rollback: Error {}
                let error = await failure {
                    try await database.client.transaction { connection in
                        try await queue.enqueue(kind: "quick", on: connection)
                        throw Rollback()
                    }
                }
                #expect(error is Rollback)
                let jobs = try await queue.list()
                #expect(jobs.isEmpty)
            }
        }

        @Test func anUnknownKindIsRefusedWithTheKnownOnes() async throws {
            try await withQueue { queue, _ in
                let error = await failure { try await queue.enqueue(kind: "train_rewad") }
                #expect("\(error)".contains("train_rewad") && "\(error)".contains("train_reward"))
                let worker = JobWorker(client: queue.client, service: "test", handlers: [JobHandler(kind: "nothing") { _ in JobResult() }])
                await #expect(throws: JobError.unknownQueue("nothing")) { try await worker.run() }
            }
        }

        @Test func bandsGoBeforeAgeAndADeferredJobWaitsForItsTime() async throws {
            try await withQueue { queue, database in
                let order = Mutex<[Int64]>([])
                let handler = JobHandler(kind: "quick") { job in
                    order.withLock { $0.append(job.id) }
                    return JobResult()
                }
                let late = try await queue.enqueue(kind: "quick", runAt: Date(timeIntervalSinceNow: 1.5), band: 0)
                let low = try await queue.enqueue(kind: "quick", band: 3)
                let high = try await queue.enqueue(kind: "quick", band: 0)
                #expect(try await queue.show(late).state == .deferred)
                try await withWorkers(1, database, [handler]) {
                    let record = try await queue.finished(late)
                    let started = try #require(record.startedAt)
                    #expect(started.timeIntervalSince(record.createdAt) >= 1.4)
                }
                #expect(order.withLock { $0 } == [high, low, late])
            }
        }

        @Test func aPausedQueueStartsNothing() async throws {
            try await withQueue { queue, database in
                try await withWorkers(1, database, [JobHandler(kind: "quick") { insertEffect($0) }]) {
                    try await queue.pause("quick")
                    let id = try await queue.enqueue(kind: "quick")
                    try await Task.sleep(for: .seconds(1.5))
                    #expect(try await queue.show(id).state == .ready)
                    try await queue.resume("quick")
                    #expect(try await queue.finished(id).state == .succeeded)
                }
                await #expect(throws: PostgresError.self) { try await queue.pause("quik") }
            }
        }

        @Test func anIdleWorkerStartsAJobAtOnce() async throws {
            try await withQueue { queue, database in
                try await withWorkers(1, database, [JobHandler(kind: "slow") { _ in JobResult() }]) {
                    _ = try await queue.finished(try await queue.enqueue(kind: "slow"))
                    var waits: [Double] = []
                    for _ in 0..<20 {
                        let job = try await queue.finished(try await queue.enqueue(kind: "slow"))
                        waits.append(try #require(job.startedAt).timeIntervalSince(job.createdAt))
                    }
                    // A poll alone would take seconds; the bound leaves room for a busy machine.
                    #expect(waits.sorted()[10] < 0.25, "median \(waits.sorted()[10]) s")
                }
            }
        }
    }
}

/// How often each job ran.
final class Counts: Sendable {
    private let counts = Mutex<[Int64: Int]>([:])
    func add(_ id: Int64) { counts.withLock { $0[id, default: 0] += 1 } }
    var all: [Int64: Int] { counts.withLock { $0 } }
}
