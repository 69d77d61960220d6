import Alignment
import Artifacts
import Backbones
import DemoWorld
import Foundation
import JobQueue
import Preferences
import Rewards
import Tensors

/// Step 2: the schedule's training job, and what its head is worth at each noise level.
extension DemoRun {
    func trainReward(generator: String) async throws -> (RewardWeights, String) {
        let step = "train the reward"
        guard let id = try await services.queue.schedules().first(where: { $0.key == "retrain" })?.lastJobID else {
            throw DemoServices.Failure(description: "the every-N-pairs schedule did not fire although all pairs are usable")
        }
        // Its work is done: the axes' pairs are to be trained on by jobs of their own.
        try await services.queue.removeSchedule(key: "retrain")
        _ = try await services.wait(for: id) { terminal.progress(step, $0.progress ?? 0, $0.message ?? "") }
        let version = try await ModelRegistry(client: services.client).resolve(Self.rewardName + "@champion")
        try await export(version, to: output + "/reward")
        figures.reward.model = version.reference
        let metrics = try JSONSerialization.jsonObject(with: Data(version.model.metrics.utf8)) as? [String: Any]
        figures.reward.training_pairs = (metrics?["training_pairs"] as? NSNumber)?.intValue ?? 0
        return (try rewardWeights(output + "/reward"), "\(version.reference), champion for overall, by the schedule's job \(id)")
    }

    /// A head's folder on the demo's own generator.
    func rewardWeights(_ folder: String) throws -> RewardWeights {
        try RewardWeights(
            folder: RewardFolder(directory: folder), trunk: WanTransformer3DModel.load(directory: output + "/generator"),
            name: Self.generatorName + ":1")
    }

    func export(_ version: ModelVersion, to folder: String) async throws {
        let cache = output + "/.fetched"
        defer { try? FileManager.default.removeItem(atPath: cache) }
        let fetcher = try ArtifactFetcher(allow: [store.location], fileRoots: [], cache: cache)
        try? FileManager.default.removeItem(atPath: folder)
        try await ModelImport.export(version, to: folder, with: fetcher)
    }

    func evaluateReward(_ reward: RewardWeights, pool: Pool, tests: BestOfNTests) async throws -> String {
        let step = "evaluate the reward"
        let seed = settings.seed
        let dataset = try tests.test.clips.dataset(world: world), validation = try tests.validation.clips.dataset(world: world)
        let training = try trainingDataset(pool)
        let path = tests.test.path.map { PathEvaluation.Level(timestep: 1000 * tests.sigma($0.key), latents: $0.value) }
            .sorted { $0.timestep > $1.timestep }
        let terminal = terminal
        let (evaluations, onPath, best) = try await NumericThreads.run {
            let untrained = try RewardHead(
                configuration: reward.head.configuration, normalization: reward.head.normalization, seed: seed &+ 1)
            // The level that is called best is chosen on other groups than those that are reported.
            let chosen = try RewardEvaluation(reward, dataset: validation, seed: seed) {
                terminal.progress(step, 0.25 * $0, "other groups")
            }
            let best = chosen.accuracy.indices.max { chosen.accuracy[$0].accuracy < chosen.accuracy[$1].accuracy } ?? 0
            let evaluations = try RewardEvaluation.compare([reward.head, untrained], over: reward, dataset: dataset, seed: seed) {
                terminal.progress(step, 0.25 + 0.5 * $0, "re-noised clips")
            }
            return (evaluations, try PathEvaluation(reward, dataset: dataset, levels: path), best)
        }
        let trained = evaluations[0].accuracy
        let energy = EnergyJudge(training: training).accuracy(dataset)
        let gain = Estimate(paired: evaluations[0].clusters(level: best).clusters, minus: energy.clusters)

        figures.reward.accuracy = rows(evaluations[0].timesteps, trained)
        figures.reward.path = zip(path, onPath.accuracy).map {
            .init(timestep: Double($0.timestep), accuracy: $1.estimate.accuracy, half_width: $1.estimate.halfWidth)
        }
        figures.reward.energy_accuracy = energy.estimate.accuracy
        figures.reward.energy_half_width = energy.estimate.halfWidth
        figures.reward.untrained_accuracy = evaluations[1].accuracy[best].accuracy
        figures.reward.untrained_half_width = evaluations[1].accuracy[best].halfWidth
        figures.reward.best_timestep = Double(evaluations[0].timesteps[best])
        figures.reward.best_accuracy = trained[best].accuracy
        figures.reward.gain_over_energy = gain.mean
        figures.reward.gain_over_energy_half_width = gain.halfWidth
        figures.reward.tested_pairs = trained[best].pairs
        return
            "right \(percent(trained[best].accuracy)) at t \(Int(evaluations[0].timesteps[best])), energy \(percent(energy.estimate.accuracy)), untrained \(percent(figures.reward.untrained_accuracy))"
    }

