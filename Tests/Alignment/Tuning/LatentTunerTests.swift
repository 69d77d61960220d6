import Backbones
import Diffusion
import Foundation
import Safetensors
import Synchronization
import Tensors
import Testing

@testable import Alignment

/// A generator small enough to take whole runs of: latents [3,2,4,4], one condition channel, text [3,5].
private func generator() -> WanWeights {
    var configuration = WanConfiguration()
    configuration.numAttentionHeads = 2
    configuration.attentionHeadDim = 8
    configuration.inChannels = 4
    configuration.outChannels = 3
    configuration.textDim = 5
    configuration.freqDim = 8
    configuration.ffnDim = 24
    configuration.numLayers = 2
    configuration.ropeMaxSeqLen = 8
    return WanTransformer3DModel(configuration: configuration, seed: 4).weights
}

private let latentShape = [3, 2, 4, 4]

private func tuningData() throws -> TuningData {
    let clips = (0..<5).map { index in
        var stream = RandomStream(seed: 50, item: UInt32(index))
        return TuningClip(
            latents: Tensor.normal(shape: latentShape, &stream),
            prompt: TuningPrompt(
                promptEmbeds: Tensor.normal(shape: [3, 5], &stream), condition: Tensor.normal(shape: [1, 2, 4, 4], &stream)))
    }
    return try TuningData(clips: clips, latentShape: latentShape)
}

/// Likes latents that are large along a fixed direction; notes what it is asked.
private struct LinearJudge: LatentJudge {
    var asked: Notes?
    var factor: Float = 1

    final class Notes: Sendable {
        let timesteps = Mutex<[[Float]]>([])
    }

    func score(
        latents: Variable, timestep: [Float], promptEmbeds: Variable, condition: Variable?, imageEmbeds: Variable?
    ) throws -> Variable {
        #expect(condition?.tensor.shape == [latents.tensor.shape[0], 1, 2, 4, 4])
        if latents.requiresGradient { asked?.timesteps.withLock { $0.append(timestep) } }
        let count = latents.tensor.count / timestep.count
        var stream = RandomStream(seed: 77)
        let direction = Variable(Tensor.normal(shape: [count, 1], &stream) * factor)
        return reshape(matmul(reshape(latents, [timestep.count, count]), direction), [timestep.count])
    }
}

private func settings(_ method: TuningMethod = .both) -> TuningConfiguration {
    var configuration = TuningConfiguration()
    configuration.method = method
    configuration.iterations = 4
    configuration.batch = 6
    configuration.shard = 4
    configuration.rank = 2
    configuration.steps = 5
    configuration.lastStep = 3
    configuration.baseClips = 8
    configuration.seed = 9
    return configuration
}

private func makeTuner(
    _ configuration: TuningConfiguration = settings(), judge: LatentJudgeMaker? = { LinearJudge() }
) throws -> LatentTuner {
    try LatentTuner(generator: generator(), data: tuningData(), judge: judge, configuration: configuration)
}

@Suite struct TuningAGenerator {
    @Test(arguments: TuningMethod.allCases) func aResumedRunEqualsAnUninterruptedOneBitForBit(method: TuningMethod) throws {
        let whole = try makeTuner(settings(method))
        for _ in 0..<4 { try whole.advance() }
        let first = try makeTuner(settings(method))
        for _ in 0..<2 { try first.advance() }
        let second = try LatentTuner(
            generator: generator(), data: tuningData(), judge: { LinearJudge() }, configuration: settings(method),
            resuming: SafetensorsFile(data: first.stateData))
        #expect(second.iteration == 2)
        for _ in 0..<2 { try second.advance() }
        #expect(second.stateData == whole.stateData)
        #expect(second.records == whole.records)
    }

    @Test func theNumberOfThreadsChangesNothing() throws {
        let count = NumericThreads.count
        defer { NumericThreads.count = count }
        let states = try [1, 3].map { threads in
            NumericThreads.count = threads
            let tuner = try makeTuner()
            for _ in 0..<2 { try tuner.advance() }
            return tuner.stateData
        }
        #expect(states[0] == states[1])
    }

