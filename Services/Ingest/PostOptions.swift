import ServiceKit

/// What a client says beside the body of a post of labels.
struct PostOptions: Sendable, Equatable {
    /// The parameters.
    static let known: Set<String> = ["atomic", Changes.dryRun]

    /// Everything is checked and nothing is stored.
    var dryRun = false
    /// Of a bulk body: everything or nothing.
    var atomic = false

    init(_ query: Query) throws {
        dryRun = try query.flag(Changes.dryRun)
        atomic = try query.flag("atomic")
    }
}
