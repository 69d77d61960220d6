import Artifacts
import Backbones
import Foundation
import JobQueue
import Preferences
import Rewards
import Tensors

/// The `evaluate_reward` job: how good a registered head is on the pairs there are now. Changes nothing but the job's result.
struct EvaluateRewardJob {
    let inputs: TrainerInputs
    let context: JobContext

    private static let known: Set<String> = ["reward", "dimension", "held_out", "seed"]

    private struct Outcome: Encodable {
        let reward: String
        let report: RewardReport
    }

    func run() async throws -> JobResult {
        let settings = try JobSettings(json: Data(context.arguments.utf8))
        try settings.refuseUnknown(Self.known)
        let version = try await inputs.registry.resolve(try settings.string("reward"), kind: .reward)
        let headFolder = try await inputs.folder(of: version)
        defer { headFolder.release() }
        let folder = try await NumericThreads.run { try RewardFolder(directory: headFolder.path) }
        let backbone = try await inputs.registry.resolve(folder.configuration.backbone, kind: .generator)
        let backboneFolder = try await inputs.folder(of: backbone)
        defer { backboneFolder.release() }
        let heldOut = try settings.double("held_out", default: 0.25, in: 0.01...0.9)
        let seed = UInt64(try settings.integer("seed", default: 0, in: 0...Int(Int32.max)))
        let snapshot = try await Snapshot.freeze(
            dimension: try settings.string("dimension", default: folder.configuration.dimension), backbone: backbone.reference,
            heldOut: heldOut,
            jobID: context.id, client: inputs.client)
        let context = context
        let configuration = try WanConfiguration(contentsOf: "\(backboneFolder.path)/config.json")
        let data = try await SnapshotData.load(snapshot, backbone: backbone, configuration: configuration, inputs: inputs) {
            try context.checkCancellation()
            context.progress(0.3 * $0, "fetching latents")
        }
        let report = try await NumericThreads.run {
            let trunk = try WanTransformer3DModel.load(directory: backboneFolder.path)
            let weights = try RewardWeights(folder: folder, trunk: trunk, name: backbone.reference)
            let (dataset, name) = RewardReport.evaluationData(data)
            let evaluation = try RewardEvaluation(weights, dataset: dataset, seed: seed) {
                try context.checkCancellation()
                context.progress(0.3 + 0.7 * $0, "measuring the head")
            }
            return RewardReport(
                accuracy: RewardReport.levels(evaluation), mean_accuracy: evaluation.meanAccuracy,
                energy_accuracy: EnergyJudge(training: data.train).accuracy(dataset).estimate.accuracy, evaluated_on: name,
                training_pairs: data.train.pairs.count, held_out_pairs: data.heldOut?.pairs.count ?? 0, clips: data.clipCount,
                snapshot_digest: snapshot.digest)
        }
        return try JobResult(Outcome(reward: version.reference, report: report))
    }
}
