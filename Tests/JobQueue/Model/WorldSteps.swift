/// What a step does.
extension World {
    func after(_ action: Action, _ scenario: Scenario, _ rules: Rules) -> World {
        var next = self
        next.take(action, scenario, rules)
        let referred = next.processes.map(\.worker)
        next.database.forget(except: referred)
        next.durable?.forget(except: referred + next.database.workers.map(\.id))
        if next.memory.waits.contains(where: { !$0.isEmpty }) { next.memory.givenUp.formUnion(next.database.dead.map(\.job.id)) }
        if next.memory.breach == nil { next.memory.breach = next.brokenInvariant() }
        return next
    }

    mutating func take(_ action: Action, _ scenario: Scenario, _ rules: Rules) {
        defer { noteJobs() }
        switch action {
        case .tick:
            budget.ticks -= 1
            for index in processes.indices where processes[index].isAlive {
                processes[index].sinceBeat = min(processes[index].sinceBeat + 1, scenario.queue.ttl)
                if let beat = processes[index].beat { processes[index].beat?.sentAgo = min(beat.sentAgo + 1, scenario.queue.ttl) }
            }
            passTime(rules)
        case .clockStep:
            budget.clockSteps -= 1
            passTime(rules)
        case .walIsFlushed: durable = database
        case .beat(let p): deliverBeat(p, heldBy(p), sentAgo: 0, isAnswered: true, scenario, rules)
        case .beatStalled(let p):
            budget.stalls -= 1
            deliverBeat(p, heldBy(p), sentAgo: 0, isAnswered: true, isMoving: false, scenario, rules)
        case .beatUnanswered(let p):
            budget.lostAnswers -= 1
            deliverBeat(p, heldBy(p), sentAgo: 0, isAnswered: false, scenario, rules)
        case .sendBeat(let p):
            budget.lateBeats -= 1
            processes[p].beat = Beat(held: heldBy(p))
        case .beatArrives(let p):
            guard let beat = processes[p].beat else { return }
            processes[p].beat = nil
            deliverBeat(p, beat.held, sentAgo: beat.sentAgo, isAnswered: true, scenario, rules)
        case .register(let p): register(p, scenario)
        case .claim(let p): claim(p, isAnswered: true, rules)
        case .claimUnanswered(let p):
            budget.lostAnswers -= 1
            claim(p, isAnswered: false, rules)
        case .giveUp(let p): drop(p) { _ in true }
        case .sweep: sweep(scenario, rules)
        case .begin(let p, let lease):
            // A run that is fenced, or done already, has nothing more to say.
            if !database.begin(process: p, lease, rules) { endRun(p, lease) }
            if !rules.hold(.effectsInsideTransaction) { flush() }
            if !rules.hold(.holdLocksRow) { detach(p) }
        case .commit(let p): commit(p, isAnswered: true, rules)
        case .commitUnanswered(let p):
            budget.lostAnswers -= 1
            commit(p, isAnswered: false, rules)
        case .fail(let p, let lease, let permanent):
            budget.failures -= 1
            if database.fail(lease, permanent: permanent, rules) != .fenced { memory.failures[lease.id - 1] += 1 }
            endRun(p, lease)
            flush()
        case .release(let p, let lease):
            budget.releases -= 1
            _ = database.release(lease, rules)
            endRun(p, lease)
            flush()
        case .acknowledgeCancel(let p, let lease):
            _ = database.acknowledgeCancel(lease, rules)
            endRun(p, lease)
            flush()
        case .checkpoint(let p, let lease):
            budget.checkpoints -= 1
            let isLive = database.jobs.contains { $0.lease == lease && $0.state == .leased }
            let kept = database.saveCheckpoint(lease, n: 1, rules)
            if kept, !isLive { memory.breach = .staleCheckpoint }
            if !kept { endRun(p, lease) }
            flush()
        case .cancel, .pause, .resume, .retry, .redrive, .enqueue, .countEvent, .lookAtParent, .enqueueWaiting: operate(action, rules)
        case .lookAtClock, .fireTick, .noteTick: fire(action, rules)
        case .crash, .restart, .freeze, .thaw, .cut, .serverCrash: suffer(action, scenario)
        }
    }

    private mutating func passTime(_ rules: Rules) {
        database.tick(rules)
        durable?.tick(rules)
    }

    /// A synchronous commit takes every earlier one with it.
    private mutating func flush() { if durable != nil { durable = database } }

    // MARK: - A process

    private func heldBy(_ p: Int) -> [Lease] { processes[p].runs.map(\.lease) }

