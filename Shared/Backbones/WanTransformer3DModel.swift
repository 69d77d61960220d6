import Foundation
public import Tensors

// Reads like diffusers' transformer_wan.py: attention, image embedding, condition embedding, block, model.
// Shapes: B clips, C channels, F H W latent frames, rows, columns; N tokens, D width, L text tokens, I image tokens.

/// Self- or cross-attention, query and key normalised across heads; image tokens have keys and values of their own.
private struct WanAttention {
    let heads: Int
    let eps: Float
    let toQ, toK, toV, toOut: Linear
    let normQ, normK: Parameter
    let added: (k: Linear, v: Linear, normK: Parameter)?

    init(_ tree: ParameterTree, _ name: String, _ configuration: WanConfiguration, addedDim: Int?) throws {
        let dim = configuration.innerDim
        heads = configuration.numAttentionHeads
        eps = configuration.eps
        normQ = try tree.parameter("\(name).norm_q.weight", [dim], .ones)
        normK = try tree.parameter("\(name).norm_k.weight", [dim], .ones)
        toQ = try tree.linear("\(name).to_q", dim, dim)
        toK = try tree.linear("\(name).to_k", dim, dim)
        toV = try tree.linear("\(name).to_v", dim, dim)
        toOut = try tree.linear("\(name).to_out.0", dim, dim)
        added = try addedDim.map {
            (
                try tree.linear("\(name).add_k_proj", $0, dim), try tree.linear("\(name).add_v_proj", $0, dim),
                try tree.parameter("\(name).norm_added_k.weight", [dim], .ones)
            )
        }
    }

    /// Over the tokens themselves. - Parameter x: [B,N,D].
    func callAsFunction(_ x: Variable, rotary table: RotaryTable) -> Variable {
        let query = rotary(rmsNorm(toQ(x), normQ.variable, eps: eps), cos: table.cos, sin: table.sin, heads: heads)
        let key = rotary(rmsNorm(toK(x), normK.variable, eps: eps), cos: table.cos, sin: table.sin, heads: heads)
        return toOut(attention(query, key, toV(x), heads: heads))
    }

    /// Over the context. - Parameters: x [B,N,D], text [B,L,D], image [B,I,D] where there are added keys.
    func callAsFunction(_ x: Variable, text: Variable, image: Variable?) -> Variable {
        let query = rmsNorm(toQ(x), normQ.variable, eps: eps)
        let key = rmsNorm(toK(text), normK.variable, eps: eps)
        var result = attention(query, key, toV(text), heads: heads)
        if let added, let image {
            let imageKey = rmsNorm(added.k(image), added.normK.variable, eps: eps)
            result = add(result, attention(query, imageKey, added.v(image), heads: heads))
        }
        return toOut(result)
    }
}

private struct WanImageEmbedding {
    let positions: Parameter?
    let norm1, norm2: (weight: Parameter, bias: Parameter)
    let up, down: Linear

    init(_ tree: ParameterTree, _ name: String, imageDim: Int, dim: Int, positions count: Int?) throws {
        func norm(_ part: String, _ width: Int) throws -> (weight: Parameter, bias: Parameter) {
            (
                try tree.parameter("\(name).\(part).weight", [width], .ones),
                try tree.parameter("\(name).\(part).bias", [width], .zeros)
            )
        }
        positions = try count.map { try tree.parameter("\(name).pos_embed", [1, $0, imageDim], .zeros) }
        norm1 = try norm("norm1", imageDim)
        up = try tree.linear("\(name).ff.net.0.proj", imageDim, imageDim)
        down = try tree.linear("\(name).ff.net.2", imageDim, dim)
        norm2 = try norm("norm2", dim)
    }

    /// - Parameter image: [B,I,image_dim], or [2B,I/2,image_dim] in a model with positions (first and last frame). Returns [B,I,D].
    func callAsFunction(_ image: Variable) -> Variable {
        var x = image
        if let positions {
            let shape = x.tensor.shape
            x = add(reshape(x, [shape[0] / 2, 2 * shape[1], shape[2]]), positions.variable)
        }
        // These two norms have torch's default epsilon, not the configuration's.
        x = layerNorm(x, norm1.weight.variable, norm1.bias.variable, eps: 1e-5)
        return layerNorm(down(up(x, .geluExact)), norm2.weight.variable, norm2.bias.variable, eps: 1e-5)
    }
}

private struct WanTimeTextImageEmbedding {
    let freqDim: Int
    let time1, time2, timeProjection, text1, text2: Linear
    let image: WanImageEmbedding?

