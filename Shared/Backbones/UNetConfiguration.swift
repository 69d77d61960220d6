import Safetensors

/// The `config.json` of diffusers' `UNet2DConditionModel`; a key that is missing has diffusers' default.
///
/// Covers Stable Diffusion 1.x and 2.x and SDXL. Read strictly: an unknown key, a wrong type, a value that makes no sense or that asks for
/// something that is not supported here, and keys that contradict each other are refused by name. Lists have one entry a down block.
public struct UNetConfiguration: Sendable, Equatable {
    /// Rows and columns of the latents that the model was trained on: one number for both, two, or none. Nothing depends on it.
    public var sampleSize: [Int] = []
    public var inChannels = 4
    public var outChannels = 4
    /// Maps the sample from 0…1 to -1…1 first.
    public var centerInputSample = false
    /// Cosines in front of sines in the sinusoidal embeddings.
    public var flipSinToCos = true
    public var freqShift = 0
    /// Whether the down blocks attend (`CrossAttnDownBlock2D`) or not (`DownBlock2D`), from the outermost.
    public var downBlocksAttend = [true, true, true, false]
    /// Whether the up blocks attend (`CrossAttnUpBlock2D`) or not (`UpBlock2D`), from the innermost.
    public var upBlocksAttend = [false, true, true, true]
    public var blockOutChannels = [320, 640, 1280, 1280]
    public var layersPerBlock = [2, 2, 2, 2]
    public var downsamplePadding = 1
    public var normNumGroups = 32
    public var normEps: Float = 1e-5
    public var crossAttentionDim = 1280
    public var transformerLayersPerBlock = [1, 1, 1, 1]
    /// Heads of a block's attentions. In the file this is `attention_head_dim`: diffusers once gave it the wrong name and kept it.
    public var attentionHeads = [8, 8, 8, 8]
    public var useLinearProjection = false
    /// Accepted and without effect: attention is computed in Float32 always.
    public var upcastAttention = false
    public var timeEmbeddingDim: Int?
    /// SDXL's added conditions (`addition_embed_type: "text_time"`); nil where the model has none.
    public var textTime: TextTime?

    /// A pooled text embedding and the sinusoids of numbers (sizes and crops), side by side.
    public struct TextTime: Sendable, Equatable {
        /// `addition_time_embed_dim`, the width of one number's sinusoids.
        public var timeDim: Int
        /// `projection_class_embeddings_input_dim`, the width of all together.
        public var inputDim: Int

        public init(timeDim: Int, inputDim: Int) {
            self.timeDim = timeDim
            self.inputDim = inputDim
        }
    }

    /// Width of the time embedding.
    public var timeWidth: Int { timeEmbeddingDim ?? 4 * blockOutChannels[0] }

    /// No model has more parameters, whatever its configuration says.
    public static let maximumParameters = 1 << 33

    /// Diffusers' defaults.
    public init() {}

    /// Reads a `config.json`.
    public init(contentsOf path: String) throws {
        self = try ConfigurationReader.read(path) { try UNetConfiguration(json: $0) }
    }

    /// Reads the text of a `config.json`.
    public init(json: [UInt8]) throws {
        var additionEmbedType: String?
        var additionTimeEmbedDim: Int?
        var projectionInputDim: Int?
        // diffusers' defaults are numbers, whatever the number of blocks.
        (layersPerBlock, attentionHeads, transformerLayersPerBlock) = ([2], [8], [1])
        for member in try ConfigurationReader.members(json) {
            let reader = ConfigurationReader(key: member.key, value: member.value)
            switch member.key {
            case "sample_size": sampleSize = member.value == .null ? [] : try reader.oneOrMore(in: 1...65536, atMost: 2)
            case "in_channels": inChannels = try reader.integer(in: 1...4096)
            case "out_channels": outChannels = try reader.integer(in: 1...4096)
            case "center_input_sample": centerInputSample = try reader.bool()
            case "flip_sin_to_cos": flipSinToCos = try reader.bool()
            case "freq_shift": freqShift = try reader.integer(in: 0...16)
            case "down_block_types": downBlocksAttend = try reader.blocks(plain: "DownBlock2D", attending: "CrossAttnDownBlock2D")
            case "up_block_types": upBlocksAttend = try reader.blocks(plain: "UpBlock2D", attending: "CrossAttnUpBlock2D")
            case "block_out_channels": blockOutChannels = try reader.integers(in: 1...16384)
            case "layers_per_block": layersPerBlock = try reader.oneOrMore(in: 1...8)
            case "downsample_padding": downsamplePadding = try reader.integer(in: 0...1)
            case "norm_num_groups": normNumGroups = try reader.integer(in: 1...1024)
            case "norm_eps": normEps = try reader.epsilon()
            case "cross_attention_dim": crossAttentionDim = try reader.integer(in: 1...65536)
            case "transformer_layers_per_block": transformerLayersPerBlock = try reader.oneOrMore(in: 1...64)
            case "attention_head_dim": attentionHeads = try reader.oneOrMore(in: 1...1024)
            case "use_linear_projection": useLinearProjection = try reader.bool()
            case "upcast_attention": upcastAttention = member.value == .null ? false : try reader.bool()
            case "time_embedding_dim": timeEmbeddingDim = try reader.optional(in: 1...65536)
            case "addition_embed_type": additionEmbedType = try reader.only([.null, .string("text_time")]) == .null ? nil : "text_time"
            case "addition_time_embed_dim": additionTimeEmbedDim = try reader.optional(in: 2...65536)
            case "projection_class_embeddings_input_dim": projectionInputDim = try reader.optional(in: 1...1_048_576)
            case "addition_embed_type_num_heads": _ = try reader.integer(in: 1...1024)  // of "text" alone
            case "_class_name":
                guard member.value == .string("UNet2DConditionModel") else {
                    throw reader.failure("must be \"UNet2DConditionModel\"; other classes are not supported")
                }
            case _ where member.key.hasPrefix("_"): continue  // what diffusers notes for itself: version, path
            default:
                guard let values = Self.supported[member.key] else { throw reader.failure("is not a key of UNet2DConditionModel") }
                _ = try reader.only(values)
            }
        }
        try join(additionEmbedType, additionTimeEmbedDim, projectionInputDim)
        let blocks = blockOutChannels.count
        if layersPerBlock.count == 1 { layersPerBlock = Array(repeating: layersPerBlock[0], count: blocks) }
        if attentionHeads.count == 1 { attentionHeads = Array(repeating: attentionHeads[0], count: blocks) }
        if transformerLayersPerBlock.count == 1 {
            transformerLayersPerBlock = Array(repeating: transformerLayersPerBlock[0], count: blocks)
        }
        try validate()
    }

