import Synchronization

/// A run in flight: its state behind a lock, so that the handler's threads, the heartbeat and the supervisor all may touch it.
final class JobRun: Sendable {
    /// A job may run twice in one process for a moment: the run that lost its lease, and its successor.
    struct Key: Hashable, Sendable {
        let id: Int64
        let token: Int64
    }

    private struct Inside {
        var state = RunState()
        var note: ProgressNote
        var task: Task<Void, Never>?
    }

    let key: Key
    let settings: QueueSettings
    let startedAt: ContinuousClock.Instant
    private let inside: Mutex<Inside>

    init(key: Key, settings: QueueSettings, startedAt: ContinuousClock.Instant = .now) {
        self.key = key
        self.settings = settings
        self.startedAt = startedAt
        inside = Mutex(Inside(note: ProgressNote(startedAt: startedAt)))
    }

    func start(_ task: Task<Void, Never>) {
        let stopped = inside.withLock {
            $0.task = task
            return $0.state.stopReason != nil
        }
        if stopped { task.cancel() }
    }

    func requestStop(_ reason: RunState.StopReason) {
        let task = inside.withLock { $0.state.requestStop(reason) ? $0.task : nil }
        task?.cancel()
    }

    func loseLease() { requestStop(.leaseLost) }

    func finish(_ outcome: RunState.Outcome) -> RunState.Disposition {
        inside.withLock {
            $0.task = nil
            return $0.state.finish(outcome)
        }
    }

    var isStopRequested: Bool { inside.withLock { $0.state.stopReason != nil } }
    var hasLostLease: Bool { inside.withLock { $0.state.stopReason == .leaseLost } }
    var hasNews: Bool { inside.withLock { $0.note.hasNews } }

    func report(fraction: Double, message: String) { inside.withLock { $0.note.report(fraction: fraction, message: message, at: .now) } }
    func noteMovement() { inside.withLock { $0.note.noteMovement(at: .now) } }
    func takeNews() -> (fraction: Double, message: String)? { inside.withLock { $0.note.take() } }
    func putBack(_ news: (fraction: Double, message: String)) { inside.withLock { $0.note.putBack(news) } }

    /// How long ago the run last moved, in terms of what its queue allows.
    enum Movement: Equatable { case moving, stalled, stuck }

    func movement(at now: ContinuousClock.Instant) -> Movement {
        guard let timeout = settings.stallTimeout else { return .moving }
        let idle = inside.withLock { $0.note.idle(at: now) }
        return idle < timeout ? .moving : idle < timeout + settings.ttl ? .stalled : .stuck
    }
}

/// What a worker needs to know of a queue.
struct QueueSettings: Sendable, Hashable {
    let name: String
    let isLong: Bool
    let ttl: Duration
    let stallTimeout: Duration?
}

/// A job as a claim answers it.
struct ClaimedJob: Sendable {
    let id: Int64
    let token: Int64
    let attempt: Int
    let failures: Int
    let rescues: Int
    let arguments: String
    let band: Int
    /// Its place in the line when it was claimed.
    let place: Int64
    /// For how many seconds it had been ready; nil where that is not known.
    var waited: Double?
}
