-- migrate:up

create schema queue;
comment on schema queue is
    'Jobs: one narrow table of live jobs, everything else off the hot path. Operators call the functions, dashboards read schema ops.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------------

create table queue.queue (
    id smallint generated always as identity primary key,
    name text not null unique,
    class text not null check (class in ('short', 'long')),
    paused_at timestamptz,
    worker_ttl interval not null,
    stall_timeout interval,
    max_attempts smallint not null check (max_attempts > 0),
    max_rescues smallint not null check (max_rescues >= 0),
    backoff_base interval not null default '1 second',
    backoff_cap interval not null,
    retention interval
);
comment on table queue.queue is 'Settings, a row a queue. A job goes to the queue named like its kind unless told otherwise.';
comment on column queue.queue.class is 'short: milliseconds to seconds, under the worker''s lease. long: minutes to hours, a run row with its own lease each.';
comment on column queue.queue.worker_ttl is 'Lease of a worker (and of a run); renewed every third of it.';
comment on column queue.queue.stall_timeout is 'A long run that has reported no progress for this long loses its lease though its process lives; null: never.';
comment on column queue.queue.max_attempts is 'Failures (errors thrown by the handler) after which the job is dead.';
comment on column queue.queue.max_rescues is 'Crashes (leases lost with the worker) after which the job is dead: a crash loop.';
comment on column queue.queue.retention is 'How long finished jobs stay in queue.done; null: for ever.';

create table queue.worker (
    id bigint generated always as identity primary key,
    service text not null,
    host text not null,
    pid int not null,
    backend_pid int not null,
    backend_start timestamptz,
    started_at timestamptz not null default clock_timestamp(),
    beat_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    absent_since timestamptz,
    ended_at timestamptz,
    ended_why text
) with (fillfactor = 50);
create index worker_live on queue.worker (id) where ended_at is null;
comment on table queue.worker is 'A row a process that takes jobs. backend_pid and backend_start name the session of its control connection.';
comment on column queue.worker.absent_since is 'When the sweep first missed that session in pg_stat_activity.';
comment on column queue.worker.ended_why is 'stopped, lease_expired or session_lost.';

create sequence queue.job_id;
-- Not cached: a cached block would hand out numbers below those that a claim has already passed.
create sequence queue.seq cache 1;

