-- migrate:up

-- What raters say together. A comparison is (prompt, dimension, two latents by digest), whichever of the two was called a: the labels of
-- all raters on it are added up, those with the sides swapped turned round.

-- The voices of one label for a, b, tie and both_bad: counted votes, or one voice. A soft label parts the voices that decided;
-- the outcome skip has none.
create function preferences.voices(outcome text, votes jsonb, soft_label double precision) returns double precision[]
    language sql immutable parallel safe
    return case
        when outcome = 'skip' then null
        when votes is not null and soft_label is not null then array[
            soft_label * (coalesce((votes->>'a')::float8, 0) + coalesce((votes->>'b')::float8, 0)),
            (1 - soft_label) * (coalesce((votes->>'a')::float8, 0) + coalesce((votes->>'b')::float8, 0)),
            coalesce((votes->>'tie')::float8, 0), coalesce((votes->>'both_bad')::float8, 0)]
        when votes is not null then array[
            coalesce((votes->>'a')::float8, 0), coalesce((votes->>'b')::float8, 0),
            coalesce((votes->>'tie')::float8, 0), coalesce((votes->>'both_bad')::float8, 0)]
        when outcome in ('a', 'b') and soft_label is not null then array[soft_label, 1 - soft_label, 0, 0]
        else array[(outcome = 'a')::int, (outcome = 'b')::int, (outcome = 'tie')::int, (outcome = 'both_bad')::int]::float8[]
    end;

-- The comparisons of a snapshot, or of the labels as they are now (null), each once, in the order of their first label and with its sides.
--   a, b, tie, both_bad  voices: a rater has one, however often the same comparison was shown to him (his answers share it);
--                        counted votes have theirs
--   margin               how much better a is (negative: b), the mean over the labels that say so; margin before strength
--   rated                whether it was read from ratings: of each rater's ratings of one prompt on one scale, each latent is compared with
--                        the eight that follow it by digest; the margin is the difference as a share of the scale
create function preferences.comparisons(snapshot bigint default null)
    returns table (place bigint, split text, prompt text, dimension text, source text, external_id text,
                   a_url text, a_sha256 text, b_url text, b_sha256 text,
                   a double precision, b double precision, tie double precision, both_bad double precision,
                   margin double precision, raters bigint, labels bigint, rated boolean)
    language sql stable as $$
    with said as (
        select f.position::bigint as place, f.split, f.prompt, f.dimension, f.source, f.external_id, f.rater, f.a_url, f.a_sha256, f.b_url,
               f.b_sha256, f.label->>'outcome' as outcome, f.label->'votes' as votes, (f.label->>'soft_label')::float8 as soft_label,
               coalesce((f.label->>'margin')::float8, (f.label->>'strength')::float8) as margin, false as rated
        from preferences.frozen_pair f where f.snapshot_id = comparisons.snapshot
        union all
        select p.seq, null, p.prompt, p.dimension, p.source, p.external_id, p.rater, p.a_url, p.a_sha256, p.b_url, p.b_sha256, p.outcome, p.votes,
               p.soft_label, coalesce(p.margin, p.strength), false
        from preferences.pair p
        where comparisons.snapshot is null and p.state = 'usable' and p.retracted_at is null and p.outcome <> 'skip'
    ), rating as (
        select f.split, f.prompt, f.dimension, f.source, f.external_id, f.rater, f.url, f.sha256, f.value, f.low, f.high
        from preferences.frozen_rating f where f.snapshot_id = comparisons.snapshot
        union all
        select null, r.prompt, r.dimension, r.source, r.external_id, r.rater, r.url, r.sha256, r.value, r.low, r.high
        from preferences.rating r
        where comparisons.snapshot is null and r.state = 'usable' and r.retracted_at is null
    ), numbered as (
        select g.*, row_number() over (partition by g.prompt, g.dimension, g.rater, g.low, g.high
                                       order by g.sha256, g.source collate "C", g.external_id collate "C") as number
        from rating g
    ), label as (
        select s.* from said s
        union all
        select 1000000000000 + row_number() over (order by x.source collate "C", x.external_id collate "C", y.number),
               x.split, x.prompt, x.dimension, x.source, x.external_id, x.rater, x.url, x.sha256, y.url, y.sha256,
               case when x.value > y.value then 'a' when x.value < y.value then 'b' else 'tie' end, null, null,
               abs(x.value - y.value) / (x.high - x.low), true
        from numbered x
        join numbered y using (prompt, dimension, rater, low, high)
        where y.number between x.number + 1 and x.number + 8 and y.sha256 <> x.sha256
    ), turned as (
        select l.place, l.prompt, l.dimension, l.rated, l.rater, l.votes is not null as counted, l.a_sha256 > l.b_sha256 as swapped,
               least(l.a_sha256, l.b_sha256) as low, greatest(l.a_sha256, l.b_sha256) as high,
               preferences.voices(l.outcome, l.votes, l.soft_label) as v,
               case l.outcome when 'a' then l.margin when 'b' then -l.margin when 'tie' then 0 * l.margin end as margin
        from label l where l.a_sha256 <> l.b_sha256
    ), voice as (
        select t.prompt, t.dimension, t.rated, t.low, t.high, min(t.place) as place, count(*) as labels, min(t.rater) as rater,
               avg(case when t.swapped then t.v[2] else t.v[1] end) as first, avg(case when t.swapped then t.v[1] else t.v[2] end) as second,
               avg(t.v[3]) as tie, avg(t.v[4]) as both_bad,
               sum(case when t.swapped then -t.margin else t.margin end) as margin, count(t.margin) as margins
        from turned t
        group by t.prompt, t.dimension, t.rated, t.low, t.high, case when t.counted then t.place::text else 'rater ' || t.rater end
    ), comparison as (
        select v.rated, min(v.place) as place, sum(v.first) as first, sum(v.second) as second, sum(v.tie) as tie, sum(v.both_bad) as both_bad,
               sum(v.margin) / nullif(sum(v.margins), 0) as margin, count(distinct v.rater) as raters, sum(v.labels)::bigint as labels
        from voice v group by v.prompt, v.dimension, v.rated, v.low, v.high
    )
    select c.place, l.split, l.prompt, l.dimension, l.source, l.external_id, l.a_url, l.a_sha256, l.b_url, l.b_sha256,
           case when l.a_sha256 > l.b_sha256 then c.second else c.first end, case when l.a_sha256 > l.b_sha256 then c.first else c.second end,
           c.tie, c.both_bad, case when l.a_sha256 > l.b_sha256 then -c.margin else c.margin end, c.raters, c.labels, c.rated
    from comparison c join label l on l.place = c.place
    order by c.place
    $$;
