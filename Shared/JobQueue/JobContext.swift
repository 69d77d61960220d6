import Foundation
import Postgres

/// A job in the hands of its handler.
public struct JobContext: Sendable {
    /// The job's id.
    public var id: Int64 { run.job.id }
    /// The fencing token of this run.
    public var token: Int64 { run.job.token }
    /// Which start of the job this is, from 1.
    public var attempt: Int { run.job.attempt }
    /// How often its handler has failed so far.
    public var failures: Int { run.job.failures }
    /// How often its worker was lost so far.
    public var rescues: Int { run.job.rescues }
    /// The job's kind.
    public let kind: String
    /// The arguments, JSON text. Made when it is asked for: ask once.
    public var arguments: String { run.job.arguments.string }

    let run: JobRun
    private let client: PostgresClient

    init(run: JobRun, kind: String, client: PostgresClient) {
        self.run = run
        self.kind = kind
        self.client = client
    }

    /// The arguments decoded. Arguments that do not decode never will: throws ``JobError/permanent(_:)`` with the key that is wrong.
    public func arguments<Value: Decodable>(as type: Value.Type) throws -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(arguments.utf8))
        } catch let error as DecodingError {
            throw JobError.permanent("the arguments of \(kind) are wrong: \(explain(error))")
        }
    }

    /// Says how far the job is. Call it as often as you like, from any thread: it only takes a note, which is sent once a second.
    ///
    /// A run in a long queue that says nothing for the queue's `stall_timeout` is held to be stuck and loses its lease.
    ///
    /// - Parameters:
    ///   - fraction: from 0 to 1.
    ///   - message: one line for a person.
    public func progress(_ fraction: Double, _ message: String = "") {
        run.report(fraction: fraction, message: message)
    }

    /// Whether the handler is asked to stop: cancelled by an operator, shut down, or the lease is lost. May be asked from any thread.
    public var isStopRequested: Bool { run.isStopRequested || Task.isCancelled }

    /// Throws `CancellationError` when ``isStopRequested``. Save a checkpoint first if there is something worth saving.
    public func checkCancellation() throws {
        if isStopRequested { throw CancellationError() }
    }

    /// The jobs that this one waited for, with their results: what fans in here. Those that were given up are among them if it went on
    /// all the same.
    public func parents() async throws -> [JobRecord] {
        try await patiently { [client, id] in try await client.query(Statements.parents, [.int(id)]) }.map(JobRecord.init(row:))
    }

    /// Publishes a checkpoint under this run's token and keeps the two newest of each name.
    ///
    /// - Parameters:
    ///   - step: the global step; a later one must be greater unless the run fell back to an older checkpoint.
    ///   - state: what a resumed run needs to know.
    ///   - artifact: where the large part lies.
    ///   - name: which of the job's steps, for jobs that have several.
    /// - Throws: ``JobError/fenced(_:)`` when the job is no longer this run's; nothing was written then.
    public func checkpoint(step: Int64, state: some Encodable, artifact: JobArtifact? = nil, name: String = "train") async throws {
        try await checkpoint(step: step, json: try jsonText(state), artifact: artifact, name: name)
    }

    /// The same with the state as JSON text.
    public func checkpoint(step: Int64, json: String, artifact: JobArtifact? = nil, name: String = "train") async throws {
        let parameters: [PostgresValue] = [
            .int(id), .int(token), .string(name), .int(step), .json(json), PostgresValue(artifact?.url), PostgresValue(artifact?.sha256),
            PostgresValue(artifact?.bytes),
        ]
        // A checkpoint must be possible while the task is being cancelled: that is when it matters most.
        let kept = try await uncancelled { [client] in
            try await patiently { try await client.query(Statements.saveCheckpoint, parameters).first?["kept"].bool ?? false }
        }
        guard kept else {
            run.loseLease()
            throw JobError.fenced(id)
        }
        run.noteMovement()
    }

    /// The newest checkpoint of this job, by whichever run; nil at its first start.
    public func lastCheckpoint(name: String = "train") async throws -> JobCheckpoint? {
        try await checkpoints(name: name).first
    }

    /// The checkpoints there are, newest first: when the artifact of one turns out damaged, there is the one before.
    public func checkpoints(name: String = "train") async throws -> [JobCheckpoint] {
        let rows = try await patiently { [client, id] in try await client.query(Statements.checkpoints, [.int(id), .string(name)]) }
        return try rows.map(JobCheckpoint.init(row:))
    }
}

/// A large piece of a checkpoint, kept in an artifact store.
public struct JobArtifact: Sendable, Hashable, Codable {
    /// Where it lies.
    public var url: String
    /// SHA-256, 64 hexadecimal digits.
    public var sha256: String
    /// Its size in bytes.
    public var bytes: Int64

    /// An artifact from its parts.
    public init(url: String, sha256: String, bytes: Int64) {
        self.url = url
        self.sha256 = sha256
        self.bytes = bytes
    }
}

/// A state that a run can resume from.
public struct JobCheckpoint: Sendable, Hashable {
    /// The global step.
    public let step: Int64
    /// JSON text.
    public let state: String
    /// The large part, if it has one.
    public let artifact: JobArtifact?

    init(row: PostgresRow) throws {
        step = try row["n"].int64
        state = try row["state"].optionalString ?? "null"
        if let url = try row["blob_uri"].optionalString {
            artifact = JobArtifact(url: url, sha256: try row["sha256"].optionalString ?? "", bytes: try row["bytes"].optionalInt64 ?? 0)
        } else {
            artifact = nil
        }
    }

    /// The state decoded.
    public func state<Value: Decodable>(as type: Value.Type) throws -> Value {
        try JSONDecoder().decode(type, from: Data(state.utf8))
    }
}

/// The key that is wrong, and why.
private func explain(_ error: DecodingError) -> String {
    func path(_ context: DecodingError.Context, _ last: (any CodingKey)? = nil) -> String {
        (context.codingPath + (last.map { [$0] } ?? [])).map(\.stringValue).joined(separator: ".")
    }
    switch error {
    case .keyNotFound(let key, let context): return "\(path(context, key)) is missing"
    case .typeMismatch(let type, let context): return "\(path(context)) is no \(type)"
    case .valueNotFound(let type, let context): return "\(path(context)) is null, expected \(type)"
    case .dataCorrupted(let context): return "\(path(context)): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
}
