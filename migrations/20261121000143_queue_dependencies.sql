-- migrate:up

-- Jobs that wait for others.

create table queue.dep (
    parent bigint not null,
    child bigint not null,
    goes_on boolean not null,
    primary key (parent, child)
);
create index dep_child on queue.dep (child);
comment on table queue.dep is 'The child waits for the parent: a row until the parent has succeeded. It stays while either is dead, so that a retry of the parent brings the child back.';
comment on column queue.dep.goes_on is 'The child also starts when the parent is given up; else it is cancelled with it.';

create function queue.finish_parents(ids bigint[], given_up boolean default false) returns void language plpgsql as $$
#variable_conflict use_column
declare
    children bigint[];
    counts int[];
    ready_in smallint[];
begin
    with met as (
        delete from queue.dep d where d.parent = any (finish_parents.ids) and (d.goes_on or not given_up) returning d.child
    ), counted as (
        select met.child, count(*)::int as n from met group by met.child order by met.child
    )
    select array_agg(counted.child), array_agg(counted.n) into children, counts from counted;
    if children is null then
        return;
    end if;
    -- In the order of their ids, so that two parents that end at once cannot deadlock over their children.
    perform from queue.job j where j.id = any (children) order by j.id for update;
    with met as (
        update queue.job j set waits_on = j.waits_on - m.n,
            state = case when j.waits_on > m.n then 3 when j.run_at > clock_timestamp() then 2 else 0 end,
            -- Ready since now: waits are measured from run_at.
            run_at = case when j.waits_on > m.n then j.run_at else greatest(j.run_at, clock_timestamp()) end,
            seq = case when j.waits_on > m.n or j.run_at > clock_timestamp() then null else nextval('queue.seq') end
        from unnest(children, counts) m (id, n)
        where j.id = m.id and j.state = 3
        returning j.queue_id, j.state
    )
    select array_agg(distinct met.queue_id) into ready_in from met where met.state = 0;
    perform queue.ring(q.class) from queue.queue q where q.id = any (ready_in);
end
$$;
comment on function queue.finish_parents is 'Jobs that others wait for have succeeded, or were given up and the others go on: those that wait for nothing else become ready. Not for operators.';

create function queue.fail_parents(ids bigint[]) returns void language plpgsql as $$
#variable_conflict use_column
declare
    wave bigint[] := fail_parents.ids;
    next_wave bigint[];
    child queue.job;
    cause bigint;
begin
    -- Wave by wave and not by recursion: a chain may be long.
    while wave <> '{}' loop
        -- A retry that is bringing a child back counts its parents behind the same locks: it sees this one dead, or this one sees the child.
        perform from queue.dep d where d.parent = any (wave) order by d.parent, d.child for update;
        perform queue.finish_parents(wave, given_up => true);
        next_wave := '{}';
        for child in
            select j.* from queue.job j
            where j.state = 3 and j.id in (select d.child from queue.dep d where d.parent = any (wave) and not d.goes_on)
            order by j.id for update
        loop
            select min(d.parent) into cause from queue.dep d where d.child = child.id and d.parent = any (wave) and not d.goes_on;
            if child.parent then
                next_wave := next_wave || child.id;
                child.parent := false; -- So that queue.bury leaves its children to the next wave.
            end if;
            child.last_error := jsonb_build_object('message', format('job %s, which it waited for, was given up', cause),
                'because_of', cause, 'at', clock_timestamp());
            perform queue.bury(child, 'cancelled');
        end loop;
        wave := next_wave;
    end loop;
end
$$;
comment on function queue.fail_parents is 'Jobs that others wait for were given up: the others are cancelled, and those that wait for them, or go on, as each was enqueued. Not for operators.';

create function queue.wait_for(child bigint, parents bigint[], on_parent_failure text) returns void language plpgsql as $$
#variable_conflict use_column
declare
    ids bigint[] := array(select distinct p from unnest(wait_for.parents) p order by p);
    live bigint[];
    dead bigint[];
    missing bigint;
    goes_on boolean := on_parent_failure = 'continue';
