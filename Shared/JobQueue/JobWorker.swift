import Foundation
public import Logging
public import Postgres

/// A process's part in the queue: takes jobs, keeps their leases, hands in what they came to.
///
/// ```swift
/// let worker = JobWorker(client: client, service: "ingest", handlers: [
///     JobHandler(kind: "verify_preference", concurrency: 4) { job in
///         let pair = try job.arguments(as: Pair.self)
///         return JobResult { connection in try await connection.query("update …") }
///     }
/// ], logger: logger)
/// try await worker.run()   // until its task is cancelled
/// ```
/// Besides the client's pool it holds two connections of its own: one for the lease, whose session stands for the process, and one
/// that listens.
@PostgresActor
public final class JobWorker {
    /// How long a shutdown waits for handlers to save their state and stop, before it hands their jobs back regardless.
    nonisolated static let shutdownGrace = Duration.seconds(15)

    let client: PostgresClient
    let service: String
    let version: String?
    let logger: Logger
    let control: PostgresClient
    let outcomes: Outcomes
    private let handlers: [JobHandler]

    var lease = WorkerLease(ttl: .seconds(10))
    var workerID: Int64?
    var held = HeldRuns()
    var isDraining = false
    var isStopped = false
    let controlBell = Bell()
    var controlIsAsked = false
    /// When the answer to a turn was lost, or runs were given up: jobs may be leased to this worker that it does not do.
    var missedAnswerAt: ContinuousClock.Instant?
    var lookedForStrays = ContinuousClock.now
    var strayLookTook = Duration.zero
    var isLookingForStrays = false
    /// How often a beat looks for jobs that are leased to this worker without its knowledge, although no answer is known to be missing.
    var strayInterval = Duration.seconds(60)
    private(set) var lanes: [Lane] = []
    var flushedAt: ContinuousClock.Instant?
    var usage = ProcessUsage()
    private let drainBell = Bell()
    private let idleBell = Bell()

    /// A worker that does nothing until ``run()``.
    ///
    /// - Parameters:
    ///   - client: for claims, effects and completions.
    ///   - service: what dashboards call this process.
    ///   - handlers: what it does, one per kind.
    ///   - version: of the program, for dashboards.
    ///   - logger: for leases won and lost, failures and rescues.
    public nonisolated init(
        client: PostgresClient, service: String, handlers: [JobHandler], version: String? = nil, logger: Logger = Logger(label: "jobs")
    ) {
        precondition(!handlers.isEmpty, "a worker without handlers would take nothing")
        self.client = client
        self.service = service
        self.version = version
        self.handlers = handlers
        self.logger = logger
        control = PostgresClient(
            configuration: client.configuration, maximumConnections: 1, applicationName: "\(service) lease", logger: logger)
        outcomes = Outcomes(client: client, logger: logger)
    }

    /// Works until the task is cancelled, then stops taking jobs, asks the running ones to stop, and hands back what is left.
    ///
    /// - Throws: ``JobError/unknownQueue(_:)`` when a handler's queue does not exist. Trouble with the database is outlived, not thrown.
    public nonisolated func run() async throws {
        let work = Task { @PostgresActor in try await self.work() }
        try await withTaskCancellationHandler {
            try await work.value
        } onCancel: {
            Task { @PostgresActor in self.beginDraining() }
        }
    }

    private func work() async throws {
        let settings = try await loadSettings()
        lease = WorkerLease(ttl: settings.values.map(\.ttl).min() ?? .seconds(10))
        for slot in Set(handlers.compactMap(\.slot)) {
            try await patiently(for: .seconds(60)) { [client] in _ = try await client.query(Statements.ensureSlot, [.string(slot)]) }
        }
        lanes = handlers.compactMap { handler in settings[handler.queue].map { Lane(handler: handler, settings: $0) } }
        let controlTask = Task { await keepLease() }
        let listenTask = Task { await listen() }
        let watchTask = Task { await watchLease() }
        let laneTasks = lanes.map { lane in Task { await serve(lane) } }

        while !isDraining { await drainBell.wait(upTo: 3600) }
        let deadline = ContinuousClock.now + Self.shutdownGrace
        // What is being claimed at this moment comes first, so that it can be handed back.
        while lanes.contains(where: { $0.promised > 0 }), ContinuousClock.now < deadline { await idleBell.wait(upTo: 0.01) }
        for run in held.all { run.requestStop(.shutdown) }
        for lane in lanes { lane.ring() }
        while !held.all.isEmpty, ContinuousClock.now < deadline { await idleBell.wait(upTo: 0.5) }
        await withTaskGroup { [outcomes] group in
            for run in held.all {
                let key = run.key
                logger.warning("a job did not stop in time and is handed back", metadata: ["job": "\(key.id)"])
                run.loseLease()
                group.addTask { try? await outcomes.release(key) }
            }
        }
        isStopped = true
        for lane in lanes { lane.ring() }
        for task in laneTasks { await task.value }
        controlBell.ring()
        listenTask.cancel()
        watchTask.cancel()
        // A database that does not answer must not keep the process: its lease runs out by itself.
        let hurry = Task { [control] in
            try await Task.sleep(for: .seconds(3))
            await control.close()
        }
        await controlTask.value
        hurry.cancel()
        await control.close()
    }

