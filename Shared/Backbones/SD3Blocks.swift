import Tensors

// Reads like diffusers' JointTransformerBlock (attention.py, normalization.py, attention_processor.py).
// Shapes: B images, N image tokens, L text tokens, D width, H heads of width d.

/// Every norm of the model has this epsilon, which diffusers' configuration does not hold.
private let eps: Float = 1e-6

/// The conditioning's `rows` shares for one norm: [B,D] (already behind SiLU) -> `rows` variables [B,D].
struct SD3Modulation {
    private let linear: Linear
    private let rows: Int

    init(_ tree: ParameterTree, _ name: String, dim: Int, rows: Int) throws {
        linear = try tree.linear("\(name).linear", dim, rows * dim)
        self.rows = rows
    }

    func callAsFunction(_ conditioning: Variable) -> [Variable] {
        let all = linear(conditioning)
        let dim = conditioning.shape[1]
        return (0..<rows).map { slice(all, axis: 1, range: $0 * dim..<($0 + 1) * dim) }
    }
}

/// Query, key and value of one of the two streams, query and key normalised in every head where the model does so.
private struct SD3Projections {
    let heads: Int
    let q, k, v: Linear
    let normQ, normK: Parameter?

    /// [B,N,D] -> [B,N,D] each.
    func callAsFunction(_ x: Variable) -> (q: Variable, k: Variable, v: Variable) { (normed(q(x), normQ), normed(k(x), normK), v(x)) }

    private func normed(_ x: Variable, _ weight: Parameter?) -> Variable {
        guard let weight else { return x }
        let shape = x.shape
        let split = reshape(x, [shape[0], shape[1], heads, shape[2] / heads])
        return reshape(rmsNorm(split, weight.variable, eps: eps), shape)
    }
}

/// Attention of the image tokens, over themselves or jointly with the text's: one softmax over both, each with projections of its own.
private struct SD3Attention {
    enum Kind {
        case image, joint
        /// Jointly, but what the text tokens get is not used: the last block's.
        case jointWithoutContextOutput
    }

    let heads: Int
    let image: SD3Projections
    let context: SD3Projections?
    let toOut: Linear
    let toAddOut: Linear?

    init(_ tree: ParameterTree, _ name: String, _ configuration: SD3Configuration, _ kind: Kind) throws {
        let dim = configuration.innerDim
        heads = configuration.numAttentionHeads
        func norm(_ part: String) throws -> Parameter? {
            guard configuration.normalizesQueryAndKey else { return nil }
            return try tree.parameter("\(name).\(part).weight", [configuration.attentionHeadDim], .ones)
        }
        func projection(_ part: String) throws -> Linear { try tree.linear("\(name).\(part)", dim, dim) }
        // In the order in which torch registers them.
        let (normQ, normK) = (try norm("norm_q"), try norm("norm_k"))
        image = SD3Projections(
            heads: heads, q: try projection("to_q"), k: try projection("to_k"), v: try projection("to_v"), normQ: normQ, normK: normK)
        let added =
            kind == .image ? nil : (k: try projection("add_k_proj"), v: try projection("add_v_proj"), q: try projection("add_q_proj"))
        toOut = try projection("to_out.0")
        toAddOut = kind == .joint ? try projection("to_add_out") : nil
        context = try added.map { [heads] in
            SD3Projections(heads: heads, q: $0.q, k: $0.k, v: $0.v, normQ: try norm("norm_added_q"), normK: try norm("norm_added_k"))
        }
    }

    /// [B,N,D] -> [B,N,D]: the image tokens alone.
    func callAsFunction(_ x: Variable) -> Variable {
        let (q, k, v) = image(x)
        return toOut(attention(q, k, v, heads: heads))
    }

    /// [B,N,D] and [B,L,D] -> the same; image tokens come first. The text's result is left out where it is not wanted.
    func callAsFunction(_ x: Variable, context text: Variable, wantsContext: Bool) -> (image: Variable, context: Variable?) {
        let (q, k, v) = image(x)
        let (textQ, textK, textV) = context!(text)
        let joined = attention(
            concatenate([q, textQ], axis: 1), concatenate([k, textK], axis: 1), concatenate([v, textV], axis: 1), heads: heads)
        let split = x.shape[1]
        let imageResult = toOut(slice(joined, axis: 1, range: 0..<split))
        guard wantsContext, let toAddOut else { return (imageResult, nil) }
        return (imageResult, toAddOut(slice(joined, axis: 1, range: split..<joined.shape[1])))
    }
}

