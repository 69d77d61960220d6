import Foundation
@testable import JobQueue
import Postgres
import PostgresTesting

/// Plays commands on PostgreSQL through the product's own calls, and speaks of what comes back in the model's numbers.
final class PostgresPlayer {
    typealias Lease = ModelDatabase.Lease

    private let database: TestDatabase
    private let queue: JobQueue
    private let outcomes: Outcomes
    private let names = ["quick", "slow"]
    /// The database's ids of the model's jobs and workers, which count from 1.
    private var jobs: [Int64] = []
    private var workers: [Int64] = []
    /// The connection whose session stands for each worker.
    private var controls: [Int: PostgresClient] = [:]
    /// What the model's tokens are called in the database.
    private var tokens: [Lease: Int64] = [:]

    init(_ database: TestDatabase) {
        self.database = database
        queue = JobQueue(client: database.client)
        outcomes = Outcomes(client: database.client, logger: quiet)
    }

    static func prepare(_ database: TestDatabase) async throws {
        for (name, kind) in [("quick", "short"), ("slow", "long")] {
            try await database.client.query(
                """
                select queue.define($1, $2, worker_ttl => '20 seconds', max_attempts => 2, max_rescues => 1, backoff_base => '20 seconds',
                    backoff_cap => '20 seconds')
                """, [.string(name), .string(kind)])
        }
    }

    /// An empty queue.
    func begin() async throws {
        try await database.client.execute(
            """
            truncate queue.job, queue.body, queue.done, queue.dead, queue.run, queue.checkpoint, queue.worker, queue.schedule, public.effect;
            truncate queue.slot, queue.slot_limit, queue.dep;
            update queue.queue set paused_at = null, uses_slots = false;
            select queue.slots_define('p0', 1), queue.slots_define('p1', 2);
            select queue.schedule_add('s', 'quick', every_new_pairs => 2, topic => 't')
            """)
    }

    func end() async { for control in controls.values { await control.close() } }

    // MARK: - Playing

