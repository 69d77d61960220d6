-- migrate:up

-- The other two ways to judge: N latents put in order, and one latent judged by itself.

-- N latents in order by one rater. It is stored as it came, and as the pairs that follow from it: N·(N−1)/2 rows of preferences.pair
-- with this id, whose keys are the ranking's with `#i-j` behind it (the items' numbers, from 1).
create table preferences.ranking (
    id           text primary key default 'ranking_' || replace(gen_random_uuid()::text, '-', ''),
    source       text not null,
    external_id  text not null,
    prompt       text not null,
    dimension    text not null,
    rater        text not null,
    items        jsonb not null,                                    -- [{"url","sha256","rank"}]; 1 is best, equal ranks are ties
    content      text not null,
    received_at  timestamptz not null default clock_timestamp(),
    retracted_at timestamptz,
    unique (source, external_id)
);

-- Where a ranking stands: quarantined when one of its pairs is, else received when one is.
create function preferences.ranking_state(ranking text) returns text language sql stable as $$
    select case when bool_or(p.state = 'quarantined') then 'quarantined' when bool_or(p.state = 'received') then 'received' else 'usable' end
    from preferences.pair p where p.ranking_id = ranking_state.ranking
    $$;

-- One latent judged by itself by one rater: good or bad (1 or 0 on a scale from 0 to 1), or a place on a scale.
create table preferences.rating (
    seq          bigint generated always as identity unique,
    id           text primary key default 'rating_' || replace(gen_random_uuid()::text, '-', ''),
    source       text not null,
    external_id  text not null,
    prompt       text not null,
    dimension    text not null,
    rater        text not null,
    url          text not null,
    sha256       text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    value        double precision not null,
    low          double precision not null,
    high         double precision not null check (high > low),
    content      text not null,
    state        text not null default 'received' check (state in ('received', 'usable', 'quarantined')),
    reason       text,
    verify_job   bigint,
    verify_tries smallint not null default 0,
    backbone     text,
    vae          text,
    layout       text,
    noise_kind   text,
    shape        integer[],
    descriptor   jsonb,
    received_at  timestamptz not null default clock_timestamp(),
    settled_at   timestamptz,
    retracted_at timestamptz,
    revision     integer not null default 0,
    unique (source, external_id),
    check (value between low and high),
    check ((state = 'quarantined') = (reason is not null)),
    check ((state = 'received') = (settled_at is null))
);
create index rating_by_state on preferences.rating (state, seq);
create index rating_for_snapshot on preferences.rating (dimension) where state = 'usable';
create index rating_unsettled on preferences.rating (verify_job) where state = 'received';

-- What a rating says, as JSON.
create function preferences.label(r preferences.rating) returns jsonb language sql immutable parallel safe
    return jsonb_build_object('rating', r.value, 'scale', jsonb_build_object('min', r.low, 'max', r.high));

-- Gives a quarantined pair or rating another verification, after its artifact was put right say. Answers the job's id.
create function preferences.reverify(label text) returns bigint language plpgsql as $$
declare
    job bigint;
begin
    if not exists (select from preferences.pair p where p.id = reverify.label and p.state = 'quarantined')
        and not exists (select from preferences.rating r where r.id = reverify.label and r.state = 'quarantined') then
        raise exception 'there is no quarantined pair or rating %', reverify.label using errcode = 'no_data_found';
    end if;
    job := queue.enqueue('verify_preference', jsonb_build_object('pairs', jsonb_build_array(reverify.label), 'try', 1));
    update preferences.pair p set state = 'received', reason = null, settled_at = null, verify_job = job, verify_tries = 0
    where p.id = reverify.label;
    update preferences.rating r set state = 'received', reason = null, settled_at = null, verify_job = job, verify_tries = 0
    where r.id = reverify.label;
    return job;
end $$;
comment on function preferences.reverify is
    'Verifies a quarantined pair or rating again. Example: select preferences.reverify(id) from ops.quarantine where reason like ''%unreachable%''';

-- migrate:down

drop function preferences.reverify(text), preferences.label(preferences.rating), preferences.ranking_state(text);
drop table preferences.rating, preferences.ranking;
