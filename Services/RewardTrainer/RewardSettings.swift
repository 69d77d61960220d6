import Foundation
import JobQueue
import Preferences
import Rewards

/// The settings of a `train_reward` job.
struct RewardSettings: Sendable {
    /// What the head is registered as.
    let name: String
    /// The backbone's reference, nil for the only one there is.
    let backbone: String?
    let dimension: String
    /// The share of prompts that is held out.
    let heldOut: Double
    /// Steps between two checkpoints.
    let checkpointSteps: Int
    let training: RewardTrainingConfiguration

    private static let known: Set<String> = [
        "name", "backbone", "dimension", "head", "loss", "eta", "margin", "block", "steps", "batch", "learning_rate", "draws", "seed",
        "held_out",
        "checkpoint_steps",
    ]

    /// - Throws: `JobSettingsError` or ``JobError/permanent(_:)`` naming the setting and what it takes.
    init(json: String) throws {
        let settings = try JobSettings(json: Data(json.utf8))
        try settings.refuseUnknown(Self.known)
        dimension = try settings.string("dimension", default: "overall")
        name = try settings.string("name", default: "reward-\(dimension)")
        guard ModelRegistry.isName(name) else {
            throw JobError.permanent("setting name: expected up to 100 letters, digits, '.', '_' and '-', not '\(name.prefix(80))'")
        }
        backbone = try settings.optionalString("backbone")
        heldOut = try settings.double("held_out", default: 0.25, in: 0.01...0.9)
        checkpointSteps = try settings.integer("checkpoint_steps", default: 100, in: 1...1_000_000)
        var training = RewardTrainingConfiguration()
        let head = try settings.choice("head", HeadKind.allCases.map(\.rawValue), default: training.kind.rawValue)
        training.kind = HeadKind(rawValue: head) ?? training.kind
        training.loss = try settings.choice("loss", ["bce", "bradley-terry", "rao-kupper"], default: training.loss)
        training.eta = try settings.double("eta", default: training.eta, in: 1.01...1000)
        training.margin = try settings.double("margin", default: 0, in: 0...100)
        guard training.margin == 0 || training.loss != "bce" else {
            throw JobError.permanent("setting margin: the loss bce has no place for a margin; bradley-terry and rao-kupper have")
        }
        let block = try settings.integer("block", default: 0, in: 0...1024)
        training.block = block == 0 ? nil : block
        training.steps = try settings.integer("steps", default: training.steps, in: 1...1_000_000)
        training.batch = try settings.integer("batch", default: training.batch, in: 1...65536)
        training.learningRate = Float(try settings.double("learning_rate", default: Double(training.learningRate), in: 1e-9...1))
        training.draws = try settings.integer("draws", default: training.draws, in: 1...1024)
        training.seed = UInt64(try settings.integer("seed", default: 0, in: 0...Int(Int32.max)))
        self.training = training
    }
}
