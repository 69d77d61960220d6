/// a b for a [..., M, K] and b [..., K, N] (or [..., N, K] with transposeB); equal leading sizes, or a two-dimensional b for all of a.
public func matmul(_ a: Variable, _ b: Variable, transposeB: Bool = false) -> Variable {
    precondition(a.shape.count >= 2 && b.shape.count >= 2, "matmul needs matrices, not \(a.shape) and \(b.shape)")
    let (m, k) = (a.shape[a.shape.count - 2], a.shape[a.shape.count - 1])
    let n = b.shape[b.shape.count - (transposeB ? 2 : 1)]
    precondition(k == b.shape[b.shape.count - (transposeB ? 1 : 2)], "matmul: \(a.shape) and \(b.shape) do not fit")
    let lead = Array(a.shape.dropLast(2))
    let batches = lead.reduce(1, *)
    let shared = b.shape.count == 2
    precondition(shared || Array(b.shape.dropLast(2)) == lead, "matmul: leading sizes of \(a.shape) and \(b.shape) differ")
    let flops = 2 * Double(batches * m) * Double(n) * Double(k)
    let span = Profile.begin("matmul", flops: flops)
    defer { span.end() }
    let (left, right) = (a.tensor, b.tensor)
    let ldb = transposeB ? k : n
    let result = Tensor(uninitialized: lead + [m, n])
    forParts(batches, cost: m * n * k, grain: 1 << 23) { part in
        for i in part {
            BLAS.multiply(
                transposeB: transposeB, m: m, n: n, k: k, left.pointer + i * m * k, lda: k, right.pointer + (shared ? 0 : i * k * n),
                ldb: ldb,
                beta: 0, result.mutablePointer + i * m * n, ldc: n)
        }
    }
    withExtendedLifetime((left, right)) {}
    return .operation(result, inputs: [a, b]) { gradient, inputs in
        let span = Profile.begin("matmul backward", flops: flops * Double(inputs.count(where: \.requiresGradient)))
        defer { span.end() }
        inputs[0].accumulateInPlace { target, adds in
            forParts(batches, cost: m * n * k, grain: 1 << 23) { part in
                for i in part {
                    BLAS.multiply(
                        transposeB: !transposeB, m: m, n: k, k: n, gradient.pointer + i * m * n, lda: n,
                        right.pointer + (shared ? 0 : i * k * n), ldb: ldb, beta: adds ? 1 : 0, target + i * m * k, ldc: k)
                }
            }
        }
        inputs[1].accumulateInPlace { target, adds in
            // A shared b sums over the batch, in order.
            forParts(shared ? 1 : batches, cost: m * n * k, grain: 1 << 23) { part in
                for i in shared ? 0..<batches : part {
                    let into = target + (shared ? 0 : i * k * n)
                    let beta: Float = adds || (shared && i > 0) ? 1 : 0
                    if transposeB {
                        BLAS.multiply(
                            transposeA: true, m: n, n: k, k: m, gradient.pointer + i * m * n, lda: n, left.pointer + i * m * k, ldb: k,
                            beta: beta, into, ldc: k)
                    } else {
                        BLAS.multiply(
                            transposeA: true, m: k, n: n, k: m, left.pointer + i * m * k, lda: k, gradient.pointer + i * m * n, ldb: n,
                            beta: beta, into, ldc: n)
                    }
                }
            }
        }
        withExtendedLifetime((gradient, left, right)) {}
    }
}
