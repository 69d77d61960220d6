import Dispatch
import Foundation
import Synchronization

/// SIGTERM and SIGINT, as something to wait for.
final class TerminationSignals: Sendable {
    private struct Source: @unchecked Sendable {  // only kept alive here; Dispatch's objects may be held on any thread
        let source: any DispatchSourceSignal
    }

    private let sources = Mutex<[Source]>([])
    private let state = Mutex(State())

    private struct State {
        var hasArrived = false
        /// Whoever waits; each stream ends with the first signal.
        var waiters: [AsyncStream<Never>.Continuation] = []
    }

    /// From now on the signals do not end the process.
    init() {
        for number in [SIGTERM, SIGINT] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { [weak self] in self?.arrive() }
            source.resume()
            sources.withLock { $0.append(Source(source: source)) }
        }
    }

    /// Whether one has come.
    var arrived: Bool { state.withLock { $0.hasArrived } }

    /// Returns when one has come, or the task is cancelled.
    func first() async {
        let (stream, continuation) = AsyncStream.makeStream(of: Never.self)
        state.withLock {
            if $0.hasArrived { continuation.finish() } else { $0.waiters.append(continuation) }
        }
        // The stream has no elements. It ends with the signal, and for a task that is cancelled.
        for await _ in stream {}
    }

    private func arrive() {
        let waiters = state.withLock { state in
            state.hasArrived = true
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.finish() }
    }
}
