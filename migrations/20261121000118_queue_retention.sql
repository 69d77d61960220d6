-- migrate:up

-- Retention: finished jobs go by whole days.

create table queue.pruned (
    partition text not null,
    queue_id smallint not null,
    primary key (partition, queue_id)
);
comment on table queue.pruned is 'Partitions of queue.done that hold nothing more of a queue whose retention is over, so that nobody looks again.';

create view queue.partitions as
select
    c.oid as partition_id, c.relname::text as partition,
    (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$FROM \('([^']+)'\)$r$))[1]::timestamptz as starts,
    (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1]::timestamptz as ends
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'queue.done'::regclass;
comment on view queue.partitions is 'The partitions of queue.done; the default one has no bounds.';

create function queue.drop_partition(partition text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    -- Whoever wants to finish a job waits behind this lock, so it is waited for briefly and asked for again ten minutes later.
    perform set_config('lock_timeout', '100ms', true);
    execute format('alter table queue.done detach partition queue.%I', drop_partition.partition);
    perform set_config('lock_timeout', '0', true);
    -- What is kept for ever moves to the default partition, so that the number of partitions stays what the retention needs.
    execute format('insert into queue.done select * from queue.%I', drop_partition.partition);
    execute format('drop table queue.%I', drop_partition.partition);
    delete from queue.pruned p where p.partition = drop_partition.partition;
    return true;
exception when lock_not_available then
    return false;
end
$$;
comment on function queue.drop_partition is 'Drops a day of queue.done; what of it is kept for ever moves to the default partition. False if somebody was in the way. Not for operators.';

create function queue.prune(up_to int default 50000) returns bigint language plpgsql set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    part record;
    stale record;
    these bigint;
    gone bigint := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('queue.prune')) then
        return 0;
    end if;
    perform queue.prune_records();
    -- Rows, and what is in queue.body of them, in bounded batches: of each queue whose retention is over for the whole day; of queues that
    -- keep less than a day, as they go; and in the default partition.
    for part in select * from queue.partitions p order by p.ends nulls last loop
        for stale in
            select q.id, clock_timestamp() - q.retention as horizon from queue.queue q
            where q.retention is not null
                and (part.ends is null or part.ends <= clock_timestamp() - q.retention
                    or (q.retention < interval '1 day' and part.starts < clock_timestamp() - q.retention))
                and not exists (select from queue.pruned p where p.partition = part.partition and p.queue_id = q.id)
        loop
            exit when gone >= prune.up_to;
            execute format('with old as (
                    delete from queue.%1$I where ctid = any (array(select d.ctid from queue.%1$I d
                        where d.queue_id = $1 and d.finished_at < $2 limit $3)) returning id
                ), bodies as (
                    delete from queue.body b using old where b.id = old.id
                ) select count(*) from old', part.partition)
            into these using stale.id, stale.horizon, prune.up_to - gone;
            gone := gone + these;
            if part.ends <= stale.horizon and gone < prune.up_to then
                insert into queue.pruned values (part.partition, stale.id) on conflict do nothing;
            end if;
        end loop;
    end loop;
    -- Then the day itself, last, because of the lock: when nothing is left in it but what is kept for ever, and not so much of that that
    -- moving it would keep others waiting.
    for part in
        select * from queue.partitions p
        where p.ends <= clock_timestamp() - (select max(q.retention) from queue.queue q)
            and not exists (select from queue.queue q where q.retention is not null
                and not exists (select from queue.pruned d where d.partition = p.partition and d.queue_id = q.id))
        order by p.ends
    loop
        execute format('select count(*) from (select from queue.%I limit 10001) d', part.partition) into these;
        continue when these > 10000;
        exit when not queue.drop_partition(part.partition);
    end loop;
    perform queue.create_partitions();
    return gone;
end
$$;
comment on function queue.prune is 'Deletes finished jobs past their queue''s retention, drops the days that are over, deletes other records past theirs; makes partitions ahead. '
    'Workers call it every ten minutes. Returns how many jobs it deleted.';

-- migrate:down

drop function queue.prune, queue.drop_partition;
drop view queue.partitions;
drop table queue.pruned;
