-- migrate:up

-- The turn: what a worker has finished goes in, what it shall do next comes out; one statement, one commit.

create function queue.turn(
    worker bigint, queue text, kind text, up_to int, low bigint[] default '{0,0,0,0}', ids bigint[] default '{}',
    tokens bigint[] default '{}', results jsonb[] default '{}', first_band int default 0, offered text default null
) returns table (
    id bigint, token bigint, fenced boolean, attempt int, failures smallint, rescues smallint, band smallint, seq bigint, args jsonb, headers jsonb,
    waited double precision
) language plpgsql set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    source queue.queue;
    finished bigint[];
    leased queue.job[];
begin
    if cardinality(turn.ids) > 0 then
        finished := queue.finish(turn.ids, turn.tokens, turn.results);
        if cardinality(finished) < cardinality(turn.ids) then
            return query
                select said.id, said.token, true, null::int, null::smallint, null::smallint, null::smallint, null::bigint, null::jsonb, null::jsonb,
                    null::double precision
                from unnest(turn.ids, turn.tokens) said (id, token)
                where not exists (select from queue.done d where d.id = said.id and d.token = said.token);
        end if;
    else
        -- A claim that a crash of the server forgets leaves the job ready under its old token. The next claim must not give the same
        -- token to somebody else while the first one still believes in it, so tokens grow by a random stride.
        perform set_config('synchronous_commit', 'off', true);
    end if;
    if turn.up_to < 1 then
        return;
    end if;
    select q.* into source from queue.queue q where q.name = turn.queue and q.paused_at is null;
    if not found then
        return;
    end if;
    -- The lock makes whoever ends this worker wait for this turn, so that the sweep after that sees what it claimed.
    perform from queue.worker w where w.id = turn.worker and w.ended_at is null and w.expires_at > clock_timestamp() for key share;
    if not found then
        return;
    end if;
    if source.uses_slots or turn.offered is not null then
        leased := array(select got from queue.lease_with_slots(turn.worker, source, turn.kind, turn.up_to, turn.offered) got);
        -- A statement of its own: in that one's snapshot the arguments of what was enqueued meanwhile would be missing.
        return query
            select got.id, got.token, false, got.attempt, got.failures, got.rescues, got.band, got.seq, b.args, b.headers,
                case when got.attempt = 1 or got.run_at is not null then date_part('epoch', got.claimed_at - coalesce(got.run_at, got.created_at)) end
            from unnest(leased) got join queue.body b on b.id = got.id;
        return;
    end if;
    return query
        with got as (
            update queue.job j set state = 1, worker_id = turn.worker, token = j.token + 1 + floor(random() * 1000000)::bigint,
                attempt = j.attempt + 1, claimed_at = clock_timestamp()
            -- An array of places, not a join, whatever the planner thinks of the tables' sizes.
            where j.ctid = any (array(
                select ready.ctid from unnest(case turn.first_band when 0 then '{0,1,2,3}' when 1 then '{1,0,2,3}' when 2 then '{2,0,1,3}'
                    else '{3,0,1,2}' end::smallint[]) b (band)
                cross join lateral (
                    select i.ctid from queue.job i
                    where i.queue_id = source.id and i.band = b.band and i.seq > turn.low[b.band + 1] and i.state = 0
                        and i.kind = turn.kind and i.slot is null
                    order by i.seq limit turn.up_to for update skip locked
                ) ready
                limit turn.up_to))
            returning j.id, j.token, j.attempt, j.failures, j.rescues, j.band, j.seq,
                -- Since when it was ready is known of the first attempt, and of one that was put off until a time.
                case when j.attempt = 1 or j.run_at is not null then j.claimed_at - coalesce(j.run_at, j.created_at) end as waited
        ), run as (
            insert into queue.run as r (job_id, token, worker_id, lease_until)
            select got.id, got.token, turn.worker, clock_timestamp() + source.worker_ttl from got where source.class = 'long'
            on conflict (job_id) do update set token = excluded.token, worker_id = excluded.worker_id,
                lease_until = excluded.lease_until, progress = 0, message = '', first_progress = null, first_progress_at = null,
                cancel_requested_at = null, cancel_reason = null, updated_at = clock_timestamp()
        )
        select got.id, got.token, false, got.attempt, got.failures, got.rescues, got.band, got.seq, b.args, b.headers,
            date_part('epoch', got.waited)
        from got join queue.body b on b.id = got.id order by got.band, got.seq;
end
$$;
comment on function queue.turn is 'Finishes jobs (ids, tokens, results) and leases up to so many ready ones to the worker, in one commit. Rows that are fenced name what was not '
    'finished because its token is no longer live; all others are leases. None are given while the queue is paused or the worker''s lease is over. '
    'low holds, for each band, the place in line up to which there is nothing more to find, as far as the caller knows; first_band is looked at first, the others by priority. '
    'offered names a slot of which each lease takes a permit besides the one that the job names: that of the worker''s machine.';

create function queue.claim(worker bigint, queue text, kind text, up_to int)
returns table (id bigint, token bigint, attempt int, failures smallint, rescues smallint, args jsonb, headers jsonb) language sql as $$
    select t.id, t.token, t.attempt, t.failures, t.rescues, t.args, t.headers from queue.turn(claim.worker, claim.queue, claim.kind, claim.up_to) t
$$;
comment on function queue.claim is 'Leases up to so many ready jobs of a kind to a worker, by priority and age; none while the queue is paused or the worker''s lease is over.';

-- migrate:down

drop function queue.claim, queue.turn;
