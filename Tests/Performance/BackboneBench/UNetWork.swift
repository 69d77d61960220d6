import Backbones
import Tensors

/// Stable Diffusion's U-Net: the whole of it, or the down and mid half that a reward model on latents runs.
final class UNetWork: Work {
    private let model: UNet2DConditionModel
    private let half, wantsGradient: Bool
    private let sample, text: Tensor
    private let batch: Int
    /// The first run's arithmetic, as its operations count it: 2 · outputs · inputs · taps a convolution's position, as if every tap were
    /// multiplied, and as in `WanArithmetic` for the rest.
    private(set) var flops = 0.0

    init(_ options: Options) throws {
        guard options.grid.count == 2 else { throw Usage("--grid needs rows and columns") }
        half = options.pass.hasPrefix("half")
        wantsGradient = options.pass.hasSuffix("input")
        model = try UNet2DConditionModel.load(directory: options.model, downOnly: half)
        batch = options.batch
        sample = numbers([batch, model.configuration.inChannels] + options.grid, seed: 1)
        text = numbers([batch, options.text, model.configuration.crossAttentionDim], seed: 2)
    }

    /// The convolutions of the outer and of the inner blocks as matrix products.
    var sgemm: [Sgemm.Size] {
        let positions = sample.count / model.configuration.inChannels
        let channels = model.configuration.blockOutChannels
        return [
            .init(rows: positions, inputs: 9 * channels[0], outputs: channels[0]),
            .init(rows: positions / 4, inputs: 9 * channels[1], outputs: channels[1]),
            .init(rows: positions, inputs: 1536, outputs: 1536),
        ]
    }

    func run() throws -> [Tensor] {
        guard flops == 0 else { return try pass() }
        Profile.start()
        let result = try pass()
        flops = Profile.stop().reduce(0) { $0 + $1.flops }
        return result
    }

    private func pass() throws -> [Tensor] {
        let input = Variable(sample, requiresGradient: wantsGradient)
        let output = try model(
            sample: input, timestep: [Float](repeating: 700, count: batch), encoderHiddenStates: Variable(text),
            features: half ? ["mid"] : [], half: half)
        let result = half ? output.features["mid"]! : output.sample!
        guard wantsGradient else { return [result.tensor] }
        result.backward(numbers(result.shape, seed: 3))
        return [input.gradient!]
    }
}
