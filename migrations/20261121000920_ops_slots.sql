-- migrate:up

-- Who holds which permit, and who waits for whom.

create view ops.slots as
select
    l.key, l.total, count(s.job_id) as held, greatest(l.total - count(s.job_id), 0) as free,
    coalesce(array_agg(s.job_id order by s.n) filter (where s.job_id is not null), '{}') as jobs, min(s.taken_at) as longest_since
from queue.slot_limit l left join queue.slot s on s.key = l.key
group by l.key, l.total;
comment on view ops.slots is 'Permits: how many a slot has, how many are held, and by which jobs.';

create view ops.dependencies as
select
    d.child as job_id, d.parent as waits_for, case when d.goes_on then 'continue' else 'cancel' end as on_parent_failure,
    -- A lookup each: the planner would read all jobs into a hash for an exists.
    coalesce((select 'live' from queue.job j where j.id = d.parent), 'dead') as parent_is
from queue.dep d;
comment on view ops.dependencies is 'What jobs still wait for, a row each; those of dead ones show what a retry brings back.';

-- migrate:down

drop view ops.dependencies, ops.slots;
