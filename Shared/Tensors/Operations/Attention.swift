import CKernels

/// softmax(scale q kᵀ) v in every head: q [B, N, heads*width], k and v [B, M, heads*width], result [B, N, heads*width].
///
/// Tiled with an online softmax: no N×M matrix exists; the backward pass recomputes the tiles from one log-sum-exp a row. `scale` is
/// 1/sqrt(width) unless given. `keyLengths` (one a batch entry) hides the keys behind a length, which must be at least 1.
public func attention(
    _ q: Variable, _ k: Variable, _ v: Variable, heads: Int, scale: Float? = nil, keyLengths: [Int]? = nil
) -> Variable {
    let shape = AttentionShape(q, k, v, heads: heads, scale: scale, keyLengths: keyLengths)
    let live = q.requiresGradient || k.requiresGradient || v.requiresGradient
    let (query, key, value) = (q.tensor, k.tensor, v.tensor)
    let logs = live ? Tensor(uninitialized: [shape.batch, heads, shape.queries]) : nil
    let result = Profile.measure("attention", flops: shape.productFlops * 2) { shape.forward(query, key, value, logs) }
    return .operation(result, inputs: [q, k, v]) { gradient, inputs in
        // Scores and their slopes are computed again; each gradient asked for is one more product.
        let products = inputs.reduce(2.0) { $0 + ($1.requiresGradient ? 1 : 0) }
        Profile.measure("attention backward", flops: shape.productFlops * products) {
            shape.backward(gradient, query, key, value, result, logs!, inputs)
        }
    }
}

/// The sizes of a call, and its two passes over plain tensors.
struct AttentionShape {
    let batch: Int
    let queries: Int
    let keys: Int
    let heads: Int
    let width: Int
    let scale: Float
    let keyLengths: [Int]?

    var total: Int { heads * width }
    /// The arithmetic of one of the matrix products.
    var productFlops: Double { 2 * Double(batch * queries) * Double(keys) * Double(total) }

    init(_ q: Variable, _ k: Variable, _ v: Variable, heads: Int, scale: Float?, keyLengths: [Int]?) {
        precondition(q.shape.count == 3 && k.shape.count == 3, "attention needs [B, N, D], not \(q.shape) and \(k.shape)")
        batch = q.shape[0]
        queries = q.shape[1]
        let keys = k.shape[1]
        self.keys = keys
        self.heads = heads
        width = q.shape[2] / heads
        precondition(width * heads == q.shape[2], "attention: \(heads) heads do not divide a width of \(q.shape[2])")
        precondition(
            k.shape == [q.shape[0], keys, q.shape[2]] && v.shape == k.shape, "attention: shapes \(q.shape), \(k.shape), \(v.shape)")
        precondition(keys > 0, "attention over no keys")
        self.scale = scale ?? 1 / Float(width).squareRoot()
        if let keyLengths {
            precondition(
                keyLengths.count == q.shape[0] && keyLengths.allSatisfy { $0 >= 1 && $0 <= keys },
                "attention: key lengths \(keyLengths) of \(keys)")
        }
        self.keyLengths = keyLengths
    }

    private func length(_ b: Int) -> Int { keyLengths?[b] ?? keys }

    /// A part is a head of a batch entry, or some of its queries where they are many: then keys and values are copied once, so that a head's
    /// rows lie together.
    func forward(_ q: Tensor, _ k: Tensor, _ v: Tensor, _ logs: Tensor?) -> Tensor {
        if let result = forwardOnTiles(q, k, v, logs) { return result }
        let result = Tensor(uninitialized: q.shape)
        let most = ck_attention_query_tile()
        let tiles = (queries + most - 1) / most
        guard tiles > 0 else { return result }
        let tile = ((queries + tiles - 1) / tiles + 15) / 16 * 16
        let packs = tiles > 1 || width % 8 != 0
        let packedKeys = packs ? packed(k) : k
        let packedValues = packs ? packed(v) : v
        let stride = packs ? packedKeys.shape[2] : total
        let grain = max(1, (1 << 20) / (min(tile, queries) * (keys + 16) * width))
        forParts(batch * heads * tiles, cost: 1, grain: grain) { part in
            let scratch = Tensor(uninitialized: [ck_attention_forward_scratch(min(tile, queries), width)])
            for index in part {
                let (b, h, start) = (index / (heads * tiles), index / tiles % heads, index % tiles * tile)
                let place = (b * queries + start) * total + h * width
                let keyPlace = packs ? (b * heads + h) * keys * stride : b * keys * total + h * width
                guard start < queries else { continue }
                var head = ck_attention(
                    q: q.pointer + place, k: packedKeys.pointer + keyPlace, v: packedValues.pointer + keyPlace,
                    y: result.mutablePointer + place, logs: logs.map { $0.mutablePointer + (b * heads + h) * queries + start },
                    queries: min(tile, queries - start), keys: length(b), width: width, queryStride: total, keyStride: stride,
                    valueStride: stride, scale: scale)
                ck_attention_forward(&head, scratch.mutablePointer)
            }
        }
        withExtendedLifetime((q, packedKeys, packedValues)) {}
        return result
    }

