import Synchronization

/// Callers who want the same thing at the same time wait for one transfer. It is cancelled when nobody waits any more.
final class SharedFetches: Sendable {
    private struct Entry {
        let task: Task<FetchedArtifact, any Error>
        let cancelled: Cancellation
        var waiters: Int
    }

    private let entries = Mutex<[String: Entry]>([:])

    func run(
        key: String, _ body: @escaping @Sendable (Cancellation) async throws -> FetchedArtifact
    ) async throws -> FetchedArtifact {
        let task = entries.withLock { entries in
            if entries[key] != nil {
                entries[key]!.waiters += 1
                return entries[key]!.task
            }
            let cancelled = Cancellation()
            let task = Task { [self] in
                defer { self.entries.withLock { $0[key] = $0[key].flatMap { $0.cancelled === cancelled ? nil : $0 } } }
                return try await body(cancelled)
            }
            entries[key] = Entry(task: task, cancelled: cancelled, waiters: 1)
            return task
        }
        let left = Mutex(false)
        return try await withTaskCancellationHandler {
            do {
                let value = try await task.value
                try Task.checkCancellation()
                return value
            } catch {
                try Task.checkCancellation()
                throw error
            }
        } onCancel: {
            guard
                !left.withLock({ was in
                    defer { was = true }; return was
                })
            else { return }
            let abandoned = entries.withLock { entries -> Entry? in
                guard entries[key]?.task == task else { return nil }
                entries[key]!.waiters -= 1
                guard entries[key]!.waiters == 0 else { return nil }
                return entries.removeValue(forKey: key)
            }
            abandoned?.cancelled.cancel()
            abandoned?.task.cancel()
        }
    }
}
