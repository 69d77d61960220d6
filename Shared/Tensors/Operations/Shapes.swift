import CKernels

// Operations that move elements about.

public func reshape(_ x: Variable, _ shape: [Int]) -> Variable {
    let span = Profile.begin("reshape")
    defer { span.end() }
    return .operation(x.tensor.reshaped(shape), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("reshape backward")
        defer { span.end() }
        inputs[0].accumulate(gradient.reshaped(inputs[0].shape))
    }
}

/// Axis `i` of the result is axis `axes[i]` of x.
public func permute(_ x: Variable, _ axes: [Int]) -> Variable {
    let span = Profile.begin("permute")
    defer { span.end() }
    return .operation(x.tensor.permuted(axes), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("permute backward")
        defer { span.end() }
        var inverse = axes
        for (i, axis) in axes.enumerated() { inverse[axis] = i }
        inputs[0].accumulate(gradient.permuted(inverse))
    }
}

public func concatenate(_ inputs: [Variable], axis: Int = 0) -> Variable {
    let span = Profile.begin("concatenate")
    defer { span.end() }
    return .operation(Tensor.concatenate(inputs.map(\.tensor), axis: axis), inputs: inputs) { gradient, inputs in
        let span = Profile.begin("concatenate backward")
        defer { span.end() }
        var start = 0
        for input in inputs {
            let range = start..<start + input.shape[axis]
            input.accumulate(gradient.sliced(axis: axis, range))
            start = range.upperBound
        }
    }
}

/// The part `range` of `axis`.
public func slice(_ x: Variable, axis: Int, range: Range<Int>) -> Variable {
    let span = Profile.begin("slice")
    defer { span.end() }
    return .operation(x.tensor.sliced(axis: axis, range), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("slice backward")
        defer { span.end() }
        inputs[0].accumulate(gradient, axis: axis, range)
    }
}

public func slice(_ x: Variable, axis: Int, _ range: Range<Int>) -> Variable { slice(x, axis: axis, range: range) }

/// x repeated along its axes of size one (see `Tensor.broadcast`).
public func broadcast(_ x: Variable, to shape: [Int]) -> Variable {
    let span = Profile.begin("broadcast")
    defer { span.end() }
    return .operation(x.tensor.broadcast(to: shape), inputs: [x]) { gradient, inputs in
        let span = Profile.begin("broadcast backward")
        defer { span.end() }
        inputs[0].accumulate(gradient.reduced(to: inputs[0].shape))
    }
}