    @Test func theJudgeGetsTheTimestepOfTheLatentItIsGiven() throws {
        let notes = LinearJudge.Notes()
        let tuner = try makeTuner(settings(.prfl), judge: { LinearJudge(asked: notes) })
        let record = try tuner.advance()
        let asked = notes.timesteps.withLock { $0 }
        #expect(asked.count == 2, "one live question a shard")
        let expected = FlowMatchSchedule(steps: 5, shift: 3).timesteps[record.step + 1]
        #expect(asked.joined().allSatisfy { $0 == expected })
    }

    /// At the first step nothing was rolled out, so the loss as a whole can be differenced.
    @Test func theGradientAtTheFirstStepMatchesFiniteDifferences() throws {
        var configuration = settings(.prfl)
        configuration.lastStep = 0
        let tuner = try makeTuner(configuration)
        // B is zero at first, and so is A's gradient: move B away.
        for (name, variable) in tuner.model.loraParameters where name.contains("lora_B") {
            var stream = RandomStream(seed: 3)
            variable.tensor = Tensor.normal(shape: variable.tensor.shape, &stream) * 0.3
        }
        let gradients = try tuner.rewardGradients().gradients
        var checked = 0
        for (index, variable) in tuner.model.loraParameters.map(\.variable).enumerated() where index % 5 == 0 {
            let place = variable.tensor.count / 2
            let original = variable.tensor
            func loss(_ change: Float) throws -> Double {
                variable.tensor = original
                variable.tensor.withUnsafeMutableBufferPointer { $0[place] += change }
                defer { variable.tensor = original }
                return Double(try tuner.rewardGradients().loss)
            }
            let difference = try (loss(0.02) - loss(-0.02)) / 0.04
            let analytic = Double(gradients[index].array[place])
            #expect(abs(difference - analytic) < 2e-3 * max(0.05, abs(analytic)), "\(index): \(difference) against \(analytic)")
            checked += 1
        }
        #expect(checked > 3)
    }

