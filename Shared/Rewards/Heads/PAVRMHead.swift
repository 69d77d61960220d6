import Tensors

/// PAVRM's head: one learned query attends over the visual tokens, the query is added to what it saw, ReLU MLP to a scalar.
///
/// The module is stock multi-head attention with biases everywhere, no norm and no dropout; the residual is an addition, though the
/// paper calls it a concatenation (methods-video §1.2).
struct PAVRMHead {
    let pooling: QueryPooling
    let mlp: [HeadLinear]

    /// - Parameter visual: [B,N,D]. Returns [B].
    func callAsFunction(visual: Variable) -> Variable {
        let pooled = pooling(visual)
        let (batch, width) = (pooled.shape[0], pooled.shape[2])
        var x = reshape(add(pooled, pooling.query), [batch, width])
        for (index, layer) in mlp.enumerated() { x = index < mlp.count - 1 ? relu(layer(x)) : layer(x) }
        return reshape(x, [batch])
    }
}
