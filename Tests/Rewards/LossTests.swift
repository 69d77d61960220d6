import Foundation
import Testing

@testable import Rewards

/// The exact values of methods-video §6.1.
@Suite struct LossTests {
    @Test(arguments: [(5.0, 1.7918, 0.4055), (3, 1.3863, 0.6931), (8, 2.1972, 0.2513)])
    func raoKupperAtEqualScores(eta: Double, win: Double, tie: Double) {
        let loss = RewardLoss.raoKupper(eta: eta)
        #expect(abs(loss(a: 1, b: 1, outcome: .a).loss - win) < 1e-4)
        #expect(abs(loss(a: -2, b: -2, outcome: .b).loss - win) < 1e-4)
        #expect(abs(loss(a: 0, b: 0, outcome: .tie).loss - tie) < 1e-4)
        #expect(abs(loss.probabilities(difference: 0).tie - (eta - 1) / (eta + 1)) < 1e-12)
    }

    @Test(arguments: [-40.0, -3, -0.2, 0, 1.7, 25]) func probabilitiesSumToOneAndAgreeWithTheLoss(d: Double) {
        let loss = RewardLoss.raoKupper(eta: 5)
        let p = loss.probabilities(difference: d)
        #expect(abs(p.a + p.b + p.tie - 1) < 1e-12)
        #expect(abs(exp(-loss(a: d, b: 0, outcome: .a).loss) - p.a) < 1e-12)
        #expect(abs(exp(-loss(a: d, b: 0, outcome: .b).loss) - p.b) < 1e-12)
        #expect(abs(exp(-loss(a: d, b: 0, outcome: .tie).loss) - p.tie) < 1e-12)
    }

    @Test func halfOfTheWinsNeedALeadOfLogEta() {
        #expect(abs(RewardLoss.raoKupper(eta: 5).probabilities(difference: log(5)).a - 0.5) < 1e-12)
    }

    @Test func crossEntropyStartsAtLogTwo() {
        #expect(abs(RewardLoss.crossEntropy(a: 0, b: 0, outcome: .a).loss - 0.6931) < 1e-4)
        #expect(abs(RewardLoss.bradleyTerry(a: 3, b: 3, outcome: .b).loss - 0.6931) < 1e-4)
    }

    @Test func hugeScoresStayFinite() {
        for loss in [RewardLoss.crossEntropy, .bradleyTerry, .raoKupper(eta: 5)] {
            for outcome in PairOutcome.allCases {
                let value = loss(a: 1e6, b: -1e6, outcome: outcome)
                #expect(value.loss.isFinite && value.a.isFinite && value.b.isFinite)
            }
        }
    }

    @Test func derivativesMatchFiniteDifferences() {
        let step = 1e-5
        for loss in [RewardLoss.crossEntropy, .bradleyTerry, .raoKupper(eta: 5)] {
            for outcome in PairOutcome.allCases {
                for (a, b) in [(0.3, -1.2), (-2.0, 0.5), (0, 0)] {
                    let exact = loss(a: a, b: b, outcome: outcome)
                    let da = (loss(a: a + step, b: b, outcome: outcome).loss - loss(a: a - step, b: b, outcome: outcome).loss) / (2 * step)
                    let db = (loss(a: a, b: b + step, outcome: outcome).loss - loss(a: a, b: b - step, outcome: outcome).loss) / (2 * step)
                    #expect(abs(exact.a - da) < 1e-8 && abs(exact.b - db) < 1e-8, "\(loss) \(outcome)")
                }
            }
        }
    }

    @Test func tiesTeachOnlyTheLossThatKnowsThem() {
        #expect(RewardLoss.crossEntropy(a: 1, b: 0, outcome: .tie).a == 0)
        #expect(RewardLoss.bradleyTerry(a: 1, b: 0, outcome: .tie).loss == 0)
        #expect(RewardLoss.raoKupper(eta: 5)(a: 1, b: 0, outcome: .tie).a > 0)
    }
}
