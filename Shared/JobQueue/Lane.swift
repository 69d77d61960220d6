import Postgres
import Synchronization

/// The jobs of one handler: how many run, what they came to, and where in the line it has got to.
///
/// A lane only keeps count; ``JobWorker`` takes the turns.
@PostgresActor
final class Lane {
    /// A turn claims at most so many.
    static let largestTurn = 500

    let handler: JobHandler
    let settings: QueueSettings
    /// What handlers have returned and no turn has taken yet; they put it there from their own threads.
    nonisolated let ended = EndedJobs()
    /// Acknowledgements that no turn has taken yet.
    var waiting: [Acknowledgement] = []
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
    }

    /// Turns that may be under way together: while the server works on one, the jobs of another run.
    var mostTurns: Int { settings.isLong || handler.concurrency < 16 ? 1 : handler.concurrency < 768 ? 2 : 3 }

    /// How many jobs a turn may claim now.
    var demand: Int {
        let free = handler.concurrency - running - promised
        // Turns of equal size overlap best; a long job is claimed alone, so that another process may have the next.
        let share = settings.isLong ? 1 : (handler.concurrency + mostTurns - 1) / mostTurns
        return max(0, min(free, share, Self.largestTurn))
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

/// A job that is done and brings no effects: its key, and its result as JSON.
struct Acknowledgement: Sendable {
    let key: JobRun.Key
    let result: String?
    let began: ContinuousClock.Instant
    let since: ContinuousClock.Instant

    /// For how long the job ran, in seconds.
    var ran: Double { (since - began) / .seconds(1) }
}

/// Where handlers put what they return. The lane is woken for the first, for a batch's worth, and for the last, not for each.
final class EndedJobs: Sendable {
    private struct Inside {
        var list: [Acknowledgement] = []
        var outstanding = 0
    }

    private let inside = Mutex(Inside())

    /// So many handlers have been started.
    func began(_ count: Int) { inside.withLock { $0.outstanding += count } }

    /// A handler ended in another way; nothing is to be acknowledged.
    func left() { inside.withLock { $0.outstanding -= 1 } }

    /// Answers whether the lane is to be woken.
    func append(_ acknowledgement: Acknowledgement) -> Bool {
        inside.withLock {
            $0.list.append(acknowledgement)
            $0.outstanding -= 1
            return $0.list.count == 1 || $0.list.count == JobWorker.flushCount || $0.outstanding == 0
        }
    }

    func take() -> [Acknowledgement] {
        inside.withLock { inside in
            defer { inside.list = [] }
            return inside.list
        }
    }
}

/// A doorbell for one waiter: a ring while nobody waits is remembered, several are one.
@PostgresActor
final class Bell {
    private var rung = false
    private var waiter: CheckedContinuation<Void, Never>?
    private var generation = 0
    private var expired = 0

    nonisolated init() {}

    func ring() {
        rung = true
        wake()
    }

    /// Returns at the next ring, or now if one is remembered, or after so many seconds. Answers whether it rang.
    @discardableResult
    func wait(upTo seconds: Double) async -> Bool {
        if !rung {
            generation += 1
            let mine = generation
            var isOver: Bool { rung || expired == mine }
            let timer = Task { @PostgresActor in
                try await PostgresActor.sleep(seconds: seconds)
                if generation == mine {
                    expired = mine
                    wake()
                }
            }
            // On the way there somebody may have rung, or so little time been asked for that it has passed.
            await PostgresActor.suspend { continuation in
                if isOver { continuation.resume() } else { waiter = continuation }
            }
            timer.cancel()
        }
        defer { rung = false }
        return rung
    }

    private func wake() {
        waiter?.resume()
        waiter = nil
    }
}
