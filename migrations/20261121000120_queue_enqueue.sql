-- migrate:up

-- Enqueue.

create function queue.ring(class text, sparing boolean default false) returns void language plpgsql as $$
declare
    setting constant text := 'queue.rung_' || ring.class;
    now_ms constant bigint := extract(epoch from clock_timestamp()) * 1000;
begin
    -- A notifying commit waits for every other one of the whole server. So of the enqueues of a session that follow each other within four
    -- milliseconds only the first rings: whoever hears it looks again after five. In a longer transaction nobody knows when the commit
    -- will be, so there each rings, which is one bell in the end. (The messages of one statement are microseconds apart.)
    if ring.sparing then
        if statement_timestamp() - transaction_timestamp() < interval '0.5 milliseconds'
            and now_ms - coalesce(nullif(current_setting(setting, true), '')::bigint, 0) between 0 and 3 then
            return;
        end if;
        perform set_config(setting, now_ms::text, false);
    end if;
    -- A doorbell, never data: identical notifications of one transaction collapse into one.
    perform pg_notify('queue_' || ring.class, '');
end
$$;
comment on function queue.ring is 'Wakes the workers of a class of queues (short, long) when the transaction commits; sparing: unless this session has just done so.';

create function queue.find(name text) returns queue.queue language plpgsql stable as $$
#variable_conflict use_column
declare
    found_queue queue.queue;
begin
    select q.* into found_queue from queue.queue q where q.name = find.name;
    if not found then
        raise exception 'there is no queue named %', find.name using errcode = 'no_data_found',
            hint = 'known: ' || coalesce((select string_agg(q.name, ', ' order by q.name) from queue.queue q), 'none')
                || '. A new one is made with queue.define(name, class).';
    end if;
    return found_queue;
end
$$;
comment on function queue.find is 'The settings of a queue; an error that lists the known ones if there is none of that name.';

create function queue.enqueue(
    kind text, args jsonb default '{}', queue text default null, dedupe_key text default null,
    run_at timestamptz default null, band int default 1, headers jsonb default null, slot text default null,
    waits_for bigint[] default null, on_parent_failure text default 'cancel'
) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(coalesce(enqueue.queue, enqueue.kind));
    later boolean := coalesce(enqueue.run_at > clock_timestamp(), false);
    waits boolean := coalesce(cardinality(enqueue.waits_for) > 0, false);
    job bigint;
begin
    if enqueue.slot is not null then
        perform queue.slot_ensure(enqueue.slot);
        update queue.queue q set uses_slots = true where q.id = target.id and not q.uses_slots;
    end if;
    if waits then
        headers := coalesce(enqueue.headers, '{}') || jsonb_build_object('waits_for', enqueue.waits_for);
    end if;
    loop
        -- One statement, so that whatever looks at the new job finds its body.
        with fresh as (
            insert into queue.job (seq, queue_id, kind, dedupe_key, run_at, band, state, slot)
            values (case when not later and not waits then nextval('queue.seq') end, target.id, enqueue.kind, enqueue.dedupe_key,
                case when later then enqueue.run_at end, enqueue.band, case when waits then 3 when later then 2 else 0 end, enqueue.slot)
            on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing
            returning id
        )
        insert into queue.body (id, args, headers) select fresh.id, coalesce(enqueue.args, '{}'), enqueue.headers from fresh
        returning id into job;
        if found then
            insert into queue.tally (queue_id, kind, what, n) values (target.id, enqueue.kind, 'enqueued', 1);
            if waits then
                perform queue.wait_for(job, enqueue.waits_for, enqueue.on_parent_failure);
            elsif not later then
                perform queue.ring(target.class, sparing => true);
            end if;
            return job;
        end if;
        select j.id into job from queue.job j where j.dedupe_key = enqueue.dedupe_key;
        if found then
            return job;
        end if;
        -- The live job with this key ended between the two statements: try again.
    end loop;
end
$$;
comment on function queue.enqueue is 'Adds a job and returns its id; with a dedupe_key that a live job has, returns that one''s. Part of the caller''s transaction. '
    'slot names a permit that it needs to run; waits_for the jobs that must succeed first, and on_parent_failure (cancel, continue) what becomes of it when one is given up. '
    'Example: select queue.enqueue(''train_reward'', ''{"name":"reward-overall","backbone":"wan-demo"}'')';

create function queue.enqueue_many(kind text, args jsonb[], dedupe_keys text[] default null, queue text default null, band int default 1)
returns setof bigint language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(coalesce(enqueue_many.queue, enqueue_many.kind));
    added int;
begin
    return query
        with given as (
            select nextval('queue.job_id') as id, new.args, new.dedupe_key
            from unnest(enqueue_many.args, enqueue_many.dedupe_keys) with ordinality new (args, dedupe_key, n)
            where new.args is not null order by n
        ), fresh as (
            insert into queue.job (id, queue_id, kind, dedupe_key, band)
            select given.id, target.id, enqueue_many.kind, given.dedupe_key, enqueue_many.band from given
            on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing
            returning id
        ), body as (
            insert into queue.body (id, args) select given.id, given.args from given join fresh on fresh.id = given.id
        )
        select fresh.id from fresh;
    get diagnostics added = row_count;
    if added > 0 then
        insert into queue.tally (queue_id, kind, what, n) values (target.id, enqueue_many.kind, 'enqueued', added);
    end if;
    perform queue.ring(target.class);
end
$$;
comment on function queue.enqueue_many is 'Adds many jobs in one statement and returns the ids of the new ones; those whose dedupe key is live are left out.';

-- migrate:down

drop function queue.enqueue_many, queue.enqueue, queue.find, queue.ring;
