import Backbones

/// Floating-point operations of Wan's matrix products: 2·rows·inputs·outputs a linear, 2·N·M·D each for the two products of attention over N
/// queries and M keys. A linear's backward pass has the same again for each of the gradients of its input and of its weight. Attention's has
/// four products and, as no N×M matrix is kept, repeats one: 2.5 times the forward pass; where keys and values need no gradient (text under
/// a frozen model) three of its five. Norms, activations and the like count for nothing.
struct WanArithmetic {
    let configuration: WanConfiguration
    let batch, tokens, text: Int
    static let rank = 16

    private var width: Double { Double(configuration.innerDim) }
    private var rows: Double { Double(batch * tokens) }
    private var words: Double { Double(batch * text) }
    private var blocks: Double { Double(configuration.numLayers) }

    private var square: Double { 2 * rows * width * width }
    private var feedForward: Double { 2 * 2 * rows * width * Double(configuration.ffnDim) }
    private var textKeys: Double { 2 * 2 * words * width * width }
    private var selfAttention: Double { 4 * rows * Double(tokens) * width }
    private var crossAttention: Double { 4 * rows * Double(text) * width }
    private var patch: Double { 2 * rows * width * Double(configuration.inChannels * configuration.patchSize.reduce(1, *)) }
    private var head: Double { 2 * rows * width * Double(configuration.outChannels * configuration.patchSize.reduce(1, *)) }
    /// The text embedder and the time embedder.
    private var condition: (first: Double, rest: Double) {
        let time = 2 * Double(batch) * width
        return (
            2 * words * Double(configuration.textDim) * width + time * Double(configuration.freqDim),
            2 * words * width * width + time * 7 * width
        )
    }

    /// One forward pass.
    var forward: Double {
        blocks * (6 * square + feedForward + textKeys + selfAttention + crossAttention) + patch + head + condition.first + condition.rest
    }

    /// Forward, and the gradient of the latent with every parameter frozen.
    var input: Double { forward + blocks * (6 * square + feedForward + 2.5 * selfAttention + 1.5 * crossAttention) + patch + head }

    /// Forward with an adapter on the attentions' eight linears, and the adapter's gradients.
    var lora: Double {
        let adapter = 4 * Double(Self.rank) * width * (6 * rows + 2 * words)
        // Nothing flows further down than the first block's queries, keys and values.
        return forward + blocks * (6 * square + feedForward + 2.5 * (selfAttention + crossAttention)) + head - 3 * square
            + 3 * blocks * adapter - 4 * Double(Self.rank) * width * (3 * rows + 2 * blocks * words) / 2
    }

    /// Forward and the gradients of all parameters.
    var training: Double {
        3 * forward + blocks * 0.5 * (selfAttention + crossAttention) - patch - condition.first
    }
}
