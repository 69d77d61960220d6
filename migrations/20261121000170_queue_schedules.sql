-- migrate:up

-- Schedules: a job whenever so many events were counted, or whenever a clock shows the time.

create table queue.schedule (
    key text primary key check (key <> ''),
    queue_id smallint not null,
    kind text not null,
    args jsonb not null,
    topic text,
    every_new_pairs int check (every_new_pairs > 0),
    counter bigint not null default 0,
    cron text,
    time_zone text,
    missed text not null default 'one' check (missed in ('skip', 'one', 'all')),
    overlap text not null default 'skip' check (overlap in ('skip', 'queue', 'cancel', 'allow')),
    jitter interval not null default '0' check (jitter between interval '0' and interval '1 day'),
    next_at timestamptz,
    last_tick timestamptz,
    fired bigint not null default 0,
    skipped bigint not null default 0,
    paused_at timestamptz,
    last_at timestamptz,
    last_job_id bigint,
    last_outcome text,
    created_at timestamptz not null default clock_timestamp(),
    check ((cron is null) = (topic is not null and every_new_pairs is not null)),
    check ((cron is null) = (time_zone is null and next_at is null))
);
create index schedule_topic on queue.schedule (topic);
create index schedule_next on queue.schedule (next_at) where paused_at is null;
comment on table queue.schedule is 'A job to enqueue whenever every_new_pairs events of a topic were counted, or at the times of a cron expression.';
comment on column queue.schedule.counter is 'Events counted since the last firing.';
comment on column queue.schedule.missed is 'What becomes of times at which nobody was there: skip (more than a minute late is too late), one (the last of them), all (the last hundred).';
comment on column queue.schedule.overlap is 'When the last job still lives: skip this time, queue behind it, cancel it first, or allow both.';
comment on column queue.schedule.jitter is 'Each job starts up to so much later, by the schedule''s key and the time, so that schedules of one time spread.';
comment on column queue.schedule.last_tick is 'The time that it last fired for, or passed over; last_at is when that happened.';
comment on column queue.schedule.skipped is 'How often it came due and enqueued nothing.';

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
    update queue.schedule t set counter = s.counter % s.every_new_pairs, fired = t.fired + 1, last_at = clock_timestamp(), last_job_id = job,
        last_outcome = 'enqueued job ' || job
    where t.key = s.key;
    return job;
end
$$;
comment on function queue.fire is 'Enqueues the job of a counting schedule, which the caller has locked, if its threshold is reached. Not for operators.';

create function queue.fire_at(s queue.schedule, tick timestamptz) returns queue.schedule language plpgsql as $$
#variable_conflict use_column
declare
    headers jsonb := jsonb_build_object('schedule', s.key, 'tick', fire_at.tick);
    spread double precision := ('x' || left(md5(s.key || extract(epoch from fire_at.tick)), 8))::bit(32)::bigint / 4294967296.0;
    source text := (select q.name from queue.queue q where q.id = s.queue_id);
    key text := format('schedule:%s:%s', s.key, extract(epoch from fire_at.tick)::bigint);
    run_at timestamptz := case when s.jitter > interval '0' then fire_at.tick + s.jitter * spread end;
    waits_for bigint[];
    in_line int;
begin
    s.last_tick := fire_at.tick;
    if exists (select from queue.job j where j.id = s.last_job_id) then
        if s.overlap = 'skip' then
            s.skipped := s.skipped + 1;
            s.last_outcome := format('skipped: job %s still lives', s.last_job_id);
            return s;
        elsif s.overlap = 'queue' then
            with recursive line (id, n) as (
                select s.last_job_id, 1
                union all
                select d.parent, line.n + 1 from line join queue.dep d on d.child = line.id where line.n < 100
            ) select max(line.n) into in_line from line;
            if in_line >= 100 then
                s.skipped := s.skipped + 1;
                s.last_outcome := 'skipped: a hundred of its jobs are in line';
                return s;
            end if;
            waits_for := array[s.last_job_id];
        elsif s.overlap = 'cancel' then
            perform queue.cancel(s.last_job_id, format('the next time of the schedule %s has come', s.key));
            waits_for := array[s.last_job_id];
        end if;
    end if;
    s.last_job_id := queue.enqueue(s.kind, s.args, source, key, run_at, headers => headers, waits_for => waits_for, on_parent_failure => 'continue');
    s.fired := s.fired + 1;
    s.last_outcome := 'enqueued job ' || s.last_job_id;
    return s;
