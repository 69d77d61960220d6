import Hummingbird
import ServiceKit

/// What a client says beside the body of a post.
struct PostOptions: Sendable, Equatable {
    /// Everything is checked and nothing is stored.
    var dryRun = false
    /// Of a bulk body: everything or nothing.
    var atomic = false

    init(_ request: Request) throws {
        for (name, value) in request.uri.queryParameters {
            switch name {
            case "dry_run": dryRun = try Self.flag(name, value)
            case "atomic": atomic = try Self.flag(name, value)
            default: throw Problem.badRequest("Unknown parameter '\(name.prefix(80))'; known are atomic, dry_run.")
            }
        }
    }

    private static func flag(_ name: Substring, _ value: Substring) throws -> Bool {
        switch value {
        case "true", "1": true
        case "false", "0": false
        default: throw Problem.badRequest("\(name) is '\(value.prefix(80))'; expected true or false.")
        }
    }
}
