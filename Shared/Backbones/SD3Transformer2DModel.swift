public import Tensors

// Reads like diffusers' transformer_sd3.py. Shapes: B images, C channels, H W latent rows and columns; N tokens, D width,
// L text tokens.

/// What a forward pass of the transformer returns.
public struct SD3Output {
    /// The velocity [B,out_channels,H,W]; nil when the pass stopped at `lastBlock`.
    public let sample: Variable?
    /// The image tokens [B,N,D] after the blocks asked for, counted from 1.
    public let features: [Int: Variable]
}

/// The image transformer of Stable Diffusion 3 and 3.5 (MMDiT), with weights by their diffusers names.
///
/// Not Sendable, as a graph belongs to one thread.
public final class SD3Transformer2DModel: CheckpointedModel {
    public static let className = "SD3Transformer2DModel"
    public let configuration: SD3Configuration
    /// Runs each block again in the backward pass instead of keeping its activations.
    public var checkpointsBlocks = false
    public let tree: ParameterTree
    /// Replaced by the checkpoint's when there is one.
    var positions: SD3PositionTable
    private let patchEmbedding: (weight: Parameter, bias: Parameter)
    private let timeTextEmbedding: SD3TimeTextEmbedding
    private let contextEmbedder: Linear
    private let blocks: [SD3JointBlock]
    private let head: SD3Head

    init(configuration: SD3Configuration, trainable: @escaping (String) -> Bool, source: @escaping ParameterTree.Source) throws {
        self.configuration = configuration
        let tree = ParameterTree(trainable: trainable, source: source)
        self.tree = tree
        let (dim, channels, patch) = (configuration.innerDim, configuration.inChannels, configuration.patchSize)
        let fanIn = channels * patch * patch
        patchEmbedding = (
            try tree.parameter("pos_embed.proj.weight", [dim, channels, patch, patch], .uniform(fanIn: fanIn)),
            try tree.parameter("pos_embed.proj.bias", [dim], .uniform(fanIn: fanIn))
        )
        timeTextEmbedding = try SD3TimeTextEmbedding(tree, "time_text_embed", configuration)
        contextEmbedder = try tree.linear("context_embedder", configuration.jointAttentionDim, configuration.captionProjectionDim)
        blocks = try (0..<configuration.numLayers).map { try SD3JointBlock(tree, "transformer_blocks.\($0)", configuration, layer: $0) }
        head = try SD3Head(tree, configuration)
        // Last: by now a checkpoint has confirmed the model's width, and an absurd one was refused.
        positions = SD3PositionTable(configuration, stored: nil)
    }

    /// The velocity that the model predicts.
    ///
    /// - Parameters:
    ///   - hiddenStates: [B,in_channels,H,W], H and W multiples of the patch and at most `pos_embed_max_size` patches.
    ///   - timestep: one an image, 0–1000, may be fractional.
    ///   - encoderHiddenStates: the text encoders' tokens [B,L,joint_attention_dim].
    ///   - pooledProjections: the text encoders' pooled vectors [B,pooled_projection_dim].
    ///   - features: the blocks, counted from 1, whose image tokens are wanted.
    ///   - lastBlock: stop after this block; the rest and the head are not computed.
    /// - Throws: `BackboneError` naming the argument that does not fit.
    public func callAsFunction(
        hiddenStates: Variable, timestep: [Float], encoderHiddenStates: Variable, pooledProjections: Variable,
        features wanted: Set<Int> = [], lastBlock: Int? = nil
    ) throws -> SD3Output {
        try check(hiddenStates, timestep, encoderHiddenStates, pooledProjections, wanted, lastBlock)
        let (rows, columns) = (hiddenStates.shape[2] / configuration.patchSize, hiddenStates.shape[3] / configuration.patchSize)

        var x = add(patchEmbedded(hiddenStates, rows, columns), Variable(positions.positions(rows: rows, columns: columns)))
        // Every norm's modulation begins with SiLU.
        let conditioning = silu(timeTextEmbedding(timestep, pooled: pooledProjections))
        var context = contextEmbedder(encoderHiddenStates)

        var features: [Int: Variable] = [:]
        for (index, block) in blocks.prefix(lastBlock ?? blocks.count).enumerated() {
            let next = step(block, x, context, conditioning, wantsContext: index + 1 != lastBlock)
            x = next.image
            context = next.context ?? context
            if wanted.contains(index + 1) { features[index + 1] = x }
        }
        guard lastBlock == nil else { return SD3Output(sample: nil, features: features) }
        return SD3Output(sample: unpatchified(head(x, conditioning: conditioning), rows, columns), features: features)
    }

