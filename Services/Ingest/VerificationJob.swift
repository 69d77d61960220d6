import JobQueue
import Logging
import Preferences

/// The `verify_preference` job: looks at a batch of labels and writes each one's verdict in the transaction that completes it.
///
/// Labels whose artifacts cannot be reached go into a later job of their own, so that they hold up nothing; after the last try they are
/// quarantined with the reason.
struct VerificationJob: Sendable {
    let store: PreferenceStore
    let verifier: PairVerifier
    let fetchLog: ArtifactFetchLog
    let configuration: IngestConfiguration
    let logger: Logger

    var handler: JobHandler {
        JobHandler(kind: VerificationArguments.kind, concurrency: configuration.concurrency) { try await run($0) }
    }

    private struct Summary: Encodable {
        var usable = 0
        var quarantined = 0
        var later = 0
    }

    private func run(_ context: JobContext) async throws -> JobResult {
        let arguments = try context.arguments(as: VerificationArguments.self)
        // A label that another try settled meanwhile is left alone.
        let labels = try await store.unsettled(arguments.pairs)
        let report = try await verifier.verify(labels) { done in
            context.progress(Double(done) / Double(max(labels.count, 1)), "\(done) of \(labels.count) labels")
        }
        try context.checkCancellation()

        var verdicts: [PairVerdict] = []
        var later: [String] = []
        let delay = configuration.retryDelays.dropFirst(arguments.try - 1).first
        for finding in report.findings {
            switch finding {
            case .settled(let verdict): verdicts.append(verdict)
            case .unreachable(let id, _) where delay != nil: later.append(id)
            case .unreachable(let id, let reason):
                verdicts.append(.quarantined(id, "\(reason) Given up after \(arguments.try) \(arguments.try == 1 ? "try" : "tries")"))
            }
        }
        var summary = Summary()
        summary.quarantined = verdicts.count { $0.reason != nil }
        summary.usable = verdicts.count - summary.quarantined
        summary.later = later.count
        for verdict in verdicts {
            guard let reason = verdict.reason else { continue }
            logger.notice("A label was quarantined", metadata: ["label": .string(verdict.id), "reason": .string(reason)])
        }
        let (settled, unsettled) = (verdicts, later)
        return try JobResult(summary) { connection in
            try await store.settle(settled, on: connection)
            if let delay, !unsettled.isEmpty {
                try await store.enqueueVerification(unsettled, try: arguments.try + 1, after: delay, on: connection)
            }
            try await fetchLog.record(report.fetches, on: connection)
        }
    }
}
