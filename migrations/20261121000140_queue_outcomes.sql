-- migrate:up

-- Outcomes: each takes (id, token) and does nothing for a token that is no longer the job's.

create function queue.hold(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    -- The lock keeps rescue and operators away, so a process that freezes with it must not keep it for ever.
    perform set_config('idle_in_transaction_session_timeout', '30s', true);
    perform from queue.job j where j.id = hold.id and j.token = hold.token and j.state = 1 for no key update;
    return found;
end
$$;
comment on function queue.hold is 'Fences a transaction: true, and the job''s row locked until its end, if the token is live. Effects written behind it commit with queue.complete or not at all. The server ends the transaction when its client leaves it alone for 30 seconds.';

create function queue.finish(ids bigint[], tokens bigint[], results jsonb[]) returns bigint[] language plpgsql as $$
#variable_conflict use_column
declare
    finished bigint[];
    parents bigint[];
    forgotten bigint[];
    has_slots boolean;
    silent constant smallint[] := array(select q.id from queue.queue q where not q.history);
begin
    if octet_length(finish.results::text) > 65536 and exists (select from unnest(finish.results) r where octet_length(r::text) > 65536) then
        raise exception 'a job''s result is limited to 64 kB' using errcode = 'program_limit_exceeded',
            hint = 'Put what is larger into an artifact and its URL into the result.';
    end if;
    with fin as (
        delete from queue.job j using unnest(finish.ids, finish.tokens, finish.results) d (id, token, result)
        where j.id = d.id and j.token = d.token and j.state = 1
        returning j.id, j.token, j.worker_id, j.created_at, j.claimed_at, j.attempt, j.queue_id, j.failures, j.rescues, j.kind,
            j.parent, j.slot, d.result
    ), history as (
        insert into queue.done (id, token, worker_id, created_at, claimed_at, finished_at, attempt, queue_id, failures, rescues, kind, result)
        select fin.id, fin.token, fin.worker_id, fin.created_at, fin.claimed_at, clock_timestamp(), fin.attempt, fin.queue_id,
            fin.failures, fin.rescues, fin.kind, fin.result from fin
        -- What others wait for they may want to read.
        where fin.parent or fin.queue_id <> all (silent)
    )
    select array_agg(fin.id), array_agg(fin.id) filter (where fin.parent), bool_or(fin.slot is not null),
        array_agg(fin.id) filter (where fin.queue_id = any (silent) and not fin.parent)
    into finished, parents, has_slots, forgotten from fin;
    if forgotten is not null then
        delete from queue.body b where b.id = any (forgotten);
    end if;
    delete from queue.checkpoint c where c.job_id = any (finished);
    delete from queue.run r where r.job_id = any (finished);
    if found then
        perform pg_notify('queue_progress', '');
    end if;
    -- A job with a run row may hold the permit of its machine.
    if found or has_slots then
        perform queue.free_slots(finished);
    end if;
    if parents is not null then
        perform queue.finish_parents(parents);
    end if;
    return coalesce(finished, '{}');
end
$$;
comment on function queue.finish is 'Moves leased jobs to queue.done (or nowhere, where the queue keeps no history) and returns the ids that really were; what queue.complete and queue.turn share.';

create function queue.complete(ids bigint[], tokens bigint[], results jsonb[]) returns setof bigint language sql as $$
    select unnest(queue.finish(complete.ids, complete.tokens, complete.results))
$$;
comment on function queue.complete is 'Moves leased jobs to queue.done and returns the ids that really were; an id that is missing from the answer was fenced.';

create function queue.bury(victim queue.job, reason text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    delete from queue.job j where j.id = victim.id;
    insert into queue.dead (id, seq, token, worker_id, run_at, created_at, claimed_at, queue_id, band, state, attempt, failures, rescues,
        waits_on, parent, kind, slot, dedupe_key, last_error, reason)
    values (victim.id, victim.seq, victim.token + 1, victim.worker_id, victim.run_at, victim.created_at, victim.claimed_at, victim.queue_id,
        victim.band, 0, victim.attempt, victim.failures, victim.rescues, victim.waits_on,
        victim.parent, victim.kind, victim.slot, victim.dedupe_key, victim.last_error, bury.reason);
    delete from queue.run r where r.job_id = victim.id;
    if bury.reason = 'cancelled' then
        perform queue.note(victim.queue_id, victim.kind, 'cancelled');
    else
        perform queue.note(victim.queue_id, victim.kind, 'failed', 1, victim.id, victim.last_error ->> 'message');
    end if;
    perform queue.free_slots(array[victim.id]);
    if victim.parent then
        perform queue.fail_parents(array[victim.id]);
    end if;
    perform pg_notify('queue_progress', '');
end
$$;
comment on function queue.bury is 'Moves a live job, which the caller has locked, to queue.dead. Not for operators: use queue.cancel.';

create function queue.bury_cancelled(job queue.job) returns void language plpgsql as $$
#variable_conflict use_column
begin
    job.last_error := jsonb_build_object('message', coalesce((select r.cancel_reason from queue.run r where r.job_id = job.id), 'cancelled'),
        'at', clock_timestamp(), 'attempt', job.attempt);
    perform queue.bury(job, 'cancelled');
end
$$;
comment on function queue.bury_cancelled is 'Buries a leased job, which the caller has locked, under the reason for which it was to be cancelled. Not for operators.';

create function queue.is_cancelled(job queue.job) returns boolean language sql stable as $$
    select exists (select from queue.run r where r.job_id = job.id and r.cancel_requested_at is not null)
$$;
comment on function queue.is_cancelled is 'Whether the run of a leased job was asked to cancel.';

create function queue.line_up_again(job queue.job) returns void language plpgsql as $$
#variable_conflict use_column
begin
    update queue.job j set state = 0, token = j.token + 1, worker_id = null, seq = nextval('queue.seq'), rescues = job.rescues,
        last_error = job.last_error
    where j.id = job.id;
    delete from queue.run r where r.job_id = job.id;
    perform queue.free_slots(array[job.id]);
    perform queue.ring(q.class) from queue.queue q where q.id = job.queue_id;
end
$$;
comment on function queue.line_up_again is 'Makes a leased job, which the caller has locked, ready again at the end of its line, under a new token. Not for operators.';

create function queue.fail(id bigint, token bigint, error jsonb, permanent boolean default false, retry_after interval default null)
returns text language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
    settings queue.queue;
    base double precision;
    delay double precision;
begin
    select j.* into job from queue.job j where j.id = fail.id and j.token = fail.token and j.state = 1 for update;
    if not found then
        return 'fenced';
    end if;
    select q.* into strict settings from queue.queue q where q.id = job.queue_id;
    base := extract(epoch from settings.backoff_base);
    -- Decorrelated jitter: between the base and three times the last delay, so that jobs that failed together do not return together.
    delay := base + random() * greatest(0, 3 * coalesce((job.last_error ->> 'delay_s')::double precision, base) - base);
    delay := greatest(least(delay, extract(epoch from settings.backoff_cap)), coalesce(extract(epoch from fail.retry_after), 0));
    job.failures := job.failures + 1;
    job.last_error := fail.error || jsonb_build_object('at', clock_timestamp(), 'attempt', job.attempt, 'delay_s', round(delay::numeric, 3));
    if fail.permanent or job.failures >= settings.max_attempts then
        job.last_error := job.last_error - 'delay_s';
        perform queue.bury(job, case when fail.permanent then 'permanent' else 'attempts' end);
        return 'dead';
    end if;
    -- It failed before it heard that it was cancelled: it must not be tried again all the same.
    if queue.is_cancelled(job) then
        job.last_error := job.last_error - 'delay_s';
        perform queue.bury(job, 'cancelled');
        return 'dead';
    end if;
    update queue.job j set state = 2, seq = null, token = job.token + 1, worker_id = null, failures = job.failures, last_error = job.last_error,
        run_at = clock_timestamp() + delay * interval '1 second'
    where j.id = job.id;
    delete from queue.run r where r.job_id = job.id;
    perform queue.note(job.queue_id, job.kind, 'retried', 1, job.id, job.last_error ->> 'message');
    perform queue.free_slots(array[job.id]);
    return 'retry';
end
$$;
comment on function queue.fail is 'A handler failed: retry later, or dead; dead also when it was asked to cancel. Answers retry, dead or fenced.';

create function queue.hand_back(job queue.job) returns void language plpgsql as $$
begin
    if queue.is_cancelled(job) then
        perform queue.bury_cancelled(job);
    else
        perform queue.line_up_again(job);
    end if;
end
$$;
comment on function queue.hand_back is 'Makes a leased job, which the caller has locked, ready again, or dead if it was asked to cancel. Not for operators.';

create function queue.release(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = release.id and j.token = release.token and j.state = 1 for update;
    if not found then
        return false;
    end if;
    perform queue.hand_back(job);
    return true;
end
$$;
comment on function queue.release is 'Hands a leased job back, as a worker that shuts down does; counts neither as a failure nor as a crash.';

create function queue.acknowledge_cancel(id bigint, token bigint) returns boolean language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = acknowledge_cancel.id and j.token = acknowledge_cancel.token and j.state = 1 for update;
    if not found then
        return false;
    end if;
    perform queue.bury_cancelled(job);
    return true;
end
$$;
comment on function queue.acknowledge_cancel is 'A worker says that the job it was asked to cancel has stopped.';

create function queue.save_checkpoint(
    job bigint, token bigint, step text, n bigint, state jsonb, blob_uri text default null, sha256 bytea default null, bytes bigint default null
) returns boolean language plpgsql as $$
#variable_conflict use_column
begin
    if not queue.hold(save_checkpoint.job, save_checkpoint.token) then
        return false;
    end if;
    -- A run that fell back to an older checkpoint writes over the newer ones that it did not trust.
    delete from queue.checkpoint c where c.job_id = save_checkpoint.job and c.step = save_checkpoint.step and c.n >= save_checkpoint.n;
    insert into queue.checkpoint (job_id, step, n, token, state, blob_uri, sha256, bytes)
    values (save_checkpoint.job, save_checkpoint.step, save_checkpoint.n, save_checkpoint.token, save_checkpoint.state,
        save_checkpoint.blob_uri, save_checkpoint.sha256, save_checkpoint.bytes);
    delete from queue.checkpoint c where c.job_id = save_checkpoint.job and c.step = save_checkpoint.step
        and c.n < (select min(k.n) from (select l.n from queue.checkpoint l
            where l.job_id = save_checkpoint.job and l.step = save_checkpoint.step order by l.n desc limit 2) k);
    return true;
end
$$;
comment on function queue.save_checkpoint is 'Publishes a checkpoint under the live token, keeping the two newest; false if the token is fenced.';

-- migrate:down

drop function queue.save_checkpoint, queue.acknowledge_cancel, queue.release, queue.hand_back, queue.fail, queue.line_up_again,
    queue.is_cancelled, queue.bury_cancelled, queue.bury, queue.complete, queue.finish, queue.hold;
