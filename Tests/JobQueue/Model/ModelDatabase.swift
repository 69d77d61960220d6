/// The tables of schema `queue` as a value, and its functions as mutations: what `migrations/*_queue_*.sql` says, without SQL.
///
/// Time is relative, in ticks of ten seconds, and stops counting where nothing depends on it any more, so that there are finitely many
/// states. The order of `jobs` is the order of `seq`.
struct ModelDatabase: Hashable, Sendable {
    /// A job in the hands of a worker.
    struct Lease: Hashable, Sendable, Comparable {
        var id: Int
        var token: Int

        static func < (a: Self, b: Self) -> Bool { (a.id, a.token) < (b.id, b.token) }
    }

    /// `queue.queue`. All delays are the same: the base of the backoff is its cap.
    struct Queue: Hashable, Sendable {
        var isLong = false
        var isPaused = false
        var ttl = 2
        var backoff = 2
        var maxAttempts = 2
        var maxRescues = 1
    }

    struct Worker: Hashable, Sendable {
        var id: Int
        var leaseIn: Int
        var hasSession = true
        var missedFor: Int?
        var hasEnded = false
    }

    enum State: Int, Hashable, Sendable { case ready, leased, deferred, waiting }

    struct Job: Hashable, Sendable {
        var id: Int
        var queue = 0
        var band = 1
        var key: Int?
        var state = State.ready
        var token = 0
        var worker: Int?
        var dueIn = 0
        var claimedFor = 0
        var attempt = 0
        var failures = 0
        var rescues = 0
        var slot: Int?
        var waitsOn = 0
        var isParent = false

        var lease: Lease { Lease(id: id, token: token) }
    }

    /// `queue.run`: of each leased job of a long queue, and of each leased job that is asked to cancel.
    struct Run: Hashable, Sendable {
        var job: Int
        var token: Int
        var leaseIn: Int?
        var cancelledFor: Int?
    }

    enum Reason: String, Hashable, Sendable { case permanent, attempts, crash_loop, cancelled }

    struct Dead: Hashable, Sendable {
        var job: Job
        var reason: Reason
        /// The job that it waited for and that was given up.
        var because: Int?
    }

    struct Checkpoint: Hashable, Sendable {
        var job: Int
        var n: Int
        var token: Int
    }

    /// One schedule, of the first queue.
    struct Schedule: Hashable, Sendable {
        static let key = 99
        var every: Int
        var counter = 0
        var fired = 0
    }

    /// `begin; select queue.hold(…)`: not committed yet.
    struct Transaction: Hashable, Sendable {
        var process: Int
        var lease: Lease
        var idleFor = 0
    }

    /// After so many ticks a job that was asked to cancel is taken away.
    var cancelGrace = 3
    /// After so many ticks the server ends a transaction that its client leaves alone.
    var idleLimit = 3

    var queues: [Queue]
    var workers: [Worker] = []
    var jobs: [Job] = []
    var runs: [Run] = []
    var done: [Job] = []
    var dead: [Dead] = []
    var checkpoints: [Checkpoint] = []
    var schedule: Schedule?
    var cron: Cron?
    /// How many permits each slot has, and those that are held.
    var slots: [Int] = []
    var permits: [Permit] = []
    /// The slot that every worker offers.
    var machineSlot: Int?
    var deps: [Dep] = []
    var transactions: [Transaction] = []
    /// What the jobs wrote, by the lease under which they did.
    var effects: [Lease] = []
    var nextJob = 1

    init(queues: [Queue]) { self.queues = queues }

    // MARK: - Time

    /// Ten seconds pass.
    mutating func tick(_ rules: Rules) {
        for i in workers.indices {
            workers[i].leaseIn = max(workers[i].leaseIn - 1, 0)
            if let missed = workers[i].missedFor { workers[i].missedFor = min(missed + 1, 1) }
        }
        for i in jobs.indices {
            jobs[i].dueIn = max(jobs[i].dueIn - 1, 0)
            if jobs[i].state == .leased { jobs[i].claimedFor = min(jobs[i].claimedFor + 1, queues[jobs[i].queue].ttl) }
        }
        for i in runs.indices {
            if let lease = runs[i].leaseIn { runs[i].leaseIn = max(lease - 1, 0) }
            if let cancelled = runs[i].cancelledFor { runs[i].cancelledFor = min(cancelled + 1, cancelGrace) }
        }
        for i in dead.indices { dead[i].job.dueIn = max(dead[i].job.dueIn - 1, 0) }
        cron?.pass()
        for i in transactions.indices { transactions[i].idleFor = min(transactions[i].idleFor + 1, idleLimit) }
        if rules.hold(.idleTransactionsEnd) { transactions = transactions.filter { $0.idleFor < idleLimit } }
    }

