import Dispatch
import Foundation
import Synchronization

/// SIGTERM and SIGINT, as something to wait for.
final class TerminationSignals: Sendable {
    private struct Source: @unchecked Sendable {  // only kept alive here; Dispatch's objects may be held on any thread
        let source: any DispatchSourceSignal
    }

    private let sources = Mutex<[Source]>([])
    private let hasArrived = Mutex(false)

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
    var arrived: Bool { hasArrived.withLock { $0 } }

    /// Returns when one has come, or the task is cancelled.
    func first() async {
        while !arrived, !Task.isCancelled { try? await Task.sleep(for: .milliseconds(50)) }
    }

    private func arrive() {
        hasArrived.withLock { $0 = true }
    }
}
