public import Diffusion
public import Tensors

/// What a Best-of-N asks of a judge: scores of one group's living candidates.
public struct ScoreRequest: Sendable {
    /// Which group (prompt), from 0.
    public let group: Int
    /// The living candidates' numbers inside their group.
    public let candidates: [Int]
    /// [candidates, …], at `sigma`.
    public let latents: Tensor
    /// Steps done.
    public let step: Int
    /// The latents' noise level; 0 for finished ones.
    public let sigma: Float
    /// 1000·sigma.
    public let timestep: Float
}

/// What came of a Best-of-N over some groups.
public struct BestOfNResult: Sendable {
    /// The winner's number inside each group.
    public let winners: [Int]
    /// [groups, …]: the winners, finished.
    public let latents: Tensor
    /// The generator's evaluations, all groups together, guidance not counted.
    public let forwardPasses: Int
    /// Latents that the judge scored.
    public let judgePasses: Int
}

/// Walks N candidates a group and drops the worse ones on the way.
public struct BestOfN: Sendable {
    public let schedule: PruningSchedule
    public let sampler: EulerSampler

    /// - Precondition: the pruning schedule counts the sampler's steps.
    public init(schedule: PruningSchedule, sampler: EulerSampler) {
        precondition(schedule.steps == sampler.schedule.steps, "a schedule of \(schedule.steps) steps for \(sampler.schedule.steps)")
        self.schedule = schedule
        self.sampler = sampler
    }

    /// - Parameters:
    ///   - noise: [groups·N, …], a group's candidates together.
    ///   - velocity: item k of a request is candidate k mod N of group k div N; called from several numeric threads.
    ///   - scores: asked once a group and cut; may go over the network.
    /// - Throws: what `velocity` or `scores` throws; ``PruningSchedule/Invalid`` when the judge answers with another number of scores,
    ///   or one that is not finite.
    public func run(
        noise: Tensor, velocity: @escaping @Sendable (VelocityRequest) throws -> Tensor,
        scores: @Sendable (ScoreRequest) async throws -> [Float]
    ) async throws -> BestOfNResult {
        precondition(noise.shape[0] % schedule.count == 0, "\(noise.shape[0]) candidates in groups of \(schedule.count)")
        let groups = noise.shape[0] / schedule.count
        var alive = (0..<groups).map { _ in Array(0..<schedule.count) }
        var latents = noise
        var done = 0
        var forwardPasses = 0
        var judgePasses = 0

        func advance(to step: Int) async throws {
            let items = alive.enumerated().flatMap { group, candidates in candidates.map { group * schedule.count + $0 } }
            let (from, start, sampler) = (done, latents, sampler)
            latents = try await NumericThreads.run {
                try sampler.run(start, items: items, from: from, to: step, velocity: velocity).latents
            }
            forwardPasses += items.count * (step - from)
            done = step
        }

        for cut in schedule.cuts {
            try await advance(to: cut.step)
            guard alive[0].count > cut.keep else { continue }
            let size = alive[0].count
            var rows: [Int] = []
            for group in 0..<groups {
                let request = ScoreRequest(
                    group: group, candidates: alive[group], latents: latents[group * size..<(group + 1) * size], step: cut.step,
                    sigma: sampler.schedule.sigmas[cut.step], timestep: 1000 * sampler.schedule.sigmas[cut.step])
                let answer = try await scores(request)
                guard answer.count == size, answer.allSatisfy(\.isFinite) else {
                    throw PruningSchedule.Invalid(description: "the judge must answer \(size) finite scores, and answered \(answer)")
                }
                judgePasses += size
                let kept = keepBest(cut.keep, of: Array(0..<size)) { answer[$0] }
                rows += kept.map { group * size + $0 }
                alive[group] = kept.map { alive[group][$0] }
            }
            latents = latents.gathering(rows)
        }
        try await advance(to: schedule.steps)
        return BestOfNResult(winners: alive.map { $0[0] }, latents: latents, forwardPasses: forwardPasses, judgePasses: judgePasses)
    }
}