end
$$;
comment on function queue.fire_at is 'Enqueues the job of a cron schedule, which the caller has locked, for one time, or passes it over; answers what the schedule''s row becomes. Not for operators.';

create function queue.tick(at timestamptz default clock_timestamp()) returns int language plpgsql as $$
#variable_conflict use_column
declare
    s queue.schedule;
    most int;
    tick timestamptz;
    ticks timestamptz[];
    before bigint;
    fired int := 0;
begin
    -- Whoever locks the row is the one who fires: the job and the next time commit together or not at all.
    for s in
        select t.* from queue.schedule t where t.next_at <= tick.at and t.paused_at is null order by t.next_at limit 100 for update skip locked
    loop
        before := s.fired;
        begin
            most := case s.missed when 'all' then 100 else 1 end;
            ticks := array[s.next_at];
            if queue.cron_next(s.cron, s.time_zone, s.next_at) <= tick.at then
                ticks := queue.cron_last(s.cron, s.time_zone, s.next_at - interval '1 microsecond', tick.at, most);
            end if;
            if s.missed = 'skip' and ticks[1] < tick.at - interval '1 minute' then
                s.skipped := s.skipped + 1;
                s.last_tick := ticks[1];
                s.last_at := clock_timestamp();
                s.last_outcome := format('skipped: it was noticed %s s late', floor(extract(epoch from tick.at - ticks[1])));
                ticks := '{}';
            end if;
            foreach tick in array ticks loop
                s := queue.fire_at(s, tick);
                s.last_at := tick.at;
            end loop;
            s.next_at := queue.cron_next(s.cron, s.time_zone, tick.at);
            fired := fired + (s.fired - before);
        exception
            -- A lock, a conflict, a full disk pass: the next sweep tries again.
            when transaction_rollback or lock_not_available or insufficient_resources or system_error then
                continue;
            -- A queue that is gone, a time zone that the server has lost: this schedule waits for an operator, the others go on.
            when others then
                select t.* into s from queue.schedule t where t.key = s.key;
                s.paused_at := clock_timestamp();
                s.last_outcome := 'paused: ' || sqlerrm;
        end;
        update queue.schedule t set next_at = s.next_at, last_tick = s.last_tick, fired = s.fired, skipped = s.skipped, last_at = s.last_at,
            last_job_id = s.last_job_id, last_outcome = s.last_outcome, paused_at = s.paused_at
        where t.key = s.key;
    end loop;
    return fired;
end
$$;
comment on function queue.tick is 'Fires the cron schedules whose time has come, exactly one job a time however many call it; returns how many jobs. Part of the sweep.';

create function queue.schedule_add(
    key text, kind text, args jsonb default '{}', every_new_pairs int default null, topic text default 'pairs.usable', queue text default null,
    cron text default null, time_zone text default 'UTC', missed text default 'one', overlap text default 'skip', jitter interval default '0'
) returns void language plpgsql as $$
#variable_conflict use_column
declare
    zone text;
    next_at timestamptz;
