-- migrate:up

-- The registry of models: versions, aliases, what was fetched.
-- Operators call the functions; dashboards read the views of schema `ops`, which a later migration adds.

create schema registry;

-- A model is an immutable version of a name: its weights' file by URL, its `config.json`, where it came from, how good it was.
create table registry.model (
    name       text not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    version    integer not null check (version > 0),
    kind       text not null check (kind in ('generator', 'reward', 'adapter')),
    url        text not null,
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    bytes      bigint not null check (bytes >= 0),
    media_type text not null default 'application/octet-stream',
    files      jsonb not null default '[]',                         -- the folder's other files: [{"path","url","sha256","bytes"}]
    config     jsonb not null default '{}',                         -- the folder's config.json
    metrics    jsonb not null default '{}',
    lineage    jsonb not null default '{}',                         -- snapshot, backbone, parent models, seed, settings
    dimension  text,                                                -- of a reward
    backbone   text,                                                -- of a reward or an adapter: NAME:VERSION
    job_id     bigint,
    job_token  bigint,
    created_at timestamptz not null default clock_timestamp(),
    primary key (name, version),
    unique (job_id, name)                                           -- a job registers a name once, however often its end is repeated
);
create index model_by_kind on registry.model (kind, name, version);

create table registry.alias (
    name     text not null,
    alias    text not null check (alias ~ '^[a-z][a-z0-9._-]{0,63}$' and alias <> 'latest'),  -- `latest` is computed, never stored
    version  integer not null,
    reason   text not null,
    moved_at timestamptz not null default clock_timestamp(),
    primary key (name, alias),
    foreign key (name, version) references registry.model (name, version)
);
create table registry.alias_history (
    id           bigint generated always as identity primary key,
    name         text not null,
    alias        text not null,
    from_version integer,
    to_version   integer not null,
    moved        boolean not null,                                  -- false: the gate looked and kept what was there
    reason       text not null,
    job_id       bigint,
    at           timestamptz not null default clock_timestamp()
);
create index alias_history_by_name on registry.alias_history (name, alias, id);

-- Points NAME@ALIAS at a version and writes down why. Listeners on the channel `registry` are told when the transaction commits.
create function registry.set_alias(model text, alias text, version integer, reason text, job bigint default null) returns void
    language plpgsql as $$
declare
    before integer;
begin
    if set_alias.alias = 'latest' then
        raise exception 'the alias latest always names the newest version and cannot be set' using errcode = 'invalid_parameter_value';
    end if;
    if not exists (select from registry.model m where m.name = set_alias.model and m.version = set_alias.version) then
        raise exception 'there is no model %:%', set_alias.model, set_alias.version using errcode = 'no_data_found';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('registry ' || set_alias.model, 0));
    select a.version into before from registry.alias a where a.name = set_alias.model and a.alias = set_alias.alias;
    insert into registry.alias as a (name, alias, version, reason)
    values (set_alias.model, set_alias.alias, set_alias.version, set_alias.reason)
    on conflict on constraint alias_pkey do update set version = excluded.version, reason = excluded.reason, moved_at = clock_timestamp();
    insert into registry.alias_history (name, alias, from_version, to_version, moved, reason, job_id)
    values (set_alias.model, set_alias.alias, before, set_alias.version, before is distinct from set_alias.version, set_alias.reason, set_alias.job);
    perform pg_notify('registry', set_alias.model || '@' || set_alias.alias);
end $$;
comment on function registry.set_alias is
    'Points NAME@ALIAS at a version and writes the reason into registry.alias_history. Example: select registry.set_alias(''reward-overall'', ''champion'', 3, ''rolled back'')';

-- Finds NAME:VERSION, NAME@ALIAS, NAME@latest or plain NAME (the newest). No row when there is none.
create function registry.resolve(reference text) returns setof registry.model
    language sql stable as $$
    select m.* from registry.model m
    where case
        when resolve.reference ~ '^[^:@]+@latest$' or resolve.reference !~ '[:@]' then
            m.name = split_part(resolve.reference, '@', 1)
            and m.version = (select max(n.version) from registry.model n where n.name = split_part(resolve.reference, '@', 1))
        when resolve.reference ~ '^[^:@]+@[^:@]+$' then
            (m.name, m.version) = (select a.name, a.version from registry.alias a
                                   where a.name = split_part(resolve.reference, '@', 1) and a.alias = split_part(resolve.reference, '@', 2))
        when resolve.reference ~ '^[^:@]+:[1-9][0-9]{0,8}$' then
            m.name = split_part(resolve.reference, ':', 1) and m.version = split_part(resolve.reference, ':', 2)::integer
        else false
    end $$;
comment on function registry.resolve is
    'The model behind NAME:VERSION, NAME@ALIAS, NAME@latest or NAME.';

-- What each service fetched: the URL without its query (it may hold a signature), once a service and digest.
create table registry.artifact_fetch (
    service    text not null,
    url        text not null,
    sha256     text not null,
    bytes      bigint not null,
    times      integer not null default 1,
    first_at   timestamptz not null default clock_timestamp(),
    last_at    timestamptz not null default clock_timestamp(),
    primary key (service, sha256, url)
);

-- migrate:down

drop schema registry cascade;
