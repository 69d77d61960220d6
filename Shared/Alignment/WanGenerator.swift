public import Backbones
public import Diffusion
public import Tensors

/// A Wan transformer as a sampler's velocity: joins the condition, gives each item its prompt, and guides where asked.
public struct WanGenerator: Sendable {
    /// Inference weights; an attached adapter takes part.
    public let weights: WanWeights
    /// [C₂, F, H, W], joined behind every latent's channels, or nil.
    public let condition: Tensor?

    public init(_ model: WanTransformer3DModel, condition: Tensor?) {
        let frozen = model.replica()
        frozen.setRequiresGradient { _ in false }
        weights = frozen.weights
        self.condition = condition
    }

    /// - Parameters:
    ///   - promptEmbeds: a table of prompts [P, L, D].
    ///   - rows: the table's row for each item of the sampler's batch; nil where item k has row k.
    ///   - guidance: 1 asks the model once; any other scale asks it for the empty prompt (zeros) too, at twice the cost.
    /// - Returns: a velocity for ``EulerSampler``; it throws what the model throws for latents or prompts that do not fit it.
    public func velocity(
        promptEmbeds: Tensor, rows: [Int]? = nil, guidance: Float = 1
    ) -> @Sendable (VelocityRequest) throws -> Tensor {
        let (weights, condition) = (weights, condition)
        return { request in
            let prompts = promptEmbeds.gathering(request.items.map { rows?[$0] ?? $0 })
            let model = WanTransformer3DModel(weights: weights)
            let input = Variable(request.latents.joiningCondition(condition))
            let timestep = [Float](repeating: request.timestep, count: request.items.count)
            let predict = { (prompts: Tensor) in
                try model(hiddenStates: input, timestep: timestep, encoderHiddenStates: Variable(prompts)).sample!.tensor
            }
            let conditional = try predict(prompts)
            guard guidance != 1 else { return conditional }
            return FlowMatchSchedule.guided(
                conditional: conditional, unconditional: try predict(Tensor(zeros: prompts.shape)), scale: guidance)
        }
    }
}
