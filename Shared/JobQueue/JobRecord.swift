public import Foundation
import Postgres

/// A job as `ops.jobs` shows it, whether it lives, has succeeded or was given up.
public struct JobRecord: Sendable, Hashable, Identifiable {
    /// Where a job stands.
    public enum State: String, Sendable, Codable, CaseIterable {
        /// Waiting for a worker.
        case ready
        /// A worker has it.
        case leased
        /// Waiting for its time, after a failure or because it was asked to.
        case deferred
        /// Waiting for other jobs.
        case waiting
        /// Done; its effects are committed.
        case succeeded
        /// Given up: too many failures, a crash loop, or a failure that no retry can mend.
        case dead
        /// Cancelled by an operator.
        case cancelled

        /// Whether nothing will happen any more unless an operator says so.
        public var isTerminal: Bool { self == .succeeded || self == .dead || self == .cancelled }
    }

    /// The job's id.
    public let id: Int64
    /// What to do.
    public let kind: String
    /// The queue it is, or was, in.
    public let queue: String
    /// Where it stands.
    public let state: State
    /// How often it was started.
    public let attempt: Int
    /// How often its handler failed.
    public let failures: Int
    /// How often its worker was lost.
    public let rescues: Int
    /// `service@host` of the process that has it, or had it last.
    public let worker: String?
    /// That process's id.
    public let pid: Int?
    /// When it was enqueued.
    public let createdAt: Date
    /// When it was last started.
    public let startedAt: Date?
    /// When it ended.
    public let finishedAt: Date?
    /// From 0 to 1.
    public let progress: Double?
    /// What the handler says it is doing.
    public let message: String?
    /// Seconds left, by the pace so far.
    public let eta: Double?
    /// What the last failure said.
    public let error: String?
    /// Whether a running job is asked to stop.
    public let cancelRequested: Bool
    /// JSON text.
    public let arguments: String
    /// JSON text, of a job that succeeded.
    public let result: String?
    /// The whole row of `ops.jobs` as a JSON object.
    public let json: String

    init(row: PostgresRow) throws {
        id = try row["id"].int64
        kind = try row["kind"].string
        queue = try row["queue"].string
        let stateText = try row["state"].string
        guard let state = State(rawValue: stateText) else {
            throw PostgresError(sqlState: "22000", message: "ops.jobs shows a state that this program does not know: \(stateText)")
        }
        self.state = state
        attempt = try row["attempt"].int
        failures = try row["failures"].int
        rescues = try row["rescues"].int
        worker = try row["worker"].optionalString
        pid = try row["pid"].optionalInt
        createdAt = try row["created_at"].date
        startedAt = try row["started_at"].optionalDate
        finishedAt = try row["finished_at"].optionalDate
        progress = try row["progress"].optionalDouble
        message = try row["message"].optionalString
        eta = try row["eta"].optionalDouble
        error = try row["error"].optionalString
        cancelRequested = try row["cancel_requested"].bool
        arguments = try row["args"].string
        result = try row["result"].optionalString
        json = try row["json"].string
    }

    /// The result decoded; nil if there is none.
    public func result<Value: Decodable>(as type: Value.Type) throws -> Value? {
        try result.map { try JSONDecoder().decode(type, from: Data($0.utf8)) }
    }
}

extension JobQueue {
    /// Jobs, newest first.
    ///
    /// - Parameters:
    ///   - state: only those in this state.
    ///   - kind: only those of this kind.
    ///   - before: only those with a smaller id: the last one's of the page before.
    ///   - limit: how many at most.
    public func list(state: JobRecord.State? = nil, kind: String? = nil, before: Int64? = nil, limit: Int = 100) async throws -> [JobRecord]
    {
        let parameters = [PostgresValue(state?.rawValue), PostgresValue(kind), PostgresValue(before), .int(limit)]
        return try await client.query(Statements.list, parameters).map(JobRecord.init(row:))
    }

    /// One job. Throws ``JobError/unknown(_:)`` if there is none of that id.
    public func show(_ id: Int64) async throws -> JobRecord {
        // The three tables are read in one statement, and a job is in exactly one of them.
        guard let row = try await client.query(Statements.show, [.int(id)]).first else { throw JobError.unknown(id) }
        return try JobRecord(row: row)
    }

    /// A job now and after each change, until it has ended; the last element is the ended job.
    ///
    /// Woken by NOTIFY, with a look twice a second behind it. A database that is away for a while is waited for.
    public func wait(_ id: Int64) -> AsyncThrowingStream<JobRecord, any Error> {
        let (stream, continuation) = AsyncThrowingStream.makeStream(of: JobRecord.self)
        let task = Task {
            let (ticks, tick) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
            let listener = Task { [client] in for await _ in client.listen(["queue_progress"]) { tick.yield() } }
            let timer = Task {
                while !Task.isCancelled {
                    tick.yield()
                    try? await Task.sleep(for: .milliseconds(500))
                }
                tick.finish()
            }
            defer {
                listener.cancel()
                timer.cancel()
            }
            var last: JobRecord?
            for await _ in ticks {
                do {
                    let record = try await patiently { try await show(id) }
                    if record != last { continuation.yield(record) }
                    last = record
                    if record.state.isTerminal { break }
                } catch {
                    continuation.finish(throwing: error)
                    return
                }
            }
            continuation.finish()
        }
        continuation.onTermination = { _ in task.cancel() }
        return stream
    }

    /// Waits until a job has ended and returns it.
    public func finished(_ id: Int64) async throws -> JobRecord {
        var last: JobRecord?
        for try await record in wait(id) { last = record }
        try Task.checkCancellation()
        guard let last else { throw JobError.unknown(id) }
        return last
    }
}
