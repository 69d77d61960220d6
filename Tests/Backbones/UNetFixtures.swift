import Backbones
import Foundation
import Safetensors
import Tensors
import Testing

/// One of the folders that Tests/Reference/unet_fixtures.py wrote.
struct UNetFixture {
    static let names = ["unet-sd15", "unet-sd21", "unet-sdxl", "unet-rare"]
    let directory: String
    let expected, cotangents: SafetensorsFile
    let sample, text: Tensor
    let pooled, ids, mask: Tensor?
    let timestep: [Float]

    init(_ name: String) throws {
        directory = "\(fixtures)/\(name)"
        expected = try SafetensorsFile(contentsOf: "\(directory)/expected.safetensors")
        cotangents = try SafetensorsFile(contentsOf: "\(directory)/cotangent.safetensors")
        let file = try SafetensorsFile(contentsOf: "\(directory)/inputs.safetensors")
        func numbers(_ name: String) throws -> [Float] {
            file.entries[name]!.dtype.isFloatingPoint ? try file.tensor(name).array : try file.integers(name).map { Float($0) }
        }
        func optional(_ name: String) throws -> Tensor? {
            try file.entries[name].map { Tensor(try numbers(name), shape: $0.shape) }
        }
        sample = try file.tensor("sample")
        text = try file.tensor("encoder_hidden_states")
        pooled = try optional("text_embeds")
        ids = try optional("time_ids")
        mask = try optional("encoder_attention_mask")
        timestep = try numbers("timestep")
    }

    /// A pass with leaves of its own for the inputs that are floats.
    func run(_ model: UNet2DConditionModel, features: Set<String> = [], half: Bool = false) throws -> UNetRun {
        let inputs = UNetRun.Inputs(
            sample: Variable(sample, requiresGradient: true), text: Variable(text, requiresGradient: true),
            pooled: pooled.map { Variable($0, requiresGradient: true) })
        let output = try model(
            sample: inputs.sample, timestep: timestep, encoderHiddenStates: inputs.text, textEmbeds: inputs.pooled, timeIds: ids,
            encoderAttentionMask: mask, features: features, half: half)
        return UNetRun(inputs: inputs, output: output)
    }
}

/// A pass and what went into it.
struct UNetRun {
    struct Inputs { let sample, text: Variable, pooled: Variable? }
    let inputs: Inputs
    let output: UNetOutput

    /// The inputs' gradients under their names in the fixtures, behind `prefix`.
    func inputGradients(_ prefix: String = "") throws -> [(String, Tensor)] {
        var result = [("\(prefix)grad_sample", try #require(inputs.sample.gradient))]
        result.append(("\(prefix)grad_encoder_hidden_states", try #require(inputs.text.gradient)))
        if let pooled = inputs.pooled { result.append(("\(prefix)grad_text_embeds", try #require(pooled.gradient))) }
        return result
    }

    func features() -> [(String, Tensor)] { output.features.keys.sorted().map { ("features.\($0)", output.features[$0]!.tensor) } }
}

/// A parameter's gradient as the fixtures have it: whole, or 12 sums in place of more than 32 values.
func asInFixture(_ name: String, _ gradient: Tensor) -> (String, Tensor) {
    guard gradient.count > 32 else { return ("grad.\(name)", gradient) }
    let values = gradient.array.map(Double.init)
    let sums = (1...12).map { column in
        values.enumerated().reduce(0.0) { $0 + $1.element * sin(0.7391 * Double($1.offset + 1) * Double(column)) }
    }
    return ("projected.\(name)", Tensor(sums.map { Float($0) }, shape: [12]))
}
