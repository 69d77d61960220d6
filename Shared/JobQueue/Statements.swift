/// All of the module's SQL: calls of the documented functions of schema `queue`, and reads of `ops`.
package enum Statements {
    static let enqueue = """
        select queue.enqueue($1, $2, queue => $3, dedupe_key => $4, run_at => $5, band => $6, slot => $7, waits_for => $8::bigint[],
            on_parent_failure => $9) as id
        """
    static let defineSlot = "select queue.slots_define($1, $2)"
    static let ensureSlot = "select queue.slot_ensure($1)"
    static let parents = """
        select j.*, to_jsonb(j) as json from ops.jobs j where j.id in (select p from queue.parents($1) p) order by j.id
        """
    static let enqueueMany = """
        select queue.enqueue_many($1, $2::jsonb[], dedupe_keys => $3::text[], queue => $4, band => $5) as id
        """
    static let define = "select queue.define($1, $2)"
    static let retry = "select queue.retry($1) as id"
    static let redrive = "select queue.redrive(kind => $1, reason => $2, up_to => $3) as jobs"
    static let cancel = "select queue.cancel($1, $2) as answer"
    static let pause = "select queue.pause($1)"
    static let resume = "select queue.resume($1)"
    static let scheduleAdd = "select queue.schedule_add($1, $2, $3, every_new_pairs => $4, topic => $5)"
    static let scheduleAddCron = """
        select queue.schedule_add($1, $2, $3, cron => $4, time_zone => $5, missed => $6, overlap => $7, jitter => $8 * interval '1 second')
        """
    static let scheduleRemove = "select queue.schedule_remove($1) as existed"
    static let schedulePause = "select queue.schedule_pause($1) as existed"
    static let scheduleResume = "select queue.schedule_resume($1) as existed"
    static let schedulePreview = "select at from queue.schedule_preview($1, $2, $3) at"
    static let schedules = "select s.*, to_jsonb(s) as json from ops.schedules s order by s.key"
    static let countEvent = "select queue.count_event($1, $2) as fired"

    static let list = """
        select j.*, to_jsonb(j) as json from ops.jobs j
        where ($1::text is null or j.state = $1) and ($2::text is null or j.kind = $2) and ($3::bigint is null or j.id < $3)
        order by j.id desc limit $4
        """
    static let show = "select j.*, to_jsonb(j) as json from ops.jobs j where j.id = $1"

    static let queues = "select q.*, to_jsonb(q) as json from ops.queue_now q order by q.queue"
    static let workers = """
        select w.*, to_jsonb(w) as json from ops.workers w where $1 or w.ended_at is null order by w.ended_at is not null, w.worker_id desc limit $2
        """

    static let settings = """
        select name, class, extract(epoch from worker_ttl)::float8 as ttl, extract(epoch from stall_timeout)::float8 as stall
        from queue.queue where name = any($1::text[])
        """
    static let register = "select queue.register_worker($1, $2, $3, $4 * interval '1 second') as id"
    static let heartbeat = """
        select alive, cancelled, lost
        from queue.heartbeat($1, $2 * interval '1 second', $3::bigint[], $4::bigint[], $5::boolean[], $6::real[], $7::text[], find_strays => $8)
        """
    static let releaseStrays = "select queue.release_strays($1, $2 * interval '1 second', $3::bigint[]) as released"
    static let sweep = """
        select rescued, promoted, fired, extract(epoch from next_due - clock_timestamp())::float8 as due, ready from queue.sweep($1::text[], $2::bigint[])
        """
    static let flushMetrics = "select queue.flush_metrics($1)"
    static let prune = "select queue.prune()"
    static let stopWorker = "select queue.stop_worker($1)"
    /// All of a turn in one row, a column of arrays: for hundreds of jobs that is half the work on both ends. JSON text of the server has
    /// no line feed in it.
    package static let turn = """
        select array_agg(id) filter (where fenced) as fenced_ids, array_agg(token) filter (where fenced) as fenced_tokens,
            coalesce(array_agg(id) filter (where not fenced), '{}') as ids, coalesce(array_agg(token) filter (where not fenced), '{}') as tokens,
            array_agg(attempt) filter (where not fenced) as attempts, array_agg(failures) filter (where not fenced) as failures,
            array_agg(rescues) filter (where not fenced) as rescues, string_agg(args::text, chr(10)) as args,
            array_agg(coalesce((waited * 1e6)::bigint, -1)) filter (where not fenced) as waited_us,
            array[coalesce(max(seq) filter (where band = 0), 0), coalesce(max(seq) filter (where band = 1), 0),
                coalesce(max(seq) filter (where band = 2), 0), coalesce(max(seq) filter (where band = 3), 0)] as places
        from queue.turn($1, $2, $3, $4, $5::bigint[], $6::bigint[], $7::bigint[], $8::jsonb[], $9, offered => $10)
        """
    static let claim = "select id, token, attempt, failures, rescues, args from queue.claim($1, $2, $3, $4)"

    static let hold = "select queue.hold($1, $2) as held"
    static let complete = "select queue.complete($1::bigint[], $2::bigint[], $3::jsonb[]) as id"
    static let isDone = "select exists (select from queue.done where id = $1 and token = $2) as done"
    static let fail = "select queue.fail($1, $2, $3, $4, $5 * interval '1 second') as answer"
    static let release = "select queue.release($1, $2) as released"
    static let acknowledgeCancel = "select queue.acknowledge_cancel($1, $2) as answer"
    static let saveCheckpoint = """
        select queue.save_checkpoint($1, $2, $3, $4, $5, blob_uri => $6, sha256 => decode($7, 'hex'), bytes => $8) as kept
        """
    static let checkpoints = """
        select n, state, blob_uri, encode(sha256, 'hex') as sha256, bytes from queue.checkpoint where job_id = $1 and step = $2 order by n desc
        """
}
