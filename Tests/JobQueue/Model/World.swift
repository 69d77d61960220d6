/// The database and the processes that work for it, between any two steps of any of them, with what an onlooker remembers.
struct World: Hashable, Sendable {
    typealias Lease = ModelDatabase.Lease

    /// A run of a handler, as its process believes in it.
    struct Run: Hashable, Sendable {
        var lease: Lease
        var isAskedToCancel = false
        /// It reports no progress, and its lease is not renewed.
        var isStalled = false
        /// The commit was sent and no answer came.
        var isUnanswered = false
    }

    /// A beat that was sent and has not reached the database.
    struct Beat: Hashable, Sendable {
        var held: [Lease]
        var sentAgo = 0
    }

    struct Process: Hashable, Sendable {
        var isAlive = true
        var isFrozen = false
        /// Its row in `queue.worker`, as far as it knows.
        var worker: Int?
        /// On its own clock, since it sent the last beat that was acknowledged.
        var sinceBeat = 0
        var runs: [Run] = []
        var beat: Beat?
        /// The time that it has seen a schedule due for, and one that it has fired for without noting it.
        var seenTick: Int?
        var firedTick: Int?

        var acts: Bool { isAlive && !isFrozen }
    }

    /// What may still happen.
    struct Budget: Hashable, Sendable {
        var ticks = 2
        var crashes = 0, restarts = 0, freezes = 0, lostAnswers = 0, cuts = 0, clockSteps = 0, stalls = 0, serverCrashes = 0, lateBeats = 0
        var failures = 0, releases = 0, checkpoints = 0
        var cancels = 0, pauses = 0, retries = 0, enqueues = 0, events = 0, children = 0
    }

    /// What an onlooker remembers, whom no crash makes forget.
    struct Memory: Hashable, Sendable {
        /// The greatest token of each job that anybody was given.
        var issued: [Int] = []
        /// Failures and rescues of each job since it was enqueued or an operator brought it back.
        var failures: [Int] = []
        var rescues: [Int] = []
        /// Jobs that somebody was promised will not run again.
        var cancelled: Set<Int> = []
        /// The key that each job was enqueued with.
        var keys: [Int?] = []
        var events = 0
        /// What each job was told to wait for.
        var waits: [[ModelDatabase.Dep]] = []
        /// Jobs that were given up at some time.
        var givenUp: Set<Int> = []
        /// The times that a schedule has fired for.
        var ticks: [Int] = []
        /// An invariant that the last step broke.
        var breach: Breach?
    }

    var database: ModelDatabase
    /// What the database would be after a crash of the server; nil where that is not explored.
    var durable: ModelDatabase?
    var processes: [Process]
    var budget: Budget
    /// A caller is about to enqueue a job that waits for this one, and has seen it live.
    var seenParent: Int?
    var memory = Memory()

    init(_ scenario: Scenario) {
        database = ModelDatabase(queues: [scenario.queue])
        // Only the order of what happens counts, and one tick is enough to tell before from after.
        (database.cancelGrace, database.idleLimit) = (1, 1)
        if let every = scenario.scheduleEvery { database.schedule = .init(every: every) }
        if scenario.hasCron { database.cron = .init() }
        (database.slots, database.machineSlot) = (scenario.slots, scenario.machineSlot)
        for (index, key) in scenario.keys.enumerated() {
            _ = database.enqueue(key: key, slot: scenario.jobSlot, parents: scenario.parents[index + 1] ?? [])
        }
        processes = []
        for _ in 0..<scenario.processes {
            processes.append(Process(worker: database.register(ttl: scenario.queue.ttl)))
        }
        budget = scenario.budget
        if scenario.budget.serverCrashes > 0 { durable = database }
        noteJobs()
    }

    /// Jobs that have appeared since the last look.
    mutating func noteJobs() {
        while memory.issued.count < database.nextJob - 1 {
            let id = memory.issued.count + 1
            memory.issued.append(0)
            memory.failures.append(0)
            memory.rescues.append(0)
            memory.keys.append(database.jobs.first { $0.id == id }?.key)
            memory.waits.append(database.deps.filter { $0.child == id })
        }
    }

    /// One line for a trace.
    var summary: String {
        let live = database.jobs.sorted { $0.id < $1.id }.map { job in
            let holder = job.worker.map { " to worker \($0)" } ?? ""
            let cancel = database.isCancelRequested(job.id) ? ", to be cancelled" : ""
            return "job \(job.id) \(job.state)\(job.state == .leased ? holder : "") token \(job.token)\(cancel)"
        }
        let ended =
            database.done.map { "job \($0.id) done under token \($0.token)" }
            + database.dead.map { "job \($0.job.id) dead (\($0.reason.rawValue)) token \($0.job.token)" }
        let held = processes.enumerated().filter { !$0.element.runs.isEmpty }.map { index, process in
            "\(Self.name(index)) holds " + process.runs.map { "\($0.lease.id)/\($0.lease.token)" }.joined(separator: " ")
        }
        let wrote = database.effects.isEmpty ? [] : ["effects " + database.effects.map { "\($0.id)/\($0.token)" }.joined(separator: " ")]
        return (live + ended + held + wrote).joined(separator: "; ")
    }

    static func name(_ process: Int) -> String { process < 26 ? String(UnicodeScalar(UInt8(65 + process))) : "#\(process)" }
}

/// Where an exploration begins, and what may happen in it.
struct Scenario: Sendable {
    var name: String
    var queue = ModelDatabase.Queue(ttl: 1, backoff: 1)
    var processes = 2
    /// A job each, with its dedupe key.
    var keys: [Int?] = [nil, nil]
    var scheduleEvery: Int?
    /// Whether there is a schedule that is due at each tick.
    var hasCron = false
    /// How many permits each slot has, which one all jobs name, and which one all workers offer.
    var slots: [Int] = []
    var jobSlot: Int?
    var machineSlot: Int?
    /// What each job waits for.
    var parents: [Int: [Int]] = [:]
    var budget = World.Budget()
    /// A job that was claimed so often is not claimed again: an end to what a broken variant could do for ever.
    var mostClaims = 3
    /// Whether jobs also run to an end that is not a failure; without it only faults matter.
    var completes = true
    /// How many jobs a process has at a time.
    var concurrency = 1
}
