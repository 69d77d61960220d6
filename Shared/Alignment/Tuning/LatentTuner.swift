public import Backbones
import Tensors
import Diffusion
import Foundation

/// What one iteration did: a point of the report's curves.
public struct TuningRecord: Sendable, Equatable, Codable {
    /// Counted from 1.
    public let iteration: Int
    /// The differentiable step; −1 without a reward half-step.
    public let step: Int
    /// Mean reward of the tuned generator's latents behind that step, in the base's standard deviations above its mean; 0 without.
    public let reward: Float
    /// −log σ(reward), and the flow-matching loss; 0 for a half-step that was not taken.
    public let rewardLoss: Float
    public let clipLoss: Float
    /// ‖latent‖² behind the step against the base's; 1 without a reward half-step.
    public let energyRatio: Float
    /// Norms before clipping.
    public let rewardGradientNorm: Float
    public let clipGradientNorm: Float
}

/// Fine-tunes a generator by a LoRA: PRFL (reward through one denoising step) with a flow-matching brake on chosen clips.
///
/// An iteration takes up to two half-steps, each with its own gradient, clip and AdamW state (methods-video §1.5, §5):
/// 1. flow matching on clips that people chose: MSE(v(x_t, t), ε − x₀), t shifted and stratified;
/// 2. reward: roll out from noise without gradient to a step drawn for the whole batch, take that one step with gradient, let the
///    frozen judge read the latent behind it with *that* latent's timestep, and descend −log σ((r − mean) / sd), mean and sd the base's.
/// Every draw has a stream of its own (seed, iteration, item); a run resumed from `state` equals an uninterrupted one bit for bit.
public final class LatentTuner {
    public let configuration: TuningConfiguration
    public let base: BaseStatistics
    /// Iterations done.
    public var iteration: Int { records.count }
    /// One a iteration.
    public internal(set) var records: [TuningRecord] = []

    let model: WanTransformer3DModel
    let data: TuningData
    let judge: LatentJudgeMaker?
    let schedule: FlowMatchSchedule
    var clipOptimizer = AdamW()
    var rewardOptimizer = AdamW()

    /// A tuner at its start; measures the base's statistics.
    /// - Parameters:
    ///   - generator: the base's weights; they are not changed.
    ///   - judge: nil only for a method without reward.
    /// - Throws: `TuningError` for settings or inputs that make no sense, `BackboneError` for inputs that do not fit the generator.
    public convenience init(
        generator: WanWeights, data: TuningData, judge: LatentJudgeMaker?, configuration: TuningConfiguration
    ) throws {
        try self.init(generator: generator, data: data, judge: judge, configuration: configuration, base: nil)
    }

    init(
        generator: WanWeights, data: TuningData, judge: LatentJudgeMaker?, configuration: TuningConfiguration, base: BaseStatistics?
    ) throws {
        try configuration.validate()
        if configuration.method.usesReward && judge == nil { throw TuningError("method \(configuration.method.rawValue) needs a reward") }
        if configuration.method.usesClips && data.clips.isEmpty {
            throw TuningError("method \(configuration.method.rawValue) needs chosen clips, and there are none")
        }
        self.configuration = configuration
        self.data = data
        self.judge = judge
        schedule = FlowMatchSchedule(steps: configuration.steps, shift: configuration.shift)
        model = try generator.model()
        model.setRequiresGradient { _ in false }
        model.detachLoRA()
        self.base =
            try base
            ?? BaseStatistics.measure(
                TuningSampling(weights: model.weights, schedule: schedule, latentShape: data.latentShape, seed: configuration.seed),
                prompts: data.prompts, judge: configuration.method.usesReward ? judge : nil, configuration: configuration)
        try model.attachLoRA(LoRAConfiguration(rank: configuration.rank, targets: configuration.targets), seed: configuration.seed)
    }

    /// The adapter as it is now, to be saved or evaluated.
    public var adapter: LoRAWeights { model.loraWeights! }

