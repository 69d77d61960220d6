import Alignment
import DemoWorld
import Diffusion
import Foundation
import Tensors

/// Step 3: Best-of-N through the scoring service, every method counted on the same trajectories.
extension DemoRun {
    /// One set of groups: finished clips, and the states on the way by steps done.
    struct Trajectories {
        var clips: DemoClipSet
        var path: [Int: Tensor]
    }

    struct BestOfNTests {
        var validation: Trajectories
        var test: Trajectories
        var schedule: FlowMatchSchedule

        func sigma(_ step: Int) -> Float { schedule.sigmas[step] }
    }

    /// Steps after which candidates are scored, and the noise level at which finished ones are: where heads judge best.
    static let scoredSteps: Set<Int> = [2, 3, 5, 8, 10, 12]
    static let finishedSigma: Float = 0.7
    /// Where a recorded group keeps the finished latents' energies, beside the scores by step.
    static let energyKey = -1

    func sampleBestOfN() async throws -> (BestOfNTests, String) {
        let generator = try sampler.generator()
        func trajectories(_ groups: Int, _ seed: UInt64) async throws -> Trajectories {
            let made = try await sampler.sample(
                generator, prompts: DemoSampler.prompts(groups), group: settings.candidates, steps: settings.steps, noiseSeed: seed,
                recording: Self.scoredSteps)
            return Trajectories(clips: made.clips, path: made.recorded)
        }
        terminal.progress("sample Best-of-8 candidates", 0.05, "groups to choose the schedule on")
        let validation = try await trajectories(settings.validationGroups, DemoSettings.Noise.validation)
        terminal.progress("sample Best-of-8 candidates", 0.33, "groups that are reported")
        let test = try await trajectories(settings.testGroups, DemoSettings.Noise.test)
        figures.base_good_rate = test.clips.goodRate
        let tests = BestOfNTests(
            validation: validation, test: test, schedule: FlowMatchSchedule(steps: settings.steps, shift: settings.shift))
        return (
            tests,
            "\(settings.validationGroups) + \(settings.testGroups) groups of \(settings.candidates), \(percent(test.clips.goodRate)) good, \(String(format: "%.1f ms", 1000 * sampler.secondsPerPass)) a forward pass"
        )
    }

    func bestOfN(_ tests: BestOfNTests) async throws -> String {
        let step = "prune Best-of-8"
        var judge = (passes: 0, seconds: 0.0)
        let validation = try await record(tests, tests.validation, &judge) { terminal.progress(step, $0 / 3, "scoring, other groups") }
        let groups = try await record(tests, tests.test, &judge) { terminal.progress(step, 1 / 3 + $0 * 2 / 3, "scoring") }

        let count = settings.candidates, steps = settings.steps
        let options = ScheduleChoice.candidates(
            count: count, steps: steps, scored: Array(Self.scoredSteps), keeps: [1, 2, 3, 4], maximumCost: 0.35)
        guard let progressive = ScheduleChoice.best(options.filter { $0.cuts.count > 1 }, on: validation) else {
            throw DemoServices.Failure(description: "no pruning schedule fits into 35 % of the forward passes")
        }
        let cut = try PruningSchedule.oneCut(count: count, steps: steps, after: 5)
        let full = try PruningSchedule.allToTheEnd(count: count, steps: steps)
        let energySign = energySign(tests.validation.clips)
        let judgeSeconds = judge.passes > 0 ? judge.seconds / Double(judge.passes) : 0

        func row(_ method: String, _ description: String, passes: Int, judged: Int, _ outcome: SelectionOutcome) {
            figures.best_of_n.append(
                .init(
                    method: method, description: description, forward_passes: Double(passes), judge_passes: Double(judged),
                    quality_gain: outcome.gain.mean, half_width: outcome.gain.halfWidth, good_rate: outcome.goodRate.mean,
                    seconds_per_group: Double(passes) * sampler.secondsPerPass + Double(judged) * judgeSeconds))
        }
        figures.best_of_n_groups = groups.count
        row("random", "one candidate, unjudged", passes: steps, judged: 0, SelectionOutcome(random: groups))
        row(
            "energy", "all to the end, by the energy of the finished latent", passes: count * steps, judged: 0,
            SelectionOutcome(groups) { group in group.pick(highest: (group.scores[Self.energyKey] ?? []).map { $0 * energySign }) })
        row("one_cut", "keep 1 after step 5", passes: cut.forwardPasses, judged: cut.judgePasses, SelectionOutcome(groups) { $0.pick(cut) })
        row(
            "progressive", "keep " + progressive.cuts.map { "\($0.keep) after \($0.step)" }.joined(separator: ", "),
            passes: progressive.forwardPasses, judged: progressive.judgePasses, SelectionOutcome(groups) { $0.pick(progressive) })
        row(
            "all_to_end", "all to the end, re-noised to t = 0.7 and scored", passes: full.forwardPasses, judged: count,
            SelectionOutcome(groups) { $0.pick(full) })
        row(
            "oracle", "all to the end, by the annotator: the ceiling", passes: count * steps, judged: 0,
            SelectionOutcome(groups) { $0.oracle })
        bestOfNSheet(tests, groups, progressive)

        let found = figures.best_of_n.first { $0.method == "progressive" }!, all = figures.best_of_n.first { $0.method == "all_to_end" }!
        return
            "\(progressive): \(percent(found.forward_passes / all.forward_passes)) of the passes, \(percent(all.quality_gain == 0 ? 0 : found.quality_gain / all.quality_gain)) of the gain"
    }

