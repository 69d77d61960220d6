import Postgres
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
        var runner: Runner?
    }

    let job: ClaimedJob
    let settings: QueueSettings
    let startedAt: ContinuousClock.Instant
    nonisolated(unsafe) fileprivate var place = -1  // HeldRuns', touched on PostgresActor alone
    nonisolated(unsafe) private(set) var ending: (result: String?, at: ContinuousClock.Instant)?  // written once, before EndedJobs has it
    private let inside: Mutex<Inside>

    var key: Key { Key(id: job.id, token: job.token) }

    init(_ job: ClaimedJob, settings: QueueSettings, startedAt: ContinuousClock.Instant = .now) {
        self.job = job
        self.settings = settings
        self.startedAt = startedAt
        inside = Mutex(Inside(note: ProgressNote(startedAt: startedAt)))
    }

    /// A runner has it now and is about to call the handler.
    func begin(_ runner: Runner) {
        let stopped = inside.withLock {
            $0.runner = runner
            return $0.state.stopReason != nil
        }
        if stopped { runner.cancel() }
    }

    func requestStop(_ reason: RunState.StopReason) {
        let runner = inside.withLock { $0.state.requestStop(reason) ? $0.runner : nil }
        runner?.cancel()
    }

    func loseLease() { requestStop(.leaseLost) }

    /// The handler has ended. Answers what to do about it, and whether its runner has been cancelled, or is about to be.
    func finish(_ outcome: RunState.Outcome) -> (disposition: RunState.Disposition, wasAskedToStop: Bool) {
        inside.withLock {
            $0.runner = nil
            return ($0.state.finish(outcome), $0.state.stopReason != nil)
        }
    }

    /// It is done and brings no effects; its result goes in with the others' of a turn.
    func end(result: String?, at moment: ContinuousClock.Instant = .now) { ending = (result, moment) }

    /// When it ended, if it has.
    var endedAt: ContinuousClock.Instant { ending?.at ?? startedAt }

    /// For how long it ran, in seconds.
    var ran: Double { (endedAt - startedAt) / .seconds(1) }

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

/// The runs of a process. Each knows its place among them, so that it leaves without a search.
struct HeldRuns {
    private(set) var all: [JobRun] = []

    @PostgresActor
    mutating func add(_ run: JobRun) {
        run.place = all.count
        all.append(run)
    }

    @PostgresActor
    mutating func remove(_ run: JobRun) {
        guard all.indices.contains(run.place), all[run.place] === run, let last = all.popLast() else { return }
        if last !== run {
            last.place = run.place
            all[run.place] = last
        }
        run.place = -1
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
    let arguments: PostgresText
    /// For how many seconds it had been ready; nil where that is not known.
    var waited: Double?
}
