import Tensors

extension WanTransformer3DModel: RunnableBackbone {
    static func featureNames(_ configuration: WanConfiguration) -> [String] { (1...configuration.numLayers).map(String.init) }

    static func loadForFeatures(directory: String) throws -> WanTransformer3DModel { try load(directory: directory) }

    func run(_ inputs: ForwardInputs, features: [String], stop: Bool) throws -> ForwardResult {
        let c = configuration
        let hidden = try inputs.variable(
            "hidden_states", [.any("B"), .exactly(c.inChannels, "in_channels"), .any("F"), .any("H"), .any("W")])
        let batch = hidden.shape[0]
        let text = try inputs.variable(
            "encoder_hidden_states", [.exactly(batch, "B"), .any("L"), .exactly(c.textDim, "text_dim")])
        var image: Variable?
        // A file may serve models with and without.
        if let width = c.imageDim, inputs.has("encoder_hidden_states_image") {
            let rows = c.posEmbedSeqLen == nil ? batch : 2 * batch
            image = try inputs.variable(
                "encoder_hidden_states_image", [.exactly(rows, "B"), .any("I"), .exactly(width, "image_dim")])
        }
        let blocks = features.compactMap { Int($0) }
        let output = try self(
            hiddenStates: hidden, timestep: inputs.timestep(batch: batch), encoderHiddenStates: text, encoderHiddenStatesImage: image,
            features: Set(blocks), lastBlock: stop ? blocks.max() : nil)
        return ForwardResult(
            sample: output.sample, features: Dictionary(uniqueKeysWithValues: output.features.map { ("\($0.key)", $0.value) }))
    }

    func described() -> BackboneDescription {
        let c = configuration
        var conditions = [BackboneDescription.Condition(input: "encoder_hidden_states", width: c.textDim, note: "text tokens")]
        if let width = c.imageDim {
            let keys =
                c.addedKvProjDim == nil ? "image tokens, joined in front of the text" : "image tokens, with keys and values of their own"
            let note = keys + (c.posEmbedSeqLen == nil ? "" : "; first and last frame")
            conditions.append(.init(input: "encoder_hidden_states_image", width: width, note: note))
        }
        return BackboneDescription(
            task: c.imageDim == nil ? "text to video" : "image to video", layout: "CFHW", inChannels: c.inChannels,
            outChannels: c.outChannels, patch: c.patchSize,
            blocks:
                "\(c.numLayers) of width \(c.innerDim): \(c.numAttentionHeads) heads of \(c.attentionHeadDim), feed-forward \(c.ffnDim)",
            limit: "\(c.ropeMaxSeqLen) patches along an axis", conditions: conditions, predictsFlow: true)
    }
}