    /// The mean energy ratio of the last iterations, 1 before the first. It drifts before the reward is hacked, so it, and not the
    /// reward, is what to stop on.
    public func recentEnergyRatio(_ window: Int = 8) -> Float {
        let recent = records.suffix(window)
        return recent.isEmpty ? 1 : recent.reduce(0) { $0 + $1.energyRatio } / Float(recent.count)
    }

    /// One iteration. - Throws: `TuningError` when a loss or a gradient stops being finite; the adapter is then as before the half-step.
    @discardableResult
    public func advance() throws -> TuningRecord {
        let clips = configuration.method.usesClips ? try clipHalfStep() : nil
        let reward = configuration.method.usesReward ? try rewardHalfStep() : nil
        let record = TuningRecord(
            iteration: iteration + 1, step: reward?.step ?? -1, reward: reward?.reward ?? 0, rewardLoss: reward?.loss ?? 0,
            clipLoss: clips?.loss ?? 0, energyRatio: reward?.energyRatio ?? 1, rewardGradientNorm: reward?.norm ?? 0,
            clipGradientNorm: clips?.norm ?? 0)
        records.append(record)
        return record
    }

    // MARK: Flow matching on chosen clips

    private func clipHalfStep() throws -> (loss: Float, norm: Float) {
        let (loss, gradients) = try clipGradients()
        return (loss, try update(gradients, loss: loss, "flow-matching", &clipOptimizer, configuration.clipLearningRate))
    }

    /// The flow-matching loss of this iteration's draw, and its gradient.
    func clipGradients() throws -> (loss: Float, gradients: [Tensor]) {
        let (configuration, data, iteration) = (configuration, data, iteration)
        let weights = model.weights
        let share = 1 / Float(configuration.batch)
        let shards = try Sharding.run(configuration.batch, shard: configuration.shard) { rows in
            var clips: [TuningClip] = []
            var sigmas: [Float] = []
            var noises: [Tensor] = []
            for item in rows {
                var choice = RandomStream(
                    seed: configuration.seed, run: TuningStreams.clipChoice, step: UInt32(iteration), item: UInt32(item))
                clips.append(data.clips[choice.integer(in: 0..<data.clips.count)])
                // Stratified: each clip of the batch has its own slice of 0…1.
                let u = (Float(item) + choice.uniform()) / Float(configuration.batch)
                sigmas.append(FlowMatchSchedule.shifted(u, shift: configuration.shift))
                var stream = RandomStream(
                    seed: configuration.seed, run: TuningStreams.clipNoise, step: UInt32(iteration), item: UInt32(item))
                noises.append(Tensor.normal(shape: data.latentShape, &stream))
            }
            let model = try weights.model()
            let (x0, noise) = (Tensor.stack(clips.map(\.latents)), Tensor.stack(noises))
            let velocity = try TuningSampling.velocity(
                Variable(FlowMatchSchedule.noised(x0, noise, sigmas: sigmas)), model, PromptBatch(clips.map(\.prompt)),
                timestep: sigmas.map { 1000 * $0 })
            let target = Variable(FlowMatchSchedule.velocityTarget(x0, noise))
            let loss = scale(meanSquaredError(velocity, target), Float(rows.count) * share)
            loss.backward()
            return (loss: loss.tensor.item, gradients: Self.gradients(model))
        }
        return (shards.reduce(0) { $0 + $1.loss }, Sharding.summed(shards.map(\.gradients)))
    }

    // MARK: The reward through one step

    private func rewardHalfStep() throws -> (step: Int, reward: Float, loss: Float, energyRatio: Float, norm: Float) {
        let pass = try rewardGradients()
        let norm = try update(pass.gradients, loss: pass.loss, "reward", &rewardOptimizer, configuration.rewardLearningRate)
        return (pass.step, pass.reward, pass.loss, pass.energyRatio, norm)
    }

