import Testing

@testable import JobQueue

@Suite struct WorkerLeaseTests {
    let start = ContinuousClock.now

    @Test func nothingStartsBeforeTheFirstAcknowledgedBeat() {
        let lease = WorkerLease(ttl: .seconds(10))
        #expect(lease.standing(at: start) == .over)
        #expect(lease.isBeatDue(at: start))
    }

    @Test func aLeaseFadesTwoSecondsBeforeItEnds() {
        var lease = WorkerLease(ttl: .seconds(10))
        lease.acknowledge(sentAt: start)
        #expect(lease.standing(at: start + .seconds(7.9)) == .firm)
        #expect(lease.standing(at: start + .seconds(8)) == .fading)
        #expect(lease.standing(at: start + .seconds(9.9)) == .fading)
        #expect(lease.standing(at: start + .seconds(10)) == .over)
    }

    @Test func aShortLeaseStillHasATimeInWhichJobsStart() {
        var lease = WorkerLease(ttl: .seconds(2))
        lease.acknowledge(sentAt: start)
        #expect(lease.standing(at: start + .seconds(0.9)) == .firm)
        #expect(lease.standing(at: start + .seconds(1)) == .fading)
    }

    @Test func theBeatIsDueAtAThirdAndALateAnswerDoesNotTurnTheClockBack() {
        var lease = WorkerLease(ttl: .seconds(9))
        lease.acknowledge(sentAt: start + .seconds(1))
        lease.acknowledge(sentAt: start)
        #expect(!lease.isBeatDue(at: start + .seconds(3.9)))
        #expect(lease.isBeatDue(at: start + .seconds(4)))
        lease.lose()
        #expect(lease.standing(at: start + .seconds(1)) == .over)
    }
}

@Suite struct RunStateTests {
    @Test(
        arguments: [
            (nil, RunState.Outcome.returned, RunState.Disposition.complete), (nil, .threw, .fail),
            (.shutdown, .returned, .complete), (.shutdown, .threw, .release),
            (.cancelled, .returned, .complete), (.cancelled, .threw, .acknowledgeCancel),
            (.leaseLost, .returned, .drop), (.leaseLost, .threw, .drop),
        ] as [(RunState.StopReason?, RunState.Outcome, RunState.Disposition)])
    func whatIsDoneAboutARunFollowsFromWhyItStopped(
        _ reason: RunState.StopReason?, _ outcome: RunState.Outcome, _ expected: RunState.Disposition
    ) {
        var run = RunState()
        if let reason {
            let cancels = run.requestStop(reason)
            #expect(cancels)
        }
        let disposition = run.finish(outcome)
        #expect(disposition == expected)
    }

    @Test func theTaskIsCancelledOnceAndTheStrongestReasonCounts() {
        let reasons: [RunState.StopReason] = [.shutdown, .cancelled, .leaseLost]
        for first in reasons {
            for second in reasons {
                var run = RunState()
                let cancels = [run.requestStop(first), run.requestStop(second)]
                #expect(cancels == [true, false])
                #expect(run.stopReason == max(first, second))
            }
        }
    }

    @Test func aRunThatIsOverCannotBeStopped() {
        var run = RunState()
        _ = run.finish(.returned)
        let cancels = run.requestStop(.leaseLost)
        #expect(!cancels)
    }

    @Test func progressIsSentOnceAndAgainIfItDidNotArrive() {
        let start = ContinuousClock.now
        var note = ProgressNote(startedAt: start)
        #expect(!note.hasNews)
        note.report(fraction: 0.5, message: "half", at: start + .seconds(1))
        let taken = note.take()
        #expect(taken?.fraction == 0.5)
        #expect(!note.hasNews)
        note.report(fraction: 0.5, message: "half", at: start + .seconds(2))
        #expect(!note.hasNews, "the same again is no news")
        #expect(note.idle(at: start + .seconds(3)) == .seconds(1), "but it is movement")
        if let taken { note.putBack(taken) }
        #expect(note.hasNews)
        note.report(fraction: .nan, message: "", at: start)
        let last = note.take()
        #expect(last?.fraction == 0)
    }
}
