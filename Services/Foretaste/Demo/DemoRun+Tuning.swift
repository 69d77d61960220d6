import Alignment
import Artifacts
import Backbones
import DemoWorld
import Diffusion
import Foundation
import JobQueue
import Preferences
import Rewards
import Tensors

/// Step 4: three tuning jobs, and what the annotator says of each against the base at matched seeds.
extension DemoRun {
    /// One method's adapters on the way, by iteration.
    struct Tuned {
        var method: String
        var waypoints: [(iteration: Int, adapter: LoRAWeights)]
    }

    private struct TuneResult: Decodable {
        struct Waypoint: Decodable {
            var iteration: Int
            var url: String
        }
        var waypoints: [Waypoint]
    }

    static let methods = ["prfl+sft", "sft", "prfl"]

    func tune(generator: String) async throws -> ([Tuned], String) {
        let step = "tune the generator"
        var tuned: [Tuned] = []
        var jobs: [(method: String, id: Int64)] = []
        for method in Self.methods {
            let arguments: [String: Any] = [
                "generator": generator, "reward": Self.rewardName + "@champion", "method": method, "iterations": settings.iterations,
                "batch": 16, "rank": 8, "learning_rate": 1e-3, "seed": Int(settings.seed),
                "name": "lora-" + method.replacing("+", with: "-"),
                "steps": settings.tuningSteps, "checkpoint_every": settings.waypoints,
            ]
            jobs.append((method, try await services.queue.enqueue(kind: "tune_generator", json: try jsonObject(arguments))))
        }
        for (index, job) in jobs.enumerated() {
            let share = 1 / Double(jobs.count)
            let done = try await services.wait(for: job.id) {
                terminal.progress(step, share * (Double(index) + ($0.progress ?? 0)), "\(job.method): \($0.message ?? "")")
            }
            guard let result = try done.result(as: TuneResult.self) else {
                throw DemoServices.Failure(description: "tune_generator left no result")
            }
            var waypoints: [(Int, LoRAWeights)] = []
            for waypoint in result.waypoints {
                let file = output + "/.adapter.safetensors"
                defer { try? FileManager.default.removeItem(atPath: file) }
                try (try await services.http.get(waypoint.url).body).write(to: URL(filePath: file))
                waypoints.append((waypoint.iteration, try LoRAFile.load(file)))
            }
            tuned.append(Tuned(method: job.method, waypoints: waypoints))
        }
        return (tuned, Self.methods.joined(separator: ", ") + ": \(settings.iterations) iterations each, rank 8")
    }

