public import Tensors

/// The noise levels of a rectified-flow sampler, from pure noise (sigma 1) to data (sigma 0).
///
/// The convention everywhere: x_t = (1 − t)·x₀ + t·ε, velocity = ε − x₀, the model's timestep = 1000·sigma
/// (methods-video §1.1; diffusers' `FlowMatchEulerDiscreteScheduler`).
public struct FlowMatchSchedule: Sendable, Hashable {
    /// Where the unshifted levels u lie; sigma = shift·u / (1 + (shift − 1)·u).
    public enum Spacing: String, Sendable, Hashable {
        /// u = 1, 1 − 1/n, … 1/n: what pipelines pass as `set_timesteps(sigmas: linspace(1, 1/n, n))`, and what the demo's world uses.
        case uniform
        /// What diffusers' `set_timesteps(n)` does by itself: u from 1 to the shifted last entry of the training table of 1000 levels,
        /// so that the last step but one ends near sigma 0.003·shift² instead of shift/n.
        case trainingTable
    }

    /// `steps + 1` levels; the first 1, the last 0.
    public let sigmas: [Float]
    /// The model's timestep of each step: 1000·sigma (or the configuration's number of training steps times sigma), `steps` of them.
    public let timesteps: [Float]
    /// What the levels were shifted by.
    public let shift: Float

    /// - Parameters:
    ///   - steps: evaluations of the velocity, at least one.
    ///   - shift: above 1 spends more steps at high noise.
    public init(steps: Int, shift: Float, spacing: Spacing = .uniform) {
        precondition(steps > 0, "a schedule has at least one step")
        precondition(shift > 0, "a schedule's shift is positive, not \(shift)")
        let shift64 = Double(shift)
        let shifted = { (u: Double) in shift64 * u / (1 + (shift64 - 1) * u) }
        let last = spacing == .uniform ? 1 / Double(steps) : shifted(1 / 1000)
        let levels = (0..<steps).map { step in
            shifted(steps == 1 ? 1 : 1 + (last - 1) * Double(step) / Double(steps - 1))
        }
        self.init(levels: levels, shift: shift64, trainingSteps: 1000)
    }

    /// From levels that are shifted already; the final 0 is added.
    init(levels: [Double], shift: Double, trainingSteps: Int) {
        sigmas = levels.map(Float.init) + [0]
        timesteps = levels.map { Float(Double(trainingSteps) * $0) }
        self.shift = Float(shift)
    }

    /// Evaluations of the velocity from noise to data.
    public var steps: Int { timesteps.count }

    /// The level that uniform `u` in 0…1 is shifted to: the law by which training draws t.
    public static func shifted(_ u: Float, shift: Float) -> Float {
        shift * u / (1 + (shift - 1) * u)
    }

    /// One Euler step: x + (to − from)·velocity.
    public static func eulerStep(_ x: Tensor, _ velocity: Tensor, from: Float, to: Float) -> Tensor {
        combine(x, 1, velocity, to - from)
    }

    /// (1 − sigma)·x₀ + sigma·noise.
    public static func noised(_ x0: Tensor, _ noise: Tensor, sigma: Float) -> Tensor {
        combine(x0, 1 - sigma, noise, sigma)
    }

    /// The same with one level an item of the first axis.
    public static func noised(_ x0: Tensor, _ noise: Tensor, sigmas: [Float]) -> Tensor {
        precondition(sigmas.count == x0.shape.first, "one sigma an item: \(sigmas.count) for \(x0.shape)")
        precondition(x0.shape == noise.shape, "noise \(noise.shape) for latents \(x0.shape)")
        let stride = x0.count / max(sigmas.count, 1)
        return Tensor(shape: x0.shape) { result in
            x0.withUnsafeBufferPointer { x0 in
                noise.withUnsafeBufferPointer { noise in
                    for (item, sigma) in sigmas.enumerated() {
                        for index in item * stride..<(item + 1) * stride { result[index] = (1 - sigma) * x0[index] + sigma * noise[index] }
                    }
                }
            }
        }
    }

    /// What a velocity says the finished latent will be: x − sigma·velocity.
    public static func cleanEstimate(_ x: Tensor, _ velocity: Tensor, sigma: Float) -> Tensor {
        combine(x, 1, velocity, -sigma)
    }

    /// What the model is trained to predict: noise − x₀.
    public static func velocityTarget(_ x0: Tensor, _ noise: Tensor) -> Tensor {
        combine(noise, 1, x0, -1)
    }

    /// Classifier-free guidance: unconditional + scale·(conditional − unconditional).
    public static func guided(conditional: Tensor, unconditional: Tensor, scale: Float) -> Tensor {
        combine(conditional, scale, unconditional, 1 - scale)
    }

    /// a·x + b·y.
    private static func combine(_ x: Tensor, _ a: Float, _ y: Tensor, _ b: Float) -> Tensor {
        precondition(x.shape == y.shape, "shapes differ: \(x.shape) and \(y.shape)")
        return Tensor(shape: x.shape) { result in
            x.withUnsafeBufferPointer { x in
                y.withUnsafeBufferPointer { y in
                    for index in result.indices { result[index] = a * x[index] + b * y[index] }
                }
            }
        }
    }
}
