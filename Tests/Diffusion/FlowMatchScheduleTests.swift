import Diffusion
import Foundation
import Tensors
import Testing

struct FlowMatchScheduleTests {
    struct Case: Decodable {
        let steps: Int, shift: Float, spacing: String, sigmas: [Float], timesteps: [Float]
    }

    /// Written by Tests/Reference/schedule_fixtures.py.
    @Test func `Sigmas and timesteps are those of diffusers`() throws {
        let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/schedules.json")
        let cases = try JSONDecoder().decode([Case].self, from: Data(contentsOf: path))
        #expect(cases.count == 12)
        for expected in cases {
            let spacing = try #require(FlowMatchSchedule.Spacing(rawValue: expected.spacing))
            let schedule = FlowMatchSchedule(steps: expected.steps, shift: expected.shift, spacing: spacing)
            let name = "\(expected.steps) steps, shift \(expected.shift), \(expected.spacing)"
            #expect(schedule.sigmas.count == expected.sigmas.count, "\(name)")
            for (ours, theirs) in zip(schedule.sigmas, expected.sigmas) { #expect(abs(ours - theirs) < 2e-6, "\(name)") }
            for (ours, theirs) in zip(schedule.timesteps, expected.timesteps) { #expect(abs(ours - theirs) < 2e-3, "\(name)") }
        }
    }

    @Test func `The true velocity leads from any noise level to the clean latent`() {
        var stream = RandomStream(seed: 1)
        let clean = Tensor.normal(shape: [3, 5], &stream)
        let noise = Tensor.normal(shape: [3, 5], &stream)
        let velocity = FlowMatchSchedule.velocityTarget(clean, noise)
        let noisy = FlowMatchSchedule.noised(clean, noise, sigma: 0.7)
        #expect(close(FlowMatchSchedule.cleanEstimate(noisy, velocity, sigma: 0.7), clean))
        #expect(close(FlowMatchSchedule.eulerStep(noisy, velocity, from: 0.7, to: 0), clean))
        let each = FlowMatchSchedule.noised(clean, noise, sigmas: [0, 0.7, 1])
        #expect(close(each[0..<1], clean[0..<1]) && close(each[1..<2], noisy[1..<2]) && close(each[2..<3], noise[2..<3]))
    }

    @Test func `Guidance of one is the conditional velocity, of zero the unconditional`() {
        let conditional = Tensor([1, 2], shape: [2])
        let unconditional = Tensor([3, 5], shape: [2])
        let guided = { FlowMatchSchedule.guided(conditional: conditional, unconditional: unconditional, scale: $0).array }
        #expect(guided(1) == [1, 2])
        #expect(guided(0) == [3, 5])
        #expect(guided(2) == [-1, -1])
    }
}

func close(_ a: Tensor, _ b: Tensor) -> Bool {
    a.shape == b.shape && zip(a.array, b.array).allSatisfy { abs($0 - $1) < 1e-5 }
}
