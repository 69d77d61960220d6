import CKernels
import Glibc

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
    let result = shape.forward(query, key, value, logs)
    return .operation(result, inputs: [q, k, v]) { gradient, inputs in
        shape.backward(gradient, query, key, value, result, logs!, inputs)
    }
}

struct AttentionShape {
    let batch: Int
    let queries: Int
    let keys: Int
    let heads: Int
    let width: Int
    let scale: Float
    let keyLengths: [Int]?

    /// Rows and columns of a tile: the scores of one (64 KiB … 256 KiB) stay in the second cache.
    static let queryTile = 128
    static let keyTile = 256

    var total: Int { heads * width }

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

    func forward(_ q: Tensor, _ k: Tensor, _ v: Tensor, _ logs: Tensor?) -> Tensor {
        let result = Tensor(uninitialized: q.shape)
        let tiles = (queries + Self.queryTile - 1) / Self.queryTile
        let tileRows = min(Self.queryTile, queries)
        let tileColumns = min(Self.keyTile, keys)
        let padded = (tileRows + 15) / 16 * 16
        forParts(batch * heads * tiles, cost: tileRows * keys * width, grain: 1 << 22) { part in
            let scratch = Tensor(zeros: [padded * (tileColumns + 3)])
            let scores = scratch.mutablePointer
            let maxima = scores + padded * tileColumns
            let sums = maxima + padded
            let corrections = sums + padded
            for index in part {
                let b = index / (heads * tiles)
                let h = index / tiles % heads
                let start = index % tiles * Self.queryTile
                let rows = min(Self.queryTile, queries - start)
                let query = q.pointer + (b * queries + start) * total + h * width
                let target = result.mutablePointer + (b * queries + start) * total + h * width
                let count = length(b)
                for first in stride(from: 0, to: count, by: Self.keyTile) {
                    let columns = min(Self.keyTile, count - first)
                    let place = (b * keys + first) * total + h * width
                    // Scores stand transposed, [keys, queries]: see the kernel.
                    BLAS.multiply(
                        transposeB: true, m: columns, n: rows, k: width, k.pointer + place, lda: total, query, ldb: total, beta: 0, scores,
                        ldc: padded)
                    ck_online_softmax(scores, columns, rows, padded, scale, maxima, sums, corrections, first == 0 ? 1 : 0)
                    if first > 0 { ck_scale_rows(target, corrections, rows, width, total) }
                    BLAS.multiply(
                        transposeA: true, m: rows, n: width, k: columns, scores, lda: padded, v.pointer + place, ldb: total,
                        beta: first == 0 ? 0 : 1, target, ldc: total)
                }
                ck_finish_softmax(
                    target, maxima, sums, logs.map { $0.mutablePointer + (b * heads + h) * queries + start }, rows, width, total)
            }
            withExtendedLifetime(scratch) {}
        }
        withExtendedLifetime((q, k, v)) {}
        return result
    }

    /// With P = exp(scale q kᵀ - log), dP = dy vᵀ and δ = Σ dy y a row:  dS = scale P (dP - δ),  dq = dS k,  dk = dSᵀ q,  dv = Pᵀ dy.
    ///
    /// A head of a batch entry is one part while there are enough of them; long sequences with few heads are also split by key tiles (dk, dv)
    /// and by query tiles (dq), at the price of computing the tiles twice. Which of the two follows from the shape alone.
    func backward(
        _ gradient: Tensor, _ q: Tensor, _ k: Tensor, _ v: Tensor, _ result: Tensor, _ logs: Tensor, _ inputs: [Variable]
    ) {
        let deltas = Tensor(uninitialized: [batch, heads, queries])
        forParts(batch * heads, cost: queries * width) { part in
            for index in part {
                let (b, h) = (index / heads, index % heads)
                let place = b * queries * total + h * width
                ck_row_dots(
                    gradient.pointer + place, result.pointer + place, deltas.mutablePointer + index * queries, queries, width, total, total)
            }
        }
        // The first tile overwrites; only the keys behind a length are reached by none.
        let dq = inputs[0].requiresGradient ? Tensor(uninitialized: q.shape) : nil
        let dk = inputs[1].requiresGradient ? (keyLengths == nil ? Tensor(uninitialized: k.shape) : Tensor(zeros: k.shape)) : nil
        let dv = inputs[2].requiresGradient ? (keyLengths == nil ? Tensor(uninitialized: v.shape) : Tensor(zeros: v.shape)) : nil
        let pass = AttentionBackward(shape: self, gradient: gradient, q: q, k: k, v: v, logs: logs, deltas: deltas)
        let queryTiles = (queries + Self.queryTile - 1) / Self.queryTile
        let keyTiles = (keys + Self.keyTile - 1) / Self.keyTile
        if batch * heads >= 64 || queryTiles * keyTiles < 4 {
            forParts(batch * heads, cost: queries * keys * width * 3, grain: 1 << 22) { part in
                pass.run(part, queryTiles: 0..<queryTiles, keyTiles: 0..<keyTiles, dq, dk, dv)
            }
        } else {
            if dk != nil || dv != nil {
                forEachIndex(batch * heads * keyTiles) { index in
                    let (head, tile) = (index / keyTiles, index % keyTiles)
                    pass.run(head..<head + 1, queryTiles: 0..<queryTiles, keyTiles: tile..<tile + 1, nil, dk, dv)
                }
            }
            if let dq {
                forEachIndex(batch * heads * queryTiles) { index in
                    let (head, tile) = (index / queryTiles, index % queryTiles)
                    pass.run(head..<head + 1, queryTiles: tile..<tile + 1, keyTiles: 0..<keyTiles, dq, nil, nil)
                }
            }
        }
        if let dq { inputs[0].accumulate(dq) }
        if let dk { inputs[1].accumulate(dk) }
        if let dv { inputs[2].accumulate(dv) }
    }
}

