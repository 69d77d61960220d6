import Foundation
public import Tensors

/// What a forward pass of the U-Net returns.
public struct UNetOutput {
    /// The prediction [B,out_channels,H,W]; nil when the pass stopped after the mid block.
    public let sample: Variable?
    /// The maps asked for [B,C,H',W']: `down.K`, `mid`.
    public let features: [String: Variable]
}

/// Stable Diffusion's U-Net (1.x, 2.x, SDXL), with weights by their diffusers names.
///
/// Its down and mid half can be loaded and run alone. Not Sendable, as a graph belongs to one thread.
public final class UNet2DConditionModel: CheckpointedModel {
    public static let className = "UNet2DConditionModel"
    public static let component = "unet"
    public let configuration: UNetConfiguration
    public let tree: ParameterTree
    /// Runs each resnet and transformer block again in the backward pass instead of keeping its activations.
    public var checkpointsBlocks = false
    private let convIn: Convolution
    private let timeEmbedding: UNetEmbedding
    private let addEmbedding: UNetEmbedding?
    let downBlocks: [UNetDownBlock]
    private let midBlock: UNetMidBlock
    private let up: UpHalf?

    /// What the down half alone does without.
    private struct UpHalf {
        let blocks: [UNetUpBlock]
        let norm: UNetNorm
        let convOut: Convolution

        init(_ tree: ParameterTree, _ configuration: UNetConfiguration) throws {
            let channels = configuration.blockOutChannels
            blocks = try channels.indices.map { try UNetUpBlock(tree, $0, configuration) }
            norm = try UNetNorm(tree, "conv_norm_out", channels[0])
            convOut = try tree.convolution("conv_out", channels[0], configuration.outChannels, kernel: 3, padding: 1)
        }
    }

    /// Whether the up half was left out.
    public var isDownOnly: Bool { up == nil }

    convenience init(
        configuration: UNetConfiguration, trainable: @escaping (String) -> Bool, source: @escaping ParameterTree.Source
    ) throws {
        try self.init(configuration: configuration, downOnly: false, trainable: trainable, source: source)
    }

    init(
        configuration: UNetConfiguration, downOnly: Bool, trainable: @escaping (String) -> Bool, source: @escaping ParameterTree.Source
    ) throws {
        self.configuration = configuration
        let tree = ParameterTree(trainable: trainable, source: source)
        self.tree = tree
        let channels = configuration.blockOutChannels
        convIn = try tree.convolution("conv_in", configuration.inChannels, channels[0], kernel: 3, padding: 1)
        timeEmbedding = try UNetEmbedding(tree, "time_embedding", channels[0], configuration.timeWidth)
        addEmbedding = try configuration.textTime.map { try UNetEmbedding(tree, "add_embedding", $0.inputDim, configuration.timeWidth) }
        downBlocks = try channels.indices.map { try UNetDownBlock(tree, $0, configuration) }
        midBlock = try UNetMidBlock(tree, configuration)
        up = downOnly ? nil : try UpHalf(tree, configuration)
    }

    /// The noise or velocity that the model predicts.
    ///
    /// - Parameters:
    ///   - sample: the noisy latents [B,in_channels,H,W], of any size.
    ///   - timestep: one a picture, 0–1000, may be fractional.
    ///   - encoderHiddenStates: the text encoder's tokens [B,L,cross_attention_dim].
    ///   - textEmbeds: SDXL's pooled text [B,P].
    ///   - timeIds: SDXL's sizes and crops [B,6] (`original_size`, `crops_coords_top_left`, `target_size`).
    ///   - encoderAttentionMask: [B,L], 1 for tokens that are attended to and 0 for others; all when nil.
    ///   - features: the maps wanted: `down.K`, the last of down block K (from 0, the outermost) before its downsampler, and `mid`.
    ///   - half: stop after the mid block, or where the last of the features is.
    /// - Throws: `BackboneError` naming the argument that does not fit.
    public func callAsFunction(
        sample: Variable, timestep: [Float], encoderHiddenStates: Variable, textEmbeds: Variable? = nil, timeIds: Tensor? = nil,
        encoderAttentionMask: Tensor? = nil, features wanted: Set<String> = [], half: Bool = false
    ) throws -> UNetOutput {
        try check(sample, timestep, encoderHiddenStates, textEmbeds, timeIds, encoderAttentionMask, wanted, half: half)
        let (text, lengths) = masked(encoderHiddenStates, encoderAttentionMask)
        let time = timeEmbedded(timestep, textEmbeds, timeIds)
        let context = UNetContext(time: silu(time), text: text, textLengths: lengths, checkpoints: checkpointsBlocks)
        var features: [String: Variable] = [:]
        func note(_ name: String, _ x: Variable) { if wanted.contains(name) { features[name] = permute(x, [0, 3, 1, 2]) } }

        var x = permute(sample, [0, 2, 3, 1])
        if configuration.centerInputSample { x = shift(scale(x, 2), -1) }
        x = convIn(x)
        // Maps of the way down wait for the way up, which lets each go as soon as it has it; the half has no use for them.
        var skips = half ? [] : [x]
        for (index, block) in downBlocks.enumerated() {
            for layer in block.layers {
                x = layer(x, context)
                if !half { skips.append(x) }
            }
            note("down.\(index)", x)
            // A judge that looks at shallow maps alone needs nothing deeper.
            if half && features.count == wanted.count { return UNetOutput(sample: nil, features: features) }
            if let downsampler = block.downsampler {
                x = downsampler(x)
                if !half { skips.append(x) }
            }
        }
        x = midBlock(x, context)
        note("mid", x)
        guard !half, let up else { return UNetOutput(sample: nil, features: features) }

        for block in up.blocks {
            for layer in block.layers {
                x = concatenate([x, skips.removeLast()], axis: 3)
                x = layer(x, context)
            }
            if let upsampler = block.upsampler {
                // Twice the size, or one less where the way down rounded up.
                let size = skips[skips.count - 1].shape
                x = upsampler(upsampleNearest(x, height: size[1], width: size[2]))
            }
        }
        x = up.norm.group(x, groups: configuration.normNumGroups, eps: configuration.normEps, activation: .silu)
        return UNetOutput(sample: permute(up.convOut(x), [0, 3, 1, 2]), features: features)
    }

    /// The embedding [B,T] of the timestep, and of the added conditions where the model has them.
    private func timeEmbedded(_ timestep: [Float], _ textEmbeds: Variable?, _ timeIds: Tensor?) -> Variable {
        let sinusoids = timestepSinusoids(timestep, width: configuration.blockOutChannels[0], configuration: configuration)
        let embedding = timeEmbedding(Variable(sinusoids))
        guard let addEmbedding, let textTime = configuration.textTime, let textEmbeds, let timeIds else { return embedding }
        let numbers = timestepSinusoids(timeIds.array, width: textTime.timeDim, configuration: configuration)
        let rows = numbers.reshaped([timeIds.shape[0], timeIds.shape[1] * textTime.timeDim])
        return add(embedding, addEmbedding(concatenate([textEmbeds, Variable(rows)], axis: 1)))
    }
}
