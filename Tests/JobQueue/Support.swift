import Foundation
@testable import JobQueue
import Logging
import Migrations
import Postgres
import PostgresTesting
import Testing

/// Everything that needs PostgreSQL runs one after another: the tests measure times, and share two cores.
@Suite(.serialized) enum JobQueueDatabaseTests {}

let quiet: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = .error
    return logger
}()

/// A migrated database with two queues, `quick` (short) and `slow` (long), a table for effects, and one for what happened.
func withQueue(_ body: (JobQueue, TestDatabase) async throws -> Void) async throws {
    try await TestDatabase.with(migrations: BundledMigrations.all()) { database in
        let queue = JobQueue(client: database.client)
        try await queue.define("quick", isLong: false)
        try await queue.define("slow", isLong: true)
        try await database.client.execute("create table public.effect (job bigint, token bigint, pid int)")
        try await body(queue, database)
    }
}

/// Runs workers while `body` runs, then shuts them down; `looksForStraysEvery` instead of once a minute.
func withWorkers(
    _ count: Int = 1, _ database: TestDatabase, _ handlers: [JobHandler], looksForStraysEvery interval: Duration? = nil,
    _ body: () async throws -> Void
) async throws {
    let tasks = (0..<count).map { _ in
        Task { @PostgresActor [client = PostgresClient(configuration: PostgresConfiguration(url: database.url), logger: quiet)] in
            let worker = JobWorker(client: client, service: "test", handlers: handlers, logger: quiet)
            if let interval { worker.strayInterval = interval }
            try await worker.run()
            await client.close()
        }
    }
    do {
        try await body()
    } catch {
        for task in tasks { task.cancel() }
        for task in tasks { _ = await task.result }
        throw error
    }
    for task in tasks { task.cancel() }
    for task in tasks { try await task.value }
}

/// An effect that can be counted.
func insertEffect(_ job: JobContext) -> JobResult {
    let row: [PostgresValue] = [.int(job.id), .int(job.token)]
    return JobResult { try await $0.query("insert into public.effect (job, token) values ($1, $2)", row) }
}

/// Waits until a condition holds; throws when it does not within `seconds`.
func eventually(
    within seconds: Double = 20, _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < deadline {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(20))
    }
    Issue.record("not within \(seconds) s: \(what)", sourceLocation: sourceLocation)
    throw CancellationError()
}

/// A worker in a process of its own.
func startProcess(_ database: TestDatabase, queue: String) async throws -> ChildProcess {
    let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    return try await ChildProcess.start(
        ChildProcess.Request(
            path: folder.appendingPathComponent("JobQueueTestWorker").path, arguments: [database.url, queue],
            environment: ["PATH": "/usr/bin:/bin"]))
}

extension PostgresClient {
    /// The first column of the first row, as an integer.
    func integer(_ sql: String, _ parameters: [PostgresValue] = []) async throws -> Int {
        try #require(try await query(sql, parameters).first)[0].int
    }
}

/// What a statement that must fail fails with.
func failure(_ body: () async throws -> Void) async -> any Error {
    do {
        try await body()
        return Unfailed()
    } catch {
        return error
    }
}

struct Unfailed: Error {}

extension JobRun {
    /// One that nobody ran.
    convenience init(of key: JobRun.Key) {
        let job = ClaimedJob(
            id: key.id, token: key.token, attempt: 1, failures: 0, rescues: 0, arguments: PostgresText("{}"))
        let settings = QueueSettings(name: "quick", isLong: false, ttl: .seconds(10), stallTimeout: nil)
        self.init(job, settings: settings)
    }
}
