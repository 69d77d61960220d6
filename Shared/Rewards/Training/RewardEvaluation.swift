import Tensors

/// A share with the half width of its 95 % interval over clusters.
public struct AccuracyEstimate: Sendable, Equatable, Codable {
    /// A fraction.
    public let accuracy: Double
    /// 1.96 standard errors, clusters (prompts or groups) drawn as wholes; 0 where there is one cluster only.
    public let halfWidth: Double
    /// Comparisons behind it.
    public let pairs: Int

    enum CodingKeys: String, CodingKey {
        case accuracy, pairs
        case halfWidth = "half_width"
    }
}

/// Which comparisons scores get right.
public struct PairAccuracy: Sendable {
    /// By cluster: 1 for a comparison that is right, 0 for a wrong one, one half where the scores are equal. Ties of the raters are left out.
    public let clusters: [[Double]]

    /// - Parameter scores: one for each clip, or for each side of each pair through `score`.
    public init(pairs: [RewardPair], scores: [Float]) {
        self.init(pairs: pairs) { _, pair in (scores[pair.a], scores[pair.b]) }
    }

    /// - Parameter score: of both sides of the pair at an index.
    public init(pairs: [RewardPair], score: (Int, RewardPair) -> (a: Float, b: Float)) {
        var order: [Int] = []
        var members: [Int: [Double]] = [:]
        for (index, pair) in pairs.enumerated() where pair.outcome != .tie {
            let (a, b) = score(index, pair)
            let right = a == b ? 0.5 : (a > b) == (pair.outcome == .a) ? 1.0 : 0.0
            if members[pair.cluster] == nil { order.append(pair.cluster) }
            members[pair.cluster, default: []].append(right)
        }
        clusters = order.map { members[$0]! }
    }

    /// The share that is right: variance = G/(G−1) Σ_g (Σ_i (x_gi − mean))² / n².
    public var estimate: AccuracyEstimate {
        let count = clusters.reduce(0) { $0 + $1.count }
        guard count > 0 else { return AccuracyEstimate(accuracy: 0, halfWidth: 0, pairs: 0) }
        let mean = clusters.reduce(0) { $0 + $1.reduce(0, +) } / Double(count)
        let groups = Double(clusters.count)
        let squares = clusters.reduce(0) { total, cluster in
            let residual = cluster.reduce(0) { $0 + $1 - mean }
            return total + residual * residual
        }
        let variance = groups > 1 ? groups / (groups - 1) * squares / Double(count * count) : 0
        return AccuracyEstimate(accuracy: mean, halfWidth: 1.96 * variance.squareRoot(), pairs: count)
    }
}

/// Scores of a data set's pairs at some noise levels.
public struct RewardEvaluation: Sendable {
    /// The levels at which heads are compared: PRISM's and the demo's, timesteps 0–1000.
    public static let timesteps: [Float] = [990, 950, 900, 800, 700, 500, 300, 100, 0]

    /// 0–1000.
    public let timesteps: [Float]
    /// For each level, the scores of both sides of each pair.
    public let scores: [[(a: Float, b: Float)]]
    /// The pairs, in the same order.
    public let pairs: [RewardPair]

    /// Noises the clips (both sides of a pair alike), scores them, keeps no features. Blocks.
    /// - Parameters:
    ///   - seed: of the noise; the same for two heads that are to be compared.
    ///   - progress: told the share done; throws to stop.
    public init(
        _ weights: RewardWeights, dataset: RewardDataset, timesteps: [Float] = RewardEvaluation.timesteps, seed: UInt64,
        progress: (Double) throws -> Void = { _ in }
    ) throws {
        let all = try Self.scores([weights.head], over: weights, dataset, timesteps, seed, progress)
        self.init(timesteps: timesteps, scores: all[0], pairs: dataset.pairs)
    }

    /// Evaluates several heads that share one trunk and block in one pass over it: an untrained control beside the trained head, say.
    public static func compare(
        _ heads: [RewardHead], over weights: RewardWeights, dataset: RewardDataset, timesteps: [Float] = RewardEvaluation.timesteps,
        seed: UInt64, progress: (Double) throws -> Void = { _ in }
    ) throws -> [RewardEvaluation] {
        try scores(heads, over: weights, dataset, timesteps, seed, progress).map {
            RewardEvaluation(timesteps: timesteps, scores: $0, pairs: dataset.pairs)
        }
    }

    private init(timesteps: [Float], scores: [[(a: Float, b: Float)]], pairs: [RewardPair]) {
        (self.timesteps, self.scores, self.pairs) = (timesteps, scores, pairs)
    }

    /// By head, level and pair.
    private static func scores(
        _ heads: [RewardHead], over weights: RewardWeights, _ dataset: RewardDataset, _ timesteps: [Float], _ seed: UInt64,
        _ progress: (Double) throws -> Void
    ) throws -> [[[(a: Float, b: Float)]]] {
        let groups = NoiseGroups(dataset.pairs)
        let extractor = FeatureExtractor(
            weights: weights, clips: dataset.clips, draws: NoiseDraws(seed: seed, levels: .fixed(timesteps.map { $0 / 1000 })))
        let levels = timesteps.count
        let entries = groups.units.flatMap { unit in (0..<levels).map { FeatureEntry(clip: unit.clip, group: unit.group, draw: $0) } }
        let batches = extractor.batches(entries)
        var found = heads.map { _ in [Float](repeating: 0, count: entries.count) }
        let wave = 16
        for start in stride(from: 0, to: batches.count, by: wave) {
            let now = Array(batches[start..<min(start + wave, batches.count)])
            let results = try parallelMap(now.count) { index in
                let tokens = try extractor(now[index].map { entries[$0] })
                return heads.map { HeadGraph($0)(visual: Variable(tokens.visual), text: Variable(tokens.text)).tensor.array }
            }
            for (batch, result) in zip(now, results) {
                for head in heads.indices {
                    for (row, entry) in batch.enumerated() { found[head][entry] = result[head][row] }
                }
            }
            try progress(Double(start + now.count) / Double(batches.count))
        }
        return found.map { scores in
            (0..<levels).map { level in groups.sides.map { (scores[$0.a * levels + level], scores[$0.b * levels + level]) } }
        }
    }

    /// The accuracy at each level, over pairs that the raters did not tie.
    public var accuracy: [AccuracyEstimate] { scores.indices.map { clusters(level: $0).estimate } }

    /// The comparisons at one level, cluster by cluster: what a paired difference to a control is taken from.
    public func clusters(level: Int) -> PairAccuracy { PairAccuracy(pairs: pairs) { index, _ in scores[level][index] } }

    /// Mean over the levels, the number that champions are compared by.
    public var meanAccuracy: Double { accuracy.reduce(0) { $0 + $1.accuracy } / Double(max(accuracy.count, 1)) }
}
