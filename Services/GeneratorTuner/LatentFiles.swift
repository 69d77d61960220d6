import Alignment
import Backbones
import JobQueue
import Safetensors
import Tensors

/// The file of a latent as labelling tools post it, and the file of prompts that `generate` reads (contract: "A latent's file").
enum LatentFiles {
    /// Reads a finished clip: `latents`, `prompt_embeds`, and `condition`, `image_embeds` where they are.
    static func clip(_ path: String) throws -> TuningClip {
        let file = try SafetensorsFile(contentsOf: path)
        return TuningClip(
            latents: try file.tensor("latents"),
            prompt: TuningPrompt(
                promptEmbeds: try file.tensor("prompt_embeds"), condition: try optional("condition", file),
                imageEmbeds: try optional("image_embeds", file)))
    }

    /// Reads prompts: `prompt_embeds` [P,L,D] (or [L,D] for one), `condition` [P,C₂,F,H,W] or [C₂,F,H,W] for all, `image_embeds` likewise.
    /// - Throws: a permanent ``JobError`` naming the tensor that is not finite, or does not fit the generator.
    static func prompts(_ path: String, for configuration: WanConfiguration) throws -> [TuningPrompt] {
        let file = try SafetensorsFile(contentsOf: path)
        let embeds = try file.tensor("prompt_embeds")
        guard embeds.shape.count == 2 || embeds.shape.count == 3, !embeds.shape.contains(0) else {
            throw JobError.permanent("prompts: prompt_embeds has shape \(embeds.shape), expected [P,L,D] with at least one prompt")
        }
        guard embeds.shape.last == configuration.textDim else {
            throw JobError.permanent(
                "prompts: prompt_embeds has shape \(embeds.shape): \(embeds.shape.last!) wide, but the generator's text_dim is \(configuration.textDim)"
            )
        }
        let count = embeds.shape.count == 3 ? embeds.shape[0] : 1
        let condition = try optional("condition", file), image = try optional("image_embeds", file)
        for (name, tensor) in [("prompt_embeds", embeds), ("condition", condition), ("image_embeds", image)] {
            guard tensor?.isFinite != false else { throw JobError.permanent("prompts: \(name) holds NaN or infinite values") }
        }
        let channels = configuration.inChannels - configuration.outChannels
        let found = condition.map { $0.shape.count >= 4 ? $0.shape[$0.shape.count - 4] : 0 } ?? 0
        guard found == channels else {
            throw JobError.permanent(
                "prompts: condition has \(condition.map { "shape \($0.shape)" } ?? "no tensor"), but the generator takes \(channels) condition channels"
            )
        }
        return try (0..<count).map { index in
            TuningPrompt(
                promptEmbeds: embeds.shape.count == 3 ? row(embeds, index) : embeds,
                condition: try condition.map { try shared($0, "condition", rank: 4, index, of: count) },
                imageEmbeds: try image.map { try shared($0, "image_embeds", rank: 2, index, of: count) })
        }
    }

    /// A finished clip's bytes, as ingest and the trainer read them.
    static func data(latents: Tensor, prompt: TuningPrompt, backbone: String, vae: String, extra: [String: String]) -> [UInt8] {
        var tensors = [("latents", latents), ("prompt_embeds", prompt.promptEmbeds)]
        if let condition = prompt.condition { tensors.append(("condition", condition)) }
        if let image = prompt.imageEmbeds { tensors.append(("image_embeds", image)) }
        let metadata = [
            "backbone": backbone, "vae": vae, "layout": latents.shape.count == 4 ? "CFHW" : "CHW", "space": "normalized",
            "noise.kind": "flow",
            "noise.sigma": "0", "noise.timestep": "0",
        ].merging(extra) { own, _ in own }
        return SafetensorsWriter.data(tensors: tensors, metadata: metadata)
    }

    private static func optional(_ name: String, _ file: SafetensorsFile) throws -> Tensor? {
        file.entries[name] == nil ? nil : try file.tensor(name)
    }

    private static func row(_ tensor: Tensor, _ index: Int) -> Tensor {
        tensor[index..<index + 1].reshaped(Array(tensor.shape.dropFirst()))
    }

    private static func shared(_ tensor: Tensor, _ name: String, rank: Int, _ index: Int, of count: Int) throws -> Tensor {
        if tensor.shape.count == rank { return tensor }
        guard tensor.shape.count == rank + 1, tensor.shape[0] == count else {
            throw JobError.permanent(
                "prompts: \(name) has shape \(tensor.shape), expected one for all or one for each of the \(count) prompts")
        }
        return row(tensor, index)
    }
}
