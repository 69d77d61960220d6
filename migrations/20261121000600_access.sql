-- migrate:up

-- Who may do what over HTTP, what was done by whom, and answers that are kept for requests that are sent again.
-- The services call the functions below, which run with the rights of their owner; nobody else needs the tables.

create schema access;

-- An API key. The key itself is shown once, when it is made, and not stored.
create table access.key (
    id           text primary key check (id ~ '^[0-9A-Za-z]{8}$'),  -- the first eight characters behind `ft_`
    name         text not null check (name <> '' and length(name) <= 200),
    hash         bytea not null unique check (octet_length(hash) = 32),  -- sha256 of the whole key, which is random: no salt needed
    scopes       text[] not null check (scopes <> '{}' and scopes <@ array['ingest', 'read', 'score', 'admin']),
    run          boolean not null default false,                    -- minted by `foretaste up`, which renews it while it runs
    created_at   timestamptz not null default clock_timestamp(),
    created_by   text not null default session_user,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz                                        -- to the minute or so
);

-- Services keep keys that they have checked for some seconds; this tells them to look again.
create function access.announce_key() returns trigger language plpgsql as $$
begin
    perform pg_notify('access', case when tg_op = 'DELETE' then old.id else new.id end);
    return null;
end $$;
create trigger announce_key after insert or delete or update of hash, scopes, expires_at, revoked_at on access.key
    for each row execute function access.announce_key();

-- What was done, by whom. Rows are added and never changed.
create table access.audit (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    actor      text not null,                                       -- `key:ID`, `anonymous`, or `sql:ROLE` from a database session
    action     text not null,                                       -- such as key.created
    object     text not null,                                       -- what it was done to
    request_id text,                                                -- the answer's X-Request-Id, which log lines have too
    ip         inet,
    details    jsonb not null default '{}'
);
create index audit_by_object on access.audit (object, id);
create index audit_by_action on access.audit (action, id);

create function access.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'access.audit is append-only' using errcode = 'insufficient_privilege';
end $$;
create trigger audit_is_append_only before update or delete or truncate on access.audit
    for each statement execute function access.refuse_change();

-- Adds a row to the audit log. Who did it is what the transaction was told (`set local foretaste.actor`, `.request_id`, `.ip`, as the
-- services do for a request), else the database's user.
create function access.record(action text, object text, details jsonb default '{}') returns void
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into access.audit (actor, action, object, request_id, ip, details)
    values (coalesce(nullif(current_setting('foretaste.actor', true), ''), 'sql:' || session_user), record.action, record.object,
            nullif(current_setting('foretaste.request_id', true), ''), nullif(current_setting('foretaste.ip', true), '')::inet,
            coalesce(record.details, '{}'));
$$;
comment on function access.record is
    'Adds a row to the append-only audit log, in the caller''s transaction. Example: select access.record(''pair.retracted'', id)';

-- A page of the audit log, oldest first.
create function access.list_audit(after bigint, most int, action text default null, object text default null) returns setof access.audit
    language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select a.* from access.audit a
    where a.id > list_audit.after and (list_audit.action is null or a.action = list_audit.action)
      and (list_audit.object is null or a.object = list_audit.object)
    order by a.id limit list_audit.most;
$$;
comment on function access.list_audit is 'A page of the audit log, oldest first; ingest serves it to keys with the scope admin.';

-- Stores a key that `foretaste keys create` made; only its hash comes here.
create function access.create_key(
    id text, name text, hash bytea, scopes text[], expires_at timestamptz default null, run boolean default false
) returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if create_key.expires_at <= clock_timestamp() then
        raise exception 'the key would have expired already' using errcode = 'invalid_parameter_value';
    end if;
    insert into access.key (id, name, hash, scopes, expires_at, run)
    values (create_key.id, create_key.name, create_key.hash, create_key.scopes, create_key.expires_at, create_key.run);
    perform access.record('key.created', create_key.id, jsonb_build_object(
        'name', create_key.name, 'scopes', to_jsonb(create_key.scopes), 'expires_at', create_key.expires_at, 'run', create_key.run));
end $$;
comment on function access.create_key is
    'Stores an API key by its hash; `foretaste keys create` makes keys and calls this.';

-- Ends a key at once, everywhere. Answers whether there was such a key that was not revoked yet.
create function access.revoke_key(id text, reason text default '') returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    update access.key k set revoked_at = clock_timestamp() where k.id = revoke_key.id and k.revoked_at is null;
    if not found then
        return false;
    end if;
    perform access.record('key.revoked', revoke_key.id, jsonb_build_object('reason', revoke_key.reason));
    return true;
end $$;
comment on function access.revoke_key is
    'Ends an API key, within a second everywhere. Example: select access.revoke_key(id, ''left the studio'') from access.key where name = ''mira''';

