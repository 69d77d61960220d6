public import Backbones
import Tensors

/// How a head is trained; the defaults are those of the demo's world.
public struct RewardTrainingConfiguration: Sendable, Equatable, Codable {
    public var kind: HeadKind = .prism
    /// `bce`, `bradley-terry`, `rao-kupper`.
    public var loss = "rao-kupper"
    public var eta = RewardLoss.defaultEta
    /// Score units by which the preferred side must lead for each unit of the raters' margin; 0 leaves margins out.
    public var margin = 0.0
    /// The trunk's block that the head reads, from 1; nil for three quarters of the trunk.
    public var block: Int?
    public var steps = 400
    /// Pairs a step.
    public var batch = 64
    public var learningRate: Float = 1e-3
    /// Noise draws of each clip; the features of all are computed once.
    public var draws = 8
    public var seed: UInt64 = 0

    /// The defaults.
    public init() {}

    /// - Throws: `RewardError` naming the setting that makes no sense.
    public func validate() throws {
        func require(_ condition: Bool, _ what: String) throws {
            guard condition else { throw RewardError(what) }
        }
        try require(RewardLoss(name: loss) != nil, "loss is '\(loss)', expected bce, bradley-terry or rao-kupper")
        try require(eta >= 1.01 && eta <= 1000, "eta is \(eta), expected 1.01 to 1000")
        try require(margin >= 0 && margin <= 100, "margin is \(margin), expected 0 to 100")
        try require(
            margin == 0 || loss != "bce", "margin is \(margin), but the loss bce has no place for one; bradley-terry and rao-kupper have")
        try require((0...1_000_000).contains(steps), "steps is \(steps), expected 0 to 1000000")
        try require((1...65536).contains(batch), "batch is \(batch), expected 1 to 65536")
        try require(learningRate > 0 && learningRate <= 1, "learning_rate is \(learningRate), expected a number above 0 and at most 1")
        try require((1...1024).contains(draws), "draws is \(draws), expected 1 to 1024")
    }

    /// The block for a trunk of so many.
    public func block(of layers: Int) -> Int { block ?? max(1, (3 * layers + 2) / 4) }
}

/// Where a training stands: all that a resumed run needs beside the data.
public struct RewardTrainingState: Sendable {
    /// Steps done.
    public internal(set) var step: Int
    public internal(set) var head: RewardHead
    /// The mean loss of each step so far.
    public internal(set) var losses: [Float]
    var optimizer: AdamW
}

/// Trains a head on pairs over a frozen trunk.
///
/// Every draw has a stream of its own (seed, step or group), the features are the same whoever computes them, and gradients are summed in
/// a fixed order over shards of a fixed size: a run resumed from its state equals an uninterrupted one bit for bit, on any number of
/// threads. All of it blocks: call it from a numeric thread.
public struct RewardTraining: Sendable {
    public let configuration: RewardTrainingConfiguration
    /// The block that the head reads.
    public let block: Int
    let loss: RewardLoss
    let pairs: [RewardPair]
    /// Examples behind the pairs, for a pointwise loss.
    let ratings: [RewardRating]
    let sides: [(a: Int, b: Int)]
    let alone: [Int]
    let shapes: [[Int]]
    let bank: FeatureBank
    private let key: BankKey
    private let untrained: RewardHead

    /// Pairs that one thread takes at a time: part of the rounding.
    static let shard = 8

