import CKernels

/// The sum of all elements, of shape [].
public func sum(_ x: Variable) -> Variable {
    let span = Profile.begin("sum")
    defer { span.end() }
    return .operation(Tensor(scalar: x.tensor.sum), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("sum backward")
        defer { span.end() }
        inputs[0].accumulate(Tensor(full: gradient.item, shape: inputs[0].shape))
    }
}

/// The mean of all elements, of shape [].
public func mean(_ x: Variable) -> Variable { scale(sum(x), 1 / Float(max(x.tensor.count, 1))) }

/// The sum over one axis, which disappears (or stays with size one).
public func sum(_ x: Variable, axis: Int, keepingAxis: Bool = false) -> Variable {
    let span = Profile.begin("sum")
    defer { span.end() }
    precondition(axis >= 0 && axis < x.shape.count, "sum: axis \(axis) of shape \(x.shape)")
    var kept = x.shape
    kept[axis] = 1
    var dropped = x.shape
    dropped.remove(at: axis)
    return .operation(x.tensor.reduced(to: kept).reshaped(keepingAxis ? kept : dropped), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("sum backward")
        defer { span.end() }
        inputs[0].accumulate(gradient.reshaped(kept).broadcast(to: inputs[0].shape))
    }
}

/// The mean over one axis.
public func mean(_ x: Variable, axis: Int, keepingAxis: Bool = false) -> Variable {
    scale(sum(x, axis: axis, keepingAxis: keepingAxis), 1 / Float(max(x.shape[axis], 1)))
}

/// The mean of (x - y)² over all elements, of shape [].
public func meanSquaredError(_ x: Variable, _ y: Variable) -> Variable {
    let span = Profile.begin("meanSquaredError")
    defer { span.end() }
    precondition(x.shape == y.shape, "meanSquaredError: shapes \(x.shape) and \(y.shape) differ")
    let difference = x.tensor - y.tensor
    let count = Float(max(difference.count, 1))
    return .operation(Tensor(scalar: Float(difference.sumOfSquares / Double(count))), inputs: [x, y]) { gradient, inputs in
        let span = Profile.begin("meanSquaredError backward")
        defer { span.end() }
        let slope = 2 * gradient.item / count
        inputs[0].accumulate(difference * slope)
        inputs[1].accumulate(difference * -slope)
    }
}

/// e^x / Σ e^x over the last axis.
public func softmax(_ x: Variable) -> Variable {
    let span = Profile.begin("softmax")
    defer { span.end() }
    let width = x.shape.last ?? 0
    let rows = width > 0 ? x.tensor.count / width : 0
    let input = x.tensor
    let result = Tensor(uninitialized: x.shape)
    forParts(rows, cost: width * 4) { part in
        let place = part.lowerBound * width
        ck_softmax(input.pointer + place, result.mutablePointer + place, part.count, width)
    }
    withExtendedLifetime(input) {}
    return .operation(result, inputs: [x]) { gradient, inputs in
        let span = Profile.begin("softmax backward")
        defer { span.end() }
        inputs[0].accumulateInPlace { target, adds in
            forParts(rows, cost: width * 4) { part in
                let place = part.lowerBound * width
                ck_softmax_backward(
                    result.pointer + place, gradient.pointer + place, target + place, part.count, width, adds ? 1 : 0)
            }
        }
        withExtendedLifetime((gradient, result)) {}
    }
}
