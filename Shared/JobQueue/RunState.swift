/// One run of one job, as a value without tasks or tables: what it is asked, what it came to, and what is then to be done about it.
struct RunState: Sendable, Equatable {
    /// Why a run is asked to stop; a later reason replaces a weaker one.
    enum StopReason: Int, Sendable, Comparable {
        /// The worker shuts down; the job goes on elsewhere.
        case shutdown
        /// An operator cancelled the job.
        case cancelled
        /// The job is no longer this run's.
        case leaseLost

        static func < (a: StopReason, b: StopReason) -> Bool { a.rawValue < b.rawValue }
    }

    /// What the handler did.
    enum Outcome: Sendable, Equatable {
        case returned
        case threw
    }

    /// What the worker does about it.
    enum Disposition: Sendable, Equatable {
        /// Commit effects, result and completion.
        case complete
        /// Record the failure: retry or dead letter.
        case fail
        /// Hand the job back.
        case release
        /// Say that the cancelled job has stopped.
        case acknowledgeCancel
        /// Say nothing: nobody would listen.
        case drop
    }

    private(set) var stopReason: StopReason?
    private(set) var isOver = false

    /// Asks the run to stop. Answers whether the handler's task is now to be cancelled, which happens once.
    mutating func requestStop(_ reason: StopReason) -> Bool {
        if isOver { return false }
        let first = stopReason == nil
        stopReason = max(stopReason ?? reason, reason)
        return first
    }

    /// The handler has ended.
    mutating func finish(_ outcome: Outcome) -> Disposition {
        precondition(!isOver, "a run ends once")
        isOver = true
        switch (outcome, stopReason) {
        case (_, .leaseLost): return .drop
        // It was done before it heard: done is done.
        case (.returned, _): return .complete
        case (.threw, .cancelled): return .acknowledgeCancel
        case (.threw, .shutdown): return .release
        case (.threw, nil): return .fail
        }
    }
}

/// What a run says of its progress, until it is sent; and whether it moves at all.
struct ProgressNote: Sendable, Equatable {
    private(set) var movedAt: ContinuousClock.Instant
    private var unsent: (fraction: Double, message: String)?
    private var latest: (fraction: Double, message: String)?

    init(startedAt: ContinuousClock.Instant) { movedAt = startedAt }

    mutating func report(fraction: Double, message: String, at now: ContinuousClock.Instant) {
        movedAt = now
        let news = (fraction: fraction.isFinite ? min(max(fraction, 0), 1) : 0, message: message)
        if let latest, latest == news { return }
        latest = news
        unsent = news
    }

    mutating func noteMovement(at now: ContinuousClock.Instant) { movedAt = now }

    var hasNews: Bool { unsent != nil }

    /// Takes what is to be sent.
    mutating func take() -> (fraction: Double, message: String)? {
        defer { unsent = nil }
        return unsent
    }

    /// What was taken did not arrive: send it again unless there is something newer.
    mutating func putBack(_ news: (fraction: Double, message: String)) {
        if unsent == nil { unsent = news }
    }

    func idle(at now: ContinuousClock.Instant) -> Duration { now - movedAt }

    static func == (a: Self, b: Self) -> Bool {
        a.movedAt == b.movedAt && a.hasNews == b.hasNews && a.latest?.fraction == b.latest?.fraction
            && a.latest?.message == b.latest?.message
    }
}
