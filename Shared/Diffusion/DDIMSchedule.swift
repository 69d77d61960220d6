import Foundation
public import Tensors

/// The steps of diffusers' `DDIMScheduler` after `set_timesteps`: which training steps are walked, and how much noise each has.
///
/// Diffusers' rule for where a step leads is kept too: `trainingSteps / steps` (whole numbers) training steps down, even where the spacing
/// puts the next model call elsewhere (linspace; trailing with a number of steps that does not divide the training steps).
public struct DDIMSchedule: Sendable, Hashable {
    /// What the noise is, and how it is walked.
    public let configuration: DDIMConfiguration
    /// The training steps at which the model is called, from the noisiest; the model's timesteps.
    public let timesteps: [Int]
    /// ā of every training step.
    public let alphaBars: [Double]

    /// - Parameter steps: model calls, 1 to `configuration.trainingSteps`.
    /// - Throws: `DiffusionError` where there are too many or too few steps, an offset leads beyond the training steps, or noise would be
    ///   predicted on pure noise.
    public init(_ configuration: DDIMConfiguration, steps: Int) throws {
        let trainingSteps = configuration.trainingSteps
        guard (1...trainingSteps).contains(steps) else { throw DiffusionError("\(steps) steps, outside of 1 to \(trainingSteps)") }
        guard !(configuration.rescaleBetasZeroSNR && configuration.prediction == .epsilon) else {
            throw DiffusionError(
                "rescale_betas_zero_snr with prediction_type 'epsilon': on pure noise, the noise says nothing of the latent")
        }
        self.configuration = configuration
        timesteps = Self.timesteps(configuration, steps)
        guard timesteps[0] < trainingSteps else {
            throw DiffusionError(
                "steps_offset \(configuration.stepsOffset) with \(steps) steps starts at timestep \(timesteps[0]), "
                    + "beyond the \(trainingSteps) training steps")
        }
        alphaBars = Self.alphaBars(configuration)
    }

    /// Model calls from noise to data.
    public var steps: Int { timesteps.count }

    /// ā of a training step; below 0, of where the last step leads.
    public func alphaBar(_ timestep: Int) -> Double {
        timestep >= 0 ? alphaBars[timestep] : configuration.setAlphaToOne ? 1 : alphaBars[0]
    }

    /// Step number `index`, from 0, of the walk.
    /// - Parameter eta: 0 is deterministic DDIM, 1 draws as DDPM does.
    /// - Throws: `DiffusionError` where eta is outside 0…1.
    public func step(_ index: Int, eta: Double = 0) throws -> DiffusionStep {
        precondition(timesteps.indices.contains(index), "step \(index) of \(steps)")
        let timestep = timesteps[index]
        let level = { (bar: Double) in (alpha: bar.squareRoot(), sigma: (1 - bar).squareRoot()) }
        let prediction: DiffusionStep.Prediction =
            switch configuration.prediction {
            case .epsilon: .epsilon
            case .velocity: .velocity
            case .sample: .sample
            }
        return try DiffusionStep(
            timestep: Double(timestep), from: level(alphaBar(timestep)),
            to: level(alphaBar(timestep - configuration.trainingSteps / steps)), eta: eta, prediction: prediction,
            clipRange: configuration.clipRange)
    }

    /// The standard deviation of every step, from the noisiest.
    public func standardDeviations(eta: Double) throws -> [Double] {
        try timesteps.indices.map { try step($0, eta: eta).standardDeviation }
    }

    /// `add_noise`: √ā·x₀ + √(1 − ā)·noise, one training step an item of the first axis.
    public func noised(_ x0: Tensor, _ noise: Tensor, timesteps: [Int]) -> Tensor {
        precondition(timesteps.count == x0.shape.first, "one timestep an item: \(timesteps.count) for \(x0.shape)")
        return ItemWeights.combine(x0, noise, timesteps.map(levels).map { (Float($0.alpha), Float($0.sigma)) })
    }

    /// `get_velocity`, what a v-predicting model is trained on: √ā·noise − √(1 − ā)·x₀.
    public func velocityTarget(_ x0: Tensor, _ noise: Tensor, timesteps: [Int]) -> Tensor {
        precondition(timesteps.count == x0.shape.first, "one timestep an item: \(timesteps.count) for \(x0.shape)")
        return ItemWeights.combine(noise, x0, timesteps.map(levels).map { (Float($0.alpha), Float(-$0.sigma)) })
    }

    private func levels(_ timestep: Int) -> (alpha: Double, sigma: Double) {
        precondition(alphaBars.indices.contains(timestep), "timestep \(timestep) of \(alphaBars.count)")
        return (alphaBars[timestep].squareRoot(), (1 - alphaBars[timestep]).squareRoot())
    }

    private static func timesteps(_ configuration: DDIMConfiguration, _ steps: Int) -> [Int] {
        let trainingSteps = configuration.trainingSteps
        let places = 0..<steps
        switch configuration.spacing {
        case .leading:
            return places.reversed().map { $0 * (trainingSteps / steps) + configuration.stepsOffset }
        case .linspace:
            let gap = steps == 1 ? 0 : Double(trainingSteps - 1) / Double(steps - 1)
            return places.reversed().map { Int((Double($0) * gap).rounded(.toNearestOrEven)) }
        case .trailing:
            // NumPy's arange, on which diffusers relies, rounds its own length up for some numbers of steps and gives one timestep too many, -1.
            let gap = Double(trainingSteps) / Double(steps)
            return places.map { Int((Double(trainingSteps) - Double($0) * gap).rounded(.toNearestOrEven)) - 1 }
        }
    }

    /// ā of every training step, from β.
    static func alphaBars(_ configuration: DDIMConfiguration) -> [Double] {
        let count = configuration.trainingSteps
        func line(_ from: Double, _ to: Double) -> [Double] { (0..<count).map { from + (to - from) * Double($0) / Double(count - 1) } }
        let betas: [Double]
        switch configuration.betaSchedule {
        case .linear: betas = line(configuration.betaStart, configuration.betaEnd)
        case .scaledLinear: betas = line(configuration.betaStart.squareRoot(), configuration.betaEnd.squareRoot()).map { $0 * $0 }
        case .squaredCosine:
            let bar = { (step: Int) in
                let cosine = cos((Double(step) / Double(count) + 0.008) / 1.008 * Double.pi / 2)
                return cosine * cosine
            }
            betas = (0..<count).map { min(1 - bar($0 + 1) / bar($0), 0.999) }
        }
        var product = 1.0
        let bars = betas.map { beta in
            product *= 1 - beta
            return product
        }
        guard configuration.rescaleBetasZeroSNR else { return bars }
        let (first, last) = (bars[0].squareRoot(), bars[count - 1].squareRoot())
        return bars.map { bar in
            let root = (bar.squareRoot() - last) * (first / (first - last))
            return root * root
        }
    }
}
