import Foundation
import Glibc
import Postgres
import Synchronization

/// A round in progress: finds a worker at a point of a job's life, and lets a fault strike it there.
actor Scene {
    let server: ChaosServer
    nonisolated let stage: Stage
    nonisolated let proxy: FaultProxy
    nonisolated let load: Load
    nonisolated let blobs: String
    nonisolated var database: String { stage.database }
    nonisolated var client: PostgresClient { stage.client }
    nonisolated var fleet: Fleet { stage.fleet }
    /// What goes on until peace is made.
    var ambient: [Task<Void, Never>] = []
    /// What ends by itself: silences that are over when the lease is, and the like.
    var pending: [Task<Void, Never>] = []
    var extraClients: [PostgresClient] = []
    var janitor: Task<Void, Never>?
    /// How many jobs were planted, so that each is told from the others.
    var planted = 0
    /// Whether the checkpoint store is a file system of its own that can be filled.
    var smallStore = false

    /// On a stage behind a proxy.
    init(server: ChaosServer, stage: Stage, load: Load, blobs: String) {
        guard let proxy = stage.proxy else { preconditionFailure("the matrix needs a proxy between workers and server") }
        (self.server, self.stage, self.proxy, self.load, self.blobs) = (server, stage, proxy, load, blobs)
    }

    // MARK: - Reaching a point

    /// Holds whoever comes to a point, has `strike` do its worst to the first of them, and lets everybody go. Answers whether anybody came.
    func hold(_ point: Point, within seconds: Double = 6, _ strike: (Victim) async throws -> Void) async throws -> Bool {
        guard point.isHeld else {
            guard let victim = try await workerInState(point, within: seconds) else { return false }
            try await strike(victim)
            return true
        }
        let locker = await server.client(database, connections: 1, name: "harness lock")
        var struck = false
        do {
            try await locker.withConnection { connection in
                try await connection.query("select pg_advisory_lock(\(Instrumentation.lockClass), \(point.rawValue))")
                if let victim = try await self.waiter(at: point, within: seconds) {
                    struck = true
                    try await strike(victim)
                }
                // The session's end lets go too, and works on a server that is going down.
                try await connection.query("select pg_advisory_unlock_all()")
            }
        } catch {
            await locker.close()
            // A server that went down took the lock along; that was the fault.
            if struck { return true }
            throw error
        }
        await locker.close()
        return struck
    }

    private func waiter(at point: Point, within seconds: Double) async throws -> Victim? {
        let deadline = ContinuousClock.now + .seconds(seconds)
        var provoked = ContinuousClock.now
        try await provoke(point)
        while ContinuousClock.now < deadline {
            if let victim = try await stage.waiter(at: point) { return victim }
            if ContinuousClock.now - provoked > .seconds(1) {
                provoked = .now
                try await provoke(point)
            }
            try await Task.sleep(for: .milliseconds(4))
        }
        return nil
    }

    /// A worker in the middle of a job: of a short one's handler, or of a long one's between two checkpoints.
    private func workerInState(_ point: Point, within seconds: Double) async throws -> Victim? {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while ContinuousClock.now < deadline {
            let workers = await fleet.workers
            let rows = try await client.query(
                """
                select s.pid from queue.job j join chaos.started s on s.job = j.id and s.token = j.token
                where j.state = 1 and s.pid = any ($1::int[])
                    and case when $2 then j.kind = 'chaos_long' and exists (select from queue.checkpoint c where c.job_id = j.id and c.token = j.token)
                        else j.kind = 'chaos_short' end
                order by random() limit 1
                """, [.array(workers.map(Int.init)), .bool(point == .betweenCheckpoints)])
            if let row = rows.first { return Victim(backend: nil, process: Int32(try row["pid"].int)) }
            try await Task.sleep(for: .milliseconds(5))
        }
        return nil
    }

    func provokeAgain(_ point: Point) async throws { try await provoke(point) }

    /// Brings about what would otherwise be rare.
    private func provoke(_ point: Point) async throws {
        switch point {
        case .duringRescue:
            // Jobs leased to a worker that is lost: a real registration that nobody renews.
            try await client.transaction { connection in
                let worker = try await connection.query(
                    "select queue.register_worker('planted', 'here', 1, '0.2 seconds') as id")[0]["id"].int64
                try await connection.query("select queue.enqueue_many('chaos_short', array_fill('{\"p\":0}'::jsonb, array[4]), band => 0)")
                try await connection.query("select count(*) from queue.claim($1, 'chaos_short', 'chaos_short', 3)", [.int(worker)])
                try await connection.query("update queue.worker set backend_pid = 0 where id = $1", [.int(worker)])
            }
        case .scheduleTick:
            // What came together while the schedule's last job lived is fired by a worker's sweep.
            try await client.transaction { connection in
                try await connection.query("insert into chaos.counted (n) values (6)")
                try await connection.query("update queue.schedule set counter = counter + 6 where key = 'chaos'")
            }
            // A clock's schedule of which two times were missed: both fire, once each, as does every minute from then on.
            planted += 1
            let key = PostgresValue.string("cron-\(planted)")
            try await client.transaction { connection in
                try await connection.query("select queue.schedule_pause(s.key) from queue.schedule s where s.cron is not null")
                try await connection.query(
                    """
                    select queue.schedule_add($1, 'chaos_short', '{"p":0}', cron => '* * * * *', missed => 'all', overlap => 'allow')
                    """, [key])
                try await connection.query(
                    "update queue.schedule set next_at = date_trunc('minute', clock_timestamp()) - interval '1 minute' where key = $1",
                    [key])
                try await connection.query(
                    "insert into chaos.planted select s.key, s.next_at from queue.schedule s where s.key = $1", [key])
            }
        case .fanIn:
            try await load.enqueueFamily()
        case .pruneOrVacuum:
            startJanitor()
        default: break
        }
    }

    // MARK: - Housekeeping under fire

    /// Prunes and vacuums without end, in sessions that faults find as they find a worker's.
    private func startJanitor() {
        guard janitor == nil else { return }
        janitor = Task { [proxy, database] in
            while !Task.isCancelled {
                var configuration = PostgresConfiguration(url: proxy.url(database: database))
                configuration.sessionSettings["lock_timeout"] = "400ms"
                let housekeeper = PostgresClient(
                    configuration: configuration, maximumConnections: 1, applicationName: "chaos:0 janitor", logger: quiet)
                while !Task.isCancelled {
                    do {
                        // Held between the pruning and its commit.
                        try await housekeeper.transaction { connection in
                            try await connection.query("select queue.prune()")
                            try await connection.query("select chaos.hit(11)")
                        }
                        for table in ["queue.job", "queue.done", "queue.run", "queue.worker", "queue.checkpoint"] {
                            try await housekeeper.query("vacuum \(table)")
                        }
                    } catch { break }
                    try? await Task.sleep(for: .milliseconds(60))
                }
                await housekeeper.close()
                try? await Task.sleep(for: .milliseconds(50))
            }
        }
    }

    /// Waits until every freeze and every silence has lasted as long as it was meant to.
    func outlast() async {
        for task in pending { await task.value }
        pending = []
        while await fleet.frozenCount > 0 { try? await Task.sleep(for: .milliseconds(50)) }
    }

    /// Every fault ends; what was broken stays broken.
    func makePeace() async {
        for task in pending { task.cancel() }
        for task in ambient + (janitor.map { [$0] } ?? []) { task.cancel() }
        for task in ambient + (janitor.map { [$0] } ?? []) { await task.value }
        (ambient, janitor) = ([], nil)
        for client in extraClients { await client.close() }
        extraClients = []
        await server.fillDisk(false)
        try? await server.revive()
        proxy.deliver(.delivered)
        proxy.heal()
        await fleet.thawAll()
        _ = try? await client.query("truncate chaos.inject")
        ChaosServer.fill(blobs, false)
    }

    /// The checkpoint store goes with the round.
    func removeStore() {
        if smallStore { umount2(blobs, CInt(MNT_DETACH)) }
        try? FileManager.default.removeItem(atPath: blobs)
    }
}
