import Diffusion
import Foundation
import Tensors
import Testing

struct LogProbabilityTests {
    /// A clipping schedule of each prediction type, and a flow's: steps with noise from the first, the middle and near the end.
    static func steps() throws -> [[DiffusionStep]] {
        var result: [[DiffusionStep]] = []
        for prediction in DDIMConfiguration.Prediction.allCases {
            for clip in [nil, 0.6] {
                var configuration = DDIMConfiguration.stableDiffusion
                configuration.prediction = prediction
                configuration.clipRange = clip
                let schedule = try DDIMSchedule(configuration, steps: 20)
                result.append(try [0, 10, 17].map { try schedule.step($0, eta: 0.8) })
            }
        }
        let flow = FlowMatchSchedule(steps: 20, shift: 3)
        result.append(try [1, 10, 17].map { try flow.step($0, eta: 0.8) })
        return result
    }

    /// log p in Float64 from the step's published numbers alone.
    static func reference(_ step: DiffusionStep, _ next: [Float], _ sample: [Float], _ output: [Double], sum: Bool) -> Double {
        let terms = next.indices.map { index in
            let (x, o) = (Double(sample[index]), output[index])
            let (a, s) = (step.alpha, step.sigma)
            var (clean, noise): (Double, Double) =
                switch step.prediction {
                case .epsilon: ((x - s * o) / a, o)
                case .velocity: (a * x - s * o, a * o + s * x)
                case .sample: (o, (x - a * o) / s)
                case .flow: (x - s * o, x + (1 - s) * o)
                }
            if let range = step.clipRange { clean = min(max(clean, -range), range) }
            let deviation = step.standardDeviation
            noise *= (step.nextSigma * step.nextSigma - deviation * deviation).squareRoot()
            let z = (Double(next[index]) - step.nextAlpha * clean - noise) / deviation
            return -z * z / 2 - log(deviation) - log(2 * Double.pi) / 2
        }
        return terms.reduce(0, +) / (sum ? 1 : Double(terms.count))
    }

    @Test func `Value and gradient are those of the density, for every prediction, clipped or not, one step an item`() throws {
        for (number, steps) in try Self.steps().enumerated() {
            let (sample, output, noise) = (normal([3, 5], seed: 1), normal([3, 5], seed: 2), normal([3, 5], seed: 3))
            // Drawn from a model that is a little off, as the reference is.
            let mean = steps.mean(sample: sample, output: output + normal([3, 5], seed: 4) * 0.05)
            let next = Tensor(
                (0..<15).map { mean.array[$0] + Float(steps[$0 / 5].standardDeviation) * noise.array[$0] }, shape: [3, 5])
            for reduction in [LogProbabilityReduction.mean, .sum] {
                let variable = Variable(output, requiresGradient: true)
                let found = try steps.logProbability(of: next, sample: sample, output: variable, reduction: reduction)
                let weights: [Float] = [1, -2, 0.5]
                found.backward(Tensor(weights, shape: [3]))
                let gradient = try #require(variable.gradient)
                for item in 0..<3 {
                    let rows = item * 5..<(item + 1) * 5
                    let slice = { (tensor: Tensor) in Array(tensor.array[rows]) }
                    let values = slice(output).map(Double.init)
                    let density = { (output: [Double]) in
                        Self.reference(steps[item], slice(next), slice(sample), output, sum: reduction == .sum)
                    }
                    let expected = density(values)
                    #expect(abs(Double(found.tensor.array[item]) - expected) < 2e-4 * max(1, abs(expected)), "set \(number) item \(item)")
                    let differences = values.indices.map { index in
                        var (above, below) = (values, values)
                        above[index] += 1e-5
                        below[index] -= 1e-5
                        return Double(weights[item]) * (density(above) - density(below)) / 2e-5
                    }
                    #expect(distance(slice(gradient), differences) < 1e-3, "set \(number) item \(item)")
                }
            }
        }
    }

    @Test func `Clipping is met in these tests, on both sides, and stops the gradient through the clean estimate`() throws {
        let steps = try Self.steps()[1]
        let sample = normal([3, 5], seed: 1)
        let clean = steps.cleanEstimate(sample: sample, output: normal([3, 5], seed: 2)).array
        #expect(clean.contains(0.6) && clean.contains(-0.6) && clean.contains { abs($0) < 0.6 })
    }

    @Test func `A step's draw lies where its own density says: mean and spread of many draws`() throws {
        let step = try DDIMSchedule(.stableDiffusion, steps: 20).step(5, eta: 1)
        let (sample, output) = (Tensor(full: 0.3, shape: [1, 20000]), Tensor(full: -0.2, shape: [1, 20000]))
        let draws = step.next(sample: sample, output: output, noise: normal([1, 20000], seed: 9)).array.map(Double.init)
        let mean = draws.reduce(0, +) / 20000
        let spread = (draws.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 20000).squareRoot()
        #expect(abs(mean - Double(step.mean(sample: sample, output: output).array[0])) < 4 * step.standardDeviation / 141)
        #expect(abs(spread / step.standardDeviation - 1) < 0.02)
        // The expected log-density of a Gaussian's own draw is minus its entropy.
        let found = try step.logProbability(
            of: Tensor(draws.map(Float.init), shape: [1, 20000]), sample: sample, output: Variable(output)
        ).tensor.item
        #expect(abs(Double(found) + log(step.standardDeviation) + 0.5 * log(2 * Double.pi) + 0.5) < 0.02)
    }

