import Backbones

/// Which half-steps an iteration of the tuner takes.
public enum TuningMethod: String, Sendable, Codable, CaseIterable {
    /// The reward's gradient through one denoising step, alone: climbs, then hacks its judge.
    case prfl
    /// Flow matching on chosen clips, alone: saturates.
    case sft
    /// One half-step of each, in turn.
    case both = "prfl+sft"

    var usesReward: Bool { self != .sft }
    var usesClips: Bool { self != .prfl }
}

/// Settings of the tuner; the defaults are those of the demo's world.
public struct TuningConfiguration: Sendable, Codable, Equatable {
    public var method: TuningMethod = .both
    public var iterations = 100
    /// Clips in each half-step.
    public var batch = 16
    public var rank = 8
    /// Linears that get an adapter: ends of their names.
    public var targets = LoRAConfiguration.attentionTargets
    /// AdamW's rate for the reward half-step.
    public var rewardLearningRate: Float = 1e-3
    /// AdamW's rate for the flow-matching half-step.
    public var clipLearningRate: Float = 1e-3
    /// Each half-step's gradient is clipped to this norm by itself.
    public var gradientClip: Float = 1
    /// Euler steps from noise to data, and the schedule's shift; t of the flow-matching half-step has the same shift.
    public var steps = 10
    public var shift: Float = 3
    /// The differentiable step is drawn uniformly from these, counted from 0; the last step ends at sigma 0, where no reward is read.
    public var firstStep = 0
    public var lastStep = 8
    /// Divides the reward's loss by the step's sigma gap, which otherwise weighs late steps more (methods-video §5.8). Off by default.
    public var dividesByGap = false
    /// Trajectories of the base from which the reward's mean and sd at each step are taken.
    public var baseClips = 64
    /// Clips in one thread's share. Part of the numbers: another size is another rounding.
    public var shard = 8
    public var seed: UInt64 = 0

    public init() {}

    /// - Throws: `TuningError` naming the setting that makes no sense.
    public func validate() throws {
        func require(_ condition: Bool, _ what: String) throws {
            guard condition else { throw TuningError("tuning: \(what)") }
        }
        try require(iterations >= 0 && iterations <= 1_000_000, "iterations is \(iterations), expected 0 to 1000000")
        try require(batch >= 1 && batch <= 4096, "batch is \(batch), expected 1 to 4096")
        try require(shard >= 1, "shard is \(shard), expected at least 1")
        try require(rank >= 1 && rank <= 4096, "rank is \(rank), expected 1 to 4096")
        try require(!targets.isEmpty, "targets is empty: nothing would be tuned")
        try require(steps >= 2 && steps <= 1000, "steps is \(steps), expected 2 to 1000")
        try require(shift > 0 && shift.isFinite, "shift is \(shift), expected a number above 0")
        try require(
            0 <= firstStep && firstStep <= lastStep && lastStep <= steps - 2,
            "the differentiable steps \(firstStep) to \(lastStep) must lie within 0 to \(steps - 2)")
        try require(baseClips >= 2, "baseClips is \(baseClips), expected at least 2")
        for (name, rate) in [("rewardLearningRate", rewardLearningRate), ("clipLearningRate", clipLearningRate)] {
            try require(rate > 0 && rate < 1, "\(name) is \(rate), expected a number between 0 and 1")
        }
        try require(gradientClip > 0, "gradientClip is \(gradientClip), expected a number above 0")
    }
}

/// Why a generator cannot be tuned; the message names the setting or the input.
public struct TuningError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
