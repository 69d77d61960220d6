import Postgres

/// A queue as `ops.queue_now` shows it.
public struct QueueRecord: Sendable, Hashable {
    /// Its name.
    public let name: String
    /// `short` or `long`.
    public let queueClass: String
    /// Whether nothing is taken from it.
    public let isPaused: Bool
    /// Jobs that wait for a worker.
    public let ready: Int
    /// Jobs that run.
    public let leased: Int
    /// Jobs that wait for their time.
    public let deferred: Int
    /// Jobs that wait for others.
    public let waiting: Int
    /// Jobs that were given up.
    public let dead: Int
    /// For how long the oldest ready job has been waiting, in seconds.
    public let oldestReady: Double
    /// How many jobs the live workers can run at a time.
    public let capacity: Int
    /// The whole row as a JSON object.
    public let json: String

    init(row: PostgresRow) throws {
        name = try row["queue"].string
        queueClass = try row["class"].string
        isPaused = try row["paused"].bool
        ready = try row["ready"].int
        leased = try row["leased"].int
        deferred = try row["deferred"].int
        waiting = try row["waiting"].int
        dead = try row["dead"].int
        oldestReady = try row["oldest_ready_s"].double
        capacity = try row["capacity"].int
        json = try row["json"].string
    }
}

/// A process that takes jobs, as `ops.workers` shows it.
public struct WorkerRecord: Sendable, Hashable, Identifiable {
    /// Its id in the queue.
    public let id: Int64
    /// What it calls itself.
    public let service: String
    /// Where it runs.
    public let host: String
    /// Its process id there.
    public let pid: Int
    /// Why it is no more: `stopped`, `lease_expired`, `session_lost`; nil while it lives.
    public let endedWhy: String?
    /// Seconds since it was heard of.
    public let beatAge: Double
    /// Jobs that it runs.
    public let inFlight: Int
    /// Jobs that it can run at a time; nil before its first report.
    public let capacity: Int?
    /// Whether it takes nothing new and is about to stop.
    public let isDraining: Bool
    /// Per cent of a core that it used lately.
    public let cpuPercent: Double?
    /// Memory that it has resident, in MiB.
    public let residentMegabytes: Double?
    /// The whole row as a JSON object.
    public let json: String

    init(row: PostgresRow) throws {
        id = try row["worker_id"].int64
        service = try row["service"].string
        host = try row["host"].string
        pid = try row["pid"].int
        endedWhy = try row["ended_why"].optionalString
        beatAge = try row["beat_age_s"].double
        inFlight = try row["in_flight"].int
        capacity = try row["capacity"].optionalInt
        isDraining = try row["draining"].bool
        cpuPercent = try row["cpu_percent"].optionalDouble
        residentMegabytes = try row["rss_mb"].optionalDouble
        json = try row["json"].string
    }
}

extension JobQueue {
    /// The queues by name.
    public func queues() async throws -> [QueueRecord] { try await client.query(Statements.queues).map(QueueRecord.init(row:)) }

    /// The processes that take jobs.
    ///
    /// - Parameter ended: those too that are no more.
    public func workers(includingEnded ended: Bool = false, limit: Int = 100) async throws -> [WorkerRecord] {
        try await client.query(Statements.workers, [.bool(ended), .int(limit)]).map(WorkerRecord.init(row:))
    }
}
