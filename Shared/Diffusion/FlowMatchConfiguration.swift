import Safetensors

/// The noise of a rectified flow as diffusers' `FlowMatchEulerDiscreteScheduler` is configured.
public struct FlowMatchConfiguration: Sendable, Hashable {
    /// How `mu` shifts levels under dynamic shifting.
    public enum TimeShift: String, Sendable, Hashable, CaseIterable {
        /// e^mu / (e^mu + 1/u − 1): a shift of e^mu.
        case exponential
        /// mu / (mu + 1/u − 1): a shift of mu.
        case linear
    }

    /// What shifts the levels when the size of the image does: mu lies on a line through these two points.
    public struct Dynamic: Sendable, Hashable {
        /// `base_image_seq_len` and `base_shift`.
        public var baseTokens = 256
        /// mu there.
        public var baseShift = 0.5
        /// `max_image_seq_len` and `max_shift`.
        public var maxTokens = 4096
        /// mu there.
        public var maxShift = 1.15
        /// `time_shift_type`.
        public var type = TimeShift.exponential

        /// Diffusers' defaults.
        public init() {}

        /// The pipelines' `calculate_shift`: mu for an image of so many tokens.
        public func mu(tokens: Int) -> Double {
            let slope = (maxShift - baseShift) / Double(maxTokens - baseTokens)
            return Double(tokens) * slope + (baseShift - slope * Double(baseTokens))
        }
    }

    /// `num_train_timesteps`; the model's timestep is this times sigma.
    public var trainingSteps = 1000
    /// `shift` (UniPC: `flow_shift`); without effect where `dynamic` is there.
    public var shift = 1.0
    /// `use_dynamic_shifting`; nil where the shift is fixed.
    public var dynamic: Dynamic?

    /// Diffusers' defaults.
    public init() {}

    init(euler values: SchedulerValues) throws {
        try values.requireKnown([
            "base_image_seq_len", "base_shift", "invert_sigmas", "max_image_seq_len", "max_shift", "num_train_timesteps", "shift",
            "shift_terminal", "stochastic_sampling", "time_shift_type", "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas",
            "use_karras_sigmas",
        ])
        try values.requireOff("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling")
        try values.requireNull("shift_terminal")
        trainingSteps = try values.integer("num_train_timesteps", default: trainingSteps, in: 2...100_000)
        shift = try values.number("shift", default: shift, in: 1e-3...1000)
        // Type-checked even where they are without effect.
        var dynamic = Dynamic()
        dynamic.baseTokens = try values.integer("base_image_seq_len", default: dynamic.baseTokens, in: 1...1 << 30)
        dynamic.maxTokens = try values.integer("max_image_seq_len", default: dynamic.maxTokens, in: 1...1 << 30)
        dynamic.baseShift = try values.number("base_shift", default: dynamic.baseShift, in: -100...100)
        dynamic.maxShift = try values.number("max_shift", default: dynamic.maxShift, in: -100...100)
        dynamic.type = try values.choice("time_shift_type", default: dynamic.type)
        guard try values.bool("use_dynamic_shifting", default: false) else { return }
        guard dynamic.baseTokens < dynamic.maxTokens else {
            throw DiffusionError("base_image_seq_len \(dynamic.baseTokens) is not below max_image_seq_len \(dynamic.maxTokens)")
        }
        self.dynamic = dynamic
    }

    init(uniPC values: SchedulerValues) throws {
        try values.requireKnown([
            // Without effect on the noise: the variance-preserving betas, and the solver's own.
            "beta_end", "beta_schedule", "beta_start", "disable_corrector", "dynamic_thresholding_ratio", "lower_order_final", "predict_x0",
            "rescale_betas_zero_snr", "sample_max_value", "solver_order", "solver_p", "solver_type", "steps_offset", "time_shift_type",
            "timestep_spacing", "trained_betas",
            // Read or refused below.
            "final_sigmas_type", "flow_shift", "num_train_timesteps", "prediction_type", "shift_terminal", "sigma_max", "sigma_min",
            "thresholding", "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas", "use_karras_sigmas",
        ])
        try values.requireOff(
            "thresholding", "use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        try values.requireNull("shift_terminal", "sigma_min", "sigma_max")
        try values.require("final_sigmas_type", "zero")
        enum FlowPrediction: String, CaseIterable { case flow = "flow_prediction", missing = "" }
        guard try values.choice("prediction_type", default: FlowPrediction.missing) == .flow else {
            throw DiffusionError("prediction_type must be 'flow_prediction' where use_flow_sigmas is true")
        }
        trainingSteps = try values.integer("num_train_timesteps", default: trainingSteps, in: 2...100_000)
        shift = try values.number("flow_shift", default: shift, in: 1e-3...1000)
    }

    var fields: [(name: String, value: String)] {
        let shift =
            dynamic.map {
                "dynamic, \($0.type.rawValue): mu \($0.baseShift) at \($0.baseTokens) tokens to \($0.maxShift) at \($0.maxTokens)"
            } ?? "\(shift)"
        return [("training steps", "\(trainingSteps)"), ("prediction", "velocity"), ("shift", shift)]
    }
}
