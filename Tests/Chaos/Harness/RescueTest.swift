import Foundation
import Glibc
import Postgres

/// How long the jobs of a killed process wait until they run elsewhere.
public struct RescueTest: Sendable {
    /// What was measured.
    public struct Report: Sendable {
        /// Seconds from SIGKILL to the next claim, sorted, by class of queue.
        public var short: [Double] = []
        public var long: [Double] = []
        /// Processes killed.
        public var kills = 0

        /// The longest of all.
        public var longest: Double { max(short.last ?? 0, long.last ?? 0) }

        /// One line a class: how many, and the quantiles.
        public var lines: [String] {
            [("short", short), ("long", long)].map { name, times in
                func quantile(_ q: Double) -> String {
                    times.isEmpty ? "–" : String(format: "%.2f", times[min(times.count - 1, Int(q * Double(times.count)))])
                }
                return "\(name): \(times.count) jobs of \(kills) killed processes; p50 \(quantile(0.5)) s, p90 \(quantile(0.9)) s, "
                    + "p99 \(quantile(0.99)) s, longest \(quantile(1)) s"
            }
        }
    }

    let server: ChaosServer
    let kills: Int
    let seed: UInt64

    /// So many processes are killed, one after another, each in the middle of its jobs.
    public init(server: ChaosServer, kills: Int, seed: UInt64) { (self.server, self.kills, self.seed) = (server, kills, seed) }

    /// Runs it with leases of the defaults (10 s, 30 s), so that only the lost session can have been the reason.
    public func run() async throws -> Report {
        try await server.withStage(flags: ["concurrency=6"]) { stage in
            var report = Report()
            var dice = Dice(seed: seed)
            try await stage.useDefaultLeases()
            for _ in 0..<kills {
                try await stage.fleet.ensure(3)
                // Enough for everybody to be busy, and for a free hand when somebody dies.
                try await stage.client.query(
                    """
                    select queue.enqueue_many('chaos_short', array_fill('{"p":1.5}'::jsonb, array[6])),
                        queue.enqueue_many('chaos_long', array_fill('{"n":8,"p":0.4}'::jsonb, array[3]))
                    """)
                try await Task.sleep(for: .seconds(Double.random(in: 0.3...1.0, using: &dice)))
                try await killTheBusiest(stage, &report)
            }
            report.short.sort()
            report.long.sort()
            return report
        }
    }

    /// Kills the process that does most kinds of jobs, and writes down when each of its jobs was claimed again.
    private func killTheBusiest(_ stage: Stage, _ report: inout Report) async throws {
        let victims = try await stage.client.query(
            """
            select w.pid, count(*) from queue.job j join queue.worker w on w.id = j.worker_id
            where j.state = 1 and w.pid = any ($1::int[]) group by w.pid order by count(distinct j.kind) desc, 2 desc, w.pid limit 1
            """, [.array(await stage.fleet.workers.map(Int.init))])
        guard let victim = try victims.first.map({ Int32(try $0["pid"].int) }) else { return }
        let at = try await stage.client.query("select clock_timestamp()::text as at")[0]["at"].string
        await stage.fleet.signal(victim, SIGKILL)
        report.kills += 1
        try await Task.sleep(for: .seconds(4.5))
        let rows = try await stage.client.query(
            """
            select t.kind, extract(epoch from (select min(c.at) from chaos.trace c where c.job = t.job and c.n > t.n and c.what = 'claim')
                - $1::timestamptz)::float8 as waited
            from chaos.trace t join queue.worker w on w.id = t.worker
            where t.what = 'rescue' and t.at > $1::timestamptz and w.pid = $2
            """, [.string(at), .int(Int(victim))])
        for row in rows {
            let waited = try row["waited"].optionalDouble ?? .infinity
            if try row["kind"].string == "chaos_long" { report.long.append(waited) } else { report.short.append(waited) }
        }
    }
}
