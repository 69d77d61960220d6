import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// Inputs of one of the fixtures that Tests/Reference/sd3_fixtures.py wrote, under diffusers' names.
struct SD3FixtureInputs {
    let hidden, text, pooled: Tensor
    let timestep: [Float]

    init(_ name: String) throws {
        let file = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/inputs.safetensors")
        hidden = try file.tensor("hidden_states")
        text = try file.tensor("encoder_hidden_states")
        pooled = try file.tensor("pooled_projections")
        timestep =
            file.entries["timestep"]!.dtype.isFloatingPoint
            ? try file.tensor("timestep").array : try file.integers("timestep").map { Float($0) }
    }
}

/// A fixture's model, its inputs as leaves that require gradients, and what diffusers says.
private struct Case {
    let name: String
    let model: SD3Transformer2DModel
    let hidden, text, pooled: Variable
    let timestep: [Float]
    let expected: SafetensorsFile

    init(_ name: String, expected file: String = "expected.safetensors") throws {
        let inputs = try SD3FixtureInputs(name)
        self.name = name
        model = try SD3Transformer2DModel.load(directory: "\(fixtures)/\(name)")
        hidden = Variable(inputs.hidden, requiresGradient: true)
        text = Variable(inputs.text, requiresGradient: true)
        pooled = Variable(inputs.pooled, requiresGradient: true)
        timestep = inputs.timestep
        expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/\(file)")
    }

    func run(features: Set<Int> = [], lastBlock: Int? = nil) throws -> SD3Output {
        try model(
            hiddenStates: hidden, timestep: timestep, encoderHiddenStates: text, pooledProjections: pooled, features: features,
            lastBlock: lastBlock)
    }