    /// Forgets what nothing depends on, and sorts what has no order, so that states that cannot be told apart are equal.
    ///
    /// - Parameter referred: workers that somebody outside still names; the number of another one that is gone may be given again.
    mutating func forget(except referred: [Int?]) {
        let working = jobs.map(\.worker)
        workers.removeAll { $0.hasEnded && !referred.contains($0.id) && !working.contains($0.id) }
        workers.sort { $0.id < $1.id }
        // Only among ready jobs does the order count.
        jobs = jobs.filter { $0.state == .ready } + jobs.filter { $0.state != .ready }.sorted { $0.id < $1.id }
        done = done.map { Job(id: $0.id, token: $0.token) }.sorted { $0.id < $1.id }
        for index in dead.indices { (dead[index].job.worker, dead[index].job.claimedFor, dead[index].job.dueIn) = (nil, 0, 0) }
        dead.sort { $0.job.id < $1.job.id }
        runs.sort { $0.job < $1.job }
        permits.sort()
        deps.sort()
        effects.sort()
    }

    // MARK: - Rows

    func isLocked(_ id: Int) -> Bool { transactions.contains { $0.lease.id == id } }

    func liveIndex(_ lease: Lease, _ rules: Rules) -> Int? {
        jobs.firstIndex {
            $0.id == lease.id && ($0.token == lease.token || !rules.hold(.outcomesCheckToken))
                && ($0.state == .leased || !rules.hold(.outcomesCheckLease))
        }
    }

    func isCancelRequested(_ id: Int) -> Bool { runs.contains { $0.job == id && $0.cancelledFor != nil } }

    func hasLiveKey(_ key: Int) -> Bool { jobs.contains { $0.key == key } }

    mutating func bury(_ index: Int, _ reason: Reason, because: Int? = nil, _ rules: Rules) {
        var corpse = jobs[index]
        if rules.hold(.buryTakesFromLive) { jobs.remove(at: index) }
        corpse.token += 1
        corpse.state = .ready
        dead.append(Dead(job: corpse, reason: reason, because: because))
        runs.removeAll { $0.job == corpse.id }
        givePermitsBack([corpse.id], rules)
        if corpse.isParent, because == nil { failParents([corpse.id], rules) }
    }

    /// Back to ready, behind all others.
    mutating func requeue(_ index: Int, advancingToken: Bool, _ rules: Rules) {
        var job = jobs.remove(at: index)
        if advancingToken { job.token += 1 }
        (job.state, job.worker, job.claimedFor) = (.ready, nil, 0)
        jobs.append(job)
        runs.removeAll { $0.job == job.id }
        givePermitsBack([job.id], rules)
    }

    // MARK: - Enqueue

    /// Answers the new job's id, or that of the live one with this key.
    mutating func enqueue(
        queue: Int = 0, key: Int? = nil, dueIn: Int = 0, band: Int = 1, slot: Int? = nil, parents: [Int] = [], goesOn: Bool = false,
        _ rules: Rules = .product
    ) -> Int {
        if let key, let live = jobs.first(where: { $0.key == key }) { return live.id }
        var job = Job(id: nextJob, queue: queue, band: band, key: key)
        job.slot = slot
        if dueIn > 0 { (job.state, job.dueIn) = (.deferred, dueIn) }
        if !parents.isEmpty { job.state = .waiting }
        jobs.append(job)
        nextJob += 1
        if !parents.isEmpty { wait(job.id, for: Set(parents).sorted(), goesOn: goesOn, rules) }
        return job.id
    }

    // MARK: - Workers

    mutating func register(ttl: Int) -> Int {
        let id = (1...).first { id in !workers.contains { $0.id == id } } ?? 0
        workers.append(Worker(id: id, leaseIn: ttl))
        return id
    }

