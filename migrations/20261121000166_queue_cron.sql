-- migrate:up

-- Cron: five fields, in a time zone. All of it follows from its arguments alone.

create type queue.cron as (minutes int[], hours int[], days int[], months int[], weekdays int[], either_day boolean);
comment on type queue.cron is 'A cron expression, read: the values of each field, and whether one of the two day fields is enough.';

create function queue.cron_value(value text, field text, low int, high int, names text[]) returns int language plpgsql immutable as $$
declare
    n int;
begin
    if value ~ '^[0-9]{1,4}$' then
        n := value::int;
    else
        n := array_position(names, lower(value)) - 1 + low;
        if n is null then
            raise exception 'cron, %: “%” is not a number%', field, value,
                case when names = '{}' then '' else ' or one of ' || array_to_string(names, ', ') end using errcode = 'invalid_parameter_value';
        end if;
    end if;
    if n not between low and high then
        raise exception 'cron, %: % is not between % and %', field, n, low, high using errcode = 'invalid_parameter_value';
    end if;
    return n;
end
$$;
comment on function queue.cron_value is 'One value of a cron field, a number or a name.';

create function queue.cron_field(expression text, field text, low int, high int, names text[] default '{}') returns int[] language plpgsql immutable as $$
declare
    item text;
    part text[];
    first int;
    last int;
    step int;
    chosen int[] := '{}';
begin
    foreach item in array string_to_array(expression, ',') loop
        part := regexp_match(item, '^(\*|[0-9a-z]+)(-([0-9a-z]+))?(/([0-9]+))?$', 'i');
        if part is null or (part[1] = '*' and part[3] is not null) then
            raise exception 'cron, %: “%” is not a value, a range a-b, * or one of these with a step /n', field, item
                using errcode = 'invalid_parameter_value';
        end if;
        if part[1] = '*' then
            first := low;
            -- Sunday is 0 and 7.
            last := case when field = 'day of week' then 6 else high end;
        else
            first := queue.cron_value(part[1], field, low, high, names);
            -- A lone value with a step goes on to the end: 5/15 is 5-59/15.
            last := case when part[3] is not null then queue.cron_value(part[3], field, low, high, names)
                when part[5] is not null then high else first end;
            if field = 'day of week' and last = 0 and first > 0 then
                last := 7; -- fri-sun
            end if;
            if last < first then
                raise exception 'cron, %: the range % runs backwards', field, item using errcode = 'invalid_parameter_value',
                    hint = format('Write it as two: %s-%s,%s-%s', first, high, low, last);
            end if;
        end if;
        step := 1;
        if part[5] is not null then
            if length(part[5]) > 4 or part[5]::int not between 1 and high - low + 1 then
                raise exception 'cron, %: a step of % in “%” is not between 1 and %', field, part[5], item, high - low + 1
                    using errcode = 'invalid_parameter_value';
            end if;
            step := part[5]::int;
        end if;
        chosen := chosen || array(select case when field = 'day of week' then n % 7 else n end from generate_series(first, last, step) n);
    end loop;
    if chosen = '{}' then
        raise exception 'cron, %: it is empty', field using errcode = 'invalid_parameter_value';
    end if;
    return array(select distinct n from unnest(chosen) n order by n);
end
$$;
comment on function queue.cron_field is 'The values of one field of a cron expression, in order; an error that names the field if it makes no sense.';

create function queue.cron_parse(expression text) returns queue.cron language plpgsql immutable as $$
declare
    text_of text := regexp_replace(btrim(expression, E' \t\n'), '\s+', ' ', 'g');
    fields text[];
    c queue.cron;
