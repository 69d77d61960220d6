-- migrate:up

create view ops.dimensions as
select d.name, d.description, d.created_at from preferences.dimension d;
comment on view ops.dimensions is 'What can be judged. preferences.define_dimension(name, description) adds one.';

create view ops.comparisons as
select c.prompt, c.dimension, c.a_sha256, c.b_sha256, c.a, c.b, c.tie, c.both_bad, c.margin, c.raters, c.labels, c.rated
from preferences.comparisons() c;
comment on view ops.comparisons is 'What raters say together on each pair of latents; labels with the sides swapped are turned round. Reads every usable label.';

create view ops.duplicate_labels as
select d.rater, d.dimension, d.prompt, d.ids, d.swapped, d.agrees from (
    select p.rater, p.dimension, p.prompt, array_agg(p.id order by p.seq) as ids,
           count(distinct p.a_sha256) > 1 as swapped,
           count(distinct case when p.a_sha256 > p.b_sha256 then case p.outcome when 'a' then 'b' when 'b' then 'a' else p.outcome end
                               else p.outcome end) = 1 as agrees
    from preferences.pair p where p.retracted_at is null and p.votes is null
    group by p.rater, p.dimension, p.prompt, least(p.a_sha256, p.b_sha256), greatest(p.a_sha256, p.b_sha256)
    having count(*) > 1) d;
comment on view ops.duplicate_labels is 'Comparisons that one rater judged more than once, whether the sides were swapped between, and whether the answers agree.';

create view ops.presentation as
select p.dimension, p.source, count(*) as shown, count(*) filter (where p.presentation = 'ab') as a_first,
       count(*) filter (where (p.presentation = 'ab') = (p.outcome = 'a')) as first_won
from preferences.pair p where p.presentation is not null and p.outcome in ('a', 'b') and p.retracted_at is null group by p.dimension, p.source;
comment on view ops.presentation is 'Position bias: of the decided pairs whose order is known, how often the side that was shown first won.';

create view ops.corrections as
select r.subject, r.revision, r.action, r.label, r.actor, r.reason, r.at from preferences.revision r where r.revision > 0;
comment on view ops.corrections is 'Every correction, retraction and restoration of a label: who, when and why.';

do $$
begin
    if exists (select from pg_roles where rolname = 'foretaste_dashboard') then
        grant select on ops.dimensions, ops.comparisons, ops.duplicate_labels, ops.presentation, ops.corrections to foretaste_dashboard;
    end if;
end
$$;

-- migrate:down

drop view ops.corrections, ops.presentation, ops.duplicate_labels, ops.comparisons, ops.dimensions;
