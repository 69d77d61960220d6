import Foundation
import Tensors
import Testing

@testable import Rewards

/// What a training makes of votes, of pairs that are both bad, and of ratings.
@Suite(.serialized) struct LabelTrainingTests {
    /// Two clips, compared once: the head can say nothing but their difference.
    private func dataset(_ target: PairTarget, ratings: [RewardRating] = [], isRated: Bool = false) throws -> RewardDataset {
        let clips = try TinyWorld.dataset(groups: 1).clips
        return try RewardDataset(
            clips: Array(clips[0..<2]), pairs: [RewardPair(a: 0, b: 1, target: target, cluster: 0, isRated: isRated)], ratings: ratings)
    }

    private func settings(_ loss: String) -> RewardTrainingConfiguration {
        var settings = TinyWorld.settings(.prism, steps: 300)
        settings.loss = loss
        settings.batch = 4
        settings.draws = 1
        settings.learningRate = 1e-2
        return settings
    }

    private func chance(_ training: RewardTraining, _ state: RewardTrainingState) throws -> Double {
        let bank = try training.bank.tokens([(training.sides[0].a, 0), (training.sides[0].b, 0)])
        let scores = HeadGraph(state.head).normalized(visual: Variable(bank.visual), text: Variable(bank.text)).tensor.array
        return 1 / (1 + exp(-Double(scores[0] - scores[1])))
    }

    @Test func threeVotesOfFourTrainTowardsThreeQuarters() throws {
        let training = try RewardTraining(
            trunk: TinyWorld.trunk(), dataset: dataset(PairTarget(a: 3, b: 1)), configuration: settings("bradley-terry"))
        var state = training.initialState
        try training.advance(&state)
        #expect(abs(try chance(training, state) - 0.75) < 0.01)
        #expect(abs(Double(state.losses.last!) + 0.75 * log(0.75) + 0.25 * log(0.25)) < 1e-3)
    }

    @Test func pairsThatAreBothBadDoNotEnterAComparingLoss() throws {
        let bad = try PairTarget(a: 0, b: 0, bothBad: 1)
        for loss in ["bradley-terry", "rao-kupper"] {
            #expect(throws: RewardError.self) {
                try RewardTraining(trunk: TinyWorld.trunk(), dataset: dataset(bad), configuration: settings(loss))
            }
        }
        let some = try TinyWorld.dataset(groups: 2)
        let more = try RewardDataset(
            clips: some.clips, pairs: some.pairs + [RewardPair(a: 0, b: 5, target: bad, cluster: 0)])
        let training = try RewardTraining(trunk: TinyWorld.trunk(), dataset: more, configuration: TinyWorld.settings(steps: 1))
        #expect(training.pairs == some.pairs)
    }

    @Test func ratingsAreLearntAsTheyAreByThePointwiseLossAlone() throws {
        let ratings = [RewardRating(clip: 0, good: 0.9), RewardRating(clip: 1, good: 0.2)]
        let rated = try dataset(PairTarget(a: 1, b: 0), ratings: ratings, isRated: true)
        let training = try RewardTraining(trunk: TinyWorld.trunk(), dataset: rated, configuration: settings("bce"))
        // The pair that was read from the ratings is not learnt beside them.
        #expect(training.pairs.isEmpty && training.ratings == ratings)
        var state = training.initialState
        try training.advance(&state)
        let bank = try training.bank.tokens([(training.alone[0], 0), (training.alone[1], 0)])
        let scores = HeadGraph(state.head).normalized(visual: Variable(bank.visual), text: Variable(bank.text)).tensor.array
        #expect(abs(1 / (1 + exp(-scores[0])) - 0.9) < 0.02)
        #expect(abs(1 / (1 + exp(-scores[1])) - 0.2) < 0.02)
        let comparing = try RewardTraining(trunk: TinyWorld.trunk(), dataset: rated, configuration: settings("rao-kupper"))
        #expect(comparing.pairs == rated.pairs && comparing.ratings.isEmpty)
        #expect(throws: RewardError.self) { try RewardDataset(clips: rated.clips, pairs: [], ratings: [RewardRating(clip: 2, good: 1)]) }
    }

    @Test func pairsAndRatingsAreLearntTogetherAndResumeBitForBit() throws {
        let some = try TinyWorld.dataset(groups: 4)
        let mixed = try RewardDataset(
            clips: some.clips, pairs: some.pairs, ratings: some.clips.indices.map { RewardRating(clip: $0, good: Double($0 % 4) / 3) })
        var settings = TinyWorld.settings(.pavrm, steps: 12)
        settings.loss = "bce"
        let training = try RewardTraining(trunk: TinyWorld.trunk(), dataset: mixed, configuration: settings)
        var whole = training.initialState
        try training.advance(&whole)
        var part = training.initialState
        try training.advance(&part, to: 5)
        var rest = try training.state(decoding: part.encoded())
        try training.advance(&rest)
        #expect(rest.losses == whole.losses)
        #expect(Set((0..<12).flatMap { training.choice(step: $0).map(\.pair) }).count == training.pairs.count + mixed.ratings.count)
    }
}
