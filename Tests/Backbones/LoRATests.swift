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

    /// The adapter of Fixtures/t2v/lora-ours: attention of every block, B filled so that it changes something.
    private func filled() throws -> LoRAWeights {
        let model = try t2v()
        try model.attachLoRA(LoRAConfiguration(rank: 4, alpha: 6), seed: 11)
        var weights = try #require(model.loraWeights)
        for index in weights.layers.indices {
            var stream = RandomStream(seed: 12, item: UInt32(index))
            weights.layers[index].b = Tensor(
                (0..<weights.layers[index].b.count).map { _ in stream.uniform() - 0.5 }, shape: weights.layers[index].b.shape)
        }
        return weights
    }

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
    @Test func theFileThatDiffusersTookIsTheOneThatWeWrite() throws {
        let folder = "\(fixtures)/t2v/lora-ours"
        let committed = try #require(FileManager.default.contents(atPath: "\(folder)/pytorch_lora_weights.safetensors"))
        #expect(try Array(committed) == LoRAFile.data(filled()))
        let model = try t2v()
        try model.attachLoRA(LoRAFile.load(folder), trainable: false)
        let expected = try SafetensorsFile(contentsOf: "\(folder)/expected.safetensors")
        try expectParity([("sample", sample(model))], expected, tolerance: 1e-4, "our LoRA in diffusers")
        #expect(relativeDifference(try sample(t2v()), try expected.tensor("sample")) > 0.05, "the adapter must change something")
    }

    @Test func readsBackWhatItSaves() throws {
        try withTemporaryFolder { folder in
            let weights = try filled()
            try LoRAFile.save(weights, to: "\(folder)/\(LoRAFile.name)")
            let again = try LoRAFile.load(folder)
            #expect(again.layers.map(\.name) == weights.layers.map(\.name))
            #expect(again.layers.allSatisfy { $0.scaling == 1.5 })
            #expect(zip(again.layers, weights.layers).allSatisfy { $0.a == $1.a && $0.b == $1.b })
        }
    }

    @Test func withoutMetadataAlphaIsTheRank() throws {
        let weights = try filled()
        let bytes = SafetensorsWriter.data(tensors: try LoRAFile.contents(weights).tensors)
        #expect(try LoRAFile.load(SafetensorsFile(data: bytes)).layers.allSatisfy { $0.scaling == 1 })
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
