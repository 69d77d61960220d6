import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

@Suite struct ParityWithDiffusers {
    @Test(arguments: ["t2v", "i2v", "flf"]) func forwardAndGradients(name: String) throws {
        let inputs = try FixtureInputs(name)
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/expected.safetensors")
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/\(name)")
        model.setRequiresGradient { _ in true }
        let hidden = Variable(inputs.hidden, requiresGradient: true)
        let text = Variable(inputs.text, requiresGradient: true)
        let image = inputs.image.map { Variable($0, requiresGradient: true) }
        let blocks = Set(1...model.configuration.numLayers)
        let output = try model(
            hiddenStates: hidden, timestep: inputs.timestep, encoderHiddenStates: text, encoderHiddenStatesImage: image, features: blocks)
        let sample = try #require(output.sample)
        let forward = blocks.sorted().map { ("features.\($0)", output.features[$0]!.tensor) } + [("sample", sample.tensor)]
        try expectParity(forward, expected, tolerance: 1e-4, "\(name) forward")

        sample.backward(try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/cotangent.safetensors").tensor("cotangent"))
        var gradients = [
            ("grad_hidden_states", try #require(hidden.gradient)), ("grad_encoder_hidden_states", try #require(text.gradient)),
        ]
        if let image { gradients.append(("grad_encoder_hidden_states_image", try #require(image.gradient))) }
        // From the head backwards, so that the first that is off is where it begins.
        for (parameter, variable) in model.parameters.reversed() {
            gradients.append(("grad.\(parameter)", try #require(variable.gradient, "\(parameter) has no gradient")))
        }
        try expectParity(gradients, expected, tolerance: 1e-3, "\(name) gradients")
        #expect(gradients.count == expected.names.filter { $0.hasPrefix("grad") }.count)
    }

    @Test func checkpointedBlocksGiveTheSameGradients() throws {
        let inputs = try FixtureInputs("t2v")
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/expected.safetensors")
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/t2v")
        model.checkpointsBlocks = true
        model.setRequiresGradient { $0.contains("attn1.to_k") }
        let hidden = Variable(inputs.hidden, requiresGradient: true)
        let sample = try #require(
            model(hiddenStates: hidden, timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text)).sample)
        sample.backward(try SafetensorsFile(contentsOf: "\(fixtures)/t2v/cotangent.safetensors").tensor("cotangent"))
        let trained = model.parameters.filter { $0.variable.requiresGradient }
        let gradients = try trained.map { ("grad.\($0.name)", try #require($0.variable.gradient)) }
        try expectParity(
            gradients + [("grad_hidden_states", try #require(hidden.gradient))], expected, tolerance: 1e-3, "checkpointed")
    }

    @Test func aLoRAThatDiffusersSavedGivesItsOutputAndGradients() throws {
        let inputs = try FixtureInputs("t2v")
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/lora/expected.safetensors")
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/t2v")
        try model.attachLoRA(LoRAFile.load("\(fixtures)/t2v/lora"))
        let hidden = Variable(inputs.hidden, requiresGradient: true)
        let output = try model(
            hiddenStates: hidden, timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text), features: [1, 3])
        let sample = try #require(output.sample)
        try expectParity(
            [("features.1", output.features[1]!.tensor), ("features.3", output.features[3]!.tensor), ("sample", sample.tensor)],
            expected, tolerance: 1e-4, "LoRA forward")
        sample.backward(try SafetensorsFile(contentsOf: "\(fixtures)/t2v/cotangent.safetensors").tensor("cotangent"))
        let gradients = try model.loraParameters.reversed().map { ("grad.transformer.\($0.name)", try #require($0.variable.gradient)) }
        try expectParity(gradients + [("grad_hidden_states", hidden.gradient!)], expected, tolerance: 1e-3, "LoRA gradients")
        #expect(gradients.count == 42)
        #expect(model.parameters.allSatisfy { $0.variable.gradient == nil })
    }

    /// A judge needs the gradient with respect to its input alone, from a block in the middle.
    @Test func aJudgeStopsAtItsBlockAndComputesNoParameterGradient() throws {
        let inputs = try FixtureInputs("t2v")
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/t2v/expected.safetensors")
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/t2v")
        let hidden = Variable(inputs.hidden, requiresGradient: true)
        let output = try model(
            hiddenStates: hidden, timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text), features: [2], lastBlock: 2)
        #expect(output.sample == nil)
        try expectParity([("features.2", output.features[2]!.tensor)], expected, tolerance: 1e-4, "judge")
        sum(output.features[2]!).backward()
        #expect(try #require(hidden.gradient).isFinite)
        #expect(model.parameters.allSatisfy { $0.variable.gradient == nil })
    }
}
