import Backbones
import Foundation
import Testing

@Suite struct UNetConfigurations {
    /// As the hub has it for Stable Diffusion 1.5, an old file that leaves much to defaults.
    static let sd15 = """
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}
        """
    static let sd21 = """
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.10.0.dev0", "act_fn": "silu", "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "num_class_embeds": null,
        "only_cross_attention": false, "out_channels": 4, "sample_size": 96,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "use_linear_projection": true, "upcast_attention": true}
        """
    static let sdxl = """
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.19.0.dev0", "act_fn": "silu", "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "center_input_sample": false, "class_embed_type": null, "class_embeddings_concat": false,
        "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_dim": 2048, "cross_attention_norm": null,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
        "dual_cross_attention": false, "encoder_hid_dim": null, "encoder_hid_dim_type": null, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "mid_block_only_cross_attention": null, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32, "num_attention_heads": null,
        "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4, "projection_class_embeddings_input_dim": 2816,
        "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": false, "resnet_time_scale_shift": "default", "sample_size": 128,
        "time_cond_proj_dim": null, "time_embedding_act_fn": null, "time_embedding_dim": null, "time_embedding_type": "positional",
        "timestep_post_act": null, "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "upcast_attention": null,
        "use_linear_projection": true}
        """

    /// What torch counts (Tests/Reference/unet_fixtures.py prints it), without a byte for the values.
    @Test func aPublishedModelHasItsNumberOfParameters() throws {
        try expectCounts(Self.sd15, whole: 859_520_964, half: 348_712_960, tensors: 686)
        try expectCounts(Self.sd21, whole: 865_910_724, half: 351_662_080, tensors: 686)
        try expectCounts(Self.sdxl, whole: 2_567_463_684, half: 1_243_367_040, tensors: 1680)
    }

    private func expectCounts(_ json: String, whole: Int, half: Int, tensors: Int) throws {
        let configuration = try UNetConfiguration(json: Array(json.utf8))
        func count(_ declared: [(name: String, shape: [Int])]) -> Int { declared.reduce(0) { $0 + $1.shape.reduce(1, *) } }
        let declared = try UNet2DConditionModel.declaredParameters(configuration)
        #expect(declared.count == tensors)
        #expect(Set(declared.map(\.name)).count == tensors)
        #expect(count(declared) == whole)
        #expect(try count(UNet2DConditionModel.declaredParameters(configuration, downOnly: true)) == half)
    }

    @Test func aFileWrittenIsReadAsTheSame() throws {
        for json in [Self.sd15, Self.sd21, Self.sdxl] {
            let configuration = try UNetConfiguration(json: Array(json.utf8))
            #expect(try UNetConfiguration(json: configuration.encoded()) == configuration)
        }
        for name in UNetFixture.names {
            let configuration = try UNetConfiguration(contentsOf: "\(fixtures)/\(name)/config.json")
            #expect(try UNetConfiguration(json: configuration.encoded()) == configuration)
        }
        let rare = try UNetConfiguration(contentsOf: "\(fixtures)/unet-rare/config.json")
        #expect(rare.sampleSize == [11, 6] && rare.freqShift == 1 && rare.timeEmbeddingDim == 14 && rare.downsamplePadding == 0)
        #expect(!rare.flipSinToCos && rare.centerInputSample && rare.layersPerBlock == [1, 2, 1])
    }

    @Test func missingKeysHaveDiffusersDefaults() throws {
        #expect(try UNetConfiguration(json: Array("{}".utf8)) == UNetConfiguration())
        let blocks = "\"down_block_types\": [\"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\"], \"block_out_channels\": [64]"
        let short = try UNetConfiguration(json: Array("{\(blocks)}".utf8))
        #expect(short.layersPerBlock == [2] && short.attentionHeads == [8] && short.transformerLayersPerBlock == [1])
    }

    /// The SDXL file with one key changed or added.
    private static func refusal(_ key: String, _ value: String) -> String {
        var object = (try! JSONSerialization.jsonObject(with: Data(sdxl.utf8))) as! [String: Any]
        object[key] = try! JSONSerialization.jsonObject(with: Data(value.utf8), options: .fragmentsAllowed)
        do {
            _ = try UNetConfiguration(json: Array(JSONSerialization.data(withJSONObject: object)))
            return "accepted"
        } catch { return "\(error)" }
    }

