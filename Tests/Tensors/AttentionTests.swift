import Glibc
import Testing

@testable import Tensors

@Suite struct AttentionTests {
    /// softmax(q kᵀ / sqrt(width)) v, one row after the other in double precision.
    func naive(_ q: Tensor, _ k: Tensor, _ v: Tensor, heads: Int, lengths: [Int]? = nil) -> Tensor {
        let (batch, queries, total, keys) = (q.shape[0], q.shape[1], q.shape[2], k.shape[1])
        let width = total / heads
        let (qs, ks, vs) = (q.array, k.array, v.array)
        return Tensor(shape: q.shape) { out in
            for b in 0..<batch {
                for h in 0..<heads {
                    for i in 0..<queries {
                        let at = (b * queries + i) * total + h * width
                        var scores = (0..<(lengths?[b] ?? keys)).map { j in
                            (0..<width).reduce(0.0) { $0 + Double(qs[at + $1]) * Double(ks[(b * keys + j) * total + h * width + $1]) }
                                / Double(width).squareRoot()
                        }
                        let top = scores.max()!
                        scores = scores.map { exp($0 - top) }
                        let sum = scores.reduce(0, +)
                        for c in 0..<width {
                            let dot = scores.indices.reduce(0.0) { $0 + scores[$1] * Double(vs[(b * keys + $1) * total + h * width + c]) }
                            out[at + c] = Float(dot / sum)
                        }
                    }
                }
            }
        }
    }

