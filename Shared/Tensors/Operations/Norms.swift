import CKernels

/// (x - mean) / sqrt(variance + eps) * weight + bias over the last axis; weight and bias [D] or nil.
public func layerNorm(_ x: Variable, _ weight: Variable? = nil, _ bias: Variable? = nil, eps: Float) -> Variable {
    let span = Profile.begin("layerNorm")
    defer { span.end() }
    let width = x.shape.last ?? 0
    for (name, parameter) in [("weight", weight), ("bias", bias)] {
        if let parameter { precondition(parameter.shape == [width], "layerNorm: a \(name) of shape \(parameter.shape) for x \(x.shape)") }
    }
    let rows = width > 0 ? x.tensor.count / width : 0
    let (input, weights, biases) = (x.tensor, weight?.tensor, bias?.tensor)
    let result = Tensor(uninitialized: x.shape)
    let means = Tensor(uninitialized: [rows])
    let inverses = Tensor(uninitialized: [rows])
    forParts(rows, cost: width) { part in
        let place = part.lowerBound * width
        ck_layer_norm(
            input.pointer + place, weights?.pointer, biases?.pointer, 0, eps, result.mutablePointer + place,
            means.mutablePointer + part.lowerBound, inverses.mutablePointer + part.lowerBound, part.count, width)
    }
    withExtendedLifetime((input, weights, biases)) {}
    let wantsSums = (weight?.requiresGradient ?? false, bias?.requiresGradient ?? false)
    return .operation(result, inputs: [x] + [weight, bias].compactMap { $0 }) { gradient, inputs in
        let span = Profile.begin("layerNorm backward")
        defer { span.end() }
        let sums = PartialSums(width: width, rows: rows, kinds: (wantsSums.0 ? 1 : 0) + (wantsSums.1 ? 1 : 0))
        let pass = { (target: UnsafeMutablePointer<Float>?, adds: Bool) in
            sums.forRows { part, partial in
                let place = part.lowerBound * width
                ck_layer_norm_backward(
                    gradient.pointer + place, input.pointer + place, weights?.pointer, 0, means.pointer + part.lowerBound,
                    inverses.pointer + part.lowerBound, target.map { $0 + place }, adds ? 1 : 0, wantsSums.0 ? partial : nil,
                    wantsSums.1 ? partial! + (wantsSums.0 ? width : 0) : nil, part.count, width)
            }
        }
        if inputs[0].requiresGradient { inputs[0].accumulateInPlace { pass($0, $1) } } else { pass(nil, false) }
        var kind = 0
        if let weight, wantsSums.0 { inputs[1].accumulate(sums.total(kind, weight.shape)) }
        if wantsSums.0 { kind += 1 }
        if let bias, wantsSums.1 { inputs[inputs.count - 1].accumulate(sums.total(kind, bias.shape)) }
        withExtendedLifetime((gradient, input, weights, means, inverses)) {}
    }
}

/// (x - mean) / sqrt(variance + eps) * (1 + scale) + shift for x [B, N, D], shift and scale [B, D] (or [B, 1, D]): AdaLN in one pass.
public func layerNormModulate(_ x: Variable, shift: Variable, scale: Variable, eps: Float) -> Variable {
    let span = Profile.begin("layerNormModulate")
    defer { span.end() }
    let (batch, rows, width) = batchRowsWidth(x, "layerNormModulate")
    requirePerBatch(shift, batch, width, "layerNormModulate: shift")
    requirePerBatch(scale, batch, width, "layerNormModulate: scale")
    let (input, shifts, scales) = (x.tensor, shift.tensor, scale.tensor)
    let result = Tensor(uninitialized: x.shape)
    let means = Tensor(uninitialized: [batch * rows])
    let inverses = Tensor(uninitialized: [batch * rows])
    forEachBatch(batch, rows, width) { b, start, count in
        let row = b * rows + start
        ck_layer_norm(
            input.pointer + row * width, scales.pointer + b * width, shifts.pointer + b * width, 1, eps,
            result.mutablePointer + row * width,
            means.mutablePointer + row, inverses.mutablePointer + row, count, width)
    }
    withExtendedLifetime((input, shifts, scales)) {}
    return .operation(result, inputs: [x, shift, scale]) { gradient, inputs in
        let span = Profile.begin("layerNormModulate backward")
        defer { span.end() }
        let shiftSums = inputs[1].requiresGradient ? Tensor(zeros: inputs[1].shape) : nil
        let scaleSums = inputs[2].requiresGradient ? Tensor(zeros: inputs[2].shape) : nil
        let pass = { (target: UnsafeMutablePointer<Float>?, adds: Bool) in
            let body = { (b: Int, start: Int, count: Int) in
                let row = b * rows + start
                ck_layer_norm_backward(
                    gradient.pointer + row * width, input.pointer + row * width, scales.pointer + b * width, 1, means.pointer + row,
                    inverses.pointer + row, target.map { $0 + row * width }, adds ? 1 : 0, scaleSums.map { $0.mutablePointer + b * width },
                    shiftSums.map { $0.mutablePointer + b * width }, count, width)
            }
            if shiftSums == nil, scaleSums == nil {
                forEachBatch(batch, rows, width, body)
            } else {
                // A batch entry a part: its sums over rows have one order.
                forParts(batch, cost: rows * width) { part in for b in part { body(b, 0, rows) } }
            }
        }
        if inputs[0].requiresGradient { inputs[0].accumulateInPlace { pass($0, $1) } } else { pass(nil, false) }
        if let shiftSums { inputs[1].accumulate(shiftSums) }
        if let scaleSums { inputs[2].accumulate(scaleSums) }
        withExtendedLifetime((gradient, input, scales, means, inverses)) {}
    }
}

