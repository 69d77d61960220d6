import Backbones
import Diffusion
import Foundation
import Tensors
import Testing

@testable import Alignment

/// A transformer of one layer, small enough to be trained in a test.
private func tinyModel(seed: UInt64 = 3) throws -> WanTransformer3DModel {
    let json = """
        {"_class_name":"WanTransformer3DModel","attention_head_dim":12,"num_attention_heads":2,"num_layers":1,"ffn_dim":32,"freq_dim":16,
         "in_channels":3,"out_channels":2,"text_dim":8,"patch_size":[1,2,2],"rope_max_seq_len":8}
        """
    return WanTransformer3DModel(configuration: try WanConfiguration(json: Array(json.utf8)), seed: seed)
}

private func recipe(steps: Int) -> PretrainingConfiguration {
    var recipe = PretrainingConfiguration()
    recipe.steps = steps
    recipe.batch = 8
    recipe.microBatch = 2
    recipe.warmUp = 4
    recipe.averageDecay = 0.9
    return recipe
}

/// Latents that a model can learn: plus or minus one everywhere, as the prompt says.
private func batch(step: Int, count: Int = 8) -> PretrainingBatch {
    var latents: [Float] = []
    var prompts: [Float] = []
    for item in 0..<count {
        let sign: Float = (item + step) % 2 == 0 ? 1 : -1
        latents += [Float](repeating: sign, count: 2 * 2 * 4 * 4)
        prompts += [Float](repeating: sign, count: 2 * 8)
    }
    return PretrainingBatch(
        latents: Tensor(latents, shape: [count, 2, 2, 4, 4]), condition: Tensor(full: 0.5, shape: [1, 2, 4, 4]),
        promptEmbeds: Tensor(prompts, shape: [count, 2, 8]))
}

struct PretrainingTests {
    @Test func `The loss falls, and sampling from the average makes what the prompt says`() throws {
        let pretraining = Pretraining(model: try tinyModel(), configuration: recipe(steps: 150))
        var losses: [Float] = []
        for step in 0..<150 { losses.append(try pretraining.advance(batch(step: step))) }
        let early = losses.prefix(10).reduce(0, +)
        let late = losses.suffix(10).reduce(0, +)
        #expect(late < 0.4 * early, "\(early / 10) fell to \(late / 10)")

        let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 10, shift: 3), microBatch: 2)
        let data = batch(step: 0)
        let generator = WanGenerator(pretraining.averagedModel(), condition: data.condition)
        let noise = EulerSampler.noise(shape: [2, 2, 4, 4], seed: 5, items: 0..<8)
        let velocity = generator.velocity(promptEmbeds: data.promptEmbeds)
        let made = try sampler.run(noise, velocity: velocity).latents
        for item in 0..<8 { #expect((made[item..<item + 1].sum > 0) == (item % 2 == 0), "item \(item)") }

        // Pruning a real model's batch changes no bit of the survivors.
        let half = try sampler.run(noise, to: 4, velocity: velocity).latents
        let kept = [6, 1, 3]
        let rest = try sampler.run(half.gathering(kept), items: kept, from: 4, velocity: velocity).latents
        #expect(rest == made.gathering(kept))

        // Guidance of 1 is the plain model; the empty prompt alone is guidance of 0.
        let zero = try sampler.run(noise, velocity: generator.velocity(promptEmbeds: data.promptEmbeds, guidance: 0)).latents
        let empty = try sampler.run(noise, velocity: generator.velocity(promptEmbeds: Tensor(zeros: [8, 2, 8]))).latents
        #expect(zero.relativeError(to: empty) < 1e-5)
    }

    @Test func `A resumed run equals an uninterrupted one bit for bit`() throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "pretraining-\(UUID()).safetensors").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let whole = Pretraining(model: try tinyModel(), configuration: recipe(steps: 8))
        for step in 0..<8 {
            try whole.advance(batch(step: step))
            if step == 4 { try whole.save(to: path) }
        }
        let resumed = Pretraining(model: try tinyModel(seed: 99), configuration: recipe(steps: 8))
        try resumed.resume(from: path)
        #expect(resumed.step == 5)
        for step in 5..<8 { try resumed.advance(batch(step: step)) }
        #expect(resumed.average == whole.average)
        #expect(resumed.model.parameters.map(\.variable.tensor) == whole.model.parameters.map(\.variable.tensor))

        let other = Pretraining(model: try tinyModel(), configuration: recipe(steps: 9))
        #expect(throws: PretrainingCheckpointError.self) { try other.resume(from: path) }
    }

    @Test func `The number of threads changes no bit`() throws {
        let threads = NumericThreads.count
        defer { NumericThreads.count = threads }
        let averages = try [1, 4].map { count in
            NumericThreads.count = count
            let pretraining = Pretraining(model: try tinyModel(), configuration: recipe(steps: 3))
            for step in 0..<3 { try pretraining.advance(batch(step: step)) }
            return pretraining.average
        }
        #expect(averages[0] == averages[1])
    }

    @Test func `Levels are stratified, shifted towards noise, and one prompt in ten is empty`() throws {
        var wide = recipe(steps: 1)
        wide.batch = 1000
        let pretraining = Pretraining(model: try tinyModel(), configuration: wide)
        let shards = pretraining.shards(batch(step: 0, count: 1000))
        let levels = shards.flatMap(\.timesteps).map { $0 / 1000 }
        // u = t / (3 − 2t) lies in its own thousandth.
        for (item, level) in levels.enumerated() {
            let u = level / (3 - 2 * level)
            #expect(u > (Float(item) - 0.01) / 1000 && u < (Float(item) + 1.01) / 1000)
        }
        let empty = shards.reduce(0) { total, shard in
            total + (0..<2).count { item in shard.promptEmbeds[item..<item + 1].array.allSatisfy { $0 == 0 } }
        }
        #expect(abs(empty - 100) < 35)
        // At its own level, noise minus velocity target is the clean latent.
        let shard = shards[100]
        let level = shard.timesteps[1] / 1000
        let noisy = shard.input[1..<2].array
        let target = shard.target[1..<2].array
        for index in 0..<64 { #expect(abs(abs(noisy[index] - level * target[index]) - 1) < 1e-4) }
        #expect(noisy[64..<96].allSatisfy { $0 == 0.5 })
    }

    @Test func `The learning rate warms up, stays, and falls to nothing`() {
        var recipe = PretrainingConfiguration()
        recipe.steps = 1000
        #expect(recipe.rate(at: 0) == 1 / 60 && recipe.rate(at: 59) == 1 && recipe.rate(at: 600) == 1)
        #expect(abs(recipe.rate(at: 800) - 0.5) < 1e-6 && abs(recipe.rate(at: 999) - 1 / 400) < 1e-6)
    }

    @Test func `Muon moves the matrices of the blocks and nothing else`() throws {
        let pretraining = Pretraining(model: try tinyModel(), configuration: recipe(steps: 1))
        let names = pretraining.model.parameters.map(\.name)
        let muon = pretraining.muonIndices.map { names[$0] }
        #expect(muon.count == 10 && muon.allSatisfy { $0.hasPrefix("blocks.0.") && $0.hasSuffix(".weight") && !$0.contains("norm") })
        #expect(Set(pretraining.muonIndices + pretraining.adamWIndices).count == names.count)
    }
}