    init(_ tree: ParameterTree, _ name: String, _ configuration: WanConfiguration) throws {
        let dim = configuration.innerDim
        freqDim = configuration.freqDim
        time1 = try tree.linear("\(name).time_embedder.linear_1", freqDim, dim)
        time2 = try tree.linear("\(name).time_embedder.linear_2", dim, dim)
        timeProjection = try tree.linear("\(name).time_proj", dim, 6 * dim)
        text1 = try tree.linear("\(name).text_embedder.linear_1", configuration.textDim, dim)
        text2 = try tree.linear("\(name).text_embedder.linear_2", dim, dim)
        image = try configuration.imageDim.map {
            try WanImageEmbedding(tree, "\(name).image_embedder", imageDim: $0, dim: dim, positions: configuration.posEmbedSeqLen)
        }
    }

    /// The time embedding [B,D] and its projection for the blocks' modulation [B,6,D].
    func time(_ timestep: [Float]) -> (embedding: Variable, modulation: Variable) {
        let embedding = time2(time1(Variable(sinusoidalEmbedding(timestep, width: freqDim)), .silu))
        let shape = embedding.tensor.shape
        return (embedding, reshape(timeProjection(silu(embedding)), [shape[0], 6, shape[1]]))
    }

    /// [B,L,text_dim] -> [B,L,D].
    func text(_ x: Variable) -> Variable { text2(text1(x, .gelu)) }
}

private struct WanTransformerBlock {
    let eps: Float
    let attn1, attn2: WanAttention
    let norm2: (weight: Parameter, bias: Parameter)?
    let up, down: Linear
    let scaleShiftTable: Parameter

    init(_ tree: ParameterTree, _ name: String, _ configuration: WanConfiguration) throws {
        let dim = configuration.innerDim
        eps = configuration.eps
        scaleShiftTable = try tree.parameter("\(name).scale_shift_table", [1, 6, dim], .normal(dim: dim))
        attn1 = try WanAttention(tree, "\(name).attn1", configuration, addedDim: nil)
        attn2 = try WanAttention(tree, "\(name).attn2", configuration, addedDim: configuration.addedKvProjDim)
        norm2 =
            configuration.crossAttnNorm
            ? (try tree.parameter("\(name).norm2.weight", [dim], .ones), try tree.parameter("\(name).norm2.bias", [dim], .zeros)) : nil
        up = try tree.linear("\(name).ffn.net.0.proj", dim, configuration.ffnDim)
        down = try tree.linear("\(name).ffn.net.2", configuration.ffnDim, dim)
    }

    /// - Parameters: x [B,N,D], modulation [B,6,D]. Returns [B,N,D].
    func callAsFunction(_ x: Variable, text: Variable, image: Variable?, modulation: Variable, rotary: RotaryTable) -> Variable {
        let m = modulationRows(modulation, table: scaleShiftTable.variable)
        var x = x
        // 1. Self-attention.
        x = gatedResidual(x, attn1(layerNormModulate(x, shift: m[0], scale: m[1], eps: eps), rotary: rotary), gate: m[2])
        // 2. Cross-attention.
        let normed = norm2.map { layerNorm(x, $0.weight.variable, $0.bias.variable, eps: eps) } ?? x
        x = add(x, attn2(normed, text: text, image: image))
        // 3. Feed-forward.
        return feedForward(consume x, hidden: up.weight.variable.shape[0], others: [m[3], m[4], m[5]]) { x, m in
            gatedResidual(x, down(up(layerNormModulate(x, shift: m[0], scale: m[1], eps: eps), .gelu)), gate: m[2])
        }
    }
}

/// `table + modulation`, row by row: [1,R,D] and [B,R,D] (or [B,1,D]) to R variables [B,D].
private func modulationRows(_ modulation: Variable, table: Variable) -> [Variable] {
    let sum = add(modulation, table)
    let shape = sum.tensor.shape
    return (0..<shape[1]).map { reshape(slice(sum, axis: 1, range: $0..<$0 + 1), [shape[0], shape[2]]) }
}

/// What a forward pass of the transformer returns.
public struct WanOutput {
    /// The velocity [B,out_channels,F,H,W]; nil when the pass stopped at `lastBlock`.
    public let sample: Variable?
    /// The residual stream [B,N,D] after the blocks asked for, counted from 1.
    public let features: [Int: Variable]
    /// The text tokens after the text embedder [B,L,D].
    public let text: Variable
}

/// Wan's video transformer, with weights by their diffusers names.
///
/// Not Sendable, as a graph belongs to one thread; `weights` crosses threads and makes replicas.
public final class WanTransformer3DModel: CheckpointedModel {
    public static let className = "WanTransformer3DModel"
    public let configuration: WanConfiguration
    /// Runs each block again in the backward pass instead of keeping its activations.
    public var checkpointsBlocks = false
    public let tree: ParameterTree
    let rotaryTables: RotaryTableCache
    private let patchEmbedding: (weight: Parameter, bias: Parameter)
    private let conditionEmbedder: WanTimeTextImageEmbedding
    private let blocks: [WanTransformerBlock]
    private let projOut: Linear
    private let scaleShiftTable: Parameter

