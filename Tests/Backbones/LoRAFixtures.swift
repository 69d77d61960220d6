import Foundation
import Safetensors
import Tensors
import Testing

@testable import Backbones

/// The adapters of Fixtures/*/lora-ours, which Tests/Reference/lora_roundtrip.py gave to diffusers: B filled so that they change something.
enum LoRAFixtures {
    static let names = ["t2v", "sd35", "unet-sd15"]

    /// Wan's has one rank. The others have layers of another rank and alpha, and the U-Net's adapts convolutions with kernels of 1 and 3.
    static func ours(_ name: String) throws -> LoRAWeights {
        let directory = "\(fixtures)/\(name)"
        switch name {
        case "t2v":
            return try filled(WanTransformer3DModel.load(directory: directory), LoRAConfiguration(rank: 4, alpha: 6), odd: nil)
        case "sd35":
            let targets = SD3Transformer2DModel.adapterTargets + ["ff.net.2", "proj_out"]
            return try filled(
                SD3Transformer2DModel.load(directory: directory), LoRAConfiguration(rank: 3, alpha: 6, targets: targets), odd: (2, 0.75))
        default:
            let targets = UNet2DConditionModel.adapterTargets + ["proj_in", "resnets.0.conv1", "upsamplers.0.conv", "time_emb_proj"]
            return try filled(
                UNet2DConditionModel.load(directory: directory), LoRAConfiguration(rank: 2, alpha: 4, targets: targets), odd: (3, 1.25))
        }
    }

    /// - Parameter odd: the rank and the factor of every third layer.
    private static func filled(
        _ model: some BackboneModel, _ configuration: LoRAConfiguration, odd: (rank: Int, scaling: Float)?
    ) throws -> LoRAWeights {
        try model.attachLoRA(configuration, seed: 11)
        var weights = try #require(model.loraWeights)
        for index in weights.layers.indices {
            var layer = weights.layers[index]
            var stream = RandomStream(seed: 12, item: UInt32(index))
            func values(_ shape: [Int]) -> Tensor { Tensor((0..<shape.reduce(1, *)).map { _ in stream.uniform() - 0.5 }, shape: shape) }
            if let odd, index % 3 == 1 {
                let (a, b) = ([odd.rank] + layer.a.shape.dropFirst(), [layer.b.shape[0], odd.rank] + layer.b.shape.dropFirst(2))
                layer = .init(name: layer.name, a: values(a), b: values(b), scaling: odd.scaling)
            } else {
                layer.b = values(layer.b.shape)
            }
            weights.layers[index] = layer
        }
        return weights
    }
}