    // batch, queries, keys, heads, width: one tile; the demo's two; several tiles with ragged ends
    @Test(arguments: [
        [2, 3, 5, 2, 4], [2, 96, 96, 4, 32], [2, 96, 4, 4, 32], [1, 300, 600, 2, 16], [1, 1, 257, 1, 8], [1, 129, 1, 3, 24],
        [1, 17, 17, 2, 8], [2, 257, 77, 2, 40], [1, 64, 129, 2, 80], [1, 17, 257, 1, 160], [1, 33, 12, 1, 6], [1, 400, 129, 1, 40],
        [1, 785, 3, 2, 64],
    ])
    func theResultEqualsTheNaiveOne(_ sizes: [Int]) {
        let (b, n, m, h, d) = (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
        let t = normals([b, n, h * d], [b, m, h * d], [b, m, h * d])
        let result = attention(Variable(t[0]), Variable(t[1]), Variable(t[2]), heads: h).tensor
        #expect(result.relativeError(to: naive(t[0], t[1], t[2], heads: h)) < 2e-6)
    }

    @Test func gradientsInOneTile() {
        checkGradients(normals([2, 3, 8], [2, 5, 8], [2, 5, 8])) { attention($0[0], $0[1], $0[2], heads: 2) }
        checkGradients(normals([1, 2, 6], [1, 17, 6], [1, 17, 6])) { attention($0[0], $0[1], $0[2], heads: 1, scale: 0.7) }
    }

    /// The gradients over several tiles (both partitions of the work) against softmax and products written out.
    @Test(arguments: [
        [1, 300, 600, 2, 16], [3, 150, 270, 22, 4], [2, 96, 96, 4, 32], [8, 96, 4, 4, 32], [1, 1, 1, 1, 8], [1, 17, 129, 2, 40],
        [1, 257, 77, 2, 80], [2, 129, 17, 1, 160], [1, 65, 1100, 1, 8], [1, 420, 1030, 3, 24], [1, 33, 12, 1, 6],
    ])
    func gradientsOverTiles(_ sizes: [Int]) {
        let (b, n, m, h, d) = (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
        let t = normals([b, n, h * d], [b, m, h * d], [b, m, h * d], [b, n, h * d])
        let tiled = t[..<3].map { Variable($0, requiresGradient: true) }
        attention(tiled[0], tiled[1], tiled[2], heads: h).backward(t[3])
        let plain = t[..<3].map { Variable($0, requiresGradient: true) }
        func split(_ x: Variable, _ rows: Int) -> Variable { permute(reshape(x, [b, rows, h, d]), [0, 2, 1, 3]) }
        let scores = scale(matmul(split(plain[0], n), split(plain[1], m), transposeB: true), 1 / Float(d).squareRoot())
        let result = matmul(softmax(scores), split(plain[2], m))
        reshape(permute(result, [0, 2, 1, 3]), [b, n, h * d]).backward(t[3])
        for i in 0..<3 { #expect(tiled[i].gradient!.relativeError(to: plain[i].gradient!) < 2e-5, "input \(i)") }
    }

    @Test func hiddenKeysCountForNothing() {
        let t = normals([2, 7, 8], [2, 300, 8], [2, 300, 8])
        let lengths = [3, 280]
        let result = attention(Variable(t[0]), Variable(t[1]), Variable(t[2]), heads: 2, keyLengths: lengths).tensor
        #expect(result.relativeError(to: naive(t[0], t[1], t[2], heads: 2, lengths: lengths)) < 2e-6)
        checkGradients(normals([2, 3, 4], [2, 5, 4], [2, 5, 4])) { attention($0[0], $0[1], $0[2], heads: 1, keyLengths: [2, 5]) }
    }

    /// Over enough keys for several ranges of them, of which the shorter entry reaches one: as without the hidden keys, whose gradients are zero.
    @Test func hiddenKeysHaveNoGradient() {
        let t = normals([2, 19, 16], [2, 1100, 16], [2, 1100, 16], [2, 19, 16])
        let hidden = t[..<3].map { Variable($0, requiresGradient: true) }
        attention(hidden[0], hidden[1], hidden[2], heads: 1, keyLengths: [430, 1100]).backward(t[3])
        for (b, length) in [430, 1100].enumerated() {
            func entry(_ x: Tensor, _ rows: Int) -> Tensor {
                Tensor(Array(x.array[b * x.shape[1] * 16..<(b * x.shape[1] + rows) * 16]), shape: [1, rows, 16])
            }
            let short = [entry(t[0], 19), entry(t[1], length), entry(t[2], length)].map { Variable($0, requiresGradient: true) }
            attention(short[0], short[1], short[2], heads: 1).backward(entry(t[3], 19))
            #expect(entry(hidden[0].gradient!, 19).relativeError(to: short[0].gradient!) < 2e-6)
            for i in 1...2 {
                #expect(entry(hidden[i].gradient!, length).relativeError(to: short[i].gradient!) < 2e-6)
                #expect(hidden[i].gradient!.array[(b * 1100 + length) * 16..<(b + 1) * 1100 * 16].allSatisfy { $0 == 0 })
            }
        }
    }

    /// Logits of ±10⁴, where the largest moves from tile to tile: the references of later tiles take over what was summed before.
    @Test func largeScoresDoNotOverflow() {
        let t = normals([1, 300, 16], [1, 600, 16], [1, 600, 16], [1, 300, 16])
        let key = t[1] * Tensor(shape: [1, 600, 16]) { for i in $0.indices { $0[i] = 1 + Float(i / 16) } }
        let (q, k, v) = (Variable(t[0] * 16), Variable(key, requiresGradient: true), Variable(t[2], requiresGradient: true))
        let query = Variable(q.tensor, requiresGradient: true)
        let result = attention(query, k, v, heads: 1)
        #expect(result.tensor.relativeError(to: naive(q.tensor, key, t[2], heads: 1)) < 1e-3)
        result.backward(t[3])
        #expect([query, k, v].allSatisfy { $0.gradient!.isFinite })
    }

    /// All scores of a query far below zero: relative to their own maximum they are as good as any others.
    @Test func scoresFarBelowZeroDoNotVanish() {
        let t = normals([1, 20, 8], [1, 300, 8], [1, 300, 8], [1, 20, 8])
        let query = Tensor(full: 1, shape: [1, 20, 8]) + t[0] * 0.01
        let key = Tensor(full: -3_000, shape: [1, 300, 8]) + t[1] * 0.5
        let inputs = [
            Variable(query, requiresGradient: true), Variable(key, requiresGradient: true), Variable(t[2], requiresGradient: true),
        ]
        let result = attention(inputs[0], inputs[1], inputs[2], heads: 1)
        #expect(result.tensor.relativeError(to: naive(query, key, t[2], heads: 1)) < 5e-3)
        result.backward(t[3])
        #expect(inputs.allSatisfy { $0.gradient!.isFinite })
    }

    @Test(arguments: [[1, 800, 1100, 2, 24], [3, 96, 96, 4, 32], [1, 400, 77, 3, 40]])
    func resultsDoNotDependOnTheNumberOfThreads(_ sizes: [Int]) {
        let (b, n, m, h, d) = (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4])
        let t = normals([b, n, h * d], [b, m, h * d], [b, m, h * d], [b, n, h * d])
        let before = NumericThreads.count
        defer { NumericThreads.count = before }
        let runs = [1, 2, 5].map { threads in
            NumericThreads.count = threads
            let inputs = t[..<3].map { Variable($0, requiresGradient: true) }
            let result = attention(inputs[0], inputs[1], inputs[2], heads: h)
            result.backward(t[3])
            return [result.tensor] + inputs.map { $0.gradient! }
        }
        #expect(runs[1] == runs[0] && runs[2] == runs[0])
    }
}
