/// How a lease ends: each way takes (id, token) and does nothing for a token that is no longer the job's.
extension ModelDatabase {
    /// Begins a process's transaction with `queue.hold`; false, and no transaction, if the token is fenced.
    mutating func begin(process: Int, _ lease: Lease, _ rules: Rules) -> Bool {
        guard liveIndex(lease, rules) != nil else { return false }
        transactions.append(Transaction(process: process, lease: lease))
        if !rules.hold(.effectsInsideTransaction) { effects.append(lease) }
        return true
    }

    /// Effects and completion become real. False if the transaction is gone.
    mutating func commit(process: Int, _ rules: Rules) -> Bool {
        guard let index = transactions.firstIndex(where: { $0.process == process }) else { return false }
        let lease = transactions.remove(at: index).lease
        if rules.hold(.effectsInsideTransaction) { effects.append(lease) }
        return complete(lease, rules)
    }

    mutating func complete(_ lease: Lease, _ rules: Rules) -> Bool {
        guard let index = liveIndex(lease, rules) else { return refuse(lease, rules) }
        let job = jobs.remove(at: index)
        if rules.hold(.completionKeepsHistory) { done.append(job) }
        runs.removeAll { $0.job == lease.id }
        checkpoints.removeAll { $0.job == lease.id }
        givePermitsBack([lease.id], rules)
        if job.isParent, rules.hold(.endLooksForChildren) { finishParents([lease.id], rules) }
        return true
    }

    /// How a worker whose commit was not answered learns that it happened.
    func isDone(_ lease: Lease) -> Bool { done.contains { $0.lease == lease } }

    enum FailAnswer: String, Sendable { case retry, dead, fenced }

    mutating func fail(_ lease: Lease, permanent: Bool, retryAfter: Int = 0, _ rules: Rules) -> FailAnswer {
        guard let index = liveIndex(lease, rules) else {
            _ = refuse(lease, rules)
            return .fenced
        }
        let queue = queues[jobs[index].queue]
        if rules.hold(.failureCounts) { jobs[index].failures += 1 }
        if permanent || jobs[index].failures >= queue.maxAttempts {
            bury(index, permanent ? .permanent : .attempts, rules)
            return .dead
        }
        if isCancelRequested(lease.id), rules.hold(.failureHeedsCancel) {
            bury(index, .cancelled, rules)
            return .dead
        }
        (jobs[index].state, jobs[index].worker, jobs[index].claimedFor) = (.deferred, nil, 0)
        jobs[index].dueIn = max(queue.backoff, retryAfter)
        jobs[index].token += 1
        runs.removeAll { $0.job == lease.id }
        givePermitsBack([lease.id], rules)
        return .retry
    }

    mutating func release(_ lease: Lease, _ rules: Rules) -> Bool {
        guard liveIndex(lease, rules) != nil else { return refuse(lease, rules) }
        handBack(lease, rules)
        return true
    }

    /// What `queue.release` and a beat that leaves a job out have in common.
    mutating func handBack(_ lease: Lease, _ rules: Rules) {
        guard let index = liveIndex(lease, rules) else { return }
        if isCancelRequested(lease.id), rules.hold(.releaseHeedsCancel) {
            bury(index, .cancelled, rules)
        } else {
            requeue(index, advancingToken: rules.hold(.releaseAdvancesToken), rules)
        }
    }

    mutating func acknowledgeCancel(_ lease: Lease, _ rules: Rules) -> Bool {
        guard let index = liveIndex(lease, rules) else { return refuse(lease, rules) }
        bury(index, .cancelled, rules)
        return true
    }

    mutating func saveCheckpoint(_ lease: Lease, n: Int, _ rules: Rules) -> Bool {
        guard liveIndex(lease, rules) != nil || !rules.hold(.checkpointsAreFenced) else { return false }
        checkpoints.removeAll { $0.job == lease.id && $0.n >= n }
        checkpoints.append(Checkpoint(job: lease.id, n: n, token: lease.token))
        let kept = checkpoints.filter { $0.job == lease.id }.map(\.n).sorted().suffix(2)
        checkpoints.removeAll { $0.job == lease.id && !kept.contains($0.n) }
        return true
    }
}
