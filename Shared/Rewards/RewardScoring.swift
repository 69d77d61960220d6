import Synchronization
public import Tensors

extension RewardWeights {
    /// Latents of one noise level or of several, to be scored in one go.
    public struct Batch: Sendable {
        /// [N,C,F,H,W].
        public var latents: Tensor
        /// 1000·sigma of each, N of them.
        public var timestep: [Float]
        /// [N,L,D].
        public var promptEmbeds: Tensor
        /// [N,C₂,F,H,W], or nil.
        public var condition: Tensor?
        /// [N,I,D], or nil.
        public var imageEmbeds: Tensor?

        /// A batch from its parts; the backbone checks that they fit.
        public init(latents: Tensor, timestep: [Float], promptEmbeds: Tensor, condition: Tensor? = nil, imageEmbeds: Tensor? = nil) {
            self.latents = latents
            self.timestep = timestep
            self.promptEmbeds = promptEmbeds
            self.condition = condition
            self.imageEmbeds = imageEmbeds
        }
    }

    /// Clips that one thread scores together: by shape alone, so that the number of threads changes no score.
    public static let scoringShard = 4

    /// Scores of a batch, spread over `NumericThreads` in shards of fixed size. Blocks: call it from a numeric thread.
    public func scores(_ batch: Batch) throws -> [Float] {
        let count = batch.latents.shape[0]
        guard batch.timestep.count == count else { throw RewardError("\(batch.timestep.count) timesteps for \(count) latents") }
        let size = Self.scoringShard
        return try parallelMap((count + size - 1) / size) { shard in
            let rows = shard * size..<min((shard + 1) * size, count)
            return try RewardModel(self).score(
                latents: Variable(batch.latents[rows]), timestep: Array(batch.timestep[rows]),
                promptEmbeds: Variable(batch.promptEmbeds[rows]), condition: batch.condition.map { Variable($0[rows]) },
                imageEmbeds: batch.imageEmbeds.map { Variable($0[rows]) }
            ).tensor.array
        }.flatMap { $0 }
    }
}

/// Runs `body` for 0 ..< count over `NumericThreads`, results in order; throws the first error in order.
func parallelMap<Value: Sendable>(_ count: Int, _ body: @Sendable (Int) throws -> Value) throws -> [Value] {
    let results = Mutex<[Result<Value, any Error>?]>(Array(repeating: nil, count: count))
    NumericThreads.parallelFor(count) { index in
        let result = Result { try body(index) }
        results.withLock { $0[index] = result }
    }
    return try results.withLock { try $0.map { try $0!.get() } }
}