    convenience init(
        configuration: WanConfiguration, trainable: @escaping (String) -> Bool, source: @escaping ParameterTree.Source
    ) throws {
        try self.init(configuration: configuration, rotaryTables: RotaryTableCache(), trainable: trainable, source: source)
    }

    init(
        configuration: WanConfiguration, rotaryTables: RotaryTableCache, trainable: @escaping (String) -> Bool,
        source: @escaping ParameterTree.Source
    ) throws {
        self.configuration = configuration
        self.rotaryTables = rotaryTables
        let tree = ParameterTree(trainable: trainable, source: source)
        self.tree = tree
        let dim = configuration.innerDim
        let patch = configuration.patchSize.reduce(1, *)
        scaleShiftTable = try tree.parameter("scale_shift_table", [1, 2, dim], .normal(dim: dim))
        let fanIn = configuration.inChannels * patch
        patchEmbedding = (
            try tree.parameter(
                "patch_embedding.weight", [dim, configuration.inChannels] + configuration.patchSize, .uniform(fanIn: fanIn)),
            try tree.parameter("patch_embedding.bias", [dim], .uniform(fanIn: fanIn))
        )
        conditionEmbedder = try WanTimeTextImageEmbedding(tree, "condition_embedder", configuration)
        blocks = try (0..<configuration.numLayers).map { try WanTransformerBlock(tree, "blocks.\($0)", configuration) }
        projOut = try tree.linear("proj_out", dim, configuration.outChannels * patch)
    }

    /// The velocity that the model predicts.
    ///
    /// - Parameters:
    ///   - hiddenStates: [B,in_channels,F,H,W], each of F, H, W a multiple of the patch.
    ///   - timestep: one a clip, 0–1000, may be fractional.
    ///   - encoderHiddenStates: the text encoder's tokens [B,L,text_dim].
    ///   - encoderHiddenStatesImage: the image encoder's tokens [B,I,image_dim] (two images a clip where the model has positions).
    ///   - features: the blocks, counted from 1, whose residual stream is wanted.
    ///   - lastBlock: stop after this block; the rest and the head are not computed.
    /// - Throws: `BackboneError` naming the argument that does not fit.
    public func callAsFunction(
        hiddenStates: Variable, timestep: [Float], encoderHiddenStates: Variable, encoderHiddenStatesImage: Variable? = nil,
        features wanted: Set<Int> = [], lastBlock: Int? = nil
    ) throws -> WanOutput {
        try check(hiddenStates, timestep, encoderHiddenStates, encoderHiddenStatesImage, wanted, lastBlock)
        let shape = hiddenStates.tensor.shape
        let grid = zip(shape[2...], configuration.patchSize).map { $0 / $1 }
        let table = rotaryTables.table(grid: grid, configuration: configuration)

        var x = patchEmbedded(hiddenStates, grid: grid)
        let (temb, modulation) = conditionEmbedder.time(timestep)
        let text = conditionEmbedder.text(encoderHiddenStates)
        let (words, image) = context(text: text, image: encoderHiddenStatesImage)

        var features: [Int: Variable] = [:]
        for (index, block) in blocks.prefix(lastBlock ?? blocks.count).enumerated() {
            if checkpointsBlocks {
                x = checkpointed([x, words, modulation] + (image.map { [$0] } ?? [])) { inputs in
                    block(inputs[0], text: inputs[1], image: inputs.count > 3 ? inputs[3] : nil, modulation: inputs[2], rotary: table)
                }
            } else {
                x = block(x, text: words, image: image, modulation: modulation, rotary: table)
            }
            if wanted.contains(index + 1) { features[index + 1] = x }
        }
        guard lastBlock == nil else { return WanOutput(sample: nil, features: features, text: text) }

        let rows = modulationRows(reshape(temb, [shape[0], 1, configuration.innerDim]), table: scaleShiftTable.variable)
        x = projOut(layerNormModulate(x, shift: rows[0], scale: rows[1], eps: configuration.eps))
        return WanOutput(sample: unpatchified(x, grid: grid), features: features, text: text)
    }

    /// A convolution whose stride is its kernel is a linear map of patches: [B,C,F,H,W] -> [B,N,D].
    private func patchEmbedded(_ x: Variable, grid: [Int]) -> Variable {
        let (batch, channels) = (x.tensor.shape[0], configuration.inChannels)
        let p = configuration.patchSize
        let split = reshape(x, [batch, channels, grid[0], p[0], grid[1], p[1], grid[2], p[2]])
        let width = channels * p.reduce(1, *)
        let patches = reshape(permute(split, [0, 2, 4, 6, 1, 3, 5, 7]), [batch, grid.reduce(1, *), width])
        return linear(patches, reshape(patchEmbedding.weight.variable, [configuration.innerDim, width]), patchEmbedding.bias.variable)
    }

