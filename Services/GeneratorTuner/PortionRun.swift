import Alignment
import Backbones
import Diffusion
import Tensors

/// Some prompts' candidates from noise to latents: all of them, or the best of each prompt.
struct PortionRun: Sendable {
    /// A reward and when it prunes.
    struct Judge: Sendable {
        var maker: LatentJudgeMaker
        var schedule: PruningSchedule
    }

    struct Clip: Sendable {
        var prompt: Int
        var candidate: Int
        /// [C,F,H,W].
        var latents: Tensor
    }

    var weights: WanWeights
    var sampler: EulerSampler
    var prompts: [TuningPrompt]
    /// The number of the first of them in the whole job.
    var firstPrompt: Int
    var candidates: Int
    var shape: [Int]
    var seed: UInt64
    var guidance: Float
    var judge: Judge?

    func run() async throws -> (clips: [Clip], forwardPasses: Int, judgePasses: Int) {
        let count = prompts.count * candidates
        let noise = EulerSampler.noise(shape: shape, seed: seed, items: firstPrompt * candidates..<firstPrompt * candidates + count)
        guard let judge else {
            let (sampler, velocity) = (sampler, velocity)
            let latents = try await NumericThreads.run { try sampler.run(noise, velocity: velocity).latents }
            let clips = (0..<count).map { item in
                Clip(prompt: firstPrompt + item / candidates, candidate: item % candidates, latents: row(latents, item))
            }
            return (clips, count * sampler.schedule.steps, 0)
        }
        let prompts = prompts
        let result = try await BestOfN(schedule: judge.schedule, sampler: sampler).run(noise: noise, velocity: velocity) { request in
            let prompt = prompts[request.group]
            return try await NumericThreads.run {
                let batch = request.candidates.count
                func repeated(_ tensor: Tensor?) -> Variable? { tensor.map { one in Variable(Tensor.stack((0..<batch).map { _ in one })) } }
                return try judge.maker().score(
                    latents: Variable(request.latents), timestep: [Float](repeating: request.timestep, count: batch),
                    promptEmbeds: repeated(prompt.promptEmbeds)!, condition: repeated(prompt.condition),
                    imageEmbeds: repeated(prompt.imageEmbeds)
                ).tensor.array
            }
        }
        let clips = result.winners.enumerated().map { group, winner in
            Clip(prompt: firstPrompt + group, candidate: winner, latents: row(result.latents, group))
        }
        return (clips, result.forwardPasses, result.judgePasses)
    }

    /// Item k is candidate k mod N of prompt k div N.
    private var velocity: @Sendable (VelocityRequest) throws -> Tensor {
        let (weights, prompts, candidates, guidance) = (weights, prompts, candidates, guidance)
        return { request in
            let chosen = request.items.map { prompts[$0 / candidates] }
            let model = try weights.model()
            let condition = chosen[0].condition == nil ? nil : Tensor.stack(chosen.map { $0.condition! })
            let input = Variable(condition.map { Tensor.concatenate([request.latents, $0], axis: 1) } ?? request.latents)
            let image = chosen[0].imageEmbeds == nil ? nil : Variable(Tensor.stack(chosen.map { $0.imageEmbeds! }))
            let timestep = [Float](repeating: request.timestep, count: chosen.count)
            let embeds = Tensor.stack(chosen.map(\.promptEmbeds))
            func predict(_ embeds: Tensor) throws -> Tensor {
                try model(
                    hiddenStates: input, timestep: timestep, encoderHiddenStates: Variable(embeds), encoderHiddenStatesImage: image
                ).sample!.tensor
            }
            guard guidance != 1 else { return try predict(embeds) }
            return FlowMatchSchedule.guided(
                conditional: try predict(embeds), unconditional: try predict(Tensor(zeros: embeds.shape)), scale: guidance)
        }
    }

    private func row(_ tensor: Tensor, _ index: Int) -> Tensor { tensor[index..<index + 1].reshaped(Array(tensor.shape.dropFirst())) }
}