    /// Runs that learn that they are not wanted any more. What is being committed is past stopping.
    private mutating func drop(_ p: Int, where condition: (Run) -> Bool) {
        let committing = database.transactions.filter { $0.process == p }.map(\.lease)
        processes[p].runs = processes[p].runs.filter { committing.contains($0.lease) || !condition($0) }
    }

    private mutating func endRun(_ p: Int, _ lease: Lease) { processes[p].runs.removeAll { $0.lease == lease } }

    private mutating func register(_ p: Int, _ scenario: Scenario) {
        processes[p].worker = database.register(ttl: scenario.queue.ttl)
        processes[p].sinceBeat = 0
        flush()
    }

    /// Without a lock the transaction does not keep others away: only its effects wait for the commit.
    private mutating func detach(_ p: Int) {
        for index in database.transactions.indices
        where database.transactions[index].process == p && database.transactions[index].lease.id > 0 {
            let lease = database.transactions[index].lease
            database.transactions[index].lease = Lease(id: -lease.id, token: lease.token)
        }
    }

    private mutating func commit(_ p: Int, isAnswered: Bool, _ rules: Rules) {
        for index in database.transactions.indices
        where database.transactions[index].process == p && database.transactions[index].lease.id < 0 {
            database.transactions[index].lease.id *= -1
        }
        guard let lease = database.transactions.first(where: { $0.process == p })?.lease else { return }
        _ = database.commit(process: p, rules)
        flush()
        if isAnswered {
            endRun(p, lease)
        } else {
            for index in processes[p].runs.indices where processes[p].runs[index].lease == lease {
                processes[p].runs[index].isUnanswered = true
            }
        }
    }

    private mutating func claim(_ p: Int, isAnswered: Bool, _ rules: Rules) {
        guard let worker = processes[p].worker else { return }
        let wasPaused = database.queues[0].isPaused
        let issued = memory.issued
        // The stride between tokens is random, so that a crash of the server leaves none to be met again. The model, which has no chance,
        // takes the least that nobody was given.
        let isRandom = durable != nil && rules.hold(.claimTokenIsNew)
        let leases = database.claim(worker: worker, rules) { job in
            isRandom ? max(job.token, issued[job.id - 1]) + 1 : job.token + 1
        }
        for lease in leases {
            if wasPaused { memory.breach = .claimedWhilePaused }
            if lease.token <= memory.issued[lease.id - 1] { memory.breach = .tokenGivenTwice }
            if memory.cancelled.contains(lease.id) { memory.breach = .cancelForgotten }
            for wait in memory.waits[lease.id - 1] where !database.done.contains(where: { $0.id == wait.parent }) {
                if !wait.goesOn || !memory.givenUp.contains(wait.parent) { memory.breach = .childTooEarly }
            }
            memory.issued[lease.id - 1] = max(memory.issued[lease.id - 1], lease.token)
        }
        if isAnswered { processes[p].runs += leases.map { Run(lease: $0) } }
    }

    private mutating func deliverBeat(
        _ p: Int, _ held: [Lease], sentAgo: Int, isAnswered: Bool, isMoving: Bool = true, _ scenario: Scenario, _ rules: Rules
    ) {
        guard let worker = processes[p].worker else { return }
        let before = database.runs
        let wasDead = database.workers.first { $0.id == worker }?.hasEnded ?? true
        let answer = database.heartbeat(
            worker: worker, ttl: scenario.queue.ttl, held: held, moving: held.map { _ in isMoving }, rules)
        for index in processes[p].runs.indices { processes[p].runs[index].isStalled = !isMoving }
        if wasDead, answer.isAlive { memory.breach = .deadWorkerRevived }
        for run in database.runs {
            let old = before.first { $0.job == run.job }
            let isOwn = held.contains { $0.id == run.job && $0.token == run.token }
            if let old, old.leaseIn != run.leaseIn, !isOwn { memory.breach = .leaseExtendedByStranger }
        }
        guard isAnswered, processes[p].isAlive else { return }
        if !answer.isAlive {
            processes[p].worker = nil
            drop(p) { _ in true }
            return
        }
        processes[p].sinceBeat = min(processes[p].sinceBeat, sentAgo)
        drop(p) { held.contains($0.lease) && answer.lost.contains($0.lease.id) && !$0.isUnanswered }
        for index in processes[p].runs.indices where answer.cancelled.contains(processes[p].runs[index].lease.id) {
            processes[p].runs[index].isAskedToCancel = true
        }
    }

