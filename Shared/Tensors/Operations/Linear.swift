import CKernels

/// y = x Wᵀ + b for x [..., in], weight [out, in], bias [out].
///
/// Backward: dx = dy W,  dW = dyᵀ x,  db = Σ dy.
public func linear(_ x: Variable, _ weight: Variable, _ bias: Variable? = nil) -> Variable {
    let shape = LinearShape(x, weight, bias)
    let result = shape.forward(x.tensor, weight.tensor, bias?.tensor, activation: nil).preactivation
    let input = weight.requiresGradient ? x.tensor : nil
    let matrix = x.requiresGradient ? weight.tensor : nil
    return .operation(result, inputs: [x, weight] + (bias.map { [$0] } ?? [])) { gradient, inputs in
        shape.backward(gradient, input: input, matrix: matrix, inputs)
    }
}

/// f(x Wᵀ + b) with the activation applied while a part of the product is in the cache; keeps x Wᵀ + b for the backward pass.
public func linear(_ x: Variable, _ weight: Variable, _ bias: Variable? = nil, activation: Activation) -> Variable {
    let shape = LinearShape(x, weight, bias)
    let (before, result) = shape.forward(x.tensor, weight.tensor, bias?.tensor, activation: activation.kind)
    let input = weight.requiresGradient ? x.tensor : nil
    let matrix = x.requiresGradient ? weight.tensor : nil
    let kind = activation.kind
    return .operation(result, inputs: [x, weight] + (bias.map { [$0] } ?? [])) { gradient, inputs in
        let slope = Tensor(uninitialized: gradient.shape)
        activateBackward(kind, before, gradient, slope.mutablePointer, false)
        shape.backward(slope, input: input, matrix: matrix, inputs)
    }
}

/// The sizes of a linear layer's call, and its passes over plain tensors.
struct LinearShape {
    let rows: Int
    let inputs: Int
    let outputs: Int
    let result: [Int]

    init(_ x: Variable, _ weight: Variable, _ bias: Variable?) {
        precondition(weight.shape.count == 2, "linear: a weight is [out, in], not \(weight.shape)")
        precondition(x.shape.last == weight.shape[1], "linear: x \(x.shape) does not fit the weight \(weight.shape)")
        outputs = weight.shape[0]
        inputs = weight.shape[1]
        rows = inputs > 0 ? x.tensor.count / inputs : 0
        result = x.shape.dropLast() + [outputs]
        if let bias { precondition(bias.shape == [outputs], "linear: a bias of shape \(bias.shape) for \(outputs) outputs") }
    }

    private var flops: Double { 2 * Double(rows) * Double(inputs) * Double(outputs) }

    /// Rows in a part: about 20 MFLOP (a tenth of a millisecond), at least 64 rows so that packing the weights pays.
    private var rowsPerPart: Int {
        let wanted = 10_000_000 / max(inputs * outputs, 1)
        return max(64, (wanted + 31) / 32 * 32)
    }

    func forward(_ x: Tensor, _ weight: Tensor, _ bias: Tensor?, activation: Int32?) -> (preactivation: Tensor, activated: Tensor) {
        let span = Profile.begin("linear", flops: flops)
        defer { span.end() }
        let before = Tensor(uninitialized: result)
        let after = activation == nil ? before : Tensor(uninitialized: result)
        let part = rowsPerPart
        forEachIndex((rows + part - 1) / part) { index in
            let start = index * part
            let count = min(part, rows - start)
            let target = before.mutablePointer + start * outputs
            BLAS.multiply(
                transposeB: true, m: count, n: outputs, k: inputs, x.pointer + start * inputs, lda: inputs, weight.pointer, ldb: inputs,
                beta: 0,
                target, ldc: outputs)
            if let activation {
                ck_bias_activate(activation, target, bias?.pointer, after.mutablePointer + start * outputs, count, outputs)
            } else if let bias {
                ck_add_row(target, bias.pointer, target, count, outputs)
            }
        }
        withExtendedLifetime((x, weight, bias)) {}
        return (before, after)
    }

    /// `input` and `matrix` are nil where the gradient that needs them is not wanted.
    func backward(_ gradient: Tensor, input: Tensor?, matrix: Tensor?, _ variables: [Variable]) {
        let span = Profile.begin("linear backward", flops: flops * ((matrix == nil ? 0 : 1) + (input == nil ? 0 : 1)))
        defer { span.end() }
        if let matrix {
            let part = rowsPerPart
            variables[0].accumulateInPlace { target, adds in
                forEachIndex((rows + part - 1) / part) { index in
                    let start = index * part
                    BLAS.multiply(
                        m: min(part, rows - start), n: inputs, k: outputs, gradient.pointer + start * outputs, lda: outputs, matrix.pointer,
                        ldb: inputs, beta: adds ? 1 : 0, target + start * inputs, ldc: inputs)
                }
            }
        }
        if let input {
            // Parts are rows of dW: each sums over all of x in one order.
            let part = max(32, (10_000_000 / max(inputs * rows, 1) + 31) / 32 * 32)
            variables[1].accumulateInPlace { target, adds in
                forEachIndex((outputs + part - 1) / part) { index in
                    let start = index * part
                    BLAS.multiply(
                        transposeA: true, m: min(part, outputs - start), n: inputs, k: rows, gradient.pointer + start, lda: outputs,
                        input.pointer,
                        ldb: inputs, beta: adds ? 1 : 0, target + start * inputs, ldc: inputs)
                }
            }
        }
        if variables.count > 2 {
            variables[2].accumulateInPlace { ck_column_sums(gradient.pointer, $0, rows, outputs, $1 ? 1 : 0) }
        }
        withExtendedLifetime((gradient, input, matrix)) {}
    }
}
