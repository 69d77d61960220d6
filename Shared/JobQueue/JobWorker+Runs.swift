import Postgres

/// Running what was claimed.
extension JobWorker {
    /// A runner that has held its thread for so long lets other tasks go first.
    nonisolated static let longestHold = Duration.milliseconds(1)

    /// Jobs that a turn has brought.
    func start(_ jobs: [ClaimedJob], in lane: Lane) {
        let now = ContinuousClock.now
        let started = jobs.map { JobRun($0, settings: lane.settings, startedAt: now) }
        for run in started { held.add(run) }
        if lane.toBegin.add(started) { startRunner(of: lane) }
    }

    private nonisolated func startRunner(of lane: Lane) {
        let runner = Runner()
        runner.begin(Task.detached { await self.work(as: runner, in: lane) })
    }

    private nonisolated func work(as runner: Runner, in lane: Lane) async {
        var isFirst = true
        var heldSince = ContinuousClock.now
        while let (run, callsRunner) = lane.toBegin.take(isFirstOfRunner: isFirst) {
            isFirst = false
            if callsRunner { startRunner(of: lane) }
            run.begin(runner)
            let outcome: Result<JobResult, any Error>
            do {
                outcome = .success(try await lane.handler.run(JobContext(run: run, kind: lane.handler.kind, client: client)))
            } catch {
                outcome = .failure(error)
            }
            let (disposition, wasAskedToStop) = run.finish((try? outcome.get()) == nil ? .threw : .returned)
            let now = ContinuousClock.now
            if disposition == .complete, case .success(let result) = outcome, result.mayTravelInCompany {
                run.end(result: result.json, at: now)
                if lane.ended.append(run) {
                    Task { @PostgresActor in lane.bell.ring() }
                }
            } else {
                // In a task of its own: this one may be cancelled.
                Task { @PostgresActor in await self.handIn(run, outcome, disposition, lane) }
            }
            // The cancellation of a task cannot be taken back, and may even be still on its way.
            if wasAskedToStop { return }
            if now - heldSince > Self.longestHold {
                await Task.yield()
                heldSince = .now
            }
        }
    }
}