    /// - Parameter claimed: the leases that the model gave for the same command: here they get their tokens' names.
    func play(_ command: Command, claimed: [Lease]) async throws -> String {
        let client = database.client
        switch command {
        case .tick: try await tick()
        case .enqueue(let queue, let key, let dueIn, let band, let slot, let parents, let goesOn):
            let id = try await self.queue.enqueue(
                kind: names[queue], dedupeKey: key.map { "k\($0)" }, runAt: dueIn > 0 ? Date() + TimeInterval(dueIn * 10) : nil, band: band,
                slot: slot.map { "p\($0)" }, waitsFor: parents.map { jobs[$0 - 1] }, onParentFailure: goesOn ? .continue : .cancel)
            return "\(number(id))"
        case .register:
            let control = newControl()
            let row = try await control.query(Statements.register, ["test", "here", 1, 20.0]).first
            workers.append(try row?["id"].int64 ?? 0)
            controls[workers.count] = control
            return "\(workers.count)"
        case .beat(let worker, let held, let moving):
            let control = controls[worker] ?? newControl()
            controls[worker] = control
            let parameters: [PostgresValue] = [
                .int(workers[worker - 1]), 20.0, .array(held.map { jobs[$0.id - 1] }), .array(held.map { tokens[$0] ?? -1 }),
                .array(moving),
                .array(held.map { _ in PostgresValue.null }), .array(held.map { _ in String?.none }), true,
            ]
            guard let row = try await control.query(Statements.heartbeat, parameters).first else { return "no answer" }
            let cancelled = try row["cancelled"].intArray.map(number).sorted()
            return "\(try row["alive"].bool) \(cancelled) \(try row["lost"].intArray.map(number).sorted())"
        case .closeSession(let worker):
            guard let control = controls.removeValue(forKey: worker) else { break }
            await control.close()
            while try await client.integer(
                "select count(*) from pg_stat_activity a join queue.worker w on w.backend_pid = a.pid where w.id = $1",
                [.int(workers[worker - 1])]) > 0
            { try await Task.sleep(for: .milliseconds(2)) }
        case .stopWorker(let worker): try await client.query(Statements.stopWorker, [.int(workers[worker - 1])])
        case .claim(let worker, let queue, let upTo):
            let rows = try await client.query(
                Statements.claim, [.int(workers[worker - 1]), .string(names[queue]), .string(names[queue]), .int(upTo)])
            for row in rows {
                let id = number(try row["id"].int64)
                if let lease = claimed.first(where: { $0.id == id }) { tokens[lease] = try row["token"].int64 }
            }
            return "\(try rows.map { number(try $0["id"].int64) }.sorted())"
        case .turn(let worker, let queue, let upTo, let finishing):
            let turn = Turn(
                worker: workers[worker - 1], claiming: upTo,
                acknowledgements: finishing.map { JobRun(of: key($0)) },
                from: (low: [0, 0, 0, 0], firstBand: 0, look: 0))
            let handler = JobHandler(kind: names[queue]) { _ in JobResult() }
            let answer = try await client.withConnection { try await turn.run(for: handler, on: $0) }
            for job in answer.jobs {
                let id = number(job.id)
                if let lease = claimed.first(where: { $0.id == id }) { tokens[lease] = job.token }
            }
            return "\(answer.jobs.map { number($0.id) }.sorted()) fenced \(answer.fenced.map { number($0.id) }.sorted())"
        case .complete(let lease):
            let row: [PostgresValue] = [.int(jobs[lease.id - 1]), .int(tokens[lease] ?? -1)]
            do {
                try await outcomes.complete(
                    key(lease), JobResult { try await $0.query("insert into public.effect (job, token) values ($1, $2)", row) })
                return "true"
            } catch JobError.fenced { return "false" }
        case .fail(let lease, let permanent, let retryAfter):
            struct Plain: Error {}
            var error: any Error = Plain()
            if permanent {
                error = JobError.permanent("x")
            } else if retryAfter > 0 {
                error = JobError.retryAfter(.seconds(retryAfter * 10), "x")
            }
            return try await outcomes.fail(key(lease), error)
        case .release(let lease): return "\(try await flag(Statements.release, lease))"
        case .acknowledgeCancel(let lease): return "\(try await flag(Statements.acknowledgeCancel, lease))"
        case .checkpoint(let lease, let n):
            let parameters: [PostgresValue] = [
                .int(jobs[lease.id - 1]), .int(tokens[lease] ?? -1), "train", .int(n), .json("{}"), nil, nil, nil,
            ]
            return "\(try await client.query(Statements.saveCheckpoint, parameters).first?["kept"].bool ?? false)"
        // A second look follows a tick later, and not when this machine is busy.
        case .rescue: return "\(try await client.integer("select queue.rescue('8 seconds')"))"
        case .promote: return "\(try await client.integer("select queue.promote()"))"
        case .sweep:
            return "\(try await client.query(Statements.sweep, [.array([String]()), .array([Int64]())]).first?["rescued"].int ?? -1)"
        case .cancel(let id): return try await queue.cancel(jobs[id - 1]).rawValue
        case .retry(let id):
            do {
                try await queue.retry(jobs[id - 1])
                return "true"
            } catch let error as PostgresError where error.isUniqueViolation || error.sqlState == "55000" { return "false" }
        case .redrive(let reason): return "\(try await queue.redrive(reason: reason?.rawValue))"
        case .pause(let index): try await queue.pause(names[index])
        case .resume(let index): try await queue.resume(names[index])
        case .countEvents(let n): return "\(try await client.integer(Statements.countEvent, ["t", .int(n)]))"
        }
        return ""
    }

    private func newControl() -> PostgresClient {
        PostgresClient(configuration: PostgresConfiguration(url: database.url), maximumConnections: 1, logger: quiet)
    }

    private func key(_ lease: Lease) -> JobRun.Key { JobRun.Key(id: jobs[lease.id - 1], token: tokens[lease] ?? -1) }

    private func flag(_ sql: String, _ lease: Lease) async throws -> Bool {
        try await database.client.query(sql, [.int(jobs[lease.id - 1]), .int(tokens[lease] ?? -1)]).first?[0].bool ?? false
    }

    /// The model's number of a job; one that was not seen before is the model's next.
    private func number(_ id: Int64) -> Int {
        if let index = jobs.firstIndex(of: id) { return index + 1 }
        jobs.append(id)
        return jobs.count
    }

    /// Ten seconds pass: every moment that something depends on moves so far into the past.
    private func tick() async throws {
        try await database.client.execute(
            """
            update queue.worker set expires_at = expires_at - interval '10 s', absent_since = absent_since - interval '10 s';
            update queue.job set run_at = run_at - interval '10 s', claimed_at = claimed_at - interval '10 s';
            update queue.dead set run_at = run_at - interval '10 s';
            update queue.run set lease_until = lease_until - interval '10 s', cancel_requested_at = cancel_requested_at - interval '10 s'
            """)
    }