-- Puts a new key in the place of an old one, which goes on for `overlap` at most so that its users can change over. The new one has its name
-- and scopes and, unless an end is given, lasts as long as the old one was made to last. No row when
-- there is no such key in use; the key of a run is none.
create function access.rotate_key(old text, id text, hash bytea, overlap interval, until timestamptz default null)
    returns table (name text, scopes text[], expires_at timestamptz, old_expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    now_is timestamptz := clock_timestamp();
    before access.key;
    ends timestamptz;
begin
    select * into before from access.key k
    where k.id = rotate_key.old and k.revoked_at is null and not k.run and (k.expires_at is null or k.expires_at > now_is)
    for update;
    if not found then
        return;
    end if;
    ends := coalesce(rotate_key.until, now_is + (before.expires_at - before.created_at));
    perform access.create_key(rotate_key.id, before.name, rotate_key.hash, before.scopes, ends);
    update access.key k set expires_at = least(k.expires_at, now_is + rotate_key.overlap) where k.id = before.id
    returning k.expires_at into before.expires_at;
    perform access.record('key.rotated', before.id, jsonb_build_object('to', rotate_key.id, 'expires_at', before.expires_at));
    return query select before.name, before.scopes, ends, before.expires_at;
end $$;
comment on function access.rotate_key is
    'Puts a new key in the place of one that goes on for a while; `foretaste keys rotate` makes the key and calls this. No row: no such key is in use.';

-- Moves the end of a run's key; one that was revoked stays so.
create function access.renew_key(id text, expires_at timestamptz) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    update access.key k set expires_at = renew_key.expires_at where k.id = renew_key.id and k.run and k.revoked_at is null;
    return found;
end $$;
comment on function access.renew_key is 'Moves the end of a key that `foretaste up` minted for its run.';

-- What a service has to know to check a key.
create function access.find_key(id text) returns table (
    hash bytea, name text, scopes text[], expires_at timestamptz, revoked_at timestamptz
) language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select k.hash, k.name, k.scopes, k.expires_at, k.revoked_at from access.key k where k.id = find_key.id;
$$;
comment on function access.find_key is 'The hash, scopes and end of a key, for the services that check it.';

-- Notes that keys were used. Services call it every half minute with what they saw, not once a request.
create function access.touch_keys(ids text[]) returns void
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    update access.key k set last_used_at = clock_timestamp()
    where k.id = any (touch_keys.ids) and (k.last_used_at is null or k.last_used_at < clock_timestamp() - interval '20 seconds');
$$;
comment on function access.touch_keys is 'Notes that keys were used; called by the services about twice a minute.';

-- The answer to a request that carried an Idempotency-Key, written in the transaction of the request's effects.
create table access.answer (
    owner   text not null,                                          -- the API key's id; empty while authentication is off
    key     text not null check (length(key) between 1 and 255),
    request bytea not null,                                         -- sha256 over method, path, query and body
    status  smallint not null,
    headers jsonb not null,
    body    bytea not null check (octet_length(body) <= 8388608),
    at      timestamptz not null default clock_timestamp(),
    primary key (owner, key)
);
create index answer_by_age on access.answer (at);

-- How long an answer is kept.
create function access.answer_ttl() returns interval language sql immutable return interval '24 hours';
comment on function access.answer_ttl is 'How long the answer to a request with an Idempotency-Key is replayed.';

-- Begins a request with an Idempotency-Key, inside its transaction: `new`, `busy` (another request has the key now), `mismatch` (the key
-- came with another request before) or `replay` with the answer.
create function access.begin_request(owner text, key text, request bytea)
    returns table (verdict text, status smallint, headers jsonb, body bytea)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    kept access.answer;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('access.answer ' || begin_request.owner || ' ' || begin_request.key, 0)) then
        return query select 'busy', null::smallint, null::jsonb, null::bytea;
        return;
    end if;
    select * into kept from access.answer a
    where a.owner = begin_request.owner and a.key = begin_request.key and a.at > clock_timestamp() - access.answer_ttl();
    if not found then
        return query select 'new', null::smallint, null::jsonb, null::bytea;
    elsif kept.request <> begin_request.request then
        return query select 'mismatch', null::smallint, null::jsonb, null::bytea;
    else
        return query select 'replay', kept.status, kept.headers, kept.body;
    end if;
end $$;
comment on function access.begin_request is
    'Begins a request with an Idempotency-Key inside its transaction: new, busy, mismatch, or replay with the kept answer.';

-- Keeps the answer, inside the same transaction.
create function access.keep_answer(owner text, key text, request bytea, status int, headers jsonb, body bytea) returns void
    language sql security definer set search_path = pg_catalog, pg_temp as $$
    insert into access.answer as a (owner, key, request, status, headers, body)
    values (keep_answer.owner, keep_answer.key, keep_answer.request, keep_answer.status, keep_answer.headers, keep_answer.body)
    on conflict on constraint answer_pkey do update
    set request = excluded.request, status = excluded.status, headers = excluded.headers, body = excluded.body, at = clock_timestamp();
$$;
comment on function access.keep_answer is 'Keeps the answer to a request with an Idempotency-Key, inside its transaction.';

-- Removes what is of no more use: answers past their time, keys of runs that ended a month ago. Any process may call it at any time.
create function access.sweep(most int default 5000) returns int
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    removed int;
    runs int;
begin
    delete from access.answer a where (a.owner, a.key) in (
        select o.owner, o.key from access.answer o where o.at < clock_timestamp() - access.answer_ttl() limit sweep.most for update skip locked);
    get diagnostics removed = row_count;
    delete from access.key k where k.run and least(k.expires_at, k.revoked_at) < clock_timestamp() - interval '30 days';
    get diagnostics runs = row_count;
    return removed + runs;
end $$;
comment on function access.sweep is 'Removes answers past their time and the keys of runs that ended a month ago; answers how many.';

-- Corrections and retractions of labels are in the log whoever makes them, over HTTP or in a database session.
create function access.record_revision() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform access.record('label.' || new.action, new.subject,
                          jsonb_build_object('by', new.actor, 'reason', new.reason, 'revision', new.revision));
    return null;
end $$;
create trigger record_revision after insert on preferences.revision
    for each row when (new.action <> 'posted') execute function access.record_revision();

revoke all on schema access from public;
revoke all on all tables in schema access from public;
revoke all on all functions in schema access from public;

-- migrate:down

drop schema access cascade;
