import Foundation
import Glibc
import Postgres

/// A process that takes leases, is frozen until they are over and their jobs run elsewhere, and then writes as if nothing had happened.
///
/// `URL SHORT LONG TTL [broken]`: enqueues and claims so many jobs of either class in one transaction, says `holding`, and waits for SIGUSR1, which
/// the harness sends while it is frozen. Then every write of the protocol is attempted with every lease, each in a statement that reports
/// how many were accepted. It knows no better than to trust its tokens: nothing of the client library stands between it and the SQL.
/// With `broken` its completions ignore the token, as a queue without fences would.
struct ZombieWorker {
    let url: String
    let short: Int
    let long: Int
    let ttl: Double
    let isBroken: Bool

    init(arguments: [String]) {
        url = arguments[0]
        func number(_ index: Int, _ other: Double) -> Double { arguments.count > index ? Double(arguments[index]) ?? other : other }
        short = Int(number(1, 100))
        long = Int(number(2, 20))
        ttl = number(3, 1.5)
        isBroken = arguments.contains("broken")
    }

    func run() async throws {
        let client = PostgresClient(
            configuration: PostgresConfiguration(url: url), maximumConnections: 2, applicationName: "zombie:\(getpid())",
            logger: JobQueueTestWorker.logger)
        let woken = AsyncStream.makeStream(of: Void.self)
        signal(SIGUSR1, SIG_IGN)
        let source = DispatchSource.makeSignalSource(signal: SIGUSR1, queue: .global())
        source.setEventHandler { woken.continuation.yield() }
        source.resume()

        let worker = try await client.query(
            "select queue.register_worker($1, 'here', $2, $3 * interval '1 second') as id",
            [.string("zombie:\(getpid())"), .int(Int(getpid())), .double(ttl)])[0]["id"].int64
        var leases: [(id: Int64, token: Int64)] = []
        try await client.transaction { connection in
            for (kind, count, arguments) in [("chaos_short", short, #"{"p":0}"#), ("chaos_long", long, #"{"n":2,"p":0.01}"#)]
            where count > 0 {
                // A quarter of them run long enough elsewhere to be running still when this process wakes.
                try await connection.query(
                    """
                    select queue.enqueue_many($1, array(select case when n % 4 = 0 then
                        ($2::jsonb || '{"p": 2.5, "zombie": true}') else $2::jsonb || '{"zombie": true}' end from generate_series(1, $3) n), band => 0)
                    """, [.string(kind), .json(arguments), .int(count)])
                let rows = try await connection.query(
                    "select id, token from queue.claim($1, $2, $2, $3)", [.int(worker), .string(kind), .int(count)])
                for row in rows { leases.append((try row["id"].int64, try row["token"].int64)) }
            }
        }
        say("holding \(worker) \(leases.count)")
        for await _ in woken.stream { break }
        for (name, attempted, accepted) in try await attempts(client, worker, leases) { say("\(name) \(attempted) \(accepted)") }
        say("over")
        source.cancel()
        await client.close()
        exit(0)
    }

    private func say(_ line: String) { FileHandle.standardOutput.write(Data((line + "\n").utf8)) }

    private typealias Attempt = (name: String, attempted: Int, accepted: Int)

    private func attempts(_ client: PostgresClient, _ worker: Int64, _ leases: [(id: Int64, token: Int64)]) async throws -> [Attempt] {
        let (ids, tokens) = (PostgresValue.array(leases.map(\.id)), PostgresValue.array(leases.map(\.token)))
        var results: [Attempt] = []
        func count(_ name: String, _ sql: String, _ parameters: [PostgresValue]) async throws {
            results.append((name, leases.count, try await client.query(sql, parameters)[0][0].int))
        }
        func each(_ name: String, _ accepted: String) async throws {
            try await count(
                name, "select count(*) filter (where \(accepted)) from unnest($1::bigint[], $2::bigint[]) l (id, token)", [ids, tokens])
        }
        // The heartbeat first, as a process that wakes would send it: it must not bring the lease back.
        let heartbeat = """
            select cardinality($2::bigint[]) - cardinality(b.lost) + b.alive::int as accepted from queue.heartbeat($1, $5 * interval '1 second',
                $2::bigint[], $3::bigint[], array_fill(true, array[$4::int]), array_fill(0.99::real, array[$4::int]), array_fill('zombie'::text, array[$4::int])) b
            """
        try await count("heartbeat", heartbeat, [.int(worker), ids, tokens, .int(leases.count), .double(ttl)])
        try await each("checkpoint", "queue.save_checkpoint(l.id, l.token, 'train', 1000000, '{}')")
        var effects = 0
        if isBroken {
            effects = try await completeRegardless(client, leases)
        } else {
            for lease in leases {
                effects += try await client.transaction { connection in
                    let parameters: [PostgresValue] = [.int(lease.id), .int(lease.token)]
                    guard try await connection.query("select queue.hold($1, $2) as held", parameters)[0]["held"].bool else { return 0 }
                    try await connection.query(
                        "insert into public.effect (job, token, pid) values ($1, $2, $3)", parameters + [.int(Int(getpid()))])
                    return 1
                }
            }
        }
        results.append(("effect", leases.count, effects))
        try await count(
            "complete",
            "select count(*) from queue.complete($1::bigint[], $2::bigint[], array_fill('{}'::jsonb, array[cardinality($1::bigint[])]))",
            [ids, tokens])
        // Finishes under the old tokens and asks for new jobs under the old registration; what it is given counts as accepted too.
        try await count(
            "turn",
            """
            select cardinality($2::bigint[]) - count(*) filter (where t.fenced) + count(*) filter (where not t.fenced)
            from queue.turn($1, 'chaos_short', 'chaos_short', 5, '{0,0,0,0}', $2::bigint[], $3::bigint[]) t
            """, [.int(worker), ids, tokens])
        try await each("fail", "queue.fail(l.id, l.token, '{}') <> 'fenced'")
        try await each("acknowledge_cancel", "queue.acknowledge_cancel(l.id, l.token)")
        try await each("release", "queue.release(l.id, l.token)")
        // Under a new registration, as the client library would: progress and run leases of jobs that are others' now.
        let again = try await client.query(
            "select queue.register_worker('zombie again', 'here', $1, interval '1 second') as id", [.int(Int(getpid()))])[0]["id"].int64
        let progress = heartbeat.replacing("+ b.alive::int", with: "")
        try await count("progress", progress, [.int(again), ids, tokens, .int(leases.count), .double(1)])
        try await client.query("select queue.stop_worker($1)", [.int(again)])
        return results
    }

    /// What the queues without fences do: the job is done because this process says so.
    private func completeRegardless(_ client: PostgresClient, _ leases: [(id: Int64, token: Int64)]) async throws -> Int {
        var accepted = 0
        for lease in leases {
            accepted += try await client.query(
                """
                with fin as (delete from queue.job where id = $1 returning *),
                effect as (insert into public.effect (job, token, pid) select id, $2, $3 from fin)
                insert into queue.done (id, token, queue_id, kind, worker_id, attempt, failures, rescues, created_at, claimed_at)
                select id, $2, queue_id, kind, worker_id, attempt, failures, rescues, created_at, claimed_at from fin returning id
                """, [.int(lease.id), .int(lease.token), .int(Int(getpid()))]
            ).count
        }
        return accepted
    }
}
