import CKernels

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as torch.optim.AdamW computes it.
public struct AdamW: Sendable {
    public var beta1: Float
    public var beta2: Float
    public var epsilon: Float
    public var weightDecay: Float
    private var steps = 0
    private var first: [Tensor] = []
    private var second: [Tensor] = []

    public init(beta1: Float = 0.9, beta2: Float = 0.999, epsilon: Float = 1e-8, weightDecay: Float = 0.01) {
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.weightDecay = weightDecay
    }

    /// One update of every parameter. The list has to be the same, in the same order, at every step. A parameter whose tensor nobody else
    /// holds is changed in place.
    public mutating func step(parameters: [Variable], gradients: [Tensor], learningRate: Float) {
        requireMatch(parameters, gradients, "AdamW")
        if first.isEmpty {
            first = parameters.map { Tensor(zeros: $0.shape) }
            second = first.map { Tensor(zeros: $0.shape) }
        }
        requireState(parameters, first, "AdamW")
        steps += 1
        let (correction1, correction2) = (1 - power(beta1, steps), 1 - power(beta2, steps))
        for (i, parameter) in parameters.enumerated() {
            parameter.tensor.withUnsafeMutableBufferPointer { weights in
                first[i].withUnsafeMutableBufferPointer { m in
                    second[i].withUnsafeMutableBufferPointer { v in
                        let (p, m, v) = (weights.baseAddress!, m.baseAddress!, v.baseAddress!)
                        forElements(weights.count) { part in
                            let start = part.lowerBound
                            ck_adamw(
                                p + start, gradients[i].pointer + start, m + start, v + start, part.count, learningRate, beta1, beta2,
                                epsilon,
                                weightDecay, correction1, correction2)
                        }
                    }
                }
            }
        }
    }

    /// What a checkpoint has to hold to continue bit for bit: "step" and the moments in parameter order.
    public var state: [(String, Tensor)] {
        [("step", Tensor(scalar: Float(steps)))] + first.enumerated().map { ("first.\($0)", $1) }
            + second.enumerated().map { ("second.\($0)", $1) }
    }

    /// Takes up an exported state. Throws what is missing or left over.
    public mutating func restore(_ state: [(String, Tensor)]) throws {
        let reader = try OptimizerState(state, kinds: ["first", "second"])
        steps = reader.steps
        first = reader.tensors["first"]!
        second = reader.tensors["second"]!
    }
}

/// base^exponent by repeated squaring in double precision.
func power(_ base: Float, _ exponent: Int) -> Float {
    var (result, factor, rest) = (1.0, Double(base), exponent)
    while rest > 0 {
        if rest & 1 == 1 { result *= factor }
        factor *= factor
        rest >>= 1
    }
    return Float(result)
}