    private mutating func sweep(_ scenario: Scenario, _ rules: Rules) {
        let sessions = database.workers.filter { $0.hasSession }.map(\.id)
        let fresh = processes.filter { $0.isAlive && $0.sinceBeat < scenario.queue.ttl }
        let asked = Set(database.runs.filter { $0.cancelledFor != nil }.map(\.job))
        let missedBefore = Set(database.workers.filter { $0.missedFor == 1 }.map(\.id))
        let locked = Set(database.transactions.map(\.lease.id))
        for rescue in database.sweep(rules) {
            memory.rescues[rescue.lease.id - 1] += 1
            if locked.contains(rescue.lease.id) { memory.breach = .rescuedUnderLock }
            // A step of the clock is a lease that is shorter than it seems; a cancelled job is taken away from whoever has it.
            // So is one that a crash of the server has forgotten: beats commit asynchronously.
            guard let worker = rescue.worker, scenario.budget.clockSteps == 0, scenario.budget.serverCrashes == 0,
                !asked.contains(rescue.lease.id),
                fresh.contains(where: { $0.worker == worker && $0.runs.contains { $0.lease == rescue.lease && !$0.isStalled } })
            else { continue }
            if sessions.contains(worker) { memory.breach = .rescuedFromTheLiving }
            if !sessions.contains(worker), !missedBefore.contains(worker) { memory.breach = .rescuedAtFirstSight }
        }
        flush()
    }

    // MARK: - Operators

    private mutating func operate(_ action: Action, _ rules: Rules) {
        switch action {
        case .cancel(let id):
            budget.cancels -= 1
            if database.cancel(id, rules) != .finished { memory.cancelled.insert(id) }
        case .pause:
            budget.pauses -= 1
            database.queues[0].isPaused = true
        case .resume: database.queues[0].isPaused = false
        case .retry(let id):
            budget.retries -= 1
            if database.retry(id, rules) { comeBack(id) }
        case .redrive:
            budget.retries -= 1
            let dead = database.dead.map(\.job.id)
            _ = database.redrive(reason: nil, rules)
            for id in dead where database.jobs.contains(where: { $0.id == id }) { comeBack(id) }
        case .enqueue(let key):
            budget.enqueues -= 1
            let before = database.nextJob
            let taken = database.jobs.contains { memory.keys[$0.id - 1] == key }
            _ = database.enqueue(key: key)
            if taken, database.nextJob > before { memory.breach = .keyTwice }
        case .countEvent:
            budget.events -= 1
            memory.events += 1
            _ = database.countEvents(1, rules)
        case .lookAtParent(let id): seenParent = id
        case .enqueueWaiting(let goesOn):
            budget.children -= 1
            guard let parent = seenParent else { return }
            seenParent = nil
            // Under its lock it is looked at once more. Without it, what was seen is believed.
            _ = database.enqueue(parents: [parent], goesOn: goesOn, rules)
        default: break
        }
        flush()
    }

    private mutating func comeBack(_ id: Int) {
        memory.cancelled.remove(id)
        (memory.failures[id - 1], memory.rescues[id - 1]) = (0, 0)
    }

    // MARK: - Schedules

    private mutating func fire(_ action: Action, _ rules: Rules) {
        switch action {
        case .lookAtClock(let p): processes[p].seenTick = database.cron?.next
        case .fireTick(let p):
            let seen = processes[p].seenTick
            processes[p].seenTick = nil
            guard let cron = database.cron, cron.next == seen || !rules.hold(.tickIsLocked) else { return }
            if memory.ticks.contains(cron.now) { memory.breach = .tickTwice }
            memory.ticks.append(cron.now)
            _ = database.enqueue()
            if rules.hold(.tickCommitsWithItsJob) {
                database.cron?.next = cron.now + 1
            } else {
                processes[p].firedTick = cron.now
            }
        case .noteTick(let p):
            if let fired = processes[p].firedTick { database.cron?.next = fired + 1 }
            processes[p].firedTick = nil
        default: break
        }
        flush()
    }

    // MARK: - Misfortune

    private mutating func suffer(_ action: Action, _ scenario: Scenario) {
        switch action {
        case .crash(let p):
            budget.crashes -= 1
            lose(p)
            processes[p] = Process(isAlive: false)
        case .restart(let p):
            budget.restarts -= 1
            processes[p] = Process()
        case .freeze(let p):
            budget.freezes -= 1
            processes[p].isFrozen = true
        case .thaw(let p): processes[p].isFrozen = false
        case .cut(let p):
            budget.cuts -= 1
            lose(p)
            processes[p].beat = nil
        case .serverCrash:
            budget.serverCrashes -= 1
            if let durable { database = durable }
            database.transactions = []
            for p in processes.indices {
                lose(p)
                processes[p].beat = nil
            }
        default: break
        }
    }

    /// The server sees a process's connections close.
    private mutating func lose(_ p: Int) {
        let worker = processes[p].worker
        database.loseSession(process: p, worker: worker)
        durable?.loseSession(process: p, worker: worker)
    }
}
