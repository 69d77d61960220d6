import Backbones

/// Writes a model folder with random weights, for both sides to load.
func makeModel(_ arguments: [String]) throws {
    switch (arguments.first, arguments.count) {
    case ("wan", 3):
        // Wan 2.1 T2V 1.3B has thirty of these blocks.
        guard let blocks = Int(arguments[1]), (1...30).contains(blocks) else { throw Usage("make wan: 1 to 30 blocks") }
        var c = WanConfiguration()
        c.numAttentionHeads = 12
        c.ffnDim = 8960
        c.numLayers = blocks
        try WanTransformer3DModel(configuration: c, seed: 1).save(directory: arguments[2])
    case ("wan192", 2):
        // The demo's generator, half as wide again.
        var c = WanConfiguration()
        c.numAttentionHeads = 6
        c.attentionHeadDim = 32
        c.ffnDim = 576
        c.freqDim = 64
        c.textDim = 64
        c.inChannels = 20
        c.outChannels = 12
        c.numLayers = 4
        c.ropeMaxSeqLen = 32
        try WanTransformer3DModel(configuration: c, seed: 1).save(directory: arguments[1])
    case ("sd15", 2):
        // Stable Diffusion 1.5: 860 million parameters.
        var c = UNetConfiguration()
        c.sampleSize = [64]
        c.crossAttentionDim = 768
        try UNet2DConditionModel(configuration: c, seed: 1).save(directory: arguments[1])
    default: throw Usage("make wan BLOCKS FOLDER | make wan192 FOLDER | make sd15 FOLDER")
    }
}