    /// Runs the trunk over the data set's noised clips.
    /// - Parameters:
    ///   - trunk: weights of its own, frozen.
    ///   - previous: an earlier training, whose features are taken over where they are the same: another loss, head or judgement on the
    ///     same clips and comparisons costs no second pass of the trunk, and changes no number.
    ///   - progress: told the share of the features that is done; throws to stop.
    /// - Throws: `RewardError` for settings or data that cannot be trained on, `BackboneError` for clips that do not fit the trunk.
    public init(
        trunk: WanTransformer3DModel, dataset: RewardDataset, configuration: RewardTrainingConfiguration, featureBudget: Int? = nil,
        reusing previous: RewardTraining? = nil, progress: (Double) throws -> Void = { _ in }
    ) throws {
        try configuration.validate()
        guard let loss = RewardLoss(name: configuration.loss, eta: configuration.eta) else { throw RewardError("loss") }
        self.configuration = configuration
        self.loss = loss
        block = configuration.block(of: trunk.configuration.numLayers)
        let pairs = dataset.pairs.filter { loss.learns(from: $0.target) && !($0.isRated && loss.isPointwise) }
        ratings = loss.isPointwise ? dataset.ratings : []
        guard !ratings.isEmpty || pairs.contains(where: { $0.outcome != .tie }) else {
            throw RewardError("there is nothing to learn from: of \(dataset.pairs.count) training pairs none prefers a side")
        }
        self.pairs = pairs
        let groups = NoiseGroups(pairs, alone: ratings.map(\.clip))
        sides = groups.sides
        alone = groups.alone
        shapes = dataset.clips.map(\.shapeKey)
        let shape = HeadConfiguration.standard(configuration.kind, featureWidth: trunk.configuration.innerDim)
        var head = try RewardHead(configuration: shape, seed: configuration.seed)
        let extractor = FeatureExtractor(
            weights: try RewardWeights(trunk: trunk, head: head, block: block), clips: dataset.clips,
            draws: NoiseDraws(seed: configuration.seed, levels: .stratified(count: configuration.draws)))
        key = BankKey(
            trunk: RewardWeights.fingerprint(of: trunk, blocks: block), block: block, seed: configuration.seed, draws: configuration.draws,
            units: groups.units, clips: RewardClip.digest(groups.units.map { dataset.clips[$0.clip] }))
        if let previous, previous.key == key, featureBudget == nil {
            bank = previous.bank
        } else {
            bank = try FeatureBank(
                extractor: extractor, units: groups.units, budget: featureBudget ?? FeatureBank.budget, progress: progress)
        }
        head.normalization = bank.normalization
        untrained = head
    }

    /// Whether the features were taken over from another training.
    public func sharesFeatures(with other: RewardTraining) -> Bool { key == other.key }

    /// The state before the first step: the control that knows nothing.
    public var initialState: RewardTrainingState {
        RewardTrainingState(step: 0, head: untrained, losses: [], optimizer: AdamW())
    }

    /// Takes steps until `step` (or the last) is done.
    /// - Parameter checkpoint: called after each step; throws to stop, and the state is then the one after that step.
    public func advance(
        _ state: inout RewardTrainingState, to step: Int? = nil, each: (RewardTrainingState) throws -> Void = { _ in }
    ) throws {
        let last = min(step ?? configuration.steps, configuration.steps)
        let parameters = state.head.tensors.map { Variable($0, requiresGradient: true) }
        while state.step < last {
            let result = try gradients(state)
            guard result.loss.isFinite, result.gradients.allSatisfy(\.isFinite) else {
                throw RewardError(
                    "step \(state.step + 1): the loss (\(result.loss)) or a gradient is not finite; try a smaller learning_rate")
            }
            state.optimizer.step(parameters: parameters, gradients: result.gradients, learningRate: rate(at: state.step))
            state.head.tensors = parameters.map(\.tensor)
            state.losses.append(result.loss)
            state.step += 1
            try each(state)
        }
    }

    /// Constant, then down to nothing over the last two fifths: the last steps average the noise of the batches out.
    func rate(at step: Int) -> Float {
        let left = Float(configuration.steps - step) / (0.4 * Float(configuration.steps))
        return configuration.learningRate * min(1, left)
    }

