import Foundation
public import Tensors

/// One step of a sampler towards data, as the Gaussian that it draws from: mean α_s·x̂₀ + √(σ_s² − var)·ε̂, variance
/// `var = η²·(σ_s²/σ_t²)·(σ_t² − (α_t/α_s)²·σ_s²)`.
///
/// That is the true posterior variance of x_s given x_t and x₀ under x = α·x₀ + σ·ε, for any such noise (methods-image §4.4): for
/// variance-preserving noise it is DDIM's σ_t(η)², and for a rectified flow it never exceeds σ_s², which DDIM's formula taken literally does.
/// With η = 0 nothing is drawn: DDIM, or for a flow the Euler step.
///
/// Batches are [B, …]: the first axis counts items. A list of steps (`[DiffusionStep].mean` and so on) gives each item its own.
public struct DiffusionStep: Sendable, Hashable {
    /// What the model's output is.
    public enum Prediction: Sendable, Hashable {
        /// The noise ε.
        case epsilon
        /// α·ε − σ·x₀ (variance-preserving models).
        case velocity
        /// The clean latent x₀.
        case sample
        /// ε − x₀ (rectified flows).
        case flow
    }

    /// What the model is told: a training step's number, or 1000·sigma.
    public let timestep: Double
    /// α_t, the share of the clean latent before the step.
    public let alpha: Double
    /// σ_t, the share of the noise before the step.
    public let sigma: Double
    /// α_s, the share of the clean latent after the step.
    public let nextAlpha: Double
    /// σ_s, the share of the noise after the step.
    public let nextSigma: Double
    /// 0 draws nothing, 1 with the full posterior variance.
    public let eta: Double
    /// What the model's output is.
    public let prediction: Prediction
    /// The clean estimate is clipped to ± this; nil where it is not.
    public let clipRange: Double?
    /// √var; zero where nothing is drawn.
    public let standardDeviation: Double

    /// - Throws: `DiffusionError` where eta is outside 0…1, or the output does not determine the latent (noise predicted on pure noise).
    public init(
        timestep: Double, from: (alpha: Double, sigma: Double), to: (alpha: Double, sigma: Double), eta: Double, prediction: Prediction,
        clipRange: Double? = nil
    ) throws {
        guard (0...1).contains(eta) else { throw DiffusionError("eta is \(eta), outside of 0 to 1") }
        guard !(prediction == .epsilon && from.alpha <= 0) else {
            throw DiffusionError("the step from timestep \(timestep): on pure noise, the noise says nothing of the latent")
        }
        guard from.sigma > 0, to.alpha > 0 else {
            throw DiffusionError("the step from timestep \(timestep) starts without noise or ends in nothing else")
        }
        self.timestep = timestep
        (alpha, sigma) = from
        (nextAlpha, nextSigma) = to
        self.eta = eta
        self.prediction = prediction
        self.clipRange = clipRange
        standardDeviation = eta * Self.posteriorVariance(from: from, to: to).squareRoot()
    }

    /// The variance of x_s given x_t and x₀; η² times this is the step's.
    public static func posteriorVariance(from: (alpha: Double, sigma: Double), to: (alpha: Double, sigma: Double)) -> Double {
        let ratio = from.alpha / to.alpha
        let fresh = from.sigma * from.sigma - ratio * ratio * to.sigma * to.sigma
        return max(0, to.sigma * to.sigma / (from.sigma * from.sigma) * fresh)
    }

    /// x̂₀ = sample·x + output·model output, before clipping.
    var clean: (sample: Double, output: Double) {
        switch prediction {
        case .epsilon: (1 / alpha, -sigma / alpha)
        case .velocity: (alpha, -sigma)
        case .sample: (0, 1)
        case .flow: (1, -sigma)
        }
    }

    /// ε̂ = sample·x + output·model output.
    var noise: (sample: Double, output: Double) {
        switch prediction {
        case .epsilon: (0, 1)
        case .velocity: (sigma, alpha)
        case .sample: (1 / sigma, -alpha / sigma)
        case .flow: (1, alpha)
        }
    }

    /// √(σ_s² − var): how much of ε̂ the mean keeps.
    var keptNoise: Double { max(0, nextSigma * nextSigma - standardDeviation * standardDeviation).squareRoot() }

    /// The mean as sample·x + output·model output, where nothing is clipped. `output` is LPO's c_t.
    public var meanWeights: (sample: Double, output: Double) {
        (nextAlpha * clean.sample + keptNoise * noise.sample, nextAlpha * clean.output + keptNoise * noise.output)
    }

    /// x̂₀, what the output says the finished latent will be (`pred_original_sample`), clipped where the schedule says so.
    /// - Parameters:
    ///   - sample: x_t [B, …].
    ///   - output: the model's output, of the same shape.
    public func cleanEstimate(sample: Tensor, output: Tensor) -> Tensor { [self].cleanEstimate(sample: sample, output: output) }

    /// ε̂, the noise that the output sees in the sample; not changed by clipping.
    public func noiseEstimate(sample: Tensor, output: Tensor) -> Tensor { [self].noiseEstimate(sample: sample, output: output) }

