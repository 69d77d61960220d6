-- migrate:up

-- For operators. Each call is written into queue.audit.

create function queue.revive(id bigint) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    corpse queue.dead;
    live queue.job;
begin
    select d.* into corpse from queue.dead d where d.id = revive.id for update;
    if found then
        -- It is ready since now, not since it was made: waits are measured from run_at.
        insert into queue.job (id, token, run_at, created_at, queue_id, band, attempt, parent, kind, slot, dedupe_key, last_error)
        values (corpse.id, corpse.token + 1, clock_timestamp(), corpse.created_at, corpse.queue_id, corpse.band, corpse.attempt,
            corpse.parent, corpse.kind, corpse.slot, corpse.dedupe_key, corpse.last_error)
        on conflict (dedupe_key) where queue.job.dedupe_key is not null do nothing;
        if not found then
            raise exception 'job % cannot come back: another live job has its key %', revive.id, corpse.dedupe_key using errcode = 'unique_violation';
        end if;
        delete from queue.dead d where d.id = revive.id;
        perform queue.revive_waiting(revive.id);
        perform queue.ring(q.class) from queue.queue q where q.id = corpse.queue_id;
        return revive.id;
    end if;
    select j.* into live from queue.job j where j.id = revive.id for update;
    if found then
        if live.state = 2 then
            update queue.job j set state = 0, run_at = clock_timestamp(), seq = nextval('queue.seq') where j.id = revive.id;
            perform queue.ring(q.class) from queue.queue q where q.id = live.queue_id;
        end if;
        return revive.id;
    end if;
    if exists (select from queue.done d where d.id = revive.id) then
        raise exception 'job % has succeeded', revive.id using errcode = 'object_not_in_prerequisite_state', hint = 'Enqueue a new one.';
    end if;
    raise exception 'there is no job %', revive.id using errcode = 'no_data_found';
end
$$;
comment on function queue.revive is 'Brings one job back. Not for operators: use queue.retry.';

create function queue.retry(id bigint) returns bigint language plpgsql as $$
#variable_conflict use_column
begin
    perform queue.revive(retry.id);
    perform queue.record('retry', 'job ' || retry.id);
    return retry.id;
end
$$;
comment on function queue.retry is 'Brings a dead or cancelled job back, with its checkpoints and with failures and crashes counted from zero; a deferred one becomes ready now. Example: select queue.retry(42)';

create function queue.redrive(kind text default null, reason text default null, up_to int default 1000) returns bigint language plpgsql as $$
#variable_conflict use_column
declare
    corpse record;
    back bigint := 0;
begin
    for corpse in
        select d.id from queue.dead d
        where (redrive.kind is null or d.kind = redrive.kind)
            and case when redrive.reason is null then d.reason <> 'cancelled' else d.reason = redrive.reason end
            and (d.dedupe_key is null or not exists (select from queue.job j where j.dedupe_key = d.dedupe_key))
        order by d.died_at limit redrive.up_to for update skip locked
    loop
        -- It may have come back with one that it waits for.
        continue when not exists (select from queue.dead d where d.id = corpse.id);
        begin
            perform queue.revive(corpse.id);
            back := back + 1;
        exception
            when unique_violation then
                null; -- Two corpses with one key: the first came back, the other stays.
            when object_not_in_prerequisite_state then
                null; -- It waits for one that stays.
        end;
    end loop;
    perform queue.record('redrive', coalesce('kind ' || redrive.kind, 'all kinds'),
        jsonb_build_object('reason', redrive.reason, 'up_to', redrive.up_to, 'jobs', back));
    return back;
end
$$;
comment on function queue.redrive is 'Brings dead jobs back: all but the cancelled ones, or those of a kind or reason (permanent, attempts, crash_loop, cancelled). Returns how many. Example: select queue.redrive(kind => ''verify_preference'')';

create function queue.cancel(id bigint, reason text default 'cancelled by an operator') returns text language plpgsql as $$
#variable_conflict use_column
declare
    job queue.job;
begin
    select j.* into job from queue.job j where j.id = cancel.id for update;
    if not found then
        if exists (select from queue.done d where d.id = cancel.id) or exists (select from queue.dead d where d.id = cancel.id) then
            return 'finished';
        end if;
        raise exception 'there is no job %', cancel.id using errcode = 'no_data_found';
    end if;
    perform queue.record('cancel', 'job ' || cancel.id, jsonb_build_object('kind', job.kind, 'reason', cancel.reason));
    if job.state = 1 then
        insert into queue.run as r (job_id, token, worker_id, cancel_requested_at, cancel_reason)
        values (job.id, job.token, job.worker_id, clock_timestamp(), cancel.reason)
        on conflict (job_id) do update set cancel_requested_at = coalesce(r.cancel_requested_at, excluded.cancel_requested_at),
            cancel_reason = coalesce(r.cancel_reason, excluded.cancel_reason);
        perform pg_notify('queue_control', '');
        return 'requested';
    end if;
    job.last_error := coalesce(job.last_error, '{}') || jsonb_build_object('message', cancel.reason, 'at', clock_timestamp());
    perform queue.bury(job, 'cancelled');
    return 'cancelled';
end
$$;
comment on function queue.cancel is 'Cancels a job: at once if it is not running (cancelled); else its worker is asked to stop, and after 30 seconds it is taken away (requested). '
    'A job that has ended stays as it is (finished). Example: select queue.cancel(42, ''wrong backbone'')';

create function queue.pause(queue text) returns void language plpgsql as $$
#variable_conflict use_column
begin
    update queue.queue q set paused_at = coalesce(q.paused_at, clock_timestamp()) where q.id = (queue.find(pause.queue)).id;
    perform queue.record('pause', 'queue ' || pause.queue);
end
$$;
comment on function queue.pause is 'No job of the queue starts until queue.resume; running ones go on. Example: select queue.pause(''train_reward'')';

create function queue.resume(queue text) returns void language plpgsql as $$
#variable_conflict use_column
declare
    target queue.queue := queue.find(resume.queue);
begin
    update queue.queue q set paused_at = null where q.id = target.id;
    perform queue.record('resume', 'queue ' || resume.queue);
    perform queue.ring(target.class);
end
$$;
comment on function queue.resume is 'Ends a pause.';

-- migrate:down

drop function queue.resume, queue.pause, queue.cancel, queue.redrive, queue.retry, queue.revive;
