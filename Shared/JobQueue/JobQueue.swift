public import Foundation
public import Postgres

/// The queue as those see it who put jobs in and look after them. Each call is one of the documented SQL functions.
public struct JobQueue: Sendable {
    /// The database.
    public let client: PostgresClient

    /// A queue in the schema `queue` of the client's database.
    public init(client: PostgresClient) { self.client = client }

    /// Adds a job and returns its id.
    ///
    /// - Parameters:
    ///   - kind: what to do.
    ///   - queue: where to put it; the queue named like the kind if nil.
    ///   - arguments: encoded as JSON.
    ///   - dedupeKey: while a job with this key lives, that one's id is returned and nothing added.
    ///   - runAt: not before then.
    ///   - band: priority, 0 (first) to 3.
    ///   - slot: the name of a permit that the job needs while it runs; a slot that nobody has defined has one permit.
    ///   - waitsFor: ids of jobs that must have succeeded before this one becomes ready.
    ///   - onParentFailure: what becomes of it when one of those is given up.
    ///   - connection: the caller's transaction, which the job is part of; a statement of its own if nil.
    @discardableResult
    public func enqueue(
        kind: String, queue: String? = nil, arguments: some Encodable, dedupeKey: String? = nil, runAt: Date? = nil, band: Int = 1,
        slot: String? = nil, waitsFor: [Int64] = [], onParentFailure: ParentFailure = .cancel, on connection: PostgresConnection? = nil
    ) async throws -> Int64 {
        try await enqueue(
            kind: kind, queue: queue, json: try jsonText(arguments), dedupeKey: dedupeKey, runAt: runAt, band: band, slot: slot,
            waitsFor: waitsFor, onParentFailure: onParentFailure, on: connection)
    }

    /// The same with the arguments as JSON text.
    @discardableResult
    public func enqueue(
        kind: String, queue: String? = nil, json: String = "{}", dedupeKey: String? = nil, runAt: Date? = nil, band: Int = 1,
        slot: String? = nil, waitsFor: [Int64] = [], onParentFailure: ParentFailure = .cancel, on connection: PostgresConnection? = nil
    ) async throws -> Int64 {
        let parameters: [PostgresValue] = [
            .string(kind), .json(json), PostgresValue(queue), PostgresValue(dedupeKey), PostgresValue(runAt), .int(band),
            PostgresValue(slot), waitsFor.isEmpty ? .null : .array(waitsFor), .string(onParentFailure.rawValue),
        ]
        let rows =
            if let connection {
                try await connection.query(prepared: Statements.enqueue, parameters)
            } else {
                try await client.query(prepared: Statements.enqueue, parameters)
            }
        return try rows[0]["id"].int64
    }

    /// What becomes of a job that waits for one which is given up.
    public enum ParentFailure: String, Sendable, CaseIterable {
        /// It is cancelled, and comes back when the other one is retried.
        case cancel
        /// It starts all the same.
        case `continue`
    }

    /// Sets how many jobs may run at a time under a slot. Those that run above that go on; none starts before fewer are held.
    public func defineSlot(_ key: String, total: Int) async throws {
        try await client.query(Statements.defineSlot, [.string(key), .int(total)])
    }

    /// Adds many jobs in one statement and returns the ids of the new ones, in order; those whose key is live already are left out.
    ///
    /// - Parameter jobs: the arguments as JSON text, and the dedupe key or nil.
    @discardableResult
    public func enqueueMany(
        kind: String, queue: String? = nil, jobs: [(json: String, dedupeKey: String?)], band: Int = 1,
        on connection: PostgresConnection? = nil
    ) async throws -> [Int64] {
        let parameters: [PostgresValue] = [
            .string(kind), .array(jobs.map(\.json)), .array(jobs.map(\.dedupeKey)), PostgresValue(queue), .int(band),
        ]
        return try await rows(Statements.enqueueMany, parameters, on: connection).map { try $0["id"].int64 }
    }

    /// Makes a queue with the defaults of its class, or gives an existing one these; kinds that the migrations know have theirs.
    public func define(_ name: String, isLong: Bool) async throws {
        try await client.query(Statements.define, [.string(name), .string(isLong ? "long" : "short")])
    }

    /// Brings a dead or cancelled job back; a deferred one becomes ready now. Throws a ``PostgresError`` that says why not.
    public func retry(_ id: Int64) async throws { try await client.query(Statements.retry, [.int(id)]) }

    /// Brings dead jobs back, of one kind or all (but the cancelled ones, unless that is the reason given); returns how many.
    public func redrive(kind: String? = nil, reason: String? = nil, limit: Int = 1000) async throws -> Int {
        try await one(Statements.redrive, [PostgresValue(kind), PostgresValue(reason), .int(limit)])["jobs"].int
    }

    /// What a cancellation came to.
    public enum Cancellation: String, Sendable {
        /// It was not running and will not.
        case cancelled
        /// It is running; its worker is asked to stop it.
        case requested
        /// It had ended already.
        case finished
    }

    /// Cancels a job.
    @discardableResult
    public func cancel(_ id: Int64, reason: String = "cancelled by an operator") async throws -> Cancellation {
        let answer = try await one(Statements.cancel, [.int(id), .string(reason)])["answer"].string
        return Cancellation(rawValue: answer) ?? .finished
    }

    /// No job of the queue starts until ``resume(_:)``; running ones go on.
    public func pause(_ queue: String) async throws { try await client.query(Statements.pause, [.string(queue)]) }

    /// Ends a pause.
    public func resume(_ queue: String) async throws { try await client.query(Statements.resume, [.string(queue)]) }

    func rows(_ sql: String, _ parameters: [PostgresValue], on connection: PostgresConnection? = nil) async throws -> [PostgresRow] {
        if let connection { return try await connection.query(sql, parameters) }
        return try await client.query(sql, parameters)
    }

    func one(_ sql: String, _ parameters: [PostgresValue], on connection: PostgresConnection? = nil) async throws -> PostgresRow {
        guard let row = try await rows(sql, parameters, on: connection).first else {
            throw PostgresError(sqlState: "02000", message: "no row came back from: \(sql)")
        }
        return row
    }
}
