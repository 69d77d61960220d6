import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Preferences
import Rewards
import Tensors

/// The `train_reward` job: a snapshot of pairs in, a registered head out, and the champion moved if it is better.
///
/// The training's state is checkpointed under the job's token. A run that was killed freezes the same snapshot, computes the same features
/// and goes on from the newest checkpoint: its head is that of an uninterrupted run, bit for bit.
struct TrainRewardJob {
    let inputs: TrainerInputs
    let context: JobContext

    /// A checkpoint at least so often, in seconds, however long a step takes.
    private static let checkpointSeconds = 10.0

    private struct Checkpoint: Codable {
        var snapshot: String
        var settings: RewardTrainingConfiguration
    }

    private struct Trained: Sendable {
        let state: RewardTrainingState
        let untrained: RewardHead
        let block: Int
    }

    func run() async throws -> JobResult {
        let settings = try RewardSettings(json: context.arguments)
        let backbone = try await inputs.backbone(settings.backbone)
        context.progress(0, "freezing the snapshot")
        let snapshot = try await Snapshot.freeze(
            dimension: settings.dimension, backbone: backbone.reference, heldOut: settings.heldOut, jobID: context.id, client: inputs.client
        )
        let backboneFolder = try await inputs.folder(of: backbone)
        defer { backboneFolder.release() }
        let folder = backboneFolder.path
        let configuration = try WanConfiguration(contentsOf: "\(folder)/config.json")
        let data = try await SnapshotData.load(
            snapshot, backbone: backbone, configuration: configuration, inputs: inputs, progress: step("fetching latents", 0, 0.1))
        let trained = try await train(data, folder: folder, snapshot: snapshot, settings: settings)
        return try await publish(trained, data: data, backbone: backbone, folder: folder, snapshot: snapshot, settings: settings)
    }

    /// Reports a part of the job's progress, and stops the work when the job is asked to stop.
    private func step(_ name: String, _ from: Double, _ to: Double) -> @Sendable (Double) throws -> Void {
        let context = context
        return { share in
            try context.checkCancellation()
            context.progress(from + share * (to - from), name)
        }
    }

    private func train(_ data: SnapshotData, folder: String, snapshot: Snapshot, settings: RewardSettings) async throws -> Trained {
        let features = step("reading features", 0.1, 0.5)
        let previous = inputs.memory.last
        let training = try await NumericThreads.run {
            try RewardTraining(
                trunk: WanTransformer3DModel.load(directory: folder), dataset: data.train, configuration: settings.training,
                reusing: previous, progress: features)
        }
        inputs.memory.keep(training)
        var state = try await resumed(training, snapshot: snapshot, settings: settings)
        let total = settings.training.steps
        while state.step < total {
            try context.checkCancellation()
            let (start, context) = (state, context)
            let target = min((state.step / settings.checkpointSteps + 1) * settings.checkpointSteps, total)
            state = try await NumericThreads.run {
                var state = start
                let began = ContinuousClock.now
                do {
                    try training.advance(&state, to: target) { now in
                        context.progress(0.5 + 0.3 * Double(now.step) / Double(total), Self.line(now, of: total))
                        if context.isStopRequested || ContinuousClock.now - began > .seconds(Self.checkpointSeconds) { throw Pause() }
                    }
                } catch is Pause {}
                return state
            }
            // Also on the way out: what was done since the last checkpoint is kept.
            let stored = try await inputs.store.put(state.encoded())
            try await context.checkpoint(
                step: Int64(state.step), state: Checkpoint(snapshot: snapshot.digest, settings: settings.training),
                artifact: JobArtifact(url: stored.url, sha256: stored.sha256, bytes: Int64(stored.bytes)))
        }
        return Trained(state: state, untrained: training.initialState.head, block: training.block)
    }

    private struct Pause: Error {}

    private static func line(_ state: RewardTrainingState, of total: Int) -> String {
        let recent = state.losses.suffix(20)
        return "step \(state.step) of \(total), loss \(String(format: "%.3f", recent.reduce(0, +) / Float(max(recent.count, 1))))"
    }

    /// The newest checkpoint that is whole and belongs to this snapshot and these settings; else the start.
    private func resumed(_ training: RewardTraining, snapshot: Snapshot, settings: RewardSettings) async throws -> RewardTrainingState {
        for checkpoint in try await context.checkpoints() {
            guard let artifact = checkpoint.artifact, let kept = try? checkpoint.state(as: Checkpoint.self),
                kept.snapshot == snapshot.digest,
                kept.settings == settings.training
            else { continue }
            do {
                let path = try await inputs.file(artifact.url, sha256: artifact.sha256)
                let state = try await NumericThreads.run {
                    try training.state(decoding: [UInt8](try Data(contentsOf: URL(filePath: path))))
                }
                inputs.logger.info("Going on from a checkpoint", metadata: ["job": "\(context.id)", "step": "\(state.step)"])
                return state
            } catch let error as ArtifactError where error.isPermanent {
                inputs.logger.warning(
                    "A checkpoint is damaged; the one before is tried", metadata: ["job": "\(context.id)", "error": "\(error)"])
            } catch let error as RewardError {
                inputs.logger.warning("A checkpoint cannot be used", metadata: ["job": "\(context.id)", "error": "\(error)"])
            }
        }
        return training.initialState
    }

