-- migrate:up

create view ops.preferences as
select source, dimension, state, count(*) as pairs, max(received_at) as last_received_at, max(settled_at) as last_settled_at
from preferences.pair group by source, dimension, state;
comment on view ops.preferences is 'How many pairs of each source and dimension are in each state.';

create view ops.quarantine as
select id, source, external_id, dimension, rater, reason, received_at, settled_at from preferences.pair where state = 'quarantined';
comment on view ops.quarantine is 'Pairs that verification refused, and why. preferences.reverify(id) tries one again.';

create view ops.snapshots as
select id, job_id, dimension, backbone, digest, pairs, train, pairs - train as held_out, prompts, frozen_at from preferences.snapshot;
comment on view ops.snapshots is 'Frozen data sets.';

create view ops.models as
select
    m.name, m.version, m.kind, m.dimension, m.backbone, m.sha256, m.bytes, m.metrics, m.job_id, m.created_at,
    array(select a.alias from registry.alias a where a.name = m.name and a.version = m.version order by a.alias) as aliases
from registry.model m;
comment on view ops.models is 'Every version of every model with the aliases that point to it.';

create view ops.promotions as
select name, alias, from_version, to_version, moved, reason, job_id, at from registry.alias_history;
comment on view ops.promotions is 'Where each alias went and why; moved is false where a gate looked and kept what was there.';

create view ops.artifact_fetches as
select service, url, sha256, bytes, times, first_at, last_at from registry.artifact_fetch;
comment on view ops.artifact_fetches is 'What each service fetched, without the queries of URLs.';

-- migrate:down

drop view ops.artifact_fetches, ops.promotions, ops.models, ops.snapshots, ops.quarantine, ops.preferences;
