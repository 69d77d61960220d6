/// How a job ends badly, when the handler has more to say than the error alone.
public enum JobError: Error, Sendable, Equatable, CustomStringConvertible {
    /// Trying again is useless: the job goes to the dead letters at once.
    case permanent(String)
    /// Try again, but not before so long has passed. Counts as a failure.
    case retryAfter(Duration, String)
    /// The token is no longer the job's: somebody else has it now, or it was cancelled. Whatever this run still says is ignored.
    case fenced(Int64)
    /// There is no job of that id.
    case unknown(Int64)
    /// A worker was asked to serve a queue that has no row in `queue.queue`.
    case unknownQueue(String)

    /// What happened, on one line.
    public var description: String {
        switch self {
        case .permanent(let reason): reason
        case .retryAfter(_, let reason): reason
        case .fenced(let id): "job \(id) is no longer held under this token"
        case .unknown(let id): "there is no job \(id)"
        case .unknownQueue(let name): "there is no queue named \(name); make it with queue.define(name, class)"
        }
    }
}
