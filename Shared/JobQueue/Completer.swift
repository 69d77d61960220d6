import Postgres

/// Commits completions that bring no effects of their own, as many at once as have come together while the last commit was under way.
@PostgresActor
final class Completer {
    private struct Waiting {
        let key: JobRun.Key
        let result: String?
        let continuation: CheckedContinuation<Bool, any Error>
    }

    /// More in one statement would make others wait for it.
    static let largestBatch = 500

    private let client: PostgresClient
    private var waiting: [Waiting] = []
    private var isBusy = false

    nonisolated init(client: PostgresClient) { self.client = client }

    /// Whether the job was completed under this token; false means fenced.
    func complete(_ key: JobRun.Key, result: String?) async throws -> Bool {
        try await withCheckedThrowingContinuation { continuation in
            waiting.append(Waiting(key: key, result: result, continuation: continuation))
            if !isBusy {
                isBusy = true
                Task { await commit() }
            }
        }
    }

    private func commit() async {
        while !waiting.isEmpty {
            let batch = Array(waiting.prefix(Self.largestBatch))
            waiting.removeFirst(batch.count)
            do {
                let rows = try await client.query(
                    Statements.complete,
                    [.array(batch.map(\.key.id)), .array(batch.map(\.key.token)), .array(batch.map { PostgresValue($0.result) })])
                let done = Set(try rows.map { try $0["id"].int64 })
                for item in batch { item.continuation.resume(returning: done.contains(item.key.id)) }
            } catch {
                for item in batch { item.continuation.resume(throwing: error) }
            }
        }
        isBusy = false
    }
}
