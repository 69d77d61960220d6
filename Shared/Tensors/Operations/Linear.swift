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

/// f(x Wᵀ + b) with the activation applied while a part of the product is in the cache; keeps x Wᵀ + b where there will be a backward pass.
public func linear(_ x: Variable, _ weight: Variable, _ bias: Variable? = nil, activation: Activation) -> Variable {
    let shape = LinearShape(x, weight, bias)
    let live = x.requiresGradient || weight.requiresGradient || bias?.requiresGradient == true
    let (before, result) = shape.forward(x.tensor, weight.tensor, bias?.tensor, activation: activation.kind, keeps: live)
    let input = weight.requiresGradient ? x.tensor : nil
    let matrix = x.requiresGradient ? weight.tensor : nil
    let kind = activation.kind
    return .operation(result, inputs: [x, weight] + (bias.map { [$0] } ?? [])) { gradient, inputs in
        // Nobody else holds what stood before the activation, and it is read for the last time: its gradient takes its place.
        activateBackward(kind, before, gradient, before.mutablePointer, false)
        shape.backward(before, input: input, matrix: matrix, inputs)
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

    /// The product, and what the activation makes of it; the two are one tensor unless the product is to be kept.
    func forward(
        _ x: Tensor, _ weight: Tensor, _ bias: Tensor?, activation: Int32?, keeps: Bool = false
    ) -> (preactivation: Tensor, activated: Tensor) {
        let span = Profile.begin("linear", flops: flops)
        defer { span.end() }
        let before = Tensor(uninitialized: result)
        let after = keeps && activation != nil ? Tensor(uninitialized: result) : before
        var epilogue = Product.Epilogue(bias: bias?.pointer)
        if let activation {
            epilogue.activation = activation
            epilogue.activated = after.mutablePointer
        }
        Product(rows: rows, columns: outputs, depth: inputs)(
            .init(pointer: x.pointer, stride: inputs), .init(pointer: weight.pointer, stride: inputs, transposed: true),
            into: before.mutablePointer, stride: outputs, epilogue: epilogue)
        withExtendedLifetime((x, weight, bias)) {}
        return (before, after)
    }

    /// `input` and `matrix` are nil where the gradient that needs them is not wanted.
    func backward(_ gradient: Tensor, input: Tensor?, matrix: Tensor?, _ variables: [Node]) {
        let span = Profile.begin("linear backward", flops: flops * ((input == nil ? 0 : 1) + (matrix == nil ? 0 : 1)))
        defer { span.end() }
        if let matrix {
            variables[0].accumulateInPlace { target, adds in
                Product(rows: rows, columns: inputs, depth: outputs)(
                    .init(pointer: gradient.pointer, stride: outputs), .init(pointer: matrix.pointer, stride: inputs), into: target,
                    stride: inputs, adds: adds)
            }
        }
        if let input {
            variables[1].accumulateInPlace { target, adds in
                Product(rows: outputs, columns: inputs, depth: rows)(
                    .init(pointer: gradient.pointer, stride: outputs, transposed: true), .init(pointer: input.pointer, stride: inputs),
                    into: target, stride: inputs, adds: adds)
            }
        }
        if variables.count > 2 {
            variables[2].accumulateInPlace { ck_column_sums(gradient.pointer, $0, rows, outputs, $1 ? 1 : 0) }
        }
        withExtendedLifetime((gradient, input, matrix)) {}
    }
}
