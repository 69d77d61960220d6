import ServiceKit

/// One batch at a time, first come, first served: a batch uses all cores by itself, and two at once would only wait for each other.
actor ScoringLane {
    private let waitingLimit: Int
    private var isBusy = false
    private var waiting: [CheckedContinuation<Void, Never>] = []

    init(waitingLimit: Int) { self.waitingLimit = waitingLimit }

    /// Runs `work` when its turn has come.
    /// - Returns: its result, and how long it waited and worked.
    /// - Throws: `Problem` 429 when too many wait already.
    func run<Value: Sendable>(
        _ work: @Sendable () async throws -> Value
    ) async throws -> (value: Value, queued: Duration, worked: Duration) {
        let began = ContinuousClock.now
        if isBusy {
            guard waiting.count < waitingLimit else {
                throw Problem.tooManyRequests("\(waiting.count) requests are waiting already; ask again.")
            }
            await withCheckedContinuation { waiting.append($0) }
        }
        isBusy = true
        let started = ContinuousClock.now
        defer { next() }
        // Whoever asked may be gone by now.
        try Task.checkCancellation()
        let value = try await work()
        return (value, started - began, ContinuousClock.now - started)
    }

    private func next() {
        // The turn is handed over, so that nobody who comes in between overtakes.
        if waiting.isEmpty { isBusy = false } else { waiting.removeFirst().resume() }
    }
}
