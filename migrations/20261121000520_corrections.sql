-- migrate:up

-- Labels change their minds. A correction replaces what a pair or a rating says, a retraction takes it out of later snapshots, and what was
-- said before stays here, with who changed it, when and why. A label that was never touched has no rows.

create table preferences.revision (
    subject  text not null,                                         -- pair_… or rating_…
    revision integer not null,                                      -- 0: as posted
    action   text not null check (action in ('posted', 'corrected', 'retracted', 'restored')),
    label    jsonb not null,                                        -- what it says from here on
    actor    text not null,
    reason   text,                                                  -- null for what was posted
    at       timestamptz not null,
    primary key (subject, revision),
    check ((action = 'posted') = (revision = 0)),
    check ((action = 'posted') = (reason is null))
);

-- Nothing is taken back from a history: only preferences.erase_rater may touch it, and it changes names alone.
create function preferences.revision_stays() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and current_setting('preferences.erasing', true) = 'on'
        and (new.subject, new.revision, new.action, new.label, new.reason, new.at)
            is not distinct from (old.subject, old.revision, old.action, old.label, old.reason, old.at) then
        return new;
    end if;
    raise exception 'the history of labels cannot be changed' using errcode = 'insufficient_privilege';
end $$;
create trigger revision_stays before update or delete on preferences.revision
    for each row execute function preferences.revision_stays();
create trigger revision_stays_whole before truncate on preferences.revision
    for each statement execute function preferences.revision_stays();

-- Writes down that a label was changed by `actor`: what was posted, if this is its first change, and what it says from here on.
create function preferences.note_revision(
    subject text, before jsonb, rater text, received_at timestamptz, revision integer, action text, label jsonb, actor text, reason text
) returns void language sql begin atomic
    insert into preferences.revision (subject, revision, action, label, actor, reason, at)
    values (subject, 0, 'posted', before, rater, null, received_at) on conflict do nothing;
    insert into preferences.revision (subject, revision, action, label, actor, reason, at)
    values (subject, revision, action, label, actor, reason, clock_timestamp());
end;
comment on function preferences.note_revision is 'Writes the history of preferences.correct and preferences.set_retracted. Not for operators.';

-- Replaces what a pair or a rating says by `label`, whole: {"outcome":"b"}, {"outcome":"a","votes":{"a":3,"b":1}}, {"rating":4}.
-- Answers the revision that holds now. Saying what it says already changes nothing. One that was retracted is restored first.
create function preferences.correct(subject text, label jsonb, actor text, reason text) returns integer language plpgsql as $$
declare
    pair   preferences.pair;
    rating preferences.rating;
    before jsonb;
    wanted jsonb;
begin
    if coalesce(correct.reason, '') = '' then
        raise exception 'a correction needs a reason' using errcode = 'invalid_parameter_value';
    end if;
    select * into pair from preferences.pair p where p.id = correct.subject for update;
    if found then
        if pair.retracted_at is not null then
            raise exception '% is retracted; restore it first', correct.subject using errcode = 'object_not_in_prerequisite_state';
        end if;
        wanted := jsonb_strip_nulls(correct.label);
        if wanted = preferences.label(pair) then
            return pair.revision;
        end if;
        before := preferences.label(pair);
        update preferences.pair p
        set outcome = wanted->>'outcome', votes = wanted->'votes', soft_label = (wanted->>'soft_label')::double precision,
            margin = (wanted->>'margin')::double precision, strength = (wanted->>'strength')::smallint,
            presentation = wanted->>'presentation', revision = p.revision + 1
        where p.id = pair.id returning * into pair;
        perform preferences.note_revision(pair.id, before, pair.rater, pair.received_at, pair.revision, 'corrected', preferences.label(pair),
            correct.actor, correct.reason);
        return pair.revision;
    end if;
    select * into rating from preferences.rating r where r.id = correct.subject for update;
    if not found then
        raise exception 'there is no pair or rating %', correct.subject using errcode = 'no_data_found';
    end if;
    if rating.retracted_at is not null then
        raise exception '% is retracted; restore it first', correct.subject using errcode = 'object_not_in_prerequisite_state';
    end if;
    if rating.value = (correct.label->>'rating')::double precision then
        return rating.revision;
    end if;
    before := preferences.label(rating);
    update preferences.rating r set value = (correct.label->>'rating')::double precision, revision = r.revision + 1
    where r.id = rating.id returning * into rating;
    perform preferences.note_revision(rating.id, before, rating.rater, rating.received_at, rating.revision, 'corrected', preferences.label(rating),
        correct.actor, correct.reason);
    return rating.revision;
end $$;
comment on function preferences.correct is
    'Replaces what a pair or rating says; the history keeps what it said. Example: select preferences.correct(''pair_…'', ''{"outcome":"b"}'', ''ada'', ''sides were swapped in the export'')';

