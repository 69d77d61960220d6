import Postgres

/// One check after a round: how much was looked at, and what was wrong.
public struct Check: Sendable {
    /// Which invariant, in words.
    public let name: String
    /// How many things it looked at.
    public let examined: Int
    /// How many of them were wrong.
    public let violations: Int
    /// The first of those.
    public let example: String
}

/// The invariants I1 to I9 of the protocol, asked of the database in SQL when a round is over.
enum Invariants {
    /// Each statement answers: examined, violations, an example. `acknowledged` holds what producers were told was committed.
    static let statements: [(name: String, sql: String)] = [
        (
            "I1 a job is in exactly one of live, done, dead",
            """
            select count(*), count(*) filter (where live + done + dead <> 1), min(job || ': ' || live || done || dead) filter (where live + done + dead <> 1)
            from (select i.job, (select count(*) from queue.job j where j.id = i.job) as live,
                case when i.old then (select count(*) from chaos.trace t where t.job = i.job and t.what = 'done')
                    else (select count(*) from queue.done d where d.id = i.job) end as done,
                (select count(*) from queue.dead d where d.id = i.job) as dead
                from (select distinct t.job, t.kind = 'chaos_old' as old from chaos.trace t where t.what = 'in') i) p
            """
        ),
        (
            "I2 tokens strictly increase",
            """
            select count(*), count(*) filter (where wrong), min(job || ' at ' || n || ': ' || coalesce(before::text, '-') || ' to ' || new_token) filter (where wrong)
            from (select t.job, t.n, t.new_token, w.before,
                coalesce(case when t.what = 'claim' then t.new_token <= w.before
                    when t.what in ('rescue', 'move', 'dead') then t.new_token < w.before when t.what = 'done' then t.new_token <> w.before end, false)
                or t.what = 'rescue' and t.new_token <= t.old_token
                or t.old_token is not null and t.old_token <> w.before as wrong
                from chaos.trace t, lateral (select max(u.new_token) as before from chaos.trace u where u.job = t.job and u.n < t.n) w
                where t.what <> 'in') x
            """
        ),
        (
            "I2 one outcome a job",
            """
            select count(*), count(*) filter (where ends > 1), min(job::text) filter (where ends > 1)
            from (select t.job, count(*) as ends from chaos.trace t where t.what in ('done', 'dead') group by t.job) e
            """
        ),
        (
            "I2 done under the token of the last claim",
            """
            select count(*), count(*) filter (where claimed is distinct from token), min(job::text) filter (where claimed is distinct from token)
            from (select d.job, d.new_token as token, (select c.new_token from chaos.trace c where c.job = d.job and c.n < d.n and c.what <> 'out'
                and c.what <> 'waits' order by c.n desc limit 1) as claimed from chaos.trace d where d.what = 'done') x
            """
        ),
        (
            "I3 effects exactly once, under the token that completed the job",
            """
            select count(*), count(*) filter (where effects <> wanted or tokens is distinct from token and wanted = 1),
                min(job || ': ' || effects || ' effects') filter (where effects <> wanted or tokens is distinct from token and wanted = 1)
            from (select i.job, d.new_token as token, (select count(*) from public.effect e where e.job = i.job) as effects,
                (select min(e.token) from public.effect e where e.job = i.job) as tokens,
                (d.job is not null and i.has_effect)::int as wanted
                from (select t.job, (t.headers ->> 'e')::boolean as has_effect
                    from chaos.trace t where t.what = 'in') i
                left join chaos.trace d on d.job = i.job and d.what = 'done') x
            """
        ),
        (
            "I3 no checkpoint outlives its job",
            "select (select count(*) from chaos.trace t where t.what = 'done'), count(*), min(c.job_id::text) from queue.checkpoint c where exists (select from queue.done d where d.id = c.job_id)"
        ),
        (
            "I4 every acknowledged enqueue is there",
            """
            select count(*), count(*) filter (where not known), min(job::text) filter (where not known)
            from (select a.job, exists (select from chaos.trace t where t.job = a.job and t.what = 'in') as known from chaos.acknowledged a) x
            """
        ),
        (
            "I4 every committed job has ended",
            "select (select count(distinct t.job) from chaos.trace t where t.what = 'in'), count(*), min(j.id || ' state ' || j.state || ' ' || j.kind) from queue.job j"
        ),
        (
            "I5 no lease or run is left over",
            "select (select count(*) from chaos.trace t where t.what = 'claim'), count(*), min(r.job_id::text) from queue.run r where not exists (select from queue.job j where j.id = r.job_id)"
        ),
        (
            "I6 one job a firing, and every event counted once",
            """
            select coalesce(sum(s.fired), 0), coalesce(count(*) filter (where wrong), 0), min(s.key) filter (where wrong) from (
                select s.key, s.fired, coalesce((select sum(c.n) from chaos.counted c), 0) as events, s.counter, s.every_new_pairs as every,
                    (select count(*) from chaos.trace t where t.what = 'in' and t.headers ->> 'schedule' = s.key) as jobs
                from queue.schedule s where s.every_new_pairs is not null) s,
                lateral (select s.jobs <> s.fired or (s.events - s.counter) % s.every <> 0 or (s.events - s.counter) < s.fired * s.every as wrong) w
            """
        ),
        (
            "I6 one job a tick, and no tick left out",
            """
            select coalesce(sum(ticks), 0), count(*) filter (where wrong), min(key || ': ' || jobs || ' jobs for ' || ticks || ' ticks') filter (where wrong)
            from (select p.key, count(t.tick) as jobs, count(distinct t.tick) as ticks, s.last_tick is not null and (count(t.tick) <> count(distinct t.tick)
                or count(distinct t.tick) <> extract(epoch from max(t.tick) - p.first) / 60 + 1 or max(t.tick) is distinct from s.last_tick
                or min(t.tick) <> p.first) as wrong
                from chaos.planted p join queue.schedule s on s.key = p.key
                left join (select h.headers ->> 'schedule' as key, (h.headers ->> 'tick')::timestamptz as tick from chaos.trace h
                    where h.what = 'in' and h.headers ? 'tick') t on t.key = p.key
                group by p.key, p.first, s.last_tick) x
            """
        ),
        (
            "I7 children run only after all their parents have succeeded",
            """
            select count(*), count(*) filter (where early or stuck), min(child || ' of ' || parent) filter (where early or stuck)
            from (select i.job as child, p.parent::bigint as parent,
                exists (select from chaos.trace k where k.job = i.job and k.what = 'claim' and not exists (
                    select from chaos.trace d where d.job = p.parent::bigint and d.what = 'done' and d.n < k.n)) as early,
                exists (select from chaos.trace d where d.job = p.parent::bigint and d.what = 'dead')
                    and not exists (select from chaos.trace d where d.job = i.job and d.what = 'dead') as stuck
                from chaos.trace i, jsonb_array_elements_text(i.headers -> 'waits_for') p (parent)
                where i.what = 'in' and i.headers ? 'waits_for') x
            """
        ),
        (
            "I8 rescued only from the lost",
            """
            select count(*), count(*) filter (where not lawful), min(job || ': ' || rescue) filter (where not lawful)
            from (select t.job, t.rescue, coalesce(
                not (t.rescue ->> 'known')::boolean
                or t.rescue ->> 'ended_why' = 'stopped'
                or t.rescue ->> 'ended_why' = 'lease_expired' and (t.rescue ->> 'expires_at')::timestamptz < t.at
                or t.rescue ->> 'ended_why' = 'session_lost' and (t.rescue ->> 'absent_since')::timestamptz < t.at - interval '1.7 seconds'
                or (t.rescue ->> 'lease_until')::timestamptz < t.at
                or (t.rescue ->> 'cancelled')::timestamptz < t.at - interval '29 seconds', false) as lawful
                from chaos.trace t where t.what = 'rescue') x
            """
        ),
        (
            "I9 nothing is claimed while its queue is paused",
            """
            select (select count(*) from chaos.pause), count(*), min(t.job || ' claimed by a statement of ' || t.statement_at || ', paused ' || p.paused_at || ' to ' || coalesce(p.resumed_at::text, 'now')) from chaos.trace t join chaos.pause p on p.queue_id = t.queue_id
            where t.what = 'claim' and t.statement_at > p.paused_at and t.at < coalesce(p.resumed_at, 'infinity')
            """
        ),
    ]

