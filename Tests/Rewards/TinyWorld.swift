import Backbones
import Foundation
import Rewards
import Tensors

/// A trunk of two small blocks and clips of which those with a brighter first channel are better.
enum TinyWorld {
    static func configuration() throws -> WanConfiguration {
        try WanConfiguration(
            json: Array(
                """
                {"_class_name":"WanTransformer3DModel","patch_size":[1,2,2],"num_attention_heads":2,"attention_head_dim":12,"in_channels":5,
                "out_channels":4,"text_dim":10,"freq_dim":16,"ffn_dim":40,"num_layers":2,"cross_attn_norm":true}
                """.utf8))
    }

    static func trunk(seed: UInt64 = 7) throws -> WanTransformer3DModel {
        let model = WanTransformer3DModel(configuration: try configuration(), seed: seed)
        model.setRequiresGradient { _ in false }
        return model
    }

    static func tensor(_ shape: [Int], seed: UInt64, item: Int = 0) -> Tensor {
        var stream = RandomStream(seed: seed, item: UInt32(item))
        return Tensor.normal(shape: shape, &stream)
    }

    /// Groups of four clips with their six pairs.
    static func dataset(groups: Int, seed: UInt64 = 3, ties: Bool = true) throws -> RewardDataset {
        var clips: [RewardClip] = []
        var pairs: [RewardPair] = []
        for group in 0..<groups {
            let prompt = tensor([3, 10], seed: seed + 1, item: group % 3)
            var quality: [Float] = []
            for member in 0..<4 {
                var latents = tensor([4, 2, 4, 4], seed: seed, item: group * 4 + member)
                let bright = Float(member) - 1.5 + 0.1 * Float(group % 5)
                latents.withUnsafeMutableBufferPointer { values in for index in 0..<32 { values[index] += bright } }
                quality.append(bright)
                clips.append(
                    RewardClip(latents: latents, promptEmbeds: prompt, condition: Tensor(full: 0.5, shape: [1, 2, 4, 4])))
            }
            for a in 0..<4 {
                for b in a + 1..<4 {
                    let outcome: PairOutcome = ties && b == a + 1 && a == 1 ? .tie : quality[a] > quality[b] ? .a : .b
                    pairs.append(RewardPair(a: group * 4 + a, b: group * 4 + b, outcome: outcome, cluster: group % 3))
                }
            }
        }
        return try RewardDataset(clips: clips, pairs: pairs)
    }

    static func settings(_ kind: HeadKind = .prism, steps: Int = 30) -> RewardTrainingConfiguration {
        var settings = RewardTrainingConfiguration()
        settings.kind = kind
        settings.steps = steps
        settings.batch = 24
        settings.draws = 4
        settings.learningRate = 3e-3
        settings.seed = 11
        return settings
    }

    static func folder() throws -> String {
        let path = FileManager.default.temporaryDirectory.path + "/rewards-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }
}
