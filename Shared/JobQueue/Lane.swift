import Postgres
import Synchronization

/// The jobs of one handler: how many run, what they came to, and where in the line it has got to.
///
/// A lane only keeps count; ``JobWorker`` takes the turns.
@PostgresActor
final class Lane {
    /// A turn claims at most so many.
    nonisolated static let largestTurn = 500

    let handler: JobHandler
    let settings: QueueSettings
    /// Turns that may be under way together: while the server works on one, the jobs of another run, and a claim need not wait until what
    /// has just ended is on the disk.
    let mostTurns: Int
    /// Enough jobs run at a time that a turn had better wait for company.
    let gathers: Bool
    /// How many jobs a turn is to hand in and to bring, where there are so many. Turns of equal size overlap best; a long job is claimed
    /// alone, so that another process may have the next.
    let turnSize: Int
    /// What is claimed and no handler has begun.
    nonisolated let toBegin = RunsToBegin()
    /// What handlers have returned and no turn has taken yet; they put it there from their own threads.
    nonisolated let ended: EndedJobs
    /// What has ended and no turn has acknowledged yet.
    var waiting: [JobRun] = []
    /// Jobs that are claimed and whose handlers have not ended.
    private(set) var running = 0
    /// Turns under way, and the jobs they may bring.
    private(set) var turns = 0
    private(set) var promised = 0
    /// There may be ready jobs: the bell rang, it is time to look, or the last turn was filled to the brim.
    var mayHaveMore = true
    /// No turn before then: the last one went wrong.
    var restsUntil = ContinuousClock.now
    /// Look again then: whoever enqueued just after a ring did not ring (`queue.ring`).
    var looksAgainAt: ContinuousClock.Instant?
    var lastTurn = ContinuousClock.now
    var line: LinePosition
    /// What was counted since the last flush.
    var metrics = WorkerMetrics()
    let bell = Bell()

    init(handler: JobHandler, settings: QueueSettings) {
        self.handler = handler
        self.settings = settings
        line = LinePosition(now: .now)
        let concurrency = handler.concurrency
        mostTurns = settings.isLong || concurrency == 1 ? 1 : concurrency < 3 * Self.largestTurn ? 2 : 3
        gathers = !settings.isLong && concurrency >= 16
        turnSize = settings.isLong ? 1 : min(gathers ? (concurrency + mostTurns - 1) / mostTurns : concurrency, Self.largestTurn)
        ended = EndedJobs(batch: turnSize)
    }

    /// How many jobs a turn may claim now.
    var demand: Int {
        let free = handler.concurrency - running - promised
        return max(0, min(free, turnSize))
    }

    /// What the next turn acknowledges.
    func takeWaiting() -> [JobRun] {
        if waiting.count <= Self.largestTurn {
            defer { waiting = [] }
            return waiting
        }
        defer { waiting.removeFirst(Self.largestTurn) }
        return Array(waiting.prefix(Self.largestTurn))
    }

    func turnBegan(claiming count: Int) {
        turns += 1
        promised += count
        lastTurn = .now
    }

    func turnEnded(claiming count: Int, brought: Int) {
        turns -= 1
        promised -= count
        running += brought
    }

    func handlersEnded(_ count: Int) { running -= count }

    /// There is something to do: jobs may be ready anywhere in the line.
    func ring() {
        mayHaveMore = true
        line.reset()
        bell.ring()
    }

    /// The doorbell rang. It is silent for a few milliseconds afterwards, so there is another look when they are over.
    func hear() {
        looksAgainAt = .now + Self.silence
        ring()
    }

    /// A millisecond more than a session waits before it rings again.
    static let silence = Duration.milliseconds(5)

    /// Nothing is under way and nothing known to be ready, so the sweep asks on its behalf.
    var isIdle: Bool { turns == 0 && !mayHaveMore && demand > 0 }
}

/// Where handlers put what they return. The lane is woken for the first, for a batch's worth, and for the last, not for each.
final class EndedJobs: Sendable {
    private struct Inside {
        var list: [JobRun] = []
        var outstanding = 0
    }

    private let inside = Mutex(Inside())
    private let batch: Int

    /// - Parameter batch: so many are worth a turn.
    init(batch: Int) { self.batch = batch }

    /// So many handlers have been started.
    func began(_ count: Int) { inside.withLock { $0.outstanding += count } }

    /// A handler ended in another way; nothing is to be acknowledged.
    func left() { inside.withLock { $0.outstanding -= 1 } }

    /// Answers whether the lane is to be woken.
    func append(_ run: JobRun) -> Bool {
        inside.withLock {
            $0.list.append(run)
            $0.outstanding -= 1
            return $0.list.count == 1 || $0.list.count == batch || $0.outstanding == 0
        }
    }

    func take() -> [JobRun] {
        inside.withLock { inside in
            defer { inside.list = [] }
            return inside.list
        }
    }
}
