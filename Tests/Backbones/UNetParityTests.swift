import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

@Suite struct UNetParityWithDiffusers {
    @Test(arguments: UNetFixture.names) func forwardAndGradients(name: String) throws {
        let fixture = try UNetFixture(name)
        let model = try UNet2DConditionModel.load(directory: fixture.directory)
        model.setRequiresGradient { _ in true }
        let maps = Set(model.configuration.blockOutChannels.indices.map { "down.\($0)" } + ["mid"])
        let run = try fixture.run(model, features: maps)
        let sample = try #require(run.output.sample)
        #expect(run.features().count == maps.count)
        try expectParity(run.features() + [("sample", sample.tensor)], fixture.expected, tolerance: 1e-4, "\(name) forward")

        sample.backward(try fixture.cotangents.tensor("cotangent"))
        // From the head backwards, so that the first that is off is where it begins.
        var gradients = try model.parameters.reversed().map {
            asInFixture($0.name, try #require($0.variable.gradient, "\($0.name) has no gradient"))
        }
        gradients += try run.inputGradients()
        try expectParity(gradients, fixture.expected, tolerance: 1e-3, "\(name) gradients")
        #expect(gradients.count == fixture.expected.names.filter { $0.hasPrefix("grad") || $0.hasPrefix("projected") }.count)
    }

    @Test(arguments: UNetFixture.names) func checkpointedBlocksGiveTheSameGradients(name: String) throws {
        let fixture = try UNetFixture(name)
        let model = try UNet2DConditionModel.load(directory: fixture.directory)
        model.checkpointsBlocks = true
        model.setRequiresGradient { $0.contains("attn2.to_k") || $0.contains("time_emb_proj") }
        let run = try fixture.run(model)
        try #require(run.output.sample).backward(try fixture.cotangents.tensor("cotangent"))
        let trained = model.parameters.filter { $0.variable.requiresGradient }
        #expect(!trained.isEmpty)
        let gradients = try trained.map { asInFixture($0.name, try #require($0.variable.gradient)) } + run.inputGradients()
        try expectParity(gradients, fixture.expected, tolerance: 1e-3, "\(name) checkpointed")
    }

    @Test func aLoRAThatDiffusersSavedGivesItsOutputAndGradients() throws {
        let fixture = try UNetFixture("unet-sd15")
        let expected = try SafetensorsFile(contentsOf: "\(fixture.directory)/lora/expected.safetensors")
        let model = try UNet2DConditionModel.load(directory: fixture.directory)
        try model.attachLoRA(LoRAFile.load("\(fixture.directory)/lora"))
        let run = try fixture.run(model, features: ["down.1", "mid"])
        let sample = try #require(run.output.sample)
        try expectParity(run.features() + [("sample", sample.tensor)], expected, tolerance: 1e-4, "unet LoRA forward")
        sample.backward(try fixture.cotangents.tensor("cotangent"))
        let adapter = try model.loraParameters.reversed().map { asInFixture($0.name, try #require($0.variable.gradient)) }
        try expectParity(adapter + run.inputGradients(), expected, tolerance: 1e-3, "unet LoRA gradients")
        #expect(adapter.count == expected.names.filter { $0.contains("lora_") }.count)
        #expect(model.parameters.allSatisfy { $0.variable.gradient == nil })
    }
}

@Suite struct TheDownHalfOfAUNet {
    /// What a judge on images does: features of the half, and the gradient with respect to what it was given.
    @Test(arguments: UNetFixture.names) func hasTheWholesFeaturesAndGradients(name: String) throws {
        let fixture = try UNetFixture(name)
        let whole = try UNet2DConditionModel.load(directory: fixture.directory)
        let half = try UNet2DConditionModel.load(directory: fixture.directory, downOnly: true)
        #expect(half.isDownOnly && !whole.isDownOnly)
        #expect(half.parameterCount < whole.parameterCount)
        let maps = Set(half.configuration.blockOutChannels.indices.map { "down.\($0)" } + ["mid"])
        let complete = try fixture.run(whole, features: maps)
        for run in [try fixture.run(half, features: maps, half: true), try fixture.run(whole, features: maps, half: true)] {
            #expect(run.output.sample == nil)
            #expect(run.output.features.keys.sorted() == maps.sorted())
            for (found, expected) in zip(run.features(), complete.features()) { #expect(found.1 == expected.1, "\(found.0)") }
            var total: Variable?
            for (name, map) in run.output.features {
                let term = sum(multiply(map, Variable(try fixture.cotangents.tensor("cotangent.\(name)"))))
                total = total.map { add($0, term) } ?? term
            }
            try #require(total).backward()
            try expectParity(try run.inputGradients("half."), fixture.expected, tolerance: 1e-3, "\(name) half")
        }
        #expect(half.parameters.allSatisfy { $0.variable.gradient == nil })
    }

    @Test func goesNoDeeperThanItsFeatures() throws {
        let fixture = try UNetFixture("unet-sd15")
        let half = try UNet2DConditionModel.load(directory: fixture.directory, downOnly: true)
        half.setRequiresGradient { _ in true }
        let run = try fixture.run(half, features: ["down.0"], half: true)
        try expectParity(run.features(), fixture.expected, tolerance: 1e-4, "down.0 alone")
        sum(run.output.features["down.0"]!).backward()
        #expect(half.parameters.filter { $0.name.hasPrefix("down_blocks.0.attentions") }.allSatisfy { $0.variable.gradient != nil })
        let deeper = half.parameters.filter { $0.name.hasPrefix("down_blocks.1") || $0.name.hasPrefix("mid_block") }
        #expect(!deeper.isEmpty && deeper.allSatisfy { $0.variable.gradient == nil })
    }

    @Test func isAllThatIsReadOfAFolder() throws {
        try withTemporaryFolder { folder in
            let fixture = try UNetFixture("unet-sdxl")
            let half = try UNet2DConditionModel.load(directory: fixture.directory, downOnly: true)
            try half.save(directory: folder)
            // A folder that has no more than the half.
            let again = try UNet2DConditionModel.load(directory: folder, downOnly: true)
            #expect(again.parameters.map(\.name) == half.parameters.map(\.name))
            #expect(zip(again.parameters, half.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
            #expect(throws: BackboneError.self) { try UNet2DConditionModel.load(directory: folder) }
            // Tensors of the up half are not looked at, others that are not the model's are refused.
            let tensors = half.parameters.map { ($0.name, $0.variable.tensor) }
            let poison = ("up_blocks.0.resnets.0.conv1.weight", Tensor(full: .nan, shape: [3]))
            try SafetensorsWriter.write(tensors: tensors + [poison], to: "\(folder)/diffusion_pytorch_model.safetensors")
            _ = try UNet2DConditionModel.load(directory: folder, downOnly: true)
            let stranger = ("ups.0.weight", Tensor(zeros: [3]))
            try SafetensorsWriter.write(tensors: tensors + [stranger], to: "\(folder)/diffusion_pytorch_model.safetensors")
            let error = #expect(throws: BackboneError.self) { try UNet2DConditionModel.load(directory: folder, downOnly: true) }
            #expect("\(error!)".contains("'ups.0.weight'"))
        }
    }

    @Test func givesNoSample() throws {
        let fixture = try UNetFixture("unet-sd21")
        let half = try UNet2DConditionModel.load(directory: fixture.directory, downOnly: true)
        let error = #expect(throws: BackboneError.self) { try fixture.run(half) }
        #expect("\(error!)".contains("up half"))
    }
}
