-- migrate:up

-- Slots: permits that a job holds while it runs, so that never more than so many run at a time.

create table queue.slot_limit (
    key text primary key check (key <> ''),
    total int not null check (total between 0 and 10000),
    surplus int not null default 0 check (surplus >= 0)
);
comment on table queue.slot_limit is 'How many permits a slot has. A slot that nobody has defined has one.';
comment on column queue.slot_limit.surplus is 'Permits to do away with as they come back: the total was lowered while more were held.';

create table queue.slot (
    key text not null,
    n int not null,
    job_id bigint,
    token bigint,
    taken_at timestamptz,
    primary key (key, n)
) with (fillfactor = 50);
create index slot_job on queue.slot (job_id) where job_id is not null;
comment on table queue.slot is 'A row a permit; job_id is null while it is free, else the job that runs under it and the token of its lease.';

create function queue.slot_ensure(key text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    if not exists (select from queue.slot_limit l where l.key = slot_ensure.key) then
        insert into queue.slot_limit (key, total) values (slot_ensure.key, 1) on conflict do nothing;
        if found then
            insert into queue.slot (key, n) values (slot_ensure.key, 1);
        end if;
    end if;
end
$$;
comment on function queue.slot_ensure is 'Makes a slot of one permit unless there is one of that name. Workers call it for the slot of their machine.';

create function queue.slots_define(key text, total int) returns void language plpgsql as $$
#variable_conflict use_column
declare
    held int;
begin
    if coalesce(slots_define.total not between 0 and 10000, true) then
        raise exception 'total: a slot has 0 to 10000 permits, not %', slots_define.total using errcode = 'invalid_parameter_value';
    end if;
    perform queue.slot_ensure(slots_define.key);
    perform from queue.slot_limit l where l.key = slots_define.key for update;
    -- Claims that are taking one of them just now end first.
    perform from queue.slot s where s.key = slots_define.key order by s.n for update;
    delete from queue.slot s where s.key = slots_define.key and s.job_id is null;
    select count(*) into held from queue.slot s where s.key = slots_define.key;
    update queue.slot_limit l set total = slots_define.total, surplus = greatest(held - slots_define.total, 0) where l.key = slots_define.key;
    insert into queue.slot (key, n)
    select slots_define.key, g.n from generate_series(1, 10000 + held) g (n)
    where not exists (select from queue.slot s where s.key = slots_define.key and s.n = g.n)
    order by g.n limit greatest(slots_define.total - held, 0);
    perform queue.record('slots_define', 'slot ' || slots_define.key, jsonb_build_object('total', slots_define.total));
    perform queue.ring('long'), queue.ring('short');
end
$$;
comment on function queue.slots_define is 'Sets how many permits a slot has. Jobs that hold more than that go on; none starts before fewer are held. Example: select queue.slots_define(''trainer:gpu-box'', 2)';

create function queue.take_slot(key text, job bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    update queue.slot s set job_id = take_slot.job, token = take_slot.token, taken_at = clock_timestamp()
    where s.key = take_slot.key and s.n = (
        select f.n from queue.slot f where f.key = take_slot.key and f.job_id is null order by f.n limit 1 for update skip locked);
    return found;
end
$$;
comment on function queue.take_slot is 'Takes a free permit for a job that is being claimed; false if there is none. Not for operators.';

create function queue.free_slots(ids bigint[]) returns void language plpgsql as $$
#variable_conflict use_column
declare
    permit queue.slot;
    freed boolean := false;
begin
    for permit in select s.* from queue.slot s where s.job_id = any (free_slots.ids) order by s.key, s.n for update loop
        update queue.slot_limit l set surplus = l.surplus - 1 where l.key = permit.key and l.surplus > 0;
        if found then
            delete from queue.slot s where s.key = permit.key and s.n = permit.n;
        else
            update queue.slot s set job_id = null, token = null, taken_at = null where s.key = permit.key and s.n = permit.n;
            freed := true;
        end if;
    end loop;
    if freed then
        -- Whoever waits for it may be in either class.
        perform queue.ring('long'), queue.ring('short');
    end if;
end
$$;
comment on function queue.free_slots is 'Gives back the permits of jobs whose leases end, in the transaction that ends them. Not for operators.';

create function queue.lease_with_slots(worker bigint, source queue.queue, kind text, up_to int, offered text) returns setof queue.job
language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
    leased int := 0;
    missed boolean := false;
begin
    -- A job that cannot have its permit does not keep those behind it waiting.
    for job in
        select j.* from queue.job j
        where j.seq is not null and j.state = 0 and j.queue_id = source.id and j.kind = lease_with_slots.kind
            and (j.slot is null or exists (select from queue.slot s where s.key = j.slot and s.job_id is null))
            and (offered is null or exists (select from queue.slot s where s.key = offered and s.job_id is null))
        order by j.band, j.seq limit lease_with_slots.up_to for update of j skip locked
    loop
        job.token := job.token + 1 + floor(random() * 1000000)::bigint;
        -- Both or none: the job's own permit, and that of the machine it is to run on.
        if job.slot is not null and not queue.take_slot(job.slot, job.id, job.token) then
            missed := true;
            continue;
        end if;
        if offered is not null and offered is distinct from job.slot and not queue.take_slot(offered, job.id, job.token) then
            perform queue.free_slots(array[job.id]);
            missed := true;
            exit;
        end if;
        update queue.job j set state = 1, worker_id = lease_with_slots.worker, token = job.token, attempt = j.attempt + 1,
            claimed_at = clock_timestamp()
        where j.id = job.id returning j.* into job;
        -- Of a short job, too, that holds the machine's permit: its end looks for permits where there is a run.
        if source.class = 'long' or offered is not null then
            insert into queue.run as r (job_id, token, worker_id, lease_until)
            values (job.id, job.token, job.worker_id, case when source.class = 'long' then clock_timestamp() + source.worker_ttl end)
            on conflict (job_id) do update set token = excluded.token, worker_id = excluded.worker_id,
                lease_until = excluded.lease_until, progress = 0, message = '', first_progress = null, first_progress_at = null,
                cancel_requested_at = null, cancel_reason = null, updated_at = clock_timestamp();
        end if;
        leased := leased + 1;
        return next job;
    end loop;
    if leased > 0 then
        -- A claim that a crash of the server forgets would give the permit to a second one at once.
        perform set_config('synchronous_commit', 'on', true);
    elsif missed then
        -- Somebody was faster, and what we had locked meanwhile may have been passed over by others.
        perform queue.ring(source.class);
    end if;
end
$$;
comment on function queue.lease_with_slots is 'The claim of queues whose jobs name slots, and of workers that offer one: leases jobs together with their permits. Not for operators.';

-- migrate:down

drop function queue.lease_with_slots, queue.free_slots, queue.take_slot, queue.slots_define, queue.slot_ensure;
drop table queue.slot, queue.slot_limit;