    func compare(_ tuned: [Tuned], reward: RewardWeights) async throws -> String {
        let step = "compare tuned and base"
        let evaluations = tuned.reduce(0) { $0 + $1.waypoints.count } + tuned.count + 3
        var done = 0
        func advance(_ message: String) {
            done += 1
            terminal.progress(step, Double(done) / Double(evaluations), message)
        }
        func clips(_ adapter: LoRAWeights?, _ count: Int, _ seed: UInt64, guidance: Float = 1) async throws -> DemoClipSet {
            try await sampler.sample(
                sampler.generator(adapter: adapter), prompts: DemoSampler.prompts(count), group: 1, steps: settings.tuningSteps,
                noiseSeed: seed,
                guidance: guidance
            ).clips
        }

        // Validation clips choose each method's checkpoint; the test clips are looked at once.
        let before = try await clips(nil, settings.tuningValidationClips, DemoSettings.Noise.tuningValidation)
        let beforeRewards = try await rewards(of: before, reward)
        advance("base, validation")
        var chosen: [String: (iteration: Int, adapter: LoRAWeights)] = [:]
        for one in tuned {
            var points = [DemoFigures.CurvePoint(iteration: 0, quality_gain: 0, reward_gain: 0, energy_ratio: 1)]
            var best = -Double.infinity
            for waypoint in one.waypoints {
                let after = try await clips(waypoint.adapter, settings.tuningValidationClips, DemoSettings.Noise.tuningValidation)
                let gain = Estimate(zip(after.qualities, before.qualities).map { $0 - $1 }).mean
                points.append(
                    .init(
                        iteration: waypoint.iteration, quality_gain: gain,
                        reward_gain: try await rewards(of: after, reward).gain(over: beforeRewards),
                        energy_ratio: after.meanEnergy / before.meanEnergy))
                if gain > best {
                    best = gain
                    chosen[one.method] = waypoint
                }
                advance("\(one.method), iteration \(waypoint.iteration)")
            }
            figures.tuning_curves.append(.init(method: one.method, points: points))
        }

        let base = try await clips(nil, settings.tuningClips, DemoSettings.Noise.tuningTest)
        let baseRewards = try await rewards(of: base, reward)
        advance("base")
        figures.tuning_clips = base.count
        figures.tuning.append(
            .init(
                method: "base", good_rate: base.goodRate, quality_gain: 0, half_width: 0, wins: 0, losses: 0, ties: 0, energy_ratio: 1,
                reward_gain: 0, iterations: 0, win_rate: 0, win_rate_low: 0, win_rate_high: 0))
        func row(_ method: String, _ after: DemoClipSet, iterations: Int) async throws {
            let differences = zip(after.qualities, base.qualities).map { $0 - $1 }
            let gain = Estimate(differences), record = WinRecord(differences: differences, tie: Double(DemoAnnotator.tie))
            figures.tuning.append(
                .init(
                    method: method, good_rate: after.goodRate, quality_gain: gain.mean, half_width: gain.halfWidth, wins: record.wins,
                    losses: record.losses, ties: record.ties, energy_ratio: after.meanEnergy / base.meanEnergy,
                    reward_gain: try await rewards(of: after, reward).gain(over: baseRewards), iterations: iterations,
                    win_rate: record.winRate.rate, win_rate_low: record.winRate.lower, win_rate_high: record.winRate.upper))
        }
        var best = base
        for method in ["sft", "prfl", "prfl+sft"] {
            guard let pick = chosen[method] else { continue }
            let after = try await clips(pick.adapter, settings.tuningClips, DemoSettings.Noise.tuningTest)
            try await row(method, after, iterations: pick.iteration)
            advance(method)
            if method == "prfl+sft" { best = after }
        }
        try await row(
            "guidance2", try await clips(nil, settings.tuningClips, DemoSettings.Noise.tuningTest, guidance: 2), iterations: 0)
        advance("guidance 2")

        if let pick = chosen["prfl+sft"] {
            try FileManager.default.createDirectory(atPath: output + "/lora", withIntermediateDirectories: true)
            try LoRAFile.save(pick.adapter, to: output + "/lora/" + LoRAFile.name)
        }
        tuningSheet(base, best)
        let both = figures.tuning.first { $0.method == "prfl+sft" }
        return
            "PRFL + SFT: \(both?.wins ?? 0) won, \(both?.losses ?? 0) lost, good \(percent(base.goodRate)) → \(percent(both?.good_rate ?? 0))"
    }

    /// Rewards of finished clips: noise is added again to where heads judge best, the same noise for the same clip number.
    private func rewards(of clips: DemoClipSet, _ reward: RewardWeights) async throws -> [Float] {
        let seed = settings.seed
        let noise = Tensor.stack(
            (0..<clips.count).map { item in
                var stream = RandomStream(seed: seed, run: 0x4e3a, item: UInt32(item))
                return Tensor.normal(shape: DemoGeometry.latentShape, &stream)
            })
        let noised = FlowMatchSchedule.noised(clips.latents, noise, sigma: Self.finishedSigma)
        let condition = Tensor.stack((0..<clips.count).map { _ in world.positionChannels })
        let batch = RewardWeights.Batch(
            latents: noised, timestep: Array(repeating: 1000 * Self.finishedSigma, count: clips.count),
            promptEmbeds: world.promptEmbeds(clips.prompts), condition: condition)
        return try await NumericThreads.run { try reward.scores(batch) }
    }

    private func tuningSheet(_ base: DemoClipSet, _ tuned: DemoClipSet) {
        let shown = 0..<min(12, base.count)
        let sheet = ContactSheet.draw(
            rows: [shown.map { base.picture($0, world: world) }, shown.map { tuned.picture($0, world: world) }],
            frames: DemoGeometry.frames,
            height: DemoGeometry.size, width: DemoGeometry.size)
        sheets.append(
            .init(
                title: "Tuning",
                caption:
                    "The same twelve seeds before (above) and after PRFL + SFT (below), one a prompt. Green frame: good by the annotator; red: flawed.",
                png: sheet.encoded(), width: sheet.width))
    }
}

extension [Float] {
    /// Mean above the base's, in the base's standard deviations.
    fileprivate func gain(over base: [Float]) -> Double {
        func mean(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } / Double(Swift.max(values.count, 1)) }
        let center = mean(base)
        let variance = base.reduce(0) { $0 + (Double($1) - center) * (Double($1) - center) } / Double(Swift.max(base.count - 1, 1))
        return variance > 0 ? (mean(self) - center) / variance.squareRoot() : 0
    }
}
