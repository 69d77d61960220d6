import Diffusion
import Foundation
import Tensors
import Testing

struct FlowStepTests {
    struct Case: Decodable {
        let config: String, spacing: String, sigmas: [Double], timesteps: [Double], steps: Int
        let given: [Double]?, mu: Double?
        let start: [Float], outputs: [[Float]], samples: [[Double]]
    }

    @Test func `Schedules from configurations, and their Euler steps, are those of diffusers`() throws {
        let cases = try fixture("flow.json", as: [Case].self)
        #expect(cases.count == 8)
        for (number, row) in cases.enumerated() {
            guard case .flowMatching(let configuration) = try SchedulerConfiguration(json: Array(row.config.utf8)).noise else {
                Issue.record("case \(number) is not flow matching")
                continue
            }
            let schedule: FlowMatchSchedule
            if let given = row.given {
                schedule = try FlowMatchSchedule(unshifted: given, shift: configuration.shift, trainingSteps: configuration.trainingSteps)
            } else {
                let spacing = try #require(FlowMatchSchedule.Spacing(rawValue: row.spacing))
                schedule = try FlowMatchSchedule(configuration, steps: row.steps, spacing: spacing, mu: row.mu)
            }
            #expect(distance(schedule.sigmas, row.sigmas) < 1e-6, "case \(number)")
            #expect(distance(schedule.timesteps, row.timesteps) < 1e-6, "case \(number)")
            var x = Tensor(row.start, shape: [2, 3])
            for (index, output) in row.outputs.enumerated() {
                let velocity = Tensor(output, shape: [2, 3])
                let next = FlowMatchSchedule.eulerStep(x, velocity, from: schedule.sigmas[index], to: schedule.sigmas[index + 1])
                #expect(distance(next.array, row.samples[index]) < 2e-6, "case \(number) step \(index)")
                // Nothing drawn, the stochastic step is the Euler step.
                let step = try schedule.step(index, eta: 0)
                #expect(step.standardDeviation == 0)
                #expect(distance(step.next(sample: x, output: velocity).array, row.samples[index]) < 2e-6, "case \(number) step \(index)")
                x = next
            }
        }
    }

    @Test func `Dynamic shifting asks for its mu, by the line of the pipelines, and a fixed shift takes none`() throws {
        var configuration = FlowMatchConfiguration()
        #expect(message { try FlowMatchSchedule(configuration, steps: 4, mu: 1) }.contains("mu is given"))
        configuration.dynamic = FlowMatchConfiguration.Dynamic()
        #expect(message { try FlowMatchSchedule(configuration, steps: 4) }.contains("mu is needed"))
        #expect(message { try FlowMatchSchedule(configuration, steps: 0, mu: 1) }.contains("0 steps"))
        let dynamic = FlowMatchConfiguration.Dynamic()
        #expect(abs(dynamic.mu(tokens: 256) - 0.5) < 1e-12 && abs(dynamic.mu(tokens: 4096) - 1.15) < 1e-12)
        #expect(abs(dynamic.mu(tokens: 2176) - 0.825) < 1e-12)
        for sigmas in [[], [0.5, 0.5], [0.2, 0.7], [1.1, 0.3], [1, 0], [.nan]] {
            #expect(throws: DiffusionError.self) { try FlowMatchSchedule(unshifted: sigmas, shift: 3) }
        }
    }

    @Test func `The true posterior variance never exceeds the noise that is left; DDIM's formula taken literally does, on three steps`()
        throws
    {
        let schedule = FlowMatchSchedule(steps: 20, shift: 3)
        var failing: [Double] = []
        for index in 0..<20 {
            let step = try schedule.step(index, eta: 1)
            let variance = step.standardDeviation * step.standardDeviation
            #expect(variance <= step.nextSigma * step.nextSigma, "step \(index)")
            let ratio = step.alpha / step.nextAlpha
            let literal = pow(step.nextSigma / step.sigma, 2) * (1 - ratio * ratio)
            if literal > step.nextSigma * step.nextSigma { failing.append((step.sigma * 100).rounded() / 100) }
        }
        #expect(failing == [0.43, 0.35, 0.25])
        for (shift, steps) in [(1.0, 4), (3, 50), (5, 40), (12, 7)] {
            let schedule = FlowMatchSchedule(steps: steps, shift: Float(shift), spacing: .trainingTable)
            for index in 0..<steps {
                let step = try schedule.step(index, eta: 1)
                #expect(step.standardDeviation <= step.nextSigma, "shift \(shift) step \(index)")
                let kept = step.next(sample: normal([1, 8], seed: 1), output: normal([1, 8], seed: 2), noise: normal([1, 8], seed: 3))
                #expect(kept.array.allSatisfy { $0.isFinite })
            }
        }
    }

    @Test func `In the variance-preserving case it is DDIM's variance`() throws {
        for steps in [1, 7, 20, 50] {
            let schedule = try DDIMSchedule(.stableDiffusion, steps: steps)
            for index in 0..<steps {
                let timestep = schedule.timesteps[index]
                let (now, next) = (schedule.alphaBar(timestep), schedule.alphaBar(timestep - 1000 / steps))
                let ddim = ((1 - next) / (1 - now) * (1 - now / next)).squareRoot()
                let step = try schedule.step(index, eta: 1)
                #expect(abs(step.standardDeviation - ddim) < 1e-12)
                let weaker = try schedule.step(index, eta: 0.4)
                #expect(abs(weaker.standardDeviation - 0.4 * ddim) < 1e-12)
            }
        }
    }

    /// The posterior of x_s given x_t and x₀, found by conditioning a joint Gaussian: x_s = α_s·x₀ + σ_s·ε', and x_t is x_s with noise added.
    @Test func `Mean and variance are those of the conditional Gaussian`() throws {
        let schedule = FlowMatchSchedule(steps: 10, shift: 3)
        for index in 1..<9 {
            let step = try schedule.step(index, eta: 1)
            let ratio = step.alpha / step.nextAlpha
            let added = step.sigma * step.sigma - ratio * ratio * step.nextSigma * step.nextSigma
            #expect(added > 0, "noise grows along the forward process")
            // Two measurements of x_s: the prior N(α_s x₀, σ_s²), and x_t/ratio with variance added/ratio².
            let precision = 1 / (step.nextSigma * step.nextSigma) + ratio * ratio / added
            #expect(abs(step.standardDeviation - (1 / precision).squareRoot()) < 1e-7)
            let (clean, noise) = (0.7, -1.3)
            let now = step.alpha * clean + step.sigma * noise
            let mean = (step.nextAlpha * clean / (step.nextSigma * step.nextSigma) + ratio * now / added) / precision
            let found = step.mean(
                sample: Tensor([Float(now)], shape: [1, 1]), output: Tensor([Float(noise - clean)], shape: [1, 1])
            ).item
            #expect(abs(Double(found) - mean) < 1e-6)
        }
    }
}