    mutating func stopWorker(_ id: Int) {
        if let index = workers.firstIndex(where: { $0.id == id && !$0.hasEnded }) { end(index) }
    }

    /// Nothing depends on an ended worker's lease and session any more.
    mutating func end(_ index: Int) { workers[index] = Worker(id: workers[index].id, leaseIn: 0, hasSession: false, hasEnded: true) }

    /// The server sees a process's connections close.
    mutating func loseSession(process: Int, worker id: Int?) {
        transactions.removeAll { $0.process == process }
        for index in workers.indices where workers[index].id == id && !workers[index].hasEnded { workers[index].hasSession = false }
    }

    struct BeatAnswer: Hashable, Sendable {
        var isAlive: Bool
        var cancelled: [Int]
        var lost: [Int]
    }

    mutating func heartbeat(worker id: Int, ttl: Int, held: [Lease], moving: [Bool], _ rules: Rules) -> BeatAnswer {
        guard let index = workers.firstIndex(where: { $0.id == id && (!$0.hasEnded || !rules.hold(.deadWorkersStayDead)) }) else {
            return BeatAnswer(isAlive: false, cancelled: [], lost: held.map(\.id).sorted())
        }
        workers[index] = Worker(id: id, leaseIn: ttl)
        for (lease, moves) in zip(held, moving) where moves {
            let isLive = jobs.contains { $0.lease == lease && $0.state == .leased } || !rules.hold(.beatExtendsOwnRunsOnly)
            guard isLive, let job = jobs.first(where: { $0.id == lease.id }), queues[job.queue].isLong,
                let run = runs.firstIndex(where: {
                    $0.job == lease.id && ($0.token == lease.token || !rules.hold(.beatExtendsOwnRunsOnly))
                })
            else { continue }
            runs[run].leaseIn = queues[job.queue].ttl
        }
        let lost = held.filter { lease in !jobs.contains { $0.lease == lease && $0.state == .leased } }
        if rules.hold(.unknownJobsAreHandedBack) {
            let unknown = jobs.filter { job in
                job.worker == id && job.state == .leased && job.claimedFor >= ttl && !isLocked(job.id)
                    && !held.contains { $0.id == job.id }
            }
            for job in unknown { handBack(job.lease, rules) }
        }
        let cancelled = jobs.filter { $0.worker == id && $0.state == .leased && isCancelRequested($0.id) }
        return BeatAnswer(isAlive: true, cancelled: cancelled.map(\.id).sorted(), lost: lost.map(\.id).sorted())
    }

    /// - Parameter token: what the token becomes; the next one unless told.
    mutating func claim(worker id: Int, queue: Int = 0, upTo: Int = 1, _ rules: Rules, token: (Job) -> Int = { $0.token + 1 }) -> [Lease] {
        guard workers.contains(where: { $0.id == id && !$0.hasEnded && $0.leaseIn > 0 }),
            !queues[queue].isPaused || !rules.hold(.claimHeedsPause)
        else { return [] }
        let ready = jobs.indices.filter { jobs[$0].state == .ready && jobs[$0].queue == queue && !isLocked(jobs[$0].id) }
            .sorted { (jobs[$0].band, $0) < (jobs[$1].band, $1) }
        let candidates = ready.filter { isFree(jobs[$0].slot) && isFree(machineSlot) || !rules.hold(.claimTakesPermit) }.prefix(upTo)
        return candidates.compactMap { index in
            let next = rules.hold(.claimAdvancesToken) ? token(jobs[index]) : max(jobs[index].token, 1)
            guard takePermits(Lease(id: jobs[index].id, token: next), of: [jobs[index].slot, machineSlot], rules) else { return nil }
            (jobs[index].state, jobs[index].worker, jobs[index].token, jobs[index].claimedFor) = (.leased, id, next, 0)
            jobs[index].attempt += 1
            if !rules.hold(.keyLivesAsLongAsItsJob) { jobs[index].key = nil }
            if queues[queue].isLong {
                runs.removeAll { $0.job == jobs[index].id }
                runs.append(Run(job: jobs[index].id, token: next, leaseIn: queues[queue].ttl))
            }
            return jobs[index].lease
        }
    }
}
