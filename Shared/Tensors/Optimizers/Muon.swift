/// Muon (Keller Jordan, 2024): the momentum of a weight matrix is replaced by the nearest orthogonal matrix, approximately, by five steps of a
/// quintic Newton-Schulz iteration. For the two-dimensional weights inside a network (tensors of more axes are taken as [first, the rest]);
/// embeddings, heads, norms and biases belong to AdamW.
public struct Muon: Sendable {
    public var momentum: Float
    public var nesterov: Bool
    public var weightDecay: Float
    /// Newton-Schulz iterations.
    public var iterations: Int
    private var steps = 0
    private var buffers: [Tensor] = []

    public init(momentum: Float = 0.95, nesterov: Bool = true, weightDecay: Float = 0, iterations: Int = 5) {
        self.momentum = momentum
        self.nesterov = nesterov
        self.weightDecay = weightDecay
        self.iterations = iterations
    }

    /// One update of every parameter; the list has to be the same at every step. As the reference: buffer ← β buffer + (1 - β) g, update =
    /// orthogonal((1 - β) g + β buffer) · sqrt(max(1, rows / columns)), weights ← (1 - rate · decay) weights - rate · update.
    public mutating func step(parameters: [Variable], gradients: [Tensor], learningRate: Float) {
        requireMatch(parameters, gradients, "Muon")
        if buffers.isEmpty { buffers = parameters.map { Tensor(zeros: $0.shape) } }
        requireState(parameters, buffers, "Muon")
        steps += 1
        for i in buffers.indices {
            buffers[i] *= momentum
            buffers[i].add(gradients[i], scale: 1 - momentum)
        }
        // The matrices are independent of each other; each is computed whole on one thread.
        let (buffers, momentum, nesterov, iterations) = (buffers, momentum, nesterov, iterations)
        let updates = NumericThreads.parallelMap(parameters.count) { i in
            var update = buffers[i]
            if nesterov {
                update *= momentum
                update.add(gradients[i], scale: 1 - momentum)
            }
            let shape = update.shape
            precondition(shape.count >= 2, "Muon is for matrices, not for a tensor of shape \(shape)")
            let (rows, columns) = (shape[0], shape.dropFirst().reduce(1, *))
            let orthogonal = Muon.orthogonalized(update.reshaped([rows, columns]), iterations: iterations)
            return (orthogonal * max(1, Float(rows) / Float(max(columns, 1))).squareRoot()).reshaped(shape)
        }
        for (parameter, update) in zip(parameters, updates) {
            if weightDecay != 0 { parameter.tensor *= 1 - learningRate * weightDecay }
            parameter.tensor.add(update, scale: -learningRate)
        }
    }

    /// Singular values driven towards one: X ← a X + (b A + c A²) X with A = X Xᵀ, on the wide orientation.
    static func orthogonalized(_ matrix: Tensor, iterations: Int) -> Tensor {
        let (a, b, c): (Float, Float, Float) = (3.4445, -4.7750, 2.0315)
        let tall = matrix.shape[0] > matrix.shape[1]
        var x = tall ? matrix.permuted([1, 0]) : matrix
        x *= 1 / (x.norm + 1e-7)
        let (m, n) = (x.shape[0], x.shape[1])
        for _ in 0..<iterations {
            let gram = product(x, x, m: m, n: m, k: n, transposeB: true)
            var polynomial = product(gram, gram, m: m, n: m, k: m, transposeB: false)
            polynomial *= c
            polynomial.add(gram, scale: b)
            var next = product(polynomial, x, m: m, n: n, k: m, transposeB: false)
            next.add(x, scale: a)
            x = next
        }
        return tall ? x.permuted([1, 0]) : x
    }

    private static func product(_ a: Tensor, _ b: Tensor, m: Int, n: Int, k: Int, transposeB: Bool) -> Tensor {
        let result = Tensor(uninitialized: [m, n])
        BLAS.multiply(
            transposeB: transposeB, m: m, n: n, k: k, a.pointer, lda: k, b.pointer, ldb: transposeB ? k : n, beta: 0, result.mutablePointer,
            ldc: n)
        withExtendedLifetime((a, b)) {}
        return result
    }

    /// "step" and the momentum buffers in parameter order.
    public var state: [(String, Tensor)] {
        [("step", Tensor(scalar: Float(steps)))] + buffers.enumerated().map { ("momentum.\($0)", $1) }
    }

    /// Takes up an exported state. Throws what is missing or left over.
    public mutating func restore(_ state: [(String, Tensor)]) throws {
        let reader = try OptimizerState(state, kinds: ["momentum"])
        steps = reader.steps
        buffers = reader.tensors["momentum"]!
    }
}
