import Alignment
import Artifacts
import Backbones
import Foundation
import JobQueue
import Logging
import Preferences
import Safetensors
import ServiceWiring
import Tensors

/// The `tune_generator` job: a champion reward and a generator in, a LoRA out.
///
/// The pairs are those of the snapshot that the reward was trained on: their chosen clips feed the SFT half-step, their prompts both. The
/// tuner's whole state is checkpointed under the job's token; a rerun goes on from it and ends with the same adapter bit for bit.
struct TuneGeneratorJob {
    let inputs: JobInputs
    let context: JobContext

    private static let known: Set<String> = [
        "generator", "reward", "method", "iterations", "batch", "rank", "learning_rate", "sft_learning_rate", "seed", "name", "steps",
        "shift",
        "checkpoint_every", "gradient_clip", "base_clips",
    ]

    /// An adapter on the way, for curves and for choosing a checkpoint by people's judgement.
    struct Waypoint: Codable, Sendable {
        var iteration: Int
        var url: String
        var sha256: String
        var bytes: Int
    }

    private struct State: Codable {
        var waypoints: [Waypoint]
    }

    private struct Result: Encodable {
        var adapter: String
        var reward: String
        var method: String
        var iterations: Int
        var url: String
        var sha256: String
        var waypoints: [Waypoint]
        var records: [TuningRecord]
    }

    func run() async throws -> JobResult {
        do {
            let result = try await tune()
            await inputs.fetches.write()
            return result
        } catch let error as JobSettingsError {
            throw JobError.permanent(error.description)
        } catch let error as TuningError {
            throw JobError.permanent(error.description)
        } catch let error as BackboneError {
            throw JobError.permanent(error.description)
        } catch let error as SafetensorsError {
            throw JobError.permanent(error.description)
        }
    }

    private func tune() async throws -> JobResult {
        let settings = try JobSettings(json: Data(context.arguments.utf8))
        try settings.refuseUnknown(Self.known)
        let name = try settings.string("name")
        guard ModelRegistry.isName(name) else { throw JobError.permanent("setting name: '\(name)' cannot be a model's name") }
        let configuration = try configuration(settings)
        let every = try settings.integer("checkpoint_every", default: 20, in: 1...100_000)
        let generator = try await inputs.folder(try settings.string("generator"), .generator, what: "setting generator")
        defer { generator.folder.release() }
        let judge = try await Judges(inputs: inputs).maker(try settings.string("reward"))
        let (snapshot, data) = try await data(of: judge.version)
        let usesReward = configuration.method != .sft

        let checkpoint = try await checkpoint()
        var waypoints = checkpoint?.waypoints ?? []
        let weights = try WanTransformer3DModel.load(directory: generator.folder.path).weights
        let session = try await NumericThreads.run {
            try TuningSession(
                generator: weights, data: data, judge: usesReward ? judge.maker : nil, configuration: configuration,
                state: checkpoint?.state)
        }

        while session.iteration < configuration.iterations {
            try context.checkCancellation()
            let target = min((session.iteration / every + 1) * every, configuration.iterations)
            let context = context
            try await NumericThreads.run {
                try session.advance(to: target) { record in
                    let reward = usesReward ? ", reward \(String(format: "%+.2f", record.reward)) sd" : ""
                    context.progress(
                        Double(record.iteration) / Double(configuration.iterations),
                        "iteration \(record.iteration) of \(configuration.iterations)\(reward)")
                    return !context.isStopRequested
                }
            }
            if session.iteration == target {
                let stored = try await inputs.store.put(try LoRAFile.data(session.adapter))
                waypoints.append(Waypoint(iteration: target, url: stored.url, sha256: stored.sha256, bytes: stored.bytes))
            }
            let state = try await inputs.store.put(session.state())
            try await context.checkpoint(
                step: Int64(session.iteration), state: State(waypoints: waypoints),
                artifact: JobArtifact(url: state.url, sha256: state.sha256, bytes: Int64(state.bytes)), name: "tune")
        }
        return try await publish(
            session, name: name, generator: generator.version, reward: judge.version, snapshot: snapshot, configuration: configuration,
            waypoints: waypoints)
    }

    private func configuration(_ settings: JobSettings) throws -> TuningConfiguration {
        var configuration = TuningConfiguration()
        let method = try settings.choice("method", TuningMethod.allCases.map(\.rawValue), default: TuningMethod.both.rawValue)
        configuration.method = TuningMethod(rawValue: method)!
        configuration.iterations = try settings.integer("iterations", default: configuration.iterations, in: 1...1_000_000)
        configuration.batch = try settings.integer("batch", default: configuration.batch, in: 1...4096)
        configuration.rank = try settings.integer("rank", default: configuration.rank, in: 1...4096)
        let rate = try settings.double("learning_rate", default: Double(configuration.rewardLearningRate), in: 1e-9...1)
        configuration.rewardLearningRate = Float(rate)
        configuration.clipLearningRate = Float(try settings.double("sft_learning_rate", default: rate, in: 1e-9...1))
        configuration.gradientClip = Float(
            try settings.double("gradient_clip", default: Double(configuration.gradientClip), in: 1e-6...1e6))
        configuration.baseClips = try settings.integer("base_clips", default: configuration.baseClips, in: 2...100_000)
        configuration.steps = try settings.integer("steps", default: configuration.steps, in: 2...1000)
        configuration.lastStep = configuration.steps - 2
        configuration.shift = Float(try settings.double("shift", default: Double(configuration.shift), in: 0.01...100))
        configuration.seed = UInt64(try settings.integer("seed", default: 0, in: 0...Int(Int32.max)))
        try configuration.validate()
        return configuration
    }