    /// Behind a roll-out the gradient is that of one Euler step from a latent held fixed: gap · J_vᵀ · ∂loss/∂x.
    @Test func noGradientFlowsIntoEarlierSteps() throws {
        var configuration = settings(.prfl)
        configuration.firstStep = 2
        configuration.lastStep = 2
        configuration.batch = 4
        let tuner = try makeTuner(configuration)
        for (name, variable) in tuner.model.loraParameters where name.contains("lora_B") {
            var stream = RandomStream(seed: 3)
            variable.tensor = Tensor.normal(shape: variable.tensor.shape, &stream) * 0.3
        }
        let gradients = try tuner.rewardGradients().gradients

        let sampling = TuningSampling(weights: tuner.model.weights, schedule: tuner.schedule, latentShape: latentShape, seed: 9)
        let prompts = PromptBatch(
            (0..<4).map { item in
                var stream = RandomStream(seed: 9, run: TuningStreams.rewardPrompt, step: 0, item: UInt32(item))
                return tuner.data.prompts[stream.integer(in: 0..<5)]
            })
        let noise = sampling.noise(items: 0..<4, run: TuningStreams.rewardNoise, step: 0)
        let x = try sampling.advanced(noise, sampling.weights.frozen().model(), prompts, from: 0, to: 2)
        let gap = tuner.schedule.sigmas[3] - tuner.schedule.sigmas[2]
        let model = try sampling.weights.model()
        let velocity = try sampling.velocity(Variable(x), model, prompts, step: 2)
        let next = Variable(x + velocity.tensor * gap, requiresGradient: true)
        let rewards = try LinearJudge().score(
            latents: next, timestep: [0, 0, 0, 0], promptEmbeds: Variable(prompts.promptEmbeds),
            condition: prompts.condition.map { Variable($0) }, imageEmbeds: nil)
        let normalised = scale(shift(rewards, -tuner.base.mean[3]), 1 / tuner.base.deviation[3])
        scale(sum(softplus(scale(normalised, -1))), 0.25).backward()
        velocity.backward(try #require(next.gradient) * gap)
        for (index, parameter) in model.loraParameters.enumerated() {
            let expected = try #require(parameter.variable.gradient)
            #expect(gradients[index].relativeError(to: expected) < 1e-4, "\(parameter.name)")
        }
    }

    @Test func theRewardClimbsWhenItIsTrainedOn() throws {
        var configuration = settings(.prfl)
        configuration.rewardLearningRate = 3e-2
        let tuner = try makeTuner(configuration)
        for _ in 0..<40 { try tuner.advance() }
        let early = tuner.records.prefix(8).map(\.reward).reduce(0, +) / 8
        let late = tuner.records.suffix(8).map(\.reward).reduce(0, +) / 8
        #expect(late > early + 0.3, "from \(early) to \(late)")
        #expect(tuner.records.allSatisfy { $0.clipLoss == 0 && $0.energyRatio > 0 })
    }

    @Test func theFlowMatchingLossFallsOnTheChosenClips() throws {
        var configuration = settings(.sft)
        configuration.clipLearningRate = 3e-2
        let tuner = try makeTuner(configuration, judge: nil)
        for _ in 0..<60 { try tuner.advance() }
        let early = tuner.records.prefix(10).map(\.clipLoss).reduce(0, +) / 10
        let late = tuner.records.suffix(10).map(\.clipLoss).reduce(0, +) / 10
        #expect(late < 0.9 * early, "from \(early) to \(late)")
        #expect(tuner.records.allSatisfy { $0.step == -1 && $0.energyRatio == 1 })
    }

    @Test func theBaseMeasuresAsItself() throws {
        let tuner = try makeTuner(settings(.prfl))
        // Before the first update the adapter changes nothing: energy and reward are the base's but for the draw.
        let record = try tuner.advance()
        #expect(abs(record.energyRatio - 1) < 0.3)
        #expect(abs(record.reward) < 2)
        #expect(tuner.base.deviation.dropFirst().allSatisfy { $0 > 0 })
    }
}

@Suite struct WhatCannotBeTuned {
    private func message(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func isRefusedByName() throws {
        #expect(message { _ = try makeTuner(judge: nil) }.contains("reward"))
        #expect(
            message {
                let data = try TuningData(clips: [], prompts: tuningData().prompts, latentShape: latentShape)
                _ = try LatentTuner(generator: generator(), data: data, judge: { LinearJudge() }, configuration: settings())
            }.contains("chosen clips"))
        for (change, says) in [
            ({ $0.lastStep = 4 }, "differentiable steps"), ({ $0.batch = 0 }, "batch"),
            ({ $0.rewardLearningRate = 2 }, "rewardLearningRate"),
            ({ $0.targets = [] }, "targets"), ({ $0.targets = ["attn9.to_q"] }, "attn9.to_q"),
        ] as [((inout TuningConfiguration) -> Void, String)] {
            #expect(
                message {
                    var configuration = settings()
                    change(&configuration)
                    _ = try makeTuner(configuration)
                }.contains(says))
        }
        #expect(message { _ = try TuningData(clips: tuningData().clips, latentShape: [3, 2, 4, 6]) }.contains("latents"))
        #expect(message { _ = try TuningData(clips: [], latentShape: latentShape) }.contains("neither"))
    }

    @Test func aJudgeThatFailsStopsTheRunAndLeavesTheAdapter() throws {
        #expect(message { _ = try makeTuner(judge: { LinearJudge(factor: .nan) }) }.contains("not finite"))
        let tuner = try LatentTuner(
            generator: generator(), data: tuningData(), judge: { LinearJudge(factor: .nan) }, configuration: settings(.prfl),
            base: BaseStatistics(
                mean: [Float](repeating: 0, count: 5), deviation: [Float](repeating: 1, count: 5), energy: [Float](repeating: 1, count: 5)))
        let before = tuner.adapter.layers.map(\.b)
        #expect(message { try tuner.advance() }.contains("not finite"))
        #expect(tuner.adapter.layers.map(\.b) == before && tuner.iteration == 0)
    }

    @Test func aCheckpointOfAnotherRunIsRefused() throws {
        let state = try makeTuner().stateData
        func resume(_ change: (inout TuningConfiguration) -> Void) -> String {
            var configuration = settings()
            change(&configuration)
            return message {
                _ = try LatentTuner(
                    generator: generator(), data: tuningData(), judge: { LinearJudge() }, configuration: configuration,
                    resuming: SafetensorsFile(data: state))
            }
        }
        #expect(resume { _ in } == "accepted")
        #expect(resume { $0.seed = 10 }.contains("seed"))
        #expect(resume { $0.steps = 6 }.contains("steps"))
        #expect(resume { $0.rank = 3 }.contains("shape"))
    }
}
