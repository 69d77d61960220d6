import SeededRandom

/// One call of the queue's functions, as the differential tests make it of the model and of PostgreSQL alike.
enum Command: Sendable {
    typealias Lease = ModelDatabase.Lease

    case tick
    case enqueue(queue: Int, key: Int?, dueIn: Int, band: Int, slot: Int? = nil, parents: [Int] = [], goesOn: Bool = false)
    case register
    case beat(Int, held: [Lease], moving: [Bool])
    case closeSession(Int)
    case stopWorker(Int)
    case claim(Int, queue: Int, upTo: Int)
    case complete(Lease)
    /// The fused turn: these are finished and others claimed in one commit.
    case turn(Int, queue: Int, upTo: Int, finishing: [Lease])
    case fail(Lease, permanent: Bool, retryAfter: Int)
    case release(Lease)
    case acknowledgeCancel(Lease)
    case checkpoint(Lease, n: Int)
    case rescue, promote, sweep
    case cancel(Int)
    case retry(Int)
    case redrive(ModelDatabase.Reason?)
    case pause(Int), resume(Int)
    case countEvents(Int)

    /// The next command for a model in this state.
    ///
    /// - Parameter given: every lease that was ever handed out, with its worker: most of them are stale, which is the point.
    static func random(_ model: ModelDatabase, given: [(lease: Lease, worker: Int)], using random: inout SplitMix64) -> Command {
        func chance(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &random) == 0 }
        func pick<T>(_ from: [T]) -> T? { from.randomElement(using: &random) }
        let live = model.workers.filter { !$0.hasEnded }.map(\.id)
        if model.jobs.isEmpty && chance(2) || model.jobs.count < 7 && chance(6) {
            let known = Array(1..<model.nextJob)
            let parents =
                !known.isEmpty && chance(5) ? (0...Int.random(in: 0...1, using: &random)).compactMap { _ in pick(known.suffix(6)) } : []
            return .enqueue(
                queue: Int.random(in: 0...1, using: &random), key: chance(2) ? Int.random(in: 1...2, using: &random) : nil,
                dueIn: chance(4) ? Int.random(in: 1...2, using: &random) : 0, band: Int.random(in: 0...2, using: &random),
                slot: chance(3) ? Int.random(in: 0...1, using: &random) : nil, parents: parents, goesOn: chance(3))
        }
        if live.count < 2 && chance(3) { return .register }
        if let corpse = pick(model.dead), chance(12) { return .redrive(chance(2) ? nil : corpse.reason) }
        let isMissing = model.workers.contains { !$0.hasEnded && !$0.hasSession }
        switch Int.random(in: 0..<22, using: &random) {
        case 0...2: return .tick
        case 3...4:
            if let worker = pick(chance(6) ? model.workers.map(\.id) : live) {
                let current = model.jobs.filter { $0.state == .leased }.map(\.lease)
                var finishing: [Lease] = []
                for _ in 0..<Int.random(in: 0...2, using: &random) {
                    if let lease = chance(3) ? pick(given.map(\.lease)) : pick(current), !finishing.contains(lease) {
                        finishing.append(lease)
                    }
                }
                return .turn(
                    worker, queue: Int.random(in: 0...1, using: &random), upTo: Int.random(in: 0...2, using: &random), finishing: finishing)
            }
        case 5...6:
            if let worker = pick(chance(6) ? model.workers.map(\.id) : live) {
                return .claim(worker, queue: Int.random(in: 0...1, using: &random), upTo: Int.random(in: 1...2, using: &random))
            }
        case 7...8:
            if let worker = pick(chance(5) ? model.workers.map(\.id) : live) {
                let held = given.filter { $0.worker == worker }.suffix(3).map(\.lease).filter { _ in !chance(4) }
                return .beat(worker, held: held, moving: held.map { _ in !chance(4) })
            }
        case 9...15:
            let current = model.jobs.filter { $0.state == .leased }.map(\.lease)
            if let lease = chance(3) ? pick(given.map(\.lease)) : pick(current) {
                switch Int.random(in: 0..<9, using: &random) {
                case 0...1: return .complete(lease)
                case 2...3: return .fail(lease, permanent: chance(4), retryAfter: chance(3) ? 4 : 0)
                case 4: return .release(lease)
                case 5 where model.isCancelRequested(lease.id): return .acknowledgeCancel(lease)
                case 6...7: return .checkpoint(lease, n: Int.random(in: 1...4, using: &random))
                default: return .cancel(lease.id)
                }
            }
        case 16: return isMissing || chance(2) ? .rescue : .sweep
        case 17: return .promote
        case 18:
            return chance(2)
                ? .countEvents(Int.random(in: 1...3, using: &random)) : .redrive(pick([nil, .cancelled, .attempts, .crash_loop]) ?? nil)
        case 19: if let job = pick(model.jobs) { return chance(2) ? .cancel(job.id) : .retry(job.id) }
        case 20:
            let ended = model.done.map(\.id) + model.dead.map(\.job.id)
            if let id = pick(ended) { return chance(3) ? .cancel(id) : .retry(id) }
        default:
            if let paused = model.queues.firstIndex(where: \.isPaused) { return .resume(paused) }
            if chance(3) { return .pause(Int.random(in: 0...1, using: &random)) }
            if let worker = pick(live) { return chance(4) ? .stopWorker(worker) : .closeSession(worker) }
        }
        return .tick
    }
}
