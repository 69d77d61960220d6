import Foundation
import Postgres
import Synchronization

/// What keeps the workers of a round busy: producers that remember what was acknowledged to them, counted events, pauses, cancellations
/// and a sampler that looks for what must not be seen even for a moment.
final class Load: Sendable {
    private struct State {
        var dice: Dice
        var acknowledged: [Int64] = []
        var sampled = 0
        var seen: [String] = []
    }

    private let client: PostgresClient
    private let state: Mutex<State>
    private let backlog: Int
    /// What the schema has.
    private let features = Mutex((slots: false, dependencies: false))
    private let tasks = Mutex<[Task<Void, Never>]>([])

    init(client: PostgresClient, seed: UInt64, backlog: Int = 40) {
        self.client = client
        self.backlog = backlog
        state = Mutex(State(dice: Dice(seed: seed)))
    }

    var acknowledged: [Int64] { state.withLock { $0.acknowledged } }
    /// How often the sampler looked, and what it saw that must not be.
    var samples: (count: Int, seen: [String]) { state.withLock { ($0.sampled, $0.seen) } }

    func start() {
        tasks.withLock {
            $0 = [
                Task { await self.repeatedly(0.04) { try await self.produce() } },
                Task { await self.repeatedly(0.12) { try await self.sample() } },
                Task { await self.repeatedly(0.9) { try await self.pause() } },
                Task { await self.repeatedly(1.3) { try await self.cancelOne() } },
            ]
        }
    }

    func stop() async {
        let running = tasks.withLock { tasks in
            defer { tasks = [] }
            return tasks
        }
        for task in running { task.cancel() }
        for task in running { await task.value }
        for _ in 0..<50 where (try? await resume()) == nil { try? await Task.sleep(for: .milliseconds(100)) }
    }

    /// Errors are the weather here: what was not acknowledged was not promised.
    private func repeatedly(_ seconds: Double, _ body: () async throws -> Void) async {
        while !Task.isCancelled {
            do {
                try await body()
            } catch let error as PostgresError where error.isRetryable {
            } catch is CancellationError {
            } catch {
                state.withLock { $0.seen.append("the harness's own statement failed: \(error)") }
            }
            try? await Task.sleep(for: .seconds(seconds))
        }
    }

    func roll<Value>(_ body: (inout Dice) -> Value) -> Value { state.withLock { body(&$0.dice) } }

    /// Enqueues, and remembers what came back. `kind` and the arguments are ours, not a user's.
    @discardableResult
    func enqueue(_ kind: String, _ arguments: String, count: Int = 1, band: Int = 1) async throws -> [Int64] {
        let rows = try await client.query(
            "select queue.enqueue_many($1, array_fill($2::jsonb, array[$3::int]), band => $4) as id",
            [.string(kind), .json(arguments), .int(count), .int(band)])
        let ids = try rows.map { try $0["id"].int64 }
        state.withLock { $0.acknowledged += ids }
        return ids
    }

    /// Looks what the schema has, and makes a slot of two permits.
    func prepare() async throws {
        let row = try await client.query("select to_regclass('queue.slot') is not null, to_regclass('queue.dep') is not null")[0]
        let (slots, dependencies) = (try row[0].bool, try row[1].bool)
        features.withLock { $0 = (slots, dependencies) }
        if slots { try await client.query("select queue.slots_define('chaos', 2)") }
    }

    var hasDependencies: Bool { features.withLock { $0.dependencies } }

