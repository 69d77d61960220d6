-- migrate:up

-- The domain: preference pairs, frozen snapshots of them, and the registry of models.
-- Operators call the functions; dashboards read the views of schema `ops`, which a later migration adds.

create schema preferences;
create schema registry;

-- One comparison of two latents by one rater. (source, external_id) is the labelling tool's own key: posting it again is a replay.
create table preferences.pair (
    seq          bigint generated always as identity unique,
    id           text primary key default 'pair_' || replace(gen_random_uuid()::text, '-', ''),
    source       text not null,
    external_id  text not null,
    prompt       text not null,
    dimension    text not null,
    outcome      text not null check (outcome in ('a', 'b', 'tie', 'both_bad', 'skip')),
    votes        jsonb,                                             -- counts a side, where a tool aggregates its raters
    rater        text not null,
    a_url        text not null,
    a_sha256     text not null check (a_sha256 ~ '^[0-9a-f]{64}$'),
    b_url        text not null,
    b_sha256     text not null check (b_sha256 ~ '^[0-9a-f]{64}$'),
    content      text not null,                                     -- sha256 over what was posted: tells a replay from a conflict
    state        text not null default 'received' check (state in ('received', 'usable', 'quarantined')),
    reason       text,
    verify_job   bigint,                                            -- the queue.job that will settle this pair
    verify_tries smallint not null default 0,                       -- jobs that ended without settling it
    backbone     text,                                              -- from here: learnt by verification
    vae          text,
    layout       text,
    noise_kind   text,
    shape        integer[],
    descriptor   jsonb,
    received_at  timestamptz not null default clock_timestamp(),
    settled_at   timestamptz,
    retracted_at timestamptz,
    superseded_by text references preferences.pair (id),
    unique (source, external_id),
    check ((state = 'quarantined') = (reason is not null)),
    check ((state = 'received') = (settled_at is null))
);
create index pair_by_state on preferences.pair (state, seq);
create index pair_for_snapshot on preferences.pair (dimension, split_part(split_part(backbone, '@', 1), ':', 1)) where state = 'usable';
create index pair_unsettled on preferences.pair (verify_job) where state = 'received';

-- Gives a quarantined pair another verification, after its artifact was put right say. Answers the job's id.
create function preferences.reverify(pair text) returns bigint language plpgsql as $$
declare
    job bigint;
begin
    if not exists (select from preferences.pair p where p.id = reverify.pair and p.state = 'quarantined') then
        raise exception 'there is no quarantined pair %', reverify.pair using errcode = 'no_data_found';
    end if;
    job := queue.enqueue('verify_preference', jsonb_build_object('pairs', jsonb_build_array(reverify.pair), 'try', 1));
    update preferences.pair p
    set state = 'received', reason = null, settled_at = null, verify_job = job, verify_tries = 0
    where p.id = reverify.pair;
    return job;
end $$;
comment on function preferences.reverify is
    'Verifies a quarantined pair again. Example: select preferences.reverify(id) from ops.quarantine where reason like ''%unreachable%''';

-- A frozen data set: which pairs, in which order, on which side of the split. Never changes once written.
create table preferences.snapshot (
    id         bigint generated always as identity primary key,
    job_id     bigint unique,                                       -- a job that starts again gets the snapshot that it froze first
    dimension  text not null,
    backbone   text,
    held_out   double precision not null,
    digest     text not null,                                       -- sha256 over the members, in order
    pairs      integer not null,
    train      integer not null,
    prompts    integer not null,
    frozen_at  timestamptz not null default clock_timestamp()
);
create table preferences.snapshot_member (
    snapshot_id bigint not null references preferences.snapshot (id) on delete cascade,
    position    integer not null,                                   -- 0-based, by (source, external_id)
    pair_id     text not null references preferences.pair (id),
    split       text not null check (split in ('train', 'held_out')),
    primary key (snapshot_id, position),
    unique (snapshot_id, pair_id)
);

