/// What is explored: each scenario lets a few things go wrong and follows every order in which they can.
extension Scenario {
    private static func make(_ name: String, _ change: (inout Scenario) -> Void) -> Scenario {
        var scenario = Scenario(name: name)
        change(&scenario)
        return scenario
    }

    static let crash = make("two jobs, a worker is killed") {
        $0.budget.crashes = 1
    }
    static let zombie = make("two jobs, a worker freezes and thaws") {
        $0.budget.freezes = 1
    }
    static let longZombie = make("a long job with checkpoints, a worker freezes and thaws") {
        $0.queue.isLong = true
        $0.keys = [nil]
        $0.budget.freezes = 1
        $0.budget.checkpoints = 2
    }
    static let beats = make("one job, late and lost answers, connections cut") {
        $0.keys = [nil]
        $0.queue.isLong = true
        $0.budget.lateBeats = 1
        $0.budget.lostAnswers = 1
        $0.budget.cuts = 1
    }
    static let stalled = make("two long jobs, a run that does not move") {
        $0.queue.isLong = true
        $0.budget.stalls = 1
    }
    static let clock = make("one job, the clock steps, a worker freezes") {
        $0.keys = [nil]
        $0.budget.clockSteps = 2
        $0.budget.freezes = 1
    }
    static let failing = make("one job that fails, is handed back, crashes and is retried") {
        $0.keys = [nil]
        $0.budget.failures = 2
        $0.budget.releases = 1
        $0.budget.crashes = 1
        $0.budget.retries = 1
    }
    static let crashLoop = make("one job, workers are killed and come back") {
        $0.keys = [nil]
        $0.budget.crashes = 3
        $0.budget.restarts = 2
        $0.budget.retries = 1
        $0.completes = false
    }
    static let operators = make("one job, cancel, pause, retry, a failure and a hand-back") {
        $0.keys = [nil]
        $0.budget.cancels = 1
        $0.budget.pauses = 1
        $0.budget.retries = 1
        $0.budget.failures = 1
        $0.budget.releases = 1
    }
    static let cancelLost = make("one job, cancelled while answers get lost and a worker freezes") {
        $0.keys = [nil]
        $0.budget.cancels = 1
        $0.budget.lostAnswers = 1
        $0.budget.freezes = 1
    }
    static let keys = make("one key, enqueued again while its job fails, dies and is retried") {
        $0.keys = [1]
        $0.budget.enqueues = 1
        $0.budget.failures = 2
        $0.budget.retries = 1
        $0.mostClaims = 3
    }
    static let schedule = make("a schedule of every second event") {
        $0.keys = []
        $0.scheduleEvery = 2
        $0.budget.events = 5
        $0.budget.failures = 1
    }
    static let serverCrash = make("one job, the server crashes and forgets what was not flushed") {
        $0.keys = [nil]
        $0.budget.serverCrashes = 1
        $0.budget.freezes = 1
    }
    static let slots = make("two jobs under a slot of one permit, a worker freezes, failures and a hand-back") {
        $0.slots = [1]
        $0.jobSlot = 0
        $0.budget.freezes = 1
        $0.budget.failures = 1
        $0.budget.releases = 1
    }
    static let machine = make("two jobs, two workers of one machine that offers one permit, one is killed") {
        $0.queue.isLong = true
        $0.slots = [1]
        $0.machineSlot = 0
        $0.budget.crashes = 1
        $0.budget.lostAnswers = 1
        $0.budget.cancels = 1
    }
    static let bothSlots = make("two jobs of two permits, two workers of one machine that offers one") {
        $0.queue.isLong = true
        $0.slots = [2, 1]
        $0.jobSlot = 0
        $0.machineSlot = 1
        $0.budget.freezes = 1
    }
    static let chain = make("a job that waits for another, which is cancelled, fails and is retried") {
        $0.parents = [2: [1]]
        $0.budget.ticks = 1
        $0.budget.cancels = 1
        $0.budget.failures = 2
        $0.budget.retries = 2
    }
    static let fanIn = make("a job that waits for two, one of them is given up and retried, a worker is killed") {
        $0.keys = [nil, nil, nil]
        $0.parents = [3: [1, 2]]
        $0.budget.ticks = 1
        $0.budget.crashes = 1
        $0.budget.failures = 1
        $0.budget.retries = 1
        $0.mostClaims = 2
    }
    static let latecomers = make("one job, and another that is told to wait for it while it ends") {
        $0.keys = [nil]
        $0.processes = 1
        $0.budget.ticks = 1
        $0.budget.children = 1
        $0.budget.cancels = 1
        $0.budget.failures = 1
        $0.budget.retries = 1
    }
    static let cron = make("a schedule that is due at each tick, sweepers are killed and freeze") {
        $0.keys = []
        $0.hasCron = true
        $0.budget.crashes = 1
        $0.budget.freezes = 1
        $0.mostClaims = 1
    }
    static let everything = make("two jobs, a worker is killed, another freezes, a beat is late, an answer is lost, the clock steps") {
        $0.budget.crashes = 1
        $0.budget.freezes = 1
        $0.budget.lateBeats = 1
        $0.budget.lostAnswers = 1
        $0.budget.clockSteps = 1
    }

    static let short: [Scenario] = [
        crash, zombie, longZombie, stalled, beats, clock, failing, crashLoop, operators, cancelLost, keys, schedule, serverCrash,
        slots, machine, bothSlots, chain, fanIn, latecomers, cron,
    ]
}
