/// The rules that the protocol stands on. The product keeps all of them; a broken variant of the model drops one or two.
enum Rule: String, CaseIterable, Sendable {
    case outcomesCheckToken = "an outcome counts under the job's current token only"
    case outcomesCheckLease = "an outcome counts while the job is leased only"
    case claimAdvancesToken = "a claim advances the token"
    case claimTokenIsNew = "a claim that a crash of the server forgot leaves no token that is handed out again"
    case claimHeedsPause = "nothing is claimed while the queue is paused"
    case rescueAdvancesToken = "a rescue advances the token"
    case rescueCounts = "a rescue is counted"
    case rescueLimited = "a job that was rescued too often is dead"
    case rescueHeedsLease = "only a worker whose lease or session is over loses its jobs"
    case rescueNeedsTwoLooks = "a session is believed to be gone when it is missing a second time"
    case rescueSkipsLocked = "a rescue passes over a job whose transaction is under way"
    case retryAdvancesToken = "a dead job comes back with a greater token"
    case retryEmptiesDead = "a job that comes back leaves the dead letters"
    case retryHeedsKey = "a dead job does not come back while its key is taken"
    case buryTakesFromLive = "a dead job is no longer live"
    case completionKeepsHistory = "a completed job stands in the history"
    case effectsInsideTransaction = "effects commit with the completion or not at all"
    case holdLocksRow = "the row stays locked between the check of the token and the commit"
    case idleTransactionsEnd = "a transaction that its client leaves alone is ended by the server"
    case failureCounts = "a failure is counted"
    case failureHeedsCancel = "a job that was asked to cancel is not tried again when it fails"
    case releaseHeedsCancel = "a job that was asked to cancel is not handed back to others"
    case releaseAdvancesToken = "handing back advances the token"
    case keyLivesAsLongAsItsJob = "a dedupe key is taken as long as its job lives"
    case deadWorkersStayDead = "a worker that was held to be dead cannot renew its lease"
    case beatExtendsOwnRunsOnly = "a beat extends the leases of runs under their current token only"
    case unknownJobsAreHandedBack = "a living worker's job that it does not know of is handed back"
    case deferredJobsReturn = "a deferred job becomes ready when its time has come"
    case checkpointsAreFenced = "a checkpoint is written under the live token only"
    case scheduleWaitsForItsJob = "a schedule does not fire while its last job lives"
    case scheduleUsesUpItsCount = "what a firing has used up does not count again"
    case tickIsLocked = "whoever fires a schedule for a time has looked at it under its lock"
    case tickCommitsWithItsJob = "the job of a time and the schedule's next time commit together"
    case claimTakesPermit = "a job that names a slot is claimed with a free permit only"
    case machinePermitToo = "a worker that offers a slot takes a permit of it as well"
    case permitsAreGivenBack = "every end of a lease gives its permits back"
    case permitsAreFenced = "only the end of the current lease gives permits back"
    case childWaitsForAll = "a job becomes ready when the last of those that it waits for has succeeded"
    case endLooksForChildren = "a job that succeeds looks for those that wait for it"
    case givingUpCancelsChildren = "a job that is given up cancels those that wait for it, unless they go on"
    case enqueueLocksParents = "a job that is to wait for others locks them before it looks whether they live"
    case retryRevivesChildren = "a job that comes back brings those back that were cancelled because of it"
}

/// Which rules hold.
struct Rules: Sendable {
    var broken: Set<Rule> = []

    /// The protocol as the migrations have it.
    static let product = Rules()

    func hold(_ rule: Rule) -> Bool { broken.isEmpty || !broken.contains(rule) }
}
