import Logging
import Postgres

/// How a run's end reaches the database: each way is fenced by the token and repeated over lost connections.
struct Outcomes: Sendable {
    /// How long what a job came to is tried again while the database is away.
    static let patience = Duration.seconds(120)

    let client: PostgresClient
    let logger: Logger

    /// An effect that threw something of its own; the transaction is gone, the failure is the job's.
    private struct EffectsFailed: Error { let underlying: any Error }

    /// Commits effects, result and completion in one transaction.
    ///
    /// - Throws: ``JobError/fenced(_:)`` when the token is no longer live: nothing was written. What the effects threw, likewise.
    func complete(_ key: JobRun.Key, _ result: JobResult) async throws {
        do {
            let done: Bool
            if let effects = result.effects {
                done = try await patiently(for: Self.patience) {
                    // A commit whose answer was lost is recognised by its row in queue.done, before anything runs again.
                    try await client.transaction { connection in
                        guard try await connection.query(Statements.hold, [.int(key.id), .int(key.token)]).first?["held"].bool == true
                        else {
                            return try await isDone(key, on: connection)
                        }
                        do {
                            try await effects(connection)
                        } catch let error as PostgresError where error.isRetryable {
                            throw error
                        } catch {
                            throw EffectsFailed(underlying: error)
                        }
                        let parameters: [PostgresValue] = [
                            .array([key.id]), .array([key.token]), .array([PostgresValue(result.json)]),
                        ]
                        return try await connection.query(Statements.complete, parameters).count == 1
                    }
                }
            } else {
                done = try await patiently(for: Self.patience) {
                    try await client.withConnection { connection in
                        let parameters: [PostgresValue] = [.array([key.id]), .array([key.token]), .array([PostgresValue(result.json)])]
                        if try await connection.query(Statements.complete, parameters).count == 1 { return true }
                        return try await isDone(key, on: connection)
                    }
                }
            }
            if !done { throw JobError.fenced(key.id) }
        } catch let failure as EffectsFailed {
            throw failure.underlying
        }
    }

    private func isDone(_ key: JobRun.Key, on connection: PostgresConnection) async throws -> Bool {
        try await connection.query(Statements.isDone, [.int(key.id), .int(key.token)]).first?["done"].bool ?? false
    }

    /// Records a failure; answers retry, dead or fenced.
    func fail(_ key: JobRun.Key, _ error: any Error) async throws -> String {
        var permanent = false
        var pause: Double?
        switch error as? JobError {
        case .permanent: permanent = true
        case .retryAfter(let duration, _): pause = duration / .seconds(1)
        default: break
        }
        let text = String(describing: error)
        let report = try PostgresValue.json(encoding: ["message": String(text.prefix(4000)), "type": String(describing: type(of: error))])
        let parameters: [PostgresValue] = [.int(key.id), .int(key.token), report, .bool(permanent), PostgresValue(pause)]
        return try await patiently(for: Self.patience) {
            try await client.query(Statements.fail, parameters).first?["answer"].string ?? "fenced"
        }
    }

    /// Hands a job back unfinished.
    func release(_ key: JobRun.Key) async throws {
        try await patiently(for: .seconds(3)) { _ = try await client.query(Statements.release, [.int(key.id), .int(key.token)]) }
    }

    /// Says that a cancelled job has stopped.
    func acknowledgeCancel(_ key: JobRun.Key) async throws {
        try await patiently { _ = try await client.query(Statements.acknowledgeCancel, [.int(key.id), .int(key.token)]) }
    }
}
