/// One prompt's N candidates with every score that a schedule could have asked for: trajectories are walked once, and any schedule is
/// simulated from the record, because pruning never changes a survivor's trajectory.
public struct RecordedGroup: Sendable {
    /// Scores of all candidates by the number of steps done; a score after the last step judges the finished latents.
    public let scores: [Int: [Float]]
    /// The annotator's quality of each finished candidate.
    public let quality: [Float]
    /// Whether each is good.
    public let isGood: [Bool]

    public init(scores: [Int: [Float]], quality: [Float], isGood: [Bool]) {
        precondition(quality.count == isGood.count, "one verdict a candidate")
        precondition(scores.values.allSatisfy { $0.count == quality.count }, "one score a candidate")
        self.scores = scores
        self.quality = quality
        self.isGood = isGood
    }

    /// The candidate that the schedule ends with.
    /// - Precondition: the record holds the scores of each cut's step.
    public func pick(_ schedule: PruningSchedule) -> Int {
        var alive = Array(quality.indices)
        for cut in schedule.cuts where alive.count > cut.keep {
            guard let scores = scores[cut.step] else { preconditionFailure("no scores were recorded after step \(cut.step)") }
            alive = keepBest(cut.keep, of: alive) { scores[$0] }
        }
        return alive[0]
    }

    /// The candidate with the highest value of a row (energy, a score): ties go to the first.
    public func pick(highest values: [Float]) -> Int {
        keepBest(1, of: Array(quality.indices)) { values[$0] }[0]
    }

    /// The candidate that the annotator likes best.
    public var oracle: Int { pick(highest: quality) }

    /// What a random pick is worth on average.
    public var meanQuality: Double { quality.reduce(0) { $0 + Double($1) } / Double(quality.count) }

    /// The share of good candidates.
    public var goodRate: Double { Double(isGood.count { $0 }) / Double(isGood.count) }
}

/// The `count` best of `candidates`, in ascending order of index; ties go to the lower index, so that a result never depends on sorting.
func keepBest(_ count: Int, of candidates: [Int], score: (Int) -> Float) -> [Int] {
    let ranked = candidates.sorted {
        let (left, right) = (score($0), score($1))
        return left == right ? $0 < $1 : left > right
    }
    return ranked.prefix(count).sorted()
}

/// What a way of picking is worth over groups.
public struct SelectionOutcome: Sendable, Hashable {
    /// Quality above the group's mean, which is what a random pick is worth.
    public let gain: Estimate
    /// The share of good picks.
    public let goodRate: Estimate

    public init(_ groups: [RecordedGroup], pick: (RecordedGroup) -> Int) {
        let picks = groups.map(pick)
        gain = Estimate(zip(groups, picks).map { Double($0.quality[$1]) - $0.meanQuality })
        goodRate = Estimate(zip(groups, picks).map { $0.isGood[$1] ? 1 : 0 })
    }

    /// A random pick, by its expectation: no gain, and the groups' rate of good candidates.
    public init(random groups: [RecordedGroup]) {
        gain = Estimate(mean: 0, halfWidth: 0)
        goodRate = Estimate(groups.map(\.goodRate))
    }
}
