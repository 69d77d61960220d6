/// Plays commands on the model. Each is answered by a line of text, and so is the same command by PostgreSQL.
struct ModelPlayer {
    var database: ModelDatabase

    init() {
        database = ModelDatabase(queues: [.init(), .init(isLong: true)])
        database.schedule = .init(every: 2)
        database.slots = [1, 2]
    }

    mutating func play(_ command: Command) -> (answer: String, claimed: [ModelDatabase.Lease]) {
        let rules = Rules.product
        switch command {
        case .tick: database.tick(rules)
        case .enqueue(let queue, let key, let dueIn, let band, let slot, let parents, let goesOn):
            let id = database.enqueue(queue: queue, key: key, dueIn: dueIn, band: band, slot: slot, parents: parents, goesOn: goesOn)
            return ("\(id)", [])
        case .register: return ("\(database.register(ttl: 2))", [])
        case .beat(let worker, let held, let moving):
            let answer = database.heartbeat(worker: worker, ttl: 2, held: held, moving: moving, rules)
            return ("\(answer.isAlive) \(answer.cancelled) \(answer.lost)", [])
        case .closeSession(let worker): database.loseSession(process: worker, worker: worker)
        case .stopWorker(let worker): database.stopWorker(worker)
        case .claim(let worker, let queue, let upTo):
            let leases = database.claim(worker: worker, queue: queue, upTo: upTo, rules)
            return ("\(leases.map(\.id).sorted())", leases)
        case .turn(let worker, let queue, let upTo, let finishing):
            let fenced = finishing.filter { !database.complete($0, rules) && !database.isDone($0) }
            let leases = database.claim(worker: worker, queue: queue, upTo: upTo, rules)
            return ("\(leases.map(\.id).sorted()) fenced \(fenced.map(\.id).sorted())", leases)
        case .complete(let lease):
            // As `Outcomes.complete` does: a commit that has happened before is recognised, and does not happen twice.
            guard database.begin(process: 0, lease, rules) else { return ("\(database.isDone(lease))", []) }
            return ("\(database.commit(process: 0, rules))", [])
        case .fail(let lease, let permanent, let retryAfter):
            return (database.fail(lease, permanent: permanent, retryAfter: retryAfter, rules).rawValue, [])
        case .release(let lease): return ("\(database.release(lease, rules))", [])
        case .acknowledgeCancel(let lease): return ("\(database.acknowledgeCancel(lease, rules))", [])
        case .checkpoint(let lease, let n): return ("\(database.saveCheckpoint(lease, n: n, rules))", [])
        case .rescue: return ("\(database.rescue(rules).count)", [])
        case .promote: return ("\(database.promote(rules))", [])
        case .sweep: return ("\(database.sweep(rules).count)", [])
        case .cancel(let id): return (database.cancel(id, rules)?.rawValue ?? "unknown", [])
        case .retry(let id): return ("\(database.retry(id, rules))", [])
        case .redrive(let reason): return ("\(database.redrive(reason: reason, rules))", [])
        case .pause(let queue): database.queues[queue].isPaused = true
        case .resume(let queue): database.queues[queue].isPaused = false
        case .countEvents(let n): return ("\(database.countEvents(n, rules) ? 1 : 0)", [])
        }
        return ("", [])
    }

    /// Everything that can be seen, a line a row, in the words of ``PostgresPlayer/observe()``; tokens stand apart, see there.
    func observe() -> [String] {
        func text(_ value: Int?) -> String { value.map(String.init) ?? "-" }
        // Jobs that are not in line have no place there.
        let isParked = { (job: ModelDatabase.Job) in job.state == .deferred || job.state == .waiting }
        let parked = database.jobs.filter(isParked).sorted { $0.id < $1.id }
        let jobs = (database.jobs.filter { !isParked($0) } + parked).map { job in
            let due = job.state == .deferred ? job.dueIn : nil
            let claimed = job.state == .leased ? job.claimedFor : nil
            let head = "job \(job.id) \(job.queue) \(job.band) \(text(job.key)) \(job.state.rawValue) \(text(job.worker)) "
            return head + "\(text(due)) \(text(claimed)) \(job.attempt) \(job.failures) \(job.rescues) \(text(job.slot)) \(job.waitsOn)"
        }
        let done = database.done.sorted { $0.id < $1.id }.map { "done \($0.id) \($0.attempt) \($0.failures) \($0.rescues)" }
        let dead = database.dead.map { corpse in
            let job = corpse.job
            return "dead \(job.id) \(corpse.reason.rawValue) \(text(job.key)) \(job.attempt) \(job.failures) \(job.rescues)"
        }
        let runs = database.runs.sorted { $0.job < $1.job }.map { "run \($0.job) \(text($0.leaseIn)) \(text($0.cancelledFor))" }
        let checkpoints = database.checkpoints.sorted { ($0.job, $0.n) < ($1.job, $1.n) }.map { "checkpoint \($0.job) \($0.n)" }
        let workers = database.workers.map { worker in
            worker.hasEnded ? "worker \(worker.id) ended" : "worker \(worker.id) \(worker.leaseIn) \(worker.missedFor != nil)"
        }
        let schedule = database.schedule.map { ["schedule \($0.counter) \($0.fired)"] } ?? []
        let permits = database.permits.sorted { $0.lease < $1.lease }.map { "permit \($0.lease.id) \($0.slot)" }
        let deps = database.deps.sorted { ($0.child, $0.parent) < ($1.child, $1.parent) }.map {
            "dep \($0.child) \($0.parent) \($0.goesOn)"
        }
        return jobs + done + dead + runs + checkpoints + workers + schedule + permits + deps
    }

    /// Every token that can be seen, by the table it stands in and the job.
    func tokens() -> [(place: String, lease: ModelDatabase.Lease)] {
        var tokens = database.jobs.map { (place: "job \($0.id)", lease: $0.lease) }
        tokens += database.done.map { (place: "done \($0.id)", lease: $0.lease) }
        tokens += database.dead.map { (place: "dead \($0.job.id)", lease: $0.job.lease) }
        tokens += database.runs.map { (place: "run \($0.job)", lease: .init(id: $0.job, token: $0.token)) }
        tokens += database.checkpoints.map { (place: "checkpoint \($0.job) \($0.n)", lease: .init(id: $0.job, token: $0.token)) }
        tokens += database.permits.map { (place: "permit \($0.lease.id)", lease: $0.lease) }
        tokens += database.effects.map { (place: "effect \($0.id)", lease: $0) }
        return tokens
    }

    /// Of jobs that one command makes ready together, the order is not promised: the model takes PostgreSQL's.
    mutating func adoptOrder(_ ids: [Int]) {
        let places = Dictionary(uniqueKeysWithValues: ids.enumerated().map { ($0.element, $0.offset) })
        database.jobs.sort { places[$0.id, default: 0] < places[$1.id, default: 0] }
    }
}
