import Tensors

/// Multi-head attention of a few learned queries over many tokens, with its projections folded onto the queries' side.
///
/// A head's score of a token x is (Wk x + bk)·q = x·(Wkᵀ q) + a constant that the softmax drops, and Σ a (Wv x + bv) = Wv (Σ a x) + bv,
/// because the weights sum to one. So keys and values are never formed: one pass over the tokens as they are, O(N·D) a head and query
/// instead of O(N·D·W), and the numbers are those of the stock module up to rounding. A projection of the tokens in front of the module
/// (PRISM's) folds in the same way.
struct QueryPooling {
    /// [Nq,W].
    let query: Variable
    let toQ, toK, toV, toOut: HeadLinear
    /// D → W in front of keys and values; nil where D is W.
    let projection: HeadLinear?
    let heads: Int

    /// - Parameter tokens: [B,N,D].
    /// - Returns: [B,Nq,W].
    func callAsFunction(_ tokens: Variable) -> Variable {
        let (batch, width) = (tokens.shape[0], tokens.shape[2])
        let (queries, inner) = (query.shape[0], query.shape[1])
        let part = inner / heads
        func range(_ head: Int) -> Range<Int> { head * part..<(head + 1) * part }

        let projected = toQ(query)
        // q_h Wk_h: [Nq,part] x [part,W].
        let folded = (0..<heads).map { head in
            matmul(slice(projected, axis: 1, range: range(head)), slice(toK.weight, axis: 0, range: range(head)))
        }
        var keys = concatenate(folded, axis: 0)
        if let projection { keys = matmul(keys, projection.weight) }
        let asked = broadcast(reshape(keys, [1, heads * queries, width]), to: [batch, heads * queries, width])
        // One wide head for all: the module's own heads are rows of the folded queries, and the scale is theirs.
        var pooled = attention(asked, tokens, tokens, heads: 1, scale: 1 / Float(part).squareRoot())
        if let projection { pooled = projection(pooled) }
        let values = (0..<heads).map { head in
            linear(
                slice(pooled, axis: 1, range: head * queries..<(head + 1) * queries), slice(toV.weight, axis: 0, range: range(head)),
                slice(toV.bias, axis: 0, range: range(head)))
        }
        return toOut(heads == 1 ? values[0] : concatenate(values, axis: 2))
    }
}

/// y = W x + b over leaves of a head's graph.
struct HeadLinear {
    let weight, bias: Variable

    func callAsFunction(_ x: Variable) -> Variable { linear(x, weight, bias) }
}