    /// The labelled pairs as posted: what a control's sign is chosen on.
    private func trainingDataset(_ pool: Pool) throws -> RewardDataset {
        let clips = try pool.clips.dataset(world: world).clips
        return try RewardDataset(
            clips: clips,
            pairs: pool.labels.map { label in
                let outcome: PairOutcome =
                    switch label.outcome {
                    case .a: .a
                    case .b: .b
                    case .tie: .tie
                    }
                return RewardPair(a: label.a, b: label.b, outcome: outcome, cluster: label.a / pool.clips.group)
            })
    }

    /// One head an axis: pairs of that dimension are posted, and a job trains on them.
    func trainAxes(pool: Pool, generator: String, tests: BestOfNTests) async throws -> String {
        let step = "train a head for each axis"
        var jobs: [(axis: DemoAxis, id: Int64)] = []
        var posted = pool.labels.count
        for axis in DemoAxis.allCases {
            let labels = label(pool.clips, quality: axis.quality)
            try await DimensionRegistry(client: services.client).define(axis.rawValue, description: axis.question)
            try await services.post(labels.enumerated().map { pair($0, $1, pool.outputs, pool.clips, dimension: axis.rawValue) })
            posted += labels.count
        }
        try await services.waitForUsable(posted) { terminal.progress(step, 0.1 * $0, "verifying pairs") }
        for axis in DemoAxis.allCases {
            let arguments = trainingArguments("reward-" + axis.rawValue, axis.rawValue, generator)
            jobs.append((axis, try await services.queue.enqueue(kind: "train_reward", json: try jsonObject(arguments))))
        }
        for (index, job) in jobs.enumerated() {
            let share = 0.8 / Double(jobs.count)
            _ = try await services.wait(for: job.id) {
                terminal.progress(step, 0.1 + share * (Double(index) + ($0.progress ?? 0)), "\(job.axis.rawValue): \($0.message ?? "")")
            }
            let version = try await ModelRegistry(client: services.client).resolve("reward-\(job.axis.rawValue)@latest")
            let folder = output + "/.axis"
            defer { try? FileManager.default.removeItem(atPath: folder) }
            try await export(version, to: folder)
            let weights = try rewardWeights(folder)
            let dataset = try tests.test.clips.dataset(world: world, quality: job.axis.quality)
            let seed = settings.seed
            let evaluation = try await NumericThreads.run { try RewardEvaluation(weights, dataset: dataset, seed: seed) }
            figures.reward.axes.append(.init(axis: job.axis.rawValue, accuracy: rows(evaluation.timesteps, evaluation.accuracy)))
        }
        return figures.reward.axes.map { axis in
            let best = axis.accuracy.max { $0.accuracy < $1.accuracy }
            return "\(axis.axis) \(percent(best?.accuracy ?? 0)) at t \(Int(best?.timestep ?? 0))"
        }.joined(separator: ", ")
    }

    private func rows(_ timesteps: [Float], _ estimates: [AccuracyEstimate]) -> [DemoFigures.Accuracy] {
        zip(timesteps, estimates).map { .init(timestep: Double($0), accuracy: $1.accuracy, half_width: $1.halfWidth) }
    }

    func percent(_ value: Double) -> String { String(format: "%.1f %%", 100 * value) }
}