create table queue.job (
    id bigint primary key default nextval('queue.job_id'),
    seq bigint not null default nextval('queue.seq'),
    token bigint not null default 0,
    worker_id bigint,
    run_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    claimed_at timestamptz,
    queue_id smallint not null,
    band smallint not null default 1 check (band between 0 and 3),
    state smallint not null default 0 check (state between 0 and 3),
    attempt smallint not null default 0,
    failures smallint not null default 0,
    rescues smallint not null default 0,
    kind text not null,
    dedupe_key text,
    args jsonb not null,
    last_error jsonb,
    headers jsonb
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index job_ready on queue.job (queue_id, band, seq) where state = 0;
create index job_due on queue.job (run_at) where state = 2;
create index job_leased on queue.job (worker_id) where state = 1;
create unique index job_dedupe on queue.job (dedupe_key) where dedupe_key is not null;
comment on table queue.job is 'Live jobs only: a finished one moves to queue.done, one that is given up to queue.dead.';
comment on column queue.job.state is '0 ready, 1 leased, 2 deferred until run_at, 3 waiting for other jobs (not used yet).';
comment on column queue.job.token is 'Fencing token: grows at every claim, rescue, release, cancel and retry; whoever holds an older one can write nothing.';
comment on column queue.job.attempt is 'Claims so far.';
comment on column queue.job.band is 'Priority, 0 first.';

create table queue.done (
    id bigint not null,
    token bigint not null,
    queue_id smallint not null,
    kind text not null,
    worker_id bigint,
    attempt smallint not null,
    failures smallint not null,
    rescues smallint not null,
    created_at timestamptz not null,
    claimed_at timestamptz,
    finished_at timestamptz not null default clock_timestamp(),
    args jsonb not null,
    result jsonb,
    headers jsonb
) partition by range (finished_at);
create index done_id on queue.done (id);
create table queue.done_default partition of queue.done default;
comment on table queue.done is 'Jobs that succeeded, a partition a day, made ahead by queue.create_partitions().';

create table queue.dead (
    like queue.job including defaults,
    died_at timestamptz not null default clock_timestamp(),
    reason text not null check (reason in ('permanent', 'attempts', 'crash_loop', 'cancelled')),
    primary key (id)
);
create index dead_died_at on queue.dead (died_at);
comment on table queue.dead is 'Jobs that were given up, whole, so that queue.retry(id) and queue.redrive() can bring them back.';

create table queue.run (
    job_id bigint primary key,
    token bigint not null,
    worker_id bigint,
    lease_until timestamptz,
    progress real not null default 0,
    message text not null default '',
    first_progress real,
    first_progress_at timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason text,
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
comment on table queue.run is 'What a running job says of itself, and what it is asked: a row for each leased job of a long queue, and for each short one asked to cancel.';

create table queue.checkpoint (
    job_id bigint not null,
    step text not null,
    n bigint not null,
    token bigint not null,
    state jsonb,
    blob_uri text,
    sha256 bytea,
    bytes bigint,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, step, n)
);
comment on table queue.checkpoint is 'The two newest checkpoints of each named step of a job, written only under its live token.';

create table queue.schedule (
    key text primary key,
    queue_id smallint not null,
    kind text not null,
    args jsonb not null,
    topic text not null,
    every_new_pairs int not null check (every_new_pairs > 0),
    counter bigint not null default 0,
    fired bigint not null default 0,
    paused_at timestamptz,
    last_at timestamptz,
    last_job_id bigint,
    created_at timestamptz not null default clock_timestamp()
);
create index schedule_topic on queue.schedule (topic);
comment on table queue.schedule is 'A job to enqueue whenever every_new_pairs events of a topic were counted.';
comment on column queue.schedule.counter is 'Events counted since the last firing.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Settings, partitions, retention
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.define(
    name text, class text default 'short', worker_ttl interval default null, max_attempts int default null,
    max_rescues int default null, backoff_base interval default null, backoff_cap interval default null,
    stall_timeout interval default null, retention interval default null
) returns smallint language sql as $$
    insert into queue.queue as q
        (name, class, worker_ttl, max_attempts, max_rescues, backoff_base, backoff_cap, stall_timeout, retention)
    values (
        define.name, define.class,
        coalesce(define.worker_ttl, case define.class when 'long' then interval '30 seconds' else interval '10 seconds' end),
        coalesce(define.max_attempts, case define.class when 'long' then 5 else 20 end),
        coalesce(define.max_rescues, 10),
        coalesce(define.backoff_base, interval '1 second'),
        coalesce(define.backoff_cap, case define.class when 'long' then interval '1 hour' else interval '15 minutes' end),
        coalesce(define.stall_timeout, case define.class when 'long' then interval '15 minutes' end),
        coalesce(define.retention, case define.class when 'short' then interval '7 days' end))
    on conflict (name) do update set
        class = excluded.class, worker_ttl = excluded.worker_ttl, max_attempts = excluded.max_attempts,
        max_rescues = excluded.max_rescues, backoff_base = excluded.backoff_base, backoff_cap = excluded.backoff_cap,
        stall_timeout = excluded.stall_timeout, retention = excluded.retention
    returning id
$$;
comment on function queue.define is 'Creates a queue, or changes its settings; a setting not given takes the default of the class.';

select queue.define('verify_preference', 'short', max_attempts => 8);
select queue.define('train_reward', 'long');
select queue.define('evaluate_reward', 'long');
select queue.define('tune_generator', 'long');
select queue.define('generate', 'long');
select queue.define('score_latents', 'long');

-- In UTC, whoever calls it: the days of two time zones overlap.
create function queue.create_partitions(ahead int default 7) returns int language plpgsql set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    day date;
    partition text;
    made int := 0;
begin
    for day in select current_date + n from generate_series(0, ahead) n loop
        partition := 'done_' || to_char(day, 'YYYYMMDD');
        -- A day whose rows already went to the default partition stays there: moving them is not worth a lock.
        continue when to_regclass('queue.' || partition) is not null
            or exists (select from queue.done_default where finished_at >= day and finished_at < day + 1);
        execute format('create table queue.%I (like queue.done including all)', partition);
        execute format('alter table queue.done attach partition queue.%I for values from (%L) to (%L)',
            partition, day::timestamptz, (day + 1)::timestamptz);
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function queue.create_partitions is 'Makes the daily partitions of queue.done for today and the days ahead; returns how many were new.';

select queue.create_partitions();

create function queue.prune() returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    gone bigint;
begin
    if not pg_try_advisory_xact_lock(hashtext('queue.prune')) then
        return 0;
    end if;
    perform queue.create_partitions();
    with old as (
        delete from queue.done d using queue.queue q
        where q.id = d.queue_id and d.finished_at < now() - q.retention returning 1
    ) select count(*) into gone from old;
    delete from queue.worker where ended_at < now() - interval '90 days';
    return gone;
end
$$;
comment on function queue.prune is 'Deletes finished jobs past their queue''s retention; workers call it every ten minutes.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Enqueue
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.ring(class text) returns void language sql as $$
    -- A doorbell, never data: identical notifications of one transaction collapse into one.
    select pg_notify('queue_' || class, '')
$$;
comment on function queue.ring is 'Wakes the workers of a class of queues (short, long) when the transaction commits.';

create function queue.find(name text) returns queue.queue language plpgsql stable as $$
#variable_conflict use_column
declare
    found_queue queue.queue;
begin
    select q.* into found_queue from queue.queue q where q.name = find.name;
    if not found then
        raise exception 'there is no queue named %', find.name using errcode = 'no_data_found',
            hint = 'known: ' || coalesce((select string_agg(q.name, ', ' order by q.name) from queue.queue q), 'none')
                || '. A new one is made with queue.define(name, class).';
    end if;
    return found_queue;
end
$$;
comment on function queue.find is 'The settings of a queue; an error that lists the known ones if there is none of that name.';

create function queue.enqueue(
    kind text, args jsonb default '{}', queue text default null, dedupe_key text default null,
    run_at timestamptz default null, band int default 1, headers jsonb default null
) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(coalesce(enqueue.queue, enqueue.kind));
    later boolean := coalesce(enqueue.run_at > clock_timestamp(), false);
    job bigint;
begin
    loop
        insert into queue.job (queue_id, kind, args, dedupe_key, run_at, band, state, headers)
        values (target.id, enqueue.kind, coalesce(enqueue.args, '{}'), enqueue.dedupe_key, case when later then enqueue.run_at end,
            enqueue.band, case when later then 2 else 0 end, enqueue.headers)
        on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing
        returning id into job;
        if found then
            if not later then
                perform queue.ring(target.class);
            end if;
            return job;
        end if;
        select j.id into job from queue.job j where j.dedupe_key = enqueue.dedupe_key;
        if found then
            return job;
        end if;
        -- The live job with this key ended between the two statements: try again.
    end loop;
end
$$;
comment on function queue.enqueue is 'Adds a job and returns its id; with a dedupe_key that a live job has, returns that one''s. Part of the caller''s transaction. '
    'Example: select queue.enqueue(''train_reward'', ''{"name":"reward-overall","backbone":"wan-demo"}'')';

create function queue.enqueue_many(kind text, args jsonb[], dedupe_keys text[] default null, queue text default null, band int default 1)
returns setof bigint language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(coalesce(enqueue_many.queue, enqueue_many.kind));
begin
    return query
        insert into queue.job (queue_id, kind, args, dedupe_key, band)
        select target.id, enqueue_many.kind, new.args, new.dedupe_key, enqueue_many.band
        from unnest(enqueue_many.args, enqueue_many.dedupe_keys) with ordinality new (args, dedupe_key, n) where new.args is not null order by n
        on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing
        returning id;
    perform queue.ring(target.class);
end
$$;
comment on function queue.enqueue_many is 'Adds many jobs in one statement and returns the ids of the new ones; those whose dedupe key is live are left out.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Workers: register, beat, claim
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.register_worker(service text, host text, pid int, ttl interval) returns bigint language sql as $$
    insert into queue.worker (service, host, pid, backend_pid, backend_start, expires_at)
    select register_worker.service, register_worker.host, register_worker.pid, a.pid, a.backend_start, clock_timestamp() + ttl
    from pg_stat_get_activity(pg_backend_pid()) a
    returning id
$$;
comment on function queue.register_worker is 'Called on a worker''s control connection, whose session stands for the process from now on.';

create function queue.stop_worker(worker bigint) returns void language sql as $$
    update queue.worker w set ended_at = clock_timestamp(), ended_why = 'stopped' where w.id = stop_worker.worker and w.ended_at is null
$$;
comment on function queue.stop_worker is 'A worker says good-bye; what it still holds is rescued at the next sweep.';

create function queue.heartbeat(
    worker bigint, ttl interval, ids bigint[] default '{}', tokens bigint[] default '{}', moving boolean[] default '{}',
    progress real[] default '{}', messages text[] default '{}', out alive boolean, out cancelled bigint[], out lost bigint[]
) language plpgsql as $$
#variable_conflict use_column
declare
    stray queue.job;
begin
    -- A beat that a crash of the server forgets is like one that came late.
    perform set_config('synchronous_commit', 'off', true);
    update queue.worker w set beat_at = clock_timestamp(), expires_at = clock_timestamp() + heartbeat.ttl,
        backend_pid = a.pid, backend_start = a.backend_start, absent_since = null
    from pg_stat_get_activity(pg_backend_pid()) a
    where w.id = heartbeat.worker and w.ended_at is null;
    alive := found;
    cancelled := '{}';
    lost := heartbeat.ids;
    if not alive then
        return;
    end if;
    update queue.run r set
        lease_until = case when said.moving then clock_timestamp() + q.worker_ttl else r.lease_until end, updated_at = clock_timestamp(),
        progress = coalesce(said.progress, r.progress), message = coalesce(said.message, r.message),
        first_progress = coalesce(r.first_progress, said.progress),
        first_progress_at = coalesce(r.first_progress_at, case when said.progress is not null then clock_timestamp() end)
    from unnest(heartbeat.ids, heartbeat.tokens, heartbeat.moving, heartbeat.progress, heartbeat.messages)
        said (id, token, moving, progress, message)
    join queue.job j on j.id = said.id and j.token = said.token and j.state = 1
    join queue.queue q on q.id = j.queue_id and q.class = 'long'
    where r.job_id = said.id and r.token = said.token;
    if exists (select from unnest(heartbeat.messages) m where m is not null) then
        perform pg_notify('queue_progress', '');
    end if;
    select coalesce(array_agg(said.id), '{}') into lost
    from unnest(heartbeat.ids, heartbeat.tokens) said (id, token)
    where not exists (select from queue.job j where j.id = said.id and j.token = said.token and j.state = 1);
    -- Leased to this worker for long, and it knows nothing of them: the answer to a claim was lost, or it gave them up while the
    -- database was away. No other rule would ever take them from a worker that lives.
    for stray in
        select j.* from queue.job j
        where j.worker_id = heartbeat.worker and j.state = 1 and j.claimed_at < clock_timestamp() - heartbeat.ttl
            and j.id <> all (heartbeat.ids)
        for update skip locked
    loop
        perform queue.hand_back(stray);
    end loop;
    select coalesce(array_agg(j.id), '{}') into cancelled
    from queue.job j join queue.run r on r.job_id = j.id
    where j.worker_id = heartbeat.worker and j.state = 1 and r.cancel_requested_at is not null;
end
$$;
comment on function queue.heartbeat is 'Renews a worker''s lease, and those of its runs that move; ids and tokens are all the jobs it holds. '
    'Answers whether the worker is still held to be alive, which of its jobs are asked to cancel, and which of the ids are no longer its.';

create function queue.claim(worker bigint, queue text, kind text, up_to int)
returns table (id bigint, token bigint, attempt smallint, failures smallint, rescues smallint, args jsonb, headers jsonb, created_at timestamptz)
language plpgsql as $$
#variable_conflict use_column
declare
    source queue.queue;
begin
    -- A claim that a crash of the server forgets leaves the job ready under its old token. The next claim must not give the same token
    -- to somebody else while the first one still believes in it, so tokens grow by a random stride.
    perform set_config('synchronous_commit', 'off', true);
    select q.* into source from queue.queue q where q.name = claim.queue and q.paused_at is null
        and exists (select from queue.worker w where w.id = claim.worker and w.ended_at is null and w.expires_at > clock_timestamp());
    if not found then
        return;
    end if;
    -- state = 0 is a literal, so that the partial index is used by generic plans too.
    if source.class = 'short' then
        return query
            with pick as (
                select j.id from queue.job j where j.state = 0 and j.queue_id = source.id and j.kind = claim.kind
                order by j.band, j.seq limit claim.up_to for update skip locked
            )
            update queue.job j set state = 1, worker_id = claim.worker, token = j.token + 1 + floor(random() * 1000000)::bigint, attempt = j.attempt + 1,
                claimed_at = clock_timestamp()
            from pick where j.id = pick.id
            returning j.id, j.token, j.attempt, j.failures, j.rescues, j.args, j.headers, j.created_at;
    else
        return query
            with pick as (
                select j.id from queue.job j where j.state = 0 and j.queue_id = source.id and j.kind = claim.kind
                order by j.band, j.seq limit claim.up_to for update skip locked
            ), got as (
                update queue.job j set state = 1, worker_id = claim.worker, token = j.token + 1 + floor(random() * 1000000)::bigint, attempt = j.attempt + 1,
                    claimed_at = clock_timestamp()
                from pick where j.id = pick.id returning j.*
            ), run as (
                insert into queue.run as r (job_id, token, worker_id, lease_until)
                select got.id, got.token, claim.worker, clock_timestamp() + source.worker_ttl from got
                on conflict (job_id) do update set token = excluded.token, worker_id = excluded.worker_id,
                    lease_until = excluded.lease_until, progress = 0, message = '', first_progress = null, first_progress_at = null,
                    cancel_requested_at = null, cancel_reason = null, updated_at = clock_timestamp()
            )
            select got.id, got.token, got.attempt, got.failures, got.rescues, got.args, got.headers, got.created_at from got;
    end if;
end
$$;
comment on function queue.claim is 'Leases up to so many ready jobs of a kind to a worker, by priority and age; none while the queue is paused or the worker''s lease is over.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Outcomes: each takes (id, token) and does nothing for a token that is no longer the job's
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.hold(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    -- The lock keeps rescue and operators away, so a process that freezes with it must not keep it for ever.
    perform set_config('idle_in_transaction_session_timeout', '30s', true);
    perform from queue.job j where j.id = hold.id and j.token = hold.token and j.state = 1 for no key update;
    return found;
end
$$;
comment on function queue.hold is 'Fences a transaction: true, and the job''s row locked until its end, if the token is live. Effects written behind it commit with queue.complete or not at all. The server ends the transaction when its client leaves it alone for 30 seconds.';

create function queue.complete(ids bigint[], tokens bigint[], results jsonb[]) returns setof bigint language plpgsql as $$
#variable_conflict use_column
begin
    if exists (select from unnest(complete.results) r where octet_length(r::text) > 65536) then
        raise exception 'a job''s result is limited to 64 kB' using errcode = 'program_limit_exceeded',
            hint = 'Put what is larger into an artifact and its URL into the result.';
    end if;
    return query
        with fin as (
            delete from queue.job j using unnest(complete.ids, complete.tokens, complete.results) d (id, token, result)
            where j.id = d.id and j.token = d.token and j.state = 1
            returning j.*, d.result
        ), history as (
            insert into queue.done (id, token, queue_id, kind, worker_id, attempt, failures, rescues, created_at, claimed_at, finished_at,
                args, result, headers)
            select fin.id, fin.token, fin.queue_id, fin.kind, fin.worker_id, fin.attempt, fin.failures, fin.rescues, fin.created_at,
                fin.claimed_at, clock_timestamp(), fin.args, fin.result, fin.headers from fin
        ), run as (
            delete from queue.run r using fin where r.job_id = fin.id
            returning pg_notify('queue_progress', '')
        ), checkpoint as (
            delete from queue.checkpoint c using fin where c.job_id = fin.id
        )
        select fin.id from fin;
end
$$;
comment on function queue.complete is 'Moves leased jobs to queue.done and returns the ids that really were; an id that is missing from the answer was fenced.';

create function queue.bury(victim queue.job, reason text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    delete from queue.job j where j.id = victim.id;
    insert into queue.dead (id, seq, token, worker_id, run_at, created_at, claimed_at, queue_id, band, state, attempt, failures, rescues,
        kind, dedupe_key, args, last_error, headers, reason)
    values (victim.id, victim.seq, victim.token + 1, victim.worker_id, victim.run_at, victim.created_at, victim.claimed_at, victim.queue_id,
        victim.band, 0, victim.attempt, victim.failures, victim.rescues, victim.kind, victim.dedupe_key, victim.args, victim.last_error,
        victim.headers, bury.reason);
    delete from queue.run r where r.job_id = victim.id;
    perform pg_notify('queue_progress', '');
end
$$;
comment on function queue.bury is 'Moves a live job, which the caller has locked, to queue.dead. Not for operators: use queue.cancel.';

create function queue.fail(id bigint, token bigint, error jsonb, permanent boolean default false, retry_after interval default null)
returns text language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
    settings queue.queue;
    base double precision;
    delay double precision;
begin
    select j.* into job from queue.job j where j.id = fail.id and j.token = fail.token and j.state = 1 for update;
    if not found then
        return 'fenced';
    end if;
    select q.* into strict settings from queue.queue q where q.id = job.queue_id;
    base := extract(epoch from settings.backoff_base);
    -- Decorrelated jitter: between the base and three times the last delay, so that jobs that failed together do not return together.
    delay := base + random() * greatest(0, 3 * coalesce((job.last_error ->> 'delay_s')::double precision, base) - base);
    delay := greatest(least(delay, extract(epoch from settings.backoff_cap)), coalesce(extract(epoch from fail.retry_after), 0));
    job.failures := job.failures + 1;
    job.last_error := fail.error || jsonb_build_object('at', clock_timestamp(), 'attempt', job.attempt, 'delay_s', round(delay::numeric, 3));
    if fail.permanent or job.failures >= settings.max_attempts then
        job.last_error := job.last_error - 'delay_s';
        perform queue.bury(job, case when fail.permanent then 'permanent' else 'attempts' end);
        return 'dead';
    end if;
    -- It failed before it heard that it was cancelled: it must not be tried again all the same.
    if exists (select from queue.run r where r.job_id = job.id and r.cancel_requested_at is not null) then
        job.last_error := job.last_error - 'delay_s';
        perform queue.bury(job, 'cancelled');
        return 'dead';
    end if;
    update queue.job j set state = 2, token = job.token + 1, worker_id = null, failures = job.failures, last_error = job.last_error,
        run_at = clock_timestamp() + delay * interval '1 second'
    where j.id = job.id;
    delete from queue.run r where r.job_id = job.id;
    return 'retry';
end
$$;
comment on function queue.fail is 'A handler failed: retry later, or dead; dead also when it was asked to cancel. Answers retry, dead or fenced.';

create function queue.hand_back(job queue.job) returns void language plpgsql as $$
#variable_conflict use_column
declare
    cancel queue.run;
begin
    select r.* into cancel from queue.run r where r.job_id = job.id and r.cancel_requested_at is not null;
    if found then
        job.last_error := jsonb_build_object('message', coalesce(cancel.cancel_reason, 'cancelled'), 'at', clock_timestamp(), 'attempt', job.attempt);
        perform queue.bury(job, 'cancelled');
    else
        update queue.job j set state = 0, token = j.token + 1, worker_id = null, seq = nextval('queue.seq') where j.id = job.id;
        delete from queue.run r where r.job_id = job.id;
        perform queue.ring(q.class) from queue.queue q where q.id = job.queue_id;
    end if;
end
$$;
comment on function queue.hand_back is 'Makes a leased job, which the caller has locked, ready again, or dead if it was asked to cancel. Not for operators.';

create function queue.release(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = release.id and j.token = release.token and j.state = 1 for update;
    if not found then
        return false;
    end if;
    perform queue.hand_back(job);
    return true;
end
$$;
comment on function queue.release is 'Hands a leased job back, as a worker that shuts down does; counts neither as a failure nor as a crash.';

create function queue.acknowledge_cancel(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = acknowledge_cancel.id and j.token = acknowledge_cancel.token and j.state = 1 for update;
    if not found then
        return false;
    end if;
    job.last_error := jsonb_build_object('message', coalesce((select r.cancel_reason from queue.run r where r.job_id = job.id), 'cancelled'),
        'at', clock_timestamp(), 'attempt', job.attempt);
    perform queue.bury(job, 'cancelled');
    return true;
end
$$;
comment on function queue.acknowledge_cancel is 'A worker says that the job it was asked to cancel has stopped.';

create function queue.save_checkpoint(
    job bigint, token bigint, step text, n bigint, state jsonb, blob_uri text default null, sha256 bytea default null, bytes bigint default null
) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    if not queue.hold(save_checkpoint.job, save_checkpoint.token) then
        return false;
    end if;
    -- A run that fell back to an older checkpoint writes over the newer ones that it did not trust.
    delete from queue.checkpoint c where c.job_id = save_checkpoint.job and c.step = save_checkpoint.step and c.n >= save_checkpoint.n;
    insert into queue.checkpoint (job_id, step, n, token, state, blob_uri, sha256, bytes)
    values (save_checkpoint.job, save_checkpoint.step, save_checkpoint.n, save_checkpoint.token, save_checkpoint.state,
        save_checkpoint.blob_uri, save_checkpoint.sha256, save_checkpoint.bytes);
    delete from queue.checkpoint c where c.job_id = save_checkpoint.job and c.step = save_checkpoint.step
        and c.n < (select min(k.n) from (select l.n from queue.checkpoint l
            where l.job_id = save_checkpoint.job and l.step = save_checkpoint.step order by l.n desc limit 2) k);
    return true;
end
$$;
comment on function queue.save_checkpoint is 'Publishes a checkpoint under the live token, keeping the two newest; false if the token is fenced.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rescue and other duties that any worker does, once a second
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.rescue_job(job queue.job, why text) returns void language plpgsql as $$
#variable_conflict use_column
declare
    settings queue.queue;
    cancel queue.run;
begin
    select q.* into strict settings from queue.queue q where q.id = job.queue_id;
    select r.* into cancel from queue.run r where r.job_id = job.id and r.cancel_requested_at is not null;
    job.rescues := job.rescues + 1;
    if found then
        job.last_error := jsonb_build_object('message', coalesce(cancel.cancel_reason, 'cancelled'), 'at', clock_timestamp(), 'attempt', job.attempt);
        perform queue.bury(job, 'cancelled');
    elsif job.rescues > settings.max_rescues then
        job.last_error := jsonb_build_object('message', format('its worker was lost %s times, at last by %s', job.rescues, why),
            'at', clock_timestamp(), 'attempt', job.attempt);
        perform queue.bury(job, 'crash_loop');
    else
        update queue.job j set state = 0, token = j.token + 1, rescues = job.rescues, worker_id = null, seq = nextval('queue.seq'),
            last_error = coalesce(j.last_error, '{}') || jsonb_build_object('rescued', why, 'rescued_at', clock_timestamp())
        where j.id = job.id;
        delete from queue.run r where r.job_id = job.id;
        perform queue.ring(settings.class);
    end if;
end
$$;
comment on function queue.rescue_job is 'Takes one job, which the caller has locked, from a worker that is lost. Not for operators.';

create function queue.rescue(suspicion interval default '1.8 seconds') returns int language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
    rescued int := 0;
begin
    -- Workers whose session is gone: missed once, written down; still missing later, dead. Those that have not been heard of since the
    -- server started get ten seconds to come back.
    update queue.worker w set absent_since = clock_timestamp()
    where w.ended_at is null and w.absent_since is null
        and (w.beat_at > pg_postmaster_start_time() or pg_postmaster_start_time() < clock_timestamp() - interval '10 seconds')
        and not exists (select from pg_stat_activity a
            where a.pid = w.backend_pid and (a.backend_start = w.backend_start or a.backend_start is null));
    update queue.worker w set ended_at = clock_timestamp(),
        ended_why = case when w.expires_at < clock_timestamp() then 'lease_expired' else 'session_lost' end
    where w.id in (
        select v.id from queue.worker v where v.ended_at is null
            and (v.expires_at < clock_timestamp() or v.absent_since < clock_timestamp() - suspicion)
        for update skip locked);
    for job in
        select j.* from queue.job j left join queue.worker w on w.id = j.worker_id left join queue.run r on r.job_id = j.id
        where j.state = 1 and (w.id is null or w.ended_at is not null or r.lease_until < clock_timestamp()
            or r.cancel_requested_at < clock_timestamp() - interval '30 seconds')
        limit 500 for update of j skip locked
    loop
        perform queue.rescue_job(job, coalesce((select w.ended_why from queue.worker w where w.id = job.worker_id), 'run_lease_expired'));
        rescued := rescued + 1;
    end loop;
    return rescued;
end
$$;
comment on function queue.rescue is 'Takes the jobs of lost workers and of stalled runs away from them and makes them ready again; returns how many.';

create function queue.promote() returns int language plpgsql as $$
#variable_conflict use_column
declare
    promoted int;
begin
    with due as (
        select j.id from queue.job j where j.state = 2 and j.run_at <= clock_timestamp() order by j.run_at limit 1000 for update skip locked
    ), moved as (
        update queue.job j set state = 0, seq = nextval('queue.seq') from due where j.id = due.id returning j.queue_id
    ), rung as (
        select count(queue.ring(q.class)) from queue.queue q where q.id in (select queue_id from moved)
    )
    select count(*) + 0 * (select count from rung) into promoted from moved;
    return promoted;
end
$$;
comment on function queue.promote is 'Makes deferred jobs ready whose time has come; returns how many.';

create function queue.fire(s queue.schedule) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    job bigint;
    key text := 'schedule:' || s.key;
begin
    -- While its last job lives, the schedule only counts; what has come together fires afterwards.
    if s.paused_at is not null or s.counter < s.every_new_pairs or exists (select from queue.job j where j.dedupe_key = key) then
        return null;
    end if;
    job := queue.enqueue(s.kind, s.args, (select q.name from queue.queue q where q.id = s.queue_id), key,
        headers => jsonb_build_object('schedule', s.key));
    -- One job sees everything there is, so whole multiples are used up together and only the rest stays.
    update queue.schedule t set counter = s.counter % s.every_new_pairs, fired = t.fired + 1, last_at = clock_timestamp(), last_job_id = job
    where t.key = s.key;
    return job;
end
$$;
comment on function queue.fire is 'Enqueues the job of a schedule, which the caller has locked, if its threshold is reached. Not for operators.';

create function queue.sweep(out rescued int, out promoted int, out fired int, out next_due timestamptz) language plpgsql as $$
#variable_conflict use_column
declare
    s queue.schedule;
begin
    rescued := 0; promoted := 0; fired := 0;
    -- No elected leader: whoever comes first sweeps, in one short transaction, and a frozen process holds nothing.
    if not pg_try_advisory_xact_lock(hashtext('queue.sweep')) then
        return;
    end if;
    rescued := queue.rescue();
    promoted := queue.promote();
    for s in select t.* from queue.schedule t where t.counter >= t.every_new_pairs and t.paused_at is null for update skip locked loop
        fired := fired + (queue.fire(s) is not null)::int;
    end loop;
    select min(j.run_at) into next_due from queue.job j where j.state = 2;
end
$$;
comment on function queue.sweep is 'Rescue, promotion of deferred jobs and counting schedules; every worker calls it each second, one at a time does it.';

-- ---------------------------------------------------------------------------------------------------------------------
-- For operators
-- ---------------------------------------------------------------------------------------------------------------------

create function queue.retry(id bigint) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    corpse queue.dead;
    live queue.job;
begin
    select d.* into corpse from queue.dead d where d.id = retry.id for update;
    if found then
        insert into queue.job (id, token, created_at, queue_id, band, attempt, kind, dedupe_key, args, last_error, headers)
        values (corpse.id, corpse.token + 1, corpse.created_at, corpse.queue_id, corpse.band, corpse.attempt, corpse.kind, corpse.dedupe_key,
            corpse.args, corpse.last_error, corpse.headers)
        on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing;
        if not found then
            raise exception 'job % cannot come back: another live job has its key %', retry.id, corpse.dedupe_key using errcode = 'unique_violation';
        end if;
        delete from queue.dead d where d.id = retry.id;
        perform queue.ring(q.class) from queue.queue q where q.id = corpse.queue_id;
        return retry.id;
    end if;
    select j.* into live from queue.job j where j.id = retry.id for update;
    if found then
        if live.state = 2 then
            update queue.job j set state = 0, run_at = null, seq = nextval('queue.seq') where j.id = retry.id;
            perform queue.ring(q.class) from queue.queue q where q.id = live.queue_id;
        end if;
        return retry.id;
    end if;
    if exists (select from queue.done d where d.id = retry.id) then
        raise exception 'job % has succeeded', retry.id using errcode = 'object_not_in_prerequisite_state', hint = 'Enqueue a new one.';
    end if;
    raise exception 'there is no job %', retry.id using errcode = 'no_data_found';
end
$$;
comment on function queue.retry is 'Brings a dead or cancelled job back, with its checkpoints and with failures and crashes counted from zero; a deferred one becomes ready now. Example: select queue.retry(42)';

create function queue.redrive(kind text default null, reason text default null, up_to int default 1000) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    corpse record;
    back bigint := 0;
begin
    for corpse in
        select d.id from queue.dead d
        where (redrive.kind is null or d.kind = redrive.kind)
            and case when redrive.reason is null then d.reason <> 'cancelled' else d.reason = redrive.reason end
            and (d.dedupe_key is null or not exists (select from queue.job j where j.dedupe_key = d.dedupe_key))
        order by d.died_at limit redrive.up_to for update skip locked
    loop
        begin
            perform queue.retry(corpse.id);
            back := back + 1;
        exception when unique_violation then
            null; -- Two corpses with one key: the first came back, the other stays.
        end;
    end loop;
    return back;
end
$$;
comment on function queue.redrive is 'Brings dead jobs back: all but the cancelled ones, or those of a kind or reason (permanent, attempts, crash_loop, cancelled). Returns how many. Example: select queue.redrive(kind => ''verify_preference'')';

create function queue.cancel(id bigint, reason text default 'cancelled by an operator') returns text language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = cancel.id for update;
    if not found then
        if exists (select from queue.done d where d.id = cancel.id) or exists (select from queue.dead d where d.id = cancel.id) then
            return 'finished';
        end if;
        raise exception 'there is no job %', cancel.id using errcode = 'no_data_found';
    end if;
    if job.state = 1 then
        insert into queue.run as r (job_id, token, worker_id, cancel_requested_at, cancel_reason)
        values (job.id, job.token, job.worker_id, clock_timestamp(), cancel.reason)
        on conflict (job_id) do update set cancel_requested_at = coalesce(r.cancel_requested_at, excluded.cancel_requested_at),
            cancel_reason = coalesce(r.cancel_reason, excluded.cancel_reason);
        perform pg_notify('queue_control', '');
        return 'requested';
    end if;
    job.last_error := coalesce(job.last_error, '{}') || jsonb_build_object('message', cancel.reason, 'at', clock_timestamp());
    perform queue.bury(job, 'cancelled');
    return 'cancelled';
end
$$;
comment on function queue.cancel is 'Cancels a job: at once if it is not running (cancelled); else its worker is asked to stop, and after 30 seconds it is taken away (requested). '
    'A job that has ended stays as it is (finished). Example: select queue.cancel(42, ''wrong backbone'')';

create function queue.pause(queue text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    update queue.queue q set paused_at = coalesce(q.paused_at, clock_timestamp()) where q.id = (queue.find(pause.queue)).id;
end
$$;
comment on function queue.pause is 'No job of the queue starts until queue.resume; running ones go on. Example: select queue.pause(''train_reward'')';

create function queue.resume(queue text) returns void language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(resume.queue);
begin
    update queue.queue q set paused_at = null where q.id = target.id;
    perform queue.ring(target.class);
end
$$;
comment on function queue.resume is 'Ends a pause.';

create function queue.schedule_add(
    key text, kind text, args jsonb default '{}', every_new_pairs int default 1000, topic text default 'pairs.usable', queue text default null
) returns void language plpgsql as $$
#variable_conflict use_column
begin
    if schedule_add.every_new_pairs is null or schedule_add.every_new_pairs < 1 then
        raise exception 'every_new_pairs must be at least 1, not %', schedule_add.every_new_pairs using errcode = 'invalid_parameter_value';
    end if;
    insert into queue.schedule as s (key, queue_id, kind, args, topic, every_new_pairs)
    values (schedule_add.key, (queue.find(coalesce(schedule_add.queue, schedule_add.kind))).id, schedule_add.kind,
        coalesce(schedule_add.args, '{}'), schedule_add.topic, schedule_add.every_new_pairs)
    on conflict (key) do update set queue_id = excluded.queue_id, kind = excluded.kind, args = excluded.args, topic = excluded.topic,
        every_new_pairs = excluded.every_new_pairs;
end
$$;
comment on function queue.schedule_add is 'Adds or changes a schedule: a job of this kind whenever so many new pairs have become usable. The count goes on when it is changed. '
    'Example: select queue.schedule_add(''nightly'', ''train_reward'', ''{"name":"reward-overall"}'', every_new_pairs => 500)';

create function queue.schedule_remove(key text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    delete from queue.schedule s where s.key = schedule_remove.key;
    return found;
end
$$;
comment on function queue.schedule_remove is 'Removes a schedule; jobs that it enqueued stay. Answers whether there was one.';

create function queue.count_event(topic text, n int default 1) returns int language plpgsql as $$
#variable_conflict use_column
declare
    s queue.schedule;
    fired int := 0;
begin
    -- In the order of their keys, so that two transactions that count for several schedules cannot deadlock.
    for s in select t.* from queue.schedule t where t.topic = count_event.topic order by t.key for update loop
        s.counter := s.counter + count_event.n;
        update queue.schedule t set counter = s.counter where t.key = s.key;
        fired := fired + (queue.fire(s) is not null)::int;
    end loop;
    return fired;
end
$$;
comment on function queue.count_event is 'Counts n events of a topic in the caller''s transaction and enqueues the job of each schedule that reaches its threshold; exactly one, however many count at once.';

-- migrate:down

drop schema queue cascade;
