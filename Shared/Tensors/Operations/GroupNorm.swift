import CKernels

/// f((x - mean) / sqrt(variance + eps) * weight + bias) with one mean and variance for every batch entry and group of neighbouring channels,
/// over all its positions.
///
/// - Parameters:
///   - x: [B, …, C]
///   - weight: [C]; `bias` too
///   - activation: nil (f is the identity) or `.silu`, applied while the values are in registers
public func groupNorm(
    _ x: Variable, _ weight: Variable, _ bias: Variable, groups: Int, eps: Float, activation: Activation? = nil
) -> Variable {
    switch activation {
    case nil: return groupNorm(x, weight, bias, groups: groups, eps: eps, silu: false)
    case .silu?: return groupNorm(x, weight, bias, groups: groups, eps: eps, silu: true)
    case let other?: return activate(groupNorm(x, weight, bias, groups: groups, eps: eps, silu: false), other)
    }
}

private func groupNorm(_ x: Variable, _ weight: Variable, _ bias: Variable, groups: Int, eps: Float, silu: Bool) -> Variable {
    let shape = GroupNormShape(x, weight, bias, groups: groups)
    let (input, weights) = (x.tensor, weight.tensor)
    let (result, statistics) = Profile.measure("groupNorm") { shape.forward(input, weights, bias.tensor, eps: eps, silu: silu) }
    return .operation(result, inputs: [x, weight, bias]) { gradient, inputs in
        Profile.measure("groupNorm backward") { shape.backward(gradient, input, weights, statistics, silu: silu, inputs) }
    }
}

/// What a forward pass knows of every batch entry's groups and channels.
private struct GroupStatistics {
    /// Of every batch entry and group: the mean and 1 / sqrt(variance + eps).
    var means: [Double]
    var inverses: [Double]
    /// [2, B, C]: y = f(x * scale + shift).
    let scaleShift: Tensor
}

private struct GroupNormShape {
    let batch: Int
    /// Positions of one batch entry.
    let rows: Int
    let channels: Int
    let groups: Int

    init(_ x: Variable, _ weight: Variable, _ bias: Variable, groups: Int) {
        precondition(x.shape.count >= 2, "groupNorm needs [B, …, C], not \(x.shape)")
        batch = x.shape[0]
        channels = x.shape.last!
        rows = x.shape.dropFirst().dropLast().reduce(1, *)
        self.groups = groups
        precondition(groups > 0 && channels % groups == 0, "groupNorm: \(groups) groups of \(channels) channels")
        precondition(
            weight.shape == [channels] && bias.shape == [channels],
            "groupNorm: weight \(weight.shape) and bias \(bias.shape) for \(channels) channels")
    }

    private var width: Int { channels / groups }
    private var rowsPerPart: Int { max(1, (1 << 16) / max(channels, 1)) }
    private var parts: Int { (rows + rowsPerPart - 1) / rowsPerPart }

    private func forBlocks(_ body: (_ b: Int, _ part: Int, _ place: Int, _ rows: Int) -> Void) {
        forEachIndex(batch * parts) { index in
            let (b, part) = (index / parts, index % parts)
            let start = part * rowsPerPart
            body(b, part, (b * rows + start) * channels, min(rowsPerPart, rows - start))
        }
    }

    /// Two sums a channel over every batch entry's rows, [B, 2, C] flat: one partial sum a part, added in the order of the parts.
    private func sums(_ body: (_ b: Int, _ place: Int, _ rows: Int, _ sums: UnsafeMutablePointer<Double>) -> Void) -> [Double] {
        let size = 2 * channels
        let partials = UnsafeMutablePointer<Double>.allocate(capacity: max(1, batch * parts * size))
        defer { partials.deallocate() }
        forBlocks { b, part, place, rows in body(b, place, rows, partials + (b * parts + part) * size) }
        var result = [Double](repeating: 0, count: batch * size)
        for index in 0..<batch * parts {
            let target = index / parts * size
            for c in 0..<size { result[target + c] += partials[index * size + c] }
        }
        return result
    }

