-- migrate:up

-- A frozen data set: which labels, as they were, in which order, on which side of the split. Never changes once written: a member names the
-- revision of its label, and preferences.revision keeps that.
create table preferences.snapshot (
    id         bigint generated always as identity primary key,
    job_id     bigint unique,                                       -- a job that starts again gets the snapshot that it froze first
    dimension  text not null,
    backbone   text,
    held_out   double precision not null,
    digest     text not null,                                       -- sha256 over the members, in order
    pairs      integer not null,
    ratings    integer not null,
    train      integer not null,                                    -- of the pairs
    prompts    integer not null,                                    -- of pairs and ratings
    frozen_at  timestamptz not null default clock_timestamp()
);
create table preferences.snapshot_member (
    snapshot_id bigint not null references preferences.snapshot (id) on delete cascade,
    position    integer not null,                                   -- 0-based, by (source, external_id)
    pair_id     text not null references preferences.pair (id),
    split       text not null check (split in ('train', 'held_out')),
    revision    integer not null,                                   -- of the pair, when it was frozen
    primary key (snapshot_id, position),
    unique (snapshot_id, pair_id)
);
create table preferences.snapshot_rating (
    snapshot_id bigint not null references preferences.snapshot (id) on delete cascade,
    position    integer not null,
    rating_id   text not null references preferences.rating (id),
    split       text not null check (split in ('train', 'held_out')),
    revision    integer not null,
    primary key (snapshot_id, position),
    unique (snapshot_id, rating_id)
);

-- Where a prompt falls between 0 and 1. A function of the prompt alone, so that a prompt never changes sides when pairs arrive.
create function preferences.prompt_position(prompt text) returns double precision
    language sql immutable parallel safe
    return ('x' || substr(md5(prompt), 1, 8))::bit(32)::bigint::double precision / 4294967296.0;

-- The side that a prompt got when it was frozen first, for a dimension and a share held out. Later snapshots keep to it: what a head was
-- trained on is never what its successor is compared with it by.
create table preferences.prompt_side (
    dimension text not null,
    held_out  double precision not null,
    prompt    uuid not null,                                        -- its MD5
    split     text not null check (split in ('train', 'held_out')),
    primary key (dimension, held_out, prompt)
);

-- What a snapshot of a dimension takes now: its prompts, each once. `backbone` without version or alias; null for any.
create function preferences.usable_prompts(dimension text, backbone text) returns table (prompt text) language sql stable as $$
    select p.prompt from preferences.pair p
    where p.state = 'usable' and p.retracted_at is null and p.outcome <> 'skip' and p.dimension = usable_prompts.dimension
      and (usable_prompts.backbone is null or split_part(split_part(p.backbone, '@', 1), ':', 1) = usable_prompts.backbone)
    union
    select r.prompt from preferences.rating r
    where r.state = 'usable' and r.retracted_at is null and r.dimension = usable_prompts.dimension
      and (usable_prompts.backbone is null or split_part(split_part(r.backbone, '@', 1), ':', 1) = usable_prompts.backbone)
    $$;

-- Gives prompts that are new their sides. A prompt whose position is below `held_out` is held out. The first time, when few prompts may by
-- chance fall nearly all on one side, the number held out is kept within a third of its share, and each side has one prompt at least
-- when there are two; the prompts nearest to the boundary cross over.
create function preferences.assign_sides(prompts text[], dimension text, held_out double precision) returns void language plpgsql as $$
#variable_conflict use_column
declare
    known  integer;
    total  integer := cardinality(assign_sides.prompts);
    hidden integer;
    fewest integer;
    most   integer;
begin
    -- Two snapshots at once must not both be the first.
    perform pg_advisory_xact_lock(hashtextextended('preferences.prompt_side ' || assign_sides.dimension, 0));
    select count(s.split), count(*) filter (where preferences.prompt_position(q.prompt) < assign_sides.held_out)
    into known, hidden
    from unnest(assign_sides.prompts) q (prompt)
    left join preferences.prompt_side s
        on s.dimension = assign_sides.dimension and s.held_out = assign_sides.held_out and s.prompt = md5(q.prompt)::uuid;
    if known > 0 then
        insert into preferences.prompt_side (dimension, held_out, prompt, split)
        select assign_sides.dimension, assign_sides.held_out, md5(q.prompt)::uuid,
               case when preferences.prompt_position(q.prompt) < assign_sides.held_out then 'held_out' else 'train' end
        from unnest(assign_sides.prompts) q (prompt)
        on conflict do nothing;
        return;
    end if;
    fewest := greatest(1, floor(total * assign_sides.held_out * 2 / 3));
    most   := greatest(fewest, ceil(total * assign_sides.held_out * 4 / 3));
    hidden := least(greatest(hidden, fewest), most, total - 1);
    insert into preferences.prompt_side (dimension, held_out, prompt, split)
    select assign_sides.dimension, assign_sides.held_out, md5(q.prompt)::uuid, case when q.place <= hidden then 'held_out' else 'train' end
    from (select r.prompt, row_number() over (order by preferences.prompt_position(r.prompt), r.prompt collate "C") as place
          from unnest(assign_sides.prompts) r (prompt)) q
    on conflict do nothing;
end $$;

-- The labels of snapshots as they were frozen, one row a label: what an export shows.
create view preferences.frozen_pair as
select m.snapshot_id, m.position, m.split, m.revision, p.id, p.source, p.external_id, p.prompt, p.dimension, p.rater, p.ranking_id,
       p.a_url, p.a_sha256, p.b_url, p.b_sha256, p.received_at, p.content, coalesce(r.label, preferences.label(p)) as label
