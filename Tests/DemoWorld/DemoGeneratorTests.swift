import Alignment
import Backbones
import DemoWorld
import Diffusion
import Foundation
import Safetensors
import Tensors
import Testing

/// The committed generator against what diffusers makes of the same files (Tests/Reference/demo_generator_fixtures.py).
struct DemoGeneratorTests {
    let file: SafetensorsFile
    let world: DemoConditioning
    let embeds: Tensor
    let generator: WanGenerator

    init() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/generator.safetensors").path
        file = try SafetensorsFile(contentsOf: path)
        world = try DemoConditioning()
        embeds = world.promptEmbeds(try file.integers("prompts").map { DemoPrompt(id: Int($0)) })
        generator = WanGenerator(try .load(directory: DemoResources.generator), condition: world.positionChannels)
    }

    @Test func `The velocity is that of diffusers`() throws {
        let input = Variable(try file.tensor("noise").joiningCondition(world.positionChannels))
        let model = WanTransformer3DModel(weights: generator.weights)
        let output = try model(
            hiddenStates: input, timestep: file.tensor("timesteps").array, encoderHiddenStates: Variable(embeds))
        #expect(output.sample!.tensor.relativeError(to: try file.tensor("velocity")) < 1e-4)
    }

    @Test func `Ten Euler steps make the same clips as diffusers' forward in torch`() throws {
        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 10, shift: 3))
        let latents = try sampler.run(file.tensor("noise"), velocity: generator.velocity(promptEmbeds: embeds)).latents
        #expect(latents.relativeError(to: try file.tensor("latents")) < 1e-4)
    }

    @Test func `A pruned trajectory of the generator equals the unpruned one bit for bit`() throws {
        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 6, shift: 3))
        let noise = EulerSampler.noise(shape: DemoGeometry.latentShape, seed: 4, items: 0..<12)
        let prompts = world.promptEmbeds((0..<12).map { DemoPrompt(id: $0) })
        let velocity = generator.velocity(promptEmbeds: prompts)
        let whole = try sampler.run(noise, recording: [3], velocity: velocity)
        let kept = [11, 4, 5]
        let rest = try sampler.run(whole.recorded[3]!.gathering(kept), items: kept, from: 3, velocity: velocity).latents
        #expect(rest == whole.latents.gathering(kept))
    }

    @Test func `A quarter to a bit over half of its clips are good: there is something to improve`() throws {
        let prompts = (0..<96).map { DemoPrompt(id: $0 % 12) }
        let noise = EulerSampler.noise(shape: DemoGeometry.latentShape, seed: 8, items: 0..<96)
        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 10, shift: 3))
        let latents = try sampler.run(noise, velocity: generator.velocity(promptEmbeds: world.promptEmbeds(prompts))).latents
        let judged = DemoAnnotator.judge(world.codec.decode(latents), prompts: prompts)
        // 96 clips know the rate to ± 0.1.
        let good = Double(judged.count { $0.isGood }) / 96
        #expect(good > 0.15 && good < 0.65, "\(good)")
    }
}
