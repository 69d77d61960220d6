import CKernels

// Element-wise arithmetic. Where shapes differ they are stretched as in NumPy; a stretched input's gradient is summed back.

/// x + y
public func add(_ x: Variable, _ y: Variable) -> Variable {
    .operation(combine(x, y, "add", +), inputs: [x, y]) { gradient, inputs in
        let span = Profile.begin("add backward")
        defer { span.end() }
        inputs[0].accumulate(gradient.reduced(to: inputs[0].shape))
        inputs[1].accumulate(gradient.reduced(to: inputs[1].shape))
    }
}

/// x - y
public func subtract(_ x: Variable, _ y: Variable) -> Variable {
    .operation(combine(x, y, "subtract", -), inputs: [x, y]) { gradient, inputs in
        let span = Profile.begin("subtract backward")
        defer { span.end() }
        inputs[0].accumulate(gradient.reduced(to: inputs[0].shape))
        inputs[1].accumulate(-gradient.reduced(to: inputs[1].shape))
    }
}

/// x * y
public func multiply(_ x: Variable, _ y: Variable) -> Variable {
    let a = y.requiresGradient ? x.tensor : nil
    let b = x.requiresGradient ? y.tensor : nil
    return .operation(combine(x, y, "multiply", *), inputs: [x, y]) { gradient, inputs in
        let span = Profile.begin("multiply backward")
        defer { span.end() }
        if let b { inputs[0].accumulate((gradient * b.broadcast(to: gradient.shape)).reduced(to: inputs[0].shape)) }
        if let a { inputs[1].accumulate((gradient * a.broadcast(to: gradient.shape)).reduced(to: inputs[1].shape)) }
    }
}

/// x / y
public func divide(_ x: Variable, _ y: Variable) -> Variable {
    let result = combine(x, y, "divide", /)
    let b = y.tensor
    return .operation(result, inputs: [x, y]) { gradient, inputs in
        let span = Profile.begin("divide backward")
        defer { span.end() }
        let slope = gradient / b.broadcast(to: gradient.shape)
        inputs[0].accumulate(slope.reduced(to: inputs[0].shape))
        inputs[1].accumulate(-(slope * result).reduced(to: inputs[1].shape))
    }
}

/// factor * x
public func scale(_ x: Variable, _ factor: Float) -> Variable {
    let span = Profile.begin("scale")
    defer { span.end() }
    return .operation(x.tensor * factor, inputs: [x]) { gradient, inputs in
        let span = Profile.begin("scale backward")
        defer { span.end() }
        inputs[0].accumulateInPlace { target, adds in
            gradient.withUnsafeBufferPointer { source in
                let from = source.baseAddress!
                forElements(source.count) { part in
                    if adds {
                        ck_axpy(from + part.lowerBound, factor, target + part.lowerBound, part.count)
                    } else {
                        ck_affine(from + part.lowerBound, factor, 0, target + part.lowerBound, part.count)
                    }
                }
            }
        }
    }
}

/// x + constant
public func shift(_ x: Variable, _ constant: Float) -> Variable {
    let span = Profile.begin("shift")
    defer { span.end() }
    return .operation(x.tensor + constant, inputs: [x]) { gradient, inputs in
        let span = Profile.begin("shift backward")
        defer { span.end() }
        inputs[0].accumulate(gradient)
    }
}

private func combine(_ x: Variable, _ y: Variable, _ name: StaticString, _ operation: (Tensor, Tensor) -> Tensor) -> Tensor {
    let span = Profile.begin(name)
    defer { span.end() }
    let shape = Broadcasting.shape(x.shape, y.shape, name.description)
    return operation(x.tensor.broadcast(to: shape), y.tensor.broadcast(to: shape))
}

extension Variable {
    public static func + (x: Variable, y: Variable) -> Variable { add(x, y) }
    public static func - (x: Variable, y: Variable) -> Variable { subtract(x, y) }
    public static func * (x: Variable, y: Variable) -> Variable { multiply(x, y) }
    public static func * (x: Variable, factor: Float) -> Variable { scale(x, factor) }
    public static func * (factor: Float, x: Variable) -> Variable { scale(x, factor) }
    public static prefix func - (x: Variable) -> Variable { scale(x, -1) }
}

/// x + y * gate for x, y [B, N, D] and gate [B, D] (or [B, 1, D]): the residual of an AdaLN block, in one pass.
public func gatedResidual(_ x: Variable, _ y: Variable, gate: Variable) -> Variable {
    let span = Profile.begin("gatedResidual")
    defer { span.end() }
    let (batch, rows, width) = batchRowsWidth(x, "gatedResidual")
    precondition(y.shape == x.shape, "gatedResidual: shapes \(x.shape) and \(y.shape) differ")
    requirePerBatch(gate, batch, width, "gatedResidual: gate")
    let result = Tensor(uninitialized: x.shape)
    let (xs, ys, gates) = (x.tensor, y.tensor, gate.tensor)
    forEachBatch(batch, rows, width) { b, start, count in
        let place = (b * rows + start) * width
        ck_gated_residual(xs.pointer + place, ys.pointer + place, gates.pointer + b * width, result.mutablePointer + place, count, width)
    }
    withExtendedLifetime((xs, ys, gates)) {}
    let branch = gate.requiresGradient ? ys : nil
    return .operation(result, inputs: [x, y, gate]) { gradient, inputs in
        let span = Profile.begin("gatedResidual backward")
        defer { span.end() }
        inputs[0].accumulate(gradient)
        inputs[1].accumulateInPlace { target, adds in
            forEachBatch(batch, rows, width) { b, start, count in
                let place = (b * rows + start) * width
                ck_gated_residual_backward(
                    gradient.pointer + place, nil, gates.pointer + b * width, target + place, adds ? 1 : 0, nil, count, width)
            }
        }
        if let branch {
            // A batch entry a part: its sum over rows has one order.
            let sums = Tensor(uninitialized: inputs[2].shape)
            forParts(batch, cost: rows * width) { part in
                for b in part {
                    let place = b * rows * width
                    ck_gated_residual_backward(
                        gradient.pointer + place, branch.pointer + place, gates.pointer + b * width, nil, 0,
                        sums.mutablePointer + b * width, rows, width)
                }
            }
            inputs[2].accumulate(sums)
        }
        withExtendedLifetime((gradient, gates, branch)) {}
    }
}

/// Calls body(batch entry, first row, rows) over parts of [B, N, D] that never cross a batch entry.
func forEachBatch(_ batch: Int, _ rows: Int, _ width: Int, _ body: (_ b: Int, _ start: Int, _ count: Int) -> Void) {
    if rows * width <= 1 << 16 {
        forParts(batch, cost: rows * width) { part in for b in part { body(b, 0, rows) } }
    } else {
        let size = max(1, (1 << 16) / max(width, 1))
        let parts = (rows + size - 1) / size
        forEachIndex(batch * parts) { index in
            let start = index % parts * size
            body(index / parts, start, min(size, rows - start))
        }
    }
}

func batchRowsWidth(_ x: Variable, _ name: String) -> (Int, Int, Int) {
    precondition(x.shape.count == 3, "\(name) needs [B, N, D], not \(x.shape)")
    return (x.shape[0], x.shape[1], x.shape[2])
}

func requirePerBatch(_ x: Variable, _ batch: Int, _ width: Int, _ name: String) {
    precondition(x.shape == [batch, width] || x.shape == [batch, 1, width], "\(name) needs [\(batch), \(width)], not \(x.shape)")
}
