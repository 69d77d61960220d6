import Tensors

extension UNet2DConditionModel: RunnableBackbone {
    static func featureNames(_ configuration: UNetConfiguration) -> [String] {
        configuration.blockOutChannels.indices.map { "down.\($0)" } + ["mid"]
    }

    /// Features all lie in the down and mid half.
    static func loadForFeatures(directory: String) throws -> UNet2DConditionModel { try load(directory: directory, downOnly: true) }

    func leavesOut(_ parameter: String) -> Bool {
        isDownOnly && ["up_blocks.", "conv_norm_out.", "conv_out."].contains { (parameter + ".").hasPrefix($0) }
    }

    func run(_ inputs: ForwardInputs, features: [String], stop: Bool) throws -> ForwardResult {
        let c = configuration
        let sample = try inputs.variable("sample", [.any("B"), .exactly(c.inChannels, "in_channels"), .any("H"), .any("W")])
        let batch = sample.shape[0]
        let text = try inputs.variable(
            "encoder_hidden_states", [.exactly(batch, "B"), .any("L"), .exactly(c.crossAttentionDim, "cross_attention_dim")])
        var embeds: Variable?
        var ids: Tensor?
        if c.textTime != nil {
            embeds = try inputs.variable("text_embeds", [.exactly(batch, "B"), .any("P")])
            ids = try inputs.tensor("time_ids", [.exactly(batch, "B"), .any("6")])
        }
        var mask: Tensor?
        if inputs.has("encoder_attention_mask") {
            mask = try inputs.tensor("encoder_attention_mask", [.exactly(batch, "B"), .exactly(text.shape[1], "L")])
        }
        let output = try self(
            sample: sample, timestep: inputs.timestep(batch: batch), encoderHiddenStates: text, textEmbeds: embeds, timeIds: ids,
            encoderAttentionMask: mask, features: Set(features), half: stop)
        return ForwardResult(sample: output.sample, features: output.features)
    }

    func described() -> BackboneDescription {
        let c = configuration
        func list<Value>(_ values: [Value]) -> String { values.map { "\($0)" }.joined(separator: ", ") }
        var conditions = [BackboneDescription.Condition(input: "encoder_hidden_states", width: c.crossAttentionDim, note: "text tokens")]
        if let textTime = c.textTime {
            let note = "pooled text, and \(textTime.timeDim) for each size and crop"
            conditions.append(.init(input: "text_embeds, time_ids", width: textTime.inputDim, note: note))
        }
        let size = c.sampleSize.isEmpty ? nil : "made for \(c.sampleSize.map(String.init).joined(separator: " x ")) latent rows"
        return BackboneDescription(
            task: "text to image", layout: "CHW", inChannels: c.inChannels, outChannels: c.outChannels, patch: nil,
            blocks: "\(c.blockOutChannels.count) down, mid, \(c.blockOutChannels.count) up of \(list(c.blockOutChannels)) channels, "
                + "\(list(c.layersPerBlock)) resnets, heads \(list(c.attentionHeads)), transformer layers \(list(c.transformerLayersPerBlock))",
            limit: size, conditions: conditions, predictsFlow: false)
    }
}
