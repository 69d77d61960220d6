import Postgres

/// A database of its own with worker processes on it, for as long as one part of the program lasts.
struct Stage: Sendable {
    let database: String
    /// Where the workers reach it: past the proxy, if there is one.
    let url: String
    /// Straight to the server, past every fault of the network.
    let client: PostgresClient
    let proxy: FaultProxy?
    let fleet: Fleet

    /// The leases that queues have unless somebody says otherwise, instead of the short ones of the matrix.
    func useDefaultLeases() async throws {
        try await client.query(
            "update queue.queue set worker_ttl = case class when 'long' then interval '30 seconds' else interval '10 seconds' end where name like 'chaos_%'"
        )
    }

    /// Whoever is held at a point now, by the lock that makes it one.
    func waiter(at point: Point) async throws -> Victim? {
        let rows = try await client.query(
            """
            select l.pid, split_part(split_part(a.application_name, ':', 2), ' ', 1) as process
            from pg_locks l join pg_stat_activity a using (pid)
            where l.locktype = 'advisory' and l.classid = $1::int and l.objid = $2::int and not l.granted
            """, [.int(Instrumentation.lockClass), .int(point.rawValue)])
        guard let row = rows.first, let process = Int32(try row["process"].string) else { return nil }
        return Victim(backend: Int32(try row["pid"].int), process: process)
    }

    /// Waits until nothing is left to do, for at most so many seconds, with so many workers at work; what is left is an invariant's to
    /// report. Answers which jobs were left after fifteen seconds, because most go sooner.
    @discardableResult
    func drain(within seconds: Double, workers count: Int) async throws -> String? {
        let began = ContinuousClock.now
        var late: String?
        while ContinuousClock.now - began < .seconds(seconds) {
            try await fleet.ensure(count)
            if let row = try? await client.query(Self.left).first {
                let left = try row[0].optionalString
                if left == nil { return late }
                if late == nil, ContinuousClock.now - began > .seconds(15) { late = left }
            }
            try await Task.sleep(for: .milliseconds(100))
        }
        return late
    }

    private static let left = """
        select string_agg(format('%s %s state %s attempt %s worker %s (%s) %s', j.id, j.kind, j.state, j.attempt, j.worker_id, w.ended_why,
            (select string_agg(t.what || ' ' || to_char(t.at, 'MI:SS.MS'), ', ' order by t.n) from chaos.trace t where t.job = j.id)), '; ')
        from queue.job j left join queue.worker w on w.id = j.worker_id
        """
}

/// A worker caught at a point.
struct Victim: Sendable {
    /// The backend that is held there; none for a state that lasts.
    var backend: Int32?
    /// The worker's process.
    var process: Int32
}

extension ChaosServer {
    /// Sets a stage, and clears it whichever way `body` ends: the workers are asked to go, or killed where it threw.
    nonisolated func withStage<Result: Sendable>(
        connections: Int = 4, behindProxy: Bool = false, flags: [String] = [], _ body: (Stage) async throws -> Result
    ) async throws -> Result {
        let database = try await makeDatabase()
        let client = await client(database, connections: connections)
        let proxy = behindProxy ? try FaultProxy(socketPath: await socketPath) : nil
        let direct = await url(database)
        let url = proxy?.url(database: database) ?? direct
        let stage = Stage(
            database: database, url: url, client: client, proxy: proxy, fleet: Fleet(url: url, flags: flags))
        do {
            let result = try await body(stage)
            await stage.fleet.stop()
            await clear(stage)
            return result
        } catch {
            await stage.fleet.killAll()
            await clear(stage)
            throw error
        }
    }

    private nonisolated func clear(_ stage: Stage) async {
        stage.proxy?.close()
        await stage.client.close()
        await drop(stage.database)
    }
}
