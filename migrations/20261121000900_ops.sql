-- migrate:up

create schema ops;
comment on schema ops is 'What dashboards read. The role foretaste_dashboard can read this and nothing else.';

create view ops.jobs as
select
    j.id, j.kind, q.name as queue,
    case j.state when 0 then 'ready' when 1 then 'leased' when 2 then 'deferred' else 'waiting' end as state,
    j.attempt::int as attempt, j.failures::int as failures, j.rescues::int as rescues, j.band::int as band,
    w.service || '@' || w.host as worker, w.pid,
    j.created_at, j.run_at, j.claimed_at as started_at, null::timestamptz as finished_at,
    r.progress::double precision as progress, r.message,
    case when j.state = 1 and r.progress > r.first_progress then
        extract(epoch from r.updated_at - r.first_progress_at)::double precision * (1 - r.progress) / (r.progress - r.first_progress)
    end as eta,
    j.last_error ->> 'message' as error, r.cancel_requested_at is not null as cancel_requested, j.args, null::jsonb as result
from queue.job j
join queue.queue q on q.id = j.queue_id
left join queue.worker w on w.id = j.worker_id
left join queue.run r on r.job_id = j.id
union all
select
    d.id, d.kind, q.name, 'succeeded', d.attempt, d.failures, d.rescues, null, w.service || '@' || w.host, w.pid,
    d.created_at, null, d.claimed_at, d.finished_at, 1, null, null, null, false, d.args, d.result
from queue.done d
join queue.queue q on q.id = d.queue_id
left join queue.worker w on w.id = d.worker_id
union all
select
    d.id, d.kind, q.name, case d.reason when 'cancelled' then 'cancelled' else 'dead' end, d.attempt, d.failures, d.rescues, d.band,
    w.service || '@' || w.host, w.pid, d.created_at, null, d.claimed_at, d.died_at, null, d.reason, null,
    d.last_error ->> 'message', false, d.args, null
from queue.dead d
join queue.queue q on q.id = d.queue_id
left join queue.worker w on w.id = d.worker_id;
comment on view ops.jobs is 'Every job there is: live (ready, leased, deferred), ended well (succeeded), or given up (dead, cancelled).';
comment on column ops.jobs.attempt is 'How often it was started.';
comment on column ops.jobs.worker is 'service@host of the process that has it, or had it last.';
comment on column ops.jobs.progress is 'From 0 to 1.';
comment on column ops.jobs.eta is 'Seconds left by the pace since this attempt''s first progress.';

create view ops.queue_depth as
select
    q.name as queue, coalesce(j.kind, q.name) as kind,
    count(*) filter (where j.state = 0) as ready,
    count(*) filter (where j.state = 1) as leased,
    count(*) filter (where j.state = 2) as deferred,
    coalesce(extract(epoch from clock_timestamp() - min(coalesce(greatest(j.run_at, j.created_at), j.created_at)) filter (where j.state = 0)), 0)
        ::double precision as oldest_ready_seconds
from queue.queue q left join queue.job j on j.queue_id = q.id
group by q.name, coalesce(j.kind, q.name);
comment on view ops.queue_depth is 'Live jobs by queue and kind; a queue without any has a row of zeros. For autoscalers.';

create view ops.workers as
select
    w.id as worker_id, w.service, w.host, w.pid, w.started_at, w.ended_at, w.ended_why,
    extract(epoch from clock_timestamp() - w.beat_at)::double precision as beat_age_s,
    (select count(*) from queue.job j where j.state = 1 and j.worker_id = w.id) as in_flight
from queue.worker w;
comment on view ops.workers is 'The processes that take jobs, and those that did.';

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
select c.job_id, c.step, c.n, c.token, c.blob_uri as url, encode(c.sha256, 'hex') as sha256, c.bytes, c.created_at
from queue.checkpoint c;
comment on view ops.checkpoints is 'The newest checkpoints of jobs that have not succeeded.';

do $$
begin
    -- Roles belong to the whole cluster: another database may have made it, perhaps just now.
    create role foretaste_dashboard nologin;
exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
        raise warning 'the role foretaste_dashboard was not created: % may not create roles', current_user;
end
$$;
do $$
begin
    if exists (select from pg_roles where rolname = 'foretaste_dashboard') then
        grant usage on schema ops to foretaste_dashboard;
        grant select on all tables in schema ops to foretaste_dashboard;
        alter default privileges in schema ops grant select on tables to foretaste_dashboard;
    end if;
end
$$;

-- migrate:down

drop schema ops cascade;
do $$
begin
    drop role if exists foretaste_dashboard;
exception
    when dependent_objects_still_exist then null; -- Another database of the cluster uses it.
    when insufficient_privilege then null;
end
$$;
