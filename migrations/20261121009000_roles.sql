-- migrate:up

-- Who may do what: a group role for each service, for operators, dashboards and whoever migrates. None can log in; a login role becomes a
-- member (docs/operations.md). Functions that others call run with the rights of foretaste_migrator, which owns everything and is no
-- superuser. The file with the highest number, so that it sees all there is; a later migration ends with the grants for what it adds.

-- Roles belong to the whole cluster. Who migrates another of its databases at this moment waits, as far as both may lock.
do $$
begin
    lock table pg_catalog.pg_shdescription in share row exclusive mode;
exception
    when insufficient_privilege then null;
end
$$;

-- Another database may have made them, perhaps just now; and not everybody may make them.
do $$
declare
    role text;
    meaning text;
begin
    for role, meaning in
        values ('foretaste_migrator', 'owns everything and migrates'),
            ('foretaste_ingest', 'the service ingest'), ('foretaste_trainer', 'the service reward-trainer'),
            ('foretaste_scorer', 'the service latent-scorer'), ('foretaste_tuner', 'the service generator-tuner'),
            ('foretaste_dashboard', 'reads the views of the schema ops'), ('foretaste_operator', 'looks at everything and operates')
    loop
        begin
            if not exists (select from pg_roles r where r.rolname = role) then
                execute format('create role %I nologin', role);
                -- By this the roles are known when they are taken away.
                execute format('comment on role %I is %L', role, 'Foretaste: ' || meaning);
            end if;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise warning 'the role % was not created: % may not create roles', role, current_user;
        end;
    end loop;
end
$$;

-- Functions: what each role may call. The rest is for the functions themselves.
do $$
declare
    grants constant jsonb := '{
        "foretaste_ingest foretaste_trainer foretaste_tuner": [
            "queue.register_worker", "queue.heartbeat", "queue.release_strays", "queue.stop_worker", "queue.flush_metrics", "queue.claim",
            "queue.turn", "queue.hold", "queue.complete", "queue.fail", "queue.release", "queue.acknowledge_cancel", "queue.save_checkpoint", "queue.sweep",
            "queue.prune", "queue.slot_ensure", "queue.parents"],
        "foretaste_ingest foretaste_trainer foretaste_tuner foretaste_operator": [
            "queue.enqueue", "queue.enqueue_many", "queue.count_event"],
        "foretaste_operator": [
            "queue.retry", "queue.redrive", "queue.cancel", "queue.pause", "queue.resume", "queue.define", "queue.set_retention",
            "queue.schedule_add", "queue.schedule_remove", "queue.schedule_pause", "queue.schedule_resume", "queue.schedule_preview",
            "queue.slots_define",
            "preferences.reverify", "preferences.correct", "preferences.retract", "preferences.restore", "preferences.set_retracted",
            "preferences.erase_rater", "preferences.define_dimension", "preferences.freeze_snapshot",
            "access.create_key", "access.rotate_key", "access.revoke_key", "access.renew_key", "access.record"],
        "foretaste_dashboard foretaste_operator": [
            "queue.depth", "queue.leased", "queue.database_health", "queue.rates", "ops.percentile", "ops.merge"],
        "foretaste_trainer foretaste_operator": ["registry.set_alias"],
        "foretaste_ingest foretaste_trainer": ["preferences.freeze_snapshot"],
        "foretaste_ingest": [
            "preferences.label", "preferences.ranking_state", "preferences.correct", "preferences.set_retracted",
            "preferences.define_dimension", "preferences.comparisons"],
        "foretaste_trainer foretaste_tuner foretaste_operator": [
            "preferences.label", "preferences.comparisons", "preferences.rated_latents"],
        "foretaste_dashboard": ["preferences.comparisons"],
        "foretaste_ingest foretaste_trainer foretaste_scorer foretaste_tuner foretaste_operator": ["registry.resolve"],
        "foretaste_ingest foretaste_scorer": [
            "access.find_key", "access.touch_keys", "access.record", "access.list_audit", "access.answer_ttl", "access.begin_request",
            "access.keep_answer", "access.sweep"]
    }';
    -- Plain selects over tables that the caller may read, and what the planner should see through.
    plain constant text[] := array['ops.percentile', 'ops.merge', 'registry.resolve', 'access.answer_ttl', 'preferences.label',
        'preferences.ranking_state'];
    roles text;
    role text;
    names jsonb;
    name text;
    routine record;
begin
    for routine in
        select p.oid::regprocedure as signature, n.nspname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops')
    loop
        execute format('revoke all on routine %s from public', routine.signature);
    end loop;
    for roles, names in select * from jsonb_each(grants) loop
        for name in select * from jsonb_array_elements_text(names) loop
            for routine in
                select p.oid::regprocedure as signature, p.prosecdef from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                where n.nspname || '.' || p.proname = name
            loop
                if name <> all (plain) then
                    execute format('alter function %s security definer set search_path = pg_catalog, pg_temp', routine.signature);
                end if;
                foreach role in array string_to_array(roles, ' ') loop
                    if exists (select from pg_roles r where r.rolname = role) then
                        execute format('grant execute on routine %s to %I', routine.signature, role);
                    end if;
                end loop;
            end loop;
        end loop;
    end loop;
end
$$;

-- Tables, for what services read and write in plain SQL. Nobody but the owner writes a table of the queue.
do $$
declare
    statement text;
    role text;
