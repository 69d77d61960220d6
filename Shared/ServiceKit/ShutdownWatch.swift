import Foundation
import Logging
import ServiceLifecycle
import Synchronization

/// The first to hear of a shutdown: makes `/readyz` fail, serves on while load balancers take notice, and sees to it that the process ends.
final class ShutdownWatch: Service {
    /// What cancelled work may take to notice before the process is ended with force.
    static let grace: Duration = .seconds(3)

    private let readiness: Readiness
    private let drain: Duration
    private let deadline: Duration
    private let logger: Logger
    private let endsProcess: Bool
    private let done = Mutex(false)

    init(readiness: Readiness, drain: Duration, deadline: Duration, logger: Logger, endsProcess: Bool) {
        self.readiness = readiness
        self.drain = drain
        self.deadline = deadline
        self.logger = logger
        self.endsProcess = endsProcess
    }

    func finished() { done.withLock { $0 = true } }

    func run() async throws {
        try? await gracefulShutdown()
        readiness.drain()
        guard Task.isShuttingDownGracefully else { return }
        logger.info("Shutting down", metadata: ["deadline_seconds": .stringConvertible(Double(deadline.components.seconds))])
        if endsProcess { armForcedEnd() }
        if drain > .zero { try? await Task.sleep(for: drain) }
        readiness.refuseRequests()
    }

    /// A thread of its own, because what hangs may hold every thread of the cooperative pool.
    private func armForcedEnd() {
        let limit = deadline + drain + Self.grace
        Thread.detachNewThread { [self] in
            Thread.sleep(forTimeInterval: Double(limit.components.seconds) + Double(limit.components.attoseconds) * 1e-18)
            guard !done.withLock({ $0 }) else { return }
            logger.critical("The shutdown did not end within its deadline; leaving what still runs behind")
            _exit(75)
        }
    }
}