comment on function preferences.comparisons is
    'What raters say together on each comparison of a snapshot, or of all usable labels now (null). Example: select prompt, a, b, tie from preferences.comparisons(3)';

-- What raters say together on each latent that they rated, of a snapshot or now (null): the mean place on the scale from 0 to 1, a rater's own
-- ratings of it averaged first.
create function preferences.rated_latents(snapshot bigint default null)
    returns table (place bigint, split text, prompt text, dimension text, source text, external_id text, url text, sha256 text,
                   good double precision, raters bigint)
    language sql stable as $$
    with rating as (
        select f.position::bigint as place, f.split, f.prompt, f.dimension, f.source, f.external_id, f.rater, f.url, f.sha256,
               (f.value - f.low) / (f.high - f.low) as good
        from preferences.frozen_rating f where f.snapshot_id = rated_latents.snapshot
        union all
        select r.seq, null, r.prompt, r.dimension, r.source, r.external_id, r.rater, r.url, r.sha256, (r.value - r.low) / (r.high - r.low)
        from preferences.rating r where rated_latents.snapshot is null and r.state = 'usable' and r.retracted_at is null
    ), rater as (
        select g.prompt, g.dimension, g.sha256, g.rater, min(g.place) as place, avg(g.good) as good
        from rating g group by g.prompt, g.dimension, g.sha256, g.rater
    ), latent as (
        select min(v.place) as place, avg(v.good) as good, count(*) as raters from rater v group by v.prompt, v.dimension, v.sha256
    )
    select l.place, g.split, g.prompt, g.dimension, g.source, g.external_id, g.url, g.sha256, l.good, l.raters
    from latent l join rating g on g.place = l.place order by l.place
    $$;
comment on function preferences.rated_latents is
    'What raters say together on each rated latent of a snapshot, or of all usable ratings now (null), from 0 (bad) to 1 (good).';

-- migrate:down

drop function preferences.rated_latents(bigint), preferences.comparisons(bigint), preferences.voices(text, jsonb, double precision);
