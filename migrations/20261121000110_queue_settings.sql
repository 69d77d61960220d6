-- migrate:up

-- Settings and partitions.

create function queue.define(
    name text, class text default 'short', worker_ttl interval default null, max_attempts int default null,
    max_rescues int default null, backoff_base interval default null, backoff_cap interval default null,
    stall_timeout interval default null, retention interval default null, history boolean default true
) returns smallint language sql as $$
    select queue.record('define', 'queue ' || define.name, jsonb_build_object('class', define.class, 'worker_ttl', define.worker_ttl,
        'max_attempts', define.max_attempts, 'max_rescues', define.max_rescues, 'backoff_base', define.backoff_base,
        'backoff_cap', define.backoff_cap, 'stall_timeout', define.stall_timeout, 'retention', define.retention,
        'history', define.history));
    insert into queue.queue as q
        (name, class, worker_ttl, max_attempts, max_rescues, backoff_base, backoff_cap, stall_timeout, retention, history)
    values (
        define.name, define.class,
        coalesce(define.worker_ttl, case define.class when 'long' then interval '30 seconds' else interval '10 seconds' end),
        coalesce(define.max_attempts, case define.class when 'long' then 5 else 20 end),
        coalesce(define.max_rescues, 10),
        coalesce(define.backoff_base, interval '1 second'),
        coalesce(define.backoff_cap, case define.class when 'long' then interval '1 hour' else interval '15 minutes' end),
        coalesce(define.stall_timeout, case define.class when 'long' then interval '15 minutes' end),
        coalesce(define.retention, case define.class when 'short' then interval '7 days' end),
        coalesce(define.history, true))
    on conflict (name) do update set
        class = excluded.class, worker_ttl = excluded.worker_ttl, max_attempts = excluded.max_attempts,
        max_rescues = excluded.max_rescues, backoff_base = excluded.backoff_base, backoff_cap = excluded.backoff_cap,
        stall_timeout = excluded.stall_timeout, retention = excluded.retention,
        history = excluded.history
    returning id
$$;
comment on function queue.define is 'Creates a queue, or changes its settings; a setting not given takes the default of the class.';

select queue.define('verify_preference', 'short', max_attempts => 8);
select queue.define('train_reward', 'long');
select queue.define('evaluate_reward', 'long');
select queue.define('tune_generator', 'long');
select queue.define('generate', 'long');
select queue.define('score_latents', 'long');

-- In UTC, whoever calls it: the days of two time zones overlap.
create function queue.create_partitions(ahead int default 7) returns int language plpgsql set timezone = 'UTC' as $$
#variable_conflict use_column
declare
    day date;
    partition text;
    made int := 0;
begin
    for day in select current_date + n from generate_series(0, ahead) n loop
        partition := 'done_' || to_char(day, 'YYYYMMDD');
        -- A day whose rows already went to the default partition stays there: moving them is not worth a lock.
        continue when to_regclass('queue.' || partition) is not null
            or exists (select from queue.done_default where finished_at >= day and finished_at < day + 1);
        execute format('create table queue.%I (like queue.done including all)', partition);
        execute format('alter table queue.done attach partition queue.%I for values from (%L) to (%L)',
            partition, day::timestamptz, (day + 1)::timestamptz);
        made := made + 1;
    end loop;
    return made;
end
$$;
comment on function queue.create_partitions is 'Makes the daily partitions of queue.done for today and the days ahead; returns how many were new.';

select queue.create_partitions();

-- migrate:down

drop function queue.create_partitions, queue.define;