    private func beginDraining() {
        isDraining = true
        drainBell.ring()
    }

    private func loadSettings() async throws -> [String: QueueSettings] {
        let names = Set(handlers.map(\.queue)).sorted()
        // A database that is starting is waited for.
        let rows = try await patiently(for: .seconds(60)) { [client] in try await client.query(Statements.settings, [.array(names)]) }
        var settings: [String: QueueSettings] = [:]
        for row in rows {
            let queue = QueueSettings(
                name: try row["name"].string, isLong: try row["class"].string == "long", ttl: .seconds(try row["ttl"].double),
                stallTimeout: try row["stall"].optionalDouble.map { .seconds($0) })
            settings[queue.name] = queue
        }
        if let missing = names.first(where: { settings[$0] == nil }) { throw JobError.unknownQueue(missing) }
        return settings
    }

    // MARK: - Waking

    private func listen() async {
        await client.listen(["queue_short", "queue_long", "queue_control"]) { [self] notification in
            switch notification.channel {
            case "queue_short": for lane in lanes where !lane.settings.isLong { lane.hear() }
            case "queue_long": for lane in lanes where lane.settings.isLong { lane.hear() }
            case "queue_control": controlBell.ring()
            default:
                // (Re)connected: whatever rang meanwhile was not heard.
                ringLanes { _ in true }
                controlBell.ring()
            }
        }
    }

    func ringLanes(where condition: (Lane) -> Bool) {
        for lane in lanes where condition(lane) { lane.ring() }
    }

    // MARK: - Running jobs

    /// A job has left this process, one way or another.
    func forget(_ run: JobRun) {
        held.remove(run)
        if held.all.isEmpty { idleBell.ring() }
    }

    // MARK: - Handing in what does not travel with a turn

    func handIn(
        _ run: JobRun, _ outcome: Result<JobResult, any Error>, _ disposition: RunState.Disposition, _ lane: Lane
    ) async {
        let key = run.key
        let ran = (ContinuousClock.now - run.startedAt) / .seconds(1)
        await handIn(key, in: lane) { [outcomes, logger] in
            switch (disposition, outcome) {
            case (.complete, .success(let result)):
                if try await self.complete(key, result) { return lane.metrics.succeeded(afterRunning: ran) }
            case (.fail, .failure(JobError.fenced)), (.drop, _):
                throw JobError.fenced(key.id)
            case (.fail, .failure(let error)):
                try await self.fail(key, error)
            case (.acknowledgeCancel, _):
                try await outcomes.acknowledgeCancel(key)
                logger.info("cancelled", metadata: ["job": "\(key.id)"])
            case (.release, _):
                try await outcomes.release(key)
                logger.info("handed back", metadata: ["job": "\(key.id)"])
            case (.complete, .failure), (.fail, .success):
                logger.critical("a run ended in a way that cannot be", metadata: ["job": "\(key.id)", "outcome": "\(outcome)"])
            }
            lane.metrics.ended(afterRunning: ran)
        }
        forget(run)
        lane.ended.left()
        lane.handlersEnded(1)
        lane.bell.ring()
    }

    /// Completes a job by itself; one that cannot be completed has failed, and the answer is false.
    func complete(_ key: JobRun.Key, _ result: JobResult) async throws -> Bool {
        do {
            try await outcomes.complete(key, result)
            return true
        } catch JobError.fenced {
            throw JobError.fenced(key.id)
        } catch {
            try await fail(key, error)
            return false
        }
    }

    func handIn(_ key: JobRun.Key, in lane: Lane, _ body: () async throws -> Void) async {
        do {
            try await body()
        } catch JobError.fenced {
            noteFenced(key, in: lane)
        } catch {
            missedAnswerAt = .now
            logger.error(
                "a job's outcome could not be recorded; its lease will run out",
                metadata: ["job": "\(key.id)", "kind": "\(lane.handler.kind)", "error": "\(error)"])
        }
    }

    func noteFenced(_ key: JobRun.Key, in lane: Lane) {
        lane.metrics.wasFenced()
        logger.warning(
            "the job is somebody else's by now; what this run came to is dropped",
            metadata: ["job": "\(key.id)", "kind": "\(lane.handler.kind)", "token": "\(key.token)"])
    }

    private func fail(_ key: JobRun.Key, _ error: any Error) async throws {
        let answer = try await outcomes.fail(key, error)
        if answer == "fenced" { throw JobError.fenced(key.id) }
        logger.warning(
            answer == "dead" ? "failed for good" : "failed, will be tried again", metadata: ["job": "\(key.id)", "error": "\(error)"])
    }
}
