-- migrate:up

-- Rescue and other duties that any worker does, once a second.

create function queue.rescue_job(job queue.job, why text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    job.rescues := job.rescues + 1;
    if queue.is_cancelled(job) then
        perform queue.bury_cancelled(job);
    elsif job.rescues > (select q.max_rescues from queue.queue q where q.id = job.queue_id) then
        job.last_error := jsonb_build_object('message', format('its worker was lost %s times, at last by %s', job.rescues, why),
            'at', clock_timestamp(), 'attempt', job.attempt);
        perform queue.bury(job, 'crash_loop');
    else
        job.last_error := coalesce(job.last_error, '{}') || jsonb_build_object('rescued', why, 'rescued_at', clock_timestamp());
        perform queue.line_up_again(job);
    end if;
    perform queue.note(job.queue_id, job.kind, 'rescued');
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
    where w.ended_at is null and not w.swept and w.absent_since is null
        and (w.beat_at > pg_postmaster_start_time() or pg_postmaster_start_time() < clock_timestamp() - interval '10 seconds')
        and not exists (select from pg_stat_activity a
            where a.pid = w.backend_pid and (a.backend_start = w.backend_start or a.backend_start is null));
    update queue.worker w set ended_at = clock_timestamp(),
        ended_why = case when w.expires_at < clock_timestamp() then 'lease_expired' else 'session_lost' end
    where w.id in (
        -- One that is in the middle of a turn is left for the next sweep.
        select v.id from queue.worker v where v.ended_at is null and not v.swept
            and (v.expires_at < clock_timestamp() or v.absent_since < clock_timestamp() - suspicion)
        for update skip locked);
    -- No index names the leased jobs, because keeping one would cost each of them more than all else together; runs are few, and the
    -- line is read through when a worker was lost.
    for job in
        select j.* from queue.run r join queue.job j on j.id = r.job_id
        where j.state = 1 and (r.lease_until < clock_timestamp() or r.cancel_requested_at < clock_timestamp() - interval '30 seconds')
        limit 500 for update of j skip locked
    loop
        perform queue.rescue_job(job, coalesce((select w.ended_why from queue.worker w where w.id = job.worker_id), 'run_lease_expired'));
        rescued := rescued + 1;
    end loop;
    if exists (select from queue.worker w where w.ended_at is not null and not w.swept) then
        for job in
            select j.* from queue.job j join queue.worker w on w.id = j.worker_id
            where j.state = 1 and w.ended_at is not null and not w.swept
            limit 5000 for update of j skip locked
        loop
            perform queue.rescue_job(job, (select w.ended_why from queue.worker w where w.id = job.worker_id));
            rescued := rescued + 1;
        end loop;
        -- What somebody has locked just now stays for the next sweep.
        update queue.worker w set swept = true
        where w.ended_at is not null and not w.swept
            and not exists (select from queue.job j where j.state = 1 and j.worker_id = w.id);
    end if;
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
        select j.id from queue.job j where j.state = 2 and j.seq is null and j.run_at <= clock_timestamp() order by j.run_at limit 1000 for update skip locked
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

-- migrate:down

drop function queue.promote, queue.rescue, queue.rescue_job;
