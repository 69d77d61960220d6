import Foundation
import Glibc
import Postgres

/// What a worker costs that has nothing to do.
public struct IdleTest: Sendable {
    /// What one process took.
    public struct Report: Sendable {
        /// The process.
        public var name = ""
        /// Share of one core, in percent.
        public var cpu = 0.0
        /// Statements a second, as the server's own count of transactions in that database: each statement of an idle worker is one.
        public var statements = 0.0
        /// How long it was watched.
        public var seconds = 0.0
    }

    let server: ChaosServer
    let seconds: Double

    /// Watches for so many seconds.
    public init(server: ChaosServer, seconds: Double) { (self.server, self.seconds) = (server, seconds) }

    /// One worker that serves two short queues and a long one, alone in its database.
    public func run() async throws -> Report {
        let database = try await server.makeDatabase()
        let fleet = Fleet(url: await server.url(database))
        let watcher = await server.client("postgres", connections: 1)
        do {
            let pid = try await fleet.start()
            // Registered, swept, and settled.
            try await Task.sleep(for: .seconds(4))
            let report = try await Self.watch(["worker": pid], database, watcher, seconds)[0]
            await fleet.stop()
            await watcher.close()
            await server.drop(database)
            return report
        } catch {
            await fleet.killAll()
            await watcher.close()
            await server.drop(database)
            throw error
        }
    }

    /// Watches processes; the database's statements are shared out among them.
    static func watch(_ processes: [String: Int32], _ database: String, _ client: PostgresClient, _ seconds: Double) async throws
        -> [Report]
    {
        func statements() async throws -> Int {
            // A backend reports its counts when it has been idle for a second, or ends.
            try await client.query(
                "select xact_commit + xact_rollback from pg_stat_database where datname = $1", [.string(database)])[0][0].int
        }
        let (before, ticks, began) = (try await statements(), processes.mapValues(cpuTicks), ContinuousClock.now)
        try await Task.sleep(for: .seconds(seconds))
        let (after, elapsed) = (try await statements(), (ContinuousClock.now - began) / .seconds(1))
        return processes.sorted { $0.key < $1.key }.map { name, pid in
            let cpu = Double(cpuTicks(pid) - (ticks[name] ?? 0)) / Double(sysconf(CInt(_SC_CLK_TCK))) / elapsed * 100
            return Report(name: name, cpu: cpu, statements: Double(after - before) / elapsed / Double(processes.count), seconds: elapsed)
        }
    }

    /// User and system time of a process, in clock ticks.
    static func cpuTicks(_ pid: Int32) -> Int {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8), let end = text.lastIndex(of: ")") else {
            return 0
        }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 12 ? (Int(fields[11]) ?? 0) + (Int(fields[12]) ?? 0) : 0
    }
}
