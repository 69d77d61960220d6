import Foundation
import Glibc
import Logging
import Postgres
import Synchronization
import Testing

@testable import JobQueue

/// Handlers and the tasks that they run in, without a database.
@Suite struct RunnerTests {
    private func jobs(_ count: Int) -> [ClaimedJob] {
        (1...count).map {
            ClaimedJob(id: Int64($0), token: 1, attempt: 1, failures: 0, rescues: 0, arguments: PostgresText("{}"))
        }
    }

    /// Has a worker run so many claimed jobs, and waits until each has been handed to its lane as done.
    private func run(_ count: Int, _ body: @escaping @Sendable (JobContext) async throws -> Void) async throws {
        let handler = JobHandler(kind: "quick", concurrency: count) { job in
            try await body(job)
            return JobResult()
        }
        let settings = QueueSettings(name: "quick", isLong: false, ttl: .seconds(10), stallTimeout: nil)
        let lane = await Lane(handler: handler, settings: settings)
        let client = PostgresClient(configuration: PostgresConfiguration(url: "host=/nowhere"))
        let worker = JobWorker(client: client, service: "test", handlers: [handler], logger: quiet)
        lane.ended.began(count)
        await worker.start(jobs(count), in: lane)
        var done: Set<Int64> = []
        // The explorer's tests hold the cooperative threads for long.
        try await eventually(within: 120, "all \(count) are done") {
            done.formUnion(lane.ended.take().map(\.job.id))
            return done.count == count
        }
    }

    @Test func handlersThatNeverSuspendShareAFewTasks() async throws {
        let tasks = Mutex<Set<Int>>([])
        try await run(2000) { _ in
            let task = withUnsafeCurrentTask { $0?.hashValue ?? 0 }
            tasks.withLock { _ = $0.insert(task) }
        }
        #expect((1...64).contains(tasks.withLock { $0.count }))
    }

    @Test func handlersThatSuspendAllRunAtATime() async throws {
        let waiting = Mutex<[CheckedContinuation<Void, Never>]>([])
        try await run(300) { _ in
            await withCheckedContinuation { continuation in
                // Nobody goes on before all have begun.
                let all = waiting.withLock {
                    $0.append(continuation)
                    return $0.count == 300 ? $0 : []
                }
                for one in all { one.resume() }
            }
        }
    }

    @Test func aStopOfOneJobNeverReachesTheNextOfTheSameTask() async throws {
        let stopped = Atomic<Int>(0)
        let hit = Atomic<Int>(0)
        try await run(500) { job in
            if job.isStopRequested { hit.add(1, ordering: .relaxed) }
            if job.id % 10 == 0 {
                job.run.requestStop(.cancelled)
                // The very first runner may begin before its task is known to whoever started it.
                let deadline = ContinuousClock.now + .seconds(5)
                while !Task.isCancelled, ContinuousClock.now < deadline {}
                if job.isStopRequested, Task.isCancelled { stopped.add(1, ordering: .relaxed) }
            }
        }
        #expect(stopped.load(ordering: .relaxed) == 50)
        #expect(hit.load(ordering: .relaxed) == 0)
    }

    @Test func aRunThatIsStoppedBeforeItBeginsIsToldSo() async throws {
        let run = JobRun(jobs(1)[0], settings: QueueSettings(name: "quick", isLong: false, ttl: .seconds(10), stallTimeout: nil))
        run.requestStop(.shutdown)
        let runner = Runner()
        run.begin(runner)
        let task = Task { _ = try? await Task.sleep(for: .seconds(60)) }
        runner.begin(task)
        await task.value
        #expect(task.isCancelled)
        let ending = run.finish(.threw)
        #expect(ending.disposition == .release && ending.wasAskedToStop)
    }

    @Test func oneRunnerAtATimeIsOnItsWay() {
        let line = RunsToBegin()
        let settings = QueueSettings(name: "quick", isLong: false, ttl: .seconds(10), stallTimeout: nil)
        func runs(_ count: Int) -> [JobRun] { jobs(count).map { JobRun($0, settings: settings) } }
        #expect(line.take(isFirstOfRunner: false) == nil)
        #expect(line.add(runs(3)))
        #expect(!line.add(runs(2)), "one is on its way")
        #expect(line.take(isFirstOfRunner: true)?.callsRunner == true)
        #expect(line.take(isFirstOfRunner: false)?.callsRunner == false, "one is on its way")
        #expect(line.take(isFirstOfRunner: true)?.callsRunner == true)
        #expect(line.take(isFirstOfRunner: false).map { $0.run.job.id } == 1)
        #expect(line.take(isFirstOfRunner: true)?.callsRunner == false, "that was the last")
        #expect(line.take(isFirstOfRunner: false) == nil)
        #expect(line.add(runs(1)))
        #expect(line.take(isFirstOfRunner: true)?.callsRunner == false)
    }
}