    // MARK: - Looking

    private static let observation = """
        with clock as (select clock_timestamp() as now)
        select 'job' as place, j.id, j.token,
            format('%s %s %s %s %s %s %s %s %s %s %s %s', (q.class = 'long')::int, j.band,
                coalesce(case when j.dedupe_key = 'schedule:s' then '99' else substr(j.dedupe_key, 2) end, '-'), j.state,
                case when j.worker_id is null then '-' else (select count(*) from queue.worker w where w.id <= j.worker_id)::text end,
                coalesce(case when j.state = 2 then greatest(ceil(extract(epoch from j.run_at - now) / 10), 0)::text end, '-'),
                coalesce(case when j.state = 1 then least(floor(extract(epoch from now - j.claimed_at) / 10), 2)::text end, '-'),
                j.attempt, j.failures, j.rescues, coalesce(substr(j.slot, 2), '-'), j.waits_on) as text, 1 as part, coalesce(j.seq, 1e15 + j.id)::float8 as n
        from queue.job j join queue.queue q on q.id = j.queue_id, clock
        union all
        select 'done', id, token, format('%s %s %s', attempt, failures, rescues), 2, id from queue.done
        union all
        select 'dead', id, token, format('%s %s %s %s %s', reason,
            coalesce(case when dedupe_key = 'schedule:s' then '99' else substr(dedupe_key, 2) end, '-'), attempt, failures, rescues), 3,
            extract(epoch from died_at) from queue.dead
        union all
        select 'run', job_id, token, format('%s %s',
            case when lease_until is null then '-' else greatest(ceil(extract(epoch from lease_until - now) / 10), 0)::text end,
            case when cancel_requested_at is null then '-'
                else least(floor(extract(epoch from now - cancel_requested_at) / 10), 3)::text end), 4, job_id from queue.run, clock
        union all
        select 'checkpoint', job_id, token, n::text, 5, job_id * 10 + n from queue.checkpoint
        union all
        select 'worker', row_number() over (order by id), null, case when ended_at is not null then 'ended' else
            format('%s %s', greatest(ceil(extract(epoch from expires_at - now) / 10), 0),
                case when absent_since is null then 'false' else 'true' end) end, 6, id from queue.worker, clock
        union all
        select 'schedule', null, null, format('%s %s', counter, fired), 7, 0 from queue.schedule
        union all
        select 'effect', job, token, '', 8, job from public.effect
        union all
        select 'permit', job_id, token, substr(key, 2), 9, job_id from queue.slot where job_id is not null
        union all
        select 'dep', child, null, format('%s %s', parent, goes_on::text), 10, child * 1e6 + parent from queue.dep
        order by part, n
        """

    struct Sight {
        var lines: [String] = []
        var tokens: [String: [Int64]] = [:]
        var order: [Int] = []
    }

    func observe() async throws -> Sight {
        var sight = Sight()
        for row in try await database.client.query(Self.observation) {
            let place = try row["place"].string
            var text = try row["text"].string
            let id = try row["id"].optionalInt64
            let name = place == "worker" ? "\(id ?? 0)" : id.map { "\(number($0))" } ?? ""
            if place == "dep", let parent = Int64(text.prefix { $0 != " " }) { text = "\(number(parent))" + text.drop { $0 != " " } }
            if place == "job", let id { sight.order.append(number(id)) }
            if let token = try row["token"].optionalInt64 {
                sight.tokens[place == "checkpoint" ? "\(place) \(name) \(text)" : "\(place) \(name)", default: []].append(token)
            }
            if place != "effect" { sight.lines.append([place, name, text].filter { !$0.isEmpty }.joined(separator: " ")) }
        }
        return sight
    }

    /// What is wrong with the tokens: each of the model's must have one name for ever, and the names of a job's must grow as they do.
    func compare(_ expected: [(place: String, lease: Lease)], with sight: Sight) -> String? {
        var seen = sight.tokens
        for (place, lease) in expected {
            guard let token = seen[place]?.popLast() else { return "there is no \(place) under token \(lease.token)" }
            if let known = tokens[lease], known != token { return "\(place) has token \(token), not \(known)" }
            for (other, known) in tokens where other.id == lease.id && (other.token < lease.token) != (known < token) && other != lease {
                return "the tokens of \(place) do not grow: \(known) and \(token)"
            }
            tokens[lease] = token
        }
        let rest = seen.filter { !$0.value.isEmpty }
        return rest.isEmpty ? nil : "PostgreSQL has more: \(rest)"
    }
}
