import Backbones
import Foundation
import Testing

@Suite struct ReadingAConfiguration {
    @Test func missingKeysHaveDiffusersDefaults() throws {
        let configuration = try WanConfiguration(json: Array("{}".utf8))
        #expect(configuration == WanConfiguration())
        #expect(configuration.innerDim == 5120)
    }

    @Test func readsBackWhatItWrites() throws {
        for name in ["t2v", "i2v", "flf"] {
            let configuration = try WanConfiguration(contentsOf: "\(fixtures)/\(name)/config.json")
            #expect(try WanConfiguration(json: configuration.encoded()) == configuration)
        }
        let flf = try WanConfiguration(contentsOf: "\(fixtures)/flf/config.json")
        #expect(flf.outChannels == 6 && flf.patchSize == [2, 1, 2] && !flf.crossAttnNorm && flf.posEmbedSeqLen == 10)
    }

    @Test(arguments: [
        (#"{"num_layers": 0}"#, "num_layers"),
        (#"{"num_layers": -1}"#, "num_layers"),
        (#"{"num_layers": 2.5}"#, "num_layers"),
        (#"{"num_layers": "2"}"#, "num_layers"),
        (#"{"num_layers": 99999999999}"#, "num_layers"),
        (#"{"num_layers": 2, "num_layers": 3}"#, "num_layers"),
        (#"{"in_channels": null}"#, "in_channels"),
        (#"{"eps": 0}"#, "eps"),
        (#"{"eps": -1e-6}"#, "eps"),
        (#"{"patch_size": [1, 2]}"#, "patch_size"),
        (#"{"patch_size": [1, 0, 2]}"#, "patch_size"),
        (#"{"attention_head_dim": 33}"#, "attention_head_dim"),
        (#"{"cross_attn_norm": 1}"#, "cross_attn_norm"),
        (#"{"qk_norm": "layer_norm"}"#, "qk_norm"),
        (#"{"_class_name": "FluxTransformer2DModel"}"#, "_class_name"),
        (#"{"added_kv_proj_dim": 5120}"#, "image_dim"),
        (#"{"added_kv_proj_dim": 64, "image_dim": 32}"#, "added_kv_proj_dim"),
        (#"{"guidance_embeds": true}"#, "guidance_embeds"),
        (#"[]"#, "object"),
        (#"{"#, "JSON"),
    ]) func refusesByName(json: String, says: String) {
        do {
            _ = try WanConfiguration(json: Array(json.utf8))
            Issue.record("accepted \(json)")
        } catch { #expect("\(error)".contains(says), "\(error)") }
    }

    @Test func whatDiffusersNotesForItselfIsAccepted() throws {
        _ = try WanConfiguration(
            json: Array(#"{"_class_name": "WanTransformer3DModel", "_diffusers_version": "0.42.1", "_name_or_path": "x"}"#.utf8))
    }
}