-- Where a prompt falls between 0 and 1. A function of the prompt alone, so that a prompt never changes sides when pairs arrive.
create function preferences.prompt_position(prompt text) returns double precision
    language sql immutable parallel safe
    return ('x' || substr(md5(prompt), 1, 8))::bit(32)::bigint::double precision / 4294967296.0;

-- Freezes the usable pairs of a dimension (on a backbone, by its name without a version; null for any) and returns the snapshot's id.
-- Prompts whose position is below `held_out` are held out. Few prompts may by chance fall nearly all on one side: the number of prompts
-- held out is therefore kept within a third of its share, and each side has one prompt at least when there are two; the prompts
-- nearest to the boundary cross over. The same job gets the same snapshot again.
create function preferences.freeze_snapshot(job bigint, dimension text, backbone text, held_out double precision default 0.25)
    returns bigint language plpgsql as $$
declare
    snapshot bigint;
    prompts  integer;
    hidden   integer;
    fewest   integer;
    most     integer;
begin
    if job is not null then
        perform pg_advisory_xact_lock(hashtextextended('preferences.freeze_snapshot', job));
        select s.id into snapshot from preferences.snapshot s where s.job_id = freeze_snapshot.job;
        if found then
            return snapshot;
        end if;
    end if;

    insert into preferences.snapshot (job_id, dimension, backbone, held_out, digest, pairs, train, prompts)
    values (freeze_snapshot.job, freeze_snapshot.dimension, freeze_snapshot.backbone, freeze_snapshot.held_out, '', 0, 0, 0)
    returning id into snapshot;

    insert into preferences.snapshot_member (snapshot_id, position, pair_id, split)
    select snapshot, row_number() over (order by p.source collate "C", p.external_id collate "C") - 1, p.id, 'train'
    from preferences.pair p
    where p.state = 'usable' and p.retracted_at is null and p.superseded_by is null
      and p.outcome in ('a', 'b', 'tie') and p.dimension = freeze_snapshot.dimension
      and (freeze_snapshot.backbone is null
           or split_part(split_part(p.backbone, '@', 1), ':', 1)
              = split_part(split_part(freeze_snapshot.backbone, '@', 1), ':', 1));

    select count(*), count(*) filter (where preferences.prompt_position(q.prompt) < freeze_snapshot.held_out)
    into prompts, hidden
    from (select distinct p.prompt from preferences.snapshot_member m join preferences.pair p on p.id = m.pair_id
          where m.snapshot_id = snapshot) q;
    fewest := greatest(1, floor(prompts * freeze_snapshot.held_out * 2 / 3));
    most   := greatest(fewest, ceil(prompts * freeze_snapshot.held_out * 4 / 3));
    hidden := least(greatest(hidden, fewest), most, prompts - 1);

    update preferences.snapshot_member m set split = 'held_out'
    from preferences.pair p
    where m.snapshot_id = snapshot and p.id = m.pair_id and p.prompt in (
        select q.prompt
        from (select distinct p.prompt from preferences.snapshot_member m join preferences.pair p on p.id = m.pair_id
              where m.snapshot_id = snapshot) q
        order by preferences.prompt_position(q.prompt), q.prompt collate "C"
        limit greatest(hidden, 0));

    -- The digest is over what was posted and the side, not over our ids: the same pairs in another database have the same digest.
    update preferences.snapshot s
    set (digest, pairs, train, prompts) = (
        select encode(sha256(convert_to(coalesce(string_agg(p.content || ' ' || m.split, E'\n' order by m.position), ''), 'UTF8')), 'hex'),
               count(*), count(*) filter (where m.split = 'train'), count(distinct p.prompt)
        from preferences.snapshot_member m join preferences.pair p on p.id = m.pair_id where m.snapshot_id = snapshot)
    where s.id = snapshot;
    return snapshot;
end $$;
comment on function preferences.freeze_snapshot is
    'Freezes the usable pairs of a dimension into a snapshot and returns its id; the same job gets the same snapshot again.';

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
drop schema preferences cascade;
