-- migrate:up

-- Workers: register, beat, claim.

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

-- migrate:down

drop function queue.claim, queue.heartbeat, queue.stop_worker, queue.register_worker;
