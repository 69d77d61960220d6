import Safetensors

/// The `config.json` of diffusers' `SD3Transformer2DModel` (Stable Diffusion 3 and 3.5); a key that is missing has diffusers' default.
///
/// Read strictly: an unknown key, a wrong type, a value that makes no sense or keys that contradict each other are refused by name.
public struct SD3Configuration: Sendable, Equatable {
    /// Rows and columns of the latent that the model was made for: patches of this size are one position apart.
    public var sampleSize = 128
    /// Rows and columns of latent that make one token.
    public var patchSize = 2
    public var inChannels = 16
    public var outChannels = 16
    public var numLayers = 18
    public var attentionHeadDim = 64
    public var numAttentionHeads = 18
    /// Width of the text encoders' tokens.
    public var jointAttentionDim = 4096
    /// Width of the context's residual stream: the model's own.
    public var captionProjectionDim = 1152
    /// Width of the text encoders' pooled vectors.
    public var pooledProjectionDim = 2048
    /// The largest number of patches along an axis; a smaller image gets the positions in the middle.
    public var posEmbedMaxSize = 96
    /// Blocks, counted from 0, whose image tokens have a second attention over themselves alone (3.5 medium).
    public var dualAttentionLayers: [Int] = []
    /// Whether queries and keys are normalised in every head (`qk_norm: "rms_norm"`, 3.5).
    public var normalizesQueryAndKey = false

    /// Width of both residual streams.
    public var innerDim: Int { numAttentionHeads * attentionHeadDim }

    /// Diffusers' defaults.
    public init() {}

    /// Reads a `config.json`.
    public init(contentsOf path: String) throws {
        self = try ConfigurationReader.read(path) { try SD3Configuration(json: $0) }
    }

    /// Reads the text of a `config.json`.
    public init(json: [UInt8]) throws {
        var outChannelsIsNull = false
        for member in try ConfigurationReader.members(json) {
            let reader = ConfigurationReader(key: member.key, value: member.value)
            switch member.key {
            case "sample_size": sampleSize = try reader.integer(in: 1...65536)
            case "patch_size": patchSize = try reader.integer(in: 1...64)
            case "in_channels": inChannels = try reader.integer(in: 1...65536)
            case "out_channels":
                let channels = try reader.optional(in: 1...65536)
                outChannelsIsNull = channels == nil
                outChannels = channels ?? 0
            case "num_layers": numLayers = try reader.integer(in: 1...1024)
            case "attention_head_dim": attentionHeadDim = try reader.integer(in: 1...4096)
            case "num_attention_heads": numAttentionHeads = try reader.integer(in: 1...1024)
            case "joint_attention_dim": jointAttentionDim = try reader.integer(in: 1...65536)
            case "caption_projection_dim": captionProjectionDim = try reader.integer(in: 1...1_048_576)
            case "pooled_projection_dim": pooledProjectionDim = try reader.integer(in: 1...65536)
            case "pos_embed_max_size": posEmbedMaxSize = try reader.integer(in: 1...4096)
            case "dual_attention_layers":
                dualAttentionLayers = member.value == .array([]) ? [] : try reader.integers(in: 0...1023)
            case "qk_norm":
                guard member.value == .null || member.value == .string("rms_norm") else {
                    throw reader.failure("must be \"rms_norm\" or null")
                }
                normalizesQueryAndKey = member.value != .null
            case "_class_name": _ = try reader.string(oneOf: [SD3Transformer2DModel.className])
            case _ where member.key.hasPrefix("_"): continue  // what diffusers notes for itself: version, path
            default: throw reader.failure("is not a key of SD3Transformer2DModel")
            }
        }
        if outChannelsIsNull { outChannels = inChannels }
        try validate()
    }

    private func validate() throws {
        guard innerDim % 4 == 0 else {
            throw BackboneError(
                "num_attention_heads \(numAttentionHeads) x attention_head_dim \(attentionHeadDim) is not a multiple of 4: a position is "
                    + "sines and cosines of its column and its row")
        }
        guard captionProjectionDim == innerDim else {
            throw BackboneError(
                "caption_projection_dim \(captionProjectionDim) must be the model's width, \(innerDim): "
                    + "image and text tokens go through the same attention")
        }
        guard sampleSize >= patchSize else {
            throw BackboneError("sample_size \(sampleSize) is smaller than patch_size \(patchSize): the sample has no patch")
        }
        var seen: Set<Int> = []
        for layer in dualAttentionLayers {
            guard layer < numLayers else {
                throw BackboneError("dual_attention_layers names layer \(layer), but num_layers is \(numLayers)")
            }
            guard seen.insert(layer).inserted else { throw BackboneError("dual_attention_layers names layer \(layer) twice") }
        }
    }

    /// The `config.json` as diffusers writes it: sorted keys, two spaces.
    public func encoded() -> [UInt8] {
        let layers = dualAttentionLayers.map { "\n    \($0)" }.joined(separator: ",")
        let members: [(String, String)] = [
            ("_class_name", "\"SD3Transformer2DModel\""),
            ("attention_head_dim", "\(attentionHeadDim)"),
            ("caption_projection_dim", "\(captionProjectionDim)"),
            ("dual_attention_layers", dualAttentionLayers.isEmpty ? "[]" : "[\(layers)\n  ]"),
            ("in_channels", "\(inChannels)"),
            ("joint_attention_dim", "\(jointAttentionDim)"),
            ("num_attention_heads", "\(numAttentionHeads)"),
            ("num_layers", "\(numLayers)"),
            ("out_channels", "\(outChannels)"),
            ("patch_size", "\(patchSize)"),
            ("pooled_projection_dim", "\(pooledProjectionDim)"),
            ("pos_embed_max_size", "\(posEmbedMaxSize)"),
            ("qk_norm", normalizesQueryAndKey ? "\"rms_norm\"" : "null"),
            ("sample_size", "\(sampleSize)"),
        ]
        return Array(("{\n" + members.map { "  \"\($0.0)\": \($0.1)" }.joined(separator: ",\n") + "\n}\n").utf8)
    }
}
