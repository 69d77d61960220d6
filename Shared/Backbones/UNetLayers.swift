import Foundation
import Tensors

// Reads like diffusers' embeddings.py, resnet.py, attention.py and transformer_2d.py. Maps are channels-last inside: [B,H,W,C], so that
// tokens [B,H·W,C] are the same memory.
// Shapes: B pictures, H W latent rows and columns, C channels, N = H·W tokens, L text tokens, T the time embedding's width.

/// diffusers' `Timesteps`: [count,width], cosines and sines of `value · exp(-ln 10000 · i / (width/2 - shift))`. Float32 throughout, as there:
/// the angles reach 1000, and their rounding is part of the number.
func timestepSinusoids(_ values: [Float], width: Int, configuration: UNetConfiguration) -> Tensor {
    let half = width / 2
    let frequencies = (0..<half).map { expf(-logf(10000) * Float($0) / Float(half - configuration.freqShift)) }
    var result: [Float] = []
    result.reserveCapacity(values.count * width)
    for value in values {
        let angles = frequencies.map { value * $0 }
        let (cosines, sines) = (angles.map(cosf), angles.map(sinf))
        result += configuration.flipSinToCos ? cosines + sines : sines + cosines
        if width % 2 == 1 { result.append(0) }
    }
    return Tensor(result, shape: [values.count, width])
}

/// What every layer of one pass takes beside its input.
struct UNetContext {
    /// The activated time embedding [B,T].
    let time: Variable
    /// The text encoder's tokens [B,L,cross_attention_dim].
    let text: Variable
    /// How many of each picture's text tokens are attended to, where not all are.
    let textLengths: [Int]?
    /// Whether layers are run again in the backward pass instead of keeping what is inside them.
    let checkpoints: Bool

    /// `body(x, other)`, with a checkpoint where they are wanted.
    func run(_ x: Variable, _ other: Variable, _ body: @escaping (Variable, Variable) -> Variable) -> Variable {
        checkpoints ? checkpointed([x, other]) { body($0[0], $0[1]) } : body(x, other)
    }
}

/// `nn.GroupNorm` or `nn.LayerNorm`: weight and bias of one width.
struct UNetNorm {
    let weight, bias: Parameter

    init(_ tree: ParameterTree, _ name: String, _ width: Int) throws {
        weight = try tree.parameter("\(name).weight", [width], .ones)
        bias = try tree.parameter("\(name).bias", [width], .zeros)
    }

    func group(_ x: Variable, groups: Int, eps: Float, activation: Activation? = nil) -> Variable {
        groupNorm(x, weight.variable, bias.variable, groups: groups, eps: eps, activation: activation)
    }

    /// Over the last axis, with torch's default epsilon: the configuration's is for groups.
    func layer(_ x: Variable) -> Variable { layerNorm(x, weight.variable, bias.variable, eps: 1e-5) }
}

/// `TimestepEmbedding`: two linears with an activation between them.
struct UNetEmbedding {
    let linear1, linear2: Linear

    init(_ tree: ParameterTree, _ name: String, _ input: Int, _ width: Int) throws {
        linear1 = try tree.linear("\(name).linear_1", input, width)
        linear2 = try tree.linear("\(name).linear_2", width, width)
    }

    func callAsFunction(_ x: Variable) -> Variable { linear2(linear1(x, .silu)) }
}

/// `ResnetBlock2D`.
struct UNetResnetBlock {
    let groups: Int
    let eps: Float
    let norm1, norm2: UNetNorm
    let conv1, conv2: Convolution
    let timeProjection: Linear
    let shortcut: Convolution?

    init(_ tree: ParameterTree, _ name: String, _ input: Int, _ output: Int, _ configuration: UNetConfiguration) throws {
        groups = configuration.normNumGroups
        eps = configuration.normEps
        norm1 = try UNetNorm(tree, "\(name).norm1", input)
        conv1 = try tree.convolution("\(name).conv1", input, output, kernel: 3, padding: 1)
        timeProjection = try tree.linear("\(name).time_emb_proj", configuration.timeWidth, output)
        norm2 = try UNetNorm(tree, "\(name).norm2", output)
        conv2 = try tree.convolution("\(name).conv2", output, output, kernel: 3, padding: 1)
        shortcut = input == output ? nil : try tree.convolution("\(name).conv_shortcut", input, output, kernel: 1)
    }

