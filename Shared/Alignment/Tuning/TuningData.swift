public import Tensors

/// What a clip is generated from.
public struct TuningPrompt: Sendable {
    /// The text encoder's tokens [L,D].
    public let promptEmbeds: Tensor
    /// [C₂,F,H,W], joined behind the latent; nil where the backbone takes none.
    public let condition: Tensor?
    /// The image encoder's tokens [I,D]; nil where the backbone takes none.
    public let imageEmbeds: Tensor?

    public init(promptEmbeds: Tensor, condition: Tensor? = nil, imageEmbeds: Tensor? = nil) {
        self.promptEmbeds = promptEmbeds
        self.condition = condition
        self.imageEmbeds = imageEmbeds
    }
}

/// A finished clip that was chosen over another: what the flow-matching half-step learns from.
public struct TuningClip: Sendable {
    /// Normalised, noise-free [C,F,H,W].
    public let latents: Tensor
    public let prompt: TuningPrompt

    public init(latents: Tensor, prompt: TuningPrompt) {
        self.latents = latents
        self.prompt = prompt
    }
}

/// What the tuner learns from. All latents have one shape, all prompts one length.
public struct TuningData: Sendable {
    public let clips: [TuningClip]
    public let prompts: [TuningPrompt]
    /// [C,F,H,W] of the clips to generate.
    public let latentShape: [Int]

    /// - Parameters:
    ///   - clips: chosen clips; may be empty for a tuner without the flow-matching half-step.
    ///   - prompts: what to generate for the reward half-step; the clips' own where nil.
    /// - Throws: `TuningError` when shapes differ, or a latent is not finite.
    public init(clips: [TuningClip], prompts: [TuningPrompt]? = nil, latentShape: [Int]) throws {
        self.clips = clips
        self.prompts = prompts ?? clips.map(\.prompt)
        self.latentShape = latentShape
        for (index, clip) in clips.enumerated() {
            guard clip.latents.shape == latentShape else {
                throw TuningError("clip \(index) has latents \(clip.latents.shape), expected \(latentShape)")
            }
            guard clip.latents.isFinite else { throw TuningError("clip \(index) has latents that are not finite") }
        }
        let all = self.prompts + clips.map(\.prompt)
        guard let first = all.first else { throw TuningError("there is neither a clip nor a prompt to tune on") }
        for (index, prompt) in all.enumerated() {
            for (name, own, wanted) in [
                ("prompt_embeds", prompt.promptEmbeds.shape, first.promptEmbeds.shape),
                ("condition", prompt.condition?.shape ?? [], first.condition?.shape ?? []),
                ("image_embeds", prompt.imageEmbeds?.shape ?? [], first.imageEmbeds?.shape ?? []),
            ] where own != wanted {
                throw TuningError("prompt \(index) has \(name) \(own), but the first has \(wanted)")
            }
        }
    }
}

/// Prompts of one shard, stacked.
struct PromptBatch {
    let promptEmbeds: Tensor
    let condition: Tensor?
    let imageEmbeds: Tensor?

    init(_ prompts: [TuningPrompt]) {
        promptEmbeds = Tensor.stack(prompts.map(\.promptEmbeds))
        condition = prompts[0].condition == nil ? nil : Tensor.stack(prompts.map { $0.condition! })
        imageEmbeds = prompts[0].imageEmbeds == nil ? nil : Tensor.stack(prompts.map { $0.imageEmbeds! })
    }
}
