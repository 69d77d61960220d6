-- migrate:up

-- What operators did, and how long records of the past are kept.

create table queue.retention (
    what text primary key,
    keep interval not null,
    least interval not null,
    check (keep >= least)
);
comment on table queue.retention is 'How long records are kept: metric, failure, health, audit, worker. Finished jobs have their queue''s retention. Changed by queue.set_retention.';
insert into queue.retention (what, keep, least) values
    ('metric', '14 days', '1 hour'), ('failure', '30 days', '1 hour'), ('health', '14 days', '1 hour'),
    ('audit', '2 years', '30 days'), ('worker', '90 days', '1 day');

create table queue.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null default session_user,
    application text not null default current_setting('application_name'),
    on_behalf_of text default nullif(current_setting('foretaste.actor', true), ''),
    action text not null,
    target text not null,
    args jsonb not null
);
create index audit_at on queue.audit (at);
comment on table queue.audit is 'Every call of an operator''s function: written by the functions, in their transaction; append-only.';
comment on column queue.audit.actor is 'The login role of the session.';
comment on column queue.audit.on_behalf_of is 'The person behind a shared login, where the program said so: set foretaste.actor = ''ada''.';

create function queue.guard_audit() returns trigger language plpgsql as $$
begin
    -- A row past its retention may go. Everything else is refused, to the owner too.
    if tg_op = 'DELETE' and old.at < clock_timestamp() - (select r.keep from queue.retention r where r.what = 'audit') then
        return old;
    end if;
    raise exception 'queue.audit is append-only: % refused', lower(tg_op) using errcode = 'insufficient_privilege';
end
$$;
comment on function queue.guard_audit is 'Refuses to change the past. Not for operators.';
create trigger append_only before update or delete on queue.audit for each row execute function queue.guard_audit();
create trigger append_only_whole before truncate on queue.audit for each statement execute function queue.guard_audit();

create function queue.record(action text, target text, args jsonb default '{}') returns void language sql as $$
    insert into queue.audit (action, target, args)
    select record.action, record.target, jsonb_strip_nulls(coalesce(record.args, '{}'))
$$;
comment on function queue.record is 'Writes into queue.audit who does what. Called by the functions of operators, not by them.';

create function queue.set_retention(what text, keep interval) returns void language plpgsql as $$
#variable_conflict use_column
begin
    update queue.retention r set keep = set_retention.keep where r.what = set_retention.what;
    if not found then
        raise exception 'there are no records named %', set_retention.what using errcode = 'no_data_found',
            hint = 'known: ' || (select string_agg(r.what, ', ' order by r.what) from queue.retention r);
    end if;
    perform queue.record('set_retention', set_retention.what, jsonb_build_object('keep', set_retention.keep));
end
$$;
comment on function queue.set_retention is 'How long records are kept: metric, failure, health, audit (30 days at least), worker. Example: select queue.set_retention(''metric'', ''30 days'')';

-- migrate:down

drop function queue.set_retention, queue.record;
drop table queue.audit;
drop function queue.guard_audit;
drop table queue.retention;