begin
    if array_position(ids, null) is not null or cardinality(ids) > 1000 then
        raise exception 'waits_for: at most 1000 ids, none of them null' using errcode = 'invalid_parameter_value';
    end if;
    if on_parent_failure is null or on_parent_failure not in ('cancel', 'continue') then
        raise exception 'on_parent_failure: “%” is not cancel or continue', on_parent_failure using errcode = 'invalid_parameter_value';
    end if;
    -- A job may move between two looks, from live to dead or back.
    for look in 1..3 loop
        -- Locked, so that it cannot end before it knows that somebody waits for it. One that is ending just now is waited for.
        live := array(select j.id from queue.job j where j.id = any (ids) order by j.id for update);
        dead := array(select d.id from queue.dead d where d.id = any (ids) and d.id <> all (live) order by d.id for key share);
        select p into missing from unnest(ids) p
        where p <> all (live) and p <> all (dead) and not exists (select from queue.done d where d.id = p) limit 1;
        exit when missing is null;
    end loop;
    if missing is not null then
        raise exception 'waits_for: there is no job %', missing using errcode = 'no_data_found';
    end if;
    update queue.job j set parent = true where j.id = any (live) and not j.parent;
    insert into queue.dep (parent, child, goes_on)
    select p, wait_for.child, goes_on from unnest(live || case when goes_on then '{}' else dead end) p;
    if dead <> '{}' and not goes_on then
        update queue.job j set waits_on = cardinality(live) + cardinality(dead) where j.id = wait_for.child;
        perform queue.fail_parents(dead);
    elsif live = '{}' then
        update queue.job j set state = case when j.run_at > clock_timestamp() then 2 else 0 end,
            seq = case when j.run_at > clock_timestamp() then null else nextval('queue.seq') end
        where j.id = wait_for.child;
        perform queue.ring(q.class) from queue.queue q join queue.job j on j.queue_id = q.id where j.id = wait_for.child;
    else
        update queue.job j set waits_on = cardinality(live) where j.id = wait_for.child;
    end if;
end
$$;
comment on function queue.wait_for is 'Makes a job that is being enqueued wait for others. Not for operators: use queue.enqueue(…, waits_for => array[…]).';

create function queue.revive_waiting(id bigint) returns void language plpgsql as $$
#variable_conflict use_column
declare
    wave bigint[] := array[revive_waiting.id];
    next_wave bigint[];
    corpse queue.dead;
    cause bigint;
    live int;
begin
    -- What it waited for itself. Locked, so that a parent that ends just now is waited for.
    perform from queue.dep d where d.child = revive_waiting.id for update;
    select min(d.parent) into cause from queue.dep d join queue.dead x on x.id = d.parent where d.child = revive_waiting.id and not d.goes_on;
    if cause is not null then
        raise exception 'job % waits for job %, which was given up', revive_waiting.id, cause using errcode = 'object_not_in_prerequisite_state',
            hint = format('Retry job %s: this one comes back with it.', cause);
    end if;
    select count(*) into live from queue.dep d join queue.job j on j.id = d.parent where d.child = revive_waiting.id;
    if live > 0 then
        update queue.job j set state = 3, seq = null, waits_on = live where j.id = revive_waiting.id;
    end if;
    -- Those that were cancelled because of it come back with it, and those that were cancelled because of them; each waits as before.
    while wave <> '{}' loop
        update queue.job j set parent = true where j.id = any (wave) and exists (select from queue.dep d where d.parent = j.id);
        next_wave := '{}';
        for corpse in
            select d.* from queue.dead d
            where d.id in (select w.child from queue.dep w where w.parent = any (wave)) and d.reason = 'cancelled' and d.last_error ? 'because_of'
            order by d.id for update
        loop
            perform from queue.dep w where w.child = corpse.id for update;
            continue when exists (select from queue.dep w join queue.dead x on x.id = w.parent where w.child = corpse.id and not w.goes_on);
            select count(*) into live from queue.dep w join queue.job j on j.id = w.parent where w.child = corpse.id;
            insert into queue.job (id, seq, token, run_at, created_at, queue_id, band, state, attempt, waits_on, kind, slot, dedupe_key)
            values (corpse.id, null, corpse.token + 1, corpse.run_at, corpse.created_at, corpse.queue_id, corpse.band, 3, corpse.attempt, live,
                corpse.kind, corpse.slot, corpse.dedupe_key)
            on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing;
            -- Its key was given to another job: it stays where it is.
            continue when not found;
            delete from queue.dead d where d.id = corpse.id;
            next_wave := next_wave || corpse.id;
        end loop;
        wave := next_wave;
    end loop;
end
$$;
comment on function queue.revive_waiting is 'A dead job has come back: it waits again for what it waited for, and the jobs that were cancelled because of it come back too. Not for operators.';

create function queue.parents(job bigint) returns setof bigint language sql stable as $$
    select p::bigint from queue.body b, jsonb_array_elements_text(b.headers -> 'waits_for') p where b.id = parents.job
$$;
comment on function queue.parents is 'The jobs that a job waited for, or still does, as it was enqueued.';

-- migrate:down

drop function queue.parents, queue.revive_waiting, queue.wait_for, queue.fail_parents, queue.finish_parents;
drop table queue.dep;