private struct AttentionBackward {
    let shape: AttentionShape
    let gradient: Tensor
    let q: Tensor
    let k: Tensor
    let v: Tensor
    let logs: Tensor
    let deltas: Tensor

    /// Adds the contributions of some tiles of some heads (b * heads + h).
    func run(_ parts: Range<Int>, queryTiles: Range<Int>, keyTiles: Range<Int>, _ dq: Tensor?, _ dk: Tensor?, _ dv: Tensor?) {
        let (queries, keys, heads, width, total) = (shape.queries, shape.keys, shape.heads, shape.width, shape.total)
        let tileRows = min(AttentionShape.queryTile, queries)
        let tileColumns = min(AttentionShape.keyTile, keys)
        let padded = (tileRows + 15) / 16 * 16
        let scratch = Tensor(zeros: [2, padded * tileColumns])
        let scores = scratch.mutablePointer
        let slopes = scores + padded * tileColumns
        for head in parts {
            let (b, h) = (head / heads, head % heads)
            let length = shape.keyLengths?[b] ?? keys
            for keyTile in keyTiles {
                let first = keyTile * AttentionShape.keyTile
                let columns = min(AttentionShape.keyTile, length - first)
                if columns <= 0 { break }
                let keyPlace = (b * keys + first) * total + h * width
                for queryTile in queryTiles {
                    let start = queryTile * AttentionShape.queryTile
                    let rows = min(AttentionShape.queryTile, queries - start)
                    let place = (b * queries + start) * total + h * width
                    let row = head * queries + start
                    BLAS.multiply(
                        transposeB: true, m: columns, n: rows, k: width, k.pointer + keyPlace, lda: total, q.pointer + place, ldb: total,
                        beta: 0,
                        scores, ldc: padded)
                    BLAS.multiply(
                        transposeB: true, m: columns, n: rows, k: width, v.pointer + keyPlace, lda: total, gradient.pointer + place,
                        ldb: total,
                        beta: 0, slopes, ldc: padded)
                    ck_attention_backward_tile(scores, slopes, logs.pointer + row, deltas.pointer + row, shape.scale, columns, rows, padded)
                    if let dv {
                        BLAS.multiply(
                            m: columns, n: width, k: rows, scores, lda: padded, gradient.pointer + place, ldb: total,
                            beta: queryTile == 0 ? 0 : 1,
                            dv.mutablePointer + keyPlace, ldc: total)
                    }
                    if let dk {
                        BLAS.multiply(
                            m: columns, n: width, k: rows, slopes, lda: padded, q.pointer + place, ldb: total, beta: queryTile == 0 ? 0 : 1,
                            dk.mutablePointer + keyPlace, ldc: total)
                    }
                    if let dq {
                        BLAS.multiply(
                            transposeA: true, m: rows, n: width, k: columns, slopes, lda: padded, k.pointer + keyPlace, ldb: total,
                            beta: keyTile == 0 ? 0 : 1, dq.mutablePointer + place, ldc: total)
                    }
                }
            }
        }
        withExtendedLifetime(scratch) {}
    }
}
