/// Jobs that wait for others, and schedules that go by the clock.
extension ModelDatabase {
    /// `queue.dep`.
    struct Dep: Hashable, Sendable, Comparable {
        var parent: Int
        var child: Int
        var goesOn: Bool

        static func < (a: Self, b: Self) -> Bool { (a.parent, a.child) < (b.parent, b.child) }
    }

    /// A schedule of the first queue that is due at each tick of the model's clock, makes up for the last time that it missed, and lets its
    /// jobs overlap.
    struct Cron: Hashable, Sendable {
        var now = 0
        var next = 1
        var isOver = false

        var isDue: Bool { next <= now }

        mutating func pass() { if !isOver { now += 1 } }
    }

    private func isLive(_ id: Int) -> Bool { jobs.contains { $0.id == id } }
    private func isDead(_ id: Int) -> Bool { dead.contains { $0.job.id == id } }

    /// `queue.wait_for`, of a job that stands among the waiting ones already.
    mutating func wait(_ child: Int, for parents: [Int], goesOn: Bool, _ rules: Rules) {
        let seen = !rules.hold(.enqueueLocksParents)
        let live = parents.filter { isLive($0) || seen }
        let lost = parents.filter { isDead($0) && !seen }
        for index in jobs.indices where live.contains(jobs[index].id) { jobs[index].isParent = true }
        deps += (live + (goesOn ? [] : lost)).map { Dep(parent: $0, child: child, goesOn: goesOn) }
        guard let index = jobs.firstIndex(where: { $0.id == child }) else { return }
        jobs[index].waitsOn = live.count + (goesOn ? 0 : lost.count)
        if !lost.isEmpty, !goesOn {
            failParents(lost, rules)
        } else if live.isEmpty {
            start(index)
        }
    }

    /// Nothing keeps it any more, but a time of its own.
    private mutating func start(_ index: Int) {
        if jobs[index].dueIn > 0 { jobs[index].state = .deferred } else { makeReady(index) }
    }

    /// `queue.finish_parents`.
    mutating func finishParents(_ ids: [Int], givenUp: Bool = false, _ rules: Rules) {
        let met = deps.filter { ids.contains($0.parent) && ($0.goesOn || !givenUp) }
        deps.removeAll { met.contains($0) }
        for child in Set(met.map(\.child)).sorted() {
            guard let index = jobs.firstIndex(where: { $0.id == child && $0.state == .waiting }) else { continue }
            jobs[index].waitsOn -= met.count { $0.child == child }
            if jobs[index].waitsOn == 0 || !rules.hold(.childWaitsForAll) { start(index) }
        }
    }

    /// `queue.fail_parents`: wave by wave.
    mutating func failParents(_ ids: [Int], _ rules: Rules) {
        var wave = ids
        while !wave.isEmpty, rules.hold(.givingUpCancelsChildren) {
            finishParents(wave, givenUp: true, rules)
            var next: [Int] = []
            for child in Set(deps.filter { wave.contains($0.parent) && !$0.goesOn }.map(\.child)).sorted() {
                guard let index = jobs.firstIndex(where: { $0.id == child && $0.state == .waiting }) else { continue }
                let cause = deps.filter { $0.child == child && wave.contains($0.parent) && !$0.goesOn }.map(\.parent).min()
                if jobs[index].isParent { next.append(child) }
                bury(index, .cancelled, because: cause, rules)
            }
            wave = next
        }
    }

    /// What keeps a dead job from being retried by itself.
    func waitsForTheDead(_ id: Int) -> Bool { deps.contains { $0.child == id && !$0.goesOn && isDead($0.parent) } }

    /// `queue.revive_waiting`: the job has come back, and waits for what it waited for; those that were cancelled because of it follow.
    mutating func waitAgain(_ id: Int, _ rules: Rules) {
        var wave = [id]
        if let index = jobs.firstIndex(where: { $0.id == id }) { park(index) }
        while !wave.isEmpty {
            for index in jobs.indices where wave.contains(jobs[index].id) {
                jobs[index].isParent = deps.contains { $0.parent == jobs[index].id }
            }
            guard rules.hold(.retryRevivesChildren) else { return }
            var next: [Int] = []
            let children = Set(deps.filter { wave.contains($0.parent) }.map(\.child)).sorted()
            for child in children {
                guard let place = dead.firstIndex(where: { $0.job.id == child && $0.because != nil }), !waitsForTheDead(child) else {
                    continue
                }
                var job = dead[place].job
                if let key = job.key, hasLiveKey(key) { continue }
                dead.remove(at: place)
                job.token += 1
                (job.state, job.worker, job.claimedFor, job.failures, job.rescues) = (.waiting, nil, 0, 0, 0)
                jobs.append(job)
                park(jobs.count - 1)
                next.append(child)
            }
            wave = next
        }
    }

    /// Among the waiting ones, if there is anything to wait for.
    private mutating func park(_ index: Int) {
        jobs[index].waitsOn = deps.count { $0.child == jobs[index].id && isLive($0.parent) }
        if jobs[index].waitsOn > 0 { jobs[index].state = .waiting }
    }
}
