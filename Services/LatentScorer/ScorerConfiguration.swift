import ServiceKit

/// What the scorer alone is told by its environment.
struct ScorerConfiguration: Sendable {
    /// The largest body of a request, and the largest latent artifact, in bytes: eight 720p clips of 81 frames in Float32 and some room.
    var bodyLimit = 256 << 20
    /// Requests that may wait for their turn; one more is answered 429.
    var waitingLimit = 256
    /// Models kept in memory.
    var modelLimit = 4

    static let variables: [(name: String, meaning: String, fallback: String)] = [
        ("FORETASTE_SCORER_MAX_BODY_BYTES", "the largest body, and the largest latent artifact", "268435456"),
        ("FORETASTE_SCORER_MAX_WAITING", "requests that may wait for their turn", "256"),
        ("FORETASTE_SCORER_MAX_MODELS", "models kept in memory", "4"),
    ]

    init() {}

    init(_ environment: ServiceEnvironment) throws {
        bodyLimit = try environment.integer("FORETASTE_SCORER_MAX_BODY_BYTES", in: 1024...1 << 36) ?? bodyLimit
        waitingLimit = try environment.integer("FORETASTE_SCORER_MAX_WAITING", in: 1...1_000_000) ?? waitingLimit
        modelLimit = try environment.integer("FORETASTE_SCORER_MAX_MODELS", in: 1...1000) ?? modelLimit
    }
}