    private func publish(
        _ trained: Trained, data: SnapshotData, backbone: ModelVersion, folder: String, snapshot: Snapshot, settings: RewardSettings
    ) async throws -> JobResult {
        let champion = try await inputs.registry.find("\(settings.name)@champion")
        let held: CachedFolder?
        let championFolder: RewardFolder?
        if let champion {
            let cached = try await inputs.folder(of: champion)
            held = cached
            championFolder = try await NumericThreads.run { try RewardFolder(directory: cached.path) }
        } else {
            (held, championFolder) = (nil, nil)
        }
        defer { held?.release() }
        let (measuring, comparing) = (step("measuring the head", 0.8, 0.92), step("measuring the champion", 0.92, 0.98))
        let (reference, digest) = (backbone.reference, snapshot.digest)
        let outcome = try await NumericThreads.run {
            let trunk = try WanTransformer3DModel.load(directory: folder)
            let weights = try RewardWeights(trunk: trunk, head: trained.state.head, block: trained.block)
            let (dataset, name) = RewardReport.evaluationData(data)
            let seed = settings.training.seed
            let evaluations = try RewardEvaluation.compare(
                [trained.state.head, trained.untrained], over: weights, dataset: dataset, seed: seed, progress: measuring)
            let losses = trained.state.losses
            let report = RewardReport(
                accuracy: RewardReport.levels(evaluations[0]), mean_accuracy: evaluations[0].meanAccuracy,
                energy_accuracy: EnergyJudge(training: data.train).accuracy(dataset).estimate.accuracy,
                untrained_accuracy: evaluations[1].meanAccuracy, evaluated_on: name, training_pairs: data.train.pairs.count,
                held_out_pairs: data.heldOut?.pairs.count ?? 0, clips: data.clipCount, steps: trained.state.step,
                first_loss: losses.first.map(Double.init), last_loss: Self.lastLoss(losses), snapshot_digest: digest)
            var standing = RewardGate.Champion.none
            if let champion, let championFolder {
                do {
                    let theirs = try RewardWeights(folder: championFolder, trunk: trunk, name: reference)
                    let evaluation = try RewardEvaluation(theirs, dataset: dataset, seed: seed, progress: comparing)
                    standing = .measured(reference: champion.reference, accuracy: evaluation.meanAccuracy)
                } catch let error as RewardError {
                    standing = .incomparable(reference: champion.reference, why: error.description)
                }
            }
            let pairs = evaluations[0].accuracy.first?.pairs ?? 0
            return (
                report: report, fingerprint: RewardWeights.fingerprint(of: trunk, blocks: trained.block),
                decision: RewardGate.decide(accuracy: report.mean_accuracy, pairs: pairs, evaluatedOn: name, champion: standing)
            )
        }
        context.progress(0.98, "publishing")
        let configuration = RewardConfiguration(
            head: trained.state.head.configuration, block: trained.block,
            loss: RewardLoss(name: settings.training.loss, eta: settings.training.eta) ?? .crossEntropy, dimension: settings.dimension,
            backbone: reference, backboneFingerprint: outcome.fingerprint, vae: data.vae, latentChannels: data.latentChannels,
            conditionChannels: data.conditionChannels)
        let reward = RewardFolder(head: trained.state.head, configuration: configuration, metrics: try outcome.report.json())
        let model = try await stored(reward, settings: settings, backbone: backbone, snapshot: snapshot)
        return try result(model, outcome.report, outcome.decision, settings: settings)
    }

    private static func lastLoss(_ losses: [Float]) -> Double? {
        losses.isEmpty ? nil : Double(losses.suffix(20).reduce(0, +)) / Double(min(losses.count, 20))
    }

    private struct Lineage: Encodable {
        let snapshot: Int64
        let snapshot_digest: String
        let backbone: String
        let settings: RewardTrainingConfiguration
    }

    /// Writes the folder to the store.
    private func stored(
        _ reward: RewardFolder, settings: RewardSettings, backbone: ModelVersion, snapshot: Snapshot
    ) async throws -> NewModel {
        let local = FileManager.default.temporaryDirectory.appending(path: "foretaste-reward-\(UUID().uuidString)").path(
            percentEncoded: false)
        defer { try? FileManager.default.removeItem(atPath: local) }
        try await NumericThreads.run { try reward.write(to: local) }
        let published = try await ModelFolder.publish(local, to: inputs.store)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let lineage = try encoder.encode(
            Lineage(snapshot: snapshot.id, snapshot_digest: snapshot.digest, backbone: backbone.reference, settings: settings.training))
        return NewModel(
            name: settings.name, kind: .reward, url: published.artifact.url, sha256: published.artifact.sha256,
            bytes: Int64(published.manifest.files.reduce(0) { $0 + $1.bytes }), mediaType: ModelFolder.mediaType,
            files: published.manifest.files.map { ModelFile(path: $0.name, url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes)) },
            config: String(decoding: reward.configuration.encoded(), as: UTF8.self),
            metrics: String(decoding: reward.metrics, as: UTF8.self),
            lineage: String(decoding: lineage, as: UTF8.self), dimension: settings.dimension, backbone: backbone.reference)
    }

    private struct Outcome: Encodable {
        let name: String
        let url: String
        let sha256: String
        let mean_accuracy: Double
        let promoted: Bool
        let reason: String
    }

    /// Version, alias and the job's end are one transaction under the job's token.
    private func result(
        _ model: NewModel, _ report: RewardReport, _ decision: RewardGate.Decision, settings: RewardSettings
    ) throws -> JobResult {
        let outcome = Outcome(
            name: model.name, url: model.url, sha256: model.sha256, mean_accuracy: report.mean_accuracy, promoted: decision.promotes,
            reason: decision.reason)
        let (registry, job) = (inputs.registry, (id: context.id, token: context.token))
        return try JobResult(outcome) { connection in
            let version = try await registry.register(model, job: job, on: connection)
            // A gate that keeps the champion writes its reason down as well.
            let champion = decision.promotes ? version.version : try await registry.find("\(model.name)@champion", on: connection)?.version
            try await registry.setAlias(
                model.name, alias: "champion", version: champion ?? version.version, reason: decision.reason, jobID: job.id, on: connection)
        }
    }
}