    /// One block, kept or to be run again; then its two results travel as one, image tokens first.
    private func step(
        _ block: SD3JointBlock, _ x: Variable, _ context: Variable, _ conditioning: Variable, wantsContext: Bool
    ) -> (image: Variable, context: Variable?) {
        guard checkpointsBlocks else { return block(x, context: context, conditioning: conditioning, wantsContext: wantsContext) }
        let tokens = x.shape[1]
        let both = checkpointed([x, context, conditioning]) { inputs in
            let (image, text) = block(inputs[0], context: inputs[1], conditioning: inputs[2], wantsContext: wantsContext)
            return text.map { concatenate([image, $0], axis: 1) } ?? image
        }
        guard both.shape[1] > tokens else { return (both, nil) }
        return (slice(both, axis: 1, range: 0..<tokens), slice(both, axis: 1, range: tokens..<both.shape[1]))
    }

    /// A convolution whose stride is its kernel is a linear map of patches: [B,C,H,W] -> [B,N,D].
    private func patchEmbedded(_ x: Variable, _ rows: Int, _ columns: Int) -> Variable {
        let (batch, channels, p) = (x.shape[0], configuration.inChannels, configuration.patchSize)
        let split = reshape(x, [batch, channels, rows, p, columns, p])
        let width = channels * p * p
        let patches = reshape(permute(split, [0, 2, 4, 1, 3, 5]), [batch, rows * columns, width])
        return linear(patches, reshape(patchEmbedding.weight.variable, [configuration.innerDim, width]), patchEmbedding.bias.variable)
    }

    /// [B,N,p·p·C] -> [B,C,H,W]; channels vary fastest inside a patch, other than on the way in.
    private func unpatchified(_ x: Variable, _ rows: Int, _ columns: Int) -> Variable {
        let (batch, channels, p) = (x.shape[0], configuration.outChannels, configuration.patchSize)
        let split = reshape(x, [batch, rows, columns, p, p, channels])
        return reshape(permute(split, [0, 5, 1, 3, 2, 4]), [batch, channels, rows * p, columns * p])
    }

    private func check(
        _ hidden: Variable, _ timestep: [Float], _ text: Variable, _ pooled: Variable, _ features: Set<Int>, _ lastBlock: Int?
    ) throws {
        let c = configuration
        let shape = hidden.shape
        guard shape.count == 4, !shape.contains(0) else { throw BackboneError("hidden_states has shape \(shape), expected [B,C,H,W]") }
        guard shape[1] == c.inChannels else {
            throw BackboneError("hidden_states has \(shape[1]) channels (shape \(shape)), but the model's in_channels is \(c.inChannels)")
        }
        for (extent, name) in [(shape[2], "rows"), (shape[3], "columns")] {
            guard extent % c.patchSize == 0 else {
                throw BackboneError("hidden_states has \(extent) \(name) (shape \(shape)), not a multiple of the patch size \(c.patchSize)")
            }
            guard extent / c.patchSize <= c.posEmbedMaxSize else {
                throw BackboneError(
                    "hidden_states has \(extent / c.patchSize) patches of \(name) (shape \(shape)), above pos_embed_max_size "
                        + "\(c.posEmbedMaxSize)")
            }
        }
        let batch = shape[0]
        guard timestep.count == batch, timestep.allSatisfy(\.isFinite) else {
            throw BackboneError(
                "timestep has \(timestep.count) values, expected \(batch) finite ones, as hidden_states has \(batch) images")
        }
        let words = text.shape
        guard words.count == 3, words[0] == batch, words[1] > 0, words[2] == c.jointAttentionDim else {
            throw BackboneError("encoder_hidden_states has shape \(words), expected [\(batch),L,\(c.jointAttentionDim)]")
        }
        guard pooled.shape == [batch, c.pooledProjectionDim] else {
            throw BackboneError("pooled_projections has shape \(pooled.shape), expected [\(batch),\(c.pooledProjectionDim)]")
        }
        for (tensor, name) in [(hidden, "hidden_states"), (text, "encoder_hidden_states"), (pooled, "pooled_projections")] {
            guard tensor.tensor.isFinite else { throw BackboneError("\(name) holds values that are not finite") }
        }
        for block in features.sorted() + (lastBlock.map { [$0] } ?? []) where !(1...c.numLayers).contains(block) {
            throw BackboneError("features: there is no block \(block), the model has 1 to \(c.numLayers)")
        }
        if let lastBlock, let late = features.max(), late > lastBlock {
            throw BackboneError("features: block \(late) lies behind the last block that is computed, \(lastBlock)")
        }
    }
}
