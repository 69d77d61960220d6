import Foundation
import Synchronization

/// Ends a transfer: set by the task that waits or by a deadline, read by the threads that transfer.
final class Cancellation: Sendable {
    private struct State {
        var isCancelled = false
        var deadline: ContinuousClock.Instant?
        var seconds = 0
    }

    private let state = Mutex(State())
    private let parent: Cancellation?

    /// - Parameter parent: what ends this one as well.
    init(parent: Cancellation? = nil) { self.parent = parent }

    /// Ends it.
    func cancel() { state.withLock { $0.isCancelled = true } }

    /// Ends it so many seconds after `start`; the latest call counts.
    func end(after seconds: Int, since start: ContinuousClock.Instant) {
        state.withLock {
            $0.deadline = start + .seconds(seconds)
            $0.seconds = seconds
        }
    }

    /// Lets the calling thread wait for so many seconds, or until it is ended.
    func wait(_ seconds: Double) {
        let end = ContinuousClock.now + .seconds(seconds)
        while !isCancelled, ContinuousClock.now < end {
            Thread.sleep(forTimeInterval: min(0.05, max(0, (end - .now) / .milliseconds(1) / 1000)))
        }
    }

    /// It has a deadline of its own, or its parent has.
    var hasDeadline: Bool { state.withLock { $0.deadline != nil } || parent?.hasDeadline ?? false }

    var isCancelled: Bool { reason != nil }

    /// Why it ended; `nil` when it did not.
    var reason: String? {
        state.withLock { state in
            if let deadline = state.deadline, deadline <= .now {
                return "it took longer than the \(state.seconds) seconds that its size allows"
            }
            return state.isCancelled ? "the transfer was cancelled" : nil
        } ?? parent?.reason
    }
}
