-- migrate:up

-- What dashboards read of jobs: every view is a select over few rows, or over indexes of the live ones.

create schema ops;
comment on schema ops is 'What dashboards read. The role foretaste_dashboard can read this and nothing else.';

-- One table each, no join, and the same types: so `order by id desc limit 20` walks the tables' indexes and stops.
create view ops.jobs as
select
    j.id, j.kind, (select q.name from queue.queue q where q.id = j.queue_id) as queue,
    case j.state when 0 then 'ready' when 1 then 'leased' when 2 then 'deferred' else 'waiting' end as state,
    j.attempt::int as attempt, j.failures::int as failures, j.rescues::int as rescues, j.band::int as band,
    (select w.service || '@' || w.host from queue.worker w where w.id = j.worker_id) as worker,
    (select w.pid from queue.worker w where w.id = j.worker_id) as pid,
    j.created_at, j.run_at, j.claimed_at as started_at, null::timestamptz as finished_at,
    (select r.progress from queue.run r where r.job_id = j.id)::double precision as progress,
    (select r.message from queue.run r where r.job_id = j.id) as message,
    (select case when j.state = 1 and r.progress > r.first_progress then
        extract(epoch from r.updated_at - r.first_progress_at)::double precision * (1 - r.progress) / (r.progress - r.first_progress)
    end from queue.run r where r.job_id = j.id) as eta,
    j.last_error ->> 'message' as error,
    exists (select from queue.run r where r.job_id = j.id and r.cancel_requested_at is not null) as cancel_requested,
    (select b.args from queue.body b where b.id = j.id) as args, null::jsonb as result
from queue.job j
union all
select
    d.id, d.kind, (select q.name from queue.queue q where q.id = d.queue_id), 'succeeded', d.attempt::int, d.failures::int, d.rescues::int,
    null::int,
    (select w.service || '@' || w.host from queue.worker w where w.id = d.worker_id),
    (select w.pid from queue.worker w where w.id = d.worker_id),
    d.created_at, null::timestamptz, d.claimed_at, d.finished_at, 1::double precision, null::text, null::double precision, null::text,
    false, (select b.args from queue.body b where b.id = d.id), d.result
from queue.done d
union all
select
    d.id, d.kind, (select q.name from queue.queue q where q.id = d.queue_id),
    case d.reason when 'cancelled' then 'cancelled' else 'dead' end, d.attempt::int, d.failures::int, d.rescues::int, d.band::int,
    (select w.service || '@' || w.host from queue.worker w where w.id = d.worker_id),
    (select w.pid from queue.worker w where w.id = d.worker_id),
    d.created_at, null::timestamptz, d.claimed_at, d.died_at, null::double precision, d.reason, null::double precision,
    d.last_error ->> 'message', false, (select b.args from queue.body b where b.id = d.id), null::jsonb
from queue.dead d;
comment on view ops.jobs is 'Every job there is: live (ready, leased, deferred, waiting), ended well (succeeded), or given up (dead, cancelled). By id, or the newest by id desc with a limit.';
comment on column ops.jobs.attempt is 'How often it was started.';
comment on column ops.jobs.worker is 'service@host of the process that has it, or had it last.';
comment on column ops.jobs.progress is 'From 0 to 1.';
comment on column ops.jobs.eta is 'Seconds left by the pace since this attempt''s first progress.';

create function queue.depth() returns table (
    queue_id smallint, kind text, ready bigint, leased bigint, deferred bigint, waiting bigint, oldest_ready timestamptz,
    oldest_leased timestamptz
) language sql stable rows 10 set enable_seqscan = off as $$
    -- The line and what is not in it, each by its partial index; the table, with its dead rows, is never read from end to end.
    select l.queue_id, l.kind, coalesce(sum(l.n) filter (where l.state = 0), 0)::bigint, coalesce(sum(l.n) filter (where l.state = 1), 0)::bigint,
        coalesce(sum(l.n) filter (where l.state = 2), 0)::bigint, coalesce(sum(l.n) filter (where l.state = 3), 0)::bigint,
        min(l.since) filter (where l.state = 0), min(l.since) filter (where l.state = 1)
    from (
        select j.state, j.queue_id, j.kind, count(*) as n,
            min(case j.state when 0 then greatest(j.run_at, j.created_at) else j.claimed_at end) as since
        from queue.job j where j.seq is not null group by j.state, j.queue_id, j.kind
        union all
        select j.state, j.queue_id, j.kind, count(*), null from queue.job j where j.seq is null group by j.state, j.queue_id, j.kind
    ) l group by l.queue_id, l.kind
