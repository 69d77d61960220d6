-- migrate:up

-- Throughput, latency and failures: read from the metric tables alone.

create function ops.percentile(histogram int[], p double precision) returns double precision language sql immutable parallel safe as $$
    -- Within the bucket that the rank falls into, by geometric interpolation; the first one reaches down to zero.
    select case when i = 1 then 0.0001 * power(2, 0.25) * share else 0.0001 * power(2, (i - 1 + share) / 4.0) end
    from (
        select i, ((rank - (so_far - n)) / n)::double precision as share
        from (
            select i, n, sum(n) over (order by i) as so_far,
                greatest(percentile.p * (select sum(m) from unnest(percentile.histogram) m), 1) as rank
            from unnest(percentile.histogram) with ordinality u (n, i)
        ) cumulated
        where n > 0 and so_far >= rank order by i limit 1
    ) bucket
$$;
comment on function ops.percentile is 'A quantile, in seconds, of a histogram of ops.latency_1m (or of several: ops.merge). Example: select queue, ops.percentile(ops.merge(wait_histogram), 0.99) from ops.latency_1m where minute > now() - interval ''1 hour'' group by queue';

create aggregate ops.merge (int[]) (sfunc = queue.histogram_add, stype = int[]);
comment on aggregate ops.merge (int[]) is 'The sum of histograms.';

create view ops.throughput_1m as
select m.minute, q.name as queue, m.kind, m.enqueued, m.succeeded, m.retried, m.failed, m.cancelled, m.rescued, m.fenced,
    case when m.succeeded + m.retried + m.failed > 0 then (m.retried + m.failed)::double precision / (m.succeeded + m.retried + m.failed) end
        as error_rate
from queue.metric m join queue.queue q on q.id = m.queue_id;
comment on view ops.throughput_1m is 'What happened to jobs, by minute, queue and kind; a few seconds late. Alert when succeeded falls while jobs are ready.';
comment on column ops.throughput_1m.failed is 'Given up: dead letters, without the cancelled ones.';
comment on column ops.throughput_1m.fenced is 'Late writes of workers that had lost their lease, refused.';

create view ops.latency_1m as
select m.minute, q.name as queue, m.kind,
    ops.percentile(m.wait_histogram, 0.5) as wait_p50, ops.percentile(m.wait_histogram, 0.95) as wait_p95,
    ops.percentile(m.wait_histogram, 0.99) as wait_p99, m.wait_max,
    ops.percentile(m.run_histogram, 0.5) as run_p50, ops.percentile(m.run_histogram, 0.95) as run_p95,
    ops.percentile(m.run_histogram, 0.99) as run_p99, m.run_max,
    m.run_total, m.wait_histogram, m.run_histogram
from queue.metric m join queue.queue q on q.id = m.queue_id
where m.wait_histogram <> '{}' or m.run_histogram <> '{}';
comment on view ops.latency_1m is 'Seconds that jobs waited once they were ready, and ran, by minute, queue and kind. Percentiles are within ten per cent; over a longer time: ops.percentile(ops.merge(wait_histogram), 0.99).';

create view ops.failures as
select f.fingerprint, f.kind, (array_agg(f.message order by f.last_at desc))[1] as message, min(f.minute) as first_seen,
    max(f.last_at) as last_seen, coalesce(sum(f.n) filter (where f.minute > now() - interval '1 hour'), 0)::bigint as count_1h,
    sum(f.n)::bigint as count, (array_agg(f.sample_job order by f.last_at desc))[1] as sample_job
from queue.failure f group by f.fingerprint, f.kind;
comment on view ops.failures is 'Failures, those that are alike in one row: messages that differ in numbers, digests, paths and quoted parts only.';

create function queue.rates() returns table (wal_mb_s double precision, commits_s double precision) language sql stable rows 1 as $$
    select (newest.wal_bytes - before.wal_bytes)::double precision / 1048576 / elapsed, (newest.commits - before.commits) / elapsed
    from (select * from queue.health h order by h.at desc limit 1) newest,
        lateral (select * from queue.health h where h.at <= newest.at - interval '1 minute' order by h.at desc limit 1) before,
        lateral (select extract(epoch from newest.at - before.at)::double precision as elapsed) e
$$;
comment on function queue.rates is 'Bytes of WAL and commits a second over the last minute. Not for operators.';

create view ops.health as
select
    h.xmin_age_s, h.oldest_transaction_s as oldest_tx_s, h.idle_in_transaction as idle_in_tx, h.dead_tuples as dead_tup,
    extract(epoch from clock_timestamp() - h.last_autovacuum)::double precision as last_autovac_s,
    round(h.job_bytes / 1048576.0, 1) as hot_table_mb, round(h.job_index_bytes / 1048576.0, 1) as index_mb, h.notify_usage,
    h.blocked as blocked_locks, r.wal_mb_s, r.commits_s,
    round(100.0 * h.connections / h.max_connections, 1) as conn_used_pct, round(h.replication_lag_bytes / 1048576.0, 1) as slot_lag_mb
from queue.database_health() h left join queue.rates() r on true;
comment on view ops.health is 'The database now. Alert: xmin_age_s > 120, dead_tup > 100000, notify_usage > 0.1, conn_used_pct > 80.';

create view ops.health_15s as
select h.at, h.xmin_age_s, h.oldest_transaction_s as oldest_tx_s, h.connections, h.dead_tuples as dead_tup,
    round(h.job_bytes / 1048576.0, 1) as hot_table_mb, h.deadlocks,
    greatest(h.wal_bytes - lag(h.wal_bytes) over w, 0)::double precision / 1048576
        / nullif(extract(epoch from h.at - lag(h.at) over w)::double precision, 0) as wal_mb_s,
    greatest(h.commits - lag(h.commits) over w, 0) / nullif(extract(epoch from h.at - lag(h.at) over w)::double precision, 0) as commits_s
from queue.health h window w as (order by h.at);
comment on view ops.health_15s is 'The database''s health over time, sampled while a worker runs.';

create view ops.partitions as
select 'queue.done' as "table", p.partition, p.starts as "from", p.ends as "to", greatest(c.reltuples, 0)::bigint as rows_est,
    round(pg_total_relation_size(c.oid) / 1048576.0, 2) as mb,
    p.ends + (select max(q.retention) from queue.queue q where q.retention is not null) as drop_after
from queue.partitions p join pg_class c on c.oid = p.partition_id;
comment on view ops.partitions is 'The days of queue.done, and when each may be dropped. The default partition holds what is kept for ever.';

-- migrate:down

drop view ops.partitions, ops.health_15s, ops.health, ops.failures, ops.latency_1m, ops.throughput_1m;
drop function queue.rates;
drop aggregate ops.merge (int[]);
drop function ops.percentile;