    func backward(_ sample: Variable) throws {
        sample.backward(try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/cotangent.safetensors").tensor("cotangent"))
    }

    func inputGradients() throws -> [(String, Tensor)] {
        [
            ("grad_hidden_states", try #require(hidden.gradient)), ("grad_encoder_hidden_states", try #require(text.gradient)),
            ("grad_pooled_projections", try #require(pooled.gradient)),
        ]
    }
}

@Suite struct SD3ParityWithDiffusers {
    @Test(arguments: ["sd3", "sd35"]) func forwardAndGradients(name: String) throws {
        let test = try Case(name)
        test.model.setRequiresGradient { _ in true }
        let output = try test.run(features: [1, 2, 3])
        let sample = try #require(output.sample)
        let forward = [1, 2, 3].map { ("features.\($0)", output.features[$0]!.tensor) } + [("sample", sample.tensor)]
        try expectParity(forward, test.expected, tolerance: 1e-4, "\(name) forward")

        try test.backward(sample)
        // From the head backwards, so that the first that is off is where it begins.
        let gradients =
            try test.model.parameters.reversed().map {
                ("grad.\($0.name)", try #require($0.variable.gradient, "\($0.name) has no gradient"))
            } + test.inputGradients()
        try expectParity(gradients, test.expected, tolerance: 1e-3, "\(name) gradients")
        #expect(gradients.count == test.expected.names.filter { $0.hasPrefix("grad") }.count)
    }

    @Test(arguments: ["sd3", "sd35"]) func checkpointedBlocksGiveTheSameGradients(name: String) throws {
        let test = try Case(name)
        test.model.checkpointsBlocks = true
        test.model.setRequiresGradient { $0.contains("attn") || $0.contains("norm1") }
        try test.backward(try #require(test.run().sample))
        let trained = test.model.parameters.filter { $0.variable.requiresGradient }
        let gradients = try trained.map { ("grad.\($0.name)", try #require($0.variable.gradient)) }
        try expectParity(gradients + test.inputGradients(), test.expected, tolerance: 1e-3, "\(name) checkpointed")
    }

    /// A judge reads the image tokens of a block in the middle, and its gradient reaches every input.
    @Test(arguments: [1, 2, 3]) func aJudgeStopsAtItsBlock(block: Int) throws {
        let test = try Case("sd35")
        let output = try test.run(features: [block], lastBlock: block)
        #expect(output.sample == nil)
        try expectParity([("features.\(block)", output.features[block]!.tensor)], test.expected, tolerance: 1e-4, "judge at \(block)")
        sum(output.features[block]!).backward()
        #expect(try test.inputGradients().allSatisfy { $0.1.isFinite && $0.1.norm > 0 })
        #expect(test.model.parameters.allSatisfy { $0.variable.gradient == nil })
    }

    @Test func aLoRAThatDiffusersSavedGivesItsOutputAndGradients() throws {
        let test = try Case("sd35", expected: "lora/expected.safetensors")
        try test.model.attachLoRA(LoRAFile.load("\(fixtures)/sd35/lora"))
        let output = try test.run(features: [1, 3])
        let sample = try #require(output.sample)
        try expectParity(
            [("features.1", output.features[1]!.tensor), ("features.3", output.features[3]!.tensor), ("sample", sample.tensor)],
            test.expected, tolerance: 1e-4, "sd35 LoRA forward")
        try test.backward(sample)
        let gradients = try test.model.loraParameters.reversed().map {
            ("grad.transformer.\($0.name)", try #require($0.variable.gradient))
        }
        try expectParity(gradients + test.inputGradients(), test.expected, tolerance: 1e-3, "sd35 LoRA gradients")
        #expect(gradients.count == test.expected.names.filter { $0.hasPrefix("grad.") }.count && gradients.count == 38)
        #expect(test.model.parameters.allSatisfy { $0.variable.gradient == nil })
    }

    /// What a batch gives for one image is what the image gives alone: no image looks at another, nor at another's text or time.
    @Test func imagesOfABatchDoNotMeet() throws {
        let inputs = try SD3FixtureInputs("sd3")
        let model = try SD3Transformer2DModel.load(directory: "\(fixtures)/sd3")
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/sd3/expected.safetensors").tensor("sample")
        for image in 0..<2 {
            let rows = image..<image + 1
            let sample = try model(
                hiddenStates: Variable(inputs.hidden[rows]), timestep: [inputs.timestep[image]],
                encoderHiddenStates: Variable(inputs.text[rows]), pooledProjections: Variable(inputs.pooled[rows])
            ).sample
            #expect(relativeDifference(try #require(sample).tensor, expected[rows]) < 1e-5)
        }
    }
}

@Suite struct SD3PositionTables {
    /// Both fixtures' checkpoints hold the table that diffusers computed.
    @Test(arguments: ["sd3", "sd35"]) func areComputedAsDiffusersComputesThem(name: String) throws {
        let configuration = try SD3Configuration(contentsOf: "\(fixtures)/\(name)/config.json")
        let expected = try SafetensorsFile(contentsOf: "\(fixtures)/\(name)/diffusion_pytorch_model.safetensors")
            .tensor("pos_embed.pos_embed")
        let computed = SD3PositionTable(configuration, stored: nil)
        let stored = SD3PositionTable(configuration, stored: expected)
        #expect(computed.tensor.shape == expected.shape)
        let worst = zip(computed.tensor.array, expected.array).map { abs($0 - $1) }.max()!
        print("\(name): positions differ by at most \(worst)")
        #expect(worst <= 1.2e-7, "one rounding of a sine near 1 at most")
        for (rows, columns) in [(1, 1), (3, 5), (5, 2), (configuration.posEmbedMaxSize, 1)] {
            let (a, b) = (computed.positions(rows: rows, columns: columns), stored.positions(rows: rows, columns: columns))
            #expect(relativeDifference(a, b) < 1e-7)
        }
    }

    @Test func aFoldersOwnTableIsTakenAndAFolderWithoutOneGetsTheComputed() throws {
        try withTemporaryFolder { folder in
            let model = try SD3Transformer2DModel.load(directory: "\(fixtures)/sd3")
            try model.save(directory: folder)
            let path = "\(folder)/diffusion_pytorch_model.safetensors"
            func sample() throws -> Tensor {
                let inputs = try SD3FixtureInputs("sd3")
                return try SD3Transformer2DModel.load(directory: folder)(
                    hiddenStates: Variable(inputs.hidden), timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text),
                    pooledProjections: Variable(inputs.pooled)
                ).sample!.tensor
            }
            let whole = try sample()
            let parameters = model.parameters.map { ($0.name, $0.variable.tensor) }
            try SafetensorsWriter.write(tensors: parameters, to: path)
            #expect(relativeDifference(try sample(), whole) < 1e-6)
            let zeros = Tensor(zeros: SD3PositionTable.shape(model.configuration))
            try SafetensorsWriter.write(tensors: parameters + [(SD3PositionTable.name, zeros)], to: path)
            #expect(relativeDifference(try sample(), whole) > 0.01)
        }
    }
}
