import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

@Suite struct UNetArguments {
    /// What the model says of the fixture's arguments with some replaced.
    private func refusal(
        _ name: String, sample: Tensor? = nil, timestep: [Float]? = nil, text: Tensor? = nil, pooled: Tensor?? = .none,
        ids: Tensor?? = .none,
        mask: Tensor?? = .none, features: Set<String> = []
    ) throws -> String {
        let fixture = try UNetFixture(name)
        let model = try UNet2DConditionModel.load(directory: fixture.directory)
        do {
            let output = try model(
                sample: Variable(sample ?? fixture.sample), timestep: timestep ?? fixture.timestep,
                encoderHiddenStates: Variable(text ?? fixture.text), textEmbeds: (pooled ?? fixture.pooled).map { Variable($0) },
                timeIds: ids ?? fixture.ids, encoderAttentionMask: mask ?? fixture.mask, features: features)
            return output.sample == nil ? "no sample" : "accepted"
        } catch { return "\(error)" }
    }

    private func poisoned(_ tensor: Tensor, _ value: Float = .nan) -> Tensor {
        var values = tensor.array
        values[values.count / 2] = value
        return Tensor(values, shape: tensor.shape)
    }

    @Test func eachIsNamedWhenItDoesNotFit() throws {
        #expect(try refusal("unet-sdxl") == "accepted")
        let f = try UNetFixture("unet-sdxl")
        for shape in [[2, 4, 70], [4, 7, 10], [2, 4, 7, 0], [0, 4, 7, 10], [2, 5, 7, 10], [2, 4, 7, 10, 1], []] {
            let message = try refusal("unet-sdxl", sample: Tensor(zeros: shape))
            #expect(message.hasPrefix("sample has") && message.contains("\(shape)"), "\(message)")
        }
        #expect(try refusal("unet-sdxl", sample: poisoned(f.sample)).hasPrefix("sample holds"))
        #expect(try refusal("unet-sdxl", sample: poisoned(f.sample, .infinity)).hasPrefix("sample holds"))
        for timestep: [Float] in [[], [1], [1, 2, 3], [1, .nan], [.infinity, 1]] {
            #expect(try refusal("unet-sdxl", timestep: timestep).hasPrefix("timestep has"))
        }
        for shape in [[2, 12], [1, 5, 12], [3, 5, 12], [2, 0, 12], [2, 5, 13], [2, 5, 12, 1]] {
            let message = try refusal("unet-sdxl", text: Tensor(zeros: shape))
            #expect(message.hasPrefix("encoder_hidden_states has") && message.contains("\(shape)"), "\(message)")
        }
        #expect(try refusal("unet-sdxl", text: poisoned(f.text)).hasPrefix("encoder_hidden_states holds"))
        for shape in [[2], [1, 10], [2, 11], [2, 0], [2, 1, 10]] {
            #expect(try refusal("unet-sdxl", pooled: Tensor(zeros: shape)).hasPrefix("text_embeds"))
        }
        for shape in [[6], [1, 6], [2, 5], [2, 0]] {
            #expect(try refusal("unet-sdxl", ids: Tensor(zeros: shape)).contains("time_ids"))
        }
        #expect(try refusal("unet-sdxl", pooled: poisoned(f.pooled!)).hasPrefix("text_embeds holds"))
        #expect(try refusal("unet-sdxl", ids: poisoned(f.ids!)).hasPrefix("time_ids holds"))
        #expect(try refusal("unet-sdxl", pooled: .some(nil)).hasPrefix("text_embeds is missing"))
        #expect(try refusal("unet-sdxl", ids: .some(nil)).hasPrefix("time_ids is missing"))
    }

    @Test func addedConditionsAreRefusedWhereTheModelHasNone() throws {
        #expect(try refusal("unet-sd15", pooled: Tensor(zeros: [2, 10])).hasPrefix("text_embeds is given"))
        #expect(try refusal("unet-sd15", ids: Tensor(zeros: [2, 6])).hasPrefix("time_ids is given"))
    }

    @Test func aMaskIsOfOnesAndZerosAndLeavesEachPictureAToken() throws {
        #expect(try refusal("unet-rare") == "accepted")
        #expect(try refusal("unet-rare", mask: Tensor(zeros: [2, 5])).hasPrefix("encoder_attention_mask has shape"))
        #expect(
            try refusal("unet-rare", mask: Tensor([1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], shape: [2, 6])).contains("picture 1 no token"))
        #expect(try refusal("unet-rare", mask: Tensor(full: 0.5, shape: [2, 6])).contains("other than 0 and 1"))
        #expect(try refusal("unet-rare", mask: Tensor(full: .nan, shape: [2, 6])).contains("other than 0 and 1"))
    }

    @Test func aFeatureThatTheModelLacksIsNamed() throws {
        #expect(try refusal("unet-sd15", features: ["down.2", "mid"]) == "accepted")
        for name in ["down.3", "down.-1", "up.0", "MID", ""] {
            #expect(try refusal("unet-sd15", features: [name, "mid"]).contains("'\(name)'"))
        }
    }

    /// The smallest pictures: a side of one is kept with padding, and gone without.
    @Test func aPictureOfOnePixelHasASample() throws {
        #expect(try refusal("unet-sd15", sample: Tensor(full: 0.5, shape: [2, 4, 1, 1])) == "accepted")
        #expect(try refusal("unet-rare", sample: Tensor(full: 0.5, shape: [2, 3, 4, 4])) == "accepted")
        #expect(try refusal("unet-rare", sample: Tensor(full: 0.5, shape: [2, 3, 4, 3])).hasPrefix("sample has shape"))
    }

    /// A picture alone gives what it gives beside others, its timestep and mask being its own.
    @Test func picturesOfABatchDoNotMix() throws {
        let fixture = try UNetFixture("unet-rare")
        let model = try UNet2DConditionModel.load(directory: fixture.directory)
        let together = try #require(fixture.run(model).output.sample).tensor
        for picture in 0..<2 {
            func row(_ tensor: Tensor) -> Tensor { tensor.sliced(axis: 0, picture..<picture + 1) }
            let alone = try model(
                sample: Variable(row(fixture.sample)), timestep: [fixture.timestep[picture]],
                encoderHiddenStates: Variable(row(fixture.text)), encoderAttentionMask: row(fixture.mask!))
            #expect(try relativeDifference(#require(alone.sample).tensor, row(together)) < 1e-5)
        }
    }

    /// The half has the whole's values, as each parameter draws from a stream of its own.
    @Test func aModelMadeFromASeedIsTheSameAgain() throws {
        let configuration = try UNetConfiguration(contentsOf: "\(fixtures)/unet-sdxl/config.json")
        let model = try UNet2DConditionModel(configuration: configuration, seed: 4)
        let half = try UNet2DConditionModel(configuration: configuration, seed: 4, downOnly: true)
        #expect(model.parameters.allSatisfy { $0.variable.requiresGradient })
        #expect(half.parameters.count < model.parameters.count)
        #expect(zip(half.parameters, model.parameters).allSatisfy { $0.name == $1.name && $0.variable.tensor == $1.variable.tensor })
        let tensors = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.variable.tensor) })
        #expect(tensors["down_blocks.0.resnets.0.norm1.weight"]!.array.allSatisfy { $0 == 1 })
        let bound = 1 / Float(6 * 9).squareRoot()
        let weights = tensors["down_blocks.0.resnets.0.conv1.weight"]!.array
        #expect(weights.allSatisfy { abs($0) <= bound } && weights.contains { abs($0) > 0.9 * bound })
    }
}