    /// [B,N,pt·ph·pw·C] -> [B,C,F,H,W]; channels vary fastest inside a patch, other than on the way in.
    private func unpatchified(_ x: Variable, grid: [Int]) -> Variable {
        let (batch, channels) = (x.tensor.shape[0], configuration.outChannels)
        let p = configuration.patchSize
        let split = reshape(x, [batch] + grid + p + [channels])
        let size = zip(grid, p).map { $0 * $1 }
        return reshape(permute(split, [0, 7, 1, 4, 2, 5, 3, 6]), [batch, channels] + size)
    }

    /// What the blocks attend to: text, and image tokens apart where they have keys of their own, else in front of the text.
    /// diffusers joins the two and takes the last 512 for text.
    private func context(text: Variable, image: Variable?) -> (text: Variable, image: Variable?) {
        guard let image, let embedder = conditionEmbedder.image else { return (text, nil) }
        let tokens = embedder(image)
        if configuration.addedKvProjDim != nil && text.tensor.shape[1] == Self.textContext { return (text, tokens) }
        let joined = concatenate([tokens, text], axis: 1)
        guard configuration.addedKvProjDim != nil else { return (joined, nil) }
        let count = joined.tensor.shape[1]
        let split = count - Self.textContext
        return (slice(joined, axis: 1, range: split..<count), slice(joined, axis: 1, range: 0..<split))
    }

    /// Text tokens of the context in a model with added image keys, as diffusers has it.
    public static let textContext = 512

    private func check(
        _ hidden: Variable, _ timestep: [Float], _ text: Variable, _ image: Variable?, _ features: Set<Int>, _ lastBlock: Int?
    ) throws {
        let c = configuration
        let shape = hidden.tensor.shape
        guard shape.count == 5, !shape.contains(0) else { throw BackboneError("hidden_states has shape \(shape), expected [B,C,F,H,W]") }
        guard shape[1] == c.inChannels else {
            throw BackboneError("hidden_states has \(shape[1]) channels (shape \(shape)), but the model's in_channels is \(c.inChannels)")
        }
        for (axis, name) in ["frames", "rows", "columns"].enumerated() {
            let (extent, patch) = (shape[axis + 2], c.patchSize[axis])
            guard extent % patch == 0 else {
                throw BackboneError("hidden_states has \(extent) \(name) (shape \(shape)), not a multiple of the patch size \(patch)")
            }
            guard extent / patch <= c.ropeMaxSeqLen else {
                throw BackboneError(
                    "hidden_states has \(extent / patch) patches of \(name) (shape \(shape)), above rope_max_seq_len \(c.ropeMaxSeqLen)")
            }
        }
        let batch = shape[0]
        guard timestep.count == batch, timestep.allSatisfy(\.isFinite) else {
            throw BackboneError("timestep has \(timestep.count) values, expected \(batch) finite ones, as hidden_states has \(batch) clips")
        }
        let words = text.tensor.shape
        guard words.count == 3, words[0] == batch, words[1] > 0, words[2] == c.textDim else {
            throw BackboneError("encoder_hidden_states has shape \(words), expected [\(batch),L,\(c.textDim)]")
        }
        if let image {
            let pictures = image.tensor.shape
            guard let imageDim = c.imageDim else {
                throw BackboneError("encoder_hidden_states_image is given, but the model has no image_dim: it takes no image tokens")
            }
            let rows = c.posEmbedSeqLen == nil ? batch : 2 * batch
            guard pictures.count == 3, pictures[0] == rows, pictures[1] > 0, pictures[2] == imageDim else {
                throw BackboneError("encoder_hidden_states_image has shape \(pictures), expected [\(rows),I,\(imageDim)]")
            }
            if let count = c.posEmbedSeqLen, pictures[1] * 2 != count {
                throw BackboneError("encoder_hidden_states_image has \(pictures[1]) tokens an image, expected \(count / 2)")
            }
            let total = words[1] + pictures[1] * rows / batch
            if c.addedKvProjDim != nil && total <= Self.textContext {
                throw BackboneError(
                    "encoder_hidden_states has \(words[1]) tokens, expected \(Self.textContext): the last \(Self.textContext) of the context are text"
                )
            }
        } else if c.imageDim != nil {
            throw BackboneError("encoder_hidden_states_image is missing: the model has image_dim \(c.imageDim!)")
        }
        for block in features.sorted() + (lastBlock.map { [$0] } ?? []) where !(1...c.numLayers).contains(block) {
            throw BackboneError("features: there is no block \(block), the model has 1 to \(c.numLayers)")
        }
        if let lastBlock, let late = features.max(), late > lastBlock {
            throw BackboneError("features: block \(late) lies behind the last block that is computed, \(lastBlock)")
        }
    }
}
