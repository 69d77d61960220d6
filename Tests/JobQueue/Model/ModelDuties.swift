/// What the sweep does once a second, and what operators do.
extension ModelDatabase {
    struct Rescue: Hashable, Sendable {
        var lease: Lease
        var worker: Int?
    }

    /// `queue.rescue`: answers which leases it ended.
    mutating func rescue(_ rules: Rules) -> [Rescue] {
        for index in workers.indices where !workers[index].hasEnded && !workers[index].hasSession && workers[index].missedFor == nil {
            workers[index].missedFor = rules.hold(.rescueNeedsTwoLooks) ? 0 : 1
        }
        for index in workers.indices where !workers[index].hasEnded && (workers[index].leaseIn == 0 || workers[index].missedFor == 1) {
            end(index)
        }
        let lost = jobs.filter { job in
            guard job.state == .leased, !isLocked(job.id) || !rules.hold(.rescueSkipsLocked) else { return false }
            let worker = workers.first { $0.id == job.worker }
            let run = runs.first { $0.job == job.id }
            return worker.map(\.hasEnded) ?? true || run?.leaseIn == 0 || run?.cancelledFor == cancelGrace
                || (!rules.hold(.rescueHeedsLease) && job.claimedFor >= queues[job.queue].ttl)
        }
        for job in lost { rescue(job, rules) }
        return lost.map { Rescue(lease: $0.lease, worker: $0.worker) }
    }

    private mutating func rescue(_ job: Job, _ rules: Rules) {
        guard let index = jobs.firstIndex(where: { $0.id == job.id }) else { return }
        if rules.hold(.rescueCounts) { jobs[index].rescues += 1 }
        if isCancelRequested(job.id) {
            bury(index, .cancelled, rules)
        } else if jobs[index].rescues > queues[job.queue].maxRescues, rules.hold(.rescueLimited) {
            bury(index, .crash_loop, rules)
        } else {
            requeue(index, advancingToken: rules.hold(.rescueAdvancesToken), rules)
        }
    }

    /// `queue.promote`: answers how many became ready.
    mutating func promote(_ rules: Rules) -> Int {
        guard rules.hold(.deferredJobsReturn) else { return 0 }
        let due = jobs.filter { $0.state == .deferred && $0.dueIn == 0 }
        for job in due { if let index = jobs.firstIndex(of: job) { makeReady(index) } }
        return due.count
    }

    /// Ready and behind all others; nobody had it, so the token stays.
    mutating func makeReady(_ index: Int) {
        var job = jobs.remove(at: index)
        (job.state, job.dueIn) = (.ready, 0)
        jobs.append(job)
    }

    /// `queue.sweep`.
    mutating func sweep(_ rules: Rules) -> [Rescue] {
        let rescued = rescue(rules)
        _ = promote(rules)
        _ = fire(rules)
        return rescued
    }

    /// `queue.fire`: answers whether the schedule enqueued its job.
    private mutating func fire(_ rules: Rules) -> Bool {
        guard let due = schedule, due.counter >= due.every, !hasLiveKey(Schedule.key) || !rules.hold(.scheduleWaitsForItsJob) else {
            return false
        }
        _ = enqueue(key: rules.hold(.scheduleWaitsForItsJob) ? Schedule.key : nil)
        if rules.hold(.scheduleUsesUpItsCount) { schedule?.counter = due.counter % due.every }
        schedule?.fired += 1
        return true
    }

    /// `queue.count_event`: answers whether the schedule fired.
    mutating func countEvents(_ n: Int, _ rules: Rules) -> Bool {
        schedule?.counter += n
        return fire(rules)
    }

    enum CancelAnswer: String, Sendable { case cancelled, requested, finished }

    mutating func cancel(_ id: Int, _ rules: Rules) -> CancelAnswer? {
        guard let index = jobs.firstIndex(where: { $0.id == id }) else {
            return done.contains { $0.id == id } || dead.contains { $0.job.id == id } ? .finished : nil
        }
        guard jobs[index].state == .leased else {
            bury(index, .cancelled, rules)
            return .cancelled
        }
        if let run = runs.firstIndex(where: { $0.job == id }) {
            runs[run].cancelledFor = runs[run].cancelledFor ?? 0
        } else {
            runs.append(Run(job: id, token: jobs[index].token, cancelledFor: 0))
        }
        return .requested
    }

    /// `queue.retry`: false where it raises an error.
    mutating func retry(_ id: Int, _ rules: Rules) -> Bool {
        if let index = dead.firstIndex(where: { $0.job.id == id }) {
            var job = dead[index].job
            if let key = job.key, hasLiveKey(key), rules.hold(.retryHeedsKey) { return false }
            if waitsForTheDead(id) { return false }
            if rules.hold(.retryEmptiesDead) { dead.remove(at: index) }
            job.token = rules.hold(.retryAdvancesToken) ? job.token + 1 : 0
            (job.state, job.worker, job.dueIn, job.claimedFor, job.failures, job.rescues) = (.ready, nil, 0, 0, 0, 0)
            jobs.append(job)
            waitAgain(id, rules)
            return true
        }
        guard let index = jobs.firstIndex(where: { $0.id == id }) else { return false }
        if jobs[index].state == .deferred { makeReady(index) }
        return true
    }

    /// `queue.redrive`: in the order in which they died; answers how many came back.
    mutating func redrive(reason: Reason?, _ rules: Rules) -> Int {
        let corpses = dead.filter { reason == nil ? $0.reason != .cancelled : $0.reason == reason }.map(\.job.id)
        // One that has come back with another is not counted.
        return corpses.filter { id in dead.contains { $0.job.id == id } && retry(id, rules) }.count
    }
}