    /// [B * heads, M, width rounded up to 8], zeros behind the width.
    private func packed(_ x: Tensor) -> Tensor {
        let columns = (width + 7) / 8 * 8
        let result = Tensor(uninitialized: [batch * heads, keys, columns])
        forParts(batch * heads, cost: keys * width) { part in
            for index in part {
                ck_copy_rows(
                    x.pointer + index / heads * keys * total + index % heads * width, total, keys, width,
                    result.mutablePointer + index * keys * columns, columns)
            }
        }
        return result
    }

    /// How many parts of the backward pass are enough; more would cost a dq each.
    private static let backwardParts = 16

    /// A part is a head of a batch entry, where there are few of them over many keys a range of its keys: the parts of a head share dq, so each
    /// but the first has its own, and they are added in order.
    func backward(
        _ gradient: Tensor, _ q: Tensor, _ k: Tensor, _ v: Tensor, _ result: Tensor, _ logs: Tensor, _ inputs: [Node]
    ) {
        let all = batch * heads
        let ranges = max(1, min(keys / 512, Self.backwardParts / max(all, 1)))
        let range = ((keys + ranges - 1) / ranges + 63) / 64 * 64
        // Keys behind a length are reached by nothing, and without queries none is.
        let partial = keyLengths != nil || queries == 0
        func empty(_ shape: [Int]) -> Tensor { partial ? Tensor(zeros: shape) : Tensor(uninitialized: shape) }
        let dq = inputs[0].requiresGradient ? (0..<ranges).map { _ in empty(q.shape) } : nil
        let dk = inputs[1].requiresGradient ? empty(k.shape) : nil
        let dv = inputs[2].requiresGradient ? empty(v.shape) : nil
        let grain = max(1, (1 << 20) / (max(queries, 1) * (min(range, keys) + 16) * width))
        forParts(queries > 0 ? all * ranges : 0, cost: 1, grain: grain) { part in
            var head = ck_attention_gradient()
            (head.queries, head.width, head.scale) = (queries, width, scale)
            (head.queryStride, head.keyStride) = (total, total)
            head.keys = min(range, keys)
            let scratch = Tensor(uninitialized: [ck_attention_backward_scratch(&head)])
            let tiles = backwardScratch(head)
            for index in part {
                let (b, h, first) = (index / (heads * ranges), index / ranges % heads, index % ranges * range)
                head.keys = min(range, length(b) - first)
                guard head.keys > 0 else { continue }
                let place = b * queries * total + h * width
                let keyPlace = (b * keys + first) * total + h * width
                (head.q, head.y, head.dy) = (q.pointer + place, result.pointer + place, gradient.pointer + place)
                (head.k, head.v) = (k.pointer + keyPlace, v.pointer + keyPlace)
                head.logs = logs.pointer + (b * heads + h) * queries
                head.dq = dq.map { $0[index % ranges].mutablePointer + place }
                head.dk = dk.map { $0.mutablePointer + keyPlace }
                head.dv = dv.map { $0.mutablePointer + keyPlace }
                if let tiles, ck_amx_attention_backward(&head, tiles.mutablePointer) == 0 { continue }
                ck_attention_backward(&head, scratch.mutablePointer)
            }
        }
        withExtendedLifetime((gradient, q, k, v, result, logs)) {}
        if let dq {
            for other in dq.dropFirst() {
                forElements(other.count) { part in
                    let sum = dq[0].mutablePointer + part.lowerBound
                    ck_add(sum, other.pointer + part.lowerBound, sum, part.count)
                }
            }
            inputs[0].accumulate(dq[0])
        }
        if let dk { inputs[1].accumulate(dk) }
        if let dv { inputs[2].accumulate(dv) }
    }
}