    /// The mean of the Gaussian that x_s is drawn from.
    public func mean(sample: Tensor, output: Tensor) -> Tensor { [self].mean(sample: sample, output: output) }

    /// x_s = mean + standardDeviation·noise.
    /// - Parameter noise: standard normal, of the sample's shape; may be nil only where nothing is drawn.
    public func next(sample: Tensor, output: Tensor, noise: Tensor? = nil) -> Tensor {
        let mean = mean(sample: sample, output: output)
        guard standardDeviation > 0 else { return mean }
        guard let noise else { fatalError("a step with eta \(eta) needs noise") }
        return ItemWeights.combine(mean, noise, [(1, Float(standardDeviation))])
    }

    /// log p(next | sample) of each item, [B], under the Gaussian of `output`: see `[DiffusionStep].logProbability`.
    public func logProbability(
        of next: Tensor, sample: Tensor, output: Variable, reduction: LogProbabilityReduction = .mean
    ) throws -> Variable {
        try [self].logProbability(of: next, sample: sample, output: output, reduction: reduction)
    }

    /// log p(next | sample) under `output` minus that under `reference`, [B]: see `[DiffusionStep].logRatio`.
    public func logRatio(
        of next: Tensor, sample: Tensor, output: Variable, reference: Tensor, reduction: LogProbabilityReduction = .mean
    ) throws -> Variable {
        try [self].logRatio(of: next, sample: sample, output: output, reference: reference, reduction: reduction)
    }
}

extension [DiffusionStep] {
    /// `DiffusionStep.cleanEstimate`, with one step an item, or one for all.
    public func cleanEstimate(sample: Tensor, output: Tensor) -> Tensor {
        clipped(ItemWeights.combine(sample, output, map { (Float($0.clean.sample), Float($0.clean.output)) }))
    }

    /// `DiffusionStep.noiseEstimate`, with one step an item, or one for all.
    public func noiseEstimate(sample: Tensor, output: Tensor) -> Tensor {
        ItemWeights.combine(sample, output, map { (Float($0.noise.sample), Float($0.noise.output)) })
    }

    /// `DiffusionStep.mean`, with one step an item, or one for all.
    public func mean(sample: Tensor, output: Tensor) -> Tensor {
        // Without clipping one linear form: at high noise x̂₀ alone is large, and the mean is not.
        guard contains(where: { $0.clipRange != nil }) else {
            return ItemWeights.combine(sample, output, map { (Float($0.meanWeights.sample), Float($0.meanWeights.output)) })
        }
        return ItemWeights.combine(
            cleanEstimate(sample: sample, output: output), noiseEstimate(sample: sample, output: output),
            map { (Float($0.nextAlpha), Float($0.keptNoise)) })
    }

    /// Of each item, the derivative of its mean with respect to the model's output: constant, but zero through x̂₀ where that is clipped.
    func slope(sample: Tensor, output: Tensor) -> Tensor {
        let raw = ItemWeights.combine(sample, output, map { (Float($0.clean.sample), Float($0.clean.output)) })
        return ItemWeights.map(raw, count: count) { item, value in
            let step = self[item]
            let inside = step.clipRange.map { abs(value) <= Float($0) } ?? true
            return Float((inside ? step.nextAlpha * step.clean.output : 0) + step.keptNoise * step.noise.output)
        }
    }

    private func clipped(_ clean: Tensor) -> Tensor {
        guard contains(where: { $0.clipRange != nil }) else { return clean }
        return ItemWeights.map(clean, count: count) { item, value in
            guard let range = self[item].clipRange.map(Float.init) else { return value }
            return Swift.min(Swift.max(value, -range), range)
        }
    }
}

/// Element-wise work on batches [B, …] with numbers that belong to the item, or one for all items.
enum ItemWeights {
    /// a·x + b·y.
    static func combine(_ x: Tensor, _ y: Tensor, _ weights: [(x: Float, y: Float)]) -> Tensor {
        precondition(x.shape == y.shape, "shapes differ: \(x.shape) and \(y.shape)")
        let stride = stride(x, weights.count)
        return Tensor(shape: x.shape) { result in
            x.withUnsafeBufferPointer { x in
                y.withUnsafeBufferPointer { y in
                    for (item, weight) in weights.enumerated() {
                        for index in item * stride..<(item + 1) * stride { result[index] = weight.x * x[index] + weight.y * y[index] }
                    }
                }
            }
        }
    }

    /// `body(item, value)` of every element.
    static func map(_ x: Tensor, count: Int, _ body: (Int, Float) -> Float) -> Tensor {
        let stride = stride(x, count)
        return Tensor(shape: x.shape) { result in
            x.withUnsafeBufferPointer { x in
                for item in 0..<count {
                    for index in item * stride..<(item + 1) * stride { result[index] = body(item, x[index]) }
                }
            }
        }
    }

    /// Elements of an item; all of them where one item's number is everybody's.
    static func stride(_ x: Tensor, _ count: Int) -> Int {
        precondition(count == 1 || count == x.shape.first, "\(count) steps for a batch of shape \(x.shape)")
        return x.count / max(count, 1)
    }
}
