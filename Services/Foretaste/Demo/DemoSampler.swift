import Alignment
import Backbones
import DemoWorld
import Diffusion
import Foundation
import Synchronization
import Tensors

/// Samples the demo's clips in this process, as a user's generation script would, and counts what it costs.
final class DemoSampler: Sendable {
    let world: DemoConditioning
    let settings: DemoSettings
    let folder: String
    private let cost = Mutex((passes: 0, seconds: 0.0))

    init(folder: String, settings: DemoSettings) throws {
        world = try DemoConditioning()
        self.settings = settings
        self.folder = folder
    }

    /// Measured wall seconds for one evaluation of one clip.
    var secondsPerPass: Double { cost.withLock { $0.passes == 0 ? 0 : $0.seconds / Double($0.passes) } }

    /// The base generator, or the base with an adapter.
    func generator(adapter: LoRAWeights? = nil) throws -> WanGenerator {
        let model = try WanTransformer3DModel.load(directory: folder)
        if let adapter { try model.attachLoRA(adapter, trainable: false) }
        return WanGenerator(model, condition: world.positionChannels)
    }

    /// `prompts` each `group` times from their own noise to the end.
    /// - Parameter recording: steps whose states are kept.
    func sample(
        _ generator: WanGenerator, prompts: [DemoPrompt], group: Int, steps: Int, noiseSeed: UInt64, guidance: Float = 1,
        recording: Set<Int> = []
    ) async throws -> (clips: DemoClipSet, recorded: [Int: Tensor]) {
        let clipPrompts = prompts.flatMap { prompt in Array(repeating: prompt, count: group) }
        let noise = EulerSampler.noise(shape: DemoGeometry.latentShape, seed: noiseSeed &+ settings.seed, items: 0..<clipPrompts.count)
        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: steps, shift: settings.shift))
        let table = world.promptEmbeds(DemoPrompt.allCases)
        let velocity = generator.velocity(promptEmbeds: table, rows: clipPrompts.map(\.id), guidance: guidance)
        let started = Date()
        // A numeric thread does not see that the task was cancelled; Ctrl-C should not have to wait for a minute of sampling.
        let stop = Stop()
        let result = try await withTaskCancellationHandler {
            try await NumericThreads.run {
                try sampler.run(noise, recording: recording) { request in
                    if stop.isRequested { throw CancellationError() }
                    return try velocity(request)
                }
            }
        } onCancel: {
            stop.request()
        }
        if guidance == 1 {
            cost.withLock {
                $0.passes += clipPrompts.count * steps
                $0.seconds += Date().timeIntervalSince(started)
            }
        }
        return (DemoClipSet(latents: result.latents, prompts: clipPrompts, group: group, world: world), result.recorded)
    }

    private final class Stop: Sendable {
        private let requested = Atomic(false)
        var isRequested: Bool { requested.load(ordering: .relaxed) }
        func request() { requested.store(true, ordering: .relaxed) }
    }

    /// All prompts in turn, so that each comes equally often.
    static func prompts(_ count: Int) -> [DemoPrompt] { (0..<count).map { DemoPrompt(id: $0 % DemoPrompt.allCases.count) } }
}