from preferences.snapshot_member m
join preferences.pair p on p.id = m.pair_id
left join preferences.revision r on r.subject = m.pair_id and r.revision = m.revision;

create view preferences.frozen_rating as
select m.snapshot_id, m.position, m.split, m.revision, g.id, g.source, g.external_id, g.prompt, g.dimension, g.rater, g.url, g.sha256,
       g.received_at, g.content, coalesce(r.label, preferences.label(g)) as label,
       coalesce((r.label->>'rating')::double precision, g.value) as value, g.low, g.high
from preferences.snapshot_rating m
join preferences.rating g on g.id = m.rating_id
left join preferences.revision r on r.subject = m.rating_id and r.revision = m.revision;

-- Freezes the usable labels of a dimension (on a backbone, by its name without a version; null for any) and returns the snapshot's id.
-- Retracted labels and those that were skipped stay out. The same job gets the same snapshot again.
create function preferences.freeze_snapshot(job bigint, dimension text, backbone text, held_out double precision default 0.25)
    returns bigint language plpgsql as $$
declare
    snapshot bigint;
    name     text := split_part(split_part(freeze_snapshot.backbone, '@', 1), ':', 1);
begin
    if job is not null then
        perform pg_advisory_xact_lock(hashtextextended('preferences.freeze_snapshot', job));
        select s.id into snapshot from preferences.snapshot s where s.job_id = freeze_snapshot.job;
        if found then
            return snapshot;
        end if;
    end if;

    insert into preferences.snapshot (job_id, dimension, backbone, held_out, digest, pairs, ratings, train, prompts)
    values (freeze_snapshot.job, freeze_snapshot.dimension, freeze_snapshot.backbone, freeze_snapshot.held_out, '', 0, 0, 0, 0)
    returning id into snapshot;

    perform preferences.assign_sides(
        (select coalesce(array_agg(q.prompt), '{}') from preferences.usable_prompts(freeze_snapshot.dimension, name) q),
        freeze_snapshot.dimension, freeze_snapshot.held_out);

    -- A label that became usable since, on a prompt without a side, waits for the next snapshot.
    insert into preferences.snapshot_member (snapshot_id, position, pair_id, split, revision)
    select snapshot, row_number() over (order by p.source collate "C", p.external_id collate "C") - 1, p.id, s.split, p.revision
    from preferences.pair p
    join preferences.prompt_side s on s.prompt = md5(p.prompt)::uuid
    where p.state = 'usable' and p.retracted_at is null and p.outcome <> 'skip' and p.dimension = freeze_snapshot.dimension
      and (name is null or split_part(split_part(p.backbone, '@', 1), ':', 1) = name)
      and s.dimension = freeze_snapshot.dimension and s.held_out = freeze_snapshot.held_out;

    insert into preferences.snapshot_rating (snapshot_id, position, rating_id, split, revision)
    select snapshot, row_number() over (order by r.source collate "C", r.external_id collate "C") - 1, r.id, s.split, r.revision
    from preferences.rating r
    join preferences.prompt_side s on s.prompt = md5(r.prompt)::uuid
    where r.state = 'usable' and r.retracted_at is null and r.dimension = freeze_snapshot.dimension
      and (name is null or split_part(split_part(r.backbone, '@', 1), ':', 1) = name)
      and s.dimension = freeze_snapshot.dimension and s.held_out = freeze_snapshot.held_out;

    -- The digest is over what was posted, what it was corrected to, and the side, not over our ids: the same labels in another database have
    -- the same digest. Each line is hashed by itself first, so that a million of them need no text of a hundred megabytes. It reads the
    -- members as they were frozen, for a label may have been corrected since.
    update preferences.snapshot s
    set (digest, pairs, train) = (
        select encode(sha256(coalesce(string_agg(sha256(convert_to(
                   f.content || ' ' || f.split || case when f.revision = 0 then '' else ' ' || f.label::text end, 'UTF8')), ''::bytea
                   order by f.position), ''::bytea)), 'hex'),
               count(*), count(*) filter (where f.split = 'train')
        from preferences.frozen_pair f where f.snapshot_id = snapshot)
    where s.id = snapshot;
    update preferences.snapshot s
    set ratings = q.ratings, digest = case when q.ratings = 0 then s.digest else encode(sha256(decode(s.digest, 'hex') || q.lines), 'hex') end
    from (select count(*) as ratings,
                 coalesce(string_agg(sha256(convert_to(
                     f.content || ' ' || f.split || case when f.revision = 0 then '' else ' ' || f.label::text end, 'UTF8')), ''::bytea
                     order by f.position), ''::bytea) as lines
          from preferences.frozen_rating f where f.snapshot_id = snapshot) q
    where s.id = snapshot;
    update preferences.snapshot s
    set prompts = (select count(*) from (
        select p.prompt from preferences.snapshot_member m join preferences.pair p on p.id = m.pair_id where m.snapshot_id = snapshot
        union
        select r.prompt from preferences.snapshot_rating m join preferences.rating r on r.id = m.rating_id where m.snapshot_id = snapshot) q)
    where s.id = snapshot;
    return snapshot;
end $$;
comment on function preferences.freeze_snapshot is
    'Freezes the usable labels of a dimension into a snapshot and returns its id; the same job gets the same snapshot again.';

-- migrate:down

drop function preferences.freeze_snapshot(bigint, text, text, double precision), preferences.assign_sides(text[], text, double precision),
    preferences.usable_prompts(text, text), preferences.prompt_position(text);
drop view preferences.frozen_rating, preferences.frozen_pair;
drop table preferences.prompt_side, preferences.snapshot_rating, preferences.snapshot_member, preferences.snapshot;
