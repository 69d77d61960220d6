-- migrate:up

-- Metrics: a row a minute, queue and kind. Dashboards read these, never the jobs.

create table queue.metric (
    minute timestamptz not null,
    queue_id smallint not null,
    kind text not null,
    enqueued bigint not null default 0,
    succeeded bigint not null default 0,
    retried bigint not null default 0,
    failed bigint not null default 0,
    cancelled bigint not null default 0,
    rescued bigint not null default 0,
    fenced bigint not null default 0,
    wait_histogram int[] not null default '{}',
    run_histogram int[] not null default '{}',
    wait_max double precision not null default 0,
    run_max double precision not null default 0,
    run_total double precision not null default 0,
    primary key (minute, queue_id, kind)
) with (fillfactor = 50);
comment on table queue.metric is 'What happened, by minute. succeeded, fenced and the histograms come from workers every few seconds, the rest from queue.tally.';
comment on column queue.metric.wait_histogram is 'How long jobs waited for a worker once they were ready: element i counts those below 0.0001 * 2^(i/4) seconds and not below the one before; zeros at the end are left out.';
comment on column queue.metric.run_histogram is 'How long they ran, likewise.';
comment on column queue.metric.fenced is 'Outcomes of workers that had lost their lease, refused.';

-- Appended to where something happens, because a counter's row would make unrelated transactions wait for each other. Not logged: a crash
-- of the server loses the counts of a few seconds, and nothing else.
create unlogged table queue.tally (
    at timestamptz not null default clock_timestamp(),
    queue_id smallint not null,
    kind text not null,
    what text not null,
    n int not null,
    job_id bigint,
    error text
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
comment on table queue.tally is 'Counts on their way to queue.metric and queue.failure, where queue.fold_tallies() puts them.';

create table queue.failure (
    fingerprint text not null,
    minute timestamptz not null,
    queue_id smallint not null,
    kind text not null,
    message text not null,
    n bigint not null,
    last_at timestamptz not null,
    sample_job bigint,
    primary key (fingerprint, minute)
);
create index failure_minute on queue.failure (minute);
comment on table queue.failure is 'Failures by minute and fingerprint: the kind, and the message without its numbers and quoted parts.';

create table queue.health (
    at timestamptz primary key default clock_timestamp(),
    wal_bytes numeric,
    commits bigint,
    rollbacks bigint,
    deadlocks bigint,
    xmin_age_s double precision,
    oldest_transaction_s double precision,
    connections int,
    dead_tuples bigint,
    job_bytes bigint
);
comment on table queue.health is 'The database''s own signs of life, every 15 seconds while a worker runs: cumulative counters and gauges.';

create table queue.worker_report (
    worker_id bigint primary key,
    at timestamptz not null,
    version text,
    draining boolean not null,
    lanes jsonb not null,
    cpu_percent real,
    rss_bytes bigint
) with (fillfactor = 50);
comment on table queue.worker_report is 'What a worker last said of itself. lanes: queue, kind, capacity and running of each of its handlers.';

create function queue.note(queue_id smallint, kind text, what text, n int default 1, job_id bigint default null, error text default null)
returns void language plpgsql as $$
#variable_conflict use_column
begin
    insert into queue.tally (queue_id, kind, what, n, job_id, error)
    values (note.queue_id, note.kind, note.what, note.n, note.job_id, left(note.error, 500));
end
$$;
comment on function queue.note is 'Counts enqueued, retried, failed, cancelled or rescued jobs. Not for operators.';

create function queue.fingerprint(kind text, message text) returns text language sql immutable parallel safe as $$
    select left(md5(fingerprint.kind || ' ' || regexp_replace(regexp_replace(left(fingerprint.message, 300),
        '"[^"]*"|''[^'']*''|“[^”]*”|https?://\S+|/\S+', '…', 'g'), '[0-9a-f]*[0-9][0-9a-f]*', '#', 'gi')), 12)
$$;
comment on function queue.fingerprint is 'The same for messages that differ in numbers, digests, paths and quoted parts only. Not for operators.';

create function queue.histogram_add(a int[], b int[]) returns int[] language sql immutable parallel safe as $$
    select case when histogram_add.a is null or histogram_add.a = '{}' then coalesce(histogram_add.b, '{}')
        when histogram_add.b is null or histogram_add.b = '{}' then histogram_add.a
        else (select array_agg(coalesce(x, 0) + coalesce(y, 0) order by n)
            from unnest(histogram_add.a, histogram_add.b) with ordinality u (x, y, n)) end
$$;
comment on function queue.histogram_add is 'Adds two histograms of different lengths. Not for operators.';

create function queue.fold_tallies() returns int language plpgsql as $$
#variable_conflict use_column
declare
    folded int;
begin
    with taken as (
        delete from queue.tally returning *
    ), counted as (
        insert into queue.metric as m (minute, queue_id, kind, enqueued, retried, failed, cancelled, rescued)
        select date_trunc('minute', t.at), t.queue_id, t.kind,
            coalesce(sum(t.n) filter (where t.what = 'enqueued'), 0), coalesce(sum(t.n) filter (where t.what = 'retried'), 0),
            coalesce(sum(t.n) filter (where t.what = 'failed'), 0), coalesce(sum(t.n) filter (where t.what = 'cancelled'), 0),
            coalesce(sum(t.n) filter (where t.what = 'rescued'), 0)
        from taken t group by 1, 2, 3 order by 1, 2, 3
        on conflict (minute, queue_id, kind) do update set enqueued = m.enqueued + excluded.enqueued,
            retried = m.retried + excluded.retried, failed = m.failed + excluded.failed,
            cancelled = m.cancelled + excluded.cancelled, rescued = m.rescued + excluded.rescued
    ), failed as (
        insert into queue.failure as f (fingerprint, minute, queue_id, kind, message, n, last_at, sample_job)
        select queue.fingerprint(t.kind, t.error), date_trunc('minute', t.at), min(t.queue_id), t.kind,
            (array_agg(t.error order by t.at desc))[1], sum(t.n), max(t.at), (array_agg(t.job_id order by t.at desc))[1]
        from taken t where t.error is not null group by 1, 2, 4 order by 1, 2
        on conflict (fingerprint, minute) do update set n = f.n + excluded.n, last_at = excluded.last_at, message = excluded.message,
            sample_job = excluded.sample_job
    )
    select count(*) into folded from taken;
    return folded;
end
$$;
comment on function queue.fold_tallies is 'Moves what queue.tally holds to queue.metric and queue.failure; returns how many rows. Part of the sweep.';

create function queue.flush_metrics(report jsonb) returns void language plpgsql as $$
#variable_conflict use_column
begin
    -- A flush that a crash of the server forgets is a gap in a chart.
    perform set_config('synchronous_commit', 'off', true);
    insert into queue.worker_report as w (worker_id, at, version, draining, lanes, cpu_percent, rss_bytes)
    select r.worker, clock_timestamp(), r.version, coalesce(r.draining, false), coalesce(r.lanes, '[]'), r.cpu_percent, r.rss_bytes
    from jsonb_to_record(flush_metrics.report)
        r (worker bigint, version text, draining boolean, lanes jsonb, cpu_percent real, rss_bytes bigint)
    where r.worker is not null
    on conflict (worker_id) do update set at = excluded.at, version = excluded.version, draining = excluded.draining,
        lanes = excluded.lanes, cpu_percent = excluded.cpu_percent, rss_bytes = excluded.rss_bytes;
    -- In the order of the key, so that two workers that flush at once cannot deadlock.
    insert into queue.metric as m
        (minute, queue_id, kind, succeeded, fenced, wait_histogram, run_histogram, wait_max, run_max, run_total)
    select date_trunc('minute', clock_timestamp()), q.id, k.kind, coalesce(k.succeeded, 0), coalesce(k.fenced, 0),
        coalesce(k.wait, '{}'), coalesce(k.run, '{}'), coalesce(k.wait_max, 0), coalesce(k.run_max, 0), coalesce(k.run_total, 0)
    from jsonb_to_recordset(flush_metrics.report -> 'kinds') k (queue text, kind text, succeeded bigint, fenced bigint,
        wait int[], run int[], wait_max double precision, run_max double precision, run_total double precision)
    join queue.queue q on q.name = k.queue
    order by q.id, k.kind
    on conflict (minute, queue_id, kind) do update set succeeded = m.succeeded + excluded.succeeded, fenced = m.fenced + excluded.fenced,
        wait_histogram = queue.histogram_add(m.wait_histogram, excluded.wait_histogram),
        run_histogram = queue.histogram_add(m.run_histogram, excluded.run_histogram),
        wait_max = greatest(m.wait_max, excluded.wait_max), run_max = greatest(m.run_max, excluded.run_max),
        run_total = m.run_total + excluded.run_total;
end
$$;
comment on function queue.flush_metrics is 'A worker says what it counted since its last flush, and how it is. Not for operators.';

create function queue.database_health() returns table (
    xmin_age_s double precision, oldest_transaction_s double precision, idle_in_transaction int, blocked int, connections int,
    max_connections int, notify_usage double precision, dead_tuples bigint, last_autovacuum timestamptz, job_bytes bigint,
    job_index_bytes bigint, replication_lag_bytes numeric, wal_bytes numeric, commits bigint, rollbacks bigint, deadlocks bigint
) language sql stable as $$
    select
        -- The oldest snapshot that keeps vacuum from cleaning, by the clock of the transaction that has it.
        coalesce((select max(extract(epoch from clock_timestamp() - a.xact_start)) from pg_stat_activity a
            where a.backend_xmin is not null and a.datname = current_database()), 0),
        coalesce((select max(extract(epoch from clock_timestamp() - a.xact_start)) from pg_stat_activity a
            where a.datname = current_database() and a.backend_type = 'client backend'), 0),
        (select count(*) from pg_stat_activity a where a.state like 'idle in transaction%' and a.datname = current_database()),
        (select count(*) from pg_locks l where not l.granted),
        (select count(*) from pg_stat_activity a where a.backend_type = 'client backend'),
        current_setting('max_connections')::int,
        pg_notification_queue_usage(),
        t.n_dead_tup, t.last_autovacuum, pg_table_size('queue.job'), pg_indexes_size('queue.job'),
        coalesce((select max(position.now - (s.restart_lsn - '0/0'::pg_lsn)) from pg_replication_slots s), 0),
        position.now, d.xact_commit, d.xact_rollback, d.deadlocks
    from (select case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end - '0/0'::pg_lsn as now) position
    left join pg_stat_user_tables t on t.relid = 'queue.job'::regclass
    left join pg_stat_database d on d.datname = current_database()
$$;
comment on function queue.database_health is 'What ops.health shows. Not for operators.';

create function queue.keep_metrics() returns void language plpgsql as $$
#variable_conflict use_column
begin
    -- The sweep comes by about once a second; every fifth will do. Nothing has to be written down for that.
    if floor(extract(epoch from clock_timestamp()))::bigint % 5 <> 0 then
        return;
    end if;
    perform queue.fold_tallies();
    if exists (select from queue.health h where h.at > clock_timestamp() - interval '15 seconds') then
        return;
    end if;
    insert into queue.health (wal_bytes, commits, rollbacks, deadlocks, xmin_age_s, oldest_transaction_s, connections, dead_tuples, job_bytes)
    select h.wal_bytes, h.commits, h.rollbacks, h.deadlocks, h.xmin_age_s, h.oldest_transaction_s, h.connections, h.dead_tuples, h.job_bytes
    from queue.database_health() h;
end
$$;
comment on function queue.keep_metrics is 'Folds tallies and samples the database''s health; part of the sweep.';

create function queue.prune_records() returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    gone bigint := 0;
    these bigint;
begin
    delete from queue.metric m where m.minute < now() - (select r.keep from queue.retention r where r.what = 'metric');
    get diagnostics these = row_count; gone := gone + these;
    delete from queue.failure f where f.minute < now() - (select r.keep from queue.retention r where r.what = 'failure');
    get diagnostics these = row_count; gone := gone + these;
    delete from queue.health h where h.at < now() - (select r.keep from queue.retention r where r.what = 'health');
    get diagnostics these = row_count; gone := gone + these;
    delete from queue.audit a where a.at < now() - (select r.keep from queue.retention r where r.what = 'audit');
    get diagnostics these = row_count; gone := gone + these;
    delete from queue.worker w where w.swept and w.ended_at < now() - (select r.keep from queue.retention r where r.what = 'worker');
    get diagnostics these = row_count; gone := gone + these;
    delete from queue.worker_report w where not exists (select from queue.worker v where v.id = w.worker_id);
    return gone;
end
$$;
comment on function queue.prune_records is 'Deletes metrics, failures, health samples, audit rows and ended workers past their retention; part of queue.prune().';

-- migrate:down

drop function queue.prune_records, queue.keep_metrics, queue.database_health, queue.flush_metrics, queue.fold_tallies,
    queue.histogram_add, queue.fingerprint, queue.note;
drop table queue.worker_report, queue.health, queue.failure, queue.tally, queue.metric;