    /// Keys of which only these values are supported, those that leave the thing out.
    private static let supported: [String: [StrictJSON]] = [
        "act_fn": [.string("silu"), .string("swish")],
        "attention_type": [.string("default")],
        "class_embed_type": [.null],
        "class_embeddings_concat": [.bool(false)],
        "conv_in_kernel": [.integer(3)],
        "conv_out_kernel": [.integer(3)],
        "cross_attention_norm": [.null],
        "dropout": [.number(0), .integer(0)],
        "dual_cross_attention": [.bool(false)],
        "encoder_hid_dim": [.null],
        "encoder_hid_dim_type": [.null],
        "mid_block_only_cross_attention": [.null, .bool(false)],
        "mid_block_scale_factor": [.integer(1), .number(1)],
        "mid_block_type": [.string("UNetMidBlock2DCrossAttn")],
        "num_attention_heads": [.null],
        "num_class_embeds": [.null],
        "only_cross_attention": [.bool(false)],
        "resnet_out_scale_factor": [.number(1), .integer(1)],
        "resnet_skip_time_act": [.bool(false)],
        "resnet_time_scale_shift": [.string("default")],
        "reverse_transformer_layers_per_block": [.null],
        "time_cond_proj_dim": [.null],
        "time_embedding_act_fn": [.null],
        "time_embedding_type": [.string("positional")],
        "timestep_post_act": [.null],
    ]

    private mutating func join(_ type: String?, _ timeDim: Int?, _ inputDim: Int?) throws {
        guard type != nil else {
            // What nothing would use is a mistake, or a model of another kind.
            if timeDim != nil { throw BackboneError("addition_time_embed_dim is set, but addition_embed_type is not \"text_time\"") }
            if inputDim != nil {
                throw BackboneError("projection_class_embeddings_input_dim is set, but addition_embed_type is not \"text_time\"")
            }
            return
        }
        guard let timeDim else { throw BackboneError("addition_time_embed_dim is missing: addition_embed_type is \"text_time\"") }
        guard let inputDim else {
            throw BackboneError("projection_class_embeddings_input_dim is missing: addition_embed_type is \"text_time\"")
        }
        textTime = TextTime(timeDim: timeDim, inputDim: inputDim)
    }

    /// The same configuration, having passed every check of a file: for one that was put together in code.
    /// - Throws: `BackboneError` naming the key.
    public func checked() throws -> UNetConfiguration { try UNetConfiguration(json: encoded()) }

    /// Checks what keys say of each other, and that the model is not absurdly large.
    private func validate() throws {
        let blocks = blockOutChannels.count
        guard (1...8).contains(blocks) else { throw BackboneError("block_out_channels has \(blocks) entries, outside of 1 to 8") }
        let lists = [
            ("down_block_types", downBlocksAttend.count), ("up_block_types", upBlocksAttend.count),
            ("layers_per_block", layersPerBlock.count), ("attention_head_dim", attentionHeads.count),
            ("transformer_layers_per_block", transformerLayersPerBlock.count),
        ]
        for (key, count) in lists where count != blocks {
            throw BackboneError("\(key) has \(count) entries, but block_out_channels has \(blocks)")
        }
        for (index, channels) in blockOutChannels.enumerated() {
            guard channels % normNumGroups == 0 else {
                throw BackboneError("norm_num_groups \(normNumGroups) does not divide the \(channels) of block_out_channels")
            }
            let attends = downBlocksAttend[index] || upBlocksAttend[blocks - 1 - index] || index == blocks - 1
            guard !attends || channels % attentionHeads[index] == 0 else {
                throw BackboneError(
                    "attention_head_dim \(attentionHeads[index]), which is the number of heads, does not divide the \(channels) of block_out_channels"
                )
            }
        }
        for (key, width) in [("block_out_channels", blockOutChannels[0]), ("addition_time_embed_dim", textTime?.timeDim ?? .max)] {
            guard width / 2 > freqShift else { throw BackboneError("freq_shift \(freqShift) leaves no frequency of \(key) \(width)") }
        }
        if let textTime, textTime.inputDim <= textTime.timeDim {
            throw BackboneError(
                "projection_class_embeddings_input_dim \(textTime.inputDim) leaves no room for text beside addition_time_embed_dim \(textTime.timeDim)"
            )
        }
        _ = try UNet2DConditionModel.declare(self, downOnly: false)
    }
}