    /// Every score that a schedule could ask for, from the scoring service.
    private func record(
        _ tests: BestOfNTests, _ set: Trajectories, _ judge: inout (passes: Int, seconds: Double), progress: (Double) -> Void
    ) async throws -> [RecordedGroup] {
        let count = settings.candidates
        var groups: [RecordedGroup] = []
        for group in 0..<set.clips.groups {
            let rows = group * count..<(group + 1) * count
            let prompt = world.promptEmbeds(set.clips.prompts[rows.lowerBound])
            var scores: [Int: [Float]] = [:]
            func ask(_ step: Int, _ latents: Tensor, _ sigma: Float) async throws {
                let (values, seconds) = try await services.scores(
                    latents: latents, promptEmbeds: prompt, condition: world.positionChannels, sigma: sigma)
                scores[step] = values
                judge.passes += count
                judge.seconds += seconds
            }
            for step in Self.scoredSteps.sorted() {
                guard let path = set.path[step] else { continue }
                try await ask(step, path[rows], tests.sigma(step))
            }
            // A finished clip is judged best with noise added again; the group's candidates share it.
            var stream = RandomStream(seed: settings.seed, run: 0xf1a1, item: UInt32(group))
            let noise = Tensor.normal(shape: DemoGeometry.latentShape, &stream)
            let noises = Tensor.stack((0..<count).map { _ in noise })
            try await ask(
                settings.steps, FlowMatchSchedule.noised(set.clips.latents[rows], noises, sigma: Self.finishedSigma), Self.finishedSigma)
            scores[Self.energyKey] = energies(set.clips, group: group)
            let judged = Array(set.clips.judgements[rows])
            groups.append(RecordedGroup(scores: scores, quality: judged.map(\.quality), isGood: judged.map(\.isGood)))
            progress(Double(group + 1) / Double(set.clips.groups))
        }
        return groups
    }

    private func energies(_ clips: DemoClipSet, group: Int) -> [Float] {
        (group * clips.group..<(group + 1) * clips.group).map { Float(clips.latent($0).sumOfSquares) }
    }

    /// Whether larger latents are better, on groups that are not reported.
    private func energySign(_ clips: DemoClipSet) -> Float {
        var agreement = 0
        for group in 0..<clips.groups {
            let energy = energies(clips, group: group)
            let quality = clips.judgements[group * clips.group..<(group + 1) * clips.group].map(\.quality)
            for i in energy.indices {
                for j in (i + 1)..<energy.count where DemoAnnotator.preference(quality[i], quality[j]) != .tie {
                    agreement += (energy[i] - energy[j]) * (quality[i] - quality[j]) > 0 ? 1 : -1
                }
            }
        }
        return agreement >= 0 ? 1 : -1
    }

    private func bestOfNSheet(_ tests: BestOfNTests, _ groups: [RecordedGroup], _ schedule: PruningSchedule) {
        let shown = 0..<min(12, groups.count)
        let clips = tests.test.clips
        let first = shown.map { clips.picture($0 * clips.group, world: world) }
        let picked = shown.map { clips.picture($0 * clips.group + groups[$0].pick(schedule), world: world) }
        let sheet = ContactSheet.draw(
            rows: [first, picked], frames: DemoGeometry.frames, height: DemoGeometry.size, width: DemoGeometry.size)
        sheets.append(
            .init(
                title: "Best-of-N",
                caption:
                    "Above: each group's first candidate. Below: what progressive pruning kept. Green frame: good by the annotator; red: flawed.",
                png: sheet.encoded(), width: sheet.width))
    }
}
