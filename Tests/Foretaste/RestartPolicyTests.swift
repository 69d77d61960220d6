import Testing

@testable import Foretaste

/// How soon a service that died is started again.
@Suite struct RestartPolicyTests {
    @Test func thePauseGrowsWithDeathsInARowAndIsBounded() {
        var policy = RestartPolicy()
        #expect((0..<7).map { _ in policy.pause(afterLiving: 1) } == [0, 0.5, 1, 2, 4, 5, 5])
    }

    @Test func aSteadyLifeIsForgiven() {
        var policy = RestartPolicy()
        for _ in 0..<5 { _ = policy.pause(afterLiving: 0) }
        #expect(policy.pause(afterLiving: RestartPolicy.steadyAfter) == 0)
        #expect(policy.pause(afterLiving: 0) == RestartPolicy.firstPause)
    }

    @Test func deathsWithoutEndDoNotOverflow() {
        var policy = RestartPolicy()
        for _ in 0..<1000 { _ = policy.pause(afterLiving: 0) }
        #expect(policy.pause(afterLiving: 0) == RestartPolicy.longestPause)
    }
}
