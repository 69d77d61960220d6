import Logging
import Postgres

/// Telling the database now and then what was counted, for charts.
extension JobWorker {
    /// How often counts are sent while there are any.
    nonisolated static let flushInterval = Duration.seconds(7)
    /// How often a worker that has nothing to count says how it is.
    nonisolated static let reportInterval = Duration.seconds(30)

    /// Sends what was counted when it is time to, all kinds in one statement.
    func flushMetrics(over connection: PostgresConnection, atTheEnd: Bool = false) async throws {
        guard let workerID else { return }
        if let flushedAt, !atTheEnd {
            let age = ContinuousClock.now - flushedAt
            guard age >= Self.reportInterval || age >= Self.flushInterval && lanes.contains(where: { !$0.metrics.isEmpty }) else { return }
        }
        flushedAt = .now
        let taken = lanes.map { ($0, $0.metrics.take()) }
        let report = WorkerReport(
            worker: workerID, version: version, draining: isDraining,
            lanes: lanes.map {
                WorkerReport.Lane(
                    queue: $0.handler.queue, kind: $0.handler.kind, capacity: $0.handler.concurrency, running: $0.running)
            },
            cpuPercent: usage.cpuPercent(), rssBytes: ProcessUsage.residentBytes(),
            kinds: taken.filter { !$1.isEmpty }.map { WorkerReport.Kind(queue: $0.handler.queue, kind: $0.handler.kind, $1) })
        do {
            try await connection.query(Statements.flushMetrics, [.json(try report.json())])
        } catch {
            // If only the answer was lost they count twice, which a chart survives; a silent gap would look like a standstill.
            for (lane, metrics) in taken { lane.metrics.putBack(metrics) }
            if (error as? PostgresError)?.isConnectionFailure ?? true { throw error }
            // The lease goes on whatever becomes of the metrics.
            logger.warning("metrics could not be flushed", metadata: ["error": "\(error)"])
        }
    }
}
