import ServiceKit

/// What ingest alone is told by its environment.
struct IngestConfiguration: Sendable {
    /// The largest body with one pair, in bytes. Above the prompt's own limit, so that a prompt that is too long is named as such.
    var bodyLimit = 8 << 20
    /// The largest bulk body, in bytes.
    var bulkLimit = 64 << 20
    /// What the bodies of all requests may hold in memory together, in bytes, beyond a little for each.
    var bodyMemory = 256 << 20
    /// How much of a bulk body one transaction stores.
    var chunk = BulkPost.ChunkLimit()
    /// The largest latent artifact that is fetched, in bytes.
    var artifactLimit = 512 << 20
    /// How long to wait before artifacts that could not be reached are tried again; after the last one the pair is quarantined.
    var retryDelays: [Duration] = [.seconds(1), .seconds(3), .seconds(9)]
    /// How many verification jobs this process runs at once.
    var concurrency = 2

    static let variables: [(name: String, meaning: String, fallback: String)] = [
        ("FORETASTE_INGEST_MAX_BODY_BYTES", "the largest body with one pair", "8388608"),
        ("FORETASTE_INGEST_MAX_BULK_BYTES", "the largest application/x-ndjson body", "67108864"),
        ("FORETASTE_INGEST_BODY_MEMORY_BYTES", "what bodies hold in memory together, beyond 128 KiB each", "268435456"),
        ("FORETASTE_INGEST_MAX_ARTIFACT_BYTES", "the largest latent artifact", "536870912"),
        ("FORETASTE_INGEST_RETRY_SECONDS", "waits before an unreachable artifact is tried again, by commas", "1,3,9"),
        ("FORETASTE_INGEST_CONCURRENCY", "verification jobs at once", "2"),
    ]

    init() {}

    init(_ environment: ServiceEnvironment) throws {
        bodyLimit = try environment.integer("FORETASTE_INGEST_MAX_BODY_BYTES", in: 1024...1 << 30) ?? bodyLimit
        bulkLimit = try environment.integer("FORETASTE_INGEST_MAX_BULK_BYTES", in: 1024...1 << 30) ?? bulkLimit
        bodyMemory = try environment.integer("FORETASTE_INGEST_BODY_MEMORY_BYTES", in: 1 << 20...1 << 40) ?? bodyMemory
        artifactLimit = try environment.integer("FORETASTE_INGEST_MAX_ARTIFACT_BYTES", in: 1024...1 << 40) ?? artifactLimit
        concurrency = try environment.integer("FORETASTE_INGEST_CONCURRENCY", in: 1...64) ?? concurrency
        let name = "FORETASTE_INGEST_RETRY_SECONDS"
        if environment.string(name) != nil {
            retryDelays = try environment.list(name).map {
                guard let seconds = Double($0), (0...86400).contains(seconds) else {
                    throw ConfigurationError(variable: name, problem: "has '\($0)'; expected seconds from 0 to 86400, by commas")
                }
                return .seconds(seconds)
            }
        }
    }
}