begin
    for role, statement in
        select r.role, s.statement
        from (values
            ('foretaste_ingest foretaste_trainer foretaste_tuner', 'grant usage on schema queue to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_tuner', 'grant select on queue.queue, queue.checkpoint to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_tuner', 'grant select (id) on queue.job to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_tuner', 'grant select (id, token) on queue.done to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_scorer foretaste_tuner foretaste_operator', 'grant usage on schema registry to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_scorer foretaste_tuner foretaste_operator',
                'grant select on all tables in schema registry to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_scorer foretaste_tuner foretaste_operator',
                'grant insert, update on registry.artifact_fetch to %I'),
            ('foretaste_trainer foretaste_tuner foretaste_operator', 'grant insert on registry.model to %I'),
            ('foretaste_ingest foretaste_trainer foretaste_tuner foretaste_operator', 'grant usage on schema preferences to %I'),
            ('foretaste_trainer foretaste_tuner foretaste_operator', 'grant select on all tables in schema preferences to %I'),
            -- Ingest posts labels and settles them. What they say it changes through preferences.correct alone, which keeps the history.
            ('foretaste_ingest',
                'grant select on preferences.dimension, preferences.pair, preferences.rating, preferences.ranking, preferences.revision,
                    preferences.snapshot, preferences.frozen_pair, preferences.frozen_rating to %I'),
            ('foretaste_ingest', 'grant insert on preferences.pair, preferences.rating, preferences.ranking to %I'),
            ('foretaste_ingest',
                'grant update (state, reason, settled_at, verify_job, verify_tries, backbone, vae, layout, noise_kind, shape, descriptor)
                    on preferences.pair, preferences.rating to %I'),
            ('foretaste_ingest foretaste_scorer foretaste_operator', 'grant usage on schema access to %I'),
            ('foretaste_operator', 'grant usage on schema queue to %I'),
            ('foretaste_operator', 'grant select (id, name, scopes, run, created_at, created_by, expires_at, revoked_at, last_used_at) on access.key to %I'),
            ('foretaste_operator', 'grant select on access.audit to %I'),
            ('foretaste_operator', 'grant select on public.schema_migrations to %I'),
            ('foretaste_dashboard foretaste_operator', 'grant usage on schema ops to %I'),
            ('foretaste_dashboard foretaste_operator', 'grant select on all tables in schema ops to %I'),
            ('foretaste_dashboard foretaste_operator', 'alter default privileges in schema ops grant select on tables to %I')
        ) s (roles, statement), unnest(string_to_array(s.roles, ' ')) r (role)
    loop
        continue when not exists (select from pg_roles p where p.rolname = role)
            or (statement ~ 'access' and to_regnamespace('access') is null)
            or (statement ~ 'schema_migrations' and to_regclass('public.schema_migrations') is null);
        execute format(statement, role);
    end loop;
end
$$;

-- What the migrator owns: everything. Whoever runs this file must be a member of it, or stays the owner.
do $$
declare
    thing text;
begin
    if not exists (select from pg_roles where rolname = 'foretaste_migrator') then
        return;
    end if;
    -- The sweep and ops.health look at other roles' sessions.
    begin
        if not pg_has_role('foretaste_migrator', 'pg_read_all_stats', 'member') then
            grant pg_read_all_stats to foretaste_migrator;
        end if;
    exception
        when insufficient_privilege then
            raise warning 'foretaste_migrator is no member of pg_read_all_stats: a killed worker is noticed by its lease only, and ops.health is incomplete';
        when internal_error then null; -- Another database of the cluster does the same at this moment.
    end;
    begin
        if not pg_has_role(current_user, 'foretaste_migrator', 'member') then
            execute format('grant foretaste_migrator to %I', current_user);
        end if;
        execute format('grant create on database %I to foretaste_migrator', current_database());
        for thing in
            select format('alter schema %I owner to foretaste_migrator', n.nspname) from pg_namespace n
            where n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops')
            union all
            select format('alter %s %s owner to foretaste_migrator',
                case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end,
                c.oid::regclass)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where (n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops') or c.oid = to_regclass('public.schema_migrations'))
                and c.relkind in ('r', 'p', 'v', 'm', 'S')
                -- A column's own sequence goes with its table.
                and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i') and c.relkind = 'S')
            union all
            select format('alter routine %s owner to foretaste_migrator', p.oid::regprocedure) from pg_proc p
            join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('queue', 'preferences', 'registry', 'access', 'ops')
        loop
            execute thing;
        end loop;
    exception
        when insufficient_privilege then
            raise warning 'everything stays with %, with whose rights the functions run: %', current_user, sqlerrm;
    end;
end
$$;

-- migrate:down

-- Roles belong to the whole cluster. Who migrates another of its databases at this moment waits, as far as both may lock.
do $$
begin
    lock table pg_catalog.pg_shdescription in share row exclusive mode;
exception
    when insufficient_privilege then null;
end
$$;

do $$
declare
    role text;
begin
    -- A role that another database uses stays with all it has, here too: dropping what it owns would take its grants on that database away.
    for role in
        select r.rolname from pg_roles r
        where shobj_description(r.oid, 'pg_authid') like 'Foretaste: %' and not exists (
            select from pg_shdepend d, pg_database here
            where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and here.datname = current_database()
                and d.dbid <> here.oid and (d.dbid <> 0 or d.classid = 'pg_database'::regclass and d.objid <> here.oid))
    loop
        begin
            execute format('reassign owned by %I to %I', role, current_user);
            execute format('drop owned by %I', role);
            execute format('drop role %I', role);
        exception
            when dependent_objects_still_exist then null; -- Another database of the cluster uses it.
            when insufficient_privilege then null;
        end;
    end loop;
end
$$;