$$;
comment on function queue.depth is 'Live jobs by queue, kind and state. Not for operators: see ops.queue_depth and ops.queue_now.';

create view ops.queue_depth as
select
    q.name as queue, coalesce(d.kind, q.name) as kind, coalesce(d.ready, 0) as ready, coalesce(d.leased, 0) as leased,
    coalesce(d.deferred, 0) as deferred,
    coalesce(extract(epoch from clock_timestamp() - d.oldest_ready), 0)::double precision as oldest_ready_seconds,
    coalesce(d.waiting, 0) as waiting
from queue.queue q left join queue.depth() d on d.queue_id = q.id;
comment on view ops.queue_depth is 'Live jobs by queue and kind; a queue without any has a row of zeros. For autoscalers.';

create view ops.queue_now as
select
    q.name as queue, q.class, q.paused_at is not null as paused, coalesce(d.ready, 0)::bigint as ready,
    coalesce(d.deferred, 0)::bigint as deferred, coalesce(d.leased, 0)::bigint as leased, coalesce(d.waiting, 0)::bigint as waiting,
    (select count(*) from queue.dead x where x.queue_id = q.id and x.reason <> 'cancelled') as dead,
    coalesce(extract(epoch from clock_timestamp() - d.oldest_ready), 0)::double precision as oldest_ready_s,
    coalesce(extract(epoch from clock_timestamp() - d.oldest_leased), 0)::double precision as oldest_leased_s,
    coalesce(c.capacity, 0)::bigint as capacity,
    case when c.capacity > 0 then coalesce(d.leased, 0)::double precision / c.capacity end as utilisation,
    q.history
from queue.queue q
left join (
    select queue_id, sum(ready) as ready, sum(leased) as leased, sum(deferred) as deferred, sum(waiting) as waiting,
        min(oldest_ready) as oldest_ready, min(oldest_leased) as oldest_leased
    from queue.depth() group by queue_id
) d on d.queue_id = q.id
left join (
    select l.queue, sum(l.capacity) as capacity
    from queue.worker_report r
    join queue.worker w on w.id = r.worker_id and w.ended_at is null and not r.draining,
        jsonb_to_recordset(r.lanes) l (queue text, capacity int)
    group by l.queue
) c on c.queue = q.name;
comment on view ops.queue_now is 'A row a queue: depth by state, age of the oldest ready and the oldest running job, and how much of the workers'' capacity is used. Alert when oldest_ready_s stays above what the queue promises.';
comment on column ops.queue_now.history is 'Whether jobs that succeed stay to be seen (queue.define).';
comment on column ops.queue_now.capacity is 'How many jobs the live workers can run at a time, as they said within the last half minute.';

create function queue.leased() returns setof bigint language sql stable rows 100 set enable_seqscan = off as $$
    -- No index names the leased jobs, so that a claim touches none. They are at the head of their line, or have a row of their own.
    select r.job_id from queue.run r
    union
    select i.id from queue.queue q cross join generate_series(0, 3) band
    cross join lateral (
        select j.id, j.state from queue.job j where j.queue_id = q.id and j.band = band and j.seq is not null order by j.seq limit 1000
    ) i
    where i.state = 1
$$;
comment on function queue.leased is 'Ids of jobs that run (and of a few that just ended): all of long queues, and of short ones those among the first thousand of their line. Not for operators.';

create view ops.running as
select
    j.id as job_id, q.name as queue, j.kind, w.service || '@' || w.host || ':' || w.pid as worker, w.host,
    extract(epoch from clock_timestamp() - j.claimed_at)::double precision as elapsed_s, r.progress::double precision as progress, r.message,
    case when r.progress > r.first_progress then
        extract(epoch from r.updated_at - r.first_progress_at)::double precision * (1 - r.progress) / (r.progress - r.first_progress)
    end as eta_s,
    extract(epoch from clock_timestamp() - w.beat_at)::double precision as last_beat_s,
    extract(epoch from coalesce(r.lease_until, w.expires_at) - clock_timestamp())::double precision as lease_left_s,
    j.attempt::int as attempt, c.n as checkpoint_step,
    extract(epoch from clock_timestamp() - c.created_at)::double precision as checkpoint_age_s,
    r.cancel_requested_at is not null as cancel_requested
from queue.leased() l (id)
join queue.job j on j.id = l.id
join queue.queue q on q.id = j.queue_id
left join queue.worker w on w.id = j.worker_id
left join queue.run r on r.job_id = j.id
left join lateral (select k.n, k.created_at from queue.checkpoint k where k.job_id = j.id order by k.created_at desc limit 1) c on true
where j.state = 1;
comment on view ops.running is 'Jobs that run now: for how long, how far, until when their lease holds, and what would be lost if they died.';

