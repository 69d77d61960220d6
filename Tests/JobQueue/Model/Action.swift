/// A step of one process, of an operator, of time, or of misfortune.
enum Action: Hashable, Sendable, CustomStringConvertible {
    typealias Lease = ModelDatabase.Lease

    // Time.
    case tick
    case clockStep
    case walIsFlushed

    // A process by itself.
    case beat(Int)
    case beatUnanswered(Int)
    case beatStalled(Int)
    case sendBeat(Int)
    case beatArrives(Int)
    case register(Int)
    case claim(Int)
    case claimUnanswered(Int)
    case giveUp(Int)
    case sweep

    // A process and one of its runs.
    case begin(Int, Lease)
    case commit(Int)
    case commitUnanswered(Int)
    case fail(Int, Lease, permanent: Bool)
    case release(Int, Lease)
    case acknowledgeCancel(Int, Lease)
    case checkpoint(Int, Lease)

    // Operators and callers.
    case cancel(Int)
    case pause, resume
    case retry(Int)
    case redrive
    case enqueue(key: Int)
    case countEvent
    case lookAtParent(Int)
    case enqueueWaiting(goesOn: Bool)
    case lookAtClock(Int)
    case fireTick(Int)
    case noteTick(Int)

    // Misfortune.
    case crash(Int)
    case restart(Int)
    case freeze(Int)
    case thaw(Int)
    case cut(Int)
    case serverCrash

    var description: String {
        let name = World.name
        switch self {
        case .tick: return "a tick passes"
        case .clockStep: return "the database's clock steps a tick ahead"
        case .walIsFlushed: return "the server flushes its log"
        case .beat(let p): return "\(name(p)) beats"
        case .beatUnanswered(let p): return "\(name(p)) beats and gets no answer"
        case .beatStalled(let p): return "\(name(p)) beats, its runs do not move"
        case .sendBeat(let p): return "\(name(p)) sends a beat"
        case .beatArrives(let p): return "\(name(p))'s beat arrives"
        case .register(let p): return "\(name(p)) registers"
        case .claim(let p): return "\(name(p)) claims"
        case .claimUnanswered(let p): return "\(name(p)) claims and gets no answer"
        case .giveUp(let p): return "\(name(p)) finds its lease over and drops its runs"
        case .sweep: return "somebody sweeps"
        case .begin(let p, let lease): return "\(name(p)) begins to complete job \(lease.id) under token \(lease.token)"
        case .commit(let p): return "\(name(p)) commits"
        case .commitUnanswered(let p): return "\(name(p)) commits and gets no answer"
        case .fail(let p, let lease, let permanent):
            return "\(name(p)) fails job \(lease.id) under token \(lease.token)\(permanent ? " for good" : "")"
        case .release(let p, let lease): return "\(name(p)) hands back job \(lease.id) under token \(lease.token)"
        case .acknowledgeCancel(let p, let lease): return "\(name(p)) has stopped job \(lease.id) under token \(lease.token)"
        case .checkpoint(let p, let lease): return "\(name(p)) saves a checkpoint of job \(lease.id) under token \(lease.token)"
        case .cancel(let id): return "an operator cancels job \(id)"
        case .pause: return "an operator pauses the queue"
        case .resume: return "an operator resumes the queue"
        case .retry(let id): return "an operator retries job \(id)"
        case .redrive: return "an operator redrives the dead jobs"
        case .enqueue(let key): return "a caller enqueues a job of key \(key)"
        case .countEvent: return "an event is counted"
        case .lookAtParent(let id): return "a caller looks at job \(id), which a new one shall wait for"
        case .enqueueWaiting(let goesOn): return "the caller enqueues it\(goesOn ? ", to go on in any case" : "")"
        case .lookAtClock(let p): return "\(name(p)) sees that the schedule is due"
        case .fireTick(let p): return "\(name(p)) fires the schedule"
        case .noteTick(let p): return "\(name(p)) notes the schedule's next time"
        case .crash(let p): return "\(name(p)) is killed"
        case .restart(let p): return "\(name(p)) starts again"
        case .freeze(let p): return "\(name(p)) freezes"
        case .thaw(let p): return "\(name(p)) thaws"
        case .cut(let p): return "\(name(p))'s connections are cut"
        case .serverCrash: return "the server crashes and recovers"
        }
    }
}
