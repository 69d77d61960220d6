-- migrate:up

-- Tables.

create schema queue;
comment on schema queue is
    'Jobs: one narrow table of live jobs, everything else off the hot path. Operators call the functions, dashboards read schema ops.';

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
    retention interval,
    history boolean not null default true,
    uses_slots boolean not null default false
);
comment on table queue.queue is 'Settings, a row a queue. A job goes to the queue named like its kind unless told otherwise.';
comment on column queue.queue.class is 'short: milliseconds to seconds, under the worker''s lease. long: minutes to hours, a run row with its own lease each.';
comment on column queue.queue.worker_ttl is 'Lease of a worker (and of a run); renewed every third of it.';
comment on column queue.queue.stall_timeout is 'A long run that has reported no progress for this long loses its lease though its process lives; null: never.';
comment on column queue.queue.max_attempts is 'Failures (errors thrown by the handler) after which the job is dead.';
comment on column queue.queue.max_rescues is 'Crashes (leases lost with the worker) after which the job is dead: a crash loop.';
comment on column queue.queue.uses_slots is 'Some job of it named a slot, so that claims look for permits; set by the first one.';
comment on column queue.queue.retention is 'How long finished jobs stay in queue.done; null: for ever.';
comment on column queue.queue.history is 'Whether jobs that succeed leave a row in queue.done at all; those that others wait for always do.';

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
    ended_why text,
    swept boolean not null default false
) with (fillfactor = 50);
create index worker_unswept on queue.worker (id) where not swept;
comment on table queue.worker is 'A row a process that takes jobs. backend_pid and backend_start name the session of its control connection.';
comment on column queue.worker.absent_since is 'When the sweep first missed that session in pg_stat_activity.';
comment on column queue.worker.ended_why is 'stopped, lease_expired or session_lost.';
comment on column queue.worker.swept is 'It has ended and no job is leased to it any more.';

create sequence queue.job_id;
-- Not cached: a cached block would hand out numbers below those that a claim has already passed.
create sequence queue.seq cache 1;

create table queue.job (
    id bigint primary key default nextval('queue.job_id'),
    seq bigint default nextval('queue.seq'),
    created_at timestamptz not null default clock_timestamp(),
    run_at timestamptz,
    -- What a claim changes stands together and in no index, so that it is a HOT update which logs these bytes alone.
    token bigint not null default 0,
    worker_id bigint,
    claimed_at timestamptz,
    attempt int not null default 0,
    state smallint not null default 0 check (state between 0 and 3),
    queue_id smallint not null,
    band smallint not null default 1 check (band between 0 and 3),
    failures smallint not null default 0,
    rescues smallint not null default 0,
    waits_on smallint not null default 0,
    parent boolean not null default false,
    kind text not null,
    slot text,
    dedupe_key text,
    last_error jsonb,
    check ((seq is null) = (state >= 2))
) with (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 2);
-- Not without a delay: while a snapshot held elsewhere keeps the dead rows, autovacuum reads all of them in vain, again and again. With the usual
-- one that takes a fifth of a core at most, and is enough for 100,000 jobs a second when nothing is held.
-- No index, nor its predicate, may name a column that a claim changes: state above all. That seq is null says what they need of it.
create index job_ready on queue.job (queue_id, band, seq) where seq is not null;
create index job_due on queue.job (run_at) where seq is null;
create unique index job_dedupe on queue.job (dedupe_key) where dedupe_key is not null;
comment on table queue.job is 'Live jobs only, and of them only what changes: a finished one moves to queue.done, one that is given up to queue.dead. What it is to do is in queue.body.';
comment on column queue.job.seq is 'Place in its queue''s line: a new one whenever it becomes ready, so that no job appears behind those already passed; null while it is deferred or waits.';
comment on column queue.job.state is '0 ready, 1 leased, 2 deferred until run_at, 3 waiting for other jobs.';
comment on column queue.job.token is 'Fencing token: grows at every claim, rescue, release, cancel and retry; whoever holds an older one can write nothing.';
comment on column queue.job.attempt is 'Claims so far.';
comment on column queue.job.waits_on is 'How many jobs must still succeed before this one becomes ready.';
comment on column queue.job.parent is 'Other jobs wait for this one: its end has to look for them.';
comment on column queue.job.slot is 'The permit that the job needs while it runs (one trainer a GPU, say); null: none.';
comment on column queue.job.band is 'Priority, 0 first.';

create table queue.body (
    id bigint primary key,
    args jsonb not null,
    headers jsonb
);
comment on table queue.body is 'What a job is to do, written once when it is enqueued; it stays while the job is in queue.job, queue.done or queue.dead.';

create table queue.done (
    id bigint not null,
    token bigint not null,
    worker_id bigint,
    created_at timestamptz not null,
    claimed_at timestamptz,
    finished_at timestamptz not null default clock_timestamp(),
    attempt int not null,
    queue_id smallint not null,
    failures smallint not null,
    rescues smallint not null,
    kind text not null,
    result jsonb
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
create index dead_queue on queue.dead (queue_id);
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

-- migrate:down

drop schema queue cascade;
