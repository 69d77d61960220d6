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

    /// Three of four raters prefer a.
    @Test func votesPullTheModelsChanceTowardsTheirShare() throws {
        let target = try PairTarget(a: 3, b: 1)
        #expect(target.a == 0.75 && target.b == 0.25 && target.outcome == .a)
        let loss = RewardLoss.bradleyTerry
        // Lowest where σ(a − b) = 0.75, and there the entropy of the votes.
        let best = loss(a: log(3), b: 0, target: target)
        #expect(abs(best.loss - -(0.75 * log(0.75) + 0.25 * log(0.25))) < 1e-12)
        #expect(abs(best.a) < 1e-12 && abs(best.b) < 1e-12)
        #expect(abs(loss(a: 0, b: 0, target: target).loss - log(2)) < 1e-12)
        // The pointwise loss: each side good as often as it was preferred.
        let pointwise = RewardLoss.crossEntropy(a: log(3), b: -log(3), target: target)
        #expect(abs(pointwise.loss - best.loss) < 1e-12 && abs(pointwise.a) < 1e-12 && abs(pointwise.b) < 1e-12)
    }

    @Test func raoKupperLearnsTheSharesOfAllThree() throws {
        let loss = RewardLoss.raoKupper(eta: 5)
        let p = loss.probabilities(difference: 0.7)
        // Voices as the model has them at a lead of 0.7: its optimum.
        let target = try PairTarget(a: p.a, b: p.b, tie: p.tie)
        let there = loss(a: 0.7, b: 0, target: target)
        #expect(abs(there.a) < 1e-12)
        #expect(abs(there.loss + p.a * log(p.a) + p.b * log(p.b) + p.tie * log(p.tie)) < 1e-12)
        #expect(loss(a: 0.9, b: 0, target: target).a > 0 && loss(a: 0.5, b: 0, target: target).a < 0)
    }

    @Test func bothBadTeachesOnlyThePointwiseLoss() throws {
        let target = try PairTarget(a: 0, b: 0, bothBad: 1)
        #expect(target.outcome == .tie)
        for loss in [RewardLoss.bradleyTerry, .raoKupper(eta: 5)] {
            #expect(!loss.learns(from: target))
            #expect(loss(a: 1, b: 0, target: target) == (0, 0, 0))
        }
        #expect(RewardLoss.crossEntropy.learns(from: target))
        let both = RewardLoss.crossEntropy(a: 1, b: 1, target: target)
        #expect(both.a > 0 && both.a == both.b && abs(both.loss - log(1 + exp(1))) < 1e-12)
        #expect(!RewardLoss.bradleyTerry.learns(from: PairTarget(.tie)) && RewardLoss.raoKupper(eta: 5).learns(from: PairTarget(.tie)))
        #expect(throws: RewardError.self) { try PairTarget(a: 0, b: 0) }
    }

    @Test func aMarginAsksForALead() throws {
        let target = try PairTarget(a: 0, b: 1, margin: -2)
        let loss = RewardLoss.bradleyTerry
        // The margin of 2 at half a score unit each: b has to lead by 1 to cost what a lead of 0 costs without.
        #expect(abs(loss(a: 0, b: 1, target: target, margin: 0.5).loss - log(2)) < 1e-12)
        #expect(loss(a: 0, b: 1, target: target, margin: 0).loss == loss(a: 0, b: 1, outcome: .b).loss)
        let step = 1e-6
        for loss in [RewardLoss.bradleyTerry, .raoKupper(eta: 3)] {
            let exact = loss(a: 0.3, b: -0.2, target: target, margin: 0.7)
            let slope =
                (loss(a: 0.3, b: -0.2 + step, target: target, margin: 0.7).loss
                    - loss(a: 0.3, b: -0.2 - step, target: target, margin: 0.7).loss)
                / (2 * step)
            #expect(abs(exact.b - slope) < 1e-8)
        }
    }

    @Test func aRatingIsLearntAsAShareOfGood() {
        let loss = RewardLoss.crossEntropy
        #expect(abs(loss(score: log(3), good: 0.75).slope) < 1e-12)
        #expect(loss(score: 0, good: 1).slope == -0.5 && loss(score: 0, good: 0).slope == 0.5)
        #expect(abs(loss(score: -1, good: 0).loss - log(1 + exp(-1))) < 1e-12)
    }
}
