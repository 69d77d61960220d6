/// What a chaos database has beside the product's schema: queues with short leases, a table for effects, a trace of every change of a job,
/// and points at which a worker's statement can be held so that a fault hits it exactly there.
///
/// The product's code and SQL are untouched: everything here is a trigger or a table of the test's own.
enum Instrumentation {
    /// The advisory locks of the points are (this, point).
    static let lockClass = 7000

    static let queues = """
        select queue.define('chaos_short', 'short', worker_ttl => '3 seconds', max_attempts => 1000, max_rescues => 1000,
            backoff_base => '0.05 seconds', backoff_cap => '0.3 seconds');
        select queue.define('chaos_long', 'long', worker_ttl => '3 seconds', max_attempts => 1000, max_rescues => 1000,
            backoff_base => '0.05 seconds', backoff_cap => '0.3 seconds', stall_timeout => '20 seconds');
        select queue.define('chaos_loop', 'short', worker_ttl => '3 seconds', max_attempts => 3, max_rescues => 2,
            backoff_base => '0.05 seconds', backoff_cap => '0.3 seconds');
        select queue.define('chaos_old', 'short', worker_ttl => '3 seconds', max_attempts => 1000, max_rescues => 1000,
            backoff_base => '0.05 seconds', backoff_cap => '0.3 seconds', retention => '0.2 seconds');
        """

    static let tables = """
        create schema chaos;
        create table public.effect (job bigint, token bigint, pid int, at timestamptz not null default clock_timestamp());
        create table chaos.started (job bigint, token bigint, pid int, at timestamptz not null default clock_timestamp());
        create table chaos.trace (
            n bigint generated always as identity primary key, at timestamptz not null default clock_timestamp(),
            statement_at timestamptz not null default statement_timestamp(), job bigint not null, what text not null, kind text,
            queue_id smallint, old_token bigint, new_token bigint, worker bigint, rescue jsonb, headers jsonb);
        create index on chaos.trace (job, n);
        create table chaos.inject (point int primary key, sqlstate text not null, chance double precision not null);
        create table chaos.acknowledged (job bigint);
        create table chaos.counted (n int not null);
        create table chaos.planted (key text primary key, first timestamptz not null);
        create sequence chaos.injected;
        create table chaos.pause (queue_id smallint, paused_at timestamptz not null, resumed_at timestamptz);
        """

    static let points = """
        create function chaos.hit(point int) returns void language plpgsql security definer as $$
        declare
            injected chaos.inject;
        begin
            -- Only workers are held: the harness and its producers go through.
            if current_setting('application_name') not like 'chaos:%' then
                return;
            end if;
            select i.* into injected from chaos.inject i where i.point = hit.point and random() < i.chance;
            if found then
                -- A sequence remembers although the transaction is rolled back.
                perform nextval('chaos.injected');
                raise exception 'injected at point %', hit.point using errcode = injected.sqlstate;
            end if;
            perform pg_advisory_xact_lock_shared(7000, hit.point);
        end
        $$;

        create function chaos.begin(job bigint, token bigint, pid int) returns void language plpgsql security definer as $$
        begin
            perform chaos.hit(2);
            insert into chaos.started (job, token, pid) values (begin.job, begin.token, begin.pid);
        end
        $$;

        create function chaos.on_job() returns trigger language plpgsql security definer as $$
        declare
            held jsonb;
        begin
            if tg_op = 'INSERT' then
                insert into chaos.trace (job, what, kind, queue_id, new_token, headers)
                values (new.id, 'in', new.kind, new.queue_id, new.token,
                    (select coalesce(b.headers, '{}') || jsonb_build_object('e', coalesce((b.args ->> 'e')::boolean, true))
                    from queue.body b where b.id = new.id));
            elsif tg_op = 'DELETE' then
                insert into chaos.trace (job, what, kind, queue_id, old_token, worker)
                values (old.id, 'out', old.kind, old.queue_id, old.token, old.worker_id);
            elsif old.state = 0 and new.state = 1 then
                insert into chaos.trace (job, what, kind, queue_id, old_token, new_token, worker)
                values (new.id, 'claim', new.kind, new.queue_id, old.token, new.token, new.worker_id);
                perform chaos.hit(1);
            elsif new.rescues > old.rescues then
                select jsonb_build_object('expires_at', w.expires_at, 'absent_since', w.absent_since, 'ended_why', w.ended_why,
                    'beat_at', w.beat_at, 'known', w.id is not null,
                    'lease_until', (select r.lease_until from queue.run r where r.job_id = old.id),
                    'cancelled', (select r.cancel_requested_at from queue.run r where r.job_id = old.id))
                into held from (select old.worker_id as id) o left join queue.worker w on w.id = o.id;
                insert into chaos.trace (job, what, kind, queue_id, old_token, new_token, worker, rescue)
                values (new.id, 'rescue', new.kind, new.queue_id, old.token, new.token, old.worker_id, held);
                perform chaos.hit(8);
            elsif new.waits_on <> old.waits_on then
                insert into chaos.trace (job, what, kind, queue_id, old_token, new_token)
                values (new.id, 'waits', new.kind, new.queue_id, old.token, new.token);
                perform chaos.hit(10);
            elsif new.state <> old.state or new.token <> old.token then
                insert into chaos.trace (job, what, kind, queue_id, old_token, new_token, worker)
                values (new.id, 'move', new.kind, new.queue_id, old.token, new.token, old.worker_id);
            end if;
            return null;
        end
        $$;
        create trigger chaos after insert or update or delete on queue.job for each row execute function chaos.on_job();

        create function chaos.on_end() returns trigger language plpgsql security definer as $$
        begin
            insert into chaos.trace (job, what, kind, queue_id, new_token, worker, headers)
            values (new.id, tg_argv[0], new.kind, new.queue_id, new.token, new.worker_id,
                (select b.headers from queue.body b where b.id = new.id));
            return null;
        end
        $$;
        create trigger chaos after insert on queue.done for each row execute function chaos.on_end('done');
        create trigger chaos after insert on queue.dead for each row execute function chaos.on_end('dead');

        create function chaos.on_point() returns trigger language plpgsql security definer as $$
        begin
            perform chaos.hit(tg_argv[0]::int);
            return null;
        end
        $$;
        create trigger chaos_checkpoint after insert on queue.checkpoint for each row execute function chaos.on_point('5');
        create trigger chaos_effect after insert on public.effect for each row execute function chaos.on_point('6');
        -- Deferred: it runs inside COMMIT, when the client has sent it and waits for the answer.
        create constraint trigger chaos_commit after insert on public.effect deferrable initially deferred
            for each row execute function chaos.on_point('7');
        create trigger chaos_fire after update on queue.schedule for each row when (new.fired > old.fired)
            execute function chaos.on_point('9');
        """
}