begin
    if coalesce(schedule_add.key, '') = '' or length(schedule_add.key) > 200 then
        raise exception 'key: a schedule needs a name of at most 200 characters' using errcode = 'invalid_parameter_value';
    end if;
    if (schedule_add.cron is null) = (schedule_add.every_new_pairs is null) then
        raise exception 'a schedule needs either cron or every_new_pairs%', case when schedule_add.cron is null then '' else ', not both' end
            using errcode = 'invalid_parameter_value';
    end if;
    if schedule_add.every_new_pairs < 1 then
        raise exception 'every_new_pairs must be at least 1, not %', schedule_add.every_new_pairs using errcode = 'invalid_parameter_value';
    end if;
    if schedule_add.missed is null or schedule_add.missed not in ('skip', 'one', 'all') then
        raise exception 'missed: “%” is not skip, one or all', schedule_add.missed using errcode = 'invalid_parameter_value';
    end if;
    if schedule_add.overlap is null or schedule_add.overlap not in ('skip', 'queue', 'cancel', 'allow') then
        raise exception 'overlap: “%” is not skip, queue, cancel or allow', schedule_add.overlap using errcode = 'invalid_parameter_value';
    end if;
    if schedule_add.missed = 'all' and schedule_add.overlap in ('skip', 'cancel') then
        raise exception 'missed: all of the missed times cannot run where overlap is %', schedule_add.overlap using errcode = 'invalid_parameter_value',
            hint = 'With missed = all, overlap is queue or allow.';
    end if;
    if schedule_add.jitter is null or schedule_add.jitter not between interval '0' and interval '1 day' then
        raise exception 'jitter: “%” is not between 0 and a day', schedule_add.jitter using errcode = 'invalid_parameter_value';
    end if;
    if schedule_add.cron is not null then
        zone := queue.known_time_zone(schedule_add.time_zone);
        next_at := queue.cron_next(schedule_add.cron, zone, clock_timestamp());
    end if;
    insert into queue.schedule as s (key, queue_id, kind, args, topic, every_new_pairs, cron, time_zone, missed, overlap, jitter, next_at)
    values (schedule_add.key, (queue.find(coalesce(schedule_add.queue, schedule_add.kind))).id, schedule_add.kind,
        coalesce(schedule_add.args, '{}'), case when zone is null then schedule_add.topic end, schedule_add.every_new_pairs,
        schedule_add.cron, zone, schedule_add.missed, schedule_add.overlap, schedule_add.jitter, next_at)
    on conflict (key) do update set queue_id = excluded.queue_id, kind = excluded.kind, args = excluded.args, topic = excluded.topic,
        every_new_pairs = excluded.every_new_pairs, cron = excluded.cron, time_zone = excluded.time_zone, missed = excluded.missed,
        overlap = excluded.overlap, jitter = excluded.jitter,
        -- A time that has come and was not served yet is not lost because somebody changes the arguments.
        next_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) then s.next_at else excluded.next_at end;
    perform queue.record('schedule_add', 'schedule ' || schedule_add.key, jsonb_build_object('kind', schedule_add.kind,
        'args', schedule_add.args, 'every_new_pairs', schedule_add.every_new_pairs, 'cron', schedule_add.cron, 'time_zone', zone));
end
$$;
comment on function queue.schedule_add is 'Adds or changes a schedule: a job of this kind at the times of a cron expression in a time zone, or whenever so many new pairs have become usable. '
    'missed is skip, one or all; overlap is skip, queue, cancel or allow. A count goes on when the schedule is changed. '
    'Examples: select queue.schedule_add(''nightly'', ''train_reward'', ''{"name":"reward-overall"}'', cron => ''0 3 * * *'', time_zone => ''Europe/Berlin''); '
    'select queue.schedule_add(''fresh'', ''train_reward'', ''{"name":"reward-overall"}'', every_new_pairs => 500)';

create function queue.schedule_remove(key text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    delete from queue.schedule s where s.key = schedule_remove.key;
    if not found then
        return false;
    end if;
    perform queue.record('schedule_remove', 'schedule ' || schedule_remove.key);
    return true;
end
$$;
comment on function queue.schedule_remove is 'Removes a schedule; jobs that it enqueued stay. Answers whether there was one.';

create function queue.schedule_pause(key text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    update queue.schedule s set paused_at = coalesce(s.paused_at, clock_timestamp()) where s.key = schedule_pause.key;
    if not found then
        return false;
    end if;
    perform queue.record('schedule_pause', 'schedule ' || schedule_pause.key);
    return true;
end
$$;
comment on function queue.schedule_pause is 'A schedule stops firing until queue.schedule_resume; it goes on counting. Answers whether there is one of that name.';

create function queue.schedule_resume(key text) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    -- The times of the pause were not missed.
    update queue.schedule s set paused_at = null, next_at = queue.cron_next(s.cron, s.time_zone, clock_timestamp())
    where s.key = schedule_resume.key and s.paused_at is not null;
    if found then
        perform queue.record('schedule_resume', 'schedule ' || schedule_resume.key);
    end if;
    return exists (select from queue.schedule s where s.key = schedule_resume.key);
end
$$;
comment on function queue.schedule_resume is 'Ends a pause; what a clock showed during it does not count as missed. Answers whether there is a schedule of that name.';

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

drop function queue.count_event, queue.schedule_resume, queue.schedule_pause, queue.schedule_remove, queue.schedule_add, queue.tick,
    queue.fire_at, queue.fire;
drop table queue.schedule;