    /// The reward's loss at this iteration's step and draw, and its gradient through that one step.
    func rewardGradients() throws -> (step: Int, reward: Float, loss: Float, energyRatio: Float, gradients: [Tensor]) {
        let (configuration, data, iteration, schedule, base) = (configuration, data, iteration, schedule, base)
        guard let judge else { throw TuningError("there is no judge") }
        var draw = RandomStream(seed: configuration.seed, run: TuningStreams.step, step: UInt32(iteration))
        let step = draw.integer(in: configuration.firstStep..<configuration.lastStep + 1)
        let gap = schedule.sigmas[step + 1] - schedule.sigmas[step]
        let sampling = TuningSampling(
            weights: model.weights, schedule: schedule, latentShape: data.latentShape, seed: configuration.seed)
        let merged = step > 0 ? sampling.weights.merged() : sampling.weights.frozen()
        let weight = (configuration.dividesByGap ? 1 / abs(gap) : 1) / Float(configuration.batch)

        let shards = try Sharding.run(configuration.batch, shard: configuration.shard) { rows in
            let prompts = PromptBatch(
                rows.map { item in
                    var stream = RandomStream(
                        seed: configuration.seed, run: TuningStreams.rewardPrompt, step: UInt32(iteration), item: UInt32(item))
                    return data.prompts[stream.integer(in: 0..<data.prompts.count)]
                })
            // Roll out without a live parameter: no graph is built, and nothing can flow into earlier states.
            var x = sampling.noise(items: rows, run: TuningStreams.rewardNoise, step: iteration)
            if step > 0 { x = try sampling.advanced(x, merged.model(), prompts, from: 0, to: step) }
            // The one differentiable evaluation, and the one Euler step behind it.
            let model = try sampling.weights.model()
            let before = Variable(x)
            let next = add(before, scale(try sampling.velocity(before, model, prompts, step: step), gap))
            let reward = try judge().score(
                latents: next, timestep: sampling.timestep(step + 1, rows.count), promptEmbeds: Variable(prompts.promptEmbeds),
                condition: prompts.condition.map { Variable($0) }, imageEmbeds: prompts.imageEmbeds.map { Variable($0) })
            let normalised = scale(shift(reward, -base.mean[step + 1]), 1 / base.deviation[step + 1])
            let loss = sum(softplus(scale(normalised, -1)))
            scale(loss, weight).backward()
            return (
                rewards: normalised.tensor.array, energies: next.tensor.energies, loss: loss.tensor.item, gradients: Self.gradients(model)
            )
        }
        let count = Float(configuration.batch)
        let loss = shards.reduce(0) { $0 + $1.loss } / count
        let energy = shards.flatMap(\.energies).reduce(0, +) / count
        return (
            step, shards.flatMap(\.rewards).reduce(0, +) / count, loss, energy / max(base.energy[step + 1], 1e-20),
            Sharding.summed(shards.map(\.gradients))
        )
    }

    // MARK: Updates

    private static func gradients(_ model: WanTransformer3DModel) -> [Tensor] {
        model.loraParameters.map { $0.variable.gradient ?? Tensor(zeros: $0.variable.tensor.shape) }
    }

    /// Clips, checks and applies one half-step's gradient. Returns its norm before clipping.
    private func update(
        _ gradients: [Tensor], loss: Float, _ name: String, _ optimizer: inout AdamW, _ rate: Float
    ) throws -> Float {
        var gradients = gradients
        let norm = clipGradientNorm(&gradients, maximum: configuration.gradientClip)
        guard loss.isFinite, norm.isFinite else {
            throw TuningError(
                "iteration \(iteration + 1): the \(name) half-step's loss (\(loss)) or gradient norm (\(norm)) is not finite; "
                    + "a smaller learning rate may help")
        }
        optimizer.step(parameters: model.loraParameters.map(\.variable), gradients: gradients, learningRate: rate)
        return norm
    }
}
