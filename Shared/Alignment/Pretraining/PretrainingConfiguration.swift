public import Diffusion

/// The recipe of a flow-matching pretraining. The defaults are the demo's.
public struct PretrainingConfiguration: Sendable, Codable, Hashable {
    /// Optimizer steps.
    public var steps = 2000
    /// Clips a step.
    public var batch = 40
    /// Clips that one thread carries through forward and backward at a time. It is part of the recipe, because sums are taken shard by
    /// shard: another number gives another rounding, another thread count does not.
    public var microBatch = 8
    /// AdamW's peak.
    public var learningRate: Float = 2e-3
    /// Muon's peak: an orthogonal update of a square matrix of 128 has entries of 0.09, against AdamW's of about 1.
    public var muonLearningRate: Float = 2e-2
    /// Decoupled weight decay of both optimizers.
    public var weightDecay: Float = 0.01
    /// Steps of linear warm-up.
    public var warmUp = 60
    /// The share of the steps, at the end, over which the rate falls linearly to zero.
    public var decayShare = 0.4
    /// Decay of the average of the weights, which is what is kept.
    public var averageDecay: Float = 0.995
    /// t = shift·u / (1 + (shift − 1)·u), u stratified over the batch.
    public var shift: Float = 3
    /// The share of items that see the empty prompt (zeros), so that guidance has an unconditional side.
    public var emptyPromptShare: Float = 0.1
    /// Seeds noise, t and empty prompts; item i of step s depends on (seed, s, i) alone.
    public var seed: UInt64 = 1

    public init() {}

    /// The share of the peak learning rates at a step, from 0: warm-up, plateau, linear decay.
    public func rate(at step: Int) -> Float {
        let rising = Float(min(1, Double(step + 1) / Double(max(warmUp, 1))))
        let decaySteps = max(1, Double(steps) * decayShare)
        let falling = Float(min(1, max(0, Double(steps - step) / decaySteps)))
        return min(rising, falling)
    }

    /// Noise levels of a step's items, stratified: one u in each of `batch` equal parts of 0…1.
    func sigmas(uniforms: [Float]) -> [Float] {
        uniforms.enumerated().map { index, uniform in
            FlowMatchSchedule.shifted((Float(index) + uniform) / Float(uniforms.count), shift: shift)
        }
    }
}
