import Foundation
import Glibc
import JobQueue
import Logging
import Postgres

/// Workers in processes of their own, for tests that kill, freeze and thaw them.
///
/// - `JobQueueTestWorker URL QUEUE` serves one queue: each job counts to `steps`, a step every `pause` seconds, with a checkpoint at each,
///   then writes a row into `public.effect`.
/// - `JobQueueTestWorker chaos URL …` serves the queues of the crash matrix (``ChaosWorker``).
/// - `JobQueueTestWorker zombie URL …` takes leases by hand and uses them when they are over (``ZombieWorker``).
@main
enum JobQueueTestWorker {
    struct Arguments: Decodable {
        var steps = 0
        var pause = 0.0
    }

    struct State: Codable {
        var step: Int64
    }

    static func main() async throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        switch (arguments.first, arguments.count) {
        case ("chaos", 2...): try await ChaosWorker(arguments: Array(arguments.dropFirst())).run()
        case ("zombie", 2...): try await ZombieWorker(arguments: Array(arguments.dropFirst())).run()
        case (_, 2): try await serve(url: arguments[0], queue: arguments[1])
        default:
            FileHandle.standardError.write(Data("usage: JobQueueTestWorker URL QUEUE | chaos URL … | zombie URL …\n".utf8))
            exit(2)
        }
    }

    private static func serve(url: String, queue: String) async throws {
        let client = PostgresClient(configuration: PostgresConfiguration(url: url), logger: logger)
        let handler = JobHandler(kind: queue) { job in
            let arguments = try job.arguments(as: Arguments.self)
            var state = try await job.lastCheckpoint()?.state(as: State.self) ?? State(step: 0)
            while state.step < arguments.steps {
                try job.checkCancellation()
                try await Task.sleep(for: .seconds(arguments.pause))
                state.step += 1
                try await job.checkpoint(step: state.step, state: state)
                job.progress(Double(state.step) / Double(arguments.steps), "step \(state.step)")
            }
            let row: [PostgresValue] = [.int(job.id), .int(job.token), .int(Int(getpid()))]
            return JobResult { try await $0.query("insert into public.effect (job, token, pid) values ($1, $2, $3)", row) }
        }
        try await untilTerminated(JobWorker(client: client, service: "test", handlers: [handler], logger: logger))
        await client.close()
    }

    /// Runs a worker until SIGTERM asks it to stop.
    static func untilTerminated(_ worker: JobWorker) async throws {
        let work = Task { try await worker.run() }
        signal(SIGTERM, SIG_IGN)
        let source = DispatchSource.makeSignalSource(signal: SIGTERM, queue: .global())
        source.setEventHandler { work.cancel() }
        source.resume()
        try await work.value
        source.cancel()
    }

    static var logger: Logger {
        var logger = Logger(label: "test-worker")
        logger.logLevel = .error
        return logger
    }
}
