import Backbones
import Diffusion
import Tensors

/// Which stream a draw comes from, so that no two kinds of draw under one seed meet.
enum TuningStreams {
    static let basePrompt: UInt32 = 0x71_0001
    static let baseNoise: UInt32 = 0x71_0002
    static let step: UInt32 = 0x71_0003
    static let rewardPrompt: UInt32 = 0x71_0004
    static let rewardNoise: UInt32 = 0x71_0005
    static let clipChoice: UInt32 = 0x71_0006
    static let clipNoise: UInt32 = 0x71_0007
}

/// Rolling latents along the schedule with some weights.
struct TuningSampling: Sendable {
    let weights: WanWeights
    let schedule: FlowMatchSchedule
    let latentShape: [Int]
    let seed: UInt64

    /// Starting noise [rows] + latentShape: an item's own, whatever shard it is in.
    func noise(items: Range<Int>, run: UInt32, step: Int) -> Tensor {
        Tensor.stack(
            items.map { item in
                var stream = RandomStream(seed: seed, run: run, step: UInt32(step), item: UInt32(item))
                return Tensor.normal(shape: latentShape, &stream)
            })
    }

    func timestep(_ step: Int, _ count: Int) -> [Float] { [Float](repeating: schedule.timesteps[step], count: count) }

    /// The velocity before `step` for latents [B,C,F,H,W].
    func velocity(_ x: Variable, _ model: WanTransformer3DModel, _ prompts: PromptBatch, step: Int) throws -> Variable {
        try Self.velocity(x, model, prompts, timestep: timestep(step, x.tensor.shape[0]))
    }

    static func velocity(_ x: Variable, _ model: WanTransformer3DModel, _ prompts: PromptBatch, timestep: [Float]) throws -> Variable {
        let input = prompts.condition.map { concatenate([x, Variable($0)], axis: 1) } ?? x
        return try model(
            hiddenStates: input, timestep: timestep, encoderHiddenStates: Variable(prompts.promptEmbeds),
            encoderHiddenStatesImage: prompts.imageEmbeds.map { Variable($0) }
        ).sample!
    }

    /// Euler steps without a gradient; `model` must hold no parameter that requires one.
    func advanced(_ x: Tensor, _ model: WanTransformer3DModel, _ prompts: PromptBatch, from: Int, to: Int) throws -> Tensor {
        var x = x
        for step in from..<to {
            let velocity = try velocity(Variable(x), model, prompts, step: step).tensor
            x = FlowMatchSchedule.eulerStep(x, velocity, from: schedule.sigmas[step], to: schedule.sigmas[step + 1])
        }
        return x
    }
}

/// Cuts items into shards of a fixed size, runs them side by side, and returns the results in the order of the shards.
enum Sharding {
    static func run<Result: Sendable>(
        _ count: Int, shard: Int, _ body: @Sendable (Range<Int>) throws -> Result
    ) throws -> [Result] {
        let shards = (count + shard - 1) / shard
        let results = NumericThreads.parallelMap(shards) { index in
            Swift.Result { try body(index * shard..<min((index + 1) * shard, count)) }
        }
        return try results.map { try $0.get() }
    }

    /// Sums gradients in the order of the shards.
    static func summed(_ shards: [[Tensor]]) -> [Tensor] {
        var sum = shards[0]
        for shard in shards.dropFirst() {
            for index in sum.indices { sum[index].add(shard[index]) }
        }
        return sum
    }
}