private struct SD3FeedForward {
    let up, down: Linear

    init(_ tree: ParameterTree, _ name: String, dim: Int) throws {
        up = try tree.linear("\(name).net.0.proj", dim, 4 * dim)
        down = try tree.linear("\(name).net.2", 4 * dim, dim)
    }

    func callAsFunction(_ x: Variable) -> Variable {
        feedForward(x, hidden: up.weight.variable.shape[0], others: []) { x, _ in down(up(x, .gelu)) }
    }
}

/// One block of both streams. The last block of a model leaves the context as it is, for nothing comes after.
struct SD3JointBlock {
    /// Whether the context is read, but not written.
    let contextPreOnly: Bool
    private let norm1, norm1Context: SD3Modulation
    private let attn: SD3Attention
    private let attn2: SD3Attention?
    private let ff: SD3FeedForward
    private let ffContext: SD3FeedForward?

    init(_ tree: ParameterTree, _ name: String, _ configuration: SD3Configuration, layer: Int) throws {
        let dim = configuration.innerDim
        let dual = configuration.dualAttentionLayers.contains(layer)
        contextPreOnly = layer == configuration.numLayers - 1
        norm1 = try SD3Modulation(tree, "\(name).norm1", dim: dim, rows: dual ? 9 : 6)
        norm1Context = try SD3Modulation(tree, "\(name).norm1_context", dim: dim, rows: contextPreOnly ? 2 : 6)
        attn = try SD3Attention(tree, "\(name).attn", configuration, contextPreOnly ? .jointWithoutContextOutput : .joint)
        attn2 = dual ? try SD3Attention(tree, "\(name).attn2", configuration, .image) : nil
        ff = try SD3FeedForward(tree, "\(name).ff", dim: dim)
        ffContext = contextPreOnly ? nil : try SD3FeedForward(tree, "\(name).ff_context", dim: dim)
    }

    /// - Parameters: x [B,N,D], context [B,L,D], conditioning [B,D] behind SiLU.
    /// - Returns: both streams; the context nil after the model's last block, or where it is not wanted.
    func callAsFunction(
        _ x: Variable, context: Variable, conditioning: Variable, wantsContext: Bool = true
    ) -> (image: Variable, context: Variable?) {
        // Shift, scale and gate of the attention, of the feed-forward, and of the second attention where there is one.
        let m = norm1(conditioning)
        let c = norm1Context(conditioning)
        // The continuous norm has its scale first.
        let (contextShift, contextScale) = contextPreOnly ? (c[1], c[0]) : (c[0], c[1])

        // 1. Attention.
        let attended = attn(
            layerNormModulate(x, shift: m[0], scale: m[1], eps: eps),
            context: layerNormModulate(context, shift: contextShift, scale: contextScale, eps: eps), wantsContext: wantsContext)
        var image = gatedResidual(x, attended.image, gate: m[2])
        if let attn2 { image = gatedResidual(image, attn2(layerNormModulate(x, shift: m[6], scale: m[7], eps: eps)), gate: m[8]) }

        // 2. Feed-forward.
        image = gatedResidual(image, ff(layerNormModulate(image, shift: m[3], scale: m[4], eps: eps)), gate: m[5])
        guard let contextAttended = attended.context, let ffContext else { return (image, nil) }
        let text = gatedResidual(context, contextAttended, gate: c[2])
        return (image, gatedResidual(text, ffContext(layerNormModulate(text, shift: c[3], scale: c[4], eps: eps)), gate: c[5]))
    }
}

/// `norm_out` and `proj_out`: [B,N,D] -> [B,N,p·p·out_channels].
struct SD3Head {
    private let norm: SD3Modulation
    private let projection: Linear

    init(_ tree: ParameterTree, _ configuration: SD3Configuration) throws {
        norm = try SD3Modulation(tree, "norm_out", dim: configuration.innerDim, rows: 2)
        projection = try tree.linear(
            "proj_out", configuration.innerDim, configuration.patchSize * configuration.patchSize * configuration.outChannels)
    }

    func callAsFunction(_ x: Variable, conditioning: Variable) -> Variable {
        let m = norm(conditioning)
        return projection(layerNormModulate(x, shift: m[1], scale: m[0], eps: eps))
    }
}
