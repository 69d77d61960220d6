import Postgres

/// The jobs of one handler: how many run, and the wait for more.
@PostgresActor
final class Lane {
    let handler: JobHandler
    let settings: QueueSettings
    private(set) var running = 0
    /// The last claim was filled to the brim, so there may be more where that came from.
    var mayHaveMore = false
    private let bell = Bell()

    init(handler: JobHandler, settings: QueueSettings) {
        self.handler = handler
        self.settings = settings
    }

    var free: Int { handler.concurrency - running }

    func began() { running += 1 }

    func ended() {
        running -= 1
        if mayHaveMore { bell.ring() }
    }

    func ring() { bell.ring() }
    func wait(upTo seconds: Double) async { await bell.wait(upTo: seconds) }
}

/// A doorbell for one waiter: a ring while nobody waits is remembered, several are one.
@PostgresActor
final class Bell {
    private var rung = false
    private var waiter: CheckedContinuation<Void, Never>?
    private var generation = 0

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
            let timer = Task { @PostgresActor in
                try await Task.sleep(for: .seconds(seconds))
                if generation == mine { wake() }
            }
            await withCheckedContinuation { waiter = $0 }
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
