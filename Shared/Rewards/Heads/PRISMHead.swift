import Tensors

/// PRISM's head: F = [visual, text] projected to width W, learned queries attend over it, MLP to a scalar.
///
/// Text tokens come from the trunk's own text embedder and carry no noise. The paper names a five-layer MLP and neither its widths nor
/// its activation: here they narrow by halves, with GELU.
struct PRISMHead {
    let pooling: QueryPooling
    let mlp: [HeadLinear]

    /// - Parameters: visual [B,N,D], text [B,L,D]. Returns [B].
    func callAsFunction(visual: Variable, text: Variable) -> Variable {
        let pooled = pooling(concatenate([visual, text], axis: 1))
        let shape = pooled.shape
        var x = reshape(pooled, [shape[0], shape[1] * shape[2]])
        for (index, layer) in mlp.enumerated() { x = index < mlp.count - 1 ? gelu(layer(x)) : layer(x) }
        return reshape(x, [shape[0]])
    }
}