begin
    text_of := case lower(text_of)
        when '@yearly' then '0 0 1 1 *' when '@annually' then '0 0 1 1 *' when '@monthly' then '0 0 1 * *' when '@weekly' then '0 0 * * 0'
        when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *' when '@hourly' then '0 * * * *' else text_of end;
    if text_of like '@%' then
        raise exception 'cron: there is no %', text_of using errcode = 'invalid_parameter_value',
            hint = 'known: @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually';
    end if;
    fields := string_to_array(text_of, ' ');
    if text_of is null or text_of = '' or cardinality(fields) <> 5 then
        raise exception 'cron: “%” has % fields, not five', coalesce(expression, ''), case when text_of <> '' then cardinality(fields) else 0 end
            using errcode = 'invalid_parameter_value', hint = 'minute hour day-of-month month day-of-week, such as 30 3 * * mon-fri';
    end if;
    c.minutes := queue.cron_field(fields[1], 'minute', 0, 59);
    c.hours := queue.cron_field(fields[2], 'hour', 0, 23);
    c.days := queue.cron_field(fields[3], 'day of month', 1, 31);
    c.months := queue.cron_field(fields[4], 'month', 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
    c.weekdays := queue.cron_field(fields[5], 'day of week', 0, 7, '{sun,mon,tue,wed,thu,fri,sat}');
    -- Vixie's rule: if both day fields say something, one is enough; one that begins with * says nothing and both must agree.
    c.either_day := fields[3] not like '*%' and fields[5] not like '*%';
    if not c.either_day
        and c.days[1] > (select max(('{31,29,31,30,31,30,31,31,30,31,30,31}'::int[])[m]) from unnest(c.months) m) then
        raise exception 'cron, day of month: % never comes in month %', fields[3], fields[4] using errcode = 'invalid_parameter_value';
    end if;
    return c;
end
$$;
comment on function queue.cron_parse is 'Reads a cron expression: five fields with names, ranges, lists and steps, or a macro such as @daily. Example: select queue.cron_parse(''0 3 * * mon-fri'')';

create function queue.cron_has(c queue.cron, day date) returns boolean language sql immutable as $$
    select extract(month from day) = any (c.months) and case when c.either_day
        then extract(day from day) = any (c.days) or extract(dow from day) = any (c.weekdays)
        else extract(day from day) = any (c.days) and extract(dow from day) = any (c.weekdays) end
$$;
comment on function queue.cron_has is 'Whether a cron expression runs on that day.';

create function queue.wall_clock(wall timestamp, time_zone text) returns timestamptz language plpgsql stable as $$
declare
    moment timestamptz := wall at time zone time_zone;
    shown timestamp := moment at time zone time_zone;
    early timestamptz;
    middle timestamptz;
    zone_offset interval;
begin
    if shown <> wall then
        -- The clocks skip it. PostgreSQL counts on from before the gap, so that the change lies between here and as much earlier as the
        -- gap is long: found to the minute by halving.
        early := moment - (shown - wall);
        zone_offset := shown - (moment at time zone 'UTC');
        while moment - early > interval '1 minute' loop
            middle := date_trunc('minute', early + (moment - early) / 2, 'UTC');
            if (middle at time zone time_zone) - (middle at time zone 'UTC') = zone_offset then
                moment := middle;
            else
                early := middle;
            end if;
        end loop;
        return moment;
    end if;
    -- Clocks that were turned back show it twice, and PostgreSQL takes the second.
    early := moment - interval '1 day';
    early := (wall - ((early at time zone time_zone) - (early at time zone 'UTC'))) at time zone 'UTC';
    return case when early < moment and early at time zone time_zone = wall then early else moment end;
end
$$;
comment on function queue.wall_clock is 'When clocks in a time zone first show that time; when they skip it, the moment right after the gap.';

create function queue.cron_next(cron text, time_zone text, after timestamptz) returns timestamptz language plpgsql stable as $$
declare
    c queue.cron := queue.cron_parse(cron);
    wall timestamp := cron_next.after at time zone cron_next.time_zone;
    day date := wall::date;
    -- 29 February on a given weekday can be forty years away.
    horizon date := day + 366 * 41;
    moment timestamptz;
    day_end timestamptz;
    h int;
    m int;
begin
    while day < horizon loop
        if not extract(month from day) = any (c.months) then
            day := date_trunc('month', day::timestamp) + interval '1 month';
        elsif not queue.cron_has(c, day) then
            day := day + 1;
        elsif cardinality(c.hours) = 24 then
            -- In every hour there is: as often as clocks show that minute, on a day of 23 hours as on one of 25.
            moment := greatest(queue.wall_clock(day::timestamp, time_zone), date_trunc('minute', cron_next.after, 'UTC') + interval '1 minute');
            day_end := queue.wall_clock((day + 1)::timestamp, time_zone);
            while moment < day_end loop
                if extract(minute from moment at time zone time_zone) = any (c.minutes) then
                    return moment;
                end if;
                moment := moment + interval '1 minute';
            end loop;
            day := day + 1;
        else
            -- At given times of the day: each once, whatever the clocks do.
            foreach h in array c.hours loop
                foreach m in array c.minutes loop
                    continue when day + make_time(h, m, 0) <= wall;
                    moment := queue.wall_clock(day + make_time(h, m, 0), time_zone);
                    if moment > cron_next.after then
                        return moment;
                    end if;
                end loop;
            end loop;
            day := day + 1;
        end if;
    end loop;
    raise exception 'cron: “%” does not come within forty years', cron using errcode = 'invalid_parameter_value';
end
$$;
comment on function queue.cron_next is 'The first moment after another at which a cron expression runs in a time zone. '
    'A time that clocks skip runs right after the gap, one that they show twice runs once; an expression for every hour follows real time. '
    'Example: select queue.cron_next(''0 3 * * *'', ''Europe/Berlin'', now())';

create function queue.cron_last(cron text, time_zone text, after timestamptz, until timestamptz, up_to int) returns timestamptz[]
language plpgsql stable as $$
declare
    span interval := interval '1 hour';
    start timestamptz;
    moment timestamptz;
    found_ones timestamptz[];
begin
    -- Looked for backwards in growing steps: a schedule for every minute that nobody served for a year must not keep the sweep.
    loop
        start := greatest(cron_last.after, cron_last.until - span);
        found_ones := '{}';
        moment := queue.cron_next(cron, time_zone, start);
        while moment <= cron_last.until loop
            found_ones := found_ones || moment;
            moment := queue.cron_next(cron, time_zone, moment);
        end loop;
        exit when cardinality(found_ones) >= up_to or start = cron_last.after;
        span := span * 5;
    end loop;
    return found_ones[greatest(cardinality(found_ones) - up_to + 1, 1):];
end
$$;
comment on function queue.cron_last is 'The last up_to moments of a cron expression after one time and until another, in order.';

create function queue.known_time_zone(name text) returns text language plpgsql stable as $$
declare
    known text;
begin
    -- Not what "at time zone" takes: that makes a zone of its own out of every misspelling that looks like one.
    select z.name into known from pg_timezone_names z where lower(z.name) = lower(btrim(known_time_zone.name));
    if known is null then
        raise exception 'time zone: there is none named “%”', known_time_zone.name using errcode = 'invalid_parameter_value',
            hint = 'A name such as Europe/Berlin or UTC; all of them: select name from pg_timezone_names';
    end if;
    return known;
end
$$;
comment on function queue.known_time_zone is 'The time zone of that name, as the server writes it; an error if there is none.';

create function queue.schedule_preview(cron text, time_zone text default 'UTC', n int default 5, after timestamptz default clock_timestamp())
returns setof timestamptz language plpgsql stable as $$
declare
    zone text := queue.known_time_zone(schedule_preview.time_zone);
    moment timestamptz := schedule_preview.after;
begin
    for i in 1..least(schedule_preview.n, 1000) loop
        moment := queue.cron_next(schedule_preview.cron, zone, moment);
        return next moment;
    end loop;
end
$$;
comment on function queue.schedule_preview is 'The next n moments at which a schedule would fire. Example: select queue.schedule_preview(''0 3 * * *'', ''Europe/Berlin'', 10)';

-- migrate:down

drop function queue.schedule_preview, queue.known_time_zone, queue.cron_last, queue.cron_next, queue.wall_clock, queue.cron_has,
    queue.cron_parse, queue.cron_field, queue.cron_value;
drop type queue.cron;
