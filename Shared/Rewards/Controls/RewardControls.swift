public import Tensors

/// The judge that looks at nothing but ‖latent‖²: what a learned head has to beat.
public struct EnergyJudge: Sendable, Equatable {
    /// +1 when larger latents are better, −1 when smaller ones are.
    public let sign: Float

    /// A judge with a sign that was chosen elsewhere.
    public init(sign: Float) { self.sign = sign }

    /// Chooses the sign on training pairs.
    public init(training: RewardDataset) {
        let accuracy = PairAccuracy(pairs: training.pairs, scores: training.clips.map { Self.energy($0.latents) }).estimate.accuracy
        sign = accuracy >= 0.5 ? 1 : -1
    }

    /// ‖latent‖².
    public static func energy(_ latents: Tensor) -> Float { Float(latents.sumOfSquares) }

    /// The judge's score of one latent.
    public func score(_ latents: Tensor) -> Float { sign * Self.energy(latents) }

    /// How well it does on finished latents.
    public func accuracy(_ dataset: RewardDataset) -> PairAccuracy {
        PairAccuracy(pairs: dataset.pairs, scores: dataset.clips.map { score($0.latents) })
    }
}

/// Scores on a sampler's own path: unfinished latents as they were, compared by what their finished clips are worth.
///
/// A re-noised finished clip is easier to judge than the state that led to it, so both are reported.
public struct PathEvaluation: Sendable {
    /// A point of the path.
    public struct Level: Sendable {
        /// 1000·sigma of these latents.
        public let timestep: Float
        /// [clips,C,F,H,W].
        public let latents: Tensor

        /// Latents at a point of the path.
        public init(timestep: Float, latents: Tensor) {
            self.timestep = timestep
            self.latents = latents
        }
    }

    /// In the order of the levels.
    public let accuracy: [PairAccuracy]
    /// Scores of all clips, by level.
    public let scores: [[Float]]

    /// - Parameters:
    ///   - dataset: the finished clips (for their prompts and conditions) and comparisons.
    ///   - levels: the same clips on the way.
    /// - Throws: `RewardError` or `BackboneError` for latents that do not fit.
    public init(_ weights: RewardWeights, dataset: RewardDataset, levels: [Level]) throws {
        let clips = dataset.clips
        let prompts = Tensor.stack(clips.map(\.promptEmbeds))
        let condition = clips.first?.condition == nil ? nil : Tensor.stack(clips.map { $0.condition! })
        let image = clips.first?.imageEmbeds == nil ? nil : Tensor.stack(clips.map { $0.imageEmbeds! })
        let scores = try levels.map { level in
            guard level.latents.shape.first == clips.count else {
                throw RewardError("\(level.latents.shape) latents on the path of \(clips.count) clips")
            }
            return try weights.scores(
                .init(
                    latents: level.latents, timestep: Array(repeating: level.timestep, count: clips.count), promptEmbeds: prompts,
                    condition: condition, imageEmbeds: image))
        }
        self.scores = scores
        accuracy = scores.map { PairAccuracy(pairs: dataset.pairs, scores: $0) }
    }
}
