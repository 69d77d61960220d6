import Foundation
import Tensors
import Testing

@testable import Rewards

@Suite(.serialized) struct TrainingTests {
    @Test(arguments: HeadKind.allCases, ["bce", "bradley-terry", "rao-kupper"])
    func itLearnsWhatRatersPrefer(kind: HeadKind, loss: String) throws {
        var settings = TinyWorld.settings(kind, steps: 60)
        settings.loss = loss
        let training = try RewardTraining(trunk: TinyWorld.trunk(), dataset: TinyWorld.dataset(groups: 24), configuration: settings)
        var state = training.initialState
        try training.advance(&state)
        #expect(state.losses.suffix(10).reduce(0, +) < state.losses.prefix(10).reduce(0, +))
        let weights = try RewardWeights(trunk: TinyWorld.trunk(), head: state.head, block: training.block)
        let unseen = try TinyWorld.dataset(groups: 12, seed: 500)
        let evaluations = try RewardEvaluation.compare(
            [state.head, training.initialState.head], over: weights, dataset: unseen, timesteps: [500, 100], seed: 1)
        #expect(evaluations[0].accuracy[1].accuracy > 0.9, "\(evaluations[0].accuracy)")
        #expect(evaluations[0].accuracy[1].pairs == 60)
        #expect(evaluations[0].meanAccuracy > evaluations[1].meanAccuracy)
    }

    @Test func aResumedRunEqualsTheUninterruptedOneBitForBit() throws {
        let (trunk, dataset, settings) = (try TinyWorld.trunk(), try TinyWorld.dataset(groups: 9), TinyWorld.settings())
        let training = try RewardTraining(trunk: trunk, dataset: dataset, configuration: settings)
        var whole = training.initialState
        try training.advance(&whole)

        var first = training.initialState
        try training.advance(&first, to: 13)
        let bytes = first.encoded()
        // Another process: everything is computed anew, on another number of threads.
        let before = NumericThreads.count
        defer { NumericThreads.count = before }
        NumericThreads.count = before == 1 ? 3 : 1
        let again = try RewardTraining(trunk: TinyWorld.trunk(), dataset: TinyWorld.dataset(groups: 9), configuration: settings)
        var second = try again.state(decoding: bytes)
        #expect(second.step == 13)
        try again.advance(&second)
        #expect(second.losses == whole.losses)
        #expect(second.head.named.map(\.tensor.array) == whole.head.named.map(\.tensor.array))
    }

    @Test func featuresThatDoNotFitAreComputedWhenNeeded() throws {
        let (trunk, dataset) = (try TinyWorld.trunk(), try TinyWorld.dataset(groups: 9))
        let settings = TinyWorld.settings(steps: 20)
        let cached = try RewardTraining(trunk: trunk, dataset: dataset, configuration: settings)
        let fresh = try RewardTraining(trunk: trunk, dataset: dataset, configuration: settings, featureBudget: 0)
        #expect(cached.bank.isCached && !fresh.bank.isCached)
        var (a, b) = (cached.initialState, fresh.initialState)
        try cached.advance(&a)
        try fresh.advance(&b)
        #expect(abs(a.losses.last! - b.losses.last!) < 0.2)
    }

    @Test func featuresAreTakenOverWhereTheyAreTheSame() throws {
        let (trunk, dataset) = (try TinyWorld.trunk(), try TinyWorld.dataset(groups: 6))
        let first = try RewardTraining(trunk: trunk, dataset: dataset, configuration: TinyWorld.settings(steps: 5))
        func second(_ change: (inout RewardTrainingConfiguration) -> Void) throws -> (RewardTraining, asked: Bool) {
            var (settings, asked) = (TinyWorld.settings(.pavrm, steps: 5), false)
            change(&settings)
            return (
                try RewardTraining(trunk: trunk, dataset: dataset, configuration: settings, reusing: first) { _ in asked = true }, asked
            )
        }
        let same = try second { _ in }
        #expect(!same.asked && same.0.sharesFeatures(with: first))
        #expect(try second { $0.seed = 12 }.asked)
        #expect(try second { $0.block = 1 }.asked)
        var (reused, fresh) = (same.0.initialState, same.0.initialState)
        try same.0.advance(&reused)
        try RewardTraining(trunk: trunk, dataset: dataset, configuration: TinyWorld.settings(.pavrm, steps: 5)).advance(&fresh)
        #expect(reused.losses == fresh.losses)
    }