    /// Three jobs, one that waits for them, and one that waits for that; in one transaction, as a pipeline is enqueued.
    func enqueueFamily() async throws {
        let ids = try await client.transaction { connection in
            var ids: [Int64] = []
            func add(_ kind: String, _ arguments: String, after parents: [Int64]) async throws -> Int64 {
                let id = try await connection.query(
                    "select queue.enqueue($1, $2, waits_for => $3::bigint[], band => 0) as id",
                    [.string(kind), .json(arguments), .array(parents)])[0]["id"].int64
                ids.append(id)
                return id
            }
            var parents: [Int64] = []
            for pause in [0.0, 0.02] { parents.append(try await add("chaos_short", "{\"p\":\(pause)}", after: [])) }
            parents.append(try await add("chaos_short", #"{"p":0.01,"e":false}"#, after: []))
            let child = try await add("chaos_short", #"{"p":0.01}"#, after: parents)
            _ = try await add("chaos_short", #"{"p":0,"t":1}"#, after: [child])
            return ids
        }
        state.withLock { $0.acknowledged += ids }
    }

    private func produce() async throws {
        guard try await client.query("select count(*) from queue.job where state in (0, 1)")[0][0].int < backlog else { return }
        let (kind, arguments, count) = roll { dice -> (String, String, Int) in
            switch Int.random(in: 0..<10, using: &dice) {
            case 0..<4: ("chaos_short", #"{"p":\#(Double.random(in: 0...0.06, using: &dice))}"#, 4)
            case 4: ("chaos_short", #"{"p":0.01,"e":false}"#, 4)
            case 5: ("chaos_short", #"{"p":0.01,"t":\#(Int.random(in: 1...3, using: &dice))}"#, 2)
            case 6: ("chaos_old", #"{"p":0.005}"#, 2)
            default: ("chaos_long", #"{"n":\#(Int.random(in: 2...4, using: &dice)),"p":0.03}"#, 2)
            }
        }
        try await enqueue(kind, arguments, count: count)
        let (slots, dependencies) = features.withLock { $0 }
        if dependencies, roll({ $0.chance(0.15) }) { try await enqueueFamily() }
        if slots, roll({ $0.chance(0.4) }) {
            let id = try await client.query(
                "select queue.enqueue($1, $2, slot => 'chaos') as id",
                roll { $0.chance(0.5) }
                    ? [.string("chaos_short"), .json(#"{"p":0.01}"#)] : [.string("chaos_long"), .json(#"{"n":2,"p":0.02}"#)]
            )[0]["id"].int64
            state.withLock { $0.acknowledged.append(id) }
        }
        // Part of one transaction: the job and whatever else its producer writes.
        if roll({ $0.chance(0.3) }) {
            let id = try await client.transaction { connection in
                try await connection.query("insert into chaos.counted (n) values (2)")
                try await connection.query("select queue.count_event('chaos', 2)")
                return try await connection.query("select queue.enqueue('chaos_short', '{\"p\":0}') as id")[0]["id"].int64
            }
            state.withLock { $0.acknowledged.append(id) }
        }
    }

    private func pause() async throws {
        try await client.query("select queue.pause('chaos_long')")
        try await client.query(
            "insert into chaos.pause (queue_id, paused_at) select q.id, clock_timestamp() from queue.queue q where q.name = 'chaos_long'")
        try? await Task.sleep(for: .milliseconds(150))
        try await resume()
    }

    /// Written down first: from that moment on a claim is lawful.
    private func resume() async throws {
        try await client.query("update chaos.pause set resumed_at = clock_timestamp() where resumed_at is null")
        try await client.query("select queue.resume('chaos_long')")
    }

    private func cancelOne() async throws {
        try await client.query(
            "select queue.cancel(j.id, 'chaos') from queue.job j where j.kind in ('chaos_short', 'chaos_long') order by random() limit 1")
    }

    /// One statement, one snapshot: between two commits nothing may be in two places.
    private func sample() async throws {
        let row = try await client.query(
            """
            select (select count(*) from queue.job j where exists (select from queue.done d where d.id = j.id)
                or exists (select from queue.dead d where d.id = j.id)) as places,
            (select count(*) from public.effect e where not exists (select from chaos.trace t where t.job = e.job and t.what = 'done'
                and t.new_token = e.token)) as effects
            """)[0]
        let (places, effects) = (try row["places"].int, try row["effects"].int)
        if features.withLock({ $0.slots }) {
            let wrong = try await client.query(Invariants.slotSample)[0][0].int
            if wrong > 0 { state.withLock { $0.seen.append("\(wrong) permits and jobs that do not belong together") } }
        }
        state.withLock {
            $0.sampled += 1
            if places > 0 { $0.seen.append("\(places) jobs in two places at once") }
            if effects > 0 { $0.seen.append("\(effects) effects without their completion") }
        }
    }
}
