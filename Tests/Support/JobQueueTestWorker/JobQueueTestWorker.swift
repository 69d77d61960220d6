import Foundation
import Glibc
import JobQueue
import Logging
import Postgres

/// A worker in a process of its own, for tests that kill, freeze and thaw it.
///
/// `JobQueueTestWorker URL QUEUE` serves one queue: each job counts to `steps`, a step every `pause` seconds, with a checkpoint at each,
/// then writes a row into `public.effect`.
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
        guard CommandLine.arguments.count == 3 else {
            FileHandle.standardError.write(Data("usage: JobQueueTestWorker URL QUEUE\n".utf8))
            exit(2)
        }
        var logger = Logger(label: "test-worker")
        logger.logLevel = .error
        let client = PostgresClient(configuration: PostgresConfiguration(url: CommandLine.arguments[1]), logger: logger)
        let handler = JobHandler(kind: CommandLine.arguments[2]) { job in
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
        let worker = JobWorker(client: client, service: "test", handlers: [handler], logger: logger)
        let work = Task { try await worker.run() }
        signal(SIGTERM, SIG_IGN)
        let source = DispatchSource.makeSignalSource(signal: SIGTERM, queue: .global())
        source.setEventHandler { work.cancel() }
        source.resume()
        try await work.value
        source.cancel()
        await client.close()
    }
}