    @Test func nothingToLearnFromIsSaid() throws {
        let dataset = try TinyWorld.dataset(groups: 2)
        let ties = try RewardDataset(
            clips: dataset.clips, pairs: dataset.pairs.map { RewardPair(a: $0.a, b: $0.b, outcome: .tie, cluster: 0) })
        let error = #expect(throws: RewardError.self) {
            try RewardTraining(trunk: TinyWorld.trunk(), dataset: ties, configuration: TinyWorld.settings())
        }
        #expect(error?.description.contains("of 12 training pairs none prefers a side") == true)
    }

    @Test func aClipThatIsNotFiniteIsRefused() {
        let clip = RewardClip(latents: Tensor(full: .nan, shape: [4, 2, 4, 4]), promptEmbeds: Tensor(zeros: [3, 10]))
        #expect(throws: RewardError("clip 0 holds values that are not finite")) { try RewardDataset(clips: [clip], pairs: []) }
    }

    @Test func sidesOfAPairShareTheirNoiseAndLargeWebsAreCut() {
        func pair(_ a: Int, _ b: Int) -> RewardPair { RewardPair(a: a, b: b, outcome: .a, cluster: 0) }
        let small = NoiseGroups([pair(0, 1), pair(5, 6), pair(1, 2), pair(6, 5)])
        #expect(small.count == 2)
        #expect(small.units.map(\.clip) == [0, 1, 2, 5, 6] && small.units.map(\.group) == [0, 0, 0, 1, 1])
        let chain = (0..<60).map { pair($0, $0 + 1) }
        let cut = NoiseGroups(chain)
        #expect(cut.count == 4)
        for (pair, side) in zip(chain, cut.sides) {
            #expect(cut.units[side.a].group == cut.units[side.b].group)
            #expect(cut.units[side.a].clip == pair.a && cut.units[side.b].clip == pair.b)
        }
        let sizes = Dictionary(grouping: cut.units, by: \.group).values.map(\.count)
        #expect(sizes.allSatisfy { $0 <= NoiseGroups.largest })
    }

    @Test func levelsAreStratifiedAndSharedInsideAGroup() {
        let draws = NoiseDraws(seed: 4, levels: .stratified(count: 8))
        for draw in 0..<8 {
            let sigma = draws.sigma(group: 3, draw: draw)
            #expect(sigma >= Float(draw) / 8 && sigma < Float(draw + 1) / 8)
        }
        let zero = Tensor(zeros: [4, 2, 4, 4])
        #expect(draws.noised(zero, group: 3, draw: 7).array == draws.noised(zero, group: 3, draw: 7).array)
        #expect(draws.noised(zero, group: 3, draw: 7).array != draws.noised(zero, group: 4, draw: 7).array)
    }

    @Test func intervalsAreTakenOverClusters() {
        func pairs(_ clusters: (Int) -> Int) -> [RewardPair] {
            (0..<40).map { RewardPair(a: 2 * $0, b: 2 * $0 + 1, outcome: .a, cluster: clusters($0)) }
        }
        // The first half of the pairs is right, the other half wrong.
        let scores: [Float] = Array(repeating: [1, 0], count: 20).flatMap { $0 } + Array(repeating: [0, 1], count: 20).flatMap { $0 }
        let own = PairAccuracy(pairs: pairs { $0 }, scores: scores).estimate
        let few = PairAccuracy(pairs: pairs { $0 / 10 }, scores: scores).estimate
        #expect(own.accuracy == 0.5 && few.accuracy == 0.5 && own.pairs == 40)
        #expect(few.halfWidth > 3 * own.halfWidth)
        let equal = PairAccuracy(pairs: pairs { $0 }, scores: Array(repeating: 1, count: 80)).estimate
        #expect(equal.accuracy == 0.5)
    }

    @Test func theEnergyJudgeTakesItsSignFromTrainingPairs() throws {
        let clips = [Float(1), 3].map { RewardClip(latents: Tensor(full: $0, shape: [1, 1, 2, 2]), promptEmbeds: Tensor(zeros: [1, 1])) }
        let small = try RewardDataset(clips: clips, pairs: [RewardPair(a: 0, b: 1, outcome: .a, cluster: 0)])
        let judge = EnergyJudge(training: small)
        #expect(judge.sign == -1)
        #expect(judge.accuracy(small).estimate.accuracy == 1)
    }
}
