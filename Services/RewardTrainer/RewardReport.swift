import Foundation
import Rewards

/// What a head is worth: the `metrics.json` of its folder and the registry's metrics. The same data and settings give the same bytes.
struct RewardReport: Codable, Sendable {
    struct Level: Codable, Sendable {
        let timestep: Double
        let accuracy: Double
        let half_width: Double
        let pairs: Int
    }

    /// By noise level, timesteps 0–1000, over pairs that raters did not tie.
    var accuracy: [Level]
    /// The mean over the levels; champions are compared by it.
    var mean_accuracy: Double
    /// Over the same pairs, by ‖latent‖², its sign chosen on training pairs.
    var energy_accuracy: Double
    /// The untrained head's mean; nothing for a head that was trained elsewhere.
    var untrained_accuracy: Double?
    /// `held-out pairs`, or what else there was.
    var evaluated_on: String
    var training_pairs: Int
    var held_out_pairs: Int
    var clips: Int
    var steps: Int?
    var first_loss: Double?
    var last_loss: Double?
    var snapshot_digest: String

    static func levels(_ evaluation: RewardEvaluation) -> [Level] {
        zip(evaluation.timesteps, evaluation.accuracy).map {
            Level(timestep: Double($0), accuracy: $1.accuracy, half_width: $1.halfWidth, pairs: $1.pairs)
        }
    }

    /// The pairs to measure on, and what they are called: unseen prompts where there are any that were decided.
    static func evaluationData(_ data: SnapshotData) -> (dataset: RewardDataset, name: String) {
        if let heldOut = data.heldOut, heldOut.pairs.contains(where: { $0.outcome != .tie }) { return (heldOut, "held-out pairs") }
        return (data.train, "training pairs (no unseen prompt has a decided pair)")
    }

    func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        return try encoder.encode(self)
    }
}