    /// The chosen clips and the prompts of the snapshot behind a reward.
    private func data(of reward: ModelVersion) async throws -> (snapshot: Snapshot, data: TuningData) {
        let lineage = try JSONSerialization.jsonObject(with: Data(reward.model.lineage.utf8)) as? [String: Any]
        guard let id = (lineage?["snapshot"] as? NSNumber)?.int64Value, let snapshot = try await Snapshot.load(id, client: inputs.client)
        else {
            throw JobError.permanent("\(reward.reference): its snapshot of pairs is not known here, so there is nothing to tune on")
        }
        let chosen = ChosenClips.select(snapshot.comparisons)
        guard !chosen.isEmpty else {
            throw JobError.permanent("\(reward.reference): no clip of its snapshot was chosen over another; every pair is a tie")
        }
        var clips: [TuningClip] = []
        for (index, side) in chosen.enumerated() {
            if index % 50 == 0 { context.progress(0, "fetching chosen clips: \(index) of \(chosen.count)") }
            clips.append(try LatentFiles.clip(try await inputs.file(side.url, sha256: side.sha256, what: "chosen clip")))
        }
        return (snapshot, try TuningData(clips: clips, latentShape: clips[0].latents.shape))
    }

    /// The newest checkpoint whose artifact is sound.
    private func checkpoint() async throws -> (state: [UInt8], waypoints: [Waypoint])? {
        for candidate in try await context.checkpoints(name: "tune") {
            guard let artifact = candidate.artifact else { continue }
            do {
                let path = try await inputs.fetcher.fetch(artifact.url, sha256: artifact.sha256)
                return ([UInt8](try Data(contentsOf: URL(filePath: path))), try candidate.state(as: State.self).waypoints)
            } catch let error as ArtifactError {
                inputs.logger.warning("A checkpoint is damaged; the one before is tried", metadata: ["error": "\(error)"])
            }
        }
        return nil
    }

    private func publish(
        _ session: TuningSession, name: String, generator: ModelVersion, reward: ModelVersion, snapshot: Snapshot,
        configuration: TuningConfiguration, waypoints: [Waypoint]
    ) async throws -> JobResult {
        let folder = FileManager.default.temporaryDirectory.appending(path: "foretaste-adapter-\(UUID().uuidString)").path(
            percentEncoded: false)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try LoRAFile.save(session.adapter, to: folder + "/" + LoRAFile.name)
        let published = try await ModelFolder.publish(folder, to: inputs.store)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        func json(_ value: some Encodable) throws -> String { String(decoding: try encoder.encode(value), as: UTF8.self) }
        let last = session.records.suffix(10)
        let metrics = [
            "iterations": Double(session.iteration), "reward_last10": Double(last.map(\.reward).reduce(0, +)) / Double(max(last.count, 1)),
            "energy_ratio_last10": Double(last.map(\.energyRatio).reduce(0, +)) / Double(max(last.count, 1)),
        ]
        let lineage = Lineage(
            generator: generator.reference, reward: reward.reference, snapshot: snapshot.id, snapshot_digest: snapshot.digest,
            settings: configuration)
        let model = NewModel(
            name: name, kind: .adapter, url: published.artifact.url, sha256: published.artifact.sha256,
            bytes: Int64(published.manifest.files.reduce(0) { $0 + $1.bytes }), mediaType: ModelFolder.mediaType,
            files: published.manifest.files.map { ModelFile(path: $0.name, url: $0.url, sha256: $0.sha256, bytes: Int64($0.bytes)) },
            metrics: try json(metrics), lineage: try json(lineage), backbone: generator.reference)
        let result = Result(
            adapter: name, reward: reward.reference, method: configuration.method.rawValue, iterations: session.iteration,
            url: published.artifact.url, sha256: published.artifact.sha256, waypoints: waypoints, records: session.records.suffix(100))
        let (registry, job) = (inputs.registry, (id: context.id, token: context.token))
        return try JobResult(result) { connection in _ = try await registry.register(model, job: job, on: connection) }
    }

    private struct Lineage: Encodable {
        var generator: String
        var reward: String
        var snapshot: Int64
        var snapshot_digest: String
        var settings: TuningConfiguration
    }
}
