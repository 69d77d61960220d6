import Foundation
public import Tensors

/// How the log-densities of a latent's elements become one number.
public enum LogProbabilityReduction: Sendable, Hashable {
    /// The mean over the elements: LPO's, SPO's and DDPO's convention, to which their β = 500, 10 and clip ranges belong.
    case mean
    /// The sum over the elements: the true log-density. A β for means is divided by the number of elements.
    case sum

    func weight(_ elements: Int) -> Double { self == .mean ? 1 / Double(Swift.max(elements, 1)) : 1 }
}

extension [DiffusionStep] {
    /// log p(next | sample) of each item under its step's Gaussian, constants included.
    ///
    /// Sums run in Float64. The gradient goes to `output`; the sample and the next sample are constants, as they are in policy optimisation.
    /// - Parameters:
    ///   - next: x_s [B, …], drawn from any model's Gaussian at this step.
    ///   - sample: x_t [B, …].
    ///   - output: the model's output, of the same shape; guidance is the caller's.
    /// - Returns: [B].
    /// - Throws: `DiffusionError` where a step draws nothing (eta 0, or the last step to clean data): there is no density.
    public func logProbability(
        of next: Tensor, sample: Tensor, output: Variable, reduction: LogProbabilityReduction = .mean
    ) throws -> Variable {
        try requireDensity()
        let distance = residual(next, mean(sample: sample, output: output.tensor))
        let values = perItem(distance) { step, elements, span in
            let squares = span.reduce(0.0) { $0 + Double($1) * Double($1) }
            let variance = step.standardDeviation * step.standardDeviation
            let constant = -Foundation.log(step.standardDeviation) - 0.5 * Foundation.log(2 * Double.pi)
            return (-squares / (2 * variance) + Double(elements) * constant) * reduction.weight(elements)
        }
        return wrap(values, output, distance, sample, reduction)
    }

    /// `logProbability` under `output` minus that under `reference`, of each item, computed from the difference of the two means: where the
    /// policy has hardly moved, two log-probabilities in Float32 would differ by rounding alone.
    ///
    /// (1/σ²)·Σ (μ − μ_ref)·(x_s − (μ + μ_ref)/2), averaged or summed. Exactly zero where the outputs are equal.
    /// - Parameter reference: the frozen model's output, of the shape of `output`.
    /// - Returns: [B], with the gradient of `logProbability`.
    public func logRatio(
        of next: Tensor, sample: Tensor, output: Variable, reference: Tensor, reduction: LogProbabilityReduction = .mean
    ) throws -> Variable {
        try requireDensity()
        let (own, other) = (mean(sample: sample, output: output.tensor), mean(sample: sample, output: reference))
        let distance = residual(next, own)
        let moved = residual(own, other)
        let values = moved.withUnsafeBufferPointer { moved in
            perItem(distance) { step, elements, span in
                let product = span.indices.reduce(0.0) { sum, index in
                    let by = Double(moved[index])
                    return sum + by * (Double(span[index]) + by / 2)
                }
                return product / (step.standardDeviation * step.standardDeviation) * reduction.weight(elements)
            }
        }
        return wrap(values, output, distance, sample, reduction)
    }

    private func requireDensity() throws {
        for step in self where step.standardDeviation <= 0 {
            throw DiffusionError(
                "the step from timestep \(step.timestep) with eta \(step.eta) draws nothing: without noise there is no log-probability")
        }
    }

    private func residual(_ x: Tensor, _ y: Tensor) -> Tensor {
        precondition(!x.shape.isEmpty, "a batch [B, …] is needed, not a single number")
        return ItemWeights.combine(x, y, [(1, -1)])
    }

    /// One number an item of `x`: its step, its number of elements, and those elements.
    private func perItem(_ x: Tensor, _ body: (DiffusionStep, Int, Slice<UnsafeBufferPointer<Float>>) -> Double) -> Tensor {
        let batch = x.shape[0]
        let stride = x.count / Swift.max(batch, 1)
        return x.withUnsafeBufferPointer { values in
            Tensor(
                (0..<batch).map { item in
                    Float(body(self[count == 1 ? 0 : item], stride, values[item * stride..<(item + 1) * stride]))
                }, shape: [batch])
        }
    }

    /// d log p / d output = weight·(x_s − μ)/σ²·dμ/d output.
    private func wrap(
        _ values: Tensor, _ output: Variable, _ distance: Tensor, _ sample: Tensor, _ reduction: LogProbabilityReduction
    ) -> Variable {
        let prediction = output.tensor
        return .operation(values, inputs: [output]) { gradient, inputs in
            let slope = slope(sample: sample, output: prediction)
            let batch = distance.shape[0]
            let elements = distance.count / Swift.max(batch, 1)
            let upstream = gradient.array
            let factors = (0..<batch).map { item in
                let step = self[count == 1 ? 0 : item]
                return Float(Double(upstream[item]) * reduction.weight(elements) / (step.standardDeviation * step.standardDeviation))
            }
            inputs[0].accumulate(ItemWeights.combine(distance * slope, slope, factors.map { ($0, 0) }))
        }
    }
}
