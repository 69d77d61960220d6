-- migrate:up

-- The sweep: everything that any worker does once a second.

create function queue.sweep(
    idle text[] default '{}', low bigint[] default '{}', out rescued int, out promoted int, out fired int, out next_due timestamptz, out ready text[]
) language plpgsql as $$
#variable_conflict use_column
declare
    s queue.schedule;
begin
    rescued := 0; promoted := 0; fired := 0;
    -- So that an idle worker asks one question a second, not one for each queue: a doorbell that was lost is made good here.
    ready := array(select q.name
        from unnest(sweep.idle) with ordinality i (name, n) join queue.queue q on q.name = i.name and q.paused_at is null
        where exists (select from generate_series(0, 3) b (band)
            cross join lateral (select from queue.job j where j.queue_id = q.id and j.band = b.band
                and j.seq > coalesce(sweep.low[4 * (i.n - 1) + b.band + 1], 0) and j.state = 0 order by j.seq limit 1) r));
    -- No elected leader: whoever comes first sweeps, in one short transaction, and a frozen process holds nothing.
    if not pg_try_advisory_xact_lock(hashtext('queue.sweep')) then
        return;
    end if;
    rescued := queue.rescue();
    promoted := queue.promote();
    for s in select t.* from queue.schedule t where t.counter >= t.every_new_pairs and t.paused_at is null for update skip locked loop
        fired := fired + (queue.fire(s) is not null)::int;
    end loop;
    fired := fired + queue.tick();
    next_due := least((select min(j.run_at) from queue.job j where j.state = 2 and j.seq is null),
        (select min(t.next_at) from queue.schedule t where t.paused_at is null));
    -- Nothing about metrics may keep a lost worker's jobs from being rescued.
    begin
        perform queue.keep_metrics();
    exception
        when others then
            raise warning 'metrics were not kept: %', sqlerrm;
    end;
end
$$;
comment on function queue.sweep is 'Rescue, promotion of deferred jobs and schedules, counting and by the clock; every worker calls it each second and when next_due has come, one at a time does it. Of the idle queues it names those with ready jobs behind the places in low: four for each of them, one a band.';

-- migrate:down

drop function queue.sweep;
