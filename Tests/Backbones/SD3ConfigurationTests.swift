import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

@Suite struct ReadingAnSD3Configuration {
    @Test func missingKeysHaveDiffusersDefaults() throws {
        let configuration = try SD3Configuration(json: Array("{}".utf8))
        #expect(configuration == SD3Configuration())
        #expect(configuration.innerDim == 1152)
    }

    @Test func readsBackWhatItWrites() throws {
        for name in ["sd3", "sd35"] {
            let configuration = try SD3Configuration(contentsOf: "\(fixtures)/\(name)/config.json")
            #expect(try SD3Configuration(json: configuration.encoded()) == configuration)
            // Byte for byte what diffusers wrote, but for its version.
            let written = try String(contentsOfFile: "\(fixtures)/\(name)/config.json", encoding: .utf8)
            #expect(
                String(decoding: configuration.encoded(), as: UTF8.self)
                    == written.replacingOccurrences(of: "  \"_diffusers_version\": \"0.42.1\",\n", with: ""))
        }
        let sd35 = try SD3Configuration(contentsOf: "\(fixtures)/sd35/config.json")
        #expect(sd35.dualAttentionLayers == [0, 2] && sd35.normalizesQueryAndKey && sd35.outChannels == 5 && sd35.sampleSize == 5)
    }

    @Test func outChannelsThatAreNullAreThoseThatComeIn() throws {
        #expect(try SD3Configuration(json: Array(#"{"out_channels": null, "in_channels": 9}"#.utf8)).outChannels == 9)
    }

    @Test(arguments: [
        (#"{"num_layers": 0}"#, "num_layers"),
        (#"{"num_layers": 2.5}"#, "num_layers"),
        (#"{"num_layers": "2"}"#, "num_layers"),
        (#"{"num_layers": 99999999999}"#, "num_layers"),
        (#"{"num_layers": 2, "num_layers": 3}"#, "num_layers"),
        (#"{"in_channels": null}"#, "in_channels"),
        (#"{"patch_size": 0}"#, "patch_size"),
        (#"{"patch_size": [2, 2]}"#, "patch_size"),
        (#"{"sample_size": -1}"#, "sample_size"),
        (#"{"sample_size": 3, "patch_size": 4}"#, "sample_size"),
        (#"{"pos_embed_max_size": null}"#, "pos_embed_max_size"),
        (#"{"pos_embed_max_size": 1000000}"#, "pos_embed_max_size"),
        (#"{"attention_head_dim": 3, "num_attention_heads": 2, "caption_projection_dim": 6}"#, "multiple of 4"),
        (#"{"attention_head_dim": 32}"#, "caption_projection_dim"),
        (#"{"caption_projection_dim": 1536}"#, "caption_projection_dim"),
        (#"{"joint_attention_dim": 0}"#, "joint_attention_dim"),
        (#"{"pooled_projection_dim": true}"#, "pooled_projection_dim"),
        (#"{"qk_norm": "layer_norm"}"#, "qk_norm"),
        (#"{"qk_norm": true}"#, "qk_norm"),
        (#"{"dual_attention_layers": 3}"#, "dual_attention_layers"),
        (#"{"dual_attention_layers": [0, -1]}"#, "dual_attention_layers"),
        (#"{"dual_attention_layers": [0, 18]}"#, "dual_attention_layers"),
        (#"{"dual_attention_layers": [4, 4]}"#, "dual_attention_layers"),
        (#"{"_class_name": "WanTransformer3DModel"}"#, "_class_name"),
        (#"{"guidance_embeds": true}"#, "guidance_embeds"),
        (#"[]"#, "object"),
        (#"{"#, "JSON"),
    ]) func refusesByName(json: String, says: String) {
        do {
            _ = try SD3Configuration(json: Array(json.utf8))
            Issue.record("accepted \(json)")
        } catch { #expect("\(error)".contains(says), "\(error)") }
    }

    @Test func whatDiffusersNotesForItselfIsAccepted() throws {
        _ = try SD3Configuration(
            json: Array(#"{"_class_name": "SD3Transformer2DModel", "_diffusers_version": "0.29.0.dev0", "_name_or_path": "x"}"#.utf8))
    }

    /// The counts that `Tests/Reference/sd3_fixtures.py counts` prints, from diffusers on the meta device. No weight is in memory here.
    @Test(arguments: [
        (#""num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192"#, 2_028_328_000, 682),
        (
            #""num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384, "#
                + #""qk_norm": "rms_norm", "dual_attention_layers": [0,1,2,3,4,5,6,7,8,9,10,11,12]"#, 2_243_171_520, 908
        ),
        (
            #""num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192, "#
                + #""qk_norm": "rms_norm""#, 8_056_627_520, 1226
        ),
        (#""num_layers": 18"#, 856_159_552, 514),
    ]) func declaresAsManyParametersAsDiffusers(json: String, values: Int, tensors: Int) throws {
        let hollow = Tensor(shape: [1 << 26]) { _ in }
        let model = try SD3Transformer2DModel(
            configuration: SD3Configuration(json: Array("{\(json)}".utf8)), trainable: { _ in false },
            source: { _, shape, _ in hollow[0..<shape.reduce(1, *)].reshaped(shape) })
        #expect(model.parameterCount == values)
        #expect(model.parameters.count == tensors)
        #expect(Set(model.parameters.map(\.name)).count == tensors)
    }
}

@Suite struct LoadingAnSD3Folder {
    private func load(_ change: (inout [(String, Tensor)]) -> Void) -> String {
        do {
            return try withTemporaryFolder { folder in
                let model = try SD3Transformer2DModel.load(directory: "\(fixtures)/sd35")
                try model.save(directory: folder)
                let file = try SafetensorsFile(contentsOf: "\(folder)/diffusion_pytorch_model.safetensors")
                var tensors = try file.names.map { ($0, try file.tensor($0)) }
                change(&tensors)
                try SafetensorsWriter.write(tensors: tensors, to: "\(folder)/diffusion_pytorch_model.safetensors")
                _ = try SD3Transformer2DModel.load(directory: folder)
                return "accepted"
            }
        } catch { return "\(error)" }
    }

    @Test func readsBackWhatItSaves() throws {
        try withTemporaryFolder { folder in
            let model = try SD3Transformer2DModel.load(directory: "\(fixtures)/sd35")
            try model.save(directory: folder)
            let again = try SD3Transformer2DModel.load(directory: folder)
            #expect(again.parameters.map(\.name) == model.parameters.map(\.name))
            #expect(zip(again.parameters, model.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
            #expect(again.positions.tensor == model.positions.tensor)
            #expect(again.parameters.allSatisfy { !$0.variable.requiresGradient })
            let saved = try SafetensorsFile(contentsOf: "\(folder)/diffusion_pytorch_model.safetensors")
            let original = try SafetensorsFile(contentsOf: "\(fixtures)/sd35/diffusion_pytorch_model.safetensors")
            #expect(Set(saved.names) == Set(original.names))
        }
    }

    @Test func aTensorThatIsMissingExtraMisshapenOrNotFiniteIsNamed() {
        #expect(load { _ in } == "accepted")
        let missing = load { $0.removeAll { $0.0 == "transformer_blocks.1.attn.add_q_proj.bias" } }
        #expect(missing.contains("'transformer_blocks.1.attn.add_q_proj.bias'") && missing.contains("missing"))
        // Layer 1 has no second attention, and the last layer does not write the context.
        for name in ["transformer_blocks.1.attn2.to_q.bias", "transformer_blocks.2.attn.to_add_out.bias"] {
            #expect(load { $0.append((name, Tensor(zeros: [20]))) }.contains("'\(name)'"))
        }
        let misshapen = load { $0[$0.firstIndex { $0.0 == "transformer_blocks.0.norm1.linear.bias" }!].1 = Tensor(zeros: [120]) }
        #expect(misshapen.contains("'transformer_blocks.0.norm1.linear.bias'") && misshapen.contains("[180]"))
        for name in ["proj_out.bias", "pos_embed.pos_embed"] {
            let poisoned = load { tensors in
                let index = tensors.firstIndex { $0.0 == name }!
                tensors[index].1 = Tensor(full: .nan, shape: tensors[index].1.shape)
            }
            #expect(poisoned.contains("'\(name)'") && poisoned.contains("not finite"))
        }
        let table = load { $0[$0.firstIndex { $0.0 == "pos_embed.pos_embed" }!].1 = Tensor(zeros: [1, 25, 20]) }
        #expect(table.contains("'pos_embed.pos_embed'") && table.contains("[1, 25, 20]") && table.contains("[1, 36, 20]"))
    }

    @Test func aNewModelHasEveryLayersLawAndItsSeed() throws {
        var configuration = try SD3Configuration(contentsOf: "\(fixtures)/sd35/config.json")
        configuration.numLayers = 3
        let model = SD3Transformer2DModel(configuration: configuration, seed: 7)
        let same = SD3Transformer2DModel(configuration: configuration, seed: 7)
        let other = SD3Transformer2DModel(configuration: configuration, seed: 8)
        #expect(zip(model.parameters, same.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
        #expect(!zip(model.parameters, other.parameters).allSatisfy { $0.variable.tensor == $1.variable.tensor })
        for (name, variable) in model.parameters {
            #expect(variable.requiresGradient)
            let values = variable.tensor.array
            if name.contains("norm_q") || name.contains("norm_k") || name.contains("norm_added") {
                #expect(values.allSatisfy { $0 == 1 })
            } else if name.hasSuffix("to_q.weight") {
                let bound = 1 / Float(20).squareRoot()
                #expect(values.allSatisfy { abs($0) <= bound } && values.contains { abs($0) > 0.9 * bound })
            }
        }
    }
}
