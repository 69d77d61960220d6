import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

@Suite struct LoRAAdapters {
    private func t2v() throws -> WanTransformer3DModel { try WanTransformer3DModel.load(directory: "\(fixtures)/t2v") }

    private func sample(_ model: WanTransformer3DModel) throws -> Tensor {
        let inputs = try FixtureInputs("t2v")
        return try model(hiddenStates: Variable(inputs.hidden), timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text))
            .sample!.tensor
    }

    private func filled() throws -> LoRAWeights { try LoRAFixtures.ours("t2v") }

    @Test func aNewAdapterChangesNothingAndAloneIsTrained() throws {
        let model = try t2v()
        let before = try sample(model)
        try model.attachLoRA(LoRAConfiguration(rank: 4), seed: 1)
        #expect(model.loraParameters.count == 3 * 8 * 2)
        #expect(try sample(model) == before)
        #expect(model.loraParameters.allSatisfy { $0.variable.requiresGradient })
        #expect(model.parameters.allSatisfy { !$0.variable.requiresGradient })
        model.detachLoRA()
        #expect(model.loraParameters.isEmpty && model.loraWeights == nil)
    }

    /// What real diffusers makes of this very file stands beside it (Tests/Reference/lora_roundtrip.py).
    @Test(arguments: LoRAFixtures.names) func theFileThatDiffusersTookIsTheOneThatWeWrite(name: String) throws {
        let folder = "\(fixtures)/\(name)/lora-ours"
        let committed = try #require(FileManager.default.contents(atPath: "\(folder)/pytorch_lora_weights.safetensors"))
        #expect(try Array(committed) == LoRAFile.data(LoRAFixtures.ours(name)))
        let expected = try SafetensorsFile(contentsOf: "\(folder)/expected.safetensors")
        try expectParity([("sample", throughFiles(name, lora: folder))], expected, tolerance: 1e-4, "our LoRA in diffusers, \(name)")
        let without = try throughFiles(name, lora: nil)
        #expect(relativeDifference(without, try expected.tensor("sample")) > 0.05, "the adapter must change something")
    }

    private func throughFiles(_ name: String, lora: String?) throws -> Tensor {
        try withTemporaryFolder { folder in
            var request = BackboneRun.Request(
                directory: "\(fixtures)/\(name)", input: "\(fixtures)/\(name)/inputs.safetensors", output: "\(folder)/out.safetensors")
            request.lora = lora
            try BackboneRun.forward(request)
            return try SafetensorsFile(contentsOf: request.output).tensor("sample")
        }
    }

    @Test(arguments: LoRAFixtures.names) func readsBackWhatItSaves(name: String) throws {
        try withTemporaryFolder { folder in
            let weights = try LoRAFixtures.ours(name)
            try LoRAFile.save(weights, to: "\(folder)/\(LoRAFile.name)")
            let again = try LoRAFile.load(folder)
            #expect(again.component == (name == "unet-sd15" ? "unet" : "transformer") && again.component == weights.component)
            #expect(again.layers.map(\.name) == weights.layers.map(\.name))
            #expect(zip(again.layers, weights.layers).allSatisfy { $0.a == $1.a && $0.b == $1.b && abs($0.scaling - $1.scaling) < 1e-6 })
        }
    }

    @Test func withoutMetadataAlphaIsTheRank() throws {
        let weights = try filled()
        let bytes = SafetensorsWriter.data(tensors: try LoRAFile.contents(weights).tensors)
        #expect(try LoRAFile.load(SafetensorsFile(data: bytes)).layers.allSatisfy { $0.scaling == 1 })
    }

    /// Other names for the same: diffusers' training scripts, a model that was saved without its pipeline, PEFT.
    @Test func everyNamingOfDiffusersAndPEFTIsRead() throws {
        let weights = try LoRAFixtures.ours("unet-sd15")
        func expectSame(_ found: LoRAWeights, scaling: Float?) {
            #expect(found.layers.map(\.name) == weights.layers.map(\.name))
            #expect(zip(found.layers, weights.layers).allSatisfy { $0.a == $1.a && $0.b == $1.b })
            #expect(zip(found.layers, weights.layers).allSatisfy { abs($0.scaling - (scaling ?? $1.scaling)) < 1e-6 })
        }
        func tensors(_ prefix: String, _ a: String = "lora_A", _ b: String = "lora_B") -> [(String, Tensor)] {
            weights.layers.flatMap { [("\(prefix)\($0.name).\(a).weight", $0.a), ("\(prefix)\($0.name).\(b).weight", $0.b)] }
        }
        func load(_ tensors: [(String, Tensor)], _ metadata: [String: String] = [:]) throws -> LoRAWeights {
            try LoRAFile.load(SafetensorsFile(data: SafetensorsWriter.data(tensors: tensors, metadata: metadata)))
        }
        expectSame(try load(tensors("unet.", "lora.down", "lora.up")), scaling: 1)
        let metadata = try LoRAFile.contents(weights).metadata.mapValues { $0.replacingOccurrences(of: "\"unet.", with: "\"") }
        let alone = try load(tensors(""), metadata)
        expectSame(alone, scaling: nil)
        #expect(alone.component == nil)
        #expect(throws: BackboneError.self) { try LoRAFile.data(alone) }
        try withTemporaryFolder { folder in
            let file = "\(folder)/adapter_model.safetensors"
            try SafetensorsWriter.write(tensors: tensors("base_model.model."), to: file)
            #expect("\(#expect(throws: BackboneError.self) { try LoRAFile.load(folder) }!)".contains("adapter_config.json"))
            try Data(#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {}}"#.utf8)
                .write(to: URL(fileURLWithPath: "\(folder)/adapter_config.json"))
            for path in [folder, file] {
                let found = try LoRAFile.load(path)
                #expect(found.layers[0].scaling == 2 && found.component == nil)
                try UNet2DConditionModel.load(directory: "\(fixtures)/unet-sd15").attachLoRA(found)
            }
        }
    }

    @Test func anAdapterOfAnotherPartOfAPipelineIsRefused() throws {
        let unet = try UNet2DConditionModel.load(directory: "\(fixtures)/unet-sd15")
        let message = "\(#expect(throws: BackboneError.self) { try unet.attachLoRA(LoRAFixtures.ours("sd35")) }!)"
        #expect(message.contains("'transformer.'") && message.contains("'unet'"))
    }

    @Test func mergedWeightsGiveTheSameOutput() throws {
        let model = try t2v()
        try model.attachLoRA(filled(), trainable: false)
        let merged = try model.weights.merged().model()
        #expect(merged.loraParameters.isEmpty)
        #expect(relativeDifference(try sample(merged), try sample(model)) < 1e-5)
    }

    @Test func whatDoesNotFitIsNamed() throws {
        func message(_ tensors: [(String, Tensor)], _ metadata: [String: String] = [:]) -> String {
            do {
                let weights = try LoRAFile.load(SafetensorsFile(data: SafetensorsWriter.data(tensors: tensors, metadata: metadata)))
                try t2v().attachLoRA(weights)
                return "accepted"
            } catch { return "\(error)" }
        }
        let (a, b) = (Tensor(zeros: [2, 40]), Tensor(zeros: [40, 2]))
        let name = "transformer.blocks.0.attn1.to_q"
        #expect(message([("\(name).lora_A.weight", a), ("\(name).lora_B.weight", b)]) == "accepted")
        #expect(message([("\(name).lora_A.weight", a)]).contains("lora_B.weight' is missing"))
        #expect(
            message([("\(name).lora_A.weight", a), ("\(name).lora_B.weight", Tensor(zeros: [41, 2]))]).contains("blocks.0.attn1.to_q"))
        #expect(message([("\(name).lora_A.weight", a), ("\(name).lora_B.weight", Tensor(zeros: [40, 3]))]).contains("rank"))
        #expect(message([("diffusion_model.x.lora_A.weight", a)]).contains("transformer."))
        #expect(message([("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", a)]).contains("processor.to_q_lora.down.weight"))
        #expect(message([("lora_unet_down_blocks_0.lora_down.weight", a)]).contains("lora_unet_down_blocks_0"))
        #expect(message([("\(name).lora_A.weight", a), ("text_encoder.layers.0.lora_A.weight", a)]).contains("text_encoder.layers.0"))
        #expect(message([("\(name).lora_A.weight", a), ("\(name).lora.down.weight", a)]).contains("another name"))
        #expect(message([("\(name).lora_magnitude_vector", a)]).contains("lora_magnitude_vector"))
        #expect(
            message([("transformer.blocks.9.attn1.to_q.lora_A.weight", a), ("transformer.blocks.9.attn1.to_q.lora_B.weight", b)]).contains(
                "blocks.9"))
        #expect(
            message([("\(name).lora_A.weight", Tensor(full: .infinity, shape: [2, 40])), ("\(name).lora_B.weight", b)]).contains("finite"))
        #expect(
            message(
                [("\(name).lora_A.weight", a), ("\(name).lora_B.weight", b)],
                ["lora_adapter_metadata": #"{"transformer.use_dora": true}"#]
            ).contains("use_dora"))
        #expect(
            message(
                [("\(name).lora_A.weight", a), ("\(name).lora_B.weight", b)],
                ["lora_adapter_metadata": #"{"transformer.alpha_pattern": {"(a+)+": 1}}"#]
            ).contains("alpha_pattern"))
        #expect(throws: BackboneError.self) { try t2v().attachLoRA(LoRAConfiguration(rank: 2, targets: ["attn3.to_q"]), seed: 0) }
        #expect(throws: BackboneError.self) { try t2v().attachLoRA(LoRAConfiguration(rank: 0), seed: 0) }
    }

    @Test func oneGradientStepLowersALoss() throws {
        let model = try t2v()
        try model.attachLoRA(LoRAConfiguration(rank: 4), seed: 3)
        let inputs = try FixtureInputs("t2v")
        func loss() throws -> Variable {
            let output = try model(
                hiddenStates: Variable(inputs.hidden), timestep: inputs.timestep, encoderHiddenStates: Variable(inputs.text))
            return meanSquaredError(output.sample!, Variable(Tensor(zeros: output.sample!.tensor.shape)))
        }
        let before = try loss()
        before.backward()
        for (_, variable) in model.loraParameters {
            if let gradient = variable.gradient { variable.tensor = variable.tensor + gradient * -0.05 }
        }
        #expect(try loss().tensor.item < before.tensor.item)
    }
}