create view ops.workers as
select
    w.id as worker_id, w.service, w.host, w.pid, w.started_at, w.ended_at, w.ended_why,
    extract(epoch from clock_timestamp() - w.beat_at)::double precision as beat_age_s,
    coalesce(held.jobs, 0) as in_flight,
    r.version,
    w.ended_at is null and exists (select from pg_stat_get_activity(w.backend_pid)) as backend_alive,
    (select sum(l.capacity) from jsonb_to_recordset(r.lanes) l (capacity int)) as capacity,
    coalesce(r.draining, false) as draining, r.cpu_percent, round(r.rss_bytes / 1048576.0, 1) as rss_mb, r.lanes
from queue.worker w
left join queue.worker_report r on r.worker_id = w.id
left join (
    select j.worker_id, count(*) as jobs from queue.leased() l (id) join queue.job j on j.id = l.id where j.state = 1 group by j.worker_id
) held on held.worker_id = w.id;
comment on view ops.workers is 'The processes that take jobs, and those that did. Alert when a service has none alive (ended_at is null).';
comment on column ops.workers.backend_alive is 'Whether the session of its control connection exists; without it the worker is held to be lost within two seconds.';

create view ops.dead_letters as
select d.id, q.name as queue, d.kind, d.reason, d.died_at, d.attempt::int as attempts, d.failures::int as failures,
    d.rescues::int as rescues, d.last_error ->> 'message' as error,
    (select b.args from queue.body b where b.id = d.id) as args
from queue.dead d join queue.queue q on q.id = d.queue_id;
comment on view ops.dead_letters is 'Jobs that were given up or cancelled. queue.retry(id) brings one back, queue.redrive(kind => …) many.';

create view ops.retries as
select q.name as queue, j.kind, j.failures::int as failure_no, count(*) as jobs, min(j.run_at) as next_run_at, max(j.run_at) as last_run_at
from queue.job j join queue.queue q on q.id = j.queue_id
where j.seq is null and j.state = 2 and j.failures > 0 group by q.name, j.kind, j.failures;
comment on view ops.retries is 'Jobs that failed and wait for another try, by how often they failed.';

create view ops.schedules as
select
    s.key, q.name as queue, s.kind, s.args, s.topic, s.every_new_pairs, s.counter, s.fired, s.paused_at, s.last_at, s.last_job_id,
    s.cron, s.time_zone, s.missed, s.overlap, extract(epoch from s.jitter)::double precision as jitter_s, s.next_at, s.last_tick, s.skipped,
    s.last_outcome,
    coalesce(
        (select case j.state when 0 then 'ready' when 1 then 'leased' when 2 then 'deferred' else 'waiting' end
            from queue.job j where j.id = s.last_job_id),
        (select 'succeeded' from queue.done d where d.id = s.last_job_id limit 1),
        (select case d.reason when 'cancelled' then 'cancelled' else 'dead' end from queue.dead d where d.id = s.last_job_id)) as last_job_state,
    extract(epoch from s.last_at - s.last_tick)::double precision as last_lateness_s,
    case when s.paused_at is null then greatest(extract(epoch from clock_timestamp() - s.next_at), 0)::double precision end as overdue_s
from queue.schedule s join queue.queue q on q.id = s.queue_id;
comment on view ops.schedules is 'Schedules: what they have counted since they last fired, or when they are next due; what came of the last time.';
comment on column ops.schedules.last_lateness_s is 'How long after its time the last firing was.';
comment on column ops.schedules.overdue_s is 'How long a time has passed that nobody has served: above a few seconds, no worker runs.';

create view ops.checkpoints as
select c.job_id, c.step, c.n, c.token, c.blob_uri as url, encode(c.sha256, 'hex') as sha256, c.bytes, c.created_at,
    extract(epoch from clock_timestamp() - c.created_at)::double precision as age_s,
    coalesce((select j.kind from queue.job j where j.id = c.job_id), (select d.kind from queue.dead d where d.id = c.job_id)) as kind
from queue.checkpoint c;
comment on view ops.checkpoints is 'The newest checkpoints of jobs that have not succeeded.';

create view ops.audit as
select a.at, a.actor, a.on_behalf_of, a.application, a.action, a.target, a.args from queue.audit a;
comment on view ops.audit is 'What operators did, by whom and when. It cannot be changed.';

-- migrate:down

drop function queue.depth, queue.leased cascade;
drop schema ops cascade;
