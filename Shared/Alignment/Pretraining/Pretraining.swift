public import Backbones
public import Tensors
import Diffusion

/// Flow-matching pretraining of a Wan transformer: MSE(v(x_t, t, prompt), ε − x₀) over shifted, stratified t.
///
/// Muon moves the matrices of the blocks and AdamW everything else; what is kept is an exponential average of the weights.
/// A step's shards of fixed size run side by side over `NumericThreads` and are summed in their order, so that the thread count changes
/// nothing. A run resumed from a checkpoint equals an uninterrupted one bit for bit.
public final class Pretraining {
    public let configuration: PretrainingConfiguration
    /// The weights being trained.
    public let model: WanTransformer3DModel
    /// Steps done.
    public internal(set) var step = 0
    /// The averaged weights, in the order of `model.parameters`.
    public internal(set) var average: [Tensor]

    var muon: Muon
    var adamW: AdamW
    let muonIndices: [Int]
    let adamWIndices: [Int]

    /// - Parameter model: starts as it is; all its parameters are trained.
    public init(model: WanTransformer3DModel, configuration: PretrainingConfiguration) {
        precondition(configuration.batch % configuration.microBatch == 0, "a batch is a whole number of micro-batches")
        self.model = model
        self.configuration = configuration
        model.setRequiresGradient { _ in true }
        let parameters = model.parameters
        average = parameters.map(\.variable.tensor)
        muonIndices = parameters.indices.filter { Self.isMuonMatrix(parameters[$0].name, parameters[$0].variable.tensor.shape) }
        let muonSet = Set(muonIndices)
        adamWIndices = parameters.indices.filter { !muonSet.contains($0) }
        muon = Muon(weightDecay: configuration.weightDecay)
        adamW = AdamW(weightDecay: configuration.weightDecay)
    }

    /// The matrices inside the blocks; embeddings, the head, biases, norms and modulation tables are AdamW's.
    static func isMuonMatrix(_ name: String, _ shape: [Int]) -> Bool {
        name.hasPrefix("blocks.") && name.hasSuffix(".weight") && shape.count == 2
    }

    /// One optimizer step.
    /// - Returns: the loss, a mean over elements.
    /// - Throws: what the model throws for a batch that does not fit it.
    @discardableResult
    public func advance(_ batch: PretrainingBatch) throws -> Float {
        let shards = shards(batch)
        let weights = model.weights
        let share = 1 / Float(shards.count)
        let done = try NumericThreads.parallelMap(shards.count) { index in
            Result { try Self.lossAndGradients(WanTransformer3DModel(weights: weights), shards[index], share: share) }
        }.map { try $0.get() }
        let gradients = Self.summed(done.map(\.gradients))

        let parameters = model.parameters.map(\.variable)
        let rate = configuration.rate(at: step)
        muon.step(
            parameters: muonIndices.map { parameters[$0] }, gradients: muonIndices.map { gradients[$0] },
            learningRate: rate * configuration.muonLearningRate)
        adamW.step(
            parameters: adamWIndices.map { parameters[$0] }, gradients: adamWIndices.map { gradients[$0] },
            learningRate: rate * configuration.learningRate)
        updateAverage(parameters)
        step += 1
        return done.reduce(0) { $0 + $1.loss }
    }

    /// A model with the averaged weights.
    public func averagedModel() -> WanTransformer3DModel {
        let averaged = model.replica()
        averaged.setParameters(average)
        averaged.setRequiresGradient { _ in false }
        return averaged
    }

    /// Draws noise, levels and empty prompts, and cuts the batch into shards.
    func shards(_ batch: PretrainingBatch) -> [PretrainingShard] {
        let count = configuration.batch
        precondition(batch.latents.shape[0] == count, "a batch of \(count), not \(batch.latents.shape[0])")
        let itemShape = Array(batch.latents.shape.dropFirst())
        var uniforms: [Float] = []
        var isEmpty: [Bool] = []
        var noises: [Tensor] = []
        for item in 0..<count {
            var stream = RandomStream(seed: configuration.seed, run: Self.run, step: UInt32(step), item: UInt32(item))
            uniforms.append(stream.uniform())
            isEmpty.append(stream.uniform() < configuration.emptyPromptShare)
            noises.append(Tensor.normal(shape: itemShape, &stream))
        }
        let sigmas = configuration.sigmas(uniforms: uniforms)
        let noise = Tensor.stack(noises)
        let input = FlowMatchSchedule.noised(batch.latents, noise, sigmas: sigmas).joiningCondition(batch.condition)
        let target = FlowMatchSchedule.velocityTarget(batch.latents, noise)
        var prompts = batch.promptEmbeds
        let stride = prompts.count / count
        prompts.withUnsafeMutableBufferPointer { values in
            for item in 0..<count where isEmpty[item] {
                for index in item * stride..<(item + 1) * stride { values[index] = 0 }
            }
        }
        return shardRows(count).map { rows in
            PretrainingShard(
                input: input[rows], timesteps: sigmas[rows].map { 1000 * $0 }, promptEmbeds: prompts[rows], target: target[rows])
        }
    }

    private func shardRows(_ count: Int) -> [Range<Int>] {
        stride(from: 0, to: count, by: configuration.microBatch).map { $0..<$0 + configuration.microBatch }
    }

    private static func lossAndGradients(
        _ model: WanTransformer3DModel, _ shard: PretrainingShard, share: Float
    ) throws -> (loss: Float, gradients: [Tensor]) {
        let output = try model(
            hiddenStates: Variable(shard.input), timestep: shard.timesteps, encoderHiddenStates: Variable(shard.promptEmbeds))
        let loss = scale(meanSquaredError(output.sample!, Variable(shard.target)), share)
        loss.backward()
        return (loss.tensor.item, model.parameters.map { $0.variable.gradient ?? Tensor(zeros: $0.variable.tensor.shape) })
    }

    /// Sums in the order of the shards.
    private static func summed(_ shards: [[Tensor]]) -> [Tensor] {
        var sum = shards[0]
        for shard in shards.dropFirst() {
            for index in sum.indices {
                sum[index].withUnsafeMutableBufferPointer { total in
                    shard[index].withUnsafeBufferPointer { part in
                        for element in total.indices { total[element] += part[element] }
                    }
                }
            }
        }
        return sum
    }

    private func updateAverage(_ parameters: [Variable]) {
        let decay = configuration.averageDecay
        for index in average.indices {
            average[index].withUnsafeMutableBufferPointer { average in
                parameters[index].tensor.withUnsafeBufferPointer { current in
                    for element in average.indices { average[element] = decay * average[element] + (1 - decay) * current[element] }
                }
            }
        }
    }

    /// Keeps the streams of pretraining apart from others under the same seed.
    static let run: UInt32 = 0x9E7A1
}
