import Foundation
import Glibc
import Postgres

/// What each fault does.
extension Scene {
    /// Faults that need something of the machine: says of each cell that cannot be done here why not.
    func prepare(_ cells: [Cell], _ report: inout RoundReport) async throws {
        if !load.hasDependencies {
            for cell in cells where cell.point == .fanIn { report.impossible[cell] = "the schema has no jobs that wait for others" }
        }
        guard cells.contains(where: { $0.fault == .disk }) else { return }
        // The checkpoint store: a file system of two megabytes; without root, a worker whose files may have two kilobytes.
        smallStore = getuid() == 0 && mount("tmpfs", blobs, "tmpfs", 0, "size=2m") == 0
        if smallStore { ChaosCleanUp.registerMount(blobs) }
        if let reason = try await server.shrinkDisk() {
            for cell in cells where cell.fault == .disk && cell.point != .betweenCheckpoints { report.impossible[cell] = reason }
        }
    }

    /// One trial. Answers whether the point was reached, so that the fault struck where it was meant to.
    func strike(_ cell: Cell, _ dice: inout Dice) async throws -> Bool {
        let (choice, pause, where_) = (
            Int.random(in: 0..<6, using: &dice), Double.random(in: 0...0.05, using: &dice), Double.random(in: 0...1, using: &dice)
        )
        func linger() async { try? await Task.sleep(for: .seconds(pause)) }
        switch cell.fault {
        case .kill:
            return try await hold(cell.point) { victim in
                await fleet.signal(victim.process, SIGKILL)
                await linger()
            }
        case .freeze:
            while await fleet.frozenCount >= 5 { try await Task.sleep(for: .milliseconds(50)) }
            return try await hold(cell.point) { victim in
                await fleet.freeze(victim.process, seconds: 3.3 + where_ * 2)
                await linger()
            }
        case .terminate:
            return try await hold(cell.point) { victim in
                await fleet.signal(victim.process, SIGTERM)
                await linger()
                if choice % 2 == 0 { await fleet.signal(victim.process, SIGKILL) }
            }
        case .error: return try await makeError(at: cell.point, choice)
        case .network:
            let struck = try await hold(cell.point) { victim in
                let all = choice % 2 == 0
                let every = try await self.backends(of: victim)
                let backends = all ? every : victim.backend.map { [$0] } ?? every
                switch (cell.point, choice) {
                case (.commitReplyLost, 0...3):
                    // The commit goes through; nobody hears of it.
                    proxy.swallowAnswers(backends)
                case (_, 0...1): proxy.cut(backends)
                case (_, 2...3):
                    proxy.silence(backends)
                    // Healed late: by then the lease is over and the jobs are somebody else's.
                    later(choice == 2 ? 3.5 + where_ : where_) { self.proxy.heal(backends) }
                default:
                    proxy.delay(backends, 0.2 + 1.8 * where_)
                    later(1 + where_ * 2) { self.proxy.heal(backends) }
                }
                await linger()
            }
            if cell.point == .commitReplyLost {
                // After the held commit was let go: its answer is swallowed, then the connection is reset.
                try await Task.sleep(for: .milliseconds(40))
                proxy.heal()
            }
            return struck
        case .backend:
            return try await hold(cell.point) { victim in
                if let backend = victim.backend {
                    try await client.query("select pg_terminate_backend($1)", [.int(Int(backend))])
                }
                try await client.query(
                    """
                    select pg_terminate_backend(a.pid) from (select pid from pg_stat_activity where datname = current_database()
                        and application_name like 'chaos:%' order by random() limit $1) a
                    """, [.int(victim.backend == nil ? 6 : 1)])
                try? await Task.sleep(for: .milliseconds(200))
            }
        case .restart:
            return try await hold(cell.point) { victim in
                let how: ChaosServer.Restart = [.fast, .immediate, .backendKilled][choice % 3]
                var backend = victim.backend
                if backend == nil { backend = try await self.backends(of: victim).first }
                await linger()
                try await server.restart(how, backend: backend)
            }
        case .disk: return try await fillDisk(at: cell.point, pause)
        case .timeout:
            if choice < 2 {
                // The worker's own lock_timeout or statement_timeout ends the statement in the middle.
                return try await hold(cell.point) { victim in
                    for _ in 0..<200 where try await self.isWaiting(victim) { try await Task.sleep(for: .milliseconds(10)) }
                }
            }
            return try await inject(["40001", "40P01", "55P03", "57014"][choice - 2], at: cell.point)
        case .pinned:
            try await pin(seconds: 2)
            return try await hold(cell.point) { _ in await linger() }
        case .exhaustion:
            return try await hold(cell.point) { victim in
                let backends = try await self.backends(of: victim)
                try await exhaust(seconds: 0.3 + where_)
                for backend in backends { try await client.query("select pg_terminate_backend($1)", [.int(Int(backend))]) }
                await linger()
            }
        case .clock:
            return try await hold(cell.point) { victim in
                await fleet.signal(victim.process, choice % 2 == 0 ? SIGUSR1 : SIGUSR2)
                await linger()
            }
        case .notify:
            proxy.deliver(choice % 2 == 0 ? .lost : .doubled)
            defer { proxy.deliver(.delivered) }
            // What is enqueued now must be found without, or in spite of, the doorbell.
            try await load.enqueue("chaos_short", #"{"p":0.001}"#, count: 2)
            return try await hold(cell.point) { _ in await linger() }
        }
    }

    /// Every session of a worker's process.
    func backends(of victim: Victim) async throws -> Set<Int32> {
        let rows = try await client.query(
            "select pid from pg_stat_activity where application_name = $1 or application_name like $1 || ' %'",
            [.string("chaos:\(victim.process)")])
        return Set(try rows.map { Int32(try $0["pid"].int) })
    }

    private func isWaiting(_ victim: Victim) async throws -> Bool {
        try await client.query(
            "select count(*) from pg_locks where pid = $1 and locktype = 'advisory' and not granted", [.int(Int(victim.backend ?? 0))])[0][
                0
            ]
            .int > 0
    }

    func later(_ seconds: Double, _ body: @escaping @Sendable () async -> Void) {
        pending.append(
            Task {
                try? await Task.sleep(for: .seconds(seconds))
                await body()
            })
    }

    // MARK: - Errors

    /// A planted job that throws, or takes its process with it, and is looked for again until it has.
    private func makeError(at point: Point, _ choice: Int) async throws -> Bool {
        planted += 1
        let mark = "\"mark\":\(planted)"
        let ids: [Int64]
        switch point {
        case .claimedNotStarted where choice == 0:
            // It kills every worker that takes it: a crash loop, which ends among the dead.
            ids = try await load.enqueue("chaos_loop", "{\"d\":\"abort\",\"k\":1000,\(mark)}", band: 0)
        case .claimedNotStarted:
            ids = try await load.enqueue("chaos_short", "{\"t\":\(1 + choice),\(mark)}", band: 0)
        case .fanIn:
            // A parent that fails, or takes its process along, before it succeeds: its child waits.
            let parent = choice % 2 == 0 ? "{\"t\":2,\(mark)}" : "{\"d\":\"abort\",\"k\":1,\(mark)}"
            ids = try await load.enqueue("chaos_short", parent, band: 0)
            try await client.query("select queue.enqueue('chaos_short', '{\"p\":0}', waits_for => $1::bigint[])", [.array(ids)])
        case .midHandler:
            let how = choice % 2 == 0 ? "abort" : "memory"
            ids = try await load.enqueue("chaos_short", "{\"d\":\"\(how)\",\"k\":1,\(mark)}", band: 0)
        default:
            let how = ["throw", "abort", "memory"][choice % 3]
            let what = point == .checkpointPublish ? "before" : "at"
            ids = try await load.enqueue("chaos_long", "{\"n\":4,\"p\":0.02,\"d\":\"\(how)\",\"\(what)\":2,\(mark)}", band: 0)
        }
        // Seen when the first of its failures or crashes is on record.
        for _ in 0..<120 {
            let row = try await client.query(
                "select count(*) from chaos.trace where job = any ($1::bigint[]) and what in ('move', 'rescue', 'dead')", [.array(ids)])[0]
            if try row[0].int > 0 { return true }
            try await fleet.ensure(3)
            try await Task.sleep(for: .milliseconds(50))
        }
        return false
    }

    /// The database itself refuses at a point, as it does in a deadlock or under SERIALIZABLE.
    private func inject(_ sqlstate: String, at point: Point) async throws -> Bool {
        func injected() async throws -> Int {
            try await client.query("select case when is_called then last_value else 0 end from chaos.injected")[0][0].int
        }
        let before = try await injected()
        try await client.query(
            "insert into chaos.inject values ($1, $2, 0.7) on conflict (point) do update set sqlstate = excluded.sqlstate",
            [.int(point.rawValue), .string(sqlstate)])
        var struck = false
        for round in 0..<600 where !struck {
            if round % 100 == 0 { try await provokeAgain(point) }
            struck = try await injected() > before
            if !struck { try await Task.sleep(for: .milliseconds(10)) }
        }
        try await client.query("delete from chaos.inject where point = $1", [.int(point.rawValue)])
        return struck
    }

    // MARK: - Starvation

    /// A write-ahead log, or a checkpoint store, without a byte left.
    private func fillDisk(at point: Point, _ pause: Double) async throws -> Bool {
        if point == .betweenCheckpoints || point == .checkpointPublish && pause < 0.025 {
            // The store of the checkpoints' large parts: a write fails, the job with it, and comes back.
            func failures() async throws -> Int {
                try await client.query("select count(*) from chaos.trace where what = 'move' and kind = 'chaos_long'")[0][0].int
            }
            if smallStore {
                for name in (try? FileManager.default.contentsOfDirectory(atPath: blobs)) ?? [] { unlink(blobs + "/" + name) }
            }
            let before = try await failures()
            try await load.enqueue("chaos_long", #"{"n":3,"p":0.02}"#, count: 2, band: 0)
            if smallStore { ChaosServer.fill(blobs, true) } else { try await fleet.start(["limit"]) }
            var struck = false
            for _ in 0..<200 where !struck {
                struck = try await failures() > before
                if !struck { try await Task.sleep(for: .milliseconds(20)) }
            }
            try? await Task.sleep(for: .seconds(pause))
            if smallStore { ChaosServer.fill(blobs, false) }
            return struck
        }
        return try await hold(point) { _ in
            await server.fillDisk(true)
            // Until a statement finds no room: PostgreSQL panics then, by design, and recovers when there is some.
            for _ in 0..<20 {
                guard (try? await client.query("select pg_switch_wal()")) != nil,
                    (try? await client.query("insert into chaos.started (job) select generate_series(1, 2000)")) != nil
                else { break }
            }
            try? await Task.sleep(for: .seconds(pause))
            await server.fillDisk(false)
            try await server.revive()
        }
    }

    /// Four readers with old snapshots and a writer with a transaction number hold the horizon back.
    private func pin(seconds: Double) async throws {
        guard ambient.count < 5 else { return ambient.removeAll { $0.isCancelled } }
        let holder = await server.client(database, connections: 5, name: "harness pin")
        extraClients.append(holder)
        for reader in 0..<5 {
            ambient.append(
                Task {
                    while !Task.isCancelled {
                        _ = try? await holder.transaction(reader == 4 ? "" : "isolation level repeatable read") { connection in
                            try await connection.query(reader == 4 ? "select pg_current_xact_id()" : "select count(*) from queue.job")
                            try await Task.sleep(for: .seconds(seconds * 10))
                        }
                        try? await Task.sleep(for: .milliseconds(50))
                    }
                })
        }
    }

    /// Opens sessions until the server refuses, for so many seconds.
    private func exhaust(seconds: Double) async throws {
        let hog = await server.client(database, connections: 100, name: "harness hog")
        let all = Task {
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<90 {
                    group.addTask { _ = try? await hog.query("select pg_sleep($1)", [.double(seconds)]) }
                }
            }
            await hog.close()
        }
        ambient.append(all)
        try await Task.sleep(for: .milliseconds(60))
    }
}