    /// The step's examples (pairs, and behind them ratings) with a draw each: epochs of shuffled examples, one after the other.
    func choice(step: Int) -> [(pair: Int, draw: Int)] {
        let count = pairs.count + ratings.count
        var draws = RandomStream(seed: configuration.seed, run: RewardStreams.batchDraw, step: UInt32(step))
        var epoch = -1
        var order: [Int] = []
        return (0..<configuration.batch).map { place in
            let position = step * configuration.batch + place
            if position / count != epoch {
                epoch = position / count
                var shuffle = RandomStream(seed: configuration.seed, run: RewardStreams.batchOrder, step: UInt32(epoch))
                order = shuffle.permutation(count)
            }
            return (order[position % count], draws.integer(in: 0..<configuration.draws))
        }
    }

    private func gradients(_ state: RewardTrainingState) throws -> (loss: Float, gradients: [Tensor]) {
        let shards = shards(choice(step: state.step))
        let (head, share) = (state.head, 1 / Double(configuration.batch))
        let results = try parallelMap(shards.count) { try lossAndGradients(head, shards[$0], share: share) }
        var sum = results[0].gradients
        for result in results.dropFirst() {
            for index in sum.indices { sum[index] += result.gradients[index] }
        }
        return (Float(results.reduce(0) { $0 + $1.loss }), sum)
    }

    /// Pairs whose sides have the same shapes, or ratings of one shape, a few at a time, in the order of the choice.
    private func shards(_ choice: [(pair: Int, draw: Int)]) -> [[(pair: Int, draw: Int)]] {
        var order: [[[Int]]] = []
        var members: [[[Int]]: [(pair: Int, draw: Int)]] = [:]
        for chosen in choice {
            let key: [[Int]]
            if chosen.pair < pairs.count {
                key = [shapes[pairs[chosen.pair].a], shapes[pairs[chosen.pair].b]]
            } else {
                key = [shapes[ratings[chosen.pair - pairs.count].clip]]
            }
            if members[key] == nil { order.append(key) }
            members[key, default: []].append(chosen)
        }
        return order.flatMap { key in
            let all = members[key]!
            return stride(from: 0, to: all.count, by: Self.shard).map { Array(all[$0..<min($0 + Self.shard, all.count)]) }
        }
    }

    private func lossAndGradients(
        _ head: RewardHead, _ chosen: [(pair: Int, draw: Int)], share: Double
    ) throws -> (loss: Double, gradients: [Tensor]) {
        let graph = HeadGraph(head, requiresGradient: true)
        func scores(_ side: (Int) -> Int) throws -> Variable {
            let tokens = try bank.tokens(chosen.map { (side($0.pair), $0.draw) })
            return graph.normalized(visual: Variable(tokens.visual), text: Variable(tokens.text))
        }
        var cotangent: [Float]
        var total = 0.0
        let both: Variable
        if chosen[0].pair >= pairs.count {
            both = try scores { alone[$0 - pairs.count] }
            cotangent = [Float](repeating: 0, count: chosen.count)
            for (row, (chosen, value)) in zip(chosen, both.tensor.array).enumerated() {
                let term = loss(score: Double(value), good: ratings[chosen.pair - pairs.count].good)
                total += share * term.loss
                cotangent[row] = Float(share * term.slope)
            }
        } else {
            both = concatenate([try scores { sides[$0].a }, try scores { sides[$0].b }], axis: 0)
            let values = both.tensor.array
            cotangent = [Float](repeating: 0, count: values.count)
            for (row, chosen) in chosen.enumerated() {
                let other = row + values.count / 2
                let term = loss(
                    a: Double(values[row]), b: Double(values[other]), target: pairs[chosen.pair].target, margin: configuration.margin)
                total += share * term.loss
                cotangent[row] = Float(share * term.a)
                cotangent[other] = Float(share * term.b)
            }
        }
        both.backward(Tensor(cotangent, shape: both.shape))
        return (total, graph.parameters.map { $0.gradient ?? Tensor(zeros: $0.shape) })
    }
}

/// All that features depend on.
private struct BankKey: Sendable, Equatable {
    let trunk: String
    let block: Int
    let seed: UInt64
    let draws: Int
    let units: [NoiseGroups.Unit]
    let clips: UInt64
}
