import Backbones
import Tensors

/// Wan as a whole model: a stack of a few blocks between the patch embedding and the head.
struct WanWork: Work {
    private let options: Options
    private let model: WanTransformer3DModel
    private let weights: WanWeights
    private let inputs: WanPass

    init(_ options: Options) throws {
        self.options = options
        model = try WanTransformer3DModel.load(directory: options.model)
        let c = model.configuration
        guard options.grid.count == 3 else { throw Usage("--grid needs frames, rows and columns") }
        inputs = WanPass(options, c)
        if options.pass == "lora" { try Self.attachAdapter(model) }
        if options.pass == "training" { model.setRequiresGradient { _ in true } }
        weights = model.weights
    }

    /// An adapter on the queries, keys, values and outputs of all attentions, each with the same numbers.
    private static func attachAdapter(_ model: WanTransformer3DModel) throws {
        let (rank, width) = (WanArithmetic.rank, model.configuration.innerDim)
        try model.attachLoRA(LoRAConfiguration(rank: rank), seed: 1)
        var adapter = model.loraWeights!
        for index in adapter.layers.indices {
            adapter.layers[index].a = numbers([rank, width], seed: 4, scale: 0.02)
            adapter.layers[index].b = numbers([width, rank], seed: 5, scale: 0.02)
        }
        try model.attachLoRA(adapter)
    }

    var arithmetic: WanArithmetic {
        let patch = model.configuration.patchSize
        let tokens = zip(options.grid, patch).map { $0 / $1 }.reduce(1, *)
        return WanArithmetic(configuration: model.configuration, batch: options.batch, tokens: tokens, text: options.text)
    }

    var flops: Double {
        switch options.pass {
        case "input": arithmetic.input
        case "lora": arithmetic.lora
        case "training": arithmetic.training
        default: arithmetic.forward
        }
    }

    var sgemm: [Sgemm.Size] {
        let (rows, width, inner) = (inputs.shard * arithmetic.tokens, model.configuration.innerDim, model.configuration.ffnDim)
        return [
            .init(rows: rows, inputs: width, outputs: width), .init(rows: rows, inputs: width, outputs: inner),
            .init(rows: rows, inputs: inner, outputs: width),
        ]
    }

    func run() throws -> [Tensor] {
        let shards = options.batch / inputs.shard
        if shards == 1 { return try inputs.run(model, 0) }
        let results = try NumericThreads.parallelMap(shards) { [weights, inputs] in try inputs.run(weights.model(), $0) }
        guard options.pass == "training" else { return results.flatMap { $0 } }
        return results.dropFirst().reduce(results[0]) { sum, next in zip(sum, next).map { $0 + $1 } }.map { $0 * (1 / Float(shards)) }
    }
}

/// One pass over some of the batch's clips.
private struct WanPass: Sendable {
    let options: Options
    /// Clips that are computed together; the shards of a batch are spread over the threads, as the trainer does it.
    let shard: Int
    private let latents, text, cotangent: Tensor

    init(_ options: Options, _ c: WanConfiguration) {
        self.options = options
        shard = options.batch % 8 == 0 ? 8 : options.batch
        latents = numbers([options.batch, c.inChannels] + options.grid, seed: 1)
        text = numbers([options.batch, options.text, c.textDim], seed: 2)
        cotangent = numbers([shard, c.outChannels] + options.grid, seed: 3)
    }

    func run(_ model: WanTransformer3DModel, _ index: Int) throws -> [Tensor] {
        let rows = index * shard..<(index + 1) * shard
        let latent = Variable(latents[rows], requiresGradient: options.pass == "input")
        let sample = try model(
            hiddenStates: latent, timestep: [Float](repeating: 700, count: shard), encoderHiddenStates: Variable(text[rows])
        ).sample!
        switch options.pass {
        case "input":
            sample.backward(cotangent)
            return [latent.gradient!]
        case "lora":
            let parameters = model.loraParameters
            for (_, variable) in parameters { variable.gradient = nil }
            sample.backward(cotangent)
            return parameters.map { $0.variable.gradient! }
        case "training":
            let parameters = model.parameters
            for (_, variable) in parameters { variable.gradient = nil }
            meanSquaredError(sample, Variable(Tensor(zeros: sample.shape))).backward()
            return parameters.map { $0.variable.gradient! }
        default: return [sample.tensor]
        }
    }
}