    /// - Parameters: x [B,H,W,Cin], time [B,T]. Returns [B,H,W,Cout].
    func callAsFunction(_ x: Variable, time: Variable) -> Variable {
        var hidden = conv1(norm1.group(x, groups: groups, eps: eps, activation: .silu))
        let shift = timeProjection(time)
        hidden = add(hidden, reshape(shift, [shift.shape[0], 1, 1, shift.shape[1]]))
        hidden = conv2(norm2.group(hidden, groups: groups, eps: eps, activation: .silu))
        return add(shortcut?(x) ?? x, hidden)
    }
}

/// `Attention` without biases in front; over the tokens themselves, or over text.
struct UNetAttention {
    let heads: Int
    let toQ, toK, toV, toOut: Linear

    init(_ tree: ParameterTree, _ name: String, _ dim: Int, context: Int, heads: Int) throws {
        self.heads = heads
        toQ = try tree.linear("\(name).to_q", dim, dim, bias: false)
        toK = try tree.linear("\(name).to_k", context, dim, bias: false)
        toV = try tree.linear("\(name).to_v", context, dim, bias: false)
        toOut = try tree.linear("\(name).to_out.0", dim, dim)
    }

    /// - Parameters: x [B,N,C], context [B,M,…]. Returns [B,N,C].
    func callAsFunction(_ x: Variable, _ context: Variable, lengths: [Int]? = nil) -> Variable {
        toOut(attention(toQ(x), toK(context), toV(context), heads: heads, keyLengths: lengths))
    }
}

/// `BasicTransformerBlock`.
struct UNetTransformerBlock {
    let norm1, norm2, norm3: UNetNorm
    let attn1, attn2: UNetAttention
    let up, down: Linear

    init(_ tree: ParameterTree, _ name: String, _ dim: Int, heads: Int, _ configuration: UNetConfiguration) throws {
        norm1 = try UNetNorm(tree, "\(name).norm1", dim)
        attn1 = try UNetAttention(tree, "\(name).attn1", dim, context: dim, heads: heads)
        norm2 = try UNetNorm(tree, "\(name).norm2", dim)
        attn2 = try UNetAttention(tree, "\(name).attn2", dim, context: configuration.crossAttentionDim, heads: heads)
        norm3 = try UNetNorm(tree, "\(name).norm3", dim)
        up = try tree.linear("\(name).ff.net.0.proj", dim, 8 * dim)
        down = try tree.linear("\(name).ff.net.2", 4 * dim, dim)
    }

    /// - Parameters: x [B,N,C], text [B,L,…]. Returns [B,N,C].
    func callAsFunction(_ x: Variable, text: Variable, lengths: [Int]?) -> Variable {
        var x = x
        let normed = norm1.layer(x)
        x = add(x, attn1(normed, normed))
        x = add(x, attn2(norm2.layer(x), text, lengths: lengths))
        return add(x, down(geglu(up(norm3.layer(x)))))
    }
}

/// `Transformer2DModel` over a map: its positions are the tokens.
struct UNetTransformer {
    let groups: Int
    let norm: UNetNorm
    let projIn, projOut: (Variable) -> Variable
    let blocks: [UNetTransformerBlock]

    init(
        _ tree: ParameterTree, _ name: String, _ channels: Int, heads: Int, layers: Int, _ configuration: UNetConfiguration
    ) throws {
        /// The same map either way; diffusers keeps it as a linear or as a convolution with a kernel of one.
        func projection(_ part: String) throws -> (Variable) -> Variable {
            let name = "\(name).\(part)"
            if configuration.useLinearProjection { return try tree.linear(name, channels, channels).callAsFunction }
            return try tree.convolution(name, channels, channels, kernel: 1).callAsFunction
        }
        groups = configuration.normNumGroups
        norm = try UNetNorm(tree, "\(name).norm", channels)
        projIn = try projection("proj_in")
        blocks = try (0..<layers).map {
            try UNetTransformerBlock(tree, "\(name).transformer_blocks.\($0)", channels, heads: heads, configuration)
        }
        projOut = try projection("proj_out")
    }

    /// [B,H,W,C] -> [B,H,W,C].
    func callAsFunction(_ x: Variable, _ context: UNetContext) -> Variable {
        let shape = x.shape
        let lengths = context.textLengths
        // The norm's epsilon is not the configuration's.
        var tokens = projIn(norm.group(x, groups: groups, eps: 1e-6))
        tokens = reshape(tokens, [shape[0], shape[1] * shape[2], shape[3]])
        for block in blocks { tokens = context.run(tokens, context.text) { block($0, text: $1, lengths: lengths) } }
        return add(x, projOut(reshape(tokens, shape)))
    }
}
