import CKernels

/// Shapes that stretch to a common one: aligned at the last axis, a size of one repeats (as in NumPy).
enum Broadcasting {
    static func shape(_ a: [Int], _ b: [Int], _ name: String) -> [Int] {
        if a == b { return a }
        let rank = max(a.count, b.count)
        let x = [Int](repeating: 1, count: rank - a.count) + a
        let y = [Int](repeating: 1, count: rank - b.count) + b
        return zip(x, y).map { p, q in
            precondition(p == q || p == 1 || q == 1, "\(name): shapes \(a) and \(b) do not broadcast")
            return p == 1 ? q : p
        }
    }
}

extension Tensor {
    /// Calls `body(start here, start in the stretched tensor, length)` for every run of the last axes that is contiguous in both (repeats:
    /// false) or constant here (repeats: true).
    private func forRuns(of stretched: [Int], _ body: (_ own: Int, _ other: Int, _ length: Int, _ repeats: Bool) -> Void) {
        let rank = stretched.count
        let own = [Int](repeating: 1, count: rank - shape.count) + shape
        // The innermost run: as many last axes as are all equal, or all stretched.
        var split = rank
        var length = 1
        let repeats = rank > 0 && own[rank - 1] == 1 && stretched[rank - 1] != 1
        while split > 0, repeats ? own[split - 1] == 1 : own[split - 1] == stretched[split - 1] {
            split -= 1
            length *= stretched[split]
        }
        var steps = [Int](repeating: 0, count: split)
        var step = repeats ? 1 : length
        for i in (0..<split).reversed() {
            steps[i] = own[i] == 1 ? 0 : step
            step *= own[i]
        }
        var index = [Int](repeating: 0, count: split)
        var place = 0
        for run in 0..<stretched[..<split].reduce(1, *) {
            body(place, run * length, length, repeats)
            var i = split - 1
            while i >= 0 {
                index[i] += 1
                place += steps[i]
                if index[i] < stretched[i] { break }
                place -= stretched[i] * steps[i]
                index[i] = 0
                i -= 1
            }
        }
    }

    /// Repeated along the axes of size one up to `stretched`.
    public func broadcast(to stretched: [Int]) -> Tensor {
        if shape == stretched { return self }
        precondition(Broadcasting.shape(shape, stretched, "broadcast") == stretched, "\(shape) does not broadcast to \(stretched)")
        let result = Tensor(uninitialized: stretched)
        let target = result.mutablePointer
        forRuns(of: stretched) { own, other, length, repeats in
            if repeats {
                ck_fill(target + other, pointer[own], length)
            } else {
                (target + other).update(from: pointer + own, count: length)
            }
        }
        withExtendedLifetime(self) {}
        return result
    }

    /// The adjoint of `broadcast`: summed over the axes along which `smaller` was repeated.
    public func reduced(to smaller: [Int]) -> Tensor {
        if shape == smaller { return self }
        let result = Tensor(zeros: smaller)
        let target = result.mutablePointer
        result.forRuns(of: shape) { own, other, length, repeats in
            if repeats {
                target[own] += Float(ck_sum(pointer + other, length))
            } else {
                ck_axpy(pointer + other, 1, target + own, length)
            }
        }
        withExtendedLifetime(self) {}
        return result
    }
}
