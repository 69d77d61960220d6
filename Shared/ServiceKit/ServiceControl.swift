import Foundation
import ServiceLifecycle
import Synchronization

/// A running service seen from outside: its address, and a way to stop it without a signal. For tests and for programs that host a service.
public final class ServiceControl: Sendable {
    private struct State {
        var url: String?
        var failure: (any Error)?
        var group: ServiceGroup?
        var stopped = false
        var waiters: [CheckedContinuation<String, any Error>] = []
    }

    private let state = Mutex(State())

    /// A control that `ServiceApplication.run(control:)` fills in.
    public init() {}

    /// The base URL once the listener is bound.
    public var url: String? { state.withLock { $0.url } }

    /// Waits until the listener is bound and answers its base URL; throws when the service failed first.
    public func listening() async throws -> String {
        try await withCheckedThrowingContinuation { continuation in
            let known: Result<String, any Error>? = state.withLock {
                if let failure = $0.failure { return .failure(failure) }
                if let url = $0.url { return .success(url) }
                $0.waiters.append(continuation)
                return nil
            }
            if let known { continuation.resume(with: known) }
        }
    }

    /// Begins the graceful shutdown, as SIGTERM does.
    public func shutDown() async {
        let group = state.withLock {
            $0.stopped = true
            return $0.group
        }
        await group?.triggerGracefulShutdown()
    }

    func started(_ group: ServiceGroup) async {
        let stopped = state.withLock {
            $0.group = group
            return $0.stopped
        }
        if stopped { await group.triggerGracefulShutdown() }
    }

    func bound(_ url: String) {
        let waiters = state.withLock { state in
            state.url = url
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume(returning: url) }
    }

    func ended(_ failure: (any Error)?) {
        let error = failure ?? CancellationError()
        let waiters = state.withLock { state in
            state.failure = error
            state.group = nil
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume(throwing: error) }
    }
}
