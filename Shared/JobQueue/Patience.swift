import Postgres

/// Repeats what failed for want of a connection, a lock or a quiet moment, for up to `limit`.
func patiently<Value: Sendable>(
    for limit: Duration = .seconds(30), _ body: @Sendable () async throws -> Value
) async throws -> Value {
    let start = ContinuousClock.now
    var pause = 0.05
    while true {
        do {
            return try await body()
        } catch let error as PostgresError where error.isRetryable && ContinuousClock.now - start < limit {
            try await Task.sleep(for: .seconds(Double.random(in: pause / 2...pause)))
            pause = min(pause * 2, 2)
        }
    }
}

/// Runs something to its end although the task around it is cancelled.
func uncancelled<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) async throws -> Value {
    try await Task.detached { try await body() }.value
}