    func forward(_ x: Tensor, _ weight: Tensor, _ bias: Tensor, eps: Float, silu: Bool) -> (Tensor, GroupStatistics) {
        let sums = sums { _, place, rows, sums in ck_channel_sums(x.pointer + place, sums, sums + channels, rows, channels) }
        let scaleShift = Tensor(uninitialized: [2, batch, channels])
        let scales = scaleShift.mutablePointer
        let shifts = scales + batch * channels
        var statistics = GroupStatistics(means: [], inverses: [], scaleShift: scaleShift)
        let count = Double(max(rows * width, 1))
        for b in 0..<batch {
            for g in 0..<groups {
                let first = b * 2 * channels + g * width
                let mean = sums[first..<first + width].reduce(0, +) / count
                let square = sums[first + channels..<first + channels + width].reduce(0, +) / count
                let inverse = 1 / (max(0, square - mean * mean) + Double(eps)).squareRoot()
                statistics.means.append(mean)
                statistics.inverses.append(inverse)
                for c in g * width..<(g + 1) * width {
                    let scale = Double(weight.pointer[c]) * inverse
                    scales[b * channels + c] = Float(scale)
                    shifts[b * channels + c] = Float(Double(bias.pointer[c]) - mean * scale)
                }
            }
        }
        let result = Tensor(uninitialized: x.shape)
        forBlocks { b, _, place, rows in
            ck_scale_shift(
                x.pointer + place, scales + b * channels, shifts + b * channels, silu ? 1 : 0, result.mutablePointer + place, rows, channels
            )
        }
        withExtendedLifetime((x, weight, bias, scaleShift)) {}
        return (result, statistics)
    }

    /// With g = dy f', n = (x - mean) inverse and N values in a group:  dx = inverse (w g - (Σ w g + n Σ w g n) / N),  dw = Σ g n,  db = Σ g.
    func backward(
        _ gradient: Tensor, _ x: Tensor, _ weight: Tensor, _ statistics: GroupStatistics, silu: Bool, _ variables: [Node]
    ) {
        let scales = statistics.scaleShift.pointer
        let shifts = scales + batch * channels
        let silu: Int32 = silu ? 1 : 0
        let sums = sums { b, place, rows, sums in
            ck_scale_shift_sums(
                x.pointer + place, gradient.pointer + place, scales + b * channels, shifts + b * channels, silu, sums, sums + channels,
                rows,
                channels)
        }
        let slopeOffset = Tensor(uninitialized: [2, batch, channels])
        let slopes = slopeOffset.mutablePointer
        let offsets = slopes + batch * channels
        let (weightSums, biasSums) = (Tensor(zeros: [channels]), Tensor(zeros: [channels]))
        let share = 1 / Double(max(rows * width, 1))
        for b in 0..<batch {
            for g in 0..<groups {
                let (mean, inverse) = (statistics.means[b * groups + g], statistics.inverses[b * groups + g])
                var (plain, turned) = (0.0, 0.0)
                for c in g * width..<(g + 1) * width {
                    let sum = sums[b * 2 * channels + c]
                    let product = (sums[(b * 2 + 1) * channels + c] - mean * sum) * inverse
                    plain += Double(weight.pointer[c]) * sum
                    turned += Double(weight.pointer[c]) * product
                    weightSums.mutablePointer[c] += Float(product)
                    biasSums.mutablePointer[c] += Float(sum)
                }
                let slope = -inverse * inverse * turned * share
                for c in b * channels + g * width..<b * channels + (g + 1) * width {
                    slopes[c] = Float(slope)
                    offsets[c] = Float(-inverse * plain * share - mean * slope)
                }
            }
        }
        variables[0].accumulateInPlace { target, adds in
            forBlocks { b, _, place, rows in
                let c = b * channels
                ck_group_norm_backward(
                    x.pointer + place, gradient.pointer + place, scales + c, shifts + c, silu, slopes + c, offsets + c, target + place,
                    adds ? 1 : 0, rows, channels)
            }
        }
        variables[1].accumulate(weightSums)
        variables[2].accumulate(biasSums)
        withExtendedLifetime((gradient, x, weight, statistics.scaleShift, slopeOffset)) {}
    }
}
