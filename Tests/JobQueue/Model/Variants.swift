/// A protocol that drops a rule or two, what it is explored in, and the invariant that it then breaks.
struct Variant: Sendable, CustomStringConvertible {
    var broken: Set<Rule>
    var breach: Breach
    var scenario: Scenario

    init(_ broken: Set<Rule>, _ breach: Breach, _ scenario: Scenario) {
        (self.broken, self.breach, self.scenario) = (broken, breach, scenario)
    }

    var description: String { "not: " + broken.map(\.rawValue).sorted().joined(separator: "; not: ") }

    /// What the product was found to do before the model was written is among them: `failureHeedsCancel`, `releaseHeedsCancel`,
    /// `claimTokenIsNew` and `idleTransactionsEnd`.
    static let all: [Variant] = [
        Variant([.outcomesCheckToken], .effectWithoutCompletion, .zombie),
        Variant([.outcomesCheckLease, .rescueAdvancesToken], .tokenHeldByStranger, .zombie),
        Variant([.claimAdvancesToken, .rescueAdvancesToken], .tokenHeldByStranger, .zombie),
        Variant([.claimAdvancesToken], .tokenGivenTwice, .serverCrash),
        Variant([.rescueAdvancesToken], .tokenHeldByStranger, .zombie),
        Variant([.releaseAdvancesToken], .tokenHeldByStranger, .beats),
        Variant([.claimTokenIsNew], .tokenGivenTwice, .serverCrash),
        Variant([.claimHeedsPause], .claimedWhilePaused, .operators),
        Variant([.rescueCounts], .countsWrong, .crash),
        Variant([.rescueLimited], .countsWrong, .crashLoop),
        Variant([.rescueHeedsLease], .rescuedFromTheLiving, .crash),
        Variant([.rescueNeedsTwoLooks], .rescuedAtFirstSight, .beats),
        Variant([.rescueSkipsLocked], .rescuedUnderLock, .zombie),
        Variant([.retryAdvancesToken], .tokenGivenTwice, .failing),
        Variant([.retryEmptiesDead], .jobInSeveralPlaces, .failing),
        Variant([.retryHeedsKey], .keyTwice, .keys),
        Variant([.buryTakesFromLive], .jobInSeveralPlaces, .failing),
        Variant([.completionKeepsHistory], .jobInSeveralPlaces, .crash),
        Variant([.effectsInsideTransaction], .effectWithoutCompletion, .crash),
        Variant([.holdLocksRow], .effectWithoutCompletion, .zombie),
        Variant([.idleTransactionsEnd], .neverEnds, .zombie),
        Variant([.failureCounts], .countsWrong, .failing),
        Variant([.failureHeedsCancel], .cancelForgotten, .operators),
        Variant([.releaseHeedsCancel], .cancelForgotten, .operators),
        Variant([.keyLivesAsLongAsItsJob], .keyTwice, .keys),
        Variant([.deadWorkersStayDead], .deadWorkerRevived, .zombie),
        Variant([.beatExtendsOwnRunsOnly], .leaseExtendedByStranger, .stalled),
        Variant([.unknownJobsAreHandedBack], .neverEnds, .cancelLost),
        Variant([.deferredJobsReturn], .neverEnds, .failing),
        Variant([.checkpointsAreFenced], .staleCheckpoint, .longZombie),
        Variant([.scheduleWaitsForItsJob], .firedTwice, .schedule),
        Variant([.scheduleUsesUpItsCount], .firedTwice, .schedule),
        Variant([.tickIsLocked], .tickTwice, .cron),
        Variant([.tickCommitsWithItsJob], .tickTwice, .cron),
        Variant([.claimTakesPermit], .slotOverfull, .slots),
        Variant([.machinePermitToo], .permitMismatch, .bothSlots),
        Variant([.permitsAreGivenBack], .neverEnds, .machine),
        Variant([.permitsAreFenced], .permitMismatch, .slots),
        Variant([.childWaitsForAll], .waitsInVain, .fanIn),
        Variant([.endLooksForChildren], .neverEnds, .chain),
        Variant([.givingUpCancelsChildren], .waitsInVain, .chain),
        Variant([.enqueueLocksParents], .waitsInVain, .latecomers),
        Variant([.retryRevivesChildren], .childLeftBehind, .chain),
    ]
}
