public import Tensors
import Foundation
import Safetensors

/// What the generator sees besides the latent: words, and constant position channels, because Wan's rotary embedding is relative and this
/// world has borders. With the codec's basis they are read from the bundled `world.safetensors`; whoever checks a LoRA from outside
/// conditions with the same numbers.
public struct DemoConditioning: Sendable {
    /// [8, 64]: diamond, hourglass, red, green, blue, right, down, moving.
    public let text: Tensor
    /// [8, 6, 8, 8], joined behind the 12 latent channels.
    public let positionChannels: Tensor
    /// Between pixels and latents.
    public let codec: DemoCodec

    /// - Parameter path: a safetensors file with `text`, `position_channels`, `basis`; nil for the bundled one.
    /// - Throws: what the safetensors reader throws, naming the tensor.
    public init(path: String? = nil) throws {
        let file = try SafetensorsFile(contentsOf: path ?? DemoResources.world)
        text = try file.tensor("text")
        positionChannels = try file.tensor("position_channels")
        codec = DemoCodec(basis: try file.tensor("basis"))
        precondition(text.shape == [8, 64] && positionChannels.shape == [8, 6, 8, 8], "world.safetensors has another layout")
    }

    /// One prompt's words [4, 64]: colour, shape, "moving", direction. Nil is the empty prompt, zeros.
    public func promptEmbeds(_ prompt: DemoPrompt?) -> Tensor {
        guard let prompt else { return Tensor(zeros: [4, 64]) }
        let rows = [prompt.colour.rawValue + 2, prompt.shape.rawValue, 7, prompt.direction.rawValue + 5]
        return Tensor.concatenate(rows.map { text[$0..<$0 + 1] })
    }

    /// [N, 4, 64].
    public func promptEmbeds(_ prompts: [DemoPrompt?]) -> Tensor {
        Tensor.stack(prompts.map { promptEmbeds($0) })
    }
}

/// The world's bundled files.
public enum DemoResources {
    static let world = folder + "/world.safetensors"
    /// The demo's generator, in diffusers layout.
    public static let generator = folder + "/generator"

    private static let folder = Bundle.module.bundlePath + "/Resources"
}