    /// Permits, where the schema has them.
    private static let slotStatements: [(name: String, sql: String)] = [
        (
            "I5 no permit is held by nobody, and none is lost",
            """
            select count(*), count(*) filter (where wrong), min(key) filter (where wrong) from (
                select l.key, l.total <> (select count(*) from queue.slot s where s.key = l.key)
                    or exists (select from queue.slot s where s.key = l.key and s.job_id is not null) as wrong from queue.slot_limit l) x
            """
        )
    ]

    /// Of one snapshot on the way: jobs that run without the permit they need, and permits without their job.
    static let slotSample = """
        select (select count(*) from queue.job j where j.state = 1 and j.slot is not null
            and not exists (select from queue.slot s where s.key = j.slot and s.job_id = j.id and s.token = j.token))
        + (select count(*) from queue.slot s where s.job_id is not null
            and not exists (select from queue.job j where j.id = s.job_id and j.token = s.token and j.state = 1 and j.slot = s.key))
        """

    /// Checks everything there is to check.
    static func check(_ client: PostgresClient, acknowledged: [Int64]) async throws -> [Check] {
        try await client.query("insert into chaos.acknowledged select unnest($1::bigint[])", [.array(acknowledged)])
        try await client.execute("analyze chaos.trace; analyze public.effect; analyze queue.done; analyze queue.dead")
        var checks: [Check] = []
        let slots = try await client.query("select to_regclass('queue.slot') is not null")[0][0].bool
        for (name, sql) in slots ? statements + slotStatements : statements {
            let row = try await client.query(sql)[0]
            checks.append(Check(name: name, examined: try row[0].int, violations: try row[1].int, example: try row[2].optionalString ?? ""))
        }
        return checks
    }
}
