import Alignment
import Artifacts
import Backbones
import Diffusion
import Foundation
import JobQueue
import Preferences
import Safetensors
import ServiceWiring
import Tensors

/// The `generate` job: prompts to latents, each candidate a file of its own in the store, with Best-of-N where a reward is named.
///
/// A prompt's candidates depend on (seed, prompt, candidate) alone. The job checkpoints after each portion of prompts: a rerun goes on behind
/// it, and files are stored by digest, so that storing one twice changes nothing.
struct GenerateJob {
    let inputs: JobInputs
    let context: JobContext

    private static let known: Set<String> = [
        "generator", "adapter", "prompts", "prompts_sha256", "candidates", "steps", "shift", "seed", "guidance", "reward", "prune",
        "frames", "height",
        "width", "vae",
    ]
    /// Clips sampled between two checkpoints.
    private static let portion = 96

    /// One stored candidate: a line of the manifest that the job leaves.
    struct Output: Codable, Sendable {
        var prompt: Int
        var candidate: Int
        var url: String
        var sha256: String
        var bytes: Int
    }

    private struct Result: Encodable {
        var manifest: Artifact
        var clips: Int
        var forward_passes: Int
        var judge_passes: Int
    }

    private struct State: Codable {
        var prompts: Int
        var forwardPasses: Int
        var judgePasses: Int
        var outputs: [Output]
    }

    func run() async throws -> JobResult {
        do {
            let result = try await generate()
            await inputs.fetches.write()
            return result
        } catch let error as JobSettingsError {
            throw JobError.permanent(error.description)
        } catch let error as SafetensorsError {
            throw JobError.permanent("prompts: \(error)")
        } catch let error as BackboneError {
            throw JobError.permanent(error.description)
        } catch let error as PruningSchedule.Invalid {
            throw JobError.permanent("setting prune: \(error)")
        }
    }

    private func generate() async throws -> JobResult {
        let settings = try JobSettings(json: Data(context.arguments.utf8))
        try settings.refuseUnknown(Self.known)
        let candidates = try settings.integer("candidates", default: 1, in: 1...1024)
        let steps = try settings.integer("steps", default: 20, in: 1...1000)
        let shift = Float(try settings.double("shift", default: 3, in: 0.01...100))
        let guidance = Float(try settings.double("guidance", default: 1, in: 0...100))
        let seed = UInt64(try settings.integer("seed", default: 0, in: 0...Int(Int32.max)))
        let (version, folder) = try await inputs.folder(try settings.string("generator"), .generator, what: "setting generator")
        defer { folder.release() }
        let model = try WanTransformer3DModel.load(directory: folder.path)
        if let adapter = try settings.optionalString("adapter") {
            let (_, adapterFolder) = try await inputs.folder(adapter, .adapter, what: "setting adapter")
            defer { adapterFolder.release() }
            try model.attachLoRA(LoRAFile.load(adapterFolder.path + "/" + LoRAFile.name), trainable: false)
        }
        let path = try await inputs.file(
            try settings.string("prompts"), sha256: try settings.optionalString("prompts_sha256"), what: "setting prompts")
        let prompts = try LatentFiles.prompts(path, for: model.configuration)
        let shape = try latentShape(settings, prompts[0], model.configuration)
        let vae = try settings.string("vae", default: version.name + "-vae")
        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: steps, shift: shift))
        let judge = try await bestOfN(settings, candidates: candidates, sampler: sampler)

        var state =
            try await context.lastCheckpoint(name: "generate")?.state(as: State.self)
            ?? State(prompts: 0, forwardPasses: 0, judgePasses: 0, outputs: [])
        let weights = model.weights.merged()
        let groups = max(1, Self.portion / candidates)
        while state.prompts < prompts.count {
            try context.checkCancellation()
            let range = state.prompts..<min(state.prompts + groups, prompts.count)
            let run = PortionRun(
                weights: weights, sampler: sampler, prompts: Array(prompts[range]), firstPrompt: range.lowerBound, candidates: candidates,
                shape: shape, seed: seed, guidance: guidance, judge: judge)
            let made = try await run.run()
            state.forwardPasses += made.forwardPasses
            state.judgePasses += made.judgePasses
            for clip in made.clips {
                let bytes = LatentFiles.data(
                    latents: clip.latents, prompt: prompts[clip.prompt], backbone: version.name, vae: vae,
                    extra: ["backbone.version": version.reference, "seed": String(seed), "steps": String(steps), "shift": String(shift)])
                let stored = try await inputs.store.put(bytes)
                state.outputs.append(
                    Output(prompt: clip.prompt, candidate: clip.candidate, url: stored.url, sha256: stored.sha256, bytes: stored.bytes))
            }
            state.prompts = range.upperBound
            context.progress(Double(state.prompts) / Double(prompts.count), "\(state.prompts) of \(prompts.count) prompts")
            try await context.checkpoint(step: Int64(state.prompts), state: state, name: "generate")
        }

        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let manifest = try await inputs.store.put(Array(try encoder.encode(state.outputs)), mediaType: "application/json")
        return try JobResult(
            Result(
                manifest: manifest, clips: state.outputs.count, forward_passes: state.forwardPasses * (guidance == 1 ? 1 : 2),
                judge_passes: state.judgePasses))
    }

    /// [C,F,H,W]: channels from the backbone, the rest from the condition or from settings.
    private func latentShape(_ settings: JobSettings, _ prompt: TuningPrompt, _ configuration: WanConfiguration) throws -> [Int] {
        if let condition = prompt.condition { return [configuration.outChannels] + condition.shape.dropFirst() }
        let sizes = try ["frames", "height", "width"].map { try settings.integer($0, default: 0, in: 0...4096) }
        guard sizes.allSatisfy({ $0 > 0 }) else {
            throw JobError.permanent("the prompts hold no condition: set frames, height and width of the latents to make")
        }
        guard sizes.reduce(1, *) <= 1 << 24 else {
            throw JobError.permanent(
                "settings frames, height, width: \(sizes) is more than this program samples; they are those of the latents, not of pixels")
        }
        return [configuration.outChannels] + sizes
    }

    private func bestOfN(_ settings: JobSettings, candidates: Int, sampler: EulerSampler) async throws -> PortionRun.Judge? {
        guard let reward = try settings.optionalString("reward") else { return nil }
        guard candidates > 1 else { throw JobError.permanent("setting candidates: a Best-of-N needs at least 2") }
        let steps = sampler.schedule.steps
        let text = try settings.string("prune", default: "1@\(max(1, steps / 4))")
        return PortionRun.Judge(
            maker: try await Judges(inputs: inputs).maker(reward).maker,
            schedule: try PruningSchedule(text, count: candidates, steps: steps))
    }
}