-- Takes pairs, a rating, or a ranking with all its pairs out of later snapshots, or brings them back. Answers how many labels changed:
-- none when all of them were so before.
create function preferences.set_retracted(subject text, retracted boolean, actor text, reason text) returns integer language plpgsql as $$
declare
    changed integer := 0;
    row     record;
begin
    if coalesce(set_retracted.reason, '') = '' then
        raise exception 'a retraction needs a reason' using errcode = 'invalid_parameter_value';
    end if;
    update preferences.ranking r set retracted_at = case when set_retracted.retracted then clock_timestamp() end
    where r.id = set_retracted.subject and (r.retracted_at is not null) <> set_retracted.retracted;
    for row in
        with pairs as (
            update preferences.pair p
            set retracted_at = case when set_retracted.retracted then clock_timestamp() end, revision = p.revision + 1
            where (p.id = set_retracted.subject or p.ranking_id = set_retracted.subject)
                and (p.retracted_at is not null) <> set_retracted.retracted
            returning p.id, p.revision, preferences.label(p) as label, p.rater, p.received_at
        ), ratings as (
            update preferences.rating r
            set retracted_at = case when set_retracted.retracted then clock_timestamp() end, revision = r.revision + 1
            where r.id = set_retracted.subject and (r.retracted_at is not null) <> set_retracted.retracted
            returning r.id, r.revision, preferences.label(r) as label, r.rater, r.received_at
        )
        select * from pairs union all select * from ratings
    loop
        perform preferences.note_revision(row.id, row.label, row.rater, row.received_at, row.revision,
            case when set_retracted.retracted then 'retracted' else 'restored' end, row.label, set_retracted.actor, set_retracted.reason);
        changed := changed + 1;
    end loop;
    if changed = 0 and not exists (select from preferences.pair p where p.id = set_retracted.subject)
        and not exists (select from preferences.rating r where r.id = set_retracted.subject)
        and not exists (select from preferences.ranking r where r.id = set_retracted.subject) then
        raise exception 'there is no pair, rating or ranking %', set_retracted.subject using errcode = 'no_data_found';
    end if;
    return changed;
end $$;
comment on function preferences.set_retracted is
    'Takes a pair, a rating or a ranking out of later snapshots (true) or brings it back (false); frozen snapshots keep it.';

-- Retracts; see preferences.set_retracted.
create function preferences.retract(subject text, actor text, reason text) returns integer language sql
    begin atomic select preferences.set_retracted(subject, true, actor, reason); end;
comment on function preferences.retract is
    'Takes a pair, a rating or a ranking out of later snapshots. Example: select preferences.retract(id, ''ada'', ''rater misread the guideline'') from preferences.pair where rater = ''r17''';

-- Brings back what was retracted; see preferences.set_retracted.
create function preferences.restore(subject text, actor text, reason text) returns integer language sql
    begin atomic select preferences.set_retracted(subject, false, actor, reason); end;
comment on function preferences.restore is 'Brings back a pair, a rating or a ranking that was retracted.';

-- What erasing took away, without the name.
create table preferences.erasure (
    tombstone text primary key,
    reason    text not null,
    labels    integer not null,
    at        timestamptz not null default clock_timestamp()
);

-- Replaces a rater's name everywhere by a tombstone that nobody can lead back, and answers it and the
-- number of labels. They stay, and so do the digests of
-- snapshots, which are over what was posted and not over the name as it stands now.
create function preferences.erase_rater(rater text, reason text, out tombstone text, out labels integer) language plpgsql as $$
#variable_conflict use_column
declare
    part integer;
begin
    tombstone := 'erased_' || left(replace(gen_random_uuid()::text, '-', ''), 16);
    update preferences.pair p set rater = erase_rater.tombstone where p.rater = erase_rater.rater;
    get diagnostics labels = row_count;
    update preferences.rating r set rater = erase_rater.tombstone where r.rater = erase_rater.rater;
    get diagnostics part = row_count;
    labels := labels + part;
    update preferences.ranking r set rater = erase_rater.tombstone where r.rater = erase_rater.rater;
    perform set_config('preferences.erasing', 'on', true);
    update preferences.revision r set actor = erase_rater.tombstone where r.actor = erase_rater.rater;
    perform set_config('preferences.erasing', 'off', true);
    insert into preferences.erasure (tombstone, reason, labels) values (erase_rater.tombstone, erase_rater.reason, erase_rater.labels);
end $$;
comment on function preferences.erase_rater is
    'Replaces a rater''s name in every label and its history by a tombstone. Answers it and how many labels there were. Keys that a tool made from the name are not changed.';

-- migrate:down

drop function preferences.erase_rater(text, text), preferences.restore(text, text, text), preferences.retract(text, text, text),
    preferences.set_retracted(text, boolean, text, text), preferences.correct(text, jsonb, text, text),
    preferences.note_revision(text, jsonb, text, timestamptz, integer, text, jsonb, text, text);
drop table preferences.erasure, preferences.revision;
drop function preferences.revision_stays();
