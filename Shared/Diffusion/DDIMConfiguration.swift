import Safetensors

/// How a variance-preserving model's noise grows, and how diffusers' `DDIMScheduler` walks it back. Names and defaults are diffusers'.
public struct DDIMConfiguration: Sendable, Hashable {
    /// How β runs over the training steps.
    public enum BetaSchedule: String, Sendable, Hashable, CaseIterable {
        /// β is linear.
        case linear
        /// √β is linear: Stable Diffusion's.
        case scaledLinear = "scaled_linear"
        /// A cosine for √ā, β capped at 0.999; `betaStart` and `betaEnd` play no part.
        case squaredCosine = "squaredcos_cap_v2"
    }

    /// What the model's output is.
    public enum Prediction: String, Sendable, Hashable, CaseIterable {
        /// The noise ε.
        case epsilon
        /// √ā·ε − √(1 − ā)·x₀.
        case velocity = "v_prediction"
        /// The clean latent x₀.
        case sample
    }

    /// Which of the training steps are walked (Table 2 of arXiv 2305.08891).
    public enum Spacing: String, Sendable, Hashable, CaseIterable {
        /// Multiples of a whole number of training steps from 0, plus the offset; the noisiest may be left out.
        case leading
        /// Multiples from the last training step down.
        case trailing
        /// From the last training step to 0, evenly, rounded.
        case linspace
    }

    /// `num_train_timesteps`.
    public var trainingSteps = 1000
    /// `beta_start`: β of the first training step.
    public var betaStart = 0.0001
    /// `beta_end`: β of the last.
    public var betaEnd = 0.02
    /// `beta_schedule`.
    public var betaSchedule = BetaSchedule.linear
    /// `prediction_type`.
    public var prediction = Prediction.epsilon
    /// `clip_sample` and `clip_sample_range`: the clean estimate is clipped to ± this; nil where it is not.
    public var clipRange: Double? = 1
    /// `set_alpha_to_one`: whether the step below the first training step is clean data (ā = 1); else it is the first training step.
    public var setAlphaToOne = true
    /// `steps_offset`: added to the steps of `leading` spacing.
    public var stepsOffset = 0
    /// `timestep_spacing`.
    public var spacing = Spacing.leading
    /// `rescale_betas_zero_snr`: stretches ā so that the last training step is pure noise (Algorithm 1 of arXiv 2305.08891).
    public var rescaleBetasZeroSNR = false

    /// Diffusers' defaults.
    public init() {}

    /// What Stable Diffusion 1.x and XL were trained with, and LPO's rollouts walk: scaled-linear 0.00085 to 0.012, leading, offset 1.
    public static var stableDiffusion: DDIMConfiguration {
        var configuration = DDIMConfiguration()
        configuration.betaStart = 0.00085
        configuration.betaEnd = 0.012
        configuration.betaSchedule = .scaledLinear
        configuration.clipRange = nil
        configuration.setAlphaToOne = false
        configuration.stepsOffset = 1
        return configuration
    }

    /// Reads what `DDIMScheduler.from_config` would take from a file of any class of the family.
    init(_ values: SchedulerValues) throws {
        try values.requireKnown(Self.keys.union(Self.withoutEffect))
        try values.requireNull("trained_betas", "sigma_min", "sigma_max", "shift_terminal", "solver_p")
        try values.requireOff("thresholding", "use_flow_sigmas", "use_dynamic_shifting")
        // A continuous model is given a logarithm of sigma, not a step's number.
        try values.require("timestep_type", "discrete")
        trainingSteps = try values.integer("num_train_timesteps", default: trainingSteps, in: 2...100_000)
        betaStart = try values.number("beta_start", default: betaStart, in: 1e-9...0.999)
        betaEnd = try values.number("beta_end", default: betaEnd, in: 1e-9...0.999)
        betaSchedule = try values.choice("beta_schedule", default: betaSchedule)
        prediction = try values.choice("prediction_type", default: prediction)
        let range = try values.number("clip_sample_range", default: 1, in: 1e-6...1e6)
        clipRange = try values.bool("clip_sample", default: true) ? range : nil
        setAlphaToOne = try values.bool("set_alpha_to_one", default: setAlphaToOne)
        stepsOffset = try values.integer("steps_offset", default: stepsOffset, in: 0...1000)
        spacing = try values.choice("timestep_spacing", default: spacing)
        rescaleBetasZeroSNR = try values.bool("rescale_betas_zero_snr", default: rescaleBetasZeroSNR)
        guard stepsOffset < trainingSteps else {
            throw DiffusionError("steps_offset \(stepsOffset) is not below num_train_timesteps \(trainingSteps)")
        }
        guard betaStart <= betaEnd else { throw DiffusionError("beta_start \(betaStart) is above beta_end \(betaEnd)") }
        guard !(rescaleBetasZeroSNR && prediction == .epsilon) else {
            throw DiffusionError(
                "rescale_betas_zero_snr is true with prediction_type 'epsilon': at the last step, pure noise, the noise says nothing of the latent"
            )
        }
    }

    private static let keys: Set<String> = [
        "beta_end", "beta_schedule", "beta_start", "clip_sample", "clip_sample_range", "num_train_timesteps", "prediction_type",
        "rescale_betas_zero_snr", "set_alpha_to_one", "steps_offset", "thresholding", "timestep_spacing", "timestep_type", "trained_betas",
    ]

    /// Keys that `DDIMScheduler.from_config` drops (they belong to another solver), or reads only where a key refused above is on.
    private static let withoutEffect: Set<String> = [
        "disable_corrector", "dynamic_thresholding_ratio", "final_sigmas_type", "flow_shift", "interpolation_type", "lower_order_final",
        "predict_x0", "sample_max_value", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p",
        "solver_type", "time_shift_type", "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas",
        "use_karras_sigmas", "variance_type",
    ]

    var fields: [(name: String, value: String)] {
        let range = betaSchedule == .squaredCosine ? "" : " \(betaStart) to \(betaEnd)"
        let offset = spacing == .leading ? ", offset \(stepsOffset)" : ""
        return [
            ("training steps", "\(trainingSteps)"),
            ("betas", betaSchedule.rawValue + range + (rescaleBetasZeroSNR ? ", rescaled to pure noise at the end" : "")),
            ("prediction", prediction.rawValue),
            ("spacing", spacing.rawValue + offset),
            ("last step goes to", setAlphaToOne ? "clean data" : "training step 0"),
            ("clip", clipRange.map { "the clean estimate to ±\($0)" } ?? "no"),
        ]
    }
}
