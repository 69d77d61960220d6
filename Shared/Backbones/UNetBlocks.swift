import Tensors

// Reads like diffusers' unet_2d_blocks.py. A block is a row of layers, each one map in and one map out, and what changes the size after them.

/// One resnet block and the transformer behind it, where the block attends.
struct UNetLayer {
    let resnet: UNetResnetBlock
    let transformer: UNetTransformer?

    /// [B,H,W,Cin] -> [B,H,W,Cout].
    func callAsFunction(_ x: Variable, _ context: UNetContext) -> Variable {
        let resnet = resnet
        let hidden = context.run(x, context.time) { resnet($0, time: $1) }
        return transformer?(hidden, context) ?? hidden
    }
}

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
struct UNetDownBlock {
    let layers: [UNetLayer]
    let downsampler: UNetDownsampler?

    /// - Parameter index: from the outermost.
    init(_ tree: ParameterTree, _ index: Int, _ configuration: UNetConfiguration) throws {
        let name = "down_blocks.\(index)"
        let output = configuration.blockOutChannels[index]
        layers = try (0..<configuration.layersPerBlock[index]).map { layer in
            let input = layer == 0 ? configuration.blockOutChannels[max(index - 1, 0)] : output
            return try UNetLayer(
                resnet: UNetResnetBlock(tree, "\(name).resnets.\(layer)", input, output, configuration),
                transformer: configuration.downBlocksAttend[index]
                    ? UNetTransformer(tree, "\(name).attentions.\(layer)", block: index, configuration) : nil)
        }
        let last = index == configuration.blockOutChannels.count - 1
        downsampler = last ? nil : try UNetDownsampler(tree, "\(name).downsamplers.0.conv", output, configuration)
    }
}

/// `UNetMidBlock2DCrossAttn`.
struct UNetMidBlock {
    let first, second: UNetLayer

    init(_ tree: ParameterTree, _ configuration: UNetConfiguration) throws {
        let block = configuration.blockOutChannels.count - 1
        let channels = configuration.blockOutChannels[block]
        func resnet(_ index: Int) throws -> UNetResnetBlock {
            try UNetResnetBlock(tree, "mid_block.resnets.\(index)", channels, channels, configuration)
        }
        first = UNetLayer(
            resnet: try resnet(0), transformer: try UNetTransformer(tree, "mid_block.attentions.0", block: block, configuration))
        second = UNetLayer(resnet: try resnet(1), transformer: nil)
    }

    func callAsFunction(_ x: Variable, _ context: UNetContext) -> Variable { second(first(x, context), context) }
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`: each layer takes the map before it with one of the way down behind it.
struct UNetUpBlock {
    let layers: [UNetLayer]
    let upsampler: Convolution?

    /// - Parameter index: from the innermost.
    init(_ tree: ParameterTree, _ index: Int, _ configuration: UNetConfiguration) throws {
        let name = "up_blocks.\(index)"
        let channels = Array(configuration.blockOutChannels.reversed())
        let block = channels.count - 1 - index
        let output = channels[index]
        let count = configuration.layersPerBlock[block] + 1
        layers = try (0..<count).map { layer in
            let before = layer == 0 ? channels[max(index - 1, 0)] : output
            // The last of the way down is what its block was given: the map of the block outside.
            let skip = layer == count - 1 ? channels[min(index + 1, channels.count - 1)] : output
            return try UNetLayer(
                resnet: UNetResnetBlock(tree, "\(name).resnets.\(layer)", before + skip, output, configuration),
                transformer: configuration.upBlocksAttend[index]
                    ? UNetTransformer(tree, "\(name).attentions.\(layer)", block: block, configuration) : nil)
        }
        upsampler =
            index == channels.count - 1 ? nil : try tree.convolution("\(name).upsamplers.0.conv", output, output, kernel: 3, padding: 1)
    }
}

extension UNetTransformer {
    /// With the heads and layers that the configuration gives a down block, counted from the outermost.
    init(_ tree: ParameterTree, _ name: String, block: Int, _ configuration: UNetConfiguration) throws {
        try self.init(
            tree, name, configuration.blockOutChannels[block], heads: configuration.attentionHeads[block],
            layers: configuration.transformerLayersPerBlock[block], configuration)
    }
}

/// `Downsample2D` with a convolution of stride two.
struct UNetDownsampler {
    let convolution: Convolution

    init(_ tree: ParameterTree, _ name: String, _ channels: Int, _ configuration: UNetConfiguration) throws {
        convolution = try tree.convolution(name, channels, channels, kernel: 3, stride: 2, padding: configuration.downsamplePadding)
    }

    /// Rows or columns of the result.
    func extent(_ size: Int) -> Int { convolution.padding == 1 ? (size + 1) / 2 : size / 2 }

    /// [B,H,W,C] -> [B,H',W',C].
    func callAsFunction(_ x: Variable) -> Variable {
        guard convolution.padding == 0 else { return convolution(x) }
        // Without padding diffusers adds a row below and a column on the right.
        let shape = x.shape
        let wider = concatenate([x, Variable(Tensor(zeros: [shape[0], shape[1], 1, shape[3]]))], axis: 2)
        return convolution(concatenate([wider, Variable(Tensor(zeros: [shape[0], 1, shape[2] + 1, shape[3]]))], axis: 1))
    }
}
