/// Which steps are possible in a state.
extension World {
    func actions(_ scenario: Scenario) -> [Action] {
        var actions: [Action] = budget.ticks > 0 ? [.tick] : []
        if processes.contains(where: \.acts) { actions.append(.sweep) }
        for index in processes.indices { processActions(index, scenario, &actions) }
        operatorActions(&actions)
        if budget.clockSteps > 0 { actions.append(.clockStep) }
        if durable != nil, durable != database { actions.append(.walIsFlushed) }
        if budget.serverCrashes > 0 { actions.append(.serverCrash) }
        return actions
    }

    private func processActions(_ index: Int, _ scenario: Scenario, _ actions: inout [Action]) {
        let process = processes[index]
        guard process.isAlive else {
            if budget.restarts > 0 { actions.append(.restart(index)) }
            return
        }
        if budget.crashes > 0 { actions.append(.crash(index)) }
        // What was on the way arrives, whether or not its sender still runs.
        if process.beat != nil { actions.append(.beatArrives(index)) }
        if process.isFrozen {
            actions.append(.thaw(index))
            return
        }
        if process.firedTick != nil {
            actions.append(.noteTick(index))
        } else if process.seenTick != nil {
            actions.append(.fireTick(index))
        } else if database.cron?.isDue == true {
            actions.append(.lookAtClock(index))
        }
        if budget.freezes > 0 { actions.append(.freeze(index)) }
        if budget.cuts > 0 { actions.append(.cut(index)) }
        if process.worker == nil {
            actions.append(.register(index))
        } else if process.beat == nil {
            actions.append(.beat(index))
            if budget.lostAnswers > 0 { actions.append(.beatUnanswered(index)) }
            if budget.stalls > 0, !process.runs.isEmpty { actions.append(.beatStalled(index)) }
            if budget.lateBeats > 0 { actions.append(.sendBeat(index)) }
        }
        let claimable = database.jobs.contains {
            $0.state == .ready && memory.issued[$0.id - 1] < scenario.mostClaims && !database.isLocked($0.id)
        }
        if claimable, process.worker != nil, process.sinceBeat < scenario.queue.ttl, process.runs.count < scenario.concurrency {
            actions.append(.claim(index))
            if budget.lostAnswers > 0 { actions.append(.claimUnanswered(index)) }
        }
        if process.sinceBeat >= scenario.queue.ttl, !process.runs.isEmpty { actions.append(.giveUp(index)) }
        if database.transactions.contains(where: { $0.process == index }) {
            actions.append(.commit(index))
            if budget.lostAnswers > 0 { actions.append(.commitUnanswered(index)) }
            return
        }
        for run in process.runs where !database.isLocked(run.lease.id) {
            if scenario.completes || run.isUnanswered { actions.append(.begin(index, run.lease)) }
            if run.isUnanswered { continue }
            if run.isAskedToCancel { actions.append(.acknowledgeCancel(index, run.lease)) }
            if budget.failures > 0 {
                actions.append(.fail(index, run.lease, permanent: false))
                actions.append(.fail(index, run.lease, permanent: true))
            }
            if budget.releases > 0 { actions.append(.release(index, run.lease)) }
            if budget.checkpoints > 0 { actions.append(.checkpoint(index, run.lease)) }
        }
    }

    private func operatorActions(_ actions: inout [Action]) {
        for job in database.jobs where budget.cancels > 0 && !database.isLocked(job.id) { actions.append(.cancel(job.id)) }
        if database.queues[0].isPaused {
            actions.append(.resume)
        } else if budget.pauses > 0 {
            actions.append(.pause)
        }
        if budget.retries > 0 {
            for corpse in database.dead { actions.append(.retry(corpse.job.id)) }
            if !database.dead.isEmpty { actions.append(.redrive) }
        }
        if budget.enqueues > 0 { for key in Set(memory.keys.compactMap { $0 }).sorted() { actions.append(.enqueue(key: key)) } }
        if budget.events > 0 { actions.append(.countEvent) }
        if seenParent != nil {
            actions += [.enqueueWaiting(goesOn: false), .enqueueWaiting(goesOn: true)]
        } else if budget.children > 0 {
            for job in database.jobs { actions.append(.lookAtParent(job.id)) }
        }
    }
}
