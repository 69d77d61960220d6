/// A doorbell for one waiter: a ring while nobody waits is remembered, several are one.
@PostgresActor
package final class Bell {
    private var isRung = false
    private var wait: UInt64?

    package nonisolated init() {}

    package func ring() {
        isRung = true
        if let wait { PostgresActor.shared.loop.cancel(wait) }
    }

    /// Returns at the next ring, or now if one is remembered, or after so many seconds. Answers whether it rang.
    @discardableResult
    package func wait(upTo seconds: Double) async -> Bool {
        if !isRung {
            let loop = PostgresActor.shared.loop
            let identifier = loop.nextIdentifier()
            _ = await PostgresActor.suspend { (continuation: CheckedContinuation<Readiness, Never>) in
                // On the way here somebody may have rung.
                if isRung { return continuation.resume(returning: .cancelled) }
                wait = identifier
                loop.register(
                    identifier, descriptor: -1, events: 0, deadline: PostgresActor.deadline(seconds), continuation: continuation)
            }
            wait = nil
        }
        defer { isRung = false }
        return isRung
    }
}
