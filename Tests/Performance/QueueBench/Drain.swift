import Foundation
import JobQueue
import Logging
import Postgres

/// Fills the queue, then drains it with one worker in this process, and says what that cost.
///
/// CPU a job is the measure that other work on the machine disturbs least: the server's whole process tree and this process. With
/// `--pin-xmin` a transaction elsewhere holds a snapshot from before the first claim, so that no dead row can be cleaned up.
func drain(_ client: PostgresClient, _ options: Options, pinned: Bool, _ logger: Logger) async throws {
    let jobs = options.jobs ?? 100_000
    let queue = JobQueue(client: client)
    try await enqueue(jobs, queue)
    try await client.execute("vacuum analyze")
    try await client.execute("checkpoint")
    let done = try await number("select count(*) from queue.done", client)
    let reader = PostgresClient(configuration: client.configuration, maximumConnections: 1, applicationName: "reader")
    var counting = options
    counting.jobs = nil
    let observer = Observer(counting)
    let worker = JobWorker(client: client, service: "bench", handlers: [observer.handler()], logger: logger)
    let postmaster = try await postmaster(client)
    try await reader.withConnection { connection in
        if pinned {
            try await connection.query("begin isolation level repeatable read")
            try await connection.query("select count(*) from pg_class")
        }
        let before = try await Cost(client, postmaster)
        let start = ContinuousClock.now
        let work = Task { try await worker.run() }
        var halfway: Duration?
        var finished = 0
        while finished < jobs {
            try await Task.sleep(for: .milliseconds(20))
            finished = observer.count
            if halfway == nil, finished >= jobs / 2 { halfway = .now - start }
        }
        while try await number("select count(*) from queue.done", client) - done < jobs { try await Task.sleep(for: .milliseconds(5)) }
        let took = ContinuousClock.now - start
        let after = try await Cost(client, postmaster)
        work.cancel()
        try await work.value
        if pinned { try await connection.query("commit") }
        let half = (halfway ?? took) / .seconds(1)
        say([
            "jobs": jobs, "concurrency": options.concurrency, "pinned_xmin": pinned, "seconds": took / .seconds(1),
            "jobs_per_second": Double(jobs) / (took / .seconds(1)),
            // Of a table that only grows dead rows, the second half tells more than the whole.
            "second_half_jobs_per_second": Double(jobs) / 2 / (took / .seconds(1) - half),
            "server_cpu_us_per_job": (after.server - before.server) / Double(jobs) * 1e6,
            "client_cpu_us_per_job": (after.client - before.client) / Double(jobs) * 1e6,
            "wal_bytes_per_job": (after.wal - before.wal) / Double(jobs),
            "commits_per_job": (after.commits - before.commits) / Double(jobs),
        ])
    }
    await reader.close()
}

private func number(_ sql: String, _ client: PostgresClient) async throws -> Int {
    guard let row = try await client.query(sql).first else { return 0 }
    return try row[0].int
}

/// The server's main process, if it runs on this machine.
private func postmaster(_ client: PostgresClient) async throws -> Int? {
    parent(of: try await number("select pg_backend_pid()", client))
}

private func fields(of process: Int) -> [Substring]? {
    guard let text = try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8), let end = text.lastIndex(of: ")") else {
        return nil
    }
    return text[text.index(after: end)...].split(separator: " ")
}

private func parent(of process: Int) -> Int? { fields(of: process).flatMap { Int($0[1]) } }

/// What has been used so far.
private struct Cost {
    /// CPU seconds of the server's processes, those that have ended among them.
    var server = Double.nan
    /// CPU seconds of this process.
    var client = 0.0
    var wal: Double
    var commits: Double

    init(_ database: PostgresClient, _ postmaster: Int?) async throws {
        let row = try await database.query(
            """
            select pg_current_wal_lsn() - '0/0' as wal, (select xact_commit from pg_stat_database where datname = current_database()) as commits
            """)[0]
        wal = try row["wal"].double
        commits = try row["commits"].double
        let tick = Double(sysconf(CInt(_SC_CLK_TCK)))
        if let postmaster {
            let processes = try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { Int($0) }
            let children = processes.filter { parent(of: $0) == postmaster }
            let ticks = children.compactMap { fields(of: $0) }.map { (Double($0[11]) ?? 0) + (Double($0[12]) ?? 0) }.reduce(0, +)
            let own = fields(of: postmaster).map { $0[11...14].compactMap { Double($0) }.reduce(0, +) } ?? 0
            server = (ticks + own) / tick
        }
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        client = [usage.ru_utime, usage.ru_stime].map { Double($0.tv_sec) + Double($0.tv_usec) / 1e6 }.reduce(0, +)
    }
}
