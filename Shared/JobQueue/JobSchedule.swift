public import Foundation
public import Postgres

/// A job to enqueue whenever so many new pairs have become usable.
public struct JobSchedule: Sendable, Hashable {
    /// Its name.
    public let key: String
    /// The kind of its jobs.
    public let kind: String
    /// Their arguments, JSON text.
    public let arguments: String
    /// What is counted.
    public let topic: String
    /// The threshold.
    public let everyNewPairs: Int
    /// How many were counted since it last fired.
    public let counter: Int
    /// How often it fired.
    public let fired: Int
    /// When it last fired.
    public let lastAt: Date?
    /// The job of that time.
    public let lastJobID: Int64?
    /// The whole row of `ops.schedules` as a JSON object.
    public let json: String

    init(row: PostgresRow) throws {
        key = try row["key"].string
        kind = try row["kind"].string
        arguments = try row["args"].string
        topic = try row["topic"].string
        everyNewPairs = try row["every_new_pairs"].int
        counter = try row["counter"].int
        fired = try row["fired"].int
        lastAt = try row["last_at"].optionalDate
        lastJobID = try row["last_job_id"].optionalInt64
        json = try row["json"].string
    }
}

extension JobQueue {
    /// The topic that the preference store counts each pair under that becomes usable.
    public static let usablePairsTopic = "pairs.usable"

    /// Adds a schedule, or changes the one of this key; the count goes on.
    public func addSchedule(
        key: String, kind: String, json: String = "{}", everyNewPairs: Int, topic: String = JobQueue.usablePairsTopic
    ) async throws {
        try await client.query(Statements.scheduleAdd, [.string(key), .string(kind), .json(json), .int(everyNewPairs), .string(topic)])
    }

    /// Removes a schedule; answers whether there was one.
    @discardableResult
    public func removeSchedule(key: String) async throws -> Bool {
        try await one(Statements.scheduleRemove, [.string(key)])["existed"].bool
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
