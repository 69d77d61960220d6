import Foundation
import Glibc
import Postgres

/// What a worker costs that has nothing to do.
public struct IdleTest: Sendable {
    /// What one process took.
    public struct Report: Sendable {
        /// Share of one core, in percent.
        public var cpu = 0.0
        /// Statements a second.
        public var statements = 0.0
        /// How long it was watched.
        public var seconds = 0.0
    }

    let server: ChaosServer
    let seconds: Double

    /// Watches for so many seconds.
    public init(server: ChaosServer, seconds: Double) { (self.server, self.seconds) = (server, seconds) }

    /// One worker that serves three short queues and a long one with the leases that queues have by default, alone in its database.
    public func run() async throws -> Report {
        try await server.withStage { stage in
            try await stage.useDefaultLeases()
            let process = try await stage.fleet.start()
            // Registered, swept, and settled.
            for _ in 0..<200 where try await stage.client.query("select from queue.worker").isEmpty {
                try await Task.sleep(for: .milliseconds(50))
            }
            try await Task.sleep(for: .seconds(3))
            let watcher = await server.client("postgres", connections: 1)
            do {
                let report = try await watch(process, stage.database, watcher)
                await watcher.close()
                return report
            } catch {
                await watcher.close()
                throw error
            }
        }
    }

    private func watch(_ process: Int32, _ database: String, _ watcher: PostgresClient) async throws -> Report {
        // Each execution is counted as it ends, begin and commit included; a watcher in another database counts for nothing. What a busy
        // machine delays is fewer statements, not more.
        func statements() async throws -> Int {
            try await watcher.query(
                "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = $1",
                [.string(database)])[0][0].int
        }
        let (began, before, busy) = (ContinuousClock.now, try await statements(), Self.cpuSeconds(process))
        try await Task.sleep(for: .seconds(seconds))
        let (after, burnt) = (try await statements(), Self.cpuSeconds(process))
        let elapsed = (ContinuousClock.now - began) / .seconds(1)
        return Report(cpu: (burnt - busy) / elapsed * 100, statements: Double(after - before) / elapsed, seconds: elapsed)
    }

    /// Seconds of CPU of a process, to the nanosecond, thread by thread.
    private static func cpuSeconds(_ process: Int32) -> Double {
        let tasks = "/proc/\(process)/task"
        return ((try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? []).reduce(0) { sum, thread in
            let text = (try? String(contentsOfFile: "\(tasks)/\(thread)/schedstat", encoding: .utf8)) ?? ""
            return sum + (text.split(separator: " ").first.flatMap { Double($0) } ?? 0) / 1e9
        }
    }
}
