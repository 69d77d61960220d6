import Diffusion
import Foundation
import Tensors
import Testing

struct DDIMScheduleTests {
    struct Case: Decodable {
        let config: String, count: Int, eta: Double, timesteps: [Int], steps: [Step]
        struct Step: Decodable {
            let sample: [Float], output: [Float], noise: [Float]
            let next: [Double], clean: [Double], mean: [Double], clean32: [Double]
            /// Null where diffusers takes the root of a rounding error below zero: from pure noise with eta 1.
            let next32: [Double?]
            let deviation: Double, alphaBar: Double
            let following: [Float]?, logMean: [Double]?, logSum: [Double]?
        }
    }

    static func schedule(_ row: Case) throws -> DDIMSchedule {
        let configuration = try SchedulerConfiguration(json: Array(row.config.utf8))
        guard case .variancePreserving(let ddim) = configuration.noise else { throw DiffusionError("not variance preserving") }
        return try DDIMSchedule(ddim, steps: row.count)
    }

    @Test func `Every step is that of diffusers' DDIM built from the folder's configuration`() throws {
        let cases = try fixture("ddim.json", as: [Case].self)
        #expect(cases.count == 15)
        for (number, row) in cases.enumerated() {
            let schedule = try Self.schedule(row)
            #expect(schedule.timesteps == row.timesteps, "case \(number)")
            for (index, expected) in row.steps.enumerated() {
                let name = "case \(number) step \(index)"
                let step = try schedule.step(index, eta: row.eta)
                let (sample, output, noise) = (
                    Tensor(expected.sample, shape: [2, 2]), Tensor(expected.output, shape: [2, 2]), Tensor(expected.noise, shape: [2, 2])
                )
                #expect(abs(schedule.alphaBar(row.timesteps[index]) - expected.alphaBar) < 1e-12, "\(name)")
                #expect(abs(step.standardDeviation - expected.deviation) < 1e-9, "\(name)")
                let next = step.next(sample: sample, output: output, noise: noise).array
                let clean = step.cleanEstimate(sample: sample, output: output).array
                // In float64 theirs is exact, and what is left is ours; in float32 both round, theirs in 1 − ā above all.
                #expect(distance(next, expected.next) < 1e-6, "\(name)")
                #expect(distance(clean, expected.clean) < 1e-6, "\(name)")
                #expect(distance(step.mean(sample: sample, output: output).array, expected.mean) < 1e-6, "\(name)")
                let single = expected.next32.compactMap(\.self)
                #expect(single.count == 4 ? distance(next, single) < 2e-5 : expected.alphaBar == 0, "\(name)")
                #expect(distance(clean, expected.clean32) < 2e-5, "\(name)")
            }
        }
    }

    @Test func `Log-probabilities are those of torch's normal distribution around diffusers' mean`() throws {
        var compared = 0
        for (number, row) in try fixture("ddim.json", as: [Case].self).enumerated() {
            let schedule = try Self.schedule(row)
            for (index, expected) in row.steps.enumerated() {
                let step = try schedule.step(index, eta: row.eta)
                let (sample, output) = (Tensor(expected.sample, shape: [2, 2]), Variable(Tensor(expected.output, shape: [2, 2])))
                guard let following = expected.following, let mean = expected.logMean, let sum = expected.logSum else {
                    #expect(step.standardDeviation == 0)
                    #expect(throws: DiffusionError.self) { try step.logProbability(of: sample, sample: sample, output: output) }
                    continue
                }
                let next = Tensor(following, shape: [2, 2])
                let found = try step.logProbability(of: next, sample: sample, output: output)
                let summed = try step.logProbability(of: next, sample: sample, output: output, reduction: .sum)
                #expect(found.shape == [2] && summed.shape == [2])
                #expect(distance(found.tensor.array, mean) < 1e-4, "case \(number) step \(index)")
                #expect(distance(summed.tensor.array, sum) < 1e-4, "case \(number) step \(index)")
                compared += 1
            }
        }
        #expect(compared > 60)
    }

