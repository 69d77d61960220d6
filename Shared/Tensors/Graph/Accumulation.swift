import CKernels

extension Node {
    /// Adds `contribution` to this node's gradient; does nothing where none is required.
    public func accumulate(_ contribution: @autoclosure () -> Tensor) {
        guard requiresGradient else { return }
        let value = contribution()
        precondition(value.shape == shape, "a gradient of shape \(value.shape) for a tensor of shape \(shape)")
        if gradient == nil { gradient = value } else { gradient!.add(value) }
    }

    /// Adds `contribution` to the part `range` of `axis` of this node's gradient.
    func accumulate(_ contribution: Tensor, axis: Int, _ range: Range<Int>) {
        let inner = shape[(axis + 1)...].reduce(1, *)
        let row = shape[axis] * inner
        let width = range.count * inner
        accumulateInPlace { target, adds in
            if !adds { ck_fill(target, 0, shape.reduce(1, *)) }
            for outer in 0..<shape[..<axis].reduce(1, *) {
                ck_axpy(contribution.pointer + outer * width, 1, target + outer * row + range.lowerBound * inner, width)
            }
        }
        withExtendedLifetime(contribution) {}
    }

    /// Lets a kernel write (`adds` false: every element) or add (`adds` true) straight into the gradient's memory.
    func accumulateInPlace(_ body: (_ gradient: UnsafeMutablePointer<Float>, _ adds: Bool) -> Void) {
        guard requiresGradient else { return }
        if gradient == nil {
            let fresh = Tensor(uninitialized: shape)
            body(fresh.mutablePointer, false)
            gradient = fresh
        } else {
            gradient!.withUnsafeMutableBufferPointer { body($0.baseAddress!, true) }
        }
    }
}

extension Variable {
    /// Adds `contribution` to the gradient; does nothing where none is required.
    public func accumulate(_ contribution: @autoclosure () -> Tensor) { node?.accumulate(contribution()) }
}

extension Optional {
    /// The value, leaving nil behind.
    mutating func take() -> Wrapped? {
        defer { self = nil }
        return self
    }
}
