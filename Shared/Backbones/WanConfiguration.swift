import Safetensors

/// The `config.json` of diffusers' `WanTransformer3DModel`; a key that is missing has diffusers' default.
///
/// Read strictly: an unknown key, a wrong type, a value that makes no sense or keys that contradict each other are refused by name.
public struct WanConfiguration: Sendable, Equatable {
    /// Frames, rows and columns of latent that make one token.
    public var patchSize: [Int] = [1, 2, 2]
    public var numAttentionHeads = 40
    public var attentionHeadDim = 128
    /// Channels of the input: those of the latent and whatever is joined behind them.
    public var inChannels = 16
    public var outChannels = 16
    public var textDim = 4096
    public var freqDim = 256
    public var ffnDim = 13824
    public var numLayers = 40
    public var crossAttnNorm = true
    public var eps: Float = 1e-6
    /// Width of the image encoder's tokens; nil when the model takes none.
    public var imageDim: Int?
    /// Set when image tokens have keys and values of their own.
    public var addedKvProjDim: Int?
    /// The largest number of patches along any axis.
    public var ropeMaxSeqLen = 1024
    /// Image tokens of both frames in a first-and-last-frame model.
    public var posEmbedSeqLen: Int?

    /// Width of the residual stream.
    public var innerDim: Int { numAttentionHeads * attentionHeadDim }

    /// Diffusers' defaults (the 14B text-to-video model).
    public init() {}

    /// Reads a `config.json`.
    public init(contentsOf path: String) throws {
        self = try ConfigurationReader.read(path) { try WanConfiguration(json: $0) }
    }

    /// Reads the text of a `config.json`.
    public init(json: [UInt8]) throws {
        var outChannelsIsNull = false
        for member in try ConfigurationReader.members(json) {
            let reader = ConfigurationReader(key: member.key, value: member.value)
            switch member.key {
            case "patch_size": patchSize = try reader.integers(count: 3, in: 1...64)
            case "num_attention_heads": numAttentionHeads = try reader.integer(in: 1...1024)
            case "attention_head_dim": attentionHeadDim = try reader.integer(in: 6...4096)
            case "in_channels": inChannels = try reader.integer(in: 1...65536)
            case "out_channels":
                let channels = try reader.optional(in: 1...65536)
                outChannelsIsNull = channels == nil
                outChannels = channels ?? 0
            case "text_dim": textDim = try reader.integer(in: 1...65536)
            case "freq_dim": freqDim = try reader.integer(in: 2...65536)
            case "ffn_dim": ffnDim = try reader.integer(in: 1...1_048_576)
            case "num_layers": numLayers = try reader.integer(in: 1...1024)
            case "cross_attn_norm": crossAttnNorm = try reader.bool()
            case "qk_norm":
                // diffusers normalises queries and keys across heads whatever stands here; null is what old files say.
                if member.value != .null && member.value != .string("rms_norm_across_heads") {
                    throw reader.failure("must be \"rms_norm_across_heads\"")
                }
            case "eps": eps = try reader.epsilon()
            case "image_dim": imageDim = try reader.optional(in: 1...65536)
            case "added_kv_proj_dim": addedKvProjDim = try reader.optional(in: 1...1_048_576)
            case "rope_max_seq_len": ropeMaxSeqLen = try reader.integer(in: 1...65536)
            case "pos_embed_seq_len": posEmbedSeqLen = try reader.optional(in: 1...65536)
            case "_class_name":
                guard member.value == .string("WanTransformer3DModel") else {
                    throw reader.failure("must be \"WanTransformer3DModel\"; other classes are not supported")
                }
            case _ where member.key.hasPrefix("_"): continue  // what diffusers notes for itself: version, path
            default: throw reader.failure("is not a key of WanTransformer3DModel")
            }
        }
        if outChannelsIsNull { outChannels = inChannels }
        try validate()
    }

    private func validate() throws {
        guard attentionHeadDim % 2 == 0 else {
            throw BackboneError("attention_head_dim \(attentionHeadDim) is odd: rotary embedding turns pairs")
        }
        if let addedKvProjDim {
            guard imageDim != nil else { throw BackboneError("added_kv_proj_dim is set, but image_dim is not: there are no image tokens") }
            guard addedKvProjDim == innerDim else {
                throw BackboneError("added_kv_proj_dim \(addedKvProjDim) must be the model's width, \(innerDim)")
            }
        }
        if let posEmbedSeqLen {
            guard imageDim != nil else { throw BackboneError("pos_embed_seq_len is set, but image_dim is not: there are no image tokens") }
            guard posEmbedSeqLen % 2 == 0 else {
                throw BackboneError("pos_embed_seq_len \(posEmbedSeqLen) is odd: it counts two images' tokens")
            }
        }
    }

    /// The `config.json` as diffusers writes it: sorted keys, two spaces.
    public func encoded() -> [UInt8] {
        func number(_ value: Int?) -> String { value.map(String.init) ?? "null" }
        let members: [(String, String)] = [
            ("_class_name", "\"WanTransformer3DModel\""),
            ("added_kv_proj_dim", number(addedKvProjDim)),
            ("attention_head_dim", number(attentionHeadDim)),
            ("cross_attn_norm", crossAttnNorm ? "true" : "false"),
            ("eps", "\(eps)"),
            ("ffn_dim", number(ffnDim)),
            ("freq_dim", number(freqDim)),
            ("image_dim", number(imageDim)),
            ("in_channels", number(inChannels)),
            ("num_attention_heads", number(numAttentionHeads)),
            ("num_layers", number(numLayers)),
            ("out_channels", number(outChannels)),
            ("patch_size", "[\n    " + patchSize.map(String.init).joined(separator: ",\n    ") + "\n  ]"),
            ("pos_embed_seq_len", number(posEmbedSeqLen)),
            ("qk_norm", "\"rms_norm_across_heads\""),
            ("rope_max_seq_len", number(ropeMaxSeqLen)),
            ("text_dim", number(textDim)),
        ]
        return Array(("{\n" + members.map { "  \"\($0.0)\": \($0.1)" }.joined(separator: ",\n") + "\n}\n").utf8)
    }
}
