/// What must never be. I1 to I9 are those of the protocol's design.
enum Breach: String, Hashable, Sendable {
    case jobInSeveralPlaces = "I1: a job is in exactly one of live, done and dead"
    case tokenGivenTwice = "I2: a claim gives a token greater than any that was given before"
    case tokenHeldByStranger = "I2: a job that nobody has carries a token that nobody holds"
    case effectWithoutCompletion = "I3: effects and completions are one to one, under one token"
    case staleCheckpoint = "I3: a checkpoint is written under the live token only"
    case neverEnds = "I4: a job that can run is run to its end"
    case runWithoutLease = "I5: every run row belongs to a leased job under its token, and every leased job has a worker"
    case leaseExtendedByStranger = "I5: a run's lease is extended by its holder only"
    case slotOverfull = "I5: no more jobs run under a slot than it has permits"
    case permitMismatch = "I5: permits are held by live leases, and each lease holds those that it needs"
    case firedTwice = "I6: a schedule fires once for what was counted, and one of its jobs lives at a time"
    case tickTwice = "I6: a schedule fires once for a time"
    case childTooEarly = "I7: a job runs only after all that it waits for have succeeded, or were given up where it goes on"
    case waitsInVain = "I7: a job waits for live jobs only, for as many as it counts"
    case childLeftBehind = "I7: a job that was cancelled because of another is dead only as long as that one is"
    case rescuedFromTheLiving = "I8: a worker whose beat was acknowledged less than a lease ago, and whose session is there, keeps its jobs"
    case rescuedAtFirstSight = "I8: a session that is missing for a moment only costs no job"
    case rescuedUnderLock = "I8: a job whose outcome is being committed is not rescued"
    case deadWorkerRevived = "I8: a worker that was held to be dead cannot renew its lease"
    case claimedWhilePaused = "I9: nothing is claimed while the queue is paused"
    case cancelForgotten = "a job whose cancellation was promised does not start again"
    case keyTwice = "one live job a dedupe key"
    case countsWrong = "failures and rescues are counted, and limited"
}

extension World {
    /// What holds of every state; what holds of steps only is noted by the step.
    func brokenInvariant() -> Breach? {
        for id in 1..<database.nextJob {
            let places = database.jobs.count { $0.id == id } + database.done.count { $0.id == id } + database.dead.count { $0.job.id == id }
            if places != 1 { return .jobInSeveralPlaces }
        }
        for job in database.jobs {
            let isLeased = job.state == .leased
            if !isLeased, processes.contains(where: { $0.runs.contains { $0.lease == job.lease } }) { return .tokenHeldByStranger }
            if isLeased != (job.worker != nil) { return .runWithoutLease }
            let run = database.runs.first { $0.job == job.id }
            if let run, !isLeased || run.token != job.token { return .runWithoutLease }
            if isLeased, run == nil, database.queues[job.queue].isLong { return .runWithoutLease }
            if !isLeased, memory.cancelled.contains(job.id) { return .cancelForgotten }
            // A crash of the server forgets nothing of these: what counts commits synchronously.
            if job.failures != memory.failures[job.id - 1] || job.rescues != memory.rescues[job.id - 1] { return .countsWrong }
            let queue = database.queues[job.queue]
            if job.failures >= queue.maxAttempts || job.rescues > queue.maxRescues { return .countsWrong }
        }
        if database.runs.contains(where: { run in !database.jobs.contains { $0.id == run.job } }) { return .runWithoutLease }
        if database.effects.count != database.done.count || !database.done.allSatisfy({ database.effects.contains($0.lease) }) {
            return .effectWithoutCompletion
        }
        if let schedule = database.schedule {
            let isUsed = schedule.fired * schedule.every + schedule.counter
            let ofSchedule = memory.keys.indices.filter { memory.keys[$0] == ModelDatabase.Schedule.key || memory.keys[$0] == nil }
            let live = database.jobs.count { ofSchedule.contains($0.id - 1) }
            if isUsed > memory.events || live > 1 { return .firedTwice }
        }
        if let breach = brokenPermits() ?? brokenFamilies() { return breach }
        let keys = database.jobs.compactMap { memory.keys[$0.id - 1] }
        if Set(keys).count != keys.count { return .keyTwice }
        return nil
    }

    private func brokenPermits() -> Breach? {
        for (slot, total) in database.slots.enumerated() {
            let leases = database.jobs.filter { $0.state == .leased && ($0.slot == slot || database.machineSlot == slot) }
            let held = database.permits.filter { $0.slot == slot }
            if leases.count > total || held.count > total { return .slotOverfull }
            if held.map(\.lease).sorted() != leases.map(\.lease).sorted() { return .permitMismatch }
        }
        return nil
    }

    private func brokenFamilies() -> Breach? {
        for job in database.jobs {
            let waits = database.deps.filter { $0.child == job.id }
            if waits.count != (job.state == .waiting ? job.waitsOn : 0) || (job.state == .waiting && waits.isEmpty) { return .waitsInVain }
            if !waits.allSatisfy({ wait in database.jobs.contains { $0.id == wait.parent && $0.isParent } }) { return .waitsInVain }
        }
        for corpse in database.dead where corpse.because != nil {
            let isJustified = database.deps.contains { wait in
                wait.child == corpse.job.id && !wait.goesOn && database.dead.contains { $0.job.id == wait.parent }
            }
            if !isJustified { return .childLeftBehind }
        }
        return nil
    }

    /// From here on nothing goes wrong any more: a healthy process joins, those that run carry on, those that are frozen stay frozen.
    /// Whether every job then comes to an end.
    func settles(_ scenario: Scenario, _ rules: Rules) -> Bool {
        var world = self
        world.database.queues[0].isPaused = false
        world.budget = Budget()
        world.database.cron?.isOver = true
        world.processes.append(Process())
        for _ in 0..<16 {
            for p in world.processes.indices where world.processes[p].acts {
                if world.processes[p].beat != nil { world.take(.beatArrives(p), scenario, rules) }
                if world.processes[p].worker != nil { world.take(.beat(p), scenario, rules) }
                if world.processes[p].worker == nil { world.take(.register(p), scenario, rules) }
                // The others only beat: a handler may compute for as long as it likes. The newcomer does what there is to do.
                world.finish(p, scenario, rules)
            }
            world.take(.sweep, scenario, rules)
            if world.database.cron?.isDue == true {
                world.take(.lookAtClock(world.processes.count - 1), scenario, rules)
                world.take(.fireTick(world.processes.count - 1), scenario, rules)
                world.take(.noteTick(world.processes.count - 1), scenario, rules)
            }
            if world.database.jobs.isEmpty, world.database.cron?.isDue != true { return true }
            world.take(.tick, scenario, rules)
        }
        return false
    }

    private mutating func finish(_ p: Int, _ scenario: Scenario, _ rules: Rules) {
        repeat {
            if database.transactions.contains(where: { $0.process == p }) { take(.commit(p), scenario, rules) }
            for run in processes[p].runs {
                if run.isAskedToCancel {
                    take(.acknowledgeCancel(p, run.lease), scenario, rules)
                } else {
                    take(.begin(p, run.lease), scenario, rules)
                    if database.transactions.contains(where: { $0.process == p }) { take(.commit(p), scenario, rules) }
                }
            }
            if database.jobs.contains(where: { $0.state == .ready }) { take(.claim(p), scenario, rules) }
        } while !processes[p].runs.isEmpty
    }
}
