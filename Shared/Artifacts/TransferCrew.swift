import Foundation

/// Several transfer threads on the pieces of one transfer.
///
/// The thread that owns the crew works as well: it comes to an end however busy the other threads are. The first failure stops all.
final class TransferCrew: @unchecked Sendable {  // `condition` guards what changes
    /// What does one piece.
    typealias Body = @Sendable (_ piece: Int, _ handle: TransferThreads.Handle, _ cancelled: Cancellation) throws(ArtifactError) -> Void

    private let condition = NSCondition()
    private var active = 0
    private var isClosed = false
    private var failure: ArtifactError?
    private let cancelled: Cancellation
    private let next: @Sendable () -> Int?
    private let body: Body

    /// - Parameter next: hands out the pieces, each once; `nil` when there are no more.
    init(cancelled: Cancellation, next: @escaping @Sendable () -> Int?, body: @escaping Body) {
        self.cancelled = Cancellation(parent: cancelled)
        self.next = next
        self.body = body
    }

    /// Asks for help; those who come too late go away again.
    func start(helpers: Int, host: String) {
        for _ in 0..<max(0, helpers) {
            TransferThreads.shared.enqueue(host: host) { [self] handle in
                condition.lock()
                let wanted = !isClosed && failure == nil
                if wanted { active += 1 }
                condition.unlock()
                guard wanted else { return }
                work(on: handle)
                condition.lock()
                active -= 1
                condition.broadcast()
                condition.unlock()
            }
        }
    }

    /// Works until nothing is left, waits for the helpers, and throws what went wrong first.
    func finish(on handle: TransferThreads.Handle) throws(ArtifactError) {
        work(on: handle)
        close()
        if let failure { throw failure }
    }

    /// Stops the helpers and waits for them.
    func abandon() {
        cancelled.cancel()
        close()
    }

    private func close() {
        condition.lock()
        isClosed = true
        while active > 0 { condition.wait() }
        condition.unlock()
    }

    private func work(on handle: TransferThreads.Handle) {
        while !cancelled.isCancelled, let piece = next() {
            do throws(ArtifactError) {
                try body(piece, handle, cancelled)
            } catch {
                fail(error)
                return
            }
        }
        if let reason = cancelled.reason { fail(.unreachable(url: "the artifact", reason: reason)) }
    }

    private func fail(_ error: ArtifactError) {
        condition.lock()
        if failure == nil { failure = error }
        condition.unlock()
        cancelled.cancel()
    }
}
