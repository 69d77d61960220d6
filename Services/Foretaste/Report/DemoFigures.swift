/// Everything that a demo run measured: the content of `report.json`, and all that `report.html` draws.
///
/// Rates and accuracies are fractions, timesteps 0–1000, `half_width` is half of a 95 % interval over prompt groups. Every field of every row
/// is a number or a text, never null, so that a program may read it without asking.
struct DemoFigures: Codable, Sendable {
    struct Accuracy: Codable, Sendable {
        var timestep: Double
        var accuracy: Double
        var half_width: Double
    }

    struct Axis: Codable, Sendable {
        var axis: String
        var accuracy: [Accuracy]
    }

    struct Reward: Codable, Sendable {
        /// The trained head on re-noised finished clips of prompts' groups that it never saw, by noise level.
        var accuracy: [Accuracy] = []
        /// The energy of the finished latent as a judge, its sign chosen on training pairs.
        var energy_accuracy = 0.0
        var energy_half_width = 0.0
        /// The same head before training, at the trained head's best timestep.
        var untrained_accuracy = 0.0
        var untrained_half_width = 0.0
        /// The trained head on the sampler's own half-denoised latents.
        var path: [Accuracy] = []
        /// One head an axis: prompt, motion, appearance.
        var axes: [Axis] = []
        var best_timestep = 0.0
        var best_accuracy = 0.0
        /// Head at its best timestep minus energy, paired over the same pairs.
        var gain_over_energy = 0.0
        var gain_over_energy_half_width = 0.0
        var training_pairs = 0
        var tested_pairs = 0
        var model = ""
    }

    struct BestOfN: Codable, Sendable {
        var method: String
        /// What the method does, for people.
        var description: String
        /// The generator's evaluations for one group of N candidates.
        var forward_passes: Double
        /// The scorer's evaluations for one group.
        var judge_passes: Double
        /// Mean annotator quality above a random pick.
        var quality_gain: Double
        var half_width: Double
        var good_rate: Double
        /// Measured wall seconds a group: sampling at this run's own rate a forward pass, scoring as the service answered.
        var seconds_per_group: Double
    }

    struct Tuning: Codable, Sendable {
        var method: String
        var good_rate: Double
        var quality_gain: Double
        var half_width: Double
        var wins: Int
        var losses: Int
        var ties: Int
        /// Mean squared latent over the base's: 1 is unchanged.
        var energy_ratio: Double
        /// Mean reward above the base's, in the base's standard deviations.
        var reward_gain: Double
        var iterations: Int
        /// Share of decided comparisons that were won, with its 95 % interval (Wilson).
        var win_rate: Double
        var win_rate_low: Double
        var win_rate_high: Double
    }

    struct CurvePoint: Codable, Sendable {
        var iteration: Int
        var quality_gain: Double
        var reward_gain: Double
        var energy_ratio: Double
    }

    struct Curve: Codable, Sendable {
        var method: String
        var points: [CurvePoint]
    }

    struct Job: Codable, Sendable {
        var id: String
        var kind: String
        var state: String
        var attempts: Int
        var worker: String
        var pid: Int
        var seconds: Double
    }

    struct Fetch: Codable, Sendable {
        var url: String
        var sha256: String
        var bytes: Int
        var service: String
    }

    struct Target: Codable, Sendable {
        var figure: String
        var wanted: String
        var measured: String
        var reached: Bool
    }

    struct Finding: Codable, Sendable {
        var text: String
    }

    var seed = 0
    var machine = ""
    var clips = 0
    var pairs = 0
    var ties = 0
    var base_good_rate = 0.0
    var reward = Reward()
    var best_of_n: [BestOfN] = []
    var best_of_n_groups = 0
    var tuning: [Tuning] = []
    var tuning_curves: [Curve] = []
    var tuning_clips = 0
    /// Wall seconds by step, in order of their running.
    var seconds: [String: Double] = [:]
    var step_order: [String] = []
    var jobs: [Job] = []
    var fetches: [Fetch] = []
    var targets: [Target] = []
    /// What a reader should know, in words: each missed figure among them.
    var findings: [Finding] = []
}
