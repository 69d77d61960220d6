import Alignment
import Backbones
import DemoWorld
import Diffusion
import Foundation
import Safetensors
import Tensors

/// Trains the demo's generator from nothing: joins the world's clips to the pretraining of `Alignment`.
enum DemoPretraining {
    /// What a run came to.
    struct Summary: Sendable {
        let steps: Int
        /// Mean over the last tenth of the steps.
        let finalLoss: Double
        let seconds: Double
    }

    /// The architecture of the demo's generator: four layers of 128.
    static let architecture = """
        {"_class_name":"WanTransformer3DModel","added_kv_proj_dim":null,"attention_head_dim":32,"cross_attn_norm":true,"eps":1e-06,
         "ffn_dim":384,"freq_dim":64,"image_dim":null,"in_channels":20,"num_attention_heads":4,"num_layers":4,"out_channels":12,
         "patch_size":[1,2,2],"pos_embed_seq_len":null,"qk_norm":"rms_norm_across_heads","rope_max_seq_len":32,"text_dim":64}
        """

    /// Trains and writes the averaged weights in diffusers layout.
    /// - Parameters:
    ///   - output: a folder, made if missing. A checkpoint lies in it every 500 steps, and a run that finds one goes on from it.
    ///   - adjust: changes the recipe.
    ///   - progress: called after each step with the number of steps done and the step's loss.
    static func run(
        output: String, steps: Int = 2000, seed: UInt64 = 1,
        adjust: (inout PretrainingConfiguration) -> Void = { _ in }, progress: (_ step: Int, _ loss: Float) -> Void = { _, _ in }
    ) throws -> Summary {
        let started = ContinuousClock.now
        let conditioning = try DemoConditioning()
        let configuration = try WanConfiguration(json: Array(architecture.utf8))
        var recipe = PretrainingConfiguration()
        recipe.steps = steps
        recipe.seed = seed
        adjust(&recipe)
        let pretraining = Pretraining(model: WanTransformer3DModel(configuration: configuration, seed: seed), configuration: recipe)

        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let checkpoint = output + "/pretraining.safetensors"
        if FileManager.default.fileExists(atPath: checkpoint) { try pretraining.resume(from: checkpoint) }

        var losses: [Float] = []
        while pretraining.step < steps {
            let clips = DemoClips(count: recipe.batch, seed: seed, step: UInt32(pretraining.step))
            let batch = PretrainingBatch(
                latents: conditioning.codec.encode(clips.pixels), condition: conditioning.positionChannels,
                promptEmbeds: conditioning.promptEmbeds(clips.prompts))
            losses.append(try pretraining.advance(batch))
            progress(pretraining.step, losses.last!)
            if pretraining.step % 500 == 0, pretraining.step < steps { try pretraining.save(to: checkpoint) }
        }
        try pretraining.averagedModel().save(directory: output)
        try? FileManager.default.removeItem(atPath: checkpoint)
        let last = losses.suffix(max(1, steps / 10)).map(Double.init)
        return Summary(
            steps: steps, finalLoss: last.isEmpty ? 0 : last.reduce(0, +) / Double(last.count),
            seconds: (ContinuousClock.now - started) / .seconds(1))
    }
}