    @Test func aValueThatMakesNoSenseIsRefusedByItsKey() {
        let cases: [(String, [String])] = [
            ("in_channels", ["0", "-4", "4.5", "\"4\"", "null", "99999999"]), ("out_channels", ["0", "-1", "null"]),
            (
                "block_out_channels",
                ["[]", "[320, 640]", "[320, -640, 1280]", "[320, 640, 0]", "[320, 640, 10000000]", "320", "[320, 640, 1281]"]
            ),
            ("layers_per_block", ["0", "-2", "100000", "[2, 2]", "[2, 2, \"2\"]", "true"]),
            ("transformer_layers_per_block", ["0", "[1, 2]", "[[1, 1], [2, 2], [10, 10]]", "4096"]),
            ("attention_head_dim", ["0", "[5, 10]", "[5, 10, -20]", "7", "null"]),
            ("cross_attention_dim", ["0", "[2048, 2048, 2048]", "-3"]),
            ("norm_num_groups", ["0", "7", "null", "4096"]), ("norm_eps", ["0", "-1e-5", "1", "\"1e-5\""]),
            (
                "down_block_types",
                ["[\"DownBlock2D\"]", "[\"DownBlock2D\", \"AttnDownBlock2D\", \"DownBlock2D\"]", "\"DownBlock2D\"", "[1, 2, 3]"]
            ),
            ("up_block_types", ["[\"UpBlock2D\", \"UpBlock2D\"]", "[\"UpBlock2D\", \"DownBlock2D\", \"UpBlock2D\"]", "[]"]),
            ("freq_shift", ["-1", "400"]), ("downsample_padding", ["-1", "2"]), ("flip_sin_to_cos", ["1", "null"]),
            ("center_input_sample", ["\"no\""]), ("sample_size", ["0", "-128", "[128, 128, 128]", "1.5"]), ("upcast_attention", ["1"]),
            ("use_linear_projection", ["null"]), ("time_embedding_dim", ["0", "-5"]),
            ("addition_time_embed_dim", ["null", "0", "-256", "1", "2816"]),
            ("projection_class_embeddings_input_dim", ["null", "0", "256", "-2816"]),
        ]
        for (key, values) in cases {
            for value in values {
                let message = Self.refusal(key, value)
                // A projection without room for text may be said of either of its two keys.
                #expect(
                    message.contains(key) || message.contains("projection_class_embeddings_input_dim") && key.hasPrefix("addition"),
                    "\(key): \(value): \(message)")
            }
        }
    }

    @Test func whatIsNotSupportedIsRefusedByItsKey() {
        let cases = [
            ("act_fn", "\"mish\""), ("addition_embed_type", "\"text_image\""), ("attention_type", "\"gated\""),
            ("class_embed_type", "\"timestep\""), ("class_embeddings_concat", "true"), ("conv_in_kernel", "1"), ("conv_out_kernel", "5"),
            ("cross_attention_norm", "\"layer_norm\""), ("dropout", "0.1"), ("dual_cross_attention", "true"), ("encoder_hid_dim", "1024"),
            ("encoder_hid_dim_type", "\"text_proj\""), ("mid_block_only_cross_attention", "true"), ("mid_block_scale_factor", "1.4142"),
            ("mid_block_type", "null"), ("mid_block_type", "\"UNetMidBlock2D\""), ("num_attention_heads", "8"),
            ("num_class_embeds", "1000"),
            ("only_cross_attention", "true"), ("only_cross_attention", "[true, false, false]"), ("resnet_out_scale_factor", "2"),
            ("resnet_skip_time_act", "true"), ("resnet_time_scale_shift", "\"scale_shift\""),
            ("reverse_transformer_layers_per_block", "[[1]]"),
            ("time_cond_proj_dim", "256"), ("time_embedding_act_fn", "\"silu\""), ("time_embedding_type", "\"fourier\""),
            ("timestep_post_act", "\"silu\""), ("_class_name", "\"UNet2DModel\""), ("colour", "\"blue\""), ("", "1"),
        ]
        for (key, value) in cases {
            let message = Self.refusal(key, value)
            #expect(message.hasPrefix(key) && message != "accepted", "\(key): \(value): \(message)")
        }
        #expect(Self.refusal("_anything", "[1, {}]") == "accepted")
        #expect(Self.refusal("act_fn", "\"swish\"") == "accepted")
        #expect(Self.refusal("sample_size", "null") == "accepted")
    }

    @Test func addedConditionsWithoutTheirTypeContradict() throws {
        #expect(Self.refusal("addition_embed_type", "null").contains("addition_time_embed_dim is set"))
    }

    /// Each value alone is allowed; nothing is allocated before their product is refused.
    @Test func anAbsurdlyLargeModelIsRefused() {
        let channels = "\"block_out_channels\": [16384, 16384, 16384, 16384]"
        for extra in ["\"layers_per_block\": 8", "\"transformer_layers_per_block\": 64, \"use_linear_projection\": true"] {
            let json = "{\(channels), \(extra), \"cross_attention_dim\": 65536}"
            let error = #expect(throws: BackboneError.self) { try UNetConfiguration(json: Array(json.utf8)) }
            #expect("\(error!)".contains("block_out_channels") && "\(error!)".contains("parameters"))
        }
    }

    @Test func aConfigurationFromCodeIsCheckedAsAFileIs() {
        var configuration = UNetConfiguration()
        configuration.normNumGroups = 0
        var error = #expect(throws: BackboneError.self) { try UNet2DConditionModel(configuration: configuration, seed: 1) }
        #expect("\(error!)".hasPrefix("norm_num_groups"))
        configuration = UNetConfiguration()
        configuration.blockOutChannels = [320]
        error = #expect(throws: BackboneError.self) { try UNet2DConditionModel.declaredParameters(configuration) }
        #expect("\(error!)".contains("block_out_channels has 1"))
    }

    @Test func whatIsNoObjectIsRefused() {
        for json in ["[]", "", "{\"in_channels\": 4,}", "{\"in_channels\": 4, \"in_channels\": 4}", "null"] {
            #expect(throws: (any Error).self) { try UNetConfiguration(json: Array(json.utf8)) }
        }
    }
}
