import Foundation
public import Postgres

/// What a worker does with the jobs of one kind.
public struct JobHandler: Sendable {
    /// The kind of the jobs.
    public let kind: String
    /// The queue they are taken from.
    public let queue: String
    /// How many of them run at a time in this process.
    public let concurrency: Int
    /// The slot of which each of them takes a permit: that of the machine, so that of all its processes only so many run such jobs.
    public let slot: String?
    /// Does one job. It is a Swift task: compute on threads of your own, and look at ``JobContext/checkCancellation()`` between steps.
    public let run: @Sendable (JobContext) async throws -> JobResult

    /// - Parameters:
    ///   - kind: the kind of the jobs.
    ///   - queue: the queue they are taken from; the one named like the kind if nil.
    ///   - concurrency: how many run at a time in this process.
    ///   - slot: a slot of which each of them takes a permit, besides the one that a job names itself. Made with one permit if there is none.
    ///   - run: does one job. It may run more than once for a job (delivery is at least once); what it returns counts once.
    public init(
        kind: String, queue: String? = nil, concurrency: Int = 1, slot: String? = nil,
        run: @escaping @Sendable (JobContext) async throws -> JobResult
    ) {
        precondition(concurrency > 0, "a handler of concurrency 0 would never run")
        self.kind = kind
        self.queue = queue ?? kind
        self.concurrency = concurrency
        self.slot = slot
        self.run = run
    }
}

/// What a job came to.
public struct JobResult: Sendable {
    /// JSON of at most 64 kB, kept with the finished job; nil for none.
    public let json: String?
    /// Writes that commit with the job's completion or not at all.
    let effects: (@Sendable (PostgresConnection) async throws -> Void)?

    /// Whether it may be acknowledged together with others: it brings no effects, and nothing that the server might refuse for its size.
    var mayTravelInCompany: Bool { effects == nil && (json?.utf8.count ?? 0) < 60_000 }

    /// A result as JSON text.
    ///
    /// - Parameter effects: writes to do on the given connection, in the transaction that also completes the job under its fencing
    ///   token. They happen exactly once, however often the handler ran. May be called again when the transaction has to be repeated.
    public init(json: String? = nil, effects: (@Sendable (PostgresConnection) async throws -> Void)? = nil) {
        self.json = json
        self.effects = effects
    }

    /// A result encoded as JSON.
    public init(_ value: some Encodable, effects: (@Sendable (PostgresConnection) async throws -> Void)? = nil) throws {
        self.init(json: try jsonText(value), effects: effects)
    }
}

/// JSON with sorted keys, so that the same value is the same text.
func jsonText(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
