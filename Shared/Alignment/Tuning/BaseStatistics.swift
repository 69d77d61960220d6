import Backbones
import Diffusion
import Tensors

/// The base generator's rewards and energies along its own trajectories: what the tuned one is measured against.
public struct BaseStatistics: Sendable, Equatable {
    /// Mean and standard deviation of the judge's reward by schedule step, `steps` of them; 0 and 1 at step 0, where all is noise.
    public let mean: [Float]
    public let deviation: [Float]
    /// Mean of ‖latent‖² by schedule step.
    public let energy: [Float]

    /// Rolls out `configuration.baseClips` clips of the base and lets the judge read them before each step from 1 on.
    static func measure(
        _ sampling: TuningSampling, prompts: [TuningPrompt], judge: LatentJudgeMaker?, configuration: TuningConfiguration
    ) throws -> BaseStatistics {
        let count = configuration.baseClips
        let steps = configuration.steps
        let shards = try Sharding.run(count, shard: configuration.shard) { rows in
            let model = try sampling.weights.model()
            let judge = try judge?()
            let batch = PromptBatch(
                rows.map { item in
                    var stream = RandomStream(seed: configuration.seed, run: TuningStreams.basePrompt, item: UInt32(item))
                    return prompts[stream.integer(in: 0..<prompts.count)]
                })
            var x = sampling.noise(items: rows, run: TuningStreams.baseNoise, step: 0)
            var rewards = [[Float]](repeating: [], count: steps)
            var energies = [[Float]](repeating: [], count: steps)
            for step in 0..<steps {
                energies[step] = x.energies
                if step > 0, let judge {
                    rewards[step] = try judge.score(
                        latents: Variable(x), timestep: sampling.timestep(step, rows.count), promptEmbeds: Variable(batch.promptEmbeds),
                        condition: batch.condition.map { Variable($0) }, imageEmbeds: batch.imageEmbeds.map { Variable($0) }
                    ).tensor.array
                }
                if step < steps - 1 { x = try sampling.advanced(x, model, batch, from: step, to: step + 1) }
            }
            return (rewards, energies)
        }
        func gathered(_ step: Int, _ pick: (([[Float]], [[Float]])) -> [[Float]]) -> [Double] {
            shards.flatMap { pick($0)[step].map(Double.init) }
        }
        func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(max(values.count, 1)) }
        var means: [Float] = []
        var deviations: [Float] = []
        for step in 0..<steps {
            let rewards = gathered(step) { $0.0 }
            let center = mean(rewards)
            let variance = rewards.reduce(0) { $0 + ($1 - center) * ($1 - center) } / Double(max(rewards.count - 1, 1))
            means.append(Float(center))
            // A judge that says the same of everything has no scale to divide by.
            deviations.append(variance > 1e-12 ? Float(variance.squareRoot()) : 1)
        }
        guard (means + deviations).allSatisfy(\.isFinite) else {
            throw TuningError("the judge's rewards of the base's clips are not finite")
        }
        return BaseStatistics(
            mean: means, deviation: deviations, energy: (0..<steps).map { Float(mean(gathered($0) { $0.1 })) })
    }
}

extension Tensor {
    /// ‖row‖² of each row of the first axis.
    var energies: [Float] {
        let stride = count / max(shape[0], 1)
        return withUnsafeBufferPointer { values in
            (0..<shape[0]).map { row in
                Float(values[row * stride..<(row + 1) * stride].reduce(0.0) { $0 + Double($1) * Double($1) })
            }
        }
    }
}