/// x / sqrt(mean(x²) + eps) * weight over the last axis (for Wan's query and key norms: across all heads).
public func rmsNorm(_ x: Variable, _ weight: Variable? = nil, eps: Float) -> Variable {
    let span = Profile.begin("rmsNorm")
    defer { span.end() }
    let width = x.shape.last ?? 0
    if let weight { precondition(weight.shape == [width], "rmsNorm: a weight of shape \(weight.shape) for x \(x.shape)") }
    let rows = width > 0 ? x.tensor.count / width : 0
    let (input, weights) = (x.tensor, weight?.tensor)
    let result = Tensor(uninitialized: x.shape)
    let inverses = Tensor(uninitialized: [rows])
    forParts(rows, cost: width) { part in
        let place = part.lowerBound * width
        ck_rms_norm(
            input.pointer + place, weights?.pointer, eps, result.mutablePointer + place, inverses.mutablePointer + part.lowerBound,
            part.count,
            width)
    }
    withExtendedLifetime((input, weights)) {}
    let wantsSums = weight?.requiresGradient ?? false
    return .operation(result, inputs: [x] + (weight.map { [$0] } ?? [])) { gradient, inputs in
        let span = Profile.begin("rmsNorm backward")
        defer { span.end() }
        let sums = PartialSums(width: width, rows: rows, kinds: wantsSums ? 1 : 0)
        let pass = { (target: UnsafeMutablePointer<Float>?, adds: Bool) in
            sums.forRows { part, partial in
                let place = part.lowerBound * width
                ck_rms_norm_backward(
                    gradient.pointer + place, input.pointer + place, weights?.pointer, inverses.pointer + part.lowerBound,
                    target.map { $0 + place }, adds ? 1 : 0, partial, part.count, width)
            }
        }
        if inputs[0].requiresGradient { inputs[0].accumulateInPlace { pass($0, $1) } } else { pass(nil, false) }
        if wantsSums { inputs[1].accumulate(sums.total(0, [width])) }
        withExtendedLifetime((gradient, input, weights, inverses)) {}
    }
}

/// Sums over rows that several threads compute: one partial sum a part, added up in the order of the parts.
private struct PartialSums {
    let width: Int
    let rows: Int
    let kinds: Int
    let size: Int
    let parts: Int
    let partials: Tensor

    init(width: Int, rows: Int, kinds: Int) {
        self.width = width
        self.rows = rows
        self.kinds = kinds
        size = max(1, (1 << 16) / max(width, 1))
        parts = (rows + size - 1) / size
        partials = Tensor(zeros: [parts, kinds * width])
    }

    func forRows(_ body: (Range<Int>, UnsafeMutablePointer<Float>?) -> Void) {
        forEachIndex(parts) { part in
            body(part * size..<min(rows, (part + 1) * size), kinds > 0 ? partials.mutablePointer + part * kinds * width : nil)
        }
    }

    func total(_ kind: Int, _ shape: [Int]) -> Tensor {
        let result = Tensor(zeros: shape)
        for part in 0..<parts { ck_axpy(partials.pointer + (part * kinds + kind) * width, 1, result.mutablePointer, width) }
        withExtendedLifetime(partials) {}
        return result
    }
}
