import Glibc

/// Where everything that touches libpq runs: one thread per process, asleep in `poll(2)` while there is nothing to do.
///
/// Swift's cooperative threads never wait for the database, and the database never waits for them: two numeric tasks that occupy
/// both cores' cooperative threads stop neither a heartbeat nor a timer that lives here.
@globalActor
public actor PostgresActor {
    /// The process's only one.
    public static let shared = PostgresActor()

    nonisolated let loop = PollLoop()

    /// The thread in `poll(2)`.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// Suspends until the continuation is resumed, and comes back without a detour.
    ///
    /// A continuation resumes on the task's executor first, which is the cooperative pool unless a preference says otherwise; only
    /// from there would the task hop to its actor. Where numeric code holds the pool's threads, that hop takes as long as the code.
    @PostgresActor
    public static func suspend<Value: Sendable>(_ body: (CheckedContinuation<Value, Never>) -> Void) async -> Value {
        await withTaskExecutorPreference(shared.loop) { await withCheckedContinuation(body) }
    }

    /// Waits until a descriptor is ready or `seconds` have passed. Goes on waiting when the task is cancelled.
    @PostgresActor
    static func wait(_ descriptor: CInt, _ events: CInt, seconds: Double? = nil) async -> Readiness {
        let loop = shared.loop
        let identifier = loop.nextIdentifier()
        return await suspend { continuation in
            loop.register(
                identifier, descriptor: descriptor, events: Int16(events), deadline: seconds.map(deadline), continuation: continuation)
        }
    }

    /// The same, ended by the task's cancellation too.
    @PostgresActor
    static func waitCancellably(_ descriptor: CInt, _ events: CInt, seconds: Double? = nil) async -> Readiness {
        let loop = shared.loop
        let identifier = loop.nextIdentifier()
        return await withTaskCancellationHandler {
            await suspend { continuation in
                loop.register(
                    identifier, descriptor: descriptor, events: Int16(events), deadline: seconds.map(deadline), continuation: continuation)
            }
        } onCancel: {
            // Runs on the loop after the wait was noted there, even when the task was cancelled before it began to wait.
            Task { @PostgresActor in loop.cancel(identifier) }
        }
    }

    /// Sleeps on the loop's clock, whatever the cooperative threads are busy with.
    @PostgresActor
    public static func sleep(seconds: Double) async throws {
        if await waitCancellably(-1, 0, seconds: seconds).contains(.cancelled) { throw CancellationError() }
    }

    static func deadline(_ seconds: Double) -> UInt64 {
        PollLoop.now + UInt64(max(0, seconds) * 1e9)
    }
}
