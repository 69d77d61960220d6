import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

@Suite struct LoadingAModelFolder {
    private func load(_ change: (inout [(String, Tensor)]) -> Void) -> String {
        do {
            return try withTemporaryFolder { folder in
                let model = try WanTransformer3DModel.load(directory: "\(fixtures)/flf")
                var tensors = model.parameters.map { ($0.name, $0.variable.tensor) }
                change(&tensors)
                try model.save(directory: folder)
                try SafetensorsWriter.write(tensors: tensors, to: "\(folder)/diffusion_pytorch_model.safetensors")
                _ = try WanTransformer3DModel.load(directory: folder)
                return "accepted"
            }
        } catch { return "\(error)" }
    }

    @Test func readsBackWhatItSaves() throws {
        try withTemporaryFolder { folder in
            let model = try WanTransformer3DModel.load(directory: "\(fixtures)/i2v")
            try model.save(directory: folder)
            let again = try WanTransformer3DModel.load(directory: folder)
            #expect(again.parameters.map(\.name) == model.parameters.map(\.name))
            #expect(zip(again.parameters, model.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
            #expect(again.parameters.allSatisfy { !$0.variable.requiresGradient })
        }
    }

    @Test func aTensorThatIsMissingExtraMisshapenOrNotFiniteIsNamed() {
        #expect(load { _ in } == "accepted")
        let missing = load { $0.removeAll { $0.0 == "blocks.0.attn1.to_k.bias" } }
        #expect(missing.contains("'blocks.0.attn1.to_k.bias'") && missing.contains("missing"))
        let extra = load { $0.append(("blocks.7.attn1.to_k.bias", Tensor(zeros: [3]))) }
        #expect(extra.contains("'blocks.7.attn1.to_k.bias'"))
        let misshapen = load { $0[$0.firstIndex { $0.0 == "proj_out.bias" }!].1 = Tensor(zeros: [5]) }
        #expect(misshapen.contains("'proj_out.bias'") && misshapen.contains("[5]"))
        let poisoned = load { $0[$0.firstIndex { $0.0 == "proj_out.bias" }!].1 = Tensor(full: .nan, shape: [24]) }
        #expect(poisoned.contains("'proj_out.bias'") && poisoned.contains("not finite"))
    }

    @Test func shardsAreReadThroughTheirIndex() throws {
        try withTemporaryFolder { folder in
            let model = try WanTransformer3DModel.load(directory: "\(fixtures)/flf")
            let tensors = model.parameters.map { ($0.name, $0.variable.tensor) }
            let halves = [Array(tensors.prefix(20)), Array(tensors.dropFirst(20))]
            var map: [String] = []
            for (index, half) in halves.enumerated() {
                let shard = "diffusion_pytorch_model-0000\(index + 1)-of-00002.safetensors"
                try SafetensorsWriter.write(tensors: half, to: "\(folder)/\(shard)")
                map += half.map { "\"\($0.0)\": \"\(shard)\"" }
            }
            try Data(model.configuration.encoded()).write(to: URL(fileURLWithPath: "\(folder)/config.json"))
            let index = "\(folder)/diffusion_pytorch_model.safetensors.index.json"
            func write(_ entries: [String]) throws {
                try Data("{\"metadata\": {\"total_size\": 1}, \"weight_map\": {\(entries.joined(separator: ","))}}".utf8)
                    .write(to: URL(fileURLWithPath: index))
            }
            try write(map)
            let again = try WanTransformer3DModel.load(directory: folder)
            #expect(zip(again.parameters, model.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
            try write(Array(map.dropLast()))
            #expect(throws: BackboneError.self) { try WanTransformer3DModel.load(directory: folder) }
            try write(map.dropLast() + ["\"\(tensors.last!.0)\": \"../../etc/passwd\""])
            #expect(throws: BackboneError.self) { try WanTransformer3DModel.load(directory: folder) }
        }
    }

    @Test func halfPrecisionWeightsAreAccepted() throws {
        try withTemporaryFolder { folder in
            let model = try WanTransformer3DModel.load(directory: "\(fixtures)/t2v")
            try model.save(directory: folder, dtype: .bfloat16)
            let again = try WanTransformer3DModel.load(directory: folder)
            for (a, b) in zip(again.parameters, model.parameters) {
                #expect(relativeDifference(a.variable.tensor, b.variable.tensor) < 4e-3, "\(a.name)")
            }
        }
    }

    @Test func anEmptyFolderSaysWhatItLacks() {
        let message = "\(#expect(throws: (any Error).self) { try WanTransformer3DModel.load(directory: fixtures) }.map { "\($0)" } ?? "")"
        #expect(message.contains("config.json"))
    }
}

@Suite struct InitialisingAModel {
    @Test func theSameSeedGivesTheSameModelAndEachLayerItsLaw() throws {
        var configuration = WanConfiguration()
        configuration.numAttentionHeads = 2
        configuration.attentionHeadDim = 16
        configuration.inChannels = 4
        configuration.outChannels = 4
        configuration.textDim = 24
        configuration.freqDim = 16
        configuration.ffnDim = 64
        configuration.numLayers = 2
        let model = WanTransformer3DModel(configuration: configuration, seed: 7)
        let same = WanTransformer3DModel(configuration: configuration, seed: 7)
        let other = WanTransformer3DModel(configuration: configuration, seed: 8)
        #expect(zip(model.parameters, same.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
        let tensors = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.variable.tensor) })
        #expect(tensors["proj_out.weight"] != other.parameters.first { $0.name == "proj_out.weight" }!.variable.tensor)
        #expect(tensors["blocks.1.norm2.weight"]!.array.allSatisfy { $0 == 1 })
        let bound = 1 / Float(64).squareRoot()
        let down = tensors["blocks.0.ffn.net.2.weight"]!.array
        #expect(down.allSatisfy { abs($0) <= bound } && down.contains { abs($0) > 0.95 * bound })
        let table = tensors["blocks.0.scale_shift_table"]!
        #expect(abs(table.norm / Float(table.count).squareRoot() - 1 / Float(32).squareRoot()) < 0.04)
        #expect(model.parameters.allSatisfy { $0.variable.requiresGradient })
    }

    @Test func aReplicaSharesValuesAndNothingElse() throws {
        let model = try WanTransformer3DModel.load(directory: "\(fixtures)/t2v")
        try model.attachLoRA(LoRAConfiguration(rank: 2, targets: ["attn1.to_q"]), seed: 1)
        model.setRequiresGradient { $0 == "proj_out.bias" }
        let replica = model.replica()
        #expect(replica.parameters.filter { $0.variable.requiresGradient }.map(\.name) == ["proj_out.bias"])
        #expect(replica.loraParameters.map(\.name) == model.loraParameters.map(\.name))
        let parameter = replica.parameters[0].variable
        #expect(parameter.tensor == model.parameters[0].variable.tensor)
        parameter.tensor.withUnsafeMutableBufferPointer { $0[0] = 42 }
        #expect(parameter.tensor != model.parameters[0].variable.tensor)
        #expect(model.weights.frozen().trainable.isEmpty)
    }
}
