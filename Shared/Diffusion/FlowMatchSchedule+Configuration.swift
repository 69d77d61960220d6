import Foundation

extension FlowMatchSchedule {
    /// `set_timesteps(sigmas:)`: unshifted levels of the caller's own, which are then shifted.
    /// - Parameters:
    ///   - unshifted: falling, in 0…1, at least one; the final 0 is added.
    ///   - trainingSteps: the model's timestep is this times sigma.
    /// - Throws: `DiffusionError` where they are not.
    public init(unshifted: [Double], shift: Double, trainingSteps: Int = 1000) throws {
        guard !unshifted.isEmpty, unshifted.allSatisfy({ $0 > 0 && $0 <= 1 }), zip(unshifted, unshifted.dropFirst()).allSatisfy(>) else {
            throw DiffusionError("sigmas must fall and lie above 0 and at most at 1: \(unshifted)")
        }
        guard shift > 0, shift.isFinite else { throw DiffusionError("shift is \(shift), and must be above 0") }
        self.init(levels: unshifted.map { shift * $0 / (1 + (shift - 1) * $0) }, shift: shift, trainingSteps: trainingSteps)
    }

    /// The schedule that a folder's configuration asks for.
    /// - Parameters:
    ///   - steps: evaluations of the velocity, at least one.
    ///   - spacing: `.trainingTable` is what diffusers' `set_timesteps(steps)` does.
    ///   - mu: the shift's size under dynamic shifting (`FlowMatchConfiguration.Dynamic.mu(tokens:)`); nil where the shift is fixed.
    /// - Throws: `DiffusionError` where mu is missing, or given and of no use.
    public init(_ configuration: FlowMatchConfiguration, steps: Int, spacing: Spacing = .trainingTable, mu: Double? = nil) throws {
        guard steps > 0 else { throw DiffusionError("\(steps) steps: a schedule has at least one") }
        var shift = configuration.shift
        var last = 1 / Double(configuration.trainingSteps)
        switch (configuration.dynamic, mu) {
        case (nil, nil):
            // Diffusers shifts the training table once when it is made, and its last entry again as part of the schedule.
            last = shift * last / (1 + (shift - 1) * last)
        case (let dynamic?, let mu?):
            shift = dynamic.type == .exponential ? exp(mu) : mu
            guard shift > 0, shift.isFinite else { throw DiffusionError("mu is \(mu): a shift of \(shift)") }
        case (_?, nil): throw DiffusionError("use_dynamic_shifting is true: mu is needed")
        case (nil, _?): throw DiffusionError("mu is given, but use_dynamic_shifting is false")
        }
        if spacing == .uniform { last = 1 / Double(steps) }
        let unshifted = (0..<steps).map { steps == 1 ? 1 : 1 + (last - 1) * Double($0) / Double(steps - 1) }
        try self.init(unshifted: unshifted, shift: shift, trainingSteps: configuration.trainingSteps)
    }

    /// Step number `index`, from 0, as the Gaussian of a stochastic sampler; with eta 0 its mean is the Euler step.
    /// - Parameter eta: 1 draws with the full posterior variance (methods-image §4.4).
    /// - Throws: `DiffusionError` where eta is outside 0…1.
    public func step(_ index: Int, eta: Double = 0) throws -> DiffusionStep {
        precondition(timesteps.indices.contains(index), "step \(index) of \(steps)")
        let (from, to) = (Double(sigmas[index]), Double(sigmas[index + 1]))
        return try DiffusionStep(
            timestep: Double(timesteps[index]), from: (1 - from, from), to: (1 - to, to), eta: eta, prediction: .flow)
    }
}
