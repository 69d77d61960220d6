public import Tensors

/// What a sampler asks of a model: the velocity of a few latents at one noise level.
public struct VelocityRequest: Sendable {
    /// [micro-batch, …]: always the sampler's fixed number of items.
    public let latents: Tensor
    /// Which items of the caller's batch these are; padding repeats the last one.
    public let items: [Int]
    /// The noise level of the latents.
    public let sigma: Float
    /// 1000·sigma.
    public let timestep: Float
    /// Which step of the schedule this is, from 0.
    public let step: Int
}

/// Integrates a velocity from noise to data, from any step to any other.
///
/// Items are run in micro-batches of one fixed size, the last one padded, so that a matrix product has the same shape whoever else is in
/// the batch: a trajectory stopped, pruned around, and resumed equals the uninterrupted one bit for bit. Micro-batches are spread over
/// `NumericThreads`; each walks all its steps alone.
public struct EulerSampler: Sendable {
    /// The levels that are walked.
    public let schedule: FlowMatchSchedule
    /// Items evaluated together.
    public let microBatch: Int

    /// - Parameter microBatch: at least one.
    public init(schedule: FlowMatchSchedule, microBatch: Int = 8) {
        precondition(microBatch > 0, "a micro-batch holds at least one item")
        self.schedule = schedule
        self.microBatch = microBatch
    }

    /// Starting noise [items.count] + shape: item k's depends on (`seed`, k) alone.
    /// - Parameter shape: of one item.
    public static func noise(shape: [Int], seed: UInt64, items: some Sequence<Int>) -> Tensor {
        Tensor.stack(
            items.map { item in
                var stream = RandomStream(seed: seed, run: noiseRun, item: UInt32(item))
                return Tensor.normal(shape: shape, &stream)
            })
    }

    /// Walks `latents` [N, …] from step `from` to step `to` of the schedule.
    /// - Parameters:
    ///   - items: the names by which `velocity` knows the latents (for their prompts); nil for 0 ..< N.
    ///   - from: the step that `latents` stand before; 0 is pure noise.
    ///   - to: the step to stop before; nil runs to the end.
    ///   - recording: steps before which the latents are kept.
    ///   - velocity: called from several threads at once.
    /// - Returns: the latents at `to`, and those recorded, by step.
    /// - Throws: the first error of `velocity`.
    public func run(
        _ latents: Tensor, items: [Int]? = nil, from: Int = 0, to: Int? = nil, recording: Set<Int> = [],
        velocity: @Sendable (VelocityRequest) throws -> Tensor
    ) throws -> (latents: Tensor, recorded: [Int: Tensor]) {
        let end = to ?? schedule.steps
        let count = latents.shape[0]
        let names = items ?? Array(0..<count)
        precondition(names.count == count, "\(names.count) names for \(count) latents")
        precondition(0 <= from && from <= end && end <= schedule.steps, "steps \(from) to \(end) of \(schedule.steps)")
        guard count > 0 else { return (latents, [:]) }

        let shards = (count + microBatch - 1) / microBatch
        let walked = try NumericThreads.parallelMap(shards) { shard in
            let rows = (0..<microBatch).map { min(shard * microBatch + $0, count - 1) }
            return Result { try walk(latents, rows, rows.map { names[$0] }, from, end, recording, velocity) }
        }.map { try $0.get() }
        let gathered = { (step: Int) in
            let padded = Tensor.concatenate(walked.map { $0[step]! })
            return padded.shape[0] == count ? padded : padded[0..<count]
        }
        let kept = recording.filter { (from...end).contains($0) }
        return (gathered(end), Dictionary(uniqueKeysWithValues: kept.map { ($0, gathered($0)) }))
    }

    private func walk(
        _ latents: Tensor, _ rows: [Int], _ items: [Int], _ from: Int, _ end: Int, _ recording: Set<Int>,
        _ velocity: (VelocityRequest) throws -> Tensor
    ) throws -> [Int: Tensor] {
        var x = latents.gathering(rows)
        var kept: [Int: Tensor] = [:]
        for step in from..<end {
            if recording.contains(step) { kept[step] = x }
            let sigma = schedule.sigmas[step]
            let request = VelocityRequest(latents: x, items: items, sigma: sigma, timestep: schedule.timesteps[step], step: step)
            x = FlowMatchSchedule.eulerStep(x, try velocity(request), from: sigma, to: schedule.sigmas[step + 1])
        }
        kept[end] = x
        return kept
    }

    /// Keeps the streams of starting noise apart from others under the same seed.
    static let noiseRun: UInt32 = 0x01015E
}

extension Tensor {
    /// The named rows of the first axis, in that order.
    public func gathering(_ rows: [Int]) -> Tensor {
        let stride = count / max(shape[0], 1)
        return Tensor(shape: [rows.count] + shape.dropFirst()) { result in
            withUnsafeBufferPointer { source in
                for (target, row) in rows.enumerated() {
                    precondition(row >= 0 && row < shape[0], "row \(row) of \(shape[0])")
                    for index in 0..<stride { result[target * stride + index] = source[row * stride + index] }
                }
            }
        }
    }
}
