import Alignment
import Testing

struct StatisticsTests {
    @Test func `Independent values have the textbook interval`() {
        let estimate = Estimate([1, 2, 3, 4])
        #expect(estimate.mean == 2.5)
        #expect(abs(estimate.halfWidth - 1.96 * (5.0 / 3 / 4).squareRoot()) < 1e-12)
    }

    @Test func `Copies inside a cluster add no certainty`() {
        let single = Estimate([1, 2, 3, 4])
        let copied = Estimate(clusters: [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]])
        #expect(abs(single.halfWidth - copied.halfWidth) < 1e-12)
        #expect(Estimate(clusters: [[1, 2], []]).halfWidth == 0)
        #expect(Estimate(clusters: []).mean == 0)
    }

    @Test func `Paired differences forget what both sides share`() {
        let a = [[10.0, 20], [30, 41]]
        let b = [[9.0, 19], [29, 40]]
        let estimate = Estimate(paired: a, minus: b)
        #expect(estimate.mean == 1 && estimate.halfWidth == 0)
    }

    @Test func `Wilson's interval`() {
        // Worked by hand from Wilson's formula for 128 of 156.
        let rate = WinRecord(wins: 128, losses: 28, ties: 84).winRate
        #expect(abs(rate.rate - 0.82051) < 1e-4)
        #expect(abs(rate.lower - 0.75282) < 1e-4 && abs(rate.upper - 0.87280) < 1e-4)
        #expect(WinRecord().winRate == (0.5, 0, 1))
        let counted = WinRecord(differences: [0.1, -0.1, 0.5, -0.7, 0.9], tie: 0.15)
        #expect(counted == WinRecord(wins: 2, losses: 1, ties: 2))
    }
}
