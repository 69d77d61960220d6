public import Foundation
public import Postgres

/// A job to enqueue at the times of a cron expression, or whenever so many new pairs have become usable.
public struct JobSchedule: Sendable, Hashable {
    /// What becomes of times at which no worker was there.
    public enum Missed: String, Sendable, CaseIterable {
        /// They are passed over when they are more than a minute old.
        case skip
        /// The last of them runs.
        case one
        /// All of them run, the last hundred at most.
        case all
    }

    /// What happens when the time comes and the last job still lives.
    public enum Overlap: String, Sendable, CaseIterable {
        /// This time is passed over.
        case skip
        /// The new job waits until the last one has ended, however it ends; a hundred at most wait.
        case queue
        /// The last job is cancelled, and the new one waits until it has stopped.
        case cancel
        /// Both run.
        case allow
    }

    /// Its name.
    public let key: String
    /// The kind of its jobs.
    public let kind: String
    /// Their arguments, JSON text.
    public let arguments: String
    /// What is counted; nil for one that goes by the clock.
    public let topic: String?
    /// The threshold; nil for one that goes by the clock.
    public let everyNewPairs: Int?
    /// How many were counted since it last fired.
    public let counter: Int
    /// The cron expression; nil for one that counts.
    public let cron: String?
    /// The time zone that the cron expression is meant in.
    public let timeZone: String?
    /// When it fires next; nil for one that counts.
    public let nextAt: Date?
    /// How many jobs it has enqueued.
    public let fired: Int
    /// How often its time came and it enqueued nothing.
    public let skipped: Int
    /// Since when it is paused.
    public let pausedAt: Date?
    /// When it last fired or passed over a time.
    public let lastAt: Date?
    /// The last job that it enqueued.
    public let lastJobID: Int64?
    /// Where that job stands.
    public let lastJobState: JobRecord.State?
    /// What came of the last time, for a person.
    public let lastOutcome: String?
    /// The whole row of `ops.schedules` as a JSON object.
    public let json: String

    init(row: PostgresRow) throws {
        key = try row["key"].string
        kind = try row["kind"].string
        arguments = try row["args"].string
        topic = try row["topic"].optionalString
        everyNewPairs = try row["every_new_pairs"].optionalInt
        counter = try row["counter"].int
        cron = try row["cron"].optionalString
        timeZone = try row["time_zone"].optionalString
        nextAt = try row["next_at"].optionalDate
        fired = try row["fired"].int
        skipped = try row["skipped"].int
        pausedAt = try row["paused_at"].optionalDate
        lastAt = try row["last_at"].optionalDate
        lastJobID = try row["last_job_id"].optionalInt64
        lastJobState = try row["last_job_state"].optionalString.flatMap(JobRecord.State.init(rawValue:))
        lastOutcome = try row["last_outcome"].optionalString
        json = try row["json"].string
    }
}

extension JobQueue {
    /// The topic that the preference store counts each pair under that becomes usable.
    public static let usablePairsTopic = "pairs.usable"

    /// Adds a schedule that counts, or changes the one of this key; the count goes on.
    public func addSchedule(
        key: String, kind: String, json: String = "{}", everyNewPairs: Int, topic: String = JobQueue.usablePairsTopic
    ) async throws {
        try await client.query(Statements.scheduleAdd, [.string(key), .string(kind), .json(json), .int(everyNewPairs), .string(topic)])
    }

    /// Adds a schedule that goes by the clock, or changes the one of this key.
    ///
    /// - Parameters:
    ///   - cron: five fields (minute, hour, day of month, month, day of week) or a macro such as `@daily`.
    ///   - timeZone: a name such as `Europe/Berlin`.
    ///   - missed: what becomes of times at which no worker was there.
    ///   - overlap: what happens when the last job still lives.
    ///   - jitter: each job starts up to so much later.
    /// - Throws: a ``PostgresError`` that names the field which makes no sense.
    public func addSchedule(
        key: String, kind: String, json: String = "{}", cron: String, timeZone: String = "UTC", missed: JobSchedule.Missed = .one,
        overlap: JobSchedule.Overlap = .skip, jitter: Duration = .zero
    ) async throws {
        try await client.query(
            Statements.scheduleAddCron,
            [
                .string(key), .string(kind), .json(json), .string(cron), .string(timeZone), .string(missed.rawValue),
                .string(overlap.rawValue), .double(jitter / .seconds(1)),
            ])
    }

    /// Removes a schedule; answers whether there was one.
    @discardableResult
    public func removeSchedule(key: String) async throws -> Bool {
        try await one(Statements.scheduleRemove, [.string(key)])["existed"].bool
    }

    /// A schedule stops firing until it is resumed; answers whether there is one of that key.
    @discardableResult
    public func pauseSchedule(key: String) async throws -> Bool {
        try await one(Statements.schedulePause, [.string(key)])["existed"].bool
    }

    /// Ends a pause. The times that passed meanwhile do not count as missed.
    @discardableResult
    public func resumeSchedule(key: String) async throws -> Bool {
        try await one(Statements.scheduleResume, [.string(key)])["existed"].bool
    }

    /// The next `count` moments at which a cron expression runs in a time zone, by the database's clock.
    public func previewSchedule(cron: String, timeZone: String = "UTC", count: Int = 5) async throws -> [Date] {
        try await client.query(Statements.schedulePreview, [.string(cron), .string(timeZone), .int(count)]).map { try $0["at"].date }
    }

    /// The schedules by their keys.
    public func schedules() async throws -> [JobSchedule] {
        try await client.query(Statements.schedules).map(JobSchedule.init(row:))
    }

    /// Counts events in the caller's transaction, and enqueues the job of each schedule that reaches its threshold. Call it last in the
    /// transaction: the schedule's row stays locked until its end. Returns how many schedules fired.
    @discardableResult
    public static func countEvent(_ topic: String = JobQueue.usablePairsTopic, count: Int = 1, on connection: PostgresConnection)
        async throws -> Int
    {
        try await connection.query(Statements.countEvent, [.string(topic), .int(count)]).first?["fired"].int ?? 0
    }
}
