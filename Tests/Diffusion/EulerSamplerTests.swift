import Diffusion
import Tensors
import Testing

struct EulerSamplerTests {
    let sampler = EulerSampler(schedule: FlowMatchSchedule(steps: 10, shift: 3), microBatch: 4)

    /// Each item has a clean latent of its own, named by its number; a nonlinear pull towards it.
    @Sendable static func velocity(_ request: VelocityRequest) -> Tensor {
        let values = request.latents.array
        let stride = values.count / request.items.count
        return Tensor(
            values.enumerated().map { index, value in
                (value - Float(request.items[index / stride])) / max(request.sigma, 0.1) + 0.1 * value * value * request.timestep / 1000
            }, shape: request.latents.shape)
    }

    @Test func `A trajectory stopped, pruned around and resumed equals the uninterrupted one bit for bit`() throws {
        let noise = EulerSampler.noise(shape: [2, 3], seed: 7, items: 0..<11)
        let whole = try sampler.run(noise, recording: [0, 4], velocity: Self.velocity)
        let half = try sampler.run(noise, to: 4, velocity: Self.velocity).latents
        #expect(half.array == whole.recorded[4]!.array)
        #expect(noise.array == whole.recorded[0]!.array)
        let kept = [9, 2, 5]
        let rest = try sampler.run(half.gathering(kept), items: kept, from: 4, velocity: Self.velocity).latents
        #expect(rest.array == whole.latents.gathering(kept).array)
    }

    @Test func `Noise belongs to the item and not to the batch`() {
        let many = EulerSampler.noise(shape: [4], seed: 3, items: 0..<20)
        let few = EulerSampler.noise(shape: [4], seed: 3, items: [17, 2])
        #expect(few.array == many.gathering([17, 2]).array)
        #expect(EulerSampler.noise(shape: [4], seed: 4, items: 0..<20).array != many.array)
    }

    @Test func `Every evaluation has the micro-batch's size, and timesteps are those of the schedule`() throws {
        let noise = EulerSampler.noise(shape: [1], seed: 7, items: 0..<5)
        _ = try sampler.run(noise) { request in
            #expect(request.latents.shape == [4, 1] && request.items.count == 4)
            #expect(request.timestep == sampler.schedule.timesteps[request.step])
            return request.latents
        }
    }

    @Test func `A model's error reaches the caller`() {
        struct Broken: Error {}
        let noise = EulerSampler.noise(shape: [1], seed: 7, items: 0..<9)
        #expect(throws: Broken.self) { try sampler.run(noise) { _ in throw Broken() } }
    }

    @Test func `No steps leave the latents as they are`() throws {
        let noise = EulerSampler.noise(shape: [2], seed: 7, items: 0..<3)
        #expect(try sampler.run(noise, from: 5, to: 5, velocity: Self.velocity).latents.array == noise.array)
    }
}
