import Foundation
import JobQueue
import Logging
import Postgres
import Synchronization

/// What the handlers do, and what they saw.
final class Observer: Sendable {
    struct Seen {
        var count = 0
        var waits: [Int] = []
    }

    let options: Options
    private let seen = Mutex(Seen())

    init(_ options: Options) { self.options = options }

    func handler() -> JobHandler {
        JobHandler(kind: "noop", queue: "bench", concurrency: options.concurrency) { [self] job in
            switch options.handler ?? "count" {
            case "record":
                let now = nanoseconds()
                let moment = mark(job)
                seen.withLock { $0.waits.append(now - moment) }
            case "sleep":
                let moment = mark(job)
                say(["began": moment, "at": nanoseconds()])
                // Wall time and short naps: a process that was stopped meanwhile is done at once when it goes on. A nap that is
                // cancelled does not end the job: the stale success is what the test is after.
                let end = ContinuousClock.now + .seconds(options.sleep ?? 0)
                while ContinuousClock.now < end { await Task.detached { try? await Task.sleep(for: .milliseconds(10)) }.value }
                say(["ended": moment, "at": nanoseconds()])
            default:
                let count = seen.withLock {
                    $0.count += 1
                    return $0.count
                }
                if count == options.jobs { say(["handled": count, "at": nanoseconds()]) }
            }
            return JobResult()
        }
    }

    private func mark(_ job: JobContext) -> Int {
        struct Arguments: Decodable { let t: Int }
        return (try? job.arguments(as: Arguments.self).t) ?? 0
    }

    var count: Int { seen.withLock { $0.count } }
    var waits: [Int] { seen.withLock { $0.waits } }
}

/// One worker: starts at "go", answers any other line with what it has seen, and ends at "stop".
func work(_ client: PostgresClient, _ options: Options, _ logger: Logger) async throws {
    let observer = Observer(options)
    let worker = JobWorker(client: client, service: "bench", handlers: [observer.handler()], logger: logger)
    var work: Task<Void, any Error>?
    say(["ready": true])
    for await line in lineStream() {
        switch line {
        case "go":
            say(["started": nanoseconds()])
            work = Task { try await worker.run() }
        case "stop":
            work?.cancel()
            try await work?.value
            say(["stopped": true])
            return
        default:
            if options.handler == "record" {
                say(["waits": observer.waits])
            } else {
                say(["count": observer.count, "at": nanoseconds()])
            }
        }
    }
}

/// Enqueue call to handler, with a worker that is idle in between, in milliseconds.
func latency(_ client: PostgresClient, _ options: Options, _ logger: Logger) async throws {
    var options = options
    options.handler = "record"
    let observer = Observer(options)
    let worker = JobWorker(client: client, service: "bench", handlers: [observer.handler()], logger: logger)
    let work = Task { try await worker.run() }
    let queue = JobQueue(client: client)
    _ = try await produce(queue, rate: 20, seconds: 2)
    let skipped = observer.waits.count
    let rate = options.rate ?? 25
    _ = try await produce(queue, rate: rate, seconds: options.seconds ?? 10)
    try await Task.sleep(for: .seconds(1.5))
    let waits = observer.waits.dropFirst(skipped).sorted()
    func percentile(_ share: Double) -> Double {
        waits.isEmpty ? .nan : Double(waits[max(0, Int((share * Double(waits.count)).rounded(.up)) - 1)]) / 1e6
    }
    say([
        "rate": rate, "jobs": waits.count, "p50_ms": percentile(0.5), "p95_ms": percentile(0.95), "p99_ms": percentile(0.99),
        "max_ms": percentile(1),
    ])
    work.cancel()
    try await work.value
}
