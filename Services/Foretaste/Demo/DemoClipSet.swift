import Alignment
import DemoWorld
import Diffusion
import Rewards
import Tensors

/// Finished clips of the demo with what the annotator says of them.
struct DemoClipSet: Sendable {
    /// [N,12,6,8,8].
    var latents: Tensor
    var prompts: [DemoPrompt]
    var judgements: [DemoJudgement]
    /// Clips a group: the first `group` clips are one prompt's candidates, and so on.
    var group: Int

    init(latents: Tensor, prompts: [DemoPrompt], group: Int, world: DemoConditioning) {
        self.latents = latents
        self.prompts = prompts
        self.group = group
        judgements = DemoAnnotator.judge(world.codec.decode(latents), prompts: prompts)
    }

    var count: Int { prompts.count }
    var groups: Int { count / group }
    var qualities: [Double] { judgements.map { Double($0.quality) } }
    var goodRate: Double { Double(judgements.count { $0.isGood }) / Double(max(count, 1)) }
    var meanEnergy: Double { latents.sumOfSquares / Double(max(count, 1)) }

    /// One clip's latent [12,6,8,8].
    func latent(_ index: Int) -> Tensor { latents[index..<index + 1].reshaped(DemoGeometry.latentShape) }

    /// The noise-free comparisons inside each group, for evaluating judges: clusters are the groups.
    func dataset(world: DemoConditioning, quality: (DemoJudgement) -> Float = \.quality) throws -> RewardDataset {
        let clips = prompts.indices.map { index in
            RewardClip(latents: latent(index), promptEmbeds: world.promptEmbeds(prompts[index]), condition: world.positionChannels)
        }
        var pairs: [RewardPair] = []
        for first in stride(from: 0, to: count, by: group) {
            for i in first..<first + group {
                for j in (i + 1)..<first + group {
                    let outcome: PairOutcome =
                        switch DemoAnnotator.preference(quality(judgements[i]), quality(judgements[j])) {
                        case .a: .a
                        case .b: .b
                        case .tie: .tie
                        }
                    pairs.append(RewardPair(a: i, b: j, outcome: outcome, cluster: first / group))
                }
            }
        }
        return try RewardDataset(clips: clips, pairs: pairs)
    }

    /// A clip for a contact sheet.
    func picture(_ index: Int, world: DemoConditioning) -> ContactSheet.Clip {
        let pixels = world.codec.decode(latents[index..<index + 1]).array.map { min(max($0, 0), 1) }
        return ContactSheet.Clip(pixels: pixels, good: judgements[index].isGood)
    }
}

/// An axis that people may judge by itself.
enum DemoAxis: String, CaseIterable, Sendable {
    case prompt, motion, appearance

    /// What the annotator is asked.
    var question: String {
        switch self {
        case .prompt: "Does it move where the prompt says?"
        case .motion: "Does it move evenly, as far as it should?"
        case .appearance: "Are shape, colour and brightness right?"
        }
    }

    /// Minus the axis's penalties, as quality is minus all of them.
    func quality(_ judgement: DemoJudgement) -> Float {
        let p = judgement.penalties.map { min($0, 1.5) }
        switch self {
        case .prompt: return -p[1]
        case .motion: return -p[0]
        case .appearance: return -(p[2] + p[3] + p[4])
        }
    }
}
