import CKernels

extension Tensor {
    /// Joined along `axis`; all other sizes must agree.
    public static func concatenate(_ tensors: [Tensor], axis: Int = 0) -> Tensor {
        precondition(!tensors.isEmpty, "concatenate needs a tensor")
        if tensors.count == 1 { return tensors[0] }
        let first = tensors[0].shape
        precondition(axis >= 0 && axis < first.count, "concatenate: axis \(axis) of shape \(first)")
        var shape = first
        shape[axis] = 0
        for tensor in tensors {
            precondition(
                tensor.shape.count == first.count && first.indices.allSatisfy { $0 == axis || tensor.shape[$0] == first[$0] },
                "concatenate along \(axis): shapes \(first) and \(tensor.shape)")
            shape[axis] += tensor.shape[axis]
        }
        let inner = first[(axis + 1)...].reduce(1, *)
        let outer = first[..<axis].reduce(1, *)
        let row = shape[axis] * inner
        return Tensor(shape: shape) { target in
            guard let base = target.baseAddress, row > 0 else { return }
            var start = 0
            for tensor in tensors {
                let width = tensor.shape[axis] * inner
                tensor.withUnsafeBufferPointer { source in
                    guard let from = source.baseAddress else { return }
                    for o in 0..<outer { (base + o * row + start).update(from: from + o * width, count: width) }
                }
                start += width
            }
        }
    }

    /// Tensors of one shape along a new axis 0.
    public static func stack(_ tensors: [Tensor]) -> Tensor {
        concatenate(tensors.map { $0.reshaped([1] + $0.shape) }, axis: 0)
    }

    /// The part `range` of `axis`.
    public func sliced(axis: Int, _ range: Range<Int>) -> Tensor {
        precondition(axis >= 0 && axis < shape.count, "slice: axis \(axis) of shape \(shape)")
        precondition(range.lowerBound >= 0 && range.upperBound <= shape[axis], "slice \(range) of axis \(axis) of shape \(shape)")
        let outer = shape[..<axis].reduce(1, *)
        let inner = shape[(axis + 1)...].reduce(1, *)
        let row = shape[axis] * inner
        let width = range.count * inner
        var result = shape
        result[axis] = range.count
        if outer == 1 { return Tensor(shape: result, storage: storage, offset: offset + range.lowerBound * inner) }
        return Tensor(shape: result) { target in
            withUnsafeBufferPointer { source in
                guard width > 0, row > 0 else { return }
                for o in 0..<outer {
                    (target.baseAddress! + o * width).update(from: source.baseAddress! + o * row + range.lowerBound * inner, count: width)
                }
            }
        }
    }

    /// Axis `i` of the result is axis `axes[i]` of this tensor.
    public func permuted(_ axes: [Int]) -> Tensor {
        precondition(axes.sorted() == Array(shape.indices), "permute: \(axes) is no order of the axes of \(shape)")
        if axes == Array(shape.indices) { return self }
        var strides = [Int](repeating: 1, count: shape.count)
        for i in strides.indices.dropLast().reversed() { strides[i] = strides[i + 1] * shape[i + 1] }
        // Neighbouring axes that stay neighbours are walked as one.
        var sizes: [Int] = []
        var steps: [Int] = []
        for (i, axis) in axes.enumerated() {
            if i > 0, axes[i - 1] + 1 == axis {
                sizes[sizes.count - 1] *= shape[axis]
                steps[steps.count - 1] = strides[axis]
            } else {
                sizes.append(shape[axis])
                steps.append(strides[axis])
            }
        }
        let result = Tensor(uninitialized: axes.map { shape[$0] })
        guard count > 0 else { return result }
        let lines = sizes.dropLast().reduce(1, *)
        let width = sizes.last!
        let step = steps.last!
        let target = result.mutablePointer
        let source = pointer
        forParts(lines, cost: width) { part in
            var index = [Int](repeating: 0, count: sizes.count - 1)
            var rest = part.lowerBound
            var start = 0
            for i in index.indices.reversed() {
                index[i] = rest % sizes[i]
                rest /= sizes[i]
                start += index[i] * steps[i]
            }
            for line in part {
                let into = target + line * width
                let from = source + start
                if step == 1 {
                    into.update(from: from, count: width)
                } else {
                    for c in 0..<width { into[c] = from[c * step] }
                }
                var i = index.count - 1
                while i >= 0 {
                    index[i] += 1
                    start += steps[i]
                    if index[i] < sizes[i] { break }
                    start -= sizes[i] * steps[i]
                    index[i] = 0
                    i -= 1
                }
            }
        }
        withExtendedLifetime(self) {}
        return result
    }
}