    @Test func `The rollout's grid, ā and standard deviations are those of the note`() throws {
        let schedule = try DDIMSchedule(.stableDiffusion, steps: 20)
        #expect(schedule.timesteps == Array(stride(from: 951, through: 1, by: -50)))
        #expect(abs(schedule.alphaBar(951) - 0.008155) < 5e-7)
        #expect(abs(schedule.alphaBar(1) - 0.998296) < 5e-7)
        let sigmas = try schedule.standardDeviations(eta: 1).reversed()
        let noted = [
            0.0206, 0.0406, 0.1673, 0.2144, 0.2509, 0.2836, 0.3144, 0.3442, 0.3732, 0.4016, 0.4293, 0.4565, 0.4829, 0.5087, 0.5336, 0.5576,
            0.5807, 0.6029, 0.6241, 0.6444,
        ]
        for (sigma, expected) in zip(sigmas, noted) { #expect(abs(sigma - expected) < 5.1e-5) }
        // LPO's thresholds are a line through them.
        let range = (sigmas.min()!, sigmas.max()!)
        let thresholds = sigmas.map { 0.35 + ($0 - range.0) / (range.1 - range.0) * 0.15 }
        let notedThresholds = [
            0.3500, 0.3548, 0.3853, 0.3966, 0.4054, 0.4132, 0.4206, 0.4278, 0.4348, 0.4416, 0.4483, 0.4548, 0.4612, 0.4674, 0.4734, 0.4791,
            0.4847, 0.4900, 0.4951, 0.5000,
        ]
        for (threshold, expected) in zip(thresholds, notedThresholds) { #expect(abs(threshold - expected) < 5.1e-5) }
    }

    @Test func `The leverage of a step, how far its output moves the mean in standard deviations, is that of the note`() throws {
        let schedule = try DDIMSchedule(.stableDiffusion, steps: 20)
        let noted = [
            1.003, 5.431, 1.141, 0.868, 0.754, 0.693, 0.657, 0.636, 0.626, 0.623, 0.626, 0.635, 0.649, 0.667, 0.689, 0.716, 0.745, 0.778,
            0.814, 0.853,
        ]
        for (place, expected) in noted.enumerated() {
            let step = try schedule.step(19 - place, eta: 1)
            #expect(abs(abs(step.meanWeights.output) / step.standardDeviation - expected) < 6e-4, "timestep \(1 + 50 * place)")
        }
    }

    @Test func `Noised latents and v targets agree with the steps' clean estimates`() throws {
        var configuration = DDIMConfiguration.stableDiffusion
        configuration.prediction = .velocity
        let schedule = try DDIMSchedule(configuration, steps: 10)
        let (clean, noise) = (normal([3, 4], seed: 1), normal([3, 4], seed: 2))
        let places = [0, 4, 9]
        let timesteps = places.map { schedule.timesteps[$0] }
        let noisy = schedule.noised(clean, noise, timesteps: timesteps)
        let target = schedule.velocityTarget(clean, noise, timesteps: timesteps)
        let steps = try places.map { try schedule.step($0) }
        #expect(close(steps.cleanEstimate(sample: noisy, output: target), clean))
        #expect(close(steps.noiseEstimate(sample: noisy, output: target), noise))
    }

    @Test func `A number of steps for which NumPy gives diffusers one timestep too many gives as many as asked for`() throws {
        var configuration = DDIMConfiguration()
        configuration.spacing = .trailing
        for steps in [61, 103, 1000] {
            let schedule = try DDIMSchedule(configuration, steps: steps)
            #expect(schedule.steps == steps && schedule.timesteps.first == 999 && schedule.timesteps.last! >= 0)
            #expect(zip(schedule.timesteps, schedule.timesteps.dropFirst()).allSatisfy { $0 > $1 })
        }
    }

    @Test func `What cannot be walked is refused with the reason`() throws {
        let configuration = DDIMConfiguration.stableDiffusion
        #expect(message { try DDIMSchedule(configuration, steps: 0) }.contains("0 steps"))
        #expect(message { try DDIMSchedule(configuration, steps: 1001) }.contains("1001 steps"))
        #expect(message { try DDIMSchedule(configuration, steps: 1000) }.contains("steps_offset 1 with 1000 steps"))
        var zero = configuration
        zero.rescaleBetasZeroSNR = true
        #expect(message { try DDIMSchedule(zero, steps: 10) }.contains("rescale_betas_zero_snr"))
        let schedule = try DDIMSchedule(configuration, steps: 10)
        for eta in [-0.1, 1.5, .nan] { #expect(message { try schedule.step(0, eta: eta) }.contains("eta is")) }
        let latents = normal([1, 4], seed: 1)
        let step = try schedule.step(0)
        #expect(message { try step.logProbability(of: latents, sample: latents, output: Variable(latents)) }.contains("eta 0"))
    }
}