    @Test func `The ratio of winner and loser is an inner product of their difference and the models'`() throws {
        for steps in try Self.steps() where steps[0].clipRange == nil {
            for step in steps {
                let sample = normal([1, 64], seed: 1)
                let (policy, reference) = (normal([1, 64], seed: 2), normal([1, 64], seed: 2) + normal([1, 64], seed: 3) * 0.1)
                let draws = [4, 5].map { step.next(sample: sample, output: reference, noise: normal([1, 64], seed: $0)) }
                let ratios = try draws.map { next in
                    try step.logRatio(of: next, sample: sample, output: Variable(policy), reference: reference).tensor.item
                }
                let moved = zip(step.mean(sample: sample, output: policy).array, step.mean(sample: sample, output: reference).array)
                    .map { Double($0) - Double($1) }
                let apart = zip(draws[0].array, draws[1].array).map { Double($0) - Double($1) }
                let variance = step.standardDeviation * step.standardDeviation
                let product = zip(apart, moved).reduce(0) { $0 + $1.0 * $1.1 } / (variance * 64)
                #expect(abs(Double(ratios[0] - ratios[1]) - product) < 1e-4 * max(1, abs(product)))
                // The same from noise alone: (c_t/(σ_t·D))·<z_w − z_l, difference of the outputs>.
                let leverage = step.meanWeights.output / (step.standardDeviation * 64)
                let noises = zip(normal([1, 64], seed: 4).array, normal([1, 64], seed: 5).array).map { Double($0) - Double($1) }
                let outputs = zip(policy.array, reference.array).map { Double($0) - Double($1) }
                let short = leverage * zip(noises, outputs).reduce(0) { $0 + $1.0 * $1.1 }
                #expect(abs(short - product) < 1e-4 * max(1, abs(product)))
            }
        }
    }

    @Test func `The identity holds to float64's round-off in the schedule's own numbers`() throws {
        let schedule = try DDIMSchedule(.stableDiffusion, steps: 20)
        for index in 0..<20 {
            let step = try schedule.step(index, eta: 1)
            let (a, b) = step.meanWeights
            let variance = step.standardDeviation * step.standardDeviation
            let z = normal([4, 16], seed: UInt64(index)).array.map(Double.init)
            let (x, policy, reference) = (z[0..<16], z[16..<32], z[32..<48])
            let mean = { (output: ArraySlice<Double>) in zip(x, output).map { a * $0 + b * $1 } }
            let (own, frozen) = (mean(policy), mean(reference))
            let winner = frozen.indices.map { frozen[$0] + step.standardDeviation * z[48 + $0] }
            let loser = frozen.indices.map { frozen[$0] - step.standardDeviation * z[$0] }
            let log = { (next: [Double], mean: [Double]) in
                -zip(next, mean).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / (2 * variance * 16)
            }
            let direct = log(winner, own) - log(winner, frozen) - log(loser, own) + log(loser, frozen)
            let product =
                frozen.indices.reduce(0) { $0 + (winner[$1] - loser[$1]) * (own[$1] - frozen[$1]) } / (variance * 16)
            let scale = max(1, abs(log(winner, own)) + abs(log(loser, own)))
            #expect(abs(direct - product) < 1e-13 * scale, "step \(index)")
        }
    }

    @Test func `A ratio equals the difference of log-probabilities, is zero for equal models, and has their gradient`() throws {
        for steps in try Self.steps() {
            let (sample, output) = (normal([3, 5], seed: 1), normal([3, 5], seed: 2))
            let reference = output + normal([3, 5], seed: 3) * 0.02
            let next = steps.mean(sample: sample, output: reference) + normal([3, 5], seed: 4) * 0.1
            for reduction in [LogProbabilityReduction.mean, .sum] {
                let same = try steps.logRatio(
                    of: next, sample: sample, output: Variable(output), reference: output, reduction: reduction)
                #expect(same.tensor.array == [0, 0, 0])
                let (first, second) = (Variable(output, requiresGradient: true), Variable(output, requiresGradient: true))
                let ratio = try steps.logRatio(of: next, sample: sample, output: first, reference: reference, reduction: reduction)
                let own = try steps.logProbability(of: next, sample: sample, output: second, reduction: reduction)
                let theirs = try steps.logProbability(of: next, sample: sample, output: Variable(reference), reduction: reduction)
                for item in 0..<3 {
                    let difference = Double(own.tensor.array[item]) - Double(theirs.tensor.array[item])
                    let scale = max(1, abs(Double(own.tensor.array[item])))
                    #expect(abs(Double(ratio.tensor.array[item]) - difference) < 2e-5 * scale)
                }
                let ones = Tensor(full: 1, shape: [3])
                ratio.backward(ones)
                own.backward(ones)
                #expect(first.gradient == second.gradient)
            }
        }
    }
}
