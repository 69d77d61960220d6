import CKernels

/// The activation functions that have a kernel.
public enum Activation: Sendable {
    /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
    case gelu
    /// x/2 (1 + erf(x / sqrt 2)), the error function to 2e-7
    case geluExact
    /// x sigmoid(x)
    case silu
    case relu
    case sigmoid
    /// log(1 + e^x)
    case softplus

    var kind: Int32 {
        switch self {
        case .gelu: Int32(CK_GELU)
        case .geluExact: Int32(CK_GELU_EXACT)
        case .silu: Int32(CK_SILU)
        case .relu: Int32(CK_RELU)
        case .sigmoid: Int32(CK_SIGMOID)
        case .softplus: Int32(CK_SOFTPLUS)
        }
    }
}

/// f(x), element by element; keeps x for the backward pass.
public func activate(_ x: Variable, _ function: Activation) -> Variable {
    let span = Profile.begin("activate")
    defer { span.end() }
    let input = x.tensor
    let kind = function.kind
    let result = Tensor(uninitialized: input.shape)
    forParts(input.count, cost: 4) { ck_activate(kind, input.pointer + $0.lowerBound, result.mutablePointer + $0.lowerBound, $0.count) }
    withExtendedLifetime(input) {}
    return .operation(result, inputs: [x]) { gradient, inputs in
        inputs[0].accumulateInPlace { target, adds in
            activateBackward(kind, input, gradient, target, adds)
        }
    }
}

func activateBackward(_ kind: Int32, _ input: Tensor, _ gradient: Tensor, _ target: UnsafeMutablePointer<Float>, _ adds: Bool) {
    let span = Profile.begin("activate backward")
    defer { span.end() }
    forParts(input.count, cost: 4) { part in
        let start = part.lowerBound
        ck_activate_backward(kind, input.pointer + start, gradient.pointer + start, target + start, part.count, adds ? 1 : 0)
    }
    withExtendedLifetime((input, gradient)) {}
}

/// GELU in its tanh approximation ("gelu_pytorch_tanh").
public func gelu(_ x: Variable) -> Variable { activate(x, .gelu) }
/// GELU by the error function ("gelu").
public func geluExact(_ x: Variable) -> Variable { activate(x, .geluExact) }
public func silu(_ x: Variable) -> Variable { activate(x, .silu) }
public func relu(_ x: Variable) -> Variable { activate(x, .relu) }
public func sigmoid(_ x: Variable) -> Variable { activate(x, .sigmoid) }
/// log(1 + e^x); `-softplus(-x)` is log(sigmoid(x)).
public func softplus(_ x: Variable) -> Variable { activate(x, .softplus) }
