public import Tensors

/// Data for one step of pretraining, without noise.
public struct PretrainingBatch: Sendable {
    /// Finished, normalised latents [B, C, F, H, W].
    public let latents: Tensor
    /// Channels joined behind the noisy latent: [C₂, F, H, W] for all, or nil.
    public let condition: Tensor?
    /// [B, L, D]; pretraining replaces some by zeros, the empty prompt.
    public let promptEmbeds: Tensor

    public init(latents: Tensor, condition: Tensor?, promptEmbeds: Tensor) {
        precondition(latents.shape[0] == promptEmbeds.shape[0], "a prompt for each latent")
        self.latents = latents
        self.condition = condition
        self.promptEmbeds = promptEmbeds
    }
}

/// One thread's share of a step: everything drawn, ready for the model.
struct PretrainingShard: Sendable {
    /// [b, C + C₂, F, H, W].
    let input: Tensor
    let timesteps: [Float]
    let promptEmbeds: Tensor
    /// noise − x₀: [b, C, F, H, W].
    let target: Tensor
}

extension Tensor {
    /// Joins one condition [C₂, …] behind the channels of each latent [B, C, …].
    public func joiningCondition(_ condition: Tensor?) -> Tensor {
        guard let condition else { return self }
        precondition(Array(shape.dropFirst(2)) == Array(condition.shape.dropFirst()), "a condition \(condition.shape) for latents \(shape)")
        let own = count / max(shape[0], 1)
        let added = condition.count
        let channels = shape[1] + condition.shape[0]
        return Tensor(shape: [shape[0], channels] + shape.dropFirst(2)) { result in
            withUnsafeBufferPointer { latents in
                condition.withUnsafeBufferPointer { condition in
                    for item in 0..<shape[0] {
                        let first = item * (own + added)
                        for index in 0..<own { result[first + index] = latents[item * own + index] }
                        for index in 0..<added { result[first + own + index] = condition[index] }
                    }
                }
            }
        }
    }
}
