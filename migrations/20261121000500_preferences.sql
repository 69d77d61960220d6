-- migrate:up

-- The domain: what people prefer. This file has the dimensions and the pairs; rankings and ratings, corrections, comparisons and snapshots
-- have files of their own. Operators call the functions; dashboards read the views of schema `ops`, which later migrations add.

create schema preferences;

-- What can be judged. Ingest refuses a label of any other dimension; the labels' tables have no foreign key, for a bulk insert would pay
-- for it on every row.
create table preferences.dimension (
    name        text primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'),
    description text not null,
    created_at  timestamptz not null default clock_timestamp()
);
insert into preferences.dimension (name, description) values
    ('overall', 'All in all: which one would you keep?'),
    ('vq', 'Visual quality: sharp, clean, free of artifacts, looking at single frames.'),
    ('mq', 'Motion quality: natural, smooth, physically plausible.'),
    ('ta', 'Text alignment: shows what the prompt says. (Not temporal alignment.)');

-- Makes a dimension known, or gives a known one another description. Answers whether it is new.
create function preferences.define_dimension(name text, description text default '') returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    insert into preferences.dimension as d (name, description) values (define_dimension.name, define_dimension.description)
    on conflict on constraint dimension_pkey do nothing;
    if found then
        return true;
    end if;
    update preferences.dimension d set description = define_dimension.description
    where d.name = define_dimension.name and define_dimension.description <> '' and d.description <> define_dimension.description;
    return false;
end $$;
comment on function preferences.define_dimension is
    'Makes a dimension known to ingest. Example: select preferences.define_dimension(''hands'', ''Do hands have five fingers?'')';

-- One comparison of two latents by one rater, or by the raters whose votes a tool counted.
-- (source, external_id) is the labelling tool's own key: posting it again is a replay.
create table preferences.pair (
    seq          bigint generated always as identity unique,
    id           text primary key default 'pair_' || replace(gen_random_uuid()::text, '-', ''),
    source       text not null,
    external_id  text not null,
    prompt       text not null,
    dimension    text not null,
    outcome      text not null check (outcome in ('a', 'b', 'tie', 'both_bad', 'skip')),
    votes        jsonb,                                             -- {"a":3,"b":1,"tie":0,"both_bad":0}, where a tool counts its raters
    soft_label   double precision check (soft_label between 0 and 1),  -- the probability that a is preferred
    margin       double precision check (margin >= 0),              -- how much better the preferred side is, in the source's own unit
    strength     smallint check (strength between 0 and 3),         -- 1 slightly, 2 clearly, 3 much better: a 7-point scale's half
    presentation text check (presentation in ('ab', 'ba')),         -- which side was shown first or on the left
    rater        text not null,
    a_url        text not null,
    a_sha256     text not null check (a_sha256 ~ '^[0-9a-f]{64}$'),
    b_url        text not null,
    b_sha256     text not null check (b_sha256 ~ '^[0-9a-f]{64}$'),
    ranking_id   text,                                              -- the preferences.ranking that this pair was read from
    content      text not null,                                     -- sha256 over what was posted (ContentDigest.swift): tells a replay from a conflict
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
    revision     integer not null default 0,                        -- preferences.revision has what was said before
    unique (source, external_id),
    check ((state = 'quarantined') = (reason is not null)),
    check ((state = 'received') = (settled_at is null))
);
-- Every index is paid for by each row of a bulk insert, unless the row is not in it. Besides the keys there is one that is: listings and
-- counts by state, the quarantine, and the search for lost verifications read it.
create index pair_by_state on preferences.pair (state, seq);
-- Freezing a snapshot.
create index pair_for_snapshot on preferences.pair (dimension, split_part(split_part(backbone, '@', 1), ':', 1)) where state = 'usable';
-- A ranking's state and its pairs.
create index pair_by_ranking on preferences.pair (ranking_id) where ranking_id is not null;

-- What a pair says, as JSON without what is not there.
create function preferences.label(p preferences.pair) returns jsonb language sql immutable parallel safe
    return jsonb_strip_nulls(jsonb_build_object('outcome', p.outcome, 'votes', p.votes, 'soft_label', p.soft_label, 'margin', p.margin,
                                                'strength', p.strength, 'presentation', p.presentation));

-- migrate:down

drop schema preferences cascade;
