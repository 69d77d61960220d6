-- migrate:up

-- Workers: register, beat, stop.

create function queue.register_worker(service text, host text, pid int, ttl interval) returns bigint language sql as $$
    insert into queue.worker (service, host, pid, backend_pid, backend_start, expires_at)
    select register_worker.service, register_worker.host, register_worker.pid, a.pid, a.backend_start, clock_timestamp() + ttl
    from pg_stat_get_activity(pg_backend_pid()) a
    returning id
$$;
comment on function queue.register_worker is 'Called on a worker''s control connection, whose session stands for the process from now on.';

create function queue.stop_worker(worker bigint) returns void language sql as $$
    -- Locked for update: a turn of this worker that is under way ends first, so that its claims are seen by the sweep.
    update queue.worker w set ended_at = clock_timestamp(), ended_why = 'stopped'
    where w.id = (select v.id from queue.worker v where v.id = stop_worker.worker and v.ended_at is null for update)
$$;
comment on function queue.stop_worker is 'A worker says good-bye; what it still holds is rescued at the next sweep.';

create function queue.release_strays(worker bigint, ttl interval, ids bigint[]) returns int language plpgsql as $$
#variable_conflict use_column
declare
    stray queue.job;
    released int := 0;
begin
    -- Leased to this worker for long, and it knows nothing of them: the answer to a claim was lost, or it gave them up while the
    -- database was away. No other rule would ever take them from a worker that lives. It reads the whole line with its dead rows, so it
    -- is done when the worker says that an answer is missing, and now and then. By the time at which it was asked, when those ids were all.
    for stray in
        select j.* from queue.job j
        where j.worker_id = release_strays.worker and j.state = 1 and j.claimed_at < statement_timestamp() - release_strays.ttl
            and j.id <> all (release_strays.ids)
        for update skip locked
    loop
        -- A run that was given up was lost like any other: one that always stands still must not come back for ever.
        if exists (select from queue.run r where r.job_id = stray.id and r.token = stray.token) then
            perform queue.rescue_job(stray, 'run_given_up');
        else
            perform queue.hand_back(stray);
        end if;
        released := released + 1;
    end loop;
    return released;
end
$$;
comment on function queue.release_strays is 'Makes ready again what has been leased to this worker for longer than ttl and is not among ids, the jobs that it holds; returns how many.';

create function queue.heartbeat(
    worker bigint, ttl interval, ids bigint[] default '{}', tokens bigint[] default '{}', moving boolean[] default '{}',
    progress real[] default '{}', messages text[] default '{}', find_strays boolean default true, out alive boolean, out cancelled bigint[], out lost bigint[]
) language plpgsql as $$
#variable_conflict use_column
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
    if heartbeat.find_strays then
        perform queue.release_strays(heartbeat.worker, heartbeat.ttl, heartbeat.ids);
    end if;
    select coalesce(array_agg(j.id), '{}') into cancelled
    from queue.job j join queue.run r on r.job_id = j.id
    where j.worker_id = heartbeat.worker and j.state = 1 and r.cancel_requested_at is not null;
end
$$;
comment on function queue.heartbeat is 'Renews a worker''s lease, and those of its runs that move; ids and tokens are all the jobs it holds. '
    'Answers whether the worker is still held to be alive, which of its jobs are asked to cancel, and which of the ids are no longer its.';

-- migrate:down

drop function queue.heartbeat, queue.release_strays, queue.stop_worker, queue.register_worker;
