-- migrate:up

-- Schedules.

create table queue.schedule (
    key text primary key,
    queue_id smallint not null,
    kind text not null,
    args jsonb not null,
    topic text not null,
    every_new_pairs int not null check (every_new_pairs > 0),
    counter bigint not null default 0,
    fired bigint not null default 0,
    paused_at timestamptz,
    last_at timestamptz,
    last_job_id bigint,
    created_at timestamptz not null default clock_timestamp()
);
create index schedule_topic on queue.schedule (topic);
comment on table queue.schedule is 'A job to enqueue whenever every_new_pairs events of a topic were counted.';
comment on column queue.schedule.counter is 'Events counted since the last firing.';

create function queue.fire(s queue.schedule) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    job bigint;
    key text := 'schedule:' || s.key;
begin
    -- While its last job lives, the schedule only counts; what has come together fires afterwards.
    if s.paused_at is not null or s.counter < s.every_new_pairs or exists (select from queue.job j where j.dedupe_key = key) then
        return null;
    end if;
    job := queue.enqueue(s.kind, s.args, (select q.name from queue.queue q where q.id = s.queue_id), key,
        headers => jsonb_build_object('schedule', s.key));
    -- One job sees everything there is, so whole multiples are used up together and only the rest stays.
    update queue.schedule t set counter = s.counter % s.every_new_pairs, fired = t.fired + 1, last_at = clock_timestamp(), last_job_id = job
    where t.key = s.key;
    return job;
end
$$;
comment on function queue.fire is 'Enqueues the job of a schedule, which the caller has locked, if its threshold is reached. Not for operators.';

create function queue.schedule_add(
    key text, kind text, args jsonb default '{}', every_new_pairs int default 1000, topic text default 'pairs.usable', queue text default null
) returns void language plpgsql as $$
#variable_conflict use_column
begin
    if schedule_add.every_new_pairs is null or schedule_add.every_new_pairs < 1 then
        raise exception 'every_new_pairs must be at least 1, not %', schedule_add.every_new_pairs using errcode = 'invalid_parameter_value';
    end if;
    insert into queue.schedule as s (key, queue_id, kind, args, topic, every_new_pairs)
    values (schedule_add.key, (queue.find(coalesce(schedule_add.queue, schedule_add.kind))).id, schedule_add.kind,
        coalesce(schedule_add.args, '{}'), schedule_add.topic, schedule_add.every_new_pairs)
    on conflict (key) do update set queue_id = excluded.queue_id, kind = excluded.kind, args = excluded.args, topic = excluded.topic,
        every_new_pairs = excluded.every_new_pairs;
end
$$;
comment on function queue.schedule_add is 'Adds or changes a schedule: a job of this kind whenever so many new pairs have become usable. The count goes on when it is changed. '
    'Example: select queue.schedule_add(''nightly'', ''train_reward'', ''{"name":"reward-overall"}'', every_new_pairs => 500)';

create function queue.schedule_remove(key text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    delete from queue.schedule s where s.key = schedule_remove.key;
    return found;
end
$$;
comment on function queue.schedule_remove is 'Removes a schedule; jobs that it enqueued stay. Answers whether there was one.';

create function queue.count_event(topic text, n int default 1) returns int language plpgsql as $$
#variable_conflict use_column
declare
    s queue.schedule;
    fired int := 0;
begin
    -- In the order of their keys, so that two transactions that count for several schedules cannot deadlock.
    for s in select t.* from queue.schedule t where t.topic = count_event.topic order by t.key for update loop
        s.counter := s.counter + count_event.n;
        update queue.schedule t set counter = s.counter where t.key = s.key;
        fired := fired + (queue.fire(s) is not null)::int;
    end loop;
    return fired;
end
$$;
comment on function queue.count_event is 'Counts n events of a topic in the caller''s transaction and enqueues the job of each schedule that reaches its threshold; exactly one, however many count at once.';

-- migrate:down

drop function queue.count_event, queue.schedule_remove, queue.schedule_add, queue.fire;
drop table queue.schedule;
