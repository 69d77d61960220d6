import Tensors

extension SD3Transformer2DModel {
    /// Query, key, value and output of the joint attention, for images and for text.
    public static var adapterTargets: [String] {
        ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"].map { "attn.\($0)" }
    }
}

extension SD3Transformer2DModel: RunnableBackbone {
    static func featureNames(_ configuration: SD3Configuration) -> [String] { (1...configuration.numLayers).map(String.init) }

    static func buffers(_ configuration: SD3Configuration) -> [(name: String, shape: [Int])] {
        [(SD3PositionTable.name, SD3PositionTable.shape(configuration))]
    }

    static func loadForFeatures(directory: String) throws -> SD3Transformer2DModel { try load(directory: directory) }

    func run(_ inputs: ForwardInputs, features: [String], stop: Bool) throws -> ForwardResult {
        let c = configuration
        let hidden = try inputs.variable(
            "hidden_states", [.any("B"), .exactly(c.inChannels, "in_channels"), .any("H"), .any("W")])
        let batch = hidden.shape[0]
        let text = try inputs.variable(
            "encoder_hidden_states", [.exactly(batch, "B"), .any("L"), .exactly(c.jointAttentionDim, "joint_attention_dim")])
        let pooled = try inputs.variable(
            "pooled_projections", [.exactly(batch, "B"), .exactly(c.pooledProjectionDim, "pooled_projection_dim")])
        let blocks = features.compactMap { Int($0) }
        let output = try self(
            hiddenStates: hidden, timestep: inputs.timestep(batch: batch), encoderHiddenStates: text, pooledProjections: pooled,
            features: Set(blocks), lastBlock: stop ? blocks.max() : nil)
        return ForwardResult(
            sample: output.sample, features: Dictionary(uniqueKeysWithValues: output.features.map { ("\($0.key)", $0.value) }))
    }

    func described() -> BackboneDescription {
        let c = configuration
        var blocks = "\(c.numLayers) of width \(c.innerDim): \(c.numAttentionHeads) heads of \(c.attentionHeadDim)"
        if c.normalizesQueryAndKey { blocks += ", queries and keys normalised" }
        if !c.dualAttentionLayers.isEmpty { blocks += ", a second attention in \(c.dualAttentionLayers.count)" }
        return BackboneDescription(
            task: "text to image", layout: "CHW", inChannels: c.inChannels, outChannels: c.outChannels, patch: [c.patchSize, c.patchSize],
            blocks: blocks, limit: "\(c.posEmbedMaxSize) patches along an axis, made for \(c.sampleSize) latent rows",
            conditions: [
                .init(input: "encoder_hidden_states", width: c.jointAttentionDim, note: "text tokens"),
                .init(input: "pooled_projections", width: c.pooledProjectionDim, note: "pooled text"),
            ], predictsFlow: true)
    }
}
